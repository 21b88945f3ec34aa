//! The namespace runtime, as the shim holds it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;
use trefoil_core::settings::Settings;
use trefoil_core::{
    ContainerRecord, Context, Isolation, Prepared, Provider, Result, Runtime, ShimCgroup,
};

use crate::launcher::{HELPER_ACTION, Launcher, run_as_helper};
use crate::runtime::Runc;
use crate::{features, state};

/// The provider of namespace pods.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces;

impl Provider for Namespaces {
    fn isolation(&self) -> Isolation {
        Isolation::Namespace
    }

    fn unavailable(&self) -> Option<String> {
        None
    }

    fn features(&self) -> Value {
        features()
    }

    /// Forks the helper, while this process is still small and has one thread.
    fn prepare(&self, _: &Settings, _: ShimCgroup) -> Result<Box<dyn Prepared>> {
        let launcher = Launcher::spawn().context(|| "start the helper process")?;
        Ok(Box::new(launcher))
    }

    unsafe fn serve_as(&self, _: &OsStr, action: Option<&OsStr>) -> Option<ExitCode> {
        match action {
            Some(action) if action == HELPER_ACTION => run_as_helper(),
            _ => None,
        }
    }

    fn clean_up_container(&self, id: &str, container: &ContainerRecord) -> Result<Vec<String>> {
        state::clean_up(
            id,
            &container.bundle,
            container.cgroups_path.as_deref(),
            container.systemd_cgroup,
        )
    }

    fn clean_up_bundle(&self, id: &str, bundle: &Path) -> Result<Vec<String>> {
        state::clean_up_unknown(id, bundle)
    }
}

impl Prepared for Launcher {
    fn runtime(self: Box<Self>) -> Arc<dyn Runtime> {
        Arc::new(Runc::new(*self))
    }
}
