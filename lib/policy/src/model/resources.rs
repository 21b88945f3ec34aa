//! Bounds of what the host may limit a container to.

use serde::{Deserialize, Serialize};

/// From the least to the most, with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range<T> {
    /// The least.
    pub least: T,
    /// The most.
    pub most: T,
}

impl<T: PartialOrd> Range<T> {
    /// Whether a value is within it.
    pub fn contains(&self, value: &T) -> bool {
        (&self.least..=&self.most).contains(&value)
    }
}

/// Bounds of a container's limits. A limit without bounds may be anything: the host can always give a
/// guest too little.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceBounds {
    /// In bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Range<u64>>,
    /// In microseconds of processor time for each 100 milliseconds, whatever the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Range<u64>>,
    /// Of processor time, as cgroup v1 counts it (`cpu.shares`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<Range<u64>>,
    /// How many processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<Range<u64>>,
}

impl ResourceBounds {
    /// Whether there are none.
    #[must_use]
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }
}
