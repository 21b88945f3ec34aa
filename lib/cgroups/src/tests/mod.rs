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
use nix::unistd::{Gid, Pid, Uid};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use serde_json::{Value, from_value, json};
use trefoil_stats::Stats;

use super::layout::Controller;
use super::{Cgroup, Hierarchies, Version};

mod ending;
mod limits;
mod making;

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

    /// Runs a shell script in the cgroup.
    fn run(&mut self, script: &str) -> Pid {
        // It waits for a line before it starts, to be inside by then.
        let mut child = Command::new("sh")
            .args(["-c", &format!("read line; {script}")])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        self.cgroup.add(pid).unwrap();
        // libcgroups, told what libcontainer was told, finds the process: it is the same cgroup.
        let found = self.cgroup.manager().unwrap().get_all_pids().unwrap();
        assert!(found.iter().any(|found| found.as_raw() == pid.as_raw()));
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        pid
    }

    /// Makes a cgroup below, in the hierarchy of a v1 controller or in v2's.
    fn below(&self, controller: Controller, path: &str) -> PathBuf {
        let dir = self.cgroup.v1(controller).unwrap_or(self.cgroup.path());
        let below = dir.join(path);
        fs::create_dir_all(&below).unwrap();
        below
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

/// `sh` exits with 0 if it could do what the script says.
fn can(rig: &mut Rig, script: &str) -> bool {
    rig.run(script);
    rig.wait().success()
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
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{text}");
        assert!(text.contains("trefoil-test-"), "{text}");
    }
}

/// Whether the kernel has summed up what the processors counted each by itself: version 2 does so
/// some time later.
fn memory_counted(stats: &Stats) -> bool {
    match stats {
        Stats::V1(stats) => stats
            .memory
            .as_ref()
            .is_some_and(|memory| memory.usage.usage > 0),
        Stats::V2(stats) => stats.memory.as_ref().is_some_and(|memory| memory.anon > 0),
    }
}

#[test]
fn statistics() {
    let mut rig = Rig::new();
    rig.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
    eventually("some work, counted", || {
        let stats = rig.cgroup.stats().unwrap();
        cpu_usage(&stats) > 0 && memory_counted(&stats)
    });
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
fn statistics_of_the_cgroup_above() {
    let mut rig = Rig::new();
    rig.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
    eventually("some work", || cpu_usage(&rig.cgroup.stats().unwrap()) > 0);
    let path = std::path::Path::new("/").join(&rig.cgroup.relative);
    // It need not be there itself.
    let below = Cgroup::new(Some(&path.join("below")), "test", false).unwrap();
    assert!(below.stats().is_err());
    let above = below.parent_stats().unwrap().unwrap();
    assert!(cpu_usage(&above) > 0);
    // The hierarchy's root is nobody's.
    let first = Cgroup::new(Some("/trefoil-test-first".as_ref()), "test", false).unwrap();
    assert!(first.parent_stats().unwrap().is_none());
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
    let why = rig.cgroup.remove().unwrap_err();
    assert_eq!(why.kind(), std::io::ErrorKind::TimedOut);
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

/// What systemd knows of a unit.
fn property(unit: &str, name: &str) -> String {
    let shown = Command::new("systemctl")
        .args(["show", "--value", "-p", name, unit])
        .output()
        .unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
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
fn systemd_paths_are_told_from_plain_ones() {
    for (path, unit) in [
        ("kubepods.slice:cri-containerd:abc", true),
        ("/kubepods/abc", false),
        ("a:b:c", false),
        ("x.slice:b", false),
        ("x.slice:b:c:d", false),
    ] {
        assert_eq!(crate::is_unit(std::path::Path::new(path)), unit, "{path}");
    }
}
