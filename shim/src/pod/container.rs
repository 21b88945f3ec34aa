//! A container of the pod: its init, the processes exec'd into it, and what containerd may do when.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::events::task::{
    TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::types::mount::Mount as MountMessage;
use oci_spec::runtime::{LinuxResources, Process as ProcessSpec};
use trefoil_core::stats::Stats;
use trefoil_core::{Error, ErrorKind, ExecConfig, ExitStatus, Result};
use trefoil_os::lock;

use super::process::{Status, Task};
use crate::events::{Publisher, timestamp};
use crate::stdio::{self, Streams};

/// How long an ended process's output may take to be handed on before its streams are closed: a
/// process it left behind may hold them open for ever. As long as the stock shim waits.
const DRAIN: Duration = Duration::from_secs(10);

/// What the exit code of a process is that could not be started.
const NEVER_RAN: u32 = 255;

/// One container.
pub struct Container {
    /// Its name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    init: Arc<Task>,
    execs: Mutex<HashMap<String, Exec>>,
    paused: Mutex<bool>,
    /// Held while a process is being started and announced, so that its end is announced after that,
    /// and an init's end after that of all other processes.
    starting: tokio::sync::Mutex<()>,
    inner: Arc<dyn trefoil_core::Container>,
    events: Publisher,
}

struct Exec {
    task: Arc<Task>,
    /// What to run, until it has been started.
    spec: Option<ProcessSpec>,
}

impl Container {
    pub(super) fn new(
        id: &str,
        bundle: PathBuf,
        streams: Streams,
        inner: Arc<dyn trefoil_core::Container>,
        events: Publisher,
    ) -> Arc<Self> {
        let container = Arc::new(Self {
            id: id.to_owned(),
            bundle,
            init: Arc::new(Task::new("", streams, Some(inner.init()))),
            execs: Mutex::default(),
            paused: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            inner,
            events,
        });
        tokio::spawn(watch_init(container.clone()));
        tokio::spawn(watch_memory(container.clone()));
        container
    }

