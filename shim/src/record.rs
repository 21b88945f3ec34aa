//! What a pod's cleaner needs to know when its server is gone: one small file in the pod's bundle.
//!
//! It is written, whole and atomically, before the thing it tells of exists, and it goes away with
//! the bundle, which containerd removes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use trefoil_core::{ContainerRecord, Context, Isolation, Result, record};
use trefoil_os::lock;

use crate::socket::is_served;

const FILE: &str = "trefoil.json";

/// The version of the file that this build writes, and the newest that it understands. Before there were
/// versions it was 1.
const VERSION: u32 = 2;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    #[serde(default = "record::first")]
    version: u32,
    /// Where the pod's server listens.
    pub address: String,
    /// What the pod's runtime must know to clean up after it, by its isolation: one entry, or none where
    /// there is nothing beside the containers of a namespace pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sandbox: BTreeMap<Isolation, Value>,
    /// The pod's containers that have been asked for and not yet deleted.
    pub containers: BTreeMap<String, ContainerRecord>,
}

impl Contents {
    /// The isolation of the pod.
    pub fn isolation(&self) -> Isolation {
        let noted = self.sandbox.keys().next().copied();
        noted.unwrap_or(Isolation::Namespace)
    }
}

/// The file of a living pod.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    contents: Mutex<Contents>,
}

impl Record {
    /// Begins the record of `pod`, whose first container has this bundle.
    pub fn new(bundle: PathBuf, pod: &str, address: &str) -> Result<Self> {
        // Where an older containerd starts the server for a later container of the pod, the pod's own
        // bundle lies beside that container's.
        let of_pod = bundle.with_file_name(pod);
        // It is another server's if ctr has put containers of two handlers under one name.
        let taken = read(&of_pod)?
            .is_some_and(|of_pod| of_pod.address != address && is_served(&of_pod.address));
        let directory = match of_pod.is_dir() && !taken {
            true => of_pod,
            false => bundle,
        };
        let record = Self {
            path: directory.join(FILE),
            contents: Mutex::new(Contents {
                version: VERSION,
                address: address.to_owned(),
                ..Default::default()
            }),
        };
        record.change(|_| ())?;
        Ok(record)
    }

    /// Notes how to clean up after a sandbox that is about to be made, or that one has left nothing.
    pub fn sandbox(&self, sandbox: Option<(Isolation, Value)>) -> Result<()> {
        let sandbox = BTreeMap::from_iter(sandbox);
        if lock(&self.contents).sandbox == sandbox {
            return Ok(());
        }
        self.change(|contents| contents.sandbox = sandbox)
    }

    /// Notes a container that is about to be made.
    pub fn begin(&self, id: &str, container: ContainerRecord) -> Result<()> {
        self.change(|contents| {
            contents.containers.insert(id.to_owned(), container);
        })
    }

    /// Notes a container's init process.
    pub fn created(&self, id: &str, pid: u32) -> Result<()> {
        self.change(|contents| {
            if let Some(container) = contents.containers.get_mut(id) {
                container.pid = Some(pid);
            }
        })
    }

    /// Forgets a container of which nothing is left.
    pub fn end(&self, id: &str) -> Result<()> {
        self.change(|contents| {
            contents.containers.remove(id);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) -> Result<()> {
        let mut contents = lock(&self.contents);
        change(&mut contents);
        write(&self.path, &contents)
    }
}

fn write(path: &Path, contents: &Contents) -> Result<()> {
    let doing = || format!("write the pod's record {}", path.display());
    let text = serde_json::to_vec(contents).context(doing)?;
    let temporary = path.with_extension("json.new");
    match std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)) {
        // The bundle of the pod's first container may be gone before the pod's last container.
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.context(doing),
    }
}

/// Reads the record in a pod's bundle; `None` if there is none.
///
/// # Errors
/// If it can't be read, or is a later release's: what that has left, this one can't clear away.
pub fn read(bundle: &Path) -> Result<Option<Contents>> {
    record::read(&bundle.join(FILE), VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_noted_and_an_older_record_has_none() {
        let older = r#"{"address": "unix:///s", "containers": {}}"#;
        let older: Contents = serde_json::from_str(older).expect("read");
        assert_eq!(older.address, "unix:///s");
        assert_eq!(
            (older.version, older.isolation()),
            (1, Isolation::Namespace)
        );

        let text =
            r#"{"version":2,"address":"","sandbox":{"microvm":{"pod":"pod"}},"containers":{}}"#;
        let contents: Contents = serde_json::from_str(text).expect("read");
        assert_eq!(contents.isolation(), Isolation::MicroVm);
        assert_eq!(serde_json::to_string(&contents).expect("write"), text);
    }

    #[test]
    fn a_record_reads_back_and_outlives_its_bundle() {
        let bundle = std::env::temp_dir().join(format!("record-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("bundle");
        let record = Record {
            path: bundle.join(FILE),
            contents: Mutex::default(),
        };
        let container = |bundle: &str| ContainerRecord {
            bundle: bundle.into(),
            ..Default::default()
        };
        record.begin("a", container("/b/a")).expect("begin");
        record.begin("b", container("/b/b")).expect("begin");
        record.created("a", 42).expect("created");
        record.end("b").expect("end");
        let contents = read(&bundle).expect("read").expect("there");
        assert_eq!(contents.containers.len(), 1);
        assert_eq!(contents.containers["a"].pid, Some(42));
        assert_eq!(contents.containers["a"].bundle, Path::new("/b/a"));
        std::fs::remove_dir_all(&bundle).expect("remove");
        record.end("a").expect("no bundle is no error");
        assert_eq!(read(&bundle), Ok(None));
    }

    #[test]
    fn a_record_that_cant_be_understood_is_an_error() {
        let bundle = std::env::temp_dir().join(format!("record-newer-{}", std::process::id()));
        std::fs::create_dir_all(&bundle).expect("bundle");
        for (text, expected) in [
            (r#"{"version": 3, "pods": []}"#, "version 3"),
            ("{", FILE),
            ("", FILE),
        ] {
            std::fs::write(bundle.join(FILE), text).expect("write");
            let why = read(&bundle).expect_err("not understood").to_string();
            assert!(why.contains(expected), "{why}");
        }
        std::fs::remove_dir_all(&bundle).expect("remove");
    }
}
