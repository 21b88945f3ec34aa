//! What a pod says of itself by annotations under `trefoil.dev/`: one table, and nothing beside it.

use std::collections::BTreeMap;

use trefoil_core::Isolation;

use super::Refusal;

/// What the names of our annotations begin with.
pub const PREFIX: &str = "trefoil.dev/";

/// Asks for a stronger isolation than the handler's: `namespace`, `microvm` or `confidential`.
pub const ISOLATION: &str = "trefoil.dev/isolation";

/// All annotations there are.
pub const ALL: [(&str, Meaning); 3] = [
    (ISOLATION, Meaning::Isolation),
    ("trefoil.dev/default-cpus", Meaning::DefaultCpus),
    ("trefoil.dev/default-memory-mib", Meaning::DefaultMemory),
];

/// What an annotation means. All but the first stand, for their pod, in place of the key of the same name
/// in the configuration's `[microvm]`, and say nothing to a pod that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The least isolation.
    Isolation,
    /// Virtual CPUs of a pod without a limit.
    DefaultCpus,
    /// Memory of a pod without a limit, in MiB.
    DefaultMemory,
}

/// A container's annotations.
pub type Annotations = BTreeMap<String, String>;

/// An annotation of ours.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: Meaning,
    /// What it says.
    pub value: &'a str,
}

/// The names of all annotations there are, in one line.
pub fn names() -> String {
    ALL.map(|(name, _)| name).join(", ")
}

/// Those of ours among `annotations`.
///
/// # Errors
/// One that there is not: a pod that asks for what nobody understands doesn't get something else.
pub fn ours<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Ours<'a>>, Refusal> {
    annotations
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(given, value)| {
            let known = ALL.iter().find(|(name, _)| name == given);
            known
                .map(|(name, meaning)| Ours {
                    name,
                    meaning: *meaning,
                    value,
                })
                .ok_or_else(|| Refusal::UnknownAnnotation {
                    name: given.clone(),
                })
        })
        .collect()
}

/// The isolation that a value of [`ISOLATION`] names.
///
/// # Errors
/// Any value but the three names, the empty one included.
pub fn isolation(value: &str) -> Result<Isolation, Refusal> {
    [
        Isolation::Namespace,
        Isolation::MicroVm,
        Isolation::Confidential,
    ]
    .into_iter()
    .find(|isolation| isolation.to_string() == value)
    .ok_or_else(|| Refusal::UnknownIsolation {
        value: value.to_owned(),
    })
}

/// The number that a value is.
pub fn number(value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| "it is to be a number, in digits".into())
}
