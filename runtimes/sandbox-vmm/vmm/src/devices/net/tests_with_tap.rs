//! The device over a real tap, and the host's own stack behind it, in a network namespace of the
//! test's own. That takes root; without it these tests fail and say so.

#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use std::fs::OpenOptions;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::devices::testing::{Driver, Sent};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MTU: u16 = 9000;
const HOST: [u8; 4] = [10, 0, 0, 1];
const GUEST: [u8; 4] = [10, 0, 0, 2];
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// Let the receiver of a packet compute its checksum.
const NEEDS_CHECKSUM: u8 = 1;
const TCP: u8 = 1;
const UDP: u8 = 5;

/// The interface's name and address on the host's side, as requests want it.
fn request() -> libc::ifreq {
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tap0") {
        *to = *from as libc::c_char;
    }
    request
}

fn ask<T>(fd: &impl AsRawFd, what: libc::Ioctl, argument: &mut T) {
    // SAFETY: every caller gives the type that the request takes.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), what, argument) }).unwrap();
}

fn address(ip: [u8; 4]) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(ip),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both have the same size, and the one is a kind of the other.
    unsafe { std::mem::transmute(address) }
}

fn open_tap(flags: i32) -> File {
    let tap = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("these tests need /dev/net/tun");
    let mut request = request();
    request.ifr_ifru.ifru_flags = flags as i16;
    ask(&tap, libc::TUNSETIFF, &mut request);
    tap
}

fn set_up(is_up: bool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut request = request();
    request.ifr_ifru.ifru_flags = if is_up { libc::IFF_UP as i16 } else { 0 };
    ask(&socket, libc::SIOCSIFFLAGS, &mut request);
}

/// Gives the interface addresses, a neighbour and nothing else to say.
fn configure() {
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut request = request();
    request.ifr_ifru.ifru_mtu = MTU.into();
    ask(&socket, libc::SIOCSIFMTU, &mut request);
    request.ifr_ifru.ifru_addr = address(HOST);
    ask(&socket, libc::SIOCSIFADDR, &mut request);
    request.ifr_ifru.ifru_addr = address([255, 255, 255, 0]);
    ask(&socket, libc::SIOCSIFNETMASK, &mut request);
    set_up(true);
    // SAFETY: all zero is a value of it.
    let mut neighbour: libc::arpreq = unsafe { std::mem::zeroed() };
    neighbour.arp_pa = address(GUEST);
    neighbour.arp_ha.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in neighbour.arp_ha.sa_data.iter_mut().zip(MAC) {
        *to = from as libc::c_char;
    }
    neighbour.arp_flags = libc::ATF_COM | libc::ATF_PERM;
    ask(&socket, libc::SIOCSARP, &mut neighbour);
}

/// Runs a test in a thread with a network of its own, in which there is only a tap.
fn with_tap(test: impl FnOnce(File) + Send + 'static) {
    let outcome = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("a tap needs a network namespace: run the tests as root");
        test(open_tap(FLAGS));
    })
    .join();
    if let Err(why) = outcome {
        std::panic::resume_unwind(why);
    }
}

fn start(tap: File, without: u64) -> Driver {
    let options = Options { mac: MAC, mtu: MTU };
    let net = Net::new(options, tap).unwrap();
    Driver::start(Box::new(net), without)
}

/// A frame of UDP from the guest to the host's port 7, or the other way round.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    let mut udp = Vec::new();
    for half in [9u16, 7, 8 + length, 0] {
        udp.extend(half.to_be_bytes());
    }
    // The sum over what the checksum covers besides; the rest is left to the receiver.
    let pseudo = [&GUEST[..], &HOST[..], &[0, 17], &(8 + length).to_be_bytes()].concat();
    udp[6..8].copy_from_slice(&sum(&pseudo).to_be_bytes());
    udp.extend(payload);
    ip_frame(17, &udp)
}

fn ip_frame(protocol: u8, content: &[u8]) -> Vec<u8> {
    let length = (20 + content.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip.extend(GUEST);
    ip.extend(HOST);
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = mac_of_tap().to_vec();
    frame.extend(MAC);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(content);
    frame
}

fn mac_of_tap() -> [u8; 6] {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut request = request();
    ask(&socket, libc::SIOCGIFHWADDR, &mut request);
    // SAFETY: the request has written it.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    std::array::from_fn(|at| address.sa_data[at] as u8)
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet's header: what is to be done with checksum and length.
fn header(flags: u8, kind: u8, headers: u16, segment: u16, checksum_at: u16) -> [u8; 12] {
    let mut header = [0; 12];
    header[..2].copy_from_slice(&[flags, kind]);
    header[2..4].copy_from_slice(&headers.to_le_bytes());
    header[4..6].copy_from_slice(&segment.to_le_bytes());
    header[6..8].copy_from_slice(&34u16.to_le_bytes());
    header[8..10].copy_from_slice(&checksum_at.to_le_bytes());
    header
}

fn give(driver: &mut Driver, count: usize, length: u32) -> Vec<Sent> {
    let given = (0..count)
        .map(|_| driver.send(RX, &[], &[length]))
        .collect();
    driver.kick(RX);
    given
}

/// The next packet the guest gets.
fn receive(driver: &mut Driver, given: &mut std::vec::IntoIter<Sent>) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut packet = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        driver.turn().unwrap();
        while missing > 0
            && let Some((head, length)) = driver.used(RX)
        {
            let sent = given.next().unwrap();
            assert_eq!(head, sent.head);
            let is_first = packet.is_empty();
            packet.extend(&driver.received(&sent)[..length as usize]);
            if is_first {
                missing = u16::from_le_bytes([packet[10], packet[11]]);
            }
            missing -= 1;
        }
        assert!(Instant::now() < deadline, "nothing arrives");
    }
    packet
}

