//! `exec`, seen from the processes it starts in real containers. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::io::Read;
use std::os::fd::AsRawFd;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::{Value, json};

mod container;
mod worker;

use container::{Container, SHIFT, Users};
use worker::{Ended, Refusal, run, start};

const PATH: &str = "PATH=/usr/bin:/bin";

fn spec() -> Value {
    json!({"ociVersion": "1.2.0", "linux": {}})
}

/// A process that runs a shell script as root with the capabilities `own`, changed by `changes`.
fn process(script: &str, changes: Value) -> Value {
    let own = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"];
    let mut process = json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["sh", "-c", script],
        "env": [PATH],
        "cwd": "/",
        "capabilities": {"bounding": own, "effective": own, "permitted": own},
    });
    process
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    process
}

fn lines(container: &Container, script: &str, changes: Value) -> Vec<String> {
    let Ended { status, output } = run(container, &spec(), &process(script, changes)).unwrap();
    assert!(
        matches!(status, WaitStatus::Exited(_, 0)),
        "{status:?}: {output}"
    );
    output.lines().map(str::to_owned).collect()
}

fn status(container: &Container, spec: &Value, changes: Value) -> Vec<(String, String)> {
    let process = process("cat /proc/self/status", changes);
    let output = run(container, spec, &process).unwrap().output;
    output
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn field(status: &[(String, String)], name: &str) -> String {
    status
        .iter()
        .find(|(known, _)| known == name)
        .unwrap_or_else(|| panic!("{name}"))
        .1
        .clone()
}

fn set(status: &[(String, String)], name: &str) -> u64 {
    u64::from_str_radix(&field(status, name), 16).unwrap()
}

fn refusal(container: &Container, changes: Value) -> Refusal {
    match run(container, &spec(), &process("true", changes)) {
        Ok(ended) => panic!("started: {:?} {}", ended.status, ended.output),
        Err(refusal) => {
            let exited = |status| matches!(status, WaitStatus::Exited(_, 255));
            assert!(refusal.status.is_none_or(exited), "{refusal:?}");
            refusal
        }
    }
}

#[test]
fn the_process_is_who_it_was_asked_to_be() {
    let container = Container::start(Users::Hosts);
    let user = json!({"user": {"uid": 1000, "gid": 2000, "additionalGids": [5, 3000]}});
    let script = "id -u; id -g; id -G; pwd; umask; echo $HOME; whoami";
    assert_eq!(
        lines(&container, script, user),
        [
            "1000",
            "2000",
            "2000 5 3000",
            "/",
            "0022",
            "/home/app",
            "app"
        ]
    );
    let root = json!({"user": {"uid": 0, "gid": 0, "umask": 0o077}, "cwd": "/tmp",
        "env": [PATH, "HOME=/elsewhere", "A=1", "A=2"]});
    assert_eq!(
        lines(&container, "id -G; pwd; umask; echo $HOME $A", root),
        ["0", "/tmp", "0077", "/elsewhere 2"]
    );
    let stranger = json!({"user": {"uid": 4242, "gid": 0}});
    assert_eq!(lines(&container, "echo $HOME", stranger), ["/"]);
}

#[test]
fn the_environment_is_exactly_what_was_asked_for() {
    let container = Container::start(Users::Hosts);
    let changes = json!({"args": ["/usr/bin/env"], "env": ["B=2", "EMPTY=", "HOME=/h", "C=x=y"]});
    assert_eq!(
        lines(&container, "", changes),
        ["B=2", "EMPTY=", "HOME=/h", "C=x=y"]
    );
}

#[test]
fn capabilities_are_exactly_what_was_asked_for() {
    let container = Container::start(Users::Hosts);
    // CAP_CHOWN, CAP_KILL and CAP_SETUID are 0, 5 and 7.
    let own = 1 << 0 | 1 << 5 | 1 << 7;
    let found = status(&container, &spec(), json!({}));
    for name in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(set(&found, name), own, "{name}");
    }
    assert_eq!((set(&found, "CapInh"), set(&found, "CapAmb")), (0, 0));

    let user = json!({"user": {"uid": 1000, "gid": 1000}});
    let found = status(&container, &spec(), user);
    assert_eq!(
        (
            set(&found, "CapBnd"),
            set(&found, "CapEff"),
            set(&found, "CapPrm")
        ),
        (own, 0, 0)
    );

    let all = ["CAP_KILL", "CAP_CHOWN"];
    let ambient = json!({"user": {"uid": 1000, "gid": 1000}, "capabilities": {
        "bounding": all, "effective": all, "permitted": all, "inheritable": all,
        "ambient": ["CAP_KILL", "CAP_FROM_THE_FUTURE"]}});
    let found = status(&container, &spec(), ambient);
    assert_eq!(
        (set(&found, "CapEff"), set(&found, "CapPrm")),
        (1 << 5, 1 << 5)
    );
    assert_eq!(
        (set(&found, "CapInh"), set(&found, "CapAmb")),
        (1 << 5 | 1, 1 << 5)
    );

    let none = json!({"capabilities": {}});
    let found = status(&container, &spec(), none);
    for name in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(set(&found, name), 0, "{name}");
    }
}

