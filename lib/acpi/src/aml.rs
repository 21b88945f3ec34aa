//! The differentiated table's AML: one scope with a device for each device. There are names in it and no
//! methods, so that a kernel runs nothing.

use crate::bytes::Bytes;
use crate::{Device, Machine, Serial, TooLong};

const ZERO: u8 = 0x00;
const ONE: u8 = 0x01;
const NAME: u8 = 0x08;
const BYTE: u8 = 0x0a;
const DWORD: u8 = 0x0c;
const STRING: u8 = 0x0d;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const DEVICE: [u8; 2] = [0x5b, 0x82];
/// The end of a list of resources, whose checksum is left out.
const END: [u8; 2] = [0x79, 0];
/// A line is raised by an edge, is high when active, may be shared, and belongs to a device.
const EDGE_SHARED: u8 = 1 | 1 << 1 | 1 << 3;

/// Writes the scope of all devices.
pub fn write<Devices>(machine: &Machine<Devices>, dsdt: &mut Bytes<'_>) -> Result<(), TooLong>
where
    Devices: Iterator<Item = Device> + Clone,
{
    dsdt.push(&[SCOPE])?;
    package(dsdt, |scope| {
        scope.push(b"\\_SB_")?;
        if let Some(serial) = machine.serial {
            write_serial(scope, serial)?;
        }
        for (number, device) in machine.devices.clone().enumerate() {
            write_device(scope, u8::try_from(number).map_err(|_| TooLong)?, device)?;
        }
        Ok(())
    })
}

/// A package, which begins with its own length: in two bytes, whatever it is.
fn package(
    bytes: &mut Bytes<'_>,
    fill: impl FnOnce(&mut Bytes<'_>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    /// What two bytes can tell.
    const MOST: usize = 0xfff;
    let start = bytes.length();
    bytes.push(&[0, 0])?;
    fill(bytes)?;
    let length = bytes.length() - start;
    if length > MOST {
        return Err(TooLong);
    }
    // One byte follows the first, which has the low four bits.
    let [low, high] = [(length & 0xf) as u8 | 1 << 6, (length >> 4) as u8];
    bytes.put(start, &[low, high])
}

fn write_device(scope: &mut Bytes<'_>, number: u8, device: Device) -> Result<(), TooLong> {
    let digits = b"0123456789ABCDEF";
    let [high, low] = [number >> 4, number & 0xf].map(|digit| digits[usize::from(digit)]);
    scope.push(&DEVICE)?;
    package(scope, |body| {
        body.push(&[b'V', b'I', high, low])?;
        name(body, b"_HID", &[STRING])?;
        body.push(b"LNRO0005\0")?;
        name(body, b"_UID", &[BYTE, number])?;
        // Its memory accesses are coherent.
        name(body, b"_CCA", &[ONE])?;
        resources(body, |list| {
            // Memory at a fixed address that can be written.
            list.push(&[0x86, 9, 0, 1])?;
            list.push(&device.address.to_le_bytes())?;
            list.push(&device.size.to_le_bytes())?;
            interrupt(list, device.line)
        })
    })
}

fn write_serial(scope: &mut Bytes<'_>, serial: Serial) -> Result<(), TooLong> {
    /// PNP0501, a 16550A, as EISA packs it.
    const ID: u32 = 0x0105_d041;
    scope.push(&DEVICE)?;
    package(scope, |body| {
        body.push(b"COM1")?;
        name(body, b"_HID", &[DWORD])?;
        body.push(&ID.to_le_bytes())?;
        name(body, b"_UID", &[ZERO])?;
        resources(body, |list| {
            // Eight ports, decoded by 16 bits, at one place.
            let [low, high] = serial.port.to_le_bytes();
            list.push(&[0x47, 1, low, high, low, high, 1, 8])?;
            interrupt(list, serial.line)
        })
    })
}

/// A name for an object, of which the first bytes are given.
fn name(body: &mut Bytes<'_>, name: &[u8; 4], object: &[u8]) -> Result<(), TooLong> {
    body.push(&[NAME])?;
    body.push(name)?;
    body.push(object)
}

/// A device's resources, as a buffer.
fn resources(
    body: &mut Bytes<'_>,
    fill: impl FnOnce(&mut Bytes<'_>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    name(body, b"_CRS", &[BUFFER])?;
    package(body, |buffer| {
        buffer.push(&[BYTE, 0])?;
        let start = buffer.length();
        fill(buffer)?;
        buffer.push(&END)?;
        let length = u8::try_from(buffer.length() - start).map_err(|_| TooLong)?;
        buffer.put(start - 1, &[length])
    })
}

fn interrupt(list: &mut Bytes<'_>, line: u32) -> Result<(), TooLong> {
    list.push(&[0x89, 6, 0, EDGE_SHARED, 1])?;
    list.push(&line.to_le_bytes())
}
