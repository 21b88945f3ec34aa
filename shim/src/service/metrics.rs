//! Statistics as containerd wants them: a message of its cgroups v1 or v2 package, packed in an
//! `Any`.
//!
//! The type URL is the bare name of the message, without the usual `type.googleapis.com/`: that is
//! what containerd's own shim sends, and how containerd looks the type up. A controller that is
//! absent stays an absent message, which CRI reads as "not known" instead of zero.

use containerd_shim_protos::cgroups::metrics as out1;
use containerd_shim_protos::cgroups_v2::metrics as out2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField, Result};
use trefoil_core::stats::{Pids, RdmaEntry, Stats, v1, v2};

const V1_TYPE: &str = "io.containerd.cgroups.v1.Metrics";
const V2_TYPE: &str = "io.containerd.cgroups.v2.Metrics";

/// Packs a container's statistics for the answer to Task.Stats.
///
/// # Errors
/// If they cannot be encoded.
pub fn pack(stats: &Stats) -> Result<Any> {
    let (name, value) = match stats {
        Stats::V1(stats) => (V1_TYPE, v1_metrics(stats).write_to_bytes()?),
        Stats::V2(stats) => (V2_TYPE, v2_metrics(stats).write_to_bytes()?),
    };
    Ok(Any {
        type_url: name.to_owned(),
        value,
        ..Any::default()
    })
}

/// Copies fields of the same name into a message; `name => value` for those that need more.
macro_rules! message {
    (
        $message:ty, $from:expr,
        [$($field:ident),* $(,)?] $(, $name:ident => $value:expr)* $(,)?
    ) => {{
        let from = $from;
        let _ = &from;
        let mut message = <$message>::new();
        $(message.$field = from.$field.clone();)*
        $(message.$name = $value;)*
        message
    }};
}

fn field<F, T>(from: Option<&F>, convert: impl FnOnce(&F) -> T) -> MessageField<T> {
    from.map(convert).into()
}

fn each<F, T>(from: &[F], convert: impl FnMut(&F) -> T) -> Vec<T> {
    from.iter().map(convert).collect()
}

fn v1_metrics(stats: &v1::Stats) -> out1::Metrics {
    message!(out1::Metrics, stats, [],
        hugetlb => each(&stats.hugetlb, |from| {
            message!(out1::HugetlbStat, from, [usage, max, failcnt, pagesize])
        }),
        pids => field(stats.pids.as_ref(), |from: &Pids| {
            message!(out1::PidsStat, from, [current, limit])
        }),
        cpu => field(stats.cpu.as_ref(), v1_cpu),
        memory => field(stats.memory.as_deref(), v1_memory),
        blkio => field(stats.blkio.as_ref(), v1_blkio),
        rdma => field(stats.rdma.as_ref(), |from| message!(out1::RdmaStat, from, [],
            current => each(&from.current, v1_rdma),
            limit => each(&from.limit, v1_rdma))),
        memory_oom_control => field(stats.memory_oom_control.as_ref(), |from| {
            message!(out1::MemoryOomControl, from, [oom_kill_disable, under_oom, oom_kill])
        }),
    )
}

fn v1_cpu(cpu: &v1::Cpu) -> out1::CPUStat {
    message!(out1::CPUStat, cpu, [],
        usage => MessageField::some(
            message!(out1::CPUUsage, &cpu.usage, [total, kernel, user, per_cpu])),
        throttling => MessageField::some(message!(
            out1::Throttle, &cpu.throttling, [periods, throttled_periods, throttled_time]
        )),
    )
}

fn v1_memory(memory: &v1::Memory) -> out1::MemoryStat {
    let entry =
        |from: &v1::MemoryEntry| message!(out1::MemoryEntry, from, [limit, usage, max, failcnt]);
    // containerd before 2.0 looks into all four without asking whether they are there, and dies.
    let always = |from: Option<&v1::MemoryEntry>| {
        MessageField::some(from.map_or_else(out1::MemoryEntry::new, entry))
    };
    message!(out1::MemoryStat, memory, [
            cache, rss, rss_huge, mapped_file, dirty, writeback,
            pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault,
            inactive_anon, active_anon, inactive_file, active_file, unevictable,
            hierarchical_memory_limit, hierarchical_swap_limit,
            total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty, total_writeback,
            total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault,
            total_inactive_anon, total_active_anon, total_inactive_file, total_active_file,
            total_unevictable,
        ],
        usage => MessageField::some(entry(&memory.usage)),
        swap => always(memory.swap.as_ref()),
        kernel => always(memory.kernel.as_ref()),
        kernel_tcp => always(memory.kernel_tcp.as_ref()),
    )
}