#[test]
fn a_process_without_capabilities_of_its_own_has_the_containers() {
    let container = Container::start(Users::Hosts);
    let kill = ["CAP_KILL"];
    let spec = json!({"ociVersion": "1.2.0", "linux": {}, "process": {
        "user": {"uid": 0, "gid": 0}, "cwd": "/",
        "capabilities": {"bounding": kill, "effective": kill, "permitted": kill}}});
    let found = status(&container, &spec, json!({"capabilities": null}));
    assert_eq!(
        (set(&found, "CapBnd"), set(&found, "CapEff")),
        (1 << 5, 1 << 5)
    );
}

#[test]
fn seccomp_binds_the_process_with_and_without_new_privileges() {
    let container = Container::start(Users::Hosts);
    let mut spec = spec();
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]});
    for forbidden in [false, true] {
        let changes = json!({"noNewPrivileges": forbidden});
        let found = status(&container, &spec, changes.clone());
        assert_eq!(field(&found, "Seccomp"), "2");
        assert_eq!(field(&found, "Seccomp_filters"), "1");
        assert_eq!(field(&found, "NoNewPrivs"), u8::from(forbidden).to_string());
        let denied = run(&container, &spec, &process("mkdir /tmp/x", changes)).unwrap();
        assert!(
            denied.output.contains("Operation not supported"),
            "{}",
            denied.output
        );
    }
    let found = status(&container, &self::spec(), json!({}));
    assert_eq!(field(&found, "Seccomp"), "0");
    assert_eq!(field(&found, "NoNewPrivs"), "0");

    spec["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_NOTIFY");
    let refusal = run(&container, &spec, &process("true", json!({})))
        .err()
        .unwrap();
    assert_eq!(refusal.kind, "invalid");
    assert!(
        refusal.message.contains("SCMP_ACT_NOTIFY"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_strict_profile_need_only_allow_the_program_when_privileges_cannot_grow() {
    let container = Container::start(Users::Hosts);
    let mut spec = spec();
    // Everything that giving up privileges takes is forbidden.
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{
        "names": ["setuid", "setgid", "setgroups", "capset", "prctl", "chdir", "fchown", "write"],
        "action": "SCMP_ACT_KILL_PROCESS"}]});
    let strict = json!({"noNewPrivileges": true, "args": ["/bin/true"]});
    let ended = run(&container, &spec, &process("", strict)).unwrap();
    assert!(
        matches!(ended.status, WaitStatus::Exited(_, 0)),
        "{:?}",
        ended.status
    );

    // Loaded early it kills the process on the way, and that is an error, not a start.
    let killed = json!({"noNewPrivileges": false, "args": ["/bin/true"]});
    let refusal = run(&container, &spec, &process("", killed)).err().unwrap();
    assert!(
        matches!(
            refusal.status,
            Some(WaitStatus::Signaled(_, Signal::SIGSYS, _))
        ),
        "{refusal:?}"
    );
    assert!(
        refusal.message.contains("killed before it could run"),
        "{refusal:?}"
    );
}

