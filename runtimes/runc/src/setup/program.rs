//! The program and its arguments, and becoming it.

use std::ffi::{CString, c_char};

use nix::errno::Errno;

use super::environment::Environment;
use super::error::{Failure, reason};
use super::lookup::{self, FileId};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    file: String,
    arguments: Vec<CString>,
}

impl Program {
    /// From a process's arguments, the first of which names the program.
    pub(crate) fn new(arguments: &[String]) -> Result<Self, Failure> {
        let file = arguments
            .first()
            .ok_or_else(|| Failure::new("args must not be empty"))?;
        let arguments = arguments
            .iter()
            .map(|one| CString::new(one.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|_| Failure::new("an argument contains a NUL"))?;
        Ok(Self {
            file: file.clone(),
            arguments,
        })
    }

    /// Finds it in the root and as the user this process has now.
    pub(crate) fn find(
        &self,
        environment: &Environment,
        runtime: Option<FileId>,
    ) -> Result<CString, Failure> {
        lookup::find(&self.file, environment.get("PATH"), runtime)
            .map_err(|error| Failure::new(error.to_string()))
    }

    /// Becomes it. Comes back only to say why that failed.
    pub(crate) fn become_it(&self, path: &CString, environment: &Environment) -> Failure {
        let variables = environment.to_block();
        let (argv, envp) = (pointers(&self.arguments), pointers(&variables));
        // SAFETY: `path` and every element of both lists are NUL-terminated strings that live
        // through the call, and both lists end in a null pointer.
        unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        let why = reason(Errno::last());
        Failure::new(format!("exec {}: {why}", path.to_string_lossy()))
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|one| one.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_a_name_without_nul() {
        assert!(Program::new(&[]).is_err());
        assert!(Program::new(&["a\0b".to_owned()]).is_err());
        assert_eq!(
            Program::new(&["a".to_owned(), String::new()])
                .unwrap()
                .arguments
                .len(),
            2
        );
    }
}
