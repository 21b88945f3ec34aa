//! What a guest says that a container uses, before anybody believes it.
//!
//! containerd makes metrics of it, of which two with the same labels fail the whole node's, and a text that
//! is none of those that a kernel has may do worse. So only what a guest's kernel can have is passed on.

use trefoil_core::stats::{Pids, Stats, v2};
use trefoil_core::{Error, Result};

use crate::machine::size::Size;

/// How long the statistics may be, in bytes: many times as long as any kernel's.
const LONGEST: usize = 64 << 10;

/// How many devices a guest may have used: more than a machine has.
const DEVICES: usize = 64;

/// How many sizes of huge pages a kernel may have: more than any processor's.
const PAGE_SIZES: usize = 8;

/// Statistics as a guest sends them, of a container in a machine of this size.
///
/// # Errors
/// If they are longer than a kernel's, can't be read, or are not of cgroup v2, which is all that a guest
/// has.
pub(crate) fn check(told: &[u8], size: Size) -> Result<Stats> {
    let doing = || "understand the guest's agent";
    if told.len() > LONGEST {
        return Err(Error::internal(format!(
            "{}: it sends {} bytes of statistics",
            doing(),
            told.len()
        )));
    }
    // What is wrong with them is not quoted: it may be as long as they are.
    let Ok(stats) = serde_json::from_slice(told) else {
        return Err(Error::internal(format!(
            "{}: it sends {} bytes that are no statistics",
            doing(),
            told.len()
        )));
    };
    match stats {
        Stats::V2(stats) => Ok(Stats::V2(Box::new(limit(*stats, size)))),
        Stats::V1(_) => Err(Error::internal(format!(
            "{}: it sends statistics of cgroup v1, which its kernel has not",
            doing()
        ))),
    }
}

/// The same statistics with only what can be.
fn limit(mut stats: v2::Stats, size: Size) -> v2::Stats {
    // Nothing of the host's that has these is in a guest.
    stats.rdma = None;
    if let Some(io) = &mut stats.io {
        first_of_each(&mut io.usage, DEVICES, |device| {
            (device.major, device.minor)
        });
        pressure(&mut io.psi);
    }
    stats.hugetlb.retain(|pages| is_page_size(&pages.pagesize));
    first_of_each(&mut stats.hugetlb, PAGE_SIZES, |pages| {
        pages.pagesize.clone()
    });
    if let Some(cpu) = &mut stats.cpu {
        pressure(&mut cpu.psi);
    }
    if let Some(memory) = stats.memory.as_deref_mut() {
        used(memory, u64::from(size.memory) << 20);
        pressure(&mut memory.psi);
    }
    if let Some(Pids { current, .. }) = &mut stats.pids {
        *current = (*current).min(PROCESSES);
    }
    stats
}

/// As many processes as a 64-bit kernel can have.
const PROCESSES: u64 = 1 << 22;

/// Keeps the first of those that are called the same, up to so many.
fn first_of_each<T, K: Ord>(entries: &mut Vec<T>, most: usize, name: impl Fn(&T) -> K) {
    let mut seen = std::collections::BTreeSet::new();
    entries.retain(|entry| seen.len() < most && seen.insert(name(entry)));
}

