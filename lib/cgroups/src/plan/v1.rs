//! Resources in the files of cgroup v1.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

use super::{
    Group, Plan, Write, check_memory, cpuset, hugepages, named, nonzero, pids, rdma, share_of_cpu,
    swappiness, throttles,
};

/// The most and the least that `cpu.shares` takes.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Plans what resources mean on v1.
pub(in super::super) fn plan(resources: &LinuxResources) -> Plan {
    let mut plan = Vec::new();
    if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        return Err("unified resources exist on cgroup v2 only".to_owned());
    }
    plan.extend(resources.pids().as_ref().map(pids));
    if let Some(memory_of) = resources.memory() {
        check_memory(memory_of)?;
        plan.push(memory(memory_of)?);
    }
    plan.extend(resources.block_io().as_ref().map(block));
    if let Some(cpu) = resources.cpu() {
        plan.push(shares(cpu)?);
        plan.push(times(cpu));
        plan.push(cpuset(cpu));
    }
    if let Some(limits) = resources.hugepage_limits() {
        plan.push(hugepages(limits, "limit_in_bytes", "-1")?);
    }
    plan.extend(resources.rdma().iter().flat_map(rdma));
    plan.extend(resources.network().as_ref().map(network));
    Ok(plan)
}

fn shares(cpu: &LinuxCpu) -> std::result::Result<Group, String> {
    match nonzero(cpu.shares()) {
        // The kernel would take the nearest.
        Some(shares) if !SHARES.contains(&shares) => Err(format!(
            "cpu shares of {shares} are not within {} to {}",
            SHARES.start(),
            SHARES.end()
        )),
        _ => Ok(share_of_cpu(cpu, |shares| Write::new("cpu.shares", shares))),
    }
}

fn times(cpu: &LinuxCpu) -> Group {
    let mut group = Group::new();
    group.extend(nonzero(cpu.period()).map(|period| Write::new("cpu.cfs_period_us", period)));
    group.extend(named(cpu.quota()).map(|quota| Write::new("cpu.cfs_quota_us", quota.max(-1))));
    group.extend(
        cpu.burst()
            .map(|burst| Write::new("cpu.cfs_burst_us", burst)),
    );
    group.extend(
        nonzero(cpu.realtime_period()).map(|period| Write::new("cpu.rt_period_us", period)),
    );
    group.extend(
        named(cpu.realtime_runtime()).map(|runtime| Write::new("cpu.rt_runtime_us", runtime)),
    );
    group
}

fn memory(memory: &LinuxMemory) -> std::result::Result<Group, String> {
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
    // Kernels since 6.6 take it and do nothing; those before refuse it, since 5.16. runc leaves both
    // of these out.
    let kernel = named(memory.kernel());
    group.extend(kernel.map(|limit| Write::new("memory.kmem.limit_in_bytes", limit).kept()));
    group.extend(
        named(memory.kernel_tcp()).map(|limit| Write::new("memory.kmem.tcp.limit_in_bytes", limit)),
    );
    if let Some(swappiness) = swappiness(memory) {
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

/// The class that packets are marked with, and their priority on each interface.
fn network(network: &LinuxNetwork) -> Group {
    let class = network.class_id().filter(|class| *class != 0);
    let mut group = Group::new();
    group.extend(class.map(|class| Write::new("net_cls.classid", class)));
    for interface in network.priorities().iter().flatten() {
        let value = format!("{} {}", interface.name(), interface.priority());
        group.push(Write::new("net_prio.ifpriomap", value));
    }
    group
}

fn block(block: &LinuxBlockIo) -> Group {
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
