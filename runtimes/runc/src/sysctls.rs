//! Kernel parameters of the container's own namespaces (`linux.sysctl`).
//!
//! Most of `/proc/sys` is the whole machine's. [`check`] lets through what belongs to a namespace,
//! and only where the container has that namespace to itself or with others but the host.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::setup::error::{Doing, Failure};
use crate::setup::hostproc::HostProc;
use crate::setup::namespaces;

/// Parameters of the ipc namespace, besides `fs/mqueue/`.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Checked parameters: paths below `/proc/sys`, and what to write there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sysctls(Vec<(String, String)>);

/// Checks and translates `linux.sysctl`. To be called on the host, in the host's namespaces.
pub(crate) fn check(spec: &Spec) -> Result<Sysctls, Failure> {
    let asked = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref());
    let mut all = Vec::new();
    for (name, value) in asked.into_iter().flatten() {
        let path = path(name)?;
        allow(spec, name, &path)?;
        if value.contains('\0') {
            return Err(Failure::new(format!(
                "the value of sysctl {name:?} contains a NUL"
            )));
        }
        all.push((path, value.clone()));
    }
    // The order of a map is anyone's guess.
    all.sort();
    Ok(Sysctls(all))
}

impl Sysctls {
    /// Writes them. To be called by a process that is in the container's namespaces and has the
    /// rights of its user namespace, before `/proc/sys` may be made read-only for it: what a file of
    /// the host's `/proc/sys` stands for depends on who opens it.
    pub(crate) fn apply(&self, proc: &HostProc) -> Result<(), Failure> {
        for (path, value) in &self.0 {
            proc.write(&format!("sys/{path}"), value)
                .doing(|| format!("write {value:?} to /proc/sys/{path}"))?;
        }
        Ok(())
    }
}

/// The path below `/proc/sys` of a name as sysctl(8) takes it: whichever of `.` and `/` comes first
/// is the separator, and the other stands for a dot within a part (`net/ipv4/conf/bond1.340/...`,
/// `net.ipv4.conf.bond1/340...`).
fn path(name: &str) -> Result<String, Failure> {
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = match name.chars().find(|letter| matches!(letter, '.' | '/')) {
        Some('.') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    };
    let is_odd = |part: &str| {
        matches!(part, "" | "." | "..")
            || part
                .chars()
                .any(|letter| letter.is_control() || letter.is_whitespace())
    };
    if path.split('/').any(is_odd) {
        return Err(Failure::new(format!(
            "{name:?} is not the name of a sysctl"
        )));
    }
    Ok(path)
}

