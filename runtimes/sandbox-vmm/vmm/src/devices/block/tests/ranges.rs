//! Discard and write-zeroes.

use std::os::unix::fs::MetadataExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

/// One on a file system of disks, and one in memory, which can't do all of it.
fn disks() -> [File; 2] {
    let memory = File::from(memfd_create("disk", MFdFlags::MFD_CLOEXEC).unwrap());
    memory.write_all_at(&pattern(0, SIZE), 0).unwrap();
    let on_disk = disk();
    on_disk.sync_all().unwrap();
    [on_disk, memory]
}

#[test]
fn discarded_and_zeroed_ranges_are_zero_and_give_their_storage_back() {
    for engine in engines() {
        for file in disks() {
            let mut driver = start(options(engine), &file);
            let mut expected = pattern(0, SIZE);
            let before = file.metadata().unwrap().blocks();
            // Holes.
            assert_eq!(ask(&mut driver, DISCARD, &range(1024, 2048, 0)), DONE);
            expected[1024 * 512..][..2048 * 512].fill(0);
            assert!(content(&file) == expected);
            assert_eq!(ask(&mut driver, WRITE_ZEROES, &range(4096, 1024, 1)), DONE);
            expected[4096 * 512..][..1024 * 512].fill(0);
            assert!(content(&file) == expected);
            let after = file.metadata().unwrap().blocks();
            assert!(before - after >= 3072 - 16, "{before} {after}");
            // No holes.
            assert_eq!(ask(&mut driver, WRITE_ZEROES, &range(5120, 3000, 0)), DONE);
            expected[5120 * 512..][..3000 * 512].fill(0);
            assert!(content(&file) == expected);
            assert!(file.metadata().unwrap().blocks() >= after);
            // Odd ones, several at a time, and empty ones.
            let several = [
                range(1, 3, 1),
                range(5, 0, 0),
                range(7, 1, 0),
                range(SECTORS - 1, 1, 1),
            ];
            assert_eq!(ask(&mut driver, WRITE_ZEROES, &several.concat()), DONE);
            for (from, to) in [(1, 4), (7, 8), (SECTORS as usize - 1, SECTORS as usize)] {
                expected[from * 512..to * 512].fill(0);
            }
            let several = [range(10, 1, 0), range(4000, 100, 0)];
            assert_eq!(ask(&mut driver, DISCARD, &several.concat()), DONE);
            expected[10 * 512..11 * 512].fill(0);
            expected[4000 * 512..4100 * 512].fill(0);
            assert!(content(&file) == expected);
            assert_eq!(
                ask(&mut driver, WRITE_ZEROES, &range(0, SECTORS as u32, 0)),
                DONE
            );
            assert!(content(&file) == vec![0; SIZE]);
            assert_eq!(driver.metrics.failures.get(), 0);
        }
    }
}

#[test]
fn wrong_ranges_change_nothing() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        for kind in [DISCARD, WRITE_ZEROES] {
            let mut ask = |bytes: &[u8]| ask(&mut driver, kind, bytes);
            assert_eq!(ask(&[]), FAILED);
            assert_eq!(ask(&range(0, 8, 0)[..15]), FAILED);
            assert_eq!(ask(&[0; 17]), FAILED);
            assert_eq!(ask(&range(0, 8, 0).repeat(65)), FAILED);
            assert_eq!(ask(&range(SECTORS, 1, 0)), FAILED);
            assert_eq!(ask(&range(SECTORS - 1, 2, 0)), FAILED);
            assert_eq!(ask(&range(u64::MAX, 1, 0)), FAILED);
            assert_eq!(ask(&range(1, u32::MAX, 0)), FAILED);
            assert_eq!(ask(&range(0, 8, 2)), UNKNOWN);
            assert_eq!(ask(&range(0, 8, u32::MAX)), UNKNOWN);
        }
        assert_eq!(ask(&mut driver, DISCARD, &range(0, 8, 1)), UNKNOWN);
        assert!(content(&file) == pattern(0, SIZE));
        // The data in pieces.
        let bytes = [range(0, 8, 0), range(16, 8, 0)].concat();
        let head = header(WRITE_ZEROES, 0);
        let parts = [&head[..], &bytes[..3], &bytes[3..20], &bytes[20..]];
        assert_eq!(exchange(&mut driver, &parts, &[1]).answer, DONE);
        let mut expected = pattern(0, SIZE);
        expected[..4096].fill(0);
        expected[16 * 512..24 * 512].fill(0);
        assert!(content(&file) == expected);
    }
}

#[test]
fn what_the_host_can_not_do_is_done_otherwise() {
    use super::super::disk::{Disk, Fate};
    use super::super::step::Step;
    use nix::errno::Errno;
    let file = disk();
    let mut disk = Disk::new(vec![file.try_clone().unwrap()], false, [0; 20]).unwrap();
    let step = |disk: &Disk, fate| disk.step(fate, 0, 8 << 20).map(|(step, _)| step);
    let first = step(&disk, Fate::ZeroAndUnmap).unwrap();
    assert!(!disk.learn(&first, Errno::EIO), "an error is an error");
    assert!(disk.learn(&first, Errno::EOPNOTSUPP));
    assert!(
        disk.learn(&first, Errno::EOPNOTSUPP),
        "another one was under way"
    );
    assert!(step(&disk, Fate::Discard).is_none());
    let second = step(&disk, Fate::ZeroAndUnmap).unwrap();
    assert!(matches!(second, Step::Allocate { .. }));
    assert!(disk.learn(&second, Errno::EOPNOTSUPP));
    let third = step(&disk, Fate::Zero).unwrap();
    assert!(matches!(&third, Step::Write { memory, .. } if memory.len() == 1 << 20));
    assert!(!disk.learn(&third, Errno::EOPNOTSUPP));
    assert_eq!(disk.perform(&third), Ok(1 << 20));
    let mut expected = pattern(0, SIZE);
    expected[..1 << 20].fill(0);
    assert!(content(&file) == expected);
}
