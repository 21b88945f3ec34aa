//! The runtimes that this binary holds, one for each isolation: the one place that knows them apart.

use std::sync::Arc;

use trefoil_core::{Context, Error, ErrorKind, Isolation, Result, Runtime};
use trefoil_runc::{Launcher, Runc};

use crate::dispatch::Lacks;

/// What can't be had of this binary on this node.
pub fn lacks() -> Lacks {
    Lacks {
        microvm: Some(not_built(Isolation::MicroVm)),
        confidential: Some(not_built(Isolation::Confidential)),
    }
}

fn not_built(isolation: Isolation) -> String {
    format!("this build has no {isolation} runtime")
}

/// A runtime as far as it can be made while the process has one thread and no event loop.
pub enum Prepared {
    /// Namespaces, with their helper.
    Namespace(Launcher),
}

impl Prepared {
    /// Prepares the runtime of an isolation.
    pub fn new(isolation: Isolation) -> Result<Self> {
        match isolation {
            // The helper is a fork of this process while it is still small and single-threaded.
            Isolation::Namespace => Launcher::spawn()
                .map(Self::Namespace)
                .context(|| "start the helper process"),
            Isolation::MicroVm | Isolation::Confidential => {
                Err(Error::new(ErrorKind::Unimplemented, not_built(isolation)))
            }
        }
    }

    /// The runtime. Must be called within the event loop.
    pub fn runtime(self) -> Arc<dyn Runtime> {
        match self {
            Self::Namespace(launcher) => Arc::new(Runc::new(launcher)),
        }
    }
}
