//! A network for guests: a bridge, as the CNI's makes one, with the guests' taps and a pod's
//! interface on it, in namespaces of their own.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// The bridge's own address: the host's.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The pod's, in another namespace.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
/// What the guest gets.
pub const GUEST: &str = "10.99.0.2/24";
/// The same, to connect to.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// The guest's hardware address.
pub const MAC: [u8; 6] = [0x02, 0x74, 0x72, 0x65, 0x66, 0x01];

/// The largest packet on the bridge.
pub const MTU: u16 = 9000;

const TAP: &str = "tap0";

/// The network.
pub struct Lan {
    host: File,
    pod: File,
}

/// Where on it.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// Where the bridge is.
    Host,
    /// Behind a port of the bridge.
    Pod,
}

impl At {
    /// The address there.
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Host => HOST,
            Self::Pod => POD,
        }
    }
}

impl Lan {
    /// Makes it. It is gone with this and with the last socket in it.
    pub fn new() -> Result<Self> {
        let lan = Self {
            host: new_namespace()?,
            pod: new_namespace()?,
        };
        let pod = format!("/proc/{}/fd/{}", std::process::id(), lan.pod.as_raw_fd());
        lan.ip(
            At::Host,
            &[
                "link set lo up",
                &format!("link add br0 mtu {MTU} type bridge"),
                &format!("address add {HOST}/24 dev br0"),
                "link set br0 up",
                &format!("link add veth0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {pod}"),
                "link set veth0 master br0 up",
            ],
        )?;
        let address = format!("address add {POD}/24 dev eth0");
        lan.ip(At::Pod, &["link set lo up", &address, "link set eth0 up"])?;
        Ok(lan)
    }

    /// Runs `work` on a thread there: what it listens on or connects to is there.
    pub fn enter<T: Send>(&self, at: At, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = match at {
            At::Host => &self.host,
            At::Pod => &self.pod,
        };
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                work()
            });
            worker
                .join()
                .map_err(|_| anyhow!("a thread in the guests' network died"))?
        })
    }

    fn ip(&self, at: At, lines: &[&str]) -> Result<()> {
        self.enter(at, || {
            for line in lines {
                let output = Command::new("ip")
                    .args(line.split(' '))
                    .output()
                    .context("starting ip")?;
                if !output.status.success() {
                    bail!("`ip {line}`: {}", String::from_utf8_lossy(&output.stderr));
                }
            }
            Ok(())
        })
    }

    /// A guest's tap on the bridge, gone when it is closed.
    pub fn tap(&self) -> Result<OwnedFd> {
        let device = Path::new("/dev/net/tun");
        if !device.exists() {
            let status = Command::new("modprobe").arg("tun").status();
            status.context("starting modprobe")?;
        }
        let tap = self.enter(At::Host, || {
            let tap = File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(device)
                .with_context(|| format!("opening {}", device.display()))?;
            // SAFETY: a request is numbers and a union of numbers, for which zeroes are values.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
                *to = from.cast_signed();
            }
            let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            // SAFETY: the call takes a request of this kind.
            let result =
                unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
            nix::errno::Errno::result(result).context("making a tap")?;
            Ok(tap)
        })?;
        let up = format!("link set {TAP} mtu {MTU} master br0 up");
        self.ip(At::Host, &[&up])?;
        Ok(tap.into())
    }

    /// How many bytes and packets the bridge has got from the tap: what the guest has sent.
    pub fn sent_by_guest(&self) -> Result<(u64, u64)> {
        // `ip` asks the kernel in the namespace; /sys shows the namespace it was mounted in.
        let text = self.enter(At::Host, || {
            let output = Command::new("ip")
                .args(["-json", "-statistics", "link", "show", "dev", TAP])
                .output()
                .context("starting ip")?;
            Ok(output.stdout)
        })?;
        let links: serde_json::Value =
            serde_json::from_slice(&text).context("reading ip's words")?;
        let number = |name: &str| {
            links
                .pointer(&format!("/0/stats64/rx/{name}"))
                .and_then(serde_json::Value::as_u64)
                .with_context(|| format!("ip says no {name} of {TAP}"))
        };
        Ok((number("bytes")?, number("packets")?))
    }
}

fn new_namespace() -> Result<File> {
    // A thread can leave the process's namespaces for good, and then end.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        File::open("/proc/thread-self/ns/net").context("opening a network namespace")
    })
    .join()
    .map_err(|_| anyhow!("the thread that makes a namespace died"))?
}
