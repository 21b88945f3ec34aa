//! `linux.devices` and `linux.resources.devices`.

use serde_json::{Value, json};

use crate::bench::Bench;

tests![nodes, rules];

fn nodes(bench: &Bench) {
    let mut spec =
        bench.spec("stat -c '%n|%F|%t|%T|%a|%u|%g' /dev/char /opt/block /opt/fifo /opt/plain");
    spec["linux"]["devices"] = json!([
        {"type": "c", "path": "/dev/char", "major": 10, "minor": 229, "fileMode": 0o640,
            "uid": 12, "gid": 34},
        {"type": "b", "path": "/opt/block", "major": 7, "minor": 5, "fileMode": 0o1600,
            "uid": 0, "gid": 9},
        {"type": "p", "path": "/opt/fifo", "fileMode": 0o622, "uid": 9, "gid": 0},
        {"type": "u", "path": "/opt/plain", "major": 1, "minor": 3},
    ]);
    assert_eq!(
        bench.lines(&spec),
        [
            "/dev/char|character special file|a|e5|640|12|34",
            "/opt/block|block special file|7|5|1600|0|9",
            "/opt/fifo|fifo|0|0|622|9|0",
            "/opt/plain|character special file|1|3|666|0|0",
        ]
    );
}

/// Tells what of some devices may be opened how. Whether there is a driver does not matter: who may not
/// use a device is told that it is not permitted before anybody looks for one.
const SCRIPT: &str = r#"
try() {
    if (eval "exec 3$2/opt/$1") 2>&1 | grep -q "not permitted"; then
        echo "$1$2 no"
    else
        echo "$1$2 yes"
    fi
}
for device in char next block; do
    try $device '<'
    try $device '>'
done
"#;

/// Which of the devices may be read and written, in the order of the script.
fn allowed(bench: &Bench, rules: &Value) -> Vec<String> {
    let mut spec = bench.spec(SCRIPT);
    spec["linux"]["devices"] = json!([
        {"type": "c", "path": "/opt/char", "major": 10, "minor": 229, "fileMode": 0o666},
        {"type": "c", "path": "/opt/next", "major": 10, "minor": 230, "fileMode": 0o666},
        {"type": "b", "path": "/opt/block", "major": 10, "minor": 229, "fileMode": 0o666},
    ]);
    spec["linux"]["resources"] = json!({ "devices": rules });
    let lines = bench.lines(&spec);
    let yes = lines.iter().filter_map(|line| line.strip_suffix(" yes"));
    yes.map(str::to_owned).collect()
}

fn rules(bench: &Bench) {
    let none = json!({"allow": false, "access": "rwm"});
    let one = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"});
    let with = |key: &str, value: Value| {
        let mut rule = one.clone();
        rule[key] = value;
        json!([none, rule])
    };
    assert!(allowed(bench, &json!([none])).is_empty());
    assert_eq!(allowed(bench, &json!([none, one])), ["char<"]);
    assert_eq!(
        allowed(bench, &with("access", json!("rw"))),
        ["char<", "char>"]
    );
    assert_eq!(allowed(bench, &with("minor", json!(230))), ["next<"]);
    assert_eq!(allowed(bench, &with("major", json!(11))), [""; 0]);
    assert_eq!(allowed(bench, &with("type", json!("b"))), ["block<"]);
    assert_eq!(allowed(bench, &with("allow", json!(false))), [""; 0]);
    let all = json!([none, {"allow": true, "access": "rwm"}]);
    assert_eq!(allowed(bench, &all).len(), 6);
}
