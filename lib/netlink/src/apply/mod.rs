//! Makes in a namespace what was read in another.

use std::net::IpAddr;

use nix::errno::Errno;

use trefoil_os::Result;

use crate::error::{Doing, unfit};
use crate::model::{Address, Hop, Interface, LOOPBACK, Neighbour, Network, Route, Rule};
use crate::netlink::{Message, Netlink, octets};
use crate::read::{
    self, FRA_DST, FRA_PRIORITY, FRA_PROTOCOL, FRA_SRC, FRA_TABLE, IFA_F_NOPREFIXROUTE, IFA_FLAGS,
    KINDS, Link, RTAX_ADVMSS, RTAX_MTU, RTNH_F_ONLINK, USE_TABLE,
};
use crate::sysctl;

/// The kernel makes no address of its own for an interface.
const NO_GENERATED_ADDRESSES: u8 = 1;

/// Makes a network in the namespace of the calling thread, whose interfaces are found by their
/// hardware addresses and get the names they have in the description. The loopback interface comes up, too;
/// an empty network is that and nothing else. Applying the same network again changes nothing.
///
/// The interfaces must be new: addresses that they have already stay, and so do neighbours. `/proc`
/// must be mounted.
///
/// # Errors
/// The network is not one ([`Network::check`]), an interface isn't there, or the kernel refuses.
/// What was done until then stays.
pub fn apply(network: &Network) -> Result<()> {
    network.check()?;
    let mut netlink = Netlink::open()?;
    let links = read::links(&mut netlink)?;
    let loopback = links.iter().find(|link| link.has(libc::IFF_LOOPBACK));
    if let Some(loopback) = loopback {
        set_up(&mut netlink, loopback.index, LOOPBACK)?;
    }
    name(&mut netlink, network, &links)?;
    // Again, with their new names.
    let all = read::links(&mut netlink)?;
    let links = matching(network, &all)?;
    for (interface, link) in network.interfaces.iter().zip(&links) {
        make(&mut netlink, interface, link.index)?;
    }
    let there = Places(&all);
    make_routes(&mut netlink, network, &links, &there)?;
    for rule in &network.rules {
        make_rule(&mut netlink, rule)?;
    }
    for neighbour in &network.neighbours {
        make_neighbour(&mut netlink, neighbour, there.of(&neighbour.interface)?)?;
    }
    Ok(())
}

/// Where the interfaces are.
struct Places<'a>(&'a [Link]);

impl Places<'_> {
    fn of(&self, name: &str) -> Result<u32> {
        let link = self.0.iter().find(|link| link.name == name);
        link.map(|link| link.index)
            .ok_or_else(|| unfit(format!("there is no interface {name}")))
    }
}

/// The guest's interfaces, in the network's order.
fn matching<'a>(network: &Network, all: &'a [Link]) -> Result<Vec<&'a Link>> {
    let of = |interface: &Interface| {
        let mut links = all.iter().filter(|link| link.mac == interface.mac);
        match (links.next(), links.next()) {
            (Some(link), None) => Ok(link),
            (None, _) => Err(unfit(format!(
                "the guest has no interface with the hardware address of {}",
                interface.name
            ))),
            _ => Err(unfit(format!(
                "the guest has two interfaces with the hardware address of {}",
                interface.name
            ))),
        }
    };
    network.interfaces.iter().map(of).collect()
}

/// Gives the interfaces their names. Two may have each other's, so first each gives up its own.
fn name(netlink: &mut Netlink, network: &Network, all: &[Link]) -> Result<()> {
    let links = matching(network, all)?;
    let both = network.interfaces.iter().zip(links);
    let wrong: Vec<_> = both
        .filter(|(interface, link)| interface.name != link.name)
        .collect();
    for (_, link) in &wrong {
        rename(netlink, link, &format!("renamed{}", link.index))?;
    }
    for (interface, link) in &wrong {
        rename(netlink, link, &interface.name)?;
    }
    Ok(())
}

fn rename(netlink: &mut Netlink, link: &Link, name: &str) -> Result<()> {
    let request = change(link.index, 0, 0).text(libc::IFLA_IFNAME, name);
    netlink
        .request(request)
        .doing(|| format!("rename the interface {} to {name}", link.name))
}

