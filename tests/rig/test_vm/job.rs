//! What the host tells the test VM to do: written to the share that both see.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The share's name, and where the test VM mounts it.
pub const SHARE_TAG: &str = "job";
/// Where the test VM mounts the share.
pub const SHARE: &str = "/run/trefoil-test-vm";
/// The 9p name of the host's root.
pub const ROOT_TAG: &str = "root";
/// The virtio port that what the command prints goes through.
pub const OUTPUT_PORT: &str = "output";

/// What the test VM is to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Job {
    /// The command and its arguments; with `terminal`, on a terminal.
    pub command: Vec<String>,
    /// Where it is started.
    pub directory: PathBuf,
    /// Its environment, all of it.
    pub environment: Vec<(String, String)>,
    /// The rows and columns of a terminal, if the command is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Whether the root is to be read-only when the command starts.
    pub read_only: bool,
    /// Whether systemd is to be PID 1.
    pub systemd: bool,
    /// The directory that is to be `/lib/modules`.
    pub modules: PathBuf,
    /// Block images, and what of them is bound where.
    pub hot: Vec<Hot>,
    /// Directories that may be written to; the n-th is [`writable_tag`]'s.
    pub writable: Vec<PathBuf>,
}

/// The 9p name of a writable directory.
pub fn writable_tag(number: usize) -> String {
    format!("writable{number}")
}

/// A block image: its n-th entry is bound over the n-th path.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hot {
    /// `/dev/vdX`
    pub device: PathBuf,
    /// The paths, as on the host.
    pub paths: Vec<PathBuf>,
}

/// The file that holds the job.
pub fn file(share: &Path) -> PathBuf {
    share.join("job.json")
}

/// The file that the test VM writes when the command has ended: its exit status, as a shell counts.
pub fn exit_file(share: &Path) -> PathBuf {
    share.join("exit")
}
