//! Every field of the runtime specification 1.3 for Linux, and what becomes of it.
//!
//! The table is the source of `docs/runtime-spec.md`, which a test compares (`UPDATE=1` rewrites
//! it), and of what `config.json`'s reader calls ignored: a field that is not in it.

use serde_json::Value;

/// What is done with a field that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// The container has it, or does not start.
    Applied,
    /// No container starts with it: it cannot be had here.
    Refused,
    /// It is logged by name and has no effect.
    Recorded,
}

use Treatment::{Applied, Recorded, Refused};

/// A path of keys. `[]` follows a list, `{}` a map with keys of the user's; `*` stands for all
/// below. Then what is done, what there is to say, and the test that shows it: one of `tests/fields`,
/// which makes containers, where it begins with `fields`, or else one of a module's own.
type Field = (&'static str, Treatment, &'static str, &'static str);

mod table;

/// The fields of a configuration that have no effect, by their paths.
pub(crate) fn ignored(configuration: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(configuration, "", &mut |path, value| {
        let is_known = table::FIELDS
            .iter()
            .any(|(known, treatment, ..)| *treatment != Recorded && reaches(known, path));
        if !is_known && !is_empty(value) {
            found.push(path.to_owned());
        }
        is_known
    });
    found
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Visits the fields below `value`; those for which `visit` says so are entered.
fn collect(value: &Value, at: &str, visit: &mut impl FnMut(&str, &Value) -> bool) {
    match value {
        Value::Object(fields) if MAPS.contains(&at) => {
            for value in fields.values() {
                collect(value, &format!("{at}{{}}"), visit);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                if visit(&path, value) {
                    collect(value, &path, visit);
                }
            }
        }
        Value::Array(all) => {
            for one in all {
                collect(one, &format!("{at}[]"), visit);
            }
        }
        _ => {}
    }
}

/// Objects whose keys are the user's.
const MAPS: [&str; 6] = [
    "annotations",
    "linux.sysctl",
    "linux.netDevices",
    "linux.timeOffsets",
    "linux.resources.rdma",
    "linux.resources.unified",
];

/// Whether `path` is `known` or leads to it.
fn reaches(known: &str, path: &str) -> bool {
    known
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{']))
}

#[cfg(test)]
mod tests;
