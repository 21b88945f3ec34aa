//! `crictl` and `ctr`, and what they make of a rig's images.

use std::process::Command;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use super::Rig;
use super::handler::Handler;
use crate::command::{self, Finished};

impl Rig {
    pub(super) fn crictl_raw(
        &self,
        arguments: &[&str],
        stdin: &[u8],
        limit: Duration,
    ) -> Result<Finished> {
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
}
