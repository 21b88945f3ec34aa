//! How connections end.

use super::*;

#[test]
fn a_refused_or_forgotten_connection_from_the_host_ends() {
    let mut guest = Guest::start(Guest::options());
    let mut refused = guest.host_socket.connect(9).unwrap();
    let packet = guest.expect(Op::Request);
    let socket = Socket::new(packet.header.src_port, 9);
    guest.send(&socket.header(Op::Reset), &[]);
    guest.kick();
    assert!(is_at_end(&mut refused));

    let mut forgotten = guest.host_socket.connect(9).unwrap();
    let packet = guest.expect(Op::Request);
    let begin = Instant::now();
    while !is_at_end(&mut forgotten) {
        guest.turn();
        std::thread::sleep(Duration::from_millis(5));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    assert!(begin.elapsed() > Duration::from_millis(1900));
    assert_eq!(guest.driver.metrics.open.get(), 0);
    // An answer that comes too late is one to nothing.
    let socket = Socket::new(packet.header.src_port, 9);
    guest.send(&socket.header(Op::Response), &[]);
    guest.kick();
    guest.expect(Op::Reset);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::start(Guest::options());
    // The guest's first.
    let (mut socket, mut stream) = connect(&mut guest, PORT, 1);
    socket.write(&mut guest, b"last");
    socket.send(&mut guest, Op::Shutdown, SHUTDOWN_SEND);
    guest.kick();
    assert_eq!(read(&mut stream, 4), b"last");
    assert!(is_at_end(&mut stream));
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.expect(Op::ReadWrite).data, b"answer");
    guest.expect_nothing();
    drop(stream);
    let packet = guest.expect(Op::Shutdown);
    assert_eq!(packet.header.flags, BOTH);
    socket.send(&mut guest, Op::Reset, 0);
    guest.kick();
    guest.expect_nothing();
    assert_eq!(guest.driver.metrics.open.get(), 0);

    // The host's first.
    let (mut socket, mut stream) = connect(&mut guest, PORT, 2);
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let packet = guest.expect(Op::ReadWrite);
    assert_eq!(packet.data, b"last");
    assert_eq!(guest.expect(Op::Shutdown).header.flags, SHUTDOWN_SEND);
    socket.write(&mut guest, b"answer");
    guest.kick();
    assert_eq!(read(&mut stream, 6), b"answer");
    guest.expect_nothing();
    drop(stream);
    // It hears of that without writing.
    assert_eq!(guest.expect(Op::Shutdown).header.flags, BOTH);
    // Both may go at the same time.
    socket.send(&mut guest, Op::Shutdown, BOTH);
    guest.kick();
    guest.expect(Op::Reset);
    guest.expect_nothing();
    assert_eq!(guest.driver.metrics.open.get(), 0);

    // The guest receives no more.
    let (mut socket, mut stream) = connect(&mut guest, PORT, 3);
    socket.send(&mut guest, Op::Shutdown, SHUTDOWN_RECEIVE);
    guest.kick();
    let why = stream.write(b"x").unwrap_err();
    assert_eq!(why.kind(), ErrorKind::BrokenPipe);
    socket.write(&mut guest, b"still");
    guest.kick();
    assert_eq!(read(&mut stream, 5), b"still");
    guest.expect_nothing();
    drop(stream);
    assert_eq!(guest.expect(Op::Shutdown).header.flags, BOTH);

    // The host receives no more.
    let (mut socket, mut stream) = connect(&mut guest, PORT, 4);
    stream.shutdown(Shutdown::Read).unwrap();
    socket.write(&mut guest, b"for nobody");
    guest.kick();
    assert_eq!(guest.expect(Op::Shutdown).header.flags, SHUTDOWN_RECEIVE);
    stream.write_all(b"still").unwrap();
    assert_eq!(guest.expect(Op::ReadWrite).data, b"still");
    socket.send(&mut guest, Op::Shutdown, BOTH);
    guest.kick();
    guest.expect(Op::Reset);
    assert!(is_at_end(&mut stream));
}

#[test]
fn a_guest_that_receives_no_more_is_told_when_the_host_has_gone() {
    let mut guest = Guest::start(Guest::options());
    let stream = guest.host_socket.connect(9).unwrap();
    let packet = guest.expect(Op::Request);
    let mut socket = Socket::new(packet.header.src_port, 9);
    socket.hear(&packet);
    drop(stream);
    // That nobody receives is seen by writing, before there is a look at the other direction.
    socket.send(&mut guest, Op::Response, 0);
    socket.write(&mut guest, b"for nobody");
    socket.send(&mut guest, Op::Shutdown, SHUTDOWN_RECEIVE);
    guest.kick();
    assert_eq!(guest.expect(Op::Shutdown).header.flags, SHUTDOWN_RECEIVE);
    assert_eq!(guest.expect(Op::Shutdown).header.flags, BOTH);
    socket.send(&mut guest, Op::Reset, 0);
    guest.kick();
    assert_eq!(guest.driver.metrics.open.get(), 0);
}

