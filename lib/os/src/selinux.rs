//! SELinux of the host: whether there is one, and under which label a program is started.

use std::fs;
use std::io;
use std::marker::PhantomData;

use nix::sys::statfs::{SELINUX_MAGIC, statfs};

use crate::{Context, Error, Result};

/// Whether the host has SELinux.
#[must_use]
pub fn is_enabled() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|fs| fs.filesystem_type() == SELINUX_MAGIC)
}

/// Why a label can't be had where [`is_enabled`] says no, in the words of stock runtimes.
#[must_use]
pub fn refusal(label: &str) -> Error {
    Error::invalid(
        format!("cannot apply SELinux label {label:?}"),
        "selinux is disabled or not supported",
    )
}

/// While it lives, programs that this thread and its children execute start under a label
/// (`setexeccon(3)`). It belongs to the thread.
#[derive(Debug)]
pub struct ExecLabel(PhantomData<*const ()>);

const ATTRIBUTE: &str = "/proc/thread-self/attr/exec";

impl ExecLabel {
    /// Tells the kernel.
    ///
    /// # Errors
    /// If the host has no SELinux, or its policy does not know the label.
    pub fn set(label: &str) -> Result<Self> {
        if !is_enabled() {
            return Err(refusal(label));
        }
        write(label.as_bytes()).context(|| format!("apply SELinux label {label:?}"))?;
        Ok(Self(PhantomData))
    }
}

impl Drop for ExecLabel {
    fn drop(&mut self) {
        // An empty text means the policy's own choice.
        if let Err(why) = write(b"") {
            log::error!("take back an SELinux label: {why}");
        }
    }
}

fn write(text: &[u8]) -> io::Result<()> {
    fs::write(ATTRIBUTE, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_refused_where_it_means_nothing() {
        // Nowhere is there one of this name.
        let why = ExecLabel::set("no:such:label").unwrap_err().to_string();
        assert!(
            why.contains("apply SELinux label \"no:such:label\""),
            "{why}"
        );
    }
}
