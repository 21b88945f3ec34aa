//! What a confidential pod's author allows its host.
//!
//! A [`Policy`] is written where the pod's author is, bound to the guest by the processor's report, and
//! read in the guest. It lists what there may be: containers with their layers, processes, mounts and
//! devices, in their order; whatever it doesn't list is denied. There is no language of rules in it:
//! where a value can't be known beforehand it has one of a few kinds ([`Pattern`]).
//!
//! In the guest a [`Gate`] decides about every [`Request`] of the host's. What passes is [`Approved`], and
//! made of what the policy has, not of what the host sent; what doesn't is a [`Denial`] that names the
//! field, what came, and what would be allowed.
//!
//! There is no file, no network and no clock in this crate.
//!
//! Start reading at [`Policy`], then at [`Gate::decide`].

mod check;
mod denial;
mod gate;
mod model;
mod named;
mod request;
mod switch;
mod tell;

pub use check::Check;
pub use denial::{Denial, LONGEST_DENIAL};
pub use gate::{Approved, Gate, GrantedRoot, Output, Protection, Start};
pub use model::*;
pub use request::*;
#[cfg(feature = "mutation")]
pub use switch::without;
pub use tell::diff;

/// Makes a check: that something is as it should be. A denial's field, what came, and what would be
/// allowed are asked for where it isn't.
pub(crate) fn ensure<F, C, A>(
    check: Check,
    sound: bool,
    denial: impl FnOnce() -> (F, C, A),
) -> Result<(), Denial>
where
    F: std::fmt::Display,
    C: std::fmt::Display,
    A: std::fmt::Display,
{
    if sound || !check.is_made() {
        return Ok(());
    }
    let (field, came, allowed) = denial();
    Err(Denial::new(check, field, came, allowed))
}
