//! The container's seccomp filter, which binds every process in it.
//!
//! The filter is built by the code that builds init's, so the two cannot differ. It is built anew
//! for each process: that costs a few milliseconds, and no filter has to be kept in memory for the
//! pod's lifetime or carried between processes.

use libcontainer::seccomp::{initialize_seccomp, is_notify};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, Spec};

use super::error::Failure;

/// The container's filter, if it has one that can be applied.
pub(crate) fn of(spec: &Spec) -> Result<Option<LinuxSeccomp>, Failure> {
    let filter = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    match filter {
        Some(filter) if asks_a_listener(filter) => Err(Failure::new(
            "the container's seccomp profile asks a listener (SCMP_ACT_NOTIFY), \
             which is not supported for further processes",
        )),
        other => Ok(other.cloned()),
    }
}

fn asks_a_listener(filter: &LinuxSeccomp) -> bool {
    filter.default_action() == LinuxSeccompAction::ScmpActNotify || is_notify(filter)
}

/// Binds this process. After it, only what the profile allows still works.
pub(crate) fn load(filter: &LinuxSeccomp) -> Result<(), Failure> {
    initialize_seccomp(filter).map(drop).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Failure::new(format!(
            "cannot load the container's seccomp profile: {error}{}",
            cause.unwrap_or_default()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(seccomp: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["seccomp"] = seccomp;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn listeners_are_refused() {
        let rule = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
        let default = serde_json::json!({"defaultAction": "SCMP_ACT_NOTIFY"});
        for profile in [rule, default] {
            assert!(
                of(&spec(profile))
                    .unwrap_err()
                    .to_string()
                    .contains("SCMP_ACT_NOTIFY")
            );
        }
        let plain = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert!(of(&spec(plain)).unwrap().is_some());
    }
}
