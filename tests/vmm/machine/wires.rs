//! The host's side of a guest's vsock: by the host's kernel, or by our VMM's door.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, connect, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use rig::probe::PORT;

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

    /// The guest's next connection to a port of the host's.
    pub fn accept(&self, port: u32) -> Result<File> {
        let stream = self.accept_within(port, LIMIT)?;
        stream.with_context(|| format!("the guest did not connect to port {port} in {LIMIT:?}"))
    }

    /// The same, if it comes in time.
    pub fn accept_within(&self, port: u32, limit: Duration) -> Result<Option<File>> {
        let Self::Kernel { listeners, .. } = self;
        let Some(listener) = listeners.get(&port) else {
            bail!("nobody listens on the host's port {port}");
        };
        let mut set = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let limit_ms = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        if poll(&mut set, limit_ms)? == 0 {
            return Ok(None);
        }
        let stream = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            .with_context(|| format!("accepting a connection to port {port}"))?;
        // SAFETY: accept has just made this descriptor, and nobody else knows it.
        let stream = File::from(unsafe { OwnedFd::from_raw_fd(stream) });
        self::limit(&stream, LIMIT)?;
        Ok(Some(stream))
    }

    /// Connects to a port of the guest's. If nobody listens there, either this fails or the stream
    /// ends at once.
    pub fn connect(&self, port: u32) -> Result<File> {
        let Self::Kernel { cid, .. } = self;
        let stream = vsock()?;
        connect(stream.as_raw_fd(), &VsockAddr::new(*cid, port))
            .with_context(|| format!("connecting to the guest's port {port}"))?;
        let stream = File::from(stream);
        limit(&stream, LIMIT)?;
        Ok(stream)
    }
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
