//! Any network that the kernel takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::model::{Ipv6, Kind};

const MACS: [[u8; 6]; 2] = [[10, 88, 0, 0, 0, 5], [10, 88, 0, 0, 0, 6]];
/// Far and near, as the kernel numbers them.
const UNIVERSE: u8 = libc::RT_SCOPE_UNIVERSE;
const SITE: u8 = libc::RT_SCOPE_SITE;
const LINK: u8 = libc::RT_SCOPE_LINK;

fn ipv4(network: u8, host: u16) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(network) << 24 | u32::from(host)).into()
}

fn ipv6(network: u8, host: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, host).into()
}

/// Addresses of one interface, no two the same.
fn addresses(place: u8, with_ipv6: bool) -> impl Strategy<Value = Vec<Address>> {
    let one = (
        any::<bool>(),
        any::<bool>(),
        select(&[8, 16, 24, 30, 32][..]),
        option::of(any::<bool>()),
    );
    vec(one, 0..6).prop_map(move |all| {
        let one = |(at, (is_ipv6, no_prefix_route, prefix, ends))| {
            let is_ipv6: bool = is_ipv6;
            let host = at as u16 * 256 + 5;
            let own = if is_ipv6 { ipv6 } else { ipv4 }(10 + place, host);
            // For a peer of IPv6 the kernel makes a route of its own accord, and not at once.
            let peer = ends == Some(true) && !is_ipv6;
            Some(Address {
                ip: own,
                prefix: if is_ipv6 { prefix * 4 } else { prefix },
                peer: peer.then(|| ipv4(20 + place, host)),
                broadcast: (ends == Some(false) && !is_ipv6).then_some(Ipv4Addr::BROADCAST),
                // All of one network must have the same.
                scope: if is_ipv6 || prefix != 24 {
                    UNIVERSE
                } else {
                    LINK
                },
                no_prefix_route,
                label: peer.then(|| format!("{}:{at}", NAMES[usize::from(place)])),
            })
            .filter(|_| with_ipv6 || !is_ipv6)
        };
        all.into_iter().enumerate().filter_map(one).collect()
    })
}

fn interface(place: u8) -> impl Strategy<Value = Interface> {
    (any::<bool>(), 1280u16..9001, 0u8..3, any::<bool>()).prop_flat_map(
        move |(enabled, mtu, accept_ra, autoconf)| {
            addresses(place, enabled).prop_map(move |addresses| Interface {
                name: NAMES[usize::from(place)].into(),
                mac: MACS[usize::from(place)],
                mtu,
                ipv6: Ipv6 {
                    enabled,
                    accept_ra,
                    autoconf,
                },
                addresses,
            })
        },
    )
}

/// A hop: the interface, whether by a router, and by one with an address of IPv6.
type AnyHop = (usize, bool, bool, u8);

/// What a route is made of, apart from its destination.
#[derive(Clone, Debug)]
struct AnyRoute {
    is_ipv6: bool,
    kind: Kind,
    table: u32,
    protocol: u8,
    scope: u8,
    metric: Option<u32>,
    source: Option<Index>,
    mtu: Option<u32>,
    advmss: Option<u32>,
    hops: Vec<AnyHop>,
}

fn any_route() -> impl Strategy<Value = AnyRoute> {
    let kinds = [
        Kind::Unicast,
        Kind::Unicast,
        Kind::Unicast,
        Kind::Blackhole,
        Kind::Unreachable,
        Kind::Prohibit,
        Kind::Throw,
    ];
    let far = (
        any::<bool>(),
        select(kinds.to_vec()),
        select(&[254, 253, 7, 1000][..]),
        select(&[3u8, 4, 16, 186][..]),
        select(&[UNIVERSE, SITE][..]),
    );
    let fine = (
        option::of(1u32..5000),
        option::of(any::<Index>()),
        option::of(1280u32..1500),
        option::of(600u32..1400),
        vec((0usize..2, any::<bool>(), any::<bool>(), 0u8..9), 1..4),
    );
    (far, fine).prop_map(|((is_ipv6, kind, table, protocol, scope), fine)| {
        let (metric, source, mtu, advmss, hops) = fine;
        AnyRoute {
            is_ipv6,
            kind,
            table,
            protocol,
            scope,
            metric,
            source,
            mtu,
            advmss,
            hops,
        }
    })
}

