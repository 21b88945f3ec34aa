//! Filesystems that hang.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use vm_memory::{Bytes, GuestAddress};

use super::{BUFFERS, Guest, ROOM, SHOWN, THREADS, WHILE, apart, directory, with_volume};
use crate::fuse::wire::{Opcode, OutHeader, ReleaseIn, Wire};
use crate::message::Change;

#[test]
fn a_filesystem_that_hangs_hurts_only_who_touches_it_and_goes_on_when_it_does() {
    apart(|| {
        let (mut guest, daemon, file, fh) = with_volume();
        let other = guest.open(file);
        daemon.hang(true);
        let first = guest.read(file, fh);
        guest.neighbour();
        let second = guest.read(file, fh);
        let third = guest.getattr(file);
        // Who closes does not wait.
        let release = ReleaseIn {
            fh: other,
            ..ReleaseIn::default()
        };
        let release = guest.send(Opcode::Release, file, &release);
        assert_eq!(guest.soon(release), (0, Vec::new()));
        for _ in 0..3 {
            guest.neighbour();
        }
        for asked in [first, second, third] {
            assert_eq!(guest.within(asked, Duration::ZERO), None);
        }
        daemon.hang(false);
        for asked in [first, second] {
            assert_eq!(guest.soon(asked), (0, b"content".to_vec()));
        }
        assert_eq!(guest.soon(third).0, 0);
        guest.await_calm();
        let again = guest.read(file, fh);
        assert_eq!(guest.soon(again), (0, b"content".to_vec()));
        guest.neighbour();
    });
}

#[test]
fn in_a_hurry_nobody_waits_for_what_hangs_and_the_guests_memory_is_left_alone() {
    apart(|| {
        let (mut guest, daemon, file, fh) = with_volume();
        daemon.hang(true);
        let (first, second) = (guest.read(file, fh), guest.getattr(file));
        guest.neighbour();
        assert_eq!(guest.within(second, WHILE), None);
        guest.tell(&Change::Hurry(true));
        let third = guest.read(file, fh);
        for asked in [first, second, third] {
            assert_eq!(guest.soon(asked), (-libc::EIO, Vec::new()));
        }
        guest.neighbour();
        // What the call brings in the end comes to nobody.
        daemon.hang(false);
        guest.await_calm();
        let at = BUFFERS + first as u64 * 2 * ROOM + ROOM + OutHeader::SIZE as u64;
        let mut bytes = [0; 64];
        guest
            .ram
            .read_slice(&mut bytes, GuestAddress(at))
            .expect("read");
        assert_eq!(bytes, [0xee; 64]);
        // One more that hangs, in a hurry from its beginning.
        let tree = guest.find(1, "volume");
        daemon.hang(true);
        let fourth = guest.send_bytes(Opcode::Lookup, tree, b"absent\0");
        assert_eq!(guest.soon(fourth), (-libc::EIO, Vec::new()));
        guest.neighbour();
        guest.tell(&Change::Hurry(false));
        let last = guest.send_bytes(Opcode::Lookup, tree, b"absent\0");
        assert_eq!(guest.within(last, WHILE), None);
        daemon.hang(false);
        assert_eq!(guest.soon(last).0, -libc::ENOENT);
        guest.await_calm();
        guest.neighbour();
    });
}

#[test]
fn a_tree_that_hangs_can_be_taken_away_and_others_come_and_go() {
    apart(|| {
        let (mut guest, daemon, file, fh) = with_volume();
        daemon.hang(true);
        let first = guest.read(file, fh);
        guest.neighbour();
        let second = guest.getattr(file);
        guest.tell(&Change::Add("other".into(), SHOWN));
        guest.tell(&Change::Remove("other".into()));
        guest.tell(&Change::Remove("volume".into()));
        for asked in [first, second] {
            assert_eq!(guest.soon(asked).0, -libc::EIO);
        }
        guest.neighbour();
        guest.tell(&Change::Remove("local".into()));
        daemon.hang(false);
        guest.await_calm();
        let last = guest.read(file, fh);
        assert_eq!(guest.soon(last).0, -libc::ESTALE);
    });
}

#[test]
fn the_last_thread_does_nothing_that_may_hang() {
    apart(|| {
        let names: Vec<_> = (0..THREADS)
            .map(|number| format!("dead-{number}"))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (directory, root) = directory(&names);
        let mut devices = Vec::new();
        for name in &names {
            let device = File::options().read(true).write(true).open("/dev/fuse");
            let device = device.expect("fuse");
            let options = format!(
                "fd={},rootmode=40000,user_id=0,group_id=0",
                device.as_raw_fd()
            );
            let (flags, place) = (MsFlags::empty(), root.join(name));
            mount(Some("d"), &place, Some("fuse"), flags, Some(&*options)).expect("mount");
            devices.push(device);
        }
        let mut trees = names.clone();
        trees.push("local");
        let mut guest = Guest::new(directory, &root, &trees);
        let local = guest.find(1, "local");
        let mut asked = Vec::new();
        for name in &names {
            let text = [name.as_bytes(), b"\0"].concat();
            asked.push(guest.send_bytes(Opcode::Lookup, 1, &text));
            let attributes = guest.getattr(local);
            assert_eq!(guest.soon(attributes).0, 0);
        }
        let last = asked.pop().expect("the last");
        assert_eq!(guest.soon(last), (-libc::EIO, Vec::new()));
        // The daemons end, and all is well again.
        drop(devices);
        for asked in asked {
            assert_eq!(guest.soon(asked).0, -libc::ENOTCONN);
        }
        guest.await_calm();
        let attributes = guest.getattr(local);
        assert_eq!(guest.soon(attributes).0, 0);
    });
}
