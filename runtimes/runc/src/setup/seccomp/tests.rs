//! Filters are run twice: by an interpreter of the kernel's instructions, against what the profile
//! says, and by the kernel, in a process of their own.

use std::os::fd::AsFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::listener::Listener;
use super::newer::X32_BIT;
use super::stub::{AUDIT_AARCH64, AUDIT_I386, AUDIT_X86_64};
use super::*;

const KILLED: u32 = libc::SECCOMP_RET_KILL_THREAD;
const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

fn spec(seccomp: Value) -> Spec {
    let mut spec = serde_json::to_value(Spec::default()).unwrap();
    spec["linux"]["seccomp"] = seccomp;
    serde_json::from_value(spec).unwrap()
}

pub(super) fn filter(seccomp: Value) -> Result<Filter, Failure> {
    of(&spec(seccomp)).map(Option::unwrap)
}

fn refusal(seccomp: Value) -> String {
    filter(seccomp).unwrap_err().to_string()
}

fn errno(number: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
}

/// A system call, as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) token: u32,
    pub(super) number: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, place: u32) -> u32 {
        match place {
            0 => self.number,
            4 => self.token,
            16..64 => {
                let argument = self.arguments[(place as usize - 16) / 8];
                (argument >> (8 * (place % 8))) as u32
            }
            _ => panic!("load of {place}"),
        }
    }
}

/// What a program answers.
pub(super) fn run(filter: &Filter, call: Call) -> u32 {
    let (mut at, mut loaded) = (0_usize, 0_u32);
    loop {
        let step = filter.program[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match step.code {
            0x20 => loaded = call.word(step.k),
            0x54 => loaded &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(loaded == step.k),
            0x25 => at += jump(loaded > step.k),
            0x35 => at += jump(loaded >= step.k),
            0x45 => at += jump(loaded & step.k != 0),
            0x06 => return step.k,
            code => panic!("code {code:#x}"),
        }
    }
}

fn answer(filter: &Filter, token: u32, number: u32) -> u32 {
    run(
        filter,
        Call {
            token,
            number,
            arguments: [0; 6],
        },
    )
}

fn default_like() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "write", "exit", "exit_group", "fchmodat2", "waitpid", "nosuchcall"],
             "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        ],
    })
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let filter = filter(default_like()).unwrap();
    for (number, expected) in [
        (0, ALLOWED),
        (2, errno(libc::EPERM)),
        (435, errno(libc::ENOSYS)),
        (451, errno(libc::EPERM)),
        (452, ALLOWED),
        (453, errno(libc::ENOSYS)),
        (480, errno(libc::ENOSYS)),
        (1000, errno(libc::ENOSYS)),
        (X32_BIT, ALLOWED),
        (X32_BIT | 452, ALLOWED),
        (X32_BIT | 2, errno(libc::EPERM)),
        (X32_BIT | 1000, errno(libc::ENOSYS)),
    ] {
        assert_eq!(
            answer(&filter, AUDIT_X86_64, number),
            expected,
            "{number:#x}"
        );
    }
    for (number, expected) in [
        (3, ALLOWED),
        (7, ALLOWED),
        (452, ALLOWED),
        (5, errno(libc::EPERM)),
        (453, errno(libc::ENOSYS)),
    ] {
        assert_eq!(
            answer(&filter, AUDIT_I386, number),
            expected,
            "i386 {number}"
        );
    }
    assert_eq!(answer(&filter, AUDIT_AARCH64, 63), KILLED);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_architecture_that_the_profile_lacks_kills() {
    let mut profile = default_like();
    profile["architectures"] = json!(["SCMP_ARCH_X86_64"]);
    let filter = filter(profile).unwrap();
    assert_eq!(answer(&filter, AUDIT_I386, 3), KILLED);
    assert_eq!(answer(&filter, AUDIT_I386, 480), KILLED);
    assert_eq!(answer(&filter, AUDIT_X86_64, X32_BIT), KILLED);
    assert_eq!(answer(&filter, AUDIT_X86_64, X32_BIT | 1000), KILLED);
    assert_eq!(answer(&filter, AUDIT_X86_64, 480), errno(libc::ENOSYS));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_permissive_default_leaves_new_calls_to_the_kernel() {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"] {
        let profile = json!({"defaultAction": action,
            "syscalls": [{"names": ["fchmodat2"], "action": "SCMP_ACT_KILL_PROCESS"}]});
        let filter = filter(profile).unwrap();
        assert_ne!(
            answer(&filter, AUDIT_X86_64, 480),
            errno(libc::ENOSYS),
            "{action}"
        );
        assert_eq!(
            answer(&filter, AUDIT_X86_64, 452),
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_action_is_the_kernels() {
    for (name, number, expected) in [
        ("SCMP_ACT_KILL", None, KILLED),
        ("SCMP_ACT_KILL_THREAD", None, KILLED),
        (
            "SCMP_ACT_KILL_PROCESS",
            None,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        ("SCMP_ACT_TRAP", None, libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_ERRNO", None, errno(1)),
        ("SCMP_ACT_ERRNO", Some(99), errno(99)),
        ("SCMP_ACT_TRACE", None, libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_TRACE", Some(7), libc::SECCOMP_RET_TRACE | 7),
        ("SCMP_ACT_LOG", None, libc::SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", None, libc::SECCOMP_RET_USER_NOTIF),
    ] {
        let mut rule = json!({"names": ["mkdir", "mseal"], "action": name});
        if let Some(number) = number {
            rule["errnoRet"] = Value::from(number);
        }
        let made = filter(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})).unwrap();
        assert_eq!(answer(&made, AUDIT_X86_64, 83), expected, "{name}");
        assert_eq!(answer(&made, AUDIT_X86_64, 462), expected, "{name}");
        assert_eq!(made.has_listener(), name == "SCMP_ACT_NOTIFY");
        if !matches!(name, "SCMP_ACT_NOTIFY" | "SCMP_ACT_LOG") {
            let mut whole = json!({"defaultAction": name});
            if let Some(number) = number {
                whole["defaultErrnoRet"] = Value::from(number);
            }
            assert_eq!(answer(&filter(whole).unwrap(), AUDIT_X86_64, 83), expected);
        }
    }
}

#[test]
fn impossible_profiles_are_refused_by_name() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (profile, phrase) in [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "the default action",
        ),
        (
            rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "write",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
            "4096",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})),
            "SCMP_ACT_KILL",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]})),
            "argument 6",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
            "WAIT_KILLABLE_RECV",
        ),
    ] {
        let why = refusal(profile.clone());
        assert!(why.contains(phrase), "{profile}: {why}");
    }
}

