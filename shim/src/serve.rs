//! The pod's server: one process, one thread, from the pod's first container to its last.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::ttrpc::r#async::Server;
use containerd_shim_protos::ttrpc::r#async::transport::Listener;
use nix::sys::signal::{SigHandler, Signal, signal};
use trefoil_core::{Context, Result};
use trefoil_runc::{Launcher, Runc};

use crate::bootstrap::Request;
use crate::pod::Pod;
use crate::record::Record;
use crate::service::{self, events::Publisher};
use crate::start::socket_path;
use crate::{footprint, logger};

/// How long the last events may take to reach containerd once the pod is over.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Serves the pod until it is over, then ends the process.
pub fn serve(request: &Request, pod: &str, address: &str, listener: UnixListener) -> ! {
    logger::init(&request.opts.namespace, pod, request.opts.debug);
    let code = match run(request, pod, address, listener) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("the shim of pod {pod} gave up: {why}");
            1
        }
    };
    let _ = std::fs::remove_file(socket_path(address));
    std::process::exit(code)
}

fn run(request: &Request, pod: &str, address: &str, listener: UnixListener) -> Result<()> {
    // The helper is a fork of this process while it is still small and single-threaded.
    let launcher = Launcher::spawn().context(|| "start the helper process")?;
    for ignored in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // A pod ends when containerd says so. SAFETY: ignoring a signal runs no code of ours.
        unsafe { signal(ignored, SigHandler::SigIgn) }.context(|| "ignore signals")?;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "start the event loop")?
        .block_on(serve_until_done(request, pod, address, listener, launcher))
}

async fn serve_until_done(
    request: &Request,
    pod: &str,
    address: &str,
    listener: UnixListener,
    launcher: Launcher,
) -> Result<()> {
    let events = Publisher::new(&request.opts.ttrpc_address, &request.opts.namespace);
    let record = Record::new(pod, address)?;
    let runtime = Arc::new(Runc::new(launcher));
    let pod = Arc::new(Pod::new(
        pod,
        &request.opts.namespace,
        runtime,
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