fn v1_blkio(blkio: &v1::Blkio) -> out1::BlkIOStat {
    let all = |from: &Vec<v1::BlkioEntry>| {
        each(from, |from| {
            message!(out1::BlkIOEntry, from, [op, major, minor, value])
        })
    };
    message!(out1::BlkIOStat, blkio, [],
        io_service_bytes_recursive => all(&blkio.io_service_bytes_recursive),
        io_serviced_recursive => all(&blkio.io_serviced_recursive),
        io_queued_recursive => all(&blkio.io_queued_recursive),
        io_service_time_recursive => all(&blkio.io_service_time_recursive),
        io_wait_time_recursive => all(&blkio.io_wait_time_recursive),
        io_merged_recursive => all(&blkio.io_merged_recursive),
        io_time_recursive => all(&blkio.io_time_recursive),
        sectors_recursive => all(&blkio.sectors_recursive),
    )
}

fn v1_rdma(entry: &RdmaEntry) -> out1::RdmaEntry {
    message!(out1::RdmaEntry, entry, [device, hca_handles, hca_objects])
}

fn v2_metrics(stats: &v2::Stats) -> out2::Metrics {
    message!(out2::Metrics, stats, [],
        pids => field(stats.pids.as_ref(), |from: &Pids| {
            message!(out2::PidsStat, from, [current, limit])
        }),
        cpu => field(stats.cpu.as_ref(), |from| message!(out2::CPUStat, from, [
                usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec,
                nr_bursts, burst_usec,
            ],
            psi => field(from.psi.as_ref(), pressure))),
        memory => field(stats.memory.as_deref(), v2_memory),
        rdma => field(stats.rdma.as_ref(), |from| message!(out2::RdmaStat, from, [],
            current => each(&from.current, v2_rdma),
            limit => each(&from.limit, v2_rdma))),
        io => field(stats.io.as_ref(), |from| message!(out2::IOStat, from, [],
            usage => each(&from.usage, |from| {
                message!(out2::IOEntry, from, [major, minor, rbytes, wbytes, rios, wios])
            }),
            psi => field(from.psi.as_ref(), pressure))),
        hugetlb => each(&stats.hugetlb, |from| {
            message!(out2::HugeTlbStat, from, [current, max, pagesize, failcnt])
        }),
        memory_events => field(stats.memory_events.as_ref(), |from| {
            message!(out2::MemoryEvents, from, [low, high, max, oom, oom_kill, oom_group_kill])
        }),
    )
}

fn v2_memory(memory: &v2::Memory) -> out2::MemoryStat {
    message!(out2::MemoryStat, memory, [
            anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty,
            file_writeback, anon_thp,
            inactive_anon, active_anon, inactive_file, active_file, unevictable,
            slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault,
            workingset_refault, workingset_activate, workingset_nodereclaim,
            pgrefill, pgscan, pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed,
            thp_fault_alloc, thp_collapse_alloc,
            usage, usage_limit, max_usage, swap_usage, swap_limit, swap_max_usage,
        ],
        psi => field(memory.psi.as_ref(), pressure),
    )
}

fn v2_rdma(entry: &RdmaEntry) -> out2::RdmaEntry {
    message!(out2::RdmaEntry, entry, [device, hca_handles, hca_objects])
}

