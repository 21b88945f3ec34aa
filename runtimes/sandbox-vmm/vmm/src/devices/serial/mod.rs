//! The serial line: a 16550A whose output goes to a descriptor, and which nobody types at.
//!
//! What the descriptor does not take at once is dropped and counted: a guest must not wait for
//! whoever reads its console, and must not fill our memory with what nobody reads.

use std::fs::File;
use std::io::{Error, Result, Write};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

struct Line(EventFd);

impl Trigger for Line {
    type E = Error;

    fn trigger(&self) -> Result<()> {
        self.0.write(1)
    }
}

/// Output that never waits and never fails.
struct Output {
    file: File,
    dropped: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self.file.write(bytes) {
            Ok(count) => self.dropped += (bytes.len() - count) as u64,
            Err(_) => self.dropped += bytes.len() as u64,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The line.
pub struct Serial {
    uart: Uart<Line, vm_superio::serial::NoEvents, Output>,
}

impl Serial {
    /// A line that writes to `output`, which is made not to block, and interrupts by `line`.
    pub fn new(output: File, line: EventFd) -> Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&output, FcntlArg::F_GETFL)?);
        fcntl(&output, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let output = Output {
            file: output,
            dropped: 0,
        };
        Ok(Self {
            uart: Uart::new(Line(line), output),
        })
    }

    /// The guest reads a register, of eight.
    pub fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    /// The guest writes a register. An interrupt that can't be raised is under way already.
    pub fn write(&mut self, register: u8, value: u8) {
        drop(self.uart.write(register, value));
    }

    /// How many bytes the output did not take.
    pub fn dropped(&self) -> u64 {
        self.uart.writer().dropped
    }
}

/// Accesses as the bytes describe, two for each.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let made = File::options()
        .write(true)
        .open("/dev/null")
        .and_then(|null| Ok((null, EventFd::new(libc::EFD_NONBLOCK)?)))
        .and_then(|(null, line)| Serial::new(null, line));
    let Ok(mut serial) = made else {
        return;
    };
    for access in bytes.chunks_exact(2) {
        match access[0] & 8 {
            0 => drop(serial.read(access[0] & 7)),
            _ => serial.write(access[0] & 7, access[1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    #[test]
    fn what_is_written_comes_out_and_a_full_pipe_stops_nobody() {
        let (mut reader, writer) = std::io::pipe().expect("pipe");
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("event");
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let mut serial = Serial::new(writer, line).expect("serial");
        for byte in b"hello" {
            serial.write(0, *byte);
        }
        let mut text = [0; 5];
        reader.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"hello");
        for _ in 0..100_000 {
            serial.write(0, b'x');
        }
        assert_eq!(serial.dropped(), 100_000 - 65_536);
        // Ready for more, always.
        assert_eq!(serial.read(5) & 0x60, 0x60);
    }

    fn quiet() -> (Serial, EventFd) {
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("event");
        let null = File::options().write(true).open("/dev/null").expect("open");
        let serial = Serial::new(null, line.try_clone().expect("clone")).expect("serial");
        (serial, line)
    }

    const DATA: u8 = 0;
    const ENABLE: u8 = 1;
    const IDENTIFY: u8 = 2;
    const MODEM: u8 = 4;
    /// With both buffers on, as of a 16550A.
    const NOTHING: u8 = 0xc1;
    const MAY_SEND: u8 = 0xc2;

    #[test]
    fn the_driver_is_told_when_it_may_send() {
        let (mut serial, line) = quiet();
        serial.write(DATA, b'x');
        assert!(line.read().is_err(), "nobody asked");
        assert_eq!(serial.read(IDENTIFY), NOTHING);
        // As Linux begins to send: it waits for this interrupt before it sends the first byte.
        serial.write(ENABLE, 2);
        assert_eq!(line.read().expect("interrupt"), 1);
        assert_eq!(serial.read(IDENTIFY), MAY_SEND);
        assert_eq!(serial.read(IDENTIFY), NOTHING, "told once");
        for byte in b"sixteen at once" {
            serial.write(DATA, *byte);
        }
        assert_eq!(line.read().expect("interrupt"), 1, "for all of them");
        assert_eq!(serial.read(IDENTIFY), MAY_SEND);
        // As it ends, and begins again.
        serial.write(ENABLE, 0);
        assert!(line.read().is_err());
        serial.write(ENABLE, 2);
        assert_eq!(line.read().expect("interrupt"), 1);
        assert_eq!(serial.read(IDENTIFY), MAY_SEND);
    }

    #[test]
    fn a_driver_that_looks_finds_a_16550a() {
        let (mut serial, _line) = quiet();
        // The steps by which Linux tells one from its forerunners and from nothing at all.
        serial.write(ENABLE, 0);
        assert_eq!(serial.read(ENABLE), 0);
        serial.write(ENABLE, 0xf);
        assert_eq!(serial.read(ENABLE) & 0xf, 0xf);
        serial.write(ENABLE, 0);
        serial.write(MODEM, 0x10 | 0xa);
        assert_eq!(serial.read(6) & 0xf0, 0x90, "looped back");
        serial.write(MODEM, 8);
        serial.write(2, 1);
        assert_eq!(serial.read(IDENTIFY) >> 6, 3);
        serial.write(7, 0x5a);
        assert_eq!(serial.read(7), 0x5a);
    }

    #[test]
    fn an_output_that_is_gone_is_no_reason_to_stop() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let line = EventFd::new(libc::EFD_NONBLOCK).expect("event");
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let mut serial = Serial::new(writer, line).expect("serial");
        serial.write(DATA, b'x');
        assert_eq!(serial.dropped(), 1);
    }

    proptest! {
        #[test]
        fn no_access_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }
    }
}
