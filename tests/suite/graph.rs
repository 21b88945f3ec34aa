//! Which crate of ours may use which: the arrows run one way.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use trefoil_guest::run;

/// Which folder's crates may use which others' besides their own.
const MAY_USE: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("runtimes/core", &["lib"]),
    ("runtimes/runc", &["lib", "runtimes/core"]),
    (
        "runtimes/sandbox-vmm",
        &["agent/protocol", "lib", "runtimes/core"],
    ),
    // The machine knows nothing of containers, and the file server nothing of the machine.
    ("runtimes/sandbox-vmm/files", &["lib", "runtimes/core"]),
    ("runtimes/sandbox-vmm/vmm", &["lib"]),
    (
        "runtimes/confidential",
        &[
            "agent/protocol",
            "lib",
            "runtimes/core",
            "runtimes/sandbox-vmm",
        ],
    ),
    (
        "shim",
        &[
            "lib",
            "runtimes/confidential",
            "runtimes/core",
            "runtimes/runc",
            "runtimes/sandbox-vmm",
        ],
    ),
    ("agent/protocol", &["runtimes/core"]),
    (
        "agent",
        &["agent/protocol", "lib", "runtimes/core", "runtimes/runc"],
    ),
    ("guest", &[]),
    ("tests", &["agent", "guest", "lib", "runtimes", "shim"]),
];

/// A crate of ours, and those of ours that it is built from.
#[derive(Debug)]
pub struct Package {
    name: String,
    /// From the repository's root.
    folder: String,
    uses: Vec<String>,
}

/// Our crates, as cargo knows them.
///
/// # Errors
/// If cargo can't be asked.
pub fn packages() -> Result<Vec<Package>> {
    let told = run::cargo()
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("starting cargo")?;
    ensure!(
        told.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    let told: Value = serde_json::from_slice(&told.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let root = text(&told["workspace_root"]);
    let all = told["packages"].as_array().context("no packages")?;
    Ok(all
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let folder = Path::new(&manifest).parent().unwrap_or(Path::new(""));
            let folder = folder.strip_prefix(&root).unwrap_or(folder);
            let uses = package["dependencies"].as_array();
            Package {
                name: text(&package["name"]),
                folder: folder.display().to_string(),
                // Tests may use whatever helps.
                uses: uses
                    .into_iter()
                    .flatten()
                    .filter(|one| one["path"].is_string() && one["kind"] != "dev")
                    .map(|one| text(&one["name"]))
                    .collect(),
            }
        })
        .collect())
}

/// The arrows, a line for each crate.
pub fn show(packages: &[Package]) -> String {
    let lines = packages.iter().map(|package| {
        format!(
            "{} ({}) -> {}\n",
            package.name,
            package.folder,
            package.uses.join(", ")
        )
    });
    lines.collect()
}

/// Whether a folder is, or is below, another.
fn is_in(folder: &str, other: &str) -> bool {
    folder
        .strip_prefix(other)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is wrong with the arrows.
pub fn faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        // The rule for the nearest folder.
        let rule = MAY_USE
            .iter()
            .filter(|(folder, _)| is_in(&package.folder, folder))
            .max_by_key(|(folder, _)| folder.len());
        let Some((own, others)) = rule else {
            faults.push(format!("{} is in no folder with a rule", package.folder));
            continue;
        };
        let forbidden = package
            .uses
            .iter()
            .filter_map(|used| packages.iter().find(|other| other.name == *used))
            .filter(|used| {
                !is_in(&used.folder, own) && !others.iter().any(|other| is_in(&used.folder, other))
            });
        faults.extend(forbidden.map(|used| format!("{} uses {}", package.name, used.name)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_run_one_way() {
        let packages = packages().expect("cargo's answer");
        assert!(packages.len() > 10, "{packages:?}");
        assert_eq!(faults(&packages), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found() {
        let package = |name: &str, folder: &str, uses: &[&str]| Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
        };
        let found = faults(&[
            package("a", "runtimes/core", &["b"]),
            package("b", "runtimes/runc", &["a", "serde"]),
            package("c", "elsewhere", &[]),
        ]);
        assert_eq!(found, ["a uses b", "elsewhere is in no folder with a rule"]);
    }
}
