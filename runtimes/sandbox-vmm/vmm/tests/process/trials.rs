//! What a parent can rely on.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};
use trefoil_vmm::control::{Answer, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES, Message, Request, Stats};
use trefoil_vmm::exit::{Exit, Stop};
use trefoil_vmm::jail::Jail;
use trefoil_vmm::process::{self, Process, Said, Start};

use crate::roles::{Jailed, Then};

pub const TRIALS: &[(&str, fn())] = &[
    ("what_a_machine_is_given", what_a_machine_is_given),
    ("requests_are_answered", requests_are_answered),
    (
        "a_missing_program_is_an_error",
        a_missing_program_is_an_error,
    ),
    (
        "what_is_no_program_is_an_error",
        what_is_no_program_is_an_error,
    ),
    ("a_cgroup_is_joined", a_cgroup_is_joined),
    ("a_missing_cgroup_is_an_error", a_missing_cgroup_is_an_error),
    ("a_launch_may_be_too_big", a_launch_may_be_too_big),
    (
        "the_real_program_says_what_is_wrong",
        the_real_program_says_what_is_wrong,
    ),
    ("a_kill_is_told", a_kill_is_told),
    ("a_crash_is_told", a_crash_is_told),
    ("a_forbidden_call_is_named", a_forbidden_call_is_named),
    (
        "a_signal_from_outside_is_no_forbidden_call",
        a_signal_from_outside_is_no_forbidden_call,
    ),
    ("a_crash_in_the_jail_is_told", a_crash_in_the_jail_is_told),
    (
        "words_that_do_not_fit_are_not_believed",
        words_that_do_not_fit_are_not_believed,
    ),
    ("nonsense_is_an_error", nonsense_is_an_error),
    ("requests_may_be_too_many", requests_may_be_too_many),
    ("a_dropped_machine_is_gone", a_dropped_machine_is_gone),
    (
        "a_machine_ends_with_its_parent",
        a_machine_ends_with_its_parent,
    ),
    (
        "a_machine_ends_with_its_thread",
        a_machine_ends_with_its_thread,
    ),
    ("no_descriptor_is_left", no_descriptor_is_left),
];

const LIMIT: Duration = Duration::from_secs(20);

