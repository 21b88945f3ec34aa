//! Which system calls the server may make, beside what every jailed process may
//! ([`trefoil_jail::seccomp`]). Any other ends the process, which says in its log and to its parent which
//! one it was.
//!
//! What is not here on purpose: `ioctl`. The path in an `openat` is one name, or the number of a
//! descriptor.

use libc::*;
use trefoil_jail::Failure;
use trefoil_jail::seccomp::When::{Any, OneOf};
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
    (SYS_fcntl,             ALL, Any),
    (SYS_poll,              ALL, Any),

    // The C library's allocator, where it has several threads.
    (SYS_sched_getaffinity, ALL, Any),
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
    fn the_filter_is_small() {
        let length = compile().expect("compile").length();
        assert!(length < 400, "{length}");
    }

    #[test]
    fn no_device_is_asked_for_anything() {
        assert!(SERVING.allowed().all(|(call, _)| call != SYS_ioctl));
    }
}
