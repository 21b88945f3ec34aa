//! Names of capabilities that this build does not know.

use oci_spec::runtime::Capability;
use serde_json::Value;

/// Whether a name such as `CAP_NET_RAW` is one that can be given to a process.
fn is_known(name: &str) -> bool {
    serde_json::from_value::<Capability>(Value::from(name)).is_ok()
}

/// Takes the names that are not known out of a process's JSON, and logs them. Newer orchestrators may
/// name such; like other runtimes, we leave them out rather than refuse them: fewer privileges than asked
/// for are never a hole.
pub(crate) fn leave_out_unknown(process: &mut Value) {
    let Some(Value::Object(sets)) = process.get_mut("capabilities") else {
        return;
    };
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let keep = name.as_str().is_none_or(is_known);
            if !keep {
                log::warn!("the capability {name} is not known and left out");
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_future_are_not_known() {
        assert!(is_known("CAP_SYS_ADMIN"));
        assert!(!is_known("CAP_FLY"));
        assert!(!is_known(""));
    }
}
