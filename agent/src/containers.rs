//! The pod's containers by their names, and the processes of each.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::{Process as ProcessConfig, Spec};
use tokio::sync::watch;
use trefoil_core::{
    Container, ContainerConfig, Context, Error, ErrorKind, ExecConfig, ExitStatus, Mount, Process,
    Result, RuntimeOptions, Sandbox, Stdio,
};
use trefoil_os::{apart, lock};

use crate::roots::Root;
use crate::volumes::{self, Held, Volumes};

/// How many containers a pod may have, and each of them processes that were exec'd and not waited for.
const MOST: usize = 1024;

/// Where the containers' directories are.
const BUNDLES: &str = "/run/trefoil/containers";

/// What a thread is called that takes a root down.
const ROOT_THREAD: &str = "root";

/// All containers of the pod.
pub(crate) struct Containers {
    sandbox: Arc<dyn Sandbox>,
    volumes: Arc<Volumes>,
    /// A name is taken from when its container is begun; then there is none yet.
    all: Mutex<HashMap<String, Option<Arc<PodContainer>>>>,
}

/// One of them.
pub(crate) struct PodContainer {
    pub(crate) inner: Arc<dyn Container>,
    id: String,
    bundle: PathBuf,
    root: Mutex<Root>,
    volumes: Held,
    execs: Mutex<HashMap<String, Option<Arc<dyn Process>>>>,
    /// How often the kernel has killed for want of memory, and whether it no longer will.
    memory: watch::Receiver<Memory>,
    /// How many of them the host knows of.
    told: Mutex<u64>,
}

/// What is known of a container's memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    kills: u64,
    /// The container has ended.
    over: bool,
}

impl Containers {
    /// None yet, to be made in this sandbox.
    pub(crate) fn new(sandbox: Arc<dyn Sandbox>) -> Self {
        Self {
            sandbox,
            volumes: Arc::default(),
            all: Mutex::default(),
        }
    }

    /// Makes a container from a checked configuration. When this fails nothing of it is left.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one of that name; what making it fails with.
    pub(crate) async fn create(
        &self,
        id: &str,
        spec: Spec,
        volumes: Vec<volumes::Name>,
        root: impl FnOnce() -> Result<Root>,
        stdio: impl Future<Output = Result<Stdio>>,
    ) -> Result<Arc<PodContainer>> {
        let mut reserved = Reserved::of(&self.all, id, "container")?;
        let bundle = Path::new(BUNDLES).join(id);
        let held = self.volumes.hold(volumes).await?;
        let made = self.make(id, &bundle, spec, root, stdio).await;
        match made {
            Ok((inner, root)) => {
                let container = PodContainer::new(id, bundle, root, held, inner);
                reserved.keep(container.clone());
                Ok(container)
            }
            Err(why) => {
                for outcome in [remove(&bundle), held.release().await] {
                    if let Err(also) = outcome {
                        log::warn!("{also}");
                    }
                }
                Err(why)
            }
        }
    }

    async fn make(
        &self,
        id: &str,
        bundle: &Path,
        spec: Spec,
        root: impl FnOnce() -> Result<Root>,
        stdio: impl Future<Output = Result<Stdio>>,
    ) -> Result<(Arc<dyn Container>, Root)> {
        let stdio = stdio.await?;
        // Not before the name is taken, as its directory has that name.
        let mut root = root()?;
        match self.make_in(id, bundle, spec, &root, stdio).await {
            Ok(inner) => Ok((inner, root)),
            Err(why) => {
                if let Err(also) = apart(ROOT_THREAD, move || root.remove()).await {
                    log::warn!("{also}");
                }
                Err(why)
            }
        }
    }

    async fn make_in(
        &self,
        id: &str,
        bundle: &Path,
        spec: Spec,
        root: &Root,
        stdio: Stdio,
    ) -> Result<Arc<dyn Container>> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(bundle)
            .context(|| format!("make {}", bundle.display()))?;
        let file = bundle.join("config.json");
        spec.save(&file)
            .context(|| format!("write {}", file.display()))?;
        self.sandbox
            .create_container(ContainerConfig {
                id: id.to_owned(),
                bundle: bundle.to_owned(),
                spec: Arc::new(spec),
                rootfs: vec![Mount {
                    kind: "bind".into(),
                    source: root.path().display().to_string(),
                    target: String::new(),
                    options: vec!["rbind".into(), "rw".into()],
                }],
                stdio,
                options: RuntimeOptions::default(),
            })
            .await
    }

    /// Brings the copy of a volume that the host has changed.
    ///
    /// # Errors
    /// What is wrong with the name or the volume.
    pub(crate) async fn refresh(&self, share: &str) -> Result<()> {
        self.volumes.refresh(volumes::Name::new(share, true)?).await
    }

    /// The container of a name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none, or not yet.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<PodContainer>> {
        lock(&self.all)
            .get(id)
            .cloned()
            .flatten()
            .ok_or_else(|| Error::not_found(format!("there is no container {id}")))
    }

    /// Removes a container whose init has ended.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] if it hasn't; what removing fails with, and then it may be tried
    /// again.
    pub(crate) async fn delete(&self, id: &str) -> Result<()> {
        let container = self.get(id)?;
        if container.inner.init().exit_status().is_none() {
            return Err(Error::precondition(format!(
                "delete container {id}: its init has not ended"
            )));
        }
        container.inner.delete().await?;
        remove(&container.bundle)?;
        let kept = Arc::clone(&container);
        apart(ROOT_THREAD, move || lock(&kept.root).remove()).await?;
        container.volumes.release().await?;
        lock(&self.all).remove(id);
        Ok(())
    }
}

