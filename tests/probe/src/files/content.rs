//! Files' content.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, copy_file_range, fallocate};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::unistd::{Whence, linkat, lseek};

use super::{During, fails, number, same};

pub(super) fn content(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    fs::write(&path, "").during("making an empty file")?;
    same("an empty file", fs::read(&path).during("reading")?, vec![])?;
    // More than one request holds, and not of whole pages.
    let bytes: Vec<u8> = (0..3_000_001_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    fs::write(&path, &bytes).during("writing")?;
    if fs::read(&path).during("reading")? != bytes {
        return Err("what was written is not read".into());
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .during("opening")?;
    file.write_all_at(b"inside", 1_048_573)
        .during("writing inside")?;
    let mut found = [0; 8];
    file.read_exact_at(&mut found, 1_048_572)
        .during("reading inside")?;
    same("what is read inside", &found[1..7], b"inside")?;
    same(
        "the length",
        file.metadata().during("looking")?.len(),
        3_000_001,
    )?;
    file.set_len(5).during("cutting")?;
    same(
        "what is left",
        fs::read(&path).during("reading")?,
        bytes[..5].to_vec(),
    )?;
    file.set_len(9).during("lengthening")?;
    same(
        "what is added",
        &fs::read(&path).during("reading")?[5..],
        &[0; 4],
    )?;
    file.sync_all().during("syncing")?;
    file.sync_data().during("syncing the content")?;
    fails(
        "making it anew",
        number(File::create_new(&path)),
        Errno::EEXIST,
    )?;
    drop(File::create(&path).during("truncating")?);
    same(
        "a truncated file",
        fs::metadata(&path).during("looking")?.len(),
        0,
    )?;
    fails(
        "opening what is not there",
        number(File::open(at.join("no"))),
        Errno::ENOENT,
    )
}

/// Writers that append, and a mapping of a file that is open for nothing else.
pub(super) fn append(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    let open = || {
        OpenOptions::new()
            .append(true)
            .read(true)
            .create(true)
            .open(&path)
    };
    let (mut one, mut two) = (open().during("opening")?, open().during("opening")?);
    for _ in 0..100 {
        one.write_all(b"one ").during("appending")?;
        two.write_all(b"two ").during("appending")?;
    }
    let found = fs::read_to_string(&path).during("reading")?;
    same("what was appended", found, "one two ".repeat(100))?;
    map(&one, 800, |mapped| mapped[..3].copy_from_slice(b"ONE"))?;
    one.sync_all().during("syncing")?;
    let found = fs::read_to_string(&path).during("reading")?;
    same("the length", found.len(), 800)?;
    same("what a mapping changed", &found[..8], "ONE two ")
}

fn map(file: &File, length: usize, change: impl FnOnce(&mut [u8])) -> Result<(), String> {
    let size = NonZeroUsize::new(length).ok_or("nothing is to be mapped")?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let mapped = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, 0) };
    let mapped = mapped.during("mapping")?;
    // SAFETY: it has that length, and nobody else in this process knows of it. The file is not cut
    // meanwhile.
    change(unsafe { std::slice::from_raw_parts_mut(mapped.as_ptr().cast(), length) });
    // SAFETY: as above; the bytes are not used any more.
    unsafe {
        msync(mapped, length, MsFlags::MS_SYNC).during("syncing a mapping")?;
        munmap(mapped, length).during("unmapping")
    }
}

pub(super) fn mapped(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    fs::write(&path, vec![b'a'; 20_000]).during("writing")?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .during("opening")?;
    map(&file, 20_000, |mapped| {
        for (number, byte) in mapped.iter_mut().enumerate() {
            *byte = (number % 7) as u8;
        }
    })?;
    let expected: Vec<u8> = (0..20_000).map(|number| (number % 7) as u8).collect();
    if fs::read(&path).during("reading")? != expected {
        return Err("what was written to a mapping is not read".into());
    }
    file.write_all_at(b"written", 4090).during("writing")?;
    let mut seen = Vec::new();
    map(&file, 20_000, |mapped| seen = mapped[4090..4097].to_vec())?;
    same("what a mapping shows", seen.as_slice(), b"written")
}

