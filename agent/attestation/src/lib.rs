//! A key broker's client: evidence given, secrets taken.
//!
//! It speaks the protocol of Confidential Containers' key broker service (request, challenge, attestation,
//! response) in version [`PROTOCOL`]. One exchange proves to the broker what runs here, and returns all
//! secrets that were asked for, each encrypted to a key that was made for this exchange.
//!
//! The broker's bytes are carried by the host, so whatever comes is hostile until TLS, and the certificates
//! that the initdata names, say whose it is; and bounded even then. This crate opens no connection: it is
//! told how ([`Client::new`]). It reads no file and knows no policy.
//!
//! Start reading at [`Client`], then [`Secrets`], which keeps what was fetched and opens sealed secrets.

mod client;
mod encoding;
mod evidence;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod jwe;
mod key;
mod limits;
mod resource;
mod runtime_data;
mod sealed;
mod secrets;
mod session;
#[cfg(test)]
mod tests;
mod tls;

pub use client::{Client, Options, Resources};
pub use evidence::{Evidence, REPORT_DATA, Simulated};
pub use failure::Failure;
pub use http::Stream;
pub use limits::Limits;
pub use resource::ResourceUri;
pub use sealed::{PREFIX, Sealed};
pub use secrets::Secrets;
pub use session::PROTOCOL;
