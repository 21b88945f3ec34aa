//! The kernel's settings that a pod may change: those that would be its own under namespaces.

use std::path::{Path, PathBuf};

use trefoil_core::{Context, Error, Result};

/// Where the kernel shows them.
const ROOT: &str = "/proc/sys";

/// No name and no value is longer, in bytes.
const LONGEST: usize = 256;

/// Those of an IPC namespace.
const OF_IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Sets one.
///
/// # Errors
/// Those of [`check`], or what writing it fails with.
pub(crate) fn set(name: &str, value: &str) -> Result<()> {
    let path = check(name, value)?;
    std::fs::write(&path, value).context(|| format!("set sysctl {name} to {value:?}"))
}

/// Checks that a pod may set one, and says where it is.
///
/// # Errors
/// [`trefoil_core::ErrorKind::InvalidArgument`] if it is none of a network's, of IPC's or of message
/// queues'.
pub(crate) fn check(name: &str, value: &str) -> Result<PathBuf> {
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        !part.is_empty() && part.bytes().all(plain)
    };
    let sound = name.len() <= LONGEST && value.len() <= LONGEST && name.split('.').all(part);
    let its_own =
        name.starts_with("net.") || name.starts_with("fs.mqueue.") || OF_IPC.contains(&name);
    if !(sound && its_own) {
        let shown = &name[..name.floor_char_boundary(LONGEST)];
        return Err(Error::invalid(format!(
            "sysctl {shown:?} is not a pod's to set: those of net, fs.mqueue and System V IPC are"
        )));
    }
    Ok(Path::new(ROOT).join(name.replace('.', "/")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pods_own_are_found_and_all_others_refused() {
        let path = check("net.ipv4.ip_unprivileged_port_start", "0").expect("a network's");
        assert_eq!(
            path,
            Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        );
        for good in ["kernel.shm_rmid_forced", "kernel.sem", "fs.mqueue.msg_max"] {
            assert!(check(good, "1").is_ok(), "{good}");
        }
        for bad in [
            "",
            "net",
            "net.",
            "net..ipv4",
            "net./etc/passwd",
            "net.ipv4/../../kernel/core_pattern",
            "kernel.core_pattern",
            "kernel.shmall.x",
            "kernel.hostname",
            "vm.overcommit_memory",
            "fs.file-max",
        ] {
            let why = check(bad, "1").expect_err(bad).to_string();
            assert!(why.contains(&format!("{bad:?}")), "{why}");
        }
        assert!(check("net.ipv4.ip_forward", &"1".repeat(300)).is_err());
    }

    proptest! {
        #[test]
        fn none_leaves_its_place(name in "(net|fs|kernel|[./a-z]{0,3})\\.[./a-z]{0,12}") {
            if let Ok(path) = check(&name, "1") {
                let text = path.to_string_lossy().into_owned();
                prop_assert!(text.starts_with("/proc/sys/") && !text.contains("//"));
                prop_assert!(path.components().all(|part| part.as_os_str() != ".."));
            }
        }
    }
}