#[test]
fn signals_start_fresh() {
    let container = Container::start(Users::Hosts);
    // A shell would change some of them.
    let plain = json!({"args": ["cat", "/proc/self/status"]});
    let found = status(&container, &spec(), plain);
    for name in ["SigIgn", "SigBlk", "SigCgt", "SigPnd"] {
        assert_eq!(set(&found, name), 0, "{name}");
    }
}

#[test]
fn only_the_standard_streams_are_open() {
    let container = Container::start(Users::Hosts);
    // The fourth is ls's own, on the directory.
    let listing = json!({"args": ["ls", "/proc/self/fd"]});
    assert_eq!(lines(&container, "", listing), ["0", "1", "2", "3"]);
    let closed = "for fd in 3 4 5 6 7 8 9; do [ -e /proc/self/fd/$fd ] && echo $fd; done; true";
    assert!(lines(&container, closed, json!({})).is_empty());
    assert_eq!(
        lines(&container, "readlink /proc/self/fd/0", json!({})),
        ["/dev/null"]
    );
}

#[test]
fn users_can_reopen_their_standard_streams() {
    let container = Container::start(Users::Hosts);
    let user = json!({"user": {"uid": 1000, "gid": 1000}});
    assert_eq!(
        lines(&container, "echo hello > /dev/stdout", user),
        ["hello"]
    );
}

#[test]
fn limits_are_set() {
    let container = Container::start(Users::Hosts);
    let limits = json!({"rlimits": [
        {"type": "RLIMIT_NOFILE", "soft": 3, "hard": 64},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096}],
        "oomScoreAdj": 777, "args": ["/bin/cat", "/proc/self/oom_score_adj"]});
    // Three descriptors are too few to start a dynamically linked program.
    let mut enough = limits.clone();
    enough["rlimits"][0]["soft"] = json!(10);
    assert_eq!(lines(&container, "", enough.clone()), ["777"]);
    enough["args"] = json!(["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc"]);
    assert_eq!(lines(&container, "", enough), ["10", "64", "0", "8"]);
    // But the way there needs none beyond what is open already.
    let ended = run(&container, &spec(), &process("", limits)).unwrap();
    assert!(
        matches!(ended.status, WaitStatus::Exited(_, 127)),
        "{:?}",
        ended.status
    );
}

#[test]
fn hard_limits_are_raised_with_the_hosts_privilege_even_in_a_user_namespace() {
    let container = Container::start(Users::Own);
    let resource = nix::sys::resource::Resource::RLIMIT_MSGQUEUE;
    let (soft, hard) = nix::sys::resource::getrlimit(resource).unwrap();
    let raised = json!({"rlimits": [
        {"type": "RLIMIT_MSGQUEUE", "soft": soft, "hard": hard.saturating_add(1)}]});
    // CAP_SYS_RESOURCE is 24.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = own
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    if u64::from_str_radix(effective, 16).unwrap() & (1 << 24) != 0 {
        // "Max msgqueue size         819200               819201               bytes"
        let limits = lines(&container, "cat /proc/self/limits", raised);
        let queue = limits.iter().find(|line| line.contains("msgqueue"));
        assert_eq!(
            queue.and_then(|line| line.split_whitespace().nth(4)),
            Some(hard.saturating_add(1).to_string().as_str())
        );
    } else {
        let refusal = refusal(&container, raised);
        assert!(
            refusal.message.contains("set RLIMIT_MSGQUEUE"),
            "{}",
            refusal.message
        );
        assert!(
            refusal.message.ends_with("operation not permitted"),
            "{}",
            refusal.message
        );
    }
}