fn set_up(netlink: &mut Netlink, index: u32, name: &str) -> Result<()> {
    netlink
        .request(change(index, libc::IFF_UP, libc::IFF_UP))
        .doing(|| format!("set the interface {name} up"))
}

/// A message that changes an interface, and those of its flags that `mask` has (`struct ifinfomsg`).
fn change(index: u32, flags: libc::c_int, mask: libc::c_int) -> Message {
    Message::new(libc::RTM_NEWLINK, 0)
        .u32(0)
        .u32(index)
        .u32(flags.cast_unsigned())
        .u32(mask.cast_unsigned())
}

/// Sets an interface up with its addresses.
fn make(netlink: &mut Netlink, interface: &Interface, index: u32) -> Result<()> {
    let Interface {
        name,
        mtu,
        ipv6,
        addresses,
        ..
    } = interface;
    let request = change(index, 0, 0).attribute(libc::IFLA_MTU, &u32::from(*mtu).to_ne_bytes());
    netlink
        .request(request)
        .doing(|| format!("let {name} take packets of {mtu} bytes"))?;
    // The pod's link-local address comes with the others, whatever it was made from.
    sysctl::write(name, "addr_gen_mode", NO_GENERATED_ADDRESSES)?;
    sysctl::write(name, "accept_ra", ipv6.accept_ra)?;
    sysctl::write(name, "autoconf", ipv6.autoconf.into())?;
    sysctl::write(name, "disable_ipv6", (!ipv6.enabled).into())?;
    set_up(netlink, index, name)?;
    for address in addresses {
        make_address(netlink, name, index, address)?;
    }
    Ok(())
}

fn make_address(netlink: &mut Netlink, name: &str, index: u32, address: &Address) -> Result<()> {
    let Address { ip, prefix, .. } = *address;
    let mut flags = 0;
    if ip.is_ipv6() {
        // Nobody else has it: it was tried before it became the pod's.
        flags |= libc::IFA_F_NODAD;
    }
    if address.no_prefix_route {
        flags |= IFA_F_NOPREFIXROUTE;
    }
    let request = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
        .bytes(&[family(ip), prefix, 0, address.scope])
        .u32(index)
        .attribute(libc::IFA_LOCAL, &octets(ip))
        .attribute(libc::IFA_ADDRESS, &octets(address.peer.unwrap_or(ip)))
        .optional(libc::IFA_BROADCAST, address.broadcast.map(|ip| ip.octets()))
        .attribute(IFA_FLAGS, &u32::to_ne_bytes(flags));
    let request = match &address.label {
        Some(label) => request.text(libc::IFA_LABEL, label),
        None => request,
    };
    netlink
        .request(request)
        .doing(|| format!("give {name} the address {ip}/{prefix}"))
}

/// Makes the routes that are missing, and removes those that the kernel made for addresses and that
/// the pod had lost.
fn make_routes(
    netlink: &mut Netlink,
    network: &Network,
    links: &[&Link],
    there: &Places<'_>,
) -> Result<()> {
    let present = read::network(netlink, links, there.0)?.routes;
    for route in present.iter().filter(|is| !network.routes.contains(is)) {
        let request = route_message(libc::RTM_DELROUTE, 0, route, there)?;
        netlink
            .request(request)
            .doing(|| format!("remove the route {route}"))?;
    }
    let missing = || network.routes.iter().filter(|is| !present.contains(is));
    let has_gateway = |route: &&Route| route.hops.iter().any(|hop| hop.gateway.is_some());
    // A router must be on a network that the routes without one lead to.
    let direct = missing().filter(|route| !has_gateway(route));
    for route in direct.chain(missing().filter(has_gateway)) {
        // Several for the same network are tried in this order.
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        let request = route_message(libc::RTM_NEWROUTE, flags, route, there)?;
        match netlink.request(request) {
            // The kernel has made it meanwhile: a little later than the address it is for.
            Err(refusal) if refusal.errno == Errno::EEXIST => {}
            outcome => outcome.doing(|| format!("make the route {route}"))?,
        }
    }
    Ok(())
}

