//! Requests about the pod as a whole.

use super::{Approved, Gate};
use crate::{Check, Denial, Request, ensure};

impl Gate {
    pub(super) fn of_the_pod(&self, request: Request) -> Result<Approved, Denial> {
        let knobs = &self.policy.knobs;
        match request {
            Request::AdjustClock { offset, step } => check_clock(offset, step)?,
            Request::KernelLog => ensure(Check::KernelLog, knobs.kernel_log, || {
                (
                    "text",
                    "it was asked for",
                    "nothing: knobs.kernel_log is off",
                )
            })?,
            Request::Forward { port } => {
                ensure(
                    Check::PortForward,
                    knobs.port_forward.contains(&port),
                    || {
                        let allowed =
                            format!("one of knobs.port_forward, {:?}", knobs.port_forward);
                        ("port", format!("{port} came"), allowed)
                    },
                )?;
            }
            _ => {}
        }
        Ok(Approved::plain(request))
    }
}

/// Time never goes back: what has expired stays so. A clock that goes a little slower still goes on.
pub(super) fn check_clock(offset: i64, step: bool) -> Result<(), Denial> {
    ensure(Check::ClockBack, offset >= 0 || !step, || {
        let came = format!("{offset} ns at once came");
        ("offset", came, "0 and more, or little by little")
    })
}