impl AnyRoute {
    /// The route, if the kernel would take it.
    fn route(self, at: usize, interfaces: &[Interface]) -> Option<Route> {
        let is_ipv6 = self.is_ipv6;
        let is_unicast = self.kind == Kind::Unicast;
        let hop = |(on, by_router, by_ipv6, weight): AnyHop| {
            let speaks_ipv6 = interfaces[on].ipv6.enabled;
            let by_ipv6 = is_ipv6 || by_ipv6 && speaks_ipv6;
            let gateway = if by_ipv6 { ipv6 } else { ipv4 }(30 + on as u8, weight.into());
            // Several of IPv6 are one route only if all have routers.
            let by_router = by_router || is_ipv6 && self.hops.len() > 1;
            (speaks_ipv6 || !is_ipv6).then(|| Hop {
                interface: NAMES[on].into(),
                gateway: by_router.then_some(gateway),
                on_link: by_router,
                weight: if self.hops.len() > 1 { weight } else { 0 },
            })
        };
        let mut hops: Vec<Hop> = Vec::new();
        if is_unicast {
            for one in &self.hops {
                let hop = hop(*one)?;
                // Of IPv6 no two may be the same.
                if !hops.iter().any(|known| known.gateway == hop.gateway) || !is_ipv6 {
                    hops.push(hop);
                }
            }
        }
        if let [hop] = &mut hops[..] {
            hop.weight = 0;
        }
        let own: Vec<IpAddr> = interfaces
            .iter()
            .flat_map(|interface| &interface.addresses)
            .map(|address| address.ip)
            .filter(|ip| ip.is_ipv6() == is_ipv6)
            .collect();
        let source = self.source.filter(|_| is_unicast && !own.is_empty());
        Some(Route {
            destination: if is_ipv6 { ipv6 } else { ipv4 }(40, at as u16 * 256),
            prefix: if is_ipv6 { 120 } else { 24 },
            kind: self.kind,
            table: self.table,
            protocol: self.protocol,
            scope: if is_unicast && !is_ipv6 {
                self.scope
            } else {
                0
            },
            metric: match self.metric {
                None if is_ipv6 => Some(1024),
                metric => metric,
            },
            source: source.map(|index| *index.get(&own)),
            mtu: self.mtu.filter(|_| is_unicast),
            advmss: self.advmss.filter(|_| is_unicast),
            hops,
        })
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let ends = [any::<Option<u8>>(), any::<Option<u8>>()];
    (any::<bool>(), 1u32..32766, ends, 1u32..2000, any::<u8>()).prop_map(
        |(is_ipv6, priority, ends, table, protocol)| {
            let end = |end: Option<u8>| match (end, is_ipv6) {
                (Some(host), true) => (ipv6(60, host.into()), 128),
                (Some(host), false) => (ipv4(60, host.into()), 32),
                (None, true) => (Ipv6Addr::UNSPECIFIED.into(), 0),
                (None, false) => (Ipv4Addr::UNSPECIFIED.into(), 0),
            };
            let [(source, source_prefix), (destination, destination_prefix)] = ends.map(end);
            Rule {
                priority,
                source,
                source_prefix,
                destination,
                destination_prefix,
                table,
                protocol,
            }
        },
    )
}

pub(super) fn network() -> impl Strategy<Value = Network> {
    let interfaces = (interface(0), interface(1));
    let neighbour = (0usize..2, any::<bool>(), any::<[u8; 5]>());
    let things = (interfaces, vec(any_route(), 0..12), vec(neighbour, 0..4));
    (things, vec(any_rule(), 0..4)).prop_map(|(((first, second), routes, neighbours), rules)| {
        let interfaces = vec![first, second];
        let routes = routes.into_iter().enumerate();
        let neighbours = neighbours.into_iter().enumerate();
        Network {
            routes: routes
                .filter_map(|(at, route)| route.route(at, &interfaces))
                .collect(),
            neighbours: neighbours
                .filter(|(_, (on, is_ipv6, _))| interfaces[*on].ipv6.enabled || !is_ipv6)
                .map(|(at, (on, is_ipv6, [a, b, c, d, e]))| Neighbour {
                    interface: NAMES[on].into(),
                    ip: if is_ipv6 { ipv6 } else { ipv4 }(50, at as u16),
                    mac: [2, a, b, c, d, e],
                })
                .collect(),
            interfaces,
            rules,
        }
    })
}
