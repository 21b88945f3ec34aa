//! A container's configuration as the OCI runtime specification has it, as far as a confidential pod's
//! may go. Whatever else a configuration has is denied by its name.

use std::collections::BTreeSet;

use super::json::{Field, Object};
use super::{HostLinux, HostProcess};
use crate::{Check, Denial, ensure};

/// A container's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The root's directory, which is always the same.
    pub root_path: String,
    /// The root can't be written to.
    pub read_only_root: bool,
    /// The first process.
    pub process: HostProcess,
    /// What is mounted, in order.
    pub mounts: Vec<HostMount>,
    /// What is Linux's own.
    pub linux: HostLinux,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostMount {
    /// Where.
    pub destination: String,
    /// The filesystem's type.
    pub kind: String,
    /// What the filesystem is of.
    pub source: String,
    /// Those that say something in a guest.
    pub options: BTreeSet<crate::MountOption>,
}

impl Configuration {
    /// Reads one.
    ///
    /// # Errors
    /// What is malformed, there twice, missing or unknown.
    pub fn from_json(json: &[u8]) -> Result<Self, Denial> {
        let mut all = Field::parse("configuration", json)?.object()?;
        version(&mut all)?;
        let (root_path, read_only_root) = root(all.demand("root")?)?;
        let read = Self {
            root_path,
            read_only_root,
            process: HostProcess::read(all.demand("process")?)?,
            mounts: all.list("mounts", HostMount::read)?,
            linux: HostLinux::read(all.demand("linux")?)?,
        };
        all.end()?;
        Ok(read)
    }
}

/// What it says is of no use to the guest, but has to be there.
fn version(all: &mut Object) -> Result<(), Denial> {
    let version = all.demand("ociVersion")?;
    let is_known = |text: &str| (text.len() <= 32 && text.starts_with("1.")).then_some(());
    version.one_of(is_known, "a version 1")
}

fn root(root: Field) -> Result<(String, bool), Denial> {
    let mut root = root.object()?;
    let path = root.demand("path")?.text()?;
    let read_only = root.maybe("readonly", Field::bool)?.unwrap_or(false);
    root.end()?;
    Ok((path, read_only))
}

impl HostMount {
    fn read(mount: Field) -> Result<Self, Denial> {
        let mut mount = mount.object()?;
        let destination = mount.demand("destination")?.text()?;
        let kind = mount.maybe("type", Field::text)?.unwrap_or_default();
        let source = mount.maybe("source", Field::text)?.unwrap_or_default();
        let mut options = BTreeSet::new();
        for (at, option) in mount.list("options", option)?.into_iter().enumerate() {
            let is_new = option.is_none_or(|option| options.insert(option));
            ensure(Check::Duplicate, is_new, || {
                let field = format!("{}.options[{at}]", mount.path());
                (field, "it came twice", "once")
            })?;
        }
        mount.end()?;
        Ok(Self {
            destination,
            kind,
            source,
            options,
        })
    }
}

/// One that says nothing in a guest is none.
fn option(option: Field) -> Result<Option<crate::MountOption>, Denial> {
    let path = option.path().to_owned();
    let text = option.text()?;
    if crate::MountOption::says_nothing(&text) {
        return Ok(None);
    }
    let came = format_args!("{text:?} came");
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|_| Denial::new(Check::Malformed, path, came, "an option of a guest's mount"))
}
