//! Limits. The host can always give a guest too little; what a policy bounds it can't give beyond.

use crate::{
    Check, Container, Cpu, Denial, DeviceRule, HostDeviceRule, Range, ResourceBounds, Resources,
    ensure,
};

/// The period of processor time that bounds are for, in microseconds.
const PERIOD: u64 = 100_000;

/// The limits that a container is made with.
pub(super) fn first(container: &Container, host: Resources) -> Result<Resources, Denial> {
    check_bounds(&container.resources, &host)?;
    check_rules(container, &host.devices)?;
    Ok(Resources {
        devices: rules(container),
        ..host
    })
}

/// The limits that a container is given while it runs.
pub(super) fn later(
    container: &Container,
    bounds: &ResourceBounds,
    host: Resources,
) -> Result<Resources, Denial> {
    check_bounds(bounds, &host)?;
    check_rules(container, &host.devices)?;
    let devices = match host.devices.is_empty() {
        true => Vec::new(),
        false => rules(container),
    };
    Ok(Resources { devices, ..host })
}

fn check_bounds(bounds: &ResourceBounds, host: &Resources) -> Result<(), Denial> {
    let memory = unlimited(host.memory.limit);
    within(Check::Memory, "memory.limit", bounds.memory, memory)?;
    within(Check::Cpu, "cpu", bounds.cpu, processor_time(&host.cpu))?;
    let shares = host.cpu.shares.unwrap_or(1024);
    within(Check::CpuShares, "cpu.shares", bounds.cpu_shares, shares)?;
    let pids = unlimited(host.pids.filter(|limit| *limit != 0));
    within(Check::Pids, "pids.limit", bounds.pids, pids)
}

/// No limit is more than any.
fn unlimited(limit: Option<i64>) -> u64 {
    limit
        .and_then(|limit| u64::try_from(limit).ok())
        .unwrap_or(u64::MAX)
}

/// Of each [`PERIOD`].
fn processor_time(cpu: &Cpu) -> u64 {
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period > 0).unwrap_or(PERIOD);
    match unlimited(quota) {
        u64::MAX => u64::MAX,
        quota => quota.saturating_mul(PERIOD) / period,
    }
}

fn within(check: Check, field: &str, bounds: Option<Range<u64>>, value: u64) -> Result<(), Denial> {
    let Some(bounds) = bounds else {
        return Ok(());
    };
    ensure(check, bounds.contains(&value), || {
        let came = match value {
            u64::MAX => "no limit came".to_owned(),
            value => format!("{value} came"),
        };
        (
            field.to_owned(),
            came,
            format!("{} to {}", bounds.least, bounds.most),
        )
    })
}

/// A rule that denies takes nothing that the policy gives: the rules that are made are the policy's.
fn check_rules(container: &Container, host: &[HostDeviceRule]) -> Result<(), Denial> {
    for (at, rule) in host.iter().enumerate().filter(|(_, rule)| rule.allow) {
        let covers = |wanted: &DeviceRule| {
            let rule = rule.rule.as_ref();
            rule.is_some_and(|rule| wanted.covers(rule))
        };
        let allowed = DeviceRule::common().any(|one| covers(&one))
            || container.device_rules.iter().any(covers);
        ensure(Check::DeviceRule, allowed, || {
            let came = match &rule.rule {
                None => "all devices came".to_owned(),
                Some(rule) => format!("{} came", shown(rule)),
            };
            let wanted: Vec<_> = container.device_rules.iter().map(shown).collect();
            let wanted = ["those that every container has".to_owned()]
                .into_iter()
                .chain(wanted);
            let wanted: Vec<_> = wanted.collect();
            (format!("devices[{at}]"), came, wanted.join(", "))
        })?;
    }
    Ok(())
}

fn shown(rule: &DeviceRule) -> String {
    match rule.minor {
        Some(minor) => format!("{:?} {}:{minor}", rule.kind, rule.major),
        None => format!("{:?} {}:*", rule.kind, rule.major),
    }
}

/// All that a container may open, after all that it may not.
fn rules(container: &Container) -> Vec<HostDeviceRule> {
    let none = HostDeviceRule {
        allow: false,
        rule: None,
    };
    let own = container.device_rules.iter().cloned();
    let allowed = DeviceRule::common().chain(own).map(|rule| HostDeviceRule {
        allow: true,
        rule: Some(rule),
    });
    std::iter::once(none).chain(allowed).collect()
}
