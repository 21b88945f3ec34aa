//! What a guest sees that asks by a queue, where filesystems hang or locks are taken. As root.

mod hanging;
mod locks;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::stat::Mode;
use trefoil_virtio::{Buffers, Ram};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::back_end::BackEnd;
use super::changes::Changes;
use super::leadership::THREADS;
use super::shared::Shared;
use super::worker::Worker;
use crate::fuse::wire::{
    EntryOut, InHeader, InitIn, Opcode, OpenOut, OutHeader, ReadIn, Spare, Wire,
};
use crate::message::{Change, DONE};
use crate::passthrough::{Files, Passthrough};
use crate::tree::{Changes as Who, Shown};

const NONE: Option<&str> = None;
/// How trees are shown.
const SHOWN: Shown = Shown {
    changes: Who::Anybody,
    read_only: false,
    depth: 0,
};
const SIZE: u16 = 256;
const RING: [u64; 3] = [0x1000, 0x6000, 0x4000];
const BUFFERS: u64 = 1 << 20;
const ROOM: u64 = 16 << 10;
/// How long what does not hang may take, on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);
/// Longer than it takes to find that something hangs.
const WHILE: Duration = Duration::from_millis(400);

/// A filesystem that hangs as long as it is told to.
struct Daemon {
    hangs: Arc<AtomicBool>,
}

impl Daemon {
    /// Shows a file named `file` at a place, by what is in a directory.
    fn at(place: &Path, directory: &Path) -> Self {
        let (content, file) = (directory.join("content"), directory.join("file"));
        fs::write(&content, "content").expect("write");
        fs::write(&file, "").expect("write");
        mount(Some(&content), &file, NONE, MsFlags::MS_BIND, NONE).expect("bind");
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.expect("fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::empty();
        mount(Some("d"), place, Some("fuse"), flags, Some(&*options)).expect("mount");
        let hangs = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&hangs);
        let root = open(directory, OFlag::O_PATH, Mode::empty()).expect("root");
        std::thread::spawn(move || answer_all(device, root, &told));
        Self { hangs }
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }
}

fn answer_all(mut device: File, root: OwnedFd, hangs: &AtomicBool) {
    const ANSWER: GuestAddress = GuestAddress(2 << 20);
    let mut files = Passthrough::new(root, 1000).expect("files");
    files.add("file", SHOWN);
    let ram = Ram::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
    let mut room = vec![0; 2 << 20];
    while let Ok(length) = device.read(&mut room) {
        while hangs.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let start = GuestAddress(0);
        ram.write_slice(&room[..length], start).expect("write");
        let (mut request, mut answer) = (Buffers::default(), Buffers::default());
        request.add(&ram, start, length).expect("request");
        answer.add(&ram, ANSWER, 2 << 20).expect("answer");
        let length = files.serve(&request, &answer) as usize;
        ram.read_slice(&mut room[..length], ANSWER).expect("read");
        if length > 0 {
            // Who asked may be gone.
            let _ = device.write(&room[..length]);
        }
    }
}

/// A guest, whose requests the threads do.
struct Guest {
    ram: Arc<Ram>,
    kick: EventFd,
    shared: Arc<Shared>,
    _front_end: UnixStream,
    parent: OwnedFd,
    sent: u16,
    answers: Vec<Option<Vec<u8>>>,
    used: u16,
    directory: tempfile::TempDir,
}

