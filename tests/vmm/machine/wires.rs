//! The host's side of a guest's vsock: by the host's kernel, or by our VMM's host socket.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rig::probe::PORT;
use trefoil_vmm::devices::vsock::host_socket::HostSocket;

use super::PORTS;

/// How long to wait for a connection, and for each byte on it.
const LIMIT: Duration = Duration::from_secs(120);

/// Where connections come from and go to.
pub enum Wires {
    /// The host's vhost-vsock, and what listens on the host's ports.
    Kernel {
        /// The guest's number.
        cid: u32,
        /// By port.
        listeners: BTreeMap<u32, OwnedFd>,
    },
    /// What a jailed VMM hands out and takes.
    HostSocket {
        /// Our end of it.
        host_socket: HostSocket,
        /// By port, what came and was not asked for yet.
        waiting: Mutex<BTreeMap<u32, VecDeque<UnixStream>>>,
    },
}

impl Wires {
    /// Listens on the host's ports.
    pub fn of_kernel(cid: u32) -> Result<Self> {
        let mut listeners = BTreeMap::new();
        for port in PORTS.into_iter().chain([PORT]) {
            let listener = vsock()?;
            let any = VsockAddr::new(libc::VMADDR_CID_ANY, port);
            bind(listener.as_raw_fd(), &any)
                .with_context(|| format!("listening on the host's vsock port {port}"))?;
            listen(&listener, Backlog::new(4095)?)?;
            listeners.insert(port, listener);
        }
        Ok(Self::Kernel { cid, listeners })
    }

    /// Those of a guest of our VMM's.
    pub fn of_host_socket(host_socket: HostSocket) -> Self {
        Self::HostSocket {
            host_socket,
            waiting: Mutex::default(),
        }
    }

    /// The guest's next connection to a port of the host's.
    pub fn accept(&self, port: u32) -> Result<File> {
        let stream = self.accept_within(port, LIMIT)?;
        stream.with_context(|| format!("the guest did not connect to port {port} in {LIMIT:?}"))
    }

    /// The same, if it comes in time.
    pub fn accept_within(&self, port: u32, limit: Duration) -> Result<Option<File>> {
        let stream = match self {
            Self::Kernel { listeners, .. } => accept_from(listeners, port, limit)?,
            Self::HostSocket {
                host_socket,
                waiting,
            } => take_from(host_socket, waiting, port, limit)?,
        };
        if let Some(stream) = &stream {
            self::limit(stream, LIMIT)?;
        }
        Ok(stream)
    }

    /// Connects to a port of the guest's. If nobody listens there, either this fails or the stream
    /// ends at once.
    pub fn connect(&self, port: u32) -> Result<File> {
        let stream = match self {
            Self::Kernel { cid, .. } => {
                let stream = vsock()?;
                connect(stream.as_raw_fd(), &VsockAddr::new(*cid, port))
                    .with_context(|| format!("connecting to the guest's port {port}"))?;
                File::from(stream)
            }
            Self::HostSocket { host_socket, .. } => connect_through(host_socket, port)?,
        };
        limit(&stream, LIMIT)?;
        Ok(stream)
    }
}

fn accept_from(
    listeners: &BTreeMap<u32, OwnedFd>,
    port: u32,
    limit: Duration,
) -> Result<Option<File>> {
    let Some(listener) = listeners.get(&port) else {
        bail!("nobody listens on the host's port {port}");
    };
    if !is_ready(listener.as_fd(), PollFlags::POLLIN, limit)? {
        return Ok(None);
    }
    let stream = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
        .with_context(|| format!("accepting a connection to port {port}"))?;
    // SAFETY: accept has just made this descriptor, and nobody else knows it.
    Ok(Some(File::from(unsafe { OwnedFd::from_raw_fd(stream) })))
}

fn take_from(
    host_socket: &HostSocket,
    waiting: &Mutex<BTreeMap<u32, VecDeque<UnixStream>>>,
    port: u32,
    limit: Duration,
) -> Result<Option<File>> {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let end = Instant::now() + limit;
    loop {
        if let Some(stream) = waiting.get_mut(&port).and_then(VecDeque::pop_front) {
            return blocking(stream).map(Some);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !is_ready(host_socket.as_fd(), PollFlags::POLLIN, left)? {
            return Ok(None);
        }
        match host_socket.accept() {
            Ok((port, stream)) => waiting.entry(port).or_default().push_back(stream),
            // How it ended is for whoever watches the process to say.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error).context("taking a connection from the VMM"),
        }
    }
}

fn connect_through(host_socket: &HostSocket, port: u32) -> Result<File> {
    loop {
        match host_socket.connect(port) {
            Ok(stream) => return blocking(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let room = is_ready(host_socket.as_fd(), PollFlags::POLLOUT, LIMIT)?;
                ensure!(room, "the VMM takes no connection for {LIMIT:?}");
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("connecting to the guest's port {port}"));
            }
        }
    }
}

fn blocking(stream: UnixStream) -> Result<File> {
    stream.set_nonblocking(false)?;
    Ok(File::from(OwnedFd::from(stream)))
}

fn is_ready(descriptor: BorrowedFd<'_>, what: PollFlags, limit: Duration) -> Result<bool> {
    let mut set = [PollFd::new(descriptor, what)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut set, limit)? > 0)
}

fn vsock() -> Result<OwnedFd> {
    let (family, kind) = (AddressFamily::Vsock, SockType::Stream);
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).context("making a vsock on the host")
}

/// Has reading and writing fail after a while, so that nothing waits forever.
pub fn limit(stream: &File, limit: Duration) -> Result<()> {
    let limit = TimeVal::new(i64::try_from(limit.as_secs())?, 0);
    setsockopt(stream, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(stream, sockopt::SendTimeout, &limit)?;
    Ok(())
}
