//! The digest of a document, and where a TEE binds it.

use std::fmt;

use sha2::{Digest, Sha256, Sha384};

use crate::document::{LONGEST, Raw};
use crate::{Error, Result};

/// A field of a TEE's report that binds the initdata.
///
/// Each takes the digest of one algorithm, which fills it. The format's definition lets a longer digest
/// be cut and a shorter one be filled with zeros; then two algorithms may bind the same document, and who
/// verifies has to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// SEV-SNP's HOST_DATA, 32 bytes.
    HostData,
    /// TDX's MRCONFIGID, 48 bytes.
    MrConfigId,
    /// What a simulated TEE has in the place of HOST_DATA, 32 bytes.
    Simulated,
}

impl Field {
    /// The algorithm, as a document names it.
    pub fn algorithm(self) -> &'static str {
        match self {
            Self::HostData | Self::Simulated => "sha256",
            Self::MrConfigId => "sha384",
        }
    }

    /// Its size in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::HostData | Self::Simulated => 32,
            Self::MrConfigId => 48,
        }
    }

    pub(crate) fn digest(self, document: &[u8]) -> Vec<u8> {
        match self {
            Self::HostData | Self::Simulated => Sha256::digest(document).to_vec(),
            Self::MrConfigId => Sha384::digest(document).to_vec(),
        }
    }

    /// That a document's algorithm is this field's.
    pub(crate) fn check(self, algorithm: &str) -> Result<()> {
        match algorithm == self.algorithm() {
            true => Ok(()),
            false => Err(Error::Algorithm {
                field: self,
                found: crate::text::shorten(algorithm),
                needed: self.algorithm(),
            }),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::HostData => "SEV-SNP's HOST_DATA",
            Self::MrConfigId => "TDX's MRCONFIGID",
            Self::Simulated => "the SIMULATED TEE's report",
        })
    }
}

/// The digest of a document, as a TEE binds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundDigest {
    field: Field,
    bytes: Vec<u8>,
}

impl BoundDigest {
    /// The digest to bind for a document, of the algorithm that it names.
    ///
    /// # Errors
    /// If the document is none, or its algorithm does not fill the field.
    pub fn of(document: &[u8], field: Field) -> Result<Self> {
        field.check(&Raw::parse(document)?.algorithm)?;
        Ok(Self {
            field,
            bytes: field.digest(document),
        })
    }

    /// What a TEE's report has in a field; nothing if that is not its size.
    pub fn of_report(field: Field, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == field.size()).then(|| Self {
            field,
            bytes: bytes.to_vec(),
        })
    }

    /// The field's content.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where it is bound.
    pub fn field(&self) -> Field {
        self.field
    }

    /// That a document is the bound one. Nothing of the document is parsed for it.
    pub(crate) fn compare(&self, document: &[u8]) -> Result<()> {
        if document.len() > LONGEST {
            return Err(Error::TooLong(document.len()));
        }
        let found = self.field.digest(document);
        match found == self.bytes {
            true => Ok(()),
            false => Err(Error::NotBound {
                field: self.field,
                bound: beginning(&self.bytes),
                found: beginning(&found),
            }),
        }
    }
}

/// The first eight bytes, in hex.
fn beginning(bytes: &[u8]) -> String {
    hex(&bytes[..bytes.len().min(8)])
}

/// Bytes in hexadecimal digits, as digests are shown and written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
