//! A shared directory: virtio-fs, whose queues are served by a file server in another process.
//!
//! Here is the vhost-user front end: registers, configuration and negotiation are ours; the guest's
//! memory, its queues, what kicks them and what interrupts the guest are handed to the server, and
//! no request passes through this process.
//!
//! **The server is not trusted to answer.** It runs in a jail of its own, but parses what a guest
//! writes. All waits for it have an end ([`START`], [`STOP`]), and once the guest runs they are on the
//! thread of the virtual CPU that starts or resets the device, never on the thread of events, which
//! other devices need. A server that hangs up, answers wrongly or not at all ends the machine, which
//! says what was wrong: Linux's driver does not look whether its device asks for a reset, and would
//! wait for an answer for ever. What the server still does to the guest's memory is the guest's harm
//! alone, and ends when whoever started it ends it.
//!
//! The server has the guest's whole memory, and nothing else of ours. Addresses are the guest's own:
//! it does not learn where things lie in this process.

mod back_end;
#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::{
    FrontendReq, VhostUserMemory, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserU64,
    VhostUserVirtioFeatures, VhostUserVringAddr, VhostUserVringAddrFlags, VhostUserVringState,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{Address, ByteValued, GuestMemoryBackend, GuestMemoryRegion};

use super::watch::{Interest, Ready, Watch};
use super::{Active, Device, Failure, read_bytes};
use crate::devices::Queue;
use crate::metrics::DeviceMetrics;
use back_end::BackEnd;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;
use trefoil_virtio::Ram;

/// How long a name a directory may have.
const TAG_SIZE: usize = 36;
/// As many queues for requests as there may be virtual CPUs.
const MAX_REQUEST_QUEUES: usize = 64;
/// One for what must not wait behind requests, then those for requests. Linux makes no request of
/// more pages than a queue has room for, so they have room for its largest one, 1 MiB.
static QUEUES: [u16; 1 + MAX_REQUEST_QUEUES] = {
    let mut queues = [512; 1 + MAX_REQUEST_QUEUES];
    queues[0] = 128;
    queues
};
/// The only descriptor that is watched.
const SOCKET: u32 = 0;

/// How long the server may take to say what it can, before the guest runs.
const GREET: Duration = Duration::from_secs(10);
/// How long it may take to begin to serve the guest's queues. Who fuzzes plays a server that reads nothing
/// meanwhile.
const START: Duration = Duration::from_millis(if cfg!(fuzzing) { 20 } else { 2000 });
/// How long it may take to finish the requests that it has begun.
const STOP: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });

/// What a driver may rely on, whatever device it talks to, so the server must know it.
const NEEDED: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// What is shared, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The name by which the guest mounts it; 1 to 36 bytes.
    pub tag: String,
    /// How many queues for requests there are; 1 to 64.
    pub queues: usize,
}

/// Why a directory can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// the name {0:?} is not one of 1 to 36 bytes
    #[error("the name {0:?} is not one of 1 to {TAG_SIZE} bytes")]
    Tag(String),
    /// there are to be {0} queues, and there can be from 1 to 64
    #[error("there are to be {0} queues, and there can be from 1 to {MAX_REQUEST_QUEUES}")]
    Queues(usize),
    /// the file server lacks the features {0:#x}
    #[error("the file server lacks the features {0:#x}")]
    Features(u64),
    /// the file server has {has} queues, and {needed} are needed
    #[error("the file server has {has} queues, and {needed} are needed")]
    TooFew {
        /// The server's.
        has: u64,
        /// Those for requests, and one more.
        needed: u64,
    },
    /// ask the file server what it can do: {0}
    #[error("ask the file server what it can do: {0}")]
    BackEnd(#[from] io::Error),
}

/// The device.
pub struct Fs {
    configuration: [u8; TAG_SIZE + 4],
    queues: &'static [u16],
    back_end: BackEnd,
    /// Why the server has been given up on at a reset, if it has.
    lost: Option<String>,
    serving: Option<Serving>,
}

