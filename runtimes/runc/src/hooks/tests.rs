//! Hooks that people write, and hooks that no one should.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn state<'a>(bundle: &'a Path, annotations: Option<&'a HashMap<String, String>>) -> State<'a> {
    State {
        version: "1.3.0",
        id: "c",
        status: "creating",
        pid: Some(7),
        bundle,
        annotations,
    }
}

fn hook(json: serde_json::Value) -> Hook {
    serde_json::from_value(json).unwrap()
}

fn shell(script: &str) -> Hook {
    hook(serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script]}))
}

fn outcome(kind: &'static str, hooks: &[Hook]) -> Result<(), String> {
    run(kind, Some(hooks), &state(Path::new("/usr"), None)).map_err(|why| why.to_string())
}

fn shells(script: &str) -> Result<(), String> {
    outcome("createRuntime", &[shell(script)])
}

#[test]
fn a_hook_gets_exactly_what_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let script = format!(
        "exec > {}; echo \"$0\"; /bin/pwd; /usr/bin/env -u PWD -u OLDPWD -u SHLVL -u _; \
         /bin/ls /proc/$$/fd; /bin/cat",
        out.display()
    );
    let annotations = HashMap::from([("a.b".to_owned(), "c".to_owned())]);
    for environment in [None, Some(["A=1", "B=2"])] {
        let mut json = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script, "zero"]});
        if let Some(environment) = environment {
            json["env"] = serde_json::json!(environment);
        }
        let state = state(directory.path(), Some(&annotations));
        run("createRuntime", Some(&[hook(json)]), &state).unwrap();
        let text = fs::read_to_string(&out).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("zero"));
        assert_eq!(lines.next().map(Path::new), Some(directory.path()));
        let mut rest: Vec<_> = lines.collect();
        let (fds, before) = (["0", "1", "2"], environment.map_or(0, |list| list.len()));
        // The shell has an order of its own.
        rest[..before].sort_unstable();
        assert_eq!(rest[..before], environment.map_or(vec![], Vec::from));
        assert_eq!(rest[before..before + 3], fds);
        let state: serde_json::Value = serde_json::from_str(rest[before + 3]).unwrap();
        assert_eq!(
            state,
            serde_json::json!({"ociVersion": "1.3.0", "id": "c", "status": "creating", "pid": 7,
                "bundle": directory.path(), "annotations": {"a.b": "c"}})
        );
    }
}

#[test]
fn hooks_in_the_container_start_where_the_caller_is() {
    let here = std::env::current_dir().unwrap();
    let script = format!("test \"$(/bin/pwd)\" = '{}'", here.display());
    for kind in ["createContainer", "startContainer"] {
        assert_eq!(outcome(kind, &[shell(&script)]), Ok(()));
    }
    assert!(outcome("poststop", &[shell(&script)]).is_err());
}

#[test]
fn a_failure_says_which_how_and_why() {
    let hooks = [
        shell("exit 0"),
        shell("echo first >&2; echo 'driver library version 570 does not match' >&2; echo; exit 7"),
        shell("exit 9"),
    ];
    assert_eq!(
        outcome("createRuntime", &hooks).unwrap_err(),
        "createRuntime hook 1 (/bin/sh) failed: exit status 7: \
         driver library version 570 does not match"
    );
    assert_eq!(
        shells("kill -9 $$").unwrap_err(),
        "createRuntime hook 0 (/bin/sh) failed: killed by SIGKILL"
    );
    assert!(
        shells("printf 'a\\tb\\033[1m' >&2; exit 1")
            .unwrap_err()
            .ends_with("status 1: a b [1m")
    );
    let missing = [hook(serde_json::json!({"path": "/nope/hook"}))];
    assert_eq!(
        outcome("poststart", &missing).unwrap_err(),
        "poststart hook 0 (/nope/hook) failed: it cannot be started: no such file or directory"
    );
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    fs::write(&text, "no program").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let why = outcome("prestart", &[hook(serde_json::json!({"path": text}))]).unwrap_err();
    assert!(why.ends_with("exec format error"), "{why}");
}

#[test]
fn hooks_that_can_never_run_are_refused_on_the_host() {
    for (json, phrase) in [
        (serde_json::json!({"path": "bin/true"}), "no absolute path"),
        (
            serde_json::json!({"path": "/bin/true", "timeout": 0}),
            "timeout of 0 s",
        ),
        (
            serde_json::json!({"path": "/bin/true", "timeout": -1}),
            "timeout of -1 s",
        ),
        (
            serde_json::json!({"path": "/bin/true", "env": ["a\0b"]}),
            "NUL",
        ),
    ] {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["hooks"] = serde_json::json!({"poststop": [{"path": "/bin/true"}, json]});
        let why = check(&serde_json::from_value(spec).unwrap())
            .unwrap_err()
            .to_string();
        assert!(why.starts_with("poststop hook 1 ("), "{why}");
        assert!(why.contains(phrase), "{why}");
        assert!(
            outcome("poststop", &[hook(json)])
                .unwrap_err()
                .contains(phrase)
        );
    }
    check(&Spec::default()).unwrap();
}

#[test]
fn a_hook_need_not_read_its_state() {
    let annotations = HashMap::from([("big".to_owned(), "x".repeat(200_000))]);
    let hooks: Vec<_> = (0..4)
        .map(|_| hook(serde_json::json!({"path": "/bin/true"})))
        .collect();
    for _ in 0..25 {
        run(
            "createRuntime",
            Some(&hooks),
            &state(Path::new("/"), Some(&annotations)),
        )
        .unwrap();
    }
    // One that reads gets all of it.
    let counts = shell("test $(wc -c) -gt 200000");
    run(
        "createRuntime",
        Some(&[counts]),
        &state(Path::new("/"), Some(&annotations)),
    )
    .unwrap();
}

#[test]
fn a_hook_may_print_much_and_leave_processes_behind() {
    let begun = Instant::now();
    shells("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2").unwrap();
    shells("sleep 20 & exit 0").unwrap();
    let why = shells("(sleep 20; echo late) & echo early >&2; exit 3").unwrap_err();
    assert!(why.ends_with("exit status 3: early"), "{why}");
    let noisy = shells("timeout 3 yes >&2 & sleep 0.1; exit 3").unwrap_err();
    assert!(noisy.contains("exit status 3"), "{noisy}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn one_that_takes_too_long_is_ended_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 30 & echo $! > {}; wait", pid.display());
    let slow = hook(
        serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script],
        "timeout": 1}),
    );
    assert_eq!(
        outcome("prestart", &[slow]).unwrap_err(),
        "prestart hook 0 (/bin/sh) failed: it ran longer than its timeout of 1 s"
    );
    let pid = fs::read_to_string(pid).unwrap();
    let status = format!("/proc/{}/stat", pid.trim());
    let mut left = 50;
    while fs::read_to_string(&status).is_ok_and(|text| !text.contains(") Z")) {
        left -= 1;
        assert!(left > 0, "{status} is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signals_are_as_a_program_expects_them() {
    shells("/bin/grep -q '^SigIgn:.0000000000000000' /proc/self/status").unwrap();
}
