//! A containerd of our own: under one directory, in its own namespaces, gone when dropped.

mod clients;
mod configuration;
mod handler;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{self, CpuClock};
use crate::command;
use crate::cri::POD;
use crate::guard;
use crate::images;
use crate::leftovers::{self, Leftovers};
use crate::namespaces::Namespaces;
use crate::registry::Registry;
use crate::tools::Tools;

use handler::OUR_SHIM;
pub use handler::{Handler, SHIM_VARIABLE, release_directory, shim_binary};

/// What the names of rigs begin with: their directories, cgroups and containerd namespaces.
pub const NAME_PREFIX: &str = "trefoil-test-";

/// A running containerd and what belongs to it.
#[derive(Debug)]
pub struct Rig {
    directory: PathBuf,
    name: String,
    tools: Tools,
    namespaces: Namespaces,
    daemon: Mutex<Option<Child>>,
    /// The images that pods have been given.
    pulled: Mutex<BTreeSet<String>>,
    /// Whether something may be left that CRI doesn't know.
    ctr_used: AtomicBool,
    guard: Option<Child>,
    _registry: Registry,
}

impl Rig {
    /// Makes and starts one; takes as long as containerd needs, and minutes the first time ever.
    pub fn start() -> Result<Self> {
        let tools = Tools::ensure()?;
        let images = images::ensure()?;
        let directory = make_directory()?;
        let name = directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // From here on whatever happens is cleaned up after.
        let guard = guard::start(&directory)?;
        fs::create_dir(directory.join("ns"))?;
        let (namespaces, listener) = Namespaces::create(&directory.join("ns"))?;
        let registry = Registry::serve(listener, &images)?;
        let rig = Self {
            directory,
            name,
            tools,
            namespaces,
            daemon: Mutex::new(None),
            pulled: Mutex::default(),
            ctr_used: AtomicBool::new(false),
            guard: Some(guard),
            _registry: registry,
        };
        rig.configure()?;
        rig.start_daemon()?;
        Ok(rig)
    }

    /// The directory that holds all of it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The rig's name: also of its cgroup, and of the containerd namespace `ctr` uses.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The programs it runs.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Its network.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// containerd's process id.
    pub fn daemon_pid(&self) -> Result<u32> {
        self.daemon()
            .as_ref()
            .map(Child::id)
            .context("containerd is not running")
    }

