//! Joins a guest to the network that CNI made for its pod.
//!
//! CNI leaves interfaces, addresses, routes and neighbours in the pod's network namespace, as it
//! would for a container. [`host::attach`] reads them, puts a tap next to each interface and has the
//! kernel redirect every frame that one receives to the other's cable. So the tap is the cable's end,
//! the namespace's own network stack sees none of it, and the guest takes its place: its agent
//! [makes](trefoil_netlink::apply()) there what was read, under the same names and hardware addresses.
//!
//! All of it is netlink, in a few messages of our own making: no helper program runs.

pub mod forward;
pub mod host;
