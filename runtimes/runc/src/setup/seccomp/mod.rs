//! The container's seccomp filter, which binds every process in it.
//!
//! The profile becomes a program on the host ([`of`]), before any process is made: what it costs
//! and what is wrong with it show there. A process only hands the program to the kernel
//! ([`Filter::load`]). Init and the processes run later get the same program from the same code.
//!
//! `compile` turns the profile into rules and has libseccomp make the program; `newer` knows the
//! system calls that libseccomp does not; `stub` is what stands before libseccomp's program; and
//! `listener` speaks to the agent that a profile may name.
//!
//! [`Filter::load`] is called by the process itself: with no_new_privileges as its last step,
//! without it before the capabilities go.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, Spec};

use super::error::{Doing, Failure};

mod compile;
pub(crate) mod listener;
mod newer;
#[cfg(all(test, target_arch = "x86_64"))]
mod property;
mod rule;
mod stub;
#[cfg(test)]
mod tests;

/// `BPF_MAXINSNS`: the kernel takes no longer program.
const MOST_INSTRUCTIONS: usize = 4096;
/// `SECCOMP_SET_MODE_FILTER` of `linux/seccomp.h`, and the flags that go with it.
const SET_MODE_FILTER: libc::c_uint = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// A program for the kernel.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: u32,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("instructions", &self.program.len())
            .field("flags", &self.flags)
            .finish()
    }
}

/// The container's filter, if it has one. To be called on the host.
///
/// # Errors
/// What in the profile cannot be done, by name.
pub(crate) fn of(spec: &Spec) -> Result<Option<Filter>, Failure> {
    profile(spec).map(Filter::new).transpose()
}

fn profile(spec: &Spec) -> Option<&LinuxSeccomp> {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref())
}

/// Whether some system call of the profile is put to an agent.
fn asks_an_agent(profile: &LinuxSeccomp) -> bool {
    let mut rules = profile.syscalls().iter().flatten();
    rules.any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

impl Filter {
    fn new(profile: &LinuxSeccomp) -> Result<Self, Failure> {
        let flags = flags(profile)?;
        let program = compile::program(profile)?;
        if program.len() > MOST_INSTRUCTIONS {
            return Err(Failure::new(format!(
                "the seccomp profile becomes {} instructions, and the kernel takes {MOST_INSTRUCTIONS}",
                program.len()
            )));
        }
        Ok(Self { program, flags })
    }

    /// Whether [`load`](Self::load) gives a descriptor that belongs to an agent.
    pub(crate) fn has_listener(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// Binds this process, by one system call and without a need for memory. After it, only what
    /// the profile allows still works.
    ///
    /// The descriptor, for a profile with `SCMP_ACT_NOTIFY`, is where the kernel puts its questions;
    /// it is closed by `execve`.
    pub(crate) fn load(&self) -> Result<Option<OwnedFd>, Failure> {
        let program = libc::sock_fprog {
            // At most MOST_INSTRUCTIONS, which `new` saw to.
            len: u16::try_from(self.program.len()).unwrap_or(u16::MAX),
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel reads `len` instructions from `filter`, which lives through the call,
        // and writes none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        let result = Errno::result(result).doing(|| "load the container's seccomp profile")?;
        if !self.has_listener() {
            return Ok(None);
        }
        let fd = RawFd::try_from(result)
            .map_err(|_| Errno::EBADF)
            .doing(|| "take the seccomp profile's listener")?;
        // SAFETY: with NEW_LISTENER the call returns a new descriptor that nobody else owns.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

fn flags(profile: &LinuxSeccomp) -> Result<u32, Failure> {
    let listens = asks_an_agent(profile);
    let mut bits = if listens { FLAG_NEW_LISTENER } else { 0 };
    for flag in profile.flags().iter().flatten() {
        bits |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            // A process that loads a filter here has one thread: all of them have it.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if listens => {
                FLAG_WAIT_KILLABLE_RECV
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(Failure::new(
                    "the seccomp flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is of use only with \
                     the action SCMP_ACT_NOTIFY",
                ));
            }
        };
    }
    Ok(bits)
}
