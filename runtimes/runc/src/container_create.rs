//! Making a container, in a worker: its root, its terminal, and libcontainer's part.

use std::fs;
use std::os::fd::OwnedFd;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, fchown};
use oci_spec::runtime::{LinuxIdMapping, Spec};
use trefoil_core::{Context, Error, Result};

use crate::console_socket::ConsoleSocket;
use crate::exec::InitExecutor;
use crate::launcher::{Answer, Create, Failure, WorkerOutcome};
use crate::state::State;
use crate::{cgroup, effective, idmap, keyring, rootfs, state};

/// Makes a container whose init waits to be let go. When this fails nothing of it is left but, in the
/// failure, an init that has ended.
pub fn create(request: &Create, streams: [Option<OwnedFd>; 3]) -> WorkerOutcome {
    let state = State::of(&request.id, &request.bundle);
    let made = prepare(request, &state).and_then(|(spec, executor, prepared)| {
        let made = build(request, &state, &spec, executor, streams)?;
        drop(prepared);
        limit(request)?;
        Ok(made)
    });
    made.map_err(|why| Failure {
        pid: clean_up(request, &state),
        ..Failure::from(why.context(format!("create container {}", request.id)))
    })
}

/// All that comes before libcontainer: the directory for its state, the root, and the configuration as
/// it is to read it.
fn prepare(request: &Create, state: &State) -> Result<(Spec, InitExecutor, idmap::Prepared)> {
    state.make()?;
    if !request.options.no_new_keyring {
        keyring::leave_the_hosts()?;
    }
    if !request.rootfs.is_empty() {
        state.note_mounted_root()?;
    }
    rootfs::mount(&request.rootfs, &request.bundle.join("rootfs"))?;

    let path = request.bundle.join("config.json");
    let mut spec = Spec::load(&path).context(|| format!("read {}", path.display()))?;
    spec.canonicalize_rootfs(&request.bundle)
        .context(|| "find the root filesystem")?;
    let executor = InitExecutor::new(&mut spec);
    effective::adapt(&mut spec)?;
    let shelf = state.root().join("mounts");
    let prepared = idmap::prepare(&mut spec, &request.bundle, &shelf)?;
    spec.save(state.config())
        .context(|| format!("write {}", state.config().display()))?;
    Ok((spec, executor, prepared))
}

fn build(
    request: &Create,
    state: &State,
    spec: &Spec,
    executor: InitExecutor,
    streams: [Option<OwnedFd>; 3],
) -> Result<(Answer, Option<OwnedFd>)> {
    let systemd = state::by_systemd(spec, request.options.systemd_cgroup);
    let mut builder = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(state.root())
        .context(|| "set libcontainer's directory")?
        .with_pid_file(Some(state.pid_file()))
        .context(|| "set the pid file")?
        .with_executor(executor);
    let console = match request.terminal {
        true => Some(ConsoleSocket::new(state)?),
        false => None,
    };
    if let Some(console) = &console {
        builder = builder.with_console_socket(Some(console.path()));
    } else {
        for stream in streams.iter().flatten() {
            give(stream, spec);
        }
        let [stdin, stdout, stderr] = streams;
        if let Some(stdin) = stdin {
            builder = builder.with_stdin(stdin);
        }
        if let Some(stdout) = stdout {
            builder = builder.with_stdout(stdout);
        }
        if let Some(stderr) = stderr {
            builder = builder.with_stderr(stderr);
        }
    }
    let container = builder
        .as_init(state.root())
        .with_systemd(systemd)
        .with_no_pivot(request.options.no_pivot_root)
        .as_sibling(true)
        .with_detach(true)
        .build()
        .map_err(|why| Error::internal(state::sentence(&why)))?;
    let pid = container
        .pid()
        .ok_or_else(|| Error::internal("libcontainer made no init"))?;
    let master = console.map(|console| console.receive(spec)).transpose()?;
    let answer = Answer {
        pid: pid.as_raw().unsigned_abs(),
    };
    Ok((answer, master))
}

/// Sets what libcgroups leaves out on cgroup v2: device rules, without which every device may be used, and
/// some limits, among them that of swap where it is to be none.
fn limit(request: &Create) -> Result<()> {
    if !cgroup::is_v2() {
        return Ok(());
    }
    let path = request.bundle.join("config.json");
    let spec = Spec::load(&path).context(|| format!("read {}", path.display()))?;
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let devices = resources.and_then(|resources| resources.devices().as_deref());
    let cgroup = state::cgroup(&request.id, &spec, request.options.systemd_cgroup)?;
    cgroup
        .allow_devices(devices.unwrap_or_default())
        .context(|| "set the device rules")?;
    match resources {
        Some(resources) => cgroup.update(resources).context(|| "set the limits"),
        None => Ok(()),
    }
}

/// Undoes what was made. Returns the init that has to be reaped, if there came to be one.
fn clean_up(request: &Create, state: &State) -> Option<u32> {
    let pid = fs::read_to_string(state.pid_file())
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let Some(pid) = pid {
        // Not reaped yet, so the number is still its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Err(why) = state::clean_up_unknown(&request.id, &request.bundle) {
        // The server tells of the first failure; what is left here, `delete` removes.
        log::warn!("clean up after the failure: {why}");
    }
    pid.map(i32::unsigned_abs)
}

/// Makes a stream the property of the process's user, so that it can open it again by way of
/// `/dev/stdout`. What can't be given away (a host's `/dev/null`, a read-only place) stays.
fn give(stream: &OwnedFd, spec: &Spec) {
    let Some(process) = spec.process() else {
        return;
    };
    let linux = spec.linux().as_ref();
    let uid = on_host(
        process.user().uid(),
        linux.and_then(|linux| linux.uid_mappings().as_deref()),
    );
    let gid = on_host(
        process.user().gid(),
        linux.and_then(|linux| linux.gid_mappings().as_deref()),
    );
    let _ = fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
}

/// A container's user or group number as the host knows it.
fn on_host(id: u32, mappings: Option<&[LinuxIdMapping]>) -> u32 {
    mappings
        .unwrap_or_default()
        .iter()
        .find_map(|mapping| {
            let offset = id.checked_sub(mapping.container_id())?;
            (offset < mapping.size()).then(|| mapping.host_id().checked_add(offset))?
        })
        .unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    #[test]
    fn ids_are_translated_by_the_mapping_that_holds_them() {
        let mapping = |container: u32, host: u32, size: u32| {
            LinuxIdMappingBuilder::default()
                .container_id(container)
                .host_id(host)
                .size(size)
                .build()
                .expect("mapping")
        };
        let mappings = [mapping(0, 100_000, 10), mapping(10, 500, 5)];
        assert_eq!(on_host(0, Some(&mappings)), 100_000);
        assert_eq!(on_host(12, Some(&mappings)), 502);
        assert_eq!(on_host(15, Some(&mappings)), 15);
        assert_eq!(on_host(7, None), 7);
    }
}
