#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use super::*;

fn network() -> Network {
    serde_json::from_str(
        r#"{
            "interfaces": [{
                "name": "eth0", "mac": [2, 0, 0, 0, 0, 1], "mtu": 1500,
                "ipv6": {"enabled": true, "accept-ra": 1, "autoconf": true},
                "addresses": [{"ip": "10.0.0.2", "prefix": 24, "scope": 0, "no-prefix-route": false}]
            }],
            "routes": [{
                "destination": "0.0.0.0", "prefix": 0, "kind": "unicast", "table": 254,
                "protocol": 3, "scope": 0,
                "hops": [{"interface": "eth0", "gateway": "10.0.0.1", "on-link": false, "weight": 0}]
            }],
            "neighbours": [{"interface": "eth0", "ip": "10.0.0.1", "mac": [2, 0, 0, 0, 0, 2]}]
        }"#,
    )
    .unwrap()
}

/// What is said of a network that was changed.
fn said(change: impl FnOnce(&mut Network)) -> String {
    let mut network = network();
    network.check().unwrap();
    change(&mut network);
    network.check().unwrap_err().to_string()
}

#[test]
fn what_can_not_be_an_interface_is_refused() {
    for name in [
        "",
        "lo",
        ".",
        "..",
        "all",
        "a/b",
        "a b",
        "sixteen_letters_",
        "é",
    ] {
        let said = said(|network| network.interfaces[0].name = name.into());
        assert!(said.contains(&format!("{name:?}")), "{said}");
    }
    for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
        let said = said(|network| network.interfaces[0].mac = mac);
        assert!(said.contains("hardware address"), "{said}");
    }
    let twice = said(|network| {
        let mut again = network.interfaces[0].clone();
        again.name = "eth1".into();
        network.interfaces.push(again);
    });
    assert!(twice.contains("another interface's too"), "{twice}");
}

#[test]
fn what_can_not_be_an_address_is_refused() {
    let changes: [fn(&mut Address); 5] = [
        |address| address.prefix = 33,
        |address| address.peer = Some("fd00::1".parse().unwrap()),
        |address| address.label = Some("a/b".into()),
        |address| {
            address.ip = "fd00::1".parse().unwrap();
            address.label = Some("eth0:1".into());
        },
        |address| {
            address.ip = "fd00::1".parse().unwrap();
            address.prefix = 129;
        },
    ];
    for change in changes {
        said(|network| change(&mut network.interfaces[0].addresses[0]));
    }
}

#[test]
fn what_can_not_be_a_route_is_refused() {
    let changes: [fn(&mut Route); 9] = [
        |route| route.prefix = 33,
        |route| route.kind = Kind::Blackhole,
        |route| route.hops.clear(),
        |route| route.hops = vec![route.hops[0].clone(); MOST_HOPS + 1],
        |route| route.table = LOCAL_TABLE,
        |route| route.table = 0,
        |route| route.source = Some("fd00::1".parse().unwrap()),
        |route| route.destination = "fd00::".parse().unwrap(),
        |route| route.hops[0].interface = "eth1".into(),
    ];
    for change in changes {
        said(|network| change(&mut network.routes[0]));
    }
    let mut by_ipv6 = network();
    by_ipv6.routes[0].hops[0].gateway = Some("fd00::1".parse().unwrap());
    by_ipv6.check().unwrap();
}

#[test]
fn what_can_not_be_a_rule_is_refused() {
    let rule = Rule {
        priority: 1,
        source: "10.0.0.2".parse().unwrap(),
        source_prefix: 32,
        destination: "0.0.0.0".parse().unwrap(),
        destination_prefix: 0,
        table: 7,
        protocol: 3,
    };
    let mut network = network();
    network.rules.push(rule.clone());
    network.check().unwrap();
    let changes: [fn(&mut Rule); 4] = [
        |rule| rule.source_prefix = 33,
        |rule| rule.destination_prefix = 33,
        |rule| rule.destination = "::".parse().unwrap(),
        |rule| rule.table = 0,
    ];
    for change in changes {
        let mut rule = rule.clone();
        change(&mut rule);
        said(|network| network.rules.push(rule));
    }
    let said = said(|network| network.rules = vec![rule; MOST_RULES + 1]);
    assert!(said.contains("and may be"), "{said}");
}

#[test]
fn there_is_no_more_than_there_may_be() {
    let changes: [fn(&mut Network); 4] = [
        |network| network.interfaces = vec![network.interfaces[0].clone(); MOST_INTERFACES + 1],
        |network| {
            let addresses = &mut network.interfaces[0].addresses;
            *addresses = vec![addresses[0].clone(); MOST_ADDRESSES + 1];
        },
        |network| network.routes = vec![network.routes[0].clone(); MOST_ROUTES + 1],
        |network| {
            network.neighbours = vec![network.neighbours[0].clone(); MOST_NEIGHBOURS + 1];
        },
    ];
    for change in changes {
        let said = said(change);
        assert!(said.contains("and may be"), "{said}");
    }
    let said = said(|network| network.neighbours[0].interface = "eth1".into());
    assert!(
        said.contains("\"eth1\", which is not an interface"),
        "{said}"
    );
}