fn pressure(psi: &v2::Psi) -> out2::PSIStats {
    let data = |from: &v2::PsiData| message!(out2::PSIData, from, [avg10, avg60, avg300, total]);
    message!(out2::PSIStats, psi, [],
        some => field(psi.some.as_ref(), data),
        full => field(psi.full.as_ref(), data),
    )
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::MessageFull;

    use super::*;

    #[test]
    fn the_type_is_the_name_of_the_message() {
        assert_eq!(out1::Metrics::descriptor().full_name(), V1_TYPE);
        assert_eq!(out2::Metrics::descriptor().full_name(), V2_TYPE);
    }

    #[test]
    fn v1_arrives() {
        let stats = v1::Stats {
            pids: Some(Pids {
                current: 3,
                limit: 0,
            }),
            cpu: Some(v1::Cpu {
                usage: v1::CpuUsage {
                    total: 7,
                    user: 4,
                    kernel: 3,
                    per_cpu: vec![5, 2],
                },
                throttling: v1::Throttling {
                    periods: 1,
                    throttled_periods: 1,
                    throttled_time: 9,
                },
            }),
            memory: Some(Box::new(v1::Memory {
                total_inactive_file: 11,
                usage: v1::MemoryEntry {
                    usage: 100,
                    limit: 200,
                    max: 150,
                    failcnt: 1,
                },
                swap: Some(v1::MemoryEntry {
                    usage: 120,
                    ..v1::MemoryEntry::default()
                }),
                ..v1::Memory::default()
            })),
            blkio: Some(v1::Blkio {
                io_serviced_recursive: vec![v1::BlkioEntry {
                    op: "Read".into(),
                    major: 8,
                    minor: 1,
                    value: 6,
                }],
                ..v1::Blkio::default()
            }),
            hugetlb: vec![v1::Hugetlb {
                usage: 1,
                max: 2,
                failcnt: 3,
                pagesize: "2MB".into(),
            }],
            memory_oom_control: Some(v1::OomControl {
                oom_kill: 2,
                ..v1::OomControl::default()
            }),
            ..v1::Stats::default()
        };
        let any = pack(&Stats::V1(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, V1_TYPE);
        let got = out1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(
            (
                got.pids.current,
                got.cpu.usage.total,
                got.cpu.throttling.throttled_time
            ),
            (3, 7, 9)
        );
        assert_eq!(got.cpu.usage.per_cpu, [5, 2]);
        assert_eq!(
            (
                got.memory.usage.usage,
                got.memory.swap.usage,
                got.memory.total_inactive_file
            ),
            (100, 120, 11)
        );
        assert!(got.rdma.is_none());
        assert!(got.memory.kernel.is_some() && got.memory.kernel_tcp.is_some());
        assert_eq!(got.blkio.io_serviced_recursive[0].op, "Read");
        assert_eq!(
            (got.hugetlb[0].max, got.memory_oom_control.oom_kill),
            (2, 2)
        );
    }

    #[test]
    fn v2_arrives() {
        let psi = v2::Psi {
            some: Some(v2::PsiData {
                avg10: 1.5,
                total: 8,
                ..v2::PsiData::default()
            }),
            full: None,
        };
        let stats = v2::Stats {
            pids: Some(Pids {
                current: 3,
                limit: u64::MAX,
            }),
            cpu: Some(v2::Cpu {
                usage_usec: 7,
                nr_bursts: 2,
                psi: Some(psi),
                ..v2::Cpu::default()
            }),
            memory: Some(Box::new(v2::Memory {
                usage: 100,
                inactive_file: 11,
                max_usage: 150,
                ..v2::Memory::default()
            })),
            io: Some(v2::Io {
                usage: vec![v2::IoEntry {
                    major: 8,
                    wios: 6,
                    ..v2::IoEntry::default()
                }],
                psi: Some(psi),
            }),
            memory_events: Some(v2::MemoryEvents {
                oom_kill: 2,
                ..v2::MemoryEvents::default()
            }),
            ..v2::Stats::default()
        };
        let any = pack(&Stats::V2(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, V2_TYPE);
        let got = out2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(
            (got.pids.limit, got.cpu.usage_usec, got.cpu.nr_bursts),
            (u64::MAX, 7, 2)
        );
        assert!((got.cpu.psi.some.avg10 - 1.5).abs() < f64::EPSILON && got.cpu.psi.full.is_none());
        assert_eq!(
            (
                got.memory.usage,
                got.memory.inactive_file,
                got.memory.max_usage
            ),
            (100, 11, 150)
        );
        assert!(got.memory.psi.is_none());
        assert_eq!(
            (
                got.io.usage[0].wios,
                got.io.psi.some.total,
                got.memory_events.oom_kill
            ),
            (6, 8, 2)
        );
    }

    #[test]
    fn what_is_absent_stays_absent() {
        for (stats, name) in [
            (Stats::V1(Box::default()), V1_TYPE),
            (Stats::V2(Box::default()), V2_TYPE),
        ] {
            let any = pack(&stats).unwrap();
            assert_eq!((any.type_url.as_str(), any.value.len()), (name, 0));
        }
    }
}
