#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use super::*;
use crate::testing::{Namespace, pod};

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
        &["neigh", "show", "nud", "permanent"],
    ] {
        let text = namespace.said_by("ip", arguments);
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| {
                let line = line.replace(" nodad", "");
                match line.split_once(": ") {
                    Some((_, rest)) => rest.to_owned(),
                    None => line,
                }
            })
            .collect();
        lines.sort();
        said.push_str(&lines.join("\n"));
        said.push('\n');
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

#[test]
fn a_guest_gets_what_the_pod_has() {
    let (pod, node) = pod();
    let network = pod.network(&NAMES);
    assert_eq!(network.interfaces[0].addresses.len(), 4, "{network:?}");
    assert_eq!(network.interfaces[1].addresses.len(), 4);
    let json = serde_json::to_vec(&network).unwrap();
    let guest = guest(&node);
    let network: Network = serde_json::from_slice(&json).unwrap();
    for round in ["first", "again"] {
        guest.run(|| apply(&network)).unwrap();
        assert_eq!(said(&guest), said(&pod), "{round}");
        let (mut made, mut wanted) = (guest.network(&NAMES), network.clone());
        for network in [&mut made, &mut wanted] {
            // The kernel lists those of IPv4 by table, and those of equal rank in their order.
            network.routes.sort_by_key(|route| format!("{route:?}"));
            network.neighbours.sort_by_key(|neighbour| neighbour.ip);
        }
        assert_eq!(made, wanted, "{round}");
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
        "cannot use the pod's network: the guest has no interface with the hardware address of eth0"
    );
}
