//! The part of a filter that stands before libseccomp's.
//!
//! It does two things that libseccomp does not. A system call newer than everything the profile
//! names gets ENOSYS, not the profile's default: libraries try a new call first and fall back to
//! the old one on ENOSYS alone. And some calls are decided here: those that this build's libseccomp
//! has never heard of ([`newer`]), and those whose rules it would mix up ([`is_mixed_up`]). All else
//! is left to libseccomp's part, which begins where this ends.

use std::collections::BTreeMap;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccompArg, LinuxSeccompOperator};

use super::newer::{self, X32_BIT};
use super::rule::{Action, Rule};

// Classic BPF (`linux/bpf_common.h`): loads of 32 bits at a fixed place, jumps by a constant.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

// Places in `struct seccomp_data` (`linux/seccomp.h`) on a little-endian machine.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

/// What the profile says for one architecture's interface.
#[derive(Debug)]
struct Interface {
    arch: ScmpArch,
    /// The highest number that the profile names, if calls above it get ENOSYS.
    highest: Option<u32>,
    /// The calls that are decided here, by number.
    own: Vec<(u32, Verdicts)>,
}

/// The answers for one call: the first that holds, or else the default.
#[derive(Debug, Clone)]
struct Verdicts {
    conditional: Vec<(Vec<LinuxSeccompArg>, u32)>,
    otherwise: u32,
}

/// The stub for a profile, ending where libseccomp's program begins.
pub(super) fn program(
    architectures: &[ScmpArch],
    default: Action,
    rules: &[Rule<'_>],
) -> Vec<libc::sock_filter> {
    // A profile need not name the machine's own architecture; libseccomp filters for it anyway.
    let mut all = vec![ScmpArch::native()];
    for arch in architectures {
        if !all.contains(arch) {
            all.push(*arch);
        }
    }
    let own = decided_here(default, rules);
    let mut program = Program::default();
    program.push(LOAD, ARCHITECTURE);
    for token in [
        AUDIT_X86_64,
        AUDIT_I386,
        AUDIT_AARCH64,
        AUDIT_ARM,
        AUDIT_RISCV64,
    ] {
        let interfaces: Vec<_> = all
            .iter()
            .filter(|arch| audit_token(**arch) == Some(token))
            .map(|arch| Interface::new(*arch, default, rules, &own))
            .filter(Interface::has_work)
            .collect();
        if !interfaces.is_empty() {
            program.only_if(IF_EQUAL, token, section(&interfaces));
        }
    }
    if program.0.len() == 1 {
        return Vec::new();
    }
    program.finish()
}

// `AUDIT_ARCH_*` of `linux/audit.h`, by which the kernel tells a filter whose call it is.
pub(super) const AUDIT_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_I386: u32 = 0x4000_0003;
pub(super) const AUDIT_AARCH64: u32 = 0xc000_00b7;
pub(super) const AUDIT_ARM: u32 = 0x4000_0028;
pub(super) const AUDIT_RISCV64: u32 = 0xc000_00f3;

/// Other architectures' programs do not run on the machines that this is built for.
fn audit_token(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 | ScmpArch::X32 => Some(AUDIT_X86_64),
        ScmpArch::X86 => Some(AUDIT_I386),
        ScmpArch::Aarch64 => Some(AUDIT_AARCH64),
        ScmpArch::Arm => Some(AUDIT_ARM),
        ScmpArch::Riscv64 => Some(AUDIT_RISCV64),
        _ => None,
    }
}

