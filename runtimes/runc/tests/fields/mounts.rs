//! `root` and `mounts`.

use std::fs;
use std::os::unix::fs::chown;

use serde_json::{Value, json};

use crate::bench::Bench;

tests![
    the_roots_path,
    a_read_only_root,
    destination_and_source,
    the_type,
    the_options,
    mapped_ids,
];

fn add(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

/// Tells the options, type and source of the mount at `/m`, and the options of its filesystem.
const LINE: &str = "sed -n 's, - , ,; s,^[0-9]* [0-9]* [0-9:]* [^ ]* /m ,,p' /proc/self/mountinfo";

fn the_roots_path(bench: &Bench) {
    for absolute in [false, true] {
        let mut spec = bench.spec("cat /mark");
        let bundle = bench.bundle();
        let other = bundle.join("elsewhere");
        fs::rename(bundle.join("rootfs"), &other).unwrap();
        fs::write(other.join("mark"), "elsewhere\n").unwrap();
        spec["root"]["path"] = match absolute {
            true => json!(other),
            false => json!("elsewhere"),
        };
        assert_eq!(bench.lines(&spec), ["elsewhere"]);
    }
}

fn a_read_only_root(bench: &Bench) {
    for (read_only, expected) in [(true, "refused"), (false, "written")] {
        let script = "(echo >/etc/new) 2>/dev/null && echo written || echo refused";
        let mut spec = bench.spec(script);
        spec["root"]["readonly"] = json!(read_only);
        assert_eq!(bench.lines(&spec), [expected]);
    }
}

fn destination_and_source(bench: &Bench) {
    let mut spec = bench.spec("cat /not/there/yet/file; ls -A /not/there");
    let source = bench.bundle().join("volume");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "the volume's\n").unwrap();
    add(
        &mut spec,
        json!({"destination": "/not/there/yet", "type": "bind", "source": source,
            "options": ["bind"]}),
    );
    assert_eq!(bench.lines(&spec), ["the volume's", "yet"]);
    // The name of what has no place.
    let mut spec = bench.spec(&format!("{LINE} | cut -d ' ' -f 3"));
    add(
        &mut spec,
        json!({"destination": "/m", "type": "tmpfs", "source": "a-name"}),
    );
    assert_eq!(bench.lines(&spec), ["a-name"]);
}

fn the_type(bench: &Bench) {
    for kind in ["tmpfs", "ramfs", "proc", "mqueue"] {
        let mut spec = bench.spec(&format!("{LINE} | cut -d ' ' -f 2"));
        add(
            &mut spec,
            json!({"destination": "/m", "type": kind, "source": kind}),
        );
        assert_eq!(bench.lines(&spec), [kind]);
    }
    let mut spec = bench.spec("true");
    add(
        &mut spec,
        json!({"destination": "/m", "type": "nonesuch", "source": "x"}),
    );
    let why = bench.refusal(&spec);
    assert!(why.contains("mount x at /m: no such device"), "{why}");
    assert!(why.contains("has no filesystem nonesuch"), "{why}");
}

fn the_options(bench: &Bench) {
    let shown = |options: Value| {
        let mut spec = bench.spec(LINE);
        add(
            &mut spec,
            json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}),
        );
        bench.lines(&spec).concat()
    };
    let words = |line: &str| -> Vec<String> { line.split([' ', ',']).map(str::to_owned).collect() };
    let line = words(&shown(json!([
        "ro", "nosuid", "noexec", "size=64k", "mode=711"
    ])));
    for word in ["ro", "nosuid", "noexec", "size=64k", "mode=711"] {
        assert!(line.iter().any(|one| one == word), "{word}: {line:?}");
    }
    let line = words(&shown(json!([])));
    for word in ["ro", "nosuid", "noexec", "size=64k"] {
        assert!(!line.iter().any(|one| one == word), "{word}: {line:?}");
    }
    let mut spec = bench.spec("true");
    add(
        &mut spec,
        json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nonesuch=1"]}),
    );
    let why = bench.refusal(&spec);
    assert!(why.contains("/m") && why.contains("nonesuch"), "{why}");
}

/// Users and groups apart, each with a beginning, an end, and a distance.
fn mapped_ids(bench: &Bench) {
    let mut spec = bench.spec("cd /m; for file in a b c; do stat -c '%u %g' $file; done");
    let source = bench.bundle().join("volume");
    fs::create_dir(&source).unwrap();
    for (name, uid, gid) in [("a", 10, 20), ("b", 11, 22), ("c", 12, 23)] {
        fs::write(source.join(name), "").unwrap();
        chown(source.join(name), Some(uid), Some(gid)).unwrap();
    }
    add(
        &mut spec,
        json!({"destination": "/m", "type": "bind", "source": source, "options": ["bind"],
            "uidMappings": [{"containerID": 10, "hostID": 1010, "size": 2}],
            "gidMappings": [{"containerID": 20, "hostID": 2020, "size": 3}]}),
    );
    assert_eq!(
        bench.lines(&spec),
        ["1010 2020", "1011 2022", "65534 65534"]
    );
}
