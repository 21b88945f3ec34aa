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

use annotations::Meaning;
pub use annotations::{Annotations, ISOLATION, PodSetting, is_known, names};
pub use handler::Handler;

/// Why a pod is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An annotation under `trefoil.dev/` that there is not.
    #[error("unknown annotation {name}; supported: {}", annotations::names())]
    UnknownAnnotation {
        /// The annotation.
        name: String,
    },
    /// An annotation that the node's configuration keeps from pods.
    #[error(
        "the annotation {name} is not allowed by this node's configuration (see `allowed` in [annotations])"
    )]
    NotAllowed {
        /// The annotation.
        name: &'static str,
    },
    /// A value that names no isolation.
    #[error(
        "the annotation {ISOLATION} is {value:?}; it must be {}, {} or {}",
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
    /// An annotation by which only pods of another isolation say something.
    #[error("the annotation {name} is of {of} pods, but the pod is to be {isolation}")]
    OfOthers {
        /// The annotation.
        name: String,
        /// Whose pods say something by it.
        of: Isolation,
        /// What the pod is to be, or is.
        isolation: Isolation,
    },
    /// A value of another type than its annotation's.
    #[error("the annotation {name} is {value:?}; it must be {must}")]
    BadValue {
        /// The annotation.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        must: &'static str,
    },
    /// An isolation that can't be had here.
    #[error("the pod is to be {isolation}, but {why}")]
    Unavailable {
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
            Refusal::Unavailable { .. } => ErrorKind::Unimplemented,
            Refusal::NotAllowed { .. }
            | Refusal::Lowered { .. }
            | Refusal::OfOthers { .. }
            | Refusal::OfContainer { .. } => ErrorKind::FailedPrecondition,
        };
        Self::new(kind, refusal.to_string())
    }
}

/// What was decided on for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its isolation.
    pub isolation: Isolation,
    /// What it says to the runtimes, in place of the node's configuration.
    pub settings: Vec<PodSetting>,
}

/// Decides on a pod: `floor` is its handler's, `annotations` are its own container's, `allowed` are the
/// names of those that the node lets pods use, `unavailable` says why an isolation can't be had here, if
/// it can't.
///
/// # Errors
/// What the pod asks for and doesn't get. It never gets something else instead.
pub fn decide(
    floor: Isolation,
    annotations: &Annotations,
    allowed: &BTreeSet<String>,
    unavailable: impl FnOnce(Isolation) -> Option<String>,
) -> Result<Decision, Refusal> {
    let mut decision = Decision {
        isolation: floor,
        settings: Vec::new(),
    };
    for one in annotations::known(annotations)? {
        if !allowed.contains(one.name) {
            return Err(Refusal::NotAllowed { name: one.name });
        }
        match one.meaning {
            Meaning::Isolation => {
                let asked = annotations::isolation(one.value)?;
                if asked < floor {
                    return Err(Refusal::Lowered { floor, asked });
                }
                decision.isolation = asked;
            }
            Meaning::Setting(table, key) => decision.settings.push(one.setting(table, key)?),
        }
    }
    annotations::check_own(decision.isolation, annotations)?;
    match unavailable(decision.isolation) {
        None => Ok(decision),
        Some(why) => Err(Refusal::Unavailable {
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
    annotations: impl IntoIterator<Item = (&'a String, &'a String)> + Clone,
) -> Result<(), Refusal> {
    annotations::check_own(has, annotations.clone())?;
    for one in annotations::known(annotations)? {
        if !matches!(one.meaning, Meaning::Isolation) {
            continue;
        }
        let asked = annotations::isolation(one.value)?;
        if asked != has {
            return Err(Refusal::OfContainer { has, asked });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trefoil_core::settings::Value;

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
            2 => prop::sample::select(names_of_settings()).prop_map(str::to_owned),
            1 => prop::sample::select(runtimes_own()).prop_map(str::to_owned),
            1 => prop::sample::select(vec!["trefoil.dev/", "trefoil.dev/Isolation", "trefoil.dev/isolation ", "trefoil.dev"])
                .prop_map(str::to_owned),
            1 => "trefoil\\.dev/[a-z-]{0,12}",
            2 => any::<String>(),
        ]
    }

    fn runtimes_own() -> Vec<&'static str> {
        let providers = crate::runtimes::PROVIDERS.iter();
        let own = providers.flat_map(|provider| provider.own_annotations());
        own.copied().collect()
    }

    fn names_of_settings() -> Vec<&'static str> {
        let settings = crate::runtimes::annotations();
        settings.map(|(_, _, name)| name).collect()
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
            match decide(floor, &annotations, &allowed, lacks) {
                Ok(Decision { isolation, settings }) => {
                    prop_assert!(isolation >= floor);
                    prop_assert_eq!(lacks(isolation), None);
                    let wanted = asked.cloned().unwrap_or_else(|| floor.to_string());
                    prop_assert_eq!(isolation.to_string(), wanted);
                    let (own, others): (Vec<_>, Vec<_>) = annotations.keys().partition(|name| crate::runtimes::is_own(name));
                    prop_assert!(own.into_iter().all(|name| crate::runtimes::owner(name) == Some(isolation)));
                    let mut ours = others.into_iter().filter(|name| name.starts_with("trefoil.dev/"));
                    prop_assert!(ours.all(|name| is_known(name) && allowed.contains(name)));
                    let said = names_of_settings().into_iter().filter(|name| annotations.contains_key(*name));
                    prop_assert_eq!(settings.len(), said.count());
                    for one in settings {
                        let number = annotations[one.annotation].parse().map(Value::Number);
                        prop_assert_eq!(Ok(one.value), number);
                    }
                }
                Err(Refusal::Lowered { floor: named, asked: level }) => {
                    prop_assert!(level < floor && named == floor);
                    prop_assert_eq!(Some(&level.to_string()), asked);
                }
                Err(Refusal::UnknownIsolation { value }) => {
                    prop_assert!(LEVELS.iter().all(|level| level.to_string() != value));
                }
                Err(Refusal::UnknownAnnotation { name }) => {
                    prop_assert!(!is_known(&name) && annotations.contains_key(&name));
                }
                Err(Refusal::NotAllowed { name }) => {
                    prop_assert!(!allowed.contains(name) && annotations.contains_key(name));
                }
                Err(Refusal::OfOthers { name, of, isolation }) => {
                    prop_assert!(annotations.contains_key(&name) && isolation != of);
                    prop_assert_eq!(crate::runtimes::owner(&name), Some(of));
                }
                Err(Refusal::BadValue { name, value, .. }) => {
                    prop_assert!(name != ISOLATION && annotations.get(name) == Some(&value));
                    prop_assert!(value.parse::<u64>().is_err());
                }
                Err(Refusal::Unavailable { isolation, .. }) => {
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
        annotations::all()
            .map(|(name, _)| name.to_owned())
            .collect()
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
            "the annotation trefoil.dev/isolation is \"\"; it must be namespace, microvm or confidential"
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
