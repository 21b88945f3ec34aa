//! Makes containers one after the other, and looks after each what has become of the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::time::timeout;
use trefoil_core::{
    Container, ContainerConfig, Result, Runtime, RuntimeOptions, Sandbox, SandboxConfig, Stdio,
};
use trefoil_runc::{Launcher, Runc};

use crate::canary::Canary;
use crate::case::Case;
use crate::host::{self, Host};
use crate::place::{self, Place};
use crate::root::Roots;
use crate::setting;
use crate::shape::{SHAPES, Sources};

/// A message that is longer is none.
const LONGEST_MESSAGE: usize = 2000;

/// What became of a container.
#[derive(Debug, Default)]
pub struct Report {
    /// Why it was refused; `None` if it ran.
    pub refused: Option<String>,
    /// What must not be.
    pub faults: Vec<String>,
}

/// All that containers are made with.
pub struct Bench {
    place: Place,
    canary: Canary,
    host: Host,
    sandbox: Arc<dyn Sandbox>,
    cgroup: String,
}

impl Bench {
    /// Makes it, and an ordinary container to see what is left of such a one.
    pub async fn new(place: Place, launcher: Launcher) -> Self {
        fs::create_dir(place.work.join("volumes")).unwrap();
        place::mount_new("tmpfs", &place.work.join("volumes"), "mode=755");
        fs::write(place.work.join("file"), "bound\n").unwrap();
        fs::write(place.work.join("network"), "").unwrap();
        place::bind(Path::new("/proc/self/ns/net"), &place.work.join("network"));
        fs::create_dir_all(&place.canary).unwrap();
        let canary = Canary::new(&place.canary);
        let sandbox = Runc::new(launcher)
            .create_sandbox(SandboxConfig {
                id: "hostile".into(),
                namespace: "hostile".into(),
                bundle: place.work.clone(),
                ..SandboxConfig::default()
            })
            .await
            .unwrap();
        let mut bench = Self {
            host: Host::new(&place.canary),
            cgroup: format!("/{}", place.cgroup),
            place,
            canary,
            sandbox,
        };
        let cgroups = bench.learn().await;
        let Self {
            place,
            canary,
            host,
            sandbox,
            cgroup,
        } = bench;
        Self {
            place,
            canary,
            host: host.with_cgroups(cgroups),
            sandbox,
            cgroup,
        }
    }

    /// Where the cgroups of containers are made.
    async fn learn(&mut self) -> Vec<PathBuf> {
        let case = Case::plain(1 << 32, &SHAPES[0]);
        let (roots, config) = self.prepare(&case);
        let bundle = config.bundle.clone();
        let container = self.sandbox.create_container(config).await.unwrap();
        let cgroups = host::cgroups(container.init().pid());
        container.init().kill(libc::SIGKILL).await.unwrap();
        container.init().wait().await;
        container.delete().await.unwrap();
        remove(&bundle, &roots.volume);
        let own = cgroups
            .iter()
            .filter(|path| path.to_string_lossy().contains(&self.cgroup));
        own.filter_map(|path| Some(path.parent()?.to_owned()))
            .collect()
    }

    /// The canary's path.
    pub fn canary(&self) -> &Path {
        &self.place.canary
    }

    /// Where bundles are made.
    pub fn work(&self) -> &Path {
        &self.place.work
    }

    /// Where the containers' cgroups are made.
    pub fn cgroups(&self) -> &[PathBuf] {
        self.host.cgroups()
    }

    /// What has happened to the canary.
    pub fn touched(&mut self) -> Vec<String> {
        self.canary.touched()
    }

    /// What of the host is not as it was.
    pub async fn changed(&mut self) -> Vec<String> {
        self.host.changed().await
    }

    /// Makes a case's container, lets it run, removes it, and says what became of it and the host.
    pub async fn run(&mut self, case: &Case) -> Report {
        self.run_while(case, |_| ()).await
    }

