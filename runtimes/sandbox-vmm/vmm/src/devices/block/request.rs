//! One request of the driver's: a header, data, and a byte for the answer (VIRTIO 1.2, 5.2.6).
//!
//! A request is a row of [`Step`]s. It says which is next, is told how it went, and at the end is
//! answered. The driver may lay the three parts out in descriptors as it likes. What it changes
//! while the request is under way changes what is read and written, never where: a range is checked
//! after it was copied out of the driver's reach.

use std::time::Instant;

use nix::errno::Errno;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::disk::{Disk, Fate, MOST_BYTES};
use super::options::{MAX_RANGES, SECTOR};
use super::step::{Memory, Step};
use trefoil_virtio::{Broken, Buffers, Chain};

/// `struct virtio_blk_discard_write_zeroes`.
const RANGE_SIZE: usize = 16;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// As it was to.
    Done = VIRTIO_BLK_S_OK as u8,
    /// Not, or not all of it.
    Failed = VIRTIO_BLK_S_IOERR as u8,
    /// It is none that this disk knows.
    Unknown = VIRTIO_BLK_S_UNSUPP as u8,
}

/// What is to be done next about a request.
pub enum Next {
    /// This, and then [`Request::completed`].
    Do(Step),
    /// It ends.
    Answer(Answer),
}

#[derive(Debug)]
enum Job {
    Over(Answer),
    Read {
        at: u64,
    },
    Write {
        at: u64,
    },
    Flush,
    Ranges {
        zero: bool,
        fate: Fate,
        at: u64,
        left: u64,
        /// The step under way and its bytes: what the disk would say meanwhile may be another.
        step: Option<(Step, u64)>,
    },
}

/// A request.
pub struct Request {
    /// Its buffers: what is left to be done of them, and at the end of the writable ones the byte
    /// for the answer.
    pub chain: Chain,
    /// When it was taken out of the queue.
    pub began: Instant,
    /// It is not to be tried through the ring any more.
    pub plainly: bool,
    job: Job,
    /// How many bytes of data were read from the disk.
    pub read: usize,
    /// How many bytes of data were written to the disk.
    pub written: usize,
}

impl Request {
    /// Room for a request.
    pub fn new() -> Self {
        Self {
            chain: Chain::default(),
            began: Instant::now(),
            plainly: false,
            job: Job::Over(Answer::Failed),
            read: 0,
            written: 0,
        }
    }

    /// Begins the request that is in the chain now.
    pub fn begin(&mut self, disk: &Disk) -> Result<(), Broken> {
        self.began = Instant::now();
        self.plainly = false;
        self.read = 0;
        self.written = 0;
        // An answer that has no place is a driver that waits forever.
        if self.chain.writable.is_empty() {
            return Err(Broken::Short);
        }
        self.job = self.understand(disk)?;
        Ok(())
    }

