//! Where lives what is kept from one run to the next.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where cached things live: `$XDG_CACHE_HOME/trefoil`, or `~/.cache/trefoil`.
pub fn directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(
            std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
        )
        .join(".cache"),
    };
    Ok(base.join("trefoil"))
}
