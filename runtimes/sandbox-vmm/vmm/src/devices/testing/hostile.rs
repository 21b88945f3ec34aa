//! A driver that does what a [`Script`] says: descriptors, rings, registers, memory and kicks, right
//! and wrong. Much of it is nearly right, or it would not get far into a device.

use vm_memory::{Bytes, GuestAddress};

use super::script::Script;
use super::{BUFFERS, Driver, INDIRECT, MEMORY, NEXT, WRITE, available_ring, rings, used_ring};

/// The longest script that is played to its end.
const MOST_STEPS: usize = 4096;
/// The registers of a transport that do something, and a device's configuration.
const REGISTERS: [u64; 24] = [
    0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94,
    0xa0, 0xa4, 0xb0, 0xc0, 0xfc, 0x100, 0x104, 0x120,
];
/// The device's status as it comes about, a failure, and two that can't be.
const STATUS: [u64; 8] = [0, 1, 3, 11, 15, 0x80, 0x40, 0xff];

/// One read or write of a register.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// From a device's first register on.
    pub offset: u64,
    /// What is written, if it is.
    pub value: Option<[u8; 8]>,
    /// How many bytes.
    pub width: usize,
}

impl Access {
    /// As the script says.
    pub fn next(script: &mut Script<'_>) -> Self {
        let offset = match script.number(1) {
            odd @ 0..16 => odd * 67,
            which => REGISTERS[which as usize % REGISTERS.len()],
        };
        let how = script.number(1);
        let width = match how >> 4 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let value = match how % 8 {
            0 => None,
            1 | 2 => Some(script.of(&STATUS)),
            3 => Some(script.number(1)),
            4 => Some(1 << script.below(32)),
            // Where a ring could be: in memory or just so.
            5 => Some(rings(0) + script.number(1) * 0x1000),
            6 => Some((u64::from(MEMORY) << 20) - script.number(1) * 4),
            _ => Some(script.number(4)),
        };
        let value = value.map(u64::to_le_bytes);
        Self {
            offset,
            value,
            width,
        }
    }
}

impl Driver {
    /// Does what the script says, and `own` what is the device's own. Only a failure of the host's
    /// side is a failure, unless the machine is mortal: then it is the end.
    pub fn misbehave(&mut self, bytes: &[u8], mut own: impl FnMut(&mut Self, &mut Script<'_>)) {
        let mut script = Script::new(bytes);
        for _ in 0..MOST_STEPS {
            if self.ended().is_some() {
                return;
            }
            match script.byte() {
                None => break,
                Some(what) if what & 0xc0 == 0xc0 => own(self, &mut script),
                Some(what) => self.step(what, &mut script),
            }
        }
        for queue in 0..self.queues.len() {
            self.kick(queue);
        }
        for _ in 0..8 {
            self.turn_if_it_lives();
        }
    }

    fn turn_if_it_lives(&self) {
        self.survive(self.turn().map_err(|(_, why)| why));
    }

    fn step(&mut self, what: u8, script: &mut Script<'_>) {
        let queue = script.below(self.queues.len());
        let size = self.queues[queue].size;
        match what % 16 {
            0..3 => self.send_any(queue, script),
            // One by itself: what was a chain has another end, or none.
            3 | 4 => {
                let index = script.number(1) as u16 % size;
                // Mostly the next one, so that chains of some length come about.
                let next = match script.number(1) as u16 {
                    skip @ 0..32 => index + skip,
                    _ => index + 1,
                };
                let (address, length) = self.buffer(queue, script);
                let flags = script.number(1) as u16 & (NEXT | WRITE | INDIRECT);
                self.describe(queue, index, address, length, flags, next % size);
            }
            5 => self.offer(queue, script.number(1) as u16 % (size + 1)),
            6 => {
                let at = GuestAddress(available_ring(queue) + 2);
                self.ram.write_obj(script.number(2) as u16, at).unwrap();
            }
            // Whether it wants to be interrupted, and from when on.
            7 => {
                let event = 4 + 2 * u64::from(size);
                let at = available_ring(queue) + script.of(&[0, event]);
                let value = script.number(1) as u16;
                self.ram.write_obj(value, GuestAddress(at)).unwrap();
            }
            8 => {
                let at = BUFFERS + script.number(1) * 16;
                let bytes = script.bytes(16);
                self.ram.write_slice(bytes, GuestAddress(at)).unwrap();
            }
            9 | 10 => {
                let access = Access::next(script);
                let mut bytes = access.value.unwrap_or_default();
                let mut device = self.device.lock().unwrap();
                let outcome = match access.value {
                    Some(_) => device.write(access.offset, &bytes[..access.width]),
                    None => {
                        device.read(access.offset, &mut bytes[..access.width]);
                        Ok(())
                    }
                };
                drop(device);
                self.survive(outcome);
            }
            11 if script.number(1) < 32 => self.negotiate(without(script)),
            _ => {
                self.kick(queue);
                self.turn_if_it_lives();
                while self.used(queue).is_some() {}
            }
        }
    }

    /// Makes a chain available that is linked as it should be, in the queue or in a table of its own.
    fn send_any(&mut self, queue: usize, script: &mut Script<'_>) {
        let shape = script.number(1);
        let count = 1 + shape as usize % 8;
        // From one of them on they are writable, but for a change.
        let first = script.number(1) as usize % 9;
        let parts: Vec<_> = (0..count)
            .map(|number| {
                let (address, length) = self.buffer(queue, script);
                let writable = (number >= first) != (shape & 0xf0 == 0xf0);
                (address, length, if writable { WRITE } else { 0 })
            })
            .collect();
        match shape & 8 {
            0 => drop(self.chain(queue, &parts)),
            _ => drop(self.chain_in_table(queue, shape >> 4, &parts)),
        }
    }

    /// Makes a chain available that has a table of its own, one of sixteen that there are places for.
    pub fn chain_in_table(&mut self, queue: usize, table: u64, chain: &[(u64, u32, u16)]) -> u16 {
        let at = BUFFERS - (1 + table % 16) * 0x1000;
        let mut bytes = Vec::new();
        for (number, &(address, length, flags)) in (1_u16..).zip(chain) {
            let last = usize::from(number) == chain.len();
            let flags = if last { flags } else { flags | NEXT };
            bytes.extend(address.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
        self.chain(queue, &[(at, bytes.len() as u32, INDIRECT)])
    }

    /// A place and a length, mostly in memory.
    fn buffer(&self, queue: usize, script: &mut Script<'_>) -> (u64, u32) {
        let within = script.number(1) * 16;
        let address = match script.number(1) {
            0 => u64::MAX - within,
            1 => (u64::from(MEMORY) << 20) - within,
            2 => rings(queue) + within,
            3 => used_ring(queue) + within,
            4 => within << 56,
            _ => BUFFERS + within,
        };
        let length = match script.number(1) as u32 {
            0 => u32::MAX,
            1 => (script.number(1) as u32) << 16,
            2 => script.number(1) as u32 * 512,
            3 => script.number(1) as u32 * 512 + 1,
            length => length - 4,
        };
        (address, length)
    }
}

/// A feature that a driver goes without: none, one of the rings', or any but being of this version,
/// without which it is refused.
pub fn without(script: &mut Script<'_>) -> u64 {
    match script.number(1) {
        0..64 => 0,
        bit => 1_u64.checked_shl(bit as u32 - 64).unwrap_or(0) & !(1 << 32),
    }
}
