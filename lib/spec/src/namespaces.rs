//! What a configuration says of the container's namespaces.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use trefoil_os::{Error, Result};

/// The configuration's entry for one kind.
#[must_use]
pub fn entry(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    all(spec).iter().find(|one| one.typ() == kind)
}

/// Whether the container gets a namespace of this kind that did not exist before.
#[must_use]
pub fn is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let path = entry(spec, kind).map(|one| one.path().as_ref());
    path.is_some_and(|path| path.is_none_or(|path| path.as_os_str().is_empty()))
}

/// Whether the container has a pid namespace of its own: then the kernel ends all its processes with its
/// init.
#[must_use]
pub fn owns_its_processes(spec: &Spec) -> bool {
    is_new(spec, LinuxNamespaceType::Pid)
}

/// A kind's name below `/proc/<pid>/ns`.
#[must_use]
pub fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

/// Refuses a kind that is named twice: either entry could be meant.
///
/// # Errors
/// The kind.
pub fn check(spec: &Spec) -> Result<()> {
    let all = all(spec);
    for (at, namespace) in all.iter().enumerate() {
        if all.iter().take(at).any(|one| one.typ() == namespace.typ()) {
            return Err(Error::invalid(
                "linux.namespaces",
                format!("the {} namespace is named twice", name(namespace.typ())),
            ));
        }
    }
    Ok(())
}

fn all(spec: &Spec) -> &[LinuxNamespace] {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(namespaces: Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn twice_is_once_too_often() {
        let twice = json!([{"type": "pid"}, {"type": "uts"},
            {"type": "pid", "path": "/proc/self/ns/pid"}]);
        assert_eq!(
            check(&spec(twice)).unwrap_err().to_string(),
            "linux.namespaces: the pid namespace is named twice"
        );
        check(&Spec::default()).unwrap();
    }

    #[test]
    fn a_container_owns_its_processes_in_a_new_pid_namespace_alone() {
        for (namespaces, expected) in [
            (json!([]), false),
            (json!([{"type": "uts"}]), false),
            (json!([{"type": "uts"}, {"type": "pid"}]), true),
            (json!([{"type": "pid", "path": ""}]), true),
            (json!([{"type": "pid", "path": "/proc/1/ns/pid"}]), false),
        ] {
            assert_eq!(
                owns_its_processes(&spec(namespaces.clone())),
                expected,
                "{namespaces}"
            );
        }
        let mut without = Spec::default();
        without.set_linux(None);
        assert!(!owns_its_processes(&without));
    }
}
