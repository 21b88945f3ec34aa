//! What is kept of a container outside its processes: `<bundle>/trefoil/`, its cgroup and its root's
//! mounts; and how it is all removed.
//!
//! ```text
//! <bundle>/trefoil/
//!     record.json     what must be known to remove the container: [`Record`]
//! ```
//!
//! Releases before 0.2 had libcontainer make containers, and left its files there instead. Such a
//! container is removed all the same ([`legacy`]).

mod legacy;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use trefoil_core::{Context, Error, Result, record};
use trefoil_os::mountinfo;

use crate::init::Container;
use crate::rootfs;
use crate::setup::rdt;
use trefoil_cgroups::Cgroup;

/// The version of [`Record`] that this build writes, and the newest that it understands.
const VERSION: u32 = 2;

/// What must be known of a container to remove it, on disk before there is anything to remove.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Its cgroup, as its configuration names it.
    pub cgroups_path: Option<PathBuf>,
    /// Whether the cgroup is made by systemd.
    pub systemd_cgroup: bool,
    /// That `<bundle>/rootfs` is a place to mount upon, with nothing of its own in it.
    pub root_is_mounted: bool,
    /// What was made of Intel RDT.
    #[serde(default)]
    rdt: rdt::Made,
}

impl Record {
    /// The record of a container that is about to be made.
    pub fn new(cgroups_path: Option<PathBuf>, systemd_cgroup: bool, root_is_mounted: bool) -> Self {
        Self {
            version: VERSION,
            cgroups_path,
            systemd_cgroup,
            root_is_mounted,
            rdt: rdt::Made::default(),
        }
    }
}

/// Where a container's state is.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
}

impl State {
    /// The state of the container with this bundle, whether or not there is any.
    pub fn of(bundle: &Path) -> Self {
        Self {
            directory: bundle.join("trefoil"),
        }
    }

    fn record(&self) -> PathBuf {
        self.directory.join("record.json")
    }

    /// Makes it, with the record in it, at once or not at all.
    pub fn make(&self, record: &Record) -> Result<()> {
        let doing = || format!("make {}", self.directory.display());
        let text = serde_json::to_vec(record).context(doing)?;
        let new = self.directory.with_extension("new");
        match fs::create_dir(&new) {
            // Left by somebody who died before the renaming.
            Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome.context(doing),
        }?;
        fs::write(new.join("record.json"), text).context(doing)?;
        fs::rename(&new, &self.directory).context(doing)
    }

    /// Notes what was made of Intel RDT.
    pub fn note_rdt(&self, mut record: Record, made: rdt::Made) -> Result<()> {
        if made == record.rdt {
            return Ok(());
        }
        record.rdt = made;
        let path = self.record();
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec(&record).context(doing)?;
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .context(doing)
    }

    /// Reads the record; `None` if there is nothing of the container's.
    fn read(&self, id: &str) -> Result<Option<Record>> {
        match record::read(&self.record(), VERSION)? {
            None => legacy::read(&self.directory, id),
            found => Ok(found),
        }
    }

    /// Waits until nobody else clears the container away: a containerd that starts asks for a dead
    /// pod and for each of its containers at once. `None` if it has no state (any more).
    fn lock(&self) -> Result<Option<Flock<File>>> {
        let directory = match File::open(&self.directory) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome.context(|| format!("open {}", self.directory.display()))?,
        };
        Flock::lock(directory, FlockArg::LockExclusive)
            .map(Some)
            .map_err(|(_, why)| why)
            .context(|| format!("lock {}", self.directory.display()))
    }
}

/// The cgroup of a container with this configuration.
pub fn cgroup(id: &str, spec: &Spec, systemd_asked: bool) -> Result<Cgroup> {
    find_cgroup(id, trefoil_spec::cgroups_path(spec), systemd_asked)
}

fn find_cgroup(id: &str, path: Option<&Path>, systemd_asked: bool) -> Result<Cgroup> {
    Cgroup::find(path, id, systemd_asked).context(|| format!("find the cgroup of container {id}"))
}

/// Whether the cgroup of a container with this configuration is made by systemd.
pub fn by_systemd(spec: &Spec, asked: bool) -> bool {
    trefoil_cgroups::is_systemd(trefoil_spec::cgroups_path(spec), asked)
}

/// Runs the hooks that follow a container's start.
pub fn run_poststart_hooks(id: &str, bundle: &Path, pid: u32) -> Result<()> {
    run_hooks("poststart", "running", id, bundle, i32::try_from(pid).ok())
        .map_err(|why| why.context(format!("start container {id}")))
}

fn run_hooks(
    kind: &'static str,
    status: &'static str,
    id: &str,
    bundle: &Path,
    pid: Option<i32>,
) -> Result<()> {
    let spec = trefoil_spec::load(&bundle.join("config.json"))?;
    let container = Container {
        id,
        bundle,
        spec: &spec,
        terminal: false,
        no_pivot_root: false,
    };
    container
        .run_hooks(kind, status, pid)
        .map_err(|why| Error::internal(why.to_string()))
}

/// [`clean_up`] for a container of which only the bundle is known; without any state in it there is
/// nothing to clean but mounts.
pub fn clean_up_unknown(id: &str, bundle: &Path) -> Result<Vec<String>> {
    match State::of(bundle).read(id)? {
        Some(record) => clean_up(
            id,
            bundle,
            record.cgroups_path.as_deref(),
            record.systemd_cgroup,
        ),
        None => Ok(match mountinfo::unmount_all(&bundle.join("rootfs"))? {
            0 => Vec::new(),
            n => vec![format!("{n} mounts of container {id}")],
        }),
    }
}

