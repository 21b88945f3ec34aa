//! The initdata of a confidential pod, as Confidential Containers define it: a TOML document of the pod's
//! author, which the host hands on and the TEE binds.
//!
//! The document has `version`, `algorithm` and `[data]`, a table of files. Its digest is over the bytes as
//! they are, and stands in a field of the TEE's report: whoever reads the report knows the document, and
//! the guest knows that nobody has changed it. So the guest compares before it parses: [`Initdata::open`].
//!
//! An author writes one with [`Initdata::write`] and puts it into the pod's annotation with
//! [`annotation::encode`]. The host undoes the latter ([`annotation::decode`]) and binds the digest
//! ([`BoundDigest::of`]). What it reads of the document beyond that is a hint to itself: no guest trusts it.
//!
//! This crate reads no file, uses no network and knows no TEE's interface. Start reading at [`document`].

#[cfg(feature = "annotation")]
pub mod annotation;
mod broker;
mod digest;
mod document;
mod error;
#[cfg(all(any(test, fuzzing), feature = "annotation"))]
mod fuzz;
mod text;

pub use broker::{Broker, Credential, Endpoint};
pub use digest::{BoundDigest, Field, hex};
pub use document::{AA, CDH, Initdata, LONGEST, POLICY};
pub use error::{Error, Result};
#[cfg(all(any(test, fuzzing), feature = "annotation"))]
pub use fuzz::fuzz;
