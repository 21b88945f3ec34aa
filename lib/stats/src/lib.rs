//! What a container has used, as its cgroup tells.
//!
//! cgroup v1 and v2 count different things in different units, and containerd has a message for
//! each. Translating one into the other would lose or invent figures, so both are kept as the
//! kernel gave them. The field names are those of containerd's messages
//! (`io.containerd.cgroups.v1.Metrics` and `io.containerd.cgroups.v2.Metrics`), so that the
//! conversion is a plain copy.
//!
//! A controller that the machine does not have is `None`; a figure that its kernel does not have is
//! zero. A limit that is not set is [`u64::MAX`], except where containerd's own reader says
//! otherwise (`pids.max` in v1 is then 0, and v1's memory limits are the kernel's own huge number).

use serde::{Deserialize, Serialize};

/// Statistics of one container, in the shape of the cgroup version that it runs under.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "version", content = "stats", rename_all = "lowercase")]
pub enum Stats {
    /// From cgroup v1 controllers.
    V1(Box<v1::Stats>),
    /// From the unified hierarchy.
    V2(Box<v2::Stats>),
}

/// Number of tasks; the same in both versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Tasks that exist now.
    pub current: u64,
    /// The most that may exist.
    pub limit: u64,
}

/// RDMA resources, used or allowed, of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RdmaEntry {
    /// Name of the device.
    pub device: String,
    /// Handles of the host channel adapter.
    pub hca_handles: u32,
    /// Objects of the host channel adapter.
    pub hca_objects: u32,
}

/// RDMA resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rdma {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Allowed.
    pub limit: Vec<RdmaEntry>,
}

/// Statistics under cgroup v1.
#[allow(missing_docs)] // The fields carry the kernel's names; their meaning is in its documentation.
pub mod v1 {
    use super::{Deserialize, Pids, Rdma, Serialize};

    /// One container's statistics.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Stats {
        pub hugetlb: Vec<Hugetlb>,
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Box<Memory>>,
        pub blkio: Option<Blkio>,
        pub rdma: Option<Rdma>,
        pub memory_oom_control: Option<OomControl>,
    }

    /// Huge pages of one size.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Hugetlb {
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
        /// As in the file names: `2MB`.
        pub pagesize: String,
    }

    /// Processor time.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Cpu {
        pub usage: CpuUsage,
        pub throttling: Throttling,
    }

    /// Processor time used, in nanoseconds.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct CpuUsage {
        pub total: u64,
        pub kernel: u64,
        pub user: u64,
        pub per_cpu: Vec<u64>,
    }

    /// How often the quota ran out; the time is in nanoseconds.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Throttling {
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    /// Memory: `memory.stat` and the four counters with limits.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Memory {
        pub cache: u64,
        pub rss: u64,
        pub rss_huge: u64,
        pub mapped_file: u64,
        pub dirty: u64,
        pub writeback: u64,
        pub pg_pg_in: u64,
        pub pg_pg_out: u64,
        pub pg_fault: u64,
        pub pg_maj_fault: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
        pub hierarchical_memory_limit: u64,
        pub hierarchical_swap_limit: u64,
        pub total_cache: u64,
        pub total_rss: u64,
        pub total_rss_huge: u64,
        pub total_mapped_file: u64,
        pub total_dirty: u64,
        pub total_writeback: u64,
        pub total_pg_pg_in: u64,
        pub total_pg_pg_out: u64,
        pub total_pg_fault: u64,
        pub total_pg_maj_fault: u64,
        pub total_inactive_anon: u64,
        pub total_active_anon: u64,
        pub total_inactive_file: u64,
        pub total_active_file: u64,
        pub total_unevictable: u64,
        pub usage: MemoryEntry,
        /// Memory and swap together; absent where swap is not accounted.
        pub swap: Option<MemoryEntry>,
        pub kernel: Option<MemoryEntry>,
        pub kernel_tcp: Option<MemoryEntry>,
    }

    /// A counter with its limit.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct MemoryEntry {
        pub limit: u64,
        pub usage: u64,
        pub max: u64,
        pub failcnt: u64,
    }

    /// The state of the OOM killer.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct OomControl {
        pub oom_kill_disable: u64,
        pub under_oom: u64,
        pub oom_kill: u64,
    }

    /// Block devices.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Blkio {
        pub io_service_bytes_recursive: Vec<BlkioEntry>,
        pub io_serviced_recursive: Vec<BlkioEntry>,
        pub io_queued_recursive: Vec<BlkioEntry>,
        pub io_service_time_recursive: Vec<BlkioEntry>,
        pub io_wait_time_recursive: Vec<BlkioEntry>,
        pub io_merged_recursive: Vec<BlkioEntry>,
        pub io_time_recursive: Vec<BlkioEntry>,
        pub sectors_recursive: Vec<BlkioEntry>,
    }

    /// One figure about one block device.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct BlkioEntry {
        /// `Read`, `Write`, …; empty where the file does not tell operations apart.
        pub op: String,
        pub major: u64,
        pub minor: u64,
        pub value: u64,
    }
}

