//! Guests of ours booted by QEMU: the peer that shows the kernel, the image and a KVM to be good
//! without a VMM of ours.
//!
//! QEMU's `microvm` machine has what our VMM will have: no PCI, no ACPI, virtio over MMIO. It
//! needs a KVM that boots Linux, and the host's vhost-vsock. One guest at a time: the port on
//! which it says that it is ready is the host's.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket,
};
use trefoil_agent_protocol::{Log, READY_PORT, Ready, Request, command_line};
use trefoil_guest::kernel::config::Feature;
use trefoil_guest::{image, kernel, program};

use crate::command;
use crate::qemu::Qemu;
use crate::test_vm;
use crate::transcript::Transcript;

/// In a test VM: what is for guests, as the host has built it ([`Images::files`]).
pub const PREBUILT: &str = "TREFOIL_GUEST";

/// Whether they have been built by somebody else.
pub fn is_prebuilt() -> bool {
    std::env::var_os(PREBUILT).is_some()
}

/// How many of a failed guest's last lines an error shows.
const LAST_LINES: usize = 25;

/// What is for guests.
#[derive(Clone, Debug)]
pub struct Images {
    /// The ELF kernel with a PVH entry.
    pub kernel: PathBuf,
    /// The initramfs that holds the init.
    pub image: PathBuf,
    /// What makes containers, for a guest to find among its files.
    pub agent: PathBuf,
    /// The initramfs of confidential guests, which holds that as well.
    pub confidential: PathBuf,
    /// Their kernel.
    pub confidential_kernel: PathBuf,
}

/// What the kernel of confidential guests has beyond the default.
const CONFIDENTIAL: &[Feature] = &[Feature::Confidential];

impl Images {
    /// Builds what isn't there yet.
    pub fn ensure() -> Result<Self> {
        match Self::prebuilt()? {
            Some(images) => Ok(images),
            None => Self::around(
                kernel::ensure()?.vmlinux,
                kernel::ensure_with(CONFIDENTIAL)?.vmlinux,
            ),
        }
    }

    /// All of it, if the kernels are there: only they take long.
    pub fn if_kernel() -> Result<Option<Self>> {
        if is_prebuilt() || test_vm::inside() {
            return Self::prebuilt();
        }
        let find = |features| Ok(kernel::find_with(features)?.map(|kernel| kernel.vmlinux));
        let kernels: Result<_> = find(&[]).and_then(|kernel| Ok(kernel.zip(find(CONFIDENTIAL)?)));
        kernels?
            .map(|(kernel, confidential)| Self::around(kernel, confidential))
            .transpose()
    }

    fn around(kernel: PathBuf, confidential_kernel: PathBuf) -> Result<Self> {
        Ok(Self {
            kernel,
            image: image::ensure()?,
            agent: program::ensure(program::AGENT)?,
            confidential: image::ensure_confidential()?,
            confidential_kernel,
        })
    }

    fn prebuilt() -> Result<Option<Self>> {
        let Some(list) = std::env::var_os(PREBUILT) else {
            return Ok(None);
        };
        let paths: Vec<PathBuf> = std::env::split_paths(&list).collect();
        let Ok([kernel, image, agent, confidential, confidential_kernel]) =
            <[PathBuf; 5]>::try_from(paths)
        else {
            bail!(
                "{PREBUILT} does not name a kernel, an image, an agent, a confidential image and its kernel"
            );
        };
        Ok(Some(Self {
            kernel,
            image,
            agent,
            confidential,
            confidential_kernel,
        }))
    }

    /// All of them, to be where a test VM reads fast.
    pub fn files(&self) -> [PathBuf; 5] {
        [
            &self.kernel,
            &self.image,
            &self.agent,
            &self.confidential,
            &self.confidential_kernel,
        ]
        .map(Clone::clone)
    }

    /// The variable that tells a test VM of these.
    pub fn variable(&self) -> Result<(String, String)> {
        let list = std::env::join_paths(self.files())?;
        Ok((PREBUILT.to_owned(), list.to_string_lossy().into_owned()))
    }
}

/// A guest to be booted.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it boots, of these.
    pub images: Images,
    /// How many virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// More words for the kernel's command line.
    pub more_words: String,
    /// It has a serial console that the kernel prints to.
    pub console: bool,
    /// It has this long to become ready, and then to answer and to end.
    pub limit: Duration,
}

impl Guest {
    /// One of a small pod's size, with a console.
    pub fn new(images: Images) -> Self {
        Self {
            images,
            cpus: 1,
            memory: 128,
            more_words: String::new(),
            console: true,
            // In a test VM it takes ten, and others may be at work beside it.
            limit: Duration::from_secs(if test_vm::inside() { 180 } else { 60 }),
        }
    }