#[test]
fn a_lower_oom_score_than_permitted_is_refused() {
    let container = Container::start(Users::Hosts);
    let low = json!({"oomScoreAdj": -999, "args": ["cat", "/proc/self/oom_score_adj"]});
    let own = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(own).unwrap();
    if std::fs::write(own, "-999").is_ok() {
        std::fs::write(own, before).unwrap();
        assert_eq!(lines(&container, "", low), ["-999"]);
        return;
    }
    let message = refusal(&container, low).message;
    assert!(
        message.contains("set oom_score_adj to -999: permission denied"),
        "{message}"
    );
}

#[test]
fn scheduling_is_set() {
    let container = Container::start(Users::Hosts);
    let changes = json!({
        "scheduler": {"policy": "SCHED_BATCH", "nice": 7},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0},
        "execCPUAffinity": {"initial": "0", "final": "0"},
    });
    let script = "chrt -p $$ | head -n 1; nice; ionice; taskset -pc $$";
    let found = lines(&container, script, changes);
    assert!(found[0].ends_with("SCHED_BATCH"), "{found:?}");
    assert_eq!(found[1..3], ["7", "idle"]);
    assert!(found[3].ends_with(": 0"), "{found:?}");
}

#[test]
fn every_namespace_is_inits() {
    for users in [Users::Hosts, Users::Own] {
        let container = Container::start(users);
        let names = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
        let script = format!(
            "cd /proc/self/ns && for n in {}; do readlink $n; done",
            names.join(" ")
        );
        let expected: Vec<_> = names.iter().map(|name| container.namespace(name)).collect();
        assert_eq!(lines(&container, &script, json!({})), expected);
        let ours = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(expected[2], ours("mnt").display().to_string());
        assert_eq!(
            users == Users::Own,
            expected[6] != ours("user").display().to_string()
        );
        // A process of the container: neither init nor anyone's child, and with few others.
        let script = "hostname; ls / | grep -c old; cat /proc/1/comm; \
            grep PPid /proc/$$/status; [ $$ -lt 100 ] && echo small";
        assert_eq!(
            lines(&container, script, json!({})),
            ["trefoil-test", "0", "sleep", "PPid:\t0", "small"]
        );
    }
}

#[test]
fn a_user_namespace_confines_ids_and_capabilities() {
    let container = Container::start(Users::Own);
    for uid in [0, 1000] {
        let user = json!({"user": {"uid": uid, "gid": uid, "additionalGids": [7]}});
        let mut running = start(
            &container,
            &spec(),
            &process(
                "id -u; id -G; cat /proc/self/uid_map; echo end; sleep infinity",
                user,
            ),
            false,
        )
        .unwrap();
        let mut output = Vec::new();
        while !output.ends_with(b"end\n") {
            let mut some = [0; 128];
            let length = running.output.read(&mut some).unwrap();
            assert_ne!(length, 0, "{}", String::from_utf8_lossy(&output));
            output.extend_from_slice(&some[..length]);
        }
        let text = String::from_utf8(output).unwrap();
        assert!(text.starts_with(&format!("{uid}\n{uid} 7\n")), "{text}");
        assert!(text.contains(&SHIFT.to_string()), "{text}");
        // Seen from the host, it is nobody's root.
        let host = std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
        let ids = format!("Uid:\t{0}\t{0}\t{0}\t{0}", SHIFT + uid);
        assert!(host.contains(&ids), "{host}");
        assert!(host.contains(&format!("Groups:\t{}", SHIFT + 7)), "{host}");
    }
    let unmapped = json!({"user": {"uid": 70_000, "gid": 0}});
    let refusal = refusal(&container, unmapped);
    assert!(
        refusal.message.contains("set the user id to 70000"),
        "{}",
        refusal.message
    );
}