fn route_message(
    message: u16,
    flags: libc::c_int,
    route: &Route,
    there: &Places<'_>,
) -> Result<Message> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == route.kind);
    let one = match &route.hops[..] {
        [hop] => Some((hop, there.of(&hop.interface)?)),
        _ => None,
    };
    let on_link = one.map_or(0, |(hop, _)| hop_flags(hop));
    let mut request = Message::new(message, flags)
        .bytes(&[family(route.destination), route.prefix, 0, 0])
        // Tables beyond 255 have room in an attribute only.
        .bytes(&[0, route.protocol, route.scope])
        .bytes(&[kind.map_or(libc::RTN_UNSPEC, |(_, number)| *number)])
        .u32(on_link.into())
        .attribute(libc::RTA_TABLE, &route.table.to_ne_bytes())
        .attribute(libc::RTA_DST, &octets(route.destination))
        .optional(libc::RTA_PRIORITY, route.metric.map(u32::to_ne_bytes))
        .optional(libc::RTA_PREFSRC, route.source.map(octets));
    if route.mtu.is_some() || route.advmss.is_some() {
        request = request.nested(libc::RTA_METRICS, |metrics| {
            metrics
                .optional(RTAX_MTU, route.mtu.map(u32::to_ne_bytes))
                .optional(RTAX_ADVMSS, route.advmss.map(u32::to_ne_bytes))
        });
    }
    if let Some((hop, index)) = one {
        return Ok(gateway(request, hop, route).attribute(libc::RTA_OIF, &index.to_ne_bytes()));
    }
    if route.hops.is_empty() {
        return Ok(request);
    }
    let indices: Vec<u32> = route
        .hops
        .iter()
        .map(|hop| there.of(&hop.interface))
        .collect::<Result<_>>()?;
    Ok(request.nested(libc::RTA_MULTIPATH, |request| {
        let hops = route.hops.iter().zip(indices);
        hops.fold(request, |request, (hop, index)| {
            // struct rtnexthop
            request.sized(|request| {
                let request = request.bytes(&[hop_flags(hop), hop.weight]).u32(index);
                gateway(request, hop, route)
            })
        })
    }))
}

fn hop_flags(hop: &Hop) -> u8 {
    if hop.on_link { RTNH_F_ONLINK } else { 0 }
}

fn gateway(request: Message, hop: &Hop, route: &Route) -> Message {
    match hop.gateway {
        None => request,
        Some(ip) if ip.is_ipv4() == route.destination.is_ipv4() => {
            request.attribute(libc::RTA_GATEWAY, &octets(ip))
        }
        // struct rtvia
        Some(ip) => request.nested(libc::RTA_VIA, |request| {
            request.u16(family(ip).into()).bytes(&octets(ip))
        }),
    }
}

fn make_rule(netlink: &mut Netlink, rule: &Rule) -> Result<()> {
    let Rule {
        priority,
        source,
        destination,
        table,
        ..
    } = *rule;
    // struct fib_rule_hdr
    let prefixes = [rule.destination_prefix, rule.source_prefix];
    let request = Message::new(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        .bytes(&[family(source)])
        .bytes(&prefixes)
        .bytes(&[0, 0, 0, 0, USE_TABLE])
        .u32(0)
        .attribute(FRA_SRC, &octets(source))
        .attribute(FRA_DST, &octets(destination))
        .attribute(FRA_PRIORITY, &priority.to_ne_bytes())
        .attribute(FRA_TABLE, &table.to_ne_bytes())
        .attribute(FRA_PROTOCOL, &[rule.protocol]);
    match netlink.request(request) {
        // It is there from an earlier time.
        Err(refusal) if refusal.errno == Errno::EEXIST => Ok(()),
        outcome => outcome.doing(|| format!("make the routing rule of priority {priority}")),
    }
}

fn make_neighbour(netlink: &mut Netlink, neighbour: &Neighbour, index: u32) -> Result<()> {
    let Neighbour { interface, ip, mac } = neighbour;
    let request = Message::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
        .bytes(&[family(*ip), 0, 0, 0])
        .u32(index)
        .u16(libc::NUD_PERMANENT)
        .u16(0)
        .attribute(libc::NDA_DST, &octets(*ip))
        .attribute(libc::NDA_LLADDR, mac);
    netlink
        .request(request)
        .doing(|| format!("make the neighbour {ip} on {interface} known"))
}

fn family(ip: IpAddr) -> u8 {
    // Both are small numbers.
    (if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

#[cfg(test)]
mod tests;
