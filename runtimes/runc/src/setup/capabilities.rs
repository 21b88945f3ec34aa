//! Linux capabilities: the five sets of a process, as bit masks.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets as KernelSets, capability_is_in_bounding_set,
    clear_ambient_capability_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
};

use super::error::{Doing, Failure};

/// Masks have room for this many.
const BITS: u32 = 64;

/// The kernel's number of a capability (`linux/capability.h`).
pub(crate) fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

/// The five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl From<&LinuxCapabilities> for CapabilitySets {
    fn from(sets: &LinuxCapabilities) -> Self {
        let mask = |set: &Option<Capabilities>| {
            set.iter()
                .flatten()
                .fold(0, |mask, one| mask | 1_u64 << number(*one))
        };
        Self {
            bounding: mask(sets.bounding()),
            effective: mask(sets.effective()),
            permitted: mask(sets.permitted()),
            inheritable: mask(sets.inheritable()),
            ambient: mask(sets.ambient()),
        }
    }
}

impl CapabilitySets {
    /// Without what this kernel has never heard of, which `capset` would refuse.
    pub(crate) fn supported_by(self, last: u32) -> Self {
        let all = u64::MAX >> (BITS - 1).saturating_sub(last);
        Self {
            bounding: self.bounding & all,
            effective: self.effective & all,
            permitted: self.permitted & all,
            inheritable: self.inheritable & all,
            ambient: self.ambient & all,
        }
    }

    /// Takes every other capability out of the bounding set. Needs CAP_SETPCAP, so it comes
    /// before the user changes.
    pub(crate) fn limit_bounding(&self, last: u32) -> Result<(), Failure> {
        for capability in (0..=last).filter(|number| self.bounding & (1 << number) == 0) {
            match capability_is_in_bounding_set(one(capability)) {
                Ok(false) => {}
                _ => remove_capability_from_bounding_set(one(capability))
                    .doing(|| format!("take capability {capability} out of the bounding set"))?,
            }
        }
        Ok(())
    }

    /// Sets the other four. Comes after the user changed.
    pub(crate) fn apply(&self) -> Result<(), Failure> {
        let sets = KernelSets {
            effective: CapabilitySet::from_bits_retain(self.effective),
            permitted: CapabilitySet::from_bits_retain(self.permitted),
            inheritable: CapabilitySet::from_bits_retain(self.inheritable),
        };
        set_capabilities(None, sets).doing(|| {
            format!(
                "set the capabilities (effective {:#x}, permitted {:#x}, inheritable {:#x})",
                self.effective, self.permitted, self.inheritable
            )
        })?;
        match clear_ambient_capability_set() {
            // INVAL: a kernel without ambient capabilities.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno).doing(|| "clear the ambient capabilities"),
        }
        for capability in (0..BITS).filter(|number| self.ambient & (1 << number) != 0) {
            // One that is not both permitted and inheritable cannot be ambient. Stock runtimes
            // start the process without it, and specs rely on that.
            let _ = configure_capability_in_ambient_set(one(capability), true);
        }
        Ok(())
    }
}

/// The number of the newest capability that the running kernel knows.
pub(crate) fn last_supported() -> u32 {
    (0..BITS)
        .take_while(|number| capability_is_in_bounding_set(one(*number)).is_ok())
        .last()
        .unwrap_or(0)
}

/// Whether permitted capabilities outlive the change from root to another user.
pub(crate) fn keep_across_setuid(keep: bool) -> Result<(), Failure> {
    set_keep_capabilities(keep).doing(|| "keep capabilities while the user changes")
}

/// The set of one.
fn one(number: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCapabilitiesBuilder;
    use proptest::prelude::*;

    const NAMES: [&str; 41] = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ];

    fn parse(name: &str) -> Capability {
        serde_json::from_value(serde_json::Value::from(name)).unwrap()
    }

    #[test]
    fn every_name_has_the_kernels_number() {
        for (expected, name) in (0_u32..).zip(NAMES) {
            assert_eq!(number(parse(&format!("CAP_{name}"))), expected, "{name}");
        }
    }

    #[test]
    fn this_kernel_knows_at_least_the_oldest() {
        assert!(last_supported() >= 31);
    }

    proptest! {
        #[test]
        fn sets_are_independent_and_exact(
            bounding in prop::collection::hash_set(0_usize..41, 0..41),
            effective in prop::collection::hash_set(0_usize..41, 0..41),
            last in 0_u32..63,
        ) {
            let set = |of: &std::collections::HashSet<usize>| -> Capabilities {
                of.iter().map(|one| parse(&format!("CAP_{}", NAMES[*one]))).collect()
            };
            let mask = |of: &std::collections::HashSet<usize>| {
                of.iter().fold(0_u64, |mask, one| mask | 1 << one)
            };
            let spec = LinuxCapabilitiesBuilder::default()
                .bounding(set(&bounding)).effective(set(&effective))
                .permitted(Capabilities::new()).inheritable(Capabilities::new())
                .ambient(Capabilities::new()).build().unwrap();
            let sets = CapabilitySets::from(&spec);
            prop_assert_eq!(sets, CapabilitySets {
                bounding: mask(&bounding), effective: mask(&effective), ..Default::default()
            });
            let limited = sets.supported_by(last);
            prop_assert_eq!(limited.bounding, mask(&bounding) & ((1_u64 << (last + 1)) - 1));
        }
    }
}
