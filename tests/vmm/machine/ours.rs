//! The machine by our VMM: this program again, jailed.

use std::fs::File;
use std::io::pipe;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::probe::PORT;
use rig::transcript::Transcript;
use trefoil_guest::run;
use trefoil_vmm::configuration::{Configuration, Cpus, Device, Handed, Memory, Pages, Tables};
use trefoil_vmm::control::{Answer, Attach, Message, Request, Stats};
use trefoil_vmm::cpu::cpuid::Model;
use trefoil_vmm::devices::vsock::host_socket::HostSocket;
use trefoil_vmm::jail::Jail;
use trefoil_vmm::metrics::{self, Shared};
use trefoil_vmm::process::{self, Said, Start};

use super::wires::Wires;
use super::{End, LAST_LINES, Machine, PORTS, Process};

/// What this program is called when it is the VMM.
pub const PROGRAM: &str = "trefoil-vmm";

/// The guest's number on its vsock. Each has a host of its own, so all may have the same.
const CID: u64 = 3;

/// More than any trial makes at a time.
const CONNECTIONS: u16 = 2500;

/// Who the VMM becomes: nobody else is this.
pub const UID: u32 = 70_017;
/// Its group.
pub const GID: u32 = 70_018;

/// How many descriptors it may have: those it is handed, its own, and one for each connection.
pub const DESCRIPTORS: u32 = CONNECTIONS as u32 + 200;

/// The most bytes of a disk that comes later and can be written.
const LARGEST_LATE: u64 = 1 << 30;

/// How long a VMM that was killed may take to be gone.
const KILLING: Duration = Duration::from_secs(20);

/// How long it may take to answer.
const ANSWERING: Duration = Duration::from_secs(60);

/// In the test VM: the VMM's program, if it is not this one, as the host has built it.
const RELEASE: &str = "TREFOIL_VMM_PROGRAM";

/// The variable that tells a test VM of the VMM's program.
pub fn variable(program: &Path) -> (String, String) {
    (RELEASE.into(), program.to_string_lossy().into_owned())
}

/// The VMM's program that a test VM was told of.
pub fn told_program() -> Option<PathBuf> {
    std::env::var_os(RELEASE).map(PathBuf::from)
}

/// The VMM as it is released, built if it isn't yet.
pub fn release_build() -> Result<PathBuf> {
    let status = run::cargo()
        .args(["build", "--quiet", "--release", "-p", "trefoil-vmm"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "building the VMM ended with {status}");
    Ok(rig::containerd::release_directory().join("trefoil-vmm"))
}

/// A machine's process.
pub struct Ours {
    /// The parent's side of it.
    pub process: process::Process,
    /// What it counts.
    pub metrics: Arc<Shared>,
    said: Option<JoinHandle<()>>,
    transcript: Transcript,
}

/// What is handed to the VMM, in order.
#[derive(Default)]
struct Handing<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Handing<'a> {
    fn add(&mut self, descriptor: &'a impl AsFd) -> Result<Handed> {
        let number = u8::try_from(self.0.len())?;
        self.0.push(descriptor.as_fd());
        Ok(Handed(number))
    }
}

/// Starts it.
pub(super) fn start(machine: &Machine) -> Result<(Ours, Wires)> {
    let (heard, said) = pipe().context("making a pipe")?;
    let said = OwnedFd::from(said);
    let process = process::start(&Start {
        program: machine.program.as_deref(),
        arguments: &[PROGRAM],
        log: said.as_fd(),
        cgroups: &machine.cgroups,
        oom_score_adj: None,
    })?;
    let metrics = metrics::file().context("making a file for the metrics")?;
    let (host_socket, theirs) = HostSocket::pair().context("making a host socket")?;
    launch(&process, machine, &theirs, &metrics, &said)?;
    let ours = Ours {
        process,
        metrics: Shared::map(Some(&metrics)).context("mapping the metrics")?,
        said: Some(machine.transcript.follow(heard, |_| {})),
        transcript: machine.transcript.clone(),
    };
    Ok((ours, Wires::of_host_socket(host_socket)))
}

