//! A pod's machine: the VMM as a child of the shim, and the door to its guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;
use trefoil_agent_protocol::command_line::{COMMAND_LINE, CONSOLE};
use trefoil_agent_protocol::{READY_PORT, SHARE_TAG};
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_os::{lock, watched};
use trefoil_vmm::client::Handing;
use trefoil_vmm::configuration::{Configuration, Cpus, Device, Jail, Memory, Model, Pages};
use trefoil_vmm::control::{Answer, Attach, Detach, Message, Request};
use trefoil_vmm::devices::vsock::door::Door;
use trefoil_vmm::metrics::{self, Metrics, Shared};
use trefoil_vmm::process::{self, Process, Said, Start};

use crate::console::Console;
use crate::disks;
use crate::identity::Identity;
use crate::parts::VMM;
use crate::runtime::Settings;
use crate::size::Size;

/// The guest's number on its vsock. Each machine has a host of its own, so all have the same.
const CID: u64 = 3;

/// Connections between guest and host at a time: three for each process that containerd looks at, one
/// for each forwarded connection.
const CONNECTIONS: u16 = 1024;

/// Descriptors that a VMM needs beside its connections' and its disks'.
const DESCRIPTORS: u32 = 200;

/// What the kernel prints, to a console that costs an exit for each character: errors and worse.
const QUIET: &str = " quiet";

/// The unit of `/proc/<pid>/stat`, in milliseconds: the same for all of Linux's programs.
const TICK: u64 = 10;

/// How long the VMM may take to answer a request.
const ANSWERING: Duration = Duration::from_secs(10);

/// How often, and how long, the door is tried again while the VMM has too many connections to take.
const CROWDED: Duration = Duration::from_millis(5);
const CROWDED_TRIES: u32 = 200;

/// A machine that has been started. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    process: Arc<Mutex<Process>>,
    /// Readable when the VMM has answered. Held by who waits for that.
    answers: tokio::sync::Mutex<AsyncFd<OwnedFd>>,
    pid: u32,
    door: Arc<Door>,
    metrics: Arc<Shared>,
    /// Which of its devices are places for disks.
    places: Vec<u8>,
    /// Why it has ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// Why we have killed it.
    cause: Arc<Mutex<Option<String>>>,
}

/// A network interface of the machine's.
#[derive(Debug)]
pub(crate) struct Nic {
    /// The other end of its cable.
    pub tap: OwnedFd,
    /// Its address.
    pub mac: [u8; 6],
    /// Its largest packet.
    pub mtu: u16,
}

/// What a machine is made of.
pub(crate) struct Plan<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// What the node says.
    pub settings: &'a Settings,
    /// How large it is.
    pub size: Size,
    /// Who its process is.
    pub identity: &'a Identity,
    /// Its network interfaces.
    pub nics: Vec<Nic>,
    /// What its file server is reached by.
    pub files: OwnedFd,
}

/// A process of the VMM that waits to be told what machine to be, so that it can be put where it belongs
/// first.
pub(crate) struct Embryo {
    process: Process,
    console: Console,
    log: OwnedFd,
}

