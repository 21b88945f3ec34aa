//! What a pod says of itself by annotations under `trefoil.dev/`: one table, and nothing beside it.

use std::collections::BTreeMap;

use trefoil_core::Isolation;

use super::Refusal;

/// What the names of our annotations begin with.
pub const PREFIX: &str = "trefoil.dev/";

/// Asks for a stronger isolation than the handler's: `namespace`, `microvm` or `confidential`.
pub const ISOLATION: &str = "trefoil.dev/isolation";

/// All annotations there are.
pub const ALL: [&str; 1] = [ISOLATION];

/// A container's annotations.
pub type Annotations = BTreeMap<String, String>;

/// Those of ours among `annotations`.
///
/// # Errors
/// One that there is not: a pod that asks for what nobody understands doesn't get something else.
pub fn ours<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<(&'static str, &'a str)>, Refusal> {
    annotations
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| {
            let known = ALL.iter().find(|known| *known == name);
            known
                .map(|known| (*known, value.as_str()))
                .ok_or_else(|| Refusal::UnknownAnnotation { name: name.clone() })
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
