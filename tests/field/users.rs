//! Users, groups and capabilities, and user namespaces.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

pub const TRIALS: &[Scenario] = &[
    ("users::groups_are_exact", groups_are_exact),
    ("users::of_an_exec", of_an_exec),
    ("users::namespace", namespace),
    ("users::mapped_volumes", mapped_volumes),
    ("users::large_numbers", large_numbers),
];

const IDS: &str = "id -u; id -g; grep Groups /proc/self/status";

/// None of the groups of the process that started containerd, whatever is left out.
///
/// containers/crun#147, CVE-2022-36109
fn groups_are_exact(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for (part, edit) in [
        ("unset", ""),
        ("empty", "/process/user/additionalGids = []"),
        ("one", "/process/user/additionalGids = [7]"),
    ] {
        let spec = side.spec()?.user(1000).edit(edit)?;
        seen.ended(part, &side.run(&spec.clone().shell(IDS))?);
        let id = side.started(&spec.args(&["sleep", "600"]))?;
        seen.ended(
            &format!("exec, {part}"),
            &side.exec(&id, &[], &["sh", "-c", IDS])?,
        );
        side.remove(&id);
    }
    let pod = side.pod(Value::Null)?;
    let look = "grep Groups /proc/1/status; ls /proc/1/fd | tr '\\n' ' '";
    side.look_in_pod(&pod, "a pod's", seen, Value::Null, look)?;
    let pid = pod.inspect()?["info"]["pid"].as_i64().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let groups = status.lines().find(|line| line.starts_with("Groups"));
    seen.add("the pod's own", groups.unwrap_or_default());
    Ok(())
}

/// A command has the user and the capabilities that are asked, however the user is written.
///
/// CVE-2026-30892, youki-dev/youki#3434, youki-dev/youki#3431
fn of_an_exec(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let id = side.started(&side.spec()?.args(&["sleep", "600"]))?;
    let look = "id -u; id -g; id -G; grep CapEff /proc/self/status";
    const USERS: &str = "1 0 1: :1 1:0 01 1000 4294967294 4294967295 4294967296 -1 root www-data \
                         www-data:root root:nogroupx";
    for user in USERS.split(' ') {
        let option = format!("--user={user}");
        seen.ended(user, &side.exec(&id, &[&option], &["sh", "-c", look])?);
    }
    let count = || side.exec(&id, &[], &["sh", "-c", "wc -l < /proc/self/mountinfo"]);
    let same = count()?.out == count()?.out;
    seen.add("mounts", &format!("as many as before: {same}"));
    side.remove(&id);
    let pod = side.pod(Value::Null)?;
    let more = json!({ "linux": { "security_context": {
        "run_as_user": { "value": 1000 },
        "run_as_group": { "value": 3000 },
        "supplemental_groups": [4000, 5000],
        "no_new_privs": true,
        "capabilities": {
            "drop_capabilities": ["ALL"],
            "add_capabilities": ["NET_RAW"],
            "add_ambient_capabilities": ["NET_RAW"],
        },
    } } });
    side.look_in_pod(
        &pod,
        "a pod's",
        seen,
        more,
        "id; grep -E 'Cap|NoNew' /proc/self/status",
    )
}

const HOST: u32 = 200_000;

/// A root that belongs to the user namespace's root.
fn mapped_root(side: &Side<'_>) -> Result<PathBuf> {
    side.root_after(&format!("chown -R {HOST}:{HOST} ."))
}

/// In a user namespace `/sys` and the cgroups are as read-only as is asked, with the node's network,
/// too.
///
/// containers/crun#2178, containers/crun#2179, opencontainers/runc#3672, youki-dev/youki#3298
fn namespace(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = mapped_root(side)?;
    let base = side.spec()?.root(&root);
    let look = "grep -E ' /sys( |/)' /proc/self/mountinfo | cut -d' ' -f5-6 | sed s/,relatime// | \
        grep -v 'cgroup r' | sort
        cat /proc/self/uid_map | tr -s ' '; stat -c '%n %u:%g %a' /dev/null /dev/shm /proc /dev/pts
        touch /f && echo written; echo 1 2>/dev/null > /sys/kernel/mm/ksm/run && echo sys; echo ran";
    let base = base.shell(look);
    let own = base.clone().mapped(HOST, 65536);
    let nodes = own.clone().without_namespace("network");
    let bound = nodes.clone().without_mounts("/sys");
    let few = base.clone().mapped(HOST, 10);
    let no_root = "/linux/uidMappings = [{\"containerID\": 1000, \"hostID\": 200000, \"size\": 1}] ; \
                   /linux/gidMappings = [{\"containerID\": 1000, \"hostID\": 200000, \"size\": 1}]";
    for (part, spec) in [
        ("own network", own.clone()),
        (
            "own network, cgroups",
            own.cgroups("ro").namespace("cgroup"),
        ),
        ("node's network", nodes.clone()),
        ("node's network, cgroups", nodes.cgroups("ro")),
        (
            "node's /sys",
            bound.mount("/sys", "bind", "/sys", "rbind,nosuid,noexec,nodev,ro"),
        ),
        ("few ids", few),
        (
            "root isn't mapped",
            base.namespace("user").edit(no_root)?.user(1000),
        ),
    ] {
        seen.ended(part, &side.run(&spec)?);
    }
    Ok(())
}

