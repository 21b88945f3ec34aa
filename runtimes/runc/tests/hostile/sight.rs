//! The corpus sees what it is there to see: it is shown each kind of touch.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use crate::bench::Bench;
use crate::canary::{DOOR, EMPTY, FILE, FULL};
use crate::corpus::verdict;
use crate::place::mount_new;

type Touch = fn(&Path) -> std::io::Result<()>;

/// Each is one that a runtime could do.
const TOUCHES: [(&str, Touch); 14] = [
    ("open a file", |canary| {
        File::open(canary.join(FILE)).map(drop)
    }),
    ("open a directory", |canary| {
        File::open(canary.join(FULL)).map(drop)
    }),
    ("look something up", |canary| {
        fs::metadata(canary.join(DOOR).join(FULL)).map(drop)
    }),
    ("read a file", |canary| {
        fs::read(canary.join(FILE)).map(drop)
    }),
    ("write a file", |canary| {
        fs::write(canary.join(FILE), "other")
    }),
    ("make a file", |canary| {
        File::create(canary.join(EMPTY).join("new")).map(drop)
    }),
    ("make a directory", |canary| {
        fs::create_dir(canary.join(EMPTY).join("new"))
    }),
    ("make a link", |canary| {
        symlink("x", canary.join(EMPTY).join("new"))
    }),
    ("link a file", |canary| {
        fs::hard_link(canary.join(FILE), canary.join(EMPTY).join("new"))
    }),
    ("remove a file", |canary| fs::remove_file(canary.join(FILE))),
    ("rename a file", |canary| {
        fs::rename(canary.join(FILE), canary.join("new"))
    }),
    ("change a mode", |canary| {
        fs::set_permissions(canary.join(FILE), fs::Permissions::from_mode(0o600))
    }),
    ("change an owner", |canary| {
        chown(canary.join(FULL), Some(1), None)
    }),
    ("make and remove a directory", |canary| {
        let new = canary.join("new");
        fs::create_dir(&new).and_then(|()| fs::remove_dir(new))
    }),
];

/// Every touch of the canary is told of, and so is everything that is left.
pub async fn every_touch_is_seen(bench: &mut Bench) -> Result<(), String> {
    let mut told = Vec::new();
    let mut missed = |what: &str, found: &[String], asked: bool| {
        if found.is_empty() == asked {
            told.push(format!("{what}: {found:?}"));
        }
    };
    missed("do nothing", &bench.touched(), false);
    for (what, touch) in TOUCHES {
        touch(bench.canary()).map_err(|why| format!("{what}: {why}"))?;
        missed(what, &bench.touched(), true);
        missed(&format!("{what}, later"), &bench.touched(), false);
    }
    let found = leave_things(bench).await.map_err(|why| why.to_string())?;
    for what in ["the mount", "the cgroup", "the process", "descriptors"] {
        let some = found.iter().filter(|found| found.contains(what));
        missed(what, &some.cloned().collect::<Vec<_>>(), true);
    }
    verdict(told, String::new())
}

/// Leaves one of each kind, says what of it is seen, and takes it away.
async fn leave_things(bench: &mut Bench) -> std::io::Result<Vec<String>> {
    let directory = bench.work().join("left");
    fs::create_dir(&directory)?;
    mount_new("tmpfs", &directory, "");
    let cgroup = bench.cgroups().first().map(|path| path.join("left"));
    if let Some(cgroup) = &cgroup {
        fs::create_dir(cgroup)?;
    }
    let mut process = std::process::Command::new("/bin/sleep")
        .arg("100")
        .spawn()?;
    let file = File::open("/")?;
    let found = bench.changed().await;
    drop(file);
    process.kill()?;
    process.wait()?;
    nix::mount::umount(&directory)?;
    fs::remove_dir(&directory)?;
    if let Some(cgroup) = &cgroup {
        fs::remove_dir(cgroup)?;
    }
    match bench.changed().await.is_empty() {
        true => Ok(found),
        false => Err(std::io::Error::other(
            "the host did not come to be as before",
        )),
    }
}
