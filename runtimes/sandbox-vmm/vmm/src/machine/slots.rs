//! Disks that come and go while the guest runs, each in a slot that was kept for it.
//!
//! The interrupts, the events for kicks and the registers are there from the start, as all else that
//! takes a system call which the jail has no more. A disk that comes is a few descriptors and what is
//! read of them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use crate::client::configuration::Device;
use crate::client::control::{Attach, Detach};
use crate::devices::block::{self, Block, Engine};
use crate::devices::transport::Transport;
use crate::devices::vacant::Vacant;

/// What one device of the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// A device that stays.
    Fixed,
    /// A slot without a disk.
    Free,
    /// A slot with one.
    Taken,
}

/// Why a disk can't come or go.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// device {0} is no slot for a disk
    #[error("device {0} is no slot for a disk")]
    NoSlot(u8),
    /// device {0} has a disk already
    #[error("device {0} has a disk already")]
    Taken(u8),
    /// device {0} has no disk
    #[error("device {0} has no disk")]
    Free(u8),
    /// make the disk {serial}: {why}
    #[error("make the disk {serial}: {why}")]
    Disk {
        /// By which the guest knows it.
        serial: String,
        /// Why not.
        why: block::Error,
    },
    /// device {0} has not the queues of a disk
    #[error("device {0} has not the queues of a disk")]
    Queues(u8),
}

/// The machine's devices, by whether disks come and go there.
pub(crate) struct Slots {
    slots: Vec<(Slot, Arc<Mutex<Transport>>)>,
}

impl Slots {
    /// Of the configuration's devices and what was made of each.
    pub fn new(configured: &[Device], made: &[Arc<Mutex<Transport>>]) -> Self {
        let slots = configured.iter().map(|device| match device {
            Device::Slot => Slot::Free,
            _ => Slot::Fixed,
        });
        Self {
            slots: slots.zip(made.iter().cloned()).collect(),
        }
    }

    fn slot(&mut self, number: u8) -> Result<&mut (Slot, Arc<Mutex<Transport>>), Error> {
        match self.slots.get_mut(usize::from(number)) {
            None | Some((Slot::Fixed, _)) => Err(Error::NoSlot(number)),
            Some(slot) => Ok(slot),
        }
    }

    /// Puts a disk into a slot.
    pub fn attach(&mut self, wanted: &Attach, files: Vec<OwnedFd>) -> Result<(), Error> {
        let number = wanted.device;
        let (slot, transport) = self.slot(number)?;
        if *slot == Slot::Taken {
            return Err(Error::Taken(number));
        }
        let options = block::Options {
            read_only: wanted.read_only,
            serial: wanted.serial.clone(),
            // A ring can't be made any more.
            engine: Engine::Plain,
        };
        let files = files.into_iter().map(File::from).collect();
        let disk = Block::new(options, files).map_err(|why| Error::Disk {
            serial: wanted.serial.clone(),
            why,
        })?;
        let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
        if !transport.replace(Box::new(disk)) {
            return Err(Error::Queues(number));
        }
        *slot = Slot::Taken;
        Ok(())
    }

    /// Takes the disk out of a slot, whatever the guest still does with it: nothing of it is read or
    /// written after that.
    pub fn detach(&mut self, wanted: &Detach) -> Result<(), Error> {
        let number = wanted.device;
        let (slot, transport) = self.slot(number)?;
        if *slot == Slot::Free {
            return Err(Error::Free(number));
        }
        let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
        if !transport.replace(Box::new(Vacant::new(block::QUEUES))) {
            return Err(Error::Queues(number));
        }
        *slot = Slot::Free;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::devices::rng::Rng;
    use crate::devices::testing::{BUFFERS, Driver, WRITE};

    const SIZE: usize = 64 << 10;
    /// The register of the device's number.
    const KIND: u64 = 8;
    const BLOCK: u32 = 2;

    /// A driver that looks at a slot, and the slot.
    fn slot() -> (Driver, Slots) {
        let driver = Driver::start(Box::new(Vacant::new(block::QUEUES)), 0);
        let slots = Slots::new(&[Device::Slot], std::slice::from_ref(&driver.device));
        (driver, slots)
    }

    fn disk(byte: u8) -> File {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&[byte; SIZE]).expect("write");
        file
    }

