//! Running one more process in a container, in a worker.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use oci_spec::runtime::Spec;
use trefoil_core::{Context, Error, ErrorKind, Result};

use crate::exec::{self, ExecError, Stdio};
use crate::launcher::{Answer, Exec, Failure, WorkerOutcome};
use crate::state::State;

/// Runs the process; it runs its program when this returns.
pub fn exec(request: &Exec, streams: [Option<OwnedFd>; 3]) -> WorkerOutcome {
    let (init, spec) = find(request)
        .map_err(|why| Failure::from(why.context(format!("exec in container {}", request.id))))?;
    let [stdin, stdout, stderr] = &streams;
    let started = exec::exec(&exec::Exec {
        init: init.as_fd(),
        process: &request.process,
        spec: &spec,
        cgroups: &[],
        stdio: match request.terminal {
            true => Stdio::Terminal,
            false => Stdio::Streams {
                stdin: stdin.as_ref().map(AsFd::as_fd),
                stdout: stdout.as_ref().map(AsFd::as_fd),
                stderr: stderr.as_ref().map(AsFd::as_fd),
            },
        },
    })
    .map_err(|why| failure(request, &why))?;
    let answer = Answer {
        pid: started.pid.as_raw().unsigned_abs(),
    };
    Ok((answer, started.master))
}

fn find(request: &Exec) -> Result<(OwnedFd, Spec)> {
    // SAFETY: pidfd_open takes plain numbers and returns a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, request.init, 0) };
    let fd = Errno::result(fd)
        .map_err(|errno| match errno {
            Errno::ESRCH => Error::precondition("its init has ended"),
            other => Error::internal(format!("find its init {}: {other}", request.init)),
        })
        .and_then(|fd| i32::try_from(fd).context(|| "find its init"))?;
    // SAFETY: the call above made this descriptor for us alone.
    let init = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = State::of(&request.id, &request.bundle).config();
    let spec = Spec::load(&path).context(|| format!("read {}", path.display()))?;
    Ok((init, spec))
}

fn failure(request: &Exec, why: &ExecError) -> Failure {
    let (kind, pid) = match why {
        ExecError::Invalid(_) => (ErrorKind::InvalidArgument, None),
        ExecError::NotRunning(_) => (ErrorKind::FailedPrecondition, None),
        ExecError::Setup(_) => (ErrorKind::Internal, None),
        ExecError::Child { pid, .. } => (ErrorKind::Internal, Some(pid.as_raw().unsigned_abs())),
    };
    Failure {
        kind,
        message: format!("exec in container {}: {why}", request.id),
        pid,
    }
}
