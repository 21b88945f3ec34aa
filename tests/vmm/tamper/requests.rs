//! Requests that differ from those of a sound host in one thing.

use anyhow::Result;
use serde_json::{Value, json};
use trefoil_agent_protocol::service::{
    AdjustClockRequest, CreateContainerRequest, Disk, ExecRequest, File, Filesystem, Nothing,
    PutFilesRequest, ResizeRequest, SignalRequest, Streams, UpdateRequest, VolumeRequest,
};

use super::guest::{Guest, configuration, process};
use super::refused;
use crate::vmm::pod::host::{a_process, container};

/// Tries all of them; how many there were.
pub fn all(guest: &mut Guest) -> Result<usize> {
    let mut tried = 0;
    for (what, changed, codes) in changed_configurations() {
        let bytes = changed.to_string().into_bytes();
        let outcome = guest.create(|request| request.configuration = bytes);
        refused(&what, outcome, codes)?;
        tried += 1;
    }
    for (what, change, code) in changed_creations() {
        refused(what, guest.create(change), &[code])?;
        tried += 1;
    }
    for (what, files, code) in changed_files() {
        let request = PutFilesRequest {
            volume: "settings".into(),
            files,
            ..Default::default()
        };
        refused(what, guest.put_files(&request), &[code])?;
        tried += 1;
    }
    Ok(tried + out_of_order(guest)?)
}

/// What part of a configuration is refused with which codes.
const CODES: &[(&str, &[&str])] = &[
    ("/process/args", &["(process-command)"]),
    ("/process/env", &["(env-"]),
    (
        "/process/user",
        &[
            "(process-uid)",
            "(process-gid)",
            "(process-groups)",
            "(malformed)",
        ],
    ),
    ("/process/cwd", &["(process-cwd)"]),
    (
        "/process/capabilities",
        &["(process-capabilities)", "(malformed)"],
    ),
    ("/process/noNewPrivileges", &["(process-new-privileges)"]),
    ("/process/oomScoreAdj", &["(oom-score)", "(malformed)"]),
    ("/root", &["(root-path)", "(root-read-only)"]),
    ("/mounts", &["(mount-", "(malformed)"]),
    ("/linux/cgroupsPath", &["(cgroups-path)"]),
    ("/linux/namespaces", &["(namespaces)", "(malformed)"]),
    ("/linux/maskedPaths", &["(masked-path)"]),
    ("/linux/readonlyPaths", &["(readonly-path)"]),
    ("/linux/resources/memory", &["(limit-memory)"]),
    ("/ociVersion", &["(malformed)"]),
];

/// What nothing is said by, or is the host's to choose.
const FREE: &[&str] = &["/linux/resources/devices"];

/// Configurations of which one value is another, or missing, or one too many.
fn changed_configurations() -> Vec<(String, Value, &'static [&'static str])> {
    let sound = configuration();
    let mut places = Vec::new();
    find_places(&sound, String::new(), &mut places);
    let mut changed = Vec::new();
    for place in places {
        if FREE.iter().any(|free| place.starts_with(free)) {
            continue;
        }
        let codes = CODES.iter().find(|(part, _)| place.starts_with(part));
        let codes = codes.map_or(&["("][..], |(_, codes)| codes);
        let mut other = sound.clone();
        if let Some(value) = other.pointer_mut(&place)
            && change(value)
        {
            changed.push((format!("{place} is another"), other, codes));
        }
        if let Some(without) = without(&sound, &place) {
            let codes: &[&str] = &["("];
            changed.push((format!("{place} is missing"), without, codes));
        }
        let mut more = sound.clone();
        if let Some(Value::Object(fields)) = more.pointer_mut(&place) {
            fields.insert("hooks".into(), json!({}));
            let codes: &[&str] = &["(field-unknown)"];
            changed.push((format!("{place} has a field more"), more, codes));
        }
        let mut twice = sound.clone();
        if let Some(Value::Array(items)) = twice.pointer_mut(&place)
            && let Some(first) = items.first().cloned()
        {
            items.push(first);
            changed.push((format!("{place} has its first twice"), twice, &["("]));
        }
    }
    changed
}

/// Makes a value another one of its type.
fn change(value: &mut Value) -> bool {
    *value = match value {
        Value::Bool(is) => (!*is).into(),
        Value::Number(_) => 5_000_000_000_u64.into(),
        Value::String(text) => format!("x{text}").into(),
        _ => return false,
    };
    true
}