/// Whether this is how a kernel names a size of huge pages: `2MB`.
fn is_page_size(name: &str) -> bool {
    let digits = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| name.strip_suffix(unit))
        .unwrap_or_default();
    (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// No memory that is in use is more than there is. Limits and counts may be any number.
fn used(memory: &mut v2::Memory, most: u64) {
    for figure in [
        &mut memory.anon,
        &mut memory.file,
        &mut memory.kernel_stack,
        &mut memory.slab,
        &mut memory.sock,
        &mut memory.shmem,
        &mut memory.file_mapped,
        &mut memory.file_dirty,
        &mut memory.file_writeback,
        &mut memory.anon_thp,
        &mut memory.inactive_anon,
        &mut memory.active_anon,
        &mut memory.inactive_file,
        &mut memory.active_file,
        &mut memory.unevictable,
        &mut memory.slab_reclaimable,
        &mut memory.slab_unreclaimable,
        &mut memory.usage,
        &mut memory.max_usage,
        &mut memory.swap_usage,
        &mut memory.swap_max_usage,
    ] {
        *figure = (*figure).min(most);
    }
}

/// Shares of time are percentages.
fn pressure(psi: &mut Option<v2::Psi>) {
    for data in psi
        .iter_mut()
        .flat_map(|psi| [&mut psi.some, &mut psi.full])
    {
        for share in data
            .iter_mut()
            .flat_map(|data| [&mut data.avg10, &mut data.avg60, &mut data.avg300])
        {
            *share = share.clamp(0.0, 100.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const SIZE: Size = Size {
        cpus: 2,
        memory: 100,
    };

    fn written(stats: &Stats) -> Vec<u8> {
        serde_json::to_vec(stats).expect("written")
    }

    fn checked(stats: v2::Stats) -> v2::Stats {
        let told = written(&Stats::V2(Box::new(stats)));
        match check(&told, SIZE).expect("checked") {
            Stats::V2(stats) => *stats,
            Stats::V1(_) => panic!("of v1"),
        }
    }

    fn device(minor: u64, rbytes: u64) -> v2::IoEntry {
        v2::IoEntry {
            major: 8,
            minor,
            rbytes,
            ..v2::IoEntry::default()
        }
    }

    fn pages(pagesize: &str) -> v2::Hugetlb {
        v2::Hugetlb {
            pagesize: pagesize.into(),
            ..v2::Hugetlb::default()
        }
    }

    #[test]
    fn what_a_kernel_says_stays_as_it_is() {
        let stats = v2::Stats {
            pids: Some(Pids {
                current: 3,
                limit: u64::MAX,
            }),
            memory: Some(Box::new(v2::Memory {
                usage: 5 << 20,
                usage_limit: u64::MAX,
                pgfault: u64::MAX,
                psi: Some(v2::Psi {
                    some: Some(v2::PsiData {
                        avg10: 99.5,
                        total: 7,
                        ..v2::PsiData::default()
                    }),
                    full: None,
                }),
                ..v2::Memory::default()
            })),
            io: Some(v2::Io {
                usage: vec![device(0, 1), device(16, 2)],
                psi: None,
            }),
            hugetlb: vec![pages("64KB"), pages("2MB"), pages("1GB")],
            ..v2::Stats::default()
        };
        assert_eq!(checked(stats.clone()), stats);
    }

    #[test]
    fn of_two_that_are_called_the_same_one_is_told() {
        let stats = checked(v2::Stats {
            io: Some(v2::Io {
                usage: vec![device(0, 1), device(16, 2), device(0, 3)],
                psi: None,
            }),
            hugetlb: vec![pages("2MB"), pages("2MB"), pages("2mb"), pages("\u{1b}MB")],
            ..v2::Stats::default()
        });
        assert_eq!(stats.io.expect("io").usage, [device(0, 1), device(16, 2)]);
        assert_eq!(stats.hugetlb, [pages("2MB")]);
    }

    #[test]
    fn what_is_no_statistics_is_refused_in_few_words() {
        let v1 = Stats::V1(Box::default());
        let name = "x".repeat(60_000);
        for (told, why) in [
            (vec![b' '; 4 << 20], "4194304 bytes"),
            (written(&v1), "cgroup v1"),
            (
                format!(r#"{{"version": "{name}"}}"#).into_bytes(),
                "no statistics",
            ),
            (
                br#"{"version": "v2", "stats": {"cpu": "#.to_vec(),
                "no statistics",
            ),
            ("[".repeat(60_000).into_bytes(), "no statistics"),
            (Vec::new(), "no statistics"),
            (b"\"\xff\xfe\"".to_vec(), "no statistics"),
        ] {
            let error = check(&told, SIZE).expect_err(why).to_string();
            assert!(error.contains(why) && error.len() < 200, "{error}");
        }
    }

    prop_compose! {
        fn any_stats()(
            devices in vec((0..20_u64, 0..20_u64, any::<u64>()), 0..300),
            sizes in vec("[0-9]{0,5}[KMGkmg]?B?|.{0,40}", 0..40),
            usage in any::<u64>(),
            share in any::<f64>().prop_filter("JSON has no others", |share| share.is_finite()),
        ) -> v2::Stats {
            let usage_of = |&(major, minor, rbytes): &(u64, u64, u64)| v2::IoEntry {
                major, minor, rbytes, ..v2::IoEntry::default()
            };
            let data = v2::PsiData { avg10: share, ..v2::PsiData::default() };
            v2::Stats {
                io: Some(v2::Io {
                    usage: devices.iter().map(usage_of).collect(),
                    psi: Some(v2::Psi { some: Some(data), full: Some(data) }),
                }),
                hugetlb: sizes.iter().map(|name| pages(name)).collect(),
                memory: Some(Box::new(v2::Memory { usage, anon: usage, ..v2::Memory::default() })),
                pids: Some(Pids { current: usage, limit: usage }),
                ..v2::Stats::default()
            }
        }
    }

    fn are_told_apart<K: Ord>(names: impl Iterator<Item = K>, most: usize) -> bool {
        let (mut count, mut all) = (0, BTreeSet::new());
        for name in names {
            count += 1;
            all.insert(name);
        }
        count == all.len() && count <= most
    }

    proptest! {
        #[test]
        fn whatever_is_told_no_two_metrics_are_called_the_same(stats in any_stats()) {
            let told = written(&Stats::V2(Box::new(stats)));
            let Ok(Stats::V2(stats)) = check(&told, SIZE) else {
                prop_assert!(told.len() > LONGEST);
                return Ok(());
            };
            let io = stats.io.expect("io");
            let devices = io.usage.iter().map(|device| (device.major, device.minor));
            prop_assert!(are_told_apart(devices, DEVICES));
            let sizes = || stats.hugetlb.iter().map(|pages| pages.pagesize.as_str());
            prop_assert!(are_told_apart(sizes(), PAGE_SIZES));
            prop_assert!(sizes().all(|size| size.len() <= 6 && size.is_ascii()));
            let memory = stats.memory.expect("memory");
            prop_assert!(memory.usage <= 100 << 20 && memory.anon <= 100 << 20);
            let share = io.psi.and_then(|psi| psi.some).expect("told").avg10;
            prop_assert!((0.0..=100.0).contains(&share));
            prop_assert!(stats.pids.expect("told").current <= PROCESSES);
        }

        #[test]
        fn no_bytes_do_harm(told in vec(any::<u8>(), 0..200)) {
            let _ = check(&told, SIZE);
        }
    }
}
