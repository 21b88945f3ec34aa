//! The runtimes that this binary holds: the one place that names them. A further isolation is a line here.

use trefoil_core::{Isolation, Provider};

/// What is the same of all machines, whoever launches them.
const MACHINES: trefoil_sandbox_vmm::MicroVms = trefoil_sandbox_vmm::MicroVms {
    containers: trefoil_runc::features,
};

/// All runtimes, by rising isolation.
pub static PROVIDERS: &[&dyn Provider] = &[
    &trefoil_runc::Namespaces,
    &MACHINES,
    #[cfg(not(test))]
    &trefoil_confidential::Confidential { machines: MACHINES },
    // In the place of the last one, so that all that the shim does for a runtime is tried without machines.
    #[cfg(test)]
    &crate::trivial::Trivial,
];

/// The runtime of an isolation, if there is one.
pub fn provider(isolation: Isolation) -> Option<&'static dyn Provider> {
    let found = PROVIDERS
        .iter()
        .find(|provider| provider.isolation() == isolation);
    found.copied()
}

/// The weakest runtime of at least this isolation, by what it says of itself: a handler's, though the
/// pods of that handler can't be had.
pub fn provider_of_floor(floor: Isolation) -> Option<&'static dyn Provider> {
    let at_least = |provider: &&&dyn Provider| provider.isolation() >= floor;
    let strongest = PROVIDERS.last();
    PROVIDERS.iter().find(at_least).or(strongest).copied()
}

/// That this binary has no such runtime.
pub fn not_built(isolation: Isolation) -> String {
    format!("this build has no {isolation} runtime")
}

/// Whether an annotation is a runtime's own business.
pub fn is_own(annotation: &str) -> bool {
    owner(annotation).is_some()
}

/// The isolation whose runtime's own business an annotation is, if it is one's.
pub fn owner(annotation: &str) -> Option<Isolation> {
    let owner = PROVIDERS
        .iter()
        .find(|one| one.own_annotations().contains(&annotation));
    owner.map(|one| one.isolation())
}

/// All keys that a pod may say by an annotation: the table, the key and the annotation.
pub fn annotations() -> impl Iterator<
    Item = (
        &'static str,
        &'static trefoil_core::settings::Key,
        &'static str,
    ),
> {
    let tables = PROVIDERS.iter().filter_map(|provider| provider.table());
    tables.flat_map(|table| {
        let keys = table.keys.iter();
        keys.filter_map(|key| Some((table.name, key, key.annotation?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_isolation_has_one_runtime_in_rising_order() {
        let isolations = || PROVIDERS.iter().map(|provider| provider.isolation());
        assert!(isolations().is_sorted_by(|one, next| one < next));
        for isolation in isolations() {
            let found = provider(isolation).expect("it is in the list");
            assert_eq!(found.isolation(), isolation);
        }
        let why = not_built(Isolation::Confidential);
        assert_eq!(why, "this build has no confidential runtime");
        let floor = provider_of_floor(Isolation::MicroVm).expect("there is one");
        assert_eq!(floor.isolation(), Isolation::MicroVm);
    }

    /// What no handler is told of can't be refused.
    #[test]
    fn every_handler_is_told_what_pods_say_to_any_runtime() {
        let handlers = include_str!("../../deploy/containerd/trefoil.toml");
        let passed = handlers
            .lines()
            .filter_map(|line| line.strip_prefix("pod_annotations = "));
        let passed: Vec<_> = passed.collect();
        assert_eq!(passed.len(), handlers.matches("\nruntime_type").count());
        let machines = MACHINES;
        let confidential = trefoil_confidential::Confidential { machines };
        for name in confidential.own_annotations() {
            let named = match name.strip_prefix("trefoil.dev/") {
                Some(_) => "'trefoil.dev/*'".to_owned(),
                None => format!("'{name}'"),
            };
            assert!(passed.iter().all(|all| all.contains(&named)), "{name}");
        }
    }

    #[test]
    fn no_two_keys_have_one_annotation() {
        let names = || annotations().map(|(_, _, annotation)| annotation);
        for name in names() {
            assert_eq!(names().filter(|other| *other == name).count(), 1, "{name}");
            assert!(name.starts_with("trefoil.dev/"), "{name}");
        }
        assert!(names().count() >= 2);
    }
}
