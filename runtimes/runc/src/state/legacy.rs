//! What libcontainer has left of a container that a release before 0.2 made: its state in
//! `<bundle>/trefoil/<id>/state.json`, the configuration it read in `<bundle>/trefoil/config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use trefoil_core::{Context, Result};

use super::Record;

/// As much of libcontainer's state as tells who made the cgroup.
#[derive(Default, Deserialize)]
struct Libcontainers {
    #[serde(default)]
    use_systemd: bool,
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

/// The record of such a container; `None` if the directory isn't there.
pub(super) fn read(directory: &Path, id: &str) -> Result<Option<Record>> {
    if !directory.exists() {
        return Ok(None);
    }
    let of_bundle = directory.with_file_name("config.json");
    let own = directory.join("config.json");
    let path = if own.exists() { own } else { of_bundle };
    let config: Config = read_if_there(&path)?;
    let state: Libcontainers = read_if_there(&directory.join(id).join("state.json"))?;
    Ok(Some(Record::new(
        config.linux.and_then(|linux| linux.cgroups_path),
        state.use_systemd,
        directory.join("rootfs-is-mounted").exists(),
    )))
}

fn read_if_there<T: Default + for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let doing = || format!("read {}", path.display());
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).context(doing),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(why) => Err(why).context(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bundle;
    use super::super::{State, clean_up_unknown};
    use super::*;

    #[test]
    fn what_libcontainer_left_is_removed() {
        let bundle = bundle("legacy");
        let directory = bundle.join("trefoil");
        fs::create_dir_all(directory.join("c")).expect("directory");
        fs::create_dir(bundle.join("rootfs")).expect("root");
        fs::write(directory.join("rootfs-is-mounted"), "").expect("mark");
        let config = r#"{"ociVersion":"1.2.0","linux":{"cgroupsPath":"/trefoil-legacy"}}"#;
        fs::write(directory.join("config.json"), config).expect("config");
        let state = r#"{"id":"c","status":"running","use_systemd":false,"pid":1}"#;
        fs::write(directory.join("c/state.json"), state).expect("state");
        let record = State::of(&bundle).read("c").expect("read").expect("there");
        assert_eq!(
            record.cgroups_path.as_deref(),
            Some(Path::new("/trefoil-legacy"))
        );
        assert!(record.root_is_mounted && !record.systemd_cgroup);
        let removed = clean_up_unknown("c", &bundle).expect("clean");
        let left = directory.exists();
        fs::remove_dir_all(&bundle).expect("remove");
        assert_eq!(removed, ["its state of container c"]);
        assert!(!left);
    }

    #[test]
    fn a_directory_without_anything_is_removed() {
        let bundle = bundle("empty");
        fs::create_dir(bundle.join("trefoil")).expect("directory");
        let removed = clean_up_unknown("c", &bundle).expect("clean");
        fs::remove_dir_all(&bundle).expect("remove");
        assert_eq!(removed, ["its state of container c"]);
    }
}
