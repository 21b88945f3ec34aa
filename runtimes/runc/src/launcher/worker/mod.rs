//! A worker: one process that serves one request and ends.
//!
//! It may be left in any state by what it does: nothing of it is used again. What it does for a container
//! is in [`create`](mod@create) and [`exec`](mod@exec), and in [`state`].

mod create;
mod exec;
mod holder_program;

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::getppid;
use trefoil_core::{Error, Result};
use trefoil_os::process::exit_now;

pub(crate) use holder_program::PATH as HOLDER_PROGRAM;

use super::protocol::{self, Answer, Failure, Request, Served};
use crate::setup::fork::{die_with, fork_sibling};
use crate::state;

/// Serves the request that comes on `socket`, then ends the process.
pub(super) fn run(socket: OwnedFd) -> ! {
    // Made by CLONE_PARENT: the parent is the server.
    let outcome = die_with(getppid())
        .map_err(|why| Failure::from(Error::internal(format!("follow the server: {why}"))))
        .and_then(|()| {
            protocol::receive_request(&socket)
                .map_err(|why| Failure::from(Error::internal(format!("read the request: {why}"))))
        })
        .and_then(|(request, given)| serve(request, given));
    let (outcome, descriptors) = match outcome {
        Ok((answer, descriptors)) => (Ok(answer), descriptors),
        Err(failure) => (Err(failure), Vec::new()),
    };
    let given: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let sent = protocol::send_outcome(&socket, &outcome, &given);
    // Not exit(3): whatever would run at the end belongs to the process this was forked from.
    exit_now(i32::from(sent.is_err()))
}

fn serve(request: Request, given: Vec<OwnedFd>) -> Served {
    let done = |result: Result<()>| {
        result
            .map(|()| (Answer::default(), Vec::new()))
            .map_err(Failure::from)
    };
    match request {
        Request::Create(request) => {
            if !trefoil_cgroups::is_v2() || request.options.systemd_cgroup {
                begin_grace_period();
            }
            create::create(&request, streams(request.streams, given)?)
        }
        Request::Exec(request) => {
            let mut given = given;
            let init = match given.is_empty() {
                false => given.remove(0),
                true => {
                    return Err(Error::internal("read the request: no init came with it").into());
                }
            };
            exec::exec(&request, &init, streams(request.streams, given)?)
        }
        Request::Poststart(start) => done(state::run_poststart_hooks(
            &start.id,
            &start.bundle,
            start.pid,
        )),
        Request::Delete(delete) => done(
            state::clean_up(
                &delete.id,
                &delete.bundle,
                delete.cgroups_path.as_deref(),
                delete.options.systemd_cgroup,
            )
            .map(drop),
        ),
        Request::Ping => done(Ok(())),
    }
}

/// Has the kernel wait for the move into the container's cgroup already, beside us. Where processes can be
/// born in a cgroup there is no move.
fn begin_grace_period() {
    if let Ok(true) = fork_sibling() {
        let _ = trefoil_cgroups::pass_grace_period();
        exit_now(0)
    }
}

/// The three streams, of which only some have come along.
fn streams(present: [bool; 3], given: Vec<OwnedFd>) -> Result<[Option<OwnedFd>; 3]> {
    let expected = present.iter().filter(|present| **present).count();
    if given.len() != expected {
        return Err(Error::internal(format!(
            "read the request: {} descriptors came with it, not {expected}",
            given.len()
        )));
    }
    let mut given = given.into_iter();
    Ok(present.map(|present| if present { given.next() } else { None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_find_their_places() {
        let null = || -> OwnedFd { std::fs::File::open("/dev/null").expect("null").into() };
        let [stdin, stdout, stderr] = streams([false, true, false], vec![null()]).expect("streams");
        assert!(stdin.is_none() && stdout.is_some() && stderr.is_none());
        assert!(streams([true, true, false], vec![null()]).is_err());
    }
}
