//! Reading a container's statistics.
//!
//! Each file is opened relative to its directory and read into one buffer that all share; about
//! twenty files on v2, thirty on v1. A controller that is not there gives an absent value. A cgroup
//! that is not there at all is an error: there is nothing to tell about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use trefoil_stats::{Pids, Rdma, Stats, v1, v2};

use super::error::{Doing, Result};
use super::file::Dir;
use super::layout::{Controller, Layout};
use super::parse;

/// An open directory and the buffer that its files are read into.
struct Source<'a> {
    dir: Dir<'a>,
    buffer: &'a mut Vec<u8>,
}

impl Source<'_> {
    fn parsed<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> T) -> Result<Option<T>> {
        Ok(self.dir.read(name, self.buffer)?.map(parse))
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>> {
        Ok(self.parsed(name, parse::number)?.flatten())
    }

    fn list<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Vec<T>) -> Result<Vec<T>> {
        Ok(self.parsed(name, parse)?.unwrap_or_default())
    }

    fn pressure(&mut self, name: &str) -> Result<Option<v2::Psi>> {
        Ok(self.parsed(name, parse::pressure)?.flatten())
    }
}

pub(super) fn read(layout: &Layout) -> Result<Stats> {
    match layout {
        Layout::V1(dirs) => read_v1(dirs).map(Box::new).map(Stats::V1),
        Layout::V2(dir) => read_v2(dir).map(Box::new).map(Stats::V2),
    }
}

fn gone(path: &Path) -> Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOENT)).doing("read statistics of", path)
}

fn read_v2(path: &Path) -> Result<v2::Stats> {
    let mut stats = v2::Stats::default();
    let Some(dir) = Dir::open(path)? else {
        gone(path)?;
        return Ok(stats);
    };
    // Holds the longest of the files without growing.
    let mut buffer = Vec::with_capacity(4096);
    let mut source = Source {
        dir,
        buffer: &mut buffer,
    };

    if let Some(current) = source.number("pids.current")? {
        stats.pids = Some(Pids {
            current,
            limit: source.number("pids.max")?.unwrap_or(0),
        });
    }
    stats.cpu = source.parsed("cpu.stat", cpu_v2)?;
    if let Some(cpu) = &mut stats.cpu {
        cpu.psi = source.pressure("cpu.pressure")?;
    }
    stats.memory = source.parsed("memory.stat", memory_v2)?;
    if let Some(memory) = &mut stats.memory {
        memory.usage = source.number("memory.current")?.unwrap_or(0);
        memory.usage_limit = source.number("memory.max")?.unwrap_or(0);
        memory.max_usage = source.number("memory.peak")?.unwrap_or(0);
        memory.swap_usage = source.number("memory.swap.current")?.unwrap_or(0);
        memory.swap_limit = source.number("memory.swap.max")?.unwrap_or(0);
        memory.swap_max_usage = source.number("memory.swap.peak")?.unwrap_or(0);
        memory.psi = source.pressure("memory.pressure")?;
        stats.memory_events = source.parsed("memory.events", memory_events)?;
    }
    // The file of the pressure is there even if the controller is not.
    if let Some(usage) = source.parsed("io.stat", parse::io_stat)? {
        stats.io = Some(v2::Io {
            usage,
            psi: source.pressure("io.pressure")?,
        });
    }
    if let Some(current) = source.parsed("rdma.current", parse::rdma)? {
        stats.rdma = Some(Rdma {
            current,
            limit: source.list("rdma.max", parse::rdma)?,
        });
    }
    for size in page_sizes() {
        if let Some(current) = source.number(&format!("hugetlb.{size}.current"))? {
            let failures = source.parsed(&format!("hugetlb.{size}.events"), |text| {
                parse::pair(text, "max")
            })?;
            stats.hugetlb.push(v2::Hugetlb {
                current,
                max: source.number(&format!("hugetlb.{size}.max"))?.unwrap_or(0),
                pagesize: size.clone(),
                failcnt: failures.flatten().unwrap_or(0),
            });
        }
    }
    Ok(stats)
}

