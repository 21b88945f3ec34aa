//! What a configuration may ask for at paths that nobody thought of.

use std::path::{Component, Path};

use serde_json::{Value, json};

use crate::case::Choose;
use crate::shape::Sources;
use crate::site;

/// The most components of a path.
const MOST_COMPONENTS: usize = 4;

/// What is asked for at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Tmpfs,
    Directory,
    File,
    Masked,
    ReadOnly,
}

/// Something at a path.
#[derive(Clone, Debug)]
pub struct Extra {
    pub path: String,
    pub what: What,
}

impl Extra {
    /// Anything at any path, but for the root itself, which would hide the program.
    pub fn any(choices: &mut dyn Choose) -> Self {
        const ALL: [What; 5] = [
            What::Tmpfs,
            What::Directory,
            What::File,
            What::Masked,
            What::ReadOnly,
        ];
        let what = ALL[choices.below(ALL.len())];
        let mut path = any_path(choices);
        if is_root(&path) {
            path.push_str("/inside");
        }
        Self { path, what }
    }

    /// Adds it to a configuration.
    pub fn add(&self, spec: &mut Value, sources: &Sources<'_>) {
        let path = &self.path;
        let bind = |source: &Path| {
            json!({"destination": path, "type": "bind", "source": source,
                "options": ["rbind", "rprivate"]})
        };
        let (list, value) = match self.what {
            What::Tmpfs => {
                let tmpfs = json!({"destination": path, "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "mode=755"]});
                (&mut spec["mounts"], tmpfs)
            }
            What::Directory => (&mut spec["mounts"], bind(sources.volume)),
            What::File => (&mut spec["mounts"], bind(sources.file)),
            What::Masked => (&mut spec["linux"]["maskedPaths"], json!(path)),
            What::ReadOnly => (&mut spec["linux"]["readonlyPaths"], json!(path)),
        };
        list.as_array_mut().unwrap().push(value);
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
