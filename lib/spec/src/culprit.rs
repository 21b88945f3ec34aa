//! Which field of a configuration is malformed.

use serde_json::Value;

/// The path of what is behind the `error` that to `read` a value fails with: the deepest field without
/// which it is another error. Empty if that is no field.
pub(crate) fn culprit(
    value: &Value,
    error: &str,
    read: impl Fn(&Value) -> Result<(), String>,
) -> String {
    let mut pointer = String::new();
    let is_behind = |parent: &str, key: &str| {
        let mut without = value.clone();
        match without.pointer_mut(parent) {
            Some(Value::Object(fields)) => drop(fields.remove(key)),
            Some(Value::Array(all)) => {
                // A list's keys are its indices.
                if let Ok(at) = key.parse::<usize>() {
                    all.remove(at);
                }
            }
            _ => {}
        }
        let is_missed = |new: &String| {
            error.starts_with("missing field") && *new == format!("missing field `{key}`")
        };
        read(&without)
            .err()
            .is_none_or(|new| new != error && !is_missed(&new))
    };
    let mut here = value;
    loop {
        let children: Vec<(String, &Value)> = match here {
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), value))
                .collect(),
            Value::Array(all) => all
                .iter()
                .enumerate()
                .map(|(at, one)| (at.to_string(), one))
                .collect(),
            _ => Vec::new(),
        };
        let found = children.into_iter().find_map(|(key, child)| {
            let step = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            is_behind(&pointer, &key).then_some((step, child))
        });
        match found {
            Some((step, child)) => (pointer, here) = (step, child),
            None => break,
        }
    }
    pointer.trim_start_matches('/').replace('/', ".")
}