fn cpu_v2(text: &str) -> v2::Cpu {
    let mut cpu = v2::Cpu::default();
    for (key, value) in parse::pairs(text) {
        match key {
            "usage_usec" => cpu.usage_usec = value,
            "user_usec" => cpu.user_usec = value,
            "system_usec" => cpu.system_usec = value,
            "nr_periods" => cpu.nr_periods = value,
            "nr_throttled" => cpu.nr_throttled = value,
            "throttled_usec" => cpu.throttled_usec = value,
            "nr_bursts" => cpu.nr_bursts = value,
            "burst_usec" => cpu.burst_usec = value,
            _ => {}
        }
    }
    cpu
}

fn memory_v2(text: &str) -> Box<v2::Memory> {
    let mut memory = Box::<v2::Memory>::default();
    for (key, value) in parse::pairs(text) {
        match key {
            "anon" => memory.anon = value,
            "file" => memory.file = value,
            "kernel_stack" => memory.kernel_stack = value,
            "slab" => memory.slab = value,
            "sock" => memory.sock = value,
            "shmem" => memory.shmem = value,
            "file_mapped" => memory.file_mapped = value,
            "file_dirty" => memory.file_dirty = value,
            "file_writeback" => memory.file_writeback = value,
            "anon_thp" => memory.anon_thp = value,
            "inactive_anon" => memory.inactive_anon = value,
            "active_anon" => memory.active_anon = value,
            "inactive_file" => memory.inactive_file = value,
            "active_file" => memory.active_file = value,
            "unevictable" => memory.unevictable = value,
            "slab_reclaimable" => memory.slab_reclaimable = value,
            "slab_unreclaimable" => memory.slab_unreclaimable = value,
            "pgfault" => memory.pgfault = value,
            "pgmajfault" => memory.pgmajfault = value,
            // Linux 5.9 split these three by kind of page; the message has one field for each.
            "workingset_refault" | "workingset_refault_anon" | "workingset_refault_file" => {
                memory.workingset_refault = memory.workingset_refault.saturating_add(value);
            }
            "workingset_activate" | "workingset_activate_anon" | "workingset_activate_file" => {
                memory.workingset_activate = memory.workingset_activate.saturating_add(value);
            }
            "workingset_nodereclaim" => memory.workingset_nodereclaim = value,
            "pgrefill" => memory.pgrefill = value,
            "pgscan" => memory.pgscan = value,
            "pgsteal" => memory.pgsteal = value,
            "pgactivate" => memory.pgactivate = value,
            "pgdeactivate" => memory.pgdeactivate = value,
            "pglazyfree" => memory.pglazyfree = value,
            "pglazyfreed" => memory.pglazyfreed = value,
            "thp_fault_alloc" => memory.thp_fault_alloc = value,
            "thp_collapse_alloc" => memory.thp_collapse_alloc = value,
            _ => {}
        }
    }
    memory
}

fn memory_events(text: &str) -> v2::MemoryEvents {
    let mut events = v2::MemoryEvents::default();
    for (key, value) in parse::pairs(text) {
        match key {
            "low" => events.low = value,
            "high" => events.high = value,
            "max" => events.max = value,
            "oom" => events.oom = value,
            "oom_kill" => events.oom_kill = value,
            "oom_group_kill" => events.oom_group_kill = value,
            _ => {}
        }
    }
    events
}

fn read_v1(dirs: &[(Controller, PathBuf)]) -> Result<v1::Stats> {
    let mut stats = v1::Stats::default();
    let mut buffer = Vec::with_capacity(4096);
    let mut found = false;
    for (controller, path) in dirs {
        let read: fn(&mut Source<'_>, &mut v1::Stats) -> Result<()> = match controller {
            Controller::Pids => pids_v1,
            Controller::Cpu => throttling,
            Controller::CpuAcct => cpu_usage,
            Controller::Memory => memory_v1,
            Controller::Blkio => blkio_v1,
            Controller::HugeTlb => hugetlb_v1,
            // The others have nothing to tell.
            _ => continue,
        };
        let Some(dir) = Dir::open(path)? else {
            continue;
        };
        found = true;
        let buffer = &mut buffer;
        read(&mut Source { dir, buffer }, &mut stats)?;
    }
    if let (false, Some((_, path))) = (found, dirs.first()) {
        gone(path)?;
    }
    Ok(stats)
}

