//! Machines under test: the same guest, with the same devices, made by either VMM.
//!
//! The guest is the probe's. What a trial does is no different for the one or the other: QEMU
//! shows that the trial is right, and then ours has to do the same.

pub mod ours;
mod qemu;
pub mod wires;

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rig::guest::Images;
use rig::probe::{PORT, Probe};
use rig::transcript::Transcript;
use trefoil_agent_protocol::command_line;
use trefoil_vmm::exit::{Exit, Stop};

use ours::Ours;
use wires::Wires;

/// Who makes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// QEMU's `microvm`.
    Qemu,
    /// Ours.
    Trefoil,
}

impl Vmm {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Qemu, Self::Trefoil];

    /// As it is named in trials.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Trefoil => "trefoil",
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

/// A directory that a file server shares; our VMM's machines only.
#[derive(Debug)]
pub struct Share {
    /// The connection to the server.
    pub server: OwnedFd,
    /// Its name in the guest.
    pub tag: String,
}

/// The ports of the host's that the guest may connect to, besides the probe's.
pub const PORTS: [u32; 2] = [2000, 2001];

/// A machine to be made. It has a vsock and a source of random numbers in any case.
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
    /// The shared directories.
    pub shares: Vec<Share>,
    /// How many slots there are for disks that come later; our VMM's machines only.
    pub slots: u8,
    /// More words for the kernel's command line, with a space before each.
    pub more_words: String,
    /// A serial line with the kernel's complaints; each byte takes time.
    pub console: bool,
    /// It has this long to become ready, for each answer, and to end.
    pub limit: Duration,
    /// The cgroups that the VMM is put into, if it is ours.
    pub cgroups: Vec<PathBuf>,
    /// Our VMM's program; this one if there is none.
    pub program: Option<PathBuf>,
    /// What it and the VMM say.
    pub transcript: Transcript,
}

/// How many of a failed machine's last lines an error shows.
const LAST_LINES: usize = 25;

/// How a machine ended.
#[derive(Debug)]
pub enum End {
    /// QEMU, which says little of it.
    Qemu(ExitStatus),
    /// Our VMM, with its reason.
    Ours(Exit),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu(status) => write!(formatter, "QEMU: {status}"),
            Self::Ours(exit) => write!(formatter, "our VMM: {exit}"),
        }
    }
}

impl End {
    /// That ours ended for this reason.
    pub fn expect(&self, wanted: impl FnOnce(&Exit) -> bool) -> Result<()> {
        match self {
            Self::Qemu(_) => Ok(()),
            Self::Ours(exit) if wanted(exit) => Ok(()),
            Self::Ours(_) => bail!("the machine ended, but for another reason: {self}"),
        }
    }
}