fn launch(
    process: &process::Process,
    machine: &Machine,
    host_socket: &OwnedFd,
    metrics: &OwnedFd,
    said: &OwnedFd,
) -> Result<()> {
    let open = |path, write| {
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .with_context(|| format!("opening {}", std::path::Path::display(path)))
    };
    let kvm = open("/dev/kvm".as_ref(), true)?;
    let kernel = open(&machine.images.kernel, false)?;
    let image = open(&machine.images.image, false)?;
    let disks = machine
        .disks
        .iter()
        .map(|disk| open(&disk.file, !disk.read_only))
        .collect::<Result<Vec<_>>>()?;
    let mut largest = 0;
    for disk in &disks {
        largest = largest.max(disk.metadata()?.len());
    }

    let mut handing = Handing::default();
    let ports = PORTS.into_iter().chain([PORT]);
    let mut devices = vec![
        Device::Vsock {
            host_socket: handing.add(host_socket)?,
            guest_cid: CID,
            ports: ports.map(|port| (port, port)).collect(),
            connections: CONNECTIONS,
        },
        Device::Rng,
    ];
    for (disk, file) in machine.disks.iter().zip(&disks) {
        devices.push(Device::Block {
            file: handing.add(file)?,
            read_only: disk.read_only,
            serial: disk.serial.clone(),
        });
    }
    for nic in &machine.nics {
        devices.push(Device::Net {
            tap: handing.add(&nic.tap)?,
            mac: nic.mac,
            mtu: nic.mtu,
        });
    }
    for share in &machine.shares {
        devices.push(Device::Fs {
            server: handing.add(&share.server)?,
            tag: share.tag.clone(),
        });
    }
    for _ in 0..machine.slots {
        devices.push(Device::Slot);
        largest = largest.max(LARGEST_LATE);
    }
    let configuration = Configuration {
        kvm: handing.add(&kvm)?,
        kernel: handing.add(&kernel)?,
        initramfs: Some(handing.add(&image)?),
        command_line: machine.words(""),
        tables: Tables::default(),
        cpus: Cpus {
            boot: u8::try_from(machine.cpus)?,
            most: u8::try_from(machine.most_cpus)?,
            threads_per_core: 1,
            model: Model::Host,
        },
        memory: Memory {
            mib: machine.memory,
            pages: Pages::Ordinary,
        },
        devices,
        serial: match machine.console {
            true => Some(handing.add(said)?),
            false => None,
        },
        metrics: Some(handing.add(metrics)?),
        jail: Jail {
            uid: UID,
            gid: GID,
            descriptors: DESCRIPTORS,
            file_size: largest,
        },
    };
    process.launch(&configuration, &handing.0)?;
    Ok(())
}

impl Ours {
    /// Asks for something, and waits for the answer.
    pub fn ask(&mut self, request: Request) -> Result<Stats> {
        self.process.request(&request)?;
        self.answer()
            .with_context(|| format!("asking for {request:?}"))
    }

    /// Puts a disk of these files into a slot, and waits for the answer.
    pub fn attach(&mut self, disk: Attach, files: &[File]) -> Result<()> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        self.process.attach(disk, &files)?;
        self.answer().context("attaching a disk").map(drop)
    }

    fn answer(&mut self) -> Result<Stats> {
        loop {
            match self.process.receive_within(ANSWERING)? {
                Said::Message(Message::Answer(Answer::Done(stats))) => return Ok(stats),
                Said::Message(Message::Running) => {}
                other => bail!("the VMM answers with {other:?}"),
            }
        }
    }
}

impl Process for Ours {
    fn ended(&mut self) -> Result<Option<End>> {
        Ok(self.process.try_wait()?.map(End::Ours))
    }

    fn kill(&mut self) {
        self.process.kill();
        drop(self.process.wait_within(KILLING));
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn last_lines(&mut self) -> String {
        // All of it is there when the process is gone.
        if let Some(reader) = self.said.take() {
            drop(reader.join());
        }
        self.transcript.last_lines(LAST_LINES)
    }

    fn ours(&mut self) -> Option<&mut Ours> {
        Some(self)
    }
}
