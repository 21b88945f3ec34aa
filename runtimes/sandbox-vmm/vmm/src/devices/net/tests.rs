//! The device over a socket instead of a tap, which any user may do anywhere.

#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::testing::{BUFFERS, Driver, NEXT, Sent, WRITE, available_ring};

const OPTIONS: Options = Options {
    mac: [2, 0, 0, 0, 0, 7],
    mtu: 9000,
};
const WITHOUT_MERGING: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const WITHOUT_EVENT_INDEX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

fn start(without: u64) -> (Driver, UnixDatagram) {
    let (tap, peer) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    let driver = Driver::start(Box::new(Net::over_socket(OPTIONS, tap)), without);
    driver.turn().unwrap();
    driver.turn().unwrap();
    (driver, peer)
}

/// A packet that can be told from others, with an empty header.
fn packet(number: usize, length: usize) -> Vec<u8> {
    let mut packet = vec![0; HEADER];
    packet.extend((0..length).map(|at| (at * 7 + at / 256 + number) as u8));
    packet
}

fn with_chains(mut packet: Vec<u8>, chains: u16) -> Vec<u8> {
    packet[10..12].copy_from_slice(&chains.to_le_bytes());
    packet
}

fn next(peer: &UnixDatagram) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 17];
    let length = peer.recv(&mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// The next packet the driver gets, from the buffers it gave, in this order.
fn received(driver: &mut Driver, sent: &mut std::collections::VecDeque<Sent>) -> Option<Vec<u8>> {
    let (head, length) = driver.used(RX)?;
    let first = sent.pop_front().unwrap();
    assert_eq!(head, first.head);
    let mut packet = driver.received(&first);
    packet.truncate(length as usize);
    for _ in 1..u16::from_le_bytes([packet[10], packet[11]]) {
        let (head, length) = driver.used(RX).expect("the rest is there at once");
        let more = sent.pop_front().unwrap();
        assert_eq!(head, more.head);
        packet.extend(&driver.received(&more)[..length as usize]);
    }
    Some(packet)
}

#[test]
fn the_configuration_says_what_was_asked_for() {
    let (driver, _peer) = start(0);
    let mut space = [0xff; 16];
    driver.device.lock().unwrap().read(0x100, &mut space);
    assert_eq!(space[..6], OPTIONS.mac);
    assert_eq!(space[6..8], [1, 0], "the link is up");
    assert_eq!(space[10..12], 9000u16.to_le_bytes());
    assert_eq!(space[12..], [0; 4]);
}

#[test]
fn an_interface_that_no_driver_would_take_is_refused() {
    let refused = |mac, mtu| {
        let file = tempfile::tempfile().unwrap();
        let why = Net::new(Options { mac, mtu }, file).err().unwrap();
        why.to_string()
    };
    assert!(refused([1, 0, 0, 0, 0, 0], 1500).contains("single"));
    assert!(refused([0; 6], 1500).contains("single"));
    assert!(refused([2, 0, 0, 0, 0, 0], 67).contains("67"));
    let why = refused([2, 0, 0, 0, 0, 0], 1500);
    assert!(why.starts_with("ask the tap for its flags: "), "{why}");
}

#[test]
fn packets_are_sent_in_order_whatever_buffers_they_are_in() {
    let (mut driver, peer) = start(0);
    let packets: Vec<_> = (0..5).map(|number| packet(number, 60 + number)).collect();
    driver.send(TX, &[&packets[0]], &[]);
    driver.send(TX, &[&packets[1][..12], &packets[1][12..]], &[]);
    driver.send(
        TX,
        &[&packets[2][..5], &packets[2][5..20], &packets[2][20..]],
        &[],
    );
    driver.send(TX, &[&packets[3]], &[]);
    driver.send(TX, &[&packets[4]], &[]);
    driver.interrupts();
    driver.kick(TX);
    driver.turn().unwrap();
    for packet in packets {
        assert_eq!(next(&peer).unwrap(), packet);
        assert_eq!(driver.used(TX).unwrap().1, 0);
    }
    assert!(next(&peer).is_none());
    assert_eq!(driver.interrupts(), 1);
    assert_eq!(driver.metrics.requests.get(), 5);
    assert_eq!(driver.metrics.bytes_out.get(), 60 + 61 + 62 + 63 + 64);
    assert_eq!(driver.metrics.failures.get(), 0);
}

#[test]
fn what_is_no_packet_is_dropped() {
    let (mut driver, peer) = start(0);
    driver.send(TX, &[], &[64]);
    driver.send(TX, &[&[0; 11]], &[]);
    driver.send(TX, &[&[0; 25]], &[]);
    driver.send(TX, &[&packet(0, 40_000), &packet(0, 40_000)], &[]);
    driver.send(TX, &[&packet(1, 14)], &[]);
    driver.kick(TX);
    driver.turn().unwrap();
    assert_eq!(next(&peer).unwrap(), packet(1, 14));
    assert!(next(&peer).is_none());
    for _ in 0..5 {
        driver.used(TX).unwrap();
    }
    assert_eq!(driver.metrics.failures.get(), 4);
    assert!(!driver.needs_reset());
}

#[test]
fn a_tap_without_room_is_waited_for() {
    let (tap, peer) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    nix::sys::socket::setsockopt(&tap, nix::sys::socket::sockopt::SndBuf, &4608).unwrap();
    let mut driver = Driver::start(Box::new(Net::over_socket(OPTIONS, tap)), 0);
    for number in 0..100 {
        driver.send(TX, &[&packet(number, 100)], &[]);
    }
    driver.kick(TX);
    driver.turn().unwrap();
    let mut sent = 0;
    while driver.used(TX).is_some() {
        sent += 1;
    }
    assert!((1..99).contains(&sent), "the socket took {sent}");
    assert!(driver.sleeps(Duration::from_millis(20)));
    let mut arrived = 0;
    while arrived < 100 {
        while let Some(bytes) = next(&peer) {
            assert_eq!(bytes, packet(arrived, 100));
            arrived += 1;
        }
        driver.turn().unwrap();
    }
    assert_eq!(driver.metrics.failures.get(), 0);
    // Afterwards kicks count again.
    while driver.used(TX).is_some() {}
    driver.turn().unwrap();
    driver.send(TX, &[&packet(3, 70)], &[]);
    driver.until_used(TX);
    assert_eq!(next(&peer).unwrap(), packet(3, 70));
}

#[test]
fn a_call_sends_no_more_than_a_queue_holds() {
    let (mut driver, peer) = start(0);
    for round in 0..3 {
        for _ in 0..256 {
            // Too short: dropped, so that nothing has to be received.
            driver.send(TX, &[&[0; 4]], &[]);
        }
        driver.kick(TX);
        driver.turn().unwrap();
        assert_eq!(driver.metrics.failures.get(), (round + 1) * 256);
        while driver.used(TX).is_some() {}
    }
    assert!(next(&peer).is_none());
    driver.turn().unwrap();
    assert!(driver.sleeps(Duration::from_millis(20)));
}

#[test]
fn a_packet_goes_over_as_many_chains_as_it_needs() {
    for without in [0, WITHOUT_EVENT_INDEX] {
        let (mut driver, peer) = start(without);
        let mut given = std::collections::VecDeque::new();
        for lengths in [
            &[1500][..],
            &[12, 700],
            &[5, 30],
            &[1, 1, 1],
            &[4000],
            &[70_000],
            &[80],
        ] {
            given.push_back(driver.send(RX, &[], lengths));
        }
        driver.kick(RX);
        driver.turn().unwrap();
        let packets = [
            (packet(0, 60), 1),
            (packet(1, 4700), 4),
            (packet(2, 65_000), 1),
            (packet(3, 68), 1),
        ];
        for (packet, _) in &packets {
            peer.send(packet).unwrap();
        }
        driver.interrupts();
        driver.turn().unwrap();
        assert_eq!(driver.interrupts(), 1);
        for (packet, chains) in packets {
            let got = received(&mut driver, &mut given).unwrap();
            assert!(got == with_chains(packet, chains));
        }
        assert_eq!(driver.metrics.packets_in.get(), 4);
        assert_eq!(driver.metrics.bytes_in.get(), 60 + 4700 + 65_000 + 68);
        assert_eq!(driver.metrics.failures.get(), 0);
    }
}

#[test]
fn many_packets_arrive_in_order_through_few_buffers() {
    let (mut driver, peer) = start(0);
    let mut given = std::collections::VecDeque::new();
    let mut buffer = 0;
    let lengths = [60, 1514, 9014, 65_550, 14, 4084, 4085, 1524, 1525];
    for number in 0..400 {
        while given.len() < 50 {
            let length = if buffer % 3 == 0 { 1536 } else { 4096 };
            let at = BUFFERS + (buffer % 64) * 4096;
            buffer += 1;
            given.push_back(Sent {
                head: driver.chain(RX, &[(at, length, WRITE)]),
                writable: vec![(at, length)],
            });
        }
        let packet = packet(number, lengths[number % lengths.len()]);
        peer.send(&packet).unwrap();
        driver.kick(RX);
        driver.turn().unwrap();
        driver.turn().unwrap();
        let got = received(&mut driver, &mut given).unwrap();
        let chains = u16::from_le_bytes([got[10], got[11]]);
        assert!(got == with_chains(packet, chains), "packet {number}");
    }
    assert_eq!(driver.metrics.failures.get(), 0);
}

#[test]
fn a_packet_waits_for_the_buffers_it_lacks() {
    let (mut driver, peer) = start(0);
    let mut given = std::collections::VecDeque::new();
    given.push_back(driver.send(RX, &[], &[1000]));
    driver.kick(RX);
    driver.turn().unwrap();
    peer.send(&packet(1, 5000)).unwrap();
    peer.send(&packet(2, 100)).unwrap();
    driver.turn().unwrap();
    assert!(driver.used(RX).is_none());
    assert!(
        driver.sleeps(Duration::from_millis(20)),
        "nothing to be done"
    );
    for length in [2000, 1500] {
        given.push_back(driver.send(RX, &[], &[length]));
        driver.kick(RX);
        driver.turn().unwrap();
        assert!(driver.used(RX).is_none());
    }
    given.push_back(driver.send(RX, &[], &[3, 509]));
    given.push_back(driver.send(RX, &[], &[200]));
    driver.kick(RX);
    driver.turn().unwrap();
    let got = received(&mut driver, &mut given).unwrap();
    assert!(got == with_chains(packet(1, 5000), 4));
    driver.turn().unwrap();
    let got = received(&mut driver, &mut given).unwrap();
    assert_eq!(got, with_chains(packet(2, 100), 1));
    assert_eq!(driver.metrics.failures.get(), 0);
}

#[test]
fn a_packet_that_all_buffers_together_can_not_hold_is_dropped() {
    let (mut driver, peer) = start(0);
    for _ in 0..256 {
        driver.send(RX, &[], &[100]);
    }
    driver.kick(RX);
    driver.turn().unwrap();
    peer.send(&packet(1, 30_000)).unwrap();
    peer.send(&packet(2, 88)).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.metrics.failures.get(), 1);
    assert_eq!(driver.used(RX).unwrap().1, 100);
    assert!(driver.used(RX).is_none());
}

