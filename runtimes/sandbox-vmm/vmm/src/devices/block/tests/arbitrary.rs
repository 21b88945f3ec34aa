//! Requests nobody would make, against a model of the disk.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fuzz;
use super::*;

/// Small, so that the ends are met often.
const LITTLE: usize = 64 << 10;

#[derive(Clone, Debug)]
struct Arbitrary {
    kind: u32,
    sector: u64,
    /// The readable data.
    data: Vec<u8>,
    /// Room for what is read.
    room: u32,
    /// Where the parts are cut.
    cuts: Vec<u16>,
}

fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..LITTLE as u64 / 512 + 2, 1 => any::<u64>(), 1 => (0..64u32).prop_map(|n| 1 << n)]
}

fn data(kind: u32) -> BoxedStrategy<Vec<u8>> {
    let flags = prop_oneof![4 => Just(0u32), 4 => Just(1), 1 => any::<u32>()];
    let ranges = vec((sector(), 0..20u32, flags), 0..5).prop_map(|ranges| {
        ranges
            .into_iter()
            .flat_map(|(at, count, flags)| range(at, count, flags))
            .collect()
    });
    let bytes = (
        0..20usize,
        prop_oneof![8 => Just(0usize), 1 => 0..512usize],
        any::<u64>(),
    )
        .prop_map(|(sectors, more, seed)| pattern(seed, sectors * 512 + more));
    match kind {
        DISCARD | WRITE_ZEROES => ranges.boxed(),
        OUT => bytes.boxed(),
        _ => prop_oneof![9 => Just(Vec::new()), 1 => bytes].boxed(),
    }
}

fn request() -> impl Strategy<Value = Arbitrary> {
    let kind = prop_oneof![
        4 => Just(IN), 4 => Just(OUT), 1 => Just(FLUSH), 1 => Just(GET_ID),
        2 => Just(DISCARD), 2 => Just(WRITE_ZEROES), 1 => any::<u32>()
    ];
    let room = prop_oneof![6 => (0..20u32).prop_map(|n| n * 512), 1 => 0..5000u32];
    kind.prop_flat_map(move |kind| {
        (
            Just(kind),
            sector(),
            data(kind),
            room.clone(),
            vec(any::<u16>(), 0..6),
        )
            .prop_map(|(kind, sector, data, room, cuts)| Arbitrary {
                kind,
                sector,
                data,
                room,
                cuts,
            })
    })
}

/// The bytes from `sector` on that are `length` long, if they are on the disk.
fn place(sector: u64, length: usize) -> Option<std::ops::Range<usize>> {
    let at = usize::try_from(sector).ok()?.checked_mul(512)?;
    let end = at.checked_add(length)?;
    (end <= LITTLE).then_some(at..end)
}

/// What the request is to do with the disk, and to answer.
fn model(disk: &mut [u8], read_only: bool, request: &Arbitrary) -> (u8, Vec<u8>) {
    let whole =
        |length: usize| place(request.sector, length).filter(|_| length.is_multiple_of(512));
    let nothing = Vec::new();
    match request.kind {
        IN => match whole(request.room as usize) {
            Some(place) => (DONE, disk[place].to_vec()),
            None => (FAILED, nothing),
        },
        OUT => match whole(request.data.len()) {
            Some(place) if !read_only => {
                disk[place].copy_from_slice(&request.data);
                (DONE, nothing)
            }
            _ => (FAILED, nothing),
        },
        FLUSH => (DONE, nothing),
        GET_ID => {
            let mut serial = b"TREFOIL-1".to_vec();
            serial.resize(20, 0);
            serial.truncate(request.room as usize);
            (DONE, serial)
        }
        DISCARD | WRITE_ZEROES => {
            if read_only || request.data.is_empty() {
                return (FAILED, nothing);
            }
            for range in request.data.chunks(16) {
                let sector = u64::from_le_bytes(range[..8].try_into().unwrap());
                let count = u32::from_le_bytes(range[8..12].try_into().unwrap());
                let flags = u32::from_le_bytes(range[12..].try_into().unwrap());
                if flags > u32::from(request.kind == WRITE_ZEROES) {
                    return (UNKNOWN, nothing);
                }
                match place(sector, count as usize * 512) {
                    Some(place) => disk[place].fill(0),
                    None => return (FAILED, nothing),
                }
            }
            (DONE, nothing)
        }
        _ => (UNKNOWN, nothing),
    }
}

/// Cuts bytes into pieces.
fn cut(length: usize, cuts: &[u16]) -> Vec<usize> {
    let mut places: Vec<usize> = cuts
        .iter()
        .map(|&at| usize::from(at) % length.max(1))
        .collect();
    places.push(length);
    places.sort_unstable();
    let mut from = 0;
    places
        .iter()
        .map(|&to| to - std::mem::replace(&mut from, to))
        .collect()
}

fn compare(engine: Engine, read_only: bool, requests: &[Arbitrary]) {
    let file = tempfile::tempfile().unwrap();
    let mut expected = pattern(0, LITTLE);
    file.write_all_at(&expected, 0).unwrap();
    let options = Options {
        read_only,
        ..options(engine)
    };
    let mut driver = start(options, &file);
    for request in requests {
        let all = [&header(request.kind, request.sector)[..], &request.data].concat();
        let mut readable = Vec::new();
        let mut rest = &all[..];
        for length in cut(all.len(), &request.cuts) {
            let (part, others) = rest.split_at(length);
            readable.push(part);
            rest = others;
        }
        let writable: Vec<u32> = cut(request.room as usize + 1, &request.cuts)
            .into_iter()
            .map(|length| length as u32)
            .collect();
        let outcome = exchange(&mut driver, &readable, &writable);
        let (answer, data) = model(&mut expected, read_only, request);
        assert_eq!(outcome.answer, answer, "{engine:?} {request:?}");
        assert!(outcome.data[..data.len()] == data, "{engine:?} {request:?}");
        assert!(outcome.data[data.len()..].iter().all(|&byte| byte == 0xa5));
        assert_eq!(outcome.written as usize, data.len() + 1);
    }
    assert!(content(&file) == expected, "{engine:?} {requests:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_request_does_what_the_model_does(read_only in prop::bool::weighted(0.2), requests in vec(request(), 1..24)) {
        for engine in engines() {
            compare(engine, read_only, &requests);
        }
    }

    #[test]
    fn any_guest_is_survived(script in vec(any::<u8>(), 0..800)) {
        fuzz(&script);
    }
}
