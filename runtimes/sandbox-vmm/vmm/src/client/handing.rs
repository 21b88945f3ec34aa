//! What is handed to a machine.

use std::os::fd::{AsFd, BorrowedFd};

use super::configuration::{Device, Handed};

/// There are as many as can be named already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine can be handed no more than 256 {0}")]
pub struct Full(&'static str);

/// The descriptors and the devices of a machine, each with the number by which the configuration,
/// requests and whoever speaks with the guest name it. The numbers are told here and counted nowhere else.
#[derive(Debug, Default)]
pub struct Handing<'a> {
    descriptors: Vec<BorrowedFd<'a>>,
    devices: Vec<Device>,
}

impl<'a> Handing<'a> {
    /// Adds a descriptor.
    ///
    /// # Errors
    /// If its number would be none.
    pub fn descriptor(&mut self, descriptor: &'a impl AsFd) -> Result<Handed, Full> {
        let number = u8::try_from(self.descriptors.len()).map_err(|_| Full("descriptors"))?;
        self.descriptors.push(descriptor.as_fd());
        Ok(Handed(number))
    }

    /// Adds a device, and says which one it is: [`Attach`](super::control::Attach) names it so, and the
    /// guest as `virtio-mmio.<number>`.
    ///
    /// # Errors
    /// If its number would be none.
    pub fn device(&mut self, device: Device) -> Result<u8, Full> {
        let number = u8::try_from(self.devices.len()).map_err(|_| Full("devices"))?;
        self.devices.push(device);
        Ok(number)
    }

    /// The devices, for the configuration, in the order of their numbers.
    pub fn take_devices(&mut self) -> Vec<Device> {
        std::mem::take(&mut self.devices)
    }

    /// The descriptors, for the message that brings the configuration.
    pub fn descriptors(&self) -> &[BorrowedFd<'a>] {
        &self.descriptors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_number_of_its_own() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let mut handing = Handing::default();
        for expected in 0..=255 {
            assert_eq!(handing.descriptor(&null), Ok(Handed(expected)));
            assert_eq!(handing.device(Device::Rng), Ok(expected));
        }
        let why = handing.descriptor(&null).expect_err("one too many");
        assert_eq!(
            why.to_string(),
            "a machine can be handed no more than 256 descriptors"
        );
        handing.device(Device::Slot).expect_err("one too many");
        assert_eq!(handing.take_devices().len(), 256);
        assert_eq!(handing.descriptors().len(), 256);
    }
}