/// What the server does at the moment.
struct Serving {
    rings: Vec<u32>,
    watch: Watch,
    metrics: DeviceMetrics,
}

impl Fs {
    /// Makes a device of a file server that listens on the other end of a stream socket, and asks
    /// it what it can do.
    pub fn new(options: Options, back_end: UnixStream) -> Result<Self, Unfit> {
        Self::greet(options, back_end, GREET)
    }

    fn greet(options: Options, back_end: UnixStream, limit: Duration) -> Result<Self, Unfit> {
        let Options { tag, queues } = options;
        let mut configuration = [0; TAG_SIZE + 4];
        match configuration.get_mut(..tag.len()) {
            Some(place) if (1..=TAG_SIZE).contains(&tag.len()) && !tag.contains('\0') => {
                place.copy_from_slice(tag.as_bytes());
            }
            _ => return Err(Unfit::Tag(tag)),
        }
        if queues == 0 || queues > MAX_REQUEST_QUEUES {
            return Err(Unfit::Queues(queues));
        }
        let count = u32::try_from(queues).map_err(|_| Unfit::Queues(queues))?;
        configuration[TAG_SIZE..].copy_from_slice(&count.to_le_bytes());
        let mut back_end = BackEnd::new(back_end)?;
        negotiate(&mut back_end, queues as u64 + 1, Instant::now() + limit)?;
        Ok(Self {
            configuration,
            queues: QUEUES.get(..=queues).ok_or(Unfit::Queues(queues))?,
            back_end,
            lost: None,
            serving: None,
        })
    }

    fn start(&mut self, active: &Active) -> io::Result<Vec<u32>> {
        let until = Instant::now() + START;
        let features = active.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let features = VhostUserU64::new(features);
        self.back_end
            .tell(FrontendReq::SET_FEATURES, features.as_slice(), &[], until)?;
        let (memory, fds) = memory(&active.ram)?;
        self.back_end
            .tell(FrontendReq::SET_MEM_TABLE, &memory, &fds, until)?;
        let mut rings = Vec::new();
        for (index, queue) in (0_u32..).zip(&active.queues) {
            if let Some(queue) = queue {
                let line = active.interrupt.line().as_raw_fd();
                self.start_ring(index, queue, line, until)?;
                rings.push(index);
            }
        }
        Ok(rings)
    }

    fn start_ring(
        &mut self,
        index: u32,
        queue: &Queue,
        line: RawFd,
        until: Instant,
    ) -> io::Result<()> {
        let ring = queue.ring();
        let state = |value| VhostUserVringState::new(index, value);
        let number = VhostUserU64::new(index.into());
        let address = VhostUserVringAddr::new(
            index,
            VhostUserVringAddrFlags::empty(),
            ring.desc_table(),
            ring.used_ring(),
            ring.avail_ring(),
            0,
        );
        let kick = queue.kick().as_raw_fd();
        let [size, base, on] = [ring.size().into(), ring.next_avail().into(), 1].map(state);
        let steps: [(_, &[u8], &[RawFd]); 6] = [
            (FrontendReq::SET_VRING_NUM, size.as_slice(), &[]),
            (FrontendReq::SET_VRING_BASE, base.as_slice(), &[]),
            (FrontendReq::SET_VRING_ADDR, address.as_slice(), &[]),
            (FrontendReq::SET_VRING_CALL, number.as_slice(), &[line]),
            (FrontendReq::SET_VRING_KICK, number.as_slice(), &[kick]),
            (FrontendReq::SET_VRING_ENABLE, on.as_slice(), &[]),
        ];
        for (request, body, fds) in steps {
            self.back_end.tell(request, body, fds, until)?;
        }
        self.back_end.settle(until)
    }

    /// Has the server let go of the guest's queues, when it has finished what it has begun.
    fn stop(&mut self, rings: &[u32]) -> io::Result<()> {
        let until = Instant::now() + STOP;
        for &index in rings {
            let ring = VhostUserVringState::new(index, 0);
            self.back_end
                .ask(FrontendReq::GET_VRING_BASE, ring.as_slice(), until)?;
        }
        Ok(())
    }
}

