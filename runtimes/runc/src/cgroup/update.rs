//! Changing the limits of a container that runs: Task.Update.
//!
//! Only what the request names is changed; 0 means "not named" where no limit can be 0, as runc has
//! it. Device rules and network classes are never touched.
//!
//! What is written is planned first, by a pure function, and then written group by group. The
//! kernel insists that some values stay in proportion (`limit ≤ memsw`, `burst ≤ quota`), and
//! whether a value fits depends on those that are there. Within a group, what the kernel calls
//! invalid is therefore tried again after the rest: raising memory thus raises `memsw` first,
//! lowering it lowers the limit first, without a look at what was there before.
//!
//! Why not libcgroups' controllers, which set the limits at creation (as of 0.7):
//!
//! - v1 cannot be applied without device rules being written, and also clears `memory.oom_control`;
//! - v1 fails to set memory to -1 where swap is not accounted;
//! - v2 leaves `memory.swap.max` alone when memory+swap equals memory, which means "no swap";
//! - v2 converts a block I/O weight for `io.weight` in 16 bits, which overflows from 17 on;
//! - v2 cannot lower quota and burst together.
//!
//! The conversion from cpu shares to weight is the same in runc (since 1.3.2), in libcgroups and
//! here, so that creating and updating agree. A pids limit of 0 also follows libcgroups: `max` on
//! v1, 1 on v2.

use std::fmt::Display;
use std::path::PathBuf;

use libcgroups::common::{CgroupManager, ControllerOpt};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
    LinuxThrottleDevice,
};

use super::error::{Error, Result, is_absent};
use super::layout::{Controller, Layout};
use super::{Cgroup, file, parse};

/// The kernel's default of `cpu.max`, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// A value for a file; or for the first of several that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    choices: Vec<(String, String)>,
    /// Whether it is fine that no file exists.
    optional: bool,
}

impl Write {
    fn new(file: impl Into<String>, value: impl Display) -> Self {
        Self {
            choices: vec![(file.into(), value.to_string())],
            optional: false,
        }
    }

    fn or(mut self, file: impl Into<String>, value: impl Display) -> Self {
        self.choices.push((file.into(), value.to_string()));
        self
    }

    fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }
}

/// Writes whose order the kernel may refuse.
type Group = Vec<Write>;

type Plan = std::result::Result<Vec<Group>, String>;

