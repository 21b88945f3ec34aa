//! Disks of several files.

use proptest::prelude::*;

use super::super::MOST_PARTS;
use super::*;

fn part(seed: u64, sectors: usize) -> (File, Vec<u8>) {
    let bytes = pattern(seed, sectors * 512);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    (file, bytes)
}

fn read_only(engine: Engine) -> Options {
    Options {
        read_only: true,
        ..options(engine)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn several_files_are_one_disk(
        sizes in prop::collection::vec(0usize..40, 1..12),
        reads in prop::collection::vec((any::<prop::sample::Index>(), 1usize..60), 1..12),
        cut in 1u32..4096,
    ) {
        for engine in engines() {
            let (files, bytes): (Vec<_>, Vec<_>) = sizes
                .iter()
                .enumerate()
                .map(|(seed, &sectors)| part(seed as u64 + 1, sectors))
                .unzip();
            let bytes = bytes.concat();
            let sectors = bytes.len() / 512;
            let block = Block::new(read_only(engine), files).unwrap();
            let mut driver = Driver::start(Box::new(block), 0);
            prop_assert_eq!(driver.read(0x100) as usize, sectors);
            for (at, count) in &reads {
                let at = at.index(sectors + 1);
                let length = (count * 512) as u32;
                // In one buffer, and in two, wherever the border is between them.
                let cut = cut.min(length - 1);
                for room in [&[length, 1][..], &[cut, length - cut, 1]] {
                    let outcome = exchange(&mut driver, &[&header(IN, at as u64)], room);
                    if at + count > sectors {
                        prop_assert_eq!(outcome.answer, FAILED);
                        continue;
                    }
                    prop_assert_eq!((outcome.answer, outcome.written), (DONE, length + 1));
                    prop_assert!(outcome.data == bytes[at * 512..(at + count) * 512]);
                }
            }
            prop_assert_eq!(write(&mut driver, 0, &[0; 512]), FAILED);
        }
    }
}

#[test]
fn only_what_is_read_can_be_several_files() {
    let make = |options, count: usize| {
        let files = (0..count).map(|_| part(1, 1).0).collect();
        Block::new(options, files).map(drop)
    };
    assert!(make(options(Engine::Plain), 1).is_ok());
    assert!(make(read_only(Engine::Plain), MOST_PARTS).is_ok());
    for (options, count) in [
        (options(Engine::Plain), 2),
        (options(Engine::Plain), 0),
        (read_only(Engine::Plain), 0),
        (read_only(Engine::Plain), MOST_PARTS + 1),
    ] {
        let why = make(options, count).expect_err("refused");
        assert!(matches!(why, Error::Parts(n) if n == count), "{why}");
    }
    // Each by itself is whole blocks.
    let odd = tempfile::tempfile().unwrap();
    odd.set_len(700).unwrap();
    let rest = tempfile::tempfile().unwrap();
    rest.set_len(324).unwrap();
    let why = Block::new(read_only(Engine::Plain), vec![odd, rest]).map(drop);
    assert!(matches!(why, Err(Error::Size { size: 700, .. })), "{why:?}");
}
