//! The mounts of the configuration, each planned on the host and made in the order of the list.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use oci_spec::runtime::Mount;
use rustix::fs::CWD;
use rustix::mount::{FsPickFlags, fspick};
use trefoil_os::detached::{Change, Depth, Filesystem, Tree};

use super::binds::Binds;
use super::cgroups;
use super::copy_up;
use super::destination::{Destination, What};
use super::filesystem::{New, label_root};
use super::options::{Bind, Options};
use super::path::{Confined, cleaned};
use super::reason::{Outcome, Reason};
use crate::setup::error::Failure;
use trefoil_cgroups::Hierarchies;

/// What all mounts are planned with.
pub(super) struct Host<'a> {
    pub(super) binds: Binds<'a>,
    pub(super) hierarchies: &'a Hierarchies,
    pub(super) own_cgroup_namespace: bool,
    pub(super) user_namespace: bool,
    /// The host's sysfs, where it can't be opened later.
    pub(super) sysfs: Option<Tree>,
}

/// What all mounts are made with.
pub(super) struct Stage<'a> {
    pub(super) root: &'a Confined,
    pub(super) label: Option<&'a str>,
    pub(super) proc: &'a mut dyn FnMut() -> Result<OwnedFd, Failure>,
    /// Mounts that are to be read-only when all is in them.
    pub(super) late: Vec<Late>,
}

/// A mount that is to become read-only.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) mount: OwnedFd,
    pub(super) shown: String,
}

/// A mount that is to be made.
#[derive(Debug)]
pub(super) struct Planned {
    /// Where, in the root.
    at: PathBuf,
    /// The same, as it was asked for.
    shown: String,
    kind: String,
    source: String,
    options: Options,
    action: Action,
    /// Whether it becomes read-only when everything is in place.
    late: bool,
}

#[derive(Debug)]
enum Action {
    /// Attach what is there already.
    Copy(Tree),
    /// Change the mount that is at the destination.
    Remount,
    /// Make the views of the cgroups.
    Cgroups(cgroups::Planned),
    /// Make a sysfs, or else attach the host's, which is opened if it can't be later.
    Sysfs(Option<Tree>),
    /// Make a filesystem of any other type.
    New,
}

impl Planned {
    /// Plans one, and opens what it needs of the host.
    pub(super) fn new(mount: &Mount, host: &mut Host<'_>) -> Result<Self, Failure> {
        let text = |path: &Path| path.display().to_string();
        let kind = mount.typ().clone().unwrap_or_default();
        let source = mount.source().as_deref().map(text).unwrap_or_default();
        let shown = text(mount.destination());
        let options = mount.options().as_deref().unwrap_or_default();
        let mut planned = Self {
            at: cleaned(mount.destination()),
            shown,
            options: Options::parse(options)?,
            kind,
            source,
            action: Action::New,
            late: false,
        };
        planned
            .plan(mount, host)
            .map_err(|why| why.failing(planned.doing()))?;
        Ok(planned)
    }

    fn plan(&mut self, mount: &Mount, host: &mut Host<'_>) -> Outcome<()> {
        if self.options.bind.is_none() && self.kind == "bind" {
            self.options.bind = Some(Bind::One);
        }
        let is_copy = self.options.bind.is_some();
        if is_copy {
            // Whatever it says, it means nothing.
            self.kind = "bind".to_owned();
        } else {
            self.refuse_what_is_for_copies(mount)?;
        }
        self.leave_writable_for_now();
        self.action = match self.kind.as_str() {
            _ if self.options.remount => Action::Remount,
            _ if is_copy => Action::Copy(host.binds.open(mount, &self.options)?),
            "cgroup" | "cgroup2" => Action::Cgroups(cgroups::Planned::new(
                &self.kind,
                host.hierarchies,
                host.own_cgroup_namespace,
                host.user_namespace,
            )?),
            "sysfs" => Action::Sysfs(host.sysfs.take()),
            "" => return Err(Reason::new("it has no type")),
            _ => Action::New,
        };
        Ok(())
    }

