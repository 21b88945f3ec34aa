//! What the device rules of an OCI spec mean.
//!
//! The rules are read in order; for each kind of access the last rule that matches the device
//! decides. What no rule decides is denied. The devices that every container may use come last, so
//! no rule takes them away.
//!
//! This is what cgroup v1 does with the lists that containerd sends (first "deny all" or "allow all",
//! then single devices); runc starts from "deny all" where the list says neither, as we do.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// `mknod`, as the kernel tells it to the program.
pub(super) const MKNOD: u32 = 1;
/// Opening for reading.
pub(super) const READ: u32 = 2;
/// Opening for writing.
pub(super) const WRITE: u32 = 4;
/// All of them.
pub(super) const ALL: u32 = MKNOD | READ | WRITE;

/// A block device, as the kernel tells it to the program.
pub(super) const BLOCK: u32 = 1;
/// A character device.
pub(super) const CHAR: u32 = 2;

/// A rule; `None` matches everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub allow: bool,
    pub kind: Option<u32>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Bits of [`MKNOD`], [`READ`], [`WRITE`]; not empty.
    pub access: u32,
}

const fn allow(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What every container may use: runc's list. libcgroups allows the console as well (5:1), which is
/// the host's: a container's own is a terminal of major number 136.
const DEFAULTS: [Rule; 11] = [
    allow(CHAR, Some(1), Some(3), ALL), // null
    allow(CHAR, Some(1), Some(5), ALL), // zero
    allow(CHAR, Some(1), Some(7), ALL), // full
    allow(CHAR, Some(5), Some(0), ALL), // tty
    allow(CHAR, Some(1), Some(9), ALL), // urandom
    allow(CHAR, Some(1), Some(8), ALL), // random
    allow(CHAR, None, None, MKNOD),     // to make a node is not to use it
    allow(BLOCK, None, None, MKNOD),
    allow(CHAR, Some(136), None, ALL),     // pts
    allow(CHAR, Some(5), Some(2), ALL),    // ptmx
    allow(CHAR, Some(10), Some(200), ALL), // net/tun
];

/// The rules of a spec with the defaults after them. Rules that match nothing are left out.
pub(super) fn compile(rules: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    rules.iter().filter_map(rule).chain(DEFAULTS).collect()
}

fn rule(rule: &LinuxDeviceCgroup) -> Option<Rule> {
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(BLOCK),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
        // Pipes are no devices.
        LinuxDeviceType::P => return None,
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        };
    }
    // v1 does not even look at the access of a rule for all types.
    if access == 0 && kind.is_none() {
        access = ALL;
    }
    let rule = Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access,
    };
    (access != 0).then_some(rule)
}

/// Tells what is wrong with a rule that would have no effect, or none that was meant.
pub(super) fn check(rule: &LinuxDeviceCgroup) -> Result<(), String> {
    if rule.typ() == Some(LinuxDeviceType::P) {
        return Err("is for pipes, which are no devices".to_owned());
    }
    let access = rule.access().as_deref().unwrap_or("");
    if access.is_empty() || access.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(format!(
            "has access {access:?}, which is not made of r, w and m"
        ));
    }
    for wanted in [rule.major(), rule.minor()] {
        if number(wanted).is_none() {
            let wanted = wanted.unwrap_or_default();
            return Err(format!("has {wanted}, which is no device's number"));
        }
    }
    Ok(())
}

