use super::*;

const AT: u32 = 0x9_e000;

fn device(number: u32) -> Device {
    Device {
        address: 0xc000_0000 + number * 0x1000,
        size: 0x1000,
        line: 5 + number % 19,
    }
}

fn machine(processors: u8, devices: u32) -> Machine<impl Iterator<Item = Device> + Clone> {
    Machine {
        processors,
        local_apics: 0xfee0_0000,
        io_apic: 0xfec0_0000,
        serial: Some(Serial {
            port: 0x3f8,
            line: 4,
        }),
        devices: (0..devices).map(device),
    }
}

fn made(processors: u8, devices: u32) -> Vec<u8> {
    let mut room = vec![0; 0x2000];
    let length = write(&machine(processors, devices), AT, &mut room).expect("room");
    room.truncate(length);
    room
}

fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn number(bytes: &[u8], at: usize, size: usize) -> usize {
    let bytes = bytes[at..at + size].iter().rev();
    bytes.fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// The table that an address names, found as a kernel finds it.
fn table<'a>(all: &'a [u8], address: usize, signature: &[u8]) -> &'a [u8] {
    let table = &all[address - AT as usize..];
    assert_eq!(address % ALIGNMENT, 0);
    assert_eq!(&table[..4], signature);
    let table = &table[..number(table, LENGTH, 4)];
    assert_eq!(sum(table), 0, "{signature:?}");
    table
}

/// FADT and MADT by way of RSDP and XSDT, and the DSDT by way of the FADT.
fn tables(all: &[u8]) -> [&[u8]; 3] {
    assert_eq!(&all[..8], b"RSD PTR ");
    assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
    assert_eq!((all[15], number(all, 20, 4)), (2, 36));
    let xsdt = table(all, number(all, 24, 8), b"XSDT");
    assert_eq!(xsdt.len(), HEADER + 2 * 8);
    let fadt = table(all, number(xsdt, 36, 8), b"FACP");
    let madt = table(all, number(xsdt, 44, 8), b"APIC");
    [fadt, madt, table(all, number(fadt, 140, 8), b"DSDT")]
}

#[test]
fn a_kernel_finds_each_table_and_each_adds_up() {
    for (processors, devices) in [(1, 0), (2, 8), (64, 40)] {
        let all = made(processors, devices);
        let [fadt, ..] = tables(&all);
        assert_eq!((fadt.len(), fadt[8]), (276, 6));
        // Reduced hardware, and so no address of it.
        assert_ne!(number(fadt, 112, 4) & 1 << 20, 0);
        assert!(fadt[48..109].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn processors_and_the_io_apic_are_told() {
    let all = made(64, 0);
    let [_, madt, _] = tables(&all);
    assert_eq!(number(madt, 36, 4), 0xfee0_0000);
    let mut entries = &madt[44..];
    let mut apics = Vec::new();
    let mut io_apics = Vec::new();
    while let [kind, length, ..] = *entries {
        match kind {
            0 => apics.push((entries[3], number(entries, 4, 4))),
            1 => io_apics.push((number(entries, 4, 4), number(entries, 8, 4))),
            other => assert_eq!((other, length), (4, 6)),
        }
        entries = &entries[usize::from(length)..];
    }
    assert!(apics.iter().copied().eq((0..64).map(|id| (id, 1))));
    assert_eq!(io_apics, [(0xfec0_0000, 0)]);
}

/// The bodies of the packages behind an opcode of two bytes, and what they are in.
fn devices(aml: &[u8]) -> Vec<&[u8]> {
    let length = |aml: &[u8]| {
        assert_eq!(aml[0] >> 6, 1, "a length in two bytes");
        usize::from(aml[0] & 0xf) | usize::from(aml[1]) << 4
    };
    assert_eq!(aml[0], 0x10);
    assert_eq!(length(&aml[1..]), aml.len() - 1);
    assert_eq!(&aml[3..8], b"\\_SB_");
    let mut rest = &aml[8..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        assert_eq!(rest[..2], [0x5b, 0x82]);
        let end = 2 + length(&rest[2..]);
        found.push(&rest[4..end]);
        rest = &rest[end..];
    }
    found
}

#[test]
fn devices_stand_in_their_order_with_registers_and_line() {
    let all = made(1, 40);
    let [.., dsdt] = tables(&all);
    let devices = devices(&dsdt[HEADER..]);
    assert_eq!(devices.len(), 41);
    assert_eq!(&devices[0][..4], b"COM1");
    for (at, body) in devices[1..].iter().enumerate() {
        let wanted = device(u32::try_from(at).expect("small"));
        assert_eq!(body[..4], *format!("VI{at:02X}").as_bytes());
        assert_eq!(&body[9..19], b"\x0dLNRO0005\0");
        let memory = body.windows(4).position(|part| part == [0x86, 9, 0, 1]);
        let memory = memory.expect("memory") + 4;
        assert_eq!(number(body, memory, 4), wanted.address as usize);
        assert_eq!(number(body, memory + 4, 4), 0x1000);
        assert_eq!(body[memory + 8..memory + 13], [0x89, 6, 0, 0b1011, 1]);
        assert_eq!(number(body, memory + 13, 4), wanted.line as usize);
        assert_eq!(body[memory + 17..], [0x79, 0]);
        // The buffer says how long it is.
        assert_eq!(usize::from(body[memory - 5]), body.len() - (memory - 4));
    }
}

#[test]
fn room_that_is_too_small_is_said_so() {
    let whole = made(2, 24).len();
    for length in 0..whole {
        let mut room = vec![0; length];
        assert_eq!(write(&machine(2, 24), AT, &mut room), Err(TooLong));
    }
    let mut room = vec![0; whole];
    assert_eq!(write(&machine(2, 24), AT, &mut room), Ok(whole));
    // More devices than AML's two bytes of length can tell of.
    assert_eq!(write(&machine(1, 70), AT, &mut [0; 1 << 16]), Err(TooLong));
}

#[test]
fn the_same_machine_has_the_same_tables() {
    assert_eq!(made(4, 24), made(4, 24));
    assert_ne!(made(4, 24), made(4, 23));
}
