use std::fs;
use std::path::Path;

use trefoil_policy::{Digest, Layer, Owner, Restart, VolumeKind};

use super::*;
use crate::image::{Config as ImageConfig, UserFile};

mod gate;
mod variables;

/// Images that are no more than their configuration.
pub(super) struct Fakes;

const GROUPS: &str =
    "# ours\nroot:x:0:\nwww:x:33:\nstaff:x:50:alice,root\nlog:x:60:alice\nalice:x:1000:alice\n";
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n\nwww:x:33:33::/:\nalice:x:1000:1000:::\n";

impl Images for Fakes {
    fn image(&self, reference: &str) -> std::result::Result<Image, String> {
        let mut config = ImageConfig {
            cmd: vec!["sh".to_owned()],
            env: vec!["PATH=/usr/bin:/bin".to_owned(), "VERSION=1".to_owned()],
            ..ImageConfig::default()
        };
        match reference {
            "nginx:1.27" => {
                config.entrypoint = vec!["/entrypoint".to_owned()];
                config.cmd = vec!["nginx".to_owned()];
                config.stop_signal = "SIGQUIT".to_owned();
                config.user = "www".to_owned();
            }
            "tools" => {}
            "data" => config.volumes = ["/data".to_owned()].into(),
            "cautious" => {}
            "named" => config.user = "alice:staff".to_owned(),
            "stranger" => config.user = "bob".to_owned(),
            "empty" => (config.env, config.cmd) = (vec!["PATH".to_owned()], Vec::new()),
            _ => return Err(format!("no image {reference:?}")),
        }
        Ok(Image {
            digest: Digest::of(reference.as_bytes()),
            layers: vec![Layer {
                root_hash: Digest::of(b"layer"),
                blocks: 8,
            }],
            config,
            passwd: UserFile::Bytes(USERS.into()),
            group: UserFile::Bytes(GROUPS.into()),
            cautions: match reference {
                "cautious" => vec!["its layer is odd".to_owned()],
                _ => Vec::new(),
            },
        })
    }
}

pub(super) fn derived_with(text: &str, knobs: &Knobs) -> std::result::Result<Derived, String> {
    let manifest = manifest::read("pod.yaml", text).map_err(|why| why.to_string())?;
    let pod = manifest.pods.first().expect("a pod");
    policy(pod, &manifest.configs, &Fakes, knobs).map_err(|why| why.to_string())
}

fn derived(text: &str) -> Derived {
    derived_with(text, &Knobs::default()).expect("a policy")
}

/// A pod of one container, with more fields of the container and of the pod.
fn pod(container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n  - name: web\n    {container}\n  {spec}\n"
    )
}

fn refused(container: &str, spec: &str) -> String {
    derived_with(&pod(container, spec), &Knobs::default()).expect_err("a refusal")
}

fn first(container: &str, spec: &str) -> trefoil_policy::Container {
    derived(&pod(container, spec)).policy.containers.remove(0)
}

fn env<'a>(
    container: &'a trefoil_policy::Container,
    name: &str,
) -> Option<&'a trefoil_policy::Env> {
    container
        .process
        .env
        .iter()
        .find(|one| one.name == Pattern::exact(name))
}

#[test]
fn manifests_give_the_policies_beside_them() {
    for name in ["deployment", "statefulset"] {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/derive/golden");
        let text = fs::read_to_string(at.join(format!("{name}.yaml"))).expect(name);
        let policy = derived(&text).policy;
        let made = serde_json::to_string_pretty(&policy).expect(name) + "\n";
        let golden = at.join(format!("{name}.json"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &made).expect(name);
        }
        let expected = fs::read_to_string(&golden).expect(name);
        assert_eq!(made, expected, "{name}: see what changed by UPDATE=1");
        let bytes = policy.to_json().expect("JSON");
        assert_eq!(Policy::from_json(&bytes).as_ref(), Ok(&policy), "{name}");
    }
}