fn pids_v1(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    if let Some(current) = source.number("pids.current")? {
        // containerd's reader of v1 tells "no limit" as 0.
        let limit = source
            .number("pids.max")?
            .filter(|limit| *limit != u64::MAX);
        stats.pids = Some(Pids {
            current,
            limit: limit.unwrap_or(0),
        });
    }
    Ok(())
}

fn throttling(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    let throttling = source.parsed("cpu.stat", |text| {
        let mut throttling = v1::Throttling::default();
        for (key, value) in parse::pairs(text) {
            match key {
                "nr_periods" => throttling.periods = value,
                "nr_throttled" => throttling.throttled_periods = value,
                "throttled_time" => throttling.throttled_time = value,
                _ => {}
            }
        }
        throttling
    })?;
    if let Some(throttling) = throttling {
        stats.cpu.get_or_insert_default().throttling = throttling;
    }
    Ok(())
}

fn cpu_usage(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    let Some(total) = source.number("cpuacct.usage")? else {
        return Ok(());
    };
    let modes = source.parsed("cpuacct.stat", |text| {
        // In ticks of USER_HZ, which is 100 on every architecture we run on.
        let nanoseconds = |key| {
            parse::pair(text, key)
                .unwrap_or(0)
                .saturating_mul(10_000_000)
        };
        (nanoseconds("user"), nanoseconds("system"))
    })?;
    let (user, kernel) = modes.unwrap_or_default();
    let per_cpu = source.list("cpuacct.usage_percpu", parse::numbers)?;
    stats.cpu.get_or_insert_default().usage = v1::CpuUsage {
        total,
        kernel,
        user,
        per_cpu,
    };
    Ok(())
}

fn memory_v1(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    let Some(mut memory) = source.parsed("memory.stat", memory_stat_v1)? else {
        return Ok(());
    };
    memory.usage = memory_entry(source, "memory")?.unwrap_or_default();
    memory.swap = memory_entry(source, "memory.memsw")?;
    memory.kernel = memory_entry(source, "memory.kmem")?;
    memory.kernel_tcp = memory_entry(source, "memory.kmem.tcp")?;
    stats.memory = Some(memory);
    stats.memory_oom_control = source.parsed("memory.oom_control", |text| v1::OomControl {
        oom_kill_disable: parse::pair(text, "oom_kill_disable").unwrap_or(0),
        under_oom: parse::pair(text, "under_oom").unwrap_or(0),
        oom_kill: parse::pair(text, "oom_kill").unwrap_or(0),
    })?;
    Ok(())
}

fn memory_entry(source: &mut Source<'_>, prefix: &str) -> Result<Option<v1::MemoryEntry>> {
    let Some(usage) = source.number(&format!("{prefix}.usage_in_bytes"))? else {
        return Ok(None);
    };
    Ok(Some(v1::MemoryEntry {
        usage,
        max: source
            .number(&format!("{prefix}.max_usage_in_bytes"))?
            .unwrap_or(0),
        failcnt: source.number(&format!("{prefix}.failcnt"))?.unwrap_or(0),
        limit: source
            .number(&format!("{prefix}.limit_in_bytes"))?
            .unwrap_or(0),
    }))
}

