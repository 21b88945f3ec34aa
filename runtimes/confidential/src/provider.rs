//! The runtime of confidential pods, as the shim holds it.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use trefoil_core::settings::{self, Table};
use trefoil_core::{
    ContainerRecord, Error, Isolation, Prepared, Provider, Result, Runtime, SandboxConfig,
    ShimCgroup,
};
use trefoil_sandbox_vmm::MicroVms;

use crate::runtime::{ANNOTATIONS, ConfidentialVm};
use crate::settings::{Own, TABLE, tee};

/// The provider of confidential pods: machines of another provider's, launched otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Confidential {
    /// What is the same of all machines.
    pub machines: MicroVms,
}

/// Where the kernel's modules are, with their parameters.
const MODULES: &str = "/sys/module";

/// Parameters of KVM's that say whether it can launch protected guests. Launching is not there yet.
const TEES: [(&str, &str); 2] = [
    ("kvm_amd/parameters/sev_snp", "SEV-SNP"),
    ("kvm_intel/parameters/tdx", "TDX"),
];

impl Provider for Confidential {
    fn isolation(&self) -> Isolation {
        Isolation::Confidential
    }

    fn unavailable(&self, node: &settings::Settings) -> Option<String> {
        match tee(node) {
            Ok(Some(_)) => self.machines.unavailable(node),
            Ok(None) => Some(lacking(Path::new(MODULES))),
            Err(why) => Some(why.to_string()),
        }
    }

    fn features(&self, node: &settings::Settings) -> Value {
        let mut features = self.machines.features(node);
        if let Ok(Some(tee)) = tee(node) {
            let said = tee.warning().unwrap_or_else(|| tee.name());
            features["annotations"]["dev.trefoil.tee"] = json!(said);
        }
        features
    }

    fn own_annotations(&self) -> &'static [&'static str] {
        &ANNOTATIONS
    }

    fn rootfs_mounts(&self) -> Option<&'static str> {
        self.machines.rootfs_mounts()
    }

    fn table(&self) -> Option<&'static Table> {
        Some(&TABLE)
    }

    fn check(&self, table: &settings::Settings) -> Result<()> {
        tee(table)?;
        let own = Own::read(table)?;
        crate::runtime::sizes(&own, table).map(drop)
    }

    fn prepare(&self) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(Ready))
    }

    unsafe fn serve_as(&self, name: &OsStr, action: Option<&OsStr>) -> Option<ExitCode> {
        // SAFETY: by our own contract, which is the same.
        unsafe { self.machines.serve_as(name, action) }
    }

    fn sandbox_record(&self, config: &SandboxConfig) -> Result<Option<Value>> {
        self.machines.sandbox_record(config)
    }

    fn clean_up_sandbox(&self, record: &Value) -> Result<Vec<String>> {
        self.machines.clean_up_sandbox(record)
    }

    fn clean_up_container(&self, id: &str, container: &ContainerRecord) -> Result<Vec<String>> {
        self.machines.clean_up_container(id, container)
    }

    fn clean_up_bundle(&self, id: &str, bundle: &Path) -> Result<Vec<String>> {
        self.machines.clean_up_bundle(id, bundle)
    }
}

/// Why a node that is told of no TEE can't have such pods.
fn lacking(modules: &Path) -> String {
    // Where KVM could and does not, the parameter is there and says so.
    let is_on = |parameter: &str| {
        let said = fs::read_to_string(modules.join(parameter));
        said.is_ok_and(|said| matches!(said.trim_end(), "Y" | "1"))
    };
    let found = TEES.iter().find(|(parameter, _)| is_on(parameter));
    match found {
        Some((_, name)) => format!("this build can't launch guests under {name} yet"),
        None => "this node has no TEE (neither SEV-SNP nor TDX), and its configuration does not name the \
                 simulated one (tee in [confidential])"
            .to_owned(),
    }
}

/// The runtime, for which nothing is prepared.
#[derive(Debug)]
struct Ready;

impl Prepared for Ready {
    fn runtime(
        self: Box<Self>,
        table: &settings::Settings,
        shim: ShimCgroup,
    ) -> Result<Arc<dyn Runtime>> {
        let tee = tee(table)?.ok_or_else(|| Error::precondition(lacking(Path::new(MODULES))))?;
        Ok(Arc::new(ConfidentialVm::new(
            tee,
            table,
            shim == ShimCgroup::Pod,
        )?))
    }
}

#[cfg(test)]
mod tests {
    use trefoil_core::settings::Value as Set;

    use super::*;

    const PROVIDER: Confidential = Confidential {
        machines: MicroVms {
            containers: || json!({}),
        },
    };

    fn table(key: &'static str, value: Set) -> settings::Settings {
        let mut table = settings::Settings::new("/share".into());
        table.set(key, value, format!("a.toml:1: {key}"));
        table
    }

    #[test]
    fn without_a_tee_it_says_what_is_missing() {
        let none = settings::Settings::new("/share".into());
        let why = PROVIDER.unavailable(&none).expect("none is named");
        assert_eq!(why, lacking(Path::new(MODULES)));
        let wrong = table("tee", Set::Text("sgx".into()));
        let why = PROVIDER.check(&wrong).expect_err("there is no such TEE");
        assert_eq!(
            why.to_string(),
            "a.toml:1: tee is \"sgx\"; it must be \"simulated\""
        );
    }

    #[test]
    fn a_tee_is_told_by_what_kvm_says_of_it() {
        let modules = tempfile::tempdir().expect("a directory");
        let none = lacking(modules.path());
        assert!(none.contains("this node has no TEE"), "{none}");
        for (parameter, name) in TEES {
            let file = modules.path().join(parameter);
            fs::create_dir_all(file.parent().expect("a directory")).expect("made");
            for (said, is_on) in [("N\n", false), ("0\n", false), ("", false)]
                .into_iter()
                .chain([("Y\n", true), ("1\n", true)])
            {
                fs::write(&file, said).expect("written");
                let why = lacking(modules.path());
                assert_eq!(why.contains(&format!("under {name}")), is_on, "{said:?}");
                assert_eq!(why == none, !is_on, "{said:?}");
            }
            fs::remove_file(&file).expect("removed");
        }
    }

    #[test]
    fn what_is_simulated_says_so() {
        let simulated = table("tee", Set::Text("simulated".into()));
        let features = PROVIDER.features(&simulated);
        assert_eq!(features["annotations"]["dev.trefoil.tee"], "SIMULATED");
    }

    #[test]
    fn a_pod_has_a_scratch_disk_unless_the_node_says_otherwise() {
        let size = |table: &settings::Settings| {
            let own = Own::read(table).expect("a table");
            own.scratch.map(|scratch| scratch.size)
        };
        assert_eq!(
            size(&settings::Settings::new("/share".into())),
            Some(8 << 30)
        );
        assert_eq!(size(&table("scratch-gib", Set::Number(3))), Some(3 << 30));
        assert_eq!(size(&table("scratch-gib", Set::Number(0))), None);
    }

    #[test]
    fn every_key_of_the_table_is_read() {
        for key in TABLE.keys {
            let wrong = match key.kind {
                settings::Kind::Text => Set::Text("relative".into()),
                settings::Kind::Number => Set::Number(u64::MAX),
            };
            let why = PROVIDER.check(&table(key.name, wrong)).expect_err(key.name);
            assert!(why.to_string().contains(key.name), "{why}");
        }
    }
}