#[test]
fn a_command_takes_the_place_of_both_of_the_images() {
    for (fields, command) in [
        ("image: nginx:1.27", vec!["/entrypoint", "nginx"]),
        ("image: nginx:1.27\n    args: [a]", vec!["/entrypoint", "a"]),
        ("image: nginx:1.27\n    command: [b]", vec!["b"]),
        (
            "image: nginx:1.27\n    command: [b]\n    args: [a, $(X), $$(X)]",
            vec!["b", "a", "$(X)", "$(X)"],
        ),
    ] {
        assert_eq!(first(fields, "").process.command, command, "{fields}");
    }
    assert!(
        refused("image: data", "").contains("containers[0].image: it declares a VOLUME \"/data\"")
    );
    assert!(refused("image: empty", "").contains("containers[0].command: must be given"));
}

#[test]
fn an_argument_that_is_not_known_is_refused() {
    let env = "env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]";
    let told = refused(
        &format!("image: tools\n    {env}\n    command: [ping, $(IP)]"),
        "",
    );
    assert!(
        told.contains(
            "pod.yaml: document 1 (Pod web): spec.containers[0].command[1]: IP is not known here"
        ),
        "{told}"
    );
}

#[test]
fn users_are_looked_up_in_the_image() {
    for (fields, spec, uid, gid, groups) in [
        ("image: tools", "", 0, 0, vec![0, 50]),
        ("image: named", "", 1000, 1000, vec![50, 60, 1000]),
        (
            "image: nginx:1.27",
            "securityContext: {fsGroup: 7, supplementalGroups: [8]}",
            33,
            33,
            vec![7, 8, 33],
        ),
        (
            "image: tools\n    securityContext: {runAsUser: 1000}",
            "",
            1000,
            1000,
            vec![50, 60, 1000],
        ),
        (
            "image: tools",
            "securityContext: {runAsUser: 4711, runAsGroup: 5}",
            4711,
            5,
            vec![5],
        ),
        (
            "image: named",
            "securityContext: {supplementalGroupsPolicy: Strict}",
            1000,
            1000,
            vec![1000],
        ),
    ] {
        let user = first(fields, spec).process.user;
        let found: Vec<_> = user.additional_gids.into_iter().collect();
        assert_eq!(
            (user.uid, user.gid, found),
            (uid, gid, groups),
            "{fields} {spec}"
        );
    }
    assert!(
        refused("image: stranger", "")
            .contains("image: its user \"bob\" is not in the image's /etc/passwd")
    );
    let non_root = "securityContext: {runAsNonRoot: true}";
    assert!(refused("image: tools", non_root).contains("runAsNonRoot: it would run as root"));
    assert!(refused("image: named", non_root).contains("which is a name"));
}

