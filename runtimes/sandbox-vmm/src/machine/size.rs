//! How large a pod's machine is: as the pod's limits, and what the guest itself needs.
//!
//! CRI tells the sums of the limits that containers have. Where the host does not limit the whole pod
//! ([`Limited`]) some container has none, and the sum is not all that the pod may use: then those that
//! have limits get them, and the others have what a pod without limits would have.

use oci_spec::runtime::Spec;
use trefoil_core::{Limits, SandboxConfig, SandboxKind};
use trefoil_vmm::configuration::MOST_CPUS;

use crate::host::limited::Limited;

/// The least memory that a guest is booted with, in MiB: what the trials boot it with, too.
pub(crate) const LEAST_MEMORY: u32 = 24;

const MIB: u64 = 1 << 20;

/// What a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory: u32,
}

/// What the node says of sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Virtual CPUs of a pod without a limit.
    pub default_cpus: u8,
    /// Memory of a pod without a limit, in MiB.
    pub default_memory: u32,
    /// Memory on top, in MiB.
    pub overhead: u32,
    /// The host's processors: a virtual CPU more than these would only wait for the others.
    pub host_cpus: usize,
}

/// The size of a pod's machine, which the host limits in this.
pub(crate) fn of(config: &SandboxConfig, limited: Limited, bounds: &Bounds) -> Size {
    match config.kind {
        SandboxKind::Pod | SandboxKind::Sandbox => fit(config.limits, limited, bounds),
        SandboxKind::SingleContainer => fit(config.limits, Limited::ENTIRELY, bounds),
    }
}

/// What is to be known of a container that is made in a machine which has less than it may expect.
pub(crate) fn shortage(spec: &Spec, size: Size, bounds: &Bounds) -> Option<String> {
    let has = size.memory.saturating_sub(bounds.overhead);
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    match Limits::of(resources).memory {
        None if has < bounds.default_memory => Some(format!(
            "it has no limit of memory, but its pod has one, and so the pod's machine has {} MiB \
             instead of the {} of a pod without limits",
            size.memory,
            bounds.default_memory.saturating_add(bounds.overhead)
        )),
        Some(limit) if limit.div_ceil(MIB) > size.memory.into() => Some(format!(
            "its limit of memory, {} MiB, is more than the {} MiB of the pod's machine",
            limit.div_ceil(MIB),
            size.memory
        )),
        _ => None,
    }
}

fn fit(limits: Limits, limited: Limited, bounds: &Bounds) -> Size {
    let most = u64::try_from(bounds.host_cpus)
        .unwrap_or(u64::MAX)
        .clamp(1, MOST_CPUS.into());
    // Processors are shared by whoever runs; memory is one's or another's.
    let cpus = match limits.millicpus.map(|millicpus| millicpus.div_ceil(1000)) {
        Some(cpus) if limited.cpus => cpus,
        Some(cpus) => cpus.max(bounds.default_cpus.into()),
        None => bounds.default_cpus.into(),
    };
    let memory = match limits.memory.map(whole_mib) {
        Some(mib) if limited.memory => mib,
        Some(mib) => mib.saturating_add(bounds.default_memory),
        None => bounds.default_memory,
    };
    Size {
        cpus: u8::try_from(cpus.clamp(1, most)).unwrap_or(MOST_CPUS),
        memory: memory.saturating_add(bounds.overhead).max(LEAST_MEMORY),
    }
}

