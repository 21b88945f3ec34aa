//! Everything the new process will need, worked out on the host before anything changes.

use nix::sys::stat::Mode;
use oci_spec::runtime::{Process, Spec};

use super::console::WindowSize;
use super::cpulist::Affinity;
use super::credentials::Credentials;
use super::environment::Environment;
use super::error::{ExecError, Failure};
use super::labels::Labels;
use super::limits::Limits;
use super::program::Program;
use super::scheduling::Scheduling;
use super::seccomp;

/// What init gets where nothing else is asked for.
const DEFAULT_UMASK: u32 = 0o022;

/// The process to be, in the terms of the kernel.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) environment: Environment,
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
    pub(crate) affinity: Affinity,
    pub(crate) scheduling: Scheduling,
    pub(crate) labels: Labels,
    pub(crate) seccomp: Option<seccomp::Filter>,
    pub(crate) no_new_privileges: bool,
    pub(crate) umask: Mode,
    pub(crate) window_size: Option<WindowSize>,
}

impl Plan {
    /// Checks and translates `process`, to run in the container that `spec` describes.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Result<Self, ExecError> {
        Self::translate(process, spec).map_err(|failure| ExecError::Invalid(failure.to_string()))
    }

    fn translate(process: &Process, spec: &Spec) -> Result<Self, Failure> {
        if !process.cwd().is_absolute() {
            let cwd = process.cwd().display().to_string();
            return Err(Failure::new(format!(
                "cwd must be an absolute path, not {cwd:?}"
            )));
        }
        let containers = || spec.process().as_ref().and_then(|init| init.user().umask());
        let umask = process
            .user()
            .umask()
            .or_else(containers)
            .unwrap_or(DEFAULT_UMASK);
        Ok(Self {
            program: Program::new(process.args().as_deref().unwrap_or_default())?,
            environment: Environment::new(process.env().as_deref().unwrap_or_default())?,
            credentials: Credentials::new(process, spec),
            limits: Limits::new(process, spec),
            affinity: Affinity::new(process, spec)?,
            scheduling: Scheduling::new(process, spec)?,
            labels: Labels::new(process, spec)?,
            seccomp: seccomp::of(spec)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            umask: Mode::from_bits_truncate(umask & 0o777),
            window_size: WindowSize::of(process),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(process: serde_json::Value) -> Result<Plan, ExecError> {
        Plan::new(&serde_json::from_value(process).unwrap(), &Spec::default())
    }

    #[test]
    fn impossible_requests_are_refused_on_the_host() {
        let user = serde_json::json!({"uid": 0, "gid": 0});
        for (process, phrase) in [
            (
                serde_json::json!({"user": user, "cwd": "/"}),
                "args must not be empty",
            ),
            (
                serde_json::json!({"user": user, "cwd": "", "args": ["a"]}),
                "absolute path",
            ),
            (
                serde_json::json!({"user": user, "cwd": "a", "args": ["a"]}),
                "absolute path",
            ),
            (
                serde_json::json!({"user": user, "cwd": "/", "args": ["a"], "env": ["A"]}),
                "environment variable",
            ),
        ] {
            let error = plan(process).unwrap_err();
            assert!(matches!(error, ExecError::Invalid(_)));
            assert!(error.to_string().contains(phrase), "{error}");
        }
    }
}
