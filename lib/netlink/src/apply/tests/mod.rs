#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

mod any;

use proptest::prelude::*;

use super::*;
use crate::testing::{Namespace, eventually, pod};

/// The routes of IPv6 that the kernel makes.
const LOCAL: [&str; 5] = ["-6", "route", "show", "table", "local"];
const NAMES: [&str; 2] = ["eth0", "net1"];

/// A guest with two interfaces, that have each other's names.
fn guest(node: &Namespace) -> Namespace {
    let guest = Namespace::new();
    let to = node.path();
    guest.ip(&format!(
        "link add net1 address 0a:58:0a:f4:00:05 type veth peer name guest0 netns {to}
         link add eth0 address 0a:58:0a:f4:00:06 type veth peer name guest1 netns {to}"
    ));
    node.ip("link set guest0 up
         link set guest1 up");
    guest
}

/// What `ip` says of all that we make, without what differs for good reason: the interfaces'
/// numbers, and the word that an address was not tried again.
fn said(namespace: &Namespace) -> String {
    let mut said = String::new();
    for arguments in [
        &["-4", "-o", "addr", "show"][..],
        &["-6", "-o", "addr", "show"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["-4", "rule", "show"],
        &["-6", "rule", "show"],
        &["neigh", "show", "nud", "permanent"],
    ] {
        said.push_str(&said_sorted(namespace, arguments));
    }
    for name in NAMES {
        let link = namespace.said_by("ip", &["-o", "link", "show", name]);
        let words: Vec<_> = link.split_whitespace().collect();
        for key in ["mtu", "link/ether"] {
            let at = words.iter().position(|word| *word == key).unwrap();
            said.push_str(&format!("{name} {key} {}\n", words[at + 1]));
        }
    }
    said
}

fn said_sorted(namespace: &Namespace, arguments: &[&str]) -> String {
    let text = namespace.said_by("ip", arguments).replace(" nodad", "");
    let without_number = |line: &str| match line.split_once(": ") {
        Some((_, rest)) => format!("{rest}\n"),
        None => format!("{line}\n"),
    };
    let mut lines: Vec<String> = text.lines().map(without_number).collect();
    lines.sort();
    lines.concat()
}

/// What is in one network only, as text; the kernel lists things in an order of its own.
fn difference(made: &Network, wanted: &Network) -> Vec<String> {
    let all = |network: &Network| {
        let addresses = network.interfaces.iter().flat_map(|interface| {
            let addresses = interface.addresses.iter();
            addresses.map(|address| format!("{} has {address:?}", interface.name))
        });
        let interfaces = network.interfaces.iter().map(|interface| {
            let mut interface = interface.clone();
            interface.addresses.clear();
            format!("{interface:?}")
        });
        let routes = network.routes.iter().map(|route| format!("{route:?}"));
        let neighbours = network.neighbours.iter().map(|one| format!("{one:?}"));
        let rules = network.rules.iter().map(|rule| format!("{rule:?}"));
        let all = addresses.chain(interfaces).chain(routes).chain(rules);
        all.chain(neighbours).collect::<Vec<_>>()
    };
    let (made, wanted) = (all(made), all(wanted));
    let only = |these: &[String], those: &[String], word: &str| {
        let only = these.iter().filter(|one| !those.contains(one));
        only.map(|one| format!("{word}: {one}")).collect::<Vec<_>>()
    };
    [
        only(&made, &wanted, "not wanted"),
        only(&wanted, &made, "missing"),
    ]
    .concat()
}

#[test]
fn a_guest_gets_what_the_pod_has() {
    let (pod, node) = pod();
    let network = pod.network(&NAMES);
    assert_eq!(network.interfaces[0].addresses.len(), 4, "{network:?}");
    assert_eq!(network.interfaces[1].addresses.len(), 5);
    let json = serde_json::to_vec(&network).unwrap();
    let guest = guest(&node);
    let network: Network = serde_json::from_slice(&json).unwrap();
    for round in ["first", "again"] {
        guest.run(|| apply(&network)).unwrap();
        // The kernel is a little later with its own routes to addresses of IPv6.
        eventually(|| said_sorted(&guest, &LOCAL) == said_sorted(&pod, &LOCAL));
        assert_eq!(said(&guest), said(&pod), "{round}");
        let difference = difference(&guest.network(&NAMES), &network);
        assert!(difference.is_empty(), "{round}: {difference:#?}");
    }
}

#[test]
fn without_a_network_there_is_the_loopback() {
    let guest = Namespace::new();
    guest.run(|| apply(&Network::default())).unwrap();
    let said = guest.said_by("ip", &["-br", "addr"]);
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["lo", "UNKNOWN", "127.0.0.1/8", "::1/128"]);
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let (pod, _node) = pod();
    let network = pod.network(&NAMES);
    let error = Namespace::new().run(|| apply(&network)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "use the network: the guest has no interface with the hardware address of eth0"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        max_shrink_iters: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_made_is_what_was_asked_for(network in any::network()) {
        let guest = Namespace::new();
        // Each other's cable.
        guest.ip(
            "link add ens1 address 0a:58:00:00:00:05 type veth peer name ens2 address 0a:58:00:00:00:06",
        );
        guest.run(|| apply(&network)).unwrap();
        let difference = difference(&guest.network(&NAMES), &network);
        prop_assert!(difference.is_empty(), "{:#?}", difference);
    }
}
