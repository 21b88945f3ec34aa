//! The `delete` action: a fresh process that clears away what a container, or a whole pod whose server
//! is dead, has left. containerd calls it after every container, so finding nothing must be quick.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use containerd_shim::Flags;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use nix::sys::signal::Signal;
use trefoil_core::{Context, Error, ExitStatus, Result};

use crate::dispatch::Handler;
use crate::events::timestamp;
use crate::pod::files;
use crate::socket::{is_served, socket_path};
use crate::start::pod_of;
use crate::{record, runtimes};

/// What a cleaning has found.
pub struct Cleaned {
    /// The pod.
    pod: String,
    /// The container's init process, if that is known.
    pid: u32,
    /// What was removed.
    pub removed: Vec<String>,
    /// The first thing that could not be, if any.
    pub failure: Option<Error>,
}

/// Serves containerd's `delete`: clears away, says on stderr what it removed, and answers with the
/// exit status that the container's init must have had.
pub fn delete(flags: &Flags, handler: &Handler) -> Result<()> {
    let Cleaned {
        pod,
        pid,
        removed,
        failure,
    } = clean_up(flags, handler)?;
    if !removed.is_empty() {
        eprintln!(
            "trefoil: the shim of pod {pod} is gone; removed {}",
            removed.join(", ")
        );
    }
    match failure {
        Some(why) => Err(why),
        None => answer(pid),
    }
}

/// Clears away what a container, or its whole pod, has left.
pub fn clean_up(flags: &Flags, handler: &Handler) -> Result<Cleaned> {
    let bundle = match flags.bundle.as_str() {
        "" => std::env::current_dir().context(|| "find the bundle")?,
        given => given.into(),
    };
    // Without a configuration there is nothing that tells of a pod: the container is its own.
    let pod = pod_of(&bundle, &flags.id).unwrap_or_else(|_| flags.id.clone());
    let record = match record::read(&bundle)? {
        Some(record) => record,
        None => record::read(&bundle.with_file_name(&pod))?.unwrap_or_default(),
    };
    let own = record.containers.get(&flags.id);
    let pid = own.and_then(|own| own.pid).unwrap_or_default();

    let runtime = match record.containers.is_empty() && record.sandbox.is_empty() {
        true => runtimes::provider_of_floor(handler.floor),
        false => runtimes::provider(record.isolation()),
    };
    let runtime =
        runtime.ok_or_else(|| Error::internal(runtimes::not_built(record.isolation())))?;
    let mut outcomes = vec![match own {
        Some(own) => runtime.clean_up_container(&flags.id, own),
        None => runtime.clean_up_bundle(&flags.id, &bundle),
    }];
    let dead = !record.address.is_empty() && !is_served(&record.address);
    if let (true, Some(sandbox)) = (dead, record.sandbox.values().next()) {
        outcomes.push(runtime.clean_up_sandbox(sandbox));
    }
    if dead && pod == flags.id {
        // Not every containerd asks for each container of a dead pod, so all go with it.
        for (id, container) in &record.containers {
            if *id != flags.id {
                outcomes.push(runtime.clean_up_container(id, container));
            }
        }
        outcomes.push(files::clean_up(&bundle));
        outcomes.push(Ok(remove_socket(&record.address)));
    }
    // Whatever fails, the rest is tried.
    let (mut removed, mut failure) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(more) => removed.extend(more),
            Err(why) => {
                failure.get_or_insert(why);
            }
        }
    }
    Ok(Cleaned {
        pod,
        pid,
        removed,
        failure,
    })
}

fn remove_socket(address: &str) -> Vec<String> {
    let path: &Path = socket_path(address);
    match std::fs::remove_file(path) {
        Ok(()) => vec![format!("socket {}", path.display())],
        Err(_) => Vec::new(),
    }
}

fn answer(pid: u32) -> Result<()> {
    let killed = ExitStatus::killed_by(Signal::SIGKILL as i32);
    let response = DeleteResponse {
        pid,
        exit_status: killed.code,
        exited_at: Some(timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response
        .write_to_bytes()
        .context(|| "encode the answer to containerd")?;
    std::io::stdout()
        .write_all(&bytes)
        .context(|| "answer containerd")
}
