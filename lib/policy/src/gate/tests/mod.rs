//! What a host may try that no single field of a request shows.

mod bound;
mod closest;
mod generated;
mod outcome;
mod sizes;

use serde_json::{Value, json};

use super::*;
use crate::{
    Configuration, CreateContainer, File, LayerDisk, Owner, Protection, Root, SetUp, Streams,
};

/// A pod of one container, to be changed.
fn policy() -> Value {
    json!({
        "version": 1,
        "sandbox": {"hostname": {"exact": "web"}},
        "containers": [{
            "name": "web", "kind": "app", "image": "cd".repeat(32),
            "layers": [{"root_hash": "ab".repeat(32), "blocks": 10}],
            "restart": "always",
            "process": {"command": ["/bin/web"], "user": {"uid": 1, "gid": 2}, "cwd": "/",
                "capabilities": {}},
            "mounts": [{"destination": "/proc", "kind": "proc"}],
            "namespaces": ["mount"], "seccomp": "unconfined",
            "oom_score": {"least": 0, "most": 1000}, "signals": [15],
        }],
    })
}

/// The configuration that the policy's container has.
fn configuration() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": ["/bin/web"], "cwd": "/", "user": {"uid": 1, "gid": 2}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": "/pod/w1", "namespaces": [{"type": "mount"}]},
    })
}

/// The gate of a guest that has been set up.
fn gate(policy: &Value) -> Gate {
    let policy = Policy::from_json(policy.to_string().as_bytes()).expect("a policy");
    let mut gate = Gate::new(policy, Protection::Tee).expect("it is not permissive");
    let set_up = SetUp {
        hostname: "web".into(),
        ..SetUp::default()
    };
    gate.decide(Request::SetUp(set_up)).expect("sound");
    gate
}

/// Making the container of a configuration.
fn creation(configuration: &Value) -> Request {
    let configuration = Configuration::from_json(configuration.to_string().as_bytes());
    Request::CreateContainer(Box::new(CreateContainer {
        container: "w1".into(),
        name: "web".into(),
        configuration: configuration.expect("a configuration"),
        root: Root {
            verified: Some(LayerDisk {
                device: 1,
                erofs: true,
                parts: vec![12 * 4096],
            }),
            ..Root::default()
        },
        streams: Streams::default(),
    }))
}

fn file(path: &str, contents: &[u8]) -> File {
    File {
        path: path.into(),
        contents: contents.into(),
        mode: 0o644,
        owner: Owner::default(),
    }
}