/// `Some(None)` is any number, `None` a number that no device has: the kernel has 12 bits for a
/// major, 20 for a minor.
#[allow(clippy::option_option)] // said above
fn number(number: Option<i64>) -> Option<Option<u32>> {
    match number {
        None | Some(-1) => Some(None),
        Some(number) => u32::try_from(number)
            .ok()
            .filter(|number| *number < 1 << 20)
            .map(Some),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::*;

    /// The definition, said as directly as possible.
    pub fn permits(rules: &[Rule], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                let decides = |rule: &&Rule| {
                    rule.kind.is_none_or(|wanted| wanted == kind)
                        && rule.major.is_none_or(|wanted| wanted == major)
                        && rule.minor.is_none_or(|wanted| wanted == minor)
                        && rule.access & bit != 0
                };
                rules
                    .iter()
                    .rev()
                    .find(decides)
                    .is_some_and(|rule| rule.allow)
            })
    }

    pub fn any_rule() -> impl Strategy<Value = Rule> {
        let small = prop::option::of(0u32..4);
        (
            any::<bool>(),
            prop::option::of(1u32..=2),
            small.clone(),
            small,
            1u32..=ALL,
        )
            .prop_map(|(allow, kind, major, minor, access)| Rule {
                allow,
                kind,
                major,
                minor,
                access,
            })
    }

    fn compiled(rules: Value) -> Vec<Rule> {
        let rules: Vec<LinuxDeviceCgroup> = from_value(rules).unwrap();
        compile(&rules)
    }

    #[test]
    fn what_containerd_sends() {
        let rules = compiled(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 16, "access": "r"},
        ]));
        assert!(permits(&rules, CHAR, 1, 3, READ | WRITE), "null");
        assert!(permits(&rules, CHAR, 136, 7, READ | WRITE), "any pts");
        assert!(permits(&rules, BLOCK, 8, 0, MKNOD), "mknod of anything");
        assert!(permits(&rules, BLOCK, 8, 16, READ));
        assert!(!permits(&rules, BLOCK, 8, 16, READ | WRITE));
        assert!(!permits(&rules, BLOCK, 8, 0, READ));
        assert!(!permits(&rules, CHAR, 1, 1, READ), "mem");
        assert!(!permits(&rules, CHAR, 5, 1, READ), "the host's console");
        assert!(
            !permits(&rules, BLOCK, 1, 3, READ),
            "not null: a block device"
        );
    }

    #[test]
    fn privileged_and_empty() {
        let all =
            compiled(json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]));
        assert!(permits(&all, CHAR, 1, 1, ALL));
        assert!(permits(
            &compiled(json!([{"allow": true, "type": "a"}])),
            CHAR,
            1,
            1,
            ALL
        ));
        assert!(
            !permits(&compiled(json!([])), CHAR, 1, 1, READ),
            "nothing said, nothing allowed"
        );
    }

    #[test]
    fn later_rules_win_but_not_over_the_defaults() {
        let rules = compiled(json!([
            {"allow": true, "type": "c", "major": -1, "access": "rw"},
            {"allow": false, "type": "c", "major": 1, "minor": 1, "access": "w"},
            {"allow": false, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        ]));
        assert!(permits(&rules, CHAR, 1, 1, READ));
        assert!(!permits(&rules, CHAR, 1, 1, READ | WRITE));
        assert!(permits(&rules, CHAR, 1, 3, ALL));
    }

    #[test]
    fn rules_without_effect_are_left_out() {
        let rules = compiled(json!([
            {"allow": true, "type": "p", "access": "rwm"},
            {"allow": true, "type": "c", "access": ""},
            {"allow": true, "type": "c", "major": 4_294_967_297_i64, "access": "rwm"},
            {"allow": true, "type": "c", "major": -2, "access": "rwm"},
        ]));
        assert_eq!(rules, DEFAULTS);
    }

    #[test]
    fn rules_without_effect_are_told() {
        for (rule, what) in [
            (
                json!({"allow": true, "type": "p", "access": "rwm"}),
                "pipes",
            ),
            (json!({"allow": true, "type": "c"}), "access"),
            (
                json!({"allow": true, "type": "c", "access": "rx"}),
                "access",
            ),
            (json!({"allow": true, "major": -2, "access": "r"}), "-2"),
            (
                json!({"allow": true, "minor": 1_048_576, "access": "r"}),
                "1048576",
            ),
        ] {
            let told = check(&from_value(rule).unwrap()).unwrap_err();
            assert!(told.contains(what), "{told}");
        }
        let fine = json!({"allow": false, "major": -1, "access": "rwm"});
        assert_eq!(check(&from_value(fine).unwrap()), Ok(()));
    }

    proptest! {
        #[test]
        fn any_rules_of_a_spec_are_taken(allow: bool, kind in 0usize..6, major: Option<i64>, minor: Option<i64>, access in "\\PC{0,5}") {
            let mut value = json!({"allow": allow, "major": major, "minor": minor, "access": access});
            if let Some(kind) = ["a", "b", "c", "u", "p"].get(kind) {
                value["type"] = json!(kind);
            }
            prop_assert!(compiled(json!([value])).len() >= DEFAULTS.len());
        }
    }
}
