//! What the configuration says of the container's namespaces.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

/// The configuration's entry for one kind.
pub(crate) fn entry(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    let all = spec.linux().as_ref()?.namespaces().as_ref()?;
    all.iter().find(|one| one.typ() == kind)
}

/// Whether the container gets a namespace of this kind that did not exist before.
pub(crate) fn is_new(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let path = entry(spec, kind).map(|one| one.path().as_ref());
    path.is_some_and(|path| path.is_none_or(|path| path.as_os_str().is_empty()))
}

/// Whether the container has a namespace of this kind that is not this process's: a new one, or
/// another's that it joins. To be called on the host.
pub(crate) fn has_own(spec: &Spec, kind: LinuxNamespaceType) -> Result<bool, Failure> {
    if is_new(spec, kind) {
        return Ok(true);
    }
    let Some(path) = entry(spec, kind).and_then(|one| one.path().as_ref()) else {
        return Ok(false);
    };
    let file = file(kind);
    let theirs = rustix::fs::stat(path)
        .map_err(std::io::Error::from)
        .doing(|| format!("look at the {file} namespace {}", path.display()))?;
    let ours = HostProc::open()?
        .stat(&format!("self/ns/{file}"))
        .doing(|| format!("look at the host's {file} namespace"))?;
    Ok((theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino))
}

/// A kind's name below `/proc/self/ns`.
fn file(kind: LinuxNamespaceType) -> &'static str {
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
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let all = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let mut seen = Vec::new();
    for namespace in all.into_iter().flatten() {
        let kind = file(namespace.typ());
        if seen.contains(&kind) {
            return Err(Failure::new(format!(
                "the configuration names the {kind} namespace twice"
            )));
        }
        seen.push(kind);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn twice_is_once_too_often() {
        let twice = serde_json::json!([{"type": "pid"}, {"type": "uts"},
            {"type": "pid", "path": "/proc/self/ns/pid"}]);
        assert_eq!(
            check(&spec(twice)).unwrap_err().to_string(),
            "the configuration names the pid namespace twice"
        );
        check(&Spec::default()).unwrap();
    }

    #[test]
    fn the_hosts_own_namespace_is_not_the_containers() {
        let kind = LinuxNamespaceType::Uts;
        let joined = |path: &str| spec(serde_json::json!([{"type": "uts", "path": path}]));
        assert!(!has_own(&joined("/proc/self/ns/uts"), kind).unwrap());
        assert!(has_own(&joined("/proc/self/ns/net"), kind).unwrap());
        assert!(has_own(&joined("/no/such"), kind).is_err());
        assert!(has_own(&joined(""), kind).unwrap());
        assert!(!has_own(&spec(serde_json::json!([])), kind).unwrap());
    }
}
