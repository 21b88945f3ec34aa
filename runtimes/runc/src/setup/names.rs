//! The container's host name and NIS domain name, which its uts namespace holds.

use nix::errno::Errno;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::system::sethostname;

use super::error::{Doing, Failure};
use super::namespaces;

/// `__NEW_UTS_LEN`.
const LONGEST: usize = 64;

/// Refuses names where there is no place for them but the host's. To be called on the host.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let fields = [
        ("hostname", spec.hostname()),
        ("domainname", spec.domainname()),
    ];
    for (field, name) in fields {
        let Some(name) = asked(name) else { continue };
        if !namespaces::has_own(spec, LinuxNamespaceType::Uts)? {
            return Err(Failure::new(format!(
                "unable to set {field} without a private UTS namespace"
            )));
        }
        if name.len() > LONGEST || name.contains('\0') {
            return Err(Failure::new(format!(
                "{name:?} is not a {field}: it is longer than {LONGEST} bytes or contains a NUL"
            )));
        }
    }
    Ok(())
}

fn asked(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

/// Sets both. To be called by a process in the container's uts namespace that has CAP_SYS_ADMIN
/// over it: before the capabilities go.
pub(crate) fn apply(spec: &Spec) -> Result<(), Failure> {
    if let Some(name) = asked(spec.hostname()) {
        sethostname(name.as_bytes())
            .map_err(std::io::Error::from)
            .doing(|| format!("set the hostname to {name:?}"))?;
    }
    if let Some(name) = asked(spec.domainname()) {
        // SAFETY: the kernel reads `name.len()` bytes of `name`, which lives through the call.
        let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
        Errno::result(result).doing(|| format!("set the domainname to {name:?}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_child;
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    fn spec(namespaces: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        spec["hostname"] = "hoho".into();
        spec["domainname"] = "dom.test".into();
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn names_are_the_uts_namespaces() {
        let spec = spec(serde_json::json!([{"type": "uts"}]));
        check(&spec).unwrap();
        in_child(|| {
            unshare(CloneFlags::CLONE_NEWUTS).unwrap();
            apply(&spec).unwrap();
            let names = rustix::system::uname();
            assert_eq!(names.nodename().to_bytes(), b"hoho");
            assert_eq!(names.domainname().to_bytes(), b"dom.test");
        });
    }

    #[test]
    fn the_host_keeps_its_names() {
        for namespaces in [
            serde_json::json!([]),
            serde_json::json!([{"type": "uts", "path": "/proc/self/ns/uts"}]),
        ] {
            let why = check(&spec(namespaces)).unwrap_err().to_string();
            assert_eq!(
                why,
                "unable to set hostname without a private UTS namespace"
            );
        }
        let mut long = spec(serde_json::json!([{"type": "uts"}]));
        long.set_domainname(Some("x".repeat(65)));
        assert!(check(&long).unwrap_err().to_string().contains("domainname"));
    }
}
