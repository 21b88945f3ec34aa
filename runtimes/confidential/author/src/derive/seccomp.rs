//! The filter of a container's system calls.

use std::collections::BTreeSet;

use trefoil_policy::{Action, Argument, Capability, Comparison, Profile, Seccomp, Syscalls};

use crate::manifest::security::{self, ProfileKind};
use crate::yaml::Fault;

use super::Result;

/// What everybody may call, whatever the arguments.
const CALLS: &str = include_str!("seccomp/calls.txt");

/// What else those may call who have a capability.
const OF_CAPABILITIES: &[(Capability, &[&str])] = &[
    (Capability::Bpf, &["bpf"]),
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::Perfmon, &["perf_event_open"]),
    (
        Capability::SysAdmin,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (
        Capability::SysModule,
        &["delete_module", "finit_module", "init_module"],
    ),
    (
        Capability::SysNice,
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    (Capability::SysPacct, &["acct"]),
    (
        Capability::SysPtrace,
        &["kcmp", "pidfd_getfd", "process_madvise"],
    ),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (
        Capability::SysTime,
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::Syslog, &["syslog"]),
];

/// The flags of clone(2) that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// personality(2): Linux, its 32-bit variant, both with addresses that are not random, and asking.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// The two families of sockets that nobody may make: the kernel's cryptography, and what reaches the host.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

/// Works out a container's filter. That of a node's file is not known here.
///
/// # Errors
/// Such a file.
pub(super) fn of_container(
    profile: Option<&security::Profile>,
    capabilities: &BTreeSet<Capability>,
) -> Result<Seccomp> {
    match profile.map(|profile| profile.kind) {
        None | Some(ProfileKind::Unconfined) => Ok(Seccomp::Unconfined),
        Some(ProfileKind::RuntimeDefault) => Ok(Seccomp::Profile(Box::new(default(capabilities)))),
        Some(ProfileKind::Localhost) => {
            let why =
                "the profile is a file of the node's, which is not known here: use RuntimeDefault";
            Err(Fault::new(why)
                .in_field("type")
                .in_field("seccompProfile")
                .in_field("securityContext"))
        }
    }
}

/// containerd's default profile. What else it says for other processors is left out.
fn default(capabilities: &BTreeSet<Capability>) -> Profile {
    let mut names: BTreeSet<&str> = CALLS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .collect();
    for (capability, calls) in OF_CAPABILITIES {
        if capabilities.contains(capability) {
            names.extend(*calls);
        }
    }
    let mut syscalls = vec![allow(names.into_iter(), Vec::new())];
    let one = |index, op, value| Argument {
        index,
        value,
        value_two: None,
        op,
    };
    for (op, family) in [
        (Comparison::Less, AF_ALG),
        (Comparison::Equal, AF_ALG + 1),
        (Comparison::Greater, AF_VSOCK),
    ] {
        syscalls.push(allow(["socket"].into_iter(), vec![one(0, op, family)]));
    }
    for kind in PERSONALITIES {
        let is_it = vec![one(0, Comparison::Equal, kind)];
        syscalls.push(allow(["personality"].into_iter(), is_it));
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        let none_of = Argument {
            value_two: Some(0),
            ..one(0, Comparison::Masked, NEW_NAMESPACES)
        };
        syscalls.push(allow(["clone"].into_iter(), vec![none_of]));
        // Programs then fall back to clone, whose flags a filter can see.
        syscalls.push(Syscalls {
            names: vec!["clone3".to_owned()],
            action: Action::Errno,
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        });
    }
    Profile {
        default_action: Action::Errno,
        default_errno_ret: None,
        architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
            .map(str::to_owned)
            .into(),
        syscalls,
    }
}

fn allow<'a>(names: impl Iterator<Item = &'a str>, args: Vec<Argument>) -> Syscalls {
    Syscalls {
        names: names.map(str::to_owned).collect(),
        action: Action::Allow,
        errno_ret: None,
        args,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(capabilities: &[Capability]) -> Vec<String> {
        let profile = default(&capabilities.iter().copied().collect());
        profile.syscalls[0].names.clone()
    }

    #[test]
    fn what_a_capability_is_for_is_allowed_with_it() {
        assert!(!calls(&[]).contains(&"chroot".to_owned()));
        assert!(calls(&[Capability::SysChroot]).contains(&"chroot".to_owned()));
        assert!(!calls(&[Capability::SysChroot]).contains(&"mount".to_owned()));
        assert!(calls(&[Capability::SysAdmin]).contains(&"mount".to_owned()));
    }

    #[test]
    fn ordinary_calls_are_allowed_and_dangerous_ones_are_not() {
        let calls = calls(&[]);
        for name in [
            "read",
            "write",
            "execve",
            "openat2",
            "futex",
            "ptrace",
            "arch_prctl",
        ] {
            assert!(calls.contains(&name.to_owned()), "{name}");
        }
        for name in [
            "socket",
            "clone",
            "clone3",
            "mount",
            "init_module",
            "keyctl",
            "kexec_load",
            "unshare",
            "bpf",
        ] {
            assert!(!calls.contains(&name.to_owned()), "{name}");
        }
        assert!(calls.is_sorted());
    }
}
