//! The disk by a driver's hands, with each engine.

mod arbitrary;
mod hardware;
mod layout;
mod parts;
mod ranges;
mod reset;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::{Block, Engine, Error, Options};
use crate::devices::testing::{BUFFERS, Driver, INDIRECT, NEXT, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const UNKNOWN: u8 = 2;

/// The tests' disk: 4 MiB.
const SIZE: usize = 4 << 20;
const SECTORS: u64 = SIZE as u64 / 512;

/// The engines that this machine has.
fn engines() -> Vec<Engine> {
    match super::ring::Ring::new(std::iter::once(&disk()), 4) {
        Ok(_) => vec![Engine::Ring, Engine::Plain],
        Err(why) => {
            eprintln!("not tested with io_uring, there is none here: {why}");
            vec![Engine::Plain]
        }
    }
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A file full of the pattern of seed 0.
fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&pattern(0, SIZE), 0).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn options(engine: Engine) -> Options {
    Options {
        serial: "TREFOIL-1".into(),
        engine,
        ..Options::default()
    }
}

fn start(options: Options, file: &File) -> Driver {
    let block = Block::new(options, vec![file.try_clone().unwrap()]).unwrap();
    Driver::start(Box::new(block), 0)
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    answer: u8,
    data: Vec<u8>,
    written: u32,
}

/// Sends a request laid out as it is given, its parts one after the other in memory, and waits for
/// its end. The last of the writable bytes is the answer's.
fn exchange(driver: &mut Driver, readable: &[&[u8]], writable: &[u32]) -> Outcome {
    let mut at = BUFFERS;
    let mut chain = Vec::new();
    for part in readable {
        driver.ram.write_slice(part, GuestAddress(at)).unwrap();
        chain.push((at, part.len() as u32, 0));
        at += part.len() as u64;
    }
    let start = at;
    for &length in writable {
        chain.push((at, length, WRITE));
        at += u64::from(length);
    }
    let room = (at - start) as usize;
    // What is not written is seen by that.
    driver
        .ram
        .write_slice(&vec![0xa5; room + 16], GuestAddress(start))
        .unwrap();
    let head = driver.chain(0, &chain);
    let (used, written) = driver.until_used(0);
    assert_eq!(used, head);
    let mut data = vec![0; room + 16];
    driver
        .ram
        .read_slice(&mut data, GuestAddress(start))
        .unwrap();
    assert_eq!(data.split_off(room), [0xa5; 16], "written past the end");
    let answer = data.pop().unwrap();
    Outcome {
        answer,
        data,
        written,
    }
}

fn read(driver: &mut Driver, sector: u64, length: u32) -> Outcome {
    exchange(driver, &[&header(IN, sector)], &[length, 1])
}

fn write(driver: &mut Driver, sector: u64, bytes: &[u8]) -> u8 {
    exchange(driver, &[&header(OUT, sector), bytes], &[1]).answer
}

fn ask(driver: &mut Driver, kind: u32, bytes: &[u8]) -> u8 {
    exchange(driver, &[&header(kind, 0), bytes], &[1]).answer
}

/// Makes a chain available whose descriptors are in a table at `table`.
fn indirect(driver: &mut Driver, index: u16, table: u64, chain: &[(u64, u32, u16)]) {
    let last = chain.len() - 1;
    for (number, &(address, length, flags)) in chain.iter().enumerate() {
        let (flags, next) = match number == last {
            true => (flags, 0),
            false => (flags | NEXT, number as u16 + 1),
        };
        let at = table + number as u64 * 16;
        driver.ram.write_obj(address, GuestAddress(at)).unwrap();
        driver.ram.write_obj(length, GuestAddress(at + 8)).unwrap();
        driver
            .ram
            .write_obj([flags, next], GuestAddress(at + 12))
            .unwrap();
    }
    driver.describe(0, index, table, chain.len() as u32 * 16, INDIRECT, 0);
    driver.offer(0, index);
}

#[test]
fn the_configuration_is_as_linux_reads_it() {
    let file = disk();
    let driver = start(options(Engine::Plain), &file);
    let field = |at: u64| driver.read(0x100 + at);
    assert_eq!(u64::from(field(0)), SECTORS);
    assert_eq!(field(12), 254, "segments");
    assert_eq!(field(20), 512, "block size");
    assert_eq!(field(24) & 0xff, 3, "4096 is 512 << 3");
    assert_eq!(field(24) >> 16, 8, "least size in blocks");
    assert_eq!(field(44), 8, "discard's alignment");
    assert_eq!([field(36), field(48)], [1 << 21; 2]);
    assert_eq!([field(40), field(52)], [64; 2]);
    assert_eq!([field(56), field(60)], [1, 0]);
    driver.write(0x14, 0);
    let all = 1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14;
    assert_eq!(driver.read(0x10) & !(3 << 28), all);

    let read_only = Options {
        read_only: true,
        ..options(Engine::Plain)
    };
    let driver = start(read_only, &file);
    driver.write(0x14, 0);
    let all = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10;
    assert_eq!(driver.read(0x10) & !(3 << 28), all);
    assert_eq!(driver.read(0x100 + 36), 0);
}

#[test]
fn what_is_no_disk_is_refused_with_a_reason() {
    let refuse = |options: Options, file: File| {
        let why = Block::new(options, vec![file])
            .map(drop)
            .expect_err("refused");
        why.to_string()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1000).unwrap();
    let why = refuse(Options::default(), file.reopen().unwrap());
    assert!(why.contains("1000 bytes") && why.contains("512"), "{why}");
    file.as_file().set_len(1024).unwrap();
    let open = |how: &mut OpenOptions| how.open(file.path()).unwrap();
    let why = refuse(Options::default(), open(OpenOptions::new().read(true)));
    assert!(why.contains("the right to write"), "{why}");
    let why = refuse(Options::default(), open(OpenOptions::new().write(true)));
    assert!(why.contains("the right to read"), "{why}");
    let appending = open(OpenOptions::new().read(true).append(true));
    let why = refuse(Options::default(), appending);
    assert!(why.contains("appending"), "{why}");
    let read_only = Options {
        read_only: true,
        ..Options::default()
    };
    let why = refuse(read_only.clone(), File::open("/").unwrap());
    assert!(why.contains("neither"), "{why}");
    let why = refuse(read_only.clone(), File::open("/dev/null").unwrap());
    assert!(why.contains("neither"), "{why}");
    let long = Options {
        serial: "x".repeat(21),
        ..read_only.clone()
    };
    let why = refuse(long, file.reopen().unwrap());
    assert!(why.contains("21 bytes"), "{why}");
    let last = Options {
        serial: "x".repeat(20),
        ..read_only
    };
    let readable = open(OpenOptions::new().read(true));
    assert!(matches!(
        Block::new(last, vec![readable]),
        Ok(_) | Err(Error::Ring(_))
    ));
}

#[test]
fn the_engine_is_what_was_asked_for() {
    for engine in engines() {
        let block = Block::new(options(engine), vec![disk()]).unwrap();
        assert_eq!(block.engine().0, engine);
        assert!(block.engine().1.is_none());
    }
    let automatic = Block::new(options(Engine::Automatic), vec![disk()]).unwrap();
    assert_eq!(automatic.engine().0, engines()[0]);
}

#[test]
fn what_is_written_is_read_back_and_is_in_the_file() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        let mut expected = pattern(0, SIZE);
        for (seed, sector, length) in [
            (1, 0, 512),
            (2, 7, 4096),
            (3, SECTORS - 1, 512),
            (4, 100, 1 << 20),
        ] {
            let bytes = pattern(seed, length);
            assert_eq!(write(&mut driver, sector, &bytes), DONE);
            expected[sector as usize * 512..][..length].copy_from_slice(&bytes);
            let outcome = read(&mut driver, sector, length as u32);
            assert_eq!((outcome.answer, outcome.written), (DONE, length as u32 + 1));
            assert!(outcome.data == bytes, "{engine:?} {sector}");
        }
        assert!(content(&file) == expected);
        // Larger than one step, and than one turn.
        let outcome = read(&mut driver, 0, SIZE as u32);
        assert_eq!(outcome.answer, DONE);
        assert!(outcome.data == expected);
        let all = pattern(5, SIZE);
        assert_eq!(write(&mut driver, 0, &all), DONE);
        assert!(content(&file) == all);
        let metrics = &driver.metrics;
        assert_eq!(metrics.requests.get(), 10);
        assert_eq!(metrics.failures.get(), 0);
        assert_eq!(metrics.open.get(), 0);
        let once = 512 + 4096 + 512 + (1 << 20) + SIZE as u64;
        assert_eq!([metrics.bytes_in.get(), metrics.bytes_out.get()], [once; 2]);
        let counted: u64 = metrics.latency.below.iter().map(|class| class.get()).sum();
        assert_eq!(counted, 10);
    }
}

