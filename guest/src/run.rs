//! Running a program to its end, with errors that say which one and why.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress;

/// How a command is shown in messages: without the directory of its program.
pub fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    if let Some((_, name)) = line.rsplit_once('/') {
        line = name.to_owned();
    }
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
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
