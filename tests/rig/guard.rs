//! Taking a rig away, whoever is left to do it.
//!
//! The guard is this program again, started beside every rig, waiting for a pipe to close: when
//! the rig's process ends in whatever way, the guard removes all that the rig made. A rig that
//! was dropped properly has nothing left then.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, setsid};

use crate::{cgroup, command, leftovers, namespaces};

/// The environment variable that makes this program a guard: the directory to take away.
pub const MARK: &str = "TREFOIL_RIG_GUARD";

/// Every program that starts a rig calls this first: it returns unless we are a guard.
pub fn take_part() -> Result<()> {
    let Some(directory) = std::env::var_os(MARK) else {
        return Ok(());
    };
    // What interrupts the rig must not stop its guard.
    setsid().ok();
    for ignored in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        // SAFETY: no handler of ours is installed, the signals are ignored.
        unsafe { signal(ignored, SigHandler::SigIgn) }.ok();
    }
    // No more and no less than the other end being gone ends the pipe.
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    let directory = Path::new(&directory);
    if directory.exists() {
        remove(directory)?;
    }
    std::process::exit(0);
}

/// Starts the guard of a directory. The child's standard input is what it waits for.
pub fn start(directory: &Path) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .env(MARK, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting the guard")
}

/// Ends a guard whose directory is gone.
pub fn dismiss(mut guard: Child) {
    drop(guard.stdin.take());
    drop(guard.wait());
}

/// Removes a rig by force: processes, mounts, cgroups, files.
pub fn remove(directory: &Path) -> Result<()> {
    // The one thing that keeps a slip from becoming a disaster.
    let name = directory
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if !name.starts_with(crate::containerd::NAME_PREFIX) {
        bail!("{} is no rig's directory", directory.display());
    }
    // The daemon may be starting a shim right now, and a shim a container: until none is left.
    command::until(
        "ending the rig's processes",
        Duration::from_secs(20),
        || {
            let processes = leftovers::processes(directory)?;
            for process in &processes {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            Ok(processes.is_empty())
        },
    )?;
    namespaces::unmount_below(directory)?;
    // A process that was just killed stays in its cgroup until the kernel is done with it.
    command::until(
        "removing the rig's cgroups",
        Duration::from_secs(10),
        || {
            let mut gone = true;
            for group in [name.to_owned(), format!("{name}-daemon")] {
                gone &= cgroup::remove(&group)?;
            }
            Ok(gone)
        },
    )?;
    // Where critest's pods were. It goes only if it is empty, and then it is nobody's.
    for root in cgroup::hierarchies()? {
        drop(fs::remove_dir(root.join("k8s.io")));
    }
    // The one place outside the directory: libcni's cache, where each entry names the network
    // namespace it is about, which lies under it.
    let text = directory.to_string_lossy();
    for entry in fs::read_dir("/var/lib/cni/results")
        .into_iter()
        .flatten()
        .flatten()
    {
        if fs::read_to_string(entry.path()).is_ok_and(|content| content.contains(&*text)) {
            drop(fs::remove_file(entry.path()));
        }
    }
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}
