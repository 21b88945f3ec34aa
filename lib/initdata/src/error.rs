//! Why initdata is refused.

use crate::digest::Field;
use crate::document::LONGEST;

/// What this crate's functions answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Why initdata is refused. Each is one sentence, bounded whatever the document holds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Longer than [`LONGEST`].
    #[error("initdata: the document has {0} bytes, more than {LONGEST}")]
    TooLong(usize),
    /// The TEE has bound another document, or none.
    #[error("initdata not bound: its digest is {found}…, {field} says {bound}…")]
    NotBound {
        /// Where the TEE has the digest.
        field: Field,
        /// What it has there, its first bytes in hex.
        bound: String,
        /// What the document's digest begins with.
        found: String,
    },
    /// A digest that does not fill the TEE's field.
    #[error(
        "initdata: algorithm: {found:?} does not fill {field}, which takes {needed} alone; elsewhere a \
         digest may be cut or filled with zeros, here it may not"
    )]
    Algorithm {
        /// Where the TEE has the digest.
        field: Field,
        /// What the document says, shortened.
        found: String,
        /// What it has to say.
        needed: &'static str,
    },
    /// Not TOML, not UTF-8, or not of the form.
    #[error("initdata: {0}")]
    Form(String),
    /// A file of the document's is not what it should be.
    #[error("initdata: [data] {file:?}: {why}")]
    File {
        /// Its key in `[data]`.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The pod's annotation is not the base64 of a gzip file within its bounds.
    #[error("initdata: the annotation's value {0}")]
    Annotation(String),
}
