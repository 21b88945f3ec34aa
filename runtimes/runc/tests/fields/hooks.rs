//! `hooks` and `annotations`: each kind at its time, with what it is to have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::Bench;

tests![
    each_kind_has_its_path_arguments_and_environment,
    each_kind_is_ended_after_its_timeout,
    in_a_user_namespace,
    annotations,
];

/// In the order in which they run.
const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A directory that has one path on the host and in the container, beside the bundle.
struct Notes(PathBuf);

impl Notes {
    fn of(bench: &Bench, spec: &mut Value) -> Self {
        let mut path = bench.bundle().into_os_string();
        path.push("-notes");
        fs::create_dir(&path).unwrap();
        let mount = json!({"destination": path.to_str(), "type": "bind", "source": path.to_str(),
            "options": ["bind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        Self(path.into())
    }

    /// Makes a script there.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn file(&self) -> String {
        self.0.join("notes").display().to_string()
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn each_kind_has_its_path_arguments_and_environment(bench: &Bench) {
    let mut spec = bench.spec("true");
    let notes = Notes::of(bench, &mut spec);
    spec["process"]["args"][2] = json!(format!("echo program >>{}", notes.file()));
    for kind in KINDS {
        let path = notes.program(kind, "echo $0 $1 $# $KIND >>$NOTES");
        spec["hooks"][kind] = json!([{"path": path, "args": ["zero", format!("one-{kind}"), ""],
            "env": [format!("KIND=env-{kind}"), format!("NOTES={}", notes.file())]}]);
    }
    bench.lines(&spec);
    let line = |kind: &str| format!("{}/{kind} one-{kind} 2 env-{kind}", notes.0.display());
    let found = notes.lines();
    let programs = found.iter().filter(|line| *line == "program");
    assert_eq!(programs.count(), 1, "{found:?}");
    // Whether the program or a poststart hook is the faster is nobody's concern.
    let hooks: Vec<_> = found.iter().filter(|line| *line != "program").collect();
    assert_eq!(hooks, KINDS.map(line).iter().collect::<Vec<_>>());
    let place = found.iter().position(|line| line == "program").unwrap();
    assert!(place >= 4, "{found:?}");
}

/// What one of a kind did before its end, which takes as long as it may: not what comes later.
fn each_kind_is_ended_after_its_timeout(bench: &Bench) {
    for kind in KINDS {
        let mut spec = bench.spec("true");
        let notes = Notes::of(bench, &mut spec);
        let script = format!("echo began >>{0}; sleep 3; echo ended >>{0}", notes.file());
        spec["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script],
            "env": ["PATH=/usr/bin:/bin"], "timeout": 1}]);
        let began = Instant::now();
        let outcome = bench.run(&spec, |_| ());
        assert!(began.elapsed() < Duration::from_millis(2900), "{kind}");
        assert_eq!(notes.lines(), ["began"], "{kind}: {outcome:?}");
        match outcome {
            // Those that come too late to prevent anything.
            Ok(_) => assert_eq!(kind, "poststop"),
            Err(why) => assert!(
                why.contains(&format!(
                    "{kind} hook 0 (/bin/sh) failed: it ran longer than its timeout of 1 s"
                )),
                "{why}"
            ),
        }
    }
}

/// The hook is in the container's namespaces, of which the user namespace lets the runtime look at little.
fn in_a_user_namespace(bench: &Bench) {
    let mut spec = bench.spec("true");
    crate::namespaces::set(&mut spec, "user", None);
    let script = "read inside outside rest </proc/self/uid_map; test $outside = 100000 || exit 1; \
                  set -- $(grep NSpid /proc/self/status); test $# = 3";
    spec["hooks"]["createContainer"] = json!([{"path": "/bin/sh",
        "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]);
    bench.lines(&spec);
}

fn annotations(bench: &Bench) {
    let mut spec = bench.spec("true");
    let notes = Notes::of(bench, &mut spec);
    spec["annotations"] = json!({"org.example.key": "the value"});
    let script = format!("cat >{}", notes.file());
    spec["hooks"]["createRuntime"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script],
        "env": ["PATH=/usr/bin:/bin"]}]);
    bench.lines(&spec);
    let state: Value = serde_json::from_str(&notes.lines().concat()).unwrap();
    assert_eq!(
        state["annotations"],
        json!({"org.example.key": "the value"})
    );
}
