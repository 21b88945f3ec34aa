//! How the kernel schedules the process: policy, I/O priority, execution domain.

use nix::errno::Errno;
use nix::sys::personality::Persona;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, Process, Scheduler, Spec,
};

use super::error::{Doing, Failure};

/// `IOPRIO_WHO_PROCESS`.
const ONE_PROCESS: libc::c_int = 1;
/// An I/O priority is its class above this many bits of level.
const CLASS_SHIFT: i64 = 13;
const PER_LINUX32: Persona = Persona::from_bits_retain(8);

/// `struct sched_attr`, as far as every kernel with the call knows it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// What to ask of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduling {
    attributes: Option<SchedAttr>,
    io_priority: Option<libc::c_int>,
    is_32_bit: bool,
}

impl Scheduling {
    /// What the process, or else the container, asks for.
    pub(crate) fn new(process: &Process, spec: &Spec) -> Result<Self, Failure> {
        let init = spec.process().as_ref();
        let scheduler = process
            .scheduler()
            .as_ref()
            .or_else(|| init.and_then(|init| init.scheduler().as_ref()));
        let io = process
            .io_priority()
            .as_ref()
            .or_else(|| init.and_then(|init| init.io_priority().as_ref()));
        let personality = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.personality().as_ref());
        Ok(Self {
            attributes: scheduler.map(attributes),
            io_priority: io.map(io_priority).transpose()?,
            is_32_bit: personality.map(is_32_bit).transpose()?.unwrap_or(false),
        })
    }

    /// Applies it to this process.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        if let Some(attributes) = &self.attributes {
            // SAFETY: sched_setattr reads `size` bytes from a struct of the kernel's layout.
            let result =
                unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
            Errno::result(result)
                .doing(|| format!("set scheduling policy {}", attributes.policy))?;
        }
        if let Some(priority) = self.io_priority {
            // SAFETY: ioprio_set takes numbers only.
            let result = unsafe { libc::syscall(libc::SYS_ioprio_set, ONE_PROCESS, 0, priority) };
            Errno::result(result).doing(|| format!("set I/O priority {priority:#x}"))?;
        }
        if self.is_32_bit {
            nix::sys::personality::set(PER_LINUX32)
                .doing(|| "set the execution domain to LINUX32")?;
        }
        Ok(())
    }
}

fn attributes(scheduler: &Scheduler) -> SchedAttr {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    SchedAttr {
        size: u32::try_from(std::mem::size_of::<SchedAttr>()).unwrap_or_default(),
        policy,
        flags,
        nice: scheduler.nice().unwrap_or_default(),
        // A negative priority becomes a huge one, which the kernel refuses.
        priority: u32::try_from(scheduler.priority().unwrap_or_default()).unwrap_or(u32::MAX),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    }
}

fn io_priority(asked: &LinuxIOPriority) -> Result<libc::c_int, Failure> {
    let class: i64 = match asked.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = asked.priority();
    let valid = (0..1 << CLASS_SHIFT).contains(&level);
    let value = (class << CLASS_SHIFT) | level;
    libc::c_int::try_from(value)
        .ok()
        .filter(|_| valid)
        .ok_or_else(|| Failure::new(format!("{level} is not an I/O priority level")))
}

fn is_32_bit(personality: &LinuxPersonality) -> Result<bool, Failure> {
    if personality
        .flags()
        .as_ref()
        .is_some_and(|flags| !flags.is_empty())
    {
        return Err(Failure::new(
            "flags of the execution domain are not supported",
        ));
    }
    Ok(personality.domain() == LinuxPersonalityDomain::PerLinux32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scheduling(process: serde_json::Value) -> Result<Scheduling, Failure> {
        let base = serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"});
        let mut all = base;
        all.as_object_mut()
            .unwrap()
            .extend(process.as_object().unwrap().clone());
        Scheduling::new(&serde_json::from_value(all).unwrap(), &Spec::default())
    }

    #[test]
    fn policies_become_attributes() {
        let asked = serde_json::json!({"scheduler": {
            "policy": "SCHED_DEADLINE", "nice": 0, "priority": 0,
            "runtime": 1, "deadline": 2, "period": 3, "flags": ["SCHED_RESET_ON_FORK"],
        }});
        let attributes = scheduling(asked).unwrap().attributes.unwrap();
        assert_eq!(attributes.size, 48);
        assert_eq!((attributes.policy, attributes.flags), (6, 1));
        assert_eq!(
            (attributes.runtime, attributes.deadline, attributes.period),
            (1, 2, 3)
        );
    }

    #[test]
    fn flags_of_the_execution_domain_are_refused() {
        let process: Process =
            serde_json::from_value(serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/"}))
                .unwrap();
        let with = |personality: serde_json::Value| {
            let mut spec = serde_json::to_value(Spec::default()).unwrap();
            spec["linux"]["personality"] = personality;
            Scheduling::new(&process, &serde_json::from_value(spec).unwrap())
        };
        let flags = serde_json::json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
        let why = with(flags).unwrap_err().to_string();
        assert!(why.contains("execution domain are not supported"), "{why}");
        assert!(
            with(serde_json::json!({"domain": "LINUX32"}))
                .unwrap()
                .is_32_bit
        );
        assert!(
            !with(serde_json::json!({"domain": "LINUX"}))
                .unwrap()
                .is_32_bit
        );
    }

    proptest! {
        #[test]
        fn io_priorities_are_class_and_level(level in -10_i64..10_000) {
            let asked = serde_json::json!({"ioPriority": {
                "class": "IOPRIO_CLASS_BE", "priority": level,
            }});
            let made = scheduling(asked).map(|made| made.io_priority);
            if (0..8192).contains(&level) {
                prop_assert_eq!(made, Ok(Some((2 << 13) | level as i32)));
            } else {
                prop_assert!(made.is_err());
            }
        }
    }
}
