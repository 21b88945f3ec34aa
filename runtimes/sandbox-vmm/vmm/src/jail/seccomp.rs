//! Which system calls which kind of thread may make, beside what every jailed process's may
//! ([`trefoil_jail::seccomp`]). All else ends the process.
//!
//! What is not here on purpose: anything that opens a path or makes a socket that could reach
//! further than its two ends; that makes a thread or a process; that makes memory executable; that
//! makes or arranges an `io_uring`, whose operations no filter sees: rings are made, and confined to
//! reads and writes, before the jail is closed.

use libc::*;
use trefoil_jail::Failure;
use trefoil_jail::seccomp::When::{Any, OneOf};
pub use trefoil_jail::seccomp::install;
use trefoil_jail::seccomp::{self, Filter, Line};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

/// The kinds of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Runs a virtual CPU: touches devices' registers, activates and resets devices.
    Vcpu,
    /// The main one: all devices' work, and the parent's requests.
    Events,
}

impl Thread {
    /// As its filter and its trap know it.
    const fn known(self) -> &'static seccomp::Thread {
        match self {
            Self::Vcpu => &const { named("vcpu") },
            Self::Events => &const { named("events") },
        }
    }
}

const fn named(name: &'static str) -> seccomp::Thread {
    seccomp::Thread {
        process: "trefoil-vmm",
        name,
        table: TABLE,
    }
}

/// Makes the filter for a kind of thread.
///
/// # Errors
/// None that is known.
pub fn compile(thread: Thread) -> Result<Filter, Failure> {
    seccomp::compile(thread.known())
}

const BOTH: &[&str] = &["vcpu", "events"];
const VCPU: &[&str] = &["vcpu"];
const EVENTS: &[&str] = &["events"];

/// The table.
#[rustfmt::skip]
const TABLE: &[Line] = &[
    // Descriptors it has: bytes and disks.
    (SYS_readv,             BOTH,   Any),
    (SYS_preadv,            EVENTS, Any),
    (SYS_pwritev,           EVENTS, Any),
    (SYS_preadv2,           EVENTS, Any),
    (SYS_pwritev2,          EVENTS, Any),
    (SYS_fdatasync,         EVENTS, Any),
    (SYS_fallocate,         EVENTS, Any),
    // Of a disk that comes: how long it is. With this flag the standard library asks of a descriptor.
    (SYS_statx,             EVENTS, OneOf(2, &[AT_EMPTY_PATH as u32])),
    (SYS_io_uring_enter,    BOTH,   Any),
    (SYS_fcntl,             BOTH,   OneOf(1, FCNTLS)),
    (SYS_ioctl,             VCPU,   OneOf(1, VCPU_IOCTLS)),
    (SYS_ioctl,             EVENTS, OneOf(1, EVENTS_IOCTLS)),

    // Connections it has, and those that come in.
    (SYS_shutdown,          BOTH,   Any),
    (SYS_socketpair,        EVENTS, OneOf(0, &[AF_UNIX as u32])),
    (SYS_setsockopt,        EVENTS, OneOf(2, &[SO_SNDBUF as u32])),

    // Waiting.
    (SYS_epoll_wait,        EVENTS, Any),
    (SYS_epoll_pwait,       EVENTS, Any),
    (SYS_epoll_ctl,         BOTH,   Any),
    (SYS_poll,              EVENTS, Any),
    (SYS_timerfd_settime,   BOTH,   Any),
    (SYS_sched_yield,       BOTH,   Any),

    // Signals: to bring a virtual CPU out of the guest. In our namespace we are process 1.
    (SYS_tgkill,            BOTH,   OneOf(0, &[1])),
    (SYS_getpid,            BOTH,   Any),
    (SYS_gettid,            BOTH,   Any),
];

/// Of the flags, and a copy of a descriptor. `F_GETFD` is what a debug build checks before it closes one.
const FCNTLS: &[u32] = &[
    F_DUPFD_CLOEXEC as u32,
    F_GETFD as u32,
    F_GETFL as u32,
    F_SETFL as u32,
];

