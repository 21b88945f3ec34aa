//! Configurations against a policy: what passes is what the policy has, whatever the bytes are, and what
//! doesn't is denied in one line that fits into an event.
//!
//! The first byte says what the rest is: a container's configuration, a process's, limits, or files.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trefoil_policy::{
    Approved, Configuration, CreateContainer, Denial, Exec, File, Gate, HostProcess, LONGEST_DENIAL,
    LayerDisk, Owner, Policy, Protection, Request, Resources, Root, SetUp, Streams,
};

/// Small, so that inputs come near to what it allows.
const POLICY: &str = r#"{"version":1,"sandbox":{"hostname":{"exact":"x"}},
"volumes":[{"name":"v","kind":{"files":{"files":[{"path":{"prefix":"a"},"content":{"at_most":9},"mode":420}]}}}],
"containers":[{"name":"c","kind":"app","image":"0000000000000000000000000000000000000000000000000000000000000000",
"layers":[{"root_hash":"0000000000000000000000000000000000000000000000000000000000000000","blocks":1}],
"restart":"always","process":{"command":["a"],"user":{"uid":1,"gid":1},"cwd":"/","capabilities":{},
"env":[{"name":{"exact":"S"},"value":{"exact":"canary"},"secret":true,"optional":true}]},
"mounts":[],"namespaces":["mount"],"seccomp":"unconfined","oom_score":{"least":0,"most":9},"signals":[15],
"update":{"memory":{"least":1,"most":9}},"exec":[{"command":{"arguments":[{"exact":"p"}],"more":true}}]}]}"#;

fn gate() -> Gate {
    let policy = Policy::from_json(POLICY.as_bytes()).expect("a policy");
    let mut gate = Gate::new(policy, Protection::Tee).expect("not permissive");
    let set_up = SetUp {
        hostname: "x".into(),
        ..SetUp::default()
    };
    gate.decide(Request::SetUp(set_up)).expect("sound");
    gate
}

fn create(id: &str, json: &[u8]) -> Result<Request, Denial> {
    Ok(Request::CreateContainer(Box::new(CreateContainer {
        container: id.into(),
        name: "c".into(),
        configuration: Configuration::from_json(json)?,
        root: Root {
            verified: Some(LayerDisk {
                device: 1,
                erofs: true,
                parts: vec![8192],
            }),
            ..Root::default()
        },
        streams: Streams::default(),
    })))
}

/// A container that runs.
const SOUND: &str = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},"process":{"args":["a"],"cwd":"/",
"user":{"uid":1,"gid":1}},"linux":{"cgroupsPath":"/pod/r","namespaces":[{"type":"mount"}]}}"#;

fn running() -> Gate {
    let mut gate = gate();
    let request = create("r", SOUND.as_bytes()).expect("sound");
    gate.decide(request).expect("sound");
    let container = "r".to_owned();
    let approved = gate.decide(Request::StartContainer { container });
    let start = approved.expect("sound").start;
    gate.started(start.expect("a start"));
    gate
}

fn check(decided: Result<Approved, Denial>) {
    let request = match decided {
        Ok(approved) => approved.request,
        Err(denial) => {
            let line = denial.to_string();
            assert!(line.len() <= LONGEST_DENIAL && !line.contains('\n'), "{line}");
            return;
        }
    };
    match request {
        Request::CreateContainer(made) => {
            let made = made.configuration;
            assert_eq!(made.process.args, ["a"]);
            assert_eq!(made.process.user.uid, 1);
            assert!(made.mounts.is_empty() && made.linux.seccomp.is_none());
            let again = Configuration::from_json(&made.to_json()).expect("its own");
            assert_eq!(again, made);
        }
        Request::Exec(run) => {
            assert_eq!(run.configuration.args.first().map(String::as_str), Some("p"));
            assert_eq!(run.configuration.user.uid, 1);
        }
        Request::Update { resources, .. } => {
            let limit = resources.memory.limit;
            assert!(limit.is_some_and(|limit| (1..=9).contains(&limit)));
        }
        Request::PutFiles { files, .. } => {
            let sound = |file: &File| file.path.starts_with('a') && file.contents.len() <= 9;
            assert!(files.iter().all(sound));
        }
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check(create("n", rest).and_then(|request| gate().decide(request))),
        1 => check(HostProcess::from_json(rest).and_then(|configuration| {
            running().decide(Request::Exec(Box::new(Exec {
                container: "r".into(),
                process: "e".into(),
                configuration,
                streams: Streams::default(),
            })))
        })),
        2 => check(Resources::from_json(rest).and_then(|resources| {
            running().decide(Request::Update {
                container: "r".into(),
                resources: Box::new(resources),
            })
        })),
        _ => {
            let files = rest.split(|byte| *byte == 0).map(|file| File {
                path: String::from_utf8_lossy(file).into_owned(),
                contents: file.to_vec(),
                mode: 0o644,
                owner: Owner::default(),
            });
            check(gate().decide(Request::PutFiles {
                volume: "v".into(),
                files: files.collect(),
            }));
        }
    }
});
