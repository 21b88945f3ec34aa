//! From a profile to a program: rules, then libseccomp's program with the stub before it.

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::super::error::Failure;
use super::rule::{Action, Rule};
use super::stub;

/// An instruction of the kernel's classic BPF: code, two jumps, and a value, in the host's order.
const INSTRUCTION: usize = 8;
/// System calls have this many arguments.
const ARGUMENTS: usize = 6;
/// The largest error number that the kernel gives to a program (`MAX_ERRNO`).
const LARGEST_ERRNO: u32 = 4095;

/// The program of a profile.
pub(super) fn program(profile: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>, Failure> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Failure::new(
            "SCMP_ACT_NOTIFY cannot be the default action of a seccomp profile: \
             no process could start",
        ));
    }
    let rules = rules(profile)?;
    let architectures: Vec<ScmpArch> = profile
        .architectures()
        .iter()
        .flatten()
        .map(|arch| architecture(*arch))
        .collect();
    let mut program = stub::program(&architectures, default, &rules);
    program.extend(librarys(&architectures, default, &rules)?);
    Ok(program)
}

fn rules(profile: &LinuxSeccomp) -> Result<Vec<Rule<'_>>, Failure> {
    let mut rules = Vec::new();
    for entry in profile.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        for name in entry.names() {
            // The process itself has to write to say that its filter is loaded.
            if entry.action() == LinuxSeccompAction::ScmpActNotify && name == "write" {
                return Err(Failure::new(
                    "SCMP_ACT_NOTIFY cannot be used for the write system call",
                ));
            }
            rules.push(Rule {
                name,
                action,
                alternatives: alternatives(entry, name)?,
            });
        }
    }
    Ok(rules)
}

/// Conditions on different arguments must all hold. libseccomp takes one condition on each; where
/// a profile has more, each condition stands for itself, as stock runtimes have always read it.
fn alternatives<'a>(
    entry: &'a LinuxSyscall,
    name: &str,
) -> Result<Vec<&'a [LinuxSeccompArg]>, Failure> {
    let conditions = entry.args().as_deref().unwrap_or_default();
    let mut uses = [0_usize; ARGUMENTS];
    for condition in conditions {
        let index = condition.index();
        *uses.get_mut(index).ok_or_else(|| {
            Failure::new(format!(
                "the seccomp profile's rule for {name} names argument {index}, and there are \
                 {ARGUMENTS}"
            ))
        })? += 1;
    }
    Ok(if uses.iter().any(|uses| *uses > 1) {
        conditions.chunks(1).collect()
    } else if conditions.is_empty() {
        Vec::new()
    } else {
        vec![conditions]
    })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, Failure> {
    let takes_number = matches!(
        action,
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace
    );
    if errno.is_some() && !takes_number {
        return Err(Failure::new(format!(
            "the seccomp action {action} has no use for an errnoRet"
        )));
    }
    let number = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let number = u16::try_from(number)
        .ok()
        .filter(|number| u32::from(*number) <= LARGEST_ERRNO)
        .ok_or_else(|| Failure::new(format!("{number} is not an error number (errnoRet)")))?;
    let (library, base) = match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            (ScmpAction::KillThread, libc::SECCOMP_RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => {
            (ScmpAction::KillProcess, libc::SECCOMP_RET_KILL_PROCESS)
        }
        LinuxSeccompAction::ScmpActTrap => (ScmpAction::Trap, libc::SECCOMP_RET_TRAP),
        LinuxSeccompAction::ScmpActErrno => {
            (ScmpAction::Errno(number.into()), libc::SECCOMP_RET_ERRNO)
        }
        LinuxSeccompAction::ScmpActTrace => (ScmpAction::Trace(number), libc::SECCOMP_RET_TRACE),
        LinuxSeccompAction::ScmpActLog => (ScmpAction::Log, libc::SECCOMP_RET_LOG),
        LinuxSeccompAction::ScmpActAllow => (ScmpAction::Allow, libc::SECCOMP_RET_ALLOW),
        LinuxSeccompAction::ScmpActNotify => (ScmpAction::Notify, libc::SECCOMP_RET_USER_NOTIF),
    };
    Ok(Action {
        library,
        returned: if takes_number {
            base | u32::from(number)
        } else {
            base
        },
        is_permissive: matches!(
            action,
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        ),
    })
}

/// libseccomp's program. It refuses architectures that the profile does not name.
fn librarys(
    architectures: &[ScmpArch],
    default: Action,
    rules: &[Rule<'_>],
) -> Result<Vec<libc::sock_filter>, Failure> {
    let mut context = ScmpFilterContext::new(default.library)
        .map_err(|error| failed("begin a seccomp filter", &error))?;
    for architecture in architectures {
        context.add_arch(*architecture).map_err(|error| {
            failed(
                &format!("filter for the architecture {architecture:?}"),
                &error,
            )
        })?;
    }
    // No binary search over the numbers: since Linux 5.11 the kernel does not run a filter for calls
    // that it always allows, and making the tree takes as long as all the rest.
    for rule in rules {
        add(&mut context, default, rule)?;
    }
    let bytes = export(&context)?;
    Ok(bytes
        .chunks_exact(INSTRUCTION)
        .filter_map(instruction)
        .collect())
}

/// Adds a rule, unless it says what holds anyway or what this build's libseccomp cannot say.
fn add(context: &mut ScmpFilterContext, default: Action, rule: &Rule<'_>) -> Result<(), Failure> {
    if rule.action == default {
        return Ok(());
    }
    let Ok(call) = ScmpSyscall::from_name(rule.name) else {
        return Ok(());
    };
    let doing = |error| failed(&format!("add a seccomp rule for {}", rule.name), &error);
    if rule.alternatives.is_empty() {
        context.add_rule(rule.action.library, call).map_err(doing)?;
    }
    for conditions in &rule.alternatives {
        let conditions: Vec<_> = conditions.iter().map(comparison).collect();
        context
            .add_rule_conditional(rule.action.library, call, &conditions)
            .map_err(doing)?;
    }
    Ok(())
}

fn comparison(condition: &LinuxSeccompArg) -> ScmpArgCompare {
    let value = condition.value();
    let (operator, datum) = match condition.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // The value is the mask, and the second value what is left under it.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(value),
            condition.value_two().unwrap_or_default(),
        ),
    };
    // `alternatives` saw to it that the index is small.
    let index = u32::try_from(condition.index()).unwrap_or(u32::MAX);
    ScmpArgCompare::new(index, operator, datum)
}

/// Takes libseccomp's program over a file in memory: the library's 2.5 knows no other way.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Failure> {
    use super::super::error::Doing;
    use std::io::{Read, Seek};

    const DOING: &str = "read a seccomp filter back";
    let file = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(std::io::Error::from)
        .doing(|| DOING)?;
    context
        .export_bpf(&file)
        .map_err(|error| failed("make a seccomp filter", &error))?;
    let mut file = std::fs::File::from(file);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .doing(|| DOING)?;
    Ok(bytes)
}

fn instruction(bytes: &[u8]) -> Option<libc::sock_filter> {
    let bytes: [u8; INSTRUCTION] = bytes.try_into().ok()?;
    let [code0, code1, jt, jf, k @ ..] = bytes;
    Some(libc::sock_filter {
        code: u16::from_ne_bytes([code0, code1]),
        jt,
        jf,
        k: u32::from_ne_bytes(k),
    })
}

fn failed(doing: &str, error: &libseccomp::error::SeccompError) -> Failure {
    Failure::new(format!("cannot {doing}: {error}"))
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::native(),
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