/// The words are runc's, which people look for.
fn allow(spec: &Spec, name: &str, path: &str) -> Result<(), Failure> {
    let own = |kind| namespaces::has_own(spec, kind);
    if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        return match own(LinuxNamespaceType::Ipc)? {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "sysctl {name:?} is not allowed in the hosts ipc namespace"
            ))),
        };
    }
    if path.starts_with("net/") {
        return match own(LinuxNamespaceType::Network)? {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "sysctl {name:?} not allowed in host network namespace"
            ))),
        };
    }
    if path == "kernel/domainname" && own(LinuxNamespaceType::Uts)? {
        return Ok(());
    }
    if path == "kernel/hostname" && own(LinuxNamespaceType::Uts)? {
        return Err(Failure::new(format!(
            "sysctl {name:?} is not allowed as it conflicts with the OCI \"hostname\" field"
        )));
    }
    if path.starts_with("user/") {
        return match own(LinuxNamespaceType::User)? {
            true => Ok(()),
            false => Err(Failure::new(format!(
                "setting ucounts without a user namespace not allowed: {name}"
            ))),
        };
    }
    Err(Failure::new(format!(
        "sysctl {name:?} is not in a separate kernel namespace"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use proptest::prelude::*;
    use trefoil_os::process::exit_now;

    fn spec(namespaces: serde_json::Value, name: &str, value: &str) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        spec["linux"]["sysctl"] = serde_json::json!({name: value});
        serde_json::from_value(spec).unwrap()
    }

    fn all() -> serde_json::Value {
        serde_json::json!([{"type": "network"}, {"type": "ipc"}, {"type": "uts"}])
    }

    #[test]
    fn names_are_read_as_sysctl_reads_them() {
        for (name, expected) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            (
                "net/ipv4/conf/bond1.340/forwarding",
                "net/ipv4/conf/bond1.340/forwarding",
            ),
            (
                "net.ipv4.conf.bond1/340.rp_filter",
                "net/ipv4/conf/bond1.340/rp_filter",
            ),
            ("kernel.shmmax", "kernel/shmmax"),
            ("kernel/shmmax", "kernel/shmmax"),
        ] {
            let checked = check(&spec(all(), name, "1")).unwrap();
            assert_eq!(checked.0, [(expected.to_owned(), "1".to_owned())]);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "net/../kernel/panic",
            "net.ipv4.//.x",
            "/net/ipv4",
            "net//ipv4",
            "net.",
            ".net",
            "",
            "net/ipv4/a b",
            "net/ipv4/\0",
            "net/./x",
        ] {
            let why = check(&spec(all(), name, "1")).unwrap_err().to_string();
            assert!(why.contains("not the name of a sysctl"), "{name}: {why}");
        }
    }

    #[test]
    fn only_what_the_container_has_to_itself() {
        let none = || serde_json::json!([]);
        let host = || {
            serde_json::json!([{"type": "network", "path": "/proc/self/ns/net"},
                {"type": "ipc", "path": "/proc/self/ns/ipc"}])
        };
        for (namespaces, name, phrase) in [
            (none(), "kernel.shmmax", "in the hosts ipc namespace"),
            (host(), "fs.mqueue.msg_max", "in the hosts ipc namespace"),
            (
                none(),
                "net.ipv4.ip_forward",
                "not allowed in host network namespace",
            ),
            (
                host(),
                "net/ipv4/ip_forward",
                "not allowed in host network namespace",
            ),
            (
                all(),
                "kernel.hostname",
                "conflicts with the OCI \"hostname\" field",
            ),
            (all(), "vm.swappiness", "not in a separate kernel namespace"),
            (
                all(),
                "user.max_user_namespaces",
                "setting ucounts without a user namespace",
            ),
            (
                none(),
                "kernel.domainname",
                "not in a separate kernel namespace",
            ),
            (all(), "network", "not in a separate kernel namespace"),
        ] {
            let why = check(&spec(namespaces, name, "1")).unwrap_err().to_string();
            assert!(why.contains(phrase) && why.contains(name), "{name}: {why}");
        }
        let missing = serde_json::json!([{"type": "network", "path": "/no/such/ns"}]);
        let why = check(&spec(missing, "net.ipv4.ip_forward", "1")).unwrap_err();
        assert!(
            why.to_string().contains("/no/such/ns: no such file"),
            "{why}"
        );
        check(&spec(all(), "kernel.domainname", "x")).unwrap();
        check(&spec(all(), "fs.mqueue.msg_max", "9")).unwrap();
    }

    /// How `apply` fares in new namespaces, and whether the file then reads `seen`.
    fn applied(checked: &Sysctls, file: &str, seen: &str) -> Result<bool, String> {
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the C library makes the allocator usable in a forked child, and the child uses
        // nothing else that another thread of this process may have locked.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop(reader);
                let new = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
                let proc = HostProc::open().unwrap();
                let outcome = unshare(new)
                    .doing(|| "unshare")
                    .and_then(|()| checked.apply(&proc));
                let status = match outcome {
                    Ok(()) => i32::from(proc.read(file).unwrap_or_default().trim() != seen),
                    Err(why) => {
                        use std::io::Write;
                        let _ = (&writer).write_all(why.to_string().as_bytes());
                        2
                    }
                };
                exit_now(status)
            }
            ForkResult::Parent { child } => {
                drop(writer);
                let words = std::io::read_to_string(reader).unwrap();
                match waitpid(child, None).unwrap() {
                    WaitStatus::Exited(_, 2) => Err(words),
                    status => Ok(matches!(status, WaitStatus::Exited(_, 0))),
                }
            }
        }
    }

    #[test]
    fn values_arrive_in_the_callers_namespaces() {
        let before = std::fs::read_to_string("/proc/sys/net/ipv4/conf/lo/forwarding").unwrap();
        let other = if before.trim() == "1" { "0" } else { "1" };
        let checked = check(&spec(all(), "net/ipv4/conf/lo/forwarding", other)).unwrap();
        assert_eq!(
            applied(&checked, "sys/net/ipv4/conf/lo/forwarding", other),
            Ok(true)
        );
        let after = std::fs::read_to_string("/proc/sys/net/ipv4/conf/lo/forwarding").unwrap();
        assert_eq!(before, after);
        let checked = check(&spec(all(), "kernel.shmmni", "1234")).unwrap();
        assert_eq!(applied(&checked, "sys/kernel/shmmni", "1234"), Ok(true));
    }

    #[test]
    fn a_failure_names_the_file_and_the_value() {
        let missing = check(&spec(all(), "net.ipv4.no_such_thing", "1")).unwrap();
        assert_eq!(
            applied(&missing, "", "").unwrap_err(),
            "cannot write \"1\" to /proc/sys/net/ipv4/no_such_thing: no such file or directory"
        );
        let bad = check(&spec(all(), "net.ipv4.ip_forward", "many")).unwrap();
        assert_eq!(
            applied(&bad, "", "").unwrap_err(),
            "cannot write \"many\" to /proc/sys/net/ipv4/ip_forward: invalid argument"
        );
    }

    proptest! {
        #[test]
        fn no_name_leaves_proc_sys(name in "[./a-c\\x00 ]{0,12}") {
            if let Ok(path) = path(&name) {
                prop_assert!(!path.starts_with('/'));
                prop_assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }
    }
}