    fn refuse_what_is_for_copies(&mut self, mount: &Mount) -> Outcome<()> {
        let any = |ids: &Option<Vec<_>>| ids.as_ref().is_some_and(|ids| !ids.is_empty());
        if self.options.map_ids.is_some() || any(mount.uid_mappings()) || any(mount.gid_mappings())
        {
            return Err(Reason::new(
                "id-mapped mounts are only supported for bind mounts",
            ));
        }
        if self.options.copy_up && self.kind != "tmpfs" {
            return Err(Reason::new("\"tmpcopyup\" is for tmpfs"));
        }
        if !self.options.remount {
            // Below a new mount there is none.
            self.options.attributes = self.options.attributes.and(self.options.recursive);
            self.options.recursive = Default::default();
        }
        Ok(())
    }

    /// A tmpfs, and whatever is at `/dev`, has to be filled before it may become read-only.
    fn leave_writable_for_now(&mut self) {
        let is_to_be_filled = self.kind == "tmpfs" || self.covers_dev();
        if is_to_be_filled && self.options.attributes.read_only() {
            self.options.attributes.set &= !libc::MOUNT_ATTR_RDONLY;
            self.late = true;
        }
    }

    fn covers_dev(&self) -> bool {
        self.at == Path::new("dev")
    }

    /// Whether all of `/dev` is somebody else's, so that nothing is to be made in it.
    pub(super) fn brings_devices(&self) -> bool {
        self.covers_dev() && self.options.bind.is_some() && !self.options.remount
    }

    /// `mount X at Y`.
    fn doing(&self) -> String {
        let what = match self.source.is_empty() {
            true => &self.kind,
            false => &self.source,
        };
        format!("mount {what} at {}", self.shown)
    }

    /// Makes it.
    pub(super) fn perform(self, stage: &mut Stage<'_>) -> Result<(), Failure> {
        let doing = self.doing();
        self.make(stage)?.map_err(|why| why.failing(doing))
    }

    /// The outer failure is of the one who opens proc, and complete.
    fn make(mut self, stage: &mut Stage<'_>) -> Result<Outcome<()>, Failure> {
        let action = std::mem::replace(&mut self.action, Action::New);
        let outcome = match action {
            Action::Copy(tree) => self.attach_copy(tree, stage),
            Action::Remount => self.change_what_is_there(stage),
            Action::Cgroups(planned) => self.make_cgroups(planned, stage),
            Action::Sysfs(hosts) => self.make_sysfs(hosts, stage),
            Action::New if self.kind == "proc" => {
                let context = (stage.proc)()?;
                self.make_new(Some(context), stage)
            }
            Action::New => self.make_new(None, stage),
        };
        Ok(outcome)
    }

    fn attach_copy(&self, tree: Tree, stage: &mut Stage<'_>) -> Outcome<()> {
        let place = Destination::open(stage.root, &self.at, What::Copy(tree.as_fd()))?;
        tree.attach_at(place.fd.as_fd())?;
        self.remember(tree.into_fd(), stage);
        Ok(())
    }

    fn make_new(&self, context: Option<OwnedFd>, stage: &mut Stage<'_>) -> Outcome<()> {
        let place = self.destination(stage)?;
        let mut new = New::described(&self.kind, &self.source, &self.options, stage.label);
        if self.kind == "tmpfs" && place.existed && self.options.value("mode").is_none() {
            let status = rustix::fs::fstat(&place.fd)?;
            new.data
                .push(format!("mode={:04o}", status.st_mode & 0o7777));
        }
        if context.is_none() && new.needs_old_call() {
            return self.make_with_old_call(&new, &place, stage);
        }
        let tree = new.make(context)?;
        if self.options.copy_up && place.existed {
            copy_up::copy(place.fd.as_fd(), tree.as_fd())?;
        }
        if self.kind == "mqueue"
            && let Some(label) = stage.label
        {
            label_root(&tree, label)?;
        }
        self.attach_new(tree, &place, stage)
    }

    fn destination(&self, stage: &Stage<'_>) -> Outcome<Destination> {
        Destination::open(stage.root, &self.at, What::New(&self.kind))
    }

    fn attach_new(&self, tree: Tree, place: &Destination, stage: &mut Stage<'_>) -> Outcome<()> {
        tree.attach_at(place.fd.as_fd())?;
        self.propagate(tree.as_fd())?;
        self.remember(tree.into_fd(), stage);
        Ok(())
    }

    /// Only now: being mounted below a shared mount makes a private one shared.
    fn propagate(&self, mount: BorrowedFd<'_>) -> Outcome<()> {
        for one in &self.options.propagation {
            one.apply(mount)?;
        }
        Ok(())
    }

