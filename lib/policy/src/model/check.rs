//! What the types alone can't say of a policy: that its parts fit together.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{
    Container, Content, FileRule, Kind, Mount, MountKind, MountOption, Namespace, Pattern, Policy,
    VERSION, Volume, VolumeKind,
};

/// The most containers, volumes, and layers of a container.
const MOST_CONTAINERS: usize = 256;
const MOST_VOLUMES: usize = 256;
const MOST_LAYERS: usize = 128;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 253;

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as JSON has it.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.field, self.why)
    }
}

type Checked = Result<(), Fault>;

fn fault(field: impl Into<String>, why: impl Into<String>) -> Fault {
    Fault {
        field: field.into(),
        why: why.into(),
    }
}

fn demand(sound: bool, field: impl FnOnce() -> String, why: impl FnOnce() -> String) -> Checked {
    match sound {
        true => Ok(()),
        false => Err(fault(field(), why())),
    }
}

impl Policy {
    /// Whether its parts fit together.
    ///
    /// # Errors
    /// The first that doesn't.
    pub fn check(&self) -> Result<(), Fault> {
        demand(
            self.version == VERSION,
            || "version".into(),
            || format!("it is {}, and {VERSION} is known", self.version),
        )?;
        self.check_sandbox()?;
        self.check_volumes()?;
        let many = self.containers.len();
        demand(
            many <= MOST_CONTAINERS,
            || "containers".into(),
            || format!("there are {many}, more than {MOST_CONTAINERS}"),
        )?;
        let names = self.containers.iter().map(|one| one.name.as_str());
        unique("containers", "name", names)?;
        for (at, container) in self.containers.iter().enumerate() {
            self.check_container(at, container)?;
        }
        self.check_order()
    }

    fn check_sandbox(&self) -> Checked {
        let sysctls = self.sandbox.sysctls.iter();
        unique(
            "sandbox.sysctls",
            "name",
            sysctls.map(|one| one.name.as_str()),
        )?;
        let required = self.containers.iter().any(|one| one.required);
        demand(
            required || self.sandbox.start_within.is_none(),
            || "sandbox.start_within".into(),
            || "no container is required".into(),
        )
    }

    fn check_volumes(&self) -> Checked {
        let many = self.volumes.len();
        demand(
            many <= MOST_VOLUMES,
            || "volumes".into(),
            || format!("there are {many}, more than {MOST_VOLUMES}"),
        )?;
        unique(
            "volumes",
            "name",
            self.volumes.iter().map(|one| one.name.as_str()),
        )?;
        for (at, volume) in self.volumes.iter().enumerate() {
            let place = format!("volumes[{at}]");
            demand(
                is_name(&volume.name),
                || format!("{place}.name"),
                not_a_name,
            )?;
            check_files(&place, volume)?;
        }
        Ok(())
    }

    fn check_container(&self, at: usize, container: &Container) -> Checked {
        let place = format!("containers[{at}]");
        let field = |name: &str| format!("{place}.{name}");
        demand(is_name(&container.name), || field("name"), not_a_name)?;
        let layers = container.layers.len();
        demand(
            (1..=MOST_LAYERS).contains(&layers),
            || field("layers"),
            || format!("there are {layers}, and a root has 1 to {MOST_LAYERS}"),
        )?;
        let empty = container.layers.iter().any(|layer| layer.blocks == 0);
        demand(!empty, || field("layers"), || "one has no blocks".into())?;
        demand(
            container
                .process
                .command
                .first()
                .is_some_and(|one| !one.is_empty()),
            || field("process.command"),
            || "it names no program".into(),
        )?;
        demand(
            is_place(&container.process.cwd),
            || field("process.cwd"),
            not_a_place,
        )?;
        demand(
            container.namespaces.contains(&Namespace::Mount),
            || field("namespaces"),
            || "every container has its own mounts".into(),
        )?;
        let kinds = container.process.rlimits.iter().map(|one| one.kind.name());
        unique(&field("process.rlimits"), "type", kinds)?;
        let signals = container.signals.iter().all(|one| (1..=64).contains(one));
        demand(
            signals,
            || field("signals"),
            || "a signal is 1 to 64".into(),
        )?;
        let exec = container.exec.iter();
        let empty = exec.into_iter().any(|one| one.command.arguments.is_empty());
        demand(
            !empty,
            || field("exec"),
            || "a command has no program".into(),
        )?;
        self.check_mounts(&place, container)
    }

    fn check_mounts(&self, place: &str, container: &Container) -> Checked {
        let mounts = container.mounts.iter();
        let destinations = mounts.map(|one| one.destination.as_str());
        unique(&format!("{place}.mounts"), "destination", destinations)?;
        for (at, mount) in container.mounts.iter().enumerate() {
            self.check_mount(&format!("{place}.mounts[{at}]"), mount)?;
        }
        Ok(())
    }