#[test]
fn each_side_may_end_the_same_direction_at_the_same_time() {
    let mut guest = Guest::start(Guest::options());
    let (mut socket, mut stream) = connect(&mut guest, PORT, 1);
    socket.send(&mut guest, Op::Shutdown, SHUTDOWN_RECEIVE);
    guest.driver.kick(TX);
    stream.shutdown(Shutdown::Write).unwrap();
    guest.turn();
    // The other one is open.
    socket.write(&mut guest, b"still");
    guest.kick();
    assert_eq!(read(&mut stream, 5), b"still");
    guest.expect_nothing();
}

#[test]
fn a_dead_peer_is_told_after_all_it_sent() {
    let mut guest = Guest::bare(Guest::options());
    guest.give(1);
    let (mut socket, mut stream) = connect(&mut guest, PORT, 1);
    let sent = pattern(100_000, 1);
    stream.write_all(&sent).unwrap();
    drop(stream);
    for _ in 0..10 {
        guest.turn();
    }
    guest.give(RX_COUNT);
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let packet = guest.expect(Op::ReadWrite);
        socket.hear(&packet);
        got.extend(packet.data);
    }
    assert!(got == sent);
    assert_eq!(guest.expect(Op::Shutdown).header.flags, BOTH);
    // Data on its way to the dead is dropped; the guest's RST ends it.
    socket.write(&mut guest, b"x");
    socket.send(&mut guest, Op::Reset, 0);
    guest.kick();
    guest.expect_nothing();
    assert_eq!(guest.driver.metrics.open.get(), 0);

    // One that did not read what it was sent.
    let (mut socket, stream) = connect(&mut guest, PORT, 1);
    socket.write(&mut guest, b"x");
    guest.kick();
    drop(stream);
    guest.expect(Op::Reset);
    assert_eq!(guest.driver.metrics.open.get(), 0);
}

#[test]
fn a_closing_guest_has_everything_delivered() {
    for abrupt in [false, true] {
        let mut guest = Guest::start(Guest::options());
        let (mut socket, mut stream) = connect(&mut guest, PORT, 1);
        // More than the socket holds, so that some of it waits here.
        let sent = pattern(2 * HELD + 100_000, 2);
        let mut done = 0;
        while done < sent.len() {
            let count = (socket.free() as usize).min(sent.len() - done);
            socket.write(&mut guest, &sent[done..done + count]);
            done += count;
            guest.kick();
            match count {
                0 => panic!("it stopped after {done}"),
                _ if done < sent.len() => socket.hear(&guest.expect(Op::CreditUpdate)),
                _ => {}
            }
        }
        match abrupt {
            true => socket.send(&mut guest, Op::Reset, 0),
            false => socket.send(&mut guest, Op::Shutdown, BOTH),
        }
        guest.kick();
        while guest.take().is_some_and(|packet| {
            assert_eq!(packet.op(), Op::CreditUpdate);
            true
        }) {}
        assert_eq!(guest.driver.metrics.open.get(), 1);
        if abrupt {
            // Its ports may be used again.
            drop(connect(&mut guest, PORT, 1));
        }
        let mut got = Vec::new();
        let mut part = [0; 8192];
        loop {
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(count) => got.extend_from_slice(&part[..count]),
                Err(_) => guest.turn(),
            }
        }
        assert!(got == sent);
        if !abrupt {
            guest.expect(Op::Reset);
            assert_eq!(guest.driver.metrics.open.get(), 0);
        }
    }
}

#[test]
fn a_reset_closes_everything_and_leaves_the_host_socket_open() {
    let mut guest = Guest::start(Guest::options());
    for round in 0..3 {
        let (mut socket, mut stream) = connect(&mut guest, PORT, round);
        let (_, mut other) = connect_in(&mut guest, 5);
        socket.write(&mut guest, &[1; 1000]);
        stream.write_all(b"x").unwrap();
        guest.after_reset();
        assert_eq!(guest.driver.metrics.open.get(), 0);
        assert!(is_at_end(&mut other));
        assert!(stream.write(b"x").is_err());
        guest.expect_nothing();
    }
    // What came meanwhile is let in later.
    guest.driver.write(0x70, 0);
    let mut stream = guest.host_socket.connect(6).unwrap();
    guest.turn();
    guest.after_reset();
    assert_eq!(guest.expect(Op::Request).header.dst_port, 6);
    assert!(!is_at_end(&mut stream));
}

#[test]
fn an_event_for_a_connection_that_has_ended_is_not_its_successors() {
    let mut guest = Guest::start(Guest::options());
    let (first, mut one) = connect(&mut guest, PORT, 1);
    one.write_all(b"x").unwrap();
    // Ended by the guest and succeeded, before the loop has looked at its socket.
    guest.send(&first.header(Op::Reset), &[]);
    guest.send(&Socket::new(PORT, 2).header(Op::Request), &[]);
    guest.driver.kick(TX);
    guest.turn();
    assert_eq!(guest.expect(Op::Response).header.dst_port, 2);
    guest.expect_nothing();
}
