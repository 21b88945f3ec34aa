#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

use super::*;
use trefoil_netlink::testing::{Namespace, eventually};

const NODE: [&str; 2] = ["10.244.0.1", "fd00:244::1"];
const POD: [&str; 2] = ["10.244.0.5", "fd00:244::5"];
/// As a driver with all features has them set.
const OFFLOADS: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// The Ethernet header, and the one for checksums and segments that the kernel has by default.
const HEADERS: usize = 14 + 10;
const MTU: usize = 1450;
const ARP: [u8; 2] = [8, 6];

/// A pod's namespace with one interface, and the node's.
fn pod() -> (Namespace, Namespace) {
    let (pod, node) = (Namespace::new(), Namespace::new());
    pod.ip(&format!(
        "link add eth0 mtu {MTU} address 0a:58:0a:f4:00:05 type veth peer name node0 mtu {MTU} netns {}",
        node.path()
    ));
    for (namespace, name, [ipv4, ipv6]) in [(&node, "node0", NODE), (&pod, "eth0", POD)] {
        namespace.ip(&format!(
            "addr add {ipv4}/24 dev {name}
             addr add {ipv6}/64 dev {name} nodad
             link set {name} up"
        ));
    }
    (pod, node)
}

fn address(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().unwrap(), port).into()
}

fn set_offloads(tap: &impl AsRawFd, offloads: libc::c_uint) {
    // SAFETY: the request takes a number, no pointer.
    let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    Errno::result(outcome).unwrap();
}

/// What a machine does: hands packets from one tap to the other until told to stop. The largest
/// that went each way.
struct Relay {
    stop: AtomicBool,
    largest: [AtomicUsize; 2],
}

impl Relay {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            largest: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    fn run(&self, taps: [&OwnedFd; 2]) {
        let mut packet = vec![0; 128 << 10];
        while !self.stop.load(Ordering::Relaxed) {
            let mut watched = taps.map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN));
            poll(&mut watched, PollTimeout::from(20u8)).unwrap();
            for (from, to, largest) in [
                (taps[0], taps[1], &self.largest[0]),
                (taps[1], taps[0], &self.largest[1]),
            ] {
                while let Ok(length) = read(from, &mut packet) {
                    largest.fetch_max(length, Ordering::Relaxed);
                    // Where there is no room it is lost, as on a cable.
                    let _ = write(to, &packet[..length]);
                }
            }
        }
    }
}

/// Sends that many bytes each way, one after the other, and compares them.
fn exchange(mut one: TcpStream, mut other: TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| (at ^ at >> 8) as u8).collect();
    for _ in 0..2 {
        std::thread::scope(|scope| {
            scope.spawn(|| one.write_all(&sent).unwrap());
            let mut received = vec![0; bytes];
            other
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            other.read_exact(&mut received).unwrap();
            assert!(received == sent, "other bytes arrive than were sent");
        });
        std::mem::swap(&mut one, &mut other);
    }
}

/// Joins a guest to a pod, and has both ends of the cable talk.
fn talk(offloads: libc::c_uint) -> [usize; 2] {
    let (pod, node) = pod();
    let Attached { network, taps } = attach(pod.fd()).unwrap();
    let guest = Namespace::new();
    let cable = guest.run(|| OwnedFd::from(tap::open("virtio0").unwrap()));
    guest.ip("link set virtio0 address 0a:58:0a:f4:00:05");
    for tap in [&taps[0], &cable] {
        set_offloads(tap, offloads);
    }
    let relay = Relay::new();
    std::thread::scope(|scope| {
        scope.spawn(|| relay.run([&taps[0], &cable]));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            guest.run(|| trefoil_netlink::apply(&network)).unwrap();
            for (node_ip, pod_ip) in NODE.into_iter().zip(POD) {
                for (server, ip, client) in [(&node, node_ip, &guest), (&guest, pod_ip, &node)] {
                    let listener = server.run(|| TcpListener::bind(address(ip, 0)).unwrap());
                    let to = listener.local_addr().unwrap();
                    let one =
                        client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(60)));
                    let (other, _) = listener.accept().unwrap();
                    exchange(one.unwrap(), other, 4 << 20);
                }
            }
        }));
        relay.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    relay.largest.map(AtomicUsize::into_inner)
}

