//! The socket device (VIRTIO 1.2, 5.10): streams between ports of the guest's and of the host's,
//! without a module of the host's kernel. On the host's side each is a Unix stream.
//!
//! ```text
//! guest ── rx, tx ──▶ [receive], [transmit] ──▶ [host] ──▶ [connection] ◀── Unix stream ──▶ whoever
//!                                                 ▲
//!                                                 └── [host socket]: new streams, both ways
//! ```
//!
//! # Memory
//!
//! The guest says how much it may be sent, and what it is sent goes from the socket straight into
//! its memory, so that this direction needs none of ours. In the other direction what we say it may
//! send is what we have to be able to keep, as the host's side may take nothing at all; so
//! [`Options::memory`] bounds the sum of it. How it is shared is [`credit`]'s. A host's side that
//! does not read stops its own connection and no other. What a socket itself holds, about 400 KiB
//! each way ([`host_socket::HELD`]), comes on top of that and is charged to the cgroup of whoever wrote it.

mod connection;
mod credit;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod host;
pub mod host_socket;
mod packet;
mod ports;
mod receive;
mod socket;
mod state;
mod table;
#[cfg(any(test, fuzzing))]
mod testing;
#[cfg(test)]
mod tests;
mod timer;
mod transmit;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::interrupt::Interrupt;
use super::watch::Ready;
use super::{Active, Device, Failure, read_bytes};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
use host::{HOST_SOCKET, Host, Settings, TIMER};
use ports::Ports;
use receive::Receive;
use timer::Timer;
use transmit::Transmit;
use trefoil_virtio::{Broken, Interrupt as _};

/// As many as vhost-vsock has. Linux fills the rx queue with 4 KiB each, which is the guest's memory;
/// what it never uses but eight of is the event queue.
const QUEUES: [u16; 3] = [128, 128, 8];
const RX: usize = 0;
const TX: usize = 1;

/// What the device is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The guest's address: from 3 to 2³²-2.
    pub guest_cid: u64,
    /// The host's ports that the guest may connect to.
    pub ports: Vec<RangeInclusive<u32>>,
    /// The most connections at a time. Each takes a descriptor.
    pub connections: u16,
    /// How much data from the guest may wait for the host's side, of all connections together, in
    /// bytes; at least 4 KiB for each connection there may be.
    pub memory: u64,
}

impl Options {
    /// A guest that may connect to nothing, with up to 4096 connections and 64 MiB.
    pub fn new(guest_cid: u64) -> Self {
        Self {
            guest_cid,
            ports: Vec::new(),
            connections: 4096,
            memory: 64 << 20,
        }
    }
}

/// The device.
pub struct Vsock {
    settings: Arc<Settings>,
    generation: u16,
    link: Option<Link>,
}

/// What there is while there is a driver.
struct Link {
    receive: Receive,
    transmit: Transmit,
    host: Host,
    interrupt: Arc<Interrupt>,
}

impl Vsock {
    /// A device whose connections come and go through `host_socket`, one end of [`host_socket::HostSocket::pair`].
    pub fn new(options: Options, host_socket: OwnedFd) -> Result<Self, Failure> {
        let doing = "make the socket device";
        let wrong = |what: String| Failure::host(doing)(std::io::Error::other(what));
        let (cid, most) = (options.guest_cid, options.connections);
        if !(3..u64::from(u32::MAX)).contains(&cid) {
            return Err(wrong(format!("no guest can have the address {cid}")));
        }
        if !(1..=table::MAX_CONNECTIONS).contains(&most) {
            let limit = table::MAX_CONNECTIONS;
            return Err(wrong(format!("{most} connections are not 1 to {limit}")));
        }
        let least = u64::from(credit::LEAST) * u64::from(most);
        if options.memory < least {
            return Err(wrong(format!(
                "{} bytes are too few for {most} connections, which need {least}",
                options.memory
            )));
        }
        Ok(Self {
            settings: Arc::new(Settings {
                guest_cid: cid,
                ports: Ports::new(options.ports),
                connections: most,
                memory: options.memory,
                host_socket,
                timer: Timer::new().map_err(Failure::host(doing))?,
            }),
            generation: 0,
            link: None,
        })
    }
}

impl Link {
    /// Sends the guest what there is, and interrupts it once for all.
    fn finish(&mut self) -> Result<(), Failure> {
        self.receive.run(&mut self.host)?;
        self.signal()
    }

    fn signal(&mut self) -> Result<(), Failure> {
        #[cfg(any(test, fuzzing))]
        self.host.table.check();
        let open = self.host.table.len() as u64;
        self.host.metrics.open.set(open);
        let sent = self.transmit.queue.wants_signal()?;
        if self.receive.queue.wants_signal()? || sent {
            self.interrupt.used();
        }
        Ok(())
    }
}

impl Device for Vsock {
    fn kind(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn name(&self) -> &'static str {
        "vsock"
    }

    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }

    /// None: a device without any has streams only, to the standard as to Linux.
    fn features(&self) -> u64 {
        0
    }

    fn read_configuration(&self, offset: u64, bytes: &mut [u8]) {
        read_bytes(&self.settings.guest_cid.to_le_bytes(), offset, bytes);
    }

    fn activate(&mut self, active: Active) -> Result<(), Failure> {
        let mut queues = active
            .queues
            .into_iter()
            .map(|queue| queue.ok_or(Broken::Ring));
        let mut next = || queues.next().unwrap_or(Err(Broken::Ring));
        let (receive, transmit) = (Receive::new(next()?), Transmit::new(next()?));
        // The third queue is for a guest that goes on elsewhere, which is no longer connected then.
        let host = Host::new(
            &self.settings,
            self.generation,
            active.watch,
            active.metrics,
        )?;
        self.link = Some(Link {
            receive,
            transmit,
            host,
            interrupt: active.interrupt,
        });
        Ok(())
    }

    fn kicked(&mut self, queue: usize) -> Result<(), Failure> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match queue {
            RX => link.finish(),
            TX => {
                link.transmit.run(&mut link.host)?;
                link.finish()
            }
            _ => Ok(()),
        }
    }

    fn ready(&mut self, token: u32, ready: Ready) -> Result<(), Failure> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match token {
            HOST_SOCKET => link.host.host_socket_ready()?,
            TIMER => link.host.ticked(),
            _ => {
                // A connection that has ended since the event was taken has another token.
                let Some(place) = link.host.table.find_token(token) else {
                    return Ok(());
                };
                link.host.socket_ready(place, ready);
                link.receive.run(&mut link.host)?;
                link.host.socket_served(token);
            }
        }
        link.finish()
    }

    fn reset(&mut self) {
        if let Some(link) = self.link.take() {
            self.generation = link.host.end();
        }
    }
}
