//! Tests on real cgroups, of whichever version this machine has. They need root and say so.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libcgroups::common::CgroupManager;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, Uid};
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, from_value, json};
use trefoil_core::stats::Stats;

use super::{Cgroup, Error, Version};

/// A cgroup of its own for each test, gone at its end.
struct Rig {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Rig {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "this test makes real cgroups: run it as root"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/trefoil-test-{}/{number}", std::process::id()));
        let cgroup = Cgroup::new(Some(&path), "test", false).unwrap();
        Self {
            cgroup,
            children: Vec::new(),
        }
    }

    /// Runs a shell script in the cgroup, which libcgroups creates, as it does for containers.
    fn run(&mut self, script: &str) -> Pid {
        // It waits for a line before it starts, to be inside by then.
        let mut child = Command::new("sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        self.cgroup.roots().for_each(|dir| join(dir, pid));
        // libcgroups, told what libcontainer tells it, finds the process: it is the same cgroup.
        let found = self.cgroup.manager().unwrap().get_all_pids().unwrap();
        assert!(found.iter().any(|found| found.as_raw() == pid.as_raw()));
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        pid
    }

    fn wait(&mut self) -> ExitStatus {
        self.children.pop().unwrap().wait().unwrap()
    }

    fn update(&self, resources: Value) -> super::Result<()> {
        let resources: LinuxResources = from_value(resources).unwrap();
        self.cgroup.update(&resources)
    }

    /// The content of a file, named for v1 and for v2.
    fn value(&self, v1: &str, v2: &str) -> String {
        let name = if self.v2() { v2 } else { v1 };
        let path = self
            .cgroup
            .roots()
            .map(|dir| dir.join(name))
            .find(|path| path.exists());
        fs::read_to_string(path.unwrap_or_else(|| panic!("no {name}")))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn v2(&self) -> bool {
        self.cgroup.version() == Version::V2
    }
}

/// Makes a directory of a cgroup as libcgroups does, and puts a process into it. (Its own function
/// for that takes the `Pid` of another version of nix.)
fn join(dir: &Path, pid: Pid) {
    let parent = dir.parent().unwrap();
    let root = parent.parent().unwrap();
    fs::create_dir_all(dir).unwrap();
    if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
        for controller in controllers.split_ascii_whitespace() {
            for above in [root, parent] {
                let _ = fs::write(
                    above.join("cgroup.subtree_control"),
                    format!("+{controller}"),
                );
            }
        }
    }
    if root.ends_with("cpuset") {
        for (from, to) in [(root, parent), (parent, dir)] {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(to.join(name)).unwrap().trim().is_empty() {
                    fs::copy(from.join(name), to.join(name)).unwrap();
                }
            }
        }
    }
    fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all(libc::SIGKILL);
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = self.cgroup.remove();
        // The last test to end removes the parent.
        for dir in self.cgroup.roots() {
            let _ = fs::remove_dir(dir.parent().unwrap());
        }
    }
}

/// Waits for something that the kernel does by and by.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} did not happen"
        );
        sleep(Duration::from_millis(2));
    }
}

fn cpu_usage(stats: &Stats) -> u64 {
    match stats {
        Stats::V1(stats) => stats.cpu.as_ref().unwrap().usage.total,
        Stats::V2(stats) => stats.cpu.as_ref().unwrap().usage_usec,
    }
}

#[test]
fn what_does_not_exist() {
    let rig = Rig::new();
    assert!(!rig.cgroup.exists());
    assert!(rig.cgroup.processes().unwrap().is_empty());
    assert!(!rig.cgroup.is_frozen().unwrap());
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.cgroup.kill_all(libc::SIGTERM).unwrap();
    assert!(rig.cgroup.try_remove().unwrap());
    rig.cgroup.remove().unwrap();
    for error in [
        rig.cgroup.stats().unwrap_err(),
        rig.cgroup.freeze().unwrap_err(),
        rig.cgroup.thaw().unwrap_err(),
        rig.update(json!({"pids": {"limit": 5}})).unwrap_err(),
        rig.cgroup.oom_watch().unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(
            text.starts_with("cannot ") && text.contains("trefoil-test-"),
            "{text}"
        );
    }
}

