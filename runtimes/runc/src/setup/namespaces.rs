//! Whether a namespace that the configuration names is the host's.

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use trefoil_spec::namespaces::{entry, is_new, name};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;

/// Whether the container has a namespace of this kind that is not this process's: a new one, or
/// another's that it joins. To be called on the host.
pub(crate) fn has_own(spec: &Spec, kind: LinuxNamespaceType) -> Result<bool, Failure> {
    if is_new(spec, kind) {
        return Ok(true);
    }
    let Some(path) = entry(spec, kind).and_then(|one| one.path().as_ref()) else {
        return Ok(false);
    };
    let file = name(kind);
    let theirs = rustix::fs::stat(path)
        .map_err(std::io::Error::from)
        .doing(|| format!("look at the {file} namespace {}", path.display()))?;
    let ours = HostProc::open()?
        .stat(&format!("self/ns/{file}"))
        .doing(|| format!("look at the host's {file} namespace"))?;
    Ok((theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino))
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
