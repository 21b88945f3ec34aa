//! Intel Resource Director Technology (`linux.intelRdt`): shares of caches and of memory
//! bandwidth, by libcontainer.

use std::path::PathBuf;

use libcontainer::process::intel_rdt;
use nix_of_libcgroups::unistd::Pid;
use oci_spec::runtime::{LinuxIntelRdt, Spec};
use serde::{Deserialize, Serialize};

use super::error::Failure;

fn asked(spec: &Spec) -> Option<&LinuxIntelRdt> {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.intel_rdt().as_ref())
}

/// Refuses what the machine lacks, and names that lead elsewhere. To be called on the host.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let Some(asked) = asked(spec) else {
        return Ok(());
    };
    if let Some(id) = asked.clos_id() {
        // "/" alone is the root group.
        if matches!(id.as_str(), "" | "." | "..") || (id.len() > 1 && id.contains('/')) {
            return Err(Failure::new(format!("invalid intelRdt.closID {id:?}")));
        }
    }
    let schemas = [asked.l3_cache_schema(), asked.mem_bw_schema()]
        .into_iter()
        .flatten();
    for line in asked.schemata().iter().flatten().chain(schemas) {
        if line.contains(['\n', '\0']) {
            return Err(Failure::new(format!(
                "{line:?} is not one line of intelRdt schemata"
            )));
        }
    }
    intel_rdt::find_resctrl_mount_point()
        .map(drop)
        .map_err(|_| {
            Failure::new(
                "intelRdt is specified in config, but Intel RDT is not enabled: \
             no resctrl filesystem is mounted",
            )
        })
}

/// Directories that were made for a container, to be removed with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Its own class of service.
    pub class: Option<PathBuf>,
    /// Its monitoring group.
    pub monitoring: Option<PathBuf>,
}

/// Puts a container's init into its class. To be called on the host when the init exists and
/// has not started its program; `pid` is its id on the host.
pub(crate) fn apply(spec: &Spec, container: &str, pid: i32) -> Result<Made, Failure> {
    let Some(asked) = asked(spec) else {
        return Ok(Made::default());
    };
    intel_rdt::setup_intel_rdt(Some(container), &Pid::from_raw(pid), asked)
        .map(|(class, monitoring)| Made { class, monitoring })
        .map_err(|error| Failure::new(format!("cannot set up intelRdt: {error}")))
}

/// Removes what [`apply`] made. To be called when the container's processes are gone.
pub(crate) fn remove(made: &Made, container: &str) -> Result<(), Failure> {
    let (class, monitoring) = (made.class.as_deref(), made.monitoring.as_deref());
    intel_rdt::cleanup_intel_rdt(class, monitoring, None, container)
        .map_err(|error| Failure::new(format!("cannot remove intelRdt groups: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(rdt: serde_json::Value) -> String {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["intelRdt"] = rdt;
        let spec = serde_json::from_value(spec).unwrap();
        check(&spec).unwrap_err().to_string()
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for id in ["..", "../x", "a/b", ""] {
            assert!(why(serde_json::json!({"closID": id})).contains("invalid intelRdt.closID"));
        }
        let two = serde_json::json!({"schemata": ["L3:0=f\nMB:0=1"]});
        assert!(why(two).contains("not one line"));
    }

    #[test]
    fn a_machine_without_it_refuses() {
        if intel_rdt::find_resctrl_mount_point().is_err() {
            assert!(why(serde_json::json!({"closID": "x"})).contains("Intel RDT is not enabled"));
        }
        check(&Spec::default()).unwrap();
        let made = Made {
            class: Some("/sys/fs/resctrl/no-such".into()),
            monitoring: None,
        };
        remove(&made, "c").unwrap();
    }
}
