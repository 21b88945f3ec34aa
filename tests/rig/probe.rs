//! The probe in a test guest, asked from the host: its requests as functions.
//!
//! What it is and all that it can be asked: `tests/probe/src/main.rs`. What goes wrong in the guest
//! is a [`Failed`], which a test may look for; all else is an error of the test's.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use trefoil_guest::image;
pub use trefoil_probe::{HOST, PORT, pattern};

/// The image with the probe as its init, built if anything changed.
pub fn image() -> Result<PathBuf> {
    image::ensure_with("trefoil-probe", "probe.img")
}

/// What the guest could not do.
#[derive(Debug)]
pub struct Failed {
    /// What it was asked.
    pub request: String,
    /// Why it could not.
    pub why: String,
}

impl std::error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, why } = self;
        write!(formatter, "the guest failed to `{request}`: {why}")
    }
}

/// That the guest failed, and that it says this of it.
pub fn failed<T>(outcome: Result<T>, part: &str) -> Result<()> {
    match outcome {
        Ok(_) => bail!("the guest did what it should have failed to do ({part})"),
        Err(error) => match error.downcast_ref::<Failed>() {
            Some(failed) if failed.why.contains(part) => Ok(()),
            Some(_) => Err(error.context(format!("the guest failed, but not for {part}"))),
            None => Err(error),
        },
    }
}

/// What a request is answered with: values by their name.
#[derive(Clone, Debug, Default)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// A value.
    pub fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name);
        value
            .map(String::as_str)
            .with_context(|| format!("the probe says no {name}, but {:?}", self.0))
    }

    /// A value as what it stands for.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<T> {
        let text = self.text(name)?;
        text.parse()
            .ok()
            .with_context(|| format!("the probe says that {name} is {text:?}"))
    }

    /// A hexadecimal number.
    fn hexadecimal(&self, name: &str) -> Result<u32> {
        let text = self.text(name)?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16)
            .with_context(|| format!("the probe says that {name} is {text:?}"))
    }

    fn nanoseconds(&self) -> Result<Duration> {
        Ok(Duration::from_nanos(self.get("nanoseconds")?))
    }
}

/// Whether the kernel's cache is in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// It is.
    Used,
    /// `O_DIRECT`.
    Bypassed,
}

impl Cache {
    fn word(self) -> &'static str {
        match self {
            Self::Used => "",
            Self::Bypassed => " direct",
        }
    }
}

/// What is written or read one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the guest.
    Out,
    /// To the guest.
    In,
}

/// A load on a disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskLoad {
    /// Writing is out, reading is in.
    pub way: Way,
    /// A request's size.
    pub size: u32,
    /// How many requests at a time.
    pub depth: u32,
    /// How many bytes in all.
    pub bytes: u64,
    /// Anywhere on the disk instead of from its start on.
    pub random: bool,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// How much still came before.
    pub bytes: u64,
    /// `EOF`, or an error's name.
    pub how: String,
}

