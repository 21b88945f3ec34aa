//! A child process with namespaces of its own, and in it a machine's tree with a container's root.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::root::{Input, Plan, Root};
use crate::setup::error::Failure;
use trefoil_cgroups::Hierarchies;

/// Runs `test` in a child with namespaces of its own, and fails as it does.
pub(super) fn isolated(test: impl FnOnce(&World)) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "mounting needs root: run the tests as root"
    );
    // So that no other thread holds the lock of the panic hook when this process is copied.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    // SAFETY: the C library makes the allocator usable in a forked child, and the child uses nothing
    // else that another thread of this process may have locked for long.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(ours);
            let says = theirs.try_clone().unwrap();
            std::panic::set_hook(Box::new(move |why| {
                let _ = (&says).write_all(why.to_string().as_bytes());
            }));
            let outcome = catch_unwind(AssertUnwindSafe(|| test(&World::new())));
            let _ = theirs.flush();
            trefoil_os::process::exit_now(i32::from(outcome.is_err()))
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut said = String::new();
            let _ = ours.read_to_string(&mut said);
            let status = waitpid(child, None).unwrap();
            assert_eq!(status, WaitStatus::Exited(child, 0), "{said}");
        }
    }
}

/// What there is in that child.
pub(super) struct World {
    /// A container's root, as from an image: `/etc`, `/tmp`, `/bin` and the like.
    pub(super) root: PathBuf,
    /// A directory of the host's, shared as on a machine with systemd.
    pub(super) host: PathBuf,
    /// The host's mount namespace: its mounts stay when everybody has left it.
    _namespace: fs::File,
}

impl World {
    fn new() -> Self {
        let namespaces = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWNET;
        unshare(namespaces).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        // A place that is there on every machine.
        let base = Path::new("/mnt");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, base, tmpfs, MsFlags::empty(), none).unwrap();
        mount(none, "/", none, MsFlags::MS_SHARED | MsFlags::MS_REC, none).unwrap();
        let world = Self {
            root: base.join("root"),
            host: base.join("host"),
            _namespace: fs::File::open("/proc/self/ns/mnt").unwrap(),
        };
        for name in ["etc", "bin", "tmp", "proc", "sys", "dev", "usr/lib", "var"] {
            fs::create_dir_all(world.root.join(name)).unwrap();
        }
        fs::write(world.root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::create_dir(&world.host).unwrap();
        fs::write(world.host.join("canary"), "alive").unwrap();
        world
    }

    /// Puts a symlink in the root.
    pub(super) fn link(&self, name: &str, target: impl AsRef<Path>) {
        let place = self.root.join(name);
        let _ = fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place));
        symlink(target, place).unwrap();
    }

    /// What is in the host's directory, with kinds, modes and contents.
    pub(super) fn of_host(&self) -> Vec<String> {
        let mut all = Vec::new();
        list(&self.host, &mut all);
        all.sort();
        all
    }

    /// Plans with a configuration of these mounts and this `linux` section.
    pub(super) fn plan(&self, mounts: Value, linux: Value) -> Result<Plan, Failure> {
        self.plan_with(mounts, linux, &Hierarchies::V1(Vec::new()), true)
    }

    pub(super) fn plan_with(
        &self,
        mounts: Value,
        linux: Value,
        cgroups: &Hierarchies,
        own_cgroup_namespace: bool,
    ) -> Result<Plan, Failure> {
        self.plan_full(mounts, linux, cgroups, own_cgroup_namespace, None)
    }

    pub(super) fn plan_full(
        &self,
        mounts: Value,
        linux: Value,
        cgroups: &Hierarchies,
        own_cgroup_namespace: bool,
        user_namespace: Option<BorrowedFd<'_>>,
    ) -> Result<Plan, Failure> {
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs", "readonly": linux["readonlyRoot"] == json!(true) },
            "mounts": mounts,
            "linux": linux,
        });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        Plan::new(&Input {
            spec: &spec,
            bundle: &self.host,
            user_namespace,
            cgroups,
            own_cgroup_namespace,
        })
    }

    /// Prepares a root as planned.
    pub(super) fn prepare(&self, plan: Plan) -> Result<Root, Failure> {
        nix::unistd::chdir(&self.root).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        plan.prepare(&mut open_proc)
    }

    /// Plans and prepares, makes it the root and finishes.
    pub(super) fn enter(&self, mounts: Value, linux: Value) {
        let plan = self.plan(mounts, linux).unwrap();
        let root = self.prepare(plan).unwrap();
        root.pivot(false).unwrap();
        root.set_propagation().unwrap();
        root.finish().unwrap();
    }

    /// Why a root with these mounts can't be prepared.
    pub(super) fn refusal(&self, mounts: Value) -> String {
        match self.plan(mounts, json!({})) {
            Err(why) => why.to_string(),
            Ok(plan) => self.prepare(plan).unwrap_err().to_string(),
        }
    }
}

/// As the container's first process does it.
pub(super) fn open_proc() -> Result<OwnedFd, Failure> {
    use rustix::mount::{FsOpenFlags, fsopen};
    Ok(fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).unwrap())
}

fn list(directory: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let kind = data.file_type();
        let content = match kind.is_file() {
            true => fs::read_to_string(&path).unwrap(),
            false => String::new(),
        };
        let mode = std::os::unix::fs::MetadataExt::mode(&data);
        all.push(format!("{} {mode:o} {content}", path.display()));
        if kind.is_dir() {
            list(&path, all);
        }
    }
}

/// The line of the topmost mount at a path: its options, and all after them.
pub(super) fn mount_at(path: &str) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = table
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path))?;
    Some(found.split(' ').skip(5).collect::<Vec<_>>().join(" "))
}

/// Mounts that most containers have.
pub(super) fn usual() -> Vec<Value> {
    let one = |destination: &str, kind: &str, options: &[&str]| {
        json!({
            "destination": destination, "type": kind, "source": kind, "options": options,
        })
    };
    vec![
        one("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        one(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        one(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        one(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        one("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        one("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

/// The usual mounts, and more.
pub(super) fn usual_and(more: Value) -> Value {
    let mut all = usual();
    all.extend(more.as_array().unwrap().iter().cloned());
    Value::Array(all)
}
