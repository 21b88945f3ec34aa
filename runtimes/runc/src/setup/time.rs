//! Offsets of a new time namespace's clocks (`linux.timeOffsets`).

use std::fmt::Write;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::error::Failure;

const SECOND: u32 = 1_000_000_000;

/// What to write to `/proc/self/timens_offsets` (time_namespaces(7)), checked on the host.
///
/// It is to be written by a process that made a time namespace by `unshare` and has made no child
/// since: the namespace is its children's, and takes no offsets once one is in it.
pub(crate) fn offsets(spec: &Spec) -> Result<Option<String>, Failure> {
    let asked = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.time_offsets().as_ref());
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(None);
    };
    if !trefoil_spec::namespaces::is_new(spec, LinuxNamespaceType::Time) {
        return Err(Failure::new(
            "time namespace offsets specified, and the configuration asks for no new time namespace",
        ));
    }
    let mut text = String::new();
    for (clock, offset) in asked {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Failure::new(format!("the clock {clock:?} has no offset")));
        }
        let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        if nanosecs >= SECOND {
            return Err(Failure::new(format!(
                "the offset of the clock {clock} has {nanosecs} nanoseconds, a second or more"
            )));
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{clock} {secs} {nanosecs}");
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::super::hostproc::HostProc;
    use super::super::testing::in_child;
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    fn spec(offsets: serde_json::Value, namespaces: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        spec["linux"]["timeOffsets"] = offsets;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn the_kernel_takes_the_text() {
        let time = || serde_json::json!([{"type": "time"}]);
        let asked = serde_json::json!({"boottime": {"secs": 1_000_000, "nanosecs": 5},
            "monotonic": {"secs": 7}});
        let text = offsets(&spec(asked, time())).unwrap().unwrap();
        in_child(|| {
            let proc = HostProc::open().unwrap();
            unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME)).unwrap();
            proc.write("self/timens_offsets", &text).unwrap();
            let seen = proc.read("self/timens_offsets").unwrap();
            let lines: Vec<Vec<&str>> = seen
                .lines()
                .map(|line| line.split_whitespace().collect())
                .collect();
            assert_eq!(
                lines,
                [["monotonic", "7", "0"], ["boottime", "1000000", "5"]]
            );
        });
        assert_eq!(offsets(&spec(serde_json::json!({}), time())).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = || serde_json::json!({"boottime": {"secs": 1}});
        for (asked, namespaces, phrase) in [
            (one(), serde_json::json!([]), "no new time namespace"),
            (
                one(),
                serde_json::json!([{"type": "time", "path": "/proc/self/ns/time"}]),
                "no new time namespace",
            ),
            (
                serde_json::json!({"realtime": {"secs": 1}}),
                serde_json::json!([{"type": "time"}]),
                "\"realtime\" has no offset",
            ),
            (
                serde_json::json!({"boottime": {"nanosecs": 1_000_000_000}}),
                serde_json::json!([{"type": "time"}]),
                "a second or more",
            ),
        ] {
            let why = offsets(&spec(asked, namespaces)).unwrap_err().to_string();
            assert!(why.contains(phrase), "{why}");
        }
    }
}
