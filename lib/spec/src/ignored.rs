//! What a configuration sets without effect.

use oci_spec::runtime::Spec;
use serde_json::Value;

/// What the specification says of systems other than Linux. The reader knows it, and no runtime of ours
/// does anything with it.
const OTHER_SYSTEMS: [&str; 7] = [
    "process.commandLine",
    "process.user.username",
    "solaris",
    "windows",
    "vm",
    "zos",
    "freebsd",
];

/// The fields that are set in a configuration and have no effect, by their paths: those that the
/// specification does not know, as they are gone from what was `read` of it, and those for other systems.
#[must_use]
pub fn ignored(configuration: &Value, read: &Spec) -> Vec<String> {
    let mut found = Vec::new();
    // A configuration that was read can always be told again.
    let read = serde_json::to_value(read).unwrap_or_default();
    collect("", configuration, &read, &mut found);
    found
}

fn collect(at: &str, set: &Value, read: &Value, found: &mut Vec<String>) {
    let mut field = |path: String, set: &Value, read: Option<&Value>| match read {
        Some(read) if !OTHER_SYSTEMS.contains(&path.as_str()) => collect(&path, set, read, found),
        _ if is_empty(set) => {}
        _ => found.push(path),
    };
    match (set, read) {
        (Value::Object(set), Value::Object(read)) => {
            for (key, value) in set {
                let path = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                field(path, value, read.get(key));
            }
        }
        (Value::Array(set), Value::Array(read)) => {
            for ((number, set), read) in set.iter().enumerate().zip(read) {
                field(format!("{at}.{number}"), set, Some(read));
            }
        }
        _ => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_other_systems_and_of_the_future_are_found() {
        let mut configuration = serde_json::to_value(Spec::default()).unwrap();
        let defaults = configuration.clone();
        for (place, value) in [
            (
                "/windows",
                json!({"layerFolders": ["c"], "servicing": true}),
            ),
            ("/vm", json!({"kernel": {"path": "/k"}})),
            ("/freebsd", json!({"jail": {"host": "new"}})),
            ("/solaris", json!({})),
            ("/process/user/username", json!("me")),
            ("/process/commandLine", json!("x")),
            ("/process/anotherOne", json!(true)),
            ("/process/off", json!(false)),
            ("/linux/someFutureField", json!({"a": 1})),
            ("/linux/resources/memory", json!({"limits": 1})),
            ("/linux/netDevices", json!({"eth0": {"mtu": 9000}})),
            (
                "/linux/devices",
                json!([{"path": "/a", "type": "c", "colour": "red"}]),
            ),
            ("/annotations", json!({"any": "thing"})),
        ] {
            let (parent, key) = place.rsplit_once('/').unwrap();
            configuration.pointer_mut(parent).unwrap()[key] = value;
        }
        let read = |value: &Value| serde_json::from_value::<Spec>(value.clone()).unwrap();
        let mut found = ignored(&configuration, &read(&configuration));
        found.sort();
        assert_eq!(
            found,
            [
                "freebsd",
                "linux.devices.0.colour",
                "linux.netDevices.eth0.mtu",
                "linux.resources.memory.limits",
                "linux.someFutureField",
                "process.anotherOne",
                "process.commandLine",
                "process.user.username",
                "vm",
                "windows",
            ]
        );
        assert_eq!(ignored(&defaults, &read(&defaults)), [""; 0]);
    }
}
