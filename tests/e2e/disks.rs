//! Root filesystems that are disks in the guest: images and block devices, as containerd's snapshotters
//! give them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::Rig;
use rig::command::{self, Finished};
use rig::cri::{ContainerSpec, Pod, PodSpec};
use rig::images::{BASE, WEB};

use crate::e2e::{Body, Env, same};

/// What the names of these trials begin with.
pub const PART: &str = "disks::";

pub const TRIALS: &[(&str, Body)] = &[
    ("disks::of_a_block_snapshotter", of_a_block_snapshotter),
    ("disks::of_erofs_layers", of_erofs_layers),
    ("disks::of_one_erofs_layer", of_one_erofs_layer),
    ("disks::below_a_directory", below_a_directory),
    ("disks::of_a_pod", of_a_pod),
];

const LIMIT: Duration = Duration::from_secs(120);

/// How the erofs snapshotter is configured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Erofs {
    /// What is written goes to a disk.
    Disks,
    /// The same, and the handler's pods use it.
    DisksOfPods,
    /// What is written goes to a directory of the node's.
    Directories,
}

/// Has the node's containerd use snapshotters of disks, small ones.
///
/// # Errors
/// If it does not come back.
pub fn with_snapshotters(env: &Env, erofs: Erofs) -> Result<()> {
    let at = env.rig.directory();
    let scratch = at.join("scratch.ext4");
    let size = match erofs {
        Erofs::Disks | Erofs::DisksOfPods => "64MiB",
        Erofs::Directories => "",
    };
    // With trees `ctr run` has its containerd make a verity device of each layer, and waits for a name of it
    // that udev gives, which the test VM has not.
    let trees = match erofs {
        Erofs::DisksOfPods => "auto",
        Erofs::Disks | Erofs::Directories => "off",
    };
    let mut more = format!(
        "version = 3\n\
         [plugins.'io.containerd.snapshotter.v1.blockfile']\n\
         scratch_file = '{}'\n\
         [plugins.'io.containerd.snapshotter.v1.erofs']\n\
         default_size = '{size}'\n\
         dmverity_mode = '{trees}'\n",
        scratch.display()
    );
    if erofs == Erofs::DisksOfPods {
        more += "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.trefoil-vm]\n\
                 runtime_type = 'io.containerd.trefoil-vm.v2'\n\
                 snapshotter = 'erofs'\n";
        more += rig::confidential::HANDLER;
    }
    let file = at.join("conf.d/disks.toml");
    if fs::read_to_string(&file).is_ok_and(|now| now == more) {
        return Ok(());
    }
    if !scratch.exists() {
        rig::erofs::configure(&env.rig)?;
        let mut make = env.rig.command("mkfs.ext4")?;
        make.arg("-q").arg(&scratch).arg("64M");
        command::run(&mut make, &[], LIMIT)?.success()?;
    }
    env.rig.reconfigure("disks.toml", &more)
}

fn ctr(rig: &Rig, words: &[&str]) -> Result<Finished> {
    command::run(&mut rig.ctr_command(words)?, &[], LIMIT)
}

/// Makes a container whose root is by this snapshotter, and starts it.
fn start(env: &Env, snapshotter: &str, image: &str, id: &str) -> Result<()> {
    let words = [
        "--detach",
        "--snapshotter",
        snapshotter,
        image,
        id,
        "sleep",
        "1000",
    ];
    command::run(&mut env.rig.ctr_run(env.handler, &words)?, &[], LIMIT)?.success()?;
    Ok(())
}

/// Runs a shell's line in it.
fn line(env: &Env, id: &str, line: &str) -> Result<String> {
    let words = ["tasks", "exec", "--exec-id", "line", id, "sh", "-c", line];
    let fifo = env.rig.directory().join("fifo");
    let mut words = words.to_vec();
    let fifo = fifo.to_string_lossy();
    words.splice(2..2, ["--fifo-dir", &fifo]);
    Ok(ctr(&env.rig, &words)?.success()?.stdout())
}

/// Ends its task, and starts another if it is to.
fn stop(env: &Env, id: &str) -> Result<()> {
    ctr(&env.rig, &["tasks", "rm", "--force", id])?.success()?;
    Ok(())
}

fn start_again(env: &Env, id: &str) -> Result<()> {
    let fifo = env.rig.directory().join("fifo");
    let fifo = fifo.to_string_lossy();
    ctr(
        &env.rig,
        &["tasks", "start", "--detach", "--fifo-dir", &fifo, id],
    )?
    .success()?;
    Ok(())
}

/// What is mounted as the root: the device, and the filesystem.
fn root(env: &Env, id: &str) -> Result<(String, String)> {
    let mounts = line(env, id, "cat /proc/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, words.next()?, words.next()?);
        (place == "/").then(|| (device.to_owned(), kind.to_owned()))
    });
    root.with_context(|| format!("nothing is mounted as the root: {mounts}"))
}

/// Nothing of the images is mounted on the node, where another kernel than the guest's would read them.
fn nothing_mounted_here(env: &Env) -> Result<()> {
    let pid = env.rig.daemon_pid()?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let at = env.rig.directory().join("root");
    let at = at.to_string_lossy();
    for line in mounts.lines() {
        let is_image = ["erofs", "ext4"]
            .iter()
            .any(|kind| line.contains(&format!(" {kind} ")));
        ensure!(
            !(is_image && line.contains(&*at)),
            "the node has mounted {line}"
        );
    }
    Ok(())
}