/// The same without what is at a place, if that is not the host's to leave out.
fn without(all: &Value, place: &str) -> Option<Value> {
    const MAY_BE_MISSING: [&str; 3] = ["", "/process/oomScoreAdj", "/root/readonly"];
    if MAY_BE_MISSING.contains(&place) {
        return None;
    }
    let (parent, name) = place.rsplit_once('/')?;
    let mut without = all.clone();
    match without.pointer_mut(parent)? {
        Value::Object(fields) => {
            fields.remove(name);
        }
        Value::Array(items) => {
            items.remove(name.parse().ok()?);
        }
        _ => return None,
    }
    Some(without)
}

/// The places of all values.
fn find_places(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                find_places(value, format!("{at}/{name}"), places);
            }
        }
        Value::Array(items) => {
            for (number, value) in items.iter().enumerate() {
                find_places(value, format!("{at}/{number}"), places);
            }
        }
        _ => {}
    }
    places.push(at);
}

type Change = fn(&mut CreateContainerRequest);

fn verified(request: &mut CreateContainerRequest) -> &mut Disk {
    request
        .rootfs
        .mut_or_insert_default()
        .verified
        .mut_or_insert_default()
}

/// All of a container's request but its configuration.
fn changed_creations() -> Vec<(&'static str, Change, &'static str)> {
    vec![
        ("no name", |one| one.container.clear(), "(name)"),
        (
            "a name that leads up",
            |one| one.container = "..".into(),
            "(name)",
        ),
        (
            "a name that is a path",
            |one| one.container = "a/b".into(),
            "(name)",
        ),
        (
            "a container that is not the policy's",
            |one| one.name = "pause".into(),
            "(container-unknown)",
        ),
        ("no configuration", |one| one.configuration.clear(), "("),
        (
            "a configuration that is no JSON",
            |one| one.configuration.truncate(40),
            "(",
        ),
        (
            "a configuration that is much too long",
            |one| one.configuration = vec![b' '; 3 << 20],
            "(",
        ),
        ("no root", |one| one.rootfs = None.into(), "("),
        (
            "a root that the host shares",
            |one| one.rootfs.mut_or_insert_default().share = "root".into(),
            "(root-share)",
        ),
        (
            "layers beside the verified ones",
            |one| {
                let plain = verified(one).clone();
                one.rootfs.mut_or_insert_default().layers = Some(plain).into();
            },
            "(root-unverified)",
        ),
        (
            "layers that nothing verifies",
            |one| {
                let plain = verified(one).clone();
                let rootfs = one.rootfs.mut_or_insert_default();
                rootfs.verified = None.into();
                rootfs.layers = Some(plain).into();
            },
            "(root-unverified)",
        ),
        (
            "a disk of the host's to write on",
            |one| {
                let disk = verified(one).clone();
                one.rootfs.mut_or_insert_default().writable = Some(disk).into();
            },
            "(root-writable)",
        ),
        (
            "another filesystem",
            |one| verified(one).filesystem = Filesystem::EXT4.into(),
            "(layer-filesystem)",
        ),
        (
            "one layer less",
            |one| verified(one).parts.truncate(1),
            "(layer-count)",
        ),
        (
            "one layer more",
            |one| verified(one).parts.push(1 << 20),
            "(layer-count)",
        ),
        (
            "a layer that is too short",
            |one| verified(one).parts[1] = 4096,
            "(layer-size)",
        ),
        (
            "layers in another order",
            |one| verified(one).parts.reverse(),
            "(layer-size)",
        ),
        ("another device", |one| verified(one).device = 1, "device 1"),
        (
            "a device that can't be",
            |one| verified(one).device = u32::MAX,
            "there are less than",
        ),
        (
            "a slot without a disk",
            |one| verified(one).device += 1,
            "device",
        ),
        (
            "a terminal",
            |one| one.streams.mut_or_insert_default().terminal = true,
            "(stream-terminal)",
        ),
        (
            "one stream for two",
            |one| {
                let streams = Streams {
                    stdout: 7,
                    stderr: 7,
                    ..Default::default()
                };
                one.streams = Some(streams).into();
            },
            "(stream-twice)",
        ),
    ]
}