fn memory_stat_v1(text: &str) -> Box<v1::Memory> {
    let mut memory = Box::<v1::Memory>::default();
    for (key, value) in parse::pairs(text) {
        match key {
            "cache" => memory.cache = value,
            "rss" => memory.rss = value,
            "rss_huge" => memory.rss_huge = value,
            "mapped_file" => memory.mapped_file = value,
            "dirty" => memory.dirty = value,
            "writeback" => memory.writeback = value,
            "pgpgin" => memory.pg_pg_in = value,
            "pgpgout" => memory.pg_pg_out = value,
            "pgfault" => memory.pg_fault = value,
            "pgmajfault" => memory.pg_maj_fault = value,
            "inactive_anon" => memory.inactive_anon = value,
            "active_anon" => memory.active_anon = value,
            "inactive_file" => memory.inactive_file = value,
            "active_file" => memory.active_file = value,
            "unevictable" => memory.unevictable = value,
            "hierarchical_memory_limit" => memory.hierarchical_memory_limit = value,
            "hierarchical_memsw_limit" => memory.hierarchical_swap_limit = value,
            "total_cache" => memory.total_cache = value,
            "total_rss" => memory.total_rss = value,
            "total_rss_huge" => memory.total_rss_huge = value,
            "total_mapped_file" => memory.total_mapped_file = value,
            "total_dirty" => memory.total_dirty = value,
            "total_writeback" => memory.total_writeback = value,
            "total_pgpgin" => memory.total_pg_pg_in = value,
            "total_pgpgout" => memory.total_pg_pg_out = value,
            "total_pgfault" => memory.total_pg_fault = value,
            "total_pgmajfault" => memory.total_pg_maj_fault = value,
            "total_inactive_anon" => memory.total_inactive_anon = value,
            "total_active_anon" => memory.total_active_anon = value,
            "total_inactive_file" => memory.total_inactive_file = value,
            "total_active_file" => memory.total_active_file = value,
            "total_unevictable" => memory.total_unevictable = value,
            _ => {}
        }
    }
    memory
}

fn blkio_v1(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    stats.blkio = Some(blkio(source)?);
    Ok(())
}

fn blkio(source: &mut Source<'_>) -> Result<v1::Blkio> {
    let mut list = |name: &str| source.list(name, parse::blkio);
    // Kernels before 5.0 have CFQ, later ones may have BFQ; without a scheduler that counts there
    // is the throttle.
    for scheduler in ["blkio", "blkio.bfq"] {
        let serviced = list(&format!("{scheduler}.io_serviced_recursive"))?;
        if serviced.is_empty() {
            continue;
        }
        return Ok(v1::Blkio {
            io_serviced_recursive: serviced,
            io_service_bytes_recursive: list(&format!("{scheduler}.io_service_bytes_recursive"))?,
            io_queued_recursive: list(&format!("{scheduler}.io_queued_recursive"))?,
            io_service_time_recursive: list(&format!("{scheduler}.io_service_time_recursive"))?,
            io_wait_time_recursive: list(&format!("{scheduler}.io_wait_time_recursive"))?,
            io_merged_recursive: list(&format!("{scheduler}.io_merged_recursive"))?,
            io_time_recursive: list(&format!("{scheduler}.time_recursive"))?,
            sectors_recursive: list(&format!("{scheduler}.sectors_recursive"))?,
        });
    }
    Ok(v1::Blkio {
        io_serviced_recursive: list("blkio.throttle.io_serviced")?,
        io_service_bytes_recursive: list("blkio.throttle.io_service_bytes")?,
        ..v1::Blkio::default()
    })
}

fn hugetlb_v1(source: &mut Source<'_>, stats: &mut v1::Stats) -> Result<()> {
    for size in page_sizes() {
        if let Some(usage) = source.number(&format!("hugetlb.{size}.usage_in_bytes"))? {
            stats.hugetlb.push(v1::Hugetlb {
                usage,
                max: source
                    .number(&format!("hugetlb.{size}.max_usage_in_bytes"))?
                    .unwrap_or(0),
                failcnt: source
                    .number(&format!("hugetlb.{size}.failcnt"))?
                    .unwrap_or(0),
                pagesize: size.clone(),
            });
        }
    }
    Ok(())
}

/// The sizes of huge pages that this machine has; they do not change while it runs.
fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
            return Vec::new();
        };
        let mut sizes: Vec<String> = entries
            .filter_map(|entry| parse::page_size(entry.ok()?.file_name().to_str()?))
            .collect();
        sizes.sort();
        sizes
    })
}
