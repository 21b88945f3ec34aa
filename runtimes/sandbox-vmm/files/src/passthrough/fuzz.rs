//! A guest that asks for what it likes.

#![allow(clippy::unwrap_used, reason = "what can't be is a finding")]

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Once;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use trefoil_virtio::{Buffers, Ram};
use vm_memory::{Bytes, GuestAddress};

use super::Passthrough;
use crate::fuse::wire::{InHeader, InitIn, Opcode, OutHeader, Spare, Wire, WriteIn};
use crate::tree::{Changes, Shown};

const ROOM: usize = 64 << 10;
const REQUEST: GuestAddress = GuestAddress(0);
const ANSWER: GuestAddress = GuestAddress(1 << 20);
/// How many files it may hold: few, so that it comes to that.
const MOST: usize = 24;
const NONE: Option<&str> = None;

/// What files are called; some can't be.
const NAMES: [&[u8]; 13] = [
    b"tree",
    b"fs",
    b"a",
    b"b",
    b"c",
    b"directory",
    b"user.a",
    b"security.capability",
    b"system.posix_acl_access",
    b".",
    b"..",
    b"a/b",
    b"",
];

/// The root, whose trees are a small filesystem with nothing in it, and, as one filesystem `fs`, another
/// one (`a`) and the same to be read only (`b`). The calling thread's mount
/// namespace and capabilities, which are changed the first time, do for all later calls.
fn root() -> OwnedFd {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        mount(Some("none"), "/mnt", Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        fs::create_dir("/mnt/tree").unwrap();
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        let options = Some("size=4m,nr_inodes=64");
        mount(Some("none"), "/mnt/tree", Some("tmpfs"), flags, options).unwrap();
        let (a, b) = ("/mnt/fs/a", "/mnt/fs/b");
        fs::create_dir_all(a).unwrap();
        fs::create_dir_all(b).unwrap();
        mount(Some("none"), a, Some("tmpfs"), flags, options).unwrap();
        mount(Some(a), b, NONE, MsFlags::MS_BIND, NONE).unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
        mount(NONE, b, NONE, read_only, NONE).unwrap();
        std::env::set_current_dir("/proc/self/fd").unwrap();
        // SAFETY: the call takes numbers.
        let outcome = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::SECBIT_NO_SETUID_FIXUP) };
        assert_eq!(outcome, 0);
    });
    let entries = ["/mnt/tree", "/mnt/fs/a"].map(|tree| fs::read_dir(tree).unwrap());
    for entry in entries.into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    open("/mnt", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
}

/// How long the structure is that an opcode's request begins with.
fn fixed(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Getattr | Opcode::Mknod | Opcode::Rename2 | Opcode::Create | Opcode::Tmpfile => 16,
        Opcode::Setattr => 88,
        Opcode::Mkdir
        | Opcode::Rename
        | Opcode::Link
        | Opcode::Open
        | Opcode::Opendir
        | Opcode::Forget
        | Opcode::BatchForget
        | Opcode::Getxattr
        | Opcode::Listxattr => 8,
        Opcode::Read | Opcode::Write | Opcode::Readdir | Opcode::Readdirplus => 40,
        Opcode::Getlk | Opcode::Setlk | Opcode::Setlkw => 48,
        Opcode::Release | Opcode::Releasedir | Opcode::Flush | Opcode::Lseek | Opcode::Statx => 24,
        Opcode::Fsync | Opcode::Fsyncdir | Opcode::Setxattr => 16,
        Opcode::Fallocate => 32,
        Opcode::CopyFileRange => 56,
        Opcode::Init => 64,
        _ => 0,
    }
}

fn shown(changes: Changes) -> Shown {
    Shown {
        changes,
        read_only: false,
        depth: 0,
    }
}

struct Guest {
    ram: Ram,
    files: Passthrough,
}

impl Guest {
    fn ask(&mut self, opcode: u32, nodeid: u64, body: &[u8], said: u32, room: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        InHeader {
            len: said,
            opcode,
            unique: 9,
            nodeid,
            ..InHeader::default()
        }
        .put(&mut bytes);
        bytes.extend(body);
        self.ram.write_slice(&bytes, REQUEST).unwrap();
        let (mut request, mut answer) = (Buffers::default(), Buffers::default());
        // In two pieces, of which neither ends where a structure does.
        let first = bytes.len().min(21);
        request.add(&self.ram, REQUEST, first).unwrap();
        let rest = GuestAddress(first as u64);
        request.add(&self.ram, rest, bytes.len() - first).unwrap();
        answer.add(&self.ram, ANSWER, room.min(7)).unwrap();
        let rest = GuestAddress(ANSWER.0 + room.min(7) as u64);
        answer.add(&self.ram, rest, room - room.min(7)).unwrap();
        let length = self.files.serve(&request, &answer) as usize;
        assert!(length <= room, "an answer of {length} bytes for {room}");
        let mut said = vec![0; length];
        self.ram.read_slice(&mut said, ANSWER).unwrap();
        if length > 0 {
            let header = OutHeader::take(&mut said.as_slice()).unwrap();
            assert_eq!((header.len as usize, header.unique), (length, 9));
            assert!(header.error <= 0 && (header.error == 0 || length == OutHeader::SIZE));
        }
        said
    }

