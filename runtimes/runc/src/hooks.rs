//! Hooks: programs of the cluster's that run at set moments of a container's life.
//!
//! The runtime specification ("POSIX-platform Hooks" in config.md) has the rules: an absolute path,
//! the arguments from `args[0]` on, exactly the hook's own environment, the container's state on
//! standard input. Each runs to its end before the next; one that fails ends the list.
//!
//! A hook that ignores its input, prints without end, leaves processes behind or hangs costs its
//! container, never the runtime. Nothing here needs `/proc` or `/dev`: `startContainer` hooks run
//! inside the container. Callers have a single thread.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, c_char};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::unistd::{Pid, chdir, setpgid};
use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::setup::error::{Doing, Failure, reason};
use crate::setup::signals;

/// So much of the end of what a hook prints is kept.
const KEPT: usize = 16 * 1024;
/// The longest line of a hook's that an error repeats, in characters.
const LONGEST_LINE: usize = 400;
/// How often is read on when the hook itself has ended: enough to empty a pipe, and an end to
/// those that a process which it left behind keeps filling.
const LAST_READS: usize = 32;

/// The container's state as hooks get it on standard input ("State" in the specification's
/// runtime.md).
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    /// The version of the specification that the state complies with.
    pub(crate) version: &'a str,
    /// The container's id.
    pub(crate) id: &'a str,
    /// `creating`, `created`, `running` or `stopped`.
    pub(crate) status: &'static str,
    /// Its init's id, as the hook's pid namespace knows it.
    pub(crate) pid: Option<i32>,
    /// The bundle's absolute path on the host.
    pub(crate) bundle: &'a Path,
    /// The configuration's annotations.
    pub(crate) annotations: Option<&'a HashMap<String, String>>,
}

impl State<'_> {
    /// The state in JSON.
    pub(crate) fn json(&self) -> String {
        let mut state = serde_json::json!({
            "ociVersion": self.version,
            "id": self.id,
            "status": self.status,
            "bundle": self.bundle.to_string_lossy(),
        });
        if let Some(fields) = state.as_object_mut() {
            if let Some(pid) = self.pid {
                fields.insert("pid".to_owned(), pid.into());
            }
            if let Some(annotations) = self.annotations {
                fields.insert("annotations".to_owned(), serde_json::json!(annotations));
            }
        }
        state.to_string()
    }
}

/// Refuses hooks that can never run. To be called on the host, before anything is made.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    #[allow(deprecated)]
    let lists = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            Plan::new(hook).map_err(|why| failed(kind, index, hook, &format!("it {why}")))?;
        }
    }
    Ok(())
}

/// Runs the hooks of one kind, in their order, until one fails.
///
/// Those that run on the host are started in the bundle, where stock runtimes stand; the others,
/// `createContainer` and `startContainer`, where the caller is: to be the container's root and the
/// process's own directory.
///
/// # Errors
/// Which hook failed, how it ended, and the last line of what it printed as an error.
pub(crate) fn run(
    kind: &'static str,
    hooks: Option<&[Hook]>,
    state: &State<'_>,
) -> Result<(), Failure> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else {
        return Ok(());
    };
    let input = state.json();
    let directory = match kind {
        "createContainer" | "startContainer" => None,
        _ => Some(state.bundle),
    };
    let _quiet = NoSigpipe::new()?;
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, input.as_bytes(), directory)
            .map_err(|why| failed(kind, index, hook, &why))?;
    }
    Ok(())
}

fn failed(kind: &str, index: usize, hook: &Hook, why: &str) -> Failure {
    Failure::new(format!(
        "{kind} hook {index} ({}) failed: {why}",
        hook.path().display()
    ))
}