#[test]
fn statistics() {
    let mut rig = Rig::new();
    rig.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
    eventually("some work", || cpu_usage(&rig.cgroup.stats().unwrap()) > 0);
    let stats = rig.cgroup.stats().unwrap();
    match &stats {
        Stats::V1(stats) => {
            let cpu = stats.cpu.as_ref().unwrap();
            assert!(cpu.usage.per_cpu.iter().sum::<u64>() > 0);
            let memory = stats.memory.as_ref().unwrap();
            assert!(
                memory.usage.usage > 0 && memory.usage.limit > 1 << 40,
                "{memory:?}"
            );
            assert!(memory.hierarchical_memory_limit > 1 << 40);
            assert!(stats.memory_oom_control.is_some() && stats.blkio.is_some());
            assert_eq!(stats.pids.as_ref().unwrap().limit, 0);
        }
        Stats::V2(stats) => {
            let memory = stats.memory.as_ref().unwrap();
            assert!(
                memory.usage > 0 && memory.anon > 0 && memory.usage_limit == u64::MAX,
                "{memory:?}"
            );
            assert!(stats.memory_events.is_some() && stats.io.is_some());
            assert_eq!(stats.pids.as_ref().unwrap().limit, u64::MAX);
        }
    }
    let pids = match &stats {
        Stats::V1(stats) => stats.pids.as_ref(),
        Stats::V2(stats) => stats.pids.as_ref(),
    };
    assert!(
        (1..=2).contains(&pids.unwrap().current),
        "the shell and its sleep"
    );
    let text = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
}

#[test]
fn processes_of_the_whole_tree() {
    let mut rig = Rig::new();
    let first = rig.run("exec sleep 100");
    let second = rig.run("exec sleep 100");
    for dir in rig.cgroup.roots() {
        let below = dir.join("a/b");
        fs::create_dir_all(&below).unwrap();
        // A new cpuset is empty, and nobody can live there.
        let _ = fs::write(below.join("cgroup.procs"), second.to_string());
    }
    let mut expected = vec![first, second];
    expected.sort();
    assert_eq!(rig.cgroup.processes().unwrap(), expected);
    assert!(!rig.cgroup.try_remove().unwrap(), "busy");
    assert!(matches!(
        rig.cgroup.remove().unwrap_err(),
        Error::Timeout { .. }
    ));
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.cgroup.remove().unwrap();
    for dir in rig.cgroup.roots() {
        assert!(!dir.exists(), "{dir:?} is left");
    }
}

#[test]
fn processes_of_threaded_cgroups() {
    let mut rig = Rig::new();
    let pid = rig.run("exec sleep 100");
    if !rig.v2() {
        return; // v1 has none
    }
    let threads = rig.cgroup.path().join("threads");
    fs::create_dir(&threads).unwrap();
    fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    fs::write(threads.join("cgroup.threads"), pid.to_string()).unwrap();
    assert!(fs::read(threads.join("cgroup.procs")).is_err());
    assert_eq!(rig.cgroup.processes().unwrap(), [pid]);
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.remove().unwrap();
}

#[test]
fn freezing() {
    let mut rig = Rig::new();
    rig.run("while :; do :; done");
    eventually("some work", || cpu_usage(&rig.cgroup.stats().unwrap()) > 0);
    assert!(!rig.cgroup.is_frozen().unwrap());
    rig.cgroup.freeze().unwrap();
    rig.cgroup.freeze().unwrap();
    assert!(rig.cgroup.is_frozen().unwrap());
    let before = cpu_usage(&rig.cgroup.stats().unwrap());
    sleep(Duration::from_millis(50));
    assert_eq!(cpu_usage(&rig.cgroup.stats().unwrap()), before);
    rig.cgroup.thaw().unwrap();
    assert!(!rig.cgroup.is_frozen().unwrap());
    eventually("more work", || {
        cpu_usage(&rig.cgroup.stats().unwrap()) > before
    });
}

#[test]
fn signals_to_a_paused_cgroup() {
    let mut rig = Rig::new();
    // It has a handler: on v2 a signal that nobody handles kills whoever is frozen, too.
    rig.run("trap 'exit 7' TERM; while :; do sleep 0.01; done");
    sleep(Duration::from_millis(50));
    rig.cgroup.freeze().unwrap();
    let shell = rig.children[0].id();
    rig.cgroup.kill_all(libc::SIGTERM).unwrap();
    // The kernel wakes a task for a signal, sees that it is frozen and puts it back.
    eventually("the pause to go on", || rig.cgroup.is_frozen().unwrap());
    sleep(Duration::from_millis(50));
    assert!(rig.cgroup.is_frozen().unwrap(), "a signal does not resume");
    let processes = rig.cgroup.processes().unwrap();
    assert!(
        processes
            .iter()
            .any(|pid| pid.as_raw().cast_unsigned() == shell)
    );
    rig.cgroup.thaw().unwrap();
    assert_eq!(rig.wait().code(), Some(7));
    rig.run("exec sleep 100");
    rig.cgroup.freeze().unwrap();
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.remove().unwrap();
}