#[test]
fn order_and_restarts_are_the_kubelets() {
    let spec = "restartPolicy: OnFailure\n  initContainers:\n  - {name: a, image: tools}\n  - {name: b, image: tools, restartPolicy: Always}\n  - {name: c, image: tools}";
    let containers = derived(&pod("image: tools", spec)).policy.containers;
    let told: Vec<_> = containers
        .iter()
        .map(|one| {
            (
                one.name.as_str(),
                one.kind,
                one.after.iter().map(String::as_str).collect::<Vec<_>>(),
                one.restart,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("a", Kind::Init, vec![], Restart::OnFailure),
            ("b", Kind::Sidecar, vec!["a"], Restart::Always),
            ("c", Kind::Init, vec!["b"], Restart::OnFailure),
            ("web", Kind::App, vec!["c"], Restart::OnFailure),
        ]
    );
}

#[test]
fn what_a_confidential_pod_can_not_have_is_refused_by_its_field() {
    for (container, spec, told) in [
        (
            "image: tools",
            "hostNetwork: true",
            "spec.hostNetwork: the pod has a kernel of its own",
        ),
        ("image: tools", "hostUsers: false", "spec.hostUsers"),
        (
            "image: tools\n    securityContext: {privileged: true}",
            "",
            "securityContext.privileged: a privileged container",
        ),
        (
            "image: tools\n    securityContext: {procMount: Unmasked}",
            "",
            "securityContext.procMount",
        ),
        (
            "image: tools\n    securityContext: {seLinuxOptions: {type: t}}",
            "",
            "securityContext.seLinuxOptions: the guest's kernel has no SELinux",
        ),
        (
            "image: tools\n    securityContext: {seccompProfile: {type: Localhost, localhostProfile: a}}",
            "",
            "seccompProfile.type",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: /a}]",
            "",
            "volumeMounts[0].name: there is no volume \"a\"",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: /a}, {name: a, mountPath: /a/}]",
            "volumes: [{name: a}]",
            "spec.containers[0].volumeMounts[1].mountPath: is there twice",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: a}]",
            "volumes: [{name: a}]",
            "volumeMounts[0].mountPath",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: /a, subPath: b}]",
            "volumes: [{name: a}]",
            "spec.containers[0].volumeMounts[0].subPath: a part of a volume can't be mounted in a confidential pod: mount the whole",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: /a, subPathExpr: $(B)}]",
            "volumes: [{name: a}]",
            "spec.containers[0].volumeMounts[0].subPathExpr: a part of a volume can't",
        ),
        (
            "image: tools\n    volumeMounts: [{name: a, mountPath: /a, mountPropagation: Bidirectional}]",
            "volumes: [{name: a}]",
            "mountPropagation",
        ),
        (
            "image: tools",
            "volumes: [{name: hostname}]",
            "volumes[0].name: is the name of a volume that Kubernetes adds",
        ),
        (
            "image: tools",
            "volumes: [{name: a, emptyDir: {medium: HugePages}}]",
            "volumes[0].emptyDir.medium: huge pages",
        ),
        (
            "image: tools\n    livenessProbe: {exec: {}}",
            "",
            "livenessProbe.exec.command: must name a program",
        ),
        (
            "image: tools\n    lifecycle: {stopSignal: SIGNONE}",
            "",
            "lifecycle.stopSignal: no signal \"SIGNONE\"",
        ),
        (
            "image: tools",
            "volumes: [{name: kube-api-access-x7k2p, projected: {sources: []}}]",
            "volumes[0].name: is the token's volume, which Kubernetes adds by itself: leave it and its mounts out",
        ),
        (
            "image: tools\n    resources: {limits: {nvidia.com/gpu: 1}}",
            "",
            "containers[0].resources.limits.nvidia.com/gpu: devices of the host's can't be given",
        ),
        (
            "image: tools\n    resources: {requests: {hugepages-2Mi: 4Mi}}",
            "",
            "containers[0].resources.requests.hugepages-2Mi: huge pages are not set aside",
        ),
        ("image: away", "", "containers[0].image: no image \"away\""),
        (
            "image: tools\n    resources: {claims: [{name: gpu}]}",
            "",
            "resources.claims: devices of the host's",
        ),
    ] {
        let why = refused(container, spec);
        assert!(why.contains(told), "{told}\n{why}");
    }
}

