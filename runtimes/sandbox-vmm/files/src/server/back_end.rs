//! The connection to the VMM: vhost-user, the back end's side, and the guest's queues.
//!
//! The VMM may have been taken over by its guest. What it can do here is to have requests made, which
//! its guest can too, and to have its own memory read and written. At what makes no sense the
//! server ends, and the pod's files with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use trefoil_vmm::devices::interrupt::Interrupt;
use trefoil_vmm::devices::queue::{Broken, Chain, Queue};
use trefoil_vmm::metrics::{DeviceMetrics, Shared};
use trefoil_vmm::ram::Ram;
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

use crate::passthrough::Passthrough;

const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// One for what must not wait behind requests, and one for requests: there is but one thread.
const QUEUES: usize = 2;
/// The largest a driver may make one.
const QUEUE_SIZE: u16 = 1024;
/// How many requests of a queue are done before it is looked whether there is something else.
const BUDGET: usize = 64;

/// Whether there is somebody at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// There is.
    There,
    /// There was.
    Gone,
}

/// The connection.
pub struct BackEnd {
    handler: BackendReqHandler<Mutex<State>>,
    state: Arc<Mutex<State>>,
    files: Passthrough,
    chain: Chain,
}

impl BackEnd {
    /// Serves files over a connection to a VMM.
    pub fn new(socket: UnixStream, files: Passthrough) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        Self {
            handler: BackendReqHandler::from_stream(socket, Arc::clone(&state)),
            state,
            files,
            chain: Chain::default(),
        }
    }

    /// What is served.
    pub fn files(&mut self) -> &mut Passthrough {
        &mut self.files
    }

    /// Does what the VMM asks for next.
    pub fn hear(&mut self) -> io::Result<Front> {
        match self.handler.handle_request() {
            Ok(()) => Ok(Front::There),
            Err(Error::Disconnected | Error::SocketBroken(_)) => Ok(Front::Gone),
            Err(why) => Err(io::Error::other(format!("hear the VMM: {why}"))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // There is no other thread.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the guest kicks, with the queues' numbers.
    pub fn kicks(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        let state = self.state();
        let kicks = state.rings.iter().enumerate().filter_map(|(number, ring)| {
            let kick = ring.queue.as_ref()?.kick().as_raw_fd();
            // SAFETY: it is closed by a message of the VMM's only, which is heard by `hear`: that
            // borrows us mutably, so nobody has this by then.
            Some((number, unsafe { BorrowedFd::borrow_raw(kick) }))
        });
        kicks.collect()
    }

    /// Does the requests in a queue that was kicked.
    pub fn work(&mut self, number: usize) -> io::Result<()> {
        let wrong = |why: Broken| io::Error::other(format!("work on queue {number}: {why}"));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = state
            .rings
            .get_mut(number)
            .and_then(|ring| ring.queue.as_mut())
        else {
            return Ok(());
        };
        queue.kick().read()?;
        queue.hush().map_err(wrong)?;
        for _ in 0..BUDGET {
            if !queue.pop(&mut self.chain).map_err(wrong)? {
                if !queue.listen().map_err(wrong)? {
                    return Ok(());
                }
                continue;
            }
            let length = self.files.serve(&self.chain.readable, &self.chain.writable);
            queue.push(self.chain.head, length).map_err(wrong)?;
            queue.signal().map_err(wrong)?;
        }
        queue.kick_again();
        Ok(())
    }
}

impl AsFd for BackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handler keeps it open.
        unsafe { BorrowedFd::borrow_raw(self.handler.as_raw_fd()) }
    }
}

/// What the VMM has told.
#[derive(Default)]
struct State {
    features: u64,
    regions: Vec<VhostUserMemoryRegion>,
    ram: Option<Arc<Ram>>,
    rings: [Ring; QUEUES],
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
    queue: Option<Queue>,
}

impl State {
    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.rings.get_mut(index))
            .ok_or(Error::InvalidParam)
    }

    /// From the VMM's addresses to the guest's.
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
        // Nobody reads what it counts.
        let metrics = Shared::map(None).map_err(Error::ReqHandlerError)?;
        let interrupt = Interrupt::new(copy(call)?, DeviceMetrics::new(&metrics, 0));
        let queue = Queue::new(queue, ram, copy(kick)?, Arc::new(interrupt));
        // What is there already was kicked before anybody listened.
        queue.kick_again();
        ring.queue = Some(queue);
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

    /// Lets go of the guest's queue. All requests that were begun are done: each is, before the next.
    fn stop(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.base = queue.ring().next_avail();
        }
    }
}

type Made = virtio_queue::Queue;

fn event(file: Option<File>) -> Option<EventFd> {
    // SAFETY: the descriptor is ours. If it is none of an event's, reading and writing it does
    // whatever it does: it is the VMM's.
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
        // At an error the connection ends, which the VMM sees too.
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