impl Cgroup {
    /// Changes the limits that `resources` names. Later writes are not attempted after one that
    /// fails.
    ///
    /// # Errors
    /// If the resources contradict themselves, ask for what this machine cannot do, or the kernel
    /// refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let unusable = |reason| Error::Resources {
            path: self.path().to_path_buf(),
            reason,
        };
        if !self.exists() {
            let path = self.path().to_path_buf();
            return Err(Error::Unavailable {
                action: "update",
                path,
                missing: "cgroup",
            });
        }
        let current = |name: &str| file::read(&self.file(name)?).ok().flatten();
        check_usage(resources, self.v1(Controller::Memory).is_some(), &current)
            .map_err(unusable)?;
        let plan = match self.layout {
            Layout::V1(_) => plan_v1(resources),
            Layout::V2(_) => plan_v2(resources, &current),
        };
        let plan = plan.map_err(unusable)?;
        if let Some(unit) = &self.unit {
            self.update_unit(unit, resources, &current)?;
        }
        plan.into_iter()
            .try_for_each(|group| self.write_group(group))
    }

    /// The path of a file; `None` if its v1 controller is not mounted.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let dir = match &self.layout {
            Layout::V2(dir) => Some(dir.as_path()),
            Layout::V1(_) => {
                let controller = match name.split('.').next().unwrap_or("") {
                    "memory" => Controller::Memory,
                    "cpu" => Controller::Cpu,
                    "cpuset" => Controller::CpuSet,
                    "pids" => Controller::Pids,
                    "blkio" => Controller::Blkio,
                    "hugetlb" => Controller::HugeTlb,
                    _ => return None,
                };
                self.v1(controller)
            }
        };
        dir.map(|dir| dir.join(name))
    }

    fn write_group(&self, mut group: Group) -> Result<()> {
        loop {
            let before = group.len();
            let mut refused = None;
            let mut again = Group::new();
            for write in group {
                match self.write_first(&write) {
                    Ok(()) => {}
                    Err(Error::Write {
                        value,
                        path,
                        source,
                    }) if source.raw_os_error() == Some(libc::EINVAL) => {
                        refused.get_or_insert(Error::Write {
                            value,
                            path,
                            source,
                        });
                        again.push(write);
                    }
                    Err(error) => return Err(error),
                }
            }
            match refused {
                None => return Ok(()),
                Some(error) if again.len() == before => return Err(error),
                Some(_) => group = again,
            }
        }
    }

    fn write_first(&self, write: &Write) -> Result<()> {
        let mut missing = None;
        for (name, value) in &write.choices {
            let Some(path) = self.file(name) else {
                continue;
            };
            match file::write(&path, value) {
                Err(Error::Write {
                    source,
                    value,
                    path,
                }) if is_absent(&source) => {
                    missing.get_or_insert(Error::Write {
                        source,
                        value,
                        path,
                    });
                }
                other => return other,
            }
        }
        match missing {
            _ if write.optional => Ok(()),
            Some(error) => Err(error),
            None => Err(Error::Resources {
                path: self.path().to_path_buf(),
                reason: format!(
                    "this machine has no controller for {}",
                    write.choices.first().map_or("", |(name, _)| name)
                ),
            }),
        }
    }

    /// Tells systemd first: it would otherwise restore the old values whenever it reloads. What it
    /// does not know it leaves to the files.
    fn update_unit(
        &self,
        unit: &str,
        resources: &LinuxResources,
        current: &dyn Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let failed = |reason: String| Error::Systemd {
            action: "update",
            unit: unit.to_owned(),
            reason,
        };
        let resources = systemd_resources(resources, current);
        let options = ControllerOpt {
            resources: &resources,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        let manager = self.manager().map_err(|error| failed(error.to_string()))?;
        manager
            .apply(&options)
            .map_err(|error| failed(error.to_string()))
    }
}

/// The part of the resources that libcgroups passes to systemd correctly.
fn systemd_resources(
    resources: &LinuxResources,
    current: &dyn Fn(&str) -> Option<String>,
) -> LinuxResources {
    let mut told = LinuxResources::default();
    if let Some(mut cpu) = resources.cpu().clone() {
        // It sets quota and period to their defaults when they are not named.
        let (quota, period) = cpu_max(&cpu, current);
        cpu.set_quota(Some(
            quota
                .and_then(|quota| i64::try_from(quota).ok())
                .unwrap_or(-1),
        ));
        cpu.set_period(Some(period));
        told.set_cpu(Some(cpu));
    }
    if let Some(memory) = resources.memory() {
        let limit = named(memory.limit());
        let swap = named(memory.swap());
        let mut known = LinuxMemory::default();
        known.set_limit(limit);
        known.set_reservation(named(memory.reservation()));
        // It knows memory+swap only next to a limit.
        match (limit.or_else(|| current_limit(current)), swap) {
            (Some(limit), Some(swap)) if limit > 0 && (swap == -1 || swap >= limit) => {
                known.set_limit(Some(limit));
                known.set_swap(Some(swap));
            }
            (_, Some(-1)) => {
                known.set_swap(Some(-1));
            }
            _ => {}
        }
        told.set_memory(Some(known));
    }
    if let Some(pids) = resources.pids() {
        let mut known = LinuxPids::default();
        known.set_limit(if pids.limit() == 0 { 1 } else { pids.limit() });
        told.set_pids(Some(known));
    }
    told
}