#[test]
fn nobody_escapes_by_forking() {
    let mut rig = Rig::new();
    rig.run("trap '' TERM; while :; do sleep 100 & done");
    rig.update(json!({"pids": {"limit": 100}})).unwrap();
    eventually("many processes", || {
        rig.cgroup.processes().unwrap().len() > 20
    });
    rig.cgroup.kill_all(libc::SIGTERM).unwrap();
    assert!(!rig.cgroup.is_frozen().unwrap());
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    eventually("the end", || rig.cgroup.processes().unwrap().is_empty());
    eventually("removal", || rig.cgroup.try_remove().unwrap());
}

#[test]
fn memory_up_and_down() {
    const MIB: i64 = 1 << 20;
    let mut rig = Rig::new();
    rig.run("x=$(head -c 2000000 /dev/zero | tr '\\0' x); sleep 100");
    eventually("some use of memory", || {
        let usage = rig.value("memory.usage_in_bytes", "memory.current");
        usage.parse::<i64>().unwrap() > MIB
    });
    let limit = |rig: &Rig| rig.value("memory.limit_in_bytes", "memory.max");
    let steps = [
        (64, 128),
        (256, 512),
        (512, 512),
        (32, 64),
        (40, 48),
        (16, 256),
    ];
    for (memory, both) in steps.map(|(memory, both)| (memory * MIB, both * MIB)) {
        rig.update(json!({"memory": {"limit": memory, "swap": both, "reservation": memory / 2}}))
            .unwrap();
        assert_eq!(limit(&rig), memory.to_string());
        if !rig.v2() {
            assert_eq!(
                rig.value("memory.memsw.limit_in_bytes", ""),
                both.to_string()
            );
        } else if rig.cgroup.path().join("memory.swap.max").exists() {
            assert_eq!(
                rig.value("", "memory.swap.max"),
                (both - memory).to_string()
            );
        }
        assert_eq!(
            rig.value("memory.soft_limit_in_bytes", "memory.low"),
            (memory / 2).to_string()
        );
    }
    rig.update(json!({"memory": {}})).unwrap();
    assert_eq!(limit(&rig), (16 * MIB).to_string());
    rig.update(json!({"memory": {"limit": -1}})).unwrap();
    let unlimited = limit(&rig);
    assert!(
        unlimited == "max" || unlimited.parse::<u64>().unwrap() > 1 << 40,
        "{unlimited}"
    );
    let refused = rig
        .update(json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}))
        .unwrap_err();
    assert!(refused.to_string().contains("bytes in use"), "{refused}");
}

#[test]
fn cpu_up_and_down() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    for (quota, period, burst) in [
        (50_000, 100_000, 20_000),
        (5_000, 50_000, 1_000),
        (90_000, 100_000, 80_000),
    ] {
        rig.update(
            json!({"cpu": {"quota": quota, "period": period, "burst": burst, "shares": 512}}),
        )
        .unwrap();
        if rig.v2() {
            assert_eq!(rig.value("", "cpu.max"), format!("{quota} {period}"));
            assert_eq!(rig.value("", "cpu.weight"), "59");
        } else {
            assert_eq!(rig.value("cpu.cfs_quota_us", ""), quota.to_string());
            assert_eq!(rig.value("cpu.cfs_period_us", ""), period.to_string());
            assert_eq!(rig.value("cpu.shares", ""), "512");
        }
        assert_eq!(
            rig.value("cpu.cfs_burst_us", "cpu.max.burst"),
            burst.to_string()
        );
    }
    rig.update(json!({"cpu": {"quota": -1, "burst": 0, "cpus": "0", "mems": "0"}}))
        .unwrap();
    assert_eq!(
        rig.value("cpu.cfs_quota_us", "cpu.max").split(' ').next(),
        Some(if rig.v2() { "max" } else { "-1" })
    );
    assert_eq!(rig.value("cpuset.cpus", "cpuset.cpus"), "0");
    let nonsense = rig.update(json!({"cpu": {"cpus": "999999"}})).unwrap_err();
    assert!(nonsense.to_string().contains("cpuset.cpus"), "{nonsense}");
}