fn run_one(hook: &Hook, input: &[u8], directory: Option<&Path>) -> Result<(), String> {
    let plan = Plan::new(hook).map_err(|why| format!("it {why}"))?;
    let deadline = plan
        .timeout
        .and_then(|time| Instant::now().checked_add(time));
    let mut child = plan
        .start(directory)
        .map_err(|error| format!("it cannot be started: {}", words(&error)))?;
    let mut streams = HookStreams::new(&mut child, input)?;
    let ended = streams.until(&child, deadline);
    if !matches!(ended, Ok(true)) {
        kill(&child);
    }
    let status = child.wait().map_err(|error| words(&error))?;
    if !ended? {
        let seconds = plan.timeout.unwrap_or_default().as_secs();
        return Err(format!("it ran longer than its timeout of {seconds} s"));
    }
    streams.finish();
    if status.success() {
        return Ok(());
    }
    let line = last_line(&streams.errors.kept).or_else(|| last_line(&streams.output.kept));
    Err(match line {
        Some(line) => format!("{}: {line}", how(status)),
        None => how(status),
    })
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => status.to_string(),
    }
}

fn words(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.to_string(),
        |code| reason(nix::errno::Errno::from_raw(code)),
    )
}

/// The last line with something in it, fit to stand within a sentence.
fn last_line(printed: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(printed);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    Some(line.chars().map(plain).take(LONGEST_LINE).collect())
}

/// Ends the hook and what it started, as far as that stayed in its process group.
fn kill(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// A hook in the kernel's terms.
struct Plan {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    timeout: Option<Duration>,
}

impl Plan {
    /// The error completes "it ...".
    fn new(hook: &Hook) -> Result<Self, String> {
        if !hook.path().is_absolute() {
            return Err("has no absolute path".to_owned());
        }
        let timeout = match hook.timeout() {
            None => None,
            Some(seconds) => match u64::try_from(seconds) {
                Ok(seconds) if seconds > 0 => Some(Duration::from_secs(seconds)),
                _ => {
                    return Err(format!(
                        "has a timeout of {seconds} s, which is not above 0"
                    ));
                }
            },
        };
        let path = nul_ended(hook.path().as_os_str())?;
        let list = |list: &Option<Vec<String>>| -> Result<Vec<_>, String> {
            list.iter()
                .flatten()
                .map(|one| nul_ended(OsStr::new(one)))
                .collect()
        };
        let mut arguments = list(hook.args())?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        Ok(Self {
            path,
            arguments,
            environment: list(hook.env())?,
            timeout,
        })
    }

    /// Starts it, the leader of a process group of its own.
    fn start(&self, directory: Option<&Path>) -> std::io::Result<Child> {
        let mut command = Command::new(OsStr::from_bytes(self.path.to_bytes()));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (path, directory) = (self.path.clone(), directory.map(Path::to_path_buf));
        let (arguments, environment) = (self.arguments.clone(), self.environment.clone());
        let become_it = move || {
            signals::reset()?;
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            if let Some(directory) = &directory {
                // A bundle that is gone leaves the hook where the runtime is.
                let _ = chdir(directory);
            }
            close_others_on_exec()?;
            let (argv, envp) = (pointers(&arguments), pointers(&environment));
            // Not the command's own execve: that would merge and sort the environment.
            // SAFETY: `path` and every element of both lists are NUL-terminated strings that live
            // through the call, and both lists end in a null pointer.
            unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            Err(std::io::Error::last_os_error())
        };
        // SAFETY: the caller has one thread, so no lock can be held in the copy that runs this.
        unsafe { command.pre_exec(become_it) };
        command.spawn()
    }
}

fn nul_ended(text: &OsStr) -> Result<CString, String> {
    CString::new(text.as_bytes()).map_err(|_| "has a NUL in its path, args or env".to_owned())
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let strings = strings.iter().map(|one| one.as_ptr());
    strings.chain([std::ptr::null()]).collect()
}

/// A hook inherits its three streams. Marked, not closed: one of the others tells the runtime
/// that the hook could not be started.
fn close_others_on_exec() -> std::io::Result<()> {
    trefoil_os::descriptors::close_on_exec_from(3)
}

/// The hook's three streams.
struct HookStreams<'a> {
    input: Option<std::process::ChildStdin>,
    left: &'a [u8],
    output: Kept<std::process::ChildStdout>,
    errors: Kept<std::process::ChildStderr>,
}