/// 0 is how callers say that they do not mean a value.
fn named(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// The memory limit that is set now; -1 if none.
fn current_limit(current: &dyn Fn(&str) -> Option<String>) -> Option<i64> {
    let limit = parse::number(&current("memory.max")?)?;
    Some(i64::try_from(limit).unwrap_or(-1))
}

/// Quota (`None` is unlimited) and period after the update, from what is named and what is there.
fn cpu_max(cpu: &LinuxCpu, current: &dyn Fn(&str) -> Option<String>) -> (Option<u64>, u64) {
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

/// Refuses a limit below what is in use, for callers that ask for this check instead of an OOM
/// kill.
fn check_usage(
    resources: &LinuxResources,
    v1: bool,
    current: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<(), String> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let Some(limit) = memory
        .limit()
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0)
    else {
        return Ok(());
    };
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    let file = if v1 {
        "memory.usage_in_bytes"
    } else {
        "memory.current"
    };
    match current(file).and_then(|usage| parse::number(&usage)) {
        Some(usage) if usage > limit => Err(format!(
            "the memory limit {limit} is below the {usage} bytes in use"
        )),
        _ => Ok(()),
    }
}

/// What both versions refuse about memory.
fn check_memory(memory: &LinuxMemory) -> std::result::Result<(), String> {
    let (limit, swap) = (named(memory.limit()), named(memory.swap()));
    for (name, value) in [
        ("limit", limit),
        ("swap", swap),
        ("reservation", memory.reservation()),
    ] {
        if let Some(value) = value.filter(|value| *value < -1) {
            return Err(format!("the memory {name} {value} is negative"));
        }
    }
    match (limit, swap) {
        (Some(limit), Some(swap)) if limit > 0 && swap > 0 && swap < limit => Err(format!(
            "memory and swap together ({swap}) are less than memory ({limit})"
        )),
        _ => Ok(()),
    }
}

fn plan_v1(resources: &LinuxResources) -> Plan {
    let mut plan = Vec::new();
    if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        return Err("unified resources exist on cgroup v2 only".to_owned());
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return Err("containers are under no RDMA controller on cgroup v1".to_owned());
    }
    if let Some(pids) = resources.pids() {
        let limit = if pids.limit() > 0 {
            pids.limit().to_string()
        } else {
            "max".to_owned()
        };
        plan.push(vec![Write::new("pids.max", limit)]);
    }
    if let Some(memory) = resources.memory() {
        check_memory(memory)?;
        plan.push(memory_v1(memory)?);
    }
    if let Some(block) = resources.block_io() {
        plan.push(block_v1(block));
    }
    if let Some(cpu) = resources.cpu() {
        plan.push(share_of_cpu(cpu, |shares| Write::new("cpu.shares", shares)));
        let mut quota = Group::new();
        quota.extend(nonzero(cpu.period()).map(|period| Write::new("cpu.cfs_period_us", period)));
        quota.extend(named(cpu.quota()).map(|quota| Write::new("cpu.cfs_quota_us", quota.max(-1))));
        quota.extend(
            cpu.burst()
                .map(|burst| Write::new("cpu.cfs_burst_us", burst)),
        );
        quota.extend(
            nonzero(cpu.realtime_period()).map(|period| Write::new("cpu.rt_period_us", period)),
        );
        quota.extend(
            named(cpu.realtime_runtime()).map(|runtime| Write::new("cpu.rt_runtime_us", runtime)),
        );
        plan.push(quota);
        plan.push(cpuset(cpu));
    }
    if let Some(limits) = resources.hugepage_limits() {
        plan.push(hugepages(limits, "limit_in_bytes", "-1")?);
    }
    Ok(plan)
}

