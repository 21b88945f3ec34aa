//! How large a pod's machine is: as the pod's limits, and what the guest itself needs.
//!
//! CRI tells the sums of the limits that containers have. Where the host does not limit the whole pod
//! ([`Limited`]) some container has none, and the sum is not all that the pod may use: then those that
//! have limits get them, and the others have what a pod without limits would have.

use std::collections::HashMap;

use oci_spec::runtime::Spec;
use trefoil_core::{Error, Result};
use trefoil_vmm::configuration::MOST_CPUS;

use crate::limited::Limited;

/// Annotations by which CRI tells a pod's limits: the sums of its containers'. Zero is no limit.
/// Source: containerd, `internal/cri/annotations`.
mod annotation {
    pub(super) const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
    pub(super) const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
    pub(super) const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
}

/// The period of a quota that comes without one, in microseconds: the kernel's own.
const DEFAULT_PERIOD: i64 = 100_000;

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

/// What a pod may use at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    /// In thousandths of a processor.
    millicpus: Option<u64>,
    /// In bytes.
    memory: Option<u64>,
}

/// The size of the machine for a pod whose first container is configured so, and which the host limits
/// in this.
///
/// # Errors
/// If an annotation is no number.
pub(crate) fn of(spec: &Spec, limited: Limited, bounds: &Bounds) -> Result<Size> {
    match spec.annotations() {
        Some(annotations)
            if annotations.contains_key(trefoil_core::annotations::CONTAINER_TYPE) =>
        {
            Ok(fit(told_by_cri(annotations)?, limited, bounds))
        }
        _ => Ok(fit(of_the_only_container(spec), Limited::ENTIRELY, bounds)),
    }
}

/// What is to be known of a container that is made in a machine which has less than it may expect.
pub(crate) fn shortage(spec: &Spec, size: Size, bounds: &Bounds) -> Option<String> {
    let has = size.memory.saturating_sub(bounds.overhead);
    match of_the_only_container(spec).memory {
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

fn told_by_cri(annotations: &HashMap<String, String>) -> Result<Limits> {
    let number = |name: &str| match annotations.get(name) {
        None => Ok(0),
        Some(text) => text.parse::<i64>().map_err(|why| {
            Error::invalid(format!("read the pod's annotation {name}={text:?}: {why}"))
        }),
    };
    Ok(Limits {
        millicpus: millicpus(
            number(annotation::CPU_QUOTA)?,
            number(annotation::CPU_PERIOD)?,
        ),
        memory: positive(number(annotation::MEMORY)?),
    })
}

fn of_the_only_container(spec: &Spec) -> Limits {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let period = cpu.and_then(|cpu| cpu.period()).unwrap_or(0);
    Limits {
        millicpus: millicpus(
            cpu.and_then(|cpu| cpu.quota()).unwrap_or(0),
            i64::try_from(period).unwrap_or(i64::MAX),
        ),
        memory: positive(memory.and_then(|memory| memory.limit()).unwrap_or(0)),
    }
}

fn millicpus(quota: i64, period: i64) -> Option<u64> {
    let period = positive(period).unwrap_or(DEFAULT_PERIOD.unsigned_abs());
    let quota = u128::from(positive(quota)?);
    Some(u64::try_from((quota * 1000).div_ceil(u128::from(period))).unwrap_or(u64::MAX))
}

fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
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
    use oci_spec::runtime::SpecBuilder;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        default_cpus: 2,
        default_memory: 512,
        overhead: 40,
        host_cpus: 16,
    };

    fn size(annotations: &[(&str, &str)]) -> Result<Size> {
        size_if(Limited::ENTIRELY, annotations)
    }

    fn size_if(limited: Limited, annotations: &[(&str, &str)]) -> Result<Size> {
        let mut all = HashMap::from([(
            trefoil_core::annotations::CONTAINER_TYPE.to_owned(),
            "sandbox".to_owned(),
        )]);
        all.extend(
            annotations
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let spec = SpecBuilder::default()
            .annotations(all)
            .build()
            .expect("spec");
        of(&spec, limited, &BOUNDS)
    }

    #[test]
    fn limits_are_rounded_up_and_the_overhead_is_added() {
        for (quota, period, memory, expected) in [
            ("100000", "100000", "67108864", (1, 104)),
            ("100001", "100000", "67108865", (2, 105)),
            ("150000", "100000", "1073741824", (2, 1064)),
            ("50000", "0", "1", (1, 41)),
            ("0", "0", "0", (2, 552)),
            ("-1", "100000", "-1", (2, 552)),
            ("9000000", "100000", "0", (16, 552)),
        ] {
            let got = size(&[
                (annotation::CPU_QUOTA, quota),
                (annotation::CPU_PERIOD, period),
                (annotation::MEMORY, memory),
            ]);
            let (cpus, memory) = expected;
            assert_eq!(got, Ok(Size { cpus, memory }), "{quota}/{period}");
        }
        assert_eq!(size(&[]).map(|size| size.cpus), Ok(2));
    }

    #[test]
    fn a_sum_of_some_containers_limits_leaves_room_for_the_others() {
        let sidecar = [
            (annotation::CPU_QUOTA, "10000"),
            (annotation::CPU_PERIOD, "100000"),
            (annotation::MEMORY, "67108864"),
        ];
        let large = [
            (annotation::CPU_QUOTA, "400000"),
            (annotation::CPU_PERIOD, "100000"),
            (annotation::MEMORY, "1073741824"),
        ];
        for (cpus, memory, told, expected) in [
            (false, false, &sidecar, (2, 616)),
            (false, true, &sidecar, (2, 104)),
            (true, false, &sidecar, (1, 616)),
            (true, true, &sidecar, (1, 104)),
            (false, false, &large, (4, 1576)),
        ] {
            let limited = Limited { cpus, memory };
            let (cpus, memory) = expected;
            assert_eq!(
                size_if(limited, told),
                Ok(Size { cpus, memory }),
                "{limited:?}"
            );
        }
        assert_eq!(size_if(Limited::default(), &[]), size(&[]));
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
        let of = |limit, memory| shortage(&spec(limit), size(memory), &BOUNDS);
        assert_eq!(of(None, 552), None);
        assert_eq!(of(Some(64 << 20), 104), None);
        let told = of(None, 104).expect("told");
        assert!(told.contains("104 MiB instead of the 552"), "{told}");
        let told = of(Some(512 << 20), 104).expect("told");
        assert!(told.contains("512 MiB, is more than the 104"), "{told}");
    }

    #[test]
    fn what_is_no_number_is_no_default() {
        let why = size(&[(annotation::MEMORY, "64Mi")]).expect_err("refused");
        assert!(why.to_string().contains("sandbox-memory=\"64Mi\""), "{why}");
    }

    #[test]
    fn a_container_without_a_pod_tells_its_own_limits() {
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion": "1.0.2", "linux": {"resources": {
                "memory": {"limit": 134217728}, "cpu": {"quota": 250000, "period": 100000}
            }}}"#,
        )
        .expect("spec");
        let size = of(&spec, Limited::default(), &BOUNDS).expect("size");
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
            let limits = Limits {
                millicpus: millicpus(quota, period),
                memory: positive(memory),
            };
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
