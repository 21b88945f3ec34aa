//! The container side of the agent: a process of its own that makes the pod's containers when the host
//! asks for them, by the very code that makes them on a host.
//!
//! It is not PID 1 but its child ([`crate::init`]), forked when the host asks to be served. So its own
//! children are the containers' processes and nothing else, as the runtime below expects; whoever is
//! left behind becomes PID 1's.
//!
//! Start reading at [`run`], then [`service`].

mod configuration;
mod connection;
mod containers;
mod forward;
mod limits;
mod logger;
mod names;
mod pids;
mod service;
mod set_up;
mod streams;
mod sysctls;
mod vsock;

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::{SigHandler, Signal, signal};
use oci_spec::runtime::Spec;
use tokio::sync::Notify;
use trefoil_agent_protocol::service::create_agent;
use trefoil_core::{Context, Result, Runtime, SandboxConfig};
use trefoil_runc::{Launcher, Runc};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use connection::Connection;
use service::Pod;
use streams::Streams;

/// Where what the host shares is mounted.
const SHARE: &str = "/run/trefoil/share";

/// The OOM score of this process: without it the guest is of no use, so all others go first.
const SPARED: &str = "-1000";

/// Serves the host on its connection, of which `received` has been read already, until it has no more use
/// for the guest.
///
/// # Errors
/// Why it can't be served.
pub(crate) fn run(host: OwnedFd, received: Vec<u8>) -> Result<()> {
    logger::init();
    // What PID 1 needs no care for: here a connection that is gone is an error to be seen.
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.context(|| "ignore SIGPIPE")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(SHARE)
        .context(|| format!("make {SHARE}"))?;
    // The helper is a fork of this process while it is still small and single-threaded, and before it is
    // spared: what the helper makes is not to be.
    limits::set_for_containers()?;
    let launcher = Launcher::spawn().context(|| "start the helper process")?;
    limits::set_for_ourselves()?;
    std::fs::write("/proc/self/oom_score_adj", SPARED).context(|| "spare the agent")?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(serve(host, received, launcher))
}

async fn serve(host: OwnedFd, received: Vec<u8>, launcher: Launcher) -> Result<()> {
    let streams = Streams::default();
    streams.serve()?;
    forward::serve()?;
    let runtime = Runc::new(launcher).relaying_output();
    let sandbox = runtime
        .create_sandbox(SandboxConfig {
            id: String::new(),
            namespace: String::new(),
            bundle: PathBuf::new(),
            spec: Arc::new(Spec::default()),
        })
        .await?;
    let power_off = Arc::new(Notify::new());
    let pod = Pod::new(sandbox, streams, power_off.clone());
    let (connection, ended) =
        Connection::new(host, received).context(|| "watch the host's connection")?;
    let only = futures::stream::once(std::future::ready(Ok(connection)));
    let mut server = Server::new()
        .add_listener(Listener::new(only))
        .register_service(create_agent(Arc::new(pod)));
    server.start().await.context(|| "serve the host")?;
    tokio::select! {
        () = power_off.notified() => {}
        // However it ended: a guest without a host is of no use to anyone.
        _ = ended => {}
    }
    Ok(())
}