fn host_socket() -> UdpSocket {
    let socket = UdpSocket::bind("10.0.0.1:7").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(1 << 20)).unwrap();
    socket.connect("10.0.0.2:9").unwrap();
    socket
}

#[test]
fn the_host_finishes_what_the_guest_leaves_to_it() {
    with_tap(|tap| {
        configure();
        let mut driver = start(tap, 0);
        let socket = host_socket();
        let mut buffer = vec![0; 1 << 16];
        let payload: Vec<u8> = (0..8900).map(|at| (at * 13) as u8).collect();
        let header = header(NEEDS_CHECKSUM, 0, 0, 0, 6);
        driver.send(TX, &[&header, &frame(&payload)], &[]);
        driver.until_used(TX);
        let length = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..length] == payload[..]);

        // One long packet that is to be cut into sixty.
        let payload: Vec<u8> = (0..60_000).map(|at| (at / 1000) as u8).collect();
        let header = self::header(NEEDS_CHECKSUM, UDP, 42, 1000, 6);
        driver.send(TX, &[&header, &frame(&payload)], &[]);
        driver.until_used(TX);
        for number in 0..60 {
            let length = socket.recv(&mut buffer).unwrap();
            assert!(buffer[..length] == [number; 1000], "segment {number}");
        }
        assert_eq!(driver.metrics.failures.get(), 0);

        // One whose header makes no sense is dropped.
        let header = self::header(NEEDS_CHECKSUM, 0x7f, 60_000, 0, 0xffff);
        driver.send(TX, &[&header, &frame(&[1])], &[]);
        driver.until_used(TX);
        assert_eq!(driver.metrics.failures.get(), 1);
    });
}

#[test]
fn long_tcp_goes_out_as_it_is() {
    with_tap(|tap| {
        configure();
        let mut driver = start(tap, 0);
        // SAFETY: a new descriptor of our own.
        let tapped = unsafe {
            let protocol = libc::c_int::from((libc::ETH_P_IP as u16).to_be());
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol);
            UdpSocket::from(OwnedFd::from_raw_fd(Errno::result(fd).unwrap()))
        };
        tapped
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut tcp = vec![
            0, 9, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
        ];
        tcp.extend(vec![0x5a; 65_000]);
        let frame = ip_frame(6, &tcp);
        let header = header(NEEDS_CHECKSUM, TCP, 54, 1448, 16);
        driver.send(TX, &[&header, &frame[..60], &frame[60..]], &[]);
        driver.until_used(TX);
        let mut buffer = vec![0; 1 << 17];
        let length = tapped.recv(&mut buffer).unwrap();
        assert!(buffer[..length] == frame);
    });
}

fn send_segments(socket: &UdpSocket, payload: &[u8], size: libc::c_int) {
    const UDP_SEGMENT: libc::c_int = 103;
    // SAFETY: the option is an int, which lives until the call is over.
    Errno::result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    })
    .unwrap();
    assert_eq!(socket.send(payload).unwrap(), payload.len());
}

#[test]
fn the_guest_gets_long_packets_if_it_takes_them() {
    with_tap(|tap| {
        configure();
        let mut driver = start(tap, 0);
        let socket = host_socket();
        let mut given = give(&mut driver, 128, 1536).into_iter();
        driver.turn().unwrap();
        let payload: Vec<u8> = (0..60_000).map(|at| (at / 1000) as u8).collect();
        send_segments(&socket, &payload, 1000);
        let packet = receive(&mut driver, &mut given);
        assert_eq!(packet.len(), HEADER + 42 + 60_000);
        assert_eq!(packet[..2], [NEEDS_CHECKSUM, UDP]);
        assert_eq!(packet[4..6], 1000u16.to_le_bytes());
        assert_eq!(packet[HEADER..][..6], MAC);
        assert!(packet[HEADER + 42..] == payload);
        assert_eq!(driver.metrics.failures.get(), 0);
    });
}

#[test]
fn the_host_finishes_what_the_guest_does_not_take() {
    with_tap(|tap| {
        configure();
        let own = VIRTIO_NET_F_GUEST_CSUM;
        let mut driver = start(tap, LONG_PACKETS | 1 << own | 1 << VIRTIO_NET_F_GUEST_ECN);
        let socket = host_socket();
        let mut given = give(&mut driver, 128, 1536).into_iter();
        driver.turn().unwrap();
        let payload: Vec<u8> = (0..60_000).map(|at| (at / 1000) as u8).collect();
        send_segments(&socket, &payload, 1000);
        for number in 0..60 {
            let packet = receive(&mut driver, &mut given);
            assert_eq!(packet.len(), HEADER + 42 + 1000);
            assert_eq!(packet[..10], [0; 10], "nothing is left to be done");
            assert!(packet[HEADER + 42..] == [number; 1000]);
        }
    });
}

