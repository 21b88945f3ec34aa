//! Roots that lead a runtime out of them: links of an image's in the place of what it makes or covers.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Result;
use rig::archive;
use rig::cri::ContainerSpec;
use serde_json::{Value, json};

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::{Side, shell};

pub const TRIALS: &[Scenario] = &[
    ("root::dev_is_a_link", dev_is_a_link),
    ("root::image_whose_dev_is_a_link", image_whose_dev_is_a_link),
    ("root::odd_images", odd_images),
    ("root::null_is_a_link", null_is_a_link),
    ("root::volume_over_proc", volume_over_proc),
    ("root::masked_through_links", masked_through_links),
    ("root::masked_in_a_race", masked_in_a_race),
    ("root::writes_to_proc_redirected", writes_to_proc_redirected),
    (
        "root::exec_where_proc_is_covered",
        exec_where_proc_is_covered,
    ),
];

/// The image's `/dev` is a link to a directory of the node's.
///
/// CVE-2026-41579, GHSA-xjvp-4fhw-gc47
fn dev_is_a_link(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for (part, prepare) in [
        ("not in the image", "true"),
        ("in the image, too", "mkdir -p \"$ROOT$CANARY\""),
        ("with pts in the image", "mkdir -p \"$ROOT$CANARY/pts\""),
    ] {
        let canary = side.canary(&part.replace([' ', ','], "-"))?;
        let at = canary.path.display();
        let line = format!("ROOT=$PWD CANARY={at}; rmdir dev; ln -s {at} dev; {prepare}");
        let root = side.root_after(&line)?;
        let spec = side.spec()?.root(&root);
        let spec = spec.shell("ls /dev | tr '\\n' ' '; test -c /dev/null && echo null; echo ran");
        seen.ended(part, &side.run(&spec)?);
        canary.check(part, seen)?;
    }
    Ok(())
}

/// An unprivileged pod's image does the same.
///
/// CVE-2026-41579
fn image_whose_dev_is_a_link(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let canary = side.canary("canary")?;
    let layer = side.directory("layer")?;
    let at = canary.path.display();
    side.shell(&format!("ln -s {at} layer/dev; mkdir -p layer{at}"))?;
    let name = format!("images.test/field-dev-{}:1", side.handler);
    archive::import(side.rig, &name, &[layer], &side.at().join("scratch"))?;
    let pod = side.pod(Value::Null)?;
    let spec = ContainerSpec {
        image: name,
        ..ContainerSpec::idle()
    };
    match pod.start(&spec) {
        Ok(container) => seen.printed("run", &shell(&container, "test -c /dev/null && echo null")?),
        Err(error) => seen.refused("run", &format!("{error:#}")),
    }
    canary.check("run", seen)
}

/// Unprivileged pods' images have odd things where a runtime makes, covers and enters something. Whether
/// they run is each runtime's affair; nothing of the node's is touched.
fn odd_images(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    const PLACES: [&str; 6] = ["dev", "proc", "sys", "dev/shm", "etc/hosts", "work"];
    const KINDS: [(&str, &str); 5] = [
        ("link", "ln -s $CANARY $PLACE"),
        (
            "climbing link",
            "ln -s ../../../../../../../..$CANARY $PLACE",
        ),
        ("link to what is not there", "ln -s $CANARY/new/one $PLACE"),
        (
            "directory of links",
            "mkdir $PLACE; for name in null zero pts shm ptmx console fd stdin sys kcore fs hosts; do \
             ln -s $CANARY/file $PLACE/$name; done",
        ),
        ("FIFO", "mkfifo $PLACE"),
    ];
    // An image takes ten seconds where a processor is emulated; the kernel matters little.
    let kinds = if rig::test_vm::inside() {
        1
    } else {
        KINDS.len()
    };
    let pod = side.pod(Value::Null)?;
    let canary = side.canary("canary")?;
    let at = canary.path.display();
    for place in PLACES {
        for (kind, made) in &KINDS[..kinds] {
            let name = format!("{}-{}", place.replace('/', "-"), kind.replace(' ', "-"));
            let layer = side.directory(&name)?;
            side.shell(&format!(
                "cd {}; CANARY={at} PLACE={place}; mkdir -p $(dirname $PLACE); {made}",
                layer.display()
            ))?;
            let image = format!(
                "images.test/field-{}-{}:1",
                name.to_lowercase(),
                side.handler
            );
            archive::import(side.rig, &image, &[layer], &side.at().join("scratch"))?;
            let spec = ContainerSpec {
                image,
                more: json!({"working_dir": "/work"}),
                ..ContainerSpec::shell(
                    "echo w > /dev/null; echo w > /dev/shm/new; echo w > new; true",
                )
            };
            if let Ok(container) = pod.start(&spec) {
                container.ended()?;
            }
            canary.check(&format!("{place} is a {kind}"), seen)?;
        }
    }
    Ok(())
}

