//! Credit, both ways.

use super::*;

#[test]
fn a_guest_that_sends_more_than_it_may_is_reset() {
    let mut guest = Guest::start(Guest::options());
    let (mut socket, mut stream) = connect(&mut guest, PORT, 1);
    let allowed = socket.free() as usize;
    // The host's side takes nothing, so that all is under way.
    loop {
        let count = socket.free() as usize;
        if count == 0 {
            break;
        }
        socket.write(&mut guest, &vec![7; count]);
        guest.kick();
        while let Some(packet) = guest.take() {
            socket.hear(&packet);
        }
    }
    guest.give(RX_COUNT);
    assert!(socket.sent as usize > allowed, "the window did not grow");
    guest.expect_nothing();
    socket.write(&mut guest, b"x");
    guest.kick();
    guest.expect(Op::Reset);
    assert_eq!(guest.driver.metrics.open.get(), 0);
    let mut rest = Vec::new();
    stream.set_nonblocking(false).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < socket.sent as usize);
}

#[test]
fn the_guest_is_sent_what_it_has_room_for() {
    let mut guest = Guest::start(Guest::options());
    let mut socket = Socket::new(PORT, 1);
    socket.buf_alloc = 10_000;
    socket.send(&mut guest, Op::Request, 0);
    guest.kick();
    socket.hear(&guest.expect(Op::Response));
    let (_, mut stream) = guest.host_socket.accept().unwrap();
    let sent = pattern(50_000, 3);
    stream.write_all(&sent).unwrap();
    let mut got = Vec::new();
    let mut asked = 0;
    while got.len() < sent.len() {
        let packet = guest.next();
        socket.hear(&packet);
        match packet.op() {
            Op::ReadWrite => got.extend(packet.data),
            Op::CreditRequest => {
                asked += 1;
                assert_eq!(got.len() % 10_000, 0);
                guest.expect_nothing();
                socket.fwd_cnt = socket.received;
                socket.send(&mut guest, Op::CreditUpdate, 0);
                guest.kick();
            }
            op => panic!("{op:?} came"),
        }
    }
    assert!(got == sent);
    assert_eq!(asked, 4);
    // From a guest that tells by itself nothing is asked.
    guest.expect(Op::CreditRequest);
    socket.fwd_cnt = socket.received;
    for _ in 0..2 {
        socket.send(&mut guest, Op::CreditUpdate, 0);
        guest.kick();
    }
    stream.write_all(&sent).unwrap();
    let mut count = 0;
    while count < 10_000 {
        let packet = guest.expect(Op::ReadWrite);
        socket.hear(&packet);
        count += packet.data.len();
    }
    guest.expect_nothing();
    // It hears when it asks.
    socket.send(&mut guest, Op::CreditRequest, 0);
    guest.kick();
    socket.hear(&guest.expect(Op::CreditUpdate));
}

#[test]
fn a_reader_that_stops_stops_its_own_connection_only() {
    let mut guest = Guest::start(Guest::options());
    let (mut stuck, mut slow) = connect(&mut guest, PORT, 1);
    let (mut socket, mut stream) = connect(&mut guest, PORT, 2);
    let fill = |guest: &mut Guest, stuck: &mut Socket| {
        for _ in 0..100 {
            let free = stuck.free();
            stuck.write(guest, &vec![1; free as usize]);
            guest.kick();
            while let Some(packet) = guest.take() {
                guest.give(1);
                stuck.hear(&packet);
            }
        }
        assert_eq!(stuck.free(), 0);
    };
    fill(&mut guest, &mut stuck);
    let sent = pattern(500_000, 4);
    let mut got = Vec::new();
    for part in sent.chunks(10_000) {
        socket.write(&mut guest, part);
        guest.kick();
        got.extend(read(&mut stream, part.len()));
        while let Some(packet) = guest.take() {
            guest.give(1);
            socket.hear(&packet);
        }
    }
    assert!(got == sent);
    // It goes on where it stopped.
    let under_way = stuck.sent as usize;
    assert_eq!(read_all(&mut guest, &mut slow, under_way).len(), under_way);
    while stuck.free() == 0 {
        stuck.hear(&guest.expect(Op::CreditUpdate));
    }
    assert!(stuck.free() >= credit::MOST / 2);
}

#[test]
fn an_answer_that_is_overtaken_is_asked_for_again() {
    let mut guest = Guest::start(Guest::options());
    let mut socket = Socket::new(PORT, 1);
    socket.buf_alloc = 100;
    socket.send(&mut guest, Op::Request, 0);
    guest.kick();
    socket.hear(&guest.expect(Op::Response));
    let (_, mut stream) = guest.host_socket.accept().unwrap();
    stream.write_all(&[7; 250]).unwrap();
    socket.hear(&guest.expect(Op::ReadWrite));
    guest.expect(Op::CreditRequest);
    // It has said so by something else before it answers, and is sent more.
    socket.fwd_cnt = 100;
    socket.send(&mut guest, Op::CreditRequest, 0);
    guest.kick();
    let more = guest.expect(Op::ReadWrite);
    assert_eq!(more.data.len(), 100);
    socket.send(&mut guest, Op::CreditUpdate, 0);
    guest.kick();
    while guest.next().op() != Op::CreditRequest {}
    // That there is no room is an answer, too.
    socket.send(&mut guest, Op::CreditUpdate, 0);
    guest.kick();
    guest.expect_nothing();
    socket.fwd_cnt = 200;
    socket.send(&mut guest, Op::CreditUpdate, 0);
    guest.kick();
    assert_eq!(guest.expect(Op::ReadWrite).data.len(), 50);
}
