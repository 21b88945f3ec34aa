//! Buffers in a guest's memory.

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::{Broken, Ram};

/// Buffers in the guest's memory, in order, as the host addresses that system calls take.
///
/// They stay valid as long as the [`Ram`] that the queue holds; a device that keeps a chain past
/// its queue keeps an `Arc` of that too.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    list: Vec<libc::iovec>,
    length: usize,
}

// SAFETY: the addresses are of a mapping that is shared with the guest anyway; nothing in here is
// tied to a thread.
unsafe impl Send for Buffers {}

// SAFETY: as above; what they point to is only reached by copies and by the kernel.
unsafe impl Sync for Buffers {}

impl Buffers {
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.length = 0;
    }

    /// Whether they hold nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds what lies at an address of the guest's.
    pub fn add(&mut self, ram: &Ram, address: GuestAddress, length: usize) -> Result<(), Broken> {
        if length == 0 {
            return Ok(());
        }
        // A buffer may cross from one region into the next, where they touch.
        for slice in GuestMemoryBackend::get_slices(ram, address, length) {
            let slice = slice.map_err(|_| Broken::Address)?;
            self.list.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.length += length;
        Ok(())
    }

    /// How many bytes they hold together.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// The buffers, for a system call that moves bytes to or from all of them.
    #[inline]
    pub fn iovecs(&self) -> &[libc::iovec] {
        &self.list
    }

    /// Forgets the first `count` bytes, or all if there are fewer.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length -= left;
        let mut whole = 0;
        for buffer in &mut self.list {
            if left < buffer.iov_len {
                // SAFETY: the result is still inside the buffer.
                buffer.iov_base = unsafe { buffer.iov_base.cast::<u8>().add(left) }.cast();
                buffer.iov_len -= left;
                break;
            }
            left -= buffer.iov_len;
            whole += 1;
        }
        self.list.drain(..whole);
    }

    /// Forgets all but the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count.min(self.length);
        self.length = left;
        let mut kept = 0;
        for buffer in &mut self.list {
            if left == 0 {
                break;
            }
            buffer.iov_len = buffer.iov_len.min(left);
            left -= buffer.iov_len;
            kept += 1;
        }
        self.list.truncate(kept);
    }

    /// Copies from the beginning of the buffers.
    pub fn read(&self, bytes: &mut [u8]) -> Result<(), Broken> {
        self.copy(bytes.len(), |slice, at, count| {
            slice.copy_to(&mut bytes[at..at + count]);
        })
    }

    /// Copies `bytes` to the beginning of the buffers.
    pub fn write(&self, bytes: &[u8]) -> Result<(), Broken> {
        self.copy(bytes.len(), |slice, at, count| {
            slice.copy_from(&bytes[at..at + count]);
        })
    }

    fn copy(
        &self,
        count: usize,
        mut copy: impl FnMut(&VolatileSlice<'_>, usize, usize),
    ) -> Result<(), Broken> {
        if count > self.length {
            return Err(Broken::Short);
        }
        let mut done = 0;
        for buffer in &self.list {
            if done == count {
                break;
            }
            let part = buffer.iov_len.min(count - done);
            // SAFETY: the buffer lies in the guest's mapped memory (see `add`), which lives as long
            // as we do. The guest may change it meanwhile, which volatile accesses allow for.
            let slice = unsafe { VolatileSlice::new(buffer.iov_base.cast(), part) };
            copy(&slice, done, part);
            done += part;
        }
        Ok(())
    }
}
