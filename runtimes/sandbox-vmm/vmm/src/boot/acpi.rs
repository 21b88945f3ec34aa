//! The ACPI tables of this machine: for a guest whose kernel takes nothing else, as that of a confidential
//! guest.

use trefoil_acpi::{Device, Machine, Serial};
use trefoil_virtio::Ram;
use vm_memory::{Bytes, GuestAddress};

use super::Description;
use super::failure::Failure;
use super::place::Placed;
use crate::bus::SERIAL;
use crate::layout::{
    ACPI_SIZE, ACPI_TABLES, DEVICE_SIZE, IO_APIC, LOCAL_APIC, SERIAL_LINE, device_address,
    device_line,
};

/// Writes the tables. Answers with the range that is theirs; it begins with the RSDP.
pub fn write(ram: &Ram, description: &Description) -> Result<Placed, Failure> {
    let narrow = |address: u64| u32::try_from(address).unwrap_or(0);
    let machine = Machine {
        processors: description.cpus,
        local_apics: LOCAL_APIC,
        io_apic: IO_APIC,
        serial: description.serial.then_some(Serial {
            port: SERIAL,
            line: SERIAL_LINE,
        }),
        devices: (0..description.devices).map(|number| Device {
            address: narrow(device_address(number)),
            size: narrow(DEVICE_SIZE),
            line: device_line(number),
        }),
    };
    let mut room = [0; ACPI_SIZE];
    trefoil_acpi::write(&machine, narrow(ACPI_TABLES), &mut room)?;
    ram.write_slice(&room, GuestAddress(ACPI_TABLES))?;
    Ok(Placed {
        address: ACPI_TABLES,
        length: ACPI_SIZE as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::configuration::{MOST_CPUS, Tables};
    use crate::layout::MAX_DEVICES;
    use crate::memory::{Pages, make};

    #[test]
    fn the_largest_machine_fits() {
        let ram = make(16, Pages::Ordinary).expect("memory");
        let description = Description {
            tables: Tables::Acpi,
            cpus: MOST_CPUS,
            devices: MAX_DEVICES,
            serial: true,
        };
        write(&ram, &description).expect("room");
    }
}
