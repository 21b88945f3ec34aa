//! One thing to do with a disk, which a system call or the ring does.

/// Memory that a step reads into or writes from.
#[derive(Clone, Copy, Debug)]
pub enum Memory {
    /// One piece.
    One(libc::iovec),
    /// Several, in an array that stays where and what it is until the step is done.
    Many {
        /// The array.
        pieces: *const libc::iovec,
        /// How many there are.
        count: u32,
        /// How many bytes they are together.
        length: usize,
    },
}

// SAFETY: addresses of memory that is tied to no thread; who follows them promises that it is there.
unsafe impl Send for Memory {}

/// One thing to do with the disk.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Read from `at` of a part into the memory.
    Read {
        /// Which of the disk's files.
        part: u8,
        /// Where in it.
        at: u64,
        /// Where to.
        memory: Memory,
    },
    /// Write the memory to `at`.
    Write {
        /// Where on the disk.
        at: u64,
        /// Where from.
        memory: Memory,
        /// Whether it is to be durable when it is done.
        durable: bool,
    },
    /// Make durable what was written.
    Flush,
    /// `fallocate`.
    Allocate {
        /// Where on the disk.
        at: u64,
        /// How many bytes.
        length: u64,
        /// What to do with them.
        mode: libc::c_int,
    },
    /// `BLKDISCARD`.
    Discard {
        /// Where on the disk.
        at: u64,
        /// How many bytes.
        length: u64,
    },
}

impl Step {
    /// Whether io_uring knows it. There is no way to discard on all kernels but an ioctl.
    pub fn is_for_the_ring(&self) -> bool {
        !matches!(self, Self::Discard { .. })
    }
}

impl Memory {
    /// The first `most` bytes of some buffers, or less where that is less work.
    pub fn of(buffers: &[libc::iovec], most: usize) -> Self {
        let mut length: usize = 0;
        let mut count: u32 = 0;
        for buffer in buffers {
            match length.checked_add(buffer.iov_len) {
                Some(longer) if longer <= most => length = longer,
                _ => break,
            }
            count += 1;
        }
        match buffers.first() {
            // One that is alone is a little less work for the kernel, and can be cut.
            Some(first) if count < 2 => Self::One(libc::iovec {
                iov_base: first.iov_base,
                iov_len: first.iov_len.min(most),
            }),
            _ => Self::Many {
                pieces: buffers.as_ptr(),
                count,
                length,
            },
        }
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.iov_len,
            Self::Many { length, .. } => *length,
        }
    }

    /// As a system call takes it.
    pub fn pieces(&self) -> (*const libc::iovec, libc::c_int) {
        match self {
            Self::One(piece) => (piece, 1),
            Self::Many { pieces, count, .. } => {
                (*pieces, libc::c_int::try_from(*count).unwrap_or(0))
            }
        }
    }
}

/// The flags of a write.
pub fn rw_flags(durable: bool) -> libc::c_int {
    match durable {
        true => libc::RWF_DSYNC,
        false => 0,
    }
}
