//! What is in the network namespace of the calling thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use trefoil_os::Result;

use crate::error::{Doing, unfit};
use crate::model::{
    Address, Hop, Interface, Ipv6, Kind, LOCAL_TABLE, LOOPBACK, Neighbour, Network, Route, Rule,
};
use crate::netlink::{Attributes, Message, Netlink, find, ip, u16_at, u32_at};
use crate::sysctl;

/// Bytes of the fixed part of a message on links, addresses, routes, neighbours and rules.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;
const NEIGHBOUR: usize = 12;
const RULE: usize = 12;
/// Of a hop among several.
const HOP: usize = 8;

// Attributes and flags that `libc` does not know.
pub(crate) const IFA_FLAGS: u16 = 8;
pub(crate) const IFA_F_NOPREFIXROUTE: u32 = 0x200;
pub(crate) const RTAX_MTU: u16 = 2;
pub(crate) const RTAX_ADVMSS: u16 = 8;
pub(crate) const RTNH_F_ONLINK: u8 = 4;
pub(crate) const FRA_DST: u16 = 1;
pub(crate) const FRA_SRC: u16 = 2;
pub(crate) const FRA_PRIORITY: u16 = 6;
pub(crate) const FRA_TABLE: u16 = 15;
pub(crate) const FRA_PROTOCOL: u16 = 21;
/// What packets are to be compared with besides, and what says nothing.
const FRA_SUPPRESS_PREFIX: u16 = 14;
const FRA_PAD: u16 = 18;
pub(crate) const USE_TABLE: u8 = 1;
const INVERTED: u32 = 2;
const IFLA_INFO_KIND: u16 = 1;
const RTPROT_RA: u8 = 9;
const NTF_PROXY: u8 = 8;

/// An interface as the kernel sees it.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// What it is, as the kernel numbers hardware (`ARPHRD_…`).
    pub hardware: u16,
    /// `IFF_…`.
    pub flags: u32,
    /// What it is called.
    pub name: String,
    /// What made it: veth, macvlan, tun, …; empty for hardware.
    pub kind: String,
    /// All zero if it has none of six bytes.
    pub mac: [u8; 6],
    /// The largest packet it takes, in bytes.
    pub mtu: u32,
}

impl Link {
    /// Whether it has a flag, of `IFF_…`.
    #[must_use]
    pub fn has(&self, flag: libc::c_int) -> bool {
        self.flags & flag.cast_unsigned() != 0
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let attributes = content.get(LINK..)?;
        let kind =
            find(attributes, libc::IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND));
        Some(Self {
            hardware: u16_at(content, 2)?,
            index: u32_at(content, 4)?,
            flags: u32_at(content, 8)?,
            name: text(find(attributes, libc::IFLA_IFNAME)?),
            kind: kind.map(text).unwrap_or_default(),
            mac: find(attributes, libc::IFLA_ADDRESS)
                .and_then(|mac| mac.try_into().ok())
                .unwrap_or_default(),
            mtu: find(attributes, libc::IFLA_MTU)
                .and_then(|mtu| u32_at(mtu, 0))
                .unwrap_or(0),
        })
    }
}

/// All interfaces.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let request = Message::new(libc::RTM_GETLINK, 0).bytes(&[0; LINK]);
    let answers = netlink.dump(&request).doing(|| "list interfaces".into())?;
    Ok(answers
        .iter()
        .filter_map(|(_, content)| Link::parse(content))
        .collect())
}

/// What there is on some of the interfaces, and the routes that go out by them or by none.
pub fn network(netlink: &mut Netlink, joined: &[&Link], all: &[Link]) -> Result<Network> {
    let mut network = Network::default();
    for link in joined {
        network.interfaces.push(interface(link)?);
    }
    let request = Message::new(libc::RTM_GETADDR, 0).bytes(&[0; ADDRESS]);
    let answers = netlink.dump(&request).doing(|| "list addresses".into())?;
    for (_, content) in &answers {
        let on = u32_at(content, 4);
        let place = joined.iter().position(|link| Some(link.index) == on);
        if let Some(interface) = place.and_then(|place| network.interfaces.get_mut(place)) {
            interface
                .addresses
                .extend(address(content, &interface.name));
        }
    }
    let name = |index: u32| {
        let link = all.iter().find(|link| link.index == index)?;
        let is_known = link.name == LOOPBACK || joined.iter().any(|one| one.index == index);
        is_known.then(|| link.name.clone())
    };
    let request = Message::new(libc::RTM_GETROUTE, 0).bytes(&[0; ROUTE]);
    let answers = netlink.dump(&request).doing(|| "list routes".into())?;
    network.routes = answers
        .iter()
        .filter_map(|(_, content)| route(content, &name))
        .collect();
    let request = Message::new(libc::RTM_GETRULE, 0).bytes(&[0; RULE]);
    let answers = netlink
        .dump(&request)
        .doing(|| "list routing rules".into())?;
    for (_, content) in &answers {
        network.rules.extend(rule(content)?);
    }
    let request = Message::new(libc::RTM_GETNEIGH, 0).bytes(&[0; NEIGHBOUR]);
    let answers = netlink.dump(&request).doing(|| "list neighbours".into())?;
    network.neighbours = answers
        .iter()
        .filter_map(|(_, content)| neighbour(content, &name))
        .filter(|neighbour| neighbour.interface != LOOPBACK)
        .collect();
    Ok(network)
}