#[test]
fn flags_are_the_kernels() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]});
    assert_eq!(filter(profile).unwrap().flags, 0b10_1110);
}

#[test]
fn a_container_without_a_profile_has_no_filter() {
    let mut spec = Spec::default();
    spec.linux_mut().as_mut().unwrap().set_seccomp(None);
    assert!(of(&spec).unwrap().is_none());
}

/// How a process fares that loads `profile` and then runs `then`.
fn in_a_process(profile: Value, then: impl FnOnce(Option<OwnedFd>) -> bool) -> WaitStatus {
    let filter = filter(profile).unwrap();
    // SAFETY: the C library makes the allocator usable in a forked child, and the child uses
    // nothing else that another thread of this process may have locked.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let loaded = nix::sys::prctl::set_no_new_privs().is_ok();
            let status = match filter.load() {
                Ok(fd) if loaded => libc::c_int::from(!then(fd)),
                _ => 2,
            };
            trefoil_os::process::exit_now(status)
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}

fn fails_with(number: libc::c_long, expected: Errno) -> bool {
    // SAFETY: with a bad descriptor and null pointers these calls touch nothing.
    let result = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
    Errno::result(result) == Err(expected)
}

#[test]
fn the_kernel_agrees() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [
            {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99},
            {"names": ["statmount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 98},
            {"names": ["dup2", "dup3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97,
             "args": [{"index": 0, "value": 0xffff_ffff_u64, "valueTwo": 0xffff_ffff_u64,
                       "op": "SCMP_CMP_MASKED_EQ"}]},
        ],
    });
    let status = in_a_process(profile, |_| {
        fails_with(libc::SYS_getpid, Errno::from_raw(99))
            && fails_with(457, Errno::from_raw(98))
            && fails_with(libc::SYS_dup3, Errno::from_raw(97))
            && fails_with(libc::SYS_fchdir, Errno::EBADF)
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    let killing = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    let status = in_a_process(killing, |_| fails_with(libc::SYS_getpid, Errno::EPERM));
    assert!(
        matches!(
            status,
            WaitStatus::Signaled(_, nix::sys::signal::Signal::SIGSYS, _)
        ),
        "{status:?}"
    );
}

#[test]
fn an_agent_gets_the_listener_and_the_state() {
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "listenerMetadata": "meta",
        "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_NOTIFY"}]});
    let listener = Listener::connect(&spec(profile.clone())).unwrap().unwrap();
    let status = in_a_process(profile, |fd| {
        let Some(fd) = fd else { return false };
        listener.send(fd.as_fd(), 7, r#"{"id": "c"}"#).is_ok()
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    drop(listener);

    let (connection, _) = agent.accept().unwrap();
    let mut bytes = [0; 1024];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = nix::sys::socket::recvmsg::<nix::sys::socket::UnixAddr>(
        connection.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
    let fds = match received.cmsgs().unwrap().next() {
        Some(nix::sys::socket::ControlMessageOwned::ScmRights(fds)) => fds,
        other => panic!("{other:?}"),
    };
    assert_eq!(fds.len(), 1);
    let length = received.bytes;
    let message: Value = serde_json::from_slice(&bytes[..length]).unwrap();
    assert_eq!(
        message,
        json!({"ociVersion": Spec::default().version(), "fds": ["seccompFd"], "pid": 7,
            "metadata": "meta", "state": {"id": "c"}})
    );
}

#[test]
fn listeners_need_a_socket() {
    let notify = json!([{"names": ["getpid"], "action": "SCMP_ACT_NOTIFY"}]);
    for (profile, phrase) in [
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify}),
            "no listenerPath",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": notify,
                "listenerPath": "/no/such/agent"}),
            "cannot connect to the seccomp agent at /no/such/agent: no such file or directory",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "listenerMetadata",
        ),
    ] {
        let why = Listener::connect(&spec(profile)).unwrap_err().to_string();
        assert!(why.contains(phrase), "{why}");
    }
    let unused = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/agent"});
    assert!(Listener::connect(&spec(unused)).unwrap().is_none());
}

