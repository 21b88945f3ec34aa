//! Running programs: in the rig's namespaces, with a time limit, keeping what they print.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
pub use trefoil_guest::run::describe;

/// What a program did.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed.
    pub stdout: Vec<u8>,
    /// Everything it complained about.
    pub stderr: Vec<u8>,
    /// From just before it was started until it was reaped.
    pub wall: Duration,
}

impl Finished {
    /// The exit code, or 128 plus the signal that ended it, as a shell would say.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .or_else(|| self.status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1)
    }

    /// Standard output as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// An error with the program's own words if it failed.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!(
            "`{}` ended with {}: {}",
            self.command,
            self.status,
            tail(&format!("{}{}", self.stderr(), self.stdout()), 2000)
        )
    }

    /// Standard output as text without the white space around it, if the program succeeded.
    pub fn text(self) -> Result<String> {
        Ok(self.success()?.stdout().trim().to_owned())
    }
}

/// The last `limit` bytes of a text, from the start of a line where there is one.
pub fn tail(text: &str, limit: usize) -> &str {
    let mut from = text.len().saturating_sub(limit);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].trim()
}

/// Makes a command end when we do, in whatever way: it is killed with the thread that starts it.
pub fn end_with_us(command: &mut Command) {
    let parent = getpid();
    // SAFETY: between fork and exec only two system calls are made; neither allocates.
    unsafe {
        command.pre_exec(move || {
            set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have been gone before the call.
            if getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            Ok(())
        });
    }
}

/// Runs a command to its end, feeding it `stdin`; kills it and its process group after `limit`.
pub fn run(command: &mut Command, stdin: &[u8], limit: Duration) -> Result<Finished> {
    if stdin.is_empty() {
        return run_with(command, None, limit);
    }
    let bytes = stdin.to_vec();
    // A program that ends without reading everything is no error of ours.
    run_with(
        command,
        Some(Box::new(move |mut pipe| drop(pipe.write_all(&bytes)))),
        limit,
    )
}

/// What writes a program's standard input, on a thread of its own.
pub type Feed = Box<dyn FnOnce(ChildStdin) + Send>;

/// Like [`run`], with an input that takes its time.
pub fn run_with(command: &mut Command, feed: Option<Feed>, limit: Duration) -> Result<Finished> {
    let line = describe(command);
    // A group of its own, so that a time-out takes its children too.
    command
        .process_group(0)
        .stdin(if feed.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;
    let pid = child.id();
    let (out_tx, out_rx) = mpsc::channel();
    let (err_tx, err_rx) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        drain(pipe, out_tx);
    }
    if let Some(pipe) = child.stderr.take() {
        drain(pipe, err_tx);
    }
    if let (Some(pipe), Some(feed)) = (child.stdin.take(), feed) {
        thread::spawn(move || feed(pipe));
    }
    let Some(status) = wait(child, limit)? else {
        bail!("`{line}` was still running after {limit:?} and was killed (process {pid})");
    };
    let wall = started.elapsed();
    // Only something that outlives the program and kept its output open can make these wait.
    let grace = Duration::from_secs(10);
    let (Ok(stdout), Ok(stderr)) = (out_rx.recv_timeout(grace), err_rx.recv_timeout(grace)) else {
        bail!("`{line}` has ended, but a process it started still holds its output open");
    };
    Ok(Finished {
        command: line,
        status,
        stdout,
        stderr,
        wall,
    })
}

fn drain(mut pipe: impl Read + Send + 'static, done: mpsc::Sender<Vec<u8>>) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error while reading ends the output just as its end does.
        drop(pipe.read_to_end(&mut bytes));
        drop(done.send(bytes));
    });
}

/// Waits for a child that leads its own process group; kills the group after `limit`, and then
/// answers `None`.
pub fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || drop(tx.send(child.wait())));
    match rx.recv_timeout(limit) {
        Ok(status) => Ok(Some(status?)),
        Err(_) => {
            // The child is not reaped before the waiter says so: the id is still its own.
            let _ = killpg(group, Signal::SIGKILL);
            drop(rx.recv());
            Ok(None)
        }
    }
}

/// Calls `ready` until it says yes, at most for `limit`. Waits at least as long as asking took, so that
/// what is waited for gets on where both share one slow processor.
pub fn until(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        let asked = Instant::now();
        if ready()? {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(pause.max(asked.elapsed()));
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