#[test]
fn guest_and_node_talk_in_large_segments() {
    for largest in talk(OFFLOADS) {
        assert!(largest > 8 * MTU, "no packet had more than {largest} bytes");
    }
}

#[test]
fn guest_and_node_talk_without_offloads() {
    assert_eq!(talk(0), [HEADERS + MTU; 2]);
}

#[test]
fn the_tap_hears_what_the_namespace_no_longer_does() {
    let (pod, node) = pod();
    let attached = attach(pod.fd()).unwrap();
    node.run(|| {
        let socket = UdpSocket::bind(address(NODE[0], 0)).unwrap();
        socket
            .send_to(b"who is there?", address(POD[0], 7))
            .unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut packet = [0; 2048];
    // IPv6 has its own words meanwhile.
    while !matches!(read(&attached.taps[0], &mut packet), Ok(length) if length > HEADERS && packet[22..24] == ARP)
    {
        assert!(
            Instant::now() < deadline,
            "the tap does not hear who is asked for"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let known = node.said_by("ip", &["neigh", "show", "to", POD[0]]);
    assert!(
        !known.contains("lladdr"),
        "the pod's own stack answered: {known}"
    );
    let tap = pod.said_by("ip", &["-o", "addr", "show", "type", "tun"]);
    assert_eq!(tap, "", "the tap has an address of its own");
}

/// Whether the node reaches the pod's own network stack.
fn reaches(node: &Namespace, pod: &Namespace) {
    let listener = pod.run(|| TcpListener::bind(address(POD[0], 0)).unwrap());
    let to = listener.local_addr().unwrap();
    node.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(60)).unwrap());
}

#[test]
fn what_was_done_is_taken_back() {
    let (pod, node) = pod();
    reaches(&node, &pod);
    let path = pod.path();
    let path = Path::new(&path);
    clean_up(path).unwrap();
    for _ in 0..2 {
        let attached = attach(pod.fd()).unwrap();
        let again = attach(pod.fd()).unwrap_err().to_string();
        assert!(again.contains("is a tap"), "{again}");
        drop(attached);
        // Another test's process has a copy until it runs its program.
        eventually(|| !pod.said_by("ip", &["link"]).contains("tap"));
        for _ in 0..2 {
            clean_up(path).unwrap();
            assert_eq!(pod.said_by("tc", &["qdisc", "show", "ingress"]), "");
        }
        reaches(&node, &pod);
    }
}

#[test]
fn it_can_be_taken_back_before_the_machine_ends() {
    let (pod, node) = pod();
    let _attached = attach(pod.fd()).unwrap();
    clean_up(Path::new(&pod.path())).unwrap();
    reaches(&node, &pod);
}

#[test]
fn a_namespace_that_is_gone_needs_nothing() {
    let directory = std::env::temp_dir().join(format!("trefoil-network-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let file = directory.join("was-mounted-here");
    clean_up(&file).unwrap();
    std::fs::write(&file, "").unwrap();
    clean_up(&file).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_host_is_not_touched() {
    let own = "/proc/self/ns/net";
    let error = attach(File::open(own).unwrap().as_fd()).unwrap_err();
    assert_eq!(error.to_string(), "use the network: it is the host's own");
    assert!(clean_up(Path::new(own)).is_err());
}

#[test]
fn what_a_guest_can_not_have_is_named_and_nothing_done() {
    let (pod, node) = pod();
    pod.ip(&format!(
        "link add net1 type veth peer name node1 netns {}
         link set net1 arp off up",
        node.path()
    ));
    let error = attach(pod.fd()).unwrap_err().to_string();
    assert!(
        error.contains("net1 (of kind \"veth\") does not do Ethernet with ARP"),
        "{error}"
    );
    reaches(&node, &pod);
    pod.ip("link set net1 down\nrule add fwmark 1 table 100 priority 900");
    let error = attach(pod.fd()).unwrap_err().to_string();
    assert!(error.contains("rule of priority 900"), "{error}");
    pod.ip("rule del priority 900");
    assert_eq!(attach(pod.fd()).unwrap().network.interfaces.len(), 1);
}
