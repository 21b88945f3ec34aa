//! A network interface: virtio-net over a tap that the parent opened.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the device: its options, features and configuration space; when to watch the tap |
//! | [`tap`] | the tap: its offloads, and packets in and out |
//! | [`receive`] | packets from the tap to the guest |
//! | [`transmit`] | packets from the guest to the tap |
//!
//! Every packet begins with a header (`struct virtio_net_hdr_v1`) that says which checksum is still
//! to be computed and how a long packet is to be cut. The tap has the same header, so what the
//! driver writes is the kernel's to check, and what the kernel writes is the driver's to obey; here
//! a packet is moved and not looked into.
//!
//! What can't be delivered is dropped and counted, as on any network. A tap that has no room is
//! waited for, in order. An interface that the host removes is a cable pulled out.

#[cfg(any(test, fuzzing))]
mod fuzz;
mod packets;
mod receive;
mod tap;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_with_tap;
mod transmit;

use std::fs::File;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_LINK_UP,
};

use super::interrupt::Interrupt;
use super::watch::{Interest, Ready, Watch};
use super::{Active, Device, Failure, read_bytes};
use crate::metrics::{self, DeviceMetrics};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
pub use packets::Unfit;
use packets::{Counts, HEADER, LINK_HEADER, MAX_PACKET, MIN_MTU, QUEUE_SIZE};
use receive::Receive;
use tap::Tap;
use transmit::Transmit;

const RX: usize = 0;
const TX: usize = 1;
/// The only descriptor that is watched.
const TAP: u32 = 0;

const FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_MTU
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_STATUS;
/// UDP in segments to be cut; UFO, its predecessor, is not: nobody makes such packets any more.
const UDP_FEATURES: u64 =
    1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6 | 1 << VIRTIO_NET_F_HOST_USO;
/// With any of these the driver is given packets longer than the MTU.
const LONG_PACKETS: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// What the interface is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Its address.
    pub mac: [u8; 6],
    /// The longest packet of IP that goes over the network behind the tap.
    pub mtu: u16,
}

/// The device.
pub struct Net {
    options: Options,
    tap: Tap,
    active: Option<InUse>,
}

/// What the device has while a driver uses it.
struct InUse {
    receive: Option<Receive>,
    transmit: Option<Transmit>,
    interest: Interest,
    watch: Watch,
    interrupt: Arc<Interrupt>,
    metrics: DeviceMetrics,
}

impl Net {
    /// Makes an interface of a tap that was opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    pub fn new(options: Options, tap: File) -> Result<Self, Unfit> {
        let [first, ..] = options.mac;
        if first & 1 != 0 || options.mac == [0; 6] {
            return Err(Unfit::Mac(options.mac));
        }
        if options.mtu < MIN_MTU {
            return Err(Unfit::Mtu(options.mtu));
        }
        Ok(Self {
            options,
            tap: Tap::new(tap)?,
            active: None,
        })
    }

    /// An interface whose packets go over a socket.
    #[cfg(any(test, fuzzing))]
    fn over_socket(options: Options, socket: std::os::unix::net::UnixDatagram) -> Self {
        Self {
            options,
            tap: Tap::stand_in(File::from(std::os::fd::OwnedFd::from(socket))),
            active: None,
        }
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let Some(receive) = &mut active.receive else {
            return Ok(());
        };
        if self.tap.is_gone {
            return Ok(());
        }
        let mut counts = Counts::default();
        let after = receive.turn(&mut self.tap, &mut counts);
        let metrics: &metrics::Device = &active.metrics;
        metrics.packets_in.add(counts.packets);
        metrics.bytes_in.add(counts.bytes);
        metrics.failures.add(counts.dropped);
        let readable = match after? {
            receive::After::Tap => true,
            receive::After::Kick => false,
            receive::After::Gone => {
                active.cable_pulled(&self.tap);
                return Ok(());
            }
        };
        let writable = active.interest.writable;
        active.watch(&self.tap, Interest { readable, writable })
    }

    fn transmit(&mut self) -> Result<(), Failure> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let Some(transmit) = &mut active.transmit else {
            return Ok(());
        };
        let mut counts = Counts::default();
        let after = transmit.turn(&mut self.tap, &mut counts);
        let metrics: &metrics::Device = &active.metrics;
        metrics.requests.add(counts.packets);
        metrics.bytes_out.add(counts.bytes);
        metrics.failures.add(counts.dropped);
        let writable = match after? {
            transmit::After::Kick => false,
            transmit::After::Full => true,
            transmit::After::Gone => {
                // The driver's packets are dropped from now on.
                transmit.kick_again();
                active.cable_pulled(&self.tap);
                return Ok(());
            }
        };
        if self.tap.is_gone {
            return Ok(());
        }
        let readable = active.interest.readable;
        active.watch(&self.tap, Interest { readable, writable })
    }
}

