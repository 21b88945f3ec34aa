//! Locks that others on the host have.

use std::fs::File;
use std::time::Duration;

use super::{Guest, WHILE, apart, directory};
use crate::fuse::wire::{InterruptIn, LK_FLOCK, LkIn, Opcode};
use crate::message::Change;

#[test]
fn who_waits_for_a_lock_is_answered_when_it_is_his_and_when_it_is_refused() {
    apart(|| {
        let (directory, root) = directory(&[]);
        let mut guest = Guest::new(directory, &root, &["local"]);
        let held = File::open(guest.directory.path().join("root/local/file")).expect("open");
        let tree = guest.find(1, "local");
        let file = guest.find(tree, "file");
        let fh = guest.open(file);
        let lock = |kind| LkIn {
            fh,
            kind,
            lk_flags: LK_FLOCK,
            ..LkIn::default()
        };
        held.lock().expect("free");
        let first = guest.send(Opcode::Setlk, file, &lock(libc::F_WRLCK as u32));
        assert_eq!(guest.soon(first).0, -libc::EAGAIN);
        let second = guest.send(Opcode::Setlkw, file, &lock(libc::F_WRLCK as u32));
        assert_eq!(guest.within(second, WHILE), None);
        guest.neighbour();
        held.unlock().expect("unlock");
        assert_eq!(guest.soon(second).0, 0);
        let unlock = guest.send(Opcode::Setlk, file, &lock(libc::F_UNLCK as u32));
        assert_eq!(guest.soon(unlock).0, 0);
        held.lock().expect("free again");
        let third = guest.send(Opcode::Setlkw, file, &lock(libc::F_RDLCK as u32));
        let fourth = guest.send(Opcode::Setlkw, file, &lock(libc::F_WRLCK as u32));
        let fifth = guest.send(Opcode::Setlkw, file, &lock(libc::F_WRLCK as u32));
        assert_eq!(guest.within(fifth, WHILE), None);
        let unique = third as u64 + 1;
        guest.send(Opcode::Interrupt, 0, &InterruptIn { unique });
        assert_eq!(guest.soon(third).0, -libc::EINTR);
        assert_eq!(guest.within(fourth, Duration::ZERO), None);
        // An interruption that comes before what it is for.
        let unique = guest.next() + 1;
        guest.send(Opcode::Interrupt, 0, &InterruptIn { unique });
        let early = guest.send(Opcode::Setlkw, file, &lock(libc::F_WRLCK as u32));
        assert_eq!(guest.soon(early).0, -libc::EINTR);
        for asked in [fourth, fifth] {
            let unique = asked as u64 + 1;
            guest.send(Opcode::Interrupt, 0, &InterruptIn { unique });
            assert_eq!(guest.soon(asked).0, -libc::EINTR);
        }
        let sixth = guest.send(Opcode::Setlkw, file, &lock(libc::F_WRLCK as u32));
        guest.tell(&Change::Remove("local".into()));
        let error = guest.soon(sixth).0;
        assert!([-libc::EIO, -libc::ESTALE].contains(&error), "{error}");
    });
}
