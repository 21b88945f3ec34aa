//! The pod's server: one process, one thread, from the pod's first container to its last.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use nix::sys::signal::Signal;
use trefoil_core::settings::Settings;
use trefoil_core::{Context, Error, Prepared, Provider, Result, ShimCgroup};

use crate::bootstrap::Request;
use crate::dispatch::Handler;
use crate::pod::Pod;
use crate::record::Record;
use crate::service::{self, events::Publisher};
use crate::start::socket_path;
use crate::{footprint, logger};

/// How long the last events may take to reach containerd once the pod is over.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// The pod to be served, as `start` found it.
pub struct Task<'a> {
    /// What containerd asked for.
    pub request: &'a Request,
    /// The handler it was asked of.
    pub handler: &'static Handler,
    /// The pod's name.
    pub pod: &'a str,
    /// The runtime that was decided on: of at least the handler's isolation.
    pub runtime: &'static dyn Provider,
    /// What the node's configuration and the pod say to it.
    pub settings: Settings,
    /// Where to listen.
    pub address: &'a str,
}

/// Serves the pod until it is over, then ends the process.
pub fn serve(task: &Task<'_>, listener: UnixListener) -> ! {
    let opts = &task.request.opts;
    logger::init(task.handler.runtime, &opts.namespace, task.pod, opts.debug);
    let code = match run(task, listener) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("the shim of pod {} gave up: {why}", task.pod);
            let _ = std::fs::remove_file(socket_path(task.address));
            1
        }
    };
    std::process::exit(code)
}

fn run(task: &Task<'_>, listener: UnixListener) -> Result<()> {
    let shim = match task.request.shim_cgroup.is_empty() {
        true => ShimCgroup::Pod,
        false => ShimCgroup::Own,
    };
    let prepared = task.runtime.prepare(&task.settings, shim)?;
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // A pod ends when containerd says so.
        trefoil_os::process::ignore_signal(ignored as i32).context(|| "ignore signals")?;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(serve_until_done(task, listener, prepared))
}

async fn serve_until_done(
    task: &Task<'_>,
    listener: UnixListener,
    prepared: Box<dyn Prepared>,
) -> Result<()> {
    let opts = &task.request.opts;
    let runtime = prepared.runtime();
    let isolation = task.runtime.isolation();
    if isolation < task.handler.floor {
        return Err(Error::internal(format!(
            "the pod is to be at least {}, and its runtime is {isolation}",
            task.handler.floor
        )));
    }
    let events = Publisher::new(&opts.ttrpc_address, &opts.namespace);
    let bundle = std::env::current_dir().context(|| "find the pod's bundle")?;
    let record = Record::new(bundle, task.pod, task.address)?;
    let pod = Arc::new(Pod::new(
        task.pod,
        &opts.namespace,
        (task.runtime, runtime),
        events.clone(),
        record,
    ));

    listener
        .set_nonblocking(true)
        .context(|| "prepare the listening socket")?;
    let listener =
        tokio::net::UnixListener::from_std(listener).context(|| "watch the listening socket")?;
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(service::v3(&pod))
        .register_service(service::v2(&pod));
    server
        .start()
        .await
        .context(|| "serve the listening socket")?;

    tokio::spawn(footprint::watch(pod.changes()));

    pod.over().await;
    // From now on a new server of a pod of this name may listen there, and containerd may look whether
    // it is gone.
    let _ = std::fs::remove_file(socket_path(task.address));
    if let Err(why) = pod.end().await {
        log::error!("end the pod's sandbox: {why}");
    }
    if tokio::time::timeout(LAST_EVENTS, events.flush())
        .await
        .is_err()
    {
        log::warn!("containerd took no more events within {LAST_EVENTS:?}; the rest is lost");
    }
    // Lets the answer to Shutdown reach containerd before the connection closes.
    server.stop_listen().await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(())
}