fn memory_v1(memory: &LinuxMemory) -> std::result::Result<Group, String> {
    let mut group = Group::new();
    let (limit, swap) = (named(memory.limit()), named(memory.swap()));
    group.extend(limit.map(|limit| Write::new("memory.limit_in_bytes", limit)));
    // Unlimited memory needs unlimited memory+swap.
    let implied = (limit == Some(-1)).then_some(-1);
    if let Some(swap) = swap.or(implied) {
        // Without swap accounting there is no such file, and nothing to forbid or allow.
        let trivial = swap == -1 || Some(swap) == limit;
        group.push(Write::new("memory.memsw.limit_in_bytes", swap).optional(trivial));
    }
    group.extend(
        named(memory.reservation()).map(|soft| Write::new("memory.soft_limit_in_bytes", soft)),
    );
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(format!("swappiness {swappiness} is not within 0 to 100"));
        }
        group.push(Write::new("memory.swappiness", swappiness));
    }
    if let Some(disable) = memory.disable_oom_killer() {
        group.push(Write::new("memory.oom_control", u8::from(disable)));
    }
    Ok(group)
}

fn block_v1(block: &LinuxBlockIo) -> Group {
    let mut group = Group::new();
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        group.push(Write::new("blkio.weight", weight).or("blkio.bfq.weight", weight));
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        group.push(Write::new("blkio.leaf_weight", weight));
    }
    for device in block.weight_device().iter().flatten() {
        let name = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let value = format!("{name} {weight}");
            group.push(
                Write::new("blkio.weight_device", &value).or("blkio.bfq.weight_device", &value),
            );
        }
        if let Some(weight) = device.leaf_weight() {
            group.push(Write::new(
                "blkio.leaf_weight_device",
                format!("{name} {weight}"),
            ));
        }
    }
    for (file, device) in throttles(block, ["read_bps", "write_bps", "read_iops", "write_iops"]) {
        let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
        group.push(Write::new(format!("blkio.throttle.{file}_device"), value));
    }
    group
}