/// Statistics under cgroup v2.
#[allow(missing_docs)] // The fields carry the kernel's names; their meaning is in its documentation.
pub mod v2 {
    use super::{Deserialize, Pids, Rdma, Serialize};

    /// One container's statistics.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Stats {
        pub pids: Option<Pids>,
        pub cpu: Option<Cpu>,
        pub memory: Option<Box<Memory>>,
        pub rdma: Option<Rdma>,
        pub io: Option<Io>,
        pub hugetlb: Vec<Hugetlb>,
        pub memory_events: Option<MemoryEvents>,
    }

    /// Pressure stall information: shares of time in percent, total in microseconds.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct PsiData {
        pub avg10: f64,
        pub avg60: f64,
        pub avg300: f64,
        pub total: u64,
    }

    /// Pressure on one resource.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Psi {
        /// Some tasks waited.
        pub some: Option<PsiData>,
        /// All tasks waited.
        pub full: Option<PsiData>,
    }

    /// Processor time, in microseconds.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Cpu {
        pub usage_usec: u64,
        pub user_usec: u64,
        pub system_usec: u64,
        pub nr_periods: u64,
        pub nr_throttled: u64,
        pub throttled_usec: u64,
        pub nr_bursts: u64,
        pub burst_usec: u64,
        pub psi: Option<Psi>,
    }

    /// Memory: `memory.stat` and the counters with limits.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Memory {
        pub anon: u64,
        pub file: u64,
        pub kernel_stack: u64,
        pub slab: u64,
        pub sock: u64,
        pub shmem: u64,
        pub file_mapped: u64,
        pub file_dirty: u64,
        pub file_writeback: u64,
        pub anon_thp: u64,
        pub inactive_anon: u64,
        pub active_anon: u64,
        pub inactive_file: u64,
        pub active_file: u64,
        pub unevictable: u64,
        pub slab_reclaimable: u64,
        pub slab_unreclaimable: u64,
        pub pgfault: u64,
        pub pgmajfault: u64,
        pub workingset_refault: u64,
        pub workingset_activate: u64,
        pub workingset_nodereclaim: u64,
        pub pgrefill: u64,
        pub pgscan: u64,
        pub pgsteal: u64,
        pub pgactivate: u64,
        pub pgdeactivate: u64,
        pub pglazyfree: u64,
        pub pglazyfreed: u64,
        pub thp_fault_alloc: u64,
        pub thp_collapse_alloc: u64,
        pub usage: u64,
        pub usage_limit: u64,
        pub max_usage: u64,
        pub swap_usage: u64,
        pub swap_limit: u64,
        pub swap_max_usage: u64,
        pub psi: Option<Psi>,
    }

    /// How often memory limits were met.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct MemoryEvents {
        pub low: u64,
        pub high: u64,
        pub max: u64,
        pub oom: u64,
        pub oom_kill: u64,
        pub oom_group_kill: u64,
    }

    /// Block devices.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Io {
        pub usage: Vec<IoEntry>,
        pub psi: Option<Psi>,
    }

    /// One block device.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct IoEntry {
        pub major: u64,
        pub minor: u64,
        pub rbytes: u64,
        pub wbytes: u64,
        pub rios: u64,
        pub wios: u64,
    }

    /// Huge pages of one size.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct Hugetlb {
        pub current: u64,
        pub max: u64,
        /// As in the file names: `2MB`.
        pub pagesize: String,
        pub failcnt: u64,
    }
}