#[test]
fn without_merging_a_packet_has_one_chain() {
    let (mut driver, peer) = start(WITHOUT_MERGING);
    let given = [
        driver.send(RX, &[], &[12, 1514]),
        driver.send(RX, &[], &[12, 1514]),
    ];
    driver.kick(RX);
    driver.turn().unwrap();
    for (number, length) in [(1, 60), (2, 1515), (3, 1514)] {
        peer.send(&packet(number, length)).unwrap();
    }
    driver.turn().unwrap();
    assert_eq!(driver.used(RX).unwrap(), (given[0].head, 72));
    assert_eq!(driver.used(RX).unwrap(), (given[1].head, 1526));
    assert_eq!(
        driver.received(&given[0])[..72],
        with_chains(packet(1, 60), 1)
    );
    assert!(driver.received(&given[1]) == with_chains(packet(3, 1514), 1));
    assert_eq!(driver.metrics.failures.get(), 1);
}

#[test]
fn without_buffers_the_tap_is_not_looked_at() {
    for without in [0, WITHOUT_EVENT_INDEX] {
        let (mut driver, peer) = start(without);
        peer.send(&packet(1, 60)).unwrap();
        assert!(driver.sleeps(Duration::from_millis(20)));
        let mut given = std::collections::VecDeque::new();
        given.push_back(driver.send(RX, &[], &[100]));
        driver.kick(RX);
        driver.turn().unwrap();
        let got = received(&mut driver, &mut given).unwrap();
        assert_eq!(got, with_chains(packet(1, 60), 1));
        peer.send(&packet(2, 60)).unwrap();
        driver.turn().unwrap();
        assert!(driver.sleeps(Duration::from_millis(20)));
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let (mut driver, peer) = start(WITHOUT_EVENT_INDEX);
    driver.send(RX, &[], &[100]);
    driver.send(RX, &[], &[100]);
    driver.kick(RX);
    driver.turn().unwrap();
    driver.interrupts();
    let flags = GuestAddress(available_ring(RX));
    driver.ram.write_obj(1u16, flags).unwrap();
    peer.send(&packet(1, 60)).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.used(RX).unwrap().1, 72);
    assert_eq!(driver.interrupts(), 0);
    driver.ram.write_obj(0u16, flags).unwrap();
    peer.send(&packet(1, 60)).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.interrupts(), 1);
}