/// Files that the policy does not have.
fn changed_files() -> Vec<(&'static str, Vec<File>, &'static str)> {
    let file = |path: &str, mode: u32, length: usize| File {
        path: path.into(),
        contents: vec![b'x'; length],
        mode,
        ..Default::default()
    };
    let sound = || file("key", 0o644, 4);
    vec![
        ("no files", vec![], "(file-missing)"),
        (
            "another file",
            vec![sound(), file("other", 0o644, 1)],
            "(file-path)",
        ),
        (
            "a file that is too long",
            vec![file("key", 0o644, 17)],
            "(file-content)",
        ),
        ("a program", vec![file("key", 0o755, 1)], "(file-mode)"),
        ("a link", vec![file("key", 0o120_777, 1)], "(file-mode)"),
        (
            "a file out of the volume",
            vec![file("../key", 0o644, 1)],
            "(file-place)",
        ),
        (
            "an absolute path",
            vec![file("/etc/passwd", 0o644, 1)],
            "(file-place)",
        ),
        ("a file twice", vec![sound(), sound()], "(file-twice)"),
        (
            "a file below a file",
            vec![sound(), file("key/below", 0o644, 1)],
            "(file-inside)",
        ),
        (
            "too many files",
            (0..1025)
                .map(|n| file(&format!("f{n}"), 0o644, 1))
                .collect(),
            "(file-count)",
        ),
    ]
}

/// Requests of what is not there, or off.
fn out_of_order(guest: &mut Guest) -> Result<usize> {
    let (of, init) = (container("c"), a_process("c", ""));
    let pod = &mut guest.pod;
    let mut tried = 0;
    let mut check = |what: &str, outcome: Result<()>, code: &str| -> Result<()> {
        tried += 1;
        refused(what, outcome, &[code])
    };
    // Asks, and forgets the answer.
    macro_rules! ask {
        ($method:ident, $request:expr) => {{
            let request = $request;
            pod.ask(async |agent, given| agent.$method(given, &request).await)
                .map(drop)
        }};
    }
    let unmade = "(container-unmade)";
    check("start", ask!(start_container, of.clone()), unmade)?;
    check("delete", ask!(delete_container, of.clone()), unmade)?;
    check("wait", ask!(wait, init.clone()), unmade)?;
    check("close the input", ask!(close_stdin, init.clone()), unmade)?;
    check("pause", ask!(pause, of.clone()), unmade)?;
    check("resume", ask!(resume, of.clone()), unmade)?;
    check("stats", ask!(stats, of.clone()), unmade)?;
    check("out of memory", ask!(out_of_memory, of.clone()), unmade)?;
    let signal = SignalRequest {
        container: "c".into(),
        signal: 9,
        ..Default::default()
    };
    check("signal", ask!(signal, signal), unmade)?;
    let exec = ExecRequest {
        container: "c".into(),
        process: "e".into(),
        configuration: process(&["/bin/true"]).to_string().into_bytes(),
        streams: Some(Streams::default()).into(),
        ..Default::default()
    };
    check("exec", ask!(exec, exec), unmade)?;
    let resize = ResizeRequest {
        container: "c".into(),
        width: 80,
        height: 24,
        ..Default::default()
    };
    check("resize", ask!(resize, resize), unmade)?;
    let update = UpdateRequest {
        container: "c".into(),
        resources: b"{}".to_vec(),
        ..Default::default()
    };
    check("update", ask!(update, update), unmade)?;
    let share = VolumeRequest {
        share: "root".into(),
        ..Default::default()
    };
    check(
        "refresh what is shared",
        ask!(refresh_volume, share),
        "(shared-volume)",
    )?;
    check(
        "the kernel's log",
        ask!(kernel_log, Nothing::default()),
        "(knob-kernel-log)",
    )?;
    let back = AdjustClockRequest {
        offset: -3_600_000_000_000,
        step: true,
        ..Default::default()
    };
    check(
        "the clock goes back",
        ask!(adjust_clock, back),
        "(clock-back)",
    )?;
    let other = PutFilesRequest {
        volume: "other".into(),
        ..Default::default()
    };
    check(
        "files of no volume",
        ask!(put_files, other),
        "(volume-unknown)",
    )?;
    Ok(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_differs_from_what_is_sound() {
        let sound = configuration();
        let cases = changed_configurations();
        assert!(cases.len() > 100, "{}", cases.len());
        for (what, changed, _) in cases {
            assert_ne!(changed, sound, "{what}");
        }
    }
}
