//! The namespace runtime: pods whose containers are processes on the host's kernel, told apart by
//! namespaces and held by cgroups. Inside a guest the same code makes the guest's containers.
//!
//! libcontainer makes the containers; running further processes in one ([`exec`]), the cgroup after
//! creation ([`cgroup`]) and everything that must survive a crash ([`state`]) are our own. It never
//! speaks to containerd, and its server side never forks, blocks or changes itself: see [`launcher`].
//!
//! Start reading at [`launcher`], then [`container_create`].

pub mod cgroup;
mod console_socket;
mod container;
mod container_create;
mod container_exec;
mod effective;
pub mod exec;
mod features;
mod idmap;
mod keyring;
mod launcher;
mod process;
mod rootfs;
mod runtime;
mod state;
mod terminal;

pub use exec::parse_process;
pub use features::features;
pub use launcher::{HELPER_ACTION, Launcher, run_as_helper};
pub use runtime::Runc;
pub use state::{clean_up, clean_up_unknown, find_cgroup};