impl InUse {
    fn watch(&mut self, tap: &Tap, interest: Interest) -> Result<(), Failure> {
        if interest != self.interest {
            self.watch.change(tap.fd(), TAP, interest)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// The host has removed the interface: nothing comes any more.
    fn cable_pulled(&mut self, tap: &Tap) {
        // What is gone is ready for ever.
        self.watch.remove(tap.fd());
        self.interest = Interest::default();
        self.interrupt.configuration_changed();
    }
}

impl Device for Net {
    fn kind(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn name(&self) -> &'static str {
        "net"
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        match self.tap.has_uso {
            true => FEATURES | UDP_FEATURES,
            false => FEATURES,
        }
    }

    /// `struct virtio_net_config` (VIRTIO 1.2, 5.1.4), up to and with the MTU.
    fn read_configuration(&self, offset: u64, bytes: &mut [u8]) {
        let status = match self.tap.is_gone {
            true => 0,
            false => VIRTIO_NET_S_LINK_UP,
        };
        let [m0, m1, m2, m3, m4, m5] = self.options.mac;
        let [status, _, _, _] = status.to_le_bytes();
        let [mtu, mtu_high] = self.options.mtu.to_le_bytes();
        let pairs = 1;
        let space = [m0, m1, m2, m3, m4, m5, status, 0, pairs, 0, mtu, mtu_high];
        read_bytes(&space, offset, bytes);
    }

    fn activate(&mut self, active: Active) -> Result<(), Failure> {
        self.tap
            .set_offloads(active.features)
            .map_err(Failure::host("set the tap's offloads"))?;
        let has = |features: u64| active.features & features != 0;
        let longest = match has(LONG_PACKETS) {
            true => MAX_PACKET,
            false => HEADER + LINK_HEADER + usize::from(self.options.mtu),
        };
        let mut queues = active.queues.into_iter();
        let mut next = || queues.next().flatten();
        let receive =
            next().map(|queue| Receive::new(queue, has(1 << VIRTIO_NET_F_MRG_RXBUF), longest));
        let transmit = next().map(Transmit::new);
        if !self.tap.is_gone {
            // For its removal; for the rest when there is need.
            active.watch.add(self.tap.fd(), TAP, Interest::default())?;
        }
        // The work begins on the thread of events, whatever is in the queues already.
        if let Some(receive) = &receive {
            receive.kick_again();
        }
        if let Some(transmit) = &transmit {
            transmit.kick_again();
        }
        self.active = Some(InUse {
            receive,
            transmit,
            interest: Interest::default(),
            watch: active.watch,
            interrupt: active.interrupt,
            metrics: active.metrics,
        });
        Ok(())
    }

    fn kicked(&mut self, queue: usize) -> Result<(), Failure> {
        let Some(active) = &self.active else {
            return Ok(());
        };
        match queue {
            // Whoever waits for the tap is called for that.
            RX if !active.interest.readable => self.receive(),
            TX if !active.interest.writable => self.transmit(),
            _ => Ok(()),
        }
    }

    fn ready(&mut self, _token: u32, ready: Ready) -> Result<(), Failure> {
        if ready.hung_up
            && let Some(active) = &mut self.active
        {
            self.tap.is_gone = true;
            active.cable_pulled(&self.tap);
            if let Some(transmit) = &active.transmit {
                transmit.kick_again();
            }
            return Ok(());
        }
        if ready.writable {
            self.transmit()?;
        }
        if ready.readable {
            self.receive()?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take()
            && !self.tap.is_gone
        {
            active.watch.remove(self.tap.fd());
        }
    }
}
