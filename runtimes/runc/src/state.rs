//! What is kept of a container outside its processes: `<bundle>/trefoil/`, its cgroup and its root's
//! mounts; and how it is all removed.
//!
//! ```text
//! <bundle>/trefoil/            libcontainer's root
//!     config.json              the configuration as libcontainer read it
//!     init.pid                 its init, from the moment it exists
//!     rootfs-is-mounted        that the root is made up of mounts
//!     console.sock             where its terminal was handed over
//!     mounts/                  where mounts hang while a container is made, in a namespace of their own
//!     <id>/                    libcontainer's own
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcontainer::container::Container;
use libcontainer::error::LibcontainerError;
use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Spec;
use serde::Deserialize;
use trefoil_core::{Context, Error, Result};

use crate::cgroup::Cgroup;
use crate::rootfs;

/// How long killed processes may take to go.
const DYING: Duration = Duration::from_secs(5);

const ROOT_IS_MOUNTED: &str = "rootfs-is-mounted";

/// Where a container's state is.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    libcontainer: PathBuf,
}

impl State {
    /// The state of the container `id` with this bundle, whether or not there is any.
    pub fn of(id: &str, bundle: &Path) -> Self {
        let root = bundle.join("trefoil");
        Self {
            libcontainer: root.join(id),
            root,
        }
    }

    /// Makes the directory.
    pub fn make(&self) -> Result<()> {
        fs::create_dir(&self.root).context(|| format!("make {}", self.root.display()))
    }

    /// The directory, which libcontainer takes for its root and for the bundle.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration as libcontainer reads it.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// The file with the init's number.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("init.pid")
    }

    /// Notes that `<bundle>/rootfs` is a place to mount upon, with nothing of its own in it.
    pub fn note_mounted_root(&self) -> Result<()> {
        let path = self.root.join(ROOT_IS_MOUNTED);
        fs::write(&path, "").context(|| format!("write {}", path.display()))
    }

    fn is_root_mounted(&self) -> bool {
        self.root.join(ROOT_IS_MOUNTED).exists()
    }

    /// Waits until nobody else clears the container away: a containerd that starts asks for a dead
    /// pod and for each of its containers at once. `None` if it has no state (any more).
    fn lock(&self) -> Result<Option<Flock<File>>> {
        let directory = match File::open(&self.root) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome.context(|| format!("open {}", self.root.display()))?,
        };
        Flock::lock(directory, FlockArg::LockExclusive)
            .map(Some)
            .map_err(|(_, why)| why)
            .context(|| format!("lock {}", self.root.display()))
    }

    fn load(&self) -> Result<Container> {
        looking_again(|| Container::load(self.libcontainer.clone()))
            .map_err(|why| Error::internal(sentence(&why)))
    }

    /// libcontainer's part: hooks, its state, resource control groups. containerd, which takes no lock,
    /// may move the bundle away meanwhile; then there is no state left to fail at.
    fn delete(&self, mut container: Container) -> Result<Option<String>> {
        match looking_again(|| container.delete(true)) {
            Err(why) if self.libcontainer.exists() => Err(Error::internal(sentence(&why))),
            _ => Ok(None),
        }
    }
}

/// The cgroup of a container with this configuration.
pub fn cgroup(id: &str, spec: &Spec, systemd_asked: bool) -> Result<Cgroup> {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref());
    find_cgroup(id, path, systemd_asked)
}

/// Whether the cgroup of a container with this configuration is made by systemd.
pub fn by_systemd(spec: &Spec, asked: bool) -> bool {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref());
    asks_systemd(path, asked)
}

/// A path of the form `slice:prefix:name` is systemd's to make, where systemd runs.
fn asks_systemd(path: Option<&Path>, asked: bool) -> bool {
    asked || (path.is_some_and(is_unit) && systemd_runs())
}