    fn check_mount(&self, place: &str, mount: &Mount) -> Checked {
        let destination = &mount.destination;
        demand(
            is_place(destination) && destination != "/",
            || format!("{place}.destination"),
            not_a_place,
        )?;
        let MountKind::Volume { name, sub_path } = &mount.kind else {
            return Ok(());
        };
        let volume = self.volume(name);
        demand(
            volume.is_some(),
            || format!("{place}.kind.volume.name"),
            || format!("there is no volume {name:?}"),
        )?;
        let read_only = mount.options.contains(&MountOption::ReadOnly);
        demand(
            read_only || !volume.is_some_and(is_directory_of_files),
            || format!("{place}.options"),
            || format!("volume {name:?} has files that the host brings: it needs ro"),
        )?;
        let sub_path = sub_path.as_deref();
        demand(
            sub_path.is_none_or(is_below),
            || format!("{place}.kind.volume.sub_path"),
            || "it leaves the volume".into(),
        )
    }

    /// Every container that another waits for is there, and none waits for itself, however indirectly.
    fn check_order(&self) -> Checked {
        let mut waits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (at, container) in self.containers.iter().enumerate() {
            for before in &container.after {
                let Some(other) = self.container(before) else {
                    let why = format!("there is no container {before:?}");
                    return Err(fault(format!("containers[{at}].after"), why));
                };
                let late = container.kind == Kind::Init && other.kind == Kind::App;
                demand(
                    !late,
                    || format!("containers[{at}].after"),
                    || format!("{before:?} starts after all that are of kind init"),
                )?;
            }
            let after = container.after.iter().map(String::as_str).collect();
            waits.insert(&container.name, after);
        }
        while !waits.is_empty() {
            let before = waits.len();
            let left: HashSet<_> = waits.keys().copied().collect();
            waits.retain(|_, after| after.iter().any(|one| left.contains(one)));
            if waits.len() == before {
                let name = waits.keys().next().copied().unwrap_or_default();
                return Err(fault("containers", format!("{name:?} waits for itself")));
            }
        }
        Ok(())
    }
}

/// Whether a volume is a directory of files that the host brings. A container that may write to one decides
/// where the guest puts them next. One that is a single file has no names in it.
fn is_directory_of_files(volume: &Volume) -> bool {
    matches!(volume.kind, VolumeKind::Files { single: false, .. })
}

fn check_files(place: &str, volume: &Volume) -> Checked {
    let VolumeKind::Files { files, single, .. } = &volume.kind else {
        return Ok(());
    };
    let nameless = |rule: &FileRule| rule.path == Pattern::exact("");
    demand(
        !single || (files.len() == 1 && files.iter().all(nameless)),
        || format!("{place}.kind.files.files"),
        || "a volume that is a single file has one, whose path is empty".into(),
    )?;
    let sound = |rule: &FileRule| match &rule.path {
        _ if *single => true,
        Pattern::Exact(path) => is_below(path),
        Pattern::Prefix(prefix) => !prefix.starts_with('/'),
        Pattern::OneOf(paths) => paths.iter().all(|path| is_below(path)),
        Pattern::Typed(_) => true,
    };
    demand(
        files.iter().all(sound),
        || format!("{place}.kind.files.files"),
        || "a path leaves the volume".into(),
    )?;
    let is_sealed = |rule: &FileRule| match &rule.content {
        Content::Sealed(text) => text.starts_with("sealed."),
        Content::Digest(_) | Content::AtMost(_) => true,
    };
    demand(
        files.iter().all(is_sealed),
        || format!("{place}.kind.files.files"),
        || "a sealed secret does not begin with \"sealed.\"".into(),
    )?;
    demand(
        files.iter().all(|rule| rule.mode <= 0o777),
        || format!("{place}.kind.files.files"),
        || "a mode has bits beyond 0777".into(),
    )
}

fn unique<'a>(list: &str, key: &str, values: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = HashSet::new();
    for (at, value) in values.enumerate() {
        demand(
            seen.insert(value),
            || format!("{list}[{at}].{key}"),
            || "it is there twice".into(),
        )?;
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && !matches!(name, "." | "..")
}

fn not_a_name() -> String {
    format!("a name has 1 to {LONGEST_NAME} of A-Z a-z 0-9 . _ -")
}

/// An absolute path that is written as it is resolved.
fn is_place(path: &str) -> bool {
    path == "/" || path.strip_prefix('/').is_some_and(is_below)
}

fn not_a_place() -> String {
    "it has to be an absolute path without . and .. and empty parts".into()
}

/// A relative path that stays below where it begins.
pub(crate) fn is_below(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
