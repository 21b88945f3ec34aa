//! The shim's side: starting the server, and what it shares.

mod changes;
mod extent;
mod root;
mod volumes;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use trefoil_core::{Context, Error, ErrorKind, Result};
pub use trefoil_jail::Start;
use trefoil_jail::{Child, control};
use trefoil_os::{apart, detached, lock};

pub use crate::exit::{Exit, HungUp};
pub use crate::message::Flush;
use crate::message::{Change, Launch};
use crate::tree::{self, Shown, Source, Tree};
use changes::ChangeSocket;
use extent::Extent;
use root::Root;
use volumes::Volumes;

/// How many files a server may hold open at most: as many descriptors as a process may have by
/// Linux's defaults, less those it needs otherwise.
const MOST_FILES: u32 = (1 << 20) - 1024;
/// How many it may hold however small its guest is.
const LEAST_FILES: u32 = 16 << 10;
/// What a thread is called that shares a tree.
const THREAD: &str = "trees";
/// The longest a name may be.
const MOST_NAME: usize = 128;

/// Who the server becomes and what it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jail {
    /// The user id: not root's, and no other process's.
    pub uid: u32,
    /// The group id: not root's.
    pub gid: u32,
    /// How much memory the guest has, in MiB. It bounds how many files the server may have to
    /// remember: a guest's kernel needs about 1 KiB to know a file.
    pub guest_mib: u32,
    /// Of which closes the guest's kernel tells.
    pub flush: Flush,
}

/// A pod's file server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    process: Mutex<Child<(), HungUp>>,
    pid: u32,
    pidfd: OwnedFd,
    names: Mutex<BTreeSet<String>>,
    reach: Arc<Reach>,
}

/// All that a thread needs to share a tree.
#[derive(Debug)]
struct Reach {
    changes: ChangeSocket,
    root: Root,
    /// Locked by threads that share, which may wait for each other.
    volumes: Mutex<Volumes>,
}

/// Starts the server, in the cgroups that `start` names, and hands out the end of its connection
/// that the device's front end is to have.
///
/// It does not wait for the server to be ready; [`Server::share`] does. The server ends with the
/// *thread* that called this.
pub fn start(start: &Start<'_>, jail: &Jail) -> Result<(Server, UnixStream)> {
    const DOING: &str = "start the file server";
    let (front_end, theirs) = UnixStream::pair().context(|| DOING)?;
    let (ours, changes) = control::pair().context(|| DOING)?;
    let process = Child::start(start).context(|| DOING)?;
    let launch = Launch {
        uid: jail.uid,
        gid: jail.gid,
        files: jail
            .guest_mib
            .saturating_mul(1 << 10)
            .clamp(LEAST_FILES, MOST_FILES),
        flush: jail.flush,
    };
    process
        .launch(&launch, &[theirs.as_fd(), changes.as_fd()])
        .context(|| DOING)?;
    let server = Server {
        pid: process.pid(),
        pidfd: process.pidfd().try_clone_to_owned().context(|| DOING)?,
        names: Mutex::default(),
        reach: Arc::new(Reach {
            changes: ChangeSocket::new(ours),
            root: Root::of(process.pid())?,
            volumes: Mutex::default(),
        }),
        process: Mutex::new(process),
    };
    Ok((server, front_end))
}

impl Server {
    /// Its process's id, as we see it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor of its process, which is readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it. [`Server::ended`] tells when it has ended.
    pub fn kill(&self) {
        lock(&self.process).kill();
    }

    /// How it ended, if it has; then it is reaped, too. Does not wait.
    pub fn ended(&self) -> Result<Option<Exit>> {
        lock(&self.process)
            .try_wait()
            .context(|| "look after the file server")
    }

    /// Shows a tree to the guest, as `name` in the root of what is shared. A name is 1 to 128 of
    /// `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, but neither `.` nor `..`, and not in use.
    ///
    /// The work is done on a thread of its own, since a mount may take as long as a disk does; it is
    /// carried through even if nobody waits for it any more.
    pub async fn share(&self, name: &str, tree: Tree) -> Result<()> {
        let doing = || format!("share {name} with the guest");
        check(name).map_err(|why| why.context(doing()))?;
        if !lock(&self.names).insert(name.to_owned()) {
            let why = "there is such a name already";
            return Err(Error::new(ErrorKind::AlreadyExists, why).context(doing()));
        }
        let (reach, owned) = (Arc::clone(&self.reach), name.to_owned());
        let outcome = apart(THREAD, move || reach.share(&owned, &tree)).await;
        if outcome.is_err() {
            lock(&self.names).remove(name);
        }
        outcome.map_err(|why| why.context(doing()))
    }

