//! What a host may try, one field at a time: what is asked, when, and what the denial has to name.

use protobuf::EnumOrUnknown;
use serde_json::{Value, json};
use trefoil_agent_protocol::service::{
    ContainerRequest, CreateContainerRequest, Disk, ExecRequest, Filesystem, Rootfs, ScratchDisk,
    SetUpRequest, Streams, UpdateRequest,
};
use trefoil_policy::Policy;

use super::sound::{self, creation_of, life, place};
use super::{Guest, Message};

/// Something that has to be denied.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) policy: fn() -> Policy,
    /// What is done before, all of it sound.
    pub(super) before: Vec<Message>,
    pub(super) message: Message,
    /// The codes that a denial may have.
    pub(super) codes: Vec<&'static str>,
    /// What its field begins with.
    pub(super) field: String,
}

/// A denial as the host is told of it.
pub(super) struct Told {
    pub(super) field: String,
    pub(super) code: String,
}

impl Told {
    /// Reads the one line that a host is told.
    pub(super) fn read(line: &str) -> Self {
        let told = || {
            let rest = line.strip_prefix("the policy denies ")?;
            let (field, rest) = rest.split_once(" (")?;
            let (code, rest) = rest.split_once("): ")?;
            rest.contains("; allowed: ").then_some((field, code))
        };
        let (field, code) = told().unwrap_or_else(|| panic!("no denial: {line}"));
        assert!(line.len() <= 512 && !line.contains('\n'), "{line}");
        assert!(!line.contains("canary"), "a secret is in {line}");
        Self {
            field: field.into(),
            code: code.into(),
        }
    }
}

impl Case {
    /// What the host is told.
    pub(super) async fn ask(&self) -> Result<(), String> {
        let guest = Guest::new((self.policy)());
        guest.sound(self.before.clone()).await;
        let asked = guest.last();
        let told = guest.ask(self.message.clone()).await;
        if told.is_err() {
            assert_eq!(
                guest.last(),
                asked,
                "{}: the pod has seen what was denied",
                self.name
            );
        }
        told
    }

    /// How it is denied, or why that is not as it should be.
    pub(super) async fn verdict(&self) -> Result<Told, String> {
        let name = &self.name;
        let Err(line) = self.ask().await else {
            return Err(format!("{name}: it passed"));
        };
        let told = Told::read(&line);
        let sound = self.codes.contains(&told.code.as_str()) && told.field.starts_with(&self.field);
        match sound {
            true => Ok(told),
            false => Err(format!("{name}: {line}")),
        }
    }
}

/// Tries all, and panics with those that are not denied as they should be.
pub(super) fn check(cases: &[Case]) -> Vec<Told> {
    let verdicts = cases.iter().map(|case| super::run(case.verdict()));
    let (denied, wrong): (Vec<_>, Vec<_>) = verdicts.partition(Result::is_ok);
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(
        wrong.is_empty(),
        "{} of {}: {wrong:#?}",
        wrong.len(),
        cases.len()
    );
    denied.into_iter().filter_map(Result::ok).collect()
}

/// All of them.
pub(super) fn all() -> Vec<Case> {
    let mut all = set_ups();
    all.extend(roots());
    all.extend(streams());
    all.extend(execs());
    all.extend(of_files());
    all.extend(of_running());
    all.extend(values());
    all.extend(twice());
    all
}