fn interface(link: &Link) -> Result<Interface> {
    let setting = |key| sysctl::read(&link.name, key);
    Ok(Interface {
        name: link.name.clone(),
        mac: link.mac,
        mtu: u16::try_from(link.mtu).map_err(|_| {
            unfit(format!(
                "{} takes packets of {} bytes, and a guest's interface takes {}",
                link.name,
                link.mtu,
                u16::MAX
            ))
        })?,
        ipv6: Ipv6 {
            enabled: setting("disable_ipv6")? == Some(0),
            accept_ra: setting("accept_ra")?.unwrap_or(0),
            autoconf: setting("autoconf")?.unwrap_or(0) != 0,
        },
        addresses: Vec::new(),
    })
}

/// An address that is there for good. Others come from routers, which the guest hears itself.
fn address(content: &[u8], interface: &str) -> Option<Address> {
    let [_, prefix, flags, scope] = *content.first_chunk()?;
    let attributes = content.get(ADDRESS..)?;
    let address = |kind| find(attributes, kind).and_then(ip);
    let flags = find(attributes, IFA_FLAGS)
        .and_then(|flags| u32_at(flags, 0))
        .unwrap_or(flags.into());
    if flags & libc::IFA_F_PERMANENT == 0 {
        return None;
    }
    let other = address(libc::IFA_ADDRESS);
    let own = address(libc::IFA_LOCAL).or(other)?;
    let broadcast = match address(libc::IFA_BROADCAST) {
        Some(IpAddr::V4(broadcast)) => Some(broadcast),
        _ => None,
    };
    Some(Address {
        ip: own,
        prefix,
        peer: other.filter(|other| *other != own),
        broadcast,
        scope,
        no_prefix_route: flags & IFA_F_NOPREFIXROUTE != 0,
        label: find(attributes, libc::IFA_LABEL)
            .map(text)
            .filter(|label| label != interface),
    })
}

/// A route that someone made, or the kernel did for an address.
fn route(content: &[u8], name: &impl Fn(u32) -> Option<String>) -> Option<Route> {
    let [family, prefix, _, _, table, protocol, scope, kind] = *content.first_chunk()?;
    let flags = u32_at(content, 8)?;
    let attributes = content.get(ROUTE..)?;
    let number = |kind| find(attributes, kind).and_then(|value| u32_at(value, 0));
    let table = number(libc::RTA_TABLE).unwrap_or(table.into());
    // What routers said, the guest hears itself; what is cached is no route of its own.
    if table == LOCAL_TABLE || protocol == RTPROT_RA || flags & libc::RTM_F_CLONED != 0 {
        return None;
    }
    let any: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let kind = KINDS.iter().find(|(_, number)| *number == kind)?.0;
    let hops = match (kind, find(attributes, libc::RTA_MULTIPATH)) {
        (Kind::Unicast, Some(several)) => hops(several, name)?,
        (Kind::Unicast, None) => {
            // The flags of a route with one hop are the hop's.
            let [flags, ..] = flags.to_ne_bytes();
            vec![hop(attributes, name(number(libc::RTA_OIF)?)?, flags, 0)]
        }
        // For IPv6 the kernel says that they go out by the loopback.
        _ => Vec::new(),
    };
    let metrics = find(attributes, libc::RTA_METRICS).unwrap_or(&[]);
    let metric = |kind| find(metrics, kind).and_then(|value| u32_at(value, 0));
    Some(Route {
        destination: find(attributes, libc::RTA_DST).and_then(ip).unwrap_or(any),
        prefix,
        kind,
        table,
        protocol,
        scope,
        metric: number(libc::RTA_PRIORITY),
        source: find(attributes, libc::RTA_PREFSRC).and_then(ip),
        mtu: metric(RTAX_MTU),
        advmss: metric(RTAX_ADVMSS),
        hops,
    })
}