#[test]
fn a_jumbo_frame_arrives_in_small_and_in_big_buffers() {
    with_tap(|tap| {
        configure();
        let without_merging = 1 << VIRTIO_NET_F_MRG_RXBUF;
        let mut driver = start(tap, 0);
        let socket = host_socket();
        let payload: Vec<u8> = (0..8972).map(|at| (at * 5) as u8).collect();
        for (without, length) in [(0, 1536), (without_merging, 70_000)] {
            driver.negotiate(without);
            let mut given = give(&mut driver, 16, length).into_iter();
            driver.turn().unwrap();
            socket.send(&payload).unwrap();
            let packet = receive(&mut driver, &mut given);
            assert_eq!(packet[..2], [NEEDS_CHECKSUM, 0]);
            assert!(packet[HEADER + 42..] == payload);
        }
    });
}

#[test]
fn no_capability_is_needed_once_the_tap_is_open() {
    with_tap(|tap| {
        configure();
        let socket = host_socket();
        let net = Net::new(Options { mac: MAC, mtu: MTU }, tap).unwrap();
        // SAFETY: a new id for this thread alone, which takes its capabilities away.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }).unwrap();
        let capabilities = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(capabilities.contains("CapEff:\t0000000000000000"));
        let mut driver = Driver::start(Box::new(net), 0);
        let mut given = give(&mut driver, 128, 1536).into_iter();
        driver.turn().unwrap();
        send_segments(&socket, &[7; 50_000], 1000);
        assert_eq!(receive(&mut driver, &mut given).len(), HEADER + 42 + 50_000);
    });
}

#[test]
fn an_interface_that_is_down_loses_packets_and_nothing_else() {
    with_tap(|tap| {
        configure();
        let mut driver = start(tap, 0);
        set_up(false);
        driver.send(TX, &[&[0; 12], &frame(&[1])], &[]);
        driver.until_used(TX);
        assert_eq!(driver.metrics.failures.get(), 1);
        assert!(driver.sleeps(Duration::from_millis(20)));
        set_up(true);
        let socket = host_socket();
        let header = header(NEEDS_CHECKSUM, 0, 0, 0, 6);
        driver.send(TX, &[&header, &frame(&[2])], &[]);
        driver.until_used(TX);
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 1);
        assert!(!driver.needs_reset());
    });
}

/// Removes the interface, whoever has it open.
fn remove() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut request = request();
    ask(&socket, libc::SIOCGIFINDEX, &mut request);
    // SAFETY: the request has written it.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    let mut message = [0u8; 32];
    message[..4].copy_from_slice(&32u32.to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_DELLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&1u16.to_ne_bytes());
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: a new descriptor of our own.
    let netlink = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        OwnedFd::from_raw_fd(Errno::result(fd).unwrap())
    };
    nix::sys::socket::send(
        netlink.as_raw_fd(),
        &message,
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
}

#[test]
fn an_interface_that_is_removed_is_a_cable_pulled_out() {
    for found_by_sending in [false, true] {
        with_tap(move |tap| {
            configure();
            let mut driver = start(tap, 0);
            give(&mut driver, 4, 1536);
            driver.turn().unwrap();
            driver.turn().unwrap();
            driver.interrupts();
            assert_eq!(driver.read(0x104) >> 16 & 1, 1);
            remove();
            if found_by_sending {
                driver.send(TX, &[&[0; 12], &[0; 60]], &[]);
                driver.write(0x50, TX as u32);
            }
            driver.turn().unwrap();
            assert_eq!(driver.read(0x104) >> 16 & 1, 0, "the link is down");
            assert!(driver.interrupts() > 0);
            driver.send(TX, &[&[0; 12], &[0; 60]], &[]);
            driver.until_used(TX);
            driver.turn().unwrap();
            assert!(driver.sleeps(Duration::from_millis(20)));
            assert!(!driver.needs_reset());
            // A new driver finds it so, too.
            driver.negotiate(0);
            driver.send(TX, &[&[0; 12], &[0; 60]], &[]);
            driver.until_used(TX);
            driver.turn().unwrap();
            assert!(driver.sleeps(Duration::from_millis(20)));
        });
    }
}

#[test]
fn a_tap_that_was_opened_otherwise_is_refused() {
    with_tap(|tap| {
        drop(tap);
        let refused = |flags| {
            let options = Options { mac: MAC, mtu: MTU };
            let why = Net::new(options, open_tap(flags)).err().unwrap();
            assert!(why.to_string().contains("IFF_VNET_HDR"), "{why}");
        };
        refused(libc::IFF_TAP | libc::IFF_NO_PI);
        refused(libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
    });
}
