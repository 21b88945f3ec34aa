//! Machines under test: the same guest, with the same devices, made by either VMM.
//!
//! The guest is the probe's. What a trial does is no different for the one or the other: QEMU
//! shows that the trial is right, and then ours has to do the same.

mod qemu;
pub mod wires;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rig::guest::Images;
use rig::probe::{PORT, Probe};
use trefoil_guest::kernel;

use wires::Wires;

/// Who makes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU's `microvm`.
    Qemu,
}

impl Vmm {
    /// All there are.
    pub const ALL: [Self; 1] = [Self::Qemu];

    /// As it is named in trials.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
        }
    }
}

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file that holds it.
    pub file: PathBuf,
    /// The guest can't write to it.
    pub read_only: bool,
    /// By which the guest finds it.
    pub serial: String,
}

/// A network interface.
#[derive(Debug)]
pub struct Nic {
    /// A tap with a header for offloads.
    pub tap: OwnedFd,
    /// Its address in the guest.
    pub mac: [u8; 6],
    /// The largest packet.
    pub mtu: u16,
}

/// The ports of the host's that the guest may connect to, besides the probe's.
pub const PORTS: [u32; 2] = [2000, 2001];

/// A machine to be made. It has a vsock and a source of random numbers in any case.
#[derive(Debug)]
pub struct Machine {
    /// What it boots.
    pub images: Images,
    /// How many virtual CPUs the guest brings up at boot.
    pub cpus: u32,
    /// How many there are.
    pub most_cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// The disks.
    pub disks: Vec<Disk>,
    /// The network interfaces.
    pub nics: Vec<Nic>,
    /// A serial line with the kernel's complaints; each byte takes time.
    pub console: bool,
    /// It has this long to become ready, for each answer, and to end.
    pub limit: Duration,
}

/// A VMM's process.
trait Process {
    /// How it ended, if it has.
    fn ended(&mut self) -> Result<Option<String>>;
    /// Kills it, and waits for its end.
    fn kill(&mut self);
    /// What it and the guest said last.
    fn last_lines(&mut self) -> String;
}

impl Machine {
    /// One with a processor and 128 MiB.
    pub fn new(images: &Images) -> Self {
        Self {
            images: images.clone(),
            cpus: 1,
            most_cpus: 1,
            memory: 128,
            disks: Vec::new(),
            nics: Vec::new(),
            console: true,
            limit: Duration::from_secs(120),
        }
    }

    /// Boots it.
    pub fn boot(&self, vmm: Vmm) -> Result<Guest> {
        let (process, wires) = match vmm {
            Vmm::Qemu => qemu::start(self)?,
        };
        let began = Instant::now();
        let mut starting = Starting(process);
        let stream = loop {
            // A guest that ends doesn't knock any more: look at both, in turn.
            if let Some(stream) = wires.accept_within(PORT, Duration::from_millis(50))? {
                break stream;
            }
            if let Some(how) = starting.0.ended()? {
                bail!(
                    "the machine ended ({how}) before the probe was ready; {}",
                    starting.0.last_lines()
                );
            }
            if began.elapsed() > self.limit {
                starting.0.kill();
                bail!(
                    "the probe was not ready after {:?}; {}",
                    self.limit,
                    starting.0.last_lines()
                );
            }
        };
        wires::limit(&stream, self.limit)?;
        Ok(Guest {
            probe: Probe::new(stream)?,
            wires,
            process: starting,
            limit: self.limit,
        })
    }

    /// The kernel's command line, with what this machine and `vmm` add to ours.
    fn words(&self, more: &str) -> String {
        let mut words = kernel::COMMAND_LINE.to_owned() + more;
        if self.console {
            words.push_str(kernel::CONSOLE);
            // A panic is said, and little else.
            words.push_str(" quiet");
        }
        words
    }
}

/// A process that is killed if nobody waits for its end.
struct Starting(Box<dyn Process>);

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A guest that is ready. Dropped, it is killed.
pub struct Guest {
    /// Its probe.
    pub probe: Probe<File>,
    /// Its connections.
    pub wires: Wires,
    process: Starting,
    limit: Duration,
}

impl Guest {
    /// The name of the disk with this serial number.
    pub fn disk(&mut self, serial: &str) -> Result<String> {
        let mut names = self.probe.list("/sys/block")?;
        names.retain(|name| name.starts_with("vd"));
        for name in names {
            if self.probe.read(&format!("/sys/block/{name}/serial"))? == serial {
                return Ok(name);
            }
        }
        bail!("the guest has no disk {serial}")
    }

    /// The name of the interface with this address.
    pub fn interface(&mut self, mac: [u8; 6]) -> Result<String> {
        let wanted = mac.map(|byte| format!("{byte:02x}")).join(":");
        for name in self.probe.list("/sys/class/net")? {
            if self.probe.read(&format!("/sys/class/net/{name}/address"))? == wanted {
                return Ok(name);
            }
        }
        bail!("the guest has no interface {wanted}")
    }

    /// Resets the vsock device, and waits for the probe's next connection.
    pub fn reset_vsock(&mut self) -> Result<()> {
        self.probe.tell("vsock-reset")?;
        let stream = self
            .wires
            .accept(PORT)
            .context("waiting for the probe after its vsock's reset")?;
        wires::limit(&stream, self.limit)?;
        self.probe = Probe::new(stream)?;
        Ok(())
    }

    /// Asks the guest for its end, and waits until the machine has ended; how it did.
    pub fn end_by(mut self, request: &str) -> Result<String> {
        self.probe.tell(request)?;
        self.await_end()
    }

    /// Powers it off.
    pub fn power_off(self) -> Result<()> {
        self.end_by("power-off").map(drop)
    }

    /// Kills the VMM.
    pub fn kill(mut self) -> Result<()> {
        self.process.0.kill();
        let ended = self.process.0.ended()?;
        ensure!(ended.is_some(), "a killed VMM is still there");
        Ok(())
    }

    /// Kills the VMM, but not what is connected to the guest.
    pub fn kill_and_keep(mut self) -> Wires {
        self.process.0.kill();
        self.wires
    }

    fn await_end(&mut self) -> Result<String> {
        let asked = Instant::now();
        loop {
            if let Some(how) = self.process.0.ended()? {
                return Ok(how);
            }
            if asked.elapsed() > self.limit {
                self.process.0.kill();
                bail!(
                    "the machine was still there {:?} after it was asked to end; {}",
                    self.limit,
                    self.process.0.last_lines()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