    /// A command inside the rig's namespaces, with its programs first in `PATH`.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = self.namespaces.command(program)?;
        command
            .env(leftovers::MARK, &self.directory)
            .env("PATH", self.path())
            .env("CRI_CONFIG_FILE", self.directory.join("crictl.yaml"));
        command
            .env("CONTAINERD_ADDRESS", self.socket())
            .env("CONTAINERD_NAMESPACE", &self.name)
            // `ctr` tells of cgroup v1 once its containerd has noted that, which is now and then later.
            .env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        Ok(command)
    }

    /// Our shim's `delete` as containerd calls it when it finds the shim of a CRI container dead.
    pub fn cleaner(&self, id: &str) -> Result<Command> {
        let bundle = self
            .directory
            .join("state/io.containerd.runtime.v2.task/k8s.io")
            .join(id);
        let mut command = self.command(OUR_SHIM)?;
        command
            .args(["-namespace", "k8s.io", "-id", id, "-address"])
            .arg(self.socket())
            .arg("-publish-binary")
            .arg(self.tools.containerd())
            .arg("-bundle")
            .arg(&bundle)
            .arg("delete");
        Ok(command)
    }

    fn path(&self) -> String {
        let mut path = format!("{}/bin", self.directory.display());
        for directory in [&self.tools.containerd_bin, &self.tools.cri_bin] {
            path.push_str(&format!(":{}", directory.display()));
        }
        path + ":/usr/sbin:/usr/bin:/sbin:/bin"
    }

    /// Starts containerd on the state that is there, and waits until it answers.
    pub fn start_daemon(&self) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = self.command(self.tools.containerd())?;
        // Interrupting the rig is not interrupting containerd: the rig stops it in order.
        command
            .arg("--config")
            .arg(self.directory.join("config.toml"))
            .process_group(0)
            .stdin(File::open("/dev/null")?)
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("starting containerd")?;
        CpuClock::new(&format!("{}-daemon", self.name), Some(child.id()))?;
        *self.daemon() = Some(child);
        let ready = command::until("waiting for containerd", Duration::from_secs(60), || {
            if let Some(child) = self.daemon().as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("containerd ended with {status}");
            }
            Ok(self.socket().exists()
                && self
                    .crictl_raw(&["version"], &[], Duration::from_secs(60))?
                    .status
                    .success())
        });
        ready.with_context(|| format!("containerd's log ends with:\n{}", self.log_tail(3000)))
    }

    /// Kills containerd as a crash would; shims and containers stay.
    pub fn kill_daemon(&self) -> Result<()> {
        self.signal_daemon(Signal::SIGKILL)
    }

    fn signal_daemon(&self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.daemon().take() else {
            return Ok(());
        };
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let end = command::until("stopping containerd", Duration::from_secs(15), || {
            Ok(child.try_wait()?.is_some())
        });
        if end.is_err() {
            child.kill()?;
            child.wait()?;
        }
        end
    }

    /// containerd's log.
    pub fn log(&self) -> PathBuf {
        self.directory.join("containerd.log")
    }

    /// The end of containerd's log.
    pub fn log_tail(&self, bytes: usize) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        command::tail(&String::from_utf8_lossy(&log), bytes).to_owned()
    }

    /// Removes all pods and containers, running or not, and waits for what follows from that.
    pub fn remove_all(&self) -> Result<()> {
        self.crictl_raw(&["rmp", "--all", "--force"], &[], Duration::from_secs(180))?
            .success()?;
        cgroup::remove_empty(self.name(), POD)?;
        if !self.ctr_used.load(Ordering::Relaxed) {
            return Ok(());
        }
        for id in self
            .ctr(&["containers", "list", "--quiet"])?
            .text()?
            .lines()
        {
            drop(self.ctr(&["tasks", "rm", "--force", id])?);
            self.ctr(&["containers", "rm", id])?.success()?;
        }
        // These calls were none to clean up after.
        self.ctr_used.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What the pods and containers, all removed by now, have left. Waits a little: some things
    /// go a moment after containerd has answered.
    pub fn leftovers(&self) -> Result<Leftovers> {
        let expected: Vec<u32> = self.daemon().as_ref().map(Child::id).into_iter().collect();
        let mut found = Leftovers::default();
        let gone = command::until("leftovers", Duration::from_secs(5), || {
            found = leftovers::find(&self.directory, &expected)?;
            Ok(found.is_empty())
        });
        // Still there after the time is what the caller wants to hear of; other errors are errors.
        if gone.is_err() && found.is_empty() {
            gone?;
        }
        Ok(found)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // In order where that works, so that nothing of it hides a fault; by force in any case.
        if self.daemon().is_some() {
            drop(self.remove_all());
            drop(self.signal_daemon(Signal::SIGTERM));
        }
        if let Err(error) = guard::remove(&self.directory) {
            eprintln!("the rig could not be taken away: {error:#}");
        }
        if let Some(guard) = self.guard.take() {
            guard::dismiss(guard);
        }
    }
}

/// A fresh directory with a short path: sockets below it have names of limited length. It must
/// not lie on an overlay, as containerd's snapshots will be overlays on it.
pub(crate) fn make_directory() -> Result<PathBuf> {
    let base = std::env::var_os("TREFOIL_TEST_DIR")
        .map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    for attempt in 0..100u32 {
        let mark = (std::process::id().wrapping_mul(31).wrapping_add(attempt)) % 0xf_ffff;
        let path = base.join(format!("{NAME_PREFIX}{mark:05x}"));
        match fs::DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
        }
    }
    bail!("no free name for a directory in {}", base.display())
}
