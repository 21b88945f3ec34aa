//! Tables of the system calls that threads may make.

use std::ffi::c_long;

use libc::*;

use super::names::name;
use When::{Any, Lacks};

/// What an argument must be.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Anything.
    Any,
    /// The argument with this number, from zero, is one of these. Of arguments of 64 bits only the
    /// lower half is compared: use it where the kernel takes 32.
    OneOf(u8, &'static [u32]),
    /// The argument with this number has none of these bits in its lower half.
    Lacks(u8, u32),
}

/// A line of a table: which call, the names of the kinds of threads that make it, with which arguments.
pub type Line = (c_long, &'static [&'static str], When);

/// What every thread of a jailed process may call: it moves bytes by descriptors that it has, uses memory
/// that can't be executed, waits for other threads, and ends.
#[rustfmt::skip]
const COMMON: &[(c_long, When)] = &[
    // `write` is the trap's own last words, too.
    (SYS_read,              Any),
    (SYS_write,             Any),
    (SYS_writev,            Any),
    (SYS_recvmsg,           Any),
    (SYS_sendmsg,           Any),
    (SYS_recvfrom,          Any),
    (SYS_sendto,            Any),
    (SYS_close,             Any),

    (SYS_mmap,              Lacks(2, PROT_EXEC as u32)),
    (SYS_mprotect,          Lacks(2, PROT_EXEC as u32)),
    (SYS_munmap,            Any),
    (SYS_mremap,            Any),
    (SYS_madvise,           Any),
    (SYS_brk,               Any),
    (SYS_getrandom,         Any),

    (SYS_futex,             Any),
    (SYS_restart_syscall,   Any),
    // Where the kernel's page for it has no clock that can be read without a call.
    (SYS_clock_gettime,     Any),
    (SYS_rt_sigprocmask,    Any),
    (SYS_rt_sigreturn,      Any),

    (SYS_sigaltstack,       Any),
    (SYS_exit,              Any),
    (SYS_exit_group,        Any),
];

/// What no table may list: each would be a way to reach further, to be somebody else, or out of the filter.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    SYS_open, SYS_openat2, SYS_creat, SYS_open_by_handle_at, SYS_name_to_handle_at,
    SYS_socket, SYS_connect, SYS_bind,
    SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_execve, SYS_execveat,
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pkey_mprotect, SYS_personality,
    // No filter sees what a ring does.
    SYS_io_uring_setup, SYS_io_uring_register,
    SYS_memfd_create, SYS_userfaultfd, SYS_bpf, SYS_seccomp, SYS_rt_sigaction,
    SYS_setresuid, SYS_setresgid, SYS_unshare, SYS_setns,
    SYS_mount, SYS_umount2, SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_pivot_root, SYS_chroot, SYS_fchdir,
];

/// A kind of thread.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// What the process is called in its log.
    pub process: &'static str,
    /// What the kind of thread is called, as in "the vcpu thread". Nothing that JSON would escape.
    pub name: &'static str,
    /// Which calls which kind of thread may make beside those that every jailed process's may.
    pub table: &'static [Line],
}

impl Thread {
    /// All that this kind may call. The whole list; all else ends the process.
    pub fn allowed(&self) -> impl Iterator<Item = (c_long, When)> {
        let name = self.name;
        let own = self
            .table
            .iter()
            .filter(move |(_, threads, _)| threads.contains(&name))
            .map(|(call, _, when)| (*call, *when));
        COMMON.iter().copied().chain(own)
    }

    /// Looks whether the table makes sense: no line of it is another's, or one that there may not be.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut calls = std::collections::BTreeSet::new();
        for (call, _) in self.allowed() {
            if NEVER.contains(&call) {
                return Err(format!("no jailed process may call {}", name(call)));
            }
            if !calls.insert(call) {
                let (call, thread) = (name(call), self.name);
                return Err(format!("{call} is listed twice for the {thread} thread"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &[&str] = &["a", "b"];

    fn check(table: &'static [Line]) -> Result<(), String> {
        let thread = Thread {
            process: "test",
            name: "a",
            table,
        };
        thread.check()
    }

    #[test]
    fn a_call_has_one_line_for_each_kind_of_thread() {
        check(&[
            (SYS_ioctl, &["a"], When::OneOf(1, &[1])),
            (SYS_ioctl, &["b"], Any),
            (SYS_poll, BOTH, Any),
        ])
        .expect("a table");
        for table in [
            &[(SYS_ioctl, BOTH, Any), (SYS_ioctl, &["a"], Any)] as &[Line],
            &[(SYS_ioctl, BOTH, Any), (SYS_read, BOTH, Any)],
        ] {
            let why = check(table).expect_err("twice");
            assert!(why.ends_with("is listed twice for the a thread"), "{why}");
        }
    }

    #[test]
    fn a_way_out_is_in_no_table() {
        check(&[]).expect("what is common");
        let why = check(&[(SYS_ptrace, BOTH, Any)]).expect_err("a way out");
        assert_eq!(why, "no jailed process may call ptrace");
    }

    #[test]
    fn memory_that_is_mapped_cant_be_executed() {
        for call in [SYS_mmap, SYS_mprotect] {
            let line = COMMON.iter().find(|(number, _)| *number == call);
            assert!(
                matches!(line, Some((_, Lacks(2, bits))) if *bits == PROT_EXEC as u32),
                "{line:?}"
            );
        }
    }
}
