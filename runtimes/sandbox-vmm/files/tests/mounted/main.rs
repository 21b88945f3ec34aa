//! What the server does for a guest's kernel, asked by this machine's: FUSE's requests are the same,
//! whether they come by a device or by a queue. In a mount namespace of each test's own; as root.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod locks;
mod made_up;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork};
use trefoil_files::fuse::answer::Answer;
use trefoil_files::passthrough::Passthrough;
use trefoil_files::server::filter;
use trefoil_files::tree::{Changes, Shown};
use trefoil_jail::seccomp::install_in_all_threads;
use trefoil_virtio::{Buffers, Ram};
use vm_memory::{Bytes, GuestAddress};

const NONE: Option<&str> = None;
/// Where in the memory requests and answers are.
const REQUEST: GuestAddress = GuestAddress(0);
const ANSWER: GuestAddress = GuestAddress(2 << 20);
const ROOM: usize = (1 << 20) + (64 << 10);

/// Ends the name of a tree that the guest can't change.
const READ_ONLY: &str = " (read-only)";

/// A directory with everything in it: what is shared, and where it shows.
struct Shared {
    directory: tempfile::TempDir,
}

impl Shared {
    fn at(&self) -> PathBuf {
        self.directory.path().join("at")
    }

    /// Shares these, as they may be changed.
    fn new(trees: &[(&str, &Path, Changes)], most: usize) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("a namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, private, NONE).expect("private");
        let directory = tempfile::tempdir().expect("directory");
        let root = directory.path().join("root");
        let at = directory.path().join("at");
        fs::create_dir(&root).expect("root");
        fs::create_dir(&at).expect("at");
        mount(Some("none"), &root, Some("tmpfs"), MsFlags::empty(), NONE).expect("tmpfs");
        for (name, tree, _) in trees {
            let place = root.join(name.trim_end_matches(READ_ONLY));
            match tree.is_dir() {
                true => fs::create_dir_all(&place).expect("place"),
                false => fs::write(&place, "").expect("place"),
            }
            mount(
                Some(*tree),
                &place,
                NONE,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                NONE,
            )
            .expect("bind");
            if name.ends_with(READ_ONLY) {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                mount(NONE, &place, NONE, flags, NONE).expect("read-only");
            }
        }
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        mount(
            Some("shared"),
            &at,
            Some("fuse"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mount");
        let trees: Vec<_> = trees
            .iter()
            .map(|(name, _, changes)| (name.to_string(), *changes))
            .collect();
        // A process of its own: one that the filter kills closes the device, and nobody waits for it.
        // SAFETY: the child uses what it has of this process's memory, and ends.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { .. } => Self { directory },
            ForkResult::Child => {
                serve(device, &root, trees, most);
                // SAFETY: it ends, without what this process would have done at its end.
                unsafe { libc::_exit(0) }
            }
        }
    }
}

fn serve(mut device: File, root: &Path, trees: Vec<(String, Changes)>, most: usize) {
    // SAFETY: the call takes numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let root: OwnedFd = open(root, OFlag::O_PATH, Mode::empty()).expect("root");
    std::env::set_current_dir("/proc/self/fd").expect("descriptors");
    // As in the jail.
    // SAFETY: the call takes numbers.
    let outcome = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) };
    assert_eq!(outcome, 0);
    let mut files = Passthrough::new(root, most).expect("files");
    for (name, changes) in trees {
        let place = name.trim_end_matches(READ_ONLY);
        let shown = Shown {
            changes,
            read_only: name.ends_with(READ_ONLY),
            // As it is in these tests: what is called a part is one.
            depth: u16::from(place.ends_with("part")),
        };
        files.add(place, shown);
    }
    let filter = filter::compile().expect("filter");
    install_in_all_threads(&filter).expect("install");
    let ram = Ram::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
    let mut room = vec![0; ROOM];
    // Those that wait for a lock.
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    loop {
        let timeout = match waiting.is_empty() {
            true => PollTimeout::NONE,
            false => PollTimeout::from(10_u8),
        };
        let polled = &mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let requests = match poll(polled, timeout).expect("poll") {
            0 => std::mem::take(&mut waiting),
            _ => match device.read(&mut room) {
                Ok(length) => vec![room[..length].to_vec()],
                Err(why) if why.raw_os_error() == Some(libc::ENOENT) => continue,
                // It is unmounted.
                Err(_) => return,
            },
        };
        for bytes in requests {
            ram.write_slice(&bytes, REQUEST).expect("write");
            let (mut request, mut answer) = (Buffers::default(), Buffers::default());
            request.add(&ram, REQUEST, bytes.len()).expect("request");
            answer.add(&ram, ANSWER, ROOM).expect("answer");
            files.look(&request).expect("a request");
            if let Some(unique) = is_interrupt(&bytes) {
                let which = |bytes: &Vec<u8>| bytes[8..16] == unique;
                if let Some(index) = waiting.iter().position(which) {
                    waiting.remove(index);
                    let error = (-libc::EINTR).to_ne_bytes();
                    let said = [&16_u32.to_ne_bytes()[..], &error, &unique].concat();
                    device.write_all(&said).expect("interrupted");
                }
                continue;
            }
            let outcome = files.execute(&request, &answer);
            if outcome == Ok(Answer::Later) {
                waiting.push(bytes);
                continue;
            }
            let length = files.answer(outcome, &answer) as usize;
            if length > 0 {
                ram.read_slice(&mut room[..length], ANSWER).expect("read");
                // It fails where the one who asked has been killed.
                let _ = device.write_all(&room[..length]);
            }
        }
    }
}

