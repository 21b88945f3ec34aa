//! A driver that goes away while its requests are under way.

use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::*;

const HEADS: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;

/// Makes as many requests available as there is room for.
fn fill_queue(driver: &mut Driver, kind: u32) {
    let flags = if kind == IN { WRITE } else { 0 };
    for number in 0..64u64 {
        let (head, data) = (HEADS + number * 32, DATA + number * 0x8000);
        let header = header(kind, number * 64);
        driver.ram.write_slice(&header, GuestAddress(head)).unwrap();
        driver.chain(
            0,
            &[(head, 16, 0), (data, 0x8000, flags), (head + 16, 1, WRITE)],
        );
    }
}

#[test]
fn after_a_reset_no_memory_changes_and_no_disk() {
    for engine in engines() {
        for kind in [IN, OUT, IN, OUT] {
            let file = disk();
            file.sync_all().unwrap();
            // So that it has to be read.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
            let mut driver = start(options(engine), &file);
            fill_queue(&mut driver, kind);
            driver.kick(0);
            driver.turn().unwrap();
            driver.write(0x70, 0);
            assert_eq!(driver.metrics.open.get(), 0);
            let memory = vec![0x5a; 0x21_0000];
            driver
                .ram
                .write_slice(&memory, GuestAddress(BUFFERS))
                .unwrap();
            let on_disk = content(&file);
            std::thread::sleep(Duration::from_millis(20));
            for _ in 0..4 {
                driver.turn().unwrap();
            }
            let mut now = vec![0; memory.len()];
            driver
                .ram
                .read_slice(&mut now, GuestAddress(BUFFERS))
                .unwrap();
            assert!(
                now == memory,
                "{engine:?}: memory has changed after the reset"
            );
            assert!(content(&file) == on_disk);
            // And then it works as ever.
            driver.negotiate(0);
            file.write_all_at(&pattern(0, SIZE), 0).unwrap();
            assert!(read(&mut driver, 5, 4096).data == pattern(0, SIZE)[5 * 512..][..4096]);
            assert_eq!(write(&mut driver, 5, &[7; 512]), DONE);
        }
    }
}

#[test]
fn a_driver_that_breaks_the_ring_with_requests_under_way_is_told_to_reset() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        for _ in 0..3 {
            fill_queue(&mut driver, OUT);
            driver.chain(0, &[(u64::MAX, 16, 0), (HEADS, 1, WRITE)]);
            driver.kick(0);
            // How many turns it takes is the disk's matter: the chain is behind all the requests.
            let deadline = Instant::now() + Duration::from_secs(5);
            while !driver.needs_reset() {
                assert!(
                    Instant::now() < deadline,
                    "{engine:?}: no reset is asked for"
                );
                driver.turn().unwrap();
            }
            assert_eq!(driver.metrics.open.get(), 0);
            driver.negotiate(0);
            assert_eq!(read(&mut driver, 0, 512).answer, DONE);
        }
        assert_eq!(driver.metrics.broken.get(), 3);
    }
}

#[test]
fn a_device_that_goes_away_with_requests_under_way_leaves_nothing_behind() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        fill_queue(&mut driver, OUT);
        driver.kick(0);
        driver.turn().unwrap();
        drop(driver);
        let on_disk = content(&file);
        std::thread::sleep(Duration::from_millis(10));
        assert!(content(&file) == on_disk);
    }
}
