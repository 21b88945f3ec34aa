//! Which isolation a pod gets. The handler that its RuntimeClass names is a floor, which the node's
//! administrator set; an annotation of the pod's may raise it. Nothing lowers it: no annotation, no
//! configuration, no environment, no argument.
//!
//! [`decide`] is the whole of it, and pure: all it goes by is handed to it. It is asked once, before the
//! pod's server is forked; [`check_container`] then holds each of the pod's containers to the answer.

mod annotations;
mod handler;

use std::collections::BTreeSet;

use trefoil_core::{Error, ErrorKind, Isolation};

pub use annotations::{ALL, Annotations, ISOLATION, names};
use annotations::{Meaning, Ours};
pub use handler::Handler;

use crate::config::amount;

/// Why a pod is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An annotation under `trefoil.dev/` that there is not.
    #[error(
        "the annotation {name} is none of ours: there are {}",
        annotations::names()
    )]
    UnknownAnnotation {
        /// The annotation.
        name: String,
    },
    /// An annotation that the node's configuration keeps from pods.
    #[error(
        "this node's configuration doesn't allow the annotation {name} (see `allowed` in [annotations])"
    )]
    NotAllowed {
        /// The annotation.
        name: &'static str,
    },
    /// A value that names no isolation.
    #[error(
        "the annotation {ISOLATION} is {value:?}: it may be {}, {} or {}",
        Isolation::Namespace,
        Isolation::MicroVm,
        Isolation::Confidential
    )]
    UnknownIsolation {
        /// The value.
        value: String,
    },
    /// An annotation that asks for less than the handler guarantees.
    #[error(
        "the annotation {ISOLATION} asks for {asked}, but the pod's handler guarantees {floor}: an annotation may only raise it"
    )]
    Lowered {
        /// What the handler guarantees.
        floor: Isolation,
        /// What the annotation asks for.
        asked: Isolation,
    },
    /// A value that its annotation can't have.
    #[error("the annotation {name} is {value:?}, but {why}")]
    BadValue {
        /// The annotation.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// An isolation that can't be had here.
    #[error("the pod is to be {isolation}, but {why}")]
    Lacking {
        /// What it is to be.
        isolation: Isolation,
        /// Why it can't be had.
        why: String,
    },
    /// A container that asks for another isolation than its pod has.
    #[error(
        "the container's annotation {ISOLATION} asks for {asked}, but its pod is {has}: only the pod's own annotation decides, before the pod begins"
    )]
    OfContainer {
        /// What the pod is.
        has: Isolation,
        /// What the container asks for.
        asked: Isolation,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::UnknownAnnotation { .. }
            | Refusal::UnknownIsolation { .. }
            | Refusal::BadValue { .. } => ErrorKind::InvalidArgument,
            Refusal::Lacking { .. } => ErrorKind::Unimplemented,
            Refusal::NotAllowed { .. } | Refusal::Lowered { .. } | Refusal::OfContainer { .. } => {
                ErrorKind::FailedPrecondition
            }
        };
        Self::new(kind, refusal.to_string())
    }
}

/// What was decided on for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its isolation.
    pub isolation: Isolation,
    /// What it says of its machine, if it gets one, in place of the node's configuration.
    pub own: Own,
}

/// What a pod may say in place of the configuration's `[microvm]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Virtual CPUs without a limit.
    pub default_cpus: Option<u8>,
    /// Memory without a limit, in MiB.
    pub default_memory: Option<u32>,
}

