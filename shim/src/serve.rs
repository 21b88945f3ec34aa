//! The pod's server: one process, one thread, from the pod's first container to its last.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use nix::sys::signal::Signal;
use tokio::sync::Notify;
use trefoil_core::{Context, Result, ShimCgroup};
use trefoil_os::footprint;

use crate::bootstrap::Request;
use crate::candidates::{Candidates, Choice};
use crate::dispatch::Handler;
use crate::events::Publisher;
use crate::logger;
use crate::pod::{FIRST_REQUEST, Pod};
use crate::record::Record;
use crate::service;
use crate::socket::socket_path;

/// For how long nothing must have changed before memory is let go of.
const QUIET: Duration = Duration::from_secs(1);

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
    /// Its runtime, or what that is chosen by.
    pub choice: Choice,
    /// Where to listen.
    pub address: &'a str,
}

/// Serves the pod until it is over, then ends the process.
pub fn serve(task: Task<'_>, listener: UnixListener) -> ! {
    let opts = &task.request.opts;
    logger::init(task.handler.runtime, &opts.namespace, task.pod, opts.debug);
    let (pod, address) = (task.pod, task.address);
    let code = match run(task, listener) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("the shim of pod {pod} gave up: {why}");
            let _ = std::fs::remove_file(socket_path(address));
            1
        }
    };
    std::process::exit(code)
}

fn run(task: Task<'_>, listener: UnixListener) -> Result<()> {
    let shim = match task.request.shim_cgroup.is_empty() {
        true => ShimCgroup::Pod,
        false => ShimCgroup::Own,
    };
    let Task { request, pod, .. } = task;
    let candidates = Candidates::prepare(task.handler.floor, shim, task.choice)?;
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // A pod ends when containerd says so.
        trefoil_os::process::ignore_signal(ignored as i32).context(|| "ignore signals")?;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(serve_until_done(
            request,
            (pod, task.address),
            listener,
            candidates,
        ))
}

async fn serve_until_done(
    request: &Request,
    (pod, address): (&str, &str),
    listener: UnixListener,
    candidates: Candidates,
) -> Result<()> {
    let opts = &request.opts;
    let events = Publisher::new(&opts.ttrpc_address, &opts.namespace);
    let bundle = std::env::current_dir().context(|| "find the pod's bundle")?;
    let record = Record::new(bundle, pod, address)?;
    let pod = Pod::among(pod, &opts.namespace, candidates, events.clone(), record)?;
    let pod = Arc::new(pod);

    listener
        .set_nonblocking(true)
        .context(|| "prepare the listening socket")?;
    let listener =
        tokio::net::UnixListener::from_std(listener).context(|| "watch the listening socket")?;
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(service::v3(&pod))
        .register_service(service::v2(&pod))
        .register_service(service::sandbox(&pod));
    server
        .start()
        .await
        .context(|| "serve the listening socket")?;

    tokio::spawn(keep_small(pod.changes()));

    tokio::select! {
        () = pod.over() => {}
        () = pod.forgotten() => {
            log::warn!("containerd has asked for nothing in {FIRST_REQUEST:?}; the shim ends");
        }
    }
    // From now on a new server of a pod of this name may listen there, and containerd may look whether
    // it is gone.
    let _ = std::fs::remove_file(socket_path(address));
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

/// Lets go of memory once nothing has changed for a while after a change; never returns.
async fn keep_small(changes: Arc<Notify>) {
    loop {
        changes.notified().await;
        while tokio::time::timeout(QUIET, changes.notified())
            .await
            .is_ok()
        {}
        footprint::release();
    }
}
