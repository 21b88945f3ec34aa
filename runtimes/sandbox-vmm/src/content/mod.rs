//! What containers have of the host's: root filesystems, shared or on disks, and volumes.

pub(crate) mod disks;
pub(crate) mod given;
pub(crate) mod rootfs;
pub(crate) mod share;
pub(crate) mod sources;
mod watch;
