//! Configurations as containerd 2.3 makes them pass the gate of the policy that is derived for them.
//!
//! Those in `configurations/` are containerd's own, of containers that were asked for as a kubelet asks, on a
//! node with cgroup v1. But for paths of the host's and the pod's name in `HOSTNAME` they are as they were.

use serde_json::{Value, json};
use trefoil_policy::{
    Configuration, Content, CreateContainer, Digest, Exec, File, Gate, HostProcess, LayerDisk,
    Owner, Protection, Request, Root, SetUp, Streams, VolumeKind,
};

use super::*;

const WEB: &str = include_str!("configurations/web.json");
const SHELL: &str = include_str!("configurations/shell.json");

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {greeting: hello from the file}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      enableServiceLinks: false
      securityContext: {fsGroup: 2000}
      containers:
      - name: web
        image: base
        args: [sh, -c, exec httpd -f -p 8080]
        workingDir: /srv
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: web, key: greeting}}}
        - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
        - {name: PATH, value: /usr/local/bin:/usr/bin:/bin}
        resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m}}
        securityContext:
          runAsUser: 1000
          runAsGroup: 3000
          readOnlyRootFilesystem: true
          allowPrivilegeEscalation: false
          capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
        volumeMounts:
        - {name: config, mountPath: /etc/web}
        - {name: cache, mountPath: /var/cache/web}
      volumes:
      - {name: config, configMap: {name: web}}
      - {name: cache, emptyDir: {}}
";

const SHELL_MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-6d4cf56db6-x7k2p}
spec:
  automountServiceAccountToken: false
  containers:
  - {name: shell, image: base, tty: true}
";

/// The image that the containers were made of.
struct Base;

impl Images for Base {
    fn image(&self, _: &str) -> std::result::Result<Image, String> {
        let image = Fakes.image("tools")?;
        Ok(Image {
            config: ImageConfig {
                cmd: vec!["sh".to_owned()],
                env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
                ..ImageConfig::default()
            },
            passwd: UserFile::Bytes(b"root:x:0:0:::\ndefault-user:x:1000:1000:::\n".to_vec()),
            group: UserFile::Bytes(b"root:x:0:\nextra:x:50000:default-user\n".to_vec()),
            ..image
        })
    }
}

fn policy_of(manifest: &str) -> Policy {
    policy_with(manifest, &Knobs::default())
}

fn policy_with(manifest: &str, knobs: &Knobs) -> Policy {
    let manifest = manifest::read("pod.yaml", manifest).expect("a manifest");
    let derived = policy(&manifest.pods[0], &manifest.configs, &Base, knobs);
    derived.expect("a policy").policy
}

