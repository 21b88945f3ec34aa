//! A containerd of our own: under one directory, in its own namespaces, gone when dropped.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::{self, CpuClock};
use crate::command::{self, Finished};
use crate::cri::POD;
use crate::guard;
use crate::guest::Images;
use crate::images;
use crate::leftovers::{self, Leftovers};
use crate::namespaces::{Namespaces, REGISTRY_PORT};
use crate::registry::Registry;
use crate::tools::Tools;

/// What the names of rigs begin with: their directories, cgroups and containerd namespaces.
pub const NAME_PREFIX: &str = "trefoil-test-";

/// The environment variable that names our shim's binary.
pub const SHIM_VARIABLE: &str = "TREFOIL_SHIM";

/// The name of our shim's one file.
const OUR_SHIM: &str = "containerd-shim-trefoil-v2";

/// containerd's configuration of our handlers.
const OUR_HANDLERS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../deploy/containerd/trefoil.toml"
);

/// A runtime handler of the rig's containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The stock shim with runc: the reference.
    Runc,
    /// Ours, with namespace containers.
    Trefoil,
    /// Ours, with microVMs.
    TrefoilVm,
    /// Ours, with confidential VMs.
    TrefoilConfidential,
}

impl Handler {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Runc,
        Self::Trefoil,
        Self::TrefoilVm,
        Self::TrefoilConfidential,
    ];

    /// The name in containerd's configuration and in RuntimeClasses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Trefoil => "trefoil",
            Self::TrefoilVm => "trefoil-vm",
            Self::TrefoilConfidential => "trefoil-confidential",
        }
    }

    /// Whether its shim is ours.
    pub fn is_ours(self) -> bool {
        self != Self::Runc
    }

    /// What containerd finds the shim's binary by.
    pub fn runtime_type(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Trefoil => "io.containerd.trefoil.v2",
            Self::TrefoilVm => "io.containerd.trefoil-vm.v2",
            Self::TrefoilConfidential => "io.containerd.trefoil-confidential.v2",
        }
    }

    /// What containerd makes of that: the shim's name.
    fn shim(self) -> &'static str {
        match self {
            Self::Runc => "containerd-shim-runc-v2",
            Self::Trefoil => OUR_SHIM,
            Self::TrefoilVm => "containerd-shim-trefoil-vm-v2",
            Self::TrefoilConfidential => "containerd-shim-trefoil-confidential-v2",
        }
    }
}

impl Handler {
    /// An error that says what to do if this handler's shim isn't there.
    pub fn require(self) -> Result<()> {
        let shim = shim_binary();
        if self.is_ours() && !shim.exists() {
            bail!(
                "{} isn't there: cargo build --release, or set {SHIM_VARIABLE}",
                shim.display()
            );
        }
        Ok(())
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Handler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|handler| handler.name() == name)
            .with_context(|| format!("no handler {name:?}: there are {names}"))
    }
}

/// The binary of our shim: `$TREFOIL_SHIM`, or the release build.
pub fn shim_binary() -> PathBuf {
    if let Some(path) = std::env::var_os(SHIM_VARIABLE) {
        return PathBuf::from(path);
    }
    release_directory().join(OUR_SHIM)
}

