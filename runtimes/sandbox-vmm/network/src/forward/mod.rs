//! Port forwarding: containerd enters the pod's network namespace and dials a port of localhost,
//! where a container's server would listen. The guest's listens elsewhere, and nobody here. So one
//! socket of ours takes the connections to every port of localhost: a program that the kernel asks
//! for a connection's listener answers with it. Where a connection was meant to go, it still says
//! itself, and who has accepted it may hand it on to the guest.

mod program;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use trefoil_bpf::Program;

use trefoil_netlink::namespace;
use trefoil_os::{Context, Result};

/// What calls the program, and where it is attached.
const TYPE_SK_LOOKUP: u32 = 30;
const ATTACH_SK_LOOKUP: u32 = 36;

/// Who takes the connections to localhost.
#[derive(Debug)]
pub struct Listener {
    /// It accepts them, and does not block. The port of a connection's own address
    /// ([`std::net::TcpStream::local_addr`]) is the one that was dialled.
    pub socket: TcpListener,
    /// As long as this is open, they come here.
    pub steering: OwnedFd,
}

/// Takes every TCP connection that is made to localhost in a pod's network namespace, by IPv4 and,
/// if there is such a thing, by IPv6.
///
/// # Errors
/// A kernel without what this takes, or the host's own namespace.
pub fn listen(netns: BorrowedFd<'_>) -> Result<Listener> {
    let socket = namespace::within(netns, || {
        let doing = || "listen in the pod's network namespace";
        let socket = bind().context(doing)?;
        socket.set_nonblocking(true).context(doing)?;
        Ok(socket)
    })?;
    let steering = steer(netns, &socket).context(|| {
        "take the connections to the pod's localhost, which takes the kernel's sk_lookup programs \
         (Linux 5.9, CONFIG_BPF_SYSCALL, CONFIG_BPF_STREAM_PARSER)"
    })?;
    Ok(Listener { socket, steering })
}

/// Closes a connection as if nobody had listened: with a reset, and nothing is sent any more.
pub fn refuse(connection: impl AsFd + 'static) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // Without it the dialler would see an orderly end, which says no less that it is over.
    let _ = setsockopt(&connection, sockopt::Linger, &at_once);
}

/// Listens at any port, as no address is one's own: one socket for both versions of IP.
fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
}

/// Has the kernel hand connections to the socket.
fn steer(netns: BorrowedFd<'_>, socket: &TcpListener) -> io::Result<OwnedFd> {
    let map = trefoil_bpf::socket_map(socket.as_fd())?;
    let program = trefoil_bpf::load(&Program {
        kind: TYPE_SK_LOOKUP,
        attach: ATTACH_SK_LOOKUP,
        name: "trefoil_forward",
        instructions: &program::steer(map.as_fd()),
    })?;
    trefoil_bpf::link(program.as_fd(), netns, ATTACH_SK_LOOKUP)
}

#[cfg(test)]
mod tests;
