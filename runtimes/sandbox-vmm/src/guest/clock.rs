//! The guest's clock follows the host's.
//!
//! A guest's kernel counts time by the host's processor (kvm-clock): it has the right pace but for what
//! NTP makes of it, some ten millionths, and hears nothing of a host's clock that is set. So the shim
//! compares the two clocks, at once when the host's is set, which a timer tells, and rarely otherwise;
//! and has the agent shift the guest's. Between looks nothing runs.
//!
//! A guest may say any time. That decides about its own clock and nothing else.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use trefoil_agent_protocol::service::AdjustClockRequest;
use trefoil_core::{Context, Result};
use trefoil_os::watched;

use crate::guest::Guest;
use crate::guest::agent::{answer, asking};

/// How long after the guest was set up the clocks are first compared: it was told the time then, and the
/// pod has better to do.
const FIRST: Duration = Duration::from_secs(1);

/// How long after a look the next one is. In that time a clock that NTP doesn't steer goes wrong by some
/// milliseconds.
const RARELY: Duration = Duration::from_secs(60);

/// … and where the clocks were found apart, or could not be compared.
const SOON: Duration = Duration::from_secs(10);

/// Clocks further apart are found apart.
const APART: Duration = Duration::from_millis(20);

/// Clocks that are closer are left alone: nobody notices, and a measurement is no better.
const TOGETHER: Duration = Duration::from_millis(1);

/// What is further away is no drift: the guest's clock is set, not made go faster.
const LARGEST_SLEW: Duration = Duration::from_millis(500);

/// How often the clocks are compared at a time, at most, to find one comparison without much delay.
const TRIES: usize = 4;

/// A comparison that is no more uncertain is good enough.
const GOOD: Duration = Duration::from_millis(1);

/// How far the host's clock is before the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offset {
    /// In nanoseconds; the guest's clock is fast if negative.
    nanoseconds: i64,
    /// By how much that may be wrong, either way.
    uncertainty: Duration,
}

/// What is to be done about an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Have the guest's clock go faster or slower until it is there.
    Slew(i64),
    /// Set it.
    Step(i64),
}

/// Keeps the guest's clock right until its machine ends. Must be called within the event loop.
///
/// # Errors
/// If the kernel does not tell when its clock is set.
pub(crate) fn follow(guest: &Arc<Guest>) -> Result<()> {
    let sets = Sets::watch()?;
    let guest = guest.clone();
    tokio::spawn(async move {
        let ended = guest.machine.clone();
        tokio::select! {
            _ = ended.ended() => {}
            () = keep(&guest, &sets) => {}
        }
    });
    Ok(())
}

async fn keep(guest: &Guest, sets: &Sets) {
    let mut next = FIRST;
    loop {
        let was_set = tokio::time::timeout(next, sets.next()).await.is_ok();
        next = match look(guest, was_set).await {
            Ok(offset) if offset.size() > APART => SOON,
            Ok(_) => RARELY,
            Err(why) => {
                log::debug!("{why}");
                SOON
            }
        };
    }
}

/// Compares the clocks, and has the guest's shifted if they differ.
async fn look(guest: &Guest, was_set: bool) -> Result<Offset> {
    let offset = measure(|| shift(guest, 0, false)).await?;
    match offset.change(was_set) {
        Change::Nothing => {}
        Change::Slew(by) => drop(shift(guest, by, false).await?),
        Change::Step(by) => {
            shift(guest, by, true).await?;
            log::info!(
                "the guest's clock was set: it differed by {:?}",
                offset.size()
            );
        }
    }
    Ok(offset)
}

/// Asks the guest's agent for an answer, of which nothing is made.
pub(crate) async fn ping(guest: &Guest) -> Result<()> {
    shift(guest, 0, false).await.map(drop)
}

/// Shifts the guest's clock; what it says then, in nanoseconds since 1970.
async fn shift(guest: &Guest, offset: i64, step: bool) -> Result<u64> {
    let request = AdjustClockRequest {
        offset,
        step,
        ..Default::default()
    };
    let asked = guest.agent.client.adjust_clock(asking(), &request);
    let said = answer(|| "compare the guest's clock with the host's", asked).await?;
    Ok(said.time)
}

/// Compares the clocks, some times if the first is not quick.
async fn measure<F: Future<Output = Result<u64>>>(ask: impl Fn() -> F) -> Result<Offset> {
    let mut best = compare(&ask).await?;
    for _ in 1..TRIES {
        if best.uncertainty <= GOOD {
            break;
        }
        let next = compare(&ask).await?;
        if next.uncertainty < best.uncertainty {
            best = next;
        }
    }
    Ok(best)
}