/// Nothing is mounted on `/dev`, and what a runtime makes there is a link of the image's.
///
/// CVE-2026-88265, containers/crun#2249
fn null_is_a_link(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for (part, prepare, options) in [
        ("not in the image", "true", &[][..]),
        (
            "in the image, too",
            "mkdir -p \"$ROOT$CANARY\"; echo image > \"$ROOT$CANARY/file\"",
            &[],
        ),
        ("null streams", "true", &["--null-io"]),
    ] {
        let canary = side.canary(&part.replace([' ', ','], "-"))?;
        let at = canary.path.display();
        let line = format!("ROOT=$PWD CANARY={at}; ln -s {at}/file dev/null; {prepare}");
        let root = side.root_after(&line)?;
        let spec = side.spec()?.root(&root).without_mounts("/dev");
        let spec = spec.user(1000);
        let spec = spec.shell("ls -l /dev/null | cut -c1-10; echo w >/dev/null; echo ran");
        seen.ended(part, &side.run_with(&spec, options)?);
        canary.check(part, seen)?;
    }
    Ok(())
}

/// A volume whose mount point is in `/proc`, by name or by a link.
///
/// CVE-2019-16884, CVE-2019-19921, CVE-2023-28642
fn volume_over_proc(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after("ln -s /proc data; ln -s /proc/sys/kernel data2")?;
    let fake = side.directory("fake")?;
    fs::write(fake.join("file"), "fake")?;
    let spec = side.spec()?.root(&root);
    let look = "ls /proc | grep -c -x file; ls /proc/sys/kernel | grep -c -x file";
    for (part, at) in [
        ("at /proc", "/proc"),
        ("by a link", "/data"),
        ("by a link to what is below", "/data2"),
    ] {
        let ended = side.run(&spec.clone().bind(&fake, at, "rbind").shell(look))?;
        seen.ended(part, &ended);
    }
    let look = "grep -c '/proc/sys tmpfs' /proc/self/mounts";
    let spec = spec.mount("/data/sys", "tmpfs", "tmpfs", "rw").shell(look);
    let ended = side.run(&spec)?;
    seen.ended("tmpfs by a link", &ended);
    let pod = side.pod(Value::Null)?;
    let volume = json!({ "mounts": [{ "container_path": "/proc/sys", "host_path": fake }] });
    let look = "echo w > /proc/sys/written && echo writable";
    side.look_in_pod(&pod, "a pod's volume", seen, volume, look)
}

/// A `/dev` that is a volume, first of the mounts after `/proc`.
fn dev_volume(side: &Side<'_>) -> Result<(crate::field::spec::Spec, std::path::PathBuf)> {
    let volume = side.directory("dev-volume")?;
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir_all(volume.join(name))?;
    }
    let mut spec = side.spec()?;
    if let Some(mount) = spec.0.pointer_mut("/mounts/1") {
        *mount = json!({
            "destination": "/dev", "type": "bind", "source": volume, "options": ["rbind"],
        });
    }
    Ok((spec, volume))
}

