//! Network namespaces for tests, and what the system's own tool says of them. That takes root;
//! without it these tests fail and say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "what can't be is a failure of the test"
)]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use trefoil_os::Result;

use crate::model::Network;
use crate::namespace::within;
use crate::netlink::Netlink;
use crate::read;

/// A network namespace, which is gone when nobody uses it any more.
#[derive(Debug)]
pub struct Namespace(File);

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespace {
    /// A new one.
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a network namespace takes root: run the tests as root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Self(file.join().unwrap());
        // A router's words would come at any time.
        namespace.sysctl("all/accept_ra", 0);
        namespace
    }

    /// Its descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// As other programs find it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something in it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(self.fd(), || Ok(work())).unwrap()
    }

    /// Sets what netlink can't.
    pub fn sysctl(&self, key: &str, value: u8) {
        let path = format!("/proc/sys/net/ipv6/conf/{key}");
        self.run(|| std::fs::write(path, value.to_string()).unwrap());
    }

    /// Does what `ip` would with each line.
    pub fn ip(&self, lines: &str) {
        self.run(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("these tests need ip, of the package iproute2");
            let mut stdin = ip.stdin.take().unwrap();
            stdin.write_all(lines.as_bytes()).unwrap();
            drop(stdin);
            assert!(ip.wait().unwrap().success(), "ip took it not: {lines}");
        });
    }

    /// What a program says of it, as root would see it there.
    pub fn said_by(&self, program: &str, arguments: &[&str]) -> String {
        self.run(|| {
            let said = Command::new(program).args(arguments).output().unwrap();
            assert!(said.status.success(), "{program} {arguments:?}");
            String::from_utf8(said.stdout).unwrap()
        })
    }

    /// The network as we read it, of the interfaces with these names.
    pub fn network(&self, names: &[&str]) -> Network {
        within(self.fd(), || -> Result<Network> {
            let mut netlink = Netlink::open()?;
            let all = read::links(&mut netlink)?;
            let joined: Vec<_> = names
                .iter()
                .map(|name| all.iter().find(|link| link.name == *name).unwrap())
                .collect();
            read::network(&mut netlink, &joined, &all)
        })
        .unwrap()
    }
}

/// A pod's namespace with two interfaces, and the node's with the other ends. What CNI's plugins
/// make is there, of each kind one.
pub fn pod() -> (Namespace, Namespace) {
    let (pod, node) = (Namespace::new(), Namespace::new());
    let to = node.path();
    pod.ip(&format!(
        "link add eth0 mtu 1450 address 0a:58:0a:f4:00:05 type veth peer name node0 mtu 1450 netns {to}
link add net1 address 0a:58:0a:f4:00:06 type veth peer name node1 netns {to}
         link set lo up"
    ));
    node.ip("link set node0 address 0a:58:0a:f4:00:01
         addr add 10.244.0.1/24 dev node0
         addr add fd00:244::1/64 dev node0 nodad
         link set node0 up
         link set node1 up");
    // As the plugins bridge, ptp (without the network's own route), portmap and host-local do, and
    // by hand what they might.
    pod.ip("addr add 10.244.0.5/24 brd 10.244.0.255 dev eth0
         addr add 10.244.0.6/24 dev eth0 label eth0:more
         addr add fd00:244::5/64 dev eth0 nodad
         link set eth0 up
         addr add 192.168.7.2/16 dev net1 noprefixroute
         addr add 172.31.0.1 peer 172.31.0.2/32 dev net1
         addr add fd00:7::2/64 dev net1 nodad noprefixroute
         link set net1 up
         addr add fd00:31::1 peer fd00:31::2/128 dev net1 nodad
         route add default via 10.244.0.1 dev eth0 mtu 1400 advmss 1300
         route add default via 192.168.0.1 dev net1 metric 50 onlink
         route add 192.168.0.1 dev net1 scope link
         route add 192.168.0.0/16 via 192.168.0.1 src 192.168.7.2
         route add 169.254.1.1 dev eth0 scope link
         route add 10.96.0.0/12 via 169.254.1.1 dev eth0 proto static
         route add 10.97.0.0/16 nexthop via 10.244.0.1 weight 3 nexthop via 192.168.0.1 weight 1
         route add 10.98.0.0/16 via inet6 fd00:244::1 dev eth0
         route add 10.99.0.0/16 dev lo
         route add 10.100.0.0/16 via 10.244.0.1 table 1000
         rule add from 10.244.0.6 table 1000 priority 900
         rule add from 192.168.0.0/16 to 10.0.0.0/8 lookup main priority 901
         route add blackhole 10.101.0.0/16
         route add prohibit 10.102.0.0/16 metric 7
         route add unreachable 10.103.0.0/16
         route add throw 10.104.0.0/16 table 77
         route add ::/0 via fd00:244::1 dev eth0
         route add fd00:7::1 dev net1 metric 5
         route add fd00:8::/32 via fd00:7::1 dev net1 mtu 1300
         route add fd00:9::/32 nexthop via fd00:244::1 dev eth0 nexthop via fd00:244::2 dev eth0
         route add blackhole fd00:10::/32
         route add unreachable fd00:11::/32 metric 9
         neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
         neigh add fd00:244::1 lladdr 0a:58:0a:f4:00:01 dev eth0 nud permanent");
    let rule = ["from", "fd00:7::/64", "table", "77", "priority", "902"];
    pod.said_by("ip", &[&["-6", "rule", "add"][..], &rule].concat());
    // The link-local addresses are tentative for a second or two, and the last address's route to
    // its peer comes a little later than the address.
    let is_done = || {
        !pod.said_by("ip", &["-6", "addr"]).contains("tentative")
            && pod.said_by("ip", &["-6", "route"]).contains("fd00:31::2 ")
    };
    eventually(is_done);
    (pod, node)
}

/// Waits for what comes by itself.
pub fn eventually(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