fn whole_mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        default_cpus: 2,
        default_memory: 512,
        overhead: 40,
        host_cpus: 16,
    };

    fn size_if(limited: Limited, limits: Limits) -> Size {
        let config = SandboxConfig {
            kind: SandboxKind::Pod,
            limits,
            ..SandboxConfig::default()
        };
        of(&config, limited, &BOUNDS)
    }

    #[test]
    fn limits_are_rounded_up_and_the_overhead_is_added() {
        for (quota, period, memory, expected) in [
            (100_000, 100_000, 67_108_864, (1, 104)),
            (100_001, 100_000, 67_108_865, (2, 105)),
            (150_000, 100_000, 1_073_741_824, (2, 1064)),
            (50_000, 0, 1, (1, 41)),
            (0, 0, 0, (2, 552)),
            (-1, 100_000, -1, (2, 552)),
            (9_000_000, 100_000, 0, (16, 552)),
        ] {
            let got = size_if(Limited::ENTIRELY, Limits::new(quota, period, memory));
            let (cpus, memory) = expected;
            assert_eq!(got, Size { cpus, memory }, "{quota}/{period}");
        }
    }

    #[test]
    fn a_sum_of_some_containers_limits_leaves_room_for_the_others() {
        let sidecar = Limits::new(10_000, 100_000, 67_108_864);
        let large = Limits::new(400_000, 100_000, 1_073_741_824);
        for (cpus, memory, told, expected) in [
            (false, false, sidecar, (2, 616)),
            (false, true, sidecar, (2, 104)),
            (true, false, sidecar, (1, 616)),
            (true, true, sidecar, (1, 104)),
            (false, false, large, (4, 1576)),
        ] {
            let limited = Limited { cpus, memory };
            let (cpus, memory) = expected;
            assert_eq!(size_if(limited, told), Size { cpus, memory }, "{limited:?}");
        }
        let none = Limits::default();
        assert_eq!(
            size_if(Limited::default(), none),
            size_if(Limited::ENTIRELY, none)
        );
    }

    #[test]
    fn a_container_that_may_want_more_than_there_is_is_told_of() {
        let spec = |limit: Option<u64>| -> Spec {
            let limit = limit.map_or("null".to_owned(), |limit| limit.to_string());
            serde_json::from_str(&format!(
                r#"{{"ociVersion": "1.0.2", "linux": {{"resources": {{"memory": {{"limit": {limit}}}}}}}}}"#
            ))
            .expect("spec")
        };
        let size = |memory| Size { cpus: 1, memory };
        let told = |limit, memory| shortage(&spec(limit), size(memory), &BOUNDS);
        assert_eq!(told(None, 552), None);
        assert_eq!(told(Some(64 << 20), 104), None);
        let text = told(None, 104).expect("told");
        assert!(text.contains("104 MiB instead of the 552"), "{text}");
        let text = told(Some(512 << 20), 104).expect("told");
        assert!(text.contains("512 MiB, is more than the 104"), "{text}");
    }

    #[test]
    fn a_container_without_a_pod_is_limited_itself() {
        let config = SandboxConfig {
            limits: Limits::new(250_000, 100_000, 134_217_728),
            ..SandboxConfig::default()
        };
        let size = of(&config, Limited::default(), &BOUNDS);
        assert_eq!((size.cpus, size.memory), (3, 168));
    }

    proptest! {
        #[test]
        fn every_pod_gets_a_machine_that_boots_and_holds_it(
            quota in any::<i64>(),
            period in any::<i64>(),
            memory in any::<i64>(),
            default_cpus in any::<u8>(),
            default_memory in any::<u32>(),
            overhead in any::<u32>(),
            host_cpus in any::<usize>(),
            (of_cpus, of_memory) in any::<(bool, bool)>(),
        ) {
            let bounds = Bounds { default_cpus, default_memory, overhead, host_cpus };
            let limits = Limits::new(quota, period, memory);
            let limited = Limited { cpus: of_cpus, memory: of_memory };
            let size = fit(limits, limited, &bounds);
            prop_assert!((1..=MOST_CPUS).contains(&size.cpus));
            prop_assert!(usize::from(size.cpus) <= host_cpus.max(1));
            prop_assert!(size.memory >= LEAST_MEMORY.max(overhead));
            if let (Some(bytes), true) = (limits.memory, size.memory < u32::MAX) {
                prop_assert!(u64::from(size.memory - overhead) * MIB >= bytes);
            }
            if quota > 0 && period > 0 && usize::from(size.cpus) < host_cpus && size.cpus < MOST_CPUS {
                prop_assert!(i128::from(size.cpus) * i128::from(period) >= i128::from(quota));
            }
        }
    }
}
