//! Which system calls the server may make. The whole list; any other ends the process, which says in
//! its log and to its parent which one it was.
//!
//! What is not here on purpose: to make sockets, processes or threads; to change mounts, roots or
//! namespaces; to open by handle; to make memory executable; `ioctl`. The path in an `openat` is one
//! name, or the number of a descriptor.

use libc::*;
use trefoil_jail::Failure;
use trefoil_jail::seccomp::When::{Any, Lacks, OneOf};
use trefoil_jail::seccomp::{self, Filter, Line, Thread};

/// The server's threads: all of them do the same.
static SERVING: Thread = Thread {
    process: "trefoil-files",
    name: "serving",
    table: TABLE,
};

const ALL: &[&str] = &["serving"];

#[rustfmt::skip]
const TABLE: &[Line] = &[
    // Finding files.
    (SYS_openat,            ALL, Any),
    (SYS_statx,             ALL, Any),
    (SYS_fstat,             ALL, Any),
    (SYS_newfstatat,        ALL, Any),
    (SYS_readlinkat,        ALL, Any),
    (SYS_getdents64,        ALL, Any),
    (SYS_fstatfs,           ALL, Any),

    // Making, naming and removing them.
    (SYS_mkdirat,           ALL, Any),
    (SYS_mknodat,           ALL, Any),
    (SYS_symlinkat,         ALL, Any),
    (SYS_linkat,            ALL, Any),
    (SYS_unlinkat,          ALL, Any),
    (SYS_renameat2,         ALL, Any),
    // What the C library makes of it without flags.
    (SYS_renameat,          ALL, Any),

    // Changing what is known of them.
    (SYS_fchmod,            ALL, Any),
    (SYS_fchmodat,          ALL, Any),
    (SYS_fchownat,          ALL, Any),
    (SYS_utimensat,         ALL, Any),
    (SYS_getxattr,          ALL, Any),
    (SYS_setxattr,          ALL, Any),
    (SYS_listxattr,         ALL, Any),
    (SYS_removexattr,       ALL, Any),

    // Their content.
    (SYS_preadv2,           ALL, Any),
    (SYS_pwritev2,          ALL, Any),
    (SYS_lseek,             ALL, Any),
    (SYS_ftruncate,         ALL, Any),
    (SYS_fallocate,         ALL, Any),
    (SYS_copy_file_range,   ALL, Any),
    (SYS_fsync,             ALL, Any),
    (SYS_fdatasync,         ALL, Any),
    (SYS_syncfs,            ALL, Any),
    (SYS_flock,             ALL, Any),

    // As whom. Of capabilities only those that are left can be had.
    (SYS_setfsuid,          ALL, Any),
    (SYS_setfsgid,          ALL, Any),
    (SYS_umask,             ALL, Any),
    (SYS_capset,            ALL, Any),
    (SYS_prctl,             ALL, OneOf(0, &[PR_SET_PDEATHSIG as u32])),

    // Descriptors it has: sockets, kicks, the log.
    (SYS_read,              ALL, Any),
    (SYS_write,             ALL, Any),
    (SYS_writev,            ALL, Any),
    (SYS_close,             ALL, Any),
    (SYS_fcntl,             ALL, Any),
    (SYS_recvmsg,           ALL, Any),
    (SYS_recvfrom,          ALL, Any),
    (SYS_sendmsg,           ALL, Any),
    (SYS_sendto,            ALL, Any),
    (SYS_poll,              ALL, Any),

    // Memory: its own and the guest's.
    (SYS_mmap,              ALL, Lacks(2, PROT_EXEC as u32)),
    (SYS_mprotect,          ALL, Lacks(2, PROT_EXEC as u32)),
    (SYS_munmap,            ALL, Any),
    (SYS_mremap,            ALL, Any),
    (SYS_madvise,           ALL, Any),
    (SYS_brk,               ALL, Any),
    (SYS_getrandom,         ALL, Any),
    (SYS_futex,             ALL, Any),
    // The C library's allocator, where it has several threads.
    (SYS_sched_getaffinity, ALL, Any),
    // Where the kernel can't tell the time without one.
    (SYS_clock_gettime,     ALL, Any),

    // The end.
    (SYS_rt_sigprocmask,    ALL, Any),
    (SYS_rt_sigreturn,      ALL, Any),
    (SYS_restart_syscall,   ALL, Any),
    (SYS_sigaltstack,       ALL, Any),
    (SYS_exit,              ALL, Any),
    (SYS_exit_group,        ALL, Any),
];

/// Makes the filter.
///
/// # Errors
/// None that is known.
pub fn compile() -> Result<Filter, Failure> {
    seccomp::compile(&SERVING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_made_of_one_line_for_each_call() {
        let mut numbers: Vec<_> = TABLE.iter().map(|(number, ..)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), TABLE.len());
        let length = compile().expect("compile").length();
        assert!(length < 400, "{length}");
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
            SYS_rt_sigaction,
            SYS_ptrace,
            SYS_bpf,
            SYS_io_uring_setup,
            SYS_userfaultfd,
        ] {
            assert!(
                TABLE.iter().all(|(listed, ..)| *listed != number),
                "{number}"
            );
        }
    }
}