#[test]
fn pids_and_unified() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    rig.update(json!({"pids": {"limit": 7}})).unwrap();
    assert_eq!(rig.value("pids.max", "pids.max"), "7");
    rig.update(json!({"pids": {"limit": -1}})).unwrap();
    assert_eq!(rig.value("pids.max", "pids.max"), "max");
    let high = rig.update(json!({"unified": {"memory.high": "16777216"}}));
    if rig.v2() {
        high.unwrap();
        assert_eq!(rig.value("", "memory.high"), "16777216");
        assert!(rig.update(json!({"unified": {"none.such": "1"}})).is_err());
    } else {
        assert!(high.unwrap_err().to_string().contains("v2 only"));
    }
}

#[test]
fn memory_kills() {
    let mut rig = Rig::new();
    rig.run("sleep 0.2; tail /dev/zero");
    rig.update(json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}))
        .unwrap();
    let mut watch = rig.cgroup.oom_watch().unwrap();
    assert_eq!(watch.drain().unwrap(), 0);
    assert!(readable(&watch, 20_000), "no news of the kill");
    let mut kills = 0;
    eventually("a counted kill", || {
        kills += watch.drain().unwrap();
        kills > 0
    });
    let counted = match rig.cgroup.stats().unwrap() {
        Stats::V1(stats) => stats.memory_oom_control.unwrap().oom_kill,
        Stats::V2(stats) => stats.memory_events.unwrap().oom_kill,
    };
    rig.wait();
    assert_eq!(kills + watch.drain().unwrap(), counted);
    assert!(!watch.is_gone());
    assert!(!readable(&watch, 0), "drained");

    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.cgroup.remove().unwrap();
    if !rig.v2() {
        assert!(readable(&watch, 5_000), "v1 tells of the removal");
    }
    assert_eq!(watch.drain().unwrap(), 0, "a removal is no kill");
    assert!(watch.is_gone());
}

#[test]
fn memory_kills_below() {
    let mut rig = Rig::new();
    // The hog lives in a cgroup of its own inside the container's.
    let hog = rig.run("sleep 0.3; tail /dev/zero");
    let memory = rig
        .cgroup
        .roots()
        .find(|dir| rig.v2() || dir.starts_with("/sys/fs/cgroup/memory"))
        .unwrap();
    let below = memory.join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), hog.to_string()).unwrap();
    rig.update(json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}))
        .unwrap();
    let mut watch = rig.cgroup.oom_watch().unwrap();
    assert!(readable(&watch, 20_000), "no news of the kill");
    let mut kills = 0;
    eventually("a counted kill", || {
        kills += watch.drain().unwrap();
        kills > 0
    });
    rig.wait();
}

fn readable(watch: &super::OomWatch, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() == 1
}

/// `sh` exits with 0 if it could do what the script says.
fn can(rig: &mut Rig, script: &str) -> bool {
    rig.run(script);
    rig.wait().success()
}

#[test]
fn devices() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    let allow = |rig: &Rig, rules: Value| {
        let rules: Vec<_> = from_value(rules).unwrap();
        rig.cgroup.allow_devices(&rules).unwrap();
    };
    let deny = json!({"allow": false, "access": "rwm"});
    allow(&rig, json!([deny]));
    if !rig.v2() {
        // Nothing was done: what libcgroups allowed at creation holds.
        assert!(can(&mut rig, "exec 3</dev/kmsg"));
        return;
    }
    let read = "exec 3</dev/kmsg";
    let write = "exec 3>/dev/kmsg";
    assert!(!can(&mut rig, read));
    assert!(can(
        &mut rig,
        "exec 3</dev/null 4>/dev/null 5</dev/urandom 6<>/dev/ptmx"
    ));
    assert!(
        can(&mut rig, "f=/tmp/trefoil-node-$$; mknod $f c 1 11 && rm $f"),
        "making a node is allowed"
    );

    allow(
        &rig,
        json!([deny, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]),
    );
    assert!(can(&mut rig, read));
    assert!(!can(&mut rig, write));
    allow(&rig, json!([deny, {"allow": true, "access": "rwm"}]));
    assert!(
        can(&mut rig, read) && can(&mut rig, write),
        "the old rules are gone"
    );
    allow(
        &rig,
        json!([{"allow": true, "type": "a"}, {"allow": false, "type": "c", "major": 1, "access": "w"}]),
    );
    assert!(can(&mut rig, read));
    assert!(!can(&mut rig, write));
    assert!(
        can(&mut rig, "exec 3>/dev/null"),
        "no rule takes away the defaults"
    );
    // As long a list as a big machine's.
    let many: Vec<Value> = std::iter::once(deny.clone())
        .chain((0..300).map(|minor| json!({"allow": true, "type": "b", "major": 259, "minor": minor, "access": "rw"})))
        .collect();
    allow(&rig, Value::Array(many));
    assert!(!can(&mut rig, read));
}

