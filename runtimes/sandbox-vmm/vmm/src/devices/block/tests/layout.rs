//! Requests laid out in descriptors in all kinds of ways, and many at a time.

use super::*;

#[test]
fn the_parts_of_a_request_may_be_anywhere() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        let expected = pattern(0, SIZE);
        let head = header(IN, 9);
        let heads: [&[&[u8]]; 3] = [
            &[&head],
            &[&head[..1], &head[1..]],
            &[&head[..7], &head[7..9], &head[9..]],
        ];
        for readable in heads {
            for writable in [
                &[4096, 1][..],
                // The answer in the data's descriptor.
                &[4097],
                &[1, 511, 3000, 584, 1],
                &[4095, 2],
                &[1024, 1024, 1024, 1025],
            ] {
                let outcome = exchange(&mut driver, readable, writable);
                assert_eq!(
                    (outcome.answer, outcome.written),
                    (DONE, 4097),
                    "{writable:?}"
                );
                assert!(outcome.data == expected[9 * 512..][..4096]);
            }
        }
        let bytes = pattern(1, 2048);
        let together = [&header(OUT, 3)[..], &bytes].concat();
        for cuts in [
            &[][..],
            &[1],
            &[15, 17],
            &[16, 529, 530, 1000],
            &[100, 2063],
        ] {
            let mut parts: Vec<&[u8]> = Vec::new();
            let mut from = 0;
            for &cut in cuts {
                parts.push(&together[from..cut]);
                from = cut;
            }
            parts.push(&together[from..]);
            file.write_all_at(&[0; 4096], 0).unwrap();
            assert_eq!(exchange(&mut driver, &parts, &[1]).answer, DONE);
            assert!(content(&file)[3 * 512..][..2048] == bytes, "{cuts:?}");
            // Room that nobody asked for stays as it is.
            let outcome = exchange(&mut driver, &parts, &[8, 1]);
            assert_eq!((outcome.answer, outcome.data), (DONE, vec![0xa5; 8]));
        }
    }
}

#[test]
fn as_many_requests_as_the_queue_holds_are_done_together() {
    const TABLES: u64 = BUFFERS;
    const HEADERS: u64 = TABLES + 256 * 64;
    const DATA: u64 = HEADERS + 256 * 32;
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        for (kind, seed) in [(OUT, 7), (IN, 7), (IN, 7), (OUT, 8)] {
            driver.interrupts();
            for number in 0..256u64 {
                let (table, head) = (TABLES + number * 64, HEADERS + number * 32);
                let data = DATA + number * 4096;
                // From the end to the beginning.
                let sector = (255 - number) * 8;
                driver
                    .ram
                    .write_slice(&header(kind, sector), GuestAddress(head))
                    .unwrap();
                driver
                    .ram
                    .write_obj(0xa5u8, GuestAddress(head + 16))
                    .unwrap();
                let bytes = match kind {
                    OUT => pattern(seed << 8 | number, 4096),
                    _ => vec![0; 4096],
                };
                driver.ram.write_slice(&bytes, GuestAddress(data)).unwrap();
                let flags = if kind == IN { WRITE } else { 0 };
                let chain = [(head, 16, 0), (data, 4096, flags), (head + 16, 1, WRITE)];
                indirect(&mut driver, number as u16, table, &chain);
            }
            let mut heads: Vec<u16> = vec![driver.until_used(0).0];
            while heads.len() < 256 {
                match driver.used(0) {
                    Some((head, _)) => heads.push(head),
                    None => driver.turn().unwrap(),
                }
            }
            heads.sort_unstable();
            assert!(heads.iter().copied().eq(0..256));
            let on_disk = content(&file);
            for number in 0..256u64 {
                let answer: u8 = driver
                    .ram
                    .read_obj(GuestAddress(HEADERS + number * 32 + 16))
                    .unwrap();
                assert_eq!(answer, DONE);
                let mut bytes = vec![0; 4096];
                driver
                    .ram
                    .read_slice(&mut bytes, GuestAddress(DATA + number * 4096))
                    .unwrap();
                let expected = pattern(seed << 8 | number, 4096);
                assert!(bytes == expected, "{engine:?} {kind} {number}");
                assert!(on_disk[(255 - number as usize) * 4096..][..4096] == expected);
            }
            assert_eq!(driver.metrics.open.get(), 0);
            let interrupts = driver.interrupts();
            assert!((1..=256).contains(&interrupts), "{interrupts}");
            if kind == IN {
                // All of it was cached, and came back in one turn, or a few.
                assert!(interrupts < 32, "{interrupts}");
            }
        }
    }
}

#[test]
fn a_request_of_many_pieces_is_one_request() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        let (head, data, table) = (BUFFERS, BUFFERS + 0x1000, BUFFERS + 0x40_0000);
        driver
            .ram
            .write_slice(&header(IN, 0), GuestAddress(head))
            .unwrap();
        let mut chain = vec![(head, 16, 0)];
        // Every second KiB, in reverse.
        chain.extend((0..1000u64).rev().map(|n| (data + n * 2048, 1024, WRITE)));
        chain.push((head + 16, 1, WRITE));
        indirect(&mut driver, 0, table, &chain);
        assert_eq!(driver.until_used(0), (0, 1000 * 1024 + 1));
        let expected = pattern(0, SIZE);
        for number in 0..1000 {
            let mut bytes = [0; 2048];
            let at = data + (999 - number as u64) * 2048;
            driver.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            assert!(bytes[..1024] == expected[number * 1024..][..1024]);
            assert_eq!(bytes[1024..], [0; 1024]);
        }
    }
}

#[test]
fn a_turn_ends_and_the_next_goes_on() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        // 40 times 4 MiB into the same memory, all at once.
        let (head, data) = (BUFFERS, BUFFERS + 0x1000);
        driver
            .ram
            .write_slice(&header(IN, 0), GuestAddress(head))
            .unwrap();
        for _ in 0..40 {
            driver.chain(
                0,
                &[
                    (head, 16, 0),
                    (data, SIZE as u32, WRITE),
                    (head + 16, 1, WRITE),
                ],
            );
        }
        driver.kick(0);
        driver.turn().unwrap();
        let mut back = 0;
        while driver.used(0).is_some() {
            back += 1;
        }
        assert!(back <= 3, "{back} requests of 4 MiB in one turn");
        while back < 40 {
            driver.turn().unwrap();
            while driver.used(0).is_some() {
                back += 1;
            }
        }
        let mut bytes = vec![0; SIZE];
        driver
            .ram
            .read_slice(&mut bytes, GuestAddress(data))
            .unwrap();
        assert!(bytes == pattern(0, SIZE));
    }
}
