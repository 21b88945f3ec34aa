//! Giving programs to the kernel: the few commands of `bpf(2)` that we use.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;

const TYPE_SOCKET_MAP: u32 = 15;

/// More programs than anybody attaches to one place: the kernel's own limit for a cgroup.
const MAX_PROGRAMS: usize = 64;
/// Bytes of a name, with its end.
const NAME: usize = 16;

/// One instruction, as the kernel takes it (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u8,
    /// Destination in the lower half, source in the upper.
    pub registers: u8,
    /// How far a jump goes, or where memory is.
    pub offset: i16,
    /// A number.
    pub immediate: i32,
}

impl Instruction {
    /// Makes one of an operation, its destination and source registers, an offset and a number.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: destination | source << 4,
            offset,
            immediate,
        }
    }
}

/// What is to be loaded.
pub struct Program<'a> {
    /// What calls it (`BPF_PROG_TYPE_…`).
    pub kind: u32,
    /// Where it will be attached (`BPF_…`), if its kind wants to know so early; else zero.
    pub attach: u32,
    /// How the system's tools show it, in at most 15 bytes.
    pub name: &'a str,
    /// What it does.
    pub instructions: &'a [Instruction],
}

/// Arguments of `MAP_CREATE`, the beginning of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; NAME],
}

/// Arguments of `MAP_UPDATE`.
#[repr(C)]
#[derive(Default)]
struct Update {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Arguments of `PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME],
    interface: u32,
    attach: u32,
}

/// Arguments of `PROG_ATTACH` and `PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Arguments of `PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// Arguments of `PROG_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Arguments of `LINK_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

/// Loads a program; it lives as long as somebody has it open, or it is attached.
///
/// # Errors
/// The kernel does not know its kind, its verifier refuses it, or we may not.
pub fn load(program: &Program<'_>) -> io::Result<OwnedFd> {
    // The word decides which kernel functions may be called; those that ask for another we don't.
    let license = c"Apache-2.0";
    let count = u32::try_from(program.instructions.len())
        .map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let loaded = with_room(|| {
        bpf(
            PROG_LOAD,
            &mut Load {
                kind: program.kind,
                count,
                instructions: address(program.instructions.as_ptr()),
                license: address(license.as_ptr()),
                name: name(program.name),
                attach: program.attach,
                ..Load::default()
            },
        )
    });
    own(loaded?)
}

/// Lists the programs attached somewhere, by their numbers, and the flags they were attached with.
///
/// # Errors
/// Nothing can be attached there, or we may not ask.
pub fn attached(target: BorrowedFd<'_>, kind: u32) -> io::Result<(Vec<u32>, u32)> {
    let mut ids = vec![0u32; MAX_PROGRAMS];
    let mut query = Query {
        target: number(target),
        kind,
        ids: address(ids.as_mut_ptr()),
        count: u32::try_from(MAX_PROGRAMS).unwrap_or(0),
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    ids.truncate(usize::try_from(query.count).unwrap_or(0));
    Ok((ids, query.attach_flags))
}

/// Attaches a program (`BPF_…`, with `BPF_F_…`).
///
/// # Errors
/// It can't be attached there, or not beside what is, or we may not.
pub fn attach(
    target: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    kind: u32,
    flags: u32,
) -> io::Result<()> {
    let mut arguments = Attach {
        target: number(target),
        program: number(program),
        kind,
        flags,
    };
    bpf(PROG_ATTACH, &mut arguments).map(drop)
}

/// Detaches a program.
///
/// # Errors
/// It is not attached there, or we may not.
pub fn detach(target: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    let mut arguments = Attach {
        target: number(target),
        program: number(program),
        kind,
        flags: 0,
    };
    bpf(PROG_DETACH, &mut arguments).map(drop)
}

/// Opens a program by its number.
///
/// # Errors
/// There is none, or we may not.
pub fn by_id(id: u32) -> io::Result<OwnedFd> {
    own(bpf(
        PROG_GET_FD_BY_ID,
        &mut ById {
            id,
            ..ById::default()
        },
    )?)
}

/// Attaches a program for as long as the link that this returns is open.
///
/// # Errors
/// It can't be attached there, or we may not.
pub fn link(program: BorrowedFd<'_>, target: BorrowedFd<'_>, kind: u32) -> io::Result<OwnedFd> {
    let mut arguments = Link {
        program: number(program),
        target: number(target),
        kind,
        flags: 0,
    };
    own(bpf(LINK_CREATE, &mut arguments)?)
}

/// Makes a map that holds one socket, under the key 0, for programs to find. The socket goes from
/// it when it is closed.
///
/// # Errors
/// The kernel has no such maps, the socket can't be in one, or we may not.
pub fn socket_map(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let map = with_room(|| {
        bpf(
            MAP_CREATE,
            &mut Create {
                kind: TYPE_SOCKET_MAP,
                key: 4,
                value: 8,
                entries: 1,
                name: name("trefoil_socket"),
                ..Create::default()
            },
        )
    });
    let map = own(map?)?;
    let (key, value) = (0u32, u64::from(number(socket)));
    let mut update = Update {
        map: number(map.as_fd()),
        key: address(&key),
        value: address(&value),
        ..Update::default()
    };
    bpf(MAP_UPDATE, &mut update)?;
    Ok(map)
}

/// Before Linux 5.11 programs and maps count as locked memory, and EPERM says that there is too
/// little of it.
fn with_room(mut make: impl FnMut() -> io::Result<libc::c_long>) -> io::Result<libc::c_long> {
    match make() {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).map_err(|_| error)?;
            let made = make();
            setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)?;
            made
        }
        other => other,
    }
}

/// A name as the kernel takes it, cut off where it is too long.
fn name(name: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    for (to, from) in bytes[..NAME - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// How the kernel takes a descriptor in its arguments. One that is open is not negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// How the kernel takes a pointer in its arguments.
fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}

fn own(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned it as a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `bpf(2)`. `T` is one of the argument structures above, without padding the kernel would
/// find non-zero.
fn bpf<T>(command: libc::c_long, arguments: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes at `arguments`, which we hold
    // exclusively. The addresses in it point to memory that their makers keep alive during the
    // call, as long as the counts next to them say.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(arguments),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