    fn attach(device: u8, read_only: bool) -> Attach {
        Attach {
            device,
            read_only,
            serial: "late".into(),
        }
    }

    /// Reads the first sector, by a driver that is there already; `None` if nobody answers.
    fn first_sector(driver: &mut Driver) -> Option<[u8; 512]> {
        let (header, data) = (BUFFERS, BUFFERS + 0x1000);
        driver
            .ram
            .write_slice(&[0; 16], GuestAddress(header))
            .expect("header");
        driver.chain(0, &[(header, 16, 0), (data, 513, WRITE)]);
        driver.kick(0);
        driver.turn().expect("turn");
        driver.used(0)?;
        let mut bytes = [0; 512];
        driver
            .ram
            .read_slice(&mut bytes, GuestAddress(data))
            .expect("data");
        Some(bytes)
    }

    #[test]
    fn a_disk_comes_goes_and_another_comes() {
        let (mut driver, mut slots) = slot();
        assert_eq!(driver.read(KIND), 0);
        for (byte, read_only) in [(1, true), (2, false), (3, true)] {
            let wanted = attach(0, read_only);
            slots
                .attach(&wanted, vec![disk(byte).into()])
                .expect("attach");
            assert_eq!(driver.read(KIND), BLOCK);
            // Its size in sectors.
            assert_eq!(driver.read(0x100), 128);
            driver.negotiate(0);
            assert_eq!(first_sector(&mut driver), Some([byte; 512]));
            let again = slots.attach(&wanted, vec![disk(9).into()]);
            assert!(matches!(again, Err(Error::Taken(0))), "{again:?}");
            assert_eq!(first_sector(&mut driver), Some([byte; 512]));

            slots.detach(&Detach { device: 0 }).expect("detach");
            assert_eq!((driver.read(KIND), driver.read(0x100)), (0, 0));
            // Who still asks is not answered, whether it begins again or not.
            assert_eq!(first_sector(&mut driver), None);
            driver.negotiate(0);
            assert_eq!(first_sector(&mut driver), None);
            let again = slots.detach(&Detach { device: 0 });
            assert!(matches!(again, Err(Error::Free(0))), "{again:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let (driver, mut slots) = slot();
        let null = File::open("/dev/null").expect("open");
        let why = slots.attach(&attach(0, true), vec![null.into()]);
        let why = why.expect_err("no disk").to_string();
        assert!(
            why.starts_with("make the disk late: the disk is neither"),
            "{why}"
        );
        let two = vec![disk(1).into(), disk(2).into()];
        let why = slots.attach(&attach(0, false), two).expect_err("two");
        assert!(why.to_string().contains("made of 2 files"), "{why}");
        for device in [1, 255] {
            let why = slots.attach(&attach(device, true), vec![disk(1).into()]);
            assert!(matches!(why, Err(Error::NoSlot(_))), "{why:?}");
            let why = slots.detach(&Detach { device });
            assert!(matches!(why, Err(Error::NoSlot(_))), "{why:?}");
        }
        assert_eq!(driver.read(KIND), 0);

        let rng = Driver::start(Box::new(Rng::new()), 0);
        let mut slots = Slots::new(&[Device::Rng], std::slice::from_ref(&rng.device));
        let why = slots.attach(&attach(0, true), vec![disk(1).into()]);
        assert!(matches!(why, Err(Error::NoSlot(0))), "{why:?}");
        // Even one who has got it wrong can't put a disk behind another's queues.
        let mut slots = Slots::new(&[Device::Slot], std::slice::from_ref(&rng.device));
        let why = slots.attach(&attach(0, true), vec![disk(1).into()]);
        assert!(matches!(why, Err(Error::Queues(0))), "{why:?}");
        assert_eq!(rng.read(KIND), 4);
    }
}
