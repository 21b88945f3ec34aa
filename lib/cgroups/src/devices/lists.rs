//! Device rules as the lists of cgroup v1.
//!
//! A cgroup of v1 allows nothing or everything, and has a list of exceptions. Our rules are read in
//! order, the last that matches decides ([`rules`](super::rules)); here they become such a list, or
//! are refused where none means the same: an exception can't have an exception. (The kernel ignores a
//! rule that would make one, without a word; runc refuses it as well.)

use super::rules::{ALL, BLOCK, CHAR, MKNOD, READ, Rule, WRITE};

/// Which devices an exception is for; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Devices {
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Devices {
    fn covers(self, other: Self) -> bool {
        let number = |wide: Option<u32>, narrow| wide.is_none() || wide == narrow;
        self.kind == other.kind
            && number(self.major, other.major)
            && number(self.minor, other.minor)
    }

    /// Those that are among both.
    fn and(self, other: Self) -> Option<Self> {
        let number = |one: Option<u32>, other: Option<u32>| match (one, other) {
            (Some(one), Some(other)) if one != other => None,
            (one, other) => Some(one.or(other)),
        };
        (self.kind == other.kind).then_some(Self {
            kind: self.kind,
            major: number(self.major, other.major)?,
            minor: number(self.minor, other.minor)?,
        })
    }
}

/// What a cgroup does with devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// What is done with a device that is no exception.
    allow: bool,
    exceptions: Vec<(Devices, u32)>,
}

impl Lists {
    /// Computes the lists that mean the same as the rules.
    ///
    /// # Errors
    /// What can't be said.
    pub fn of(rules: &[Rule]) -> Result<Self, String> {
        let mut lists = Self::default();
        for rule in rules {
            if *rule == everything(rule.allow) {
                lists = Self {
                    allow: rule.allow,
                    exceptions: Vec::new(),
                };
                continue;
            }
            for kind in rule.kind.map_or(vec![BLOCK, CHAR], |kind| vec![kind]) {
                let devices = Devices {
                    kind,
                    major: rule.major,
                    minor: rule.minor,
                };
                if rule.allow == lists.allow {
                    lists.take_back(devices, rule.access)?;
                } else {
                    lists.except(devices, rule.access);
                }
            }
        }
        if !lists.allow {
            lists.complete();
        }
        Ok(lists)
    }

    fn except(&mut self, devices: Devices, access: u32) {
        match self.exceptions.iter_mut().find(|(one, _)| *one == devices) {
            Some((_, there)) => *there |= access,
            None => self.exceptions.push((devices, access)),
        }
    }

    fn take_back(&mut self, devices: Devices, access: u32) -> Result<(), String> {
        for (one, there) in &mut self.exceptions {
            if devices.covers(*one) {
                *there &= !access;
            } else if devices.and(*one).is_some() && *there & access != 0 {
                let (rule, all) = (line(devices, access), line(*one, *there));
                return Err(format!(
                    "cgroup v1 can't take the devices {rule:?} out of {all:?}"
                ));
            }
        }
        self.exceptions.retain(|(_, access)| *access != 0);
        Ok(())
    }

    /// Adds what two exceptions allow together: to open a device for reading and writing the kernel
    /// wants one that allows both.
    fn complete(&mut self) {
        let all = self.exceptions.clone();
        for (index, (one, access)) in all.iter().enumerate() {
            for (other, more) in all.iter().skip(index + 1) {
                let both = (access | more) & (READ | WRITE);
                let new = [access, more].iter().all(|one| **one & both != both);
                if let (true, Some(devices)) = (new, one.and(*other)) {
                    self.except(devices, both);
                }
            }
        }
    }