#[test]
fn a_reset_forgets_all_and_the_next_driver_starts_anew() {
    let (mut driver, peer) = start(0);
    driver.send(RX, &[], &[100]);
    driver.send(RX, &[], &[100]);
    driver.kick(RX);
    driver.turn().unwrap();
    peer.send(&packet(1, 500)).unwrap();
    driver.turn().unwrap();
    driver.write(0x70, 0);
    assert!(driver.sleeps(Duration::from_millis(20)));
    driver.negotiate(WITHOUT_MERGING);
    let sent = driver.send(RX, &[], &[100]);
    driver.kick(RX);
    driver.turn().unwrap();
    peer.send(&packet(2, 60)).unwrap();
    driver.turn().unwrap();
    assert_eq!(driver.used(RX).unwrap(), (sent.head, 72));
    assert!(driver.used(RX).is_none());
    driver.send(TX, &[&packet(3, 60)], &[]);
    driver.until_used(TX);
    assert_eq!(next(&peer).unwrap(), packet(3, 60));
}

#[test]
fn a_broken_ring_asks_for_a_reset() {
    let (mut driver, _peer) = start(0);
    // A chain that leads to itself.
    driver.describe(TX, 0, 0x50_0000, 100, NEXT, 0);
    driver.offer(TX, 0);
    driver.kick(TX);
    driver.turn().unwrap();
    assert!(driver.needs_reset());
    assert!(driver.sleeps(Duration::from_millis(20)));
    driver.negotiate(0);
    assert!(!driver.needs_reset());
    driver.describe(RX, 0, u64::MAX - 10, 100, WRITE, 0);
    driver.offer(RX, 0);
    driver.kick(RX);
    driver.turn().unwrap();
    assert!(driver.needs_reset());
    assert_eq!(driver.metrics.broken.get(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_the_driver_does_the_device_comes_to_rest(
        script in proptest::collection::vec(any::<u8>(), 0..2000)
    ) {
        let (driver, peer) = fuzz::play(&script);
        let rests = (0..10_000).any(|_| {
            fuzz::drain(&peer);
            driver.sleeps(Duration::from_millis(1))
        });
        assert!(rests, "the loop does not come to rest");
    }
}