/// A VMM's process.
trait Process: Send {
    /// How it ended, if it has.
    fn ended(&mut self) -> Result<Option<End>>;
    /// Kills it, and waits for its end.
    fn kill(&mut self);
    /// What it and the guest said last.
    fn last_lines(&mut self) -> String;
    /// Its id.
    fn pid(&self) -> u32;
    /// Our VMM's, if it is one.
    fn ours(&mut self) -> Option<&mut Ours> {
        None
    }
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
            shares: Vec::new(),
            slots: 0,
            more_words: String::new(),
            console: true,
            limit: Duration::from_secs(120),
            cgroups: Vec::new(),
            program: ours::told_program(),
            transcript: Transcript::in_memory(),
        }
    }

    /// Which device the first slot for a disk is, after vsock, random numbers and all others.
    pub fn first_slot(&self) -> Result<u8> {
        let before = 2 + self.disks.len() + self.nics.len() + self.shares.len();
        Ok(u8::try_from(before)?)
    }

    /// Boots it with the probe as its init.
    pub fn boot(&self, vmm: Vmm) -> Result<Guest> {
        let (process, wires, stream) = self.boot_any(vmm)?;
        Ok(Guest {
            probe: Probe::new(stream)?,
            wires,
            running: Running {
                process,
                limit: self.limit,
            },
        })
    }

    /// Boots it with the agent as its init, which its images must have.
    pub fn boot_agent(&self, vmm: Vmm) -> Result<Agent> {
        let (process, wires, stream) = self.boot_any(vmm)?;
        Ok(Agent {
            stream,
            wires,
            machine: Running {
                process,
                limit: self.limit,
            },
        })
    }

    /// Boots it, and answers with the first connection that its init makes.
    fn boot_any(&self, vmm: Vmm) -> Result<(Starting, Wires, File)> {
        let (process, wires): (Box<dyn Process>, _) = match vmm {
            Vmm::Qemu => qemu::start(self)?,
            Vmm::Trefoil => {
                let (process, wires) = ours::start(self)?;
                (Box::new(process), wires)
            }
        };
        let began = Instant::now();
        let mut starting = Starting(process);
        loop {
            // A guest that ends doesn't knock any more: look at both, in turn.
            if let Some(stream) = wires.accept_within(PORT, Duration::from_millis(50))? {
                wires::limit(&stream, self.limit)?;
                return Ok((starting, wires, stream));
            }
            if let Some(how) = starting.0.ended()? {
                bail!(
                    "the machine ended ({how}) before its init was ready; {}",
                    starting.0.last_lines()
                );
            }
            if began.elapsed() > self.limit {
                starting.0.kill();
                bail!(
                    "its init was not ready after {:?}; {}",
                    self.limit,
                    starting.0.last_lines()
                );
            }
        }
    }

    /// The kernel's command line, with what this machine and `vmm` add to ours.
    fn words(&self, more: &str) -> String {
        let mut words = command_line::COMMAND_LINE.to_owned() + more + &self.more_words;
        if self.console {
            words.push_str(command_line::CONSOLE);
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
    running: Running,
}

/// A machine whose agent has connected.
pub struct Agent {
    /// The agent's connection.
    pub stream: File,
    /// All other connections.
    pub wires: Wires,
    /// Its machine.
    pub machine: Running,
}

/// A machine that runs. Dropped, it is killed.
pub struct Running {
    process: Starting,
    limit: Duration,
}

impl Running {
    /// Our VMM's process.
    pub fn ours(&mut self) -> Result<&mut Ours> {
        let ours = self.process.0.ours();
        ours.context("the machine is not made by our VMM")
    }

    /// What the VMM and the guest said last, of a machine that has ended.
    pub fn last_lines(&mut self) -> String {
        self.process.0.last_lines()
    }

    /// Waits until it has ended; how it did.
    pub fn await_end(&mut self) -> Result<End> {
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
        wires::limit(&stream, self.running.limit)?;
        self.probe = Probe::new(stream)?;
        Ok(())
    }

    /// Its probe, and our VMM's process.
    pub fn parts(&mut self) -> Result<(&mut Probe<File>, &mut Ours)> {
        let ours = self.running.process.0.ours();
        Ok((
            &mut self.probe,
            ours.context("this machine is not our VMM's")?,
        ))
    }

    /// What the VMM and the guest said last.
    pub fn last_lines(&mut self) -> String {
        self.running.process.0.last_lines()
    }

    /// The VMM's process.
    pub fn pid(&self) -> u32 {
        self.running.process.0.pid()
    }

    /// Asks the guest for its end, and waits until the machine has ended; how it did.
    pub fn end_by(mut self, request: &str) -> Result<End> {
        self.probe.tell(request)?;
        self.running.await_end()
    }

    /// Powers it off.
    pub fn power_off(self) -> Result<()> {
        self.end_by("power-off")?
            .expect(|exit| *exit == Exit::Done(Stop::PoweredOff))
    }

    /// Kills the VMM.
    pub fn kill(mut self) -> Result<()> {
        self.running.process.0.kill();
        let ended = self.running.process.0.ended()?;
        ended
            .context("a killed VMM is still there")?
            .expect(|exit| *exit == Exit::Killed)
    }

    /// Kills the VMM, but not what is connected to the guest.
    pub fn kill_and_keep(mut self) -> Wires {
        self.running.process.0.kill();
        self.wires
    }
}
