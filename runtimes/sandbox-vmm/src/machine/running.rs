//! A machine that runs: the VMM as a child of the shim, and the host socket to its guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;
use trefoil_agent_protocol::READY_PORT;
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_files::parent::{self, Server};
use trefoil_os::{lock, watched};
use trefoil_vmm::control::{Answer, Attach, Detach, Message, Request};
use trefoil_vmm::devices::vsock::host_socket::HostSocket;
use trefoil_vmm::exit::Exit;
use trefoil_vmm::metrics::{Metrics, Shared};
use trefoil_vmm::process::{self, Process, Said};

use super::console::Console;
use crate::content::sources::Listener;

/// The unit of `/proc/<pid>/stat`, in milliseconds: the same for all of Linux's programs.
const TICK: u64 = 10;

/// How long a file server may take to have ended, once its VMM has: it is hung up on, if it was not first.
const ENDING: Duration = Duration::from_millis(500);

/// How long the VMM may take to answer a request.
const ANSWERING: Duration = Duration::from_secs(10);

/// How often, and how long, the host socket is tried again while the VMM has too many connections to take.
const CROWDED: Duration = Duration::from_millis(5);
const CROWDED_TRIES: u32 = 200;

/// A machine that has been started. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    process: Arc<Mutex<Process>>,
    /// Readable when the VMM has answered. Held by who waits for that.
    answers: tokio::sync::Mutex<AsyncFd<OwnedFd>>,
    pid: u32,
    host_socket: Arc<HostSocket>,
    metrics: Arc<Shared>,
    /// Which of its devices are slots for disks.
    slots: Vec<u8>,
    /// Why it has ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// Why we have killed it.
    cause: Arc<Mutex<Option<String>>>,
}

impl Machine {
    /// A machine whose process has been told what to be, what it prints, and what serves it files.
    pub(crate) fn watch(
        process: Process,
        host_socket: HostSocket,
        mut console: Console,
        metrics: Arc<Shared>,
        slots: Vec<u8>,
        files: Option<Arc<Server>>,
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
            let cause = lock(&its_cause).take();
            let reason = match (cause, end) {
                (Some(cause), _) => cause,
                (None, Ok(exit)) => reason(&exit, files.as_deref()).await,
                (None, Err(why)) => why.to_string(),
            };
            let last = console.last_words().await;
            sender.send_replace(Some(format!("{reason}{last}")));
        });
        Ok(Self {
            process,
            answers: tokio::sync::Mutex::new(answers),
            pid,
            host_socket: Arc::new(host_socket),
            metrics,
            slots,
            ended,
            cause,
        })
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Which of its devices are slots for disks.
    pub fn slots(&self) -> &[u8] {
        &self.slots
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

    /// Puts a disk of these files into a slot that the machine has for one.
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

    /// The first connection that the guest makes to the agent's port. Later ones are closed, one after the
    /// other, and those to another port are its listener's.
    pub async fn agent(&self, listener: Option<Arc<dyn Listener>>) -> Result<UnixStream> {
        let doing = || "wait for the guest's agent";
        let readable = self
            .host_socket
            .as_fd()
            .try_clone_to_owned()
            .context(doing)?;
        let readable = watched::readable(readable).context(doing)?;
        let agent = loop {
            let (port, stream) = next(&self.host_socket, &readable).await.context(doing)?;
            if port == READY_PORT {
                break stream;
            }
            // Nothing of a guest is served before its agent is there.
            tokio::time::sleep(CROWDED).await;
        };
        let host_socket = self.host_socket.clone();
        tokio::spawn(async move {
            while let Ok((port, stream)) = next(&host_socket, &readable).await {
                if let Some(listener) = listener.clone().filter(|one| one.port() == port) {
                    tokio::spawn(async move { listener.serve(stream).await });
                }
                tokio::time::sleep(CROWDED).await;
            }
        });
        Ok(agent)
    }

    /// Connects to a port of the guest's. The stream does not block; if nobody accepts, it ends.
    pub async fn connect(&self, port: u32) -> Result<UnixStream> {
        for _ in 0..CROWDED_TRIES {
            match self.host_socket.connect(port) {
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

/// What comes through the host socket next.
async fn next(
    host_socket: &HostSocket,
    readable: &AsyncFd<OwnedFd>,
) -> io::Result<(u32, UnixStream)> {
    loop {
        let mut ready = readable.readable().await?;
        match host_socket.accept() {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            outcome => return outcome,
        }
    }
}

/// Waits for the VMM's end and says how it was.
async fn reap(pidfd: &AsyncFd<OwnedFd>, process: &Mutex<Process>) -> Result<Exit> {
    loop {
        let mut ready = pidfd.readable().await.context(|| "watch the VMM")?;
        let exit = lock(process).try_wait().context(|| "watch the VMM")?;
        match exit {
            Some(exit) => return Ok(exit),
            None => ready.clear_ready(),
        }
    }
}

/// Why a machine has ended whose VMM ended so. A VMM can't go on without its file server, and says no more
/// than that: then what the file server's end was tells why.
async fn reason(exit: &Exit, files: Option<&Server>) -> String {
    if let (Exit::Failed(_), Some(server)) = (exit, files)
        && let Some(end) = end_of(server).await
        // So it ends with any VMM.
        && !matches!(end, parent::Exit::Done(_))
    {
        return end.to_string();
    }
    exit.to_string()
}

/// How a file server ended, if it does in time.
async fn end_of(server: &Server) -> Option<parent::Exit> {
    let pidfd = server.pidfd().try_clone_to_owned().ok()?;
    let pidfd = watched::readable(pidfd).ok()?;
    let _ = timeout(ENDING, pidfd.readable()).await;
    server.ended().ok().flatten()
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill("the shim has no more use for it");
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::machine_that_ends;

    #[tokio::test(flavor = "current_thread")]
    async fn a_pod_ends_with_the_words_of_the_process_that_failed_first() {
        let forbidden = |thread: &str| {
            format!(
                r#"{{"ended":{{"failed":{{"part":"{thread} thread","doing":"call openat (257)","why":"its seccomp filter forbids it"}}}}}}"#
            )
        };
        let alone = r#"{"ended":{"failed":{"part":"fs device","doing":"wait for the file server","why":"the server has hung up"}}}"#;
        let (of_vmm, of_server) = (forbidden("vcpu"), forbidden("serving"));
        for (vmm, server, expected) in [
            (
                (alone, 1),
                Some((&*of_server, 31)),
                "file server: serving thread: call openat (257): its seccomp filter forbids it",
            ),
            (
                (&*of_vmm, 31),
                Some((r#"{"ended":{"done":null}}"#, 0)),
                "VMM: vcpu thread: call openat (257): its seccomp filter forbids it",
            ),
            ((alone, 1), None, "the file server was killed"),
            (
                (alone, 1),
                Some(("nonsense", 31)),
                "file server: run: a thread made a system call that its seccomp filter forbids",
            ),
            (
                (r#"{"ended":{"done":"reset"}}"#, 11),
                Some((&*of_server, 31)),
                "the guest asked for a restart",
            ),
        ] {
            let (machine, _gate) = machine_that_ends(vmm, server).await;
            assert_eq!(machine.ended().await, expected);
            assert_eq!(machine.end().as_deref(), Some(expected));
        }
    }
}
