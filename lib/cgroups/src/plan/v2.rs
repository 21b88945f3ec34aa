//! Resources in the files of cgroup v2.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::super::parse;
use super::{
    Group, Plan, Write, check_memory, cpuset, hugepages, named, nonzero, pids, rdma, share_of_cpu,
    swappiness, throttles,
};

/// The kernel's default of `cpu.max`, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// The memory limit that is set now; -1 if none.
pub(in super::super) fn current_limit(current: &dyn Fn(&str) -> Option<String>) -> Option<i64> {
    let limit = parse::number(&current("memory.max")?)?;
    Some(i64::try_from(limit).unwrap_or(-1))
}

/// Quota (`None` is unlimited) and period after the update, from what is named and what is there.
pub(in super::super) fn cpu_max(
    cpu: &LinuxCpu,
    current: &dyn Fn(&str) -> Option<String>,
) -> (Option<u64>, u64) {
    let there = current("cpu.max").unwrap_or_default();
    let mut there = there.split_ascii_whitespace();
    let quota_there = there.next().and_then(|quota| quota.parse().ok());
    let period_there = there
        .next()
        .and_then(|period| period.parse().ok())
        .unwrap_or(DEFAULT_PERIOD);
    let quota = match named(cpu.quota()) {
        Some(quota) => u64::try_from(quota).ok(),
        None => quota_there,
    };
    (
        quota,
        cpu.period()
            .filter(|period| *period != 0)
            .unwrap_or(period_there),
    )
}

/// Plans what resources mean on v2, from what is there: `current` reads a file of the cgroup.
pub(in super::super) fn plan(
    resources: &LinuxResources,
    current: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Vec::new();
    refuse(resources)?;
    plan.extend(resources.pids().as_ref().map(pids));
    if let Some(memory_of) = resources.memory() {
        check_memory(memory_of)?;
        plan.push(memory(memory_of, current)?);
    }
    if let Some(block_io) = resources.block_io() {
        plan.push(block(block_io)?);
    }
    if let Some(cpu) = resources.cpu() {
        plan.push(share_of_cpu(cpu, |shares| {
            Write::new("cpu.weight", weight(shares))
        }));
        plan.push(times(cpu, current));
        plan.push(cpuset(cpu));
    }
    if let Some(limits) = resources.hugepage_limits() {
        plan.push(hugepages(limits, "max", "max")?);
    }
    plan.extend(resources.rdma().iter().flat_map(rdma));
    if let Some(unified) = resources.unified() {
        let mut files: Vec<_> = unified.iter().collect();
        files.sort();
        for (file, value) in files {
            if !is_file_name(file) {
                return Err(format!("{file:?} is not the name of a cgroup file"));
            }
            // Files like io.max take one line at a time.
            plan.extend(
                value
                    .lines()
                    .map(|line| vec![Write::new(file.as_str(), line)]),
            );
        }
    }
    Ok(plan)
}

/// Refuses what exists on v1 only. runc refuses real-time scheduling and leaves out the rest.
fn refuse(resources: &LinuxResources) -> std::result::Result<(), String> {
    let cpu = resources.cpu().as_ref();
    let memory = resources.memory().as_ref();
    let network = resources.network().as_ref();
    let kernel = memory.is_some_and(|memory| named(memory.kernel()).is_some());
    let refused = [
        (
            "real-time scheduling cannot be limited",
            cpu.is_some_and(|cpu| {
                named(cpu.realtime_runtime()).is_some() || nonzero(cpu.realtime_period()).is_some()
            }),
        ),
        ("kernel memory has no limit of its own", kernel),
        (
            "memory of TCP has no limit of its own",
            memory.is_some_and(|memory| named(memory.kernel_tcp()).is_some()),
        ),
        (
            "swappiness is the machine's",
            memory.is_some_and(|memory| swappiness(memory).is_some()),
        ),
        (
            "the OOM killer cannot be disabled",
            memory.is_some_and(|memory| memory.disable_oom_killer() == Some(true)),
        ),
        (
            "network classes and priorities do not exist",
            network.is_some_and(is_meant),
        ),
    ];
    match refused.iter().find(|(_, asked)| *asked) {
        Some((what, _)) => Err(format!("{what} on cgroup v2")),
        None => Ok(()),
    }
}