/// The probe of a guest that is ready.
pub struct Probe<S> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Probe<S> {
    /// The one at the other end of a connection that a guest has made.
    pub fn new(stream: S) -> Result<Self> {
        let mut probe = Self {
            stream: BufReader::new(stream),
        };
        let line = probe.line()?;
        ensure!(
            line == trefoil_probe::READY,
            "the probe's first line is {line:?}"
        );
        Ok(probe)
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        (&mut self.stream)
            .take(1 << 16)
            .read_line(&mut line)
            .context("reading what the probe says")?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => bail!("the probe's connection ended after {line:?}"),
        }
    }

    /// Sends a request without waiting for the answer: to one that ends the guest there is none.
    pub fn tell(&mut self, request: &str) -> Result<()> {
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("asking the probe to `{request}`"))
    }

    /// Makes a request.
    pub fn ask(&mut self, request: &str) -> Result<Facts> {
        self.tell(request)?;
        let line = self
            .line()
            .with_context(|| format!("waiting for the answer to `{request}`"))?;
        if let Some(why) = line.strip_prefix("failed ") {
            return Err(Failed {
                request: request.to_owned(),
                why: why.to_owned(),
            }
            .into());
        }
        let facts = match line.strip_prefix("ok") {
            Some(facts) if facts.is_empty() || facts.starts_with(' ') => facts,
            _ => bail!("the probe answers `{request}` with {line:?}"),
        };
        let pairs = facts.split_whitespace().map(|fact| {
            let (name, value) = fact.split_once('=').unwrap_or((fact, ""));
            (name.to_owned(), value.to_owned())
        });
        Ok(Facts(pairs.collect()))
    }

    /// Makes a request that is answered with bytes.
    pub fn ask_for_bytes(&mut self, request: &str) -> Result<Vec<u8>> {
        let length = self.ask(request)?.get("length")?;
        let mut bytes = vec![0; length];
        self.stream
            .read_exact(&mut bytes)
            .with_context(|| format!("reading the answer to `{request}`"))?;
        Ok(bytes)
    }

    fn ask_for_text(&mut self, request: &str) -> Result<String> {
        let bytes = self.ask_for_bytes(request)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    // Disks.

    /// What the kernel says of a disk, by the names that it has in sysfs; and its `size` in bytes.
    pub fn disk_facts(&mut self, disk: &str) -> Result<Facts> {
        self.ask(&format!("block-facts {disk}"))
    }

    /// Writes a part of a pattern to its place on a disk.
    pub fn write_disk(
        &mut self,
        disk: &str,
        offset: u64,
        length: u64,
        seed: u64,
        cache: Cache,
    ) -> Result<()> {
        let word = cache.word();
        self.ask(&format!(
            "block-write {disk} {offset} {length} {seed}{word}"
        ))?;
        Ok(())
    }

    /// Reads it from the disk, and fails if it isn't the pattern.
    pub fn check_disk(
        &mut self,
        disk: &str,
        offset: u64,
        length: u64,
        seed: u64,
        cache: Cache,
    ) -> Result<()> {
        let word = cache.word();
        self.ask(&format!(
            "block-check {disk} {offset} {length} {seed}{word}"
        ))?;
        Ok(())
    }

    /// Flushes the kernel's cache and the disk's.
    pub fn flush_disk(&mut self, disk: &str) -> Result<()> {
        self.ask(&format!("block-flush {disk}")).map(drop)
    }

    /// Has no more use for a part.
    pub fn discard(&mut self, disk: &str, offset: u64, length: u64) -> Result<()> {
        self.ask(&format!("block-discard {disk} {offset} {length}"))
            .map(drop)
    }

    /// Leaves it to the disk to zero a part.
    pub fn zero(&mut self, disk: &str, offset: u64, length: u64) -> Result<()> {
        self.ask(&format!("block-zero {disk} {offset} {length}"))
            .map(drop)
    }

    /// Reads or writes as fast as it can; how long that took by the guest's clock.
    pub fn load_disk(&mut self, disk: &str, load: &DiskLoad) -> Result<Duration> {
        let DiskLoad {
            way,
            size,
            depth,
            bytes,
            random,
        } = load;
        let way = match way {
            Way::Out => "write",
            Way::In => "read",
        };
        let random = if *random { " random" } else { "" };
        self.ask(&format!(
            "block-load {disk} {way} {size} {depth} {bytes}{random}"
        ))?
        .nanoseconds()
    }

    // Random numbers.

    /// Reads so many random bytes: from which `source`, how many `bits` were set, how many `values`
    /// a byte had, and a `sum` of all.
    pub fn random(&mut self, bytes: u64) -> Result<Facts> {
        self.ask(&format!("rng {bytes}"))
    }

    // Networks.

    /// Brings an interface up with an address such as `10.0.0.2/24` and an MTU.
    pub fn net_up(&mut self, interface: &str, address: &str, mtu: u16) -> Result<()> {
        self.ask(&format!("net-up {interface} {address} mtu {mtu}"))
            .map(drop)
    }

    /// What the kernel says of an interface, by the names that it has in sysfs; and the `features`
    /// that are on, with commas between.
    pub fn net_facts(&mut self, interface: &str) -> Result<Facts> {
        self.ask(&format!("net-facts {interface}"))
    }

    /// Switches an offload, by the name it has for `ethtool`.
    pub fn net_feature(&mut self, interface: &str, feature: &str, on: bool) -> Result<()> {
        let on = if on { "on" } else { "off" };
        self.ask(&format!("net-feature {interface} {feature} {on}"))
            .map(drop)
    }

    /// Sends one echo request and waits for its answer; in one packet if `whole`.
    pub fn ping(&mut self, address: Ipv4Addr, size: u32, whole: bool) -> Result<Duration> {
        let whole = if whole { " df" } else { "" };
        self.ask(&format!("ping {address} {size}{whole}"))?
            .nanoseconds()
    }

    /// With a peer that echoes: one datagram after the other.
    pub fn exchange_datagrams(
        &mut self,
        address: Ipv4Addr,
        port: u16,
        count: u32,
        size: u32,
        seed: u64,
    ) -> Result<()> {
        self.ask(&format!(
            "udp-exchange {address} {port} {count} {size} {seed}"
        ))
        .map(drop)
    }

    /// A connection over TCP; its number.
    pub fn tcp_connect(&mut self, address: Ipv4Addr, port: u16) -> Result<u32> {
        self.ask(&format!("tcp-connect {address} {port}"))?
            .get("first")
    }

    /// Listens on a port.
    pub fn tcp_listen(&mut self, port: u16) -> Result<()> {
        self.ask(&format!("tcp-listen {port}")).map(drop)
    }

    /// Waits for a connection; its number.
    pub fn tcp_accept(&mut self, port: u16) -> Result<u32> {
        self.ask(&format!("tcp-accept {port}"))?.get("first")
    }

    // Vsock.

    /// So many connections to the host; the first one's number, the others follow.
    pub fn vsock_connect(&mut self, port: u32, count: u32) -> Result<u32> {
        self.ask(&format!("vsock-connect {HOST} {port} {count}"))?
            .get("first")
    }

    /// Listens on a port.
    pub fn vsock_listen(&mut self, port: u32) -> Result<()> {
        self.ask(&format!("vsock-listen {port}")).map(drop)
    }

    /// Waits for so many connections; the first one's number, the others follow.
    pub fn vsock_accept(&mut self, port: u32, count: u32) -> Result<u32> {
        self.ask(&format!("vsock-accept {port} {count}"))?
            .get("first")
    }

    // Connections of either kind, by their number.

    /// Sends a pattern.
    pub fn send(&mut self, connection: u32, bytes: u64, seed: u64) -> Result<()> {
        self.ask(&format!("send {connection} {bytes} {seed}"))
            .map(drop)
    }

    /// Receives so many bytes, and fails if they aren't the pattern.
    pub fn receive(&mut self, connection: u32, bytes: u64, seed: u64) -> Result<()> {
        self.ask(&format!("receive {connection} {bytes} {seed}"))
            .map(drop)
    }

    /// Sends what it receives, until the peer sends no more; how much that was.
    pub fn echo(&mut self, connection: u32) -> Result<u64> {
        self.ask(&format!("echo {connection}"))?.get("bytes")
    }

    /// With peers that echo on each of these connections: sends and receives at once. Each has a
    /// seed of its own, from the one given on.
    pub fn exchange(&mut self, first: u32, count: u32, bytes: u64, seed: u64) -> Result<()> {
        self.ask(&format!("exchange {first} {count} {bytes} {seed}"))
            .map(drop)
    }

    /// Sends or receives as fast as it can; how long that took by the guest's clock. Whoever
    /// receives sends one byte when all is there.
    pub fn load(&mut self, connection: u32, way: Way, bytes: u64) -> Result<Duration> {
        let way = match way {
            Way::Out => "send",
            Way::In => "receive",
        };
        self.ask(&format!("load {connection} {way} {bytes}"))?
            .nanoseconds()
    }

    /// Sends no more.
    pub fn shut_writing(&mut self, connection: u32) -> Result<()> {
        self.ask(&format!("shut {connection} write")).map(drop)
    }

    /// Reads until no more comes.
    pub fn end(&mut self, connection: u32) -> Result<ConnectionEnd> {
        let facts = self.ask(&format!("end {connection}"))?;
        Ok(ConnectionEnd {
            bytes: facts.get("bytes")?,
            how: facts.text("end")?.to_owned(),
        })
    }

    /// Closes so many connections from a first on.
    pub fn close(&mut self, first: u32, count: u32) -> Result<()> {
        self.ask(&format!("close {first} {count}")).map(drop)
    }

    // The machine.

    /// The kernel's log.
    pub fn log(&mut self) -> Result<String> {
        self.ask_for_text("log")
    }

    /// `total`, `free` and `available` in bytes.
    pub fn memory(&mut self) -> Result<Facts> {
        self.ask("memory")
    }

    /// Writes a pattern to so much memory and reads it again.
    pub fn fill_memory(&mut self, bytes: u64, seed: u64) -> Result<()> {
        self.ask(&format!("fill-memory {bytes} {seed}")).map(drop)
    }

    /// Which processors are `online`, `present` and `possible`: lists such as `0-3,5`.
    pub fn cpus(&mut self) -> Result<Facts> {
        self.ask("cpus")
    }

    /// Brings a processor up or down.
    pub fn cpu_online(&mut self, number: u32, online: bool) -> Result<()> {
        self.ask(&format!("cpu-online {number} {}", u8::from(online)))
            .map(drop)
    }

    /// What a processor says of itself: EAX, EBX, ECX, EDX.
    pub fn cpuid(&mut self, leaf: u32, sub_leaf: u32, processor: u32) -> Result<[u32; 4]> {
        let facts = self.ask(&format!("cpuid {leaf:#x} {sub_leaf:#x} {processor}"))?;
        let mut registers = [0; 4];
        for (register, name) in registers.iter_mut().zip(["eax", "ebx", "ecx", "edx"]) {
            *register = facts.hexadecimal(name)?;
        }
        Ok(registers)
    }

    /// `real` and `uptime` in nanoseconds, and the clock's `source`.
    pub fn time(&mut self) -> Result<Facts> {
        self.ask("time")
    }

    /// A file's content, without white space around it.
    pub fn read(&mut self, path: &str) -> Result<String> {
        Ok(self
            .ask_for_text(&format!("read {path}"))?
            .trim()
            .to_owned())
    }

    /// Writes to a file.
    pub fn write(&mut self, path: &str, text: &str) -> Result<()> {
        self.ask(&format!("write {path} {text}")).map(drop)
    }

    /// The names in a directory.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let text = self.ask_for_text(&format!("list {path}"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Mounts what is shared by that tag.
    pub fn mount_shared(&mut self, tag: &str, place: &str) -> Result<()> {
        self.ask(&format!("share-mount {tag} {place}")).map(drop)
    }

    /// Unmounts it.
    pub fn unmount_shared(&mut self, place: &str) -> Result<()> {
        self.ask(&format!("share-unmount {place}")).map(drop)
    }

    /// Runs a trial of files in a directory.
    pub fn try_files(&mut self, trial: &str, below: &str) -> Result<()> {
        self.ask(&format!("share-trial {trial} {below}")).map(drop)
    }

    /// Makes a file of so many bytes with the pattern of `seed`.
    pub fn write_file(&mut self, path: &str, length: u64, seed: u64) -> Result<()> {
        self.ask(&format!("share-write {path} {length} {seed}"))
            .map(drop)
    }

    /// That a file is so many bytes with the pattern of `seed`.
    pub fn check_file(&mut self, path: &str, length: u64, seed: u64) -> Result<()> {
        self.ask(&format!("share-check {path} {length} {seed}"))
            .map(drop)
    }

    /// What a file is: `device`, `inode`, `mode` in octal, `uid`, `gid`, `size`.
    pub fn look_at_file(&mut self, path: &str) -> Result<Facts> {
        self.ask(&format!("share-look {path}"))
    }

    /// How many files are below a directory.
    pub fn walk_files(&mut self, path: &str) -> Result<u64> {
        self.ask(&format!("share-walk {path}"))?.get("files")
    }

    /// Gives a device of the virtio bus to its driver.
    pub fn bind(&mut self, driver: &str, device: &str) -> Result<()> {
        self.ask(&format!("bind {driver} {device}")).map(drop)
    }

    /// Takes it from its driver, which resets it.
    pub fn unbind(&mut self, driver: &str, device: &str) -> Result<()> {
        self.ask(&format!("unbind {driver} {device}")).map(drop)
    }

    /// The devices of the virtio bus that a driver has.
    pub fn devices_of(&mut self, driver: &str) -> Result<Vec<String>> {
        let mut names = self.list(&format!("/sys/bus/virtio/drivers/{driver}"))?;
        names.retain(|name| name.starts_with("virtio"));
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Says what it is to say, and keeps what it is told.
    struct Script {
        says: io::Cursor<Vec<u8>>,
        told: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.told.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn probe(says: &str) -> Result<Probe<Script>> {
        Probe::new(Script {
            says: io::Cursor::new(says.as_bytes().to_vec()),
            told: Vec::new(),
        })
    }

    #[test]
    fn requests_are_lines_and_answers_facts() {
        let mut probe =
            probe("ready\nok first=3 count=2\nok\nok bytes=7 end=ECONNRESET\n").unwrap();
        assert_eq!(probe.vsock_connect(1025, 2).unwrap(), 3);
        probe.write_disk("vda", 0, 512, 1, Cache::Bypassed).unwrap();
        let end = probe.end(3).unwrap();
        assert_eq!((end.bytes, end.how.as_str()), (7, "ECONNRESET"));
        let told = "vsock-connect 2 1025 2\nblock-write vda 0 512 1 direct\nend 3\n";
        assert_eq!(probe.stream().told, told.as_bytes());
    }

    #[test]
    fn bytes_follow_their_length() {
        let mut probe = probe("ready\nok length=4\na\nb\nok length=0\n").unwrap();
        assert_eq!(probe.list("/sys").unwrap(), ["a", "b"]);
        assert_eq!(probe.log().unwrap(), "");
    }

    #[test]
    fn what_the_guest_fails_at_can_be_looked_for() {
        let mut probe = probe("ready\nfailed connecting to 2:9: ECONNRESET\nwhat\n").unwrap();
        failed(probe.vsock_connect(9, 1), "ECONNRESET").unwrap();
        // Nonsense and the end are no failures of the guest's.
        assert!(failed(probe.vsock_connect(9, 1), "").is_err());
        assert!(failed(probe.vsock_connect(9, 1), "").is_err());
    }

    #[test]
    fn a_probe_begins_with_its_word() {
        assert!(probe("").is_err());
        assert!(probe("hello\n").is_err());
    }
}
