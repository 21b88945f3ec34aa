//! The agent: makes a pod's containers in its guest when the host asks for them, by the very code that
//! makes them on a host.
//!
//! It is a child of the guest's init, which hands it the connection to the host as its standard input. Its
//! own children are the containers' processes and nothing else, as the runtime below expects; whoever is
//! left behind becomes the init's.
//!
//! Start reading at [`main`], then [`service`].

mod clock;
#[cfg(feature = "confidential")]
mod confidential;
mod configuration;
mod connection;
mod containers;
mod devices;
mod disks;
mod forward;
#[cfg(feature = "confidential")]
mod gate;
mod limits;
mod logger;
mod machine;
#[cfg_attr(feature = "confidential", allow(dead_code))]
mod mirror;
mod names;
mod pids;
mod refusal;
#[cfg(not(feature = "confidential"))]
mod roots;
#[cfg(feature = "confidential")]
mod secrets;
mod service;
mod set_up;
mod streams;
mod sysctls;
// The host shares nothing with a confidential guest: none of these are held in it.
#[cfg_attr(feature = "confidential", allow(dead_code))]
mod volumes;
mod vsock;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use nix::sys::prctl;
use nix::sys::socket::{VsockAddr, getpeername};
use nix::unistd::dup2_stdin;
use tokio::sync::Notify;
use trefoil_agent_common::kernel_log;
use trefoil_agent_protocol::HOST;
use trefoil_agent_protocol::service::create_agent;
use trefoil_core::{Context, Error, Result, Runtime, SandboxConfig};
use trefoil_os::own_program;
use trefoil_runc::{Launcher, Runc};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

#[cfg(feature = "confidential")]
use confidential::root as roots;
use connection::Connection;
use service::Pod;
use streams::Streams;

/// The program's name.
const NAME: &str = "trefoil-agent";

/// The OOM score of this process: without it the guest is of no use, so all others go first.
const SPARED: &str = "-1000";

fn main() -> ExitCode {
    let action = std::env::args_os().nth(1);
    if action.is_some_and(|action| action == trefoil_runc::HELPER_ACTION) {
        trefoil_runc::run_as_helper();
    }
    let Some(host) = connection_to_host() else {
        eprintln!("{NAME}: this serves the host of a guest, and is started by the guest's init");
        return ExitCode::FAILURE;
    };
    kernel_log::say_defects_of(NAME);
    match own_program::run_read_only()
        .map_err(Error::from)
        .and_then(|()| run(host))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(format_args!("{why}"));
            ExitCode::FAILURE
        }
    }
}

/// Says one sentence in the kernel's log.
fn say(sentence: fmt::Arguments<'_>) {
    kernel_log::say(NAME, sentence);
}

/// The standard input, if it is a connection to a guest's host.
fn connection_to_host() -> Option<OwnedFd> {
    let stdin = io::stdin();
    let peer = getpeername::<VsockAddr>(stdin.as_raw_fd()).ok()?;
    match peer.cid() {
        HOST => stdin.as_fd().try_clone_to_owned().ok(),
        _ => None,
    }
}

/// Serves the host on its connection, until it has no more use for the guest.
fn run(host: OwnedFd) -> Result<()> {
    logger::init();
    // What is made from here on inherits the standard input, and must not have the connection.
    let nothing = File::open("/dev/null").context(|| "open /dev/null")?;
    dup2_stdin(&nothing).context(|| "make /dev/null the standard input")?;
    drop(nothing);
    // Programs are named by their file, and this one's is called something else.
    prctl::set_name(c"trefoil-agent").context(|| "name the process")?;
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
        .block_on(serve(host, launcher))
}

async fn serve(host: OwnedFd, launcher: Launcher) -> Result<()> {
    #[cfg(feature = "confidential")]
    let tee = confidential::tee::Tee::find()?;
    #[cfg(feature = "confidential")]
    say(format_args!("{}", tee.note()));
    #[cfg(feature = "confidential")]
    let author = confidential::Author::of(tee);
    let streams = Streams::default();
    streams.serve()?;
    let runtime = Runc::new(launcher).relaying_output();
    let sandbox = runtime.create_sandbox(SandboxConfig::default()).await?;
    let power_off = Arc::new(Notify::new());
    let pod = Pod::new(sandbox, streams, power_off.clone());
    #[cfg(feature = "confidential")]
    let pod = gate::Gated::new(pod.of(author.clone()));
    #[cfg(feature = "confidential")]
    forward::serve(pod.forwards())?;
    #[cfg(not(feature = "confidential"))]
    forward::serve(|_| Ok(()))?;
    let (connection, ended) = Connection::new(host).context(|| "watch the host's connection")?;
    let only = futures::stream::once(std::future::ready(Ok(connection)));
    let mut server = Server::new()
        .add_listener(Listener::new(only))
        .register_service(create_agent(Arc::new(pod)));
    server.start().await.context(|| "serve the host")?;
    #[cfg(feature = "confidential")]
    let failed = author.failed();
    #[cfg(not(feature = "confidential"))]
    let failed = std::future::pending::<Error>();
    tokio::select! {
        () = power_off.notified() => Ok(()),
        // However it ended: a guest without a host is of no use to anyone.
        _ = ended => Ok(()),
        why = failed => Err(why),
    }
}