fn is_meant(network: &LinuxNetwork) -> bool {
    network.class_id().is_some_and(|class| class != 0)
        || network
            .priorities()
            .as_ref()
            .is_some_and(|list| !list.is_empty())
}

fn times(cpu: &LinuxCpu, current: &dyn Fn(&str) -> Option<String>) -> Group {
    let mut group = Group::new();
    if named(cpu.quota()).is_some() || nonzero(cpu.period()).is_some() {
        let (quota, period) = cpu_max(cpu, current);
        let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        group.push(Write::new("cpu.max", format!("{quota} {period}")));
    }
    group.extend(cpu.burst().map(|burst| Write::new("cpu.max.burst", burst)));
    group
}

fn memory(
    memory: &LinuxMemory,
    current: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<Group, String> {
    let bytes = |value: i64| {
        if value == -1 {
            "max".to_owned()
        } else {
            value.to_string()
        }
    };
    let mut group = Group::new();
    let limit = named(memory.limit());
    // The OCI spec counts memory and swap together; here swap has a limit of its own.
    let swap = match (
        named(memory.swap()),
        limit.or_else(|| current_limit(current)),
    ) {
        (None, _) if limit == Some(-1) => Some(-1),
        (None, _) => None,
        (Some(-1), _) => Some(-1),
        (Some(swap), Some(-1)) => Some(swap),
        (Some(_), None) => {
            return Err("swap is limited together with memory, which has no limit".to_owned());
        }
        (Some(swap), Some(limit)) if swap < limit => {
            return Err(format!(
                "memory and swap together ({swap}) are less than memory ({limit})"
            ));
        }
        (Some(swap), Some(limit)) => Some(swap - limit),
    };
    if let Some(swap) = swap {
        // Without swap there is no such file, and nothing to forbid or allow.
        group.push(Write::new("memory.swap.max", bytes(swap)).optional(swap <= 0));
    }
    group.extend(limit.map(|limit| Write::new("memory.max", bytes(limit))));
    group.extend(named(memory.reservation()).map(|low| Write::new("memory.low", bytes(low))));
    Ok(group)
}

fn block(block: &LinuxBlockIo) -> std::result::Result<Group, String> {
    let mut group = Group::new();
    let leaves = block.weight_device().iter().flatten();
    if leaves
        .map(|device| device.leaf_weight())
        .chain([block.leaf_weight()])
        .any(|weight| weight.is_some_and(|weight| weight > 0))
    {
        return Err("leaf weights do not exist on cgroup v2".to_owned());
    }
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        group.push(Write::new("io.bfq.weight", weight).or("io.weight", io_weight(weight)));
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let name = format!("{}:{}", device.major(), device.minor());
            group.push(
                Write::new("io.bfq.weight", format!("{name} {weight}"))
                    .or("io.weight", format!("{name} {}", io_weight(weight))),
            );
        }
    }
    for (key, device) in throttles(block, ["rbps", "wbps", "riops", "wiops"]) {
        let rate = if device.rate() == 0 {
            "max".to_owned()
        } else {
            device.rate().to_string()
        };
        group.push(Write::new(
            "io.max",
            format!("{}:{} {key}={rate}", device.major(), device.minor()),
        ));
    }
    Ok(group)
}

/// The name becomes part of a path.
fn is_file_name(name: &str) -> bool {
    name.contains('.') && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// From shares (v1: 2 to 262144, usually 1024) to weight (v2: 1 to 10000, usually 100), so that
/// least, most and usual meet: ten to the power of a square polynomial of log₂.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            #[allow(clippy::cast_precision_loss)] // below 2^18
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // within 1 to 10000
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
        _ => 10_000,
    }
}

/// From blkio's weight (10 to 1000) to io's (1 to 10000), linearly.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}
