//! The tap next to an interface.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use trefoil_netlink::read::Link;
use trefoil_netlink::{Doing, Message, Netlink, sysctl};
use trefoil_os::{Context, Result};

/// A tap, and by what the namespace knows it.
pub(super) struct Tap {
    pub(super) fd: OwnedFd,
    pub(super) name: String,
    pub(super) index: u32,
}

/// Makes a tap for packets as large as the interface's. It is silent: what goes out by it is the
/// guest's to hear, and only the interface's cable has something to say to that.
pub(super) fn make(netlink: &mut Netlink, link: &Link) -> Result<Tap> {
    // The interface's own name may be as long as names are.
    let name = format!("tap{}", link.index);
    let doing = || {
        format!(
            "make the tap {name} for {}, which takes /dev/net/tun (CONFIG_TUN)",
            link.name
        )
    };
    let file = open(&name).context(doing)?;
    let index = if_nametoindex(name.as_str()).context(doing)?;
    sysctl::write(&name, "disable_ipv6", 1)?;
    let up = libc::IFF_UP.cast_unsigned();
    let request = Message::new(libc::RTM_NEWLINK, 0)
        .u32(0)
        .u32(index)
        .u32(up)
        .u32(up)
        .attribute(libc::IFLA_MTU, &link.mtu.to_ne_bytes());
    netlink
        .request(request)
        .doing(|| format!("set the tap {name} up with packets of {} bytes", link.mtu))?;
    Ok(Tap {
        fd: file.into(),
        name,
        index,
    })
}

/// Opens a new tap in the namespace of the calling thread.
pub(super) fn open(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // Exclusive: a tap of this name, left without a process, is not taken over.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request reads and writes a `struct ifreq`, which lives until the call is over.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(file)
}
