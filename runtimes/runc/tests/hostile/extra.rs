//! What a configuration may ask for at paths that nobody thought of.

use std::path::{Component, Path};

use serde_json::{Value, json};

use crate::case::Choose;
use crate::shape::Sources;
use crate::site;

/// The most components of a path.
const MOST_COMPONENTS: usize = 4;

/// The most options of a mount beyond those that its kind has.
const MOST_OPTIONS: usize = 2;

/// Options of all kinds of mounts: attributes, propagation, filesystems' own.
const OPTIONS: [&str; 20] = [
    "ro",
    "rro",
    "rw",
    "nosuid",
    "nodev",
    "noexec",
    "nosymfollow",
    "noatime",
    "rnoatime",
    "sync",
    "rprivate",
    "rslave",
    "rshared",
    "runbindable",
    "mode=700",
    "size=64k",
    "nr_inodes=4",
    "tmpcopyup",
    "remount",
    "bind",
];

/// What is asked for at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Tmpfs,
    CopiedUp,
    Directory,
    File,
    Proc,
    Sysfs,
    Queues,
    Terminals,
    Cgroups,
    Device,
    Fifo,
    Masked,
    ReadOnly,
    Cwd,
}

/// Something at a path.
#[derive(Clone, Debug)]
pub struct Extra {
    pub path: String,
    pub what: What,
    /// For a mount.
    pub options: Vec<&'static str>,
}

impl Extra {
    /// Anything at any path, but for the root itself, which would hide the program.
    pub fn any(choices: &mut dyn Choose) -> Self {
        const ALL: [What; 14] = [
            What::Tmpfs,
            What::Directory,
            What::File,
            What::Masked,
            What::ReadOnly,
            What::CopiedUp,
            What::Proc,
            What::Sysfs,
            What::Queues,
            What::Terminals,
            What::Cgroups,
            What::Device,
            What::Fifo,
            What::Cwd,
        ];
        let what = ALL[choices.below(ALL.len())];
        let mut path = any_path(choices);
        if is_root(&path) {
            path.push_str("/inside");
        }
        let options = (0..choices.below(MOST_OPTIONS + 1))
            .map(|_| OPTIONS[choices.below(OPTIONS.len())])
            .collect();
        Self {
            path,
            what,
            options,
        }
    }

    /// Adds it to a configuration.
    pub fn add(&self, spec: &mut Value, sources: &Sources<'_>) {
        let path = &self.path;
        let (volume, file) = (sources.volume.display(), sources.file.display());
        let bound = ["rbind", "rprivate"];
        let (list, value) = match self.what {
            What::Tmpfs => self.mount("tmpfs", "tmpfs", &["nosuid", "mode=755"]),
            What::CopiedUp => self.mount("tmpfs", "tmpfs", &["nosuid", "tmpcopyup"]),
            What::Directory => self.mount("bind", &volume.to_string(), &bound),
            What::File => self.mount("bind", &file.to_string(), &bound),
            What::Proc => self.mount("proc", "proc", &[]),
            What::Sysfs => self.mount("sysfs", "sysfs", &[]),
            What::Queues => self.mount("mqueue", "mqueue", &[]),
            What::Terminals => self.mount("devpts", "devpts", &["newinstance"]),
            What::Cgroups => self.mount("cgroup", "cgroup", &[]),
            What::Device => (
                "/linux/devices",
                json!({"path": path, "type": "c", "major": 1, "minor": 3, "fileMode": 0o666}),
            ),
            What::Fifo => ("/linux/devices", json!({"path": path, "type": "p"})),
            What::Masked => ("/linux/maskedPaths", json!(path)),
            What::ReadOnly => ("/linux/readonlyPaths", json!(path)),
            What::Cwd => {
                spec["process"]["cwd"] = json!(path);
                return;
            }
        };
        let list = spec.pointer_mut(list).unwrap();
        list.as_array_mut().unwrap().push(value);
    }

    fn mount(&self, kind: &str, source: &str, options: &[&str]) -> (&'static str, Value) {
        let options = [options, &self.options].concat();
        let mount = json!({"destination": self.path, "type": kind, "source": source,
            "options": options});
        ("/mounts", mount)
    }
}

/// Names that are known and odd ones, and steps up.
fn any_path(choices: &mut dyn Choose) -> String {
    let longest = "n".repeat(255);
    let odd = ["..", ".", "", "..", "...", " ", "\u{e9}", "a\nb", &longest];
    let names = site::names();
    let mut path = String::new();
    for _ in 0..1 + choices.below(MOST_COMPONENTS) {
        let number = choices.below(odd.len() + names.len());
        path.push('/');
        path.push_str(
            odd.get(number)
                .unwrap_or_else(|| &names[number - odd.len()]),
        );
    }
    path
}

fn is_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for component in Path::new(path).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth == 0
}