pub(super) fn holes(at: &Path) -> Result<(), String> {
    const MIB: i64 = 1 << 20;
    let path = at.join("file");
    let mut file = File::create_new(&path).during("making")?;
    file.set_len(64 << 20).during("lengthening")?;
    file.seek(SeekFrom::Start(32 << 20)).during("seeking")?;
    file.write_all(b"data").during("writing")?;
    let data = lseek(&file, 0, Whence::SeekData).during("looking for data")?;
    same("where data is", data, 32 * MIB)?;
    let hole = lseek(&file, data, Whence::SeekHole).during("looking for a hole")?;
    if hole <= data || hole > 33 * MIB {
        return Err(format!("a hole is at {hole}"));
    }
    let blocks = file.metadata().during("looking")?.blocks();
    if blocks * 512 > 1 << 20 {
        return Err(format!("a file of holes takes {blocks} blocks"));
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 32 * MIB, MIB).during("punching a hole")?;
    fails(
        "looking for data",
        lseek(&file, 0, Whence::SeekData),
        Errno::ENXIO,
    )?;
    fallocate(&file, FallocateFlags::empty(), 64 * MIB, MIB).during("making room")?;
    same(
        "the length",
        file.metadata().during("looking")?.len(),
        65 << 20,
    )
}

pub(super) fn copy(at: &Path) -> Result<(), String> {
    let bytes: Vec<u8> = (0..2_000_000_u32)
        .map(|number| (number % 253) as u8)
        .collect();
    fs::write(at.join("from"), &bytes).during("writing")?;
    let from = File::open(at.join("from")).during("opening")?;
    let to = File::create_new(at.join("to")).during("making")?;
    let (mut here, mut there) = (5, 0);
    while here < 2_000_000 {
        let count = copy_file_range(&from, Some(&mut here), &to, Some(&mut there), 1 << 20);
        if count.during("copying")? == 0 {
            return Err(format!("the copy ends at {here}"));
        }
    }
    match fs::read(at.join("to")).during("reading")? == bytes[5..] {
        true => Ok(()),
        false => Err("the copy differs".into()),
    }
}

pub(super) fn deleted(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut file = file.during("making")?;
    fs::remove_file(&path).during("removing")?;
    file.write_all(b"still here").during("writing")?;
    file.set_len(8).during("cutting")?;
    file.set_permissions(fs::Permissions::from_mode(0o640))
        .during("changing the mode")?;
    let status = file.metadata().during("looking")?;
    same(
        "links, length, mode",
        (status.nlink(), status.len(), status.mode() & 0o777),
        (0, 8, 0o640),
    )?;
    let mut found = String::new();
    file.rewind().during("rewinding")?;
    file.read_to_string(&mut found).during("reading")?;
    same("what is read", found.as_str(), "still he")?;
    File::create_new(&path)
        .during("making another of that name")
        .map(drop)
}

pub(super) fn unnamed(at: &Path) -> Result<(), String> {
    let file = File::options()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(at);
    let mut file = file.during("making a file without a name")?;
    file.write_all(b"content").during("writing")?;
    same("names", fs::read_dir(at).during("listing")?.count(), 0)?;
    let place = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&file.as_fd())
    );
    let named = at.join("named");
    linkat(
        AT_FDCWD,
        place.as_str(),
        AT_FDCWD,
        &named,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
    .during("naming it")?;
    same(
        "what it holds",
        fs::read_to_string(named).during("reading")?.as_str(),
        "content",
    )
}

pub(super) fn direct(at: &Path) -> Result<(), String> {
    #[repr(C, align(4096))]
    struct Page([u8; 8192]);
    let path = at.join("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let file = file.during("opening around the cache")?;
    let mut page = Box::new(Page([7; 8192]));
    file.write_all_at(&page.0, 4096).during("writing")?;
    page.0.fill(0);
    file.read_exact_at(&mut page.0, 4096).during("reading")?;
    same("what is read", page.0.iter().all(|byte| *byte == 7), true)?;
    same(
        "the length",
        fs::read(&path).during("reading")?.len(),
        12288,
    )
}