impl Embryo {
    /// Starts the process. Must be called within the event loop, by the shim's one thread: it ends with
    /// that.
    pub fn start(pod: &str, oom_score_adj: Option<i16>) -> Result<Self> {
        let (console, log) = Console::new()?;
        let process = process::start(&Start {
            program: None,
            arguments: &[VMM, pod],
            log: log.as_fd(),
            cgroups: &[],
            oom_score_adj,
        })
        .context(|| "start the VMM")?;
        Ok(Self {
            process,
            console,
            log,
        })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it writes what goes wrong, as the pod's other processes may.
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Has it become the machine.
    pub fn launch(self, plan: &Plan<'_>) -> Result<Machine> {
        let (door, theirs) = Door::pair().context(|| "make a door to the guest")?;
        let (metrics, places) = launch(&self.process, plan, &theirs, &self.log)?;
        // Of the console's writing end the VMM's is the last, so that it ends with it.
        drop(self.log);
        Machine::watch(self.process, door, self.console, metrics, places)
    }
}

/// Tells the process what machine to be. Answers with what it will count, and which of its devices are
/// places for disks.
fn launch(
    process: &Process,
    plan: &Plan<'_>,
    door: &OwnedFd,
    log: &OwnedFd,
) -> Result<(Arc<Shared>, Vec<u8>)> {
    let open = |path: &std::path::Path, write| {
        File::options()
            .read(true)
            .write(write)
            .open(path)
            .context(|| format!("open {}", path.display()))
    };
    let kvm = open("/dev/kvm".as_ref(), true)?;
    let kernel = open(&plan.settings.kernel, false)?;
    let initramfs = open(&plan.settings.initramfs, false)?;
    let metrics = metrics::file().context(|| "make a file for the VMM's metrics")?;

    let full = || "hand descriptors to the VMM";
    let mut handing = Handing::default();
    let vsock = Device::Vsock {
        door: handing.descriptor(door).context(full)?,
        guest_cid: CID,
        ports: vec![(READY_PORT, READY_PORT)],
        connections: CONNECTIONS,
    };
    let share = Device::Fs {
        server: handing.descriptor(&plan.files).context(full)?,
        tag: SHARE_TAG.into(),
    };
    for device in [vsock, Device::Rng, share] {
        handing.device(device).context(full)?;
    }
    let places = (0..disks::PLACES)
        .map(|_| handing.device(Device::Slot))
        .collect::<std::result::Result<_, _>>()
        .context(full)?;
    for nic in &plan.nics {
        let tap = handing.descriptor(&nic.tap).context(full)?;
        let nic = Device::Net {
            tap,
            mac: nic.mac,
            mtu: nic.mtu,
        };
        handing.device(nic).context(full)?;
    }
    let configuration = Configuration {
        kvm: handing.descriptor(&kvm).context(full)?,
        kernel: handing.descriptor(&kernel).context(full)?,
        initramfs: Some(handing.descriptor(&initramfs).context(full)?),
        command_line: format!("{COMMAND_LINE}{CONSOLE}{QUIET}"),
        cpus: Cpus {
            boot: plan.size.cpus,
            most: plan.size.cpus,
            threads_per_core: 1,
            model: Model::Host,
        },
        memory: Memory {
            mib: plan.size.memory,
            pages: Pages::Ordinary,
        },
        devices: handing.take_devices(),
        serial: Some(handing.descriptor(log).context(full)?),
        metrics: Some(handing.descriptor(&metrics).context(full)?),
        jail: Jail {
            uid: plan.identity.vmm,
            gid: plan.identity.vmm,
            descriptors: u32::from(CONNECTIONS) + DESCRIPTORS + disks::DESCRIPTORS,
            file_size: disks::LONGEST,
        },
    };
    process
        .launch(&configuration, handing.descriptors())
        .context(|| format!("start the machine of pod {}", plan.pod))?;
    let metrics = Shared::map(Some(&metrics)).context(|| "map the VMM's metrics")?;
    Ok((metrics, places))
}

impl Machine {
    /// A machine whose process has been told what to be, and what it prints.
    pub(crate) fn watch(
        process: Process,
        door: Door,
        mut console: Console,
        metrics: Arc<Shared>,
        places: Vec<u8>,
    ) -> Result<Self> {
        let doing = || "watch the VMM";
        let pid = process.pid();
        let pidfd = process.pidfd().try_clone_to_owned().context(doing)?;
        let pidfd = watched::readable(pidfd).context(doing)?;
        let control = process.as_fd().try_clone_to_owned().context(doing)?;
        let answers = watched::readable(control).context(doing)?;
        let process = Arc::new(Mutex::new(process));
        let cause = Arc::new(Mutex::new(None::<String>));
        let (sender, ended) = watch::channel(None);
        let (its_process, its_cause) = (process.clone(), cause.clone());
        tokio::spawn(async move {
            let end = reap(&pidfd, &its_process).await;
            let reason = match lock(&its_cause).take() {
                Some(cause) => cause,
                None => end,
            };
            let last = console.last_words().await;
            sender.send_replace(Some(format!("{reason}{last}")));
        });
        Ok(Self {
            process,
            answers: tokio::sync::Mutex::new(answers),
            pid,
            door: Arc::new(door),
            metrics,
            places,
            ended,
            cause,
        })
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Which of its devices are places for disks.
    pub fn places(&self) -> &[u8] {
        &self.places
    }

    /// What its VMM counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Resolves, with the reason, when the machine has ended.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(reason)) => reason,
            // The task that reaps it never ends without a reason.
            _ => "the machine has ended".into(),
        }
    }