/// Decides on a pod: `floor` is its handler's, `annotations` are its own container's, `allowed` are the
/// names of those that the node lets pods use, `lack` says why an isolation can't be had here, if it can't.
///
/// # Errors
/// What the pod asks for and doesn't get. It never gets something else instead.
pub fn decide(
    floor: Isolation,
    annotations: &Annotations,
    allowed: &BTreeSet<String>,
    lack: impl FnOnce(Isolation) -> Option<String>,
) -> Result<Decision, Refusal> {
    let mut decision = Decision {
        isolation: floor,
        own: Own::default(),
    };
    for Ours {
        name,
        meaning,
        value,
    } in annotations::ours(annotations)?
    {
        if !allowed.contains(name) {
            return Err(Refusal::NotAllowed { name });
        }
        let bad = |why| Refusal::BadValue {
            name,
            value: value.to_owned(),
            why,
        };
        match meaning {
            Meaning::Isolation => {
                let asked = annotations::isolation(value)?;
                if asked < floor {
                    return Err(Refusal::Lowered { floor, asked });
                }
                decision.isolation = asked;
            }
            Meaning::DefaultCpus => {
                let cpus = annotations::number(value).and_then(amount::cpus);
                decision.own.default_cpus = Some(cpus.map_err(bad)?);
            }
            Meaning::DefaultMemory => {
                let mebibytes = annotations::number(value).and_then(amount::mebibytes);
                decision.own.default_memory = Some(mebibytes.map_err(bad)?);
            }
        }
    }
    match lack(decision.isolation) {
        None => Ok(decision),
        Some(why) => Err(Refusal::Lacking {
            isolation: decision.isolation,
            why,
        }),
    }
}