/// Which request is to be interrupted by these bytes, if it is that what they say.
fn is_interrupt(bytes: &[u8]) -> Option<[u8; 8]> {
    let opcode = u32::from_ne_bytes(*bytes[4..].first_chunk()?);
    (opcode == 36).then(|| bytes[40..].first_chunk().copied())?
}

const MOST: usize = 20_000;

fn all_trials(changes: Changes) {
    let tree = tempfile::tempdir().expect("tree");
    let shared = Shared::new(&[("tree", tree.path(), changes)], MOST);
    let mut wrong = Vec::new();
    for (name, _) in trefoil_probe::files::TRIALS {
        if let Err(why) = trefoil_probe::files::run(name, &shared.at().join("tree")) {
            wrong.push(why);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_kernel_finds_what_programs_rely_on() {
    all_trials(Changes::Anybody);
}

#[test]
fn a_kernel_that_need_not_ask_again_finds_the_same() {
    all_trials(Changes::GuestOnly);
}

#[test]
fn names_that_are_no_trees_are_not_there() {
    let tree = tempfile::tempdir().expect("tree");
    let shared = Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST);
    let root = shared.directory.path().join("root");
    fs::create_dir(root.join("bare")).expect("bare");
    let at = shared.at();
    for name in ["bare", "none"] {
        let found = fs::metadata(at.join(name));
        assert_eq!(
            found.map(drop).map_err(|why| why.raw_os_error()),
            Err(Some(libc::ENOENT))
        );
    }
    fs::write(at.join("tree/file"), "x").expect("write");
    assert_eq!(fs::read(tree.path().join("file")).expect("read"), b"x");
}

#[test]
fn links_lead_where_they_do_in_the_guest() {
    let tree = tempfile::tempdir().expect("tree");
    let shared = Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST);
    let at = shared.at().join("tree");
    std::os::unix::fs::symlink("/proc/self/comm", at.join("link")).expect("link");
    // Followed by the server, it would be its thread's.
    let read = fs::read_to_string(at.join("link")).expect("read");
    assert_eq!(read, fs::read_to_string("/proc/self/comm").expect("own"));
    fs::write(at.join("link"), "me").expect("write");
    assert!(
        fs::symlink_metadata(tree.path().join("link"))
            .expect("there")
            .is_symlink()
    );
}

#[test]
fn one_file_is_a_tree_too() {
    let directory = tempfile::tempdir().expect("tree");
    let file = directory.path().join("hosts");
    fs::write(&file, "one").expect("write");
    let shared = Shared::new(&[("hosts", &file, Changes::Anybody)], MOST);
    let at = shared.at().join("hosts");
    assert_eq!(fs::read_to_string(&at).expect("read"), "one");
    fs::write(&at, "two and more").expect("write");
    assert_eq!(fs::read_to_string(&file).expect("read"), "two and more");
    // Written in its place, by the host.
    fs::write(&file, "three").expect("write");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(fs::read_to_string(&at).expect("read"), "three");
}

#[test]
fn what_is_listed_again_is_what_is_there_now() {
    use std::os::unix::fs::{DirEntryExt, MetadataExt};
    let tree = tempfile::tempdir().expect("tree");
    let make = |name: &str, content: &str| fs::write(tree.path().join(name), content).expect(name);
    for number in 0..100 {
        make(&format!("file {number}"), "old");
    }
    let shared = Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST);
    let at = shared.at().join("tree");
    // As listing tells it, and as a look at each file does.
    let listed = || {
        let entries = fs::read_dir(&at).expect("list");
        for entry in entries.map(|entry| entry.expect("entry")) {
            let own = fs::metadata(tree.path().join(entry.file_name())).expect("there");
            assert_eq!(entry.ino(), own.ino(), "{:?}", entry.file_name());
            let told = entry.metadata().expect("known");
            assert_eq!((told.ino(), told.len()), (own.ino(), own.len()));
        }
    };
    listed();
    for number in (0..100).step_by(3) {
        make("new", "newer");
        let old = tree.path().join(format!("file {number}"));
        fs::rename(tree.path().join("new"), old).expect("replace");
    }
    listed();
    fs::remove_file(tree.path().join("file 1")).expect("remove");
    fs::create_dir(tree.path().join("file 1")).expect("another kind");
    listed();
    assert!(at.join("file 1").is_dir());
    assert_eq!(
        fs::read_to_string(at.join("file 3")).expect("read"),
        "newer"
    );
    assert_eq!(fs::read_to_string(at.join("file 2")).expect("read"), "old");
}

