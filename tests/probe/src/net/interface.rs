//! What the kernel is asked about an interface, and told.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use libc::{c_short, ifreq, sockaddr, sockaddr_in};

use crate::request::While;

/// An interface by its name, and a socket to ask through.
pub(crate) struct Interface<'a> {
    name: &'a str,
    socket: UdpSocket,
}

impl<'a> Interface<'a> {
    pub(crate) fn named(name: &'a str) -> Result<Self, String> {
        if name.len() >= libc::IFNAMSIZ {
            return Err(format!("{name:?} is too long for an interface"));
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).during("making a socket")?;
        Ok(Self { name, socket })
    }

    /// A request with nothing but the name.
    fn request(&self) -> ifreq {
        // SAFETY: a request is numbers and a union of numbers, for which zeroes are values.
        let mut request: ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        request
    }

    /// Asks with a request; the call may write to it.
    fn call(&self, number: libc::c_ulong, request: &mut ifreq, what: &str) -> Result<(), String> {
        // SAFETY: all calls made here take a request of this kind, whose name ends with a zero; what
        // a request points to is valid until this returns.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                number as libc::Ioctl,
                std::ptr::from_mut(request),
            )
        };
        nix::errno::Errno::result(result)
            .map(drop)
            .during(format_args!("{what} of {}", self.name))
    }

    pub(crate) fn set_mtu(&self, mtu: i32) -> Result<(), String> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu;
        self.call(libc::SIOCSIFMTU, &mut request, "setting the MTU")
    }

    pub(crate) fn set_address(&self, address: Ipv4Addr, prefix: u32) -> Result<(), String> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.call(libc::SIOCSIFADDR, &mut request, "setting the address")?;
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        request.ifr_ifru.ifru_netmask = socket_address(mask.into());
        self.call(libc::SIOCSIFNETMASK, &mut request, "setting the mask")
    }

    pub(crate) fn up(&self) -> Result<(), String> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as c_short;
        self.call(libc::SIOCSIFFLAGS, &mut request, "bringing up the link")
    }

    /// The default route.
    pub(crate) fn route_all_to(&self, gateway: Ipv4Addr) -> Result<(), String> {
        // SAFETY: a route is numbers and a pointer, for which zeroes are values.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: the call reads a route, and gets one.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCADDRT as libc::Ioctl,
                &raw const route,
            )
        };
        nix::errno::Errno::result(result)
            .map(drop)
            .during(format_args!("adding a route to {gateway}"))
    }

    /// Asks what `ethtool` asks: a structure that begins with the number of the question, as 32-bit
    /// words, with room for the answer.
    pub(crate) fn ethtool(&self, question: &mut [u32], what: &str) -> Result<(), String> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = question.as_mut_ptr().cast();
        self.call(libc::SIOCETHTOOL, &mut request, what)
    }
}

fn socket_address(address: Ipv4Addr) -> sockaddr {
    let address = sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are sixteen bytes, and any bytes are a value of either.
    unsafe { std::mem::transmute(address) }
}