    /// Why it has ended, if it has.
    pub fn end(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Kills it, for this reason.
    pub fn kill(&self, cause: &str) {
        lock(&self.cause).get_or_insert_with(|| cause.to_owned());
        lock(&self.process).kill();
    }

    /// Puts a disk of these files into a place that the machine has for one.
    pub async fn attach(&self, disk: Attach, files: &[File]) -> Result<()> {
        let doing = format!("put a disk into device {} of the machine", disk.device);
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let ask = |process: &mut Process| process.attach(disk, &files);
        self.ask(ask).await.map_err(|why| why.context(doing))
    }

    /// Takes a disk out; nothing of its files is read or written after that.
    pub async fn detach(&self, device: u8) -> Result<()> {
        let doing = format!("take the disk out of device {device} of the machine");
        let request = Request::Detach(Detach { device });
        let ask = |process: &mut Process| process.request(&request);
        self.ask(ask).await.map_err(|why| why.context(doing))
    }

    /// Asks the VMM for something, and waits for its answer. One that does not answer is killed: what it
    /// has done can't be known.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Process) -> Result<(), process::Failure>,
    ) -> Result<()> {
        let readable = self.answers.lock().await;
        // Answers come in the requests' order. Who has asked before may have stopped waiting.
        let stale = {
            let mut process = lock(&self.process);
            let stale = process.unanswered();
            ask(&mut process).context(|| "ask the VMM")?;
            stale
        };
        let answered = timeout(ANSWERING, self.answer(&readable, stale)).await;
        match answered {
            Ok(Ok(Answer::Done(_))) => Ok(()),
            Ok(Ok(Answer::Refused(why))) => Err(Error::precondition(why)),
            Ok(Err(why)) => Err(why),
            Err(_) => {
                let why = format!("the VMM has not answered for {ANSWERING:?}");
                self.kill(&why);
                Err(Error::new(ErrorKind::Unavailable, why))
            }
        }
    }

    /// The next answer but so many.
    async fn answer(&self, readable: &AsyncFd<OwnedFd>, mut stale: usize) -> Result<Answer> {
        loop {
            let mut ready = readable.readable().await.context(|| "watch the VMM")?;
            let said = lock(&self.process).receive();
            match said.context(|| "hear the VMM's answer")? {
                Said::Message(Message::Answer(_)) if stale > 0 => stale -= 1,
                Said::Message(Message::Answer(answer)) => return Ok(answer),
                Said::Message(_) => {}
                Said::Nothing => ready.clear_ready(),
                Said::Gone => {
                    let why = "the VMM has ended";
                    return Err(Error::new(ErrorKind::Unavailable, why));
                }
            }
        }
    }

    /// How much processor time it has used, if that can be told: what stands still has used none lately.
    pub fn processor_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The name may contain anything; after it come the state, ten other fields, and the time in user
        // mode and in the kernel.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_ascii_whitespace().skip(11);
        let mut next = || times.next()?.parse::<u64>().ok();
        Some(Duration::from_millis((next()? + next()?) * TICK))
    }

    /// Makes the kernel at least as ready to kill it for want of memory.
    pub fn raise_oom_score(&self, score: i32) -> Result<()> {
        let path = format!("/proc/{}/oom_score_adj", self.pid);
        let doing = || format!("write {path}");
        let now = std::fs::read_to_string(&path).context(doing)?;
        match now.trim().parse::<i32>() {
            Ok(now) if now < score => std::fs::write(&path, score.to_string()).context(doing),
            _ => Ok(()),
        }
    }

    /// The first connection that the guest makes: its agent's. Later ones are closed, one after the other.
    pub async fn agent(&self) -> Result<UnixStream> {
        let doing = || "wait for the guest's agent";
        let readable = self.door.as_fd().try_clone_to_owned().context(doing)?;
        let readable = watched::readable(readable).context(doing)?;
        let (_, agent) = next(&self.door, &readable).await.context(doing)?;
        let door = self.door.clone();
        tokio::spawn(async move {
            while next(&door, &readable).await.is_ok() {
                tokio::time::sleep(CROWDED).await;
            }
        });
        Ok(agent)
    }

    /// Connects to a port of the guest's. The stream does not block; if nobody accepts, it ends.
    pub async fn connect(&self, port: u32) -> Result<UnixStream> {
        for _ in 0..CROWDED_TRIES {
            match self.door.connect(port) {
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(CROWDED).await;
                }
                outcome => {
                    return outcome.context(|| format!("connect to the guest's port {port}"));
                }
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("connect to the guest's port {port}: the VMM takes no more connections"),
        ))
    }
}

/// What comes through the door next.
async fn next(door: &Door, readable: &AsyncFd<OwnedFd>) -> io::Result<(u32, UnixStream)> {
    loop {
        let mut ready = readable.readable().await?;
        match door.accept() {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            outcome => return outcome,
        }
    }
}

/// Waits for the VMM's end and says how it was.
async fn reap(pidfd: &AsyncFd<OwnedFd>, process: &Mutex<Process>) -> String {
    loop {
        match pidfd.readable().await {
            Ok(mut ready) => match lock(process).try_wait() {
                Ok(Some(exit)) => return exit.to_string(),
                Ok(None) => ready.clear_ready(),
                Err(why) => return why.to_string(),
            },
            Err(why) => return format!("watch the VMM: {why}"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill("the shim has no more use for it");
    }
}
