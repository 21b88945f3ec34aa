//! The formats of cgroup files. Pure functions that take any text: a line that makes no sense is
//! left out.

use trefoil_stats::{RdmaEntry, v1, v2};

/// One number; `max` is [`u64::MAX`].
pub(super) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// Lines of `key value`.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}

/// The value of one key among lines of `key value`.
pub(super) fn pair(text: &str, wanted: &str) -> Option<u64> {
    pairs(text).find_map(|(key, value)| (key == wanted).then_some(value))
}

/// Numbers separated by blanks.
pub(super) fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
pub(super) fn pressure(text: &str) -> Option<v2::Psi> {
    let mut psi = v2::Psi::default();
    for line in text.lines() {
        let Some((kind, values)) = line.split_once(' ') else {
            continue;
        };
        let mut data = v2::PsiData::default();
        for (key, value) in values
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
        {
            match key {
                "avg10" => data.avg10 = share(value),
                "avg60" => data.avg60 = share(value),
                "avg300" => data.avg300 = share(value),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        match kind {
            "some" => psi.some = Some(data),
            "full" => psi.full = Some(data),
            _ => {}
        }
    }
    (psi != v2::Psi::default()).then_some(psi)
}

/// A share of time; never infinite or not a number, which JSON could not carry.
fn share(text: &str) -> f64 {
    text.parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
        .unwrap_or(0.0)
}

/// `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
pub(super) fn io_stat(text: &str) -> Vec<v2::IoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = device(words.next()?)?;
            let mut entry = v2::IoEntry {
                major,
                minor,
                ..v2::IoEntry::default()
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = value.parse().unwrap_or(0);
                match key {
                    "rbytes" => entry.rbytes = value,
                    "wbytes" => entry.wbytes = value,
                    "rios" => entry.rios = value,
                    "wios" => entry.wios = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

/// A blkio file of v1: `8:0 Read 1` or `8:0 1`; the total of all devices is left out.
pub(super) fn blkio(text: &str) -> Vec<v1::BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = device(words.next()?)?;
            let second = words.next()?;
            let (op, value) = match words.next() {
                Some(value) => (second, value),
                None => ("", second),
            };
            Some(v1::BlkioEntry {
                op: op.to_owned(),
                major,
                minor,
                value: value.parse().ok()?,
            })
        })
        .collect()
}

fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// An RDMA file: `mlx4_0 hca_handle=2 hca_object=max`.
pub(super) fn rdma(text: &str) -> Vec<RdmaEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut entry = RdmaEntry {
                device: words.next()?.to_owned(),
                ..RdmaEntry::default()
            };
            let mut told = false;
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = if value == "max" {
                    u32::MAX
                } else {
                    value.parse().unwrap_or(0)
                };
                match key {
                    "hca_handle" => entry.hca_handles = value,
                    "hca_object" => entry.hca_objects = value,
                    _ => continue,
                }
                told = true;
            }
            told.then_some(entry)
        })
        .collect()
}

/// The page size that a directory of `/sys/kernel/mm/hugepages` is for, as in cgroup file names:
/// `hugepages-2048kB` is `2MB`.
pub(super) fn page_size(directory: &str) -> Option<String> {
    let kilobytes: u64 = directory
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kilobytes {
        size if size >= 1 << 20 && size % (1 << 20) == 0 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 && size % (1 << 10) == 0 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_and_max() {
        assert_eq!(number("42\n"), Some(42));
        assert_eq!(number("max\n"), Some(u64::MAX));
        assert_eq!(number("-1"), None);
        assert_eq!(numbers("1 2 x 3 \n"), [1, 2, 3]);
        assert_eq!(pair("low 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(pair("oom_killer 3\n", "oom_kill"), None);
    }

    #[test]
    fn pressure_of_both_kinds() {
        let psi = pressure(
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
        )
        .unwrap();
        assert_eq!(
            psi.some.unwrap(),
            v2::PsiData {
                avg10: 1.5,
                avg60: 0.25,
                avg300: 0.0,
                total: 77
            }
        );
        assert_eq!(psi.full.unwrap().total, 5);
        assert_eq!(pressure(""), None);
    }

    #[test]
    fn block_devices() {
        let io = io_stat(
            "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\nbad\n253:0 \n",
        );
        assert_eq!(io.len(), 2);
        assert_eq!(
            (io[0].major, io[0].minor, io[0].rbytes, io[0].wios),
            (8, 16, 1_459_200, 353)
        );
        let old = blkio("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n8:1 7\n");
        assert_eq!(old.len(), 3);
        assert_eq!((old[0].op.as_str(), old[0].value), ("Read", 4096));
        assert_eq!((old[2].op.as_str(), old[2].minor, old[2].value), ("", 1, 7));
    }

    #[test]
    fn rdma_devices() {
        let entries = rdma("mlx4_0 hca_handle=2 hca_object=max\nocrdma1 hca_handle=3\nnoise\n");
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[0].hca_handles, entries[0].hca_objects),
            (2, u32::MAX)
        );
    }

    #[test]
    fn page_sizes() {
        assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(page_size("hugepages-kB"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(\\PC|[ \n:=0-9]|max|some|full|avg10|total|Total|rbytes|inf|NaN){0,60}") {
            number(&text);
            numbers(&text);
            pairs(&text).count();
            io_stat(&text);
            blkio(&text);
            rdma(&text);
            page_size(&text);
            if let Some(psi) = pressure(&text) {
                prop_assert!(psi.some.unwrap_or_default().avg10.is_finite());
            }
        }

        #[test]
        fn what_the_kernel_prints_is_read_back(entries in prop::collection::vec(any::<[u32; 6]>(), 0..8)) {
            let text: String = entries.iter().map(|[major, minor, rbytes, wbytes, rios, wios]|
                format!("{major}:{minor} rbytes={rbytes} wbytes={wbytes} rios={rios} wios={wios} dbytes=0 dios=0\n")).collect();
            let read: Vec<[u64; 6]> = io_stat(&text).iter()
                .map(|e| [e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios]).collect();
            let wrote: Vec<[u64; 6]> = entries.iter().map(|e| e.map(u64::from)).collect();
            prop_assert_eq!(read, wrote);
        }
    }
}