    /// Boots it; an error says why it isn't ready, with its last lines.
    pub fn boot(&self) -> Result<(Running, Ready)> {
        let listener = socket(
            AddressFamily::Vsock,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("making a vsock on the host")?;
        let any = VsockAddr::new(libc::VMADDR_CID_ANY, READY_PORT);
        bind(listener.as_raw_fd(), &any)
            .with_context(|| format!("listening on the host's vsock port {READY_PORT}"))?;
        listen(&listener, Backlog::new(1)?)?;

        let started = Instant::now();
        let transcript = Transcript::in_memory();
        let mut qemu = self.qemu()?.spawn().context("starting QEMU")?;
        let said = qemu
            .stderr
            .take()
            .map(|pipe| transcript.follow(pipe, |_| {}));
        let mut guest = Running {
            qemu,
            said,
            transcript,
            agent: None,
            limit: self.limit,
        };
        guest.agent = Some(guest.await_agent(&listener, started)?);
        let line = guest.line()?;
        let ready = line
            .parse()
            .with_context(|| format!("the agent's first line is {line:?}"))?;
        Ok((guest, ready))
    }

    fn qemu(&self) -> Result<Command> {
        let serial = if self.console { "on" } else { "off" };
        // Nothing that the guest kernel has no driver for.
        let machine = format!(
            "microvm,acpi=off,accel=kvm,pit=off,pic=off,rtc=off,isa-serial={serial},auto-kernel-cmdline=on"
        );
        let mut words = command_line::COMMAND_LINE.to_owned() + command_line::TRIPLE_FAULT;
        if self.console {
            words.push_str(command_line::CONSOLE);
        }
        words.push(' ');
        words.push_str(&self.more_words);
        let mut qemu = Qemu::ensure()?.command();
        qemu.args(["-M", &machine, "-cpu", "host"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(&self.images.kernel)
            .arg("-initrd")
            .arg(&self.images.image)
            .args(["-append", words.trim()])
            // Any number from 3 on; our own process id is nobody else's.
            .arg("-device")
            .arg(format!(
                "vhost-vsock-device,guest-cid={}",
                1000 + std::process::id()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if self.console {
            qemu.args(["-serial", "file:/proc/self/fd/2"]);
        }
        command::end_with_us(&mut qemu);
        Ok(qemu)
    }
}

/// A guest that said it is ready. Dropped, it is killed.
pub struct Running {
    qemu: Child,
    said: Option<JoinHandle<()>>,
    transcript: Transcript,
    agent: Option<BufReader<File>>,
    limit: Duration,
}

impl Running {
    fn await_agent(&mut self, listener: &OwnedFd, started: Instant) -> Result<BufReader<File>> {
        loop {
            // A guest that ends doesn't knock any more: look at both, in turn.
            if readable(listener.as_fd(), Duration::from_millis(50))? {
                let stream = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
                    .context("accepting the agent's connection")?;
                // SAFETY: accept has just made this descriptor, and nobody else knows it.
                let stream = unsafe { OwnedFd::from_raw_fd(stream) };
                return Ok(BufReader::new(File::from(stream)));
            }
            if let Some(status) = self.qemu.try_wait()? {
                let said = self.last_lines();
                bail!("the guest ended ({status}) before it was ready; {said}");
            }
            if started.elapsed() > self.limit {
                self.kill();
                let said = self.last_lines();
                bail!("the guest was not ready after {:?}; {said}", self.limit);
            }
        }
    }

    /// A line of the agent's.
    fn line(&mut self) -> Result<String> {
        let limit = self.limit;
        let agent = self.agent.as_mut().context("the agent is gone")?;
        let mut line = Vec::new();
        if agent.buffer().is_empty() && !readable(agent.get_ref().as_fd(), limit)? {
            bail!("the agent said nothing for {limit:?}");
        }
        agent
            .by_ref()
            .take(4096)
            .read_until(b'\n', &mut line)
            .context("reading what the agent says")?;
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn ask(&mut self, request: Request) -> Result<()> {
        let agent = self.agent.as_mut().context("the agent is gone")?;
        writeln!(agent.get_mut(), "{request}").context("asking the agent")
    }

    /// The kernel's log so far.
    pub fn log(&mut self) -> Result<String> {
        self.ask(Request::Log)?;
        let head = self.line()?;
        let Log { length } = head
            .parse()
            .with_context(|| format!("the agent answers {head:?} instead of its log"))?;
        let mut text = vec![0; length];
        let agent = self.agent.as_mut().context("the agent is gone")?;
        agent.read_exact(&mut text).context("reading the log")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Asks it to power off, and waits until it has.
    pub fn power_off(mut self) -> Result<ExitStatus> {
        self.ask(Request::PowerOff)?;
        self.await_end()
    }

    /// Closes the connection, and waits until the guest has powered off.
    pub fn hang_up(mut self) -> Result<ExitStatus> {
        self.agent = None;
        self.await_end()
    }

    fn await_end(&mut self) -> Result<ExitStatus> {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait()? {
                return Ok(status);
            }
            if asked.elapsed() > self.limit {
                self.kill();
                let said = self.last_lines();
                bail!(
                    "the guest was still there {:?} after it was asked to power off; {said}",
                    self.limit
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        drop(self.qemu.kill());
        drop(self.qemu.wait());
    }

    /// The last lines of a guest that has ended.
    fn last_lines(&mut self) -> String {
        if let Some(reader) = self.said.take() {
            drop(reader.join());
        }
        self.transcript.last_lines(LAST_LINES)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn readable(descriptor: std::os::fd::BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let mut set = [PollFd::new(descriptor, PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut set, limit)? > 0)
}