/// What is sound but for its being there already, or not at all.
fn twice() -> Vec<Case> {
    let at = creation_of("w1");
    let renamed = |id: &str, to: &str| {
        let message = configured(id, |all| {
            all["linux"]["cgroupsPath"] = format!("/pod/{to}").into();
        });
        let Message::Create(mut request) = message else {
            panic!("{id} is made");
        };
        request.container = to.into();
        Message::Create(request)
    };
    let configuration = "CreateContainer.configuration";
    let key = creation("w1", |one| {
        let text = String::from_utf8(one.configuration.clone()).expect("JSON");
        let twice = text.replacen(r#""cwd":"#, r#""cwd":"/x","cwd":"#, 1);
        one.configuration = twice.into_bytes();
    });
    let missing = configured("w1", |all| {
        all["mounts"].as_array_mut().expect("a list").pop();
    });
    let option = configured("w1", |all| {
        let options = all["mounts"][0]["options"].as_array_mut();
        options.expect("a list").push("nosuid".into());
    });
    vec![
        case(
            at,
            renamed("p1", "p2"),
            "container-alive",
            "CreateContainer.name",
        ),
        case(
            at,
            renamed("w1", "p1"),
            "name-twice",
            "CreateContainer.container",
        ),
        case(
            at,
            key,
            "field-twice",
            &format!("{configuration}.process.cwd"),
        ),
        case(
            at,
            option,
            "field-twice",
            &format!("{configuration}.mounts[0].options[3]"),
        ),
        case(
            at,
            missing,
            "mount-missing",
            &format!("{configuration}.mounts"),
        ),
    ]
}

fn case(before: usize, message: Message, code: &'static str, field: &str) -> Case {
    Case {
        name: format!("{code} of {field}"),
        policy: sound::policy,
        before: life().into_iter().take(before).collect(),
        message,
        codes: vec![code],
        field: field.into(),
    }
}

fn set_ups() -> Vec<Case> {
    let changed = |code, field: &str, change: fn(&mut SetUpRequest)| {
        let mut request = sound::set_up();
        change(&mut request);
        case(0, Message::SetUp(request), code, &format!("SetUp.{field}"))
    };
    let mut again = case(1, Message::SetUp(sound::set_up()), "set-up-twice", "SetUp");
    again.name = "a second set-up".into();
    // It is the gate's making that this denies, as the guests of cases are protected by a processor.
    let mut permissive = case(
        0,
        Message::SetUp(sound::set_up()),
        "permissive",
        "policy.permissive",
    );
    permissive.policy = sound::permissive_policy;
    vec![
        again,
        permissive,
        changed("hostname", "hostname", |one| one.hostname = "db-1".into()),
        changed("hostname", "hostname", |one| one.hostname = String::new()),
        changed("hostname", "hostname", |one| {
            one.hostname = "web-a/b".into()
        }),
        changed("hostname-length", "hostname", |one| {
            one.hostname = format!("web-{}", "x".repeat(64));
        }),
        changed("sysctl", "sysctls.kernel.core_pattern", |one| {
            one.sysctls
                .insert("kernel.core_pattern".into(), "|/x".into());
        }),
        changed("sysctl", "sysctls.net.ipv4.ip_forward", |one| {
            one.sysctls.insert("net.ipv4.ip_forward".into(), "0".into());
        }),
        changed("sysctl-missing", "sysctls.net.ipv4.ip_forward", |one| {
            one.sysctls.clear()
        }),
        changed("time", "time", |one| one.time = 1_699_999_999_999_999_999),
        changed("time", "time", |one| one.time = 0),
        changed("host-share", "share", |one| one.share = true),
        changed("seed", "seed", |one| one.seed = vec![0; 513]),
        changed("malformed", "network", |one| {
            one.network = b"{\"alien\": 1}".into()
        }),
        changed("malformed", "network", |one| one.network = b"[".into()),
        changed("network", "network", |one| {
            let name = "x".repeat(1 << 20);
            let ipv6 = json!({"enabled": false, "accept-ra": 0, "autoconf": false});
            let interface = json!({"name": name, "mac": [0, 0, 0, 0, 0, 0], "mtu": 1500,
                "ipv6": ipv6, "addresses": []});
            let network = json!({"interfaces": [interface], "routes": [], "neighbours": []});
            one.network = network.to_string().into_bytes();
        }),
    ]
}

/// The creation of a container, changed.
pub(super) fn creation(id: &str, change: impl FnOnce(&mut CreateContainerRequest)) -> Message {
    let Some(Message::Create(mut request)) = life().into_iter().nth(creation_of(id)) else {
        panic!("{id} is made");
    };
    change(&mut request);
    Message::Create(request)
}

/// The same, by its configuration.
pub(super) fn configured(id: &str, change: impl FnOnce(&mut Value)) -> Message {
    creation(id, |request| {
        let mut value = serde_json::from_slice(&request.configuration).expect("JSON");
        change(&mut value);
        request.configuration = value.to_string().into_bytes();
    })
}

fn roots() -> Vec<Case> {
    let at = creation_of("w1");
    let changed = |code, field: &str, change: fn(&mut CreateContainerRequest)| {
        let message = creation("w1", change);
        case(at, message, code, &format!("CreateContainer.{field}"))
    };
    fn rootfs(request: &mut CreateContainerRequest) -> &mut Rootfs {
        request.rootfs.mut_or_insert_default()
    }
    fn disk(request: &mut CreateContainerRequest) -> &mut Disk {
        rootfs(request).verified.mut_or_insert_default()
    }
    vec![
        changed("name", "container", |one| one.container = "../w1".into()),
        changed("name", "container", |one| one.container = String::new()),
        changed("name", "container", |one| one.container = "x".repeat(129)),
        changed("name-twice", "container", |one| one.container = "p1".into()),
        changed("container-unknown", "name", |one| {
            one.name = "debugger".into()
        }),
        changed("container-unknown", "name", |one| one.name = String::new()),
        changed("container-alive", "name", |one| one.name = "proxy".into()),
        changed("container-finished", "name", |one| one.name = "init".into()),
        changed("root-share", "rootfs.share", |one| {
            rootfs(one).share = "root".into()
        }),
        changed("root-unverified", "rootfs.layers", |one| {
            rootfs(one).layers = Some(Disk::default()).into();
        }),
        changed("root-writable", "rootfs.writable", |one| {
            rootfs(one).writable = Some(Disk::default()).into();
        }),
        changed("field-missing", "rootfs.verified", |one| {
            rootfs(one).verified = None.into()
        }),
        changed("field-missing", "rootfs.verified", |one| {
            one.rootfs = None.into()
        }),
        changed("layer-filesystem", "rootfs.verified.filesystem", |one| {
            disk(one).filesystem = Filesystem::EXT4.into();
        }),
        changed("layer-filesystem", "rootfs.verified.filesystem", |one| {
            disk(one).filesystem = EnumOrUnknown::from_i32(77);
        }),
        changed("layer-count", "rootfs.verified.parts", |one| {
            disk(one).parts.push(49152)
        }),
        changed("layer-count", "rootfs.verified.parts", |one| {
            disk(one).parts.truncate(1)
        }),
        changed("layer-size", "rootfs.verified.parts[1]", |one| {
            disk(one).parts[1] = 40960
        }),
        changed("layer-size", "rootfs.verified.parts[0]", |one| {
            disk(one).parts[0] = 0
        }),
        changed("device-aliased", "rootfs.verified.device", |one| {
            disk(one).device = 9
        }),
        changed("device-aliased", "rootfs.verified.device", |one| {
            disk(one).device = 3
        }),
        changed("malformed", "configuration", |one| {
            one.configuration.truncate(100)
        }),
        changed("malformed", "configuration", |one| {
            one.configuration = b"[]".into()
        }),
        changed("too-large", "configuration", |one| {
            // It would be sound but for its length.
            one.configuration.resize((4 << 20) + 1, b' ');
        }),
    ]
}

fn streams() -> Vec<Case> {
    let at = creation_of("w1");
    let changed = |code, field: &str, change: fn(&mut Streams)| {
        let message = creation("w1", |one| change(one.streams.mut_or_insert_default()));
        case(
            at,
            message,
            code,
            &format!("CreateContainer.streams{field}"),
        )
    };
    let of_terminal = |code, field: &str, change: fn(&mut Streams)| {
        let mut one = changed(code, field, change);
        one.policy = sound::open_policy;
        let terminal = |message: Message| match message {
            Message::Create(mut request) => {
                let mut value: Value =
                    serde_json::from_slice(&request.configuration).expect("JSON");
                value["process"]["terminal"] = true.into();
                request.configuration = value.to_string().into_bytes();
                Message::Create(request)
            }
            other => other,
        };
        let soundly = |message| match terminal(message) {
            Message::Create(mut request) => {
                let streams = request.streams.mut_or_insert_default();
                (streams.terminal, streams.stderr) = (true, 0);
                Message::Create(request)
            }
            other => other,
        };
        one.before = one.before.into_iter().map(soundly).collect();
        one.message = terminal(one.message);
        one
    };
    let mut attached = of_terminal("knob-attach", "", |_| {});
    attached.policy = sound::policy_without_attach;
    attached.message = Message::Resize(sound::resize("p1", ""));
    attached.field = "Resize.process".into();
    vec![
        attached,
        changed("knob-stdin", ".stdin", |one| one.stdin = 7),
        changed("stream-terminal", ".terminal", |one| one.terminal = true),
        changed("stream-twice", "", |one| one.stderr = one.stdout),
        of_terminal("stream-stderr", ".stderr", |one| one.terminal = true),
        of_terminal("stream-terminal", ".terminal", |one| one.stderr = 0),
    ]
}

/// A process that is run in `web` once it runs, changed.
pub(super) fn exec(change: impl FnOnce(&mut ExecRequest)) -> Case {
    let at = place(|one| matches!(one, Message::Exec(_)));
    let mut request = sound::exec("w1", "e1", &["/probe", "live"]);
    change(&mut request);
    case(at, Message::Exec(request), "", "")
}

fn execs() -> Vec<Case> {
    let changed = |code, field: &str, change: fn(&mut ExecRequest)| Case {
        name: format!("{code} of {field}"),
        codes: vec![code],
        field: format!("Exec.{field}"),
        ..exec(change)
    };
    let of = |args: &[&str], change: fn(&mut Value)| {
        let mut value = sound::process_configuration(args);
        change(&mut value);
        value.to_string().into_bytes()
    };
    let args = |args: &[&'static str]| {
        let configuration = of(args, |_| {});
        Case {
            name: format!("exec of {args:?}"),
            codes: vec!["knob-exec"],
            field: "Exec.configuration.args".into(),
            ..exec(|one| one.configuration = configuration)
        }
    };
    let shell = of(&["sh", "-c", "id"], |_| {});
    let terminal = of(&["/probe", "live"], |one| one["terminal"] = true.into());
    let again = Case {
        name: "a process of a name that is taken".into(),
        before: life()
            .into_iter()
            .take(exec(|_| {}).before.len() + 1)
            .collect(),
        codes: vec!["process-twice"],
        field: "Exec.process".into(),
        ..exec(|_| {})
    };
    let mut many = Case {
        name: "one process too many".into(),
        codes: vec!["process-count"],
        field: "Exec.process".into(),
        ..exec(|_| {})
    };
    let more = (0..1024)
        .map(|at| Message::Exec(sound::exec("w1", &format!("x{at}"), &["/probe", "live"])));
    many.before.extend(more);
    vec![
        args(&["/bin/sh"]),
        args(&["/probe"]),
        args(&["/probe", "all"]),
        args(&["/probe", "live", "now"]),
        args(&["bash", "-c", "id"]),
        args(&[]),
        again,
        many,
        changed("name", "process", |one| one.process = "a/b".into()),
        changed("name", "process", |one| one.process = String::new()),
        changed("container-unmade", "container", |one| {
            one.container = "w2".into()
        }),
        changed("container-phase", "container", |one| {
            one.container = "i1".into()
        }),
        changed("exec-stdin", "streams.stdin", |one| {
            one.streams.mut_or_insert_default().stdin = 7;
        }),
        changed("stream-twice", "streams", |one| {
            one.streams.mut_or_insert_default().stderr = 301;
        }),
        Case {
            name: "a shell's stdin".into(),
            codes: vec!["exec-stdin"],
            field: "Exec.streams.stdin".into(),
            ..exec(|one| {
                one.configuration = shell;
                one.streams.mut_or_insert_default().stdin = 7;
            })
        },
        Case {
            name: "a probe's terminal".into(),
            codes: vec!["exec-terminal"],
            field: "Exec.configuration.terminal".into(),
            ..exec(|one| {
                one.configuration = terminal;
                let streams = one.streams.mut_or_insert_default();
                (streams.terminal, streams.stderr) = (true, 0);
            })
        },
    ]
}

/// A message about a container that there is not.
type Unmade = fn(ContainerRequest) -> Message;

fn of_files() -> Vec<Case> {
    let at = place(|one| matches!(one, Message::PutFiles(one) if one.volume == "settings"));
    let file = |path: &str, contents: &[u8], mode: u32| {
        let mut file = trefoil_agent_protocol::service::File::new();
        (file.path, file.contents, file.mode) = (path.into(), contents.into(), mode);
        file
    };
    let good = || file("now/settings.yaml", sound::SETTINGS, 0o644);
    let put = |code, field: &str, volume: &str, files: Vec<_>| {
        let mut request = trefoil_agent_protocol::service::PutFilesRequest::new();
        (request.volume, request.files) = (volume.into(), files);
        case(
            at,
            Message::PutFiles(request),
            code,
            &format!("PutFiles.{field}"),
        )
    };
    let with = |code, field: &str, more| put(code, field, "settings", vec![good(), more]);
    let mut again = put("volume-update", "volume", "settings", vec![good()]);
    again.before = life().into_iter().take(at + 1).collect();
    let many = (0..1024).map(|at| file(&format!("now/extra-{at}"), b"", 0o644));
    let many = [good()].into_iter().chain(many).collect();
    let mut owned = good();
    owned.user = 1000;
    let mut of_group = good();
    of_group.group = 1000;
    vec![
        again,
        put("field-unknown", "files[0]", "settings", vec![owned]),
        put("field-unknown", "files[0]", "settings", vec![of_group]),
        put("volume-unknown", "volume", "root", vec![good()]),
        put("volume-unknown", "volume", "data", vec![good()]),
        put("volume-unknown", "volume", "../settings", vec![good()]),
        put("file-missing", "files", "settings", vec![]),
        put("file-missing", "files", "etc-hosts", vec![]),
        put("file-count", "files", "settings", many),
        put(
            "file-content",
            "files[0].contents",
            "settings",
            vec![file("now/settings.yaml", b"colour: red\n", 0o644)],
        ),
        put(
            "file-content",
            "files[0].contents",
            "settings",
            vec![file("now/settings.yaml", b"", 0o644)],
        ),
        put(
            "file-content",
            "files[0].contents",
            "etc-hosts",
            vec![file("", &[b'x'; 4097], 0o644)],
        ),
        put(
            "file-mode",
            "files[0].mode",
            "settings",
            vec![file("now/settings.yaml", sound::SETTINGS, 0o755)],
        ),
        put(
            "file-mode",
            "files[0].mode",
            "settings",
            vec![file("now/settings.yaml", sound::SETTINGS, 0o4644)],
        ),
        put(
            "file-place",
            "files[0].path",
            "etc-hosts",
            vec![file("hosts", b"", 0o644)],
        ),
        with("file-path", "files[1].path", file("now/other", b"", 0o644)),
        with(
            "file-content",
            "files[1].contents",
            file("now/extra-1", &[0; 17], 0o644),
        ),
        with("file-place", "files[1].path", file("", b"", 0o644)),
        with(
            "file-place",
            "files[1].path",
            file("/now/extra-1", b"", 0o644),
        ),
        with(
            "file-place",
            "files[1].path",
            file("now/../../etc/passwd", b"", 0o644),
        ),
        with(
            "file-place",
            "files[1].path",
            file("now//extra-1", b"", 0o644),
        ),
        with(
            "file-place",
            "files[1].path",
            file("now/./extra-1", b"", 0o644),
        ),
        with(
            "file-place",
            "files[1].path",
            file("now/extra-\0", b"", 0o644),
        ),
        with(
            "file-path",
            "files[1].path",
            file("now/extra-a/b", b"", 0o644),
        ),
        with("file-twice", "files[1].path", good()),
        put(
            "file-place",
            "files[0].path",
            "loose",
            vec![file("../x", b"", 0o644)],
        ),
        put(
            "file-inside",
            "files[2].path",
            "settings",
            vec![
                good(),
                file("now/extra-1", b"", 0o644),
                file("now/extra-1/below", b"", 0o644),
            ],
        ),
        with(
            "file-inside",
            "files[1].path",
            file("now/settings.yaml/extra", b"", 0o644),
        ),
    ]
}

fn of_running() -> Vec<Case> {
    use sound::{container_request, process_request, resize, volume};
    let end = place(|one| matches!(one, Message::Exec(_))) + 1;
    let here = |message, code, field: &str| case(end, message, code, field);
    let signal = |id: &str, process: &str, number, all| {
        let mut request = trefoil_agent_protocol::service::SignalRequest::new();
        (request.container, request.process) = (id.into(), process.into());
        (request.signal, request.all) = (number, all);
        Message::Signal(request)
    };
    let clock = |offset| {
        let mut request = trefoil_agent_protocol::service::AdjustClockRequest::new();
        (request.offset, request.step) = (offset, true);
        Message::AdjustClock(request)
    };
    let update = |id: &str, value: Value| {
        let mut request = UpdateRequest::new();
        (request.container, request.resources) = (id.into(), value.to_string().into_bytes());
        Message::Update(request)
    };
    let open = |mut one: Case| {
        one.policy = sound::policy_without_updates;
        one
    };
    let mut all = vec![
        here(signal("w1", "", 10, false), "signal", "Signal.signal"),
        here(signal("w1", "", 0, false), "signal", "Signal.signal"),
        here(signal("w1", "", 1 << 31, false), "signal", "Signal.signal"),
        here(signal("w1", "", 10, true), "signal", "Signal.signal"),
        here(
            signal("w1", "e2", 15, false),
            "process-unknown",
            "Signal.process",
        ),
        here(
            signal("w2", "", 15, false),
            "container-unmade",
            "Signal.container",
        ),
        here(clock(-1), "clock-back", "AdjustClock.offset"),
        here(clock(i64::MIN), "clock-back", "AdjustClock.offset"),
        here(
            Message::KernelLog(Default::default()),
            "knob-kernel-log",
            "KernelLog",
        ),
        here(Message::Forward(22), "knob-port-forward", "Forward.port"),
        here(Message::Forward(0), "knob-port-forward", "Forward.port"),
        case(0, Message::Forward(8080), "not-set-up", "Forward"),
        here(
            Message::RefreshVolume(volume("v1")),
            "shared-volume",
            "RefreshVolume.share",
        ),
        here(
            Message::Resize(resize("w1", "")),
            "no-terminal",
            "Resize.process",
        ),
        here(
            Message::Resize(resize("w1", "e1")),
            "no-terminal",
            "Resize.process",
        ),
        here(
            Message::Resize(resize("w1", "e2")),
            "process-unknown",
            "Resize.process",
        ),
        here(
            Message::Wait(process_request("w1", "e2")),
            "process-unknown",
            "Wait.process",
        ),
        here(
            Message::CloseStdin(process_request("w1", "e2")),
            "process-unknown",
            "CloseStdin.process",
        ),
        here(
            Message::Start(container_request("w1")),
            "container-phase",
            "StartContainer.container",
        ),
        here(
            Message::Start(container_request("i1")),
            "container-phase",
            "StartContainer.container",
        ),
        here(
            Message::Pause(container_request("i1")),
            "container-phase",
            "Pause.container",
        ),
        here(
            Message::Resume(container_request("i1")),
            "container-phase",
            "Resume.container",
        ),
        here(
            update("w1", json!({"memory": {"limit": 1}})),
            "limit-memory",
            "Update.resources.memory.limit",
        ),
        here(
            update("w1", json!({"memory": {"limit": -1}})),
            "limit-memory",
            "Update.resources.memory.limit",
        ),
        here(
            update(
                "w1",
                json!({"memory": {"limit": 2_097_152}, "cpu": {"quota": 1}}),
            ),
            "limit-cpu",
            "Update.resources.cpu",
        ),
        here(
            update(
                "w1",
                json!({"memory": {"limit": 2_097_152}, "cpu": {"quota": 20_000}, "devices": [{"allow": true}]}),
            ),
            "device-rule",
            "Update.resources.devices[0]",
        ),
        here(
            update("w1", json!({"alien": 1})),
            "field-unknown",
            "Update.resources.alien",
        ),
        here(
            update("w1", json!({"unified": {"cgroup.procs": "1"}})),
            "limit-unified",
            "Update.resources.unified.cgroup.procs",
        ),
        here(update("w1", json!([])), "malformed", "Update.resources"),
        open(here(
            update("w1", json!({})),
            "knob-update",
            "Update.resources",
        )),
    ];
    let unmade: [(Unmade, &str); 8] = [
        (Message::Start, "StartContainer"),
        (Message::Delete, "DeleteContainer"),
        (Message::Pause, "Pause"),
        (Message::Resume, "Resume"),
        (Message::Stats, "Stats"),
        (Message::Processes, "Processes"),
        (Message::OutOfMemory, "OutOfMemory"),
        (
            |one| Message::Wait(process_request(&one.container, "")),
            "Wait",
        ),
    ];
    all.extend(unmade.into_iter().map(|(make, name)| {
        let field = format!("{name}.container");
        here(make(container_request("w9")), "container-unmade", &field)
    }));
    all
}

/// Values of a configuration that a host would like better.
fn values() -> Vec<Case> {
    let at = creation_of("w1");
    let put = |pointer: &str, value: Value, code, field: &str| {
        let message = configured("w1", |all| {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            match all.pointer_mut(parent).expect("its parent") {
                Value::Array(list) => list.push(value),
                parent => parent[key] = value,
            }
        });
        case(
            at,
            message,
            code,
            &format!("CreateContainer.configuration.{field}"),
        )
    };
    let mount = |destination: &str, kind: &str, source: &str| json!({"destination": destination, "type": kind, "source": source});
    vec![
        put(
            "/process/env/-",
            json!("LD_PRELOAD=/x.so"),
            "env-name",
            "process.env[3]",
        ),
        put(
            "/process/env/-",
            json!("PATH"),
            "env-name",
            "process.env[3]",
        ),
        put(
            "/process/env/-",
            json!("PATH=/bin"),
            "env-twice",
            "process.env[3]",
        ),
        put(
            "/process/env/-",
            json!("PATH=/evil"),
            "env-value",
            "process.env[3]",
        ),
        put(
            "/process/env/-",
            json!("X_SERVICE_HOST=evil.example"),
            "env-value",
            "process.env[3]",
        ),
        put(
            "/process/env",
            json!(["PATH=/bin"]),
            "env-missing",
            "process.env",
        ),
        put(
            "/process/env/1",
            json!("TOKEN=guess"),
            "env-value",
            "process.env",
        ),
        put(
            "/process/args/-",
            json!("--debug"),
            "process-command",
            "process.args[3]",
        ),
        put(
            "/process/args",
            json!(["/bin/web"]),
            "process-command",
            "process.args[1]",
        ),
        put(
            "/process/args",
            json!(["/bin/web", "--port", "81"]),
            "process-command",
            "process.args[2]",
        ),
        put(
            "/process/terminal",
            json!(true),
            "process-terminal",
            "process.terminal",
        ),
        put(
            "/process/consoleSize",
            json!({"height": 1, "width": 2}),
            "console-size",
            "process.consoleSize",
        ),
        put(
            "/process/user/uid",
            json!(0),
            "process-uid",
            "process.user.uid",
        ),
        put(
            "/process/user/gid",
            json!(0),
            "process-gid",
            "process.user.gid",
        ),
        put(
            "/process/user/additionalGids/-",
            json!(0),
            "process-groups",
            "process.user.additionalGids",
        ),
        put(
            "/process/user/username",
            json!("root"),
            "field-unknown",
            "process.user.username",
        ),
        put("/process/cwd", json!("/"), "process-cwd", "process.cwd"),
        put(
            "/process/capabilities/bounding/-",
            json!("CAP_SYS_ADMIN"),
            "process-capabilities",
            "process.capabilities.bounding",
        ),
        put(
            "/process/capabilities/effective/-",
            json!("CAP_SYS_ADMIN"),
            "process-capabilities",
            "process.capabilities.effective",
        ),
        put(
            "/process/capabilities/ambient/-",
            json!("CAP_NO_SUCH"),
            "malformed",
            "process.capabilities.ambient[1]",
        ),
        put(
            "/process/noNewPrivileges",
            json!(false),
            "process-new-privileges",
            "process.noNewPrivileges",
        ),
        put(
            "/process/oomScoreAdj",
            json!(-1000),
            "oom-score",
            "process.oomScoreAdj",
        ),
        put(
            "/process/oomScoreAdj",
            json!(1000),
            "oom-score",
            "process.oomScoreAdj",
        ),
        put(
            "/process/rlimits/-",
            json!({"type": "RLIMIT_CORE", "soft": 1, "hard": 1}),
            "process-rlimits",
            "process.rlimits",
        ),
        put(
            "/process/apparmorProfile",
            json!("x"),
            "field-unknown",
            "process.apparmorProfile",
        ),
        put(
            "/process/selinuxLabel",
            json!("x"),
            "field-unknown",
            "process.selinuxLabel",
        ),
        put(
            "/process/ioPriority",
            json!({}),
            "field-unknown",
            "process.ioPriority",
        ),
        put(
            "/process/scheduler",
            json!({}),
            "field-unknown",
            "process.scheduler",
        ),
        put(
            "/process/execCPUAffinity",
            json!({}),
            "field-unknown",
            "process.execCPUAffinity",
        ),
        put("/root/path", json!("/"), "root-path", "root.path"),
        put(
            "/root/readonly",
            json!(false),
            "root-read-only",
            "root.readonly",
        ),
        put("/hostname", json!("x"), "field-unknown", "hostname"),
        put("/domainname", json!("x"), "field-unknown", "domainname"),
        put("/hooks", json!({}), "field-unknown", "hooks"),
        put("/annotations", json!({}), "field-unknown", "annotations"),
        put(
            "/mounts/-",
            mount("/bin", "bind", "files:settings"),
            "mount-destination",
            "mounts[12].destination",
        ),
        put(
            "/mounts/-",
            mount("/", "bind", "files:settings"),
            "mount-destination",
            "mounts[12].destination",
        ),
        put(
            "/mounts/-",
            mount("/etc/../bin", "tmpfs", "tmpfs"),
            "mount-destination",
            "mounts[12].destination",
        ),
        put(
            "/mounts/-",
            mount("/data", "bind", "scratch:data"),
            "mount-twice",
            "mounts[12].destination",
        ),
        put(
            "/mounts/0/type",
            json!("tmpfs"),
            "mount-kind",
            "mounts[0].type",
        ),
        put(
            "/mounts/6/source",
            json!("share:hosts"),
            "mount-source",
            "mounts[6].source",
        ),
        put(
            "/mounts/6/source",
            json!("/etc/hosts"),
            "mount-source",
            "mounts[6].source",
        ),
        put(
            "/mounts/7/source",
            json!("files:etc-hosts"),
            "mount-source",
            "mounts[7].source",
        ),
        put(
            "/mounts/7/source",
            json!("files:settings/now"),
            "mount-source",
            "mounts[7].source",
        ),
        put(
            "/mounts/8/source",
            json!("memory:data"),
            "mount-source",
            "mounts[8].source",
        ),
        put(
            "/mounts/0/options",
            json!(["nosuid"]),
            "mount-options",
            "mounts[0].options",
        ),
        put(
            "/mounts/7/options",
            json!(["rbind"]),
            "mount-options",
            "mounts[7].options",
        ),
        put(
            "/mounts/7/options/-",
            json!("rshared"),
            "malformed",
            "mounts[7].options[3]",
        ),
        put(
            "/mounts/7/options/-",
            json!("idmap"),
            "malformed",
            "mounts[7].options[3]",
        ),
        put(
            "/mounts/1/options/-",
            json!("size=9223372036854775808g"),
            "malformed",
            "mounts[1].options[3]",
        ),
        put(
            "/mounts/0/uidMappings",
            json!([]),
            "field-unknown",
            "mounts[0].uidMappings",
        ),
        put(
            "/linux/cgroupsPath",
            json!("/"),
            "cgroups-path",
            "linux.cgroupsPath",
        ),
        put(
            "/linux/namespaces/0/path",
            json!("/proc/1/ns/pid"),
            "field-unknown",
            "linux.namespaces[0].path",
        ),
        put(
            "/linux/namespaces/-",
            json!({"type": "user"}),
            "malformed",
            "linux.namespaces[3].type",
        ),
        put(
            "/linux/namespaces/-",
            json!({"type": "network"}),
            "malformed",
            "linux.namespaces[3].type",
        ),
        put(
            "/linux/namespaces",
            json!([{"type": "mount"}]),
            "namespaces",
            "linux.namespaces",
        ),
        put(
            "/linux/seccomp/listenerPath",
            json!("/x"),
            "field-unknown",
            "linux.seccomp.listenerPath",
        ),
        put(
            "/linux/seccomp/defaultAction",
            json!("SCMP_ACT_NOTIFY"),
            "malformed",
            "linux.seccomp.defaultAction",
        ),
        put(
            "/linux/rootfsPropagation",
            json!("rshared"),
            "root-propagation",
            "linux.rootfsPropagation",
        ),
        put(
            "/linux/maskedPaths/-",
            json!("/app/key"),
            "masked-path",
            "linux.maskedPaths",
        ),
        put(
            "/linux/maskedPaths",
            json!([]),
            "masked-path",
            "linux.maskedPaths",
        ),
        put(
            "/linux/readonlyPaths/-",
            json!("/data"),
            "readonly-path",
            "linux.readonlyPaths",
        ),
        put(
            "/linux/readonlyPaths",
            json!([]),
            "readonly-path",
            "linux.readonlyPaths",
        ),
        put(
            "/linux/devices/-",
            json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}),
            "device",
            "linux.devices",
        ),
        put("/linux/devices", json!([]), "device", "linux.devices"),
        put("/linux/sysctl", json!({}), "field-unknown", "linux.sysctl"),
        put(
            "/linux/intelRdt",
            json!({}),
            "field-unknown",
            "linux.intelRdt",
        ),
        put(
            "/linux/netDevices",
            json!({}),
            "field-unknown",
            "linux.netDevices",
        ),
        put(
            "/linux/personality",
            json!({}),
            "field-unknown",
            "linux.personality",
        ),
        put(
            "/linux/timeOffsets",
            json!({}),
            "field-unknown",
            "linux.timeOffsets",
        ),
        put(
            "/linux/uidMappings",
            json!([]),
            "field-unknown",
            "linux.uidMappings",
        ),
        put(
            "/linux/mountLabel",
            json!("x"),
            "field-unknown",
            "linux.mountLabel",
        ),
        put(
            "/linux/resources/devices/-",
            json!({"allow": true, "access": "rwm"}),
            "device-rule",
            "linux.resources.devices[3]",
        ),
        put(
            "/linux/resources/devices/-",
            json!({"allow": true, "type": "b", "access": "rwm"}),
            "device-rule",
            "linux.resources.devices[3]",
        ),
        put(
            "/linux/resources/devices/-",
            json!({"allow": true, "type": "c", "major": 1, "access": "r"}),
            "device-rule",
            "linux.resources.devices[3]",
        ),
        put(
            "/linux/resources/devices/-",
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "m"}),
            "device-rule",
            "linux.resources.devices[3]",
        ),
        put(
            "/linux/resources/memory/limit",
            json!(1),
            "limit-memory",
            "linux.resources.memory.limit",
        ),
        put(
            "/linux/resources/cpu/quota",
            json!(1),
            "limit-cpu",
            "linux.resources.cpu",
        ),
        put(
            "/linux/resources/cpu/shares",
            json!(4096),
            "limit-cpu-shares",
            "linux.resources.cpu.shares",
        ),
        put(
            "/linux/resources/cpu/cpus",
            json!("0"),
            "field-unknown",
            "linux.resources.cpu.cpus",
        ),
        put(
            "/linux/resources/pids/limit",
            json!(0),
            "limit-pids",
            "linux.resources.pids.limit",
        ),
        put(
            "/linux/resources/unified/memory.max",
            json!("1"),
            "limit-unified",
            "linux.resources.unified.memory.max",
        ),
        put(
            "/linux/resources/rdma",
            json!({}),
            "field-unknown",
            "linux.resources.rdma",
        ),
        put(
            "/linux/resources/hugepageLimits",
            json!([]),
            "field-unknown",
            "linux.resources.hugepageLimits",
        ),
    ]
}

/// Without a disk of its own a guest writes to its memory: it is no reason to deny.
pub(super) fn without_scratch() -> Message {
    let mut request = sound::set_up();
    request.scratch = None::<ScratchDisk>.into();
    Message::SetUp(request)
}
