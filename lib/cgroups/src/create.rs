//! Making a container's cgroup, in every hierarchy.
//!
//! On v1 a new cpuset is empty and takes no process: it gets what its parent has. On v2 a cgroup has
//! those controllers that its parent hands down: each one above it is told to. Limits come later, by
//! [`Cgroup::limit`].

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::error::{Doing, Result, is_absence, is_refusal, used};
use super::layout::{Controller, Layout};
use super::{Cgroup, file};
use trefoil_os::rootless::in_user_namespace;

/// Whoever may write to a cgroup's directory may make cgroups below: nobody but root, whatever the umask.
const MODE: u32 = 0o755;

/// How often a directory is made anew that another container's removal took away.
const TRIES: usize = 5;

/// What is said where the cgroups are not this user namespace's.
const NOT_DELEGATED: &str = "in a user namespace (rootless containerd) containers take a cgroup v2 that was \
                             delegated to it";

impl Cgroup {
    /// Makes the cgroup for a new container. Its parents stay when it is removed.
    ///
    /// On v2 without systemd the answer is its directory's descriptor: a process can be cloned into it
    /// (`CLONE_INTO_CGROUP`), which spares the move and its RCU grace period. Elsewhere it is `None`:
    /// [`add`](Cgroup::add) the process. A systemd unit is made by that, too, as it can't be without a
    /// process.
    ///
    /// # Errors
    /// If a process is in it already, which would be killed with the container, or it is frozen; or if
    /// it can't be made.
    pub fn create(&self) -> Result<Option<OwnedFd>> {
        self.refuse_if_used()?;
        if self.is_unit() {
            return Ok(None);
        }
        self.make().map_err(
            |why| match is_refusal(why.raw_os_error()) && in_user_namespace() {
                true => why.noting(Some(NOT_DELEGATED.to_owned())),
                false => why,
            },
        )?;
        match &self.layout {
            Layout::V1(_) => Ok(None),
            Layout::V2(dir) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                open(dir, flags, Mode::empty()).doing("open", dir).map(Some)
            }
        }
    }

    fn refuse_if_used(&self) -> Result<()> {
        let used = |by: String| Err(used(self.path(), by));
        if !self.exists() {
            return Ok(());
        }
        match self.processes()?.as_slice() {
            [] if self.is_frozen()? => used("it is frozen".to_owned()),
            [] => Ok(()),
            [pid, ..] => used(format!("process {pid} is in it")),
        }
    }

    /// Makes what is not there of it.
    pub(super) fn make(&self) -> Result<()> {
        for (controller, dir) in self.members() {
            let made = match controller {
                None => make(dir, &self.relative, hand_down),
                Some(_) if self.v1(Controller::CpuSet) == Some(dir) => {
                    make(dir, &self.relative, inherit_cpuset)
                }
                Some(_) => make(dir, &self.relative, |_, _| Ok(())),
            };
            match made {
                // It limits nothing, and may be read-only where v1 isn't.
                Err(_) if controller == Some(Controller::Unified) => {}
                made => made?,
            }
        }
        Ok(())
    }
}

/// Makes a directory and those above it, below the mount point. `prepare` is called for each of them
/// with its parent, from the top down.
fn make(dir: &Path, relative: &Path, prepare: impl Fn(&Path, &Path) -> Result<()>) -> Result<()> {
    let depth = relative.components().count();
    let mut chain: Vec<&Path> = dir.ancestors().take(depth + 1).collect();
    chain.reverse();
    let attempt = || {
        chain.windows(2).try_for_each(|pair| {
            let [parent, child] = pair else {
                return Ok(());
            };
            match fs::DirBuilder::new().mode(MODE).create(child) {
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.doing("make", child)?,
            }
            prepare(parent, child)
        })
    };
    let mut outcome = attempt();
    for _ in 1..TRIES {
        match &outcome {
            Err(why) if is_absence(why.raw_os_error()) => outcome = attempt(),
            _ => break,
        }
    }
    outcome
}

/// Gives an empty cpuset what its parent has.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(name), child.join(name));
        let own = fs::read_to_string(&to).doing("read", &to)?;
        if own.trim().is_empty() {
            let inherited = fs::read_to_string(&from).doing("read", &from)?;
            file::write(&to, inherited.trim())?;
        }
    }
    Ok(())
}

/// Has a cgroup of v2 hand all its controllers down. What it refuses to hand down is missed by the limit
/// that needs it.
fn hand_down(parent: &Path, child: &Path) -> Result<()> {
    let list = |dir: &Path, name: &str| {
        let path = dir.join(name);
        file::read(&path).map(Option::unwrap_or_default)
    };
    let has = list(parent, "cgroup.controllers")?;
    let hands_down = list(parent, "cgroup.subtree_control")?;
    let missing: Vec<String> = has
        .split_ascii_whitespace()
        .filter(|one| {
            !hands_down
                .split_ascii_whitespace()
                .any(|other| other == *one)
        })
        .map(|one| format!("+{one}"))
        .collect();
    let control = parent.join("cgroup.subtree_control");
    if !missing.is_empty() && file::write(&control, &missing.join(" ")).is_err() {
        for one in &missing {
            let _ = file::write(&control, one);
        }
    }
    refuse_invalid(parent, child)
}

/// Below a threaded cgroup only threads can be, of processes that are elsewhere: none whose processes
/// could be listed or killed. runc puts containers there that limit no memory.
fn refuse_invalid(parent: &Path, child: &Path) -> Result<()> {
    let kind = child.join("cgroup.type");
    match file::read(&kind)? {
        Some(kind) if kind.trim() == "domain invalid" => {
            let _ = fs::remove_dir(child);
            Err(used(child, format!("{} is threaded", parent.display())))
        }
        _ => Ok(()),
    }
}
