//! Making cgroups, entering them, giving them away.

use super::*;

#[test]
fn a_new_cgroup_is_in_every_hierarchy() {
    let mut rig = Rig::new();
    let descriptor = rig.cgroup.create().unwrap();
    assert_eq!(descriptor.is_some(), rig.v2());
    assert!(rig.cgroup.create().is_ok(), "nobody is in it");
    let pid = rig.run("exec sleep 100");
    rig.cgroup.add(pid).unwrap();
    let own = rig.cgroup.path().file_name().unwrap().to_str().unwrap();
    let place = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in place.lines() {
        let unified = line.starts_with("0::");
        // What is mounted nowhere can't be joined.
        let joined = rig.v2() || Path::new("/sys/fs/cgroup/unified").exists();
        if unified && !joined || rig.v2() && !unified {
            continue;
        }
        assert!(line.ends_with(own), "{line}");
    }
    match rig.cgroup.hierarchies().unwrap() {
        Hierarchies::V2(directory) => assert_eq!(directory, rig.cgroup.path()),
        Hierarchies::V1(all) => {
            for hierarchy in &all {
                let entries = hierarchy.options.join(",").replace("none,", "");
                assert!(place.contains(&format!(":{entries}:")), "{hierarchy:?}");
                let inside = fs::read_to_string(hierarchy.directory.join("cgroup.procs")).unwrap();
                assert_eq!(inside.trim(), pid.to_string());
            }
            let named = place.lines().filter(|line| !line.starts_with("0:")).count();
            assert_eq!(all.len(), named);
        }
    }
    let refused = rig.cgroup.create().unwrap_err().to_string();
    assert!(
        refused.contains(&format!("process {pid} is in it")),
        "{refused}"
    );
    rig.cgroup.kill_all(libc::SIGKILL).unwrap();
    rig.wait();
    rig.cgroup.freeze().unwrap();
    let refused = rig.cgroup.create().unwrap_err().to_string();
    assert!(refused.contains("frozen"), "{refused}");
    rig.cgroup.remove().unwrap();
    assert!(!rig.cgroup.exists());
}

#[test]
fn a_cgroup_is_given_away_with_its_files() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::new();
    rig.cgroup.create().unwrap();
    rig.cgroup
        .delegate(Uid::from_raw(12345), Gid::from_raw(54321))
        .unwrap();
    let owner = |name: &str| {
        let metadata = fs::metadata(rig.cgroup.path().join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    if !rig.v2() {
        assert_eq!(owner("cgroup.procs"), (0, 0), "v1 knows no delegation");
        return;
    }
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ] {
        assert_eq!(owner(name), (12345, 54321), "{name}");
    }
    assert_eq!(owner("memory.max"), (0, 0), "limits are not given away");
}

/// By a process of its own: the other tests' children would be in the cgroup as well.
#[test]
fn a_process_enters_and_goes_back() {
    const PART: &str = "TREFOIL_TEST_ENTERS";
    if std::env::var_os(PART).is_none() {
        let name = "cgroup::tests::making::a_process_enters_and_goes_back";
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
fn whoever_passes_a_grace_period_stays_where_it_is() {
    let own = || fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = own();
    super::super::pass_grace_period().unwrap();
    assert_eq!(own(), before);
}

/// Versions before this one made no cgroup in hierarchies without a controller.
#[test]
fn an_old_containers_directories_are_those_that_are_there() {
    let rig = Rig::new();
    rig.cgroup.create().unwrap();
    let all = rig.cgroup.directories();
    let old: Vec<_> = rig.cgroup.members().collect();
    let without = |controller: &Option<Controller>| {
        matches!(controller, Some(Controller::Other | Controller::Unified))
    };
    for (controller, dir) in &old {
        if without(controller) {
            fs::remove_dir(dir).unwrap();
        }
    }
    let bare = old.iter().filter(|(one, _)| without(one)).count();
    assert_eq!(rig.cgroup.directories().len(), all.len() - bare);
    assert!(rig.cgroup.try_remove().unwrap());
}

/// By a process of its own, whose umask no other test sees.
#[test]
fn nobody_else_may_make_cgroups_in_it_whatever_the_umask() {
    const PART: &str = "TREFOIL_TEST_UMASK";
    if std::env::var_os(PART).is_none() {
        let name = "cgroup::tests::making::nobody_else_may_make_cgroups_in_it_whatever_the_umask";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(PART, "")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    use std::os::unix::fs::MetadataExt;
    rustix::process::umask(Mode::empty());
    let rig = Rig::new();
    rig.cgroup.create().unwrap();
    for dir in rig.cgroup.directories() {
        let mode = fs::metadata(&dir).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o755, "{dir:?}");
    }
}

/// By a process of its own, whose root is nobody to the host: containerd is rootless.
#[test]
fn a_user_namespace_that_was_given_no_cgroup_is_refused_by_name() {
    use std::os::unix::process::CommandExt;
    const PART: &str = "TREFOIL_TEST_ROOTLESS";
    const NOBODY: libc::uid_t = 65534;
    if std::env::var_os(PART).is_some() {
        let why = Rig::new().cgroup.create().unwrap_err().to_string();
        assert!(why.contains("ermission denied"), "{why}");
        assert!(
            why.ends_with("take a cgroup v2 that was delegated to it"),
            "{why}"
        );
        return;
    }
    let become_nobody = || {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
        Ok(())
    };
    let name =
        "cgroup::tests::making::a_user_namespace_that_was_given_no_cgroup_is_refused_by_name";
    // Its path may be closed to nobody.
    let own = fs::File::open("/proc/self/exe").unwrap();
    let script = "until grep -q . /proc/self/uid_map; do :; done; \
                  exec /proc/self/fd/0 --exact \"$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, name]).env(PART, "").stdin(own);
    // SAFETY: these calls are the kernel's alone.
    unsafe { command.pre_exec(become_nobody) };
    let mut child = command.spawn().unwrap();
    for file in ["gid_map", "uid_map"] {
        let path = format!("/proc/{}/{file}", child.id());
        fs::write(path, format!("0 {NOBODY} 1")).unwrap();
    }
    assert!(child.wait().unwrap().success());
}