/// What is masked or read-only, and what masks are made of, is chosen by links.
///
/// CVE-2025-31133, GHSA-3q8j-pf29-vwv8, youki-dev/youki#3561
fn masked_through_links(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let root = side.root_after(
        "mkdir -p secret roreal/d; echo s > secret/f; echo x > roreal/f; ln -s roreal rolink\n\
         ln -s /proc/sysrq-trigger mlink; ln -s secret maskdir",
    )?;
    let spec = side.spec()?.root(&root).edit(
        "/linux/maskedPaths += \"/maskdir\", \"/mlink\" ; \
         /linux/readonlyPaths += \"/rolink\", \"/roreal/f\"",
    )?;
    let spec = spec.shell(
        "ls /secret; touch /roreal/d/n && echo written; echo w > /roreal/f\n\
         grep -c sysrq-trigger /proc/self/mountinfo; head -c 3 /proc/kcore | wc -c",
    );
    seen.ended("links of the image", &side.run(&spec)?);

    let part = "/dev/null is a link";
    let (spec, volume) = dev_volume(side)?;
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", volume.join("null"))?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let spec = spec.shell("echo hacked > /proc/keys; grep -c core_pattern /proc/self/mountinfo");
    let ended = side.run(&spec)?;
    let same = fs::read_to_string("/proc/sys/kernel/core_pattern")? == pattern;
    seen.ended(part, &ended);
    seen.add(part, &format!("the node's setting as before: {same}"));
    seen.add(part, &side.shell("ls dev-volume | tr '\\n' ' '")?);
    Ok(())
}

/// Something that is done on the node again and again until this is dropped.
struct Meanwhile(Child);

