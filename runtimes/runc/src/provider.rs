//! The namespace runtime, as the shim holds it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;
use trefoil_core::settings::Settings;
use trefoil_core::{
    ContainerRecord, Context, Error, Isolation, Prepared, Provider, Result, Runtime, SandboxConfig,
    ShimCgroup,
};

use crate::launcher::{HELPER_ACTION, Launcher, run_as_helper};
use crate::runtime::Runc;
use crate::{features, holder, state};

/// The provider of namespace pods.
#[derive(Clone, Copy, Debug)]
pub struct Namespaces;

impl Provider for Namespaces {
    fn isolation(&self) -> Isolation {
        Isolation::Namespace
    }

    fn unavailable(&self, _: &Settings) -> Option<String> {
        None
    }

    fn features(&self, _: &Settings) -> Value {
        features()
    }

    /// Forks the helper, while this process is still small and has one thread.
    fn prepare(&self) -> Result<Box<dyn Prepared>> {
        let launcher = Launcher::spawn().context(|| "start the helper process")?;
        Ok(Box::new(Ready(Some(launcher))))
    }

    unsafe fn serve_as(&self, _: &OsStr, action: Option<&OsStr>) -> Option<ExitCode> {
        match action {
            Some(action) if action == HELPER_ACTION => run_as_helper(),
            _ => None,
        }
    }

    fn sandbox_record(&self, config: &SandboxConfig) -> Result<Option<Value>> {
        holder::Record::of(config)
            .map(serde_json::to_value)
            .transpose()
            .context(|| "write down what cleaning up after the pod takes")
    }

    fn clean_up_sandbox(&self, record: &Value) -> Result<Vec<String>> {
        let record: holder::Record = serde_json::from_value(record.clone())
            .context(|| "read what the record says of the pod's holder")?;
        record.clean_up()
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

/// The runtime, with its helper; without, once it is in use.
#[derive(Debug)]
struct Ready(Option<Launcher>);

impl Prepared for Ready {
    fn runtime(mut self: Box<Self>, _: &Settings, _: ShimCgroup) -> Result<Arc<dyn Runtime>> {
        let launcher = self.0.take();
        let launcher = launcher.ok_or_else(|| Error::internal("the helper is in use"))?;
        Ok(Arc::new(Runc::new(launcher)))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(launcher) = self.0.take() {
            launcher.end();
        }
    }
}