/// The cgroup that a configuration names by this path, by systemd if it was asked for or the path has
/// its form.
///
/// # Errors
/// If the path can't be a cgroup's.
pub fn find_cgroup(id: &str, path: Option<&Path>, systemd_asked: bool) -> Result<Cgroup> {
    Cgroup::new(path, id, asks_systemd(path, systemd_asked))
        .context(|| format!("find the cgroup of container {id}"))
}

fn is_unit(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let mut parts = text.split(':');
    parts.next().is_some_and(|slice| slice.ends_with(".slice")) && parts.count() == 2
}

/// As sd_booted(3) tells it.
fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Lets the init of a created container run its program.
pub fn start(id: &str, bundle: &Path) -> Result<()> {
    let mut container = State::of(id, bundle)
        .load()
        .map_err(|why| why.context(format!("start container {id}")))?;
    container
        .start()
        .map_err(|why| Error::internal(format!("start container {id}: {}", sentence(&why))))
}

/// As much of `config.json` as tells the cgroup.
#[derive(Default, Deserialize)]
struct Config {
    linux: Option<Linux>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: Option<PathBuf>,
}

/// [`clean_up`] for a container of which only the bundle is known; without any state in it there is
/// nothing to clean but mounts.
pub fn clean_up_unknown(id: &str, bundle: &Path) -> Result<Vec<String>> {
    let state = State::of(id, bundle);
    let rootfs = bundle.join("rootfs");
    if !state.root.exists() {
        let mounts = rootfs::unmount(&rootfs)?;
        return Ok(match mounts {
            0 => Vec::new(),
            n => vec![format!("{n} mounts of container {id}")],
        });
    }
    let config = fs::read(state.config())
        .or_else(|_| fs::read(bundle.join("config.json")))
        .ok()
        .and_then(|text| serde_json::from_slice::<Config>(&text).ok())
        .unwrap_or_default();
    let path = config.linux.and_then(|linux| linux.cgroups_path);
    let systemd = state.load().is_ok_and(|container| container.systemd());
    clean_up(id, bundle, path.as_deref(), systemd)
}

/// Removes all that is left of a container, its processes included, whatever state it is in and whether
/// or not its bundle is still there; its poststop hooks run. Says what it removed. Each step is tried,
/// the first failure is told.
pub fn clean_up(
    id: &str,
    bundle: &Path,
    cgroups_path: Option<&Path>,
    systemd: bool,
) -> Result<Vec<String>> {
    let state = State::of(id, bundle);
    let _alone = state.lock()?;
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
            note(kill_processes(&cgroup));
            if let Ok(container) = state.load() {
                note(state.delete(container));
            }
            note(
                cgroup
                    .remove()
                    .context(|| "remove the cgroup")
                    .map(|()| None),
            );
        }
        Err(why) => note(Err(why)),
    }
    let root = bundle.join("rootfs");
    note(rootfs::unmount(&root).map(|n| (n > 0).then(|| format!("{n} mounts"))));
    if state.is_root_mounted() {
        note(rootfs::remove_mount_points(&root).map(|()| None));
    }
    match fs::remove_dir_all(&state.root) {
        Ok(()) => note(Ok(Some("its state".into()))),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
        Err(why) => note(Err(Error::internal(format!(
            "remove {}: {why}",
            state.root.display()
        )))),
    }
    match (failure, removed.is_empty()) {
        (Some(why), _) => Err(why.context(format!("clear away container {id}"))),
        (None, true) => Ok(Vec::new()),
        (None, false) => Ok(vec![format!("{} of container {id}", removed.join(", "))]),
    }
}