/// The rule of stock profiles for clone: what no new namespace is asked for.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_value_of_a_masked_comparison_is_the_mask() {
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2_114_060_288_u64, "valueTwo": 0,
                "op": "SCMP_CMP_MASKED_EQ"}]}]}))
    .unwrap();
    for (flags, expected) in [
        (libc::SIGCHLD, ALLOWED),
        (libc::SIGCHLD | libc::CLONE_NEWNS, errno(libc::EPERM)),
        (libc::CLONE_NEWUSER, errno(libc::EPERM)),
    ] {
        let arguments = [flags as u64, 0, 0, 0, 0, 0];
        let call = Call {
            token: AUDIT_X86_64,
            number: 56,
            arguments,
        };
        assert_eq!(run(&filter, call), expected, "{flags:#x}");
    }
}

/// libseccomp 2.5 lets the second of these hide the first.
#[cfg(target_arch = "x86_64")]
#[test]
fn comparisons_of_one_argument_do_not_hide_each_other() {
    let below = |value: u64| json!({"index": 2, "value": value, "op": "SCMP_CMP_LT"});
    let filter = filter(json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["openat2"], "action": "SCMP_ACT_ERRNO",
            "args": [below(1 << 32), below(0)]}]}))
    .unwrap();
    for (argument, expected) in [(1, errno(libc::EPERM)), (1 << 32, ALLOWED)] {
        let arguments = [0, 0, argument, 0, 0, 0];
        let call = Call {
            token: AUDIT_X86_64,
            number: 437,
            arguments,
        };
        assert_eq!(run(&filter, call), expected, "{argument:#x}");
    }
}
