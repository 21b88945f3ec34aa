//! What the server does for a guest's kernel, asked by this machine's: FUSE's requests are the same,
//! whether they come by a device or by a queue. In a mount namespace of each test's own; as root.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork};
use trefoil_files::passthrough::Passthrough;
use trefoil_files::server::filter;
use trefoil_files::tree::Changes;
use trefoil_vmm::devices::queue::Buffers;
use trefoil_vmm::ram::Ram;
use vm_memory::{Bytes, GuestAddress};

const NONE: Option<&str> = None;
/// Where in the memory requests and answers are.
const REQUEST: GuestAddress = GuestAddress(0);
const ANSWER: GuestAddress = GuestAddress(2 << 20);
const ROOM: usize = (1 << 20) + (64 << 10);

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
            let place = root.join(name);
            match tree.is_dir() {
                true => fs::create_dir(&place).expect("place"),
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
        files.add(&name, changes);
    }
    filter::install().expect("filter");
    let ram = Ram::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
    let mut room = vec![0; ROOM];
    loop {
        let length = match device.read(&mut room) {
            Ok(length) => length,
            Err(why) if why.raw_os_error() == Some(libc::ENOENT) => continue,
            // It is unmounted.
            Err(_) => return,
        };
        ram.write_slice(&room[..length], REQUEST).expect("write");
        let (mut request, mut answer) = (Buffers::default(), Buffers::default());
        request.add(&ram, REQUEST, length).expect("request");
        answer.add(&ram, ANSWER, ROOM).expect("answer");
        let length = files.serve(&request, &answer) as usize;
        if length > 0 {
            ram.read_slice(&mut room[..length], ANSWER).expect("read");
            // It fails where the one who asked has been killed.
            let _ = device.write_all(&room[..length]);
        }
    }
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
