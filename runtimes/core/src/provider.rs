//! What the shim holds of a runtime: all that it asks before there is a pod, and after its server is gone.
//! It holds a list of these, and names no runtime elsewhere.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::{Settings, Table};
use crate::{Isolation, Result, Runtime, SandboxConfig};

/// One isolation, as the shim knows it.
pub trait Provider: Sync {
    /// Which isolation this is.
    fn isolation(&self) -> Isolation;

    /// Why no pod can have this isolation on this node, as it is and as it is configured; `None` if pods can.
    fn unavailable(&self, node: &Settings) -> Option<String>;

    /// What containers of such pods can have: the `features` document of the OCI runtime specification,
    /// by which containerd knows what it may ask for.
    fn features(&self, node: &Settings) -> Value;

    /// Annotations of pods that are for this runtime's guests, in any prefix: each of its pods may have them,
    /// and finds them in [`SandboxConfig::annotations`]. A pod of another runtime is refused with one.
    fn own_annotations(&self) -> &'static [&'static str] {
        &[]
    }

    /// The types of mounts of a root filesystem that such pods make themselves, as containerd (2.2 and
    /// later) names them. `None`: containerd makes them all.
    fn rootfs_mounts(&self) -> Option<&'static str> {
        None
    }

    /// Its table of the node's configuration, if it has one.
    fn table(&self) -> Option<&'static Table> {
        None
    }

    /// Checks what its table says, for the node or for a pod.
    ///
    /// # Errors
    /// A value that is not right.
    fn check(&self, _: &Settings) -> Result<()> {
        Ok(())
    }

    /// Does what must be done for a pod while its server has one thread and no event loop, and nothing need
    /// be known of the pod. What comes of it may be dropped: then the pod has become another runtime's.
    ///
    /// # Errors
    /// If the node lacks something.
    fn prepare(&self) -> Result<Box<dyn Prepared>>;

    /// Does all that a process of the runtime's own does, if this process was started as one: under
    /// this name (`argv[0]`), with this first argument. Its end is then the process's.
    ///
    /// # Safety
    ///
    /// It is called at the beginning of a process, before anything has opened a descriptor.
    unsafe fn serve_as(&self, _name: &OsStr, _action: Option<&OsStr>) -> Option<ExitCode> {
        None
    }

    /// What must be on disk before a pod is made, so that [`Provider::clean_up_sandbox`] can remove what
    /// the pod leaves beside its containers if its server is killed; `None` if that is nothing.
    ///
    /// # Errors
    /// If it can't be written down. Then there must be no such pod.
    fn sandbox_record(&self, _: &SandboxConfig) -> Result<Option<Value>> {
        Ok(None)
    }

    /// Removes what a pod has left beside its containers, by its [`Provider::sandbox_record`], which an
    /// earlier release may have written; what isn't there is no failure. Says what it removed.
    ///
    /// # Errors
    /// What could not be removed. The rest has been.
    fn clean_up_sandbox(&self, _: &Value) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes all that is left of a container, its processes included. Says what it removed.
    ///
    /// # Errors
    /// What could not be removed. The rest has been.
    fn clean_up_container(&self, id: &str, container: &ContainerRecord) -> Result<Vec<String>>;

    /// As [`Provider::clean_up_container`], where nothing but the bundle is known of a container.
    ///
    /// # Errors
    /// What could not be removed. The rest has been.
    fn clean_up_bundle(&self, id: &str, bundle: &Path) -> Result<Vec<String>>;
}

/// A runtime as far as it can be made while the process has one thread and no event loop.
pub trait Prepared: Debug + Send {
    /// The runtime of a pod with these settings. Must be called within the event loop.
    ///
    /// # Errors
    /// If a value of `settings` is not right.
    fn runtime(self: Box<Self>, settings: &Settings, shim: ShimCgroup) -> Result<Arc<dyn Runtime>>;
}

/// Where the shim is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShimCgroup {
    /// In the pod's cgroup, if its runtime has one for the whole pod.
    Pod,
    /// In one that the handler's options name.
    Own,
}

/// What must be known of a container to remove it, on disk before there is anything to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its bundle. containerd may remove it before it asks for a cleaning.
    pub bundle: PathBuf,
    /// Its cgroup, as its configuration names it.
    pub cgroups_path: Option<PathBuf>,
    /// Whether its handler has cgroups made by systemd.
    pub systemd_cgroup: bool,
    /// Its init process, once there is one.
    pub pid: Option<u32>,
}
