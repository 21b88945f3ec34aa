//! The namespaces of a container that has a user namespace.
//!
//! A user namespace that is still to be made, we make: where libcontainer makes it, it has systemd make
//! the cgroup, whether or not there is a systemd. Those that are there already are opened before the
//! user namespace is joined, as the host's root: the container's may not pass where they are.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use trefoil_core::{Context, Error, Result};

use super::mapping::Mappings;

/// The opened namespaces.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    pub user: OwnedFd,
    _others: Vec<OwnedFd>,
}

/// Opens the namespaces that a container with a user namespace is to join, making that one if need be;
/// none if it is to be in the host's. The configuration then names them by paths which hold in this
/// process and its children for as long as the result lives.
pub fn open(spec: &mut Spec) -> Result<Option<Namespaces>> {
    let Some(linux) = spec.linux_mut() else {
        return Ok(None);
    };
    let mappings = Mappings::given(
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    );
    let all = linux.namespaces_mut().get_or_insert_default();
    let Some(user) = all
        .iter_mut()
        .find(|one| one.typ() == LinuxNamespaceType::User)
    else {
        return Ok(None);
    };
    let user = match join(user)? {
        Join::Nothing => {
            let fd = make(&mappings)?;
            user.set_path(Some(path_of(&fd)));
            fd
        }
        Join::Own => {
            all.retain(|one| one.typ() != LinuxNamespaceType::User);
            return Ok(None);
        }
        Join::Other(fd) => fd,
    };
    let mut others = Vec::new();
    let mut wanted = Vec::new();
    for mut namespace in std::mem::take(all) {
        if namespace.typ() != LinuxNamespaceType::User {
            match join(&mut namespace)? {
                Join::Nothing => {}
                // Its init is in it already, and may not join it as the root of another.
                Join::Own => continue,
                Join::Other(fd) => others.push(fd),
            }
        }
        wanted.push(namespace);
    }
    *all = wanted;
    Ok(Some(Namespaces {
        user,
        _others: others,
    }))
}

/// What a namespace of the configuration is to a process that has yet to enter it.
enum Join {
    /// One to be made.
    Nothing,
    /// The one that this process is in.
    Own,
    /// Another, which the configuration now names by its descriptor.
    Other(OwnedFd),
}

fn join(namespace: &mut LinuxNamespace) -> Result<Join> {
    let Some(path) = namespace.path() else {
        return Ok(Join::Nothing);
    };
    let file = File::open(path).context(|| format!("open the namespace {}", path.display()))?;
    if is_own(namespace, &file)? {
        return Ok(Join::Own);
    }
    let fd = OwnedFd::from(file);
    namespace.set_path(Some(path_of(&fd)));
    Ok(Join::Other(fd))
}

/// Whether this process is in that namespace, as its children will be unless told otherwise. The mount
/// namespace may change till then.
fn is_own(namespace: &LinuxNamespace, file: &File) -> Result<bool> {
    let name = match namespace.typ() {
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Time => "time",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Mount => return Ok(false),
    };
    let doing = || format!("look at the {name} namespace");
    let own = fs::metadata(Path::new("/proc/thread-self/ns").join(name)).context(doing)?;
    let that = file.metadata().context(doing)?;
    Ok((own.dev(), own.ino()) == (that.dev(), that.ino()))
}

fn make(mappings: &Result<Option<Mappings>>) -> Result<OwnedFd> {
    let doing = "make the container's user namespace";
    match mappings {
        Ok(Some(mappings)) => mappings.namespace(),
        Ok(None) => Err(Error::invalid(format!(
            "{doing}: no ids are mapped into it"
        ))),
        Err(why) => Err(why.clone().context(doing)),
    }
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}
