//! All else: attributes, nodes that are no files, locks, watches.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::statvfs::statvfs;
use nix::unistd::mkfifo;

use super::{During, fails, number, same};

fn text(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).during("making a text")
}

fn set(path: &Path, name: &str, value: &[u8]) -> nix::Result<()> {
    let texts = (
        CString::new(path.as_os_str().as_bytes()),
        CString::new(name),
    );
    let (Ok(path), Ok(name)) = texts else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the texts end with zero, and all live through the call.
    let outcome = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(outcome).map(drop)
}

fn get(path: &Path, name: &str) -> nix::Result<Vec<u8>> {
    let texts = (
        CString::new(path.as_os_str().as_bytes()),
        CString::new(name),
    );
    let (Ok(path), Ok(name)) = texts else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the texts end with zero; without room nothing is written.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    let mut value = vec![0; usize::try_from(Errno::result(length)?).unwrap_or_default()];
    // SAFETY: as above, and as much is written as there is room.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    Errno::result(length)?;
    Ok(value)
}

pub(super) fn attributes(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    fs::write(&path, "").during("writing")?;
    let long = vec![b'v'; 2000];
    set(&path, "user.one", b"value").during("setting an attribute")?;
    set(&path, "user.long", &long).during("setting a long one")?;
    set(&path, "user.empty", b"").during("setting an empty one")?;
    same(
        "an attribute",
        get(&path, "user.one"),
        Ok(b"value".to_vec()),
    )?;
    same("a long one", get(&path, "user.long"), Ok(long))?;
    same("an empty one", get(&path, "user.empty"), Ok(vec![]))?;
    same(
        "one that is not there",
        get(&path, "user.none"),
        Err(Errno::ENODATA),
    )?;
    let name = text(path.as_os_str().as_bytes())?;
    let mut list = vec![0_u8; 4096];
    // SAFETY: the text ends with zero, and as much is written as there is room.
    let length = unsafe { libc::listxattr(name.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let length = usize::try_from(Errno::result(length).during("listing")?).during("listing")?;
    let mut names: Vec<_> = list[..length]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."))
        .collect();
    names.sort_unstable();
    same(
        "the names",
        names,
        vec![b"user.empty".as_slice(), b"user.long", b"user.one"],
    )?;
    // SAFETY: the texts end with zero.
    let outcome = unsafe { libc::removexattr(name.as_ptr(), c"user.one".as_ptr()) };
    Errno::result(outcome).during("removing an attribute")?;
    same("a removed one", get(&path, "user.one"), Err(Errno::ENODATA))?;
    // CAP_NET_RAW, permitted and effective, for root of the first user namespace.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&path, "security.capability", &capability).during("giving a capability")?;
    same(
        "it",
        get(&path, "security.capability"),
        Ok(capability.to_vec()),
    )?;
    fs::write(&path, "changed").during("writing")?;
    same(
        "it, after a write",
        get(&path, "security.capability"),
        Err(Errno::ENODATA),
    )
}

pub(super) fn access_lists(at: &Path) -> Result<(), String> {
    // Version 2; its user, user 1234, its group, the mask, all others.
    let mut list = vec![2, 0, 0, 0];
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, 1234),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let path = at.join("file");
    fs::write(&path, "").during("writing")?;
    same(
        "no list",
        get(&path, "system.posix_acl_access"),
        Err(Errno::ENODATA),
    )?;
    set(&path, "system.posix_acl_access", &list).during("setting a list")?;
    same(
        "the mode",
        fs::metadata(&path).during("looking")?.mode() & 0o777,
        0o640,
    )?;
    let open = |user| {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(user));
        let outcome = number(File::open(&path));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(0));
        outcome
    };
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).during("opening the directory")?;
    open(1234).during("opening as who is listed")?;
    fails("opening as another", open(1235), Errno::EACCES)?;
    set(at, "system.posix_acl_default", &list).during("setting a default")?;
    fs::write(at.join("new"), "").during("writing")?;
    same(
        "a new file's list",
        get(&at.join("new"), "system.posix_acl_access").is_ok(),
        true,
    )
}

pub(super) fn nodes(at: &Path) -> Result<(), String> {
    let mode = Mode::from_bits_truncate(0o600);
    let fifo = at.join("fifo");
    mkfifo(&fifo, mode).during("making a FIFO")?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| fs::write(&fifo, "through").during("writing to a FIFO"));
        let read = fs::read_to_string(&fifo).during("reading a FIFO")?;
        writer.join().map_err(|_| "the writer died".to_owned())??;
        same("what is read", read.as_str(), "through")
    })?;
    let socket = at.join("socket");
    let listener = UnixListener::bind(&socket).during("making a socket")?;
    let mut ours = UnixStream::connect(&socket).during("connecting")?;
    let (mut theirs, _) = listener.accept().during("accepting")?;
    ours.write_all(b"hello").during("sending")?;
    drop(ours);
    let mut heard = String::new();
    theirs.read_to_string(&mut heard).during("receiving")?;
    same("what is heard", heard.as_str(), "hello")?;
    let device = at.join("device");
    mknod(&device, SFlag::S_IFCHR, mode, makedev(1, 3)).during("making a device")?;
    let status = fs::metadata(&device).during("looking")?;
    same("its type", status.file_type().is_char_device(), true)?;
    same("its number", status.rdev(), makedev(1, 3))
}

pub(super) fn locks(at: &Path) -> Result<(), String> {
    let path = at.join("file");
    fs::write(&path, "").during("writing")?;
    let open = || File::open(&path).during("opening");
    let lock = |file| Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| why);
    let held = lock(open()?).during("locking")?;
    fails("locking again", lock(open()?), Errno::EAGAIN)?;
    drop(held);
    lock(open()?).during("locking what is free").map(drop)
}

pub(super) fn watches(at: &Path) -> Result<(), String> {
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).during("making a watch")?;
    let all = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
    watch.add_watch(at, all).during("watching")?;
    fs::write(at.join("file"), "x").during("writing")?;
    fs::remove_file(at.join("file")).during("removing")?;
    let seen: Vec<_> = watch
        .read_events()
        .during("reading events")?
        .into_iter()
        .map(|event| event.mask)
        .collect();
    let expected = [
        AddWatchFlags::IN_CREATE,
        AddWatchFlags::IN_CLOSE_WRITE,
        AddWatchFlags::IN_DELETE,
    ];
    same("what was seen", seen.as_slice(), &expected)
}

pub(super) fn space(at: &Path) -> Result<(), String> {
    let found = statvfs(at).during("asking for the space")?;
    match found.blocks() > 0 && found.block_size() > 0 && found.name_max() == 255 {
        true => Ok(()),
        false => Err(format!("the space is {found:?}")),
    }
}
