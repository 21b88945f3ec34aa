//! A pod's network in words: what is read on the host and made again in the guest. It travels as
//! JSON, and the guest believes none of it before [`Network::check`].

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use trefoil_os::Result;

use crate::error::unfit;

/// The most interfaces of a pod, besides the loopback.
pub const MOST_INTERFACES: usize = 8;
/// The most addresses of an interface.
pub const MOST_ADDRESSES: usize = 64;
/// The most routes of a pod.
pub const MOST_ROUTES: usize = 1024;
/// The most ways of one route.
pub const MOST_HOPS: usize = 16;
/// The most rules of a pod for which routing table to use.
pub const MOST_RULES: usize = 256;
/// The most neighbours of a pod that are known for good.
pub const MOST_NEIGHBOURS: usize = 1024;

/// The loopback interface, which every network namespace has.
pub(crate) const LOOPBACK: &str = "lo";
/// The table of what is the machine's own, which the kernel fills.
pub(crate) const LOCAL_TABLE: u32 = libc::RT_TABLE_LOCAL as u32;

/// What CNI left in a pod's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// The interfaces, without the loopback.
    pub interfaces: Vec<Interface>,
    /// The routes of every table but the local one, in the kernel's order.
    pub routes: Vec<Route>,
    /// Which packets use which routing table, besides the rules that are there from the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// The neighbours that were entered by hand.
    pub neighbours: Vec<Neighbour>,
}

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// Its name, the same on both sides.
    pub name: String,
    /// Its hardware address, by which the guest finds it.
    pub mac: [u8; 6],
    /// The largest packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// How it does IPv6.
    pub ipv6: Ipv6,
    /// Its addresses that are there for good, in the kernel's order: of IPv4 the primary ones first.
    pub addresses: Vec<Address>,
}

/// What an interface does with IPv6 by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ipv6 {
    /// Whether it speaks IPv6 at all.
    pub enabled: bool,
    /// The sysctl `accept_ra`: 0, 1, or 2.
    pub accept_ra: u8,
    /// The sysctl `autoconf`: whether it takes addresses from what routers say.
    pub autoconf: bool,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it, or of its peer's, the network has.
    pub prefix: u8,
    /// The other end's, if the interface leads to one machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// To which everyone on the network listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Ipv4Addr>,
    /// How far it is valid, as the kernel numbers it.
    pub scope: u8,
    /// Whether the kernel is not to make a route to its network.
    pub no_prefix_route: bool,
    /// IPv4's name for it, where that is not the interface's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What becomes of a packet that a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It goes out.
    Unicast,
    /// It is dropped.
    Blackhole,
    /// It is refused: no way there.
    Unreachable,
    /// It is refused: not allowed.
    Prohibit,
    /// This table does not know.
    Throw,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// The network it is for; all zero, with a prefix of 0, for everything.
    pub destination: IpAddr,
    /// How many bits the network has.
    pub prefix: u8,
    /// What becomes of the packet.
    pub kind: Kind,
    /// The routing table: 254 is the main one.
    pub table: u32,
    /// Who made it, as the kernel numbers them.
    pub protocol: u8,
    /// How far the destination is, as the kernel numbers it.
    pub scope: u8,
    /// The lower, the better. IPv4 has none unless it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The address that packets get as their source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The largest packet on this way, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The largest TCP segment to be announced, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Where it goes out: by one way, or by one of several; by none where it does not go out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hops: Vec<Hop>,
}

/// One way of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hop {
    /// The interface.
    pub interface: String,
    /// The router; without one the destination is on the interface's own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether the router is on that network whatever the addresses say.
    pub on_link: bool,
    /// How much more than the least share of several ways goes here.
    pub weight: u8,
}

/// A rule for which routing table to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// The lower, the earlier it is asked.
    pub priority: u32,
    /// The network that the packets come from; all zero, with a prefix of 0, for any.
    pub source: IpAddr,
    /// How many bits it has.
    pub source_prefix: u8,
    /// The network that they go to, likewise.
    pub destination: IpAddr,
    /// How many bits it has.
    pub destination_prefix: u8,
    /// The routing table to use for them.
    pub table: u32,
    /// Who made the rule, as the kernel numbers them.
    pub protocol: u8,
}

/// A neighbour whose hardware address is not asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Neighbour {
    /// The interface it is behind.
    pub interface: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)?;
        for hop in &self.hops {
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            write!(f, " on {}", hop.interface)?;
        }
        Ok(())
    }
}

