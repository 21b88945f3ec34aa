//! A process as containerd knows it: asked for, running, ended.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use trefoil_core::{Error, ExitStatus, Process, Result, TerminalSize};
use trefoil_os::lock;

use crate::stdio::Streams;

/// What containerd calls a process's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has been asked for, but not started.
    Created,
    /// It runs.
    Running,
    /// It runs, but its container stands still.
    Paused,
    /// It has ended, or could not be started.
    Stopped,
}

/// A process: a container's init or one exec'd into it.
pub struct Task {
    /// Its name within the container: empty for the init.
    pub exec_id: String,
    /// Where its streams go.
    pub streams: Streams,
    process: Mutex<Option<Arc<dyn Process>>>,
    started: Mutex<bool>,
    /// How it ended, once the world may know.
    ended: watch::Sender<Option<ExitStatus>>,
}

impl Task {
    /// A process that has been asked for; `process` is there already for an init.
    pub fn new(exec_id: &str, streams: Streams, process: Option<Arc<dyn Process>>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            streams,
            process: Mutex::new(process),
            started: Mutex::new(false),
            ended: watch::Sender::new(None),
        }
    }

    /// Its number, or 0 while there is no process.
    pub fn pid(&self) -> u32 {
        lock(&self.process)
            .as_ref()
            .map_or(0, |process| process.pid())
    }

    /// The process, if there is one yet.
    pub fn process(&self) -> Result<Arc<dyn Process>> {
        lock(&self.process).clone().ok_or_else(|| {
            Error::precondition(format!("process {} has not been started", self.exec_id))
        })
    }

    /// The process runs now.
    pub fn set_started(&self, process: Arc<dyn Process>) {
        *lock(&self.process) = Some(process);
        *lock(&self.started) = true;
    }

    /// Tells everyone who waits that it has ended, or never will run.
    pub fn set_ended(&self, status: ExitStatus) {
        self.ended.send_replace(Some(status));
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Its status, but for pausing.
    pub fn status(&self) -> Status {
        match (self.ended(), *lock(&self.started)) {
            (Some(_), _) => Status::Stopped,
            (None, true) => Status::Running,
            (None, false) => Status::Created,
        }
    }

    /// Resolves when it has ended.
    pub async fn wait(&self) -> ExitStatus {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(status) = *ended.borrow_and_update() {
                return status;
            }
            // The sender lives as long as `self`.
            let _ = ended.changed().await;
        }
    }

    /// Sends a signal.
    pub async fn kill(&self, signal: i32) -> Result<()> {
        if self.ended().is_some() {
            return Err(Error::not_found("process already finished"));
        }
        self.process()?.kill(signal).await
    }

    /// Sets the terminal's size. A process not yet started takes its first size from its own request.
    pub async fn resize(&self, size: TerminalSize) -> Result<()> {
        match self.process() {
            Ok(process) if self.streams.terminal => process.resize(size).await,
            _ => Ok(()),
        }
    }

    /// Lets the process see the end of its input.
    pub async fn close_stdin(&self) {
        if let Ok(process) = self.process() {
            process.close_stdin().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn all_who_wait_learn_the_end_before_and_after() {
        let task = Arc::new(Task::new("x", Streams::default(), None));
        assert_eq!(task.status(), Status::Created);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let task = task.clone();
                tokio::spawn(async move { task.wait().await.code })
            })
            .collect();
        tokio::task::yield_now().await;
        task.set_ended(ExitStatus::now(7));
        for waiter in waiting {
            assert_eq!(waiter.await.expect("waiter"), 7);
        }
        assert_eq!(task.wait().await.code, 7);
        assert_eq!(task.status(), Status::Stopped);
        let why = task.kill(9).await.expect_err("ended");
        assert_eq!(why.kind(), trefoil_core::ErrorKind::NotFound);
    }
}