/// Volumes whose owners are mapped, one in the other, of which nothing stays mounted on the node.
///
/// containers/crun#2097, containers/podman#28715, KEP-127
fn mapped_volumes(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let volume = side.directory("volume")?;
    side.shell("mkdir volume/subdir; chmod 777 volume volume/subdir; touch volume/of-root")?;
    let mapped = |destination: &str, source: PathBuf, host: u32, options: &[&str]| {
        let map = json!([{ "containerID": 0, "hostID": host, "size": 65536 }]);
        json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
            "uidMappings": map, "gidMappings": map,
        })
    };
    let outer = mapped(
        "/mnt",
        volume.clone(),
        HOST,
        &["rbind", "rprivate", "idmap"],
    );
    let inner = mapped(
        "/mnt/subdir",
        volume.join("subdir"),
        HOST,
        &["rbind", "ro", "ridmap"],
    );
    let spec = side.spec()?.root(&mapped_root(side)?).mapped(HOST, 65536);
    let spec = spec.push("/mounts", outer).push("/mounts", inner);
    let look = "stat -c '%n %u:%g' /mnt/of-root; touch /mnt/new /mnt/subdir/new
        grep ' /mnt' /proc/self/mountinfo | cut -d' ' -f5,6 | sed s/,relatime//";
    seen.ended("nested", &side.run(&spec.shell(look))?);
    seen.add("nested", &side.shell("stat -c '%n %u:%g' volume/new")?);
    let other = mapped("/mnt", volume.clone(), 5000, &["rbind"]);
    let spec = side.spec()?.push("/mounts", other);
    let ended = side.run(&spec.shell("stat -c '%n %u:%g' /mnt/of-root"))?;
    seen.ended("without a namespace", &ended);

    let ids = json!([{ "host_id": HOST, "container_id": 0, "length": 65536 }]);
    let mut more = json!({ "linux": { "security_context": { "namespace_options": {
        "userns_options": { "mode": 0, "uids": ids, "gids": ids },
    } } } });
    let pod = match side.pod(more.clone()) {
        Ok(pod) => pod,
        Err(error) => {
            seen.refused("a pod's", &format!("{error:#}"));
            return Ok(());
        }
    };
    more["mounts"] = json!([{
        "container_path": "/vol", "host_path": volume, "uidMappings": ids, "gidMappings": ids,
    }]);
    let look = "cat /proc/self/uid_map | tr -s ' '; touch /vol/c && echo wrote; id
        stat -c '%n %u:%g' /vol/of-root /dev/null /proc /etc/hosts /";
    side.look_in_pod(&pod, "a pod's", seen, more, look)
}

/// Ids and limits that are as large as they get.
///
/// lxc/lxd#10810, checkpoint-restore/criu#1462
fn large_numbers(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for count in [65536, 65537] {
        let groups: Vec<u32> = (1..=count).collect();
        let spec = side
            .spec()?
            .set("/process/user/additionalGids", json!(groups));
        let ended = side.run(&spec.shell("grep Groups /proc/self/status | wc -w"))?;
        seen.ended(&format!("{count} groups"), &ended);
    }
    side.table(seen, TABLE)
}

const TABLE: &str = r#"
ids | /process/user = {"uid": 4294967294, "gid": 4294967294, "additionalGids": [4294967293, 1]} | id -u; id -g; id -G
pids 2^40 | /linux/resources/pids = {"limit": 1099511627776} | echo ran
memory 2^62 | /linux/resources/memory = {"limit": 4611686018427387904} | echo ran
memory -1 | /linux/resources/memory = {"limit": -1, "swap": -1} | echo ran
shares 2^40 | /linux/resources/cpu = {"shares": 1099511627776} | echo ran
shares 1 | /linux/resources/cpu = {"shares": 1} | echo ran
quota -1 | /linux/resources/cpu = {"quota": -1} | echo ran
descriptors 2^30 | /process/rlimits = [{"type": "RLIMIT_NOFILE", "soft": 1073741816, "hard": 1073741816}] | echo ran
oom 1001 | /process/oomScoreAdj = 1001 | echo ran
oom -1000 | /process/oomScoreAdj = -1000 | cat /proc/self/oom_score_adj
"#;
