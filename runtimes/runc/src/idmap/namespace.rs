//! The namespaces of a container that has a user namespace.
//!
//! A user namespace that is still to be made, we make: where libcontainer makes it, it has systemd make
//! the cgroup, whether or not there is a systemd. Those that are there already are opened before the
//! user namespace is joined, as the host's root: the container's may not pass where they are.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
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
    let all = linux.namespaces_mut().as_deref_mut().unwrap_or_default();
    let (mut user, mut others) = (None, Vec::new());
    if all.iter().all(|one| one.typ() != LinuxNamespaceType::User) {
        return Ok(None);
    }
    for namespace in all {
        let is_user = namespace.typ() == LinuxNamespaceType::User;
        let fd: OwnedFd = match namespace.path() {
            Some(path) => File::open(path)
                .context(|| format!("open the namespace {}", path.display()))?
                .into(),
            None if is_user => make(&mappings)?,
            None => continue,
        };
        namespace.set_path(Some(path_of(&fd)));
        match is_user {
            true => user = Some(fd),
            false => others.push(fd),
        }
    }
    Ok(user.map(|user| Namespaces {
        user,
        _others: others,
    }))
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