    /// The same, while what `begin` returns lives: it is told where the root and the volume are.
    pub async fn run_while<T>(&mut self, case: &Case, begin: impl FnOnce(&Roots) -> T) -> Report {
        let (roots, config) = self.prepare(case);
        let bundle = config.bundle.clone();
        let id = config.id.clone();
        let meanwhile = begin(&roots);
        let lived = timeout(setting::most(), self.live(config)).await;
        drop(meanwhile);
        let mut report = match lived {
            Ok(mut report) => {
                report.faults.extend(left_in(&bundle));
                report.faults.extend(self.host.changed().await);
                report
            }
            Err(_) => Report {
                faults: vec![format!("hung for {:?}", setting::most())],
                ..Report::default()
            },
        };
        if !report.faults.is_empty() {
            self.clear_away(&id, &bundle).await;
        }
        report.faults.extend(self.canary.touched());
        remove(&bundle, &roots.volume);
        report
    }

    /// Has the next container begin as if this one had never been.
    async fn clear_away(&mut self, id: &str, bundle: &Path) {
        let cgroup = Path::new(&self.cgroup).join(id);
        self.host.kill_the_others();
        let _ = trefoil_runc::clean_up(id, bundle, Some(&cgroup), false);
        self.host.settle().await;
    }

    fn prepare(&self, case: &Case) -> (Roots, ContainerConfig) {
        let id = format!("hostile-{}", case.number);
        let bundle = self.place.work.join(&id);
        let roots = Roots {
            root: bundle.join("rootfs"),
            volume: self.place.work.join("volumes").join(&id),
        };
        roots.make(case, &self.place.canary);
        let cgroup = format!("{}/{id}", self.cgroup);
        let sources = Sources {
            volume: &roots.volume,
            file: &self.place.work.join("file"),
            network: &self.place.work.join("network"),
            cgroup: &cgroup,
        };
        let mut spec = case.shape.spec(&sources);
        for extra in &case.extra {
            extra.add(&mut spec, &sources);
        }
        let config = config(id, bundle, spec, case.shape.terminal);
        (roots, config)
    }

    /// From its creation to its deletion.
    async fn live(&self, config: ContainerConfig) -> Report {
        let mut report = Report::default();
        match self.sandbox.create_container(config).await {
            Ok(container) => {
                let init = container.init().pid();
                report.faults = host::reaches(init, self.canary.device());
                if let Err(why) = run(&*container, &mut report).await {
                    report.refused = Some(why.to_string());
                    let _ = container.init().kill(libc::SIGKILL).await;
                    container.init().wait().await;
                }
                if let Err(why) = container.delete().await {
                    report.faults.push(format!("is not removed: {why}"));
                }
            }
            Err(why) => report.refused = Some(why.to_string()),
        }
        if let Some(message) = &report.refused {
            report.faults.extend(unclean(message));
        }
        report
    }
}

/// Lets a container run to its end.
async fn run(container: &dyn Container, report: &mut Report) -> Result<()> {
    container.start().await?;
    let status = container.init().wait().await;
    if status.code != 0 {
        report
            .faults
            .push(format!("ended with {} without a word", status.code));
    }
    Ok(())
}

fn config(id: String, bundle: PathBuf, spec: Value, terminal: bool) -> ContainerConfig {
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    ContainerConfig {
        id,
        bundle,
        spec: Arc::new(serde_json::from_value(spec).unwrap()),
        rootfs: Vec::new(),
        stdio: Stdio {
            terminal,
            ..Stdio::default()
        },
        options: RuntimeOptions::default(),
    }
}

/// Why a message is none that a user should read.
fn unclean(message: &str) -> Option<String> {
    let short = message.len() <= LONGEST_MESSAGE && !message.contains('\n');
    let told = !message.contains("panicked") && !message.contains("ask the helper");
    (!short || !told).then(|| format!("was refused with {message:?}"))
}

/// What a deleted container has left beside its root and its configuration.
fn left_in(bundle: &Path) -> Vec<String> {
    let entries = fs::read_dir(bundle).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "rootfs" && name != "config.json")
        .map(|name| format!("left {name} in its bundle"))
        .collect()
}

fn remove(bundle: &Path, volume: &Path) {
    for path in [bundle, volume] {
        fs::remove_dir_all(path).unwrap();
    }
}
