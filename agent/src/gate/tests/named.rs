//! What others have suffered, by where it was told.

use serde_json::json;
use trefoil_agent_protocol::service::{Disk, File, PutFilesRequest};

use super::cases::{Case, Told, configured, creation, exec};
use super::sound::{self, creation_of, life, place, policy};
use super::{Guest, Message, run};

fn at_web(name: &str, message: Message, code: &'static str, field: &str) -> Case {
    Case {
        name: name.into(),
        policy,
        before: life().into_iter().take(creation_of("w1")).collect(),
        message,
        codes: vec![code],
        field: field.into(),
    }
}

/// Confidential containers' c8s#236: five ways in which what was admitted is not what was pulled.
fn digest_is_not_bytes() -> Vec<Case> {
    vec![
        at_web(
            "an annotation names the image",
            configured("w1", |all| {
                all["annotations"] = json!({"io.kubernetes.cri.image-name": "good@sha256:0"});
            }),
            "field-unknown",
            "CreateContainer.configuration.annotations",
        ),
        at_web(
            "a storage of another source than the annotation's",
            creation("w1", |one| {
                one.rootfs.mut_or_insert_default().share = "image".into()
            }),
            "root-share",
            "CreateContainer.rootfs.share",
        ),
        at_web(
            "a bundle's path as the root",
            configured("w1", |all| {
                all["root"]["path"] = "/run/bundle/rootfs".into()
            }),
            "root-path",
            "CreateContainer.configuration.root.path",
        ),
        at_web(
            "a storage that is mounted at the root already",
            configured("w1", |all| {
                let mount = json!({"destination": "/", "type": "bind", "source": "scratch:data"});
                all["mounts"].as_array_mut().expect("a list").push(mount);
            }),
            "mount-destination",
            "CreateContainer.configuration.mounts[12].destination",
        ),
        at_web(
            "a container that says it is the sandbox's",
            creation("w1", |one| one.name = "pause".into()),
            "container-unknown",
            "CreateContainer.name",
        ),
    ]
}

/// c8s#277: a file's copy planted a link, and wrote through it.
fn a_file_through_a_link() -> Vec<Case> {
    let at = place(|one| matches!(one, Message::PutFiles(one) if one.volume == "settings"));
    let put = |name: &str, volume: &str, paths: &[&str], code, field: &str| {
        let files = paths.iter().map(|path| File {
            path: (*path).into(),
            contents: sound::SETTINGS.into(),
            mode: 0o644,
            ..Default::default()
        });
        Case {
            name: name.into(),
            policy,
            before: life().into_iter().take(at).collect(),
            message: Message::PutFiles(PutFilesRequest {
                volume: volume.into(),
                files: files.collect(),
                ..Default::default()
            }),
            codes: vec![code],
            field: field.into(),
        }
    };
    let mut link = put(
        "a file that is a link",
        "settings",
        &["now/settings.yaml"],
        "file-mode",
        "PutFiles.files[0].mode",
    );
    if let Message::PutFiles(request) = &mut link.message {
        request.files[0].mode = 0o120_777;
    }
    let below = ["now/settings.yaml", "now/settings.yaml/passwd"];
    vec![
        link,
        put(
            "a path below a file",
            "settings",
            &below,
            "file-inside",
            "PutFiles.files[1].path",
        ),
        put(
            "a path out of the volume",
            "settings",
            &["../../etc/passwd"],
            "file-place",
            "PutFiles.files[0].path",
        ),
    ]
}

/// c8s#378: hooks of the configuration ran as the guest's root.
fn hooks() -> Vec<Case> {
    let kinds = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    let hook = |kind: &str| {
        let message = configured("w1", |all| {
            all["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", "id"]}]});
        });
        let field = "CreateContainer.configuration.hooks";
        at_web(
            &format!("a hook of {kind}"),
            message,
            "field-unknown",
            field,
        )
    };
    kinds.into_iter().map(hook).collect()
}

/// microsoft/kata-containers#518, and the advisory of Kata's of August 2026: a second root beside the
/// verified one.
fn second_root() -> Vec<Case> {
    let plain = |one: &mut trefoil_agent_protocol::service::CreateContainerRequest| {
        let disk = Disk {
            device: 7,
            parts: vec![4096],
            ..Default::default()
        };
        one.rootfs.mut_or_insert_default().layers = Some(disk).into();
    };
    vec![
        at_web(
            "layers beside the verified ones",
            creation("w1", plain),
            "root-unverified",
            "CreateContainer.rootfs.layers",
        ),
        at_web(
            "one more layer on the verified disk",
            creation("w1", |one| {
                let rootfs = one.rootfs.mut_or_insert_default();
                rootfs.verified.mut_or_insert_default().parts.push(1 << 20);
            }),
            "layer-count",
            "CreateContainer.rootfs.verified.parts",
        ),
        at_web(
            "an undeclared storage",
            configured("w1", |all| {
                let mount =
                    json!({"destination": "/bin", "type": "bind", "source": "scratch:more"});
                all["mounts"].as_array_mut().expect("a list").push(mount);
            }),
            "mount-destination",
            "CreateContainer.configuration.mounts[12].destination",
        ),
        at_web(
            "a disk that holds another image's layers",
            creation("w1", |one| {
                let rootfs = one.rootfs.mut_or_insert_default();
                rootfs.verified.mut_or_insert_default().device = 3;
            }),
            "device-aliased",
            "CreateContainer.rootfs.verified.device",
        ),
    ]
}

