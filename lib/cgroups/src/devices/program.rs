//! From device rules to the instructions of an eBPF program.
//!
//! The kernel calls the program with the kinds of access wanted, the type and the numbers of the
//! device. The program goes through the rules from the last to the first and keeps what is still
//! undecided of the access: a matching rule that denies any of it ends with "no", one that allows
//! takes its part away, and when nothing is left the answer is "yes".

use trefoil_bpf::Instruction;

use super::rules::{ALL, Rule};

// Registers: the kernel gives the context in R1 and takes the answer from R0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// Operations; those on numbers are of 32 bits except for the jumps, which see the zeros above.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE_REGISTER: u8 = 0xbc;
pub(super) const MOVE: u8 = 0xb4;
pub(super) const AND: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x74;
pub(super) const JUMP_IF_EQUAL: u8 = 0x15;
pub(super) const JUMP_IF_NOT_EQUAL: u8 = 0x55;
pub(super) const EXIT: u8 = 0x95;

/// `answer` is 1 for yes, 0 for no.
const fn answer(answer: i32) -> [Instruction; 2] {
    [
        Instruction::new(MOVE, ANSWER, 0, 0, answer),
        Instruction::new(EXIT, 0, 0, 0, 0),
    ]
}

/// Makes the program for rules of which the last that matches decides; what none decides is denied.
pub(super) fn encode(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        Instruction::new(LOAD_WORD, KIND, CONTEXT, 0, 0),
        Instruction::new(MOVE_REGISTER, UNDECIDED, KIND, 0, 0),
        // One word holds the type below and the access above.
        Instruction::new(AND, KIND, 0, 0, 0xffff),
        Instruction::new(SHIFT_RIGHT, UNDECIDED, 0, 0, 16),
        Instruction::new(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        Instruction::new(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let decision = decision(rule);
        let conditions: Vec<(u8, i32)> =
            [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
                .into_iter()
                .filter_map(|(register, wanted)| Some((register, wanted?.cast_signed())))
                .collect();
        let all = conditions.is_empty();
        // Each condition jumps over the conditions after it and the decision.
        for (done, (register, wanted)) in conditions.iter().enumerate() {
            let over = (conditions.len() - done - 1) + decision.len();
            // At most 2 conditions and 5 instructions.
            let over = i16::try_from(over).unwrap_or(i16::MAX);
            program.push(Instruction::new(
                JUMP_IF_NOT_EQUAL,
                *register,
                0,
                over,
                *wanted,
            ));
        }
        program.extend(decision);
        if all && rule.access == ALL {
            // It decides everything: what came after could not be reached, which the kernel
            // refuses.
            return program;
        }
    }
    program.extend(answer(0));
    program
}

fn decision(rule: &Rule) -> Vec<Instruction> {
    let access = rule.access.cast_signed();
    let mut decision = match (rule.allow, rule.access) {
        (_, ALL) => Vec::new(),
        (true, _) => vec![
            Instruction::new(AND, UNDECIDED, 0, 0, !access & ALL.cast_signed()),
            Instruction::new(JUMP_IF_NOT_EQUAL, UNDECIDED, 0, 2, 0),
        ],
        (false, _) => vec![
            Instruction::new(MOVE_REGISTER, SCRATCH, UNDECIDED, 0, 0),
            Instruction::new(AND, SCRATCH, 0, 0, access),
            Instruction::new(JUMP_IF_EQUAL, SCRATCH, 0, 2, 0),
        ],
    };
    decision.extend(answer(i32::from(rule.allow)));
    decision
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::rules::tests::{any_rule, permits};
    use super::super::rules::{BLOCK, CHAR, MKNOD, READ, WRITE, compile};
    use super::*;

    /// Runs a program as the kernel would; panics where its verifier would refuse.
    fn run(program: &[Instruction], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers: [Option<u64>; 10] = [None; 10];
        let mut next = 0;
        loop {
            let at = program[next];
            let destination = usize::from(at.registers & 15);
            let source = usize::from(at.registers >> 4);
            let immediate = at.immediate.cast_unsigned();
            let own = || registers[destination].expect("read of a register that was never written");
            let low = |value: u64| u64::from(u32::try_from(value & 0xffff_ffff).unwrap());
            next += 1;
            match at.code {
                LOAD_WORD => {
                    assert_eq!(source, 1, "only the context may be read");
                    let index = usize::try_from(at.offset).unwrap() / 4;
                    registers[destination] = Some(u64::from(context[index]));
                }
                MOVE_REGISTER => {
                    registers[destination] = Some(low(registers[source].expect("unset")))
                }
                MOVE => registers[destination] = Some(u64::from(immediate)),
                AND => registers[destination] = Some(low(own()) & u64::from(immediate)),
                SHIFT_RIGHT => registers[destination] = Some(low(own()) >> immediate),
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {
                    assert!(at.offset >= 0, "a jump back");
                    let equal = own() == i64::from(at.immediate).cast_unsigned();
                    if equal == (at.code == JUMP_IF_EQUAL) {
                        next += usize::try_from(at.offset).unwrap();
                    }
                }
                EXIT => return registers[0].expect("no answer") == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    /// Which instructions can be reached; the kernel refuses a program with others.
    fn all_reachable(program: &[Instruction]) -> bool {
        let mut reached = vec![false; program.len()];
        reached[0] = true;
        for index in 0..program.len() {
            if !reached[index] {
                return false;
            }
            let at = program[index];
            if at.code == EXIT {
                continue;
            }
            reached[index + 1] = true;
            if matches!(at.code, JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL) {
                reached[index + 1 + usize::try_from(at.offset).unwrap()] = true;
            }
        }
        true
    }

    #[test]
    fn deny_all_is_short() {
        let all = Rule {
            allow: false,
            kind: None,
            major: None,
            minor: None,
            access: ALL,
        };
        assert_eq!(encode(&[all]).len(), 8);
        assert_eq!(encode(&[]).len(), 8);
    }

    #[test]
    fn the_defaults_work() {
        let program = encode(&compile(&[]));
        assert!(all_reachable(&program));
        assert!(run(&program, CHAR, 1, 3, READ | WRITE));
        assert!(run(&program, BLOCK, 8, 0, MKNOD));
        assert!(!run(&program, BLOCK, 8, 0, READ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn the_program_decides_as_the_rules_do(rules in prop::collection::vec(any_rule(), 0..12)) {
            let program = encode(&rules);
            prop_assert!(all_reachable(&program));
            for kind in [BLOCK, CHAR] {
                for (major, minor) in (0..5).flat_map(|major| (0..5).map(move |minor| (major, minor))) {
                    for access in 1..=ALL {
                        prop_assert_eq!(
                            run(&program, kind, major, minor, access),
                            permits(&rules, kind, major, minor, access),
                            "{} {}:{} {}", kind, major, minor, access
                        );
                    }
                }
            }
        }
    }
}
