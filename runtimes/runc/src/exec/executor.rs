//! The executor of a container's first process: finds the program, sets HOME and words its errors
//! exactly as [`exec`](super::exec) does.
//!
//! libcontainer's own refuses a spec without PATH, edits the environment of the process it runs in
//! (which needs a lock that a forked process may find held), leaves SIGPIPE ignored, and has error
//! texts that nobody matches.

use std::collections::HashMap;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::sys::stat::stat;
use oci_spec::runtime::{Process, Spec};

use super::environment::Environment;
use super::error::{Doing, Failure};
use super::lookup::{FileId, identity};
use super::passwd;
use super::program::Program;
use super::signals;

/// Runs a container's first process.
#[derive(Debug, Clone, Default)]
pub struct InitExecutor {
    find_home: bool,
    runtime: Option<FileId>,
}

impl InitExecutor {
    /// For a container that `spec` describes; to be called on the host, before libcontainer reads
    /// the spec.
    ///
    /// If the spec sets no HOME, a placeholder is added to it and replaced when the program starts.
    /// Otherwise libcontainer would ask the C library for it, inside the container, and that loads
    /// name service modules from there.
    pub fn new(spec: &mut Spec) -> Self {
        Self {
            find_home: spec
                .process_mut()
                .as_mut()
                .is_some_and(add_home_placeholder),
            runtime: stat("/proc/self/exe").ok().map(|status| identity(&status)),
        }
    }

    fn prepare(&self, spec: &Spec) -> Result<(Program, Environment), Failure> {
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| Failure::new("the spec has no process"))?;
        let program = Program::new(process.args().as_deref().unwrap_or_default())?;
        let environment = Environment::new(process.env().as_deref().unwrap_or_default())?;
        Ok((program, environment))
    }

    fn become_program(&self, spec: &Spec) -> Result<std::convert::Infallible, Failure> {
        let (program, mut environment) = self.prepare(spec)?;
        let uid = spec
            .process()
            .as_ref()
            .map_or(0, |process| process.user().uid())
            .into();
        if self.find_home {
            environment.set_home(passwd::home_of(uid));
        } else {
            environment.set_home_if_missing(|| passwd::home_of(uid));
        }
        let path = program.find(&environment, self.runtime)?;
        signals::reset().doing(|| "reset the signals")?;
        Err(program.become_it(&path, &environment))
    }
}

/// Returns whether a placeholder was needed.
fn add_home_placeholder(process: &mut Process) -> bool {
    let list = process.env_mut().get_or_insert_default();
    // As in `Environment`, the last value counts and an empty one does not.
    let last = list
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("HOME="));
    let missing = last.is_none_or(str::is_empty);
    if missing {
        list.push("HOME=/".to_owned());
    }
    missing
}

impl Executor for InitExecutor {
    /// Comes too late for `create` to report; [`Self::validate`] has made the likely errors known.
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        match self.become_program(spec) {
            Ok(never) => match never {},
            Err(failure) => Err(ExecutorError::Other(failure.to_string())),
        }
    }

    /// Runs at `create`, as the container's user in its root.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.prepare(spec)
            .and_then(|(program, environment)| program.find(&environment, self.runtime))
            .map(drop)
            .map_err(|failure| ExecutorValidationError::ArgValidationError(failure.to_string()))
    }

    /// The environment is given to `execve`, so this process's own stays as it is.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    fn spec(arguments: &[&str], environment: &[&str]) -> Spec {
        let list = |strings: &[&str]| strings.iter().map(ToString::to_string).collect::<Vec<_>>();
        let process = ProcessBuilder::default()
            .args(list(arguments))
            .env(list(environment))
            .build()
            .unwrap();
        SpecBuilder::default().process(process).build().unwrap()
    }

    fn validate(arguments: &[&str], environment: &[&str]) -> Result<(), String> {
        let mut spec = spec(arguments, environment);
        let executor = InitExecutor::new(&mut spec);
        executor.validate(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn programs_are_found_with_and_without_path() {
        assert_eq!(validate(&["sh"], &["PATH=/bin"]), Ok(()));
        assert_eq!(validate(&["sh"], &[]), Ok(()));
        assert_eq!(validate(&["/bin/sh"], &["PATH="]), Ok(()));
    }

    #[test]
    fn errors_are_those_of_exec() {
        assert_eq!(
            validate(&["nope"], &["PATH=/bin"]),
            Err(r#"exec: "nope": executable file not found in $PATH"#.to_owned())
        );
        assert_eq!(
            validate(&["/nope"], &[]),
            Err(r#"exec: "/nope": stat /nope: no such file or directory"#.to_owned())
        );
        assert_eq!(validate(&[], &[]), Err("args must not be empty".to_owned()));
        assert!(
            validate(&["/proc/self/exe"], &[])
                .unwrap_err()
                .contains("runtime's own program")
        );
    }

    #[test]
    fn a_placeholder_for_home_is_added_once_and_only_when_needed() {
        for (environment, expected) in [
            (vec!["A=1"], vec!["A=1", "HOME=/"]),
            (vec!["HOME=/x"], vec!["HOME=/x"]),
            (vec!["HOME=/x", "HOME="], vec!["HOME=/x", "HOME=", "HOME=/"]),
        ] {
            let mut spec = spec(&["a"], &environment);
            let executor = InitExecutor::new(&mut spec);
            let made = spec.process().as_ref().unwrap().env().clone().unwrap();
            assert_eq!(made, expected);
            assert_eq!(executor.find_home, made.len() != environment.len());
        }
    }
}
