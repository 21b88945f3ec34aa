//! Connections, data, and how many of both go at once.

use super::*;

#[test]
fn it_is_what_the_driver_looks_for() {
    let guest = Guest::start(Guest::options());
    assert_eq!(guest.driver.read(0x08), 19);
    assert_eq!(guest.driver.read(0x100), CID as u32);
    assert_eq!(guest.driver.read(0x104), 0);
    guest.driver.write(0x14, 0);
    // No sequenced packets, and no bit for streams either, which Linux does not know.
    assert_eq!(guest.driver.read(0x10) & 0xff_ffff, 0);
}

#[test]
fn what_can_not_be_is_refused_with_a_sentence() {
    let refuse = |options: Options, expected: &str| {
        let (_parent, host_socket) = HostSocket::pair().unwrap();
        let Err(why) = Vsock::new(options, host_socket) else {
            panic!("accepted");
        };
        assert!(why.to_string().contains(expected), "{why}");
    };
    refuse(Options::new(2), "no guest can have the address 2");
    refuse(Options::new(1 << 32), "the address 4294967296");
    let options = Options::new(3);
    refuse(
        Options {
            connections: 0,
            ..options.clone()
        },
        "0 connections are not 1 to 65280",
    );
    refuse(
        Options {
            memory: 4096,
            connections: 2,
            ..options
        },
        "4096 bytes are too few for 2 connections",
    );
}

#[test]
fn names_are_the_devices() {
    let (_parent, host_socket) = HostSocket::pair().unwrap();
    let device = Vsock::new(Options::new(3), host_socket).unwrap();
    assert_eq!((device.kind(), device.name()), (19, "vsock"));
}

#[test]
fn data_flows_both_ways_on_a_connection_from_the_guest() {
    let mut guest = Guest::start(Guest::options());
    let (mut socket, mut stream) = connect(&mut guest, PORT, 77);
    assert_eq!(guest.driver.metrics.open.get(), 1);
    socket.write(&mut guest, b"from the guest");
    guest.kick();
    assert_eq!(read(&mut stream, 14), b"from the guest");
    stream.write_all(b"from the host").unwrap();
    let packet = guest.expect(Op::ReadWrite);
    socket.hear(&packet);
    assert_eq!(packet.data, b"from the host");
    assert_eq!(packet.header.fwd_cnt, 14);
    guest.expect_nothing();
}

#[test]
fn data_flows_both_ways_on_a_connection_from_the_host() {
    let mut guest = Guest::start(Guest::options());
    let mut stream = guest.host_socket.connect(9).unwrap();
    // It may be written before anybody has accepted.
    stream.write_all(b"hello").unwrap();
    let packet = guest.expect(Op::Request);
    assert_eq!(packet.header.dst_port, 9);
    guest.expect_nothing();
    let mut socket = Socket::new(packet.header.src_port, 9);
    socket.hear(&packet);
    socket.send(&mut guest, Op::Response, 0);
    guest.kick();
    let packet = guest.expect(Op::ReadWrite);
    assert_eq!(packet.data, b"hello");
    socket.hear(&packet);
    socket.write(&mut guest, b"hello yourself");
    guest.kick();
    assert_eq!(read(&mut stream, 14), b"hello yourself");
    // Another one comes from elsewhere.
    let (other, _stream) = connect_in(&mut guest, 9);
    assert_ne!(other.host, socket.host);
}