fn plan_v2(resources: &LinuxResources, current: &dyn Fn(&str) -> Option<String>) -> Plan {
    let mut plan = Vec::new();
    if let Some(pids) = resources.pids() {
        let limit = match pids.limit() {
            0 => "1".to_owned(),
            limit if limit > 0 => limit.to_string(),
            _ => "max".to_owned(),
        };
        plan.push(vec![Write::new("pids.max", limit)]);
    }
    if let Some(memory) = resources.memory() {
        check_memory(memory)?;
        plan.push(memory_v2(memory, current)?);
    }
    if let Some(block) = resources.block_io() {
        plan.push(block_v2(block)?);
    }
    if let Some(cpu) = resources.cpu() {
        if named(cpu.realtime_runtime()).is_some() || nonzero(cpu.realtime_period()).is_some() {
            return Err("real-time scheduling cannot be limited on cgroup v2".to_owned());
        }
        plan.push(share_of_cpu(cpu, |shares| {
            Write::new("cpu.weight", weight(shares))
        }));
        let mut quota = Group::new();
        if named(cpu.quota()).is_some() || nonzero(cpu.period()).is_some() {
            let (quota_after, period) = cpu_max(cpu, current);
            let value = quota_after.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            quota.push(Write::new("cpu.max", format!("{value} {period}")));
        }
        quota.extend(cpu.burst().map(|burst| Write::new("cpu.max.burst", burst)));
        plan.push(quota);
        plan.push(cpuset(cpu));
    }
    if let Some(limits) = resources.hugepage_limits() {
        plan.push(hugepages(limits, "max", "max")?);
    }
    if let Some(rdma) = resources.rdma() {
        let mut devices: Vec<_> = rdma.iter().collect();
        devices.sort_by_key(|(name, _)| *name);
        for (name, limits) in devices {
            let mut value = name.clone();
            for (key, limit) in [
                ("hca_handle", limits.hca_handles()),
                ("hca_object", limits.hca_objects()),
            ] {
                if let Some(limit) = limit {
                    value.push_str(&format!(" {key}={limit}"));
                }
            }
            plan.push(vec![Write::new("rdma.max", value)]);
        }
    }
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

fn memory_v2(
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

fn block_v2(block: &LinuxBlockIo) -> std::result::Result<Group, String> {
    let mut group = Group::new();
    if block.leaf_weight().is_some_and(|weight| weight > 0) {
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

/// `idle` before the share, which an idle cgroup does not take.
fn share_of_cpu(cpu: &LinuxCpu, write: impl FnOnce(u64) -> Write) -> Group {
    let mut group = Group::new();
    group.extend(cpu.idle().map(|idle| Write::new("cpu.idle", idle)));
    if cpu.idle() != Some(1) {
        group.extend(nonzero(cpu.shares()).map(write));
    }
    group
}

fn cpuset(cpu: &LinuxCpu) -> Group {
    let sets = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
    sets.into_iter()
        .filter_map(|(file, set)| {
            set.as_ref()
                .filter(|set| !set.is_empty())
                .map(|set| Write::new(file, set))
        })
        .collect()
}

fn hugepages(
    limits: &[LinuxHugepageLimit],
    file: &str,
    unlimited: &str,
) -> std::result::Result<Group, String> {
    let mut group = Group::new();
    for limit in limits {
        let size = limit.page_size();
        if !is_page_size(size) {
            return Err(format!("{size:?} is not a size of huge pages"));
        }
        let value = if limit.limit() < 0 {
            unlimited.to_owned()
        } else {
            limit.limit().to_string()
        };
        group.push(Write::new(format!("hugetlb.{size}.{file}"), &value));
        // Reservations are counted apart, on kernels that count them at all (5.7).
        group.push(Write::new(format!("hugetlb.{size}.rsvd.{file}"), &value).optional(true));
    }
    Ok(group)
}

fn throttles<'a>(
    block: &'a LinuxBlockIo,
    names: [&'static str; 4],
) -> impl Iterator<Item = (&'static str, &'a LinuxThrottleDevice)> {
    let lists = [
        block.throttle_read_bps_device(),
        block.throttle_write_bps_device(),
        block.throttle_read_iops_device(),
        block.throttle_write_iops_device(),
    ];
    names
        .into_iter()
        .zip(lists)
        .flat_map(|(name, list)| list.iter().flatten().map(move |device| (name, device)))
}

fn nonzero(value: Option<u64>) -> Option<u64> {
    value.filter(|value| *value != 0)
}

/// The name becomes part of a path.
fn is_file_name(name: &str) -> bool {
    name.contains('.') && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn is_page_size(size: &str) -> bool {
    size.strip_suffix("KB")
        .or_else(|| size.strip_suffix("MB"))
        .or_else(|| size.strip_suffix("GB"))
        .and_then(|number| number.parse::<u64>().ok())
        .is_some_and(u64::is_power_of_two)
}

/// From shares (v1: 2 to 262144, usually 1024) to weight (v2: 1 to 10000, usually 100), so that
/// least, most and usual meet: ten to the power of a square polynomial of log₂.
fn weight(shares: u64) -> u64 {
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
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::*;

    /// Plans from JSON as it comes over the wire, and shows the files that were to be written in
    /// order.
    fn plan(
        v2: bool,
        resources: Value,
        there: &[(&str, &str)],
    ) -> std::result::Result<Vec<String>, String> {
        let resources: LinuxResources = from_value(resources).unwrap();
        let there: HashMap<_, _> = there.iter().copied().collect();
        let current = |name: &str| there.get(name).map(|value| (*value).to_owned());
        let plan = if v2 {
            plan_v2(&resources, &current)
        } else {
            plan_v1(&resources)
        }?;
        let show = |(file, value): &(String, String)| format!("{file}={value}");
        Ok(plan
            .into_iter()
            .flatten()
            .map(|write| {
                let choices: Vec<String> = write.choices.iter().map(show).collect();
                format!(
                    "{}{}",
                    choices.join("|"),
                    if write.optional { "?" } else { "" }
                )
            })
            .collect())
    }

    #[test]
    fn memory_v1() {
        let of = |memory: Value| plan(false, json!({ "memory": memory }), &[]);
        assert_eq!(
            of(json!({"limit": 100, "swap": 200, "reservation": 50, "swappiness": 0})).unwrap(),
            [
                "memory.limit_in_bytes=100",
                "memory.memsw.limit_in_bytes=200",
                "memory.soft_limit_in_bytes=50",
                "memory.swappiness=0"
            ]
        );
        assert_eq!(
            of(json!({"limit": 100, "swap": 100})).unwrap()[1],
            "memory.memsw.limit_in_bytes=100?"
        );
        assert_eq!(
            of(json!({"limit": -1})).unwrap(),
            [
                "memory.limit_in_bytes=-1",
                "memory.memsw.limit_in_bytes=-1?"
            ]
        );
        assert_eq!(
            of(json!({"limit": 0, "swap": 0, "reservation": 0})).unwrap(),
            Vec::<String>::new()
        );
        assert!(of(json!({"limit": 100, "swap": 50})).is_err());
        assert!(of(json!({"limit": -2})).is_err());
        assert!(of(json!({"swappiness": 101})).is_err());
    }

    #[test]
    fn memory_v2() {
        let of = |memory: Value, max: &str| {
            plan(true, json!({ "memory": memory }), &[("memory.max", max)])
        };
        assert_eq!(
            of(json!({"limit": 100, "swap": 250, "reservation": -1}), "max").unwrap(),
            ["memory.swap.max=150", "memory.max=100", "memory.low=max"]
        );
        // Equal means no swap, which must not be confused with "not named".
        assert_eq!(
            of(json!({"limit": 100, "swap": 100}), "max").unwrap()[0],
            "memory.swap.max=0?"
        );
        assert_eq!(
            of(json!({"limit": -1}), "100").unwrap(),
            ["memory.swap.max=max?", "memory.max=max"]
        );
        assert_eq!(
            of(json!({"limit": 100}), "max").unwrap(),
            ["memory.max=100"]
        );
        // Only swap is named: the limit that is there counts.
        assert_eq!(
            of(json!({"swap": 250}), "100\n").unwrap(),
            ["memory.swap.max=150"]
        );
        assert_eq!(
            of(json!({"swap": 250}), "max\n").unwrap(),
            ["memory.swap.max=250"]
        );
        assert!(of(json!({"swap": 50}), "100").is_err());
        assert_eq!(
            of(json!({"limit": -1, "swap": 50}), "100").unwrap()[0],
            "memory.swap.max=50"
        );
    }

    #[test]
    fn cpu() {
        let cpu = json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "burst": 10000, "cpus": "0", "mems": "0"}});
        assert_eq!(
            plan(false, cpu.clone(), &[]).unwrap(),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpu.cfs_burst_us=10000",
                "cpuset.cpus=0",
                "cpuset.mems=0"
            ]
        );
        assert_eq!(
            plan(true, cpu, &[]).unwrap(),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpu.max.burst=10000",
                "cpuset.cpus=0",
                "cpuset.mems=0"
            ]
        );
        let v2 =
            |cpu: Value, max: &str| plan(true, json!({ "cpu": cpu }), &[("cpu.max", max)]).unwrap();
        assert_eq!(
            v2(json!({"quota": 5000}), "max 20000\n"),
            ["cpu.max=5000 20000"]
        );
        assert_eq!(
            v2(json!({"quota": -1}), "5000 20000\n"),
            ["cpu.max=max 20000"]
        );
        assert_eq!(
            v2(json!({"period": 50000}), "5000 20000\n"),
            ["cpu.max=5000 50000"]
        );
        assert_eq!(
            v2(
                json!({"quota": 0, "period": 0, "shares": 0}),
                "5000 20000\n"
            ),
            Vec::<String>::new()
        );
        assert_eq!(
            v2(json!({"idle": 1, "shares": 512}), "max 100000"),
            ["cpu.idle=1"]
        );
        assert_eq!(
            v2(json!({"idle": 0, "shares": 1024}), "max 100000"),
            ["cpu.idle=0", "cpu.weight=100"]
        );
        assert!(plan(true, json!({"cpu": {"realtimeRuntime": 5}}), &[]).is_err());
    }

    #[test]
    fn others() {
        let resources = json!({
            "pids": {"limit": 0},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
            "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]},
        });
        assert_eq!(
            plan(false, resources.clone(), &[]).unwrap(),
            [
                "pids.max=max",
                "blkio.weight=500|blkio.bfq.weight=500",
                "blkio.throttle.read_bps_device=8:0 0",
                "hugetlb.2MB.limit_in_bytes=4096",
                "hugetlb.2MB.rsvd.limit_in_bytes=4096?",
            ]
        );
        assert_eq!(
            plan(true, resources, &[]).unwrap(),
            [
                "pids.max=1",
                "io.bfq.weight=500|io.weight=4950",
                "io.max=8:0 rbps=max",
                "hugetlb.2MB.max=4096",
                "hugetlb.2MB.rsvd.max=4096?",
            ]
        );
        assert!(
            plan(
                true,
                json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
                &[]
            )
            .is_err()
        );
        assert_eq!(
            plan(
                true,
                json!({"unified": {"memory.high": "5", "cpu.max": "1 2\n3 4"}}),
                &[]
            )
            .unwrap(),
            ["cpu.max=1 2", "cpu.max=3 4", "memory.high=5"]
        );
        assert!(plan(true, json!({"unified": {"../x.y": "1"}}), &[]).is_err());
        assert!(plan(false, json!({"unified": {"memory.high": "5"}}), &[]).is_err());
    }

    #[test]
    fn devices_are_never_touched() {
        let devices = json!({"devices": [{"allow": false, "access": "rwm"}]});
        assert_eq!(
            plan(false, devices.clone(), &[]).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(plan(true, devices, &[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_limit_below_usage_is_refused_when_asked_for() {
        let resources: LinuxResources =
            from_value(json!({"memory": {"limit": 100, "checkBeforeUpdate": true}})).unwrap();
        let usage = |value: &'static str| {
            move |name: &str| (name == "memory.current").then(|| value.to_owned())
        };
        assert!(check_usage(&resources, false, &usage("101\n")).is_err());
        assert!(check_usage(&resources, false, &usage("100\n")).is_ok());
    }

    #[test]
    fn systemd_is_told_what_it_would_otherwise_reset() {
        let resources: LinuxResources = from_value(json!({
            "cpu": {"shares": 512}, "memory": {"swap": 300}, "pids": {"limit": 0},
            "devices": [{"allow": false}], "unified": {"cpu.weight": "7"},
        }))
        .unwrap();
        let current = |name: &str| match name {
            "cpu.max" => Some("5000 20000\n".to_owned()),
            "memory.max" => Some("200\n".to_owned()),
            _ => None,
        };
        let told = systemd_resources(&resources, &current);
        let cpu = told.cpu().clone().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (Some(5000), Some(20000), Some(512))
        );
        let memory = told.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(200), Some(300)));
        assert_eq!(told.pids().unwrap().limit(), 1);
        assert!(told.devices().is_none() && told.unified().is_none());
    }

    #[test]
    fn weights_meet_at_least_usual_and_most() {
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (3, 2),
            (1024, 100),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert_eq!(
            (io_weight(10), io_weight(1000), io_weight(500)),
            (1, 10_000, 4950)
        );
    }

    proptest! {
        #[test]
        fn weights_are_monotonic_and_in_range(a: u64, b in 0u64..300_000) {
            for shares in [a, b] {
                prop_assert!((1..=10_000).contains(&weight(shares)));
                prop_assert!(weight(shares) <= weight(shares.saturating_add(1)));
            }
        }

        #[test]
        fn any_memory_request_is_planned_or_refused(limit: Option<i64>, swap: Option<i64>, soft: Option<i64>, max in "\\PC{0,6}|[0-9]{1,20}") {
            let mut memory = LinuxMemory::default();
            memory.set_limit(limit).set_swap(swap).set_reservation(soft);
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            let _ = plan_v1(&resources);
            let _ = plan_v2(&resources, &|_| Some(max.clone()));
            systemd_resources(&resources, &|_| Some(max.clone()));
        }
    }
}
