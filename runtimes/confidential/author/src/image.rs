//! What a policy needs to know of an image.

use std::collections::BTreeSet;

use trefoil_policy::{Digest, Layer};

/// An image, as much as matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its manifest's digest.
    pub digest: Digest,
    /// Its layers, the uppermost first.
    pub layers: Vec<Layer>,
    /// What it says about its containers.
    pub config: Config,
    /// `/etc/passwd`.
    pub passwd: UserFile,
    /// `/etc/group`.
    pub group: UserFile,
    /// What its author should know: a sentence each.
    pub cautions: Vec<String>,
}

/// A file in which names of users or groups are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserFile {
    /// There is none.
    #[default]
    Missing,
    /// What is in it.
    Bytes(Vec<u8>),
    /// It is a link, or below one.
    Link,
    /// A layer's archive has entries that are not understood here, and may have it.
    Unread,
}

/// An image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// What is run.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Variables, with `=` between name and value.
    pub env: Vec<String>,
    /// The user, or user and group, by name or number.
    pub user: String,
    /// The working directory.
    pub working_dir: String,
    /// Paths that are to be volumes.
    pub volumes: BTreeSet<String>,
    /// By which it is stopped.
    pub stop_signal: String,
}

/// Where images are found.
pub trait Images {
    /// The image of a reference, as a manifest spells it.
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    fn image(&self, reference: &str) -> Result<Image, String>;
}