impl Meanwhile {
    fn run(side: &Side<'_>, line: &str) -> Result<Self> {
        let mut shell = side.rig.command("sh")?;
        let line = format!("while :; do {line}; done");
        shell.args(["-c", &line]).current_dir(side.at());
        rig::command::end_with_us(&mut shell);
        let shell = shell.stderr(Stdio::null()).stdout(Stdio::null());
        Ok(Self(shell.spawn()?))
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Another container, through a volume, swaps what masks are made of, or a path's parent.
///
/// CVE-2025-31133, GHSA-3q8j-pf29-vwv8
fn masked_in_a_race(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    const ROUNDS: usize = 5;
    let (spec, _) = dev_volume(side)?;
    let spec =
        spec.shell("echo ran; cat /proc/keys | wc -c; grep -c core_pattern /proc/self/mountinfo");
    let swap = "ln -sfn /proc/sys/kernel/core_pattern dev-volume/null; rm -f dev-volume/null; \
                mknod dev-volume/null c 1 3; rm -f dev-volume/null";
    let mut unmasked = 0;
    let meanwhile = Meanwhile::run(side, swap)?;
    for _ in 0..ROUNDS {
        let ended = side.run(&spec)?;
        let lines: Vec<&str> = ended.out.lines().collect();
        if lines.first() == Some(&"ran") && lines.get(1..) != Some(&["0", "0"]) {
            unmasked += 1;
            seen.aside("null swapped", &ended.out);
        }
    }
    drop(meanwhile);
    seen.add("null swapped", &format!("unmasked: {unmasked}"));

    let volume = side.directory("volume")?;
    side.shell("mkdir -p volume/a/x volume/b")?;
    let spec = side.spec()?.bind(&volume, "/v", "rbind");
    let spec = spec.push("/linux/readonlyPaths", json!("/v/a/x"));
    let spec = spec.shell("echo ran; grep -c ' /v/b ' /proc/self/mountinfo");
    let meanwhile = Meanwhile::run(
        side,
        "mv volume/a volume/c; ln -s b volume/a; rm volume/a; mv volume/c volume/a",
    )?;
    let mut elsewhere = 0;
    for _ in 0..ROUNDS {
        let ended = side.run(&spec)?;
        if ended.out.starts_with("ran\n") && ended.out.lines().nth(1) != Some("0") {
            elsewhere += 1;
        }
    }
    drop(meanwhile);
    seen.add("parent swapped", &format!("elsewhere: {elsewhere}"));
    Ok(())
}

/// The runtime's own writes, to what an image or a volume put in the place of `/proc`.
///
/// CVE-2025-52881, GHSA-cgrx-mc8f-2prm
fn writes_to_proc_redirected(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let make = "mkdir -p fake/sys/kernel fake/sys/net/ipv4 fake/self/attr fake/thread-self/attr\n\
                for f in sys/kernel/shmmax sys/net/ipv4/ip_forward self/oom_score_adj self/attr/exec\n\
                do echo orig > fake/$f; done";
    side.shell(make)?;
    let written =
        || side.shell("grep -r -v orig fake root-*/proc | sed s/root-[0-9]*/root/ || true");
    let sysctl = json!({ "kernel.shmmax": "123456", "net.ipv4.ip_forward": "1" });
    let spec = side.spec()?.set("/linux/sysctl", sysctl);
    let spec = spec.set("/process/oomScoreAdj", json!(500));
    let fake = side.at().join("fake");
    let volume =
        json!({ "destination": "/vol", "type": "bind", "source": fake, "options": ["rbind"] });

    let by_link = side.root_after("rmdir proc; ln -s /vol proc; mkdir vol")?;
    let tree = side.root_after("rmdir proc; cp -a ../fake proc")?;
    let bare = spec.clone().without_mounts("/proc");
    let cases = [
        (
            "/proc is a link to a volume",
            spec.clone().root(&by_link).mount_first(volume),
        ),
        (
            "the image has a tree at /proc",
            bare.clone()
                .root(&tree)
                .edit("/linux/maskedPaths = [] ; /linux/readonlyPaths = []")?,
        ),
        (
            "a tmpfs is /proc",
            bare.mount("/proc", "tmpfs", "tmpfs", "rw"),
        ),
        (
            "a file of /proc covers a sysctl's",
            spec.bind("/proc/version".as_ref(), "/proc/sys/kernel/shmmax", "bind"),
        ),
    ];
    for (part, spec) in cases {
        seen.ended(part, &side.run(&spec.args(&["echo", "ran"]))?);
        seen.add(part, &written()?);
    }
    let swappiness = fs::read_to_string("/proc/sys/vm/swappiness")?;
    for (part, name) in [
        ("a sysctl that climbs", "kernel/../vm/swappiness"),
        (
            "a sysctl that climbs to what is its own",
            "net/../kernel/shmmax",
        ),
    ] {
        let spec = side.spec()?.set("/linux/sysctl", json!({ name: "61" }));
        seen.ended(part, &side.run(&spec.args(&["echo", "ran"]))?);
    }
    let same = fs::read_to_string("/proc/sys/vm/swappiness")? == swappiness;
    seen.add(
        "a sysctl that climbs",
        &format!("the node's as before: {same}"),
    );
    Ok(())
}

/// A container covers its own `/proc`, and then a command is run in it.
///
/// CVE-2025-52881
fn exec_where_proc_is_covered(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let cover = "mkdir -p /run/f/self/attr /run/f/1/attr; touch /run/f/self/attr/exec; \
                 mount --bind /run/f /proc; sleep 600";
    let id = side.started(&side.spec()?.capable(&["CAP_SYS_ADMIN"]).shell(cover))?;
    let covered = || -> Result<bool> {
        let pid = side.pid(&id)?;
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
        let proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
        Ok(table.lines().filter(proc).count() == 2)
    };
    rig::command::until("the covered /proc", Duration::from_secs(10), covered)?;
    let line = "echo in; find /run/f -type f -size +0; cat /run/f/self/attr/exec";
    let ended = side.exec(&id, &[], &["sh", "-c", line])?;
    seen.ended("exec", &ended);
    side.remove(&id);
    Ok(())
}
