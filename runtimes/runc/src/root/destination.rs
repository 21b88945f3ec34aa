//! Where a mount goes: opened, made if need be, and looked at for places that nothing may cover.
//!
//! Above all `/proc`: whoever can put files of their own there makes the runtime, and any program that
//! trusts it, write what it should not (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881). What is judged
//! is where the opened descriptor is, never the name that was asked for.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, PROC_SUPER_MAGIC, fstatfs, readlinkat};
use rustix::io::Errno;

use super::path::{Confined, Make, kind_of};
use super::reason::{Outcome, Reason};

/// Files below `/proc` that lxcfs shows with the container's own figures. Source: runc's
/// `checkProcMount`, lxcfs(1).
const LXCFS: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Where to mount.
#[derive(Debug)]
pub(super) struct Destination {
    /// What is there; an `O_PATH` descriptor.
    pub(super) fd: OwnedFd,
    /// Whether it was there before.
    pub(super) existed: bool,
}

/// What is to be mounted, as far as it matters for where that may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    /// A new filesystem of this type.
    New(&'a str),
    /// What is there already; this is its root.
    Copy(BorrowedFd<'a>),
}

impl Destination {
    /// Opens `path`, which is [cleaned](super::path::cleaned), making what isn't there: a directory, but
    /// a file for what isn't one.
    pub(super) fn open(root: &Confined, path: &Path, what: What<'_>) -> Outcome<Self> {
        let found = match what {
            What::New(kind @ ("proc" | "sysfs")) => {
                root.make_straight_directory(path)
                    .map_err(|why| match why {
                        Errno::LOOP | Errno::NOTDIR => Reason::new(format!(
                            "filesystem {kind:?} must be mounted on ordinary directory"
                        )),
                        why => why.into(),
                    })?
            }
            What::New(_) => root.make(path, || Ok(Make::Directory))?,
            What::Copy(tree) => root.make(path, || {
                Ok(match kind_of(tree)?.is_dir() {
                    true => Make::Directory,
                    false => Make::File,
                })
            })?,
        };
        let inside = match found.straight {
            true => path.to_owned(),
            false => path_in(root, found.fd.as_fd())?,
        };
        judge(&inside, what)?;
        Ok(Self {
            fd: found.fd,
            existed: found.existed,
        })
    }
}

/// The path that a descriptor has in the root. It is asked of the host's `/proc`.
fn path_in(root: &Confined, fd: BorrowedFd<'_>) -> Outcome<PathBuf> {
    let text = |fd: BorrowedFd<'_>| {
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = readlinkat(CWD, name, Vec::new())?;
        Ok::<_, Errno>(PathBuf::from(OsString::from_vec(path.into_bytes())))
    };
    let (root, path) = (text(root.as_fd())?, text(fd)?);
    path.strip_prefix(&root)
        .map(Path::to_owned)
        .map_err(|_| Reason::new("it lies outside of the container's root"))
}

/// Whether anything may be mounted there, and this.
fn judge(inside: &Path, what: What<'_>) -> Outcome<()> {
    if inside.as_os_str().is_empty() {
        return Err(Reason::new("it is the container's root"));
    }
    let Ok(below) = inside.strip_prefix("proc") else {
        return Ok(());
    };
    if !below.as_os_str().is_empty() {
        return match LXCFS.iter().any(|name| below == Path::new(name)) {
            true => Ok(()),
            false => Err(Reason::new(format!(
                "\"/{}\" cannot be mounted because it is inside /proc",
                inside.display()
            ))),
        };
    }
    match what {
        What::New("proc") => Ok(()),
        What::Copy(tree) if fstatfs(tree)?.f_type == PROC_SUPER_MAGIC => Ok(()),
        _ => Err(Reason::new(
            "\"/proc\" cannot be mounted because it is not of type proc",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_covers_proc_but_proc() {
        let judge = |path: &str, kind| judge(Path::new(path), What::New(kind));
        assert!(judge("proc", "proc").is_ok());
        assert!(judge("proc", "tmpfs").is_err());
        for name in LXCFS {
            assert!(judge(&format!("proc/{name}"), "tmpfs").is_ok(), "{name}");
        }
        for path in [
            "proc/sys",
            "proc/self",
            "proc/stat/x",
            "proc/sys/kernel",
            "",
        ] {
            assert!(judge(path, "proc").is_err(), "{path}");
            assert!(judge(path, "tmpfs").is_err(), "{path}");
        }
        for path in ["procs", "a/proc", "a/proc/sys", "sys", "sys/fs/cgroup"] {
            assert!(judge(path, "tmpfs").is_ok(), "{path}");
        }
    }

    #[test]
    fn a_copy_of_proc_may_cover_it() {
        let open = |path: &str| std::fs::File::open(path).unwrap();
        let (proc, other) = (open("/proc"), open("/"));
        assert!(judge(Path::new("proc"), What::Copy(proc.as_fd())).is_ok());
        assert!(judge(Path::new("proc"), What::Copy(other.as_fd())).is_err());
    }
}
