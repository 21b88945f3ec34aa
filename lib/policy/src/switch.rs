//! Turning checks off, one at a time, to see that something notices. Of tests alone.

use crate::Check;

#[cfg(feature = "mutation")]
std::thread_local! {
    static OFF: std::cell::Cell<Option<Check>> = const { std::cell::Cell::new(None) };
}

/// Does something on this thread without a check.
#[cfg(feature = "mutation")]
pub fn without<T>(check: Check, work: impl FnOnce() -> T) -> T {
    OFF.set(Some(check));
    let done = work();
    OFF.set(None);
    done
}

impl Check {
    /// Whether it is made, which it always is outside of tests.
    #[cfg(feature = "mutation")]
    #[must_use]
    pub fn is_made(self) -> bool {
        OFF.get() != Some(self)
    }

    /// Whether it is made, which it always is outside of tests.
    #[cfg(not(feature = "mutation"))]
    #[must_use]
    pub const fn is_made(self) -> bool {
        true
    }
}