    /// The process of that name, or the init if the name is empty.
    pub fn task(&self, exec_id: &str) -> Result<Arc<Task>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        lock(&self.execs)
            .get(exec_id)
            .map(|exec| exec.task.clone())
            .ok_or_else(|| {
                Error::not_found(format!("container {} has no process {exec_id}", self.id))
            })
    }

    /// The status of one of the container's processes.
    pub fn status(&self, task: &Task) -> Status {
        match task.status() {
            Status::Running if *lock(&self.paused) => Status::Paused,
            status => status,
        }
    }

    /// Runs the container's program. Returns its pid.
    pub async fn start(&self) -> Result<u32> {
        let _starting = self.starting.lock().await;
        match self.init.status() {
            Status::Created => {}
            Status::Stopped => return Err(self.refuse("start", "its init has ended")),
            _ => return Err(self.refuse("start", "it has been started")),
        }
        self.inner.start().await?;
        self.init.set_started(self.inner.init());
        let pid = self.init.pid();
        self.events.publish(TaskStart {
            container_id: self.id.clone(),
            pid,
            ..Default::default()
        });
        Ok(pid)
    }

    /// Notes a process to be run in the container.
    pub fn add_exec(&self, exec_id: &str, spec: ProcessSpec, streams: Streams) -> Result<()> {
        if self.init.ended().is_some() {
            return Err(self.refuse("exec", "its init has ended"));
        }
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec_id) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("container {} has a process {exec_id} already", self.id),
            ));
        }
        let exec = Exec {
            task: Arc::new(Task::new(exec_id, streams, None)),
            spec: Some(spec),
        };
        execs.insert(exec_id.to_owned(), exec);
        drop(execs);
        self.events.publish(TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        });
        Ok(())
    }

    /// Runs a process noted before. Returns its pid.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32> {
        let task = self.task(exec_id)?;
        let _starting = self.starting.lock().await;
        let spec = lock(&self.execs)
            .get_mut(exec_id)
            .and_then(|exec| exec.spec.take())
            .ok_or_else(|| {
                Error::precondition(format!(
                    "start process {exec_id} in container {}: it has been started",
                    self.id
                ))
            })?;
        let outcome = match self.init.ended() {
            Some(_) => Err(self.refuse("exec", "its init has ended")),
            None if *lock(&self.paused) => Err(self.refuse("exec", "it is paused")),
            None => self.run_exec(&task, spec).await,
        };
        if outcome.is_err() {
            task.set_ended(ExitStatus::now(NEVER_RAN));
        }
        outcome
    }

    async fn run_exec(self: &Arc<Self>, task: &Arc<Task>, spec: ProcessSpec) -> Result<u32> {
        let stdio = stdio::open(&task.streams, "", &self.id).await?;
        let process = self
            .inner
            .exec(ExecConfig {
                id: task.exec_id.clone(),
                process: spec,
                stdio,
            })
            .await?;
        let pid = process.pid();
        task.set_started(process);
        self.events.publish(TaskExecStarted {
            container_id: self.id.clone(),
            exec_id: task.exec_id.clone(),
            pid,
            ..Default::default()
        });
        tokio::spawn(watch_exec(self.clone(), task.clone()));
        Ok(pid)
    }

    /// Forgets an exec'd process that has ended or was never started.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(u32, ExitStatus)> {
        let task = self.task(exec_id)?;
        let status = match task.status() {
            Status::Running | Status::Paused => {
                return Err(Error::precondition(format!(
                    "cannot delete a running process: {exec_id} of container {}",
                    self.id
                )));
            }
            Status::Created => ExitStatus::now(0),
            Status::Stopped => task.wait().await,
        };
        if let Ok(process) = task.process() {
            let _ = tokio::time::timeout(DRAIN, process.drain()).await;
            process.close_stdio().await;
        }
        lock(&self.execs).remove(exec_id);
        task.set_ended(status);
        Ok((task.pid(), status))
    }

    /// Removes the container: its init has ended or was never started.
    pub(super) async fn delete(&self) -> Result<(u32, ExitStatus)> {
        match self.init.status() {
            Status::Running | Status::Paused => {
                return Err(self.refuse("delete", "cannot delete a running process"));
            }
            Status::Created => {
                self.init.kill(libc::SIGKILL).await.or_else(gone_is_fine)?;
            }
            Status::Stopped => {}
        }
        let status = self.init.wait().await;
        let process = self.inner.init();
        let _ = tokio::time::timeout(DRAIN, process.drain()).await;
        process.close_stdio().await;
        self.inner.delete().await?;
        Ok((process.pid(), status))
    }

    /// Sends a signal to one process or to all of the container.
    pub async fn kill(&self, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        let task = self.task(exec_id)?;
        if all && exec_id.is_empty() {
            return self.inner.kill_all(signal).await;
        }
        task.kill(signal).await
    }

    /// Stops all processes where they are.
    pub async fn pause(&self) -> Result<()> {
        if self.status(&self.init) != Status::Running {
            return Err(self.refuse("pause", "it is not running"));
        }
        self.inner.pause().await?;
        *lock(&self.paused) = true;
        self.events.publish(TaskPaused {
            container_id: self.id.clone(),
            ..Default::default()
        });
        Ok(())
    }

    /// Undoes [`Container::pause`].
    pub async fn resume(&self) -> Result<()> {
        if self.status(&self.init) != Status::Paused {
            return Err(self.refuse("resume", "it is not paused"));
        }
        self.inner.resume().await?;
        *lock(&self.paused) = false;
        self.events.publish(TaskResumed {
            container_id: self.id.clone(),
            ..Default::default()
        });
        Ok(())
    }

    /// Changes limits.
    pub async fn update(&self, resources: &LinuxResources) -> Result<()> {
        if self.init.ended().is_some() {
            return Err(self.refuse("update", "its init has ended"));
        }
        self.inner.update(resources).await
    }

    /// What the container uses.
    pub async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }

    /// The container's processes, each with the name it was exec'd under.
    pub async fn processes(&self) -> Result<Vec<(u32, Option<String>)>> {
        let pids = self.inner.processes().await?;
        if pids.is_empty() {
            // No empty list: from that a restarted containerd concludes that the shim has lost track, and
            // forgets how the container ended.
            return Err(self.refuse("list the processes of", "its init has ended"));
        }
        let execs = lock(&self.execs);
        let init = self.init.pid();
        let name = |pid| {
            // In a guest all have one number.
            execs
                .values()
                .find(|exec| exec.task.pid() == pid && pid != init)
                .map(|exec| exec.task.exec_id.clone())
        };
        Ok(pids.into_iter().map(|pid| (pid, name(pid))).collect())
    }

    fn refuse(&self, what: &str, why: &str) -> Error {
        Error::precondition(format!("{what} container {}: {why}", self.id))
    }

    fn running_execs(&self) -> Vec<Arc<Task>> {
        lock(&self.execs)
            .values()
            .map(|exec| exec.task.clone())
            .filter(|task| task.status() == Status::Running)
            .collect()
    }

    fn publish_exit(&self, task: &Task, pid: u32, status: ExitStatus) {
        let id = match task.exec_id.as_str() {
            "" => &self.id,
            exec_id => exec_id,
        };
        self.events.publish(TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid,
            exit_status: status.code,
            exited_at: Some(timestamp(status.at)).into(),
            ..Default::default()
        });
    }

    fn publish_out_of_memory(&self) {
        self.events.publish(TaskOOM {
            container_id: self.id.clone(),
            ..Default::default()
        });
    }
}

/// A mount of a container's root, as it came.
pub(super) fn mount(message: &MountMessage) -> trefoil_core::Mount {
    trefoil_core::Mount {
        kind: message.type_.clone(),
        source: message.source.clone(),
        target: message.target.clone(),
        options: message.options.clone(),
    }
}

pub(super) fn gone_is_fine(why: Error) -> Result<()> {
    match why.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(why),
    }
}

/// Announces the end of the init, as the last thing that happens to the container.
async fn watch_init(container: Arc<Container>) {
    let process = container.inner.init();
    let status = process.wait().await;
    if !container.inner.owns_its_processes()
        && let Err(why) = container.inner.kill_all(libc::SIGKILL).await
    {
        log::warn!("kill what the init of {} left behind: {why}", container.id);
    }
    let _starting = container.starting.lock().await;
    for task in container.running_execs() {
        task.wait().await;
    }
    // The kernel said so before the process ended: containerd is to know the reason before the end.
    let just_now = tokio::time::timeout(Duration::ZERO, container.inner.out_of_memory());
    if just_now.await.is_ok() {
        container.publish_out_of_memory();
    }
    container.init.set_ended(status);
    container.publish_exit(&container.init, process.pid(), status);
}

async fn watch_exec(container: Arc<Container>, task: Arc<Task>) {
    if let Ok(process) = task.process() {
        let status = process.wait().await;
        task.set_ended(status);
        container.publish_exit(&task, process.pid(), status);
    }
}

async fn watch_memory(container: Arc<Container>) {
    loop {
        tokio::select! {
            () = container.inner.out_of_memory() => container.publish_out_of_memory(),
            _ = container.init.wait() => return,
        }
    }
}