impl Network {
    /// Checks that it can be a pod's network: nothing is more than it may be, and nothing names what
    /// is not there.
    pub fn check(&self) -> Result<()> {
        most("interfaces", self.interfaces.len(), MOST_INTERFACES)?;
        most("routes", self.routes.len(), MOST_ROUTES)?;
        most("rules", self.rules.len(), MOST_RULES)?;
        most("neighbours", self.neighbours.len(), MOST_NEIGHBOURS)?;
        let mut names = HashSet::from([LOOPBACK]);
        let mut macs = HashSet::new();
        for interface in &self.interfaces {
            interface.check()?;
            let name = &interface.name;
            if !names.insert(name) {
                return Err(unfit(format!("two interfaces are named {name:?}")));
            }
            if !macs.insert(interface.mac) {
                return Err(unfit(format!(
                    "the hardware address of {name} is another interface's too"
                )));
            }
        }
        let known = |of: &dyn fmt::Display, name: &str| {
            names
                .contains(name)
                .then_some(())
                .ok_or_else(|| unfit(format!("{of} is on {name:?}, which is not an interface")))
        };
        for route in &self.routes {
            route.check()?;
            for hop in &route.hops {
                known(&format_args!("the route {route}"), &hop.interface)?;
            }
        }
        for rule in &self.rules {
            rule.check()?;
        }
        for neighbour in &self.neighbours {
            let of = format_args!("the neighbour {}", neighbour.ip);
            known(&of, &neighbour.interface)?;
        }
        Ok(())
    }
}

impl Interface {
    fn check(&self) -> Result<()> {
        let name = &self.name;
        if !is_name(name) {
            return Err(unfit(format!("{name:?} can't be an interface's name")));
        }
        // The lowest bit of the first byte says that it is a group's.
        if self.mac == [0; 6] || self.mac[0] & 1 != 0 {
            return Err(unfit(format!("{name} has no hardware address of its own")));
        }
        most("addresses", self.addresses.len(), MOST_ADDRESSES)?;
        for address in &self.addresses {
            let ip = address.ip;
            check_prefix(ip, address.prefix)?;
            let label = address.label.as_deref();
            if address.peer.is_some_and(|peer| !same_family(peer, ip))
                || address.broadcast.is_some() && !ip.is_ipv4()
                || label.is_some_and(|label| !ip.is_ipv4() || !is_name(label))
            {
                return Err(unfit(format!(
                    "the address {ip} has what an address of its kind can't have"
                )));
            }
        }
        Ok(())
    }
}

impl Route {
    fn check(&self) -> Result<()> {
        check_prefix(self.destination, self.prefix)?;
        let refused = |why| Err(unfit(format!("the route {self} {why}")));
        if (self.kind == Kind::Unicast) == self.hops.is_empty() {
            return refused("has no way out, or one that it can't have");
        }
        most("ways of a route", self.hops.len(), MOST_HOPS)?;
        if matches!(self.table, 0 | LOCAL_TABLE) {
            return refused("is in a table that is the kernel's own");
        }
        let foreign = |ip: IpAddr| !same_family(ip, self.destination);
        if self.source.is_some_and(foreign) {
            return refused("has a source of another kind than its destination");
        }
        let gateways = self.hops.iter().filter_map(|hop| hop.gateway);
        // A router for IPv4 may have an address of IPv6, not the other way round.
        if gateways.into_iter().any(|ip| foreign(ip) && ip.is_ipv4()) {
            return refused("has a router of another kind than its destination");
        }
        Ok(())
    }
}

impl Rule {
    fn check(&self) -> Result<()> {
        check_prefix(self.source, self.source_prefix)?;
        check_prefix(self.destination, self.destination_prefix)?;
        if !same_family(self.source, self.destination) || self.table == 0 {
            return Err(unfit(format!(
                "the rule of priority {} is for two kinds of addresses, or for no table",
                self.priority
            )));
        }
        Ok(())
    }
}

fn most(of: &str, count: usize, most: usize) -> Result<()> {
    if count > most {
        return Err(unfit(format!("there are {count} {of}, and may be {most}")));
    }
    Ok(())
}

fn check_prefix(ip: IpAddr, prefix: u8) -> Result<()> {
    if prefix > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(unfit(format!(
            "{ip} has a prefix of {prefix} bits, which is more than it has itself"
        )));
    }
    Ok(())
}

fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}

/// Whether the kernel takes it as a name, and it names nothing else where names are files.
fn is_name(name: &str) -> bool {
    let reserved = [".", "..", "all", "default"];
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !reserved.contains(&name)
        // A colon begins the second part of a label; it may be in one.
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

#[cfg(test)]
mod tests;