/// The way of devmapper as well: one filesystem on one device.
fn of_a_block_snapshotter(env: &Env) -> Result<()> {
    with_snapshotters(env, Erofs::Disks)?;
    start(env, "blockfile", BASE, "block")?;
    let (device, kind) = root(env, "block")?;
    same("the root's filesystem", kind.as_str(), "ext4")?;
    ensure!(device.starts_with("/dev/vd"), "the root is on {device}");
    nothing_mounted_here(env)?;
    let written = "head -c 8388608 /dev/urandom > /file && sha256sum < /file";
    let sum = line(env, "block", written)?;
    // The next machine finds what was written in the last one, and what was there before.
    stop(env, "block")?;
    start_again(env, "block")?;
    same("the file", line(env, "block", "sha256sum < /file")?, sum)?;
    ensure!(
        line(env, "block", "ls /bin")?.lines().count() > 10,
        "there are no programs"
    );
    stop(env, "block")
}

fn of_erofs_layers(env: &Env) -> Result<()> {
    with_snapshotters(env, Erofs::Disks)?;
    env.rig.ctr_pull(WEB)?;
    start(env, "erofs", WEB, "layers")?;
    let (_, kind) = root(env, "layers")?;
    same("the root's filesystem", kind.as_str(), "overlay")?;
    let options = line(env, "layers", "grep ' / ' /proc/mounts")?;
    for part in ["layer0", "layer1", "upperdir=", "workdir="] {
        ensure!(options.contains(part), "no {part} in {options}");
    }
    ensure!(
        !options.contains("layer2"),
        "there are two layers: {options}"
    );
    nothing_mounted_here(env)?;
    // The disks: one of both layers, in two partitions, that can't be written; one that can.
    let disks = line(
        env,
        "layers",
        "for d in /sys/block/vd*; do echo $(cat $d/ro) $(ls -d $d/vd* 2>/dev/null | wc -l); done",
    )?;
    same("the disks", disks.as_str(), "1 2\n0 0\n")?;
    // Of the upper layer and of the one below it, and what is changed and removed of both.
    line(env, "layers", "test -x /usr/sbin/nginx && test -x /bin/sh")?;
    let change = "echo more >> /etc/nginx/nginx.conf && rm -r /www && echo new > /etc/passwd && sha256sum < /etc/nginx/nginx.conf";
    let sum = line(env, "layers", change)?;
    stop(env, "layers")?;
    start_again(env, "layers")?;
    let found = line(
        env,
        "layers",
        "test ! -e /www && cat /etc/passwd && sha256sum < /etc/nginx/nginx.conf",
    )?;
    same("what was changed", found, format!("new\n{sum}"))?;
    stop(env, "layers")
}

/// An overlay of one layer is told in other words.
fn of_one_erofs_layer(env: &Env) -> Result<()> {
    with_snapshotters(env, Erofs::Disks)?;
    let mut words = vec!["--rm", "--snapshotter", "erofs", BASE, "one"];
    words.extend(["sh", "-c", "echo new > /file && cat /file /proc/mounts"]);
    let done = command::run(&mut env.rig.ctr_run(env.handler, &words)?, &[], LIMIT)?;
    let said = done.success()?.stdout();
    ensure!(
        said.starts_with("new\n") && said.contains(" / overlay "),
        "it says {said}"
    );
    Ok(())
}

/// With a directory for what is written it is the node that makes the overlay, and nothing is lost.
fn below_a_directory(env: &Env) -> Result<()> {
    with_snapshotters(env, Erofs::Directories)?;
    env.rig.ctr_pull(WEB)?;
    start(env, "erofs", WEB, "shared")?;
    let (_, kind) = root(env, "shared")?;
    same("the root's filesystem", kind.as_str(), "virtiofs")?;
    line(env, "shared", "rm -r /www && echo new > /file")?;
    stop(env, "shared")?;
    start_again(env, "shared")?;
    let found = line(
        env,
        "shared",
        "test ! -e /www && test -x /bin/sh && cat /file",
    )?;
    same("the file", found.as_str(), "new\n")?;
    stop(env, "shared")
}

/// More containers in one machine than it has places for disks, two at a time: those of a container that
/// is removed are another's.
fn of_a_pod(env: &Env) -> Result<()> {
    with_snapshotters(env, Erofs::DisksOfPods)?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let beside = pod.start(&ContainerSpec::idle())?;
    for number in 0..5 {
        let line = format!("echo {number} > /file && cat /file && grep ' / ' /proc/mounts");
        let container = pod.start(&ContainerSpec::shell(&line))?;
        same("end", container.ended()?.0, 0)?;
        let said = String::from_utf8(container.logged("stdout")?)?;
        let expected = format!("{number}\n");
        ensure!(
            said.starts_with(&expected) && said.contains(" / overlay "),
            "it says {said}"
        );
        env.rig.crictl(&["rm", &container.id])?.success()?;
    }
    let file = beside.exec(&["sh", "-c", "test ! -e /file && echo none"])?;
    same("another's file", file.text()?, "none".to_owned())?;
    nothing_mounted_here(env)?;
    pod.stop()?;
    pod.remove()?;
    // Later pods are as they were.
    with_snapshotters(env, Erofs::Disks)
}
