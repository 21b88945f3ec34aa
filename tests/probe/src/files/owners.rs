//! Whose files are, and what others may do.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::{During, fails, number, same};

const USER: u32 = 1234;
const GROUP: u32 = 4321;

/// Does something as a user who is nobody in particular.
fn as_user<T>(what: impl FnOnce() -> T) -> T {
    setfsgid(Gid::from_raw(GROUP));
    setfsuid(Uid::from_raw(USER));
    let outcome = what();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    outcome
}

fn owner(path: &Path) -> Result<(u32, u32), String> {
    let status = fs::symlink_metadata(path).during("looking")?;
    Ok((status.uid(), status.gid()))
}

fn mode(path: &Path) -> Result<u32, String> {
    Ok(fs::metadata(path).during("looking")?.mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, Permissions::from_mode(mode)).during("changing the mode")
}

pub(super) fn owners(at: &Path) -> Result<(), String> {
    set_mode(at, 0o777)?;
    as_user(|| {
        fs::write(at.join("file"), "").during("making a file")?;
        fs::create_dir(at.join("directory")).during("making a directory")?;
        std::os::unix::fs::symlink("x", at.join("link")).during("linking")
    })?;
    for name in ["file", "directory", "link"] {
        same(name, owner(&at.join(name))?, (USER, GROUP))?;
    }
    let file = at.join("file");
    fs::write(at.join("roots"), "secret").during("writing")?;
    same("root's", owner(&at.join("roots"))?, (0, 0))?;
    set_mode(&at.join("roots"), 0o600)?;
    let opened = as_user(|| number(File::open(at.join("roots"))));
    fails("opening what is root's", opened, Errno::EACCES)?;
    let given = as_user(|| number(chown(&file, Some(0), None)));
    fails("giving it to root", given, Errno::EPERM)?;
    chown(&file, Some(7), Some(8)).during("giving it away")?;
    same("the new owner", owner(&file)?, (7, 8))?;
    let changed = as_user(|| number(fs::set_permissions(&file, Permissions::from_mode(0o777))));
    fails("changing another's mode", changed, Errno::EPERM)?;
    set_mode(&file, 0o604)?;
    same("the mode", mode(&file)?, 0o604)?;
    as_user(|| File::open(&file)).during("reading as anybody")?;
    set_mode(at, 0o1777)?;
    let removed = as_user(|| number(fs::remove_file(&file)));
    fails(
        "removing another's from a sticky directory",
        removed,
        Errno::EPERM,
    )?;
    set_mode(at, 0o700)?;
    let found = as_user(|| number(fs::metadata(&file)));
    fails("looking into a closed directory", found, Errno::EACCES)
}

pub(super) fn groups(at: &Path) -> Result<(), String> {
    chown(at, None, Some(99)).during("giving the directory to a group")?;
    set_mode(at, 0o2777)?;
    as_user(|| {
        fs::write(at.join("file"), "").during("making a file")?;
        fs::create_dir(at.join("directory")).during("making a directory")
    })?;
    same("the file's owner", owner(&at.join("file"))?, (USER, 99))?;
    same(
        "the directory's owner",
        owner(&at.join("directory"))?,
        (USER, 99),
    )?;
    same(
        "the directory's bit",
        mode(&at.join("directory"))? & 0o2000,
        0o2000,
    )
}

/// Set-user-id bits go when somebody else changes a file, and stay when root does.
pub(super) fn set_id(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    let prepare = || {
        fs::write(&path, "program").during("writing")?;
        set_mode(&path, 0o6777)
    };
    let open = || OpenOptions::new().write(true).open(&path).during("opening");
    prepare()?;
    open()?.write_all_at(b"P", 0).during("writing as root")?;
    same("the mode after root's write", mode(&path)?, 0o6777)?;
    as_user(|| open()?.write_all_at(b"p", 0).during("writing"))?;
    same("the mode after a write", mode(&path)?, 0o777)?;
    prepare()?;
    as_user(|| open()?.set_len(3).during("cutting"))?;
    same("the mode after a cut", mode(&path)?, 0o777)?;
    prepare()?;
    as_user(|| File::create(&path).during("truncating"))?;
    same("the mode after a truncation", mode(&path)?, 0o777)?;
    prepare()?;
    chown(&path, Some(5), Some(5)).during("giving it away")?;
    same("the mode after it was given away", mode(&path)?, 0o777)
}

pub(super) fn times(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    fs::write(&path, "").during("writing")?;
    let file = OpenOptions::new()
        .write(true)
        .open(&path)
        .during("opening")?;
    let past = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_007, 123_456_789);
    let times = fs::FileTimes::new().set_modified(past);
    file.set_times(times).during("setting the time")?;
    let status = fs::metadata(&path).during("looking")?;
    same(
        "the time",
        (status.mtime(), status.mtime_nsec()),
        (1_000_000_007, 123_456_789),
    )?;
    file.write_all_at(b"x", 0).during("writing")?;
    let after = fs::metadata(&path).during("looking")?.mtime();
    match after > 1_000_000_007 {
        true => Ok(()),
        false => Err(format!("a write leaves the time at {after}")),
    }
}
