//! Any profile against what its text says, by an interpreter of the kernel's instructions.

use libseccomp::ScmpArch;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::newer::number_on;
use super::stub::AUDIT_X86_64;
use super::tests::{Call, filter, run};

/// What a profile says of a call, worked out from its text.
#[derive(Debug, Clone)]
struct Said {
    name: &'static str,
    errno: u32,
    conditions: Vec<(usize, &'static str, u64, u64)>,
}

const NAMES: [&str; 8] = [
    "read",
    "mkdir",
    "clone3",
    "openat2",
    "fchmodat2",
    "mseal",
    "listmount",
    "file_setattr",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

fn holds((index, operator, value, second): (usize, &str, u64, u64), call: &Call) -> bool {
    let argument = call.arguments[index];
    match operator {
        "SCMP_CMP_NE" => argument != value,
        "SCMP_CMP_LT" => argument < value,
        "SCMP_CMP_LE" => argument <= value,
        "SCMP_CMP_EQ" => argument == value,
        "SCMP_CMP_GE" => argument >= value,
        "SCMP_CMP_GT" => argument > value,
        _ => argument & value == second & value,
    }
}

impl Said {
    fn holds(&self, call: &Call) -> bool {
        let twice = (0..6).any(|index| {
            self.conditions
                .iter()
                .filter(|(of, ..)| *of == index)
                .count()
                > 1
        });
        if twice {
            self.conditions.iter().any(|one| holds(*one, call))
        } else {
            self.conditions.iter().all(|one| holds(*one, call))
        }
    }

    fn json(&self) -> Value {
        let arguments: Vec<_> = self
            .conditions
            .iter()
            .map(|(index, op, value, second)| {
                json!({"index": index, "op": op, "value": value, "valueTwo": second})
            })
            .collect();
        json!({"names": [self.name], "action": "SCMP_ACT_ERRNO", "errnoRet": self.errno,
            "args": arguments})
    }
}

/// Numbers that are near each other, so that comparisons meet.
fn value() -> impl Strategy<Value = u64> {
    (0_u64..3, 0_u64..3).prop_map(|(high, low)| high << 32 | low)
}

fn said() -> impl Strategy<Value = Vec<Said>> {
    // One rule for each name: what several say together is libseccomp's affair.
    let condition = (
        0_usize..3,
        prop::sample::select(&OPERATORS[..]),
        value(),
        value(),
    );
    let rule = prop::collection::vec(condition, 0..4);
    prop::collection::vec(prop::option::of(rule), NAMES.len()).prop_map(|rules| {
        rules
            .into_iter()
            .zip(NAMES)
            .zip(10..)
            .filter_map(|((rule, name), errno)| {
                rule.map(|conditions| Said {
                    name,
                    errno,
                    conditions,
                })
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_filter_does_what_its_profile_says(
        said in said(),
        x32 in any::<bool>(),
        picks in prop::collection::vec((0_u32..500, prop::option::of(0..NAMES.len()),
            prop::array::uniform6(value())), 40),
    ) {
        let mut architectures = vec!["SCMP_ARCH_X86_64"];
        if x32 {
            architectures.push("SCMP_ARCH_X32");
        }
        let rules: Vec<_> = said.iter().map(Said::json).collect();
        let filter = filter(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5,
            "architectures": architectures, "syscalls": rules})).unwrap();
        let arch = ScmpArch::X8664;
        let highest = said.iter().filter_map(|rule| number_on(rule.name, arch)).max();
        for (number, named, arguments) in picks {
            let number = named
                .and_then(|index| number_on(NAMES[index], arch))
                .unwrap_or(number);
            let call = Call { token: AUDIT_X86_64, number, arguments };
            let rule = said.iter().find(|rule| number_on(rule.name, arch) == Some(number));
            let expected = match rule {
                Some(rule) if rule.holds(&call) => rule.errno,
                None if highest.is_some_and(|highest| number > highest) => 38,
                _ => 5,
            };
            prop_assert_eq!(run(&filter, call), libc::SECCOMP_RET_ERRNO | expected,
                "{:?} {:?}", call, rule);
        }
    }
}