#[test]
fn what_is_up_to_the_host_is_said() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pin: '1234', kept: sealed.a.b.c, other: x}\n---\n";
    let text = pod(
        "image: tools
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['a']\"}}}]
    volumeMounts: [{name: s, mountPath: /s}]",
        "hostAliases: [{ip: 10.0.0.1, hostnames: [a]}]
  dnsConfig: {nameservers: [10.0.0.1]}
  dnsPolicy: None
  volumes: [{name: s, secret: {secretName: s, items: [{key: pin, path: pin}, {key: kept, path: kept}]}}]",
    );
    let notes = derived(&format!("{secret}{text}")).notes;
    for wanted in [
        "hostAliases is not bound: what is in /etc/hosts is up to the host",
        "dnsConfig is not bound: what is in /etc/resolv.conf is up to the host",
        "dnsPolicy is not bound",
        "seccompProfile is not set for every container",
        "the host can set a variable to any text: metadata.annotations['a'] is not known here",
        "the policy has the SHA-256 of the key pin of the Secret s",
    ] {
        assert!(
            notes.iter().any(|note| note.starts_with(wanted)),
            "{wanted}: {notes:#?}"
        );
    }
    assert!(
        notes
            .iter()
            .all(|note| !note.contains("key kept") && !note.contains("key other")),
        "{notes:#?}"
    );
    let told = pod("image: tools", "").replace(
        "{name: web}",
        "{name: web, annotations: {io.katacontainers.config.a: b, team: c}}",
    );
    let told = derived(&told).notes;
    let is_told = |what: &str| told.iter().any(|note| note.contains(what));
    assert!(
        is_told("the annotation io.katacontainers.config.a is for the node and is not bound")
            && !is_told("team"),
        "{told:#?}"
    );
    let odd = derived(&pod("image: cautious", "")).notes;
    assert!(
        odd.contains(&"the image cautious: its layer is odd".to_owned()),
        "{odd:#?}"
    );
    let quiet = derived(&pod(
        "image: tools\n    terminationMessagePath: ''\n    securityContext: {seccompProfile: {type: Unconfined}}",
        "",
    ));
    assert!(
        quiet
            .notes
            .iter()
            .all(|note| !note.contains("is not bound") && !note.contains("seccompProfile")),
        "{:#?}",
        quiet.notes
    );
}

#[test]
fn what_the_kubelet_writes_is_mounted_read_only() {
    let mounts = ["a", "b", "c", "d", "e"]
        .map(|name| format!("{{name: {name}, mountPath: /{name}, readOnly: false}}"))
        .join(", ");
    let volumes = "volumes: [{name: a, configMap: {name: a}}, {name: b, secret: {secretName: b}}, \
                   {name: c, projected: {sources: [{configMap: {name: a}}]}}, \
                   {name: d, downwardAPI: {items: []}}, {name: e, emptyDir: {}}]";
    let container = first(
        &format!("image: tools\n    volumeMounts: [{mounts}]"),
        volumes,
    );
    for (place, read_only) in [
        ("/a", true),
        ("/b", true),
        ("/c", true),
        ("/d", true),
        ("/e", false),
        ("/etc/hosts", false),
    ] {
        let mount = container
            .mounts
            .iter()
            .find(|mount| mount.destination == place)
            .expect(place);
        let is = mount
            .options
            .contains(&trefoil_policy::MountOption::ReadOnly);
        assert_eq!(is, read_only, "{place}");
    }
}

#[test]
fn files_belong_to_whom_the_kubelet_gives_them() {
    let owners = |spec: &str, container: &str| -> Vec<(String, u32, u32)> {
        let token =
            "{serviceAccountToken: {path: t}}, {configMap: {name: a, items: [{key: k, path: k}]}}";
        let spec = format!("{spec}\n  volumes: [{{name: v, projected: {{sources: [{token}]}}}}]");
        let policy = derived(&pod(
            &format!(
                "image: tools\n    volumeMounts: [{{name: v, mountPath: /v}}]\n    {container}"
            ),
            &spec,
        ))
        .policy;
        let of = |name: &str| policy.volumes.iter().find(|volume| volume.name == name);
        let mut found = Vec::new();
        for name in ["v", "kube-api-access"] {
            let VolumeKind::Files { files, .. } = &of(name).expect(name).kind else {
                panic!("{name}");
            };
            for rule in files {
                let Owner { user, group } = rule.owner;
                found.push((rule.path.to_string(), user, group));
            }
        }
        found.retain(|(_, user, group)| (*user, *group) != (0, 0));
        found
    };
    assert_eq!(owners("", ""), []);
    let of_user = "securityContext: {runAsUser: 1000}";
    let tokens = owners(of_user, "");
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    assert!(
        tokens
            .iter()
            .all(|(path, user, group)| path.contains('t') && (*user, *group) == (1000, 0))
    );
    assert_eq!(owners("", of_user), tokens);
    // Two users: the kubelet lets all read it.
    let other = "initContainers: [{name: i, image: tools, securityContext: {runAsUser: 7}}]";
    assert_eq!(owners(other, of_user), []);
    let unnamed = "initContainers: [{name: i, image: tools}]";
    assert_eq!(owners(unnamed, of_user), []);
    let of_group = owners("securityContext: {fsGroup: 2000}", "");
    assert_eq!(of_group.len(), 5, "{of_group:?}");
    assert!(
        of_group
            .iter()
            .all(|(_, user, group)| (*user, *group) == (0, 2000))
    );
}

