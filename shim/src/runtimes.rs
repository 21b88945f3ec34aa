//! The runtimes that this binary holds: the one place that names them. A further isolation is a line here.

use trefoil_core::{Isolation, Provider};

/// Reading what containerd hands over in the runtime specification's form, and running from a read-only
/// mount of the own program.
pub use trefoil_runc::{load_spec, own_program, parse_process};

/// All runtimes, by rising isolation.
pub static PROVIDERS: &[&dyn Provider] = &[
    &trefoil_runc::Namespaces,
    &trefoil_sandbox_vmm::MicroVms {
        containers: trefoil_runc::features,
    },
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

/// Why an isolation can't be had of this binary on this node, if it can't.
pub fn unavailable(isolation: Isolation) -> Option<String> {
    match provider(isolation) {
        Some(provider) => provider.unavailable(),
        None => Some(not_built(isolation)),
    }
}

/// That this binary has no such runtime.
pub fn not_built(isolation: Isolation) -> String {
    format!("this build has no {isolation} runtime")
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
        assert!(provider(Isolation::Confidential).is_none());
        let why = unavailable(Isolation::Confidential).expect("there is none");
        assert_eq!(why, "this build has no confidential runtime");
        let floor = provider_of_floor(Isolation::Confidential).expect("the strongest");
        assert_eq!(floor.isolation(), Isolation::MicroVm);
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