#[test]
fn device_rules_of_the_parent_hold_too() {
    let mut rig = Rig::new();
    rig.run("exec sleep 100");
    if !rig.v2() {
        return; // covered by the kernel's own lists
    }
    let below = rig.cgroup.path().join("below");
    fs::create_dir(&below).unwrap();
    let path = below.strip_prefix("/sys/fs/cgroup").unwrap();
    let child = Cgroup::new(Some(path), "test", false).unwrap();
    let all = json!([{"allow": true, "access": "rwm"}]);
    rig.cgroup
        .allow_devices(&from_value::<Vec<_>>(json!([{"allow": false, "access": "rwm"}])).unwrap())
        .unwrap();
    child
        .allow_devices(&from_value::<Vec<_>>(all).unwrap())
        .unwrap();
    rig.run(&format!(
        "echo $$ >{}/cgroup.procs; exec 3</dev/kmsg",
        below.display()
    ));
    assert!(!rig.wait().success());
}

/// What systemd knows of a unit.
fn property(unit: &str, name: &str) -> String {
    let shown = Command::new("systemctl")
        .args(["show", "--value", "-p", name, unit])
        .output()
        .unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
}

/// By a process of its own: the other tests' children would be in the cgroup as well.
#[test]
fn a_process_enters_and_goes_back() {
    const PART: &str = "TREFOIL_TEST_ENTERS";
    if std::env::var_os(PART).is_none() {
        let name = "cgroup::tests::a_process_enters_and_goes_back";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(PART, "")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let rig = Rig::new();
    let places = || fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = places();
    let origin = rig.cgroup.enter().unwrap();
    assert_ne!(places(), before);
    assert_eq!(rig.cgroup.processes().unwrap(), [Pid::this()]);
    assert!(!rig.cgroup.try_remove().unwrap(), "with us in it");
    // Where it was may be gone by the time it goes back.
    let other = Rig::new();
    let inside = other.cgroup.enter().unwrap();
    assert!(rig.cgroup.try_remove().unwrap());
    inside.back().unwrap();
    assert!(other.cgroup.try_remove().unwrap());
    origin.back().unwrap();
    assert_eq!(places(), before);
}

#[test]
#[ignore = "needs a machine on cgroup v2 whose init is systemd"]
fn a_unit_of_systemd() {
    let id = format!("test{}", std::process::id());
    let unit = format!("trefoil-{id}.scope");
    let mut child = Command::new("systemd-run")
        .args(["--quiet", "--scope", "--unit", &unit])
        .args(["--slice", "trefoil-a.slice"])
        .args(["-p", "Delegate=yes", "sleep", "100"])
        .spawn()
        .unwrap();
    let path = PathBuf::from(format!("trefoil-a.slice:trefoil:{id}"));
    let cgroup = Cgroup::new(Some(&path), &id, true).unwrap();
    eventually("the unit", || !cgroup.processes().unwrap().is_empty());
    let rig = Rig {
        cgroup,
        children: Vec::new(),
    };

    rig.update(json!({
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 1024},
        "memory": {"limit": 64 << 20, "swap": 64 << 20},
        "pids": {"limit": 30},
    }))
    .unwrap();
    // Only what is named changes, in the files as for systemd.
    rig.update(json!({"cpu": {"shares": 512}, "memory": {"reservation": 1 << 20}}))
        .unwrap();
    let files = |rig: &Rig| {
        [
            "cpu.max",
            "cpu.weight",
            "memory.max",
            "memory.low",
            "pids.max",
        ]
        .map(|name| rig.value("", name))
    };
    let expected = ["50000 100000", "59", "67108864", "1048576", "30"].map(str::to_owned);
    assert_eq!(files(&rig), expected);
    assert_eq!(property(&unit, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&unit, "CPUWeight"), "59");
    assert_eq!(property(&unit, "MemoryMax"), "67108864");
    assert_eq!(property(&unit, "TasksMax"), "30");
    assert!(
        Command::new("systemctl")
            .arg("daemon-reload")
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(files(&rig), expected, "after a reload");

    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    rig.cgroup.remove().unwrap();
    assert!(!rig.cgroup.exists());
    rig.cgroup.remove().unwrap();
    assert_eq!(property(&unit, "ActiveState"), "inactive");
}

#[test]
fn whoever_passes_a_grace_period_stays_where_it_is() {
    let own = || fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = own();
    super::pass_grace_period().unwrap();
    assert_eq!(own(), before);
}