/// As the kubelet changes a ConfigMap.
#[test]
fn what_the_host_changes_is_seen() {
    let tree = tempfile::tempdir().expect("tree");
    let swap = |number: u32| {
        let data = format!("data-{number}");
        fs::create_dir(tree.path().join(&data)).expect("directory");
        fs::write(tree.path().join(&data).join("key"), number.to_string()).expect("write");
        std::os::unix::fs::symlink(&data, tree.path().join("..new")).expect("link");
        fs::rename(tree.path().join("..new"), tree.path().join("..data")).expect("rename");
    };
    swap(1);
    std::os::unix::fs::symlink("..data/key", tree.path().join("key")).expect("link");
    let shared = Shared::new(&[("map", tree.path(), Changes::Anybody)], MOST);
    let key = shared.at().join("map/key");
    assert_eq!(fs::read_to_string(&key).expect("read"), "1");
    swap(2);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(fs::read_to_string(&key).expect("read"), "2");
}

#[test]
fn a_file_came_to_be_when_it_did_on_the_host() {
    let tree = tempfile::tempdir().expect("tree");
    let trees = [("tree", tree.path(), Changes::Anybody)];
    let shared = Shared::new(&trees, MOST);
    let on_host = tree.path().join("file");
    fs::write(&on_host, "content").expect("write");
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&on_host, "more content").expect("write");
    let seen = shared.at().join("tree/file");
    let (host, guest) = (fs::metadata(&on_host), fs::metadata(&seen));
    let (host, guest) = (host.expect("host"), guest.expect("guest"));
    let born = host.created().expect("the host's filesystem tells");
    assert_eq!(guest.created().expect("told"), born);
    assert!(born < guest.modified().expect("told"));
    // All else that came with it.
    assert_eq!(guest.len(), host.len());
    assert_eq!(guest.modified().ok(), host.modified().ok());
    assert_eq!(guest.permissions(), host.permissions());
    // Asked for by a handle, once the name is gone.
    let open = File::open(&seen).expect("open");
    fs::remove_file(&seen).expect("remove");
    let open = open.metadata().expect("by its handle");
    assert_eq!(open.created().ok(), Some(born));
}