/// Removes a container's directory. Not all that is in it, whatever that is: if something should still be
/// mounted there, it is the host's files.
fn remove(bundle: &Path) -> Result<()> {
    let gone = |outcome: std::io::Result<()>| match outcome {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", bundle.display()))
        }
        _ => Ok(()),
    };
    gone(fs::remove_file(bundle.join("config.json")))?;
    gone(fs::remove_dir(bundle.join("rootfs")))?;
    gone(fs::remove_dir(bundle))
}

impl PodContainer {
    fn new(
        id: &str,
        bundle: PathBuf,
        root: Root,
        volumes: Held,
        inner: Arc<dyn Container>,
    ) -> Arc<Self> {
        let (sender, memory) = watch::channel(Memory::default());
        tokio::spawn(watch_memory(inner.clone(), sender));
        Arc::new(Self {
            inner,
            id: id.to_owned(),
            bundle,
            root: Mutex::new(root),
            volumes,
            execs: Mutex::default(),
            memory,
            told: Mutex::default(),
        })
    }

    /// The process of a name; the init if the name is empty.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub(crate) fn process(&self, name: &str) -> Result<Arc<dyn Process>> {
        if name.is_empty() {
            return Ok(self.inner.init());
        }
        lock(&self.execs)
            .get(name)
            .cloned()
            .flatten()
            .ok_or_else(|| Error::not_found(format!("container {} has no process {name}", self.id)))
    }

    /// Runs one more process.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] if there is one of that name; what running it fails with.
    pub(crate) async fn exec(
        &self,
        name: &str,
        process: ProcessConfig,
        stdio: impl Future<Output = Result<Stdio>>,
    ) -> Result<Arc<dyn Process>> {
        let mut reserved = Reserved::of(&self.execs, name, "process")?;
        let config = ExecConfig {
            id: name.to_owned(),
            process,
            stdio: stdio.await?,
        };
        let process = self.inner.exec(config).await?;
        reserved.keep(process.clone());
        Ok(process)
    }

    /// Waits for a process's end; the name of one that was exec'd is free then.
    ///
    /// # Errors
    /// As [`PodContainer::process`].
    pub(crate) async fn wait(&self, name: &str) -> Result<ExitStatus> {
        let process = self.process(name)?;
        let status = process.wait().await;
        let mut execs = lock(&self.execs);
        // Of several who wait the first one frees it, and it may be another's by now.
        let its_own = |entry: &Option<Arc<dyn Process>>| {
            entry.as_ref().is_some_and(|one| Arc::ptr_eq(one, &process))
        };
        if execs.get(name).is_some_and(its_own) {
            execs.remove(name);
        }
        Ok(status)
    }

    /// Waits until the kernel has killed one of its processes for want of memory, after those kills that
    /// were told of before this was asked.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the container has ended, and all kills have been told of.
    pub(crate) async fn out_of_memory(&self) -> Result<()> {
        let known = *lock(&self.told);
        let mut memory = self.memory.clone();
        let now = memory
            .wait_for(|now| now.kills > known || now.over)
            .await
            .map_or_else(|_| Memory::default(), |now| *now);
        if now.kills > known {
            // A request that the host has given up is answered in vain: it does not use up the kill for
            // another that waits as well.
            *lock(&self.told) = now.kills;
            return Ok(());
        }
        Err(Error::not_found(format!("container {} has ended", self.id)))
    }
}

/// Counts kills until the container has ended.
async fn watch_memory(container: Arc<dyn Container>, memory: watch::Sender<Memory>) {
    let init = container.init();
    loop {
        let killed = tokio::select! {
            biased;
            () = container.out_of_memory() => true,
            _ = init.wait() => {
                // The kernel has said so before the process ended.
                tokio::time::timeout(Duration::ZERO, container.out_of_memory()).await.is_ok()
            }
        };
        memory.send_modify(|now| {
            now.kills += u64::from(killed);
            now.over = init.exit_status().is_some();
        });
        if init.exit_status().is_some() {
            return;
        }
    }
}

/// A name that is taken for what is being made; free again if that fails.
struct Reserved<'a, T> {
    table: &'a Mutex<HashMap<String, Option<T>>>,
    name: &'a str,
    kept: bool,
}

impl<'a, T> Reserved<'a, T> {
    fn of(table: &'a Mutex<HashMap<String, Option<T>>>, name: &'a str, what: &str) -> Result<Self> {
        let mut entries = lock(table);
        if entries.contains_key(name) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("there is a {what} {name} already"),
            ));
        }
        if entries.len() >= MOST {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{what} {name} would be one more than the {MOST} that there may be"),
            ));
        }
        entries.insert(name.to_owned(), None);
        Ok(Self {
            table,
            name,
            kept: false,
        })
    }

    fn keep(&mut self, made: T) {
        self.kept = true;
        lock(self.table).insert(self.name.to_owned(), Some(made));
    }
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        if !self.kept {
            lock(self.table).remove(self.name);
        }
    }
}
