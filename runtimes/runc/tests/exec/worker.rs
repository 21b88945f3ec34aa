//! Calls `exec` as the helper does: in a forked, single-threaded worker that exits afterwards.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use rustix::io::{FdFlags, fcntl_setfd};
use serde_json::{Value, json};
use trefoil_os::message::{self, Wait};
use trefoil_os::pidfd;
use trefoil_os::process::{exit_now, ignore_signal};
use trefoil_runc::exec::{Exec, ExecError, Stdio, exec};

use crate::container::Container;

/// A process that was started.
pub struct Running {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub master: Option<OwnedFd>,
    pub output: File,
}

impl Running {
    /// Waits for its end.
    pub fn wait(&self) -> WaitStatus {
        waitpid(self.pid, None).unwrap()
    }

    /// Ends it.
    pub fn kill(&self) {
        let _ = pidfd::send_signal(&self.pidfd, libc::SIGKILL);
    }
}

impl Drop for Running {
    /// Leaves no process behind when a test fails.
    fn drop(&mut self) {
        self.kill();
        let _ = waitpid(self.pid, None);
    }
}

/// A refusal: which kind, what it says, and how the process ended if there was one.
#[derive(Debug)]
pub struct Refusal {
    pub kind: String,
    pub message: String,
    pub status: Option<WaitStatus>,
}

/// How a process ended.
pub struct Ended {
    pub status: WaitStatus,
    pub output: String,
}

/// Starts a process with its output on a pipe, or with a terminal.
pub fn start(
    container: &Container,
    spec: &Value,
    process: &Value,
    terminal: bool,
) -> Result<Running, Refusal> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    // SAFETY: the C library makes the allocator usable in a forked child, and the child uses
    // nothing else that another thread of this process may have locked.
    let worker = match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let output = (!terminal).then_some(&writer);
            work(container, spec, process, output, &theirs);
            exit_now(0)
        }
        ForkResult::Parent { child } => child,
    };
    drop((writer, theirs));
    let (answer, fds) = receive(&ours);
    assert_eq!(
        waitpid(worker, None).unwrap(),
        WaitStatus::Exited(worker, 0)
    );

    let pid = answer["pid"]
        .as_i64()
        .map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()));
    if let Some(kind) = answer["kind"].as_str() {
        // The failed process is ours to reap, as it is the shim's.
        let status = pid.map(|pid| waitpid(pid, None).unwrap());
        let message = answer["message"].as_str().unwrap().to_owned();
        return Err(Refusal {
            kind: kind.to_owned(),
            message,
            status,
        });
    }
    let mut fds = fds.into_iter();
    Ok(Running {
        pid: pid.unwrap(),
        pidfd: fds.next().unwrap(),
        master: fds.next(),
        output: reader.into(),
    })
}

/// Runs a process to its end.
pub fn run(container: &Container, spec: &Value, process: &Value) -> Result<Ended, Refusal> {
    let mut running = start(container, spec, process, false)?;
    let mut output = String::new();
    running.output.read_to_string(&mut output).unwrap();
    let status = running.wait();
    Ok(Ended { status, output })
}

fn work(
    container: &Container,
    spec: &Value,
    process: &Value,
    output: Option<&OwnedFd>,
    socket: &OwnedFd,
) {
    // What a worker may have inherited, and no process in a container may see.
    let leak = File::open("/").unwrap();
    fcntl_setfd(&leak, FdFlags::empty()).unwrap();
    for ignored in [libc::SIGPIPE, libc::SIGHUP, libc::SIGRTMIN() + 3] {
        ignore_signal(ignored).unwrap();
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).unwrap();
    umask(Mode::empty());
    let result = trefoil_spec::parse_process(process.to_string().as_bytes())
        .map_err(|why| ExecError::Invalid(why.to_string()))
        .and_then(|process| {
            exec(&Exec {
                init: container.pidfd.as_fd(),
                process: &process,
                spec: &serde_json::from_value(spec.clone()).unwrap(),
                cgroups: &container.cgroups,
                new_keyring: true,
                stdio: match output {
                    Some(output) => Stdio::Streams {
                        stdin: None,
                        stdout: Some(output.as_fd()),
                        stderr: Some(output.as_fd()),
                    },
                    None => Stdio::Terminal,
                },
            })
        });
    let (answer, fds): (Value, Vec<BorrowedFd<'_>>) = match &result {
        Ok(started) => (
            json!({"pid": started.pid.as_raw()}),
            [Some(&started.pidfd), started.master.as_ref()]
                .into_iter()
                .flatten()
                .map(AsFd::as_fd)
                .collect(),
        ),
        Err(error) => {
            let (kind, pid) = match error {
                ExecError::Invalid(_) => ("invalid", None),
                ExecError::NotRunning(_) => ("not running", None),
                ExecError::Setup(_) => ("setup", None),
                ExecError::Child { pid, .. } => ("child", Some(pid.as_raw())),
            };
            (
                json!({"kind": kind, "pid": pid, "message": error.to_string()}),
                Vec::new(),
            )
        }
    };
    let text = answer.to_string();
    message::send(socket, &[IoSlice::new(text.as_bytes())], &fds, Wait::Yes).unwrap();
}

fn receive(socket: &OwnedFd) -> (Value, Vec<OwnedFd>) {
    let mut text = vec![0; 64 * 1024];
    let mut fds = Vec::new();
    let received = message::receive(socket, &mut text, Wait::Yes, |fd| fds.push(fd)).unwrap();
    assert!(received.is_whole());
    assert!(received.length > 0, "the worker died");
    let answer = serde_json::from_slice(&text[..received.length]).unwrap();
    (answer, fds)
}