/// Removes all that is left of a container, its processes included, whatever state it is in and whether
/// or not its bundle is still there; its poststop hooks run. Says what it removed. Each step is tried,
/// the first failure is told.
///
/// # Errors
/// Also if its record can't be read or is a later release's; then nothing is touched.
pub fn clean_up(
    id: &str,
    bundle: &Path,
    cgroups_path: Option<&Path>,
    systemd: bool,
) -> Result<Vec<String>> {
    let state = State::of(bundle);
    let _alone = state.lock()?;
    let record = state.read(id)?;
    let mut removed = Vec::new();
    let mut failure = None;
    let mut note = |outcome: Result<Option<String>>| match outcome {
        Ok(what) => removed.extend(what),
        Err(why) => {
            failure.get_or_insert(why);
        }
    };
    match find_cgroup(id, cgroups_path, systemd) {
        Ok(cgroup) => {
            let killed = cgroup.kill_and_remove().context(|| "remove the cgroup");
            note(killed.map(|n| (n > 0).then(|| format!("{n} processes"))));
        }
        Err(why) => note(Err(why)),
    }
    if let Some(record) = &record {
        note(
            rdt::remove(&record.rdt, id)
                .map(|()| None)
                .map_err(|why| Error::internal(why.to_string())),
        );
        run_poststop_hooks(id, bundle);
    }
    let root = bundle.join("rootfs");
    let unmounted = mountinfo::unmount_all(&root).map_err(Error::from);
    note(unmounted.map(|n| (n > 0).then(|| format!("{n} mounts"))));
    if record.is_some_and(|record| record.root_is_mounted) {
        note(rootfs::remove_mount_points(&root).map(|()| None));
    }
    match fs::remove_dir_all(&state.directory) {
        Ok(()) => note(Ok(Some("its state".into()))),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
        Err(why) => note(Err(Error::internal(format!(
            "remove {}: {why}",
            state.directory.display()
        )))),
    }
    match (failure, removed.is_empty()) {
        (Some(why), _) => Err(why.context(format!("clear away container {id}"))),
        (None, true) => Ok(Vec::new()),
        (None, false) => Ok(vec![format!("{} of container {id}", removed.join(", "))]),
    }
}

/// What a hook after the end finds wrong keeps nothing from being removed. containerd may have moved the
/// bundle away meanwhile.
fn run_poststop_hooks(id: &str, bundle: &Path) {
    if !bundle.join("config.json").exists() {
        return;
    }
    if let Err(why) = run_hooks("poststop", "stopped", id, bundle, None) {
        log::warn!("container {id}: {why}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bundle of its own for a test.
    pub(super) fn bundle(name: &str) -> PathBuf {
        let bundle = std::env::temp_dir().join(format!("state-{name}-{}", std::process::id()));
        fs::create_dir_all(&bundle).expect("bundle");
        bundle
    }

    #[test]
    fn a_record_reads_back() {
        let bundle = bundle("record");
        let record = Record::new(Some("/a/b".into()), false, true);
        State::of(&bundle).make(&record).expect("make");
        let read = State::of(&bundle).read("c").expect("read");
        fs::remove_dir_all(&bundle).expect("remove");
        assert_eq!(read, Some(record));
    }

    #[test]
    fn a_record_that_cant_be_understood_is_an_error_and_nothing_is_touched() {
        let bundle = bundle("newer");
        let state = State::of(&bundle);
        fs::create_dir(&state.directory).expect("directory");
        for (text, expected) in [
            (&br#"{"version": 3, "more": 1}"#[..], "version 3"),
            (b"{", "record.json"),
            (b"", "record.json"),
            (br#"{"version": 2}"#, "record.json"),
        ] {
            fs::write(state.record(), text).expect("write");
            let path = Some(Path::new("/trefoil-state-newer"));
            for outcome in [
                clean_up_unknown("c", &bundle),
                clean_up("c", &bundle, path, false),
            ] {
                let why = outcome.expect_err("not understood").to_string();
                assert!(why.contains(expected), "{why}");
            }
            assert!(state.record().exists());
        }
        fs::remove_dir_all(&bundle).expect("remove");
    }

    #[test]
    fn a_bundle_that_is_moved_away_meanwhile_is_removed() {
        let bundle = bundle("moved");
        let elsewhere = bundle.with_extension("elsewhere");
        State::of(&bundle)
            .make(&Record::new(None, false, false))
            .expect("state");
        // A hook is the only moment within the removing that can be met surely.
        let config = serde_json::json!({
            "ociVersion": "1.2.0",
            "root": { "path": "rootfs" },
            "hooks": { "poststop": [{
                "path": "/bin/mv",
                "args": ["mv", bundle, elsewhere],
            }] },
        });
        fs::write(bundle.join("config.json"), config.to_string()).expect("configuration");
        let outcome = clean_up("c", &bundle, Some(Path::new("/trefoil-state-moved")), false);
        let moved = elsewhere.join("trefoil/record.json").exists();
        fs::remove_dir_all(&elsewhere).expect("remove");
        assert!(moved);
        assert_eq!(outcome.expect("nothing left"), Vec::<String>::new());
    }

    #[test]
    fn removing_nothing_removes_nothing() {
        let bundle = bundle("nothing");
        let removed = clean_up_unknown("c", &bundle);
        fs::remove_dir_all(&bundle).expect("remove");
        assert_eq!(removed.expect("nothing"), Vec::<String>::new());
    }
}