/// Trees `local` and those named, each a filesystem of which nothing is answered.
fn directory(others: &[&str]) -> (tempfile::TempDir, PathBuf) {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("a namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).expect("private");
    std::env::set_current_dir("/proc/self/fd").expect("descriptors");
    let directory = tempfile::tempdir().expect("directory");
    let root = directory.path().join("root");
    for name in ["local"].iter().chain(others) {
        fs::create_dir_all(root.join(name)).expect("place");
    }
    let local = root.join("local");
    mount(Some("none"), &local, Some("tmpfs"), MsFlags::empty(), NONE).expect("tmpfs");
    fs::write(local.join("file"), "local content").expect("write");
    (directory, root)
}

impl Guest {
    fn new(directory: tempfile::TempDir, root: &Path, trees: &[&str]) -> Self {
        let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).expect("root");
        let files = Files::new(root, 1000).expect("files");
        for tree in trees {
            files.add(tree, SHOWN);
        }
        let (front_end, ours) = UnixStream::pair().expect("pair");
        let (parent, changes) = trefoil_jail::control::pair().expect("pair");
        let back_end = BackEnd::new(ours);
        let ram = Arc::new(Ram::from_ranges(&[(GuestAddress(0), 8 << 20)]).expect("memory"));
        let kick = EventFd::new(0).expect("event");
        let call = EventFd::new(0).expect("event");
        back_end.serve_queue(
            SIZE,
            RING,
            Arc::clone(&ram),
            kick.try_clone().expect("copy"),
            call,
        );
        let shared = Arc::new(Shared::new(back_end, Changes::new(changes), files));
        for number in 0..THREADS {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_FS).expect("own umask");
                Worker::new(shared, number).run()
            });
        }
        let mut guest = Self {
            ram,
            kick,
            shared,
            _front_end: front_end,
            parent,
            sent: 0,
            answers: Vec::new(),
            used: 0,
            directory,
        };
        let init = InitIn {
            major: 7,
            minor: 38,
            flags: u32::MAX,
            max_readahead: 4096,
            flags2: 0,
            unused: Spare,
        };
        let asked = guest.send(Opcode::Init, 0, &init);
        assert_eq!(guest.soon(asked).0, 0);
        guest
    }

    fn send_bytes(&mut self, opcode: Opcode, nodeid: u64, body: &[u8]) -> usize {
        let number = usize::from(self.sent);
        let at = BUFFERS + number as u64 * 2 * ROOM;
        let mut bytes = Vec::new();
        InHeader {
            len: (InHeader::SIZE + body.len()) as u32,
            opcode: opcode as u32,
            unique: number as u64 + 1,
            nodeid,
            ..InHeader::default()
        }
        .put(&mut bytes);
        bytes.extend(body);
        self.ram
            .write_slice(&bytes, GuestAddress(at))
            .expect("write");
        self.ram
            .write_slice(&[0xee; ROOM as usize], GuestAddress(at + ROOM))
            .expect("write");
        let first = self.sent * 2;
        for (index, at, length, flags, next) in [
            (first, at, bytes.len() as u32, 1_u16, first + 1),
            (first + 1, at + ROOM, ROOM as u32, 2, 0),
        ] {
            let mut descriptor = Vec::new();
            at.put(&mut descriptor);
            length.put(&mut descriptor);
            flags.put(&mut descriptor);
            next.put(&mut descriptor);
            let place = GuestAddress(RING[0] + 16 * u64::from(index));
            self.ram.write_slice(&descriptor, place).expect("write");
        }
        let available = RING[2];
        self.ram
            .write_obj(
                first,
                GuestAddress(available + 4 + 2 * u64::from(self.sent)),
            )
            .expect("write");
        self.sent += 1;
        assert!(self.sent < SIZE / 2, "there are no more descriptors");
        self.ram
            .store(self.sent, GuestAddress(available + 2), Ordering::Release)
            .expect("store");
        self.kick.write(1).expect("kick");
        self.answers.push(None);
        number
    }

    fn send(&mut self, opcode: Opcode, nodeid: u64, body: &impl Wire) -> usize {
        let mut bytes = Vec::new();
        body.put(&mut bytes);
        self.send_bytes(opcode, nodeid, &bytes)
    }

    /// What a request is answered with, an error or all else, if it is in time.
    fn within(&mut self, number: usize, limit: Duration) -> Option<(i32, Vec<u8>)> {
        let begun = Instant::now();
        loop {
            let used: u16 = self
                .ram
                .load(GuestAddress(RING[1] + 2), Ordering::Acquire)
                .expect("load");
            while self.used != used {
                let at = RING[1] + 4 + 8 * u64::from(self.used % SIZE);
                let [head, length]: [u32; 2] = self.ram.read_obj(GuestAddress(at)).expect("read");
                let answered = head as usize / 2;
                let mut bytes = vec![0; length as usize];
                let at = BUFFERS + answered as u64 * 2 * ROOM + ROOM;
                self.ram
                    .read_slice(&mut bytes, GuestAddress(at))
                    .expect("read");
                assert_eq!(
                    self.answers[answered].replace(bytes),
                    None,
                    "answered twice"
                );
                self.used = self.used.wrapping_add(1);
            }
            if let Some(bytes) = &self.answers[number] {
                let mut left = bytes.as_slice();
                let header = OutHeader::take(&mut left).expect("header");
                assert_eq!(header.unique, number as u64 + 1);
                return Some((header.error, left.to_vec()));
            }
            if begun.elapsed() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The number of the next request.
    fn next(&self) -> u64 {
        u64::from(self.sent) + 1
    }

    fn soon(&mut self, number: usize) -> (i32, Vec<u8>) {
        self.within(number, SOON).expect("an answer")
    }

    fn find(&mut self, parent: u64, name: &str) -> u64 {
        let asked = self.send_bytes(Opcode::Lookup, parent, &[name.as_bytes(), b"\0"].concat());
        let (error, said) = self.soon(asked);
        assert_eq!(error, 0, "{name}");
        EntryOut::take(&mut said.as_slice()).expect("entry").nodeid
    }

    fn open(&mut self, node: u64) -> u64 {
        let asked = self.send_bytes(Opcode::Open, node, &[0; 8]);
        let (error, said) = self.soon(asked);
        assert_eq!(error, 0);
        OpenOut::take(&mut said.as_slice()).expect("opened").fh
    }

    fn read(&mut self, node: u64, fh: u64) -> usize {
        let read = ReadIn {
            fh,
            size: 4096,
            ..ReadIn::default()
        };
        self.send(Opcode::Read, node, &read)
    }

    fn getattr(&mut self, node: u64) -> usize {
        self.send_bytes(Opcode::Getattr, node, &[0; 16])
    }

    /// The neighbour's file can be found, opened and read.
    fn neighbour(&mut self) {
        let tree = self.find(1, "local");
        let file = self.find(tree, "file");
        let fh = self.open(file);
        let asked = self.read(file, fh);
        assert_eq!(self.soon(asked), (0, b"local content".to_vec()));
    }

    fn tell(&self, change: &Change) {
        let text = serde_json::to_vec(change).expect("text");
        let number = self.parent.as_raw_fd();
        send(number, &text, MsgFlags::empty()).expect("send");
        let mut said = [0; 16];
        let length = recv(number, &mut said, MsgFlags::empty()).expect("receive");
        assert_eq!(&said[..length], DONE);
    }

    fn await_calm(&self) {
        let begun = Instant::now();
        while self.shared.is_stalled() {
            assert!(begun.elapsed() < SOON, "it still hangs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// On a thread of its own, whose namespaces are changed.
fn apart(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    // A trial that hangs fails.
    let outcome = ended.recv_timeout(4 * SOON);
    if outcome.is_err() && thread.is_finished() {
        thread.join().expect("the trial");
    }
    outcome.expect("the trial ends");
}

/// A guest with a volume `volume` of a daemon, and the file there, open: its node and handle.
fn with_volume() -> (Guest, Daemon, u64, u64) {
    let (directory, root) = directory(&["volume"]);
    let behind = directory.path().join("behind");
    fs::create_dir(&behind).expect("directory");
    let daemon = Daemon::at(&root.join("volume"), &behind);
    let mut guest = Guest::new(directory, &root, &["local", "volume"]);
    guest.neighbour();
    let tree = guest.find(1, "volume");
    let file = guest.find(tree, "file");
    let fh = guest.open(file);
    (guest, daemon, file, fh)
}
