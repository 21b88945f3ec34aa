//! Guests that do what no driver does.

use std::os::fd::{AsFd, AsRawFd};

use crate::devices::testing::BUFFERS;
use crate::devices::vsock::fuzz;
use crate::devices::vsock::host_socket;
use crate::devices::vsock::packet::Header;

use super::*;

#[test]
fn a_request_flood_without_room_for_answers_is_bounded() {
    let mut options = Guest::options();
    options.connections = 10;
    let mut guest = Guest::bare(options);
    for from in 0..2000 {
        let socket = Socket::new(PORT + from % 2, from / 2);
        guest.send(&socket.header(Op::Request), &[]);
        guest.send(&socket.header(Op::Reset), &[]);
        guest.send(&socket.header(Op::ReadWrite), &[]);
        guest.send(&socket.header(Op::Request), &[]);
        guest.kick();
        while guest.host_socket.accept().is_ok() {}
    }
    assert!(guest.driver.metrics.open.get() <= 10);
    let mut answers = 0;
    loop {
        guest.give(RX_COUNT);
        guest.turn();
        match guest.take() {
            Some(packet) => {
                assert_ne!(packet.op(), Op::ReadWrite);
                answers += 1;
            }
            None => break,
        }
    }
    assert!((10..=300).contains(&answers), "{answers} answers");
    assert!(!guest.driver.needs_reset());
}

#[test]
fn packets_that_are_wrong_are_answered_as_they_deserve() {
    let mut guest = Guest::start(Guest::options());
    let good = Socket::new(PORT, 1).header(Op::Request);
    let mut case = |change: &dyn Fn(&mut Header), answer: bool| {
        let mut header = good;
        change(&mut header);
        guest.send(&header, &[]);
        guest.kick();
        if answer {
            let reset = guest.expect(Op::Reset).header;
            assert_eq!((reset.src_cid, reset.dst_cid), (header.dst_cid, CID));
            assert_eq!(reset.kind, header.kind);
            assert_eq!((reset.src_port, reset.dst_port), (header.dst_port, 1));
        }
        guest.expect_nothing();
        assert!(guest.host_socket.accept().is_err());
    };
    case(&|header| header.src_cid = CID + 1, false);
    case(&|header| header.src_cid |= 1 << 32, false);
    case(&|header| header.dst_cid = 4, true);
    case(&|header| header.dst_cid |= 1 << 40, true);
    case(&|header| header.kind = 2, true);
    case(&|header| header.kind = 0, true);
    case(&|header| header.op = 0, true);
    case(&|header| header.op = 8, true);
    case(&|header| header.len = 1, true);
    case(&|header| header.len = u32::MAX, true);
    for op in [Op::Response, Op::Shutdown, Op::ReadWrite, Op::CreditUpdate] {
        case(&|header| header.op = op as u16, true);
    }
    case(&|header| header.op = Op::Reset as u16, false);
    assert!(!guest.driver.needs_reset());

    // The same on a connection end it.
    let mut wrong = |change: &dyn Fn(&mut Header)| {
        let (socket, mut stream) = connect(&mut guest, PORT, 1);
        let mut header = socket.header(Op::ReadWrite);
        change(&mut header);
        guest.send(&header, b"data");
        guest.kick();
        guest.expect(Op::Reset);
        assert!(is_at_end(&mut stream));
        assert_eq!(guest.driver.metrics.open.get(), 0);
    };
    wrong(&|header| header.op = 0);
    wrong(&|header| header.op = 99);
    wrong(&|header| header.op = Op::Request as u16);
    wrong(&|header| header.op = Op::Response as u16);
    wrong(&|header| header.len = 5);
    wrong(&|header| header.len = u32::MAX);
    // After its end there is no more data.
    let (mut socket, _stream) = connect(&mut guest, PORT, 1);
    socket.send(&mut guest, Op::Shutdown, SHUTDOWN_SEND);
    socket.write(&mut guest, b"more");
    guest.kick();
    guest.expect(Op::Reset);
}

#[test]
fn a_buffer_without_room_for_a_header_and_data_breaks_the_device() {
    for size in [1, 43, 44] {
        let mut guest = Guest::bare(Guest::options());
        guest.driver.chain(RX, &[(BUFFERS, size, WRITE)]);
        guest.send(&Socket::new(PORT, 1).header(Op::Request), &[]);
        guest.kick();
        assert!(guest.driver.needs_reset());
        assert_eq!(guest.driver.metrics.broken.get(), 1);
    }
}

#[test]
fn a_wrong_message_through_the_host_socket_ends_the_machine_with_a_sentence() {
    let mut guest = Guest::start(Guest::options());
    // A file that is no stream is closed only.
    let file = tempfile::tempfile().unwrap();
    host_socket::send(guest.host_socket.as_fd(), 1, file.as_fd()).unwrap();
    let packet = guest.expect(Op::Request);
    let socket = Socket::new(packet.header.src_port, 1);
    guest.send(&socket.header(Op::Response), &[]);
    guest.kick();
    guest.expect(Op::Reset);
    assert_eq!(packet.header.src_cid, HOST_CID);
    nix::sys::socket::send(
        guest.host_socket.as_fd().as_raw_fd(),
        b"what?",
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    let (device, why) = guest.driver.turn().unwrap_err();
    assert_eq!(device, "vsock");
    assert!(why.to_string().contains("has 5 bytes, not 8"), "{why}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz(&bytes);
    }
}
