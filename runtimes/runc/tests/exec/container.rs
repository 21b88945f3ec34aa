//! A container made by hand: namespaces, a root filesystem of its own around the host's `/usr`,
//! cgroups, and an init that sleeps.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use trefoil_os::pidfd;
use trefoil_os::process::exit_now;

/// First host id of a container with a user namespace.
pub const SHIFT: u32 = 100_000;

/// The cgroup below its own that a container may move its init to.
pub const INNER: &str = "init";

const SETUP: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$ROOT"
cd "$ROOT"
mkdir usr proc dev etc tmp root old home home/app locked
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
mount --rbind /usr usr
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
for node in null tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
ln -s /proc/self/fd/1 dev/stdout
chmod 1777 tmp
chmod 700 locked && chown 1000 locked
printf 'root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n' > etc/passwd
printf '#!/no/such/interpreter\n' > tmp/lost && chmod 755 tmp/lost
printf 'not a program' > tmp/text && chmod 755 tmp/text
printf '#!/bin/sh\necho unreadable\n' > tmp/private && chmod 700 tmp/private
hostname trefoil-test
pivot_root . old
umount -l /old
rmdir /old
echo up >&3
exec 3>&-
exec sleep infinity
"#;

pub struct Container {
    pub keeper: Pid,
    pub init: Pid,
    pub pidfd: OwnedFd,
    pub cgroups: Vec<PathBuf>,
    _root: tempfile::TempDir,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Users {
    Hosts,
    Own,
}

impl Container {
    pub fn start(users: Users) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make containers: run them as root"
        );
        shelter();
        let root = tempfile::tempdir().unwrap();
        // The user namespace's root has to pass through it.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(root.path(), all).unwrap();
        let cgroups = make_cgroups();
        let (mut unshared_reader, unshared) = pipe();
        let (mapped_reader, mut mapped) = pipe();
        let (mut pid_reader, pid_writer) = pipe();
        let (mut up_reader, up) = pipe();

        // SAFETY: the C library makes the allocator usable in a forked child, which is all that
        // `keep` needs of this process.
        let keeper = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                keep(
                    users,
                    root.path(),
                    &cgroups,
                    (unshared, mapped_reader, pid_writer, up),
                );
                exit_now(0)
            }
            ForkResult::Parent { child } => child,
        };
        drop((unshared, mapped_reader, pid_writer, up));
        expect(&mut unshared_reader, "unshare");
        if users == Users::Own {
            for file in ["uid_map", "gid_map"] {
                std::fs::write(format!("/proc/{keeper}/{file}"), format!("0 {SHIFT} 65536"))
                    .unwrap();
            }
        }
        mapped.write_all(b"\n").unwrap();
        let mut bytes = [0; 4];
        pid_reader
            .read_exact(&mut bytes)
            .expect("the container's init could not be made");
        let init = Pid::from_raw(i32::from_ne_bytes(bytes));
        expect(&mut up_reader, "set up the container's root");
        Self {
            keeper,
            init,
            pidfd: pidfd_of(init),
            cgroups,
            _root: root,
        }
    }

    /// The same container as seen by those who take `init` for its init.
    pub fn with_init(mut self, init: Pid) -> Self {
        self.pidfd = pidfd_of(init);
        self
    }

    /// Kills init, and waits until it is gone.
    pub fn stop(&self) {
        let _ = kill(self.init, Signal::SIGKILL);
        let _ = waitpid(self.keeper, None);
    }

    pub fn namespace(&self, name: &str) -> String {
        let link = std::fs::read_link(format!("/proc/{}/ns/{name}", self.init)).unwrap();
        link.display().to_string()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.stop();
        for directory in &self.cgroups {
            for _ in 0..100 {
                // The one that a test may have made below, if it did.
                let _ = std::fs::remove_dir(directory.join(INNER));
                if !directory.exists() || std::fs::remove_dir(directory).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Gives this thread, and what it starts, mounts of their own: should `exec` fail to enter a
/// container, then what was meant for the container does not happen to the machine.
fn shelter() {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

fn pidfd_of(pid: Pid) -> OwnedFd {
    pidfd::open(pid.as_raw().unsigned_abs()).expect("pidfd_open")
}

fn pipe() -> (File, File) {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

fn expect(reader: &mut File, what: &str) {
    let mut line = [0; 1];
    reader
        .read_exact(&mut line)
        .unwrap_or_else(|_| panic!("could not {what}"));
}

/// A cgroup of its own in two of the host's hierarchies, or in the only one.
fn make_cgroups() -> Vec<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "trefoil-exec-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mounts = [
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ];
    let made: Vec<_> = mounts
        .into_iter()
        .map(PathBuf::from)
        .filter(|mount| mount.join("cgroup.procs").exists())
        .map(|mount| mount.join(&name))
        .collect();
    for directory in &made {
        std::fs::create_dir(directory).unwrap();
    }
    made
}

/// Becomes the parent of the container's init, and dies with it.
fn keep(
    users: Users,
    root: &std::path::Path,
    cgroups: &[PathBuf],
    (mut unshared, mut mapped, mut pid, up): (File, File, File, File),
) {
    let die_with_parent = || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    let unshare = |flags: libc::c_int| {
        nix::sched::unshare(nix::sched::CloneFlags::from_bits_retain(flags)).unwrap();
    };
    die_with_parent();
    for directory in cgroups {
        std::fs::write(directory.join("cgroup.procs"), "0").unwrap();
    }
    if users == Users::Own {
        unshare(libc::CLONE_NEWUSER);
    }
    unshared.write_all(b"\n").unwrap();
    mapped.read_exact(&mut [0]).unwrap();
    if users == Users::Own {
        nix::unistd::setgid(0.into()).unwrap();
        nix::unistd::setuid(0.into()).unwrap();
    }
    unshare(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWTIME,
    );
    // SAFETY: as in `start`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            die_with_parent();
            // SAFETY: dup2 takes numbers; the copy has no close-on-exec flag.
            unsafe { libc::dup2(up.as_raw_fd(), 3) };
            let arguments = [c"sh", c"-c", &std::ffi::CString::new(SETUP).unwrap()];
            let root = std::ffi::CString::new(format!("ROOT={}", root.display())).unwrap();
            let environment = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned(), root];
            let _ = nix::unistd::execve(c"/bin/sh", &arguments, &environment);
        }
        ForkResult::Parent { child } => {
            drop(up);
            pid.write_all(&child.as_raw().to_ne_bytes()).unwrap();
            let _ = waitpid(child, None);
        }
    }
}
