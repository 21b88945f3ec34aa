//! Calls `exec` as the helper does: in a forked, single-threaded worker that exits afterwards.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use serde_json::{Value, json};
use trefoil_runc::exec::{Exec, ExecError, Stdio, exec, parse_process};

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
        // SAFETY: takes a descriptor and numbers; a null siginfo is allowed.
        unsafe {
            let none = std::ptr::null::<libc::siginfo_t>();
            let fd = self.pidfd.as_raw_fd();
            libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, none, 0)
        };
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
            // SAFETY: ends the worker without running the test process's exit handlers.
            unsafe { libc::_exit(0) }
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
    // SAFETY: fcntl takes numbers; this one clears close-on-exec.
    unsafe { libc::fcntl(leak.as_raw_fd(), libc::F_SETFD, 0) };
    // SAFETY: signal dispositions are numbers here.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGRTMIN() + 3, libc::SIG_IGN);
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
        libc::umask(0);
    }
    let result = parse_process(process.to_string().as_bytes()).and_then(|process| {
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
    let (answer, fds): (Value, Vec<RawFd>) = match &result {
        Ok(started) => (
            json!({"pid": started.pid.as_raw()}),
            [Some(&started.pidfd), started.master.as_ref()]
                .into_iter()
                .flatten()
                .map(AsRawFd::as_raw_fd)
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
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        rights,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}

fn receive(socket: &OwnedFd) -> (Value, Vec<OwnedFd>) {
    let mut text = vec![0; 64 * 1024];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let (length, fds) = {
        let mut slices = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags).unwrap();
        let fds = message.cmsgs().unwrap().flat_map(|one| match one {
            ControlMessageOwned::ScmRights(fds) => fds,
            other => panic!("{other:?}"),
        });
        // SAFETY: the kernel has just installed these descriptors for us.
        let fds = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
        (message.bytes, fds)
    };
    assert!(length > 0, "the worker died");
    (serde_json::from_slice(&text[..length]).unwrap(), fds)
}