    /// Says whether what is asked of a filesystem whose daemon or server does not answer for a second is
    /// answered with EIO instead of waiting for it: the guest's kernel waits for an answer even where the
    /// process was killed. What is read from a local filesystem straight into the guest's memory is
    /// not answered before it is done.
    pub async fn hurry(&self, on: bool) -> Result<()> {
        let reach = Arc::clone(&self.reach);
        let outcome = apart(THREAD, move || reach.changes.tell(&Change::Hurry(on))).await;
        outcome.map_err(|why| why.context("have nobody wait for a filesystem that hangs"))
    }

    /// Shows a volume to the guest, for one more user, and says by which name: what is shared already is
    /// not shared again. All volumes of one filesystem of the host's are in one directory, which the guest
    /// mounts as a filesystem: their names are `filesystem.N/volume.M`. One with other mounts below it, or
    /// with other owners than its filesystem says, is a filesystem of its own, `volume.M`.
    ///
    /// As [`Server::share`], on a thread of its own.
    pub async fn share_volume(&self, tree: Tree) -> Result<String> {
        let doing = format!("share {} with the guest", tree.source);
        let reach = Arc::clone(&self.reach);
        let outcome = apart(THREAD, move || reach.share_volume(tree)).await;
        outcome.map_err(|why| why.context(doing))
    }

    /// One user of a volume needs it no more. As [`Server::unshare`] says, if nobody does who has it or
    /// files of it; otherwise it stays for them. After a failure the user is gone, and what could not be
    /// taken away is with the next one.
    pub async fn unshare_volume(&self, name: &str) -> Result<()> {
        let (reach, owned) = (Arc::clone(&self.reach), name.to_owned());
        let outcome = apart(THREAD, move || reach.unshare_volume(&owned)).await;
        outcome.map_err(|why| why.context(format!("take {name} away from the guest")))
    }

    /// Takes a tree away. When this returns, the server holds nothing of it any more: what the tree
    /// was made of can be removed, and files that the guest still has open there are stale to it.
    /// [`ErrorKind::NotFound`] if no tree has that name.
    pub async fn unshare(&self, name: &str) -> Result<()> {
        let doing = || format!("take {name} away from the guest");
        if !lock(&self.names).remove(name) {
            return Err(Error::not_found("there is no such name").context(doing()));
        }
        let (reach, owned) = (Arc::clone(&self.reach), name.to_owned());
        let outcome = apart(THREAD, move || reach.unshare(&owned)).await;
        if outcome.is_err() {
            // To be tried again.
            lock(&self.names).insert(name.to_owned());
        }
        outcome.map_err(|why| why.context(doing()))
    }
}

impl Reach {
    fn share(&self, name: &str, tree: &Tree) -> Result<()> {
        let shown = Shown {
            changes: tree.changes,
            read_only: tree.read_only,
            depth: 0,
        };
        self.show(name, shown, tree.mount()?)
    }

    fn show(&self, name: &str, shown: Shown, mount: detached::Tree) -> Result<()> {
        self.changes.tell(&Change::Add(name.to_owned(), shown))?;
        let outcome = self.root.put(mount, name);
        if outcome.is_err() {
            // What went wrong before is to be told.
            let _ = self.changes.tell(&Change::Remove(name.to_owned()));
        }
        outcome
    }

    fn unshare(&self, name: &str) -> Result<()> {
        self.root.remove(name)?;
        self.changes.tell(&Change::Remove(name.to_owned()))
    }

    fn share_volume(&self, tree: Tree) -> Result<String> {
        let Source::Path { path, submounts } = &tree.source else {
            return Err(Error::invalid(format!("{} is no volume", tree.source)));
        };
        // Before anybody is kept waiting: a filesystem that hangs does so here.
        let file = tree::open_source(path, *submounts)?;
        let extent = Extent::of(file.as_fd(), *submounts)?;
        let mount = tree.mount_at(&file, *submounts)?;
        let mut volumes = lock(&self.volumes);
        if let Some(name) = volumes.reuse(&tree, extent.as_ref()) {
            return Ok(name);
        }
        let (name, shown) = volumes.name(&tree, extent.as_ref());
        self.show(&name, shown, mount)?;
        volumes.add(name.clone(), tree, extent);
        Ok(name)
    }

    fn unshare_volume(&self, name: &str) -> Result<()> {
        let mut volumes = lock(&self.volumes);
        volumes.leave(name);
        while let Some(unneeded) = volumes.unneeded() {
            self.unshare(&unneeded)?;
            volumes.remove(&unneeded);
        }
        Ok(())
    }
}

fn check(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match name {
        "" | "." | ".." => Err(Error::invalid("that is no name")),
        name if name.len() > MOST_NAME => Err(Error::invalid("the name is too long")),
        name if !name.bytes().all(is_plain) => {
            Err(Error::invalid("the name has other characters than it may"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names() {
        for right in ["a", "...", "Web-1_2.3", &"x".repeat(128)] {
            check(right).expect(right);
        }
        for wrong in ["", ".", "..", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            check(wrong).expect_err(wrong);
        }
    }
}