#[test]
fn seccomp_and_terminals_work_in_a_user_namespace() {
    let container = Container::start(Users::Own);
    let mut spec = spec();
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    spec["linux"]["seccomp"]["syscalls"] =
        json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    let found = status(&container, &spec, json!({}));
    assert_eq!(field(&found, "Seccomp"), "2");
    let user = json!({"user": {"uid": 1000, "gid": 1000}});
    let text = on_terminal(&container, "stat -c %u $(tty); echo x > $(tty)", user);
    assert_eq!(text, "1000\r\nx\r\n");
}

/// Runs a script on a terminal and returns what appears there.
fn on_terminal(container: &Container, script: &str, changes: Value) -> String {
    let mut running = start(container, &spec(), &process(script, changes), true).unwrap();
    let mut master = std::fs::File::from(running.master.take().unwrap());
    let mut bytes = Vec::new();
    // Linux says EIO when the last process has closed its end.
    let _ = master.read_to_end(&mut bytes);
    let status = running.wait();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    String::from_utf8(bytes).unwrap()
}

#[test]
fn terminals_are_the_containers_own() {
    let container = Container::start(Users::Hosts);
    let sized = json!({"consoleSize": {"height": 33, "width": 99}});
    let text = on_terminal(
        &container,
        "tty; stty size; ls /dev/pts; echo x > /dev/tty",
        sized,
    );
    assert_eq!(text, "/dev/pts/0\r\n33 99\r\n0  ptmx\r\nx\r\n");
    let user = json!({"user": {"uid": 1000, "gid": 1000}});
    let script = "stat -c %u $(tty); echo x > $(tty); ls /proc/self/fd | tr '\\n' ' '";
    assert_eq!(
        on_terminal(&container, script, user),
        "1000\r\nx\r\n0 1 2 3 "
    );
    // Its own session: job control works.
    let script = "set -m; true & wait; ps -o tty=,tpgid= -p $$ | tr -s ' '";
    let text = on_terminal(&container, script, json!({}));
    assert!(text.starts_with("pts/"), "{text:?}");
}

#[test]
fn a_planted_terminal_multiplexer_is_refused() {
    let container = Container::start(Users::Hosts);
    // CAP_SYS_ADMIN is 21.
    let own = ["CAP_SYS_ADMIN"];
    let admin = json!({"capabilities": {"bounding": own, "effective": own, "permitted": own}});
    lines(&container, "mount -t tmpfs tmpfs /dev/pts", admin);
    let terminal = || {
        start(&container, &spec(), &process("true", json!({})), true)
            .err()
            .unwrap()
    };
    let missing = terminal();
    assert!(
        missing.message.contains("/dev/pts/ptmx: no such file"),
        "{}",
        missing.message
    );
    lines(&container, "echo fake > /dev/pts/ptmx", json!({}));
    let fake = terminal();
    assert_eq!(fake.kind, "setup");
    assert!(
        fake.message.contains("not a terminal multiplexer"),
        "{}",
        fake.message
    );
}

#[test]
fn the_process_is_in_the_containers_cgroups() {
    let container = Container::start(Users::Hosts);
    assert!(!container.cgroups.is_empty());
    let running = start(
        &container,
        &spec(),
        &process("sleep infinity", json!({})),
        false,
    )
    .unwrap();
    let of =
        |pid: nix::unistd::Pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(of(running.pid), of(container.init));
    assert!(of(running.pid).contains("trefoil-exec-"));
}

