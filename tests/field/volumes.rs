//! Volumes whose mount points are links, and images as volumes.

use std::os::unix::net::UnixListener;

use anyhow::Result;
use rig::archive;
use rig::cri::ContainerSpec;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, shell};

pub const TRIALS: &[Scenario] = &[
    ("volumes::dangling_links", dangling_links),
    (
        "volumes::image_with_a_dangling_link",
        image_with_a_dangling_link,
    ),
    ("volumes::time_zone", time_zone),
    ("volumes::many_layers", many_layers),
];

/// A volume's mount point is a link to what isn't there yet: systemd-resolved's, in Ubuntu's images.
fn dangling_links(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after(
        "rm -f etc/resolv.conf; ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf\n\
         ln -s /mnt/data data; [ -e var/run ] || ln -s /run var/run",
    )?;
    side.shell("echo nameserver 9.9.9.9 > resolv; mkdir vol; echo v > vol/f")?;
    let socket = UnixListener::bind(side.at().join("s"))?;
    let table = r#"
file | /mounts += {"destination": "/etc/resolv.conf", "type": "bind", "source": "$AT/resolv", "options": ["rbind", "ro"]} | cat /etc/resolv.conf; readlink /etc/resolv.conf
directory | /mounts += {"destination": "/data", "type": "bind", "source": "$AT/vol", "options": ["rbind"]} | ls /data /mnt/data
socket | /mounts += {"destination": "/var/run/docker.sock", "type": "bind", "source": "$AT/s", "options": ["rbind"]} | stat -c %F /run/docker.sock
"#;
    side.table_over(seen, table, |spec| spec.root(&root))?;
    drop(socket);
    Ok(())
}

/// The same in an image, where containerd mounts `/etc/resolv.conf` in every container.
fn image_with_a_dangling_link(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.shell("mkdir -p layer/etc; ln -s ../run/resolve/stub.conf layer/etc/resolv.conf")?;
    let image = format!("images.test/field-dangling-{}:1", side.handler);
    archive::import(
        side.rig,
        &image,
        &[side.at().join("layer")],
        &side.at().join("scratch"),
    )?;
    let pod = side.pod(json!({ "dns_config": { "servers": ["9.9.9.9"] } }))?;
    let more = json!({ "image": { "image": image } });
    side.look_in_pod(
        &pod,
        "a pod's",
        seen,
        more,
        "cat /etc/resolv.conf; ls -R /run/resolve",
    )
}

/// The node's time zone over what an image has there: links of many kinds, a directory, nothing.
///
/// moby/moby#16481, containers/podman#9450, vanilla-os/live-iso#145
fn time_zone(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.shell("printf TZif-host > tz; mkdir tzdir; ln -s tz tzlink; mkdir zi; echo hz > zi/UTC")?;
    const UTC: &str = "mkdir -p usr/share/zoneinfo/Etc; echo utc > usr/share/zoneinfo/Etc/UTC; ";
    for (part, prepare, source) in [
        (
            "a link",
            "ln -s /usr/share/zoneinfo/Etc/UTC etc/localtime",
            "tz",
        ),
        (
            "relative, two links",
            "ln -s Etc/UTC usr/share/zoneinfo/UTC; ln -s ../usr/share/zoneinfo/UTC etc/localtime",
            "tz",
        ),
        (
            "dangling",
            "ln -s /usr/share/nowhere/UTC etc/localtime",
            "tz",
        ),
        (
            "dangling and climbing",
            "ln -s ../../../../usr/share/no/GMT etc/localtime",
            "tz",
        ),
        (
            "a loop",
            "ln -s localtime2 etc/localtime; ln -s localtime etc/localtime2",
            "tz",
        ),
        ("into /proc", "ln -s /proc/self/mounts etc/localtime", "tz"),
        ("a directory", "mkdir etc/localtime", "tz"),
        ("nothing", "true", "tz"),
        (
            "a directory over a file",
            "ln -s /usr/share/zoneinfo/Etc/UTC etc/localtime",
            "tzdir",
        ),
        (
            "/etc is a link",
            "mv etc cfg; ln -s cfg etc; ln -s /usr/no/UTC cfg/localtime",
            "tz",
        ),
        (
            "the node's is a link",
            "ln -s /usr/share/zoneinfo/Etc/UTC etc/localtime",
            "tzlink",
        ),
        (
            "over a volume",
            "ln -s /zi/UTC etc/localtime; mkdir zi",
            "tz",
        ),
    ] {
        let root = side.root_after(&format!("rm -f etc/localtime; {UTC}{prepare}"))?;
        let mut spec = side.spec()?.root(&root);
        if part == "over a volume" {
            spec = spec.bind(&side.at().join("zi"), "/zi", "rbind");
        }
        let spec = spec.bind(&side.at().join(source), "/etc/localtime", "rbind,ro");
        let look = "head -c 5 /etc/localtime; echo; readlink /etc/localtime
            grep -E ' /(etc|usr|zi|cfg)' /proc/self/mountinfo | cut -d' ' -f5";
        seen.ended(part, &side.run(&spec.shell(look))?);
    }
    seen.add("over a volume", &side.shell("cat zi/UTC")?);
    Ok(())
}

/// An image of many layers, whose mount options are longer than a page, and an image as a volume.
///
/// KEP-4639
fn many_layers(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    side.shell("for i in $(seq 80); do mkdir -p $i/many; echo $i > $i/many/f$i; done")?;
    let layers: Vec<_> = (1..=80)
        .map(|number| side.at().join(number.to_string()))
        .collect();
    let name = format!("images.test/field-many-{}:1", side.handler);
    archive::import(side.rig, &name, &layers, &side.at().join("scratch"))?;
    let pod = side.pod(Value::Null)?;
    let spec = ContainerSpec {
        image: name.clone(),
        ..ContainerSpec::idle()
    };
    match pod.start(&spec) {
        Ok(container) => seen.printed("layers", &shell(&container, "ls /many | wc -l")?),
        Err(error) => seen.refused("layers", &format!("{error:#}")),
    }
    let image = json!({ "image": name });
    let more = json!({ "mounts": [
        { "container_path": "/img", "image": image, "readonly": true },
        { "container_path": "/sub", "image": image, "image_sub_path": "many", "readonly": true },
    ] });
    let look = "ls /img/many | wc -l; ls /sub | wc -l; touch /img/x";
    side.look_in_pod(&pod, "as a volume", seen, more, look)
}
