//! A place of its own for the corpus: namespaces in which nothing that goes wrong reaches the machine,
//! and which take all that is in them along when the test ends.
//!
//! The test is process 1 of a pid namespace: `/proc/1/root` is then its own root, so that a link by way
//! of it leads to the canary too, and every process that a container leaves behind is seen.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// The most memory of a process, in bytes: an image's endless file must not take the machine's.
const MOST_MEMORY: u64 = 1 << 30;

/// Where everything is.
pub struct Place {
    /// Bundles, volumes and what else is made: a tmpfs.
    pub work: PathBuf,
    /// Where the canary is to be mounted: below nothing that is a link.
    pub canary: PathBuf,
    /// The name of the cgroup that those of containers are made in. No other test has it.
    pub cgroup: String,
}

/// Goes on in a new process, the first of the place. The process that calls this waits, and ends as
/// that one did.
pub fn enter() -> Place {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().canonicalize().unwrap();
    let cgroup = format!("trefoil-hostile-{}", std::process::id());
    let flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET;
    unshare(flags).unwrap();
    let signals = SigSet::from_iter([
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ]);
    signals.thread_block().unwrap();
    // SAFETY: this process has one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            while signals.wait().unwrap() != Signal::SIGCHLD {
                // With it goes all that is in the place.
                kill(child, Signal::SIGKILL).unwrap();
            }
            let ended = waitpid(child, None).unwrap();
            drop(base);
            remove_cgroups(Path::new("/sys/fs/cgroup"), &cgroup, 0);
            let code = match ended {
                WaitStatus::Exited(_, code) => code,
                _ => 101,
            };
            // What a sanitizer does at an ordinary exit takes a fork, and none is possible any more once
            // the first of a pid namespace has ended.
            trefoil_os::process::exit_now(code)
        }
        ForkResult::Child => {
            signals.thread_unblock().unwrap();
            // The directory is the parent's to remove.
            let _ = base.keep();
            prepare(&path, cgroup)
        }
    }
}

/// Removes the cgroups of this name, in all hierarchies, with those below.
fn remove_cgroups(directory: &Path, name: &str, depth: usize) {
    const DEEPEST: usize = 6;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) || depth > DEEPEST {
            continue;
        }
        match entry.file_name() == name {
            true => remove_below(&entry.path()),
            false => remove_cgroups(&entry.path(), name, depth + 1),
        }
    }
}

fn remove_below(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn prepare(base: &Path, cgroup: String) -> Place {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    limit_memory();
    // Here and not before: who waits outside is to find the directory with nothing mounted in it.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    private();
    mount_new("proc", Path::new("/proc"), "");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(base, all).unwrap();
    let [work, canary] = ["work", "canary"].map(|name| base.join(name));
    for directory in [&work, &canary] {
        fs::create_dir(directory).unwrap();
    }
    mount_new("tmpfs", &work, "mode=755");
    Place {
        work,
        canary,
        cgroup,
    }
}

fn limit_memory() {
    use nix::sys::resource::{Resource, setrlimit};
    // A sanitizer reserves more than there is.
    if !cfg!(fuzzing) {
        setrlimit(Resource::RLIMIT_AS, MOST_MEMORY, MOST_MEMORY).unwrap();
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
}

/// No mount that is made from here on is seen elsewhere.
fn private() {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

/// Mounts a filesystem of its own. Access to what is in it is noted as the host's other mounts have it:
/// a user namespace's may not be had with less.
pub fn mount_new(kind: &str, at: &Path, options: &str) {
    mount_with(kind, at, options, MsFlags::empty());
}

/// The same, with each access noted.
pub fn mount_noting(kind: &str, at: &Path, options: &str) {
    mount_with(kind, at, options, MsFlags::MS_STRICTATIME);
}

fn mount_with(kind: &str, at: &Path, options: &str, flags: MsFlags) {
    mount(Some(kind), at, Some(kind), flags, Some(options)).unwrap();
}

/// Binds a file or directory to another path.
pub fn bind(source: &Path, at: &Path) {
    mount(
        Some(source),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
}
