//! The namespaces of a container that is being made: which are new, and which are there already.
//!
//! Those that are there are opened on the host, as the host's root: the container's may not pass where
//! they are. A new user namespace is made on the host, too, as only the host may fill in its mappings.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use crate::idmap::Mappings;
use crate::setup::credentials::become_root;
use crate::setup::error::{Doing, Failure};
use crate::setup::hostproc::HostProc;

/// All namespaces of a container.
#[derive(Debug)]
pub(crate) struct Namespaces {
    joined: Vec<Joined>,
    made: CloneFlags,
    /// The user namespace, unless it is the host's.
    pub(crate) user: Option<OwnedFd>,
    /// The pid namespace.
    pub(crate) pid: PidNamespace,
    /// What is written to `timens_offsets` of a new time namespace.
    time_offsets: Option<String>,
}

/// One that is there already.
#[derive(Debug)]
struct Joined {
    name: &'static str,
    flag: CloneFlags,
    fd: OwnedFd,
}

/// A container's pid namespace.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    /// That of the host, or whatever the runtime itself is in.
    Hosts,
    /// One of its own: no other process is in it.
    New,
    /// Another container's, whose processes are in it.
    Joined(OwnedFd),
}

/// The kernel's flag for a kind.
fn flag(typ: LinuxNamespaceType) -> CloneFlags {
    match typ {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => NEWTIME,
    }
}

/// `CLONE_NEWTIME`, which nix does not name.
const NEWTIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

impl Namespaces {
    /// Opens those that are there, on the host, and makes the user namespace if it is to be new.
    pub(crate) fn open(spec: &Spec, time_offsets: Option<String>) -> Result<Self, Failure> {
        let mut all = Self {
            joined: Vec::new(),
            made: CloneFlags::empty(),
            user: None,
            pid: PidNamespace::Hosts,
            time_offsets,
        };
        let linux = spec.linux().as_ref();
        for namespace in linux
            .and_then(|linux| linux.namespaces().as_ref())
            .into_iter()
            .flatten()
        {
            all.add(spec, namespace)?;
        }
        if !all.made.contains(CloneFlags::CLONE_NEWNS) {
            return Err(Failure::new(
                "a container needs a new mount namespace: there is none in its configuration",
            ));
        }
        Ok(all)
    }

    fn add(&mut self, spec: &Spec, namespace: &LinuxNamespace) -> Result<(), Failure> {
        let typ = namespace.typ();
        let (name, flag) = (trefoil_spec::namespaces::name(typ), flag(typ));
        let path = namespace.path().as_ref();
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            match typ {
                LinuxNamespaceType::User => self.user = Some(make_user(spec)?),
                LinuxNamespaceType::Pid => self.pid = PidNamespace::New,
                _ => self.made |= flag,
            }
            return Ok(());
        };
        if typ == LinuxNamespaceType::Mount {
            return Err(Failure::new(format!(
                "cannot join the mount namespace {}: a container has a mount namespace of its own",
                path.display()
            )));
        }
        let fd = open(name, path)?;
        if typ == LinuxNamespaceType::User {
            check_mappings(spec, path, fd.as_ref())?;
        }
        let Some(fd) = fd else {
            return Ok(());
        };
        match typ {
            LinuxNamespaceType::User => self.user = Some(fd),
            LinuxNamespaceType::Pid => self.pid = PidNamespace::Joined(fd),
            _ => self.joined.push(Joined { name, flag, fd }),
        }
        Ok(())
    }

    /// Whether the container has a cgroup namespace other than the host's.
    pub(crate) fn has_own_cgroup(&self) -> bool {
        let cgroup = CloneFlags::CLONE_NEWCGROUP;
        self.made.contains(cgroup) || self.joined.iter().any(|one| one.flag == cgroup)
    }

    /// Whether the container has a new cgroup namespace.
    pub(crate) fn makes_cgroup(&self) -> bool {
        self.made.contains(CloneFlags::CLONE_NEWCGROUP)
    }

    /// The container's user namespace, unless it is the host's.
    pub(crate) fn user(&self) -> Option<BorrowedFd<'_>> {
        self.user.as_ref().map(AsFd::as_fd)
    }

    /// Enters the new mount namespace before all others, unless it is to belong to a user namespace.
    pub(crate) fn enter_mount(&mut self) -> Result<(), Failure> {
        if self.user.is_some() {
            return Ok(());
        }
        self.made.remove(CloneFlags::CLONE_NEWNS);
        unshare(CloneFlags::CLONE_NEWNS).doing(|| "make the container's mount namespace")
    }

    /// Enters all of them that this process is not in yet, but for the pid and time namespaces, which its
    /// children enter. The user namespace comes after those to join: the privilege to do that is the
    /// host's. It comes before those to make, which are to be its own.
    pub(crate) fn enter(&self, proc: &HostProc) -> Result<(), Failure> {
        for one in &self.joined {
            setns(&one.fd, one.flag).doing(|| format!("join the {} namespace", one.name))?;
        }
        if let PidNamespace::Joined(fd) = &self.pid {
            setns(fd, CloneFlags::CLONE_NEWPID).doing(|| "join the pid namespace")?;
        }
        if let Some(user) = &self.user {
            setns(user, CloneFlags::CLONE_NEWUSER).doing(|| "join the user namespace")?;
            become_root()?;
        }
        unshare(self.made).doing(|| "make the container's namespaces")?;
        if let Some(offsets) = &self.time_offsets {
            proc.write("self/timens_offsets", offsets)
                .doing(|| format!("set the time offsets {:?}", offsets.trim_end()))?;
        }
        Ok(())
    }
}

