//! Devices of a container: the guest's own.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A node in a container's `/dev`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it is.
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// The driver's number.
    pub major: u32,
    /// The device's.
    pub minor: u32,
    /// The bits of its mode, without its kind.
    pub mode: u32,
    /// Whose it is.
    pub uid: u32,
    /// And whose group's.
    pub gid: u32,
}

/// The two kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Of blocks.
    Block,
    /// Of characters.
    Character,
}

/// Devices that a container may use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// Of which kind.
    pub kind: DeviceKind,
    /// Of this driver.
    pub major: u32,
    /// This one, or all of the driver's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor: Option<u32>,
    /// What for.
    pub access: BTreeSet<Access>,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// `r`
    Read,
    /// `w`
    Write,
    /// `m`: making its node.
    MakeNode,
}

/// Every container has these character devices: null, zero, full, random, urandom, tty, console, ptmx,
/// and the terminals of its devpts.
const COMMON: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

impl DeviceRule {
    /// What every container may use without the policy's saying so.
    pub fn common() -> impl Iterator<Item = Self> {
        COMMON.into_iter().map(|(major, minor)| Self {
            kind: DeviceKind::Character,
            major,
            minor,
            access: [Access::Read, Access::Write, Access::MakeNode].into(),
        })
    }

    /// Whether all that another allows is allowed by this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.major == other.major
            && (self.minor.is_none() || self.minor == other.minor)
            && self.access.is_superset(&other.access)
    }
}
