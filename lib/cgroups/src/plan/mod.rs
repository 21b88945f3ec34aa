//! What is to be written where, so that resources hold: computed before anything is written.
//!
//! A plan is a list of groups. The kernel insists that some values stay in proportion (`limit ≤ memsw`,
//! `burst ≤ quota`), and whether a value fits depends on those that are there: the order within a group
//! is the kernel's choice. Whatever a field can't mean on a version is refused by its name, never left
//! out; where runc leaves it out, that is said.
//!
//! The conversion from cpu shares to weight is the same in runc (since 1.3.2), in libcgroups and here,
//! so that containers keep their share over an update of the runtime.

use std::collections::HashMap;
use std::fmt::Display;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxRdma,
    LinuxThrottleDevice,
};

mod v1;
mod v2;

#[cfg(test)]
mod tests;

pub(super) use v1::plan as plan_v1;
pub(super) use v2::{cpu_max, current_limit, plan as plan_v2};

/// A value for a file; or for the first of several that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub choices: Vec<(String, String)>,
    /// Whether it is fine that no file exists.
    pub optional: bool,
    /// Whether the kernel is known to take the value and make a larger one of it.
    pub kept: bool,
}

impl Write {
    fn new(file: impl Into<String>, value: impl Display) -> Self {
        Self {
            choices: vec![(file.into(), value.to_string())],
            optional: false,
            kept: false,
        }
    }

    fn or(mut self, file: impl Into<String>, value: impl Display) -> Self {
        self.choices.push((file.into(), value.to_string()));
        self
    }

    fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    fn optional(mut self, optional: bool) -> Self {
        self.optional = optional;
        self
    }
}

/// Writes whose order the kernel may refuse.
pub(super) type Group = Vec<Write>;

pub(super) type Plan = std::result::Result<Vec<Group>, String>;

/// 0 is how callers say that they do not mean a value.
pub(super) fn named(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// What both versions refuse about memory.
fn check_memory(memory: &LinuxMemory) -> std::result::Result<(), String> {
    if memory.use_hierarchy() == Some(false) {
        // Since Linux 5.11. runc leaves it out.
        return Err("memory is always counted with what is below (useHierarchy)".to_owned());
    }
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

/// The number of processes; 0 is what comes nearest to it, as in runc (since 1.4): systemd doesn't know
/// a 0.
fn pids(pids: &LinuxPids) -> Group {
    let limit = match pids.limit() {
        0 => "1".to_owned(),
        limit if limit > 0 => limit.to_string(),
        _ => "max".to_owned(),
    };
    vec![Write::new("pids.max", limit)]
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

fn is_page_size(size: &str) -> bool {
    size.strip_suffix("KB")
        .or_else(|| size.strip_suffix("MB"))
        .or_else(|| size.strip_suffix("GB"))
        .and_then(|number| number.parse::<u64>().ok())
        .is_some_and(u64::is_power_of_two)
}

/// How willing the kernel is to swap; the largest number is how Docker says that it means none.
fn swappiness(memory: &LinuxMemory) -> Option<u64> {
    memory.swappiness().filter(|value| *value != u64::MAX)
}

/// Limits of RDMA devices.
fn rdma(devices: &HashMap<String, LinuxRdma>) -> impl Iterator<Item = Group> {
    let mut devices: Vec<_> = devices.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    devices.into_iter().map(|(name, limits)| {
        let mut value = name.clone();
        for (key, limit) in [
            ("hca_handle", limits.hca_handles()),
            ("hca_object", limits.hca_objects()),
        ] {
            if let Some(limit) = limit {
                value.push_str(&format!(" {key}={limit}"));
            }
        }
        vec![Write::new("rdma.max", value)]
    })
}
