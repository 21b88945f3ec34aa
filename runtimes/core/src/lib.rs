//! The contract between the shim and the runtimes: traits and the plain types they pass.
//!
//! A [`Runtime`] makes a [`Sandbox`], a sandbox makes [`Container`]s, a container runs
//! [`Process`]es. The shim's service is written once above these traits; each isolation (namespaces,
//! microVM, confidential VM) implements them once below.
//!
//! This crate knows no ttrpc, no containerd message, no hypervisor and no operating system: it makes no
//! system call but to read a record, and starts nothing by itself.
//! Start reading at [`runtime`]; `docs/decisions/0001-the-runtime-traits.md` says how each isolation
//! implements it.

mod error;
mod exit;
mod isolation;
pub mod provider;
pub mod record;
mod runtime;
mod sandbox_config;
pub mod settings;
mod stdio;

pub use error::{Context, Error, ErrorKind, Result};
pub use exit::ExitStatus;
pub use isolation::Isolation;
pub use provider::{ContainerRecord, Prepared, Provider, ShimCgroup};
pub use runtime::{
    Container, ContainerConfig, ExecConfig, Mount, Process, Runtime, RuntimeOptions, Sandbox,
    TerminalSize, annotations, sandbox_id,
};
pub use sandbox_config::{IdMappings, Limits, NodeNamespaces, SandboxConfig, SandboxKind};
pub use stdio::{Input, Output, Stdio};
pub use trefoil_stats as stats;