impl<'a> HookStreams<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> Result<Self, String> {
        let streams = Self {
            input: child.stdin.take(),
            left: input,
            output: Kept {
                pipe: child.stdout.take(),
                kept: Vec::new(),
            },
            errors: Kept {
                pipe: child.stderr.take(),
                kept: Vec::new(),
            },
        };
        let ends = [
            streams.input.as_ref().map(AsFd::as_fd),
            streams.output.pipe.as_ref().map(AsFd::as_fd),
            streams.errors.pipe.as_ref().map(AsFd::as_fd),
        ];
        for end in ends.into_iter().flatten() {
            rustix::io::ioctl_fionbio(end, true).map_err(|error| words(&error.into()))?;
        }
        Ok(streams)
    }

    /// Speaks and listens until the hook has ended: true. False if that took too long.
    fn until(&mut self, child: &Child, deadline: Option<Instant>) -> Result<bool, String> {
        let failed = |error: rustix::io::Errno| words(&error.into());
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| "it has no process id".to_owned())?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        loop {
            let left = match deadline.map(|end| end.checked_duration_since(Instant::now())) {
                Some(None) => return Ok(false),
                Some(Some(left)) => rustix::time::Timespec::try_from(left).ok(),
                None => None,
            };
            let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
            fds.extend(
                self.input
                    .as_ref()
                    .map(|end| PollFd::new(end, PollFlags::OUT)),
            );
            fds.extend(
                self.output
                    .pipe
                    .as_ref()
                    .map(|end| PollFd::new(end, PollFlags::IN)),
            );
            fds.extend(
                self.errors
                    .pipe
                    .as_ref()
                    .map(|end| PollFd::new(end, PollFlags::IN)),
            );
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
            let has_ended = fds.first().is_some_and(|fd| !fd.revents().is_empty());
            drop(fds);
            if has_ended {
                return Ok(true);
            }
            self.speak();
            self.output.listen();
            self.errors.listen();
        }
    }

    /// Takes what is still in the pipes. A process that the hook left behind may hold them open.
    fn finish(&mut self) {
        for _ in 0..LAST_READS {
            self.output.listen();
            self.errors.listen();
        }
    }

    /// A hook need not read its state: whatever stands in the way ends the speech.
    fn speak(&mut self) {
        let Some(pipe) = &mut self.input else { return };
        match pipe.write(self.left) {
            Ok(written) => self.left = self.left.get(written..).unwrap_or_default(),
            Err(error) if is_passing(&error) => return,
            Err(_) => self.left = &[],
        }
        if self.left.is_empty() {
            self.input = None;
        }
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// What came out of a pipe, as far as it is kept: the end.
struct Kept<P> {
    pipe: Option<P>,
    kept: Vec<u8>,
}

impl<P: Read> Kept<P> {
    fn listen(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut bytes = [0; 4096];
        match pipe.read(&mut bytes) {
            Ok(length) if length > 0 => {
                self.kept.extend(bytes.get(..length).unwrap_or_default());
                let surplus = self.kept.len().saturating_sub(KEPT);
                self.kept.drain(..surplus);
            }
            Err(error) if is_passing(&error) => {}
            _ => self.pipe = None,
        }
    }
}

/// While it lives, writing to a hook that does not read is an error and not a signal.
struct NoSigpipe(SigHandler);

impl NoSigpipe {
    fn new() -> Result<Self, Failure> {
        // SAFETY: ignoring a signal installs no handler that could run.
        let before = unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) };
        before.map(Self).doing(|| "prepare for a hook")
    }
}

impl Drop for NoSigpipe {
    fn drop(&mut self) {
        // SAFETY: this puts back what was there.
        let _ = unsafe { signal(Signal::SIGPIPE, self.0) };
    }
}

#[cfg(test)]
mod tests;
