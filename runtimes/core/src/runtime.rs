//! The four traits. Each method says what the shim relies on; none of them may block the thread for
//! longer than a system call that answers at once.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use crate::stats::Stats;
use crate::{ExitStatus, Result, SandboxConfig, Stdio};

/// One kind of isolation.
#[async_trait]
pub trait Runtime: Debug + Send + Sync {
    /// Makes the place that a pod's containers live in, ready for the first of them. For namespaces
    /// that is nothing yet, or the process that holds them; for a microVM it boots the machine.
    async fn create_sandbox(&self, config: SandboxConfig) -> Result<Arc<dyn Sandbox>>;
}

/// A pod: the unit of isolation.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Makes a container whose init process waits for [`Container::start`]. When this fails nothing
    /// of the container is left.
    async fn create_container(&self, config: ContainerConfig) -> Result<Arc<dyn Container>>;

    /// The process on the host whose end is the sandbox's, and which holds its namespaces as far as the
    /// host has any of them. `None` where the pod's own container, which holds them, is a container like
    /// its others.
    fn pid(&self) -> Option<u32>;

    /// Resolves, with the reason in one sentence, when the sandbox has ended without being asked to,
    /// and its containers with it. Never resolves where only containers can die.
    async fn ended(&self) -> String;

    /// Asks whatever makes the sandbox's containers for an answer.
    ///
    /// # Errors
    /// If there is none: no container can be made.
    async fn ping(&self) -> Result<()>;

    /// What the pod as a whole uses on the host now; `None` where only its containers are measured.
    async fn stats(&self) -> Result<Option<Stats>>;

    /// Ends the sandbox's own process, and every process of its containers that can't be without it. May be
    /// called again.
    async fn stop(&self) -> Result<()>;

    /// Removes what is left of the sandbox, stopping it first if need be. Its containers have been deleted
    /// before. May be called again.
    async fn delete(&self) -> Result<()>;
}

/// A container, from its creation to its deletion.
#[async_trait]
pub trait Container: Send + Sync {
    /// The container's first process.
    fn init(&self) -> Arc<dyn Process>;

    /// Lets the init process run the container's program.
    async fn start(&self) -> Result<()>;

    /// Runs one more process in the container; it runs when this returns.
    async fn exec(&self, config: ExecConfig) -> Result<Arc<dyn Process>>;

    /// Sends `signal` to every process of the container.
    async fn kill_all(&self, signal: i32) -> Result<()>;

    /// Stops every process of the container where it is, until [`Container::resume`].
    async fn pause(&self) -> Result<()>;

    /// Undoes [`Container::pause`].
    async fn resume(&self) -> Result<()>;

    /// Changes the limits that `resources` names; what it doesn't name stays.
    async fn update(&self, resources: &oci::LinuxResources) -> Result<()>;

    /// What the container uses now.
    async fn stats(&self) -> Result<Stats>;

    /// The processes of the container, numbered as by [`Process::pid`]; none if all have ended.
    async fn processes(&self) -> Result<Vec<u32>>;

    /// Whether the container has a pid namespace of its own, so that the end of its init is the end
    /// of all its processes.
    fn owns_its_processes(&self) -> bool;

    /// Resolves when the kernel has killed a process of the container for want of memory since the
    /// last call; never after the container has ended.
    async fn out_of_memory(&self);

    /// Removes what is left of a container whose init has ended. May be called again after a failure.
    async fn delete(&self) -> Result<()>;
}

/// A running or ended process of a container.
#[async_trait]
pub trait Process: Send + Sync {
    /// Its number on the host, by which containerd finds its namespaces. For a process inside a guest,
    /// that of the guest's VMM.
    fn pid(&self) -> u32;

    /// Resolves when the process has ended; at once if it has already. Any number may wait.
    async fn wait(&self) -> ExitStatus;

    /// How it ended, if it has.
    fn exit_status(&self) -> Option<ExitStatus>;

    /// Sends `signal`; [`crate::ErrorKind::NotFound`] if the process has ended.
    async fn kill(&self, signal: i32) -> Result<()>;

    /// Sets the size of its terminal, in characters.
    async fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Lets it see the end of its input.
    async fn close_stdin(&self);

    /// Resolves when all output of the ended process has been handed on. Processes that it left
    /// behind may hold its streams open for as long as they like: the caller limits the wait.
    async fn drain(&self);

    /// Lets go of the streams, whoever still holds the other ends.
    async fn close_stdio(&self);
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns, in characters.
    pub width: u16,
    /// Rows, in characters.
    pub height: u16,
}

/// A filesystem to be mounted, in containerd's words: the arguments of mount(8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The filesystem's type: `overlay`, `bind`, `erofs`…
    pub kind: String,
    /// What is mounted: a device, a directory, or a name of no meaning.
    pub source: String,
    /// Where below the root, if not at the root itself.
    pub target: String,
    /// Options as mount(8) takes them with `-o`.
    pub options: Vec<String>,
}

/// What the handler's configuration in containerd asks of a runtime, as far as Trefoil serves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeOptions {
    /// Cgroups are made through systemd; `cgroupsPath` then reads `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// Change the root by moving a mount: needed where the root is an initramfs.
    pub no_pivot_root: bool,
    /// Leave the container in the session keyring of whoever started containerd.
    pub no_new_keyring: bool,
}

/// A container to be made.
#[derive(Debug)]
pub struct ContainerConfig {
    /// The container's name, as containerd gave it.
    pub id: String,
    /// Its directory, holding `config.json` and `rootfs/`.
    pub bundle: PathBuf,
    /// What `config.json` says.
    pub spec: Arc<oci::Spec>,
    /// What makes up its root filesystem, in the order of mounting. Empty if `rootfs/` is ready.
    pub rootfs: Vec<Mount>,
    /// The init process's streams.
    pub stdio: Stdio,
    /// The handler's options.
    pub options: RuntimeOptions,
}

/// A process to be run in a container.
#[derive(Debug)]
pub struct ExecConfig {
    /// The process's name, unique within the container.
    pub id: String,
    /// What to run, as whom.
    pub process: oci::Process,
    /// Its streams.
    pub stdio: Stdio,
}

/// Annotations by which CRI marks the containers of a pod.
/// Source: containerd, `internal/cri/annotations`.
pub mod annotations {
    /// `sandbox` for the pod itself, `container` for a container in it.
    pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    /// The pod that a container belongs to.
    pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
}

/// The pod that a container with these annotations belongs to, if it says so.
pub fn sandbox_id(annotations: Option<&HashMap<String, String>>) -> Option<&str> {
    annotations?
        .get(annotations::SANDBOX_ID)
        .map(String::as_str)
        .filter(|id| !id.is_empty())
}
