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

pub use annotations::{ALL, Annotations, ISOLATION};
pub use handler::Handler;

/// Why a pod is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// the pod's annotation {name} is unknown: there is trefoil.dev/isolation
    #[error("the annotation {name} is none of ours: there is {}", ALL.join(", "))]
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
            Refusal::UnknownAnnotation { .. } | Refusal::UnknownIsolation { .. } => {
                ErrorKind::InvalidArgument
            }
            Refusal::Lacking { .. } => ErrorKind::Unimplemented,
            Refusal::NotAllowed { .. } | Refusal::Lowered { .. } | Refusal::OfContainer { .. } => {
                ErrorKind::FailedPrecondition
            }
        };
        Self::new(kind, refusal.to_string())
    }
}

/// Why an isolation can't be had here; `None` for those that can. Namespaces always can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacks {
    /// Why there are no microVMs.
    pub microvm: Option<String>,
    /// Why there are no confidential VMs.
    pub confidential: Option<String>,
}

impl Lacks {
    fn of(&self, isolation: Isolation) -> Option<&str> {
        match isolation {
            Isolation::Namespace => None,
            Isolation::MicroVm => self.microvm.as_deref(),
            Isolation::Confidential => self.confidential.as_deref(),
        }
    }
}

/// Decides on a pod's isolation: `floor` is its handler's, `annotations` are its own container's,
/// `allowed` are the names of those that the node lets pods use, `lacks` says what can't be had.
///
/// # Errors
/// What the pod asks for and doesn't get. It never gets something else instead.
pub fn decide(
    floor: Isolation,
    annotations: &Annotations,
    allowed: &BTreeSet<String>,
    lacks: &Lacks,
) -> Result<Isolation, Refusal> {
    let mut isolation = floor;
    for (name, value) in annotations::ours(annotations)? {
        if !allowed.contains(name) {
            return Err(Refusal::NotAllowed { name });
        }
        let asked = annotations::isolation(value)?;
        if asked < floor {
            return Err(Refusal::Lowered { floor, asked });
        }
        isolation = asked;
    }
    match lacks.of(isolation) {
        None => Ok(isolation),
        Some(why) => Err(Refusal::Lacking {
            isolation,
            why: why.to_owned(),
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
    for (_, value) in annotations::ours(annotations)? {
        let asked = annotations::isolation(value)?;
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
            1 => any::<String>(),
        ]
    }

    /// Ours, some that look like ours, and any other.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => Just(ISOLATION.to_owned()),
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
            allowed in prop::collection::btree_set(name(), 0..3),
            microvm in lack(),
            confidential in lack(),
        ) {
            let lacks = Lacks { microvm, confidential };
            let asked = annotations.get(ISOLATION);
            match decide(floor, &annotations, &allowed, &lacks) {
                Ok(got) => {
                    prop_assert!(got >= floor);
                    prop_assert_eq!(lacks.of(got), None);
                    let wanted = asked.cloned().unwrap_or_else(|| floor.to_string());
                    prop_assert_eq!(got.to_string(), wanted);
                    prop_assert!(asked.is_none() || allowed.contains(ISOLATION));
                    let ours = annotations.keys().filter(|name| name.starts_with("trefoil.dev/"));
                    prop_assert!(ours.into_iter().all(|name| name == ISOLATION));
                }
                Err(Refusal::Lowered { floor: named, asked: level }) => {
                    prop_assert!(level < floor && named == floor);
                    prop_assert_eq!(Some(&level.to_string()), asked);
                }
                Err(Refusal::UnknownIsolation { value }) => {
                    prop_assert!(LEVELS.iter().all(|level| level.to_string() != value));
                }
                Err(Refusal::UnknownAnnotation { name }) => {
                    prop_assert!(name != ISOLATION && annotations.contains_key(&name));
                }
                Err(Refusal::NotAllowed { name }) => {
                    prop_assert!(!allowed.contains(name) && annotations.contains_key(name));
                }
                Err(Refusal::Lacking { isolation, .. }) => {
                    prop_assert!(isolation >= floor && lacks.of(isolation).is_some());
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
                let annotations = isolation(&asked.to_string());
                assert_eq!(decide(floor, &annotations, &all(), &NOTHING), Ok(asked));
            }
        }
    }

    const NOTHING: Lacks = Lacks {
        microvm: None,
        confidential: None,
    };

    fn isolation(value: &str) -> Annotations {
        Annotations::from([(ISOLATION.to_owned(), value.to_owned())])
    }

    fn all() -> BTreeSet<String> {
        ALL.map(str::to_owned).into()
    }

    #[test]
    fn refusals_name_what_the_pod_asked_for() {
        let decide = |value| {
            decide(Isolation::MicroVm, &isolation(value), &all(), &NOTHING)
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
        let lacks = Lacks {
            microvm: None,
            confidential: Some("this build has no confidential runtime".into()),
        };
        for floor in LEVELS {
            let outcome = decide(floor, &isolation("confidential"), &all(), &lacks);
            assert_eq!(
                outcome.expect_err("refused").to_string(),
                "the pod is to be confidential, but this build has no confidential runtime"
            );
        }
    }
}
