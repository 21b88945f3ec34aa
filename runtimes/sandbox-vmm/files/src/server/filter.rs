//! Which system calls the server may make. The whole list; the kernel ends the process at any other,
//! and says in its log which one it was.
//!
//! What is not here on purpose: to make sockets, processes or threads; to change mounts, roots or
//! namespaces; to open by handle; to make memory executable; `ioctl`. The path in an `openat` is one
//! name, or the number of a descriptor.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What an argument must be.
#[derive(Clone, Copy, Debug)]
enum When {
    /// Anything.
    Any,
    /// The argument with this number, from zero, is this, in its lower half.
    Is(u8, u32),
    /// The argument with this number has none of these bits in its lower half.
    Lacks(u8, u32),
}

use When::{Any, Is, Lacks};

#[rustfmt::skip]
const TABLE: &[(c_long, When)] = &[
    // Finding files.
    (SYS_openat,            Any),
    (SYS_statx,             Any),
    (SYS_fstat,             Any),
    (SYS_newfstatat,        Any),
    (SYS_readlinkat,        Any),
    (SYS_getdents64,        Any),
    (SYS_fstatfs,           Any),

    // Making, naming and removing them.
    (SYS_mkdirat,           Any),
    (SYS_mknodat,           Any),
    (SYS_symlinkat,         Any),
    (SYS_linkat,            Any),
    (SYS_unlinkat,          Any),
    (SYS_renameat2,         Any),
    // What the C library makes of it without flags.
    (SYS_renameat,          Any),

    // Changing what is known of them.
    (SYS_fchmod,            Any),
    (SYS_fchmodat,          Any),
    (SYS_fchownat,          Any),
    (SYS_utimensat,         Any),
    (SYS_getxattr,          Any),
    (SYS_setxattr,          Any),
    (SYS_listxattr,         Any),
    (SYS_removexattr,       Any),

    // Their content.
    (SYS_preadv2,           Any),
    (SYS_pwritev2,          Any),
    (SYS_lseek,             Any),
    (SYS_ftruncate,         Any),
    (SYS_fallocate,         Any),
    (SYS_copy_file_range,   Any),
    (SYS_fsync,             Any),
    (SYS_fdatasync,         Any),
    (SYS_syncfs,            Any),
    (SYS_flock,             Any),

    // As whom. Of capabilities only those that are left can be had.
    (SYS_setfsuid,          Any),
    (SYS_setfsgid,          Any),
    (SYS_umask,             Any),
    (SYS_capset,            Any),
    (SYS_prctl,             Is(0, PR_SET_PDEATHSIG as u32)),

    // Descriptors it has: sockets, kicks, the log.
    (SYS_read,              Any),
    (SYS_write,             Any),
    (SYS_writev,            Any),
    (SYS_close,             Any),
    (SYS_fcntl,             Any),
    (SYS_recvmsg,           Any),
    (SYS_recvfrom,          Any),
    (SYS_sendmsg,           Any),
    (SYS_sendto,            Any),
    (SYS_poll,              Any),

    // Memory: its own and the guest's.
    (SYS_mmap,              Lacks(2, PROT_EXEC as u32)),
    (SYS_mprotect,          Lacks(2, PROT_EXEC as u32)),
    (SYS_munmap,            Any),
    (SYS_mremap,            Any),
    (SYS_madvise,           Any),
    (SYS_brk,               Any),
    (SYS_getrandom,         Any),
    (SYS_futex,             Any),
    // The C library's allocator, where it has several threads.
    (SYS_sched_getaffinity, Any),
    // Where the kernel can't tell the time without one.
    (SYS_clock_gettime,     Any),

    // The end.
    (SYS_rt_sigprocmask,    Any),
    (SYS_rt_sigreturn,      Any),
    (SYS_restart_syscall,   Any),
    (SYS_sigaltstack,       Any),
    (SYS_exit,              Any),
    (SYS_exit_group,        Any),
];

/// Confines all threads of this process, for ever.
pub fn install() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter_all_threads(&compile()?)
}

fn compile() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules = BTreeMap::new();
    for &(call, when) in TABLE {
        let half = SeccompCmpArgLen::Dword;
        let condition = match when {
            Any => None,
            Is(argument, value) => Some((argument, SeccompCmpOp::Eq, value)),
            Lacks(argument, bits) => Some((argument, SeccompCmpOp::MaskedEq(bits.into()), 0)),
        };
        let alternatives = match condition {
            None => Vec::new(),
            Some((argument, operator, value)) => {
                let condition = SeccompCondition::new(argument, half, operator, value.into())?;
                vec![SeccompRule::new(vec![condition])?]
            }
        };
        rules.insert(call, alternatives);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_made_of_one_line_for_each_call() {
        let mut numbers: Vec<_> = TABLE.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TABLE.len());
        let program = compile().expect("compile");
        assert!(program.len() < 400, "{}", program.len());
    }

    #[test]
    fn nobody_reaches_further() {
        for number in [
            SYS_open,
            SYS_openat2,
            SYS_open_by_handle_at,
            SYS_name_to_handle_at,
            SYS_socket,
            SYS_connect,
            SYS_clone,
            SYS_clone3,
            SYS_fork,
            SYS_execve,
            SYS_execveat,
            SYS_ioctl,
            SYS_mount,
            SYS_move_mount,
            SYS_open_tree,
            SYS_fsopen,
            SYS_pivot_root,
            SYS_chroot,
            SYS_fchdir,
            SYS_setns,
            SYS_unshare,
            SYS_setresuid,
            SYS_seccomp,
            SYS_ptrace,
            SYS_bpf,
            SYS_io_uring_setup,
            SYS_userfaultfd,
        ] {
            assert!(
                TABLE.iter().all(|(listed, _)| *listed != number),
                "{number}"
            );
        }
    }
}
