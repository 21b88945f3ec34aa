//! How large a pod's machine is: as the pod's limits, and what the guest itself needs.

use std::collections::HashMap;

use oci_spec::runtime::Spec;
use trefoil_core::{Error, Result};
use trefoil_vmm::configuration::MOST_CPUS;

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

/// The size of the machine for a pod whose first container is configured so.
///
/// # Errors
/// If an annotation is no number.
pub(crate) fn of(spec: &Spec, bounds: &Bounds) -> Result<Size> {
    let limits = match spec.annotations() {
        Some(annotations)
            if annotations.contains_key(trefoil_core::annotations::CONTAINER_TYPE) =>
        {
            told_by_cri(annotations)?
        }
        _ => of_the_only_container(spec),
    };
    Ok(fit(limits, bounds))
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

fn fit(limits: Limits, bounds: &Bounds) -> Size {
    let most = u64::try_from(bounds.host_cpus)
        .unwrap_or(u64::MAX)
        .clamp(1, MOST_CPUS.into());
    let cpus = match limits.millicpus {
        Some(millicpus) => millicpus.div_ceil(1000),
        None => bounds.default_cpus.into(),
    };
    let memory = match limits.memory {
        Some(bytes) => u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX),
        None => bounds.default_memory,
    };
    Size {
        cpus: u8::try_from(cpus.clamp(1, most)).unwrap_or(MOST_CPUS),
        memory: memory.saturating_add(bounds.overhead).max(LEAST_MEMORY),
    }
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
        of(&spec, &BOUNDS)
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
        let size = of(&spec, &BOUNDS).expect("size");
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
        ) {
            let bounds = Bounds { default_cpus, default_memory, overhead, host_cpus };
            let limits = Limits {
                millicpus: millicpus(quota, period),
                memory: positive(memory),
            };
            let size = fit(limits, &bounds);
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