/// Asks what the guest's clock says, and takes it that it said so in the middle between question and
/// answer.
async fn compare<F: Future<Output = Result<u64>>>(ask: &impl Fn() -> F) -> Result<Offset> {
    let begun = tokio::time::Instant::now();
    let before = now();
    let guests = ask().await?;
    let half = begun.elapsed() / 2;
    Ok(Offset::between(before + half, guests, half))
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl Offset {
    fn between(hosts: Duration, guests: u64, uncertainty: Duration) -> Self {
        let hosts = i128::try_from(hosts.as_nanos()).unwrap_or(i128::MAX);
        let apart = hosts.saturating_sub(guests.into());
        let bound = i128::from(i64::MAX);
        Self {
            nanoseconds: i64::try_from(apart.clamp(-bound, bound)).unwrap_or(i64::MAX),
            uncertainty,
        }
    }

    fn size(self) -> Duration {
        Duration::from_nanos(self.nanoseconds.unsigned_abs())
    }

    /// What to do about it; a host whose clock `was_set` has jumped, and so is the guest's to.
    fn change(self, was_set: bool) -> Change {
        let size = self.size();
        if size <= TOGETHER.max(self.uncertainty) {
            Change::Nothing
        } else if size > LARGEST_SLEW || was_set && size > APART {
            Change::Step(self.nanoseconds)
        } else {
            Change::Slew(self.nanoseconds)
        }
    }
}

/// Tells when the host's clock has been set.
struct Sets(AsyncFd<OwnedFd>);

impl Sets {
    /// A timer for a time that never comes, which the kernel cancels when the clock is set.
    fn watch() -> Result<Self> {
        let doing = || "watch the host's clock";
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags).context(doing)?;
        let never = TimeSpec::new(i64::from(u32::MAX) * 2, 0);
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer
            .set(Expiration::OneShot(never), flags)
            .context(doing)?;
        let timer = timer.as_fd().try_clone_to_owned().context(doing)?;
        Ok(Self(watched::readable(timer).context(doing)?))
    }

    /// Resolves when it is set the next time. All the times that nobody has waited for are one.
    async fn next(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            match nix::unistd::read(self.0.get_ref(), &mut [0; 8]) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                // ECANCELED; and should the time come that never comes, that is a look too many.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::guest;

    const SECOND: i64 = 1_000_000_000;

    fn offset(nanoseconds: i64) -> Offset {
        Offset {
            nanoseconds,
            uncertainty: Duration::from_millis(1),
        }
    }

    #[test]
    fn a_clock_is_set_where_it_jumped_and_slewed_where_it_drifted() {
        for (apart, was_set, change) in [
            (0, false, Change::Nothing),
            (900_000, true, Change::Nothing),
            (-5_000_000, false, Change::Slew(-5_000_000)),
            (5_000_000, true, Change::Slew(5_000_000)),
            (300_000_000, false, Change::Slew(300_000_000)),
            (300_000_000, true, Change::Step(300_000_000)),
            (-3600 * SECOND, false, Change::Step(-3600 * SECOND)),
        ] {
            assert_eq!(offset(apart).change(was_set), change, "{apart} {was_set}");
        }
        let coarse = Offset {
            uncertainty: Duration::from_secs(2),
            ..offset(SECOND)
        };
        assert_eq!(coarse.change(true), Change::Nothing);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn the_comparison_that_took_least_counts() {
        let asked = Cell::new(0);
        let measured = measure(|| {
            asked.set(asked.get() + 1);
            let delay = [50, 10, 30, 40][asked.get() - 1];
            async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                let said = now() + Duration::from_millis(delay / 2);
                Ok(u64::try_from(said.as_nanos()).expect("time"))
            }
        });
        let measured = measured.await.expect("measured");
        assert_eq!(asked.get(), TRIES);
        assert_eq!(measured.uncertainty, Duration::from_millis(5));
        assert!(measured.size() < Duration::from_millis(5), "{measured:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_clock_that_is_wrong_is_found_and_set() {
        let (guest, _gate, fake, _server) = guest().await;
        *fake.clock.lock().expect("lock") = 3600 * SECOND;
        follow(&guest).expect("followed");
        let right = async {
            while fake.clock.lock().expect("lock").unsigned_abs() > 500_000_000 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), right)
            .await
            .expect("set");
        let asked = fake.asked.lock().expect("lock").clone();
        assert!(asked.iter().any(|one| one == "step the clock"), "{asked:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_clock_that_is_right_is_left_alone() {
        let (guest, _gate, fake, _server) = guest().await;
        look(&guest, false).await.expect("compared");
        assert_eq!(*fake.clock.lock().expect("lock"), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_is_told_of_a_clock_that_nobody_sets() {
        let sets = Sets::watch().expect("watched");
        let told = tokio::time::timeout(Duration::from_millis(20), sets.next()).await;
        told.expect_err("nobody has set it");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_is_a_shift(hosts in any::<u64>(), guests in any::<u64>(), was_set in any::<bool>()) {
            let found = Offset::between(Duration::from_nanos(hosts), guests, Duration::ZERO);
            let apart = i128::from(hosts) - i128::from(guests);
            match found.change(was_set) {
                Change::Nothing => prop_assert!(apart.unsigned_abs() <= TOGETHER.as_nanos()),
                Change::Slew(by) => {
                    prop_assert_eq!(i128::from(by), apart);
                    prop_assert!(apart.unsigned_abs() <= LARGEST_SLEW.as_nanos());
                }
                Change::Step(by) => {
                    prop_assert_eq!(by.is_negative(), apart < 0);
                    prop_assert!(by != i64::MIN);
                }
            }
        }
    }
}
