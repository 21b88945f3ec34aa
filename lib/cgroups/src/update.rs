//! Setting the limits of a container: of a new one, by way of [`Cgroup::limit`], and of one that runs,
//! which is Task.Update.
//!
//! Only what the request names is changed; 0 means "not named" where no limit can be 0, as runc has
//! it. Device rules are never touched.
//!
//! What is written is planned first, by pure functions ([`plan`](super::plan)), and then written group
//! by group. Within a group, what the kernel calls invalid is tried again after the rest: raising
//! memory thus raises `memsw` first, lowering it lowers the limit first, without a look at what was
//! there before.
//!
//! Why not libcgroups' controllers: see `docs/libcontainer.md`.

use std::path::PathBuf;

use libcgroups::common::{CgroupManager, ControllerOpt};
use oci_spec::runtime::{LinuxMemory, LinuxPids, LinuxResources};

use super::error::{Error, Result, by_systemd, is_absence, unavailable, unusable};
use super::layout::{Controller, Layout};
use super::plan::{Group, Write, cpu_max, current_limit, named, plan_v1, plan_v2};
use super::{Cgroup, file, parse};

impl Cgroup {
    /// Changes the limits that `resources` names. Later writes are not attempted after one that
    /// fails.
    ///
    /// # Errors
    /// If the resources contradict themselves, ask for what this machine cannot do, or the kernel
    /// refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let unusable = |reason: String| unusable(self.path(), reason);
        if !self.exists() {
            return Err(unavailable("update", self.path(), "cgroup"));
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
                    "net_cls" => Controller::NetCls,
                    "net_prio" => Controller::NetPrio,
                    "rdma" => Controller::Rdma,
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
                match self.write_first(&write).and_then(|()| self.check(&write)) {
                    Ok(()) => {}
                    Err(why) if why.raw_os_error() == Some(libc::EINVAL) => {
                        refused.get_or_insert(why);
                        again.push(write);
                    }
                    Err(why) => return Err(self.explain(&write, why)),
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
                Err(why) if is_absence(why.raw_os_error()) => {
                    missing.get_or_insert(why);
                }
                other => return other,
            }
        }
        match missing {
            _ if write.optional => Ok(()),
            Some(error) => Err(error),
            None => {
                let name = write.choices.first().map_or("", |(name, _)| name);
                let why = format!("this machine has no controller for {name}");
                Err(unusable(self.path(), why))
            }
        }
    }

    /// Says more than "device or resource busy" of a limit below what v1 can't take back.
    fn explain(&self, write: &Write, why: Error) -> Error {
        let of_memory = |(name, _): &&(_, _)| *name == "memory.limit_in_bytes";
        let Some((_, value)) = write.choices.iter().find(of_memory) else {
            return why;
        };
        if why.raw_os_error() != Some(libc::EBUSY) {
            return why;
        }
        let usage = self.file("memory.usage_in_bytes");
        let usage = usage.and_then(|usage| file::read(&usage).ok().flatten());
        let usage = usage
            .and_then(|usage| parse::number(&usage))
            .unwrap_or_default();
        let why = format!("the memory limit {value} is below the {usage} bytes in use");
        unusable(self.path(), why)
    }

    /// Refuses a value that the kernel took and made into a larger one.
    fn check(&self, write: &Write) -> Result<()> {
        let Some((name, value)) = write.choices.first().filter(|_| write.kept) else {
            return Ok(());
        };
        let Some(path) = self.file(name) else {
            return Ok(());
        };
        let there = file::read(&path)?.and_then(|there| parse::number(&there));
        match (parse::number(value), there) {
            (Some(value), Some(there)) if there > value => {
                let why = format!("the kernel makes {there} out of {value} for {name}");
                Err(unusable(self.path(), why))
            }
            _ => Ok(()),
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
        let failed = |why: String| by_systemd("update", unit, why);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{from_value, json};

    use super::*;

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

    proptest! {
        #[test]
        fn systemd_is_told_any_memory(limit: Option<i64>, swap: Option<i64>, max in "\\PC{0,6}|[0-9]{1,20}") {
            let mut memory = LinuxMemory::default();
            memory.set_limit(limit).set_swap(swap);
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            systemd_resources(&resources, &|_| Some(max.clone()));
        }
    }
}
