//! The connection to the device's front end: vhost-user, the back end's side, and the guest's queues.
//!
//! The front end may have been taken over by its guest. What it can do here is to have requests made, which
//! its guest can too, and to have its own memory read and written. At what makes no sense the
//! server ends, and the pod's files with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trefoil_virtio::{Broken, Chain, Queue, Ram};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// One for what must not wait behind requests, and one for requests: one thread does them.
const QUEUES: usize = 2;
/// The largest a driver may make one.
const QUEUE_SIZE: u16 = 1024;
/// Whether there is somebody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// There is.
    There,
    /// There was.
    Gone,
}

/// A request, taken out of a queue. Kept and filled again, it allocates nothing.
#[derive(Default)]
pub struct Job {
    /// Where it is, and where its answer goes.
    pub chain: Chain,
    ring: usize,
    generation: u64,
    /// Keeps the guest's memory mapped.
    ram: Option<Arc<Ram>>,
}

/// The connection. Only one thread hears it at a time, and listens to what is kicked; all answer.
pub struct BackEnd {
    handler: Mutex<BackendReqHandler<Mutex<State>>>,
    socket: RawFd,
    state: Arc<Mutex<State>>,
}

impl BackEnd {
    /// The connection to a front end.
    pub fn new(socket: UnixStream) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        Self {
            socket: socket.as_raw_fd(),
            handler: Mutex::new(BackendReqHandler::from_stream(socket, Arc::clone(&state))),
            state,
        }
    }

    /// Does what the front end asks for next.
    pub fn hear(&self) -> io::Result<Front> {
        let mut handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner);
        match handler.handle_request() {
            Ok(()) => Ok(Front::There),
            Err(Error::Disconnected | Error::SocketBroken(_)) => Ok(Front::Gone),
            Err(why) => Err(io::Error::other(format!("hear the front end: {why}"))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest kicks, with the queues' numbers.
    pub fn kicks(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        let state = self.state();
        let kicks = state.rings.iter().enumerate().filter_map(|(number, ring)| {
            let kick = ring.queue.as_ref()?.kick().as_raw_fd();
            // SAFETY: it is closed by a message of the front end's only, which the thread hears that calls
            // this too: it has let go of it by then.
            Some((number, unsafe { BorrowedFd::borrow_raw(kick) }))
        });
        kicks.collect()
    }

    /// Begins with a queue that was kicked.
    pub fn begin(&self, number: usize) -> io::Result<()> {
        match self.state().queue(number) {
            None => Ok(()),
            Some((queue, _)) => {
                queue.kick().read()?;
                queue.hush().map_err(wrong(number))
            }
        }
    }

    /// Takes the next request out of a queue. If there is none, `false`, and the next one is kicked.
    pub fn pop(&self, number: usize, job: &mut Job) -> io::Result<bool> {
        let mut state = self.state();
        let ram = state.ram.clone();
        let Some((queue, generation)) = state.queue(number) else {
            return Ok(false);
        };
        if !queue.pop(&mut job.chain).map_err(wrong(number))? {
            if queue.listen().map_err(wrong(number))? {
                queue.kick_again();
            }
            return Ok(false);
        }
        (job.ring, job.generation, job.ram) = (number, generation, ram);
        Ok(true)
    }

    /// Hands a request back, with an answer of so many bytes.
    pub fn push(&self, job: &Job, length: u32) -> io::Result<()> {
        match self.state().queue(job.ring) {
            Some((queue, generation)) if generation == job.generation => {
                let head = job.chain.head;
                queue.push(head, length).map_err(wrong(job.ring))?;
                queue.signal().map_err(wrong(job.ring))
            }
            // Nobody waits for it any more.
            _ => Ok(()),
        }
    }

    /// Serves a queue whose rings lie there: descriptors, used, available.
    #[cfg(test)]
    pub fn serve_queue(
        &self,
        size: u16,
        places: [u64; 3],
        ram: Arc<Ram>,
        kick: EventFd,
        call: EventFd,
    ) {
        let mut state = self.state();
        state.ram = Some(ram);
        state.rings[1] = Ring {
            size,
            places: Some(places),
            kick: Some(kick),
            call: Some(call),
            enabled: true,
            ..Ring::default()
        };
        state.begin(1).expect("a queue");
    }

    /// Has all queues looked at again, after others had their turn.
    pub fn kick_again(&self) {
        for ring in &self.state().rings {
            if let Some(queue) = &ring.queue {
                queue.kick_again();
            }
        }
    }
}

fn wrong(number: usize) -> impl Fn(Broken) -> io::Error {
    move |why| io::Error::other(format!("work on queue {number}: {why}"))
}

impl AsFd for BackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handler keeps it open.
        unsafe { BorrowedFd::borrow_raw(self.socket) }
    }
}

/// What the front end has told.
#[derive(Default)]
struct State {
    features: u64,
    regions: Vec<VhostUserMemoryRegion>,
    ram: Option<Arc<Ram>>,
    rings: [Ring; QUEUES],
    /// How many queues there have been.
    generations: u64,
}