    fn remember(&self, mount: OwnedFd, stage: &mut Stage<'_>) {
        if self.late {
            stage.late.push(Late {
                mount,
                shown: self.shown.clone(),
            });
        }
    }

    /// That call mounts on the opened place, but gives no descriptor of the mount: so the path is
    /// resolved again, and what is then done fails unless that is a mount.
    fn make_with_old_call(
        &self,
        new: &New<'_>,
        place: &Destination,
        stage: &mut Stage<'_>,
    ) -> Outcome<()> {
        if self.options.copy_up {
            return Err(Reason::from(Errno::EINVAL)
                .with("with \"tmpcopyup\" no option may have more than 255 bytes"));
        }
        new.mount_upon(place.fd.as_fd())?;
        if self.late || !self.options.propagation.is_empty() {
            let mount = stage.root.open(&self.at)?;
            self.propagate(mount.as_fd())?;
            self.remember(mount, stage);
        }
        Ok(())
    }

    fn make_sysfs(&self, hosts: Option<Tree>, stage: &mut Stage<'_>) -> Outcome<()> {
        let place = self.destination(stage)?;
        let new = New::described(&self.kind, &self.source, &self.options, None);
        let tree = match new.make(None) {
            // The network namespace is another user's, or its view of this one isn't whole.
            Err(why) if why.is_refusal() => {
                let tree = hosts.map_or_else(hosts_sysfs, Ok)?;
                tree.change(self.options.attributes.change(), Depth::One)?;
                tree
            }
            made => made?,
        };
        self.attach_new(tree, &place, stage)
    }

    fn make_cgroups(&self, planned: cgroups::Planned, stage: &mut Stage<'_>) -> Outcome<()> {
        let place = self.destination(stage)?;
        let attributes = self.options.attributes;
        match planned {
            cgroups::Planned::V2 { fallback } => {
                let new = New::described("cgroup2", &self.source, &self.options, None);
                let tree = cgroups::unified(fallback, &new, attributes)?;
                self.attach_new(tree, &place, stage)
            }
            // Each hierarchy has its options from the host, those of the mount are its attributes.
            cgroups::Planned::V1(views) => {
                let shelf = cgroups::shelf(stage.label)?;
                shelf.attach_at(place.fd.as_fd())?;
                cgroups::fill(&shelf, views, attributes)?;
                self.propagate(shelf.as_fd())?;
                if attributes.read_only() {
                    stage.late.push(Late {
                        mount: shelf.into_fd(),
                        shown: self.shown.clone(),
                    });
                }
                Ok(())
            }
        }
    }

    /// `remount`, as mount(8) has it: with `bind` the mount changes, without it its filesystem does, too.
    fn change_what_is_there(&self, stage: &mut Stage<'_>) -> Outcome<()> {
        let mount = stage.root.open(&self.at)?;
        let (own, below) = (&self.options.attributes, &self.options.recursive);
        if !own.is_empty() {
            own.change().apply(mount.as_fd(), Depth::One)?;
        }
        if !below.is_empty() {
            below.change().apply(mount.as_fd(), Depth::All)?;
        }
        if self.options.bind.is_none() {
            self.reconfigure(mount.as_fd())?;
        }
        self.propagate(mount.as_fd())?;
        self.remember(mount, stage);
        Ok(())
    }

    fn reconfigure(&self, mount: BorrowedFd<'_>) -> Outcome<()> {
        if self.options.data.is_empty() && self.options.superblock.is_empty() {
            return Ok(());
        }
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let picked = Filesystem::from(fspick(mount, "", flags)?);
        let new = New::described(&self.kind, "", &self.options, None);
        let tell = || {
            for flag in &self.options.superblock {
                picked.set_flag(flag)?;
            }
            new.tell_data(&picked)?;
            picked.reconfigure()
        };
        tell().map_err(|why| Reason::told_by(&picked, why))
    }
}

/// Whether a mount is of a sysfs of the container's own.
pub(super) fn is_sysfs(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("sysfs")
}

/// The host's sysfs without what is mounted in it: its cgroups are none of the container's.
pub(super) fn hosts_sysfs() -> Outcome<Tree> {
    let tree = Tree::copy_at(CWD, Path::new("/sys"), Depth::One)?;
    tree.change(Change::propagation(libc::MS_PRIVATE), Depth::One)?;
    Ok(tree)
}
