//! What packets are like, how many are moved in a turn, and why there can be none.

/// The largest size of a queue.
pub(super) const QUEUE_SIZE: u16 = 256;
/// The most packets in one call: others have their turn in between.
pub(super) const BATCH: u16 = QUEUE_SIZE;
/// After so many packets the driver is told of them, so that it works while we do.
pub(super) const SIGNAL_EVERY: u16 = 64;

/// `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;
/// An Ethernet header: what is shorter is no packet.
pub(super) const MIN_FRAME: usize = 14;
/// An Ethernet header with two VLAN tags.
pub(super) const LINK_HEADER: usize = MIN_FRAME + 8;
/// The longest packet of IP that is yet to be cut, in its frame and with its header.
pub(super) const MAX_PACKET: usize = HEADER + LINK_HEADER + 65535;

/// The least MTU of IPv4.
pub(super) const MIN_MTU: u16 = 68;

/// Why an interface can't be made.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// the MTU {0} is less than 68
    #[error("the MTU {0} is less than {MIN_MTU}")]
    Mtu(u16),
    /// the address {0} is not a single interface's
    #[error("the address {0:02x?} is not a single interface's")]
    Mac([u8; 6]),
    /// the descriptor's flags {0:#x} are not those of a tap with packet headers
    #[error(
        "the descriptor's flags are {0:#x}, not those of a tap that was opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    Flags(i32),
    /// {doing}: {why}
    #[error("{doing}: {why}")]
    Tap {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        why: std::io::Error,
    },
}

/// What one turn moved, to be added to the metrics at its end.
#[derive(Default)]
pub(super) struct Counts {
    pub packets: u64,
    pub bytes: u64,
    pub dropped: u64,
}

impl Counts {
    /// One packet more, of so many bytes.
    pub fn packet(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}