#[test]
fn a_cgroup_that_refuses_processes_is_replaced_by_inits() {
    let mut container = Container::start(Users::Hosts);
    let Some(index) = container
        .cgroups
        .iter()
        .position(|path| path.join("cgroup.type").exists())
    else {
        return eprintln!("skipped: no cgroup v2 on this host");
    };
    // As a container with a delegated cgroup does it: init moves into a child, and on hosts where
    // v2 has the controllers, they are enabled for children, so that the parent is full.
    let own = container.cgroups[index].clone();
    let child = own.join(container::INNER);
    std::fs::create_dir(&child).unwrap();
    std::fs::write(child.join("cgroup.procs"), container.init.to_string()).unwrap();
    let keeper = container.keeper.to_string();
    std::fs::write(own.parent().unwrap().join("cgroup.procs"), keeper).unwrap();
    if std::fs::write(own.join("cgroup.subtree_control"), "+pids").is_err() {
        // Hybrid hosts have no controllers there: a directory that is gone stands in.
        container.cgroups[index] = own.with_extension("gone");
    }
    let running = start(
        &container,
        &spec(),
        &process("sleep infinity", json!({})),
        false,
    )
    .unwrap();
    let of =
        |pid: nix::unistd::Pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(of(running.pid), of(container.init));
    assert!(of(running.pid).contains("/init\n"));
    container.cgroups[index] = own;
}

#[test]
fn a_container_without_a_mount_namespace_is_confined_by_its_root() {
    let other = Container::start(Users::Hosts);
    // A process of the host's namespaces whose root directory is the container's.
    let init = std::process::Command::new("chroot")
        .arg(format!("/proc/{}/root", other.init))
        .args(["sleep", "infinity"])
        .spawn()
        .unwrap();
    let init = Killed(init);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(init.0.id()).unwrap());
    let comm = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    while comm() != "sleep\n" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let chrooted = other.with_init(pid);
    let found = lines(&chrooted, "tail -n 1 /etc/passwd; pwd; ls /..", json!({}));
    assert_eq!(found[..2], ["app:x:1000:1000::/home/app:/bin/sh", "/"]);
    assert!(found.contains(&"locked".to_owned()), "{found:?}");
}

/// A process that does not outlive the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn apparmor_profiles_are_applied_or_said_to_be_missing() {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    let enabled = enabled.is_ok_and(|text| text.trim() == "Y");
    let container = Container::start(Users::Hosts);
    let missing = refusal(&container, json!({"apparmorProfile": "no-such-profile"}));
    let named = missing
        .message
        .contains(r#"apply AppArmor profile "no-such-profile""#);
    assert!(named, "{}", missing.message);
    if !enabled {
        return eprintln!("skipped the rest: no AppArmor on this host");
    }
    assert!(
        missing.message.ends_with("no such file or directory"),
        "{}",
        missing.message
    );
    let unconfined = json!({"apparmorProfile": "unconfined"});
    assert_eq!(
        lines(&container, "cat /proc/self/attr/current", unconfined),
        ["unconfined"]
    );
}

#[test]
fn the_hosts_session_keyring_stays_behind() {
    const GET_KEYRING_ID: libc::c_int = 0;
    const SESSION: libc::c_int = -3;
    let ours = trefoil_os::keyring::session().unwrap();
    let container = Container::start(Users::Hosts);
    let ask = format!(
        "print syscall({}, {GET_KEYRING_ID}, {SESSION}, 0)",
        libc::SYS_keyctl
    );
    let asked = json!({"args": ["perl", "-e", ask]});
    let theirs: i64 = lines(&container, "", asked)[0].parse().unwrap();
    assert!(theirs > 0 && theirs != ours, "ours {ours}, theirs {theirs}");
}

