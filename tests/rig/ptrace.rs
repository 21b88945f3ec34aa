//! Having another process do what it would not do by itself.

use anyhow::{Context, Result, ensure};
use libc::user_regs_struct;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Changes the registers of a thread that waits in a system call, and lets it go on.
pub fn change_registers(thread: Pid, change: impl FnOnce(&mut user_regs_struct)) -> Result<()> {
    ptrace::seize(thread, Options::empty()).context("seizing a thread")?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL)).context("stopping a thread")?;
    let mut registers = ptrace::getregs(thread)?;
    ensure!(
        registers.orig_rax != u64::MAX,
        "the thread is in no system call"
    );
    // The one that was interrupted is not made again.
    registers.orig_rax = u64::MAX;
    change(&mut registers);
    ptrace::setregs(thread, registers)?;
    ptrace::detach(thread, None).context("letting a thread go")
}

/// Has a thread that waits in a system call make this one, with whatever arguments it has.
pub fn make_call(thread: Pid, call: i64) -> Result<()> {
    change_registers(thread, |registers| {
        // The instruction is just behind it, and two bytes long.
        registers.rip -= 2;
        registers.rax = call.cast_unsigned();
    })
}
