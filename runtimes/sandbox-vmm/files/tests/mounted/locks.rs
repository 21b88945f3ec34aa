//! Locks that two guests and the node have.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::errno::Errno;
use trefoil_files::tree::Changes;

use crate::{MOST, Shared};

/// Two guests that share a volume, and a file there: as each of them and the node see it.
fn volume_of_two() -> ([Shared; 2], tempfile::TempDir, [File; 3]) {
    let tree = tempfile::tempdir().expect("tree");
    fs::write(tree.path().join("file"), "content").expect("write");
    let shared = [(); 2].map(|()| Shared::new(&[("tree", tree.path(), Changes::Anybody)], MOST));
    let open = |path: PathBuf| {
        let mut options = File::options();
        options.read(true).write(true).open(path).expect("open")
    };
    let files = [
        open(shared[0].at().join("tree/file")),
        open(shared[1].at().join("tree/file")),
        open(tree.path().join("file")),
    ];
    (shared, tree, files)
}

fn flock(file: &File, how: i32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), how) }).map(drop)
}

/// A POSIX lock's type, or what it is of by now.
fn posix(file: &File, call: i32, kind: i32, start: i64, length: i64) -> Result<i32, Errno> {
    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: 0,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    // SAFETY: the kernel reads and writes the structure, which lives through the call.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), call, &raw mut lock) })?;
    Ok(i32::from(lock.l_type))
}

#[test]
fn locks_of_what_was_opened_hold_everybody() {
    let (shared, _tree, files) = volume_of_two();
    let (exclusive, common) = (libc::LOCK_EX | libc::LOCK_NB, libc::LOCK_SH | libc::LOCK_NB);
    for (holder, file) in files.iter().enumerate() {
        flock(file, exclusive).expect("free");
        for (other, file) in files
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != holder)
        {
            let outcome = flock(file, common);
            assert_eq!(outcome, Err(Errno::EWOULDBLOCK), "{holder} {other}");
        }
        flock(file, libc::LOCK_UN).expect("unlock");
    }
    for file in &files {
        flock(file, common).expect("many can");
    }
    assert_eq!(flock(&files[0], exclusive), Err(Errno::EWOULDBLOCK));
    // Who fails to change a lock has lost the one it had (flock(2)).
    flock(&files[0], common).expect("taken again");
    // What is closed holds nothing, and a copy of what was opened is the same.
    let [first, second, third] = files;
    let copy = first.try_clone().expect("copy");
    drop((first, second));
    assert_eq!(flock(&third, exclusive), Err(Errno::EWOULDBLOCK));
    drop(copy);
    let begun = std::time::Instant::now();
    while flock(&third, exclusive).is_err() {
        // A release is not waited for.
        assert!(begun.elapsed().as_secs() < 10, "it is still locked");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(shared);
}

#[test]
fn posix_locks_hold_everybody() {
    let (shared, tree, files) = volume_of_two();
    let [one, other, node] = &files;
    let lock = |file, kind, start, length| posix(file, libc::F_SETLK, kind, start, length);
    let ofd = |kind, start| posix(node, libc::F_OFD_SETLK, kind, start, 1);
    lock(one, libc::F_WRLCK, 10, 10).expect("free");
    for (start, expected) in [(0, true), (9, true), (10, false), (19, false), (20, true)] {
        let outcome = lock(other, libc::F_RDLCK, start, 1);
        assert_eq!(outcome.is_ok(), expected, "{start}: {outcome:?}");
        assert_eq!(ofd(libc::F_RDLCK, start).is_ok(), expected, "{start}");
        ofd(libc::F_UNLCK, start).expect("unlock");
    }
    // Who asks is told what holds it.
    let asked = |file, start| posix(file, libc::F_GETLK, libc::F_WRLCK, start, 1);
    assert_eq!(asked(other, 12), Ok(libc::F_WRLCK));
    assert_eq!(asked(other, 30), Ok(libc::F_UNLCK));
    assert_eq!(asked(one, 12), Ok(libc::F_UNLCK), "it is its own");
    // A part of it is given back, and a part becomes another.
    lock(one, libc::F_UNLCK, 10, 5).expect("unlock");
    lock(one, libc::F_RDLCK, 15, 5).expect("change");
    lock(other, libc::F_WRLCK, 10, 5).expect("it is free");
    lock(other, libc::F_RDLCK, 15, 5).expect("many read");
    assert_eq!(lock(other, libc::F_WRLCK, 15, 5), Err(Errno::EAGAIN));
    // Whoever closes the file by any of its descriptors has no locks there any more.
    let again = File::options()
        .write(true)
        .open(shared[0].at().join("tree/file"));
    drop(again.expect("open"));
    lock(other, libc::F_WRLCK, 0, 0).expect("it is free");
    lock(other, libc::F_UNLCK, 0, 0).expect("unlock");
    // So it is where it was opened to be read, once nobody has that open any more.
    let read = File::open(shared[1].at().join("tree/file")).expect("open");
    lock(&read, libc::F_RDLCK, 0, 0).expect("free");
    assert_eq!(ofd(libc::F_WRLCK, 0), Err(Errno::EAGAIN));
    drop(read);
    let begun = std::time::Instant::now();
    while ofd(libc::F_WRLCK, 0).is_err() {
        assert!(begun.elapsed().as_secs() < 10, "it is still locked");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(tree);
}

#[test]
fn who_waits_for_a_lock_gets_it_or_can_be_killed() {
    let (shared, _tree, [one, other, node]) = volume_of_two();
    for holder in [&other, &node] {
        flock(holder, libc::LOCK_EX).expect("free");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flock(&one, libc::LOCK_EX));
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert!(!waiter.is_finished(), "it waits");
            flock(holder, libc::LOCK_UN).expect("unlock");
            assert_eq!(waiter.join().expect("no panic"), Ok(()));
        });
        flock(&one, libc::LOCK_UN).expect("unlock");
    }
    flock(&node, libc::LOCK_EX).expect("free");
    let mut child = std::process::Command::new("flock")
        .arg(shared[0].at().join("tree/file"))
        .arg("true")
        .spawn()
        .expect("flock");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(child.try_wait().expect("look"), None, "it waits");
    child.kill().expect("kill");
    child.wait().expect("it can be killed");
}