    fn begin(&mut self) {
        let mut body = Vec::new();
        InitIn {
            major: 7,
            minor: 38,
            flags: u32::MAX,
            max_readahead: 4096,
            flags2: 0,
            unused: Spare,
        }
        .put(&mut body);
        let length = (InHeader::SIZE + body.len()) as u32;
        let said = self.ask(Opcode::Init as u32, 0, &body, length, ROOM);
        assert_eq!(said.len(), OutHeader::SIZE + 64);
    }
}

/// Plays a script: each step an opcode, a file, a handle, names, and changes to what would be right.
pub fn fuzz(script: &[u8]) {
    let mut files = Passthrough::new(root(), MOST).unwrap();
    files.add("tree", shown(Changes::Anybody));
    files.add("fs/a", shown(Changes::Anybody));
    let read_only = Shown {
        read_only: true,
        ..shown(Changes::Anybody)
    };
    files.add("fs/b", read_only);
    let ram = Ram::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let mut guest = Guest { ram, files };
    guest.begin();
    guest.ask(Opcode::Lookup as u32, 1, b"tree\0", 45, ROOM);
    guest.ask(Opcode::Lookup as u32, 1, b"fs\0", 43, ROOM);
    for name in [b"b\0", b"a\0"] {
        guest.ask(Opcode::Lookup as u32, 3, name, 42, ROOM);
    }
    let mut bytes = script.iter().copied();
    let mut next = || bytes.next();
    while let Some(first) = next() {
        let mut byte = || next().unwrap_or_default();
        let opcode = Opcode::ALL.get(usize::from(first) % (Opcode::ALL.len() + 1));
        let (node, fh, names, changes) = (byte(), byte(), byte(), byte());
        let mut body = vec![0; opcode.map_or(0, |opcode| fixed(*opcode))];
        if let Some(start) = body.first_chunk_mut() {
            *start = u64::from(fh % 16).to_ne_bytes();
        }
        if let (
            Some(Opcode::Read | Opcode::Readdir | Opcode::Readdirplus | Opcode::Write),
            Some(size),
        ) = (opcode, body.get_mut(16..20))
        {
            size.copy_from_slice(&(u32::from(names) * 16).to_ne_bytes());
        }
        for _ in 0..changes % 8 {
            let (at, with) = (usize::from(byte()), byte());
            if let Some(place) = body.get_mut(at) {
                *place = with;
            }
        }
        for name in [names % 16, names / 16] {
            body.extend(NAMES.get(usize::from(name)).copied().unwrap_or_default());
            body.push(0);
        }
        if opcode == Some(&Opcode::Write) {
            body.resize(WriteIn::SIZE + usize::from(names) * 16, 7);
        }
        let length = (InHeader::SIZE + body.len()) as u32;
        let said = length.wrapping_add(u32::from(changes / 8 == 31));
        let room = [ROOM, ROOM, 0, 15, 16, 100, 4096, ROOM][usize::from(changes / 32)];
        let number = opcode.map_or(u32::from(first), |opcode| *opcode as u32);
        guest.ask(number, (node % 16).into(), &body, said, room);
        if opcode == Some(&Opcode::Destroy) || opcode == Some(&Opcode::Init) {
            guest.begin();
        }
        if first == 255 {
            guest.files.remove("tree");
            guest.files.add("tree", shown(Changes::GuestOnly));
        }
        if first == 254 {
            guest.files.remove("fs/b");
            guest.files.add("fs/b", read_only);
        }
        let held = guest.files.tables().held();
        assert!(held <= MOST + 2, "{held} files are held");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::fs::File;

    use super::*;

    /// How many of the tree's files are open, by whomever.
    fn open_files() -> usize {
        let entries = fs::read_dir("/proc/thread-self/fd").unwrap();
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.starts_with("/mnt")).count()
    }

    /// On a thread of its own, whose namespace, directory and capabilities are changed.
    #[test]
    fn any_requests_are_answered_and_leave_nothing_open() {
        let run = || {
            let mut config = ProptestConfig::with_cases(400);
            config.failure_persistence = None;
            proptest!(config, |(script in prop::collection::vec(any::<u8>(), 0..400))| {
                fuzz(&script);
            });
            assert_eq!(open_files(), 0);
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn a_request_of_no_session_is_refused() {
        let file = File::open("/").unwrap();
        let files = Passthrough::new(file.into(), MOST).unwrap();
        let ram = Ram::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let mut guest = Guest { ram, files };
        let said = guest.ask(Opcode::Getattr as u32, 1, &[0; 16], 56, ROOM);
        let header = OutHeader::take(&mut said.as_slice()).unwrap();
        assert_eq!(header.error, -libc::EIO);
    }
}
