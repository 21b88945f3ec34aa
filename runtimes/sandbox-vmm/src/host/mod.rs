//! What a pod has on the host beside its processes: a cgroup, a network, user ids; and how all that is removed.

pub(crate) mod cgroup;
pub(crate) mod cleanup;
pub(crate) mod limited;
pub(crate) mod network;
pub(crate) mod uids;
