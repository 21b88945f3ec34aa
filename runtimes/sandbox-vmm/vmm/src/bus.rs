//! What a virtual CPU reaches outside of its memory: registers of devices by address, and the few
//! ports a PC without firmware needs.
//!
//! Called from all virtual CPUs' threads at once. An access to where nothing is reads as all ones
//! and is otherwise nothing, as on a real bus.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::client::exit::{Exit, Stop};
use crate::devices::Failure;
use crate::devices::interrupt::Interrupt;
use crate::devices::serial::Serial;
use crate::devices::transport::{INTERRUPT_ACKNOWLEDGE, INTERRUPT_STATUS, Transport};
use crate::layout::{DEVICE_SIZE, DEVICES};
use crate::metrics::Shared;

/// The first port of the serial line, of eight.
pub const SERIAL: u16 = 0x3f8;
/// The keyboard controller's status and commands, by which a PC is reset.
const KEYBOARD: u16 = 0x64;
/// The command that pulses the processor's reset line.
const RESET: u8 = 0xfe;
/// Ours: whoever writes [`POWER_OFF`] here has done with the machine.
pub const POWER: u16 = 0x600;
/// The value that ends it.
pub const POWER_OFF: u8 = 1;

/// A device on the bus.
pub struct Slot {
    /// Its registers.
    pub transport: Arc<Mutex<Transport>>,
    /// Its interrupt, whose registers take no lock.
    pub interrupt: Arc<Interrupt>,
}

/// All that can be reached.
pub struct Bus {
    devices: Vec<Slot>,
    serial: Option<Mutex<Serial>>,
    metrics: Arc<Shared>,
}

impl Bus {
    /// A bus with these devices, in the order of their addresses.
    pub fn new(devices: Vec<Slot>, serial: Option<Serial>, metrics: Arc<Shared>) -> Self {
        Self {
            devices,
            serial: serial.map(Mutex::new),
            metrics,
        }
    }

    fn find(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(DEVICES)?;
        let number = usize::try_from(offset / DEVICE_SIZE).ok()?;
        Some((self.devices.get(number)?, offset % DEVICE_SIZE))
    }

    /// A virtual CPU reads an address that is not memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        let Some((slot, offset)) = self.find(address) else {
            self.metrics.exits.nothing_there.add(1);
            bytes.fill(0xff);
            return;
        };
        self.metrics.exits.register_read.add(1);
        if offset == INTERRUPT_STATUS {
            bytes.fill(0);
            if let Ok(bytes) = <&mut [u8; 4]>::try_from(bytes) {
                *bytes = slot.interrupt.reasons().to_le_bytes();
            }
            return;
        }
        lock(&slot.transport).read(offset, bytes);
    }

    /// A virtual CPU writes to an address that is not memory. An error ends the machine.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Exit> {
        let Some((slot, offset)) = self.find(address) else {
            self.metrics.exits.nothing_there.add(1);
            return Ok(());
        };
        self.metrics.exits.register_write.add(1);
        if offset == INTERRUPT_ACKNOWLEDGE {
            if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
                slot.interrupt.acknowledge(u32::from_le_bytes(bytes));
            }
            return Ok(());
        }
        let mut transport = lock(&slot.transport);
        let outcome = transport.write(offset, bytes);
        outcome.map_err(|why| failed(transport.name(), &why))
    }

    /// A virtual CPU reads a port.
    pub fn port_in(&self, port: u16, bytes: &mut [u8]) {
        self.metrics.exits.port_in.add(1);
        // A string instruction reads the same port several times.
        for byte in bytes {
            *byte = match (port, &self.serial) {
                (SERIAL..=0x3ff, Some(serial)) => lock(serial).read(register(port)),
                // Ready for a command, and nothing to be read.
                (KEYBOARD, _) => 0,
                _ => 0xff,
            };
        }
    }

    /// A virtual CPU writes to a port. An error ends the machine.
    pub fn port_out(&self, port: u16, bytes: &[u8]) -> Result<(), Exit> {
        self.metrics.exits.port_out.add(1);
        for &byte in bytes {
            match (port, &self.serial) {
                (SERIAL..=0x3ff, Some(serial)) => lock(serial).write(register(port), byte),
                (KEYBOARD, _) if byte == RESET => return Err(Exit::Done(Stop::Reset)),
                (POWER, _) if byte == POWER_OFF => return Err(Exit::Done(Stop::PoweredOff)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn register(port: u16) -> u8 {
    (port - SERIAL).to_le_bytes()[0]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the machine ends when a device's host side failed.
pub fn failed(device: &str, why: &Failure) -> Exit {
    let failure = match why {
        Failure::Host { doing, why } => trefoil_jail::Failure::new(*doing, why),
        Failure::Guest(broken) => trefoil_jail::Failure::new("serve the guest", broken),
    };
    failure.of(format!("{device} device")).into()
}

#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_end_the_machine_in_their_ways() {
        let bus = Bus::new(Vec::new(), None, Shared::map(None).expect("metrics"));
        assert_eq!(
            bus.port_out(KEYBOARD, &[RESET]),
            Err(Exit::Done(Stop::Reset))
        );
        assert_eq!(
            bus.port_out(POWER, &[POWER_OFF]),
            Err(Exit::Done(Stop::PoweredOff))
        );
        assert_eq!(bus.port_out(POWER, &[0]), Ok(()));
        let mut bytes = [1; 4];
        bus.port_in(KEYBOARD, &mut bytes[..1]);
        bus.port_in(0x3f8, &mut bytes[1..2]);
        bus.read(DEVICES, &mut bytes[2..]);
        assert_eq!(bytes, [0, 0xff, 0xff, 0xff]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_access_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            fuzz(&bytes);
        }
    }
}
