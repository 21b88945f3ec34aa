//! What only the processor and the kernel can tell or do: the crate's place for unsafe code.

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigHandler, Signal, signal};

/// The processor's time stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it touches nothing but registers.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// How many bytes of memory this process had resident at most.
pub(crate) fn resident() -> u64 {
    // It fails for no process that asks about itself; zero would be seen not to be so.
    let kib = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss());
    u64::try_from(kib).unwrap_or(0) * 1024
}

/// Every process whose parent is gone becomes PID 1's child. With the signal of their end ignored,
/// the kernel reaps them itself, and none of our code has to run for it.
pub(crate) fn leave_reaping_to_the_kernel() -> Result<(), Errno> {
    // SAFETY: ignoring a signal installs no handler that could run at a bad moment.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    Ok(())
}

/// Undoes [`leave_reaping_to_the_kernel`]: who waits for a child of its own must find it.
pub(crate) fn reap_ourselves() -> Result<(), Errno> {
    // SAFETY: the default action of this signal is nothing, and runs none of our code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}
