//! `[confidential]` of the node's configuration.

use std::path::PathBuf;
use std::sync::Arc;

use trefoil_core::settings::{Key, Kind, Settings, Table};
use trefoil_core::{Error, Result};
use trefoil_sandbox_vmm::Scratch;

use crate::tee::{Simulated, Tee};

/// The table.
pub(crate) static TABLE: Table = Table {
    name: "confidential",
    keys: &[
        key("tee", Kind::Text),
        key("kernel", Kind::Text),
        key("image", Kind::Text),
        key("state", Kind::Text),
        key("initdata", Kind::Text),
        key("scratch-gib", Kind::Number),
        key("default-cpus", Kind::Number),
        key("default-memory-mib", Kind::Number),
        key("overhead-memory-mib", Kind::Number),
        key("boot-timeout-seconds", Kind::Number),
    ],
};

/// A pod can't say any of it for itself: it is the node's, and what a pod's author says is in the initdata.
const fn key(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        annotation: None,
    }
}

/// How large scratch disks are if the configuration doesn't say, in GiB. They take of the host what is written.
const SCRATCH_GIB: u64 = 8;

/// A file that is written may have no more, in GiB.
const MOST_SCRATCH_GIB: u64 = 1 << 10;

/// Where scratch disks and trees of layers are kept if the configuration doesn't say.
const STATE: &str = "/var/lib/trefoil";

/// What the table says that only this runtime reads.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub state: PathBuf,
    /// The file with the initdata of pods that bring none.
    pub initdata: Option<PathBuf>,
    pub scratch: Option<Scratch>,
}

impl Own {
    pub(crate) fn read(table: &Settings) -> Result<Self> {
        let state = table.path("state", STATE)?;
        let size = table.number("scratch-gib", SCRATCH_GIB << 30, |gib| match gib {
            ..=MOST_SCRATCH_GIB => Ok(gib << 30),
            _ => Err(format!("from 0 to {MOST_SCRATCH_GIB}")),
        })?;
        let initdata = match table.text("initdata")? {
            Some(_) => Some(table.path("initdata", "")?),
            None => None,
        };
        let directory = state.join("scratch");
        Ok(Self {
            kernel: table.path("kernel", "confidential-vmlinux")?,
            initramfs: table.path("image", "confidential-initramfs")?,
            scratch: (size > 0).then_some(Scratch { directory, size }),
            initdata,
            state,
        })
    }
}

/// The TEE that the configuration names; none if it names none.
///
/// # Errors
/// If it names one that there is not.
pub(crate) fn tee(table: &Settings) -> Result<Option<Arc<dyn Tee>>> {
    match table.text("tee")? {
        None => Ok(None),
        Some(("simulated", _)) => Ok(Some(Arc::new(Simulated))),
        Some((other, origin)) => Err(Error::invalid(format!(
            "{origin} is {other:?}; it must be \"simulated\""
        ))),
    }
}
