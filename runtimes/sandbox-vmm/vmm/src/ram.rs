//! The guest's memory: one sealed memfd, mapped once, below and above the hole for devices.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::layout;

/// The guest's memory as the devices see it.
pub type Ram = GuestMemoryMmap<()>;

/// Which pages the memory is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pages {
    /// The host's ordinary ones, given when they are touched.
    #[default]
    Ordinary,
    /// 2 MiB each, from the host's reserve; a guest that touches one too many is killed.
    Huge,
}

/// Why the memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// make {size} bytes of guest memory: {why}
    #[error("make {size} bytes of guest memory: {why}")]
    Make {
        /// How much was asked for.
        size: u64,
        /// The kernel's or the mapping library's reason.
        why: String,
    },
    /// the guest memory is to be {0} MiB, and must be at least {min} and at most {max}
    #[error(
        "the guest memory is to be {0} MiB, and must be from {min} to {max}",
        min = layout::MIN_MEMORY_MIB,
        max = layout::MAX_MEMORY_MIB
    )]
    Size(u32),
}

/// Makes `mib` MiB of guest memory, all zero. Nothing is charged until it is touched.
pub fn make(mib: u32, pages: Pages) -> Result<Arc<Ram>, Failure> {
    if !(layout::MIN_MEMORY_MIB..=layout::MAX_MEMORY_MIB).contains(&mib) {
        return Err(Failure::Size(mib));
    }
    let size = u64::from(mib) << 20;
    let fail = |why: &dyn std::fmt::Display| Failure::Make {
        size,
        why: why.to_string(),
    };
    let file = Arc::new(sealed("guest", size, pages).map_err(|why| fail(&why))?);
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in layout::ram_ranges(size) {
        let from = FileOffset::from_arc(Arc::clone(&file), offset);
        let length = usize::try_from(length).map_err(|why| fail(&why))?;
        let mapping = MmapRegion::from_file(from, length).map_err(|why| fail(&why))?;
        let region = GuestRegionMmap::new(mapping, GuestAddress(start))
            .ok_or_else(|| fail(&"the address is out of range"))?;
        offset += region_length(length);
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions)
        .map(Arc::new)
        .map_err(|why| fail(&why))
}

fn region_length(length: usize) -> u64 {
    length as u64
}

/// A memfd whose size nobody can change any more: a shared mapping of a file that shrinks is a
/// fault waiting for whoever touches it.
pub(crate) fn sealed(name: &str, size: u64, pages: Pages) -> nix::Result<File> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if pages == Pages::Huge {
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    }
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
