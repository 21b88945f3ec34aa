//! The `start` action: finds the pod's server or forks it, and tells containerd where it listens.
//!
//! The server is this process's fork, not a new program: what took time to load is loaded once, and
//! the listening socket is handed over open, so containerd can connect before the server is ready.

use std::fs::File;
use std::io::{BufReader, ErrorKind};
use std::os::unix::net::UnixListener;
use std::path::Path;

use containerd_shim::Flags;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};
use serde::Deserialize;
use trefoil_core::{Context, Error, Result, annotations};

use crate::candidates::{self, Choice};
use crate::config::{self, Config};
use crate::dispatch::{Annotations, Handler};
use crate::serve::Task;
use crate::socket::{listen, socket_path};
use crate::{bootstrap, check_name, kernel, serve};

/// Annotations that name the pod a container belongs to, the first found counts. The first is what
/// containerd's own shim honours outside Kubernetes.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", annotations::SANDBOX_ID];

/// As much of `config.json` as tells the pod.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Annotations,
}

/// The annotations of the container with this bundle; `None` if the bundle is a sandbox's, which has no
/// configuration.
fn annotations_in(bundle: &Path) -> Result<Option<Annotations>> {
    let path = bundle.join("config.json");
    let file = match File::open(&path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.context(|| format!("open {}", path.display()))?,
    };
    let config: Annotated = serde_json::from_reader(BufReader::new(file))
        .context(|| format!("read the annotations in {}", path.display()))?;
    Ok(Some(config.annotations))
}

/// Which pod the container with this bundle belongs to: itself, if nothing says otherwise.
pub fn pod_of(bundle: &Path, id: &str) -> Result<String> {
    pod_by(&annotations_in(bundle)?.unwrap_or_default(), id)
}

fn pod_by(annotations: &Annotations, id: &str) -> Result<String> {
    let group = GROUPS
        .iter()
        .find_map(|name| annotations.get(*name))
        .filter(|group| !group.is_empty());
    let pod = group.map_or(id, String::as_str);
    check_name("pod's name", pod)?;
    Ok(pod.to_owned())
}

/// Serves containerd's `start`.
pub fn start(flags: &Flags, handler: &'static Handler) -> Result<()> {
    close_inherited();
    kernel::check()?;
    let request = bootstrap::read(flags)?;
    let annotations = annotations_in(Path::new("."))?;
    let pod = match &annotations {
        Some(annotations) => pod_by(annotations, &request.opts.id)?,
        None => request.opts.id.clone(),
    };
    let address = request.opts.socket_address(&handler.group(&pod));
    let answer = || {
        // containerd 1.6 looks here after a restart; later ones keep their own notes.
        std::fs::write("address", &address).context(|| "write the shim's address file")?;
        bootstrap::answer(request.dialect, &address)
    };

    let Some(listener) = listen(&address)? else {
        return answer();
    };
    let choice = choose(handler, annotations.as_ref(), &pod, &request.opts.id);
    let outcome = choice.and_then(|choice| {
        let task = Task {
            request: &request,
            handler,
            pod: &pod,
            choice,
            address: &address,
        };
        let server = fork_server(task, listener)?;
        answer().inspect_err(|_| {
            // Nobody will ever talk to this server.
            let _ = nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGKILL);
        })
    });
    if outcome.is_err() {
        let _ = std::fs::remove_file(socket_path(&address));
    }
    outcome
}

/// Which runtime the pod gets that begins with the container `id`, and what is said to that. A sandbox's
/// annotations come later.
fn choose(
    handler: &Handler,
    annotations: Option<&Annotations>,
    pod: &str,
    id: &str,
) -> Result<Choice> {
    let Some(annotations) = annotations else {
        return Ok(Choice::Open(Config::load(&config::directory())?));
    };
    let kind = annotations.get(annotations::CONTAINER_TYPE);
    if pod != id && kind.is_some_and(|kind| kind == "container") {
        // A pod begins with its own container, whose annotations are the ones that decide.
        return Err(Error::precondition(format!(
            "start container {id}: its pod {pod} has ended"
        )));
    }
    let config = Config::load(&config::directory())?;
    let (provider, settings) = candidates::decide(handler.floor, annotations, &config)?;
    Ok(Choice::Made(provider, settings))
}

fn fork_server(task: Task<'_>, listener: UnixListener) -> Result<Pid> {
    // All of this is inherited by the server and its helper.
    let cgroup = &task.request.shim_cgroup;
    containerd_shim::cgroup::set_cgroup_and_oom_score(std::process::id(), cgroup)
        .context(|| "join the configured shim cgroup and set the OOM score")?;
    if std::env::var_os("SCHED_CORE").is_some() {
        share_no_core()?;
    }
    begin_grace_period();
    // SAFETY: this process has one thread, so its copy may do whatever it could do itself.
    match unsafe { fork() }.context(|| "fork the pod's server")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            detach();
            serve::serve(task, listener)
        }
    }
}

/// Has the kernel wait for the first move into the pod's cgroup already: containerd's first request follows
/// in a few milliseconds.
fn begin_grace_period() {
    // SAFETY: this process has one thread, so its copy may do whatever it could do itself.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        detach();
        close_inherited();
        let _ = trefoil_cgroups::pass_grace_period();
        trefoil_os::process::exit_now(0)
    }
}

/// Leaves containerd's session and the pipes on which it waits for our answer.
fn detach() {
    let _ = setsid();
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
}

/// Closes what a careless ancestor left open: the server, and all it starts, would keep it so.
fn close_inherited() {
    // SAFETY: this process has just begun and has opened nothing yet, or was forked to use nothing of it.
    unsafe { trefoil_os::descriptors::close_from(3) };
}

/// Keeps other tasks off the hyperthreads this pod runs on (containerd's `SchedCore`).
fn share_no_core() -> Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const CREATE: libc::c_ulong = 1;
    const SCOPE_PROCESS: libc::c_ulong = 1;
    // SAFETY: this request takes plain numbers only; 0 names the calling process.
    let outcome = unsafe { libc::prctl(PR_SCHED_CORE, CREATE, 0_usize, SCOPE_PROCESS, 0_usize) };
    nix::errno::Errno::result(outcome)
        .map(drop)
        .context(|| "give the pod a core scheduling cookie (SCHED_CORE)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str, config: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("start-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("bundle");
        std::fs::write(path.join("config.json"), config).expect("config");
        path
    }

    #[test]
    fn the_annotations_name_the_pod() {
        for (name, config, expected) in [
            ("plain", "{}", "self"),
            (
                "cri",
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#,
                "pod",
            ),
            (
                "empty",
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":""}}"#,
                "self",
            ),
            (
                "group",
                r#"{"annotations":{"io.containerd.runc.v2.group":"g","x":"y"}}"#,
                "g",
            ),
        ] {
            let path = bundle(name, config);
            let pod = pod_of(&path, "self");
            std::fs::remove_dir_all(&path).expect("remove");
            assert_eq!(pod.expect("pod"), expected, "{name}");
        }
    }

    #[test]
    fn a_broken_configuration_is_named() {
        let path = bundle("broken", "{");
        let why = pod_of(&path, "self").expect_err("broken");
        std::fs::remove_dir_all(&path).expect("remove");
        assert!(why.to_string().contains("config.json"), "{why}");
    }
}
