//! The guest's clock, which the host keeps right: the guest's kernel knows how fast time goes, by the
//! host's processor, but not that the host's clock was set, nor what NTP makes of its pace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trefoil_agent_protocol::service::{AdjustClockRequest, ClockAnswer};
use trefoil_core::{Context, Error, Result};

use crate::machine;

/// What is further away is not reached by a clock that goes faster, in nanoseconds: it would take half an
/// hour.
const LONGEST_SLEW: u64 = 1_000_000_000;

/// Does what a request asks for, and says what the clock says then.
///
/// # Errors
/// If the kernel refuses a time, or a slew would never end.
pub(crate) fn adjust(request: &AdjustClockRequest) -> Result<ClockAnswer> {
    let offset = request.offset;
    let doing = || format!("shift the clock by {offset} ns");
    match (offset, request.step) {
        (0, _) => {}
        (_, true) => machine::step_clock(offset).context(doing)?,
        (_, false) if offset.unsigned_abs() > LONGEST_SLEW => {
            return Err(Error::invalid(format!(
                "{} little by little: that is more than {LONGEST_SLEW} ns",
                doing()
            )));
        }
        (_, false) => machine::slew_clock(offset).context(doing)?,
    }
    Ok(ClockAnswer {
        time: u64::try_from(now().as_nanos()).unwrap_or(u64::MAX),
        ..Default::default()
    })
}

/// What the clock says, since 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use trefoil_core::ErrorKind;

    use super::*;

    fn ask(offset: i64, step: bool) -> Result<ClockAnswer> {
        adjust(&AdjustClockRequest {
            offset,
            step,
            ..Default::default()
        })
    }

    #[test]
    fn a_shift_by_nothing_says_the_time() {
        let before = now();
        let answer = ask(0, true).expect("time");
        let said = Duration::from_nanos(answer.time);
        assert!((before..=now()).contains(&said), "{said:?}");
    }

    #[test]
    fn what_would_take_for_ever_is_refused() {
        for offset in [i64::MIN, -1_000_000_001, 1_000_000_001, i64::MAX] {
            let why = ask(offset, false).expect_err("refused");
            assert_eq!(why.kind(), ErrorKind::InvalidArgument, "{why}");
        }
    }
}
