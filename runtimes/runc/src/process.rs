//! A process of a container, as a child of the server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use trefoil_core::{
    Context, Error, ExitStatus, Input, Output, Process, Result, Stdio, TerminalSize,
};
use trefoil_os::child::Child;
use trefoil_os::lock;
use trefoil_os::relay::Stream;
use trefoil_os::relays::Relays;

use crate::launcher::{GivenStreams, Launcher, Request};
use crate::terminal;
use trefoil_cgroups::Cgroup;

/// The server's side of a process's streams.
///
/// An init writes to containerd's FIFOs themselves, where there are any. An exec'd process writes to pipes, because containerd
/// wants the output of an ended one to end although something it started may still hold it open. Input
/// comes through a pipe always: only we can give it an end on request. A terminal is relayed by nature.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    relays: Relays,
    /// Kept open for as long as the process may be read from.
    holds: Mutex<Vec<OwnedFd>>,
    master: Option<Arc<Stream>>,
}

/// What the process itself is given.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Streams {
    /// The process writes to the streams themselves.
    pub(crate) fn direct(stdio: Stdio) -> io::Result<(Self, Ends)> {
        let streams = Self::default();
        let mut ends = Ends::default();
        let give = |output: Output| {
            lock(&streams.holds).extend(output.hold);
            output.write
        };
        ends.stdout = stdio.stdout.map(give);
        ends.stderr = stdio.stderr.map(give);
        ends.stdin = streams.pipe_input(stdio.stdin)?;
        Ok((streams, ends))
    }

    /// The process has a terminal, whose master is here.
    pub(crate) fn terminal(master: OwnedFd, stdio: Stdio) -> io::Result<Self> {
        let master = Arc::new(Stream::new(master)?);
        let streams = Self {
            master: Some(master.clone()),
            ..Default::default()
        };
        if let Some(Output { write, hold }) = stdio.stdout {
            streams.relays.output(master.clone(), write, hold)?;
        }
        if let Some(Input { read, hold }) = stdio.stdin {
            streams.relays.input(read, hold, master, |_| {})?;
        }
        Ok(streams)
    }

    /// The process gets pipes, relayed to the streams.
    pub(crate) fn piped(stdio: Stdio) -> io::Result<(Self, Ends)> {
        let streams = Self::default();
        let ends = Ends {
            stdin: streams.pipe_input(stdio.stdin)?,
            stdout: streams.pipe_output(stdio.stdout)?,
            stderr: streams.pipe_output(stdio.stderr)?,
        };
        Ok((streams, ends))
    }

    fn pipe_input(&self, input: Option<Input>) -> io::Result<Option<OwnedFd>> {
        let Some(input) = input else { return Ok(None) };
        let (read, write) = pipe()?;
        let write = Arc::new(Stream::new(write)?);
        self.relays.input(input.read, input.hold, write, |_| {})?;
        Ok(Some(read))
    }

    fn pipe_output(&self, output: Option<Output>) -> io::Result<Option<OwnedFd>> {
        let Some(output) = output else {
            return Ok(None);
        };
        let (read, write) = pipe()?;
        let read = Arc::new(Stream::new(read)?);
        self.relays.output(read, output.write, output.hold)?;
        Ok(Some(write))
    }

    /// Nobody reads any more; and what nobody else holds open ends for the reader.
    fn end(&self) {
        self.relays.end_input();
        lock(&self.holds).clear();
    }
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
}

/// A process and its streams.
pub(crate) struct RuncProcess {
    child: Arc<Child>,
    streams: Arc<Streams>,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Of an init: what may be frozen when it is killed.
    cgroup: Option<Cgroup>,
}

impl RuncProcess {
    /// Has a worker make a process with these streams. `plumb` gives the process its streams where it has
    /// no terminal; `request` is told whether it has, and which streams come along, after the
    /// descriptors of `also`. With the process comes what the worker gave beside its terminal.
    pub(crate) async fn launch(
        launcher: &Launcher,
        stdio: Stdio,
        plumb: impl FnOnce(Stdio) -> io::Result<(Streams, Ends)>,
        also: &[BorrowedFd<'_>],
        request: impl FnOnce(bool, GivenStreams) -> Request,
    ) -> Result<(Self, Vec<OwnedFd>)> {
        let doing = || "connect the process's streams";
        let watch = |pid| Child::new(pid).context(|| format!("watch process {pid}"));
        if stdio.terminal {
            let (answer, mut given) = launcher.call(&request(true, [false; 3]), also).await?;
            let child = watch(answer.pid)?;
            let master = given
                .pop()
                .ok_or_else(|| Error::internal("the worker sent no terminal").context(doing()))?;
            let streams = Streams::terminal(master, stdio).context(doing)?;
            return Ok((Self::new(child, streams), given));
        }
        let (streams, ends) = plumb(stdio).context(doing)?;
        let given =
            [&ends.stdin, &ends.stdout, &ends.stderr].map(|end| end.as_ref().map(AsFd::as_fd));
        let request = request(false, given.map(|end| end.is_some()));
        let given: Vec<_> = also
            .iter()
            .copied()
            .chain(given.into_iter().flatten())
            .collect();
        let (answer, given) = launcher.call(&request, &given).await?;
        Ok((Self::new(watch(answer.pid)?, streams), given))
    }

    /// Takes over a child. Must be called within the event loop.
    pub(crate) fn new(child: Child, streams: Streams) -> Self {
        let child = Arc::new(child);
        let streams = Arc::new(streams);
        let (sender, ended) = watch::channel(None);
        let (watched, its_streams) = (child.clone(), streams.clone());
        tokio::spawn(async move {
            let status = match watched.wait().await {
                Ok(status) => status.into(),
                Err(why) => {
                    log::error!("wait for process {}: {why}", watched.pid());
                    ExitStatus::now(255)
                }
            };
            its_streams.end();
            sender.send_replace(Some(status));
        });
        Self {
            child,
            streams,
            ended,
            cgroup: None,
        }
    }

    /// Says that it is the init of the container with this cgroup.
    pub(crate) fn of(self, cgroup: Cgroup) -> Self {
        Self {
            cgroup: Some(cgroup),
            ..self
        }
    }
}

impl RuncProcess {
    /// What refers to the process even when its number has become another's.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }
}

#[async_trait]
impl Process for RuncProcess {
    fn pid(&self) -> u32 {
        self.child.pid()
    }