/// How to start this program in the role that the first argument names.
pub fn start<'a>(arguments: &'a [&'a str]) -> Start<'a> {
    static LOG: LazyLock<File> =
        LazyLock::new(|| File::options().write(true).open("/dev/null").expect("open"));
    Start {
        program: None,
        arguments,
        log: LOG.as_fd(),
        cgroups: &[],
        oom_score_adj: None,
    }
}

fn launched(role: &str, configuration: &Value) -> Process {
    let process = process::start(&start(&[role])).expect("start");
    process.launch(configuration, &[]).expect("launch");
    process
}

/// The next message.
fn hear(process: &mut Process) -> Message {
    match process.receive_within(LIMIT).expect("receive") {
        Said::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

fn end_of(process: &mut Process) -> Exit {
    process.wait_within(LIMIT).expect("wait").expect("an end")
}

fn what_a_machine_is_given() {
    let mut file = tempfile::tempfile().expect("file");
    let log = tempfile::NamedTempFile::new().expect("file");
    // What a parent may have of its own: a blocked signal, a descriptor that is not closed on exec.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.thread_block().expect("block");
    // SAFETY: the descriptor is new, and nobody else's.
    let leak = unsafe { OwnedFd::from_raw_fd(libc::dup(2)) };
    let start = Start {
        log: log.as_file().as_fd(),
        oom_score_adj: Some(100),
        ..start(&["looking", "and", "more"])
    };
    let mut process = process::start(&start).expect("start");
    process.launch(&json!({}), &[file.as_fd()]).expect("launch");
    assert_eq!(end_of(&mut process), Exit::Done(Stop::PoweredOff));
    drop(leak);
    blocked.thread_unblock().expect("unblock");

    let mut text = String::new();
    file.rewind().expect("rewind");
    file.read_to_string(&mut text).expect("read");
    let seen: Value = serde_json::from_str(&text).expect("parse");
    assert_eq!(seen["pid"], 1);
    assert_eq!(seen["session"], 1);
    assert_eq!(seen["descriptors"], json!([0, 1, 2, 3]));
    assert_eq!(
        seen["standard"],
        json!(["/dev/null", "/dev/null", log.path()])
    );
    assert_eq!(seen["arguments"], json!(["looking", "and", "more"]));
    assert_eq!(seen["environment"], 0);
    assert_eq!(seen["death"], libc::SIGKILL);
    assert_eq!(seen["blocked"], false);
    assert_eq!(seen["oom"], "100");
    let [theirs @ .., their_users] = seen["namespaces"].as_array().expect("list").as_slice() else {
        panic!("{seen}");
    };
    let ours = |name: &str| json!(fs::read_link(format!("/proc/self/ns/{name}")).expect("link"));
    for (name, theirs) in ["pid", "mnt", "net", "ipc", "uts"].iter().zip(theirs) {
        assert_ne!(*theirs, ours(name), "{name}");
    }
    assert_eq!(*their_users, ours("user"));
}

fn requests_are_answered() {
    let mut process = launched("obedient", &json!({}));
    assert_eq!(hear(&mut process), Message::Running);
    for (request, paused) in [
        (Request::Pause, true),
        (Request::Stats, true),
        (Request::Resume, false),
    ] {
        process.request(&request).expect("request");
        let answer = Message::Answer(Answer::Done(Stats { paused }));
        assert_eq!(hear(&mut process), answer);
    }
    assert_eq!(process.receive().expect("receive"), Said::Nothing);
    assert_eq!(process.try_wait().expect("wait"), None);
    process.request(&Request::PowerOff).expect("request");
    assert_eq!(end_of(&mut process), Exit::Done(Stop::PoweredOff));
    // And ever after.
    assert_eq!(
        process.try_wait().expect("wait"),
        Some(Exit::Done(Stop::PoweredOff))
    );
    assert_eq!(process.receive().expect("receive"), Said::Gone);
    process
        .request(&Request::Stats)
        .expect_err("nobody is there");
}

fn failure_of(start: &Start<'_>) -> String {
    process::start(start).expect_err("a failure").to_string()
}

fn a_missing_program_is_an_error() {
    let why = failure_of(&Start {
        program: Some(Path::new("/nowhere/vmm")),
        ..start(&["vmm"])
    });
    assert!(why.starts_with("open /nowhere/vmm: No such file"), "{why}");
}

fn what_is_no_program_is_an_error() {
    for (program, expected) in [
        ("/dev/null", "run the VMM's program: EACCES"),
        ("/proc/self/status", "run the VMM's program: EACCES"),
    ] {
        let why = failure_of(&Start {
            program: Some(Path::new(program)),
            ..start(&["vmm"])
        });
        assert!(why.starts_with(expected), "{why}");
    }
    let why = failure_of(&start(&["a\0b"]));
    assert!(why.starts_with("prepare the VMM's arguments: "), "{why}");
}

/// The root of any hierarchy of cgroups that can be written to.
fn hierarchy() -> PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let roots = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        after.starts_with("cgroup").then(|| PathBuf::from(point))
    });
    // A new cpuset of version 1 takes no process before it is told its processors.
    let mut roots = roots.filter(|root| {
        !root.join("cpuset.cpus").exists() || root.join("cgroup.controllers").exists()
    });
    roots.next().expect("a hierarchy")
}

fn a_cgroup_is_joined() {
    let cgroup = hierarchy().join(format!("trefoil-vmm-process-{}", std::process::id()));
    fs::create_dir(&cgroup).expect("make a cgroup");
    let cgroups = [cgroup.clone()];
    let process = process::start(&Start {
        cgroups: &cgroups,
        ..start(&["sleeping"])
    });
    let members = fs::read_to_string(cgroup.join("cgroup.procs")).expect("read");
    let pid = process.as_ref().map(Process::pid).ok();
    drop(process);
    let removed = fs::remove_dir(&cgroup);
    assert_eq!(members.trim(), pid.expect("start").to_string());
    removed.expect("nobody is left in it");
}

fn a_missing_cgroup_is_an_error() {
    // One that isn't there, and a directory that is no cgroup.
    let directory = tempfile::tempdir().expect("directory");
    for cgroup in [hierarchy().join("not/there"), directory.path().into()] {
        let cgroups = [cgroup.clone()];
        let why = failure_of(&Start {
            cgroups: &cgroups,
            ..start(&["sleeping"])
        });
        let expected = format!("put the VMM's process into {}: No such", cgroup.display());
        assert!(why.starts_with(&expected), "{why}");
    }
    assert_eq!(children(), 0);
}

