//! A shared directory's device, with a file server that serves no file: the driver needs none to
//! find its device, and to let it go.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::vmm::machine::Share;
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("fs::reset", reset),
    ("fs::dead_server", dead_server),
    ("fs::silent_server", silent_server),
];

const TAG: &str = "trefoil";
const DRIVER: &str = "virtiofs";
const LIMIT: Duration = Duration::from_secs(60);

// Requests of vhost-user.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_VRING_CALL: u32 = 13;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;

/// Rings with tables and an event index, more features of the protocol's, and this version.
const FEATURES: u64 = 1 << 28 | 1 << 29 | 1 << 30 | 1 << 32;
/// As many queues as it has, and acknowledgements.
const PROTOCOL_FEATURES: u64 = 1 | 1 << 3;
const QUEUES: u64 = 2;

const VERSION: u32 = 1;
const IS_ANSWER: u32 = 1 << 2;
const NEEDS_ANSWER: u32 = 1 << 3;

/// Answers until the other side hangs up, or for good from the request `hangs_at` on; which requests
/// came.
fn serve(mut socket: &UnixStream, hangs_at: Option<u32>) -> Result<Vec<u32>> {
    let mut requests = Vec::new();
    let mut is_well = true;
    loop {
        let mut header = [0; 12];
        match socket.read_exact(&mut header) {
            Err(why) if why.kind() == ErrorKind::UnexpectedEof => return Ok(requests),
            outcome => outcome.context("waiting for a request")?,
        }
        let [request, flags, size] = [0, 4, 8].map(|at| {
            let field = header
                .get(at..at + 4)
                .and_then(|field| field.try_into().ok());
            field.map_or(0, u32::from_ne_bytes)
        });
        // The descriptors that come along are closed: nobody takes them.
        let mut body = vec![0; usize::try_from(size)?];
        socket.read_exact(&mut body)?;
        requests.push(request);
        is_well &= hangs_at != Some(request);
        let answer = match request {
            GET_FEATURES => FEATURES,
            GET_PROTOCOL_FEATURES => PROTOCOL_FEATURES,
            GET_QUEUE_NUM => QUEUES,
            GET_VRING_BASE => 0,
            _ if flags & NEEDS_ANSWER != 0 => 0,
            _ => continue,
        };
        if !is_well {
            continue;
        }
        let mut message = Vec::new();
        for field in [request, VERSION | IS_ANSWER, 8] {
            message.extend(field.to_ne_bytes());
        }
        message.extend(answer.to_ne_bytes());
        socket.write_all(&message).context("answering")?;
    }
}

/// A machine with a server's device, and what the server was asked when it is gone.
fn with_server<T>(
    setting: &Setting,
    hangs_at: Option<u32>,
    body: impl FnOnce(crate::vmm::machine::Machine, &UnixStream) -> Result<T>,
) -> Result<(T, Vec<u32>)> {
    let (ours, theirs) = UnixStream::pair().context("making a pair of sockets")?;
    let mut machine = setting.machine();
    machine.shares.push(Share {
        server: theirs.into(),
        tag: TAG.into(),
    });
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&ours, hangs_at));
        let outcome = body(machine, &ours);
        // Whatever happened, it is to end.
        drop(ours.shutdown(Shutdown::Both));
        let requests = server.join().map_err(|_| anyhow!("the server died"))?;
        Ok((outcome?, requests?))
    })
}

fn reset(setting: &Setting) -> Result<()> {
    let (_, requests) = with_server(setting, None, |machine, _| {
        let mut guest = machine.boot(setting.vmm)?;
        drop(machine);
        let devices = guest.probe.devices_of(DRIVER)?;
        let [device] = devices.as_slice() else {
            anyhow::bail!("the driver has {devices:?}");
        };
        for _ in 0..3 {
            let names = guest.probe.list("/sys/fs/virtiofs")?;
            let name = names.first().context("the guest has no shared directory")?;
            let tag = guest.probe.read(&format!("/sys/fs/virtiofs/{name}/tag"))?;
            ensure!(tag == TAG, "the directory is {tag}");
            guest.probe.unbind(DRIVER, device)?;
            guest.probe.bind(DRIVER, device)?;
        }
        guest.power_off()
    })?;
    let count = |request| requests.iter().filter(|found| **found == request).count();
    let (started, stopped) = (count(SET_VRING_ENABLE), count(GET_VRING_BASE));
    ensure!(
        (started, stopped) == (8, 6),
        "{started} queues were started and {stopped} stopped"
    );
    Ok(())
}

/// The server's end is the machine's: its driver would wait for it for ever.
fn dead_server(setting: &Setting) -> Result<()> {
    with_server(setting, None, |machine, server| {
        let mut guest = machine.boot(setting.vmm)?;
        drop(machine);
        server.shutdown(Shutdown::Both)?;
        let (_, ours) = guest.parts()?;
        let exit = ours.process.wait_within(LIMIT)?;
        let said = exit.map(|exit| exit.to_string());
        let expected = "VMM: fs device: wait for the file server: the server has hung up";
        ensure!(said.as_deref() == Some(expected), "{said:?}");
        Ok(())
    })?;
    Ok(())
}

/// One that does not begin to serve, at the first thing that it is told or in the midst of it.
fn silent_server(setting: &Setting) -> Result<()> {
    for (request, name) in [
        (SET_FEATURES, "SET_FEATURES"),
        (SET_VRING_CALL, "SET_VRING_CALL"),
    ] {
        let (why, _) = with_server(setting, Some(request), |machine, _| {
            let outcome = machine.boot(setting.vmm);
            let error = outcome.err().context("the machine started")?;
            Ok(format!("{error:#}"))
        })?;
        let expected = format!(
            "fs device: have the file server serve the queues: {name}: the server takes too long"
        );
        ensure!(why.contains(&expected), "{why}");
    }
    Ok(())
}
