//! From which NUMA nodes the process's memory comes (`linux.memoryPolicy`), by libcontainer.

use libcontainer::process::memory_policy::setup_memory_policy;
use libcontainer::syscall::syscall::create_syscall;
use oci_spec::runtime::{LinuxMemoryPolicy, Spec};

use super::error::Failure;

/// Kernels are built for at most so many nodes (`MAX_NUMNODES`).
const MOST_NODES: u32 = 1024;

fn asked(spec: &Spec) -> Option<&LinuxMemoryPolicy> {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.memory_policy().as_ref())
}

/// Refuses node numbers that no kernel has, to be called on the host: libcontainer would make a
/// mask as long as the number is high.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let nodes = asked(spec).and_then(|policy| policy.nodes().as_deref());
    for number in nodes
        .unwrap_or_default()
        .split(|letter: char| !letter.is_ascii_digit())
    {
        let is_possible = number.parse().is_ok_and(|number: u32| number < MOST_NODES);
        if !number.is_empty() && !is_possible {
            return Err(Failure::new(format!(
                "memory policy: there is no NUMA node {number}"
            )));
        }
    }
    Ok(())
}

/// Sets it for this process and what it becomes. To be called by the process itself, init or not,
/// before its seccomp filter, which may forbid the call, is loaded.
pub(crate) fn apply(spec: &Spec) -> Result<(), Failure> {
    let Some(policy) = asked(spec) else {
        return Ok(());
    };
    setup_memory_policy(&Some(policy.clone()), create_syscall().as_ref()).map_err(|error| {
        Failure::new(format!(
            "cannot set memory policy {}: {error}",
            policy.mode()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_child;
    use super::*;

    fn spec(policy: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["memoryPolicy"] = policy;
        serde_json::from_value(spec).unwrap()
    }

    /// The calling thread's policy, or nothing where the kernel has no NUMA.
    fn mode() -> Option<libc::c_int> {
        let mut mode: libc::c_int = -1;
        // SAFETY: with no mask and no address the kernel writes one int to `mode`.
        let result = unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, 0, 0, 0, 0) };
        (result == 0).then_some(mode)
    }

    #[test]
    fn the_kernel_has_the_policy() {
        const INTERLEAVE: libc::c_int = 3;
        let asked = spec(serde_json::json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}));
        check(&asked).unwrap();
        in_child(|| match mode() {
            Some(_) => {
                apply(&asked).unwrap();
                assert_eq!(mode(), Some(INTERLEAVE));
            }
            None => assert!(apply(&asked).is_err()),
        });
        apply(&Spec::default()).unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for nodes in ["4000000000", "0-99999", "7,1024", "99999999999999999999"] {
            let bad = spec(serde_json::json!({"mode": "MPOL_BIND", "nodes": nodes}));
            assert!(
                check(&bad)
                    .unwrap_err()
                    .to_string()
                    .contains("no NUMA node")
            );
        }
        let empty = spec(serde_json::json!({"mode": "MPOL_BIND", "nodes": ""}));
        let missing = spec(serde_json::json!({"mode": "MPOL_BIND", "nodes": "1000"}));
        in_child(|| {
            for bad in [empty, missing] {
                let why = apply(&bad).unwrap_err().to_string();
                assert!(
                    why.starts_with("cannot set memory policy MPOL_BIND: "),
                    "{why}"
                );
            }
        });
    }
}