    async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|status| *status) {
            Ok(Some(status)) => status,
            // The task that waits for the child never ends without a status.
            _ => ExitStatus::now(255),
        }
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    async fn kill(&self, signal: i32) -> Result<()> {
        if self.exit_status().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        let doing = || format!("send signal {signal} to process {}", self.pid());
        self.child
            .kill(signal)
            .map_err(|why| match why.raw_os_error() {
                Some(libc::ESRCH) => Error::not_found("process already finished"),
                _ => Error::internal(format!("{}: {why}", doing())),
            })?;
        match &self.cgroup {
            // A frozen process of cgroup v1 dies when it is thawed, and not before.
            Some(cgroup) if signal == libc::SIGKILL => cgroup.thaw_to_die().context(doing),
            _ => Ok(()),
        }
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        match &self.streams.master {
            Some(master) => terminal::set_size(master.as_fd(), size)
                .context(|| format!("resize the terminal of process {}", self.pid())),
            None => Ok(()),
        }
    }

    async fn close_stdin(&self) {
        self.streams.relays.close_input();
    }

    async fn drain(&self) {
        self.streams.relays.drain().await;
    }

    async fn close_stdio(&self) {
        self.streams.relays.close();
        lock(&self.streams.holds).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio as Standard};
    use std::time::Duration;

    fn output() -> (Option<Output>, std::fs::File) {
        let (read, write) = pipe().expect("pipe");
        (Some(Output { write, hold: None }), read.into())
    }

    #[tokio::test(flavor = "current_thread")]
    #[expect(
        clippy::zombie_processes,
        reason = "what is tested here waits for them"
    )]
    async fn a_process_left_behind_does_not_keep_the_streams_open() {
        let (stdout, mut reader) = output();
        let (streams, ends) = Streams::piped(Stdio {
            stdout,
            ..Default::default()
        })
        .expect("pipes");
        let child = Command::new("sh")
            .args(["-c", "echo before; sleep 1000 & echo $!"])
            .stdout(Standard::from(ends.stdout.expect("stdout")))
            .spawn()
            .expect("spawn");
        let process = RuncProcess::new(Child::new(child.id()).expect("watch"), streams);
        assert_eq!(process.wait().await.code, 0);
        let drained = tokio::time::timeout(Duration::from_millis(200), process.drain()).await;
        assert!(drained.is_err(), "the sleeping process holds the pipe");
        process.close_stdio().await;
        tokio::task::yield_now().await;
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("the end is seen");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("before"));
        let left: i32 = lines.next().and_then(|pid| pid.parse().ok()).expect("pid");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(left),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("kill");
    }

    #[tokio::test(flavor = "current_thread")]
    #[expect(
        clippy::zombie_processes,
        reason = "what is tested here waits for them"
    )]
    async fn input_ends_on_request_though_its_writer_stays() {
        let (stdout, mut reader) = output();
        let (read, write) = pipe().expect("pipe");
        let mut writer = std::fs::File::from(write);
        let (streams, ends) = Streams::piped(Stdio {
            stdin: Some(Input { read, hold: None }),
            stdout,
            ..Default::default()
        })
        .expect("pipes");
        let child = Command::new("cat")
            .stdin(Standard::from(ends.stdin.expect("stdin")))
            .stdout(Standard::from(ends.stdout.expect("stdout")))
            .spawn()
            .expect("spawn");
        let process = RuncProcess::new(Child::new(child.id()).expect("watch"), streams);
        writer.write_all(b"to and fro").expect("write");
        let waited = tokio::time::timeout(Duration::from_millis(200), process.wait()).await;
        assert!(waited.is_err(), "the writer is still there");
        process.close_stdin().await;
        assert_eq!(process.wait().await.code, 0);
        process.drain().await;
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "to and fro");
    }
}