#[test]
fn nobody_listens_on_other_ports() {
    let mut guest = Guest::start(Guest::options());
    let socket = Socket::new(PORT - 1, 5);
    guest.send(&socket.header(Op::Request), &[]);
    guest.kick();
    let header = guest.expect(Op::Reset).header;
    assert_eq!((header.src_port, header.dst_port), (PORT - 1, 5));
    assert_eq!(
        guest.host_socket.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
}

#[test]
fn a_full_or_closed_host_socket_resets() {
    let mut guest = Guest::start(Guest::options());
    let refused = (0..4096).find(|&from| {
        let socket = Socket::new(PORT, from);
        guest.send(&socket.header(Op::Request), &[]);
        guest.kick();
        guest.next().op() == Op::Reset
    });
    assert!(refused.unwrap() > 32, "{refused:?}");
    // What was let in works, and there is room again.
    let (_, mut stream) = guest.host_socket.accept().unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(guest.expect(Op::ReadWrite).data, b"x");
    while guest.host_socket.accept().is_ok() {}
    let (_socket, mut stream) = {
        while guest.take().is_some() {}
        guest.give(RX_COUNT);
        for _ in 0..100 {
            guest.turn();
            while guest.take().is_some() {}
            guest.give(RX_COUNT);
        }
        connect(&mut guest, PORT + 1, 1)
    };
    guest.host_socket = HostSocket::pair().unwrap().0;
    let socket = Socket::new(PORT, 6000);
    guest.send(&socket.header(Op::Request), &[]);
    guest.kick();
    guest.expect(Op::Reset);
    stream.write_all(b"x").unwrap();
    assert_eq!(guest.expect(Op::ReadWrite).data, b"x");
}

#[test]
fn a_thousand_connections_at_once() {
    const COUNT: u32 = 1200;
    let mut options = Guest::options();
    options.connections = COUNT as u16;
    let mut guest = Guest::start(options);
    let mut all = Vec::new();
    for number in 0..COUNT {
        all.push(match number % 2 {
            0 => connect(&mut guest, PORT + number, 1),
            _ => connect_in(&mut guest, number),
        });
    }
    assert_eq!(guest.driver.metrics.open.get(), u64::from(COUNT));
    // There is no room for more: the guest's are reset, the host's closed.
    let socket = Socket::new(PORT + 5000, 1);
    guest.send(&socket.header(Op::Request), &[]);
    guest.kick();
    guest.expect(Op::Reset);
    let mut stream = guest.host_socket.connect(1).unwrap();
    guest.expect_nothing();
    assert!(is_at_end(&mut stream));

    for (number, (socket, stream)) in all.iter_mut().enumerate() {
        socket.write(&mut guest, &pattern(3000, number as u32));
        stream.write_all(&pattern(5000, number as u32 + 7)).unwrap();
    }
    guest.kick();
    let mut got: Vec<Vec<u8>> = vec![Vec::new(); COUNT as usize];
    let mut left = 5000 * COUNT as usize;
    while left > 0 {
        let packet = guest.expect(Op::ReadWrite);
        let number = all
            .iter()
            .position(|(socket, _)| socket.host == packet.header.src_port)
            .unwrap();
        all[number].0.hear(&packet);
        left -= packet.data.len();
        got[number].extend(packet.data);
    }
    for (number, (_, stream)) in all.iter_mut().enumerate() {
        assert!(got[number] == pattern(5000, number as u32 + 7));
        assert!(read_all(&mut guest, stream, 3000) == pattern(3000, number as u32));
    }
    // Half of them end from either side.
    for (number, (socket, stream)) in all.drain(..).enumerate() {
        match number % 4 {
            0 | 1 => {
                guest.send(&socket.header(Op::Reset), &[]);
                guest.kick();
            }
            _ => {
                drop(stream);
                assert_eq!(guest.expect(Op::Shutdown).header.flags, BOTH);
                guest.send(&socket.header(Op::Reset), &[]);
            }
        }
    }
    guest.kick();
    guest.expect_nothing();
    assert_eq!(guest.driver.metrics.open.get(), 0);
}

#[test]
fn all_that_is_there_goes_with_one_interrupt() {
    let mut guest = Guest::start(Guest::options());
    let (_socket, mut stream) = connect(&mut guest, PORT, 1);
    guest.driver.interrupts();
    let count = 30_000;
    stream.write_all(&vec![3; count]).unwrap();
    guest.turn();
    assert_eq!(guest.driver.interrupts(), 1);
    let mut got = 0;
    let mut packets = 0;
    while let Some(packet) = guest.take() {
        got += packet.data.len();
        packets += 1;
    }
    assert!(got > 7 * 3700, "{got} bytes in one turn");
    assert_eq!(packets, got.div_ceil(3776 - 44));
}

#[test]
fn everybody_has_a_turn() {
    let mut guest = Guest::start(Guest::options());
    let mut all: Vec<_> = (0..4)
        .map(|number| connect(&mut guest, PORT, number))
        .collect();
    for (_, stream) in &mut all {
        stream.write_all(&[5; 100_000]).unwrap();
    }
    let mut bytes = [0; 4];
    let mut total = 0;
    while total < 200_000 {
        let packet = guest.expect(Op::ReadWrite);
        bytes[packet.header.dst_port as usize] += packet.data.len();
        total += packet.data.len();
    }
    let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
    assert!(most - least <= 2 * 32 * 3776, "{bytes:?}");
}

#[test]
fn headers_may_be_split_and_data_may_be_longer_than_said() {
    let mut guest = Guest::start(Guest::options());
    let (socket, mut stream) = connect(&mut guest, PORT, 1);
    let mut header = socket.header(Op::ReadWrite);
    header.len = 6;
    let mut bytes = header.bytes().to_vec();
    bytes.extend(b"abcdefgh");
    let parts: Vec<&[u8]> = bytes.chunks(5).collect();
    guest.driver.send(TX, &parts, &[16]);
    guest.driver.kick(TX);
    guest.driver.turn().unwrap();
    assert_eq!(read(&mut stream, 6), b"abcdef");
    assert!(!is_at_end(&mut stream));
    // No header at all is nobody's.
    guest.driver.send(TX, &[&bytes[..43]], &[]);
    guest.driver.send(TX, &[], &[100]);
    guest.driver.kick(TX);
    guest.driver.turn().unwrap();
    assert_eq!(guest.driver.metrics.failures.get(), 2);
    assert!(!guest.driver.needs_reset());

    let mut guest = Guest::bare(Guest::options());
    for _ in 0..4 {
        guest.driver.send(RX, &[], &[3, 40, 1, 2, 5]);
    }
    guest.send(&Socket::new(PORT, 1).header(Op::Request), &[]);
    guest.kick();
    let (_, mut stream) = guest.host_socket.accept().unwrap();
    stream.write_all(b"1234567890").unwrap();
    guest.turn();
    let lengths: Vec<u32> = std::iter::from_fn(|| guest.driver.used(RX))
        .map(|(_, length)| length)
        .collect();
    assert_eq!(lengths, [44, 44 + 7, 44 + 3]);
}