/// Holds a container to its pod's isolation, which was decided before: under CRI its annotations repeat
/// the pod's, and may say nothing else.
///
/// # Errors
/// A container that asks for anything else.
pub fn check_container<'a>(
    has: Isolation,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Refusal> {
    for ours in annotations::ours(annotations)? {
        if ours.meaning != Meaning::Isolation {
            continue;
        }
        let asked = annotations::isolation(ours.value)?;
        if asked != has {
            return Err(Refusal::OfContainer { has, asked });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEVELS: [Isolation; 3] = [
        Isolation::Namespace,
        Isolation::MicroVm,
        Isolation::Confidential,
    ];

    fn level() -> impl Strategy<Value = Isolation> {
        prop::sample::select(&LEVELS[..])
    }

    /// The right values, values near them, and any other.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => level().prop_map(|level| level.to_string()),
            1 => prop::sample::select(vec!["", " ", "NAMESPACE", "MicroVm", "micro-vm", "microvm ", "none", "0", "true"])
                .prop_map(str::to_owned),
            1 => prop::sample::select(vec!["0", "1", "2", "64", "65", "-1", "4294967297"])
                .prop_map(str::to_owned),
            1 => any::<String>(),
        ]
    }

    /// Ours, some that look like ours, and any other.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => Just(ISOLATION.to_owned()),
            2 => prop::sample::select(&ALL[1..]).prop_map(|(name, _)| name.to_owned()),
            1 => prop::sample::select(vec!["trefoil.dev/", "trefoil.dev/Isolation", "trefoil.dev/isolation ", "trefoil.dev"])
                .prop_map(str::to_owned),
            1 => "trefoil\\.dev/[a-z-]{0,12}",
            2 => any::<String>(),
        ]
    }

    fn lack() -> impl Strategy<Value = Option<String>> {
        prop::option::of(Just("there is none".to_owned()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        /// Over all that there is to decide by: never weaker than the handler's, only what was asked for,
        /// and only what can be had.
        #[test]
        fn never_below_the_floor(
            floor in level(),
            annotations in prop::collection::btree_map(name(), value(), 0..4),
            allowed in prop::collection::btree_set(name(), 0..4),
            microvm in lack(),
            confidential in lack(),
        ) {
            let lacks = |isolation| match isolation {
                Isolation::Namespace => None,
                Isolation::MicroVm => microvm.clone(),
                Isolation::Confidential => confidential.clone(),
            };
            let asked = annotations.get(ISOLATION);
            let is_named = |name: &str| ALL.iter().any(|(known, _)| *known == name);
            match decide(floor, &annotations, &allowed, lacks) {
                Ok(Decision { isolation, own }) => {
                    prop_assert!(isolation >= floor);
                    prop_assert_eq!(lacks(isolation), None);
                    let wanted = asked.cloned().unwrap_or_else(|| floor.to_string());
                    prop_assert_eq!(isolation.to_string(), wanted);
                    let ours = annotations.keys().filter(|name| name.starts_with("trefoil.dev/"));
                    prop_assert!(ours.into_iter().all(|name| is_named(name) && allowed.contains(name)));
                    let cpus = annotations.get("trefoil.dev/default-cpus");
                    prop_assert_eq!(own.default_cpus, cpus.and_then(|cpus| cpus.parse().ok()));
                    let memory = annotations.get("trefoil.dev/default-memory-mib");
                    prop_assert_eq!(own.default_memory, memory.and_then(|memory| memory.parse().ok()));
                }
                Err(Refusal::Lowered { floor: named, asked: level }) => {
                    prop_assert!(level < floor && named == floor);
                    prop_assert_eq!(Some(&level.to_string()), asked);
                }
                Err(Refusal::UnknownIsolation { value }) => {
                    prop_assert!(LEVELS.iter().all(|level| level.to_string() != value));
                }
                Err(Refusal::UnknownAnnotation { name }) => {
                    prop_assert!(!is_named(&name) && annotations.contains_key(&name));
                }
                Err(Refusal::NotAllowed { name }) => {
                    prop_assert!(!allowed.contains(name) && annotations.contains_key(name));
                }
                Err(Refusal::BadValue { name, value, .. }) => {
                    prop_assert!(name != ISOLATION && annotations.get(name) == Some(&value));
                    let number = value.parse::<u64>().unwrap_or(0);
                    prop_assert!(number == 0 || number > 64);
                }
                Err(Refusal::Lacking { isolation, .. }) => {
                    prop_assert!(isolation >= floor && lacks(isolation).is_some());
                }
                Err(other @ Refusal::OfContainer { .. }) => prop_assert!(false, "{}", other),
            }
        }

        /// A container repeats its pod's isolation or says nothing.
        #[test]
        fn a_container_changes_nothing(has in level(), value in value()) {
            let outcome = check_container(has, &isolation(&value));
            prop_assert_eq!(outcome.is_ok(), value == has.to_string());
        }
    }

    /// What is right is granted: every level from the floor on, where it can be had and is allowed.
    #[test]
    fn what_may_be_asked_for_is_given() {
        for floor in LEVELS {
            for asked in LEVELS.into_iter().filter(|asked| *asked >= floor) {
                let decided = decide(floor, &isolation(&asked.to_string()), &all(), |_| None);
                assert_eq!(decided.map(|decision| decision.isolation), Ok(asked));
            }
        }
    }

    fn isolation(value: &str) -> Annotations {
        Annotations::from([(ISOLATION.to_owned(), value.to_owned())])
    }

    fn all() -> BTreeSet<String> {
        ALL.map(|(name, _)| name.to_owned()).into()
    }

    #[test]
    fn refusals_name_what_the_pod_asked_for() {
        let decide = |value| {
            decide(Isolation::MicroVm, &isolation(value), &all(), |_| None)
                .expect_err(value)
                .to_string()
        };
        assert_eq!(
            decide("namespace"),
            "the annotation trefoil.dev/isolation asks for namespace, but the pod's handler guarantees \
             microvm: an annotation may only raise it"
        );
        assert_eq!(
            decide(""),
            "the annotation trefoil.dev/isolation is \"\": it may be namespace, microvm or confidential"
        );
    }

    #[test]
    fn what_is_lacking_is_never_replaced_by_less() {
        for floor in LEVELS {
            let outcome = decide(floor, &isolation("confidential"), &all(), |isolation| {
                (isolation == Isolation::Confidential)
                    .then(|| "this build has no confidential runtime".into())
            });
            assert_eq!(
                outcome.expect_err("refused").to_string(),
                "the pod is to be confidential, but this build has no confidential runtime"
            );
        }
    }
}
