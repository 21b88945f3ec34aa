//! `process`.

use serde_json::json;

use crate::bench::Bench;

tests![
    a_terminal_of_its_size,
    a_terminal_that_only_one_side_wants,
    arguments,
    the_environment,
    the_directory,
    the_user,
    limits,
    no_new_privileges,
    the_oom_score,
    an_apparmor_profile,
    a_selinux_label,
];

fn a_terminal_of_its_size(bench: &Bench) {
    let script = "tty; stty size; test -t 0 && test -t 1 && test -t 2";
    let mut spec = bench.spec(script);
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({"height": 41, "width": 103});
    assert_eq!(bench.lines(&spec), ["/dev/pts/0", "41 103"]);
    let spec = bench.spec("test -t 1 || echo none");
    assert_eq!(bench.lines(&spec), ["none"]);
}

/// Neither is followed in silence when the configuration and who asks for the container differ.
fn a_terminal_that_only_one_side_wants(bench: &Bench) {
    for (configured, phrase) in [
        (
            true,
            "process.terminal is true, but no terminal is asked for",
        ),
        (
            false,
            "a terminal is asked for, but process.terminal is not true",
        ),
    ] {
        let mut spec = bench.spec("true");
        spec["process"]["terminal"] = json!(configured);
        let why = bench.run_at(&spec, !configured, |_| ()).unwrap_err();
        assert!(why.contains(phrase), "{why}");
    }
}

fn arguments(bench: &Bench) {
    let mut spec = bench.spec("");
    let script = "echo \"$0|$1|$2|$#\"; tr '\\0' '|' </proc/$$/cmdline | cut -d '|' -f 1";
    spec["process"]["args"] = json!(["/bin/sh", "-c", script, "zero", "a b", ""]);
    assert_eq!(bench.lines(&spec), ["zero|a b||2", "/bin/sh"]);
}

fn the_environment(bench: &Bench) {
    let mut spec = bench.spec("");
    spec["process"]["args"] = json!(["/usr/bin/env"]);
    spec["process"]["env"] = json!(["B=2", "EMPTY=", "HOME=/h", "C=x=y"]);
    assert_eq!(bench.lines(&spec), ["B=2", "EMPTY=", "HOME=/h", "C=x=y"]);
}

fn the_directory(bench: &Bench) {
    let mut spec = bench.spec("pwd");
    spec["process"]["cwd"] = json!("/not/there/yet");
    assert_eq!(bench.lines(&spec), ["/not/there/yet"]);
}

fn the_user(bench: &Bench) {
    let mut spec = bench.spec("id -u; id -g; id -G; umask");
    spec["process"]["user"] =
        json!({"uid": 1234, "gid": 2345, "umask": 0o137, "additionalGids": [77, 88]});
    assert_eq!(bench.lines(&spec), ["1234", "2345", "2345 77 88", "0137"]);
    assert_eq!(bench.lines(&bench.spec("umask; id -G")), ["0022", "0"]);
}

fn limits(bench: &Bench) {
    let mut spec = bench.spec("ulimit -S -n; ulimit -H -n");
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}]);
    assert_eq!(bench.lines(&spec), ["123", "456"]);
}

fn no_new_privileges(bench: &Bench) {
    for (value, shown) in [(true, "NoNewPrivs:\t1"), (false, "NoNewPrivs:\t0")] {
        let mut spec = bench.spec("grep NoNewPrivs /proc/self/status");
        spec["process"]["noNewPrivileges"] = json!(value);
        assert_eq!(bench.lines(&spec), [shown]);
    }
}

fn the_oom_score(bench: &Bench) {
    let mut spec = bench.spec("cat /proc/self/oom_score_adj");
    spec["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(bench.lines(&spec), ["321"]);
}

/// No machine has one of this name: that it matters is what is seen everywhere.
fn an_apparmor_profile(bench: &Bench) {
    let mut spec = bench.spec("true");
    spec["process"]["apparmorProfile"] = json!("no-such-profile");
    let why = bench.refusal(&spec);
    assert!(
        why.contains("apply AppArmor profile \"no-such-profile\""),
        "{why}"
    );
}

fn a_selinux_label(bench: &Bench) {
    let mut spec = bench.spec("true");
    spec["process"]["selinuxLabel"] = json!("no:such:label");
    let why = bench.refusal(&spec);
    assert!(
        why.contains("apply SELinux label \"no:such:label\""),
        "{why}"
    );
}
