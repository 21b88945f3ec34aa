//! What a pod says of itself by annotations under `trefoil.dev/`: its isolation, and those keys of the
//! runtimes' tables that a pod may say for itself.

use std::collections::BTreeMap;

use trefoil_core::Isolation;
use trefoil_core::settings::{Key, Value};

use super::Refusal;
use crate::runtimes;

/// What the names of our annotations begin with.
pub const PREFIX: &str = "trefoil.dev/";

/// Asks for a stronger isolation than the handler's: `namespace`, `microvm` or `confidential`.
pub const ISOLATION: &str = "trefoil.dev/isolation";

/// A container's annotations.
pub type Annotations = BTreeMap<String, String>;

/// What a pod says in place of a key of the node's configuration, to a pod of another isolation nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSetting {
    /// The table of the key.
    pub table: &'static str,
    /// The key.
    pub key: &'static str,
    /// The annotation by which it says so.
    pub annotation: &'static str,
    /// What it says.
    pub value: Value,
}

/// An annotation under [`PREFIX`].
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub meaning: Meaning,
    /// What it says.
    pub value: &'a str,
}

/// What an annotation means.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The least isolation.
    Isolation,
    /// A key of this table.
    Setting(&'static str, &'static Key),
}

impl Known<'_> {
    /// What is said to a runtime by the annotation of this key.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn setting(&self, table: &'static str, key: &'static Key) -> Result<PodSetting, Refusal> {
        let value = key
            .kind
            .read(self.value)
            .map_err(|must| Refusal::BadValue {
                name: self.name,
                value: self.value.to_owned(),
                must,
            })?;
        Ok(PodSetting {
            table,
            key: key.name,
            annotation: self.name,
            value,
        })
    }
}

/// All annotations there are.
pub fn all() -> impl Iterator<Item = (&'static str, Meaning)> {
    let settings = runtimes::annotations();
    let settings = settings.map(|(table, key, name)| (name, Meaning::Setting(table, key)));
    [(ISOLATION, Meaning::Isolation)]
        .into_iter()
        .chain(settings)
}

/// Whether there is an annotation of this name.
pub fn is_known(name: &str) -> bool {
    runtimes::is_own(name) || all().any(|(known, _)| known == name)
}

/// The names of all annotations there are, in one line.
pub fn names() -> String {
    all().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// Those under [`PREFIX`] among `annotations`, but for those that are a runtime's own business.
///
/// # Errors
/// One that there is not: a pod that asks for what nobody understands doesn't get something else.
pub fn known<'a>(
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Known<'a>>, Refusal> {
    annotations
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !runtimes::is_own(name))
        .map(|(given, value)| {
            all()
                .find(|(name, _)| name == given)
                .map(|(name, meaning)| Known {
                    name,
                    meaning,
                    value,
                })
                .ok_or_else(|| Refusal::UnknownAnnotation {
                    name: given.clone(),
                })
        })
        .collect()
}

/// Holds the annotations of a pod that is to be `isolation` to be no other runtime's own: who asks for what
/// only a confidential pod does doesn't get a pod that does nothing of it.
///
/// # Errors
/// One that is.
pub fn check_own<'a>(
    isolation: Isolation,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<(), Refusal> {
    for (name, _) in annotations {
        let others = runtimes::owner(name).filter(|owner| *owner != isolation);
        if let Some(of) = others {
            let name = name.clone();
            return Err(Refusal::OfOthers {
                name,
                of,
                isolation,
            });
        }
    }
    Ok(())
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