/// How many processes we have started that were not waited for.
fn children() -> usize {
    let file = format!("/proc/self/task/{}/children", nix::unistd::gettid());
    let text = fs::read_to_string(file).expect("read");
    text.split_whitespace().count()
}

fn a_launch_may_be_too_big() {
    let process = process::start(&start(&["obedient"])).expect("start");
    let long = "x".repeat(MOST_LAUNCH_BYTES);
    let why = process.launch(&long, &[]).expect_err("too long");
    assert_eq!(
        why.to_string(),
        "launch the VMM: its configuration has 65538 bytes, more than 65536"
    );
    let log = start(&[]).log;
    let many = vec![log; MOST_DESCRIPTORS + 1];
    let why = process.launch(&json!({}), &many).expect_err("too many");
    assert_eq!(
        why.to_string(),
        "launch the VMM: it needs 201 descriptors, more than 200"
    );
    // And the largest that there may be arrives.
    let mut process = process;
    let long = "x".repeat(MOST_LAUNCH_BYTES - 2);
    let many = vec![log; MOST_DESCRIPTORS];
    process.launch(&long, &many).expect("launch");
    assert_eq!(hear(&mut process), Message::Running);
}

fn the_real_program_says_what_is_wrong() {
    let program = Path::new(env!("CARGO_BIN_EXE_trefoil-vmm"));
    let start = Start {
        program: Some(program),
        ..start(&["trefoil-vmm"])
    };
    let mut process = process::start(&start).expect("start");
    process.launch(&json!({ "kvm": 0 }), &[]).expect("launch");
    match end_of(&mut process) {
        exit @ Exit::Failed(_) => {
            let why = exit.to_string();
            assert!(
                why.starts_with("VMM: begin: read the configuration: missing field"),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
}

fn a_kill_is_told() {
    let mut process = launched("obedient", &json!({}));
    process.kill();
    assert_eq!(end_of(&mut process), Exit::Killed);
    // Killing it once more hits nobody.
    process.kill();
    let mut process = launched("obedient", &json!({}));
    process.request(&Request::Kill).expect("request");
    assert_eq!(end_of(&mut process), Exit::Killed);
}

fn why_of(configuration: &Value) -> String {
    match end_of(&mut launched("ending", configuration)) {
        exit @ Exit::Failed(_) => exit.to_string(),
        other => panic!("{other:?}"),
    }
}

fn a_crash_is_told() {
    let why = why_of(&json!({ "crash": true }));
    assert_eq!(why, "VMM: run: its process was ended by SIGSEGV");
    let why = why_of(&json!({ "say": { "done": "powered-off" }, "crash": true }));
    assert_eq!(why, "VMM: run: its process was ended by SIGSEGV");
    let why = why_of(&json!({ "code": 77 }));
    assert_eq!(
        why,
        "VMM: run: its process ended with code 77, and said nothing that fits"
    );
}

/// Starts a role in the jail, which writes to this log.
fn jail(events: bool, then: Then, log: &File) -> Process {
    let start = Start {
        log: log.as_fd(),
        ..start(&["jailed"])
    };
    let process = process::start(&start).expect("start");
    let jail = Jail {
        uid: 70_019,
        gid: 70_019,
        descriptors: 10,
        file_size: 1 << 20,
    };
    let role = Jailed { jail, events, then };
    process.launch(&role, &[]).expect("launch");
    process
}

/// The same until its end: what it writes to its log, and how it ends.
fn jailed(events: bool, then: Then) -> (String, Exit) {
    let log = tempfile::NamedTempFile::new().expect("file");
    let exit = end_of(&mut jail(events, then, log.as_file()));
    (fs::read_to_string(log.path()).expect("read"), exit)
}

/// Whoever may signal the process could end it by other signals; this one is told of by the filter alone.
fn a_signal_from_outside_is_no_forbidden_call() {
    let log = tempfile::tempfile().expect("file");
    let mut process = jail(true, Then::Obey, &log);
    assert_eq!(hear(&mut process), Message::Running);
    let pid = nix::unistd::Pid::from_raw(process.pid() as i32);
    nix::sys::signal::kill(pid, Signal::SIGSYS).expect("signal");
    process.request(&Request::PowerOff).expect("request");
    assert_eq!(end_of(&mut process), Exit::Done(Stop::PoweredOff));
}

fn a_forbidden_call_is_named() {
    for (events, who) in [(true, "events"), (false, "vcpu")] {
        let (said, exit) = jailed(events, Then::Trespass);
        assert_eq!(
            said,
            format!("trefoil-vmm: the {who} thread may not call openat (257): killed\n")
        );
        assert_eq!(
            exit.to_string(),
            format!("VMM: {who} thread: call openat (257): its seccomp filter forbids it")
        );
    }
}

fn a_crash_in_the_jail_is_told() {
    for events in [true, false] {
        match jailed(events, Then::Crash) {
            (_, exit @ Exit::Failed(_)) => {
                let why = exit.to_string();
                assert_eq!(why, "VMM: run: its process was ended by SIGSEGV");
            }
            (said, other) => panic!("{other:?}; {said}"),
        }
    }
}

fn words_that_do_not_fit_are_not_believed() {
    let mut process = launched(
        "ending",
        &json!({ "say": { "done": "powered-off" }, "code": 11 }),
    );
    assert_eq!(end_of(&mut process), Exit::Done(Stop::Reset));
    let mut process = launched("ending", &json!({ "say": { "done": "reset" }, "code": 0 }));
    assert_eq!(end_of(&mut process), Exit::Done(Stop::PoweredOff));
    let mut process = launched("ending", &json!({ "say": { "done": "reset" }, "code": 11 }));
    assert_eq!(hear(&mut process), Message::Ended(Exit::Done(Stop::Reset)));
    assert_eq!(end_of(&mut process), Exit::Done(Stop::Reset));
}

fn nonsense_is_an_error() {
    for (words, expected) in [
        ("hello", "expected value"),
        ("", "EOF while parsing"),
        (
            "{\"answer\":{\"done\":{\"paused\":false}}}",
            "it answers what nobody asked",
        ),
    ] {
        let mut process = launched("babbling", &json!([words]));
        let why = process
            .receive_within(LIMIT)
            .expect_err("nonsense")
            .to_string();
        assert!(why.starts_with("receive from the VMM: "), "{why}");
        assert!(why.contains(expected), "{why}");
    }
}

fn requests_may_be_too_many() {
    let mut process = launched("babbling", &json!([]));
    let why = (0..100)
        .find_map(|_| process.request(&Request::Stats).err())
        .expect("a refusal")
        .to_string();
    assert_eq!(why, "ask the VMM to Stats: 16 requests are unanswered");
}

fn pidfd_of(pid: i32) -> OwnedFd {
    // SAFETY: the call takes numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "no process {pid}");
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn has_ended(pidfd: &OwnedFd, within: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let limit = PollTimeout::try_from(within).expect("limit");
    let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut set, limit).expect("poll") == 1
}

fn a_dropped_machine_is_gone() {
    let process = launched("obedient", &json!({}));
    let pidfd = pidfd_of(process.pid() as i32);
    drop(process);
    assert!(has_ended(&pidfd, Duration::ZERO));
    assert_eq!(children(), 0);
}

fn a_machine_ends_with_its_parent() {
    let mut parent = Command::new("/proc/self/exe");
    let mut parent = parent
        .arg0("parent")
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut line = String::new();
    BufReader::new(parent.stdout.take().expect("pipe"))
        .read_line(&mut line)
        .expect("read");
    let machine = pidfd_of(line.trim().parse().expect("a number"));
    assert!(!has_ended(&machine, Duration::from_millis(50)));
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    assert!(has_ended(&machine, LIMIT));
}

fn a_machine_ends_with_its_thread() {
    let mut process = std::thread::spawn(|| process::start(&start(&["sleeping"])).expect("start"))
        .join()
        .expect("join");
    assert_eq!(end_of(&mut process), Exit::Killed);
}

fn no_descriptor_is_left() {
    let count = || fs::read_dir("/proc/self/fd").expect("look").count();
    drop(launched("obedient", &json!({})));
    let before = count();
    let began = Instant::now();
    for _ in 0..5 {
        drop(launched("obedient", &json!({})));
        launched("ending", &json!({ "code": 3 }))
            .wait_within(LIMIT)
            .expect("wait");
        a_missing_program_is_an_error();
        a_missing_cgroup_is_an_error();
        what_is_no_program_is_an_error();
    }
    assert_eq!(count(), before, "after {:?}", began.elapsed());
}
