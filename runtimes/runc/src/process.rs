//! A process of a container, as a child of the server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use trefoil_core::child::Child;
use trefoil_core::relay::{self, Stream};
use trefoil_core::{
    Context, Error, ExitStatus, Input, Output, Process, Result, Stdio, TerminalSize,
};

use crate::launcher::{GivenStreams, Launcher, Request};
use crate::terminal;

/// The server's side of a process's streams.
///
/// An init writes to containerd's FIFOs themselves, where there are any. An exec'd process writes to pipes, because containerd
/// wants the output of an ended one to end although something it started may still hold it open. Input
/// comes through a pipe always: only we can give it an end on request. A terminal is relayed by nature.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Kept open for as long as the process may be read from and written to.
    holds: Mutex<Holds>,
    master: Option<Arc<Stream>>,
    output: Mutex<Vec<JoinHandle<()>>>,
    input: Mutex<Option<JoinHandle<()>>>,
    input_closed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Holds {
    stdin: Option<OwnedFd>,
    outputs: Vec<OwnedFd>,
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
            lock(&streams.holds).outputs.extend(output.hold);
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
        if let Some(output) = stdio.stdout {
            streams.relay_output(master.clone(), output)?;
        }
        if let Some(input) = stdio.stdin {
            streams.relay_input(input, master)?;
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
        self.relay_input(input, Arc::new(Stream::new(write)?))?;
        Ok(Some(read))
    }

    fn pipe_output(&self, output: Option<Output>) -> io::Result<Option<OwnedFd>> {
        let Some(output) = output else {
            return Ok(None);
        };
        let (read, write) = pipe()?;
        self.relay_output(Arc::new(Stream::new(read)?), output)?;
        Ok(Some(write))
    }

    fn relay_output(&self, from: Arc<Stream>, to: Output) -> io::Result<()> {
        let Output { write, hold } = to;
        let write = Stream::new(write)?;
        let relay = tokio::spawn(async move {
            if let Err(why) = relay::copy(&from, &write).await {
                log::debug!("relay output: {why}");
            }
            // Only now may the reader see the end.
            drop((write, hold));
        });
        lock(&self.output).push(relay);
        Ok(())
    }

    fn relay_input(&self, from: Input, to: Arc<Stream>) -> io::Result<()> {
        let Input { read, hold } = from;
        let read = Stream::new(read)?;
        lock(&self.holds).stdin = hold;
        let closed = self.input_closed.clone();
        let relay = tokio::spawn(async move {
            // A process that doesn't read all its input is no failure.
            let _ = relay::copy_until(&read, &to, &closed).await;
        });
        *lock(&self.input) = Some(relay);
        Ok(())
    }

    /// Resolves when all output has been handed on.
    async fn drain(&self) {
        let relays = std::mem::take(&mut *lock(&self.output));
        let mut relays = Unfinished {
            relays,
            streams: self,
        };
        while let Some(relay) = relays.relays.last_mut() {
            let _ = relay.await;
            relays.relays.pop();
        }
    }

    fn close(&self) {
        for relay in lock(&self.output).drain(..) {
            relay.abort();
        }
        self.end_input();
        lock(&self.holds).outputs.clear();
    }

    /// The process is to see the end of its input, after all that has been sent to it.
    fn close_input(&self) {
        lock(&self.holds).stdin = None;
        self.input_closed.notify_one();
    }

    /// The process reads no more.
    fn end_input(&self) {
        lock(&self.holds).stdin = None;
        if let Some(relay) = lock(&self.input).take() {
            relay.abort();
        }
    }
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
}

/// Puts the relays back that were being waited for when the wait was given up.
struct Unfinished<'a> {
    relays: Vec<JoinHandle<()>>,
    streams: &'a Streams,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        lock(&self.streams.output).append(&mut self.relays);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process and its streams.
pub(crate) struct RuncProcess {
    child: Arc<Child>,
    streams: Arc<Streams>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl RuncProcess {
    /// Has a worker make a process with these streams. `plumb` gives the process its streams where it has
    /// no terminal; `request` is told whether it has, and which streams come along, after the
    /// descriptors of `also`.
    pub(crate) async fn launch(
        launcher: &Launcher,
        stdio: Stdio,
        plumb: impl FnOnce(Stdio) -> io::Result<(Streams, Ends)>,
        also: &[BorrowedFd<'_>],
        request: impl FnOnce(bool, GivenStreams) -> Request,
    ) -> Result<Self> {
        let doing = || "connect the process's streams";
        let watch = |pid| Child::new(pid).context(|| format!("watch process {pid}"));
        if stdio.terminal {
            let (answer, master) = launcher.call(&request(true, [false; 3]), also).await?;
            let child = watch(answer.pid)?;
            let master = master
                .ok_or_else(|| Error::internal("the worker sent no terminal").context(doing()))?;
            let streams = Streams::terminal(master, stdio).context(doing)?;
            return Ok(Self::new(child, streams));
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
        let (answer, _) = launcher.call(&request, &given).await?;
        Ok(Self::new(watch(answer.pid)?, streams))
    }

    /// Takes over a child. Must be called within the event loop.
    pub(crate) fn new(child: Child, streams: Streams) -> Self {
        let child = Arc::new(child);
        let streams = Arc::new(streams);
        let (sender, ended) = watch::channel(None);
        let (watched, its_streams) = (child.clone(), streams.clone());
        tokio::spawn(async move {
            let status = match watched.wait().await {
                Ok(status) => status,
                Err(why) => {
                    log::error!("wait for process {}: {why}", watched.pid());
                    ExitStatus::now(255)
                }
            };
            // Nobody reads any more; and what nobody else holds open ends for the reader.
            its_streams.end_input();
            lock(&its_streams.holds).outputs.clear();
            sender.send_replace(Some(status));
        });
        Self {
            child,
            streams,
            ended,
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
        self.child
            .kill(signal)
            .map_err(|why| match why.raw_os_error() {
                Some(libc::ESRCH) => Error::not_found("process already finished"),
                _ => Error::internal(format!(
                    "send signal {signal} to process {}: {why}",
                    self.pid()
                )),
            })
    }

    async fn resize(&self, size: TerminalSize) -> Result<()> {
        match &self.streams.master {
            Some(master) => terminal::set_size(master.as_fd(), size)
                .context(|| format!("resize the terminal of process {}", self.pid())),
            None => Ok(()),
        }
    }

    async fn close_stdin(&self) {
        self.streams.close_input();
    }

    async fn drain(&self) {
        self.streams.drain().await;
    }

    async fn close_stdio(&self) {
        self.streams.close();
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
