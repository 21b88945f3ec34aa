//! Machines without a guest: processes in the VMM's and the file server's place, and the VMM's end of the
//! host socket.

use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use trefoil_files::parent;
use trefoil_os::message::{self, Wait};
use trefoil_os::watched;
use trefoil_vmm::devices::vsock::host_socket::HostSocket;
use trefoil_vmm::metrics::Shared;
use trefoil_vmm::process::{self, Start};

use crate::machine::Machine;
use crate::machine::console::Console;

/// How many slots for disks a machine has.
pub(crate) const SLOTS: usize = 8;

/// A machine without a guest: its process sleeps.
pub(crate) fn machine() -> (Arc<Machine>, Gate) {
    machine_of("/bin/sleep", &["sleep", "1000"])
}

/// A machine without a guest: to each request its process answers with this.
pub(crate) fn machine_that_answers(answer: &str) -> (Arc<Machine>, Gate) {
    // One packet is read at a time, and each write is one.
    let script = format!(
        "while dd bs=8192 count=1 of=/dev/null 2>/dev/null <&3; do printf '{answer}' >&3; done"
    );
    machine_of("/bin/sh", &["sh", "-c", &script])
}

fn machine_of(program: &str, arguments: &[&str]) -> (Arc<Machine>, Gate) {
    machine_with(program, arguments, None)
}

/// How a process in another's place ends: what it says last, and its exit code; or it is killed.
pub(crate) type End<'a> = Option<(&'a str, i32)>;

/// A machine whose VMM ends so, after the file server has ended so.
pub(crate) async fn machine_that_ends(vmm: (&str, i32), server: End<'_>) -> (Arc<Machine>, Gate) {
    let files = file_server_that_ends(server).await;
    machine_with("/bin/sh", &["sh", "-c", &end(vmm)], Some(files))
}

/// A script's end.
fn end((says, code): (&str, i32)) -> String {
    format!("printf '%s' '{says}' >&3; exit {code}")
}

/// One that has ended.
async fn file_server_that_ends(how: End<'_>) -> Arc<parent::Server> {
    let directory = tempfile::tempdir().expect("directory");
    let begin = directory.path().join("begin");
    // It is there until all is known of it.
    let waits = format!("while [ ! -e {} ]; do sleep 0.01; done", begin.display());
    let end = how.map(end).unwrap_or_default();
    // Its launch is one packet.
    let server = file_server(&format!(
        "dd bs=65536 count=1 of=/dev/null 2>/dev/null <&3; {waits}; {end}"
    ));
    match how {
        Some(_) => std::fs::write(&begin, "").expect("begin"),
        None => server.kill(),
    }
    let pidfd = server.pidfd().try_clone_to_owned().expect("copy");
    let ended = watched::readable(pidfd).expect("watch");
    drop(ended.readable().await.expect("its end"));
    server
}

/// A process in a file server's place.
fn file_server(script: &str) -> Arc<parent::Server> {
    let log = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .expect("log");
    let start = Start {
        program: Some(Path::new("/bin/sh")),
        arguments: &["sh", "-c", script],
        log: log.as_fd(),
        cgroups: &[],
        oom_score_adj: None,
    };
    let jail = parent::Jail {
        uid: 1,
        gid: 1,
        guest_mib: 64,
        flush: parent::Flush::EachClose,
    };
    let (server, _front_end) = parent::start(&start, &jail).expect("start");
    Arc::new(server)
}

fn machine_with(
    program: &str,
    arguments: &[&str],
    files: Option<Arc<parent::Server>>,
) -> (Arc<Machine>, Gate) {
    let (console, log) = Console::new().expect("console");
    let process = process::start(&Start {
        program: Some(Path::new(program)),
        arguments,
        log: log.as_fd(),
        cgroups: &[],
        oom_score_adj: None,
    })
    .expect("start");
    let metrics = Shared::map(None).expect("metrics");
    let (host_socket, theirs) = HostSocket::pair().expect("host socket");
    let gate = Gate(watched::readable(theirs).expect("watch"));
    let slots = (3..).take(SLOTS).collect();
    let machine = Machine::watch(process, host_socket, console, metrics, slots, files);
    let machine = machine.expect("machine");
    (Arc::new(machine), gate)
}

/// The VMM's end of the host socket.
pub(crate) struct Gate(AsyncFd<OwnedFd>);

impl Gate {
    /// As if the guest had connected to the host's port.
    pub(crate) fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        theirs.set_nonblocking(true).expect("non-blocking");
        let mut message = 0x1_0001_u32.to_le_bytes().to_vec();
        message.extend(port.to_le_bytes());
        let parts = [IoSlice::new(&message)];
        message::send(self.0.get_ref(), &parts, &[theirs.as_fd()], Wait::Yes).expect("send");
        ours
    }

    /// The next connection that the host makes: to which port of the guest's.
    pub(crate) async fn accept(&self) -> (u32, UnixStream) {
        loop {
            let mut ready = self.0.readable().await.expect("readable");
            let mut bytes = [0; 8];
            let mut stream = None;
            let take = |fd| stream = Some(fd);
            match message::receive(self.0.get_ref(), &mut bytes, Wait::No, take) {
                Err(nix::errno::Errno::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                received => assert!(received.expect("receive").is_whole()),
            };
            let port = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            return (port, stream.expect("a descriptor").into());
        }
    }

    /// The next stream that the host connects, and its number.
    pub(crate) async fn stream(&self) -> (u32, UnixStream) {
        let (port, mut stream) = self.accept().await;
        assert_eq!(port, trefoil_agent_protocol::STREAM_PORT);
        // The host has written it at once.
        let mut number = [0; 4];
        stream.read_exact(&mut number).expect("number");
        stream.set_nonblocking(false).expect("blocking");
        (u32::from_le_bytes(number), stream)
    }
}