#[test]
fn knobs_are_off_unless_they_are_asked_for() {
    let text = pod(
        "image: tools\n    resources: {limits: {memory: 64Mi, cpu: 500m}}",
        "",
    );
    let policy = derived(&text).policy;
    assert!(policy.knobs.are_off());
    assert!(policy.containers[0].update.is_none() && policy.containers[0].exec.is_empty());
    let words = |words: &str| words.split(' ').map(str::to_owned).collect();
    let mut knobs = Knobs {
        exec: vec![
            ("web".to_owned(), words("ls -l")),
            ("web".to_owned(), words("sh ...")),
        ],
        resize: true,
        start_within: Some(60),
        ..Knobs::default()
    };
    let policy = derived_with(&text, &knobs).expect("a policy").policy;
    let container = &policy.containers[0];
    assert!(!container.exec[0].command.more && container.exec[1].command.more);
    assert_eq!(container.exec[1].command.arguments, [Pattern::exact("sh")]);
    let update = container.update.clone().expect("bounds");
    assert_eq!(update.memory.map(|range| range.least), Some(64 << 20));
    assert_eq!(update.cpu.map(|range| range.least), Some(50_000));
    assert_eq!(policy.sandbox.start_within, Some(60));
    knobs.exec = vec![("other".to_owned(), words("ls"))];
    assert!(
        derived_with(&text, &knobs)
            .expect_err("no container")
            .contains("no container \"other\"")
    );
}

#[test]
fn names_and_parameters_are_the_pods() {
    let long = "a".repeat(70);
    for (name, spec, expected) in [
        ("web", "hostname: other", "other".to_owned()),
        (long.as_str(), "", "a".repeat(63)),
        ("web", "setHostnameAsFQDN: true", "web".to_owned()),
    ] {
        let text =
            pod("image: tools", spec).replacen("{name: web}", &format!("{{name: {name}}}"), 1);
        assert_eq!(
            derived(&text).policy.sandbox.hostname,
            Pattern::Exact(expected)
        );
    }
    // A controller sets it for each of its pods, and their domain.
    let set = |spec: &str| {
        format!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  \
             template: {{spec: {{{spec}, containers: [{{name: db, image: tools}}]}}}}\n"
        )
    };
    assert_eq!(
        derived(&set("hostname: other")).policy.sandbox.hostname,
        Pattern::Prefix("db-".to_owned())
    );
    let told = derived_with(&set("setHostnameAsFQDN: true"), &Knobs::default());
    assert!(
        told.expect_err("a domain")
            .contains("spec.template.spec.setHostnameAsFQDN: the cluster's domain")
    );
    let spec = "securityContext: {sysctls: [{name: net/core/somaxconn, value: '9'}, {name: net.ipv4.ping_group_range, value: '1 1'}]}";
    let sysctls: Vec<_> = derived(&pod("image: tools", spec))
        .policy
        .sandbox
        .sysctls
        .into_iter()
        .map(|one| format!("{}={}", one.name, one.value))
        .collect();
    assert_eq!(
        sysctls,
        [
            "net.core.somaxconn=9",
            "net.ipv4.ip_unprivileged_port_start=0",
            "net.ipv4.ping_group_range=1 1"
        ]
    );
}