    /// What is to be written, in order: file and line.
    pub fn writes(&self) -> impl Iterator<Item = (&'static str, String)> {
        let file = |allow| match allow {
            true => "devices.allow",
            false => "devices.deny",
        };
        let exceptions = self
            .exceptions
            .iter()
            .map(move |(devices, access)| (file(!self.allow), line(*devices, *access)));
        // This forgets all exceptions.
        std::iter::once((file(self.allow), "a".to_owned())).chain(exceptions)
    }
}

fn everything(allow: bool) -> Rule {
    Rule {
        allow,
        kind: None,
        major: None,
        minor: None,
        access: ALL,
    }
}

/// An exception as the kernel writes it: `c 1:3 rwm`, with a star for any number.
fn line(devices: Devices, access: u32) -> String {
    let kind = if devices.kind == BLOCK { 'b' } else { 'c' };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let letters: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter_map(|(bit, letter)| (access & bit != 0).then_some(*letter))
        .collect();
    let (major, minor) = (number(devices.major), number(devices.minor));
    format!("{kind} {major}:{minor} {letters}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rules::tests::{any_rule, permits};
    use super::*;

    /// As the kernel decides (security/device_cgroup.c).
    fn kernel(lists: &Lists, device: Devices, access: u32) -> bool {
        let mut matching = lists
            .exceptions
            .iter()
            .filter(|(one, _)| one.covers(device))
            .map(|(_, there)| *there);
        match lists.allow {
            true => !matching.any(|there| there & access != 0),
            false => matching.any(|there| access & !there == 0),
        }
    }

    fn rule(allow: bool, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
        Rule {
            allow,
            kind: Some(CHAR),
            major,
            minor,
            access,
        }
    }

    fn written(rules: &[Rule]) -> Vec<String> {
        let lists = Lists::of(rules).unwrap();
        lists
            .writes()
            .map(|(file, line)| format!("{file}={line}"))
            .collect()
    }

    #[test]
    fn what_is_written() {
        let null = rule(true, Some(1), Some(3), READ);
        assert_eq!(written(&[]), ["devices.deny=a"]);
        assert_eq!(written(&[everything(true), null]), ["devices.allow=a"]);
        assert_eq!(
            written(&[null, everything(false), rule(true, Some(136), None, ALL)]),
            ["devices.deny=a", "devices.allow=c 136:* rwm"]
        );
        assert_eq!(
            written(&[everything(true), rule(false, None, Some(1), WRITE)]),
            ["devices.allow=a", "devices.deny=c *:1 w"]
        );
    }

    #[test]
    fn a_narrower_rule_is_taken_back_and_a_wider_one_not() {
        let (wide, narrow) = (
            |allow| rule(allow, Some(1), None, READ),
            |allow| rule(allow, Some(1), Some(3), READ),
        );
        assert_eq!(written(&[narrow(true), wide(false)]), ["devices.deny=a"]);
        let refused = Lists::of(&[wide(true), narrow(false)]).unwrap_err();
        assert!(
            refused.contains(r#""c 1:3 r" out of "c 1:* r""#),
            "{refused}"
        );
    }

    #[test]
    fn reading_here_and_writing_there_is_both_where_they_meet() {
        let rules = [
            rule(true, Some(1), None, READ),
            rule(true, None, Some(3), WRITE),
        ];
        assert!(written(&rules).contains(&"devices.allow=c 1:3 rw".to_owned()));
    }

    proptest! {
        #[test]
        fn the_lists_mean_the_rules(
            rules in prop::collection::vec(prop_oneof![4 => any_rule(), 1 => any::<bool>().prop_map(everything)], 0..8),
            kind in 1u32..=2, major in 0u32..5, minor in 0u32..5,
            // Nothing is opened and made at once.
            access in prop::sample::select(vec![READ, WRITE, READ | WRITE, MKNOD]),
        ) {
            if let Ok(lists) = Lists::of(&rules) {
                let device = Devices { kind, major: Some(major), minor: Some(minor) };
                prop_assert_eq!(kernel(&lists, device, access), permits(&rules, kind, major, minor, access));
            }
        }
    }
}