/// Kills what still runs in the cgroup and waits until it is gone.
fn kill_processes(cgroup: &Cgroup) -> Result<Option<String>> {
    if !cgroup.exists() {
        return Ok(None);
    }
    let left = cgroup
        .processes()
        .context(|| "look for processes left behind")?
        .len();
    if left == 0 {
        return Ok(None);
    }
    let deadline = Instant::now() + DYING;
    loop {
        cgroup
            .kill_all(libc::SIGKILL)
            .context(|| "kill the processes left behind")?;
        let remaining = cgroup
            .processes()
            .context(|| "look for processes left behind")?;
        if remaining.is_empty() {
            return Ok(Some(format!("{left} processes")));
        }
        if Instant::now() > deadline {
            return Err(Error::internal(format!(
                "{} processes survive SIGKILL: {remaining:?}",
                remaining.len()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does again what has failed because the init was reaped while libcontainer looked at it, which it does
/// before all else: the next look finds nobody.
fn looking_again<T>(
    mut attempt: impl FnMut() -> std::result::Result<T, LibcontainerError>,
) -> std::result::Result<T, LibcontainerError> {
    match attempt() {
        Err(LibcontainerError::Procfs(_)) => attempt(),
        outcome => outcome,
    }
}

/// libcontainer's error with all its causes, in one line.
pub fn sentence(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut cause = why.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_paths_are_told_from_plain_ones() {
        for (path, unit) in [
            ("kubepods.slice:cri-containerd:abc", true),
            ("/kubepods/abc", false),
            ("a:b:c", false),
            ("x.slice:b", false),
            ("x.slice:b:c:d", false),
        ] {
            assert_eq!(is_unit(Path::new(path)), unit, "{path}");
        }
    }

    #[test]
    fn an_init_that_goes_while_it_is_looked_at_is_gone_at_the_next_look() {
        let gone =
            || LibcontainerError::Procfs(std::io::Error::from_raw_os_error(libc::EIO).into());
        let mut looks = 0;
        let outcome = looking_again(|| {
            looks += 1;
            if looks == 1 { Err(gone()) } else { Ok(looks) }
        });
        assert_eq!(outcome.expect("done"), 2);
        let mut looks = 0;
        let outcome: std::result::Result<(), _> = looking_again(|| {
            looks += 1;
            Err(LibcontainerError::InvalidID(
                libcontainer::error::ErrInvalidID::Empty,
            ))
        });
        assert!(outcome.is_err() && looks == 1);
        assert!(looking_again::<()>(|| Err(gone())).is_err());
    }

    #[test]
    fn a_bundle_that_is_moved_away_meanwhile_is_removed() {
        let bundle = std::env::temp_dir().join(format!("state-moved-{}", std::process::id()));
        let elsewhere = bundle.with_extension("elsewhere");
        let state = State::of("c", &bundle);
        fs::create_dir_all(&state.libcontainer).expect("bundle");
        Container::new(
            "c",
            libcontainer::container::ContainerStatus::Stopped,
            None,
            &bundle,
            &state.libcontainer,
        )
        .and_then(|container| container.save())
        .expect("its state");
        // A hook is the only moment within libcontainer's removing that can be met surely.
        let config = serde_json::json!({
            "hooks": { "poststop": [{
                "path": "/bin/mv",
                "args": ["mv", bundle, elsewhere],
            }] },
            "cgroup_path": "/trefoil-state-moved",
        });
        fs::write(
            state.libcontainer.join("youki_config.json"),
            config.to_string(),
        )
        .expect("its configuration");
        let outcome = clean_up("c", &bundle, Some(Path::new("/trefoil-state-moved")), false);
        let moved = elsewhere.join("trefoil/c").exists();
        fs::remove_dir_all(&elsewhere).expect("remove");
        assert!(moved);
        assert_eq!(outcome.expect("nothing left"), Vec::<String>::new());
    }

    #[test]
    fn removing_nothing_removes_nothing() {
        let bundle = std::env::temp_dir().join(format!("state-{}", std::process::id()));
        fs::create_dir_all(&bundle).expect("bundle");
        let removed = clean_up_unknown("c", &bundle);
        fs::remove_dir_all(&bundle).expect("remove");
        assert_eq!(removed.expect("nothing"), Vec::<String>::new());
    }
}
