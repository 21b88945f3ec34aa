//! Load: many requests at once, kept in flight by the kernel's asynchronous I/O, which costs the
//! guest less than threads would and so shows more of the device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use libc::{c_long, iocb};
use trefoil_probe::pattern::Numbers;

use super::aligned::Aligned;
use super::open;
use crate::request::{Outcome, While, Words, facts};

/// What the kernel's `linux/aio_abi.h` names `IOCB_CMD_...`.
const READ: u16 = 0;
const WRITE: u16 = 1;

/// `block-load DISK read|write SIZE DEPTH BYTES [random]`: requests of one size, so many at a time,
/// until so many bytes are through; from the start of the disk on, or anywhere.
pub(crate) fn load(words: &mut Words<'_>) -> Outcome {
    let random = words.flag("random");
    let disk = words.word("a disk")?;
    let write = match words.word("a direction")? {
        "read" => false,
        "write" => true,
        other => return Err(format!("{other:?} is neither read nor write")),
    };
    let size: usize = words.parse("a size")?;
    let depth: usize = words.parse("a depth")?;
    let bytes: u64 = words.parse("how many bytes")?;
    words.end()?;
    if size == 0 || depth == 0 {
        return Err("a load of nothing".to_owned());
    }
    let file = open(disk, write, true)?;
    let blocks = disk_size(disk)? / size as u64;
    if blocks == 0 {
        return Err(format!("{disk} is smaller than {size} bytes"));
    }
    let total = bytes / size as u64;
    let mut offsets = Offsets {
        numbers: random.then(|| Numbers::new(1)),
        next: 0,
        blocks,
        size: size as u64,
    };
    // Nothing of the disk's is read by more than one name.
    let mut buffers = Vec::new();
    for _ in 0..depth {
        buffers.push(Aligned::new(size)?);
    }
    let began = Instant::now();
    if depth == 1 {
        let buffer = buffers.first_mut().ok_or("a load of nothing")?;
        one_by_one(&file, write, buffer, total, &mut offsets)?;
    } else {
        many_at_once(&file, write, &mut buffers, total, &mut offsets)?;
    }
    facts!(nanoseconds = began.elapsed().as_nanos(), requests = total)
}

fn disk_size(disk: &str) -> Result<u64, String> {
    let text = std::fs::read_to_string(format!("/sys/block/{disk}/size"))
        .during(format_args!("reading the size of {disk}"))?;
    let sectors: u64 = text
        .trim()
        .parse()
        .map_err(|_| format!("the size of {disk} is no number"))?;
    Ok(sectors * 512)
}

/// Where the next request goes.
struct Offsets {
    numbers: Option<Numbers>,
    next: u64,
    blocks: u64,
    size: u64,
}

impl Offsets {
    fn next(&mut self) -> u64 {
        let block = match &mut self.numbers {
            Some(numbers) => numbers.below(self.blocks),
            None => self.next % self.blocks,
        };
        self.next += 1;
        block * self.size
    }
}

fn one_by_one(
    file: &File,
    write: bool,
    buffer: &mut [u8],
    total: u64,
    offsets: &mut Offsets,
) -> Result<(), String> {
    for number in 0..total {
        let at = offsets.next();
        if write {
            file.write_all_at(buffer, at)
        } else {
            file.read_exact_at(buffer, at)
        }
        .during(format_args!("request {number}, at {at}"))?;
    }
    Ok(())
}

fn many_at_once(
    file: &File,
    write: bool,
    buffers: &mut [Aligned],
    total: u64,
    offsets: &mut Offsets,
) -> Result<(), String> {
    let context = Context::new(buffers.len()).during("making a context of asynchronous I/O")?;
    let request = |number: usize, buffer: &mut Aligned, at: u64| {
        // SAFETY: a request is numbers only, for which zeroes are values.
        let mut request: iocb = unsafe { std::mem::zeroed() };
        request.aio_data = number as u64;
        request.aio_lio_opcode = if write { WRITE } else { READ };
        request.aio_fildes = file.as_raw_fd().unsigned_abs();
        request.aio_buf = buffer.as_mut_ptr() as u64;
        request.aio_nbytes = buffer.len() as u64;
        request.aio_offset = at.cast_signed();
        request
    };
    let size = buffers.first().map_or(0, |buffer| buffer.len()) as i64;
    let mut idle: Vec<usize> = (0..buffers.len()).collect();
    let mut batch: Vec<iocb> = Vec::with_capacity(buffers.len());
    let mut events = vec![Event::default(); buffers.len()];
    let (mut submitted, mut completed) = (0, 0);
    while completed < total {
        batch.clear();
        while submitted < total
            && let Some(number) = idle.pop()
        {
            if let Some(buffer) = buffers.get_mut(number) {
                batch.push(request(number, buffer, offsets.next()));
                submitted += 1;
            }
        }
        // SAFETY: each request has a buffer of its own, which outlives the context; whoever leaves
        // here drops the context first, and that waits for every request in flight.
        unsafe { context.submit(&mut batch) }.during("submitting requests")?;
        let ended = context
            .wait(&mut events)
            .during("waiting for requests to complete")?;
        for event in events.iter().take(ended) {
            if event.result != size {
                return match i32::try_from(-event.result) {
                    Ok(errno @ 1..) => Err(io::Error::from_raw_os_error(errno)).during("a request"),
                    _ => Err(format!("a request was cut short to {} bytes", event.result)),
                };
            }
            idle.push(event.data as usize);
            completed += 1;
        }
    }
    Ok(())
}

/// A completion, as the kernel writes it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// Requests in flight. Dropped, it waits for them.
struct Context(libc::c_ulong);

impl Context {
    fn new(depth: usize) -> io::Result<Self> {
        let mut id: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number there, and nothing else.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, depth, &raw mut id) };
        checked(result).map(|_| Self(id))
    }

    /// Hands all of a batch to the kernel.
    ///
    /// # Safety
    ///
    /// Each request's buffer must be valid, and used by nobody else, until it has completed.
    unsafe fn submit(&self, batch: &mut [iocb]) -> io::Result<()> {
        let mut pointers: Vec<*mut iocb> = batch.iter_mut().map(std::ptr::from_mut).collect();
        let mut rest = pointers.as_mut_slice();
        while !rest.is_empty() {
            // SAFETY: these are so many pointers to requests, which are only read by this call;
            // the caller answers for their buffers.
            let result = unsafe {
                libc::syscall(libc::SYS_io_submit, self.0, rest.len(), rest.as_mut_ptr())
            };
            let taken = checked(result)?;
            rest = rest.get_mut(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits for one completion at least, and takes all there are.
    fn wait(&self, events: &mut [Event]) -> io::Result<usize> {
        let least: c_long = 1;
        loop {
            // SAFETY: the kernel writes at most so many events there.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    self.0,
                    least,
                    events.len(),
                    events.as_mut_ptr(),
                    std::ptr::null_mut::<libc::timespec>(),
                )
            };
            match checked(result) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and not used any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

fn checked(result: c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
