//! Giving a device program to the kernel: the few commands of `bpf(2)` that this takes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::super::error::{Error, Result};
use super::program::Instruction;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;

const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// More programs than anybody attaches to one cgroup: the kernel's own limit.
const MAX_PROGRAMS: usize = 64;

/// Arguments of `PROG_LOAD`, the beginning of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Arguments of `PROG_ATTACH` and `PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Arguments of `PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// Arguments of `PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Makes `program` the only device program of a cgroup.
///
/// The new one is attached before the old ones go: in between a device needs the consent of all of
/// them, so there is no moment without rules.
pub(super) fn replace(cgroup: &File, path: &Path, program: &[Instruction]) -> Result<()> {
    let failed = |action: &'static str| {
        move |source: io::Error| Error::Devices {
            action,
            path: path.to_path_buf(),
            source,
        }
    };
    let new = load(program).map_err(failed("load the device rules"))?;
    let (old, flags) = attached(cgroup.as_fd()).map_err(failed("list the device rules"))?;
    // A program attached in the exclusive way must go before one that is not can come.
    let exclusive = !old.is_empty() && flags & ALLOW_MULTI == 0;
    if exclusive {
        detach_all(cgroup, &old).map_err(failed("detach old device rules"))?;
    }
    attach(cgroup.as_fd(), new.as_fd(), ALLOW_MULTI).map_err(failed("attach the device rules"))?;
    if !exclusive {
        detach_all(cgroup, &old).map_err(failed("detach old device rules"))?;
    }
    Ok(())
}

fn detach_all(cgroup: &File, programs: &[u32]) -> io::Result<()> {
    for id in programs {
        match by_id(*id).and_then(|program| detach(cgroup.as_fd(), program.as_fd())) {
            // Someone else detached it meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    // The word decides which kernel functions may be called; we call none.
    let license = c"Apache-2.0";
    let mut name = [0; 16];
    for (to, from) in name.iter_mut().zip(b"trefoil_devices") {
        *to = *from;
    }
    let count =
        u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let arguments = || Load {
        kind: TYPE_CGROUP_DEVICE,
        count,
        instructions: address(program.as_ptr()),
        license: address(license.as_ptr()),
        name,
        ..Load::default()
    };
    let loaded = match bpf(PROG_LOAD, &mut arguments()) {
        // Before Linux 5.11 programs count as locked memory, and EPERM says that there is too
        // little of it.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|_| error)?;
            let loaded = bpf(PROG_LOAD, &mut arguments());
            setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
            loaded
        }
        other => other,
    };
    own(loaded?)
}

fn attached(cgroup: BorrowedFd<'_>) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut query = Query {
        target: number(cgroup),
        kind: ATTACH_CGROUP_DEVICE,
        ids: address(ids.as_mut_ptr()),
        count: u32::try_from(MAX_PROGRAMS).unwrap_or(0),
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    ids.truncate(usize::try_from(query.count).unwrap_or(0));
    Ok((ids, query.attach_flags))
}

fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    let mut arguments = Attach {
        target: number(cgroup),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags,
    };
    bpf(PROG_ATTACH, &mut arguments).map(drop)
}

fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut arguments = Attach {
        target: number(cgroup),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    bpf(PROG_DETACH, &mut arguments).map(drop)
}

fn by_id(id: u32) -> io::Result<OwnedFd> {
    own(bpf(
        PROG_GET_FD_BY_ID,
        &mut ById {
            id,
            ..ById::default()
        },
    )?)
}

/// How the kernel takes a descriptor in its arguments. One that is open is not negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// How the kernel takes a pointer in its arguments.
fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned it as a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `bpf(2)`. `T` is one of the argument structures above, without padding the kernel would
/// find non-zero.
fn bpf<T>(command: libc::c_long, arguments: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `arguments`, which we hold
    // exclusively. The addresses in it point to memory that their makers keep alive during the
    // call, as long as the counts next to them say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(arguments),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use libcgroups::common::{CgroupSetup, get_cgroup_setup};
    use nix::unistd::Uid;

    use super::super::{program, rules};
    use super::*;

    #[test]
    fn one_program_is_left_whatever_was_there() {
        assert!(
            Uid::effective().is_root(),
            "this test makes real cgroups: run it as root"
        );
        if !matches!(get_cgroup_setup().unwrap(), CgroupSetup::Unified) {
            return; // v1 has files for this
        }
        let path = format!("/sys/fs/cgroup/trefoil-test-bpf-{}", std::process::id());
        let path = Path::new(&path);
        fs::create_dir(path).unwrap();
        let cgroup = File::open(path).unwrap();
        let program = program::encode(&rules::compile(&[]));
        for flags in [ALLOW_MULTI, ALLOW_MULTI, 0] {
            let other = load(&program).unwrap();
            attach(cgroup.as_fd(), other.as_fd(), flags).unwrap();
            let (before, _) = attached(cgroup.as_fd()).unwrap();
            replace(&cgroup, path, &program).unwrap();
            let (after, flags) = attached(cgroup.as_fd()).unwrap();
            assert_eq!((after.len(), flags), (1, ALLOW_MULTI));
            assert!(!before.contains(&after[0]));
            // The next round starts without any: the kernel does not mix the two ways.
            detach_all(&cgroup, &after).unwrap();
        }
        fs::remove_dir(path).unwrap();
    }
}
