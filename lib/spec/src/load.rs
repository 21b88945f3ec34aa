//! Reading a container's `config.json`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Deserialize;
use serde_json::Value;
use trefoil_os::{Context, Error, Result};

use crate::culprit::culprit;
use crate::ignored::ignored;
use crate::{capabilities, namespaces};

/// A configuration is some kilobytes; arguments and environment may make it a few megabytes.
const LARGEST: u64 = 64 * 1024 * 1024;
/// The newest major version of the specification that this code was written for.
const NEWEST_MAJOR: u64 = 1;
/// More ignored properties than this are not logged one by one.
const MOST_IGNORED: usize = 20;

/// Reads the configuration at `path`.
///
/// # Errors
/// The file that cannot be read, or the field that is malformed, which is [invalid](Error::is_invalid).
pub fn load(path: &Path) -> Result<Spec> {
    let doing = || format!("read {}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).context(doing)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut text)
        .context(doing)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::invalid(
            doing(),
            format!("it is larger than {LARGEST} bytes"),
        ));
    }
    parse(&text).map_err(|why| Error::invalid(doing(), why))
}

/// The configuration, or what is malformed.
fn parse(text: &[u8]) -> Result<Spec, String> {
    let mut value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if let Some(process) = value.get_mut("process") {
        capabilities::leave_out_unknown(process);
    }
    leave_out_empty_pids(&mut value);
    let spec = read(&value).map_err(|error| {
        match culprit(&value, &error, |changed| read(changed).map(drop)) {
            path if path.is_empty() => error,
            path => format!("{path}: {error}"),
        }
    })?;
    for path in ignored(&value, &spec).into_iter().take(MOST_IGNORED) {
        log::warn!("the container's configuration sets {path}, which is ignored");
    }
    check_version(spec.version())?;
    namespaces::check(&spec).map_err(|why| why.to_string())?;
    Ok(spec)
}

fn read(value: &Value) -> Result<Spec, String> {
    Spec::deserialize(value).map_err(|error| error.to_string())
}

/// Since 1.3 the limit may be left out, and then there is none; oci-spec 0.10 demands it.
fn leave_out_empty_pids(value: &mut Value) {
    if let Some(Value::Object(resources)) = value.pointer_mut("/linux/resources") {
        let is_empty = resources
            .get("pids")
            .is_some_and(|pids| pids["limit"].is_null());
        if is_empty {
            resources.remove("pids");
        }
    }
}

fn check_version(version: &str) -> Result<(), String> {
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse::<u64>().ok());
    match major {
        Some(major) if major > NEWEST_MAJOR => Err(format!(
            "ociVersion: {version} is newer than {NEWEST_MAJOR}, the newest that is known"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(change: impl FnOnce(&mut Value)) -> Result<Spec, String> {
        let mut value = serde_json::to_value(Spec::default()).unwrap();
        change(&mut value);
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn capabilities_from_the_future_are_left_out() {
        let spec = parsed(|value| {
            value["process"]["capabilities"]["bounding"] =
                json!(["CAP_KILL", "CAP_FROM_THE_FUTURE"]);
        })
        .unwrap();
        let sets = spec
            .process()
            .clone()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        let bounding: Vec<_> = sets.bounding().iter().flatten().copied().collect();
        assert_eq!(bounding, [Capability::Kill]);
    }

    #[test]
    fn what_is_malformed_is_named() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 6] = [
            (
                |v| v["linux"]["namespaces"] = json!([{"type": "future"}]),
                "linux.namespaces.0.type: unknown variant `future`",
            ),
            (
                |v| v["process"]["user"]["uid"] = json!("root"),
                "process.user.uid: invalid type",
            ),
            (
                |v| {
                    v["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                        "syscalls": [{"names": ["read"]}]})
                },
                "linux.seccomp.syscalls.0: missing field `action`",
            ),
            (
                |v| v["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_FLY"}),
                "linux.seccomp.defaultAction: unknown variant",
            ),
            (
                |v| v["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "pid"}]),
                "linux.namespaces: the pid namespace is named twice",
            ),
            (
                |v| v["ociVersion"] = json!("2.0.0"),
                "ociVersion: 2.0.0 is newer",
            ),
        ];
        for (change, phrase) in cases {
            let why = parsed(change).unwrap_err();
            assert!(why.contains(phrase), "{phrase}: {why}");
        }
        parsed(|v| v["ociVersion"] = json!("1.9.0")).unwrap();
    }

    #[test]
    fn what_is_unknown_does_not_hinder() {
        let spec = parsed(|v| {
            v["linux"]["someFutureField"] = json!({"a": 1});
            v["process"]["anotherOne"] = json!(true);
            v["linux"]["resources"]["pids"] = json!({});
        });
        assert!(spec.is_ok(), "{spec:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let why = load(Path::new("/no/such/config.json")).unwrap_err();
        assert_eq!(why.doing(), "read /no/such/config.json");
        assert_eq!(why.kind(), std::io::ErrorKind::NotFound);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        let why = load(&path).unwrap_err();
        assert!(why.is_invalid());
        assert!(why.to_string().contains("config.json: EOF"), "{why}");
        std::fs::write(&path, serde_json::to_vec(&Spec::default()).unwrap()).unwrap();
        assert_eq!(load(&path).unwrap(), Spec::default());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_value_anywhere_breaks_it(
            place in prop::sample::select(&["/process", "/linux", "/mounts", "/hooks", "/root",
                "/linux/namespaces", "/process/capabilities", "/linux/resources"][..]),
            value in prop::sample::select(&["null", "[]", "{}", "7", "\"x\"", "[{}]", "[[]]",
                "{\"pids\": 3}", "{\"a\": [1]}"][..]),
        ) {
            let _ = parsed(|spec| {
                if let Some(found) = spec.pointer_mut(place) {
                    *found = serde_json::from_str(value).unwrap();
                }
            });
        }
    }
}
