//! What has to pass, and what it is when it has.

use serde_json::{Value, json};
use trefoil_policy::{Digest, Protection};

use super::cases::{configured, creation, without_scratch};
use super::sound::{self, creation_of, life, open_policy, place, policy};
use super::{Guest, Message, run};

fn made(message: Option<Message>) -> Value {
    let Some(Message::Create(request)) = message else {
        panic!("no container: {message:?}");
    };
    serde_json::from_slice(&request.configuration).expect("JSON")
}

#[test]
fn a_pods_life_passes() {
    let guest = Guest::new(policy());
    run(guest.sound(life()));
    let asked = trefoil_os::lock(&guest.pod.noted.asked).len();
    // All but the end that nobody asked for.
    assert_eq!(asked, life().len() - 1);
    run(Guest::new(policy()).sound([without_scratch()]));
}

#[test]
fn what_passes_is_what_the_policy_has() {
    let guest = Guest::new(policy());
    run(guest.sound(life().into_iter().take(creation_of("w1") + 1)));
    let configuration = made(guest.last());
    // The filter is the policy's, and not the host's, which allowed `write`.
    let seccomp = &configuration["linux"]["seccomp"];
    assert_eq!(seccomp["syscalls"][0]["names"], json!(["read"]));
    // The mounts are in the policy's order, and what is below a volume the policy says.
    let mounts = configuration["mounts"].as_array().expect("mounts");
    let source = |at: &str| {
        let found = mounts.iter().find(|one| one["destination"] == at);
        found.map(|one| one["source"].clone())
    };
    assert_eq!(source("/etc/settings"), Some("files:settings/now".into()));
    assert_eq!(
        source("/dev/termination-log"),
        Some("empty-file:termination-log".into())
    );
    assert_eq!(mounts[3]["destination"], "/dev/shm");
    // What may be opened is the policy's.
    let rules = configuration["linux"]["resources"]["devices"]
        .as_array()
        .expect("rules");
    assert_eq!(
        rules[0],
        json!({"allow": false, "type": "a", "access": "rwm"})
    );
    assert_eq!(rules.len(), 11);
    let granted = trefoil_os::lock(&guest.pod.noted.granted)
        .clone()
        .expect("granted");
    let layers = granted.layers.expect("verified");
    let hashes: Vec<_> = layers
        .iter()
        .map(|one| (one.root_hash, one.blocks))
        .collect();
    assert_eq!(
        hashes,
        [(Digest::of(b"top"), 10), (Digest::of(b"base"), 10)]
    );
}

#[test]
fn the_initdata_goes_no_further_than_the_gate() {
    let guest = Guest::new(policy());
    run(guest.sound(life().into_iter().take(1)));
    let Some(Message::SetUp(request)) = guest.last() else {
        panic!("not set up");
    };
    assert!(request.initdata.is_empty());
    assert_eq!(request.scratch.device, 9);
}

/// The host has every sealed text: only what the policy binds may be unsealed.
#[test]
fn no_secret_is_unsealed_where_the_value_is_the_hosts() {
    const SEALED: &str = "sealed.a.b.c";
    let mut policy = sound::policy_value();
    for container in policy["containers"].as_array_mut().expect("a list") {
        let variables = &mut container["process"]["env"];
        variables[1]["value"] = json!({"exact": SEALED});
        variables[2] = json!({"name": {"exact": "GREETING"}, "value": {"typed": "text"}});
    }
    let volumes = policy["volumes"].as_array_mut().expect("a list");
    let settings = volumes.iter_mut().find(|one| one["name"] == "settings");
    let settings = &mut settings.expect("it is there")["kind"]["files"]["files"][0];
    settings["content"] = json!({"sealed": SEALED});
    let guest = Guest::new(sound::read(&policy));
    let variables = json!([
        "PATH=/bin",
        format!("TOKEN={SEALED}"),
        format!("GREETING={SEALED}")
    ]);
    let of_the_host = |message: Message| match message {
        Message::Create(mut request) => {
            let mut value: Value = serde_json::from_slice(&request.configuration).expect("JSON");
            value["process"]["env"] = variables.clone();
            request.configuration = value.to_string().into_bytes();
            Message::Create(request)
        }
        Message::Exec(mut request) => {
            let mut value: Value = serde_json::from_slice(&request.configuration).expect("JSON");
            value["env"] = variables.clone();
            request.configuration = value.to_string().into_bytes();
            Message::Exec(request)
        }
        Message::PutFiles(mut request) if request.volume == "settings" => {
            for file in &mut request.files {
                if file.path == "now/settings.yaml" {
                    file.contents = SEALED.into();
                }
            }
            Message::PutFiles(request)
        }
        other => other,
    };
    let bound = || trefoil_os::lock(&guest.pod.noted.bound).clone();
    run(async {
        for message in life().into_iter().map(of_the_host) {
            let (process, files) = match &message {
                Message::Create(_) | Message::Exec(_) => (true, false),
                Message::PutFiles(_) => (false, true),
                _ => (false, false),
            };
            let of_settings =
                matches!(&message, Message::PutFiles(one) if one.volume == "settings");
            guest.sound([message]).await;
            if process {
                assert_eq!(bound(), [format!("TOKEN={SEALED}")]);
            }
            if files {
                let settings = of_settings.then(|| "now/settings.yaml".to_owned());
                assert_eq!(bound(), Vec::from_iter(settings));
            }
        }
    });
}