#[test]
fn the_process_is_the_callers_parents_to_reap() {
    let container = Container::start(Users::Hosts);
    let running = start(&container, &spec(), &process("exit 42", json!({})), false).unwrap();
    let mut fds = libc::pollfd {
        fd: running.pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, which lives through the call.
    assert_eq!(unsafe { libc::poll(&mut fds, 1, 10_000) }, 1);
    assert_eq!(running.wait(), WaitStatus::Exited(running.pid, 42));
    let ended = run(&container, &spec(), &process("kill -TERM $$", json!({}))).unwrap();
    assert!(matches!(
        ended.status,
        WaitStatus::Signaled(_, Signal::SIGTERM, false)
    ));
}

#[test]
fn programs_that_cannot_run_are_named_in_the_words_that_others_match() {
    let container = Container::start(Users::Hosts);
    let front = "cannot start the process in the container: ";
    for (program, message) in [
        (
            "nope",
            r#"exec: "nope": executable file not found in $PATH"#,
        ),
        (
            "/nope",
            r#"exec: "/nope": stat /nope: no such file or directory"#,
        ),
        ("/etc/passwd", r#"exec: "/etc/passwd": permission denied"#),
        ("/etc", r#"exec: "/etc": is a directory"#),
        ("/tmp/lost", "exec /tmp/lost: no such file or directory"),
        ("/tmp/text", "exec /tmp/text: exec format error"),
    ] {
        let refusal = refusal(&container, json!({"args": [program]}));
        assert_eq!(refusal.kind, "child");
        assert_eq!(refusal.message, format!("{front}{message}"));
    }
    let user = json!({"user": {"uid": 1000, "gid": 1000}, "args": ["/tmp/private"]});
    let refusal = refusal(&container, user);
    assert_eq!(
        refusal.message,
        format!("{front}exec: \"/tmp/private\": permission denied")
    );
}

#[test]
fn working_directories_that_cannot_be_entered_are_named() {
    let container = Container::start(Users::Hosts);
    let missing = refusal(&container, json!({"cwd": "/nope"}));
    assert!(
        missing
            .message
            .ends_with(r#"chdir to cwd ("/nope"): no such file or directory"#),
        "{}",
        missing.message
    );
    let file = refusal(&container, json!({"cwd": "/etc/passwd"}));
    assert!(
        file.message.ends_with("not a directory"),
        "{}",
        file.message
    );
    // Root without CAP_DAC_OVERRIDE may not enter, the user may; and the other way round.
    assert_eq!(
        lines(
            &container,
            "pwd",
            json!({"cwd": "/locked", "user": {"uid": 1000, "gid": 0}})
        ),
        ["/locked"]
    );
    for fd in 3..12 {
        let leaked = refusal(&container, json!({"cwd": format!("/proc/self/fd/{fd}")}));
        assert_eq!(leaked.kind, "child", "{}", leaked.message);
    }
}

#[test]
fn our_own_program_is_not_run_in_a_container() {
    let container = Container::start(Users::Hosts);
    let refusal = refusal(&container, json!({"args": ["/proc/self/exe"]}));
    assert!(
        refusal.message.contains("runtime's own program"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_container_that_has_ended_is_said_to() {
    let container = Container::start(Users::Hosts);
    container.stop();
    let refusal = refusal(&container, json!({}));
    assert_eq!(refusal.kind, "not running");
    assert!(
        refusal.message.contains("init process has exited"),
        "{}",
        refusal.message
    );
}

#[test]
fn impossible_requests_are_refused_before_anything_is_done() {
    let container = Container::start(Users::Hosts);
    for changes in [
        json!({"args": []}),
        json!({"cwd": "relative"}),
        json!({"env": ["A"]}),
    ] {
        assert_eq!(refusal(&container, changes).kind, "invalid");
    }
    let selinux = refusal(&container, json!({"selinuxLabel": "a:b:c:s0"}));
    assert!(
        selinux
            .message
            .contains("selinux is disabled or not supported"),
        "{}",
        selinux.message
    );
}

#[test]
fn a_descriptor_that_is_no_pidfd_is_refused() {
    let container = Container::start(Users::Hosts);
    let file = std::fs::File::open("/").unwrap();
    let mut wrong = container;
    wrong.pidfd = file.try_clone().unwrap().into();
    let refusal = refusal(&wrong, json!({}));
    assert!(
        refusal.message.contains("not a pidfd"),
        "{}",
        refusal.message
    );
}
