//! Makes containers one after the other from configurations, and tells what they said.

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::{Value, json};
use tokio::runtime::Runtime as Events;
use tokio::time::timeout;
use trefoil_cgroups::Cgroup;
use trefoil_core::{
    Container, ContainerConfig, Output, Runtime, RuntimeOptions, Sandbox, SandboxConfig, Stdio,
};
use trefoil_runc::{Launcher, Runc};

use crate::place::Place;

/// A container that takes longer hangs.
const MOST: Duration = Duration::from_secs(20);
const NAMESPACES: [&str; 6] = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// All that containers are made with.
pub struct Bench {
    work: PathBuf,
    cgroup: String,
    sandbox: Arc<dyn Sandbox>,
    events: Events,
    made: Cell<u32>,
}

/// How a container's program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: u32,
    pub output: String,
}

/// A container that waits to be started.
pub struct Waiting<'a> {
    pub pid: u32,
    /// Its cgroup's directories, in all hierarchies.
    pub cgroups: &'a [PathBuf],
}

impl Waiting<'_> {
    /// The path of a file of its cgroup, in whichever hierarchy has it.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        let paths = self.cgroups.iter().map(|directory| directory.join(name));
        paths.into_iter().find(|path| path.exists())
    }
}

impl Bench {
    /// Must be called while the process has one thread.
    pub fn new(place: Place, launcher: Launcher) -> Self {
        let events = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let sandbox = events.block_on(async {
            let config = SandboxConfig {
                id: "fields".into(),
                namespace: "fields".into(),
                bundle: place.work.clone(),
                ..SandboxConfig::default()
            };
            Runc::new(launcher).create_sandbox(config).await.unwrap()
        });
        Self {
            cgroup: format!("/{}", place.cgroup),
            work: place.work,
            sandbox,
            events,
            made: Cell::new(0),
        }
    }

    /// A configuration for a shell script, with the host's programs. Its paths are those of the
    /// bundle that is made next.
    pub fn spec(&self, script: &str) -> Value {
        let own = [
            "CAP_CHOWN",
            "CAP_DAC_OVERRIDE",
            "CAP_FOWNER",
            "CAP_MKNOD",
            "CAP_SETUID",
        ];
        let id = self.next();
        let bundle = self.bundle();
        fs::create_dir(&bundle).unwrap();
        make_root(&bundle.join("rootfs"));
        json!({
            "ociVersion": "1.3.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "capabilities": {"bounding": own, "effective": own, "permitted": own},
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": NAMESPACES.map(|kind| json!({ "type": kind })),
            },
        })
    }

    /// The directory of the newest bundle.
    pub fn bundle(&self) -> PathBuf {
        self.work.join(format!("fields-{}", self.made.get()))
    }

    /// Where bundles are: a filesystem of its own.
    pub fn work(&self) -> &Path {
        &self.work
    }

    fn next(&self) -> String {
        self.made.set(self.made.get() + 1);
        format!("fields-{}", self.made.get())
    }

    /// What a container says that ends well.
    pub fn lines(&self, spec: &Value) -> Vec<String> {
        let ended = self.run(spec, |_| ()).unwrap().1;
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.output.lines().map(str::to_owned).collect()
    }

    /// Why there is no container of this configuration, or it is not started.
    pub fn refusal(&self, spec: &Value) -> String {
        match self.run(spec, |_| ()) {
            Ok((_, ended)) => panic!("it ran: {ended:?}"),
            Err(why) => {
                assert!(!why.contains('\n'), "{why:?}");
                why
            }
        }
    }

    /// Makes a container of a configuration, looks at it while it waits, lets it run to its end, and
    /// removes it; nothing may be left then.
    pub fn run<T>(
        &self,
        spec: &Value,
        look: impl FnOnce(&Waiting<'_>) -> T,
    ) -> Result<(T, Ended), String> {
        self.run_at(spec, spec["process"]["terminal"] == true, look)
    }

    /// The same, where who asks for the container says whether it has a terminal.
    pub fn run_at<T>(
        &self,
        spec: &Value,
        terminal: bool,
        look: impl FnOnce(&Waiting<'_>) -> T,
    ) -> Result<(T, Ended), String> {
        let path = spec["linux"]["cgroupsPath"].as_str().unwrap();
        let id = Path::new(path).file_name().unwrap().to_str().unwrap();
        let bundle = self.work.join(id);
        let cgroups = Cgroup::new(Some(Path::new(path)), id, false)
            .unwrap()
            .directories();
        let outcome = self.live(config(id, &bundle, spec), terminal, &cgroups, look);
        for directory in &cgroups {
            assert!(!directory.exists(), "{} is left", directory.display());
        }
        fs::remove_dir_all(&bundle).unwrap();
        outcome
    }

    fn live<T>(
        &self,
        mut config: ContainerConfig,
        terminal: bool,
        cgroups: &[PathBuf],
        look: impl FnOnce(&Waiting<'_>) -> T,
    ) -> Result<(T, Ended), String> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        config.stdio = streams(write, terminal);
        let container = self
            .within(self.sandbox.create_container(config))
            .map_err(|why| why.to_string())?;
        let pid = container.init().pid();
        let seen = look(&Waiting { pid, cgroups });
        let ran = self.within(run(&*container));
        self.within(container.delete()).unwrap();
        drop(container);
        Ok((
            seen,
            Ended {
                code: ran?,
                output: said(read),
            },
        ))
    }

    fn within<T>(&self, doing: impl Future<Output = T>) -> T {
        let limited = async { timeout(MOST, doing).await };
        self.events.block_on(limited).expect("a container hangs")
    }
}

fn config(id: &str, bundle: &Path, spec: &Value) -> ContainerConfig {
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    ContainerConfig {
        id: id.to_owned(),
        bundle: bundle.to_owned(),
        spec: Arc::new(serde_json::from_value(spec.clone()).unwrap()),
        rootfs: Vec::new(),
        stdio: Stdio::default(),
        options: RuntimeOptions::default(),
    }
}

fn make_root(root: &Path) {
    fs::create_dir(root).unwrap();
    for link in LINKS {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
    }
    // A user namespace's root can't make them here.
    for name in ["tmp", "etc", "usr", "proc", "dev"] {
        fs::create_dir(root.join(name)).unwrap();
    }
}

fn streams(write: OwnedFd, terminal: bool) -> Stdio {
    let stderr = (!terminal).then(|| write.try_clone().unwrap());
    let output = |write| Output { write, hold: None };
    Stdio {
        terminal,
        stdin: None,
        stdout: Some(output(write)),
        stderr: stderr.map(output),
    }
}

/// Lets a container run to its end.
async fn run(container: &dyn Container) -> Result<u32, String> {
    let started = container.start().await;
    let init = container.init();
    if started.is_err() {
        let _ = init.kill(libc::SIGKILL).await;
    }
    let status = init.wait().await;
    init.drain().await;
    init.close_stdio().await;
    started.map(|()| status.code).map_err(|why| why.to_string())
}

/// All that was written.
fn said(read: OwnedFd) -> String {
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut bytes = Vec::new();
    // Who still holds it open has nothing to say.
    let _ = fs::File::from(read).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// Whether this machine has cgroup v2 alone.
pub fn is_v2() -> bool {
    trefoil_cgroups::is_v2()
}