/// microsoft#496: refused profiles had no reason, and dropped ones were silent.
fn profiles() -> Vec<Case> {
    let field = |name: &str| format!("CreateContainer.configuration.{name}");
    vec![
        at_web(
            "no seccomp profile",
            configured("w1", |all| {
                all["linux"]
                    .as_object_mut()
                    .expect("an object")
                    .remove("seccomp");
            }),
            "seccomp",
            &field("linux.seccomp"),
        ),
        at_web(
            "an AppArmor profile",
            configured("w1", |all| {
                all["process"]["apparmorProfile"] = "mine".into()
            }),
            "field-unknown",
            &field("process.apparmorProfile"),
        ),
        at_web(
            "a label of SELinux",
            configured("w1", |all| {
                all["process"]["selinuxLabel"] = "a:b:c:s0".into()
            }),
            "field-unknown",
            &field("process.selinuxLabel"),
        ),
    ]
}

/// The restart of an init container, which is an order of events that no stateless policy sees.
fn events() -> Vec<Case> {
    let again = |name: &str, policy: fn() -> trefoil_policy::Policy, code: u32, wanted| {
        let at = place(|one| matches!(one, Message::End(..)));
        let mut before: Vec<_> = life().into_iter().take(at).collect();
        before.push(Message::End("i1".into(), code));
        before.push(Message::Delete(sound::container_request("i1")));
        Case {
            name: name.into(),
            policy,
            before,
            message: creation("i1", |_| {}),
            codes: vec![wanted],
            field: "CreateContainer.name".into(),
        }
    };
    let never = || {
        let mut policy = sound::policy_value();
        policy["containers"][0]["restart"] = "never".into();
        sound::read(&policy)
    };
    vec![
        again("an init container again", policy, 0, "container-finished"),
        again("what never restarts again", never, 1, "container-restart"),
    ]
}

pub(super) fn all() -> Vec<Case> {
    let mut all = digest_is_not_bytes();
    all.extend(a_file_through_a_link());
    all.extend(hooks());
    all.extend(second_root());
    all.extend(profiles());
    all.extend(events());
    all
}

fn check(cases: Vec<Case>) {
    super::cases::check(&cases);
}

#[test]
fn c8s_236_what_is_admitted_is_what_is_mounted() {
    let cases = digest_is_not_bytes();
    assert_eq!(cases.len(), 5);
    check(cases);
}

#[test]
fn c8s_277_no_file_is_written_through_a_link() {
    check(a_file_through_a_link());
}

#[test]
fn c8s_378_no_hook_runs() {
    check(hooks());
}

#[test]
fn microsoft_518_there_is_no_second_root() {
    check(second_root());
}

/// microsoft#493: all that was named had nothing to do with it.
#[test]
fn microsoft_493_a_denial_names_what_is_wrong_and_nothing_else() {
    let cases = [
        (
            "process.env[1]",
            configured("w1", |all| all["process"]["env"][1] = "TOKEN=guess".into()),
        ),
        (
            "process.user.uid",
            configured("w1", |all| all["process"]["user"]["uid"] = 0.into()),
        ),
        (
            "mounts[7].options",
            configured("w1", |all| all["mounts"][7]["options"] = json!(["rbind"])),
        ),
    ];
    for (field, message) in cases {
        let case = at_web(field, message, "", "");
        let line = run(case.ask()).expect_err(field);
        let told = Told::read(&line);
        assert_eq!(
            told.field,
            format!("CreateContainer.configuration.{field}"),
            "{line}"
        );
        assert_eq!(line.matches("configuration.").count(), 1, "{line}");
    }
}

#[test]
fn microsoft_496_a_refused_profile_has_a_reason() {
    check(profiles());
}

#[test]
fn a_finished_init_container_never_runs_again() {
    check(events());
}

#[test]
fn one_that_failed_runs_again() {
    let guest = Guest::new(policy());
    run(async {
        let at = place(|one| matches!(one, Message::End(..)));
        guest.sound(life().into_iter().take(at)).await;
        guest.sound([Message::End("i1".into(), 1)]).await;
        guest
            .sound(
                [creation("i1", |one| one.container = "i1".into())].map(|one| match one {
                    Message::Create(mut request) => {
                        request.container = "i2".into();
                        let text = String::from_utf8(request.configuration).expect("JSON");
                        request.configuration = text.replace("/pod/i1", "/pod/i2").into_bytes();
                        Message::Create(request)
                    }
                    other => other,
                }),
            )
            .await;
    });
}

/// An exec that the policy allows has the container's environment and no other.
#[test]
fn an_exec_has_no_other_environment() {
    let configuration = || {
        let mut value = sound::process_configuration(&["/probe", "live"]);
        value["env"] = json!(["PATH=/bin", "TOKEN=canary", "LD_PRELOAD=/x.so"]);
        value.to_string().into_bytes()
    };
    let case = exec(|one| one.configuration = configuration());
    let line = run(case.ask()).expect_err("another environment");
    assert_eq!(
        Told::read(&line).field,
        "Exec.configuration.env[2]",
        "{line}"
    );
}
