//! The names this binary is installed under. containerd makes a binary's name of a handler's
//! `runtime_type`, so the name it calls us by says which isolation the handler guarantees.

use std::ffi::OsStr;
use std::path::Path;

use trefoil_core::{Error, Isolation, Result};

/// One of the names, and what it stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Handler {
    /// The binary's file name.
    pub binary: &'static str,
    /// The `runtime_type` of which containerd makes that name.
    pub runtime: &'static str,
    /// The weakest isolation that a pod of this handler may get.
    pub floor: Isolation,
}

/// All of them, by rising isolation.
pub const HANDLERS: [Handler; 3] = [
    Handler {
        binary: "containerd-shim-trefoil-v2",
        runtime: "io.containerd.trefoil.v2",
        floor: Isolation::Namespace,
    },
    Handler {
        binary: "containerd-shim-trefoil-vm-v2",
        runtime: "io.containerd.trefoil-vm.v2",
        floor: Isolation::MicroVm,
    },
    Handler {
        binary: "containerd-shim-trefoil-confidential-v2",
        runtime: "io.containerd.trefoil-confidential.v2",
        floor: Isolation::Confidential,
    },
];

impl Handler {
    /// The handler of a binary that was called by `name`, its `argv[0]`: a path or a mere file name.
    ///
    /// # Errors
    /// Any other name: it stands for no isolation, and none is a safe guess.
    pub fn called(name: Option<&OsStr>) -> Result<&'static Self> {
        let name = name.unwrap_or_default();
        let file = Path::new(name).file_name();
        HANDLERS
            .iter()
            .find(|handler| file == Some(OsStr::new(handler.binary)))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "called by the name {name:?}, which says no isolation: the names are {}",
                    HANDLERS.each_ref().map(|handler| handler.binary).join(", ")
                ))
            })
    }

    /// What tells the pod's server from others on the node. Two handlers never share one: a container of
    /// the stronger must not be put where the weaker's are.
    pub fn group(&self, pod: &str) -> String {
        match self.floor {
            // As it always was: pods that run go on when the shim is replaced.
            Isolation::Namespace => pod.to_owned(),
            // No pod's name holds a slash.
            Isolation::MicroVm | Isolation::Confidential => format!("{pod}/{}", self.runtime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What containerd does: the last two parts of the type, joined by a hyphen.
    fn as_containerd_finds_it(runtime: &str) -> String {
        let mut parts = runtime.rsplit('.');
        let (version, name) = (parts.next(), parts.next());
        format!(
            "containerd-shim-{}-{}",
            name.expect("a name"),
            version.expect("a version")
        )
    }

    #[test]
    fn containerd_finds_each_binary_by_its_type() {
        for handler in &HANDLERS {
            assert_eq!(as_containerd_finds_it(handler.runtime), handler.binary);
        }
        assert!(HANDLERS.is_sorted_by(|one, next| one.floor < next.floor));
    }

    #[test]
    fn the_name_counts_wherever_the_file_is() {
        for handler in &HANDLERS {
            for name in [
                handler.binary.to_owned(),
                format!("/usr/local/bin/{}", handler.binary),
                format!("./{}", handler.binary),
            ] {
                let called = Handler::called(Some(OsStr::new(&name))).expect("known");
                assert_eq!(called, handler, "{name}");
            }
        }
    }

    #[test]
    fn another_name_is_refused_with_those_there_are() {
        for name in [
            "",
            "/",
            "containerd-shim-trefoil",
            "containerd-shim-trefoil-vm-v2.old",
            "/containerd-shim-trefoil-vm-v2/wrapper",
            "CONTAINERD-SHIM-TREFOIL-V2",
        ] {
            let why = Handler::called(Some(OsStr::new(name))).expect_err(name);
            for handler in &HANDLERS {
                assert!(why.to_string().contains(handler.binary), "{why}");
            }
        }
        assert!(Handler::called(None).is_err());
    }

    #[test]
    fn no_two_handlers_share_a_server() {
        let groups: std::collections::BTreeSet<_> = HANDLERS
            .iter()
            .map(|handler| handler.group("pod"))
            .collect();
        assert_eq!(groups.len(), HANDLERS.len());
    }
}