const KVM: u32 = 0xae;
/// Enter the guest. Of all calls the most frequent one.
const KVM_RUN: u32 = ioctl_expr(_IOC_NONE, KVM, 0x80, 0) as u32;
/// Read registers, to tell of a triple fault.
const KVM_GET_REGS: u32 = of_size::<kvm_bindings::kvm_regs>(_IOC_READ, KVM, 0x81);
const KVM_GET_SREGS: u32 = of_size::<kvm_bindings::kvm_sregs>(_IOC_READ, KVM, 0x83);
/// Tell the guest that it was paused.
const KVM_KVMCLOCK_CTRL: u32 = ioctl_expr(_IOC_NONE, KVM, 0xad, 0) as u32;
/// Which offloads the guest's driver accepted.
const TUN_SET_OFFLOAD: u32 = of_size::<c_uint>(_IOC_WRITE, b'T' as u32, 208);
const TUN_SET_HEADER_SIZE: u32 = of_size::<c_int>(_IOC_WRITE, b'T' as u32, 216);
/// Have a descriptor not block.
const NOT_BLOCKING: u32 = FIONBIO as u32;

const VCPU_IOCTLS: &[u32] = &[
    KVM_RUN,
    KVM_KVMCLOCK_CTRL,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    TUN_SET_OFFLOAD,
    TUN_SET_HEADER_SIZE,
];
/// Of a block device: how long it is, and what its blocks are like; and to discard some.
const BLKDISCARD: u32 = ioctl_expr(_IOC_NONE, 0x12, 119, 0) as u32;
const BLKIOMIN: u32 = ioctl_expr(_IOC_NONE, 0x12, 120, 0) as u32;
const BLKIOOPT: u32 = ioctl_expr(_IOC_NONE, 0x12, 121, 0) as u32;
const BLKPBSZGET: u32 = ioctl_expr(_IOC_NONE, 0x12, 123, 0) as u32;
const BLKSSZGET: u32 = ioctl_expr(_IOC_NONE, 0x12, 104, 0) as u32;
const BLKGETSIZE64: u32 = of_size::<size_t>(_IOC_READ, 0x12, 114);
const EVENTS_IOCTLS: &[u32] = &[
    TUN_SET_OFFLOAD,
    TUN_SET_HEADER_SIZE,
    NOT_BLOCKING,
    BLKDISCARD,
    BLKIOMIN,
    BLKIOOPT,
    BLKPBSZGET,
    BLKSSZGET,
    BLKGETSIZE64,
];

const fn of_size<T>(direction: u32, kind: u32, number: u32) -> u32 {
    ioctl_expr(direction, kind, number, size_of::<T>() as u32) as u32
}

#[cfg(test)]
mod tests {
    use super::Thread::{Events, Vcpu};
    use super::*;

    #[test]
    fn filters_are_small() {
        for thread in [Vcpu, Events] {
            let filter = compile(thread).expect("compile");
            assert!(filter.length() < 320, "{}", filter.length());
        }
    }

    #[test]
    fn a_virtual_cpus_thread_has_at_most_forty_calls() {
        let count = Vcpu.known().allowed().count();
        assert!(count <= 40, "{count}");
    }

    #[test]
    fn nobody_opens_a_path_or_changes_what_the_process_is() {
        for number in [SYS_openat, SYS_prctl] {
            assert!(
                TABLE.iter().all(|(listed, ..)| *listed != number),
                "{number}"
            );
        }
    }

    #[test]
    fn requests_have_the_numbers_of_the_kernels_headers() {
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_GET_REGS, 0x8090_ae81);
        assert_eq!(KVM_GET_SREGS, 0x8138_ae83);
        assert_eq!(KVM_KVMCLOCK_CTRL, 0xaead);
        assert_eq!(TUN_SET_OFFLOAD, 0x4004_54d0);
        assert_eq!(TUN_SET_HEADER_SIZE, 0x4004_54d8);
        assert_eq!(BLKDISCARD, 0x1277);
        assert_eq!(BLKGETSIZE64, 0x8008_1272);
        for (ours, theirs) in [
            (BLKIOMIN, libc::BLKIOMIN),
            (BLKIOOPT, libc::BLKIOOPT),
            (BLKPBSZGET, libc::BLKPBSZGET),
            (BLKSSZGET, libc::BLKSSZGET),
        ] {
            assert_eq!(libc::c_ulong::from(ours), theirs);
        }
    }
}