#[test]
fn flush_and_identity_are_answered() {
    for engine in engines() {
        for without in [0, 1 << 9] {
            let file = disk();
            let block = Block::new(options(engine), vec![file.try_clone().unwrap()]).unwrap();
            let mut driver = Driver::start(Box::new(block), without);
            assert_eq!(write(&mut driver, 3, &pattern(1, 1024)), DONE);
            assert_eq!(
                exchange(&mut driver, &[&header(FLUSH, 0)], &[1]).answer,
                DONE
            );
            assert_eq!(ask(&mut driver, WRITE_ZEROES, &range(8, 8, 0)), DONE);
            assert!(content(&file)[3 * 512..][..1024] == pattern(1, 1024));
            let outcome = exchange(&mut driver, &[&header(GET_ID, 0)], &[20, 1]);
            assert_eq!((outcome.answer, outcome.written), (DONE, 21));
            assert_eq!(outcome.data, b"TREFOIL-1\0\0\0\0\0\0\0\0\0\0\0");
            let short = exchange(&mut driver, &[&header(GET_ID, 0)], &[4, 1]);
            assert_eq!((short.answer, &short.data[..]), (DONE, &b"TREF"[..]));
            let long = exchange(&mut driver, &[&header(GET_ID, 0)], &[30, 1]);
            assert_eq!((long.answer, long.written), (DONE, 21));
        }
    }
}

