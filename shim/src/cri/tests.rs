use proptest::prelude::*;

use super::fuzz::{Message, fuzz};
use super::*;

#[test]
fn a_pod_is_read_as_the_kubelet_describes_it() {
    let mapping = Message::default()
        .number(1, 100_000)
        .number(2, 0)
        .number(3, 65_536);
    let users = Message::default()
        .number(1, 0)
        .message(2, &mapping)
        .message(3, &mapping);
    let namespaces = Message::default()
        .number(1, 2)
        .number(2, 1)
        .number(3, 9)
        .text(4, "target")
        .message(5, &users);
    let selinux = Message::default().text(3, "container_t").text(4, "s0:c1");
    let security = Message::default()
        .message(1, &namespaces)
        .message(2, &selinux)
        .number(6, 1);
    let resources = Message::default()
        .number(1, 100_000)
        .number(2, -1)
        .number(4, 1 << 40)
        .text(6, "0-3");
    let linux = Message::default()
        .text(1, "/kubepods/pod1")
        .message(2, &security)
        .entry(3, "net.core.somaxconn", "1024")
        .message(5, &resources);
    let dns = Message::default()
        .text(1, "10.0.0.10")
        .text(2, "svc.cluster.local")
        .text(2, "cluster.local")
        .text(3, "ndots:5");
    let pod = Message::default()
        .message(1, &Message::default().text(1, "name"))
        .text(2, "web")
        .message(4, &dns)
        .entry(7, "trefoil.dev/isolation", "microvm")
        .message(8, &linux);
    let ids = Mapping {
        host: 100_000,
        container: 0,
        length: 65_536,
    };
    let expected = PodSandboxConfig {
        hostname: "web".into(),
        dns: Some(Dns {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        }),
        annotations: Texts::from([("trefoil.dev/isolation".into(), "microvm".into())]),
        cgroup_parent: "/kubepods/pod1".into(),
        sysctls: Texts::from([("net.core.somaxconn".into(), "1024".into())]),
        resources: Resources {
            cpu_period: 100_000,
            cpu_quota: -1,
            memory: 1 << 40,
        },
        namespaces: Namespaces {
            network: Mode::Node,
            pid: Mode::Container,
            ipc: Mode::Other,
            users: Some(Users {
                mode: Mode::Pod,
                uids: vec![ids],
                gids: vec![ids],
            }),
        },
        selinux: Some(SeLinux {
            kind: "container_t".into(),
            level: "s0:c1".into(),
            ..SeLinux::default()
        }),
        privileged: true,
    };
    assert_eq!(PodSandboxConfig::parse(&pod.0).expect("read"), expected);
}

#[test]
fn nothing_is_a_pod_of_its_own_namespaces() {
    let config = PodSandboxConfig::parse(&[]).expect("read");
    assert_eq!(config, PodSandboxConfig::default());
    assert_eq!(config.namespaces.network, Mode::Pod);
    assert_eq!(config.dns, None);
}

#[test]
fn a_field_of_another_type_is_refused() {
    for message in [
        Message::default().number(2, 7),
        Message::default().text(8, "\u{8}"),
        Message::default().bytes(2, &[0xff]),
        Message::default().message(
            8,
            &Message::default().message(2, &Message::default().text(6, "yes")),
        ),
    ] {
        let why = PodSandboxConfig::parse(&message.0).expect_err("refused");
        assert!(why.to_string().starts_with("malformed message: "), "{why}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_pod_or_refused(message: Vec<u8>) {
        fuzz(&message);
    }

    /// Bytes that come far: each nested in the fields that lead to it.
    #[test]
    fn any_nested_bytes_are_a_pod_or_refused(
        path in prop::sample::select(vec![
            vec![4], vec![7], vec![8], vec![8, 2], vec![8, 3], vec![8, 5], vec![8, 2, 1],
            vec![8, 2, 2], vec![8, 2, 1, 5], vec![8, 2, 1, 5, 2],
        ]),
        inner: Vec<u8>,
    ) {
        let message = path.iter().rev().fold(inner, |inner, number| {
            Message::default().bytes(*number, &inner).0
        });
        fuzz(&message);
    }

    #[test]
    fn texts_arrive_as_they_were_sent(name: String, key: String, value: String) {
        let message = Message::default().text(2, &name).entry(7, &key, &value);
        fuzz(&message.0);
        let config = PodSandboxConfig::parse(&message.0).expect("read");
        prop_assert_eq!(config.hostname, name);
        prop_assert_eq!(config.annotations.get(&key), Some(&value));
    }
}