/// The kinds of routes, as the kernel numbers them (`RTN_…`).
pub(crate) const KINDS: [(Kind, u8); 5] = [
    (Kind::Unicast, libc::RTN_UNICAST),
    (Kind::Blackhole, libc::RTN_BLACKHOLE),
    (Kind::Unreachable, libc::RTN_UNREACHABLE),
    (Kind::Prohibit, libc::RTN_PROHIBIT),
    (Kind::Throw, libc::RTN_THROW),
];

/// The ways of a route that has several; none if one of them goes where the guest can't.
fn hops(mut several: &[u8], name: &impl Fn(u32) -> Option<String>) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    while let Some(length) = u16_at(several, 0) {
        let length = usize::from(length);
        let attributes = several.get(HOP..length)?;
        let [flags, weight] = [*several.get(2)?, *several.get(3)?];
        let interface = name(u32_at(several, 4)?)?;
        hops.push(hop(attributes, interface, flags, weight));
        several = several.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(hops)
}

fn hop(attributes: &[u8], interface: String, flags: u8, weight: u8) -> Hop {
    // A router of the other family, which comes before its address.
    let foreign = || find(attributes, libc::RTA_VIA).and_then(|via| ip(via.get(2..)?));
    Hop {
        interface,
        gateway: find(attributes, libc::RTA_GATEWAY)
            .and_then(ip)
            .or_else(foreign),
        on_link: flags & RTNH_F_ONLINK != 0,
        weight,
    }
}

/// A rule that someone made.
///
/// # Errors
/// It asks for more than addresses, which ours do not.
fn rule(content: &[u8]) -> Result<Option<Rule>> {
    let Some([family, to, from, tos, table, _, _, action]) = content.first_chunk().copied() else {
        return Ok(None);
    };
    let any: IpAddr = match i32::from(family) {
        libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Ok(None),
    };
    let flags = u32_at(content, 8).unwrap_or(0);
    let attributes = content.get(RULE..).unwrap_or(&[]);
    let number = |kind| find(attributes, kind).and_then(|value| u32_at(value, 0));
    let address = |kind| find(attributes, kind).and_then(ip).unwrap_or(any);
    let rule = Rule {
        priority: number(FRA_PRIORITY).unwrap_or(0),
        source: address(FRA_SRC),
        source_prefix: from,
        destination: address(FRA_DST),
        destination_prefix: to,
        table: number(FRA_TABLE).unwrap_or(table.into()),
        protocol: find(attributes, FRA_PROTOCOL)
            .and_then(|value| value.first().copied())
            .unwrap_or(0),
    };
    let is_plain = |(kind, value): (u16, &[u8])| match kind {
        FRA_DST | FRA_SRC | FRA_PRIORITY | FRA_TABLE | FRA_PROTOCOL | FRA_PAD => true,
        FRA_SUPPRESS_PREFIX => u32_at(value, 0) == Some(u32::MAX),
        _ => false,
    };
    if action != USE_TABLE
        || tos != 0
        || flags & INVERTED != 0
        || !Attributes(attributes).all(is_plain)
    {
        return Err(unfit(format!(
            "its routing rule of priority {} looks at more than addresses, which can't be made in a \
             guest",
            rule.priority
        )));
    }
    let is_first = ALWAYS.contains(&(rule.priority, rule.table)) && from == 0 && to == 0;
    Ok((!is_first).then_some(rule))
}

/// The priorities and tables of the rules that are there from the beginning.
const ALWAYS: [(u32, u32); 3] = [
    (0, LOCAL_TABLE),
    (32766, libc::RT_TABLE_MAIN as u32),
    (32767, libc::RT_TABLE_DEFAULT as u32),
];

fn neighbour(content: &[u8], name: &impl Fn(u32) -> Option<String>) -> Option<Neighbour> {
    let attributes = content.get(NEIGHBOUR..)?;
    let is_permanent = u16_at(content, 8)? & libc::NUD_PERMANENT != 0;
    let is_proxy = content.get(10)? & NTF_PROXY != 0;
    if !is_permanent || is_proxy {
        return None;
    }
    Some(Neighbour {
        interface: name(u32_at(content, 4)?)?,
        ip: find(attributes, libc::NDA_DST).and_then(ip)?,
        mac: find(attributes, libc::NDA_LLADDR)?.try_into().ok()?,
    })
}

/// A name in an attribute. One that is no UTF-8 is none that [`Network::check`] takes.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}
