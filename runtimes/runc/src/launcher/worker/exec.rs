//! Running one more process in a container, in a worker.

use std::os::fd::{AsFd, OwnedFd};

use trefoil_core::{Error, ErrorKind};

use crate::exec::{self, ExecError, Stdio};
use crate::launcher::protocol::{Answer, Exec, Failure, Served};

/// Runs the process in the container of which `init` is a pidfd; it runs its program when this returns.
pub(super) fn exec(request: &Exec, init: &OwnedFd, streams: [Option<OwnedFd>; 3]) -> Served {
    let spec = trefoil_spec::load(&request.bundle.join("config.json")).map_err(|why| {
        let why = Error::from(why);
        Failure::from(why.context(format!("exec in container {}", request.id)))
    })?;
    let [stdin, stdout, stderr] = &streams;
    let started = exec::exec(&exec::Exec {
        init: init.as_fd(),
        process: &request.process,
        spec: &spec,
        cgroups: &request.cgroups,
        new_keyring: !request.options.no_new_keyring,
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
    Ok((answer, started.master.into_iter().collect()))
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
