//! A file server without files: it answers each request with its bytes in reverse. The protocol is
//! the crate `vhost`'s, so that two implementations meet.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::super::NEEDED;

/// What a server can do, and what it was told.
#[derive(Default)]
pub struct Server {
    pub features: u64,
    pub queues: u64,
    /// The request that it refuses, by its name.
    pub refuses: &'static str,
    pub log: Vec<String>,
    pub is_owned: bool,
    pub regions: Vec<(u64, u64, u64)>,
    socket: Option<UnixStream>,
    memory: Option<GuestMemoryMmap<()>>,
    rings: Vec<Ring>,
}

#[derive(Default)]
struct Ring {
    queue: Option<Queue>,
    kick: Option<File>,
    call: Option<File>,
    is_enabled: bool,
}

impl Server {
    pub fn new(queues: u64) -> Self {
        Self {
            features: NEEDED,
            queues,
            rings: (0..queues).map(|_| Ring::default()).collect(),
            ..Self::default()
        }
    }

    /// Dies.
    pub fn hang_up(&self) {
        let socket = self.socket.as_ref().unwrap();
        socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn note(&mut self, what: &str) -> Result<()> {
        self.log.push(what.to_owned());
        match self.refuses == what {
            true => Err(Error::InvalidParam),
            false => Ok(()),
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        let ring = self.rings.get_mut(index as usize);
        ring.ok_or(Error::InvalidParam)
    }

    fn queue(&mut self, index: u32) -> Result<&mut Queue> {
        let ring = self.ring(index)?;
        Ok(ring.queue.get_or_insert_with(|| Queue::new(1024).unwrap()))
    }

    /// From the front end's addresses to the guest's.
    fn translate(&self, address: u64) -> Result<u64> {
        self.regions
            .iter()
            .find(|(user, _, size)| address >= *user && address - user < *size)
            .map(|(user, guest, _)| address - user + guest)
            .ok_or(Error::InvalidParam)
    }

    fn serve(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        let memory = self.memory.as_ref().expect("memory comes before kicks");
        let Some(queue) = &mut ring.queue else {
            return;
        };
        assert!(ring.is_enabled);
        while let Some(chain) = queue.iter(memory).unwrap().next() {
            let head = chain.head_index();
            let mut request = Vec::new();
            let mut written = 0;
            for descriptor in chain {
                let mut bytes = vec![0; descriptor.len() as usize];
                if descriptor.is_write_only() {
                    for (to, from) in bytes.iter_mut().zip(request.iter().rev()) {
                        *to = *from;
                    }
                    memory.write_slice(&bytes, descriptor.addr()).unwrap();
                    written += descriptor.len();
                } else {
                    memory.read_slice(&mut bytes, descriptor.addr()).unwrap();
                    request.extend(bytes);
                }
            }
            queue.add_used(memory, head, written).unwrap();
        }
        let call = ring.call.as_mut().unwrap();
        call.write_all(&1u64.to_ne_bytes()).unwrap();
    }
}

/// Serves until the front end hangs up or something is wrong, and tells what was.
pub fn serve(mut server: Server, socket: UnixStream) -> (Arc<Mutex<Server>>, JoinHandle<String>) {
    server.socket = Some(socket.try_clone().unwrap());
    let server = Arc::new(Mutex::new(server));
    let ours = Arc::clone(&server);
    let thread = std::thread::spawn(move || {
        let mut handler = BackendReqHandler::from_stream(socket, Arc::clone(&ours));
        loop {
            let mut kicks = Vec::new();
            for (index, ring) in ours.lock().unwrap().rings.iter().enumerate() {
                if let Some(kick) = ring.kick.as_ref().filter(|_| ring.is_enabled) {
                    kicks.push((index, kick.try_clone().unwrap()));
                }
            }
            let socket = handler.as_raw_fd();
            // SAFETY: the handler keeps it open.
            let socket = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket) };
            let mut fds = vec![PollFd::new(socket, PollFlags::POLLIN)];
            fds.extend(
                kicks
                    .iter()
                    .map(|(_, kick)| PollFd::new(kick.as_fd(), PollFlags::POLLIN)),
            );
            poll(&mut fds, PollTimeout::NONE).unwrap();
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            for ((index, kick), _) in kicks.iter().zip(&ready[1..]).filter(|(_, is)| **is) {
                let mut kick: &File = kick;
                let _ = kick.read(&mut [0; 8]);
                ours.lock().unwrap().serve(*index);
            }
            if ready[0]
                && let Err(why) = handler.handle_request()
            {
                return why.to_string();
            }
        }
    });
    (server, thread)
}

impl VhostUserBackendReqHandlerMut for Server {
    fn set_owner(&mut self) -> Result<()> {
        assert!(!self.is_owned, "once for each connection");
        self.is_owned = true;
        self.note("owner")
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.features)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        assert_eq!(features & !self.features, 0);
        self.note("features")
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.queues)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.note("memory")?;
        self.regions.clear();
        let mut mapped = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let (user, guest, size) =
                (region.user_addr, region.guest_phys_addr, region.memory_size);
            self.regions.push((user, guest, size));
            let file = FileOffset::new(file, region.mmap_offset);
            let mapping = MmapRegion::from_file(file, size as usize).unwrap();
            mapped.push(GuestRegionMmap::new(mapping, GuestAddress(guest)).unwrap());
        }
        self.memory = Some(GuestMemoryMmap::from_regions(mapped).unwrap());
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> Result<()> {
        self.queue(index)?.set_size(size as u16);
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
        let [descriptors, used, available] =
            [descriptors, used, available].map(|address| self.translate(address));
        let (descriptors, used, available) = (descriptors?, used?, available?);
        let queue = self.queue(index)?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        let (low, high) = halves(available);
        queue.set_avail_ring_address(low, high);
        queue.set_ready(true);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let queue = self.queue(index)?;
        queue.set_next_avail(base as u16);
        queue.set_next_used(base as u16);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.note("stop")?;
        let ring = std::mem::take(self.ring(index)?);
        let next = ring.queue.map_or(0, |queue| queue.next_avail());
        Ok(VhostUserVringState::new(index, next.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.kick = fd;
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.call = fd;
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.note("enable")?;
        self.ring(index)?.is_enabled = enable;
        Ok(())
    }

    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Result<()> {
        unreachable!()
    }
    fn reset_owner(&mut self) -> Result<()> {
        unreachable!()
    }
    fn reset_device(&mut self) -> Result<()> {
        unreachable!()
    }
    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        unreachable!()
    }
    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        unreachable!()
    }
    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unreachable!()
    }
    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unreachable!()
    }
    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unreachable!()
    }
    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unreachable!()
    }
    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unreachable!()
    }
    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unreachable!()
    }
    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unreachable!()
    }
    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unreachable!()
    }
    fn check_device_state(&mut self) -> Result<()> {
        unreachable!()
    }
    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unreachable!()
    }
    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unreachable!()
    }
}
