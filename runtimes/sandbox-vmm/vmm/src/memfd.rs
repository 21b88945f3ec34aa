//! Memory that can be handed to another process.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A memfd whose size nobody can change any more: a shared mapping of a file that shrinks is a
/// fault waiting for whoever touches it. `flags` say which pages it is made of.
pub(crate) fn sealed(name: &str, size: u64, flags: MFdFlags) -> nix::Result<File> {
    let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd: OwnedFd = memfd_create(name, flags)?;
    let length = i64::try_from(size).map_err(|_| nix::errno::Errno::EFBIG)?;
    nix::unistd::ftruncate(&fd, length)?;
    fcntl(
        &fd,
        FcntlArg::F_ADD_SEALS(
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL,
        ),
    )?;
    Ok(File::from(fd))
}
