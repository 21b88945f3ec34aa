//! Hooks: what they are given, where they run, and what becomes of a container whose hook fails.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

pub const TRIALS: &[Scenario] = &[
    ("hooks::that_fail", that_fail),
    ("hooks::what_they_are_given", what_they_are_given),
    ("hooks::that_do_not_read", that_do_not_read),
    ("hooks::beside_mounts", beside_mounts),
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

fn hook(path: &str, words: &[&str]) -> Value {
    json!([{ "path": path, "args": words, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }])
}

/// A hook that fails says why, and which it was.
///
/// urunc-dev/urunc#292, opencontainers/runc#733, containers/crun#353, containerd/containerd#11210
fn that_fail(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let script = "echo driver library version 570 does not match >&2\nexit 7\n";
    let failing = side
        .script("failing", script)?
        .to_string_lossy()
        .into_owned();
    for (part, kind, hooks) in KINDS
        .map(|kind| (kind, kind, hook(&failing, &["failing"])))
        .into_iter()
        .chain([
            (
                "missing",
                "createRuntime",
                json!([{ "path": "/nope/hook" }]),
            ),
            (
                "too slow",
                "createRuntime",
                json!([{ "path": "/bin/sleep", "args": ["sleep", "20"], "timeout": 1 }]),
            ),
        ])
    {
        // One of them runs where only the container's files are.
        let spec = side
            .spec()?
            .bind(side.at(), &side.at().to_string_lossy(), "rbind");
        let spec = spec
            .set(&format!("/hooks/{kind}"), hooks)
            .shell("sleep 0.5; echo ran");
        let ended = side.run(&spec)?;
        seen.ended(part, &ended);
        let error = ended.error.unwrap_or_default();
        for word in [
            kind,
            "status 7",
            "version 570",
            "/nope/hook",
            "no such file",
        ] {
            if error.contains(word) {
                seen.add(part, &format!("says {word}"));
            }
        }
    }
    Ok(())
}

/// The state that each hook reads, its variables, directory and user.
///
/// urunc-dev/urunc#292, opencontainers/runc#733
fn what_they_are_given(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let script = "cat > $1.state; env | sort > $1.env; pwd > $1.cwd; id -u > $1.id\n";
    let script = side
        .script("telling", script)?
        .to_string_lossy()
        .into_owned();
    let mut spec = side
        .spec()?
        .bind(side.at(), &side.at().to_string_lossy(), "rbind");
    for kind in KINDS {
        let to = side.at().join(kind).to_string_lossy().into_owned();
        spec = spec.set(&format!("/hooks/{kind}"), hook(&script, &["telling", &to]));
    }
    let spec = spec
        .set("/annotations", json!({ "a.b": "c" }))
        .args(&["sleep", "0.2"]);
    seen.ended("run", &side.run(&spec)?);
    for kind in KINDS {
        let read = |what: &str| fs::read_to_string(side.at().join(format!("{kind}.{what}")));
        let state: Value = serde_json::from_str(&read("state").unwrap_or_default())?;
        let bundle = state["bundle"].as_str().unwrap_or_default();
        let pid = state["pid"].as_i64().unwrap_or_default() > 0;
        seen.add("version", &state["ociVersion"].to_string());
        seen.add(kind, &format!("{} pid: {pid}", state["status"]));
        seen.add(kind, &format!("{} {bundle}", state["annotations"]));
        for what in ["env", "cwd", "id"] {
            seen.add(kind, &format!("{what}: {}", read(what)?.replace('\n', " ")));
        }
    }
    Ok(())
}

/// A hook that ends without reading its state, even one that is larger than a pipe.
fn that_do_not_read(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for kind in ["createRuntime", "createContainer"] {
        let hooks =
            json!([{ "path": "/bin/true" }, { "path": "/bin/true" }, { "path": "/bin/true" }]);
        let spec = side.spec()?.set(&format!("/hooks/{kind}"), hooks);
        let spec = spec.args(&["echo", "ran"]);
        for _ in 0..3 {
            let mut spec = spec.clone();
            spec.0["linux"]["cgroupsPath"] = side.spec()?.0["linux"]["cgroupsPath"].clone();
            seen.ended(kind, &side.run(&spec)?);
        }
        let spec = spec.set("/annotations", json!({ "big": "x".repeat(200_000) }));
        seen.ended(&format!("{kind}, much"), &side.run(&spec)?);
    }
    Ok(())
}

/// A hook of a container's creation is in the container's mount namespace after its mounts, and
/// what it mounts the container sees: drivers and libraries get there so.
///
/// containers/crun#2167, containers/crun#2168, containers/crun#2035
fn beside_mounts(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.shell("mkdir vol; echo v > vol/f")?;
    let root = side.root_after("true")?;
    let script = side.script(
        "looking",
        "cat > /dev/null; cd $1; { echo proc: $(ls proc | grep -c -x -E 'self|meminfo')
echo dev: $(ls dev | grep -c -x -E 'null|pts|ptmx'); echo volume: $(cat v/f)
[ $2 != createContainer ] || { mkdir -p run/byhook; mount -t tmpfs byhook run/byhook && echo mounted; }
} > $3 2>&1\n",
    )?;
    let (script, at) = (script.to_string_lossy(), root.to_string_lossy());
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let to = side.at().join(format!("{kind}.out"));
        let spec = side
            .spec()?
            .root(&root)
            .bind(&side.at().join("vol"), "/v", "rbind");
        let words = ["looking", &at, kind, &to.to_string_lossy()];
        let spec = spec.set(&format!("/hooks/{kind}"), hook(&script, &words));
        seen.ended(
            kind,
            &side.run(&spec.shell("grep -c byhook /proc/self/mounts"))?,
        );
        seen.add(kind, &fs::read_to_string(to).unwrap_or_default());
    }
    let spec = side.spec()?.mapped(100_000, 65536);
    let line = ["sh", "-c", "cat > /dev/null; id -u"];
    let spec = spec.set("/hooks/createContainer", hook("/bin/sh", &line));
    seen.ended(
        "with a user namespace",
        &side.run(&spec.shell("id -u; echo ran"))?,
    );
    Ok(())
}
