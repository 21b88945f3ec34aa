//! What only the kernel can do: the crate's place for unsafe code.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use trefoil_os::descriptors::close_from;

/// Makes a pid namespace and a process in it, which holds it and reaps for as long as this process lives;
/// its number. It has nothing of this process's open.
pub(crate) fn hold_pids() -> Result<u32, Errno> {
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: memory is copied and not shared, so that a new stack is not needed, and the arguments beyond
    // are unused without the flags that would use them. This process has one thread: what its copy does
    // can't depend on another.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    let pid = Errno::result(pid)?;
    if pid > 0 {
        return u32::try_from(pid).map_err(|_| Errno::EOVERFLOW);
    }
    // The first process of a namespace gets no signal from within it that it has not asked for.
    // SAFETY: nothing in this copy uses a descriptor or a signal any more; what is called takes numbers,
    // a literal that lives for ever, or nothing.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        close_from(0);
        loop {
            libc::pause();
        }
    }
}

/// What [`add_entropy`] gives the kernel: `struct rand_pool_info` of `linux/random.h`.
#[repr(C)]
struct Entropy {
    /// How much of it can't be guessed, in bits.
    bits: libc::c_int,
    /// How many bytes follow.
    length: libc::c_int,
    bytes: [u8; Self::MOST],
}

impl Entropy {
    const MOST: usize = 512;
}

nix::ioctl_write_ptr!(rnd_add_entropy, b'R', 0x03, [libc::c_int; 2]);

/// Mixes bytes into the kernel's random numbers, and has it count on them; at most 512, the rest is left
/// out.
pub(crate) fn add_entropy(seed: &[u8]) -> Result<(), Errno> {
    let seed = &seed[..seed.len().min(Entropy::MOST)];
    let length = libc::c_int::try_from(seed.len()).map_err(|_| Errno::EINVAL)?;
    let mut entropy = Entropy {
        bits: length * 8,
        length,
        bytes: [0; Entropy::MOST],
    };
    entropy.bytes[..seed.len()].copy_from_slice(seed);
    let device = open(
        "/dev/urandom",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    // SAFETY: the kernel reads the two numbers and as many bytes as the second says, all of which are in
    // `entropy`, which begins with them and lives until after.
    unsafe { rnd_add_entropy(device.as_raw_fd(), (&raw const entropy).cast()) }?;
    Ok(())
}

/// Brings the interface `lo` up, which gives it its addresses.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    let control = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes are an interface request: numbers, and a name of no length.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads a name and flags from an interface request, which lives until after.
    let outcome =
        unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(outcome).map(drop)
}

/// Shifts the clock that tells the time of day, at once. What waits for it to be set is told.
pub(crate) fn step_clock(nanoseconds: i64) -> Result<(), Errno> {
    let mut change = timex();
    // What a step finds under way would go on after it.
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    adjust(&mut change)?;
    const SECOND: i64 = 1_000_000_000;
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time.tv_sec = nanoseconds.div_euclid(SECOND);
    // With ADJ_NANO these are nanoseconds.
    change.time.tv_usec = nanoseconds.rem_euclid(SECOND);
    adjust(&mut change)
}

/// Has that clock go up to 500 millionths faster or slower until it has been shifted, instead of what it
/// was to be shifted by before.
pub(crate) fn slew_clock(nanoseconds: i64) -> Result<(), Errno> {
    let mut change = timex();
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = nanoseconds / 1000;
    adjust(&mut change)
}

fn timex() -> libc::timex {
    // SAFETY: all zeroes are a request that changes nothing: numbers only.
    unsafe { std::mem::zeroed() }
}

fn adjust(change: &mut libc::timex) -> Result<(), Errno> {
    // SAFETY: the kernel reads and writes one timex, which lives until after.
    Errno::result(unsafe { libc::adjtimex(change) }).map(drop)
}