#[test]
fn output_that_is_withheld_is_one_line() {
    let guest = Guest::new(policy());
    run(guest.sound(life().into_iter().take(creation_of("i1") + 1)));
    let Some(Message::Create(request)) = guest.last() else {
        panic!("not made");
    };
    assert_eq!((request.streams.stdout, request.streams.stderr), (0, 0));
    let withheld = trefoil_os::lock(&guest.pod.noted.withheld).clone();
    let [(streams, line)] = withheld.as_slice() else {
        panic!("{withheld:?}");
    };
    assert_eq!((streams.stdout, streams.stderr), (103, 203));
    assert!(
        line.contains("knobs.logs is off") && line.ends_with('\n'),
        "{line}"
    );
}

/// With a terminal, as all of this policy's containers have one.
fn on_a_terminal(message: Message) -> Message {
    let Message::Create(mut request) = message else {
        return message;
    };
    let mut value: Value = serde_json::from_slice(&request.configuration).expect("JSON");
    value["process"]["terminal"] = true.into();
    value["process"]["consoleSize"] = json!({"height": 24, "width": 80});
    request.configuration = value.to_string().into_bytes();
    let streams = request.streams.mut_or_insert_default();
    (streams.terminal, streams.stdin, streams.stderr) = (true, 77, 0);
    Message::Create(request)
}

#[test]
fn what_knobs_are_on_for_passes() {
    let guest = Guest::new(open_policy());
    let shell = || {
        let mut value = sound::process_configuration(&["sh", "-c", "id"]);
        value["terminal"] = true.into();
        let mut request = sound::exec("w1", "e2", &[]);
        request.configuration = value.to_string().into_bytes();
        let streams = request.streams.mut_or_insert_default();
        (streams.terminal, streams.stdin, streams.stderr) = (true, 7, 0);
        Message::Exec(request)
    };
    run(async {
        let before = life().into_iter().take(creation_of("w1") + 2);
        guest.sound(before.map(on_a_terminal)).await;
        guest
            .sound([
                Message::Resize(sound::resize("w1", "")),
                shell(),
                Message::Resize(sound::resize("w1", "e2")),
                Message::KernelLog(Default::default()),
                Message::Forward(8080),
            ])
            .await;
    });
    assert!(trefoil_os::lock(&guest.pod.noted.withheld).is_empty());
}

#[test]
fn the_first_process_keeps_its_size_unless_the_host_may_attach() {
    let without = || {
        let mut policy = open_policy();
        policy.knobs.attach = false;
        policy
    };
    let guest = Guest::new(without());
    run(async {
        let before = life().into_iter().take(creation_of("w1") + 2);
        guest.sound(before.map(on_a_terminal)).await;
        let resized = guest.ask(Message::Resize(sound::resize("w1", ""))).await;
        let line = resized.expect_err("the knob is off");
        assert!(line.contains("knob-attach"), "{line}");
    });
}