/// Opens a namespace, unless it is the one that this process is in, as its children will be. A process
/// may not join its own user namespace, nor as another's root what is the host's.
fn open(name: &str, path: &Path) -> Result<Option<OwnedFd>, Failure> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .doing(|| format!("open the {name} namespace {}", path.display()))?;
    let doing = || format!("inspect the {name} namespace {}", path.display());
    let own = std::fs::metadata(Path::new("/proc/thread-self/ns").join(name)).doing(doing)?;
    let that = file.metadata().doing(doing)?;
    Ok(((own.dev(), own.ino()) != (that.dev(), that.ino())).then(|| file.into()))
}

/// The mappings of the configuration, if it has any.
fn mappings(spec: &Spec) -> trefoil_core::Result<Option<Mappings>> {
    let linux = spec.linux().as_ref();
    Mappings::given(
        linux.and_then(|linux| linux.uid_mappings().as_deref()),
        linux.and_then(|linux| linux.gid_mappings().as_deref()),
    )
}

/// Refuses to join a user namespace that maps other ids than the configuration says.
fn check_mappings(spec: &Spec, path: &Path, fd: Option<&OwnedFd>) -> Result<(), Failure> {
    let checked = mappings(spec).and_then(|mappings| match mappings {
        Some(mappings) => mappings.check_those_of(fd.map(AsFd::as_fd)),
        None => Ok(()),
    });
    let path = path.display();
    checked.map_err(|why| Failure::new(format!("cannot join the user namespace {path}: {why}")))
}

fn make_user(spec: &Spec) -> Result<OwnedFd, Failure> {
    const DOING: &str = "cannot make the container's user namespace";
    match mappings(spec).and_then(|mappings| mappings.map(|all| all.namespace()).transpose()) {
        Ok(Some(namespace)) => Ok(namespace),
        Ok(None) => Err(Failure::new(format!("{DOING}: no ids are mapped into it"))),
        Err(why) => Err(Failure::new(format!("{DOING}: {why}"))),
    }
}

/// Has this process's children go into a pid namespace.
pub(super) fn enter_pid_namespace(namespace: &OwnedFd) -> Result<(), Failure> {
    setns(namespace, CloneFlags::CLONE_NEWPID).doing(|| "enter the container's pid namespace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn open_all(namespaces: serde_json::Value) -> Result<Namespaces, Failure> {
        let spec = json!({
            "ociVersion": "1.2.0",
            "linux": {
                "namespaces": namespaces,
                "uidMappings": [{"containerID": 0, "hostID": 200_000, "size": 10}],
                "gidMappings": [{"containerID": 0, "hostID": 200_000, "size": 10}],
            },
        });
        Namespaces::open(&serde_json::from_value(spec).unwrap(), None)
    }

    #[test]
    fn the_hosts_own_are_not_joined_and_others_are() {
        let other = open_all(json!([{"type": "mount"}, {"type": "user"}])).unwrap();
        let user = other.user.expect("a new one");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&user));
        let all = open_all(json!([
            {"type": "mount"},
            {"type": "network", "path": "/proc/thread-self/ns/net"},
            {"type": "pid", "path": "/proc/thread-self/ns/pid"},
            {"type": "ipc"},
            {"type": "uts", "path": ""},
            {"type": "user", "path": path},
        ]))
        .unwrap();
        assert!(all.joined.is_empty());
        assert!(matches!(all.pid, PidNamespace::Hosts));
        assert!(all.user.is_some());
        let made = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        assert_eq!(all.made, made);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (namespaces, expected) in [
            (json!([{"type": "pid"}]), "needs a new mount namespace"),
            (
                json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
                "cannot join the mount namespace /proc/1/ns/mnt",
            ),
            (
                json!([{"type": "mount"}, {"type": "user", "path": "/proc/thread-self/ns/user"}]),
                "cannot join the user namespace /proc/thread-self/ns/user: it maps users as ",
            ),
            (
                json!([{"type": "mount"}, {"type": "network", "path": "/nope"}]),
                "cannot open the net namespace /nope: no such file or directory",
            ),
        ] {
            let why = open_all(namespaces).unwrap_err().to_string();
            assert!(why.contains(expected), "{why}");
        }
    }
}
