//! Random numbers: virtio-rng over the host's `getrandom`.
//!
//! There is no limit to how much a guest may have: the host's generator is a cipher that does not
//! run dry, and the time it takes is the pod's own, in the pod's own cgroup. What is limited is how
//! much is made in one go, so that the guest's other devices have their turns: a guest that wants
//! more asks again.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::watch::Ready;
use super::{Active, Device, Failure};
use crate::devices::Queue;
use crate::metrics::DeviceMetrics;
use std::time::Instant;
use trefoil_virtio::{Buffers, Chain};

/// Linux has one request under way at a time.
const QUEUE_SIZE: u16 = 16;
/// How many bytes one turn makes.
const TURN_BYTES: usize = 64 << 10;
/// What a buffer counts as at least: a system call costs as much as so many bytes.
const LEAST_COST: usize = 256;

/// The device.
#[derive(Default)]
pub struct Rng {
    chain: Chain,
    active: Option<(Queue, DeviceMetrics)>,
}

impl Rng {
    /// A device that needs nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn turn(&mut self) -> Result<(), Failure> {
        let Some((queue, metrics)) = &mut self.active else {
            return Ok(());
        };
        queue.hush()?;
        let mut budget = TURN_BYTES;
        let mut more = true;
        for _ in 0..QUEUE_SIZE {
            if budget == 0 {
                break;
            }
            if !queue.pop(&mut self.chain)? {
                more = queue.listen()?;
                break;
            }
            let began = Instant::now();
            metrics.requests.add(1);
            let count = fill(&mut self.chain.writable, &mut budget)?;
            queue.push(self.chain.head, u32::try_from(count).unwrap_or(u32::MAX))?;
            metrics.bytes_in.add(count as u64);
            metrics.latency.count(began.elapsed());
        }
        queue.signal()?;
        if more {
            queue.kick_again();
        }
        Ok(())
    }
}

/// Fills buffers from their beginning as far as the budget goes. How many bytes that is.
fn fill(buffers: &mut Buffers, budget: &mut usize) -> Result<usize, Failure> {
    let mut filled = 0;
    for buffer in buffers.iovecs() {
        let mut done = 0;
        while done < buffer.iov_len && *budget > 0 {
            let length = (buffer.iov_len - done).min(*budget);
            // Not the C library's: that may keep a state of its own, for which it maps memory. The
            // host's generator has been ready since long before; if not, we don't wait for it.
            // SAFETY: the range is inside the buffer, which is the guest's memory.
            let outcome = unsafe {
                let start = buffer.iov_base.cast::<u8>().add(done);
                libc::syscall(libc::SYS_getrandom, start, length, libc::GRND_NONBLOCK)
            };
            match usize::try_from(outcome) {
                Ok(count) => {
                    done += count;
                    *budget = budget.saturating_sub(count.max(LEAST_COST));
                }
                Err(_) => {
                    let why = std::io::Error::last_os_error();
                    if why.kind() != std::io::ErrorKind::Interrupted {
                        return Err(Failure::host("make random numbers")(why));
                    }
                }
            }
        }
        filled += done;
        if done < buffer.iov_len {
            break;
        }
    }
    Ok(filled)
}

impl Device for Rng {
    fn kind(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> &'static str {
        "rng"
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_configuration(&self, _offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
    }

    fn activate(&mut self, active: Active) -> Result<(), Failure> {
        let queue = active.queues.into_iter().next().flatten();
        self.active = queue.map(|queue| (queue, active.metrics));
        Ok(())
    }

    fn kicked(&mut self, _queue: usize) -> Result<(), Failure> {
        self.turn()
    }

    fn ready(&mut self, _token: u32, _ready: Ready) -> Result<(), Failure> {
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

/// Does what a guest may do that the bytes describe, for fuzzing.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let mut driver = super::testing::Driver::start(Box::new(Rng::new()), 0);
    driver.misbehave(bytes, |_, _| {});
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::{BUFFERS, Driver, WRITE};
    use proptest::prelude::{ProptestConfig, any, prop, proptest};
    use vm_memory::{Bytes, GuestAddress};

    fn start() -> Driver {
        Driver::start(Box::new(Rng::new()), 0)
    }

    /// How often the most frequent byte is there, in thousandths.
    fn most_frequent(bytes: &[u8]) -> usize {
        let mut counts = [0; 256];
        for byte in bytes {
            counts[usize::from(*byte)] += 1;
        }
        counts.iter().max().unwrap() * 1000 / bytes.len()
    }

    #[test]
    fn all_of_a_buffer_is_random_and_nothing_else() {
        let mut driver = start();
        let sent = driver.send(0, &[], &[4096, 1, 4096]);
        assert_eq!(driver.until_used(0), (sent.head, 8193));
        let bytes = driver.received(&sent);
        assert!(most_frequent(&bytes) < 12, "{bytes:?}");
        let again = driver.send(0, &[], &[4096, 1, 4096]);
        driver.until_used(0);
        assert_ne!(driver.received(&again), bytes);
        let (last, length) = again.writable[2];
        let after: [u8; 16] = driver
            .ram
            .read_obj(GuestAddress(last + u64::from(length)))
            .unwrap();
        assert_eq!(after, [0; 16]);
        assert_eq!(driver.metrics.requests.get(), 2);
        assert_eq!(driver.metrics.bytes_in.get(), 2 * 8193);
    }

    #[test]
    fn one_that_wants_much_gets_it_in_turns() {
        let mut driver = start();
        for _ in 0..8 {
            driver.chain(0, &[(BUFFERS, 1 << 20, WRITE)]);
        }
        driver.kick(0);
        for _ in 0..8 {
            driver.turn().unwrap();
            let used = driver.used(0).map(|(_, written)| written);
            assert_eq!(used, Some(TURN_BYTES as u32));
            assert_eq!(driver.used(0), None);
        }
        assert_eq!(driver.interrupts(), 8);
        let small: Vec<_> = (0..16).map(|n| (BUFFERS + n * 16, 1, WRITE)).collect();
        driver.chain(0, &small);
        assert_eq!(driver.until_used(0).1, 16);
    }

    #[test]
    fn nothing_to_write_to_is_nothing_written() {
        let mut driver = start();
        let sent = driver.send(0, &[b"no"], &[]);
        assert_eq!(driver.until_used(0), (sent.head, 0));
        let mixed = driver.send(0, &[b"no"], &[3]);
        assert_eq!(driver.until_used(0), (mixed.head, 3));
    }

    #[test]
    fn a_broken_ring_asks_for_a_reset_and_works_after_it() {
        let mut driver = start();
        driver.chain(0, &[(u64::MAX, 16, WRITE)]);
        driver.kick(0);
        driver.turn().unwrap();
        assert!(driver.needs_reset());
        driver.negotiate(0);
        driver.send(0, &[], &[64]);
        assert_eq!(driver.until_used(0).1, 64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_guest_is_survived(script in prop::collection::vec(any::<u8>(), 0..600)) {
            fuzz(&script);
        }
    }
}