/// The calls that are not left to libseccomp, by name.
fn decided_here<'a>(default: Action, rules: &'a [Rule<'a>]) -> BTreeMap<&'a str, Verdicts> {
    let mut named: BTreeMap<&str, Vec<&Rule<'_>>> = BTreeMap::new();
    for rule in rules {
        let same = named.entry(rule.name).or_default();
        // What says the same as the default says nothing.
        same.extend((rule.action != default).then_some(rule));
    }
    named.retain(|name, rules| !libseccomp_knows(name) || is_mixed_up(rules));
    named
        .into_iter()
        .map(|(name, rules)| (name, Verdicts::new(&rules, default)))
        .collect()
}

impl Interface {
    fn new(
        arch: ScmpArch,
        default: Action,
        rules: &[Rule<'_>],
        own: &BTreeMap<&str, Verdicts>,
    ) -> Self {
        let number = |name: &str| newer::number_on(name, arch);
        let named = || rules.iter().filter_map(|rule| number(rule.name));
        Self {
            arch,
            highest: if default.is_permissive {
                None
            } else {
                named().max()
            },
            own: own
                .iter()
                .filter_map(|(name, verdicts)| Some((number(name)?, verdicts.clone())))
                .collect(),
        }
    }

    fn has_work(&self) -> bool {
        self.highest.is_some() || !self.own.is_empty()
    }

    /// Decides a call whose number is loaded, or leaves it to libseccomp's part.
    fn code(&self) -> Program {
        let mut program = Program::default();
        for (number, verdicts) in &self.own {
            program.only_if(IF_EQUAL, *number, verdicts.code());
        }
        if let Some(highest) = self.highest {
            program.only_if(IF_GREATER, highest, Program::returning(ENOSYS));
        }
        program.leave();
        program
    }
}

fn libseccomp_knows(name: &str) -> bool {
    ScmpSyscall::from_name(name).is_ok()
}

/// Whether libseccomp 2.5 merges the rules for one call into something else: with several, two of
/// its comparisons of 64 bits can hide each other (argument < 2^32, or argument < 0: 1 does not
/// pass). Equality it gets right, and a lone rule.
fn is_mixed_up(rules: &[&Rule<'_>]) -> bool {
    let alternatives: Vec<_> = rules.iter().flat_map(|rule| &rule.alternatives).collect();
    let mut conditions = alternatives.iter().flat_map(|all| all.iter());
    alternatives.len() > 1 && conditions.any(|one| one.op() != LinuxSeccompOperator::ScmpCmpEq)
}

/// Decides calls of one architecture. x86_64 and x32 share a token; a bit of the number tells
/// which it is.
fn section(interfaces: &[Interface]) -> Program {
    let of = |wanted: fn(ScmpArch) -> bool| {
        let mut code = Program::default();
        match interfaces.iter().find(|one| wanted(one.arch)) {
            Some(interface) => code.append(interface.code()),
            None => code.leave(),
        }
        code
    };
    let mut program = Program::default();
    program.push(LOAD, NUMBER);
    if interfaces
        .iter()
        .any(|one| matches!(one.arch, ScmpArch::X8664 | ScmpArch::X32))
    {
        program.only_if(IF_BITS, X32_BIT, of(|arch| arch == ScmpArch::X32));
    }
    program.append(of(|arch| arch != ScmpArch::X32));
    program
}

impl Verdicts {
    /// From the rules for one call. As in libseccomp, one without conditions has the word before
    /// those with.
    fn new(rules: &[&Rule<'_>], default: Action) -> Self {
        let always = rules.iter().find(|rule| rule.alternatives.is_empty());
        if let Some(rule) = always {
            return Self {
                conditional: Vec::new(),
                otherwise: rule.action.returned,
            };
        }
        let mut conditional = Vec::new();
        for rule in rules {
            let action = rule.action.returned;
            conditional.extend(rule.alternatives.iter().map(|all| (all.to_vec(), action)));
        }
        Self {
            conditional,
            otherwise: default.returned,
        }
    }

    fn code(&self) -> Program {
        let mut program = Program::default();
        for (conditions, action) in &self.conditional {
            program.append(all_hold(conditions, *action));
        }
        program.push(RETURN, self.otherwise);
        program
    }
}

/// Where a comparison leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The next condition: this one holds.
    Held,
    /// The end: this one does not hold.
    Missed,
}

/// One instruction of a condition.
type Step = (u16, u32, To, To);

/// Returns `action` if all conditions hold, and else goes on behind itself.
fn all_hold(conditions: &[LinuxSeccompArg], action: u32) -> Program {
    let steps: Vec<Vec<Step>> = conditions.iter().map(steps).collect();
    let mut left: usize = steps.iter().map(Vec::len).sum();
    let mut program = Program::default();
    for condition in &steps {
        for (place, (code, value, yes, no)) in condition.iter().enumerate() {
            left -= 1;
            let held = condition.len() - place - 1;
            // Six conditions of six instructions at most: these fit.
            let distance = |to| match to {
                To::Next => 0,
                To::Held => u8::try_from(held).unwrap_or(u8::MAX),
                To::Missed => u8::try_from(left + 1).unwrap_or(u8::MAX),
            };
            program.0.push(libc::sock_filter {
                code: *code,
                jt: distance(*yes),
                jf: distance(*no),
                k: *value,
            });
        }
    }
    program.push(RETURN, action);
    program
}

/// Compares an argument's upper half, then its lower.
fn steps(condition: &LinuxSeccompArg) -> Vec<Step> {
    use To::{Held, Missed, Next};
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let place = ARGUMENTS + 8 * u32::try_from(condition.index()).unwrap_or_default();
    let upper = (LOAD, place + 4, Next, Next);
    let lower = (LOAD, place, Next, Next);
    let (high, low) = halves(condition.value());
    match condition.op() {
        LinuxSeccompOperator::ScmpCmpEq => vec![
            upper,
            (IF_EQUAL, high, Next, Missed),
            lower,
            (IF_EQUAL, low, Held, Missed),
        ],
        LinuxSeccompOperator::ScmpCmpNe => vec![
            upper,
            (IF_EQUAL, high, Next, Held),
            lower,
            (IF_EQUAL, low, Missed, Held),
        ],
        LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
            let last = match condition.op() {
                LinuxSeccompOperator::ScmpCmpGt => IF_GREATER,
                _ => IF_NOT_LESS,
            };
            vec![
                upper,
                (IF_GREATER, high, Held, Next),
                (IF_EQUAL, high, Next, Missed),
                lower,
                (last, low, Held, Missed),
            ]
        }
        LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe => {
            let last = match condition.op() {
                LinuxSeccompOperator::ScmpCmpLt => IF_NOT_LESS,
                _ => IF_GREATER,
            };
            vec![
                upper,
                (IF_GREATER, high, Missed, Next),
                (IF_EQUAL, high, Next, Held),
                lower,
                (last, low, Missed, Held),
            ]
        }
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let (wanted_high, wanted_low) =
                halves(condition.value_two().unwrap_or_default() & condition.value());
            vec![
                upper,
                (AND, high, Next, Next),
                (IF_EQUAL, wanted_high, Next, Missed),
                lower,
                (AND, low, Next, Next),
                (IF_EQUAL, wanted_low, Held, Missed),
            ]
        }
    }
}

/// Instructions, in which a jump by [`Program::BEYOND`] leaves the stub.
#[derive(Debug, Default)]
struct Program(Vec<libc::sock_filter>);

impl Program {
    /// Longer than any program.
    const BEYOND: u32 = u32::MAX;

    fn returning(value: u32) -> Self {
        let mut program = Self::default();
        program.push(RETURN, value);
        program
    }

    fn push(&mut self, code: u16, k: u32) {
        self.0.push(libc::sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        });
    }

    fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Goes on with libseccomp's part.
    fn leave(&mut self) {
        self.push(JUMP, Self::BEYOND);
    }

    /// Runs `body` if what is loaded compares with `value`, and else goes on behind it. The jump
    /// over the body may be of any length, which those of a comparison are not.
    fn only_if(&mut self, comparison: u16, value: u32, body: Self) {
        self.0.push(libc::sock_filter {
            code: comparison,
            jt: 1,
            jf: 0,
            k: value,
        });
        self.push(JUMP, u32::try_from(body.0.len()).unwrap_or(Self::BEYOND));
        self.append(body);
    }

    fn finish(mut self) -> Vec<libc::sock_filter> {
        let length = self.0.len();
        for (place, instruction) in self.0.iter_mut().enumerate() {
            if instruction.code == JUMP && instruction.k == Self::BEYOND {
                instruction.k = u32::try_from(length - place - 1).unwrap_or(Self::BEYOND);
            }
        }
        self.0
    }
}
