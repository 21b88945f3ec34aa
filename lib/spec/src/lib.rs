//! Reads the configurations of the OCI runtime specification: a container's `config.json` ([`load()`]), and
//! the process that containerd asks for in a container ([`parse_process`]).
//!
//! Who reads them is the shim, the runtimes and the agent, and all must read the same. Nothing that a
//! configuration sets is dropped in silence: what is malformed is an error that names the field, and what
//! the specification tells runtimes to ignore is logged by name. What becomes of a field is the runtime's
//! to say; here are only the questions that several ask of a configuration ([`namespaces`],
//! [`cgroups_path`]).
//!
//! Start reading at [`load()`].

mod capabilities;
mod culprit;
mod ignored;
mod load;
pub mod namespaces;
mod process;

use std::path::Path;

use oci_spec::runtime::Spec;

pub use ignored::ignored;
pub use load::load;
pub use process::parse_process;

/// The cgroup that a configuration names, which for systemd reads `slice:prefix:name`.
#[must_use]
pub fn cgroups_path(spec: &Spec) -> Option<&Path> {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref())
}
