//! A key broker for tests: the protocol of Confidential Containers' key broker service, and the ways to
//! break it.
//!
//! It is written from the protocol's description, and has nothing of the client that is tested with it but
//! the crates that both calculate with. It verifies one kind of evidence, that of a SIMULATED TEE, and only
//! if it is told to by name; all other evidence is refused, as no TEE is here to make any.
//!
//! Start reading at [`Configuration`], then [`server`].

mod certificate;
mod ear;
mod fault;
mod http;
mod json;
mod jwe;
mod protocol;
pub mod sealing;
mod server;
mod verifier;

pub use certificate::{Identity, Shape};
pub use fault::{Fault, Step};
pub use server::{Broker, Configuration, Resource, Running};

/// The text of bytes as JOSE has it: base64 of the URL's alphabet, without padding.
fn base64_url(bytes: &[u8]) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding};
    Base64UrlUnpadded::encode_string(bytes)
}

/// The reverse.
fn from_base64_url(text: &str) -> anyhow::Result<Vec<u8>> {
    use base64ct::{Base64UrlUnpadded, Encoding};
    Base64UrlUnpadded::decode_vec(text).map_err(|why| anyhow::anyhow!("not base64url: {why}"))
}

/// Random bytes.
fn random<const LENGTH: usize>() -> anyhow::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| anyhow::anyhow!("no random bytes"))?;
    Ok(bytes)
}