/// Learns what the server can do, and tells it what is made use of; once for each server.
fn negotiate(back_end: &mut BackEnd, needed: u64, until: Instant) -> Result<(), Unfit> {
    let features = back_end.ask(FrontendReq::GET_FEATURES, &[], until)?;
    if features & NEEDED != NEEDED {
        return Err(Unfit::Features(NEEDED & !features));
    }
    let offered = back_end.ask(FrontendReq::GET_PROTOCOL_FEATURES, &[], until)?;
    let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    let accepted = VhostUserProtocolFeatures::from_bits_truncate(offered) & wanted;
    let body = VhostUserU64::new(accepted.bits());
    back_end.tell(
        FrontendReq::SET_PROTOCOL_FEATURES,
        body.as_slice(),
        &[],
        until,
    )?;
    if accepted.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        back_end.acknowledges();
    }
    // Without the feature it has as many as its kind of device has, whatever that is.
    if accepted.contains(VhostUserProtocolFeatures::MQ) {
        let has = back_end.ask(FrontendReq::GET_QUEUE_NUM, &[], until)?;
        if has < needed {
            return Err(Unfit::TooFew { has, needed });
        }
    }
    back_end.tell(FrontendReq::SET_OWNER, &[], &[], until)?;
    Ok(back_end.settle(until)?)
}

/// The guest's memory as a message, and the files that it is in.
fn memory(ram: &Ram) -> io::Result<(Vec<u8>, Vec<RawFd>)> {
    let mut regions: Vec<u8> = Vec::new();
    let mut fds = Vec::new();
    for region in ram.iter() {
        let file = region
            .file_offset()
            .ok_or_else(|| io::Error::other("the guest's memory is not in a file"))?;
        let start = region.start_addr().raw_value();
        let region = VhostUserMemoryRegion::new(start, region.len(), start, file.start());
        regions.extend(region.as_slice());
        fds.push(file.file().as_raw_fd());
    }
    let count = u32::try_from(fds.len()).map_err(io::Error::other)?;
    let mut body = VhostUserMemory::new(count).as_slice().to_vec();
    body.extend(regions);
    Ok((body, fds))
}

impl Device for Fs {
    fn kind(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn name(&self) -> &'static str {
        "fs"
    }

    fn queues(&self) -> &'static [u16] {
        self.queues
    }

    fn features(&self) -> u64 {
        0
    }

    /// `struct virtio_fs_config` (VIRTIO 1.2, 5.11.4).
    fn read_configuration(&self, offset: u64, bytes: &mut [u8]) {
        read_bytes(&self.configuration, offset, bytes);
    }

    fn takes_kicks(&self) -> bool {
        false
    }

    fn activate(&mut self, active: Active) -> Result<(), Failure> {
        const DOING: &str = "have the file server serve the queues";
        if let Some(why) = &self.lost {
            let why = io::Error::other(format!("it has been given up on: {why}"));
            return Err(Failure::host(DOING)(why));
        }
        let rings = self.start(&active).map_err(Failure::host(DOING))?;
        let watch = active.watch;
        // It says nothing unasked; only its end is of interest.
        watch.add(self.back_end.fd(), SOCKET, Interest::default())?;
        self.serving = Some(Serving {
            rings,
            watch,
            metrics: active.metrics,
        });
        Ok(())
    }

    fn kicked(&mut self, _queue: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn ready(&mut self, _token: u32, ready: Ready) -> Result<(), Failure> {
        if !ready.hung_up || self.serving.is_none() {
            return Ok(());
        }
        let why = io::Error::other("the server has hung up");
        Err(Failure::host("wait for the file server")(why))
    }

    fn reset(&mut self) {
        let Some(serving) = self.serving.take() else {
            return;
        };
        serving.watch.remove(self.back_end.fd());
        if let Err(why) = self.stop(&serving.rings) {
            // There is nobody to be told until a driver starts the device again.
            serving.metrics.failures.add(1);
            self.lost = Some(why.to_string());
            self.back_end.hang_up();
        }
    }
}