/// What the host makes of containerd's configuration before it sends it: volumes by their names, nothing of
/// the node's.
fn as_sent(configuration: &str) -> Value {
    let mut sent: Value = serde_json::from_str(configuration).expect("JSON");
    sent.as_object_mut()
        .expect("an object")
        .remove("annotations");
    for mount in sent["mounts"].as_array_mut().expect("mounts") {
        let source = match mount["source"].as_str().expect("a source") {
            "/of-the-host/conf" => "files:config",
            "/of-the-host/cache" => "scratch:cache",
            "/of-the-host/sa" => "files:kube-api-access",
            "/of-the-host/hosts" => "files:etc-hosts",
            "/of-the-host/term" => "empty-file:termination-log",
            "/of-the-host/pod/hostname" => "files:hostname",
            "/of-the-host/pod/resolv.conf" => "files:resolv.conf",
            "/of-the-host/pod/shm" => {
                *mount = json!({
                    "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                    "options": ["nosuid", "noexec", "nodev"]
                });
                continue;
            }
            _ => continue,
        };
        mount["source"] = source.into();
    }
    let linux = &mut sent["linux"];
    linux["cgroupsPath"] = "/pod/c1".into();
    linux["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]);
    sent
}

fn file(path: &str, contents: &[u8]) -> File {
    File {
        path: path.to_owned(),
        contents: contents.to_vec(),
        mode: 0o644,
        owner: Owner::default(),
    }
}

/// A gate of a pod that has been set up and been brought its files.
fn gate(policy: Policy) -> Gate {
    let hostname = "web-6d4cf56db6-x7k2p".to_owned();
    let mut gate = Gate::new(policy, Protection::Tee).expect("a gate");
    let mut requests = vec![Request::SetUp(SetUp {
        hostname: hostname.clone(),
        sysctls: sandbox::SYSCTLS
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        scratch: Some(9),
        ..SetUp::default()
    })];
    for (volume, files) in [
        ("config", vec![file("greeting", b"hello from the file")]),
        (
            "kube-api-access",
            vec![
                file("token", b"ey"),
                file("ca.crt", b"-"),
                file("namespace", b"shop"),
            ],
        ),
        ("etc-hosts", vec![file("", b"127.0.0.1 localhost\n")]),
        ("resolv.conf", vec![file("", b"nameserver 10.0.0.10\n")]),
        (
            "hostname",
            vec![file("", format!("{hostname}\n").as_bytes())],
        ),
    ] {
        if gate.policy().volume(volume).is_some() {
            let volume = volume.to_owned();
            requests.push(Request::PutFiles { volume, files });
        }
    }
    for request in requests {
        let volume = match &request {
            Request::PutFiles { volume, .. } => Some(volume.clone()),
            _ => None,
        };
        gate.decide(request).expect("allowed");
        volume.into_iter().for_each(|volume| gate.filled(&volume));
    }
    gate
}

fn create(name: &str, configuration: &Value) -> Request {
    let json = serde_json::to_vec(configuration).expect("JSON");
    Request::CreateContainer(Box::new(CreateContainer {
        container: "c1".to_owned(),
        name: name.to_owned(),
        configuration: Configuration::from_json(&json).expect("a configuration"),
        root: Root {
            verified: Some(LayerDisk {
                device: 1,
                erofs: true,
                parts: vec![1 << 20],
            }),
            ..Root::default()
        },
        streams: Streams {
            terminal: name == "shell",
            stdout: 2,
            ..Streams::default()
        },
    }))
}

#[test]
fn containerds_own_configurations_pass() {
    for (manifest, name, configuration) in
        [(MANIFEST, "web", WEB), (SHELL_MANIFEST, "shell", SHELL)]
    {
        let request = create(name, &as_sent(configuration));
        let approved = gate(policy_of(manifest)).decide(request);
        assert!(
            approved.is_ok(),
            "{name}: {}",
            approved.expect_err("a denial")
        );
    }
}

/// containerd sets the kind of terminal for whatever is run with one.
#[test]
fn what_is_run_with_a_terminal_may_know_its_kind() {
    let knobs = Knobs {
        exec: vec![("web".to_owned(), vec!["sh".to_owned()])],
        ..Knobs::default()
    };
    let sent = as_sent(WEB);
    let run = |name: &str, kind: &str| {
        let mut process = sent["process"].clone();
        process["args"] = json!(["sh"]);
        process["terminal"] = true.into();
        let env = process["env"].as_array_mut().expect("variables");
        env.push(format!("TERM={kind}").into());
        let json = serde_json::to_vec(&process).expect("JSON");
        Request::Exec(Box::new(Exec {
            container: "c1".to_owned(),
            process: name.to_owned(),
            configuration: HostProcess::from_json(&json).expect("a process"),
            streams: Streams {
                terminal: true,
                stdout: 3,
                ..Streams::default()
            },
        }))
    };
    let mut gate = gate(policy_with(MANIFEST, &knobs));
    let start = Request::StartContainer {
        container: "c1".to_owned(),
    };
    gate.decide(create("web", &sent)).expect("allowed");
    let begun = gate.decide(start).expect("allowed");
    gate.started(begun.start.expect("a start"));
    gate.decide(run("e1", "xterm")).expect("allowed");
    let why = gate.decide(run("e2", "vt52")).expect_err("another kind");
    assert!(why.to_string().contains("TERM=\"vt52\" came"), "{why}");
}

#[test]
fn the_filter_is_containerds() {
    let sent = as_sent(WEB);
    let last = &sent["linux"]["seccomp"]["syscalls"][0];
    let trefoil_policy::Seccomp::Profile(profile) = &policy_of(MANIFEST).containers[0].seccomp
    else {
        panic!("no filter");
    };
    let own = serde_json::to_value(profile).expect("JSON");
    let seccomp = &sent["linux"]["seccomp"];
    assert_eq!(own["defaultAction"], seccomp["defaultAction"]);
    assert_eq!(own["architectures"], seccomp["architectures"]);
    assert_eq!(
        own["syscalls"].as_array().and_then(|all| all.last()),
        Some(last)
    );
}

/// Each value of a configuration, changed or left out, is denied, but for what the host may choose.
#[test]
fn whatever_is_changed_is_denied() {
    let sent = as_sent(WEB);
    let policy = policy_of(MANIFEST);
    let free = [
        "/ociVersion",
        "/process/oomScoreAdj",
        "/linux/resources",
        "/linux/seccomp",
        "/linux/maskedPaths",
    ];
    let mut places = Vec::new();
    leaves(&sent, String::new(), &mut places);
    let bound = places
        .iter()
        .filter(|place| !free.iter().any(|free| place.starts_with(free)));
    let mut denied = 0;
    for place in bound {
        let mut changed = sent.clone();
        let value = changed.pointer_mut(place).expect("a value");
        *value = match value {
            Value::Bool(is) => (!*is).into(),
            Value::Number(_) => 77.into(),
            _ => "/changed".into(),
        };
        // What the host may choose within a pattern is another pod's name or address.
        let json = serde_json::to_vec(&changed).expect("JSON");
        if let Ok(configuration) = Configuration::from_json(&json) {
            let Request::CreateContainer(mut request) = create("web", &sent) else {
                panic!("another request");
            };
            request.configuration = configuration;
            let decided = gate(policy.clone()).decide(Request::CreateContainer(request));
            assert!(decided.is_err(), "{place} may be changed");
        }
        denied += 1;
    }
    assert!(denied > 60, "{denied}");
}

/// The places of all values that are no list and no object. Options that say nothing in a guest are none.
fn leaves(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            leaves(value, format!("{at}/{}", key.replace('/', "~1")), places)
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(number, value)| leaves(value, format!("{at}/{number}"), places)),
        _ => places.push(at),
    }
}

#[test]
fn files_of_the_manifest_are_bound_by_their_contents() {
    let policy = policy_of(MANIFEST);
    let VolumeKind::Files { files, .. } = &policy.volume("config").expect("a volume").kind else {
        panic!("no files");
    };
    assert_eq!(
        files[0].content,
        Content::Digest(Digest::of(b"hello from the file"))
    );
    let mut gate = gate(policy);
    let other = Request::PutFiles {
        volume: "config".to_owned(),
        files: vec![file("greeting", b"another")],
    };
    assert!(gate.decide(other).is_err());
}