#[test]
fn what_fails_behind_the_gate_may_be_tried_again() {
    let guest = Guest::new(policy());
    run(async {
        let at = creation_of("w1");
        guest.sound(life().into_iter().take(at)).await;
        let fail = |fails| *trefoil_os::lock(&guest.pod.noted.fails) = fails;
        fail(true);
        let create = life().remove(at);
        guest.ask(create.clone()).await.expect_err("it fails");
        fail(false);
        guest
            .sound([create, Message::Start(sound::container_request("w1"))])
            .await;
        fail(true);
        let exec = || Message::Exec(sound::exec("w1", "e1", &["/probe", "live"]));
        guest.ask(exec()).await.expect_err("it fails");
        fail(false);
        guest.sound([exec()]).await;
    });
}

#[test]
fn what_failed_to_start_has_not_been_started() {
    let guest = Guest::new(policy());
    run(async {
        let start = place(|one| matches!(one, Message::Start(one) if one.container == "p1"));
        guest.sound(life().into_iter().take(start)).await;
        let fail = |fails| *trefoil_os::lock(&guest.pod.noted.fails) = fails;
        fail(true);
        let of_proxy = || Message::Start(sound::container_request("p1"));
        guest.ask(of_proxy()).await.expect_err("it fails");
        fail(false);
        let web = || life().remove(creation_of("w1"));
        let line = guest.ask(web()).await.expect_err("it starts after proxy");
        assert!(line.contains("(container-order)"), "{line}");
        guest.sound([of_proxy(), web()]).await;
    });
}

#[test]
fn files_that_could_not_be_written_may_be_brought_again() {
    let guest = Guest::new(policy());
    run(async {
        let at = place(|one| matches!(one, Message::PutFiles(one) if one.volume == "settings"));
        guest.sound(life().into_iter().take(at)).await;
        let fail = |fails| *trefoil_os::lock(&guest.pod.noted.fails) = fails;
        fail(true);
        let put = || life().remove(at);
        guest.ask(put()).await.expect_err("it fails");
        fail(false);
        let create = || life().remove(creation_of("i1"));
        let line = guest.ask(create()).await.expect_err("they are not there");
        assert!(line.contains("(volume-empty)"), "{line}");
        guest.sound([put(), create()]).await;
        let line = guest.ask(put()).await.expect_err("they are there");
        assert!(line.contains("(volume-update)"), "{line}");
    });
}

#[test]
fn the_guest_ends_if_what_is_required_does_not_start() {
    let guest = Guest::new(policy());
    run(async {
        guest.sound(life().into_iter().take(7)).await;
        tokio::time::sleep(std::time::Duration::from_secs(601)).await;
    });
    let why = trefoil_os::lock(&guest.pod.noted.gave_up).clone();
    let why = why.expect("it gave up");
    assert!(
        why.contains("container proxy") && why.contains("600 s"),
        "{why}"
    );
    let guest = Guest::new(policy());
    run(async {
        guest
            .sound(life().into_iter().take(creation_of("w1")))
            .await;
        tokio::time::sleep(std::time::Duration::from_secs(601)).await;
    });
    assert_eq!(*trefoil_os::lock(&guest.pod.noted.gave_up), None);
}

#[test]
fn a_permissive_policy_passes_what_came_where_nothing_is_protected() {
    let permissive = sound::permissive_policy;
    let guest = Guest::protected_by(Protection::Simulated, permissive());
    run(guest.sound(life()));
    let guest = Guest::protected_by(Protection::Simulated, permissive());
    run(guest.sound(life().into_iter().take(creation_of("i1") + 1)));
    let granted = trefoil_os::lock(&guest.pod.noted.granted).clone();
    assert_eq!(granted.and_then(|root| root.layers), None);
    // Even so there is nothing that no guest has.
    let hooks = configured("w1", |all| all["hooks"] = json!({}));
    let share = creation("w1", |one| {
        one.rootfs.mut_or_insert_default().share = "x".into()
    });
    for message in [hooks, share] {
        let guest = Guest::protected_by(Protection::Simulated, permissive());
        run(async {
            guest.sound(life().into_iter().take(1)).await;
            guest.ask(message).await.expect_err("denied");
        });
    }
    let guest = Guest::protected_by(Protection::Tee, permissive());
    let line = run(guest.ask(life().remove(0))).expect_err("it is protected");
    assert!(line.contains("(permissive)"), "{line}");
}