    fn understand(&mut self, disk: &Disk) -> Result<Job, Broken> {
        let Ok(header) = take::<16>(&mut self.chain.readable) else {
            return Ok(Job::Over(Answer::Failed));
        };
        let (kind, sector) = (number::<4>(&header, 0), number::<8>(&header, 8));
        let (readable, writable) = (self.chain.readable.len(), self.data_room());
        let whole = |length: usize| {
            let length = u64::try_from(length).ok()?;
            length
                .is_multiple_of(SECTOR)
                .then(|| disk.range(sector, length))?
        };
        let failed = Job::Over(Answer::Failed);
        let job = match u32::try_from(kind).unwrap_or(u32::MAX) {
            VIRTIO_BLK_T_IN => whole(writable).map_or(failed, |at| Job::Read { at }),
            VIRTIO_BLK_T_OUT if disk.read_only() => failed,
            VIRTIO_BLK_T_OUT => whole(readable).map_or(failed, |at| Job::Write { at }),
            // Nothing was ever written there.
            VIRTIO_BLK_T_FLUSH if disk.read_only() => Job::Over(Answer::Done),
            VIRTIO_BLK_T_FLUSH => Job::Flush,
            VIRTIO_BLK_T_GET_ID => {
                let count = disk.serial().len().min(writable);
                let serial = disk.serial().get(..count).unwrap_or_default();
                self.chain.writable.write(serial)?;
                self.chain.writable.skip(count);
                self.read = count;
                Job::Over(Answer::Done)
            }
            kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
                let ranges = readable / RANGE_SIZE;
                let some = ranges > 0 && ranges <= MAX_RANGES as usize;
                match some && readable.is_multiple_of(RANGE_SIZE) && !disk.read_only() {
                    true => Job::Ranges {
                        zero: kind == VIRTIO_BLK_T_WRITE_ZEROES,
                        fate: Fate::Discard,
                        at: 0,
                        left: 0,
                        step: None,
                    },
                    false => failed,
                }
            }
            _ => Job::Over(Answer::Unknown),
        };
        Ok(job)
    }

    /// How much of the writable part is data: all but the answer.
    fn data_room(&self) -> usize {
        self.chain.writable.len().saturating_sub(1)
    }

    /// What is to be done next. Asked twice without [`Request::completed`] in between, it says the
    /// same.
    pub fn next(&mut self, disk: &Disk) -> Result<Next, Broken> {
        loop {
            let answer = match &mut self.job {
                Job::Over(answer) => *answer,
                Job::Flush => return Ok(Next::Do(Step::Flush)),
                Job::Read { at } => {
                    let wanted = self.chain.writable.len().saturating_sub(1);
                    match (wanted, disk.place(*at)) {
                        (0, _) => Answer::Done,
                        (_, None) => Answer::Failed,
                        (_, Some(place)) => {
                            let left = usize::try_from(place.left).unwrap_or(usize::MAX);
                            let most = wanted.min(MOST_BYTES).min(left);
                            return Ok(Next::Do(Step::Read {
                                part: place.part,
                                at: place.at,
                                memory: Memory::of(self.chain.writable.iovecs(), most),
                            }));
                        }
                    }
                }
                Job::Write { at } => {
                    let memory = Memory::of(self.chain.readable.iovecs(), MOST_BYTES);
                    if memory.len() > 0 {
                        return Ok(Next::Do(Step::Write {
                            at: *at,
                            memory,
                            durable: disk.write_through,
                        }));
                    }
                    Answer::Done
                }
                Job::Ranges {
                    fate,
                    at,
                    left,
                    step,
                    ..
                } if *left > 0 => {
                    *step = step.or_else(|| disk.step(*fate, *at, *left));
                    match step {
                        Some((step, _)) => return Ok(Next::Do(*step)),
                        None => Answer::Unknown,
                    }
                }
                Job::Ranges { zero, .. } => {
                    let zero = *zero;
                    self.job = self.next_range(zero, disk)?;
                    continue;
                }
            };
            return Ok(Next::Answer(answer));
        }
    }

    /// The next of a discard's or write-zeroes' ranges, of which there is an end.
    fn next_range(&mut self, zero: bool, disk: &Disk) -> Result<Job, Broken> {
        if self.chain.readable.is_empty() {
            return Ok(match disk.write_through {
                true => Job::Flush,
                false => Job::Over(Answer::Done),
            });
        }
        let range = take::<RANGE_SIZE>(&mut self.chain.readable)?;
        let (sector, sectors) = (number::<8>(&range, 0), number::<4>(&range, 8));
        let flags = u32::try_from(number::<4>(&range, 12)).unwrap_or(u32::MAX);
        let fate = match (zero, flags) {
            (true, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) => Fate::ZeroAndUnmap,
            (true, 0) => Fate::Zero,
            (false, 0) => Fate::Discard,
            _ => return Ok(Job::Over(Answer::Unknown)),
        };
        let left = sectors.saturating_mul(SECTOR);
        Ok(match disk.range(sector, left) {
            Some(at) => Job::Ranges {
                zero,
                fate,
                at,
                left,
                step: None,
            },
            None => Job::Over(Answer::Failed),
        })
    }

    /// Takes note of how the step went that was next.
    pub fn completed(&mut self, disk: &mut Disk, outcome: Result<usize, Errno>) {
        // All buffers are the guest's memory, or our zeros.
        debug_assert_ne!(outcome, Err(Errno::EFAULT));
        match (&mut self.job, outcome) {
            // What was asked for lies on the disk, so that this is an end that should not be there.
            (Job::Read { .. } | Job::Write { .. }, Ok(0)) => self.fail(),
            (Job::Read { at }, Ok(count)) => {
                *at = at.saturating_add(count as u64);
                let count = count.min(self.chain.writable.len().saturating_sub(1));
                self.chain.writable.skip(count);
                self.read = self.read.saturating_add(count);
            }
            (Job::Write { at }, Ok(count)) => {
                *at = at.saturating_add(count as u64);
                self.chain.readable.skip(count);
                self.written = self.written.saturating_add(count);
            }
            (Job::Flush, Ok(_)) => self.job = Job::Over(Answer::Done),
            (Job::Ranges { at, left, step, .. }, outcome) => {
                let Some((step, length)) = step.take() else {
                    return self.fail();
                };
                let length = match (&step, outcome) {
                    (Step::Write { .. }, Ok(count)) if count > 0 => (count as u64).min(length),
                    (Step::Write { .. }, _) => return self.fail(),
                    (_, Ok(_)) => length,
                    // There may be another way.
                    (_, Err(why)) if disk.learn(&step, why) => 0,
                    (_, Err(_)) => return self.fail(),
                };
                *at = at.saturating_add(length);
                *left = left.saturating_sub(length);
            }
            (Job::Over(_), _) => {}
            (_, Err(_)) => self.fail(),
        }
    }

    fn fail(&mut self) {
        self.job = Job::Over(Answer::Failed);
    }

    /// Writes the answer. How many bytes were written into the chain, all told.
    pub fn answer(&mut self, answer: Answer) -> Result<u32, Broken> {
        let rest = self.data_room();
        self.chain.writable.skip(rest);
        self.chain.writable.write(&[answer as u8])?;
        Ok(u32::try_from(self.read.saturating_add(1)).unwrap_or(u32::MAX))
    }
}

/// Takes bytes off the beginning.
fn take<const N: usize>(buffers: &mut Buffers) -> Result<[u8; N], Broken> {
    let mut bytes = [0; N];
    buffers.read(&mut bytes)?;
    buffers.skip(N);
    Ok(bytes)
}

/// A number of `N` bytes.
fn number<const N: usize>(bytes: &[u8; 16], at: usize) -> u64 {
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().take(N).zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u64::from_le_bytes(number)
}