#[test]
fn a_guest_can_only_hold_so_many_files() {
    let tree = tempfile::tempdir().expect("tree");
    for number in 0..100 {
        fs::write(tree.path().join(number.to_string()), "").expect("write");
    }
    let shared = Shared::new(&[("tree", tree.path(), Changes::GuestOnly)], 50);
    let at = shared.at().join("tree");
    let mut held = Vec::new();
    let why = (0..100)
        .map(|number| File::open(at.join(number.to_string())))
        .find_map(|file| file.map(|file| held.push(file)).err());
    assert_eq!(
        why.and_then(|why| why.raw_os_error()),
        Some(Errno::ENFILE as i32)
    );
    // The root and the tree are two of them; a file that is open is two.
    assert_eq!(held.len(), 24);
}

#[test]
fn mounts_below_are_part_of_a_tree_and_what_is_below_them_is_not_lost() {
    let tree = tempfile::tempdir().expect("tree");
    unshare(CloneFlags::CLONE_NEWNS).expect("a namespace");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).expect("private");
    let below = tree.path().join("below");
    fs::create_dir(&below).expect("directory");
    mount(Some("none"), &below, Some("tmpfs"), MsFlags::empty(), NONE).expect("tmpfs");
    fs::write(below.join("file"), "in the mount").expect("write");
    let shared = Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST);
    let at = shared.at().join("tree");
    assert_eq!(
        fs::read_to_string(at.join("below/file")).expect("read"),
        "in the mount"
    );
    fs::write(at.join("file"), "outside").expect("write");
    let why = fs::rename(at.join("file"), at.join("below/other")).expect_err("another mount");
    assert_eq!(why.raw_os_error(), Some(libc::EXDEV));
    let why = fs::remove_dir(at.join("below")).expect_err("a mount");
    assert_eq!(why.raw_os_error(), Some(libc::EBUSY));
}

/// A volume, part of it as a volume of its own, and the whole once more to be read only; each held by a
/// mount, as the agent does, in this order.
fn held(order: [&str; 3], body: impl FnOnce(&dyn Fn(&str) -> PathBuf)) {
    let volume = tempfile::tempdir().expect("volume");
    let part = volume.path().join("sub");
    fs::create_dir(&part).expect("sub");
    fs::write(part.join("file"), "one").expect("file");
    let read_only = format!("fs.1/read{READ_ONLY}");
    let shared = Shared::new(
        &[
            ("fs.1/whole", volume.path(), Changes::Anybody),
            ("fs.1/part", &part, Changes::Anybody),
            (&read_only, volume.path(), Changes::Anybody),
        ],
        MOST,
    );
    for name in order {
        let place = shared.directory.path().join(name);
        fs::create_dir(&place).expect("place");
        let from = shared.at().join("fs.1").join(name);
        mount(Some(&from), &place, NONE, MsFlags::MS_BIND, NONE).expect("hold");
    }
    body(&|path| shared.directory.path().join(path));
}

const ORDERS: [[&str; 3]; 6] = [
    ["whole", "part", "read"],
    ["whole", "read", "part"],
    ["part", "whole", "read"],
    ["part", "read", "whole"],
    ["read", "whole", "part"],
    ["read", "part", "whole"],
];

#[test]
fn one_file_in_several_volumes_is_one() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    for order in ORDERS {
        held(order, |at| {
            let same = ["whole/sub/file", "part/file", "read/sub/file"].map(|path| {
                let found = fs::metadata(at(path)).expect("there");
                (found.dev(), found.ino())
            });
            assert!(
                same.iter().all(|one| *one == same[0]),
                "{order:?}: {same:?}"
            );
            // What one writes the others see at once, though they have looked before.
            fs::write(at("part/file"), "two and more").expect("write");
            for path in ["whole/sub/file", "read/sub/file"] {
                let seen = fs::read_to_string(at(path)).expect("read");
                assert_eq!(seen, "two and more", "{order:?}");
            }
            let listener = UnixListener::bind(at("whole/sub/socket")).expect("listen");
            for path in ["part/socket", "read/sub/socket"] {
                UnixStream::connect(at(path)).expect(path);
                listener.accept().expect(path);
            }
        });
    }
}

