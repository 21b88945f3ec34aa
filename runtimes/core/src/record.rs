//! Records on disk that outlive the process which wrote them, and may be read by another release.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Context, Error, Result};

#[derive(Deserialize)]
struct Versioned {
    /// The first had none.
    #[serde(default = "first")]
    version: u32,
}

/// The version of records that say none.
#[must_use]
pub fn first() -> u32 {
    1
}

/// Reads the record at `path`, JSON whose `version` is at most `newest`; `None` if there is none.
///
/// # Errors
/// If it can't be read, or is a later release's: what that has made, this one can't remove.
pub fn read<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<Option<T>> {
    let doing = || format!("read the record {}", path.display());
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(why).context(doing),
    };
    let Versioned { version } = serde_json::from_slice(&text).context(doing)?;
    if version > newest {
        return Err(Error::precondition(format!(
            "{}: it is of version {version}, and this release knows {newest}",
            doing()
        )));
    }
    serde_json::from_slice(&text).map(Some).context(doing)
}
