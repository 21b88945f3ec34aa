//! Terminals: whose they are, and what stands where a runtime puts them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

use crate::field::Scenario;
use crate::field::seen::Seen;
use crate::field::side::Side;

/// How a `/dev/pts` is mounted.
const PTS: &str = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620";

pub const TRIALS: &[Scenario] = &[
    ("terminal::of_its_user", of_its_user),
    ("terminal::console_is_a_link", console_is_a_link),
    ("terminal::dev_is_a_volume", dev_is_a_volume),
];

/// A terminal is its user's.
///
/// CVE-2025-52565
fn of_its_user(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let look = "tty; stat -c '%n %a %u:%g' /dev/console $(tty); ls -l /dev/ptmx | cut -c1-10; \
                echo to-console > /dev/console; echo to-pts > $(tty)";
    let spec = side.spec()?.args(&["sh", "-c", look]);
    seen.ended("root", &side.run_on_terminal(&spec)?);
    seen.ended("user", &side.run_on_terminal(&spec.user(1000))?);
    Ok(())
}

/// Nothing is mounted on `/dev`, and `/dev/console` is a link of the image's.
///
/// CVE-2026-88264, containers/crun#2249
fn console_is_a_link(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    for (part, target, prepare) in [
        ("to what isn't there", "made", "true"),
        ("read-only root", "made", "true"),
        (
            "to a file",
            "file",
            "mkdir -p \"$ROOT$CANARY\"; touch \"$ROOT$CANARY/file\"",
        ),
    ] {
        let canary = side.canary(&part.replace([' ', '\''], "-"))?;
        let at = canary.path.display();
        let line = format!(
            "ROOT=$PWD CANARY={at}; mkdir -p dev/pts; ln -s {at}/{target} dev/console; {prepare}"
        );
        let root = side.root_after(&line)?;
        let spec = side.spec()?.root(&root).user(1000).without_mounts("/dev");
        let spec = spec.mount("/dev/pts", "devpts", "devpts", PTS);
        let spec = spec.set("/root/readonly", json!(part == "read-only root"));
        let spec = spec.shell("echo w > /dev/console; echo ran");
        seen.ended(part, &side.run_on_terminal(&spec)?);
        canary.check(part, seen)?;
    }
    Ok(())
}

/// A volume at `/dev` holds links, for another container to choose where a terminal is put.
///
/// CVE-2025-52565, GHSA-qw9x-cqr3-wc7r
fn dev_is_a_volume(side: &Side<'_>, seen: &mut Seen) -> Result<()> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    let canary = side.canary("canary")?;
    for (name, target) in [
        ("console", canary.path.join("file").as_path()),
        ("console", Path::new("/proc/sysrq-trigger")),
        ("console", Path::new("/proc/sys/kernel/core_pattern")),
        ("ptmx", canary.path.join("file").as_path()),
        ("pts", canary.path.as_path()),
    ] {
        let part = format!(
            "{name} to {}",
            target.file_name().unwrap_or_default().display()
        );
        let volume = side.directory(&part.replace(' ', "-"))?;
        if name != "pts" {
            fs::create_dir_all(volume.join("pts"))?;
        }
        std::os::unix::fs::symlink(target, volume.join(name))?;
        let spec = side.spec()?.without_mounts("/dev");
        let spec = spec
            .bind(&volume, "/dev", "rbind")
            .mount("/dev/pts", "devpts", "devpts", PTS);
        // Masks need a /dev/null, and are another trial's.
        let spec = spec.set("/linux/maskedPaths", json!([]));
        let spec = spec.shell(
            "grep -E '(core_pattern|sysrq-trigger) pts' /proc/self/mountinfo; \
             echo w > /dev/console; echo ran",
        );
        seen.ended(&part, &side.run_on_terminal(&spec)?);
        canary.check(&part, seen)?;
        let same = fs::read_to_string("/proc/sys/kernel/core_pattern")? == pattern;
        seen.add(&part, &format!("the node's setting as before: {same}"));
    }
    Ok(())
}
