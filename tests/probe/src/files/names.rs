//! Names.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{During, fails, number, same};

pub(super) fn names(at: &Path) -> Result<(), String> {
    let longest = "n".repeat(255);
    for name in [longest.as_str(), "a b", "..data", "\u{fc}\n", "-"] {
        let path = at.join(name);
        fs::write(&path, name).during("making")?;
        same(
            "what is read",
            fs::read_to_string(&path).during("reading")?.as_str(),
            name,
        )?;
        fs::remove_file(&path).during("removing")?;
        fails(
            "removing it again",
            number(fs::remove_file(&path)),
            Errno::ENOENT,
        )?;
    }
    let too_long = at.join("n".repeat(256));
    fails(
        "a longer name",
        number(File::create(&too_long)),
        Errno::ENAMETOOLONG,
    )?;
    fails(
        "looking for it",
        number(fs::metadata(&too_long)),
        Errno::ENAMETOOLONG,
    )?;
    let deep = (0..30).fold(at.to_owned(), |path, number| path.join(number.to_string()));
    fs::create_dir_all(&deep).during("making directories")?;
    same(
        "the way back",
        fs::metadata(deep.join("../..")).during("looking")?.ino(),
        fs::metadata(deep.parent().and_then(Path::parent).unwrap_or(at))
            .during("looking")?
            .ino(),
    )?;
    fails(
        "removing a full directory",
        number(fs::remove_dir(at.join("0"))),
        Errno::ENOTEMPTY,
    )?;
    fails(
        "unlinking a directory",
        nix::unistd::unlink(&deep),
        Errno::EISDIR,
    )?;
    fs::write(at.join("file"), "").during("making")?;
    fails(
        "a file as a directory",
        number(File::open(at.join("file/below"))),
        Errno::ENOTDIR,
    )?;
    fails(
        "removing a file as one",
        number(fs::remove_dir(at.join("file"))),
        Errno::ENOTDIR,
    )
}

pub(super) fn links(at: &Path) -> Result<(), String> {
    let (file, hard, soft) = (at.join("file"), at.join("hard"), at.join("soft"));
    fs::write(&file, "content").during("writing")?;
    fs::hard_link(&file, &hard).during("linking")?;
    let (one, two) = (
        fs::metadata(&file).during("looking")?,
        fs::metadata(&hard).during("looking")?,
    );
    same(
        "the files",
        (one.dev(), one.ino(), one.nlink()),
        (two.dev(), two.ino(), 2),
    )?;
    fs::write(&hard, "changed").during("writing")?;
    same(
        "the other",
        fs::read_to_string(&file).during("reading")?.as_str(),
        "changed",
    )?;
    fs::remove_file(&file).during("removing")?;
    same(
        "links left",
        fs::metadata(&hard).during("looking")?.nlink(),
        1,
    )?;
    symlink("hard", &soft).during("linking symbolically")?;
    same(
        "the target",
        fs::read_link(&soft).during("reading a link")?.as_path(),
        Path::new("hard"),
    )?;
    same(
        "by the link",
        fs::read_to_string(&soft).during("reading")?.as_str(),
        "changed",
    )?;
    let far = "/".to_owned() + &"x".repeat(4000);
    symlink(&far, at.join("far")).during("linking far")?;
    same(
        "a long target",
        fs::read_link(at.join("far"))
            .during("reading a link")?
            .as_path(),
        Path::new(&far),
    )?;
    fails(
        "a dangling link",
        number(File::open(at.join("far"))),
        Errno::ENAMETOOLONG,
    )?;
    symlink("loop", at.join("loop")).during("linking")?;
    fails("a loop", number(File::open(at.join("loop"))), Errno::ELOOP)
}

pub(super) fn many(at: &Path) -> Result<(), String> {
    const COUNT: usize = 2_000;
    for number in 0..COUNT {
        // Names of all lengths: what is left of an answer's room differs each time.
        let name = format!("file {number} {}", "n".repeat(number % 240));
        File::create_new(at.join(name)).during("making")?;
    }
    let list = || -> Result<BTreeSet<_>, String> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(at).during("listing")? {
            let name = entry.during("listing")?.file_name();
            if !found.insert(name.clone()) {
                return Err(format!("{name:?} is listed twice"));
            }
        }
        Ok(found)
    };
    let found = list()?;
    same("how many are listed", found.len(), COUNT)?;
    for name in found.iter().step_by(2) {
        fs::remove_file(at.join(name)).during("removing")?;
    }
    same("how many are left", list()?.len(), COUNT / 2)?;
    let status = fs::read_dir(at).during("listing")?.filter_map(Result::ok);
    let sizes: u64 = status
        .map(|entry| entry.metadata().map_or(1, |status| status.len()))
        .sum();
    same("their sizes", sizes, 0)
}

pub(super) fn renames(at: &Path) -> Result<(), String> {
    let (one, two) = (at.join("one"), at.join("two"));
    let rename = |flags| renameat2(AT_FDCWD, &one, AT_FDCWD, &two, flags);
    let read = |path: &Path| fs::read_to_string(path).during("reading");
    fs::write(&one, "1").during("writing")?;
    fs::write(&two, "2").during("writing")?;
    fails(
        "not replacing",
        rename(RenameFlags::RENAME_NOREPLACE),
        Errno::EEXIST,
    )?;
    rename(RenameFlags::RENAME_EXCHANGE).during("exchanging")?;
    same(
        "exchanged",
        (read(&one)?, read(&two)?),
        ("2".into(), "1".into()),
    )?;
    let open = File::open(&two).during("opening")?;
    fs::rename(&one, &two).during("replacing")?;
    same("replaced", read(&two)?, "2".into())?;
    same(
        "links of the replaced",
        open.metadata().during("looking")?.nlink(),
        0,
    )?;
    fails("what has moved", number(fs::metadata(&one)), Errno::ENOENT)?;
    fs::create_dir_all(at.join("a/b")).during("making directories")?;
    fs::rename(&two, at.join("a/b/two")).during("moving")?;
    fails(
        "into itself",
        number(fs::rename(at.join("a"), at.join("a/b/c"))),
        Errno::EINVAL,
    )?;
    fs::rename(at.join("a"), at.join("d")).during("moving a directory")?;
    same("moved along", read(&at.join("d/b/two"))?, "2".into())
}
