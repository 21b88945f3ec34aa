//! A policy as bytes.

use std::fmt;

use super::{Fault, Policy};

/// No policy has more bytes.
pub const LARGEST_POLICY: usize = 1 << 20;

/// Why bytes are no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// There are so many, which is too many.
    TooLarge(usize),
    /// They are not the JSON of the schema.
    Json(String),
    /// What they say can't be.
    Fault(Fault),
}

/// As much of another crate's message as is repeated, in bytes: it may quote a key of any length.
const LONGEST_REASON: usize = 200;

impl Policy {
    /// Reads a policy. Nothing that it says is dropped: what the schema has not is an error.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > LARGEST_POLICY {
            return Err(PolicyError::TooLarge(bytes.len()));
        }
        let policy: Self = serde_json::from_slice(bytes).map_err(|why| {
            let mut why = why.to_string().replace(|one: char| one.is_control(), " ");
            why.truncate(why.floor_char_boundary(LONGEST_REASON));
            PolicyError::Json(why)
        })?;
        policy.check().map_err(PolicyError::Fault)?;
        Ok(policy)
    }

    /// The policy's bytes: the same for the same policy.
    ///
    /// # Errors
    /// What is wrong with the policy: nobody could read it.
    pub fn to_json(&self) -> Result<Vec<u8>, PolicyError> {
        self.check().map_err(PolicyError::Fault)?;
        let bytes = serde_json::to_vec(self).map_err(|why| PolicyError::Json(why.to_string()))?;
        match bytes.len() > LARGEST_POLICY {
            true => Err(PolicyError::TooLarge(bytes.len())),
            false => Ok(bytes),
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(
                formatter,
                "the policy has {bytes} bytes, more than the {LARGEST_POLICY} that one may have"
            ),
            Self::Json(why) => write!(formatter, "the policy can't be read: {why}"),
            Self::Fault(fault) => write!(formatter, "the policy's {fault}"),
        }
    }
}

impl std::error::Error for PolicyError {}