#[test]
fn names_go_from_one_directory_to_another_however_both_were_come_to() {
    for order in ORDERS {
        held(order, |at| {
            fs::create_dir(at("part/deep")).expect("deep");
            fs::read_dir(at("read/sub/deep")).expect("looked at");
            for number in 0..3 {
                fs::write(at("whole/file"), "x").expect("write");
                let deep = at("whole/sub/deep").join(number.to_string());
                fs::rename(at("whole/file"), &deep).expect("rename");
                fs::hard_link(&deep, at("whole/link")).expect("link");
                fs::remove_file(at("whole/link")).expect("unlink");
                fs::metadata(at("part/deep").join(number.to_string())).expect("there");
            }
        });
    }
}

#[test]
fn what_may_be_read_only_by_one_name_can_be_written_by_another() {
    use std::io::ErrorKind;

    for order in ORDERS {
        held(order, |at| {
            fs::read_to_string(at("read/sub/file")).expect("looked at");
            for path in ["part/file", "whole/sub/file"] {
                let mut file = File::options().append(true).open(at(path)).expect(path);
                file.write_all(b"!").expect(path);
            }
            fs::write(at("part/new"), "x").expect("new");
            fs::remove_file(at("whole/sub/new")).expect("remove");
        });
    }
    let volume = tempfile::tempdir().expect("volume");
    let only = format!("fs.1/read{READ_ONLY}");
    let shared = Shared::new(&[(&only, volume.path(), Changes::Anybody)], MOST);
    // The guest would not ask, by a mount that can't be written; it is refused all the same.
    let why = fs::write(shared.at().join("fs.1/read/new"), "x").expect_err("read-only");
    assert_eq!(why.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_process_stays_in_its_directory_whoever_looks_it_up() {
    for order in ORDERS {
        held(order, |at| {
            let inside = open(&at("whole/sub"), OFlag::O_PATH, Mode::empty()).expect("open");
            for path in ["part/file", "read/sub/file", "whole/sub/file"] {
                fs::metadata(at(path)).expect("looked up");
                let above = format!("/proc/self/fd/{}/..", inside.as_raw_fd());
                let names = fs::read_dir(above).map(|names| names.count());
                assert_eq!(names.ok(), Some(1), "{order:?}: after {path}");
            }
        });
    }
}

/// As Docker has its layers: lower directories and the upper one are on the volume.
#[test]
fn an_overlay_of_the_guests_has_its_upper_directory_in_a_tree() {
    let tree = tempfile::tempdir().expect("tree");
    let shared = Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST);
    let at = shared.at().join("tree");
    for name in ["lower/below", "upper", "work", "merged"] {
        fs::create_dir_all(at.join(name)).expect(name);
    }
    for name in ["lower/file", "lower/gone", "lower/below/file"] {
        fs::write(at.join(name), "lower").expect(name);
    }
    std::os::unix::fs::symlink("file", at.join("lower/link")).expect("link");
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        at.display()
    );
    let merged = at.join("merged");
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("overlay");
    fs::write(merged.join("file"), "upper").expect("write");
    fs::remove_file(merged.join("gone")).expect("remove");
    fs::remove_dir_all(merged.join("below")).expect("remove");
    fs::create_dir(merged.join("below")).expect("anew");
    std::os::unix::fs::lchown(merged.join("link"), Some(7), None).expect("copied up");
    fs::rename(merged.join("link"), merged.join("renamed")).expect("rename");
    assert_eq!(fs::read_dir(merged.join("below")).expect("list").count(), 0);
    assert!(!merged.join("gone").exists());
    assert_eq!(fs::read(at.join("lower/file")).expect("read"), b"lower");
    assert_eq!(fs::read(at.join("upper/file")).expect("read"), b"upper");
    let attributes = |name: &str| {
        let at = CString::new(tree.path().join(name).as_os_str().as_bytes()).expect("path");
        let mut names = [0_u8; 1000];
        // SAFETY: the path ends with zero, and the kernel writes into the room.
        let length = unsafe { libc::listxattr(at.as_ptr(), names.as_mut_ptr().cast(), 1000) };
        String::from_utf8_lossy(&names[..length.try_into().expect("listed")]).into_owned()
    };
    let found = attributes("upper/below");
    assert!(
        found.contains("user.trefoil.trusted.overlay.opaque\0"),
        "{found}"
    );
    assert!(
        !found.starts_with("trusted.") && !found.contains("\0trusted."),
        "{found}"
    );
}