#[derive(Default)]
struct Ring {
    size: u16,
    /// Where the next request is.
    base: u16,
    /// Descriptors, used ring, available ring: the guest's addresses.
    places: Option<[u64; 3]>,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    enabled: bool,
    /// Once it has all it needs.
    queue: Option<Queue<EventFd>>,
    /// Which of all queues this one is.
    generation: u64,
}

impl State {
    fn queue(&mut self, number: usize) -> Option<(&mut Queue<EventFd>, u64)> {
        let ring = self.rings.get_mut(number)?;
        Some((ring.queue.as_mut()?, ring.generation))
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index))
            .ok_or(Error::InvalidParam)
    }

    /// From the front end's addresses to the guest's.
    fn translate(&self, address: u64) -> Result<u64> {
        self.regions
            .iter()
            .find_map(|region| {
                let (size, guest) = (region.memory_size, region.guest_phys_addr);
                let offset = address.checked_sub(region.user_addr)?;
                (offset < size).then(|| guest.checked_add(offset))?
            })
            .ok_or(Error::InvalidParam)
    }

    /// Begins to serve a queue if all is known that is needed for it.
    fn begin(&mut self, index: u32) -> Result<()> {
        let (ram, features) = (self.ram.clone(), self.features);
        self.generations += 1;
        let generation = self.generations;
        let ring = self.ring(index)?;
        ring.stop();
        let (Some(ram), Some(places), true) = (ram, ring.places, ring.enabled) else {
            return Ok(());
        };
        let (Some(kick), Some(call)) = (&ring.kick, &ring.call) else {
            return Ok(());
        };
        let queue = ring.made(places, features)?;
        if !queue.is_valid(&*ram) {
            return Err(Error::InvalidParam);
        }
        let copy = |event: &EventFd| event.try_clone().map_err(Error::ReqHandlerError);
        let queue = Queue::new(queue, ram, copy(kick)?, copy(call)?);
        // What is there already was kicked before anybody listened.
        queue.kick_again();
        ring.queue = Some(queue);
        ring.generation = generation;
        Ok(())
    }
}

impl Ring {
    fn made(&self, [descriptors, used, available]: [u64; 3], features: u64) -> Result<Made> {
        let mut queue = Made::new(QUEUE_SIZE).map_err(|_| Error::InvalidParam)?;
        queue.set_size(self.size);
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        let (low, high) = halves(available);
        queue.set_avail_ring_address(low, high);
        queue.set_next_avail(self.base);
        queue.set_next_used(self.base);
        queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        queue.set_ready(true);
        Ok(queue)
    }

    /// Lets go of the guest's queue. Requests that were begun and are not done are never answered.
    fn stop(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.base = queue.ring().next_avail();
        }
    }
}

type Made = virtio_queue::Queue;

fn event(file: Option<File>) -> Option<EventFd> {
    // SAFETY: the descriptor is ours. If it is none of an event's, reading and writing it does
    // whatever it does: it is the front end's.
    file.map(|file| unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

impl VhostUserBackendReqHandlerMut for State {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("reset the owner"))
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("reset the device"))
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !FEATURES != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        // Without this feature there is no request to enable them.
        let always = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0;
        for ring in &mut self.rings {
            ring.enabled |= always;
        }
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(QUEUES as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let mut mapped = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let size = usize::try_from(region.memory_size).map_err(|_| Error::InvalidParam)?;
            let mapping = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size)
                .map_err(|_| Error::InvalidParam)?;
            let start = GuestAddress(region.guest_phys_addr);
            mapped.push(GuestRegionMmap::new(mapping, start).ok_or(Error::InvalidParam)?);
        }
        let ram = Ram::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
        self.regions = regions.to_vec();
        self.ram = Some(Arc::new(ram));
        for index in 0..QUEUES as u32 {
            self.begin(index)?;
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        let size = u16::try_from(size).map_err(|_| Error::InvalidParam)?;
        if size > QUEUE_SIZE || !size.is_power_of_two() {
            return Err(Error::InvalidParam);
        }
        self.ring(index)?.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let places = [descriptors, used, available].map(|address| self.translate(address));
        let [descriptors, used, available] = places;
        self.ring(index)?.places = Some([descriptors?, used?, available?]);
        self.begin(index)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.ring(index)?.base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        ring.stop();
        let base = ring.base;
        *ring = Ring::default();
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.kick = event(fd);
        self.begin(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.call = event(fd);
        self.begin(index.into())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        // At an error the connection ends, which the front end sees too.
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        self.begin(index)
    }

    // What is asked for below, only features allow that are not offered.

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Error::InvalidOperation("read the configuration"))
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidOperation("write the configuration"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidOperation("draw"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidOperation("share an object"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidOperation("track requests"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidOperation("track requests"))
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(Error::InvalidOperation("count the memory's slots"))
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        Err(Error::InvalidOperation("add memory"))
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidOperation("remove memory"))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidOperation("migrate"))
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidOperation("migrate"))
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidOperation("share memory"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidOperation("log"))
    }
}