#[test]
fn a_read_only_disk_never_changes() {
    for engine in engines() {
        let file = disk();
        let read_only = Options {
            read_only: true,
            ..options(engine)
        };
        let mut driver = start(read_only, &file);
        assert_eq!(write(&mut driver, 0, &[1; 512]), FAILED);
        assert_eq!(ask(&mut driver, DISCARD, &range(0, 8, 0)), FAILED);
        assert_eq!(ask(&mut driver, WRITE_ZEROES, &range(0, 8, 1)), FAILED);
        assert_eq!(ask(&mut driver, FLUSH, &[]), DONE);
        assert!(read(&mut driver, 0, 4096).data == pattern(0, 4096));
        assert!(content(&file) == pattern(0, SIZE));
        assert_eq!(driver.metrics.failures.get(), 3);
    }
}

#[test]
fn what_is_not_on_the_disk_fails_and_nothing_else() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        for (sector, length) in [
            (SECTORS, 512),
            (SECTORS - 1, 1024),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (1 << 55, 512),
            (0, 513),
            (0, 511),
            (SECTORS + 1, 0),
        ] {
            let outcome = read(&mut driver, sector, length);
            assert_eq!((outcome.answer, outcome.written), (FAILED, 1));
            assert_eq!(outcome.data, vec![0xa5; length as usize]);
            assert_eq!(
                write(&mut driver, sector, &vec![1; length as usize]),
                FAILED
            );
        }
        // Nothing at all is fine wherever there is a disk.
        assert_eq!(read(&mut driver, SECTORS, 0).answer, DONE);
        assert_eq!(write(&mut driver, 0, &[]), DONE);
        for kind in [2, 3, 14, 1 << 31, u32::MAX, 1 | 1 << 30] {
            assert_eq!(ask(&mut driver, kind, &[0; 512]), UNKNOWN);
        }
        // Too short a header, but a place to say so.
        assert_eq!(exchange(&mut driver, &[&[0; 15]], &[512, 1]).answer, FAILED);
        assert_eq!(exchange(&mut driver, &[], &[1]).answer, FAILED);
        assert!(content(&file) == pattern(0, SIZE));
        // A file that has become shorter.
        file.set_len(1024).unwrap();
        let outcome = read(&mut driver, 1, 1024);
        assert_eq!((outcome.answer, outcome.written), (FAILED, 513));
        assert!(outcome.data[..512] == pattern(0, 1024)[512..]);
        assert_eq!(driver.metrics.open.get(), 0);
    }
}

#[test]
fn without_a_place_for_the_answer_the_device_asks_for_a_reset() {
    for engine in engines() {
        let file = disk();
        let mut driver = start(options(engine), &file);
        driver.send(0, &[&header(OUT, 0), &[1; 512]], &[]);
        driver.kick(0);
        driver.turn().unwrap();
        assert!(driver.needs_reset());
        assert!(content(&file) == pattern(0, SIZE));
        driver.negotiate(0);
        assert!(read(&mut driver, 0, 512).data == pattern(0, 512));
    }
}

#[test]
fn an_orderly_end_waits_for_all() {
    use crate::devices::Device;
    for engine in engines() {
        let mut block = Block::new(options(engine), vec![disk()]).unwrap();
        block.shut_down().unwrap();
        block.reset();
    }
}