/// Where cargo puts what it builds to be released.
pub fn release_directory() -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    target.join("x86_64-unknown-linux-gnu/release")
}

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

    fn configure(&self) -> Result<()> {
        let dir = &self.directory;
        for sub in [
            "bin",
            "certs.d/_default",
            "cni",
            "conf.d",
            "logs",
            "fifo",
            "runc",
            "opt",
            "s",
            "etc/trefoil/config.d",
        ] {
            fs::create_dir_all(dir.join(sub))?;
        }
        // Found through PATH, by the names that containerd makes of the runtime types.
        for (name, target) in [
            (Handler::Runc.shim(), self.tools.runc_shim()),
            ("runc", self.tools.runc()),
            // One file and links to it, as installed.
            (Handler::TrefoilVm.shim(), OUR_SHIM.into()),
            (Handler::TrefoilConfidential.shim(), OUR_SHIM.into()),
        ] {
            symlink(target, dir.join("bin").join(name))?;
        }
        self.install_shim()?;
        let registry = format!("http://127.0.0.1:{REGISTRY_PORT}");
        fs::write(
            dir.join("certs.d/_default/hosts.toml"),
            format!(
                "server = \"{registry}\"\n[host.\"{registry}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ),
        )?;
        let at = dir.display();
        fs::write(
            dir.join("cni/10-rig.conflist"),
            serde_json::to_vec_pretty(&serde_json::json!({
                "cniVersion": "1.0.0",
                "name": self.name,
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "pods0",
                        "isGateway": true,
                        // Several runs of iptables for each pod, for an outside that a node doesn't have.
                        "ipMasq": !crate::test_vm::inside(),
                        "hairpinMode": true,
                        "ipam": {
                            "type": "host-local",
                            "dataDir": format!("{at}/cni-state/networks"),
                            "ranges": [[{ "subnet": "10.87.0.0/16" }]],
                            "routes": [{ "dst": "0.0.0.0/0" }],
                        },
                    },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            }))?,
        )?;
        fs::write(
            dir.join("crictl.yaml"),
            format!(
                "runtime-endpoint: unix://{at}/containerd.sock\nimage-endpoint: unix://{at}/containerd.sock\ntimeout: 60\n"
            ),
        )?;
        fs::write(dir.join("config.toml"), self.configuration())?;
        Ok(())
    }

    /// Puts our shim's file among the rig's programs: a copy, as a shim finds its configuration beside
    /// where it is installed, and rigs are to have one each. Without a shim there are no pods of ours.
    fn install_shim(&self) -> Result<()> {
        let (from, to) = (shim_binary(), self.directory.join("bin").join(OUR_SHIM));
        if from.exists() {
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        Ok(())
    }

    /// Installs what is for guests, where a shim finds it without being told.
    pub fn install_guest(&self, images: &Images) -> Result<()> {
        let share = self.directory.join("share/trefoil");
        fs::create_dir_all(&share)?;
        symlink(&images.kernel, share.join("vmlinux"))?;
        symlink(&images.image, share.join("initramfs"))?;
        symlink(&images.agent, share.join("agent"))?;
        if crate::test_vm::inside() {
            // There guests boot ten times slower, and all of them share one processor.
            let limit = "[microvm]\nboot-timeout-seconds = 100\n";
            fs::write(self.drop_in("00-test-vm.toml"), limit)?;
        }
        Ok(())
    }

    /// A drop-in of our shim's configuration, to be written and removed: it counts from the next pod on.
    pub fn drop_in(&self, name: &str) -> PathBuf {
        self.directory.join("etc/trefoil/config.d").join(name)
    }

    /// Gives containerd more configuration, and starts it anew with that.
    pub fn reconfigure(&self, name: &str, more: &str) -> Result<()> {
        fs::write(self.directory.join("conf.d").join(name), more)?;
        self.signal_daemon(Signal::SIGTERM)?;
        self.start_daemon()
    }

    fn configuration(&self) -> String {
        let at = self.directory.display();
        let cni = self.tools.cni_bin.display();
        let pause = images::PAUSE;
        // Without the capability nothing may get a lower oom_score_adj than we have.
        let restrict = !has_capability(CAP_SYS_RESOURCE);
        // Ours are configured by what a node is given.
        let ours = OUR_HANDLERS;
        // containerd asks each container each second what it uses. In a test VM that asks guests, some
        // twenty of them leave its one processor no time for anything else. Nor has it time for a program
        // that brings each pod's loopback device up, no matter of shims.
        let slow = crate::test_vm::inside();
        let period = if slow { "10s" } else { "1s" };
        format!(
            r#"version = 3
imports = ['{ours}', '{at}/conf.d/*.toml']
root = '{at}/root'
state = '{at}/state'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp', 'io.containerd.internal.v1.tracing']

[grpc]
address = '{at}/containerd.sock'

[ttrpc]
address = '{at}/containerd.sock.ttrpc'

[debug]
level = 'debug'

[plugins.'io.containerd.internal.v1.opt']
path = '{at}/opt'

[plugins.'io.containerd.shim.v1.manager']
socket_dir = '{at}/s'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{pause}'

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '{at}/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stats_collect_period = '{period}'
cdi_spec_dirs = []

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{at}/cni'
use_internal_loopback = {slow}

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{at}/bin/runc'
Root = '{at}/runc'
"#
        )
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
            .env("CONTAINERD_NAMESPACE", &self.name);
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

    fn crictl_raw(&self, arguments: &[&str], stdin: &[u8], limit: Duration) -> Result<Finished> {
        let mut command = self.command(self.tools.crictl())?;
        command
            .arg("--config")
            .arg(self.directory.join("crictl.yaml"))
            .args(arguments);
        command::run(&mut command, stdin, limit)
    }

    /// Runs `crictl`.
    pub fn crictl(&self, arguments: &[&str]) -> Result<Finished> {
        self.crictl_raw(arguments, &[], Duration::from_secs(120))
    }

    /// A `crictl` command, for those that talk to it while it runs.
    pub fn crictl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(self.tools.crictl())?;
        command
            .arg("--config")
            .arg(self.directory.join("crictl.yaml"))
            .args(arguments);
        Ok(command)
    }

    /// Runs `ctr` in the rig's containerd namespace.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Finished> {
        command::run(
            &mut self.ctr_command(arguments)?,
            &[],
            Duration::from_secs(120),
        )
    }

    /// A `ctr` command.
    pub fn ctr_command(&self, arguments: &[&str]) -> Result<Command> {
        self.ctr_used.store(true, Ordering::Relaxed);
        let mut command = self.command(self.tools.ctr())?;
        command
            .arg("--address")
            .arg(self.socket())
            .arg("--namespace")
            .arg(&self.name)
            .args(arguments);
        Ok(command)
    }

    /// Runs `ctr` in the containerd namespace of pods.
    pub fn ctr_of_pods(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(self.tools.ctr())?;
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"])
            .args(arguments);
        command::run(&mut command, &[], Duration::from_secs(120))
    }

    /// Tells that pods have an image that isn't pulled.
    pub(crate) fn has_image(&self, image: &str) {
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        pulled.insert(image.to_owned());
    }

    /// Pulls an image for pods, once.
    pub fn pull(&self, image: &str) -> Result<()> {
        let mut pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        if !pulled.contains(image) {
            self.crictl(&["pull", image])?.success()?;
            pulled.insert(image.to_owned());
        }
        Ok(())
    }

    /// Pulls an image for `ctr`, which doesn't do so by itself.
    pub fn ctr_pull(&self, image: &str) -> Result<()> {
        let hosts = self.directory.join("certs.d");
        self.ctr(&[
            "image",
            "pull",
            "--hosts-dir",
            &hosts.to_string_lossy(),
            image,
        ])?
        .success()?;
        Ok(())
    }

    /// `ctr run` for a handler, with more options and the words after them.
    pub fn ctr_run(&self, handler: Handler, rest: &[&str]) -> Result<Command> {
        let mut command = self.ctr_command(&["run", "--runtime", handler.runtime_type()])?;
        if handler == Handler::Runc {
            command
                .arg("--runc-binary")
                .arg(self.tools.runc())
                .arg("--runc-root")
                .arg(self.directory.join("runc"));
        }
        command
            .arg("--fifo-dir")
            .arg(self.directory.join("fifo"))
            .args(rest);
        Ok(command)
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

const CAP_SYS_RESOURCE: u32 = 24;

fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << number) != 0)
}
