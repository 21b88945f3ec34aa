//! Making a container, in a worker: its root filesystem, its cgroup, and an init that waits to be let go.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use oci_spec::runtime::Spec;
use trefoil_core::{Context, Error, Result};

use super::holder_program;
use crate::init::{self, Container, GatedInit, InitError, Plan, Recorder};
use crate::launcher::protocol::{Answer, Create, Failure, Served};
use crate::setup::rdt;
use crate::state::{Record, State};
use crate::{keyring, rootfs, state};

/// Makes a container whose init waits at its gate, which comes with the answer. When this fails nothing
/// of the container is left but, in the failure, an init that has ended.
pub(super) fn create(request: &Create, streams: [Option<OwnedFd>; 3]) -> Served {
    let made = prepare(request)
        .map_err(|why| (why, None))
        .and_then(|(spec, record)| make(request, &spec, record, streams));
    let made = match made {
        Ok(made) => made,
        Err((why, pid)) => {
            if let Some(pid) = pid {
                // Not reaped yet, so the number is still its own.
                let _ = kill(pid, Signal::SIGKILL);
            }
            if let Err(why) = state::clean_up_unknown(&request.id, &request.bundle) {
                // The server tells of the first failure; what is left here, `delete` removes.
                log::warn!("clean up after the failure: {why}");
            }
            return Err(Failure {
                pid: pid.map(|pid| pid.as_raw().unsigned_abs()),
                ..Failure::from(why.context(format!("create container {}", request.id)))
            });
        }
    };
    let answer = Answer {
        pid: made.pid.as_raw().unsigned_abs(),
    };
    Ok((
        answer,
        [Some(made.gate), made.master]
            .into_iter()
            .flatten()
            .collect(),
    ))
}

/// The directory for the container's state, its root's mounts, and its configuration.
fn prepare(request: &Create) -> Result<(Spec, Record)> {
    let path = request.bundle.join("config.json");
    let spec = trefoil_spec::load(&path)?;
    let record = Record::new(
        trefoil_spec::cgroups_path(&spec).map(Path::to_path_buf),
        state::by_systemd(&spec, request.options.systemd_cgroup),
        !request.rootfs.is_empty(),
    );
    State::of(&request.bundle).make(&record)?;
    if !request.options.no_new_keyring {
        keyring::leave_the_hosts()?;
    }
    let root = request.bundle.join("rootfs");
    rootfs::mount(&request.rootfs, &root)?;
    if request.holder {
        holder_program::install(&root)?;
    }
    Ok((spec, record))
}

/// The container's record, which what its making makes is noted in.
struct RecordWriter<'a>(&'a Create, Record);

impl Recorder for RecordWriter<'_> {
    fn made_rdt(&self, made: rdt::Made) -> std::result::Result<(), crate::setup::error::Failure> {
        State::of(&self.0.bundle)
            .note_rdt(self.1.clone(), made)
            .map_err(|why| crate::setup::error::Failure::new(why.to_string()))
    }
}

type Unfinished = (Error, Option<nix::unistd::Pid>);

fn make(
    request: &Create,
    spec: &Spec,
    record: Record,
    streams: [Option<OwnedFd>; 3],
) -> std::result::Result<GatedInit, Unfinished> {
    let cgroup = state::cgroup(&request.id, spec, request.options.systemd_cgroup)
        .map_err(|why| (why, None))?;
    let container = Container {
        id: &request.id,
        bundle: &request.bundle,
        spec,
        terminal: request.terminal,
        no_pivot_root: request.options.no_pivot_root,
    };
    let rootfs = root_directory(request, spec).map_err(|why| (why, None))?;
    let streams = streams.each_ref().map(|end| end.as_ref().map(AsFd::as_fd));
    let unfinished = |why: InitError| (Error::internal(why.failure.to_string()), why.pid);
    let directory = cgroup
        .create()
        .context(|| "make the container's cgroup")
        .map_err(|why| (why, None))?;
    let plan = Plan::new(&container, &cgroup, &rootfs).map_err(|why| unfinished(why.into()))?;
    let recorder = RecordWriter(request, record);
    init::make(&container, plan, &cgroup, directory, streams, &recorder).map_err(unfinished)
}

/// The directory that is to be the root: the configuration names it from the bundle.
fn root_directory(request: &Create, spec: &Spec) -> Result<PathBuf> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("the configuration has no root filesystem"))?;
    Ok(request.bundle.join(root.path()))
}
