//! The network of a namespace: what is in one, as plain types, and the same made in another.
//!
//! [`read`](mod@read) asks the kernel for interfaces, addresses, routes, rules and neighbours; [`Network`] is
//! what they are, with bounds that [`Network::check`] holds it to, and can be sent; [`apply()`] makes them
//! in the namespace of the calling thread. All of it is rtnetlink, in a few messages of our own making
//! ([`Netlink`], [`Message`]): no helper program runs.
//!
//! This crate knows no guest and no pod. Start reading at [`Network`].

mod apply;
mod error;
mod model;
pub mod namespace;
mod netlink;
pub mod read;
pub mod sysctl;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use apply::apply;
pub use error::{Doing, Refusal, unfit};
pub use model::{
    Address, Hop, Interface, Ipv6, Kind, MOST_ADDRESSES, MOST_HOPS, MOST_INTERFACES,
    MOST_NEIGHBOURS, MOST_ROUTES, MOST_RULES, Neighbour, Network, Route, Rule,
};
pub use netlink::{Answer, Attributes, Message, Netlink, find, ip, octets, u16_at, u32_at};
pub use trefoil_os::{Error, Result};
