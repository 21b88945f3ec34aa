//! Running a program to its end, with errors that say which one and why.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;

/// How much of an argument is shown in messages, in characters.
const ARGUMENT: usize = 120;

/// How a command is shown in messages: in one line, without the directory of its program, and with no more
/// than the beginning of what is a script.
pub fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    if let Some((_, name)) = line.rsplit_once('/') {
        line = name.to_owned();
    }
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&brief(&argument.to_string_lossy()));
    }
    line
}

/// The beginning of an argument, in one line.
fn brief(argument: &str) -> String {
    let words: Vec<_> = argument.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(ARGUMENT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The cargo that we were built by, or else the one in `PATH`. It is not told which package we are.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_package(&mut cargo);
    cargo
}

/// Takes out of a command's environment what cargo tells those that it runs of their package. Build scripts
/// that say that they read it (ring's does) would be run again, and all that follows from them built again,
/// each time another of our programs asks for it.
pub fn forget_package(command: &mut Command) {
    let names = env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_str().is_some_and(tells_of_package)) {
        command.env_remove(name);
    }
}

/// Whether a variable is one that cargo sets for what it runs.
///
/// Source: "Environment variables Cargo sets for crates", in the Cargo book.
fn tells_of_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(
            name,
            "CARGO_CRATE_NAME" | "CARGO_BIN_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR"
        )
}

/// What a command prints; its complaints are the error if it fails.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = describe(command);
    progress::doing(&line);
    let output = command
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        bail!(
            "`{line}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_which_package_asks() {
        // Cargo has told this test.
        assert!(env::var_os("CARGO_PKG_NAME").is_some());
        let cargo = cargo();
        let removed: Vec<_> = cargo
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        for name in [
            "CARGO_PKG_NAME",
            "CARGO_PKG_VERSION_MAJOR",
            "CARGO_MANIFEST_DIR",
        ] {
            assert!(removed.iter().any(|one| *one == name), "{name}");
        }
        assert!(!removed.iter().any(|name| *name == "CARGO_HOME"));
    }

    #[test]
    fn a_command_is_shown_in_one_line_that_is_not_long() {
        let mut command = Command::new("/usr/bin/sh");
        command.args(["-c", &format!("set -e\n  {}", "é".repeat(200))]);
        let line = describe(&command);
        assert!(line.starts_with("sh -c set -e éé"), "{line}");
        assert!(line.ends_with('…') && line.chars().count() < 140, "{line}");
    }
}
