//! Signals, and the end of a cgroup.

use super::*;

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
fn cgroups_that_a_container_made_go_with_it() {
    let mut rig = Rig::new();
    let pid = rig.run("exec sleep 100");
    let mut deepest = Vec::new();
    for root in rig.cgroup.directories() {
        let deeper = root.join("nested/deeper");
        fs::create_dir_all(&deeper).unwrap();
        fs::create_dir(root.join("beside")).unwrap();
        deepest.push(deeper);
    }
    for dir in &deepest {
        // A new cpuset takes nobody.
        let _ = fs::write(dir.join("cgroup.procs"), pid.to_string());
    }
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    // It is dying, and not waited for.
    rig.cgroup.remove().unwrap();
    for dir in rig.cgroup.directories() {
        assert!(!dir.exists(), "{dir:?} is left");
    }
}

#[test]
fn what_is_left_behind_is_killed_and_counted() {
    let mut rig = Rig::new();
    rig.run("trap '' TERM; sleep 100 & sleep 100");
    eventually("the shell's children", || {
        rig.cgroup.processes().unwrap().len() == 3
    });
    assert_eq!(rig.cgroup.kill_and_remove().unwrap(), 3);
    assert!(!rig.cgroup.exists());
    assert_eq!(rig.cgroup.kill_and_remove().unwrap(), 0);
}

/// A path can't be as long as cgroups can be deep.
#[test]
fn cgroups_nested_deeper_than_a_path_is_long() {
    let mut rig = Rig::new();
    let pid = rig.run("exec sleep 100");
    let name = "n".repeat(200);
    let mut dir = fs::File::open(rig.below(Controller::Freezer, "top")).unwrap();
    for _ in 0..40 {
        mkdirat(&dir, &name, Mode::from_raw_mode(0o755)).unwrap();
        dir = openat(&dir, &name, OFlags::RDONLY, Mode::empty())
            .unwrap()
            .into();
    }
    let procs = openat(&dir, "cgroup.procs", OFlags::WRONLY, Mode::empty()).unwrap();
    let mut procs = fs::File::from(procs);
    procs.write_all(pid.to_string().as_bytes()).unwrap();
    assert_eq!(rig.cgroup.processes().unwrap(), [pid]);
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.remove().unwrap();
    assert!(!rig.cgroup.exists());
}

#[test]
fn a_frozen_cgroup_below_is_killed_and_removed() {
    let mut rig = Rig::new();
    let pid = rig.run("exec sleep 100");
    let below = rig.below(Controller::Freezer, "a/b");
    fs::write(below.join("cgroup.procs"), pid.to_string()).unwrap();
    let (file, value) = match rig.v2() {
        true => ("cgroup.freeze", "1"),
        false => ("freezer.state", "FROZEN"),
    };
    fs::write(below.join(file), value).unwrap();
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.remove().unwrap();
}

#[test]
fn a_frozen_init_dies_when_its_cgroups_are_thawed() {
    let mut rig = Rig::new();
    let pid = rig.run("exec sleep 100");
    let below = rig.below(Controller::Freezer, "a");
    fs::write(below.join("cgroup.procs"), pid.to_string()).unwrap();
    rig.cgroup.thaw_to_die().unwrap();
    let (file, value) = match rig.v2() {
        true => ("cgroup.freeze", "1"),
        false => ("freezer.state", "FROZEN"),
    };
    fs::write(below.join(file), value).unwrap();
    rig.cgroup.freeze().unwrap();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    if !rig.v2() {
        sleep(Duration::from_millis(50));
        assert!(rig.children[0].try_wait().unwrap().is_none(), "v1 holds it");
    }
    rig.cgroup.thaw_to_die().unwrap();
    rig.wait();
}

#[test]
fn a_process_that_was_moved_out_of_some_hierarchies_is_found_and_killed() {
    let mut rig = Rig::new();
    if rig.v2() {
        return; // there is one hierarchy only
    }
    let pid = rig.run("exec sleep 100");
    let freezer = rig.cgroup.v1(Controller::Freezer).unwrap();
    let top = freezer.parent().unwrap().parent().unwrap();
    fs::write(top.join("cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(rig.cgroup.processes().unwrap(), [pid]);
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.remove().unwrap();
}

/// The dead are in their cgroup until the kernel has freed their memory.
#[test]
fn a_dead_process_that_has_not_left_is_waited_for() {
    let mut rig = Rig::new();
    // It has read all of it, and cannot write it.
    rig.run("dd if=/dev/zero bs=300000000 count=1 2> /dev/null | sleep 100");
    eventually("much memory", || {
        let usage = rig.value("memory.usage_in_bytes", "memory.current");
        usage.parse::<i64>().unwrap() > 250_000_000
    });
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    eventually("the end", || rig.cgroup.processes().unwrap().is_empty());
    rig.cgroup.remove().unwrap();
    assert!(!rig.cgroup.exists());
}
