//! The handlers of a rig's containerd, and where the shim of ours is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

/// The environment variable that names our shim's binary.
pub const SHIM_VARIABLE: &str = "TREFOIL_SHIM";

/// The name of our shim's one file.
pub(super) const OUR_SHIM: &str = "containerd-shim-trefoil-v2";

/// A runtime handler of the rig's containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The stock shim with runc: the reference.
    Runc,
    /// Ours, with namespace containers.
    Trefoil,
    /// Ours, with microVMs.
    TrefoilVm,
    /// Ours, with confidential VMs.
    TrefoilConfidential,
    /// As [`Self::Trefoil`], with pods that containerd's Sandbox API makes.
    TrefoilSandbox,
    /// As [`Self::TrefoilVm`], with pods that containerd's Sandbox API makes.
    TrefoilVmSandbox,
}

impl Handler {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Runc,
        Self::Trefoil,
        Self::TrefoilVm,
        Self::TrefoilConfidential,
        Self::TrefoilSandbox,
        Self::TrefoilVmSandbox,
    ];

    /// The name in containerd's configuration and in RuntimeClasses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Trefoil => "trefoil",
            Self::TrefoilVm => "trefoil-vm",
            Self::TrefoilConfidential => "trefoil-confidential",
            Self::TrefoilSandbox => "trefoil-sandbox",
            Self::TrefoilVmSandbox => "trefoil-vm-sandbox",
        }
    }

    /// Whether its shim is ours.
    pub fn is_ours(self) -> bool {
        self != Self::Runc
    }

    /// The one of the same isolation whose pods have containers of their own: what is asked of that is asked
    /// of this.
    pub fn usual(self) -> Self {
        match self {
            Self::TrefoilSandbox => Self::Trefoil,
            Self::TrefoilVmSandbox => Self::TrefoilVm,
            usual => usual,
        }
    }

    /// The one of the same isolation whose pods containerd's Sandbox API makes, if there is one.
    pub fn by_sandbox_api(self) -> Option<Self> {
        match self {
            Self::Trefoil | Self::TrefoilSandbox => Some(Self::TrefoilSandbox),
            Self::TrefoilVm | Self::TrefoilVmSandbox => Some(Self::TrefoilVmSandbox),
            Self::Runc | Self::TrefoilConfidential => None,
        }
    }

    /// Whether its pods are machines.
    pub fn makes_machines(self) -> bool {
        matches!(self.usual(), Self::TrefoilVm | Self::TrefoilConfidential)
    }

    /// What containerd finds the shim's binary by.
    pub fn runtime_type(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Trefoil | Self::TrefoilSandbox => "io.containerd.trefoil.v2",
            Self::TrefoilVm | Self::TrefoilVmSandbox => "io.containerd.trefoil-vm.v2",
            Self::TrefoilConfidential => "io.containerd.trefoil-confidential.v2",
        }
    }

    /// What containerd makes of that: the shim's name.
    pub(crate) fn shim(self) -> &'static str {
        match self {
            Self::Runc => "containerd-shim-runc-v2",
            Self::Trefoil | Self::TrefoilSandbox => OUR_SHIM,
            Self::TrefoilVm | Self::TrefoilVmSandbox => "containerd-shim-trefoil-vm-v2",
            Self::TrefoilConfidential => "containerd-shim-trefoil-confidential-v2",
        }
    }
}

impl Handler {
    /// An error that says what to do if this handler's shim isn't there.
    pub fn require(self) -> Result<()> {
        let shim = shim_binary();
        if self.is_ours() && !shim.exists() {
            bail!(
                "{} isn't there: cargo build --release, or set {SHIM_VARIABLE}",
                shim.display()
            );
        }
        Ok(())
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Handler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|handler| handler.name() == name)
            .with_context(|| format!("no handler {name:?}: there are {names}"))
    }
}

/// The binary of our shim: `$TREFOIL_SHIM`, or the release build.
pub fn shim_binary() -> PathBuf {
    if let Some(path) = std::env::var_os(SHIM_VARIABLE) {
        return PathBuf::from(path);
    }
    release_directory().join(OUR_SHIM)
}

/// Where cargo puts what it builds to be released.
pub fn release_directory() -> PathBuf {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    target.join("x86_64-unknown-linux-gnu/release")
}
