//! The document: what is in it, how it is read and how it is written.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use crate::text::{of_toml, shorten};
use crate::{BoundDigest, Error, Field, Result};

/// No document is longer, in bytes. A policy of some hundred containers takes a tenth of it.
pub const LONGEST: usize = 1 << 20;

/// The version of the format.
const VERSION: &str = "0.1.0";

/// The key of the pod's policy.
pub const POLICY: &str = "policy.json";

/// The key of the attestation agent's configuration, as Confidential Containers name it.
pub const AA: &str = "aa.toml";

/// The key of the confidential data hub's configuration, as they name it.
pub const CDH: &str = "cdh.toml";

/// All keys. Another is refused: it would be bound, and mean nothing.
const KNOWN: [&str; 3] = [AA, CDH, POLICY];

/// A document as TOML has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw {
    version: String,
    pub(crate) algorithm: String,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Raw {
    pub(crate) fn parse(document: &[u8]) -> Result<Self> {
        if document.len() > LONGEST {
            return Err(Error::TooLong(document.len()));
        }
        let text = std::str::from_utf8(document)
            .map_err(|why| Error::Form(format!("byte {} is not UTF-8", why.valid_up_to())))?;
        toml::from_str(text).map_err(|why| Error::Form(of_toml(&why, text)))
    }
}

/// The files of a document. Each is what a key of `[data]` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initdata {
    data: BTreeMap<&'static str, String>,
}

impl Initdata {
    /// A guest's first look at a document: compares its digest with the bound one, and only then parses it.
    ///
    /// # Errors
    /// [`Error::NotBound`] if it is another document; else what is wrong with it.
    pub fn open(document: &[u8], bound: &BoundDigest) -> Result<Self> {
        bound.compare(document)?;
        Self::read(document, bound.field())
    }

    /// Reads a document that nobody has compared with anything: an author his own, or a host for a hint.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(document: &[u8], field: Field) -> Result<Self> {
        let raw = Raw::parse(document)?;
        if raw.version != VERSION {
            return Err(Error::Form(format!(
                "version: {:?} is unknown; supported: {VERSION:?}",
                shorten(&raw.version)
            )));
        }
        field.check(&raw.algorithm)?;
        let data = raw.data.into_iter().map(|(key, value)| {
            match KNOWN.into_iter().find(|known| *known == key) {
                Some(known) => Ok((known, value)),
                None => Err(Error::Form(format!(
                    "[data] has an unknown key {:?}; supported: {}",
                    shorten(&key),
                    KNOWN.join(", ")
                ))),
            }
        });
        Ok(Self {
            data: data.collect::<Result<_>>()?,
        })
    }

    /// A file, by its key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }

    /// Takes the policy in.
    pub fn set_policy(&mut self, policy: &str) {
        self.data.insert(POLICY, policy.to_owned());
    }

    /// Takes `aa.toml` in.
    pub fn set_aa(&mut self, configuration: &str) {
        self.data.insert(AA, configuration.to_owned());
    }

    /// Takes `cdh.toml` in.
    pub fn set_cdh(&mut self, configuration: &str) {
        self.data.insert(CDH, configuration.to_owned());
    }

    /// The document, to be bound in a field. The same files give the same bytes.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    pub fn write(&self, field: Field) -> Result<String> {
        let mut document = format!(
            "version = \"{VERSION}\"\nalgorithm = \"{}\"\n\n[data]\n",
            field.algorithm()
        );
        for (key, value) in &self.data {
            let _ = writeln!(document, "\"{key}\" = {}", quoted(value));
        }
        match document.len() {
            ..=LONGEST => Ok(document),
            length => Err(Error::TooLong(length)),
        }
    }
}

/// A string of TOML: as it is between lines where that can be, for those who read it; else escaped.
fn quoted(value: &str) -> String {
    let plain = |one: char| !one.is_control() || one == '\n' || one == '\t';
    if !value.contains("'''") && !value.ends_with('\'') && value.chars().all(plain) {
        return format!("'''\n{value}'''");
    }
    let mut quoted = String::from("\"");
    for one in value.chars() {
        match one {
            '"' | '\\' => quoted.extend(['\\', one]),
            one if one.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(one));
            }
            one => quoted.push(one),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
