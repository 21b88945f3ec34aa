//! Files that the host's kernel makes up while they are read.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use trefoil_files::tree::Changes;

use crate::{MOST, Shared};

/// The host's `/proc` and `/sys`, as monitoring agents have them.
fn made_up() -> (Shared, PathBuf, PathBuf) {
    let trees = [
        ("proc", Path::new("/proc"), Changes::Anybody),
        ("sys", Path::new("/sys"), Changes::Anybody),
    ];
    let shared = Shared::new(&trees, MOST);
    let at = shared.at();
    (shared, at.join("proc"), at.join("sys"))
}

#[test]
fn files_that_say_no_size_read_as_on_the_host() {
    let (_shared, proc, sys) = made_up();
    // The second is longer than any one request.
    for name in [
        "version",
        "kallsyms",
        "cpuinfo",
        "cgroups",
        "sys/kernel/osrelease",
    ] {
        let host = fs::read(Path::new("/proc").join(name)).expect(name);
        assert!(!host.is_empty(), "{name}");
        assert!(fs::read(proc.join(name)).expect(name) == host, "{name}");
    }
    for name in [
        "kernel/mm/transparent_hugepage/enabled",
        "kernel/profiling",
        "class/net/lo/mtu",
    ] {
        let Ok(host) = fs::read(Path::new("/sys").join(name)) else {
            continue;
        };
        assert_eq!(fs::read(sys.join(name)).expect(name), host, "{name}");
    }
    // It is read anew each time.
    let uptime = || fs::read_to_string(proc.join("uptime")).expect("read");
    let before = uptime();
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_ne!(uptime(), before);
    let names = |at: &Path| {
        let entries = fs::read_dir(at).expect("list");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&sys.join("kernel")), names(Path::new("/sys/kernel")));
    assert_eq!(names(&proc.join("sys")), names(Path::new("/proc/sys")));
}

#[test]
fn files_that_say_no_size_can_be_read_in_pieces() {
    let (_shared, proc, _) = made_up();
    let host = fs::read("/proc/cpuinfo").expect("read");
    let mut file = File::open(proc.join("cpuinfo")).expect("open");
    let mut pieces = vec![0; host.len().min(3000)];
    for piece in pieces.chunks_mut(7) {
        file.read_exact(piece).expect("read");
    }
    assert!(host.starts_with(&pieces));
    file.seek(SeekFrom::Start(5)).expect("seek");
    let mut bytes = [0; 100];
    file.read_exact(&mut bytes).expect("read");
    assert_eq!(bytes, host[5..105]);
    // One that tells all at once, into memory whose first page has room for a few bytes.
    let host = fs::read("/proc/sys/kernel/osrelease").expect("read");
    let mut room = vec![0; 3 * 4096];
    let offset = 4096 - (room.as_ptr() as usize % 4096) - 2;
    let mut file = File::open(proc.join("sys/kernel/osrelease")).expect("open");
    let count = file.read(&mut room[offset..][..4096]).expect("read");
    assert_eq!(&room[offset..][..count], host);
}

#[test]
fn files_that_say_no_size_are_not_mapped_and_written_if_they_can_be() {
    let (_shared, proc, _) = made_up();
    let file = File::open(proc.join("version")).expect("open");
    // SAFETY: the kernel chooses the place, and nobody uses it.
    let outcome = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_eq!(outcome, libc::MAP_FAILED);
    let own = format!("{}/oom_score_adj", std::process::id());
    let before = fs::read_to_string("/proc/self/oom_score_adj").expect("read");
    fs::write(proc.join(&own), "7").expect("write");
    let mut file = File::options()
        .append(true)
        .open(proc.join(&own))
        .expect("open");
    assert_eq!(fs::read_to_string(proc.join(&own)).expect("read"), "7\n");
    file.write_all(b"8").expect("append");
    assert_eq!(
        fs::read_to_string("/proc/self/oom_score_adj").expect("read"),
        "8\n"
    );
    fs::write("/proc/self/oom_score_adj", before).expect("restore");
    let why = fs::write(proc.join("version"), "x").expect_err("nobody writes that");
    assert!(
        [Some(libc::EINVAL), Some(libc::EIO)].contains(&why.raw_os_error()),
        "{why}"
    );
}
