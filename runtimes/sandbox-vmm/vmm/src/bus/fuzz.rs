//! A guest that reads and writes any address and port, in any order.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, what can't be is a failure of the test"
)]

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Bus, Exit, Slot, Stop};
use crate::devices::rng::Rng;
use crate::devices::serial::Serial;
use crate::devices::testing::Driver;
use crate::devices::testing::hostile::Access;
use crate::devices::testing::script::Script;
use crate::devices::vsock::{Options, Vsock, host_socket::HostSocket};
use crate::layout::device_address;
use crate::metrics::Shared;

/// Does what the bytes say on a bus with two devices and a serial line. Nothing but the ports that
/// are there for it ends the machine.
pub fn fuzz(bytes: &[u8]) {
    let (_parent, host_socket) = HostSocket::pair().unwrap();
    let vsock = Vsock::new(Options::new(3), host_socket).unwrap();
    let drivers = [
        Driver::start(Box::new(Rng::new()), 0),
        Driver::start(Box::new(vsock), 0),
    ];
    let slots = drivers
        .iter()
        .map(|driver| Slot {
            transport: Arc::clone(&driver.device),
            interrupt: Arc::clone(&driver.interrupt),
        })
        .collect();
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .unwrap();
    let serial = Serial::new(null, EventFd::new(libc::EFD_NONBLOCK).unwrap()).unwrap();
    let bus = Bus::new(slots, Some(serial), Shared::map(None).unwrap());
    let mut script = Script::new(bytes);
    while let Some(what) = script.byte() {
        match what % 8 {
            0..4 => {
                let access = Access::next(&mut script);
                let device = device_address(script.below(3));
                go(&bus, device + access.offset, access.value, access.width);
            }
            4 => {
                let address = script.number(4) << script.below(32);
                go(&bus, address, Some([what; 8]), 8);
                go(&bus, address, None, 8);
            }
            5 => {
                let port = match script.number(1) {
                    known @ 0..8 => {
                        [0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x64, 0x60, 0x600][known as usize]
                    }
                    _ => script.number(2) as u16,
                };
                let mut bytes = [script.number(1) as u8; 3];
                bus.port_in(port, &mut bytes);
                match bus.port_out(port, &bytes) {
                    Ok(()) | Err(Exit::Done(Stop::Reset | Stop::PoweredOff)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            // What the queues are made of, wherever they are by now.
            6 => {
                let at = 0x10_0000 + script.number(2) * 2;
                let driver = &drivers[script.below(2)];
                let bytes = script.bytes(16);
                driver.ram.write_slice(bytes, GuestAddress(at)).unwrap();
            }
            _ => drivers.iter().for_each(|driver| driver.turn().unwrap()),
        }
    }
}

fn go(bus: &Bus, address: u64, value: Option<[u8; 8]>, width: usize) {
    match value {
        Some(bytes) => bus.write(address, &bytes[..width]).unwrap(),
        None => bus.read(address, &mut [0; 8][..width]),
    }
}
