//! Devices: where they are made, and what device plugins ask for.

use anyhow::Result;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

pub const TRIALS: &[Scenario] = &[
    ("devices::outside_dev", outside_dev),
    ("devices::of_a_configuration", of_a_configuration),
    ("devices::of_a_plugin", of_a_plugin),
];

/// A volume's device lies where the pod says, not only in `/dev`.
///
/// containers/crun#917
fn outside_dev(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pod = side.pod(Value::Null)?;
    for (at, host, access) in [
        ("/scsi-hdd-data-7msn99", "/dev/null", "rwm"),
        ("/mnt/vol/blk", "/dev/zero", "r"),
    ] {
        let device = json!({ "container_path": at, "host_path": host, "permissions": access });
        let more = json!({ "devices": [device] });
        side.look_in_pod(&pod, at, seen, more, &format!("stat -c '%n %A %t:%T' {at}"))?;
    }
    Ok(())
}

/// What the container device interface writes into a configuration: devices that are there already,
/// elsewhere, and of others, a library and a hook.
///
/// containerd/containerd#12674, containerd/containerd#7329,
/// cncf-tags/container-device-interface#175
fn of_a_configuration(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.file("libx.so", "lib\n")?;
    side.table(seen, TABLE)
}

const TABLE: &str = r#"
nodes | /linux/devices += {"path": "/dev/field/a", "type": "c", "major": 1, "minor": 3, "fileMode": 438}, {"path": "/dev/field/b", "type": "c", "major": 1, "minor": 5, "fileMode": 384, "uid": 1000, "gid": 2000}, {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}, {"path": "/opt/odd/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 292} ; /linux/resources/devices += {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "r"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"} | stat -c '%n %a %u:%g %t:%T' /dev/field/a /dev/field/b /dev/null /opt/odd/zero; head -c1 /opt/odd/zero | wc -c; echo > /dev/null && echo null works; echo > /dev/field/b
the rest | /process/env += "FIELD=a" ; /process/user/additionalGids = [7777] ; /mounts += {"destination": "/usr/lib/libx.so", "type": "bind", "source": "$AT/libx.so", "options": ["ro", "nosuid", "nodev", "bind"]} ; /hooks/createContainer += {"path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null"]} | cat /usr/lib/libx.so; id -G; echo $FIELD
mode and owner | /linux/devices += {"path": "/dev/dd", "type": "c", "major": 1, "minor": 3, "fileMode": 384, "uid": 12, "gid": 34}, {"path": "/dev/bb", "type": "b", "major": 7, "minor": 300} | stat -c '%n %A %u:%g %t:%T' /dev/dd /dev/bb
fifo | /linux/devices += {"path": "/dev/pp", "type": "p", "fileMode": 432} | stat -c '%n %A' /dev/pp
fifo with numbers | /linux/devices += {"path": "/dev/pp", "type": "p", "major": 0, "minor": 0, "fileMode": 432} | stat -c '%n %A' /dev/pp
order of rules | /linux/resources/devices = [{"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rw"}, {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}] | head -c1 /dev/zero | wc -c; echo > /dev/full; mknod /tmp/m c 1 3 && echo made
without resources | /linux/resources - | echo ran; ls /dev | tr '\n' ' '
without a type | /linux/devices += {"path": "/dev/x", "major": 1, "minor": 3} | echo ran
unknown type | /linux/devices += {"path": "/dev/x", "type": "z", "major": 1, "minor": 3} | echo ran
"#;

/// A directory of devices, a link to one, one that a container has anyway, and one that isn't there.
///
/// containerd/containerd#7329
fn of_a_plugin(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.shell("mkdir d; mknod d/n0 c 1 3; mknod d/n1 c 1 5; ln -s n0 d/link")?;
    let at = side.at().join("d");
    let pod = side.pod(Value::Null)?;
    let device = |to: &str, host: String, access: &str| json!({ "container_path": to, "host_path": host, "permissions": access });
    let host = |name: &str| at.join(name).to_string_lossy().into_owned();
    let more = json!({
        "devices": [
            device("/dev/plug", host(""), "rwm"),
            device("/dev/bylink", host("link"), "r"),
            device("/dev/null", "/dev/null".to_owned(), "rwm"),
        ],
        "linux": { "security_context": { "run_as_user": { "value": 1000 } } },
    });
    let look =
        "stat -c '%n %A %u:%g %t:%T' /dev/plug/* /dev/bylink /dev/null; echo x > /dev/bylink";
    side.look_in_pod(&pod, "a directory and a link", seen, more, look)?;
    let missing = json!({ "devices": [device("/dev/x", "/dev/nosuch".to_owned(), "rwm")] });
    side.look_in_pod(&pod, "missing", seen, missing, "true")?;
    let asked = json!({ "CDI_devices": [{ "name": "field.test/dev=a" }] });
    side.look_in_pod(
        &pod,
        "asked by name, where there is no list",
        seen,
        asked,
        "true",
    )
}
