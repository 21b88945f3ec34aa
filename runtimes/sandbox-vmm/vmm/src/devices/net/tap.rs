//! The tap: the host's end of the cable. A packet is one `readv` or `writev` between it and the
//! guest's buffers; the kernel reads and writes the packet's virtio header itself.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
};

use super::packets::{HEADER, Unfit};

/// What came of a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// A packet with so many bytes, its header included.
    Packet(usize),
    /// There is none, or no room for one.
    Later,
    /// The host has removed the interface. It will not come back.
    Gone,
    /// The packet is lost.
    Failed,
}

/// A tap, or what stands in for one.
pub(super) struct Tap {
    file: File,
    /// Whether the kernel takes and gives UDP in segments to be cut (Linux 6.2).
    pub(super) has_uso: bool,
    /// Whether the host has removed the interface.
    pub(super) is_gone: bool,
    /// Not so where a socket stands in for the tap.
    has_offloads: bool,
}

impl Tap {
    /// Checks that the parent opened it as we need it, and sets the size of packets' headers, which
    /// is the same for all drivers.
    pub(super) fn new(file: File) -> Result<Self, Unfit> {
        let fail = |doing| {
            move |why: Errno| Unfit::Tap {
                doing,
                why: why.into(),
            }
        };
        let flags = flags(&file).map_err(fail("ask the tap for its flags"))?;
        // IFF_NO_PI can't be asked for: it comes back as IFF_NOFILTER, which is the same bit.
        let needed = libc::IFF_TAP | libc::IFF_VNET_HDR;
        if flags & (needed | libc::IFF_TUN) != needed {
            return Err(Unfit::Flags(flags));
        }
        let status = fcntl(&file, FcntlArg::F_GETFL).map_err(fail("ask the tap for its flags"))?;
        let status = OFlag::from_bits_retain(status);
        if !status.contains(OFlag::O_NONBLOCK) {
            fcntl(&file, FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))
                .map_err(fail("make the tap nonblocking"))?;
        }
        let size = libc::c_int::try_from(HEADER).unwrap_or(libc::c_int::MAX);
        // SAFETY: the request reads an int, which lives until the call is over.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) })
            .map_err(fail("set the size of the tap's packet headers"))?;
        let mut tap = Self {
            file,
            has_uso: true,
            is_gone: false,
            has_offloads: true,
        };
        // The kernel refuses what it does not know, and is asked for nothing for now.
        tap.has_uso = tap.request(u64::MAX).is_ok();
        tap.request(0)
            .map_err(fail("turn the tap's offloads off"))?;
        Ok(tap)
    }

    /// Anything that moves whole packets, without offloads.
    #[cfg(any(test, fuzzing))]
    pub(super) fn stand_in(file: File) -> Self {
        Self {
            file,
            has_uso: false,
            is_gone: false,
            has_offloads: false,
        }
    }

    /// Lets the kernel hand over packets that the driver finishes itself, as far as it accepted that.
    /// It needs no capability: whoever holds the descriptor may ask.
    pub(super) fn set_offloads(&mut self, accepted: u64) -> io::Result<()> {
        match self.request(accepted) {
            Err(Errno::EBADFD) => self.is_gone = true,
            outcome => outcome?,
        }
        Ok(())
    }

    fn request(&self, accepted: u64) -> nix::Result<()> {
        if !self.has_offloads {
            return Ok(());
        }
        let offloads = offloads(accepted, self.has_uso);
        // SAFETY: the request takes a number, no pointer.
        let outcome = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
        Errno::result(outcome).map(drop)
    }

    /// The descriptor, to be watched.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Sends one packet.
    ///
    /// # Safety
    /// The buffers are memory that may be read, whoever else writes it.
    pub(super) unsafe fn write(&mut self, buffers: &[libc::iovec]) -> Moved {
        if self.is_gone {
            return Moved::Failed;
        }
        let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the list is as long as it says, and the buffers are as the caller says.
        self.moved(unsafe { libc::writev(self.file.as_raw_fd(), buffers.as_ptr(), count) })
    }

    /// Receives one packet; what is beyond the buffers' end is lost.
    ///
    /// # Safety
    /// The buffers are memory that may be written, and nobody relies on what it holds.
    pub(super) unsafe fn read(&mut self, buffers: &[libc::iovec]) -> Moved {
        let count = libc::c_int::try_from(buffers.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the list is as long as it says, and the buffers are as the caller says.
        self.moved(unsafe { libc::readv(self.file.as_raw_fd(), buffers.as_ptr(), count) })
    }

    fn moved(&mut self, outcome: isize) -> Moved {
        match Errno::result(outcome) {
            Ok(count) => Moved::Packet(usize::try_from(count).unwrap_or(0)),
            Err(Errno::EAGAIN | Errno::EINTR) => Moved::Later,
            Err(Errno::EBADFD) => {
                self.is_gone = true;
                Moved::Gone
            }
            // Among them: a header that makes no sense, and an interface that is down.
            Err(why) => {
                // All buffers are the guest's memory, or our own.
                debug_assert_ne!(why, Errno::EFAULT);
                Moved::Failed
            }
        }
    }
}

/// The flags an interface was opened with.
fn flags(file: &File) -> nix::Result<libc::c_int> {
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes a `struct ifreq`, which lives until the call is over.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    // SAFETY: the request has written the flags.
    Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// The kernel's words for what a driver accepted. It refuses segments without checksums, and
/// segments of UDP for one version of IP only.
fn offloads(accepted: u64, has_uso: bool) -> libc::c_uint {
    let has = |bit: u32| accepted & 1 << bit != 0;
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut offloads = libc::TUN_F_CSUM;
    for (bit, offload) in [
        (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    ] {
        if has(bit) {
            offloads |= offload;
        }
    }
    if has(VIRTIO_NET_F_GUEST_ECN) && offloads & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) != 0 {
        offloads |= libc::TUN_F_TSO_ECN;
    }
    if has_uso && has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6) {
        offloads |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
    }
    offloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_takes_is_asked_for() {
        let bits = |list: &[u32]| list.iter().fold(0, |all, bit| all | 1 << bit);
        let all = bits(&[
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
        ]);
        assert_eq!(offloads(all, true), 0x6f);
        assert_eq!(offloads(all, false), 0xf);
        assert_eq!(offloads(all & !1, true), 0x6f, "others don't matter");
        assert_eq!(offloads(all & !bits(&[VIRTIO_NET_F_GUEST_CSUM]), true), 0);
        let checksum = bits(&[VIRTIO_NET_F_GUEST_CSUM]);
        let ecn = bits(&[VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_USO4]);
        assert_eq!(offloads(checksum | ecn, true), libc::TUN_F_CSUM);
    }
}
