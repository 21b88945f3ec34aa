//! Resource limits, and how willing the kernel is to kill the process when memory runs out.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process, Spec};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// The limits to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits(Vec<PosixRlimit>);

impl Limits {
    /// The process's limits, or the container's where it names none.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Self {
        let named = |process: &Process| process.rlimits().clone().filter(|list| !list.is_empty());
        let list = named(process).or_else(|| spec.process().as_ref().and_then(named));
        Self(list.unwrap_or_default())
    }

    /// Makes room for hard limits above the present ones. Only the host's root may, so it happens
    /// before the container's user namespace is entered. Nothing gets lower here, so that the
    /// limits cannot hinder the steps that follow.
    pub(crate) fn make_room(&self) -> Result<(), Failure> {
        for limit in &self.0 {
            let resource = resource(limit.typ());
            let (soft, hard) = getrlimit(resource).doing(|| setting(limit))?;
            if limit.hard() > hard {
                setrlimit(resource, soft, limit.hard()).doing(|| setting(limit))?;
            }
        }
        Ok(())
    }

    /// Sets the limits. They bind this process from here on.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        for limit in &self.0 {
            setrlimit(resource(limit.typ()), limit.soft(), limit.hard())
                .doing(|| setting(limit))?;
        }
        Ok(())
    }
}

fn setting(limit: &PosixRlimit) -> String {
    format!(
        "set {} to soft {}, hard {}",
        limit.typ(),
        limit.soft(),
        limit.hard()
    )
}

/// Sets oom_score_adj as the process, or else the container, asks for.
///
/// Done as the host's root. Going below one's own value takes CAP_SYS_RESOURCE on the host.
///
/// # Errors
/// If the runtime may not: containerd's `restrict_oom_score_adj` is for nodes where it itself may not.
pub(crate) fn adjust_oom_score(
    proc: &HostProc,
    process: &Process,
    spec: &Spec,
) -> Result<(), Failure> {
    let containers = || spec.process().as_ref().and_then(Process::oom_score_adj);
    let Some(wanted) = process.oom_score_adj().or_else(containers) else {
        return Ok(());
    };
    proc.write("self/oom_score_adj", &wanted.to_string())
        .doing(|| format!("set oom_score_adj to {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{PosixRlimitBuilder, ProcessBuilder, SpecBuilder};

    fn limit(kind: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
            .unwrap()
    }

    fn process(limits: Vec<PosixRlimit>) -> Process {
        ProcessBuilder::default().rlimits(limits).build().unwrap()
    }

    #[test]
    fn every_limit_has_its_resource() {
        for (name, expected) in [
            ("RLIMIT_CPU", Resource::RLIMIT_CPU),
            ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
            ("RLIMIT_DATA", Resource::RLIMIT_DATA),
            ("RLIMIT_STACK", Resource::RLIMIT_STACK),
            ("RLIMIT_CORE", Resource::RLIMIT_CORE),
            ("RLIMIT_RSS", Resource::RLIMIT_RSS),
            ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
            ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
            ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
            ("RLIMIT_AS", Resource::RLIMIT_AS),
            ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
            ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
            ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
            ("RLIMIT_NICE", Resource::RLIMIT_NICE),
            ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
            ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ] {
            let kind = serde_json::from_value(serde_json::Value::from(name)).unwrap();
            assert_eq!(resource(kind), expected, "{name}");
        }
    }

    #[test]
    fn the_containers_limits_stand_in_for_missing_ones() {
        let own = vec![limit(PosixRlimitType::RlimitNofile, 1, 2)];
        let inits = vec![limit(PosixRlimitType::RlimitCore, 3, 4)];
        let spec = SpecBuilder::default()
            .process(process(inits.clone()))
            .build()
            .unwrap();
        assert_eq!(Limits::new(&process(own.clone()), &spec), Limits(own));
        assert_eq!(Limits::new(&process(Vec::new()), &spec), Limits(inits));
    }
}
