//! What a guest has is there for privileged containers: its devices, and places for what Docker and its like
//! keep.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rig::cri::{ContainerSpec, Pod, PodSpec};
use serde_json::{Value, json};

use crate::e2e::{Body, Env, same};

/// What the names of these trials begin with.
pub const PART: &str = "privileged::";

pub const TRIALS: &[(&str, Body)] = &[
    ("privileged::devices", devices),
    ("privileged::overlay", overlay),
    ("privileged::asked_device", asked_device),
];

fn privileged() -> Value {
    json!({ "linux": { "security_context": { "privileged": true } } })
}

fn pod(env: &Env) -> Result<Pod<'_>> {
    let spec = PodSpec {
        more: privileged(),
        ..PodSpec::default()
    };
    Pod::run(&env.rig, env.handler, spec)
}

/// Mounts a FUSE filesystem that nobody serves, which takes no more than that the device is one.
const FUSE: &str = "mkdir -p /f && exec 3<>/dev/fuse && \
    mount -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 none /f && umount -l /f && echo fuse";

/// They are there, and are what they are called.
fn devices(env: &Env) -> Result<()> {
    let mut spec = ContainerSpec::idle();
    spec.more = privileged();
    let container = pod(env)?.start(&spec)?;
    let said = |line: &str| container.exec(&["sh", "-c", line])?.text();
    same("fuse", said(FUSE)?.as_str(), "fuse")?;
    let tun = "exec 3<>/dev/net/tun && echo tun";
    same("tun", said(tun)?.as_str(), "tun")?;
    let kmsg = "dd if=/dev/kmsg bs=8192 count=1 2>/dev/null | wc -l";
    ensure!(said(kmsg)?.as_str() != "0", "/dev/kmsg says nothing");
    let looped = "dd if=/dev/zero of=/image bs=1M count=1 2>/dev/null && device=$(losetup -f) && \
        losetup $device /image && losetup $device | grep -c /image; losetup -d $device; \
        [ -e /dev/loop-control ] && echo $device";
    same("a loop device", said(looped)?.as_str(), "1\n/dev/loop0")?;
    let disks = "ls /dev | grep -c '^vd' || true";
    same("disks", said(disks)?.as_str(), "0")
}

/// Makes an overlay, all of it in the working directory, and changes something in each way that leaves a mark.
const OVERLAY: &str = "mkdir -p lower/below upper work merged && echo below > lower/file && \
    touch lower/gone lower/below/gone && \
    mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged && \
    echo above > merged/file && rm -r merged/gone merged/below && mkdir merged/below && \
    cat lower/file upper/file && ls merged merged/below && umount merged";

/// Where Docker and its like keep their layers an overlay can have its upper directory: on a volume, and on a
/// tmpfs that the container mounts.
fn overlay(env: &Env) -> Result<()> {
    let volume = env.rig.directory().join("logs/layers");
    fs::create_dir_all(&volume)?;
    let mut spec = ContainerSpec::idle();
    spec.mounts = vec![(volume, "/var/lib/docker".into())];
    spec.more = privileged();
    let container = pod(env)?.start(&spec)?;
    for place in [
        "cd /var/lib/docker",
        "mkdir -p /memory && mount -t tmpfs none /memory && cd /memory",
    ] {
        let line = format!("{place} && {OVERLAY}");
        let said = container.exec(&["sh", "-c", &line])?.text()?;
        let wanted = "below\nabove\nmerged:\nbelow\nfile\n\nmerged/below:";
        same(place, said.as_str(), wanted)?;
    }
    Ok(())
}

/// What a device plugin asks for is the guest's own, where guests have it.
fn asked_device(env: &Env) -> Result<()> {
    let of_the_host = env.rig.directory().join("fuse");
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&of_the_host, SFlag::S_IFCHR, mode, makedev(10, 229))?;
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let mut spec = ContainerSpec::idle();
    spec.more = json!({ "devices": [
        { "host_path": of_the_host, "container_path": "/dev/fuse", "permissions": "rwm" },
    ] });
    let container = pod.start(&spec)?;
    let line = "exec 3<>/dev/fuse && ls /dev/loop-control /dev/kmsg 2>/dev/null | wc -l";
    same(
        "others",
        container.exec(&["sh", "-c", line])?.text()?.as_str(),
        "0",
    )
}
