//! Cgroups: what a container sees of them, may write, and leaves.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use rig::cgroup;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, privileged, shell};
use crate::field::spec::Spec;

pub const TRIALS: &[Scenario] = &[
    ("cgroups::read_only", read_only),
    ("cgroups::named_hierarchy", named_hierarchy),
    ("cgroups::made_by_a_container", made_by_a_container),
    ("cgroups::paused", paused),
];

/// Tries to lift one's own limit, and says what the limit is then.
const LIFT: &str = r#"cd /sys/fs/cgroup; f=memory/memory.limit_in_bytes; [ -e $f ] || f=memory.max
cat $f; { echo 1073741824 > memory/memory.memsw.limit_in_bytes; echo 1073741824 > $f; } 2>/dev/null
cat $f; mkdir memory/mine mine 2>/dev/null && echo made
grep ' /sys/fs/cgroup' /proc/self/mounts | cut -d' ' -f2-4 | cut -d, -f1 | grep -v tmpfs | sort"#;

/// A container can't lift its own limits: its cgroups are read-only where that is asked.
///
/// opencontainers/runc#136, opencontainers/runc#145
fn read_only(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let memory = 64 << 20;
    let pod = side.pod(Value::Null)?;
    let limit = json!({ "linux": { "resources": { "memory_limit_in_bytes": memory } } });
    side.look_in_pod(&pod, "a pod's", seen, limit, LIFT)?;
    let spec = side.spec()?.cgroups("ro");
    let spec = spec.set("/linux/resources/memory", json!({ "limit": memory }));
    let spec = spec.shell(LIFT);
    seen.ended("without a namespace", &side.run(&spec)?);
    seen.ended("with a namespace", &side.run(&spec.namespace("cgroup"))?);
    // What the hierarchies of version 1 are mounted on.
    let look = "grep '/sys/fs/cgroup tmpfs' /proc/self/mounts | cut -d' ' -f4 | cut -d, -f1";
    seen.ended(
        "below them",
        &side.run(&side.spec()?.cgroups("ro").shell(look))?,
    );
    Ok(())
}

/// A container has a cgroup of its own in the hierarchy without a controller, too, and sees no more
/// of it (version 1).
fn named_hierarchy(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let made = format!("from-{}", side.handler);
    let pod = side.pod(Value::Null)?;
    let line = format!(
        "grep systemd /proc/self/cgroup | cut -d: -f2- | sed 's,/[^/]*$,/C,'
         cd /sys/fs/cgroup/systemd; ls | tr '\\n' ' '; echo; mkdir {made} && echo made",
    );
    side.look_in_pod(&pod, "systemd", seen, Value::Null, &line)?;
    for root in cgroup::hierarchies()? {
        if std::fs::remove_dir(root.join(&made)).is_ok() {
            seen.add("systemd", "made on the node");
        }
    }
    Ok(())
}

/// Makes cgroups below one's own, and leaves a process in them.
const NEST: &str = "d=/sys/fs/cgroup; p=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
[ -d $d/memory ] && d=$d/memory; [ -d $d$p/ ] && d=$d$p
mkdir -p $d/nested/deeper && echo made
(echo 0 > $d/nested/deeper/cgroup.procs; exec sleep 500) >/dev/null 2>&1 &";

fn own_cgroup(spec: &Spec) -> &str {
    let path = spec.0["linux"]["cgroupsPath"].as_str();
    path.and_then(|path| path.rsplit('/').next())
        .unwrap_or_default()
}

/// A container that makes cgroups of its own can be removed, and they with it: kind, docker and
/// systemd in a pod do so.
///
/// youki-dev/youki#3437
fn made_by_a_container(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pod = side.pod(privileged())?;
    let part = "a privileged pod's";
    if let Some(container) = side.in_pod(&pod, part, seen, privileged())? {
        seen.printed(part, &shell(&container, NEST)?);
        let id = container.id.as_str();
        for words in [&["stop", "--timeout", "1", id][..], &["rm", id]] {
            let code = side.rig.crictl(words)?.code();
            seen.add(part, &format!("{}: {code}", words[0]));
        }
        seen.add(part, &format!("left: {}", side.cgroups_of(id)?));
    }
    let line = "for d in /sys/fs/cgroup/memory /sys/fs/cgroup; do \
                mkdir -p $d/n1/n2 2>/dev/null && echo made && break; done; true";
    let spec = side.spec()?.namespace("cgroup").cgroups("rw");
    for (part, spec) in [
        ("with a namespace", spec.clone().shell(line)),
        (
            "without a namespace",
            side.spec()?.cgroups("rw").shell(line),
        ),
    ] {
        seen.ended(part, &side.run(&spec)?);
        seen.add(
            part,
            &format!("left: {}", side.cgroups_of(own_cgroup(&spec))?),
        );
    }
    let part = "with processes in them";
    let id = side.started(&spec.clone().shell(&format!("{NEST}\nwait")))?;
    thread::sleep(Duration::from_millis(500));
    side.remove(&id);
    seen.add(
        part,
        &format!("left: {}", side.cgroups_of(own_cgroup(&spec))?),
    );
    Ok(())
}

/// A container that is paused can be killed and removed.
fn paused(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    for words in [&["pause"][..], &["kill", "--signal", "SIGKILL"]] {
        let code = side.rig.ctr(&[&["tasks"], words, &[&id]].concat())?.code();
        seen.add("paused", &format!("{}: {code}", words[0]));
    }
    let gone = rig::command::until("the end", Duration::from_secs(5), || {
        let list = side.rig.ctr(&["tasks", "list"])?.text()?;
        Ok(list
            .lines()
            .any(|line| line.starts_with(&id) && line.contains("STOPPED")))
    });
    seen.add("paused", &format!("ended: {}", gone.is_ok()));
    side.remove(&id);
    Ok(())
}
