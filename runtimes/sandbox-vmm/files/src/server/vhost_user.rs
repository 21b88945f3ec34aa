//! What the front end has told, by vhost-user: the guest's memory, its queues, and their events.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;

use trefoil_virtio::{Queue, Ram};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
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
/// What the front end has told.
#[derive(Default)]
pub(super) struct State {
    features: u64,
    regions: Vec<VhostUserMemoryRegion>,
    pub(super) ram: Option<Arc<Ram>>,
    pub(super) rings: [Ring; QUEUES],
    /// How many queues there have been.
    generations: u64,
}

#[derive(Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    /// Where the next request is.
    pub(super) base: u16,
    /// Descriptors, used ring, available ring: the guest's addresses.
    pub(super) places: Option<[u64; 3]>,
    pub(super) kick: Option<EventFd>,
    pub(super) call: Option<EventFd>,
    pub(super) enabled: bool,
    /// Once it has all it needs.
    pub(super) queue: Option<Queue<EventFd>>,
    /// Which of all queues this one is.
    pub(super) generation: u64,
}

impl State {
    /// A queue that is served, and which of all queues it is.
    pub fn queue(&mut self, number: usize) -> Option<(&mut Queue<EventFd>, u64)> {
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
    pub fn begin(&mut self, index: u32) -> Result<()> {
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
