//! Sealed secrets, as Confidential Containers define them: what stands where a secret would, in an
//! environment or a file, and can be published. `sealed.<header>.<payload>.<signature>`, a JWS whose payload
//! says how a broker's resource yields the secret:
//!
//! - `vault`: the resource is the secret;
//! - `envelope`: the secret is in the payload, encrypted (A256GCM) by a key that is there, too, wrapped by
//!   the resource. How a broker's resource wraps it is not defined elsewhere; here it is AES key wrap
//!   (RFC 3394) with the resource's 32 bytes.

use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::client::Resources;
use crate::encoding::{from_standard, from_url};
use crate::failure::Failure;
use crate::key::{coordinates, decrypt, unwrap_key};
use crate::resource::ResourceUri;

/// What each sealed secret begins with.
pub const PREFIX: &str = "sealed.";

/// No sealed secret is longer, in bytes: so long may one variable of an environment be.
const LONGEST: usize = 128 << 10;

/// The version of the payload.
const VERSION: &str = "0.1.0";

/// The provider whose resources there are.
const PROVIDER: &str = "kbs";

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Payload {
    version: String,
    provider: String,
    #[serde(default)]
    provider_settings: Map<String, Value>,
    #[serde(flatten)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Content {
    Vault {
        name: String,
    },
    Envelope {
        key_id: String,
        encrypted_key: String,
        encrypted_data: String,
        wrap_type: String,
        iv: String,
    },
}

/// A sealed secret of which nothing is known to be true: its signature is verified when it is opened.
pub struct Sealed {
    /// The header and the payload as they are signed.
    signed: String,
    signature: Vec<u8>,
    signer: String,
    content: Content,
    resource: ResourceUri,
}

impl Sealed {
    /// Takes a value apart; nothing if it is not a sealed secret but itself.
    ///
    /// # Errors
    /// If it begins like one, and is none.
    pub fn parse(value: &str) -> Result<Option<Self>, Failure> {
        match value.strip_prefix(PREFIX) {
            Some(jws) => Self::parse_jws(jws)
                .map(Some)
                .map_err(|why| Failure::here(format!("a sealed secret: {why}"))),
            None => Ok(None),
        }
    }

    fn parse_jws(jws: &str) -> Result<Self, String> {
        if jws.len() > LONGEST {
            return Err(format!("it has {} bytes, more than {LONGEST}", jws.len()));
        }
        let (signed, signature) = jws.rsplit_once('.').ok_or("it has no signature")?;
        let (header, payload) = signed.split_once('.').ok_or("it has no payload")?;
        let header: Header = part(header, "header")?;
        if header.alg != "ES256" || header.crit.is_some() {
            return Err(format!("alg: {:?} without crit is not ES256", header.alg));
        }
        let payload: Payload = part(payload, "payload")?;
        if payload.version != VERSION {
            return Err(format!(
                "version: {:?} is unknown; supported: {VERSION:?}",
                payload.version
            ));
        }
        if payload.provider != PROVIDER || !payload.provider_settings.is_empty() {
            return Err(format!(
                "provider: {:?} is unknown, or has settings; supported: {PROVIDER:?} without any",
                payload.provider
            ));
        }
        let resource = match &payload.content {
            Content::Vault { name } => name,
            Content::Envelope { key_id, .. } => key_id,
        };
        let resource: ResourceUri = resource.parse().map_err(|why: Failure| why.to_string())?;
        Ok(Self {
            signed: signed.to_owned(),
            signature: from_url(signature).ok_or("its signature is not base64url")?,
            signer: header.kid,
            content: payload.content,
            resource,
        })
    }

    /// The name of the key that has signed it: a resource's, or one that the initdata provisions.
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// The resource that it is opened with.
    pub fn resource(&self) -> &ResourceUri {
        &self.resource
    }

    /// The secret, if the key that is the resource `signer` has signed this.
    ///
    /// # Errors
    /// If it has not, if a resource is not there, or if it opens nothing.
    pub(crate) fn open(
        &self,
        signer: &ResourceUri,
        resources: &Resources,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let get = |uri: &ResourceUri| {
            resources
                .get(uri)
                .ok_or_else(|| Failure::here(format!("{uri} has not been fetched")))
        };
        self.verify(signer, get(signer)?)?;
        let resource = get(&self.resource)?;
        match &self.content {
            Content::Vault { .. } => Ok(resource.clone()),
            Content::Envelope { wrap_type, .. } if wrap_type != "A256GCM" => {
                Err(Failure::here(format!(
                    "a sealed secret: wrap_type: {wrap_type:?} is unknown; supported: \"A256GCM\""
                )))
            }
            Content::Envelope {
                encrypted_key,
                encrypted_data,
                iv,
                ..
            } => unwrap(resource, encrypted_key, encrypted_data, iv).ok_or_else(|| {
                Failure::here(format!(
                    "a sealed secret: {} does not decrypt it",
                    self.resource
                ))
            }),
        }
    }

    fn verify(&self, signer: &ResourceUri, jwk: &[u8]) -> Result<(), Failure> {
        let jwk: Value = serde_json::from_slice(jwk).unwrap_or_default();
        let (x, y) = coordinates(&jwk).ok_or_else(|| {
            Failure::here(format!(
                "{signer}, a signer's key, is no JWK of a key on P-256"
            ))
        })?;
        let point = [&[4][..], &x, &y].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| Failure::here(format!("a sealed secret was not signed by {signer}")))
    }
}

/// The JSON of one part.
fn part<T: for<'a> Deserialize<'a>>(text: &str, name: &str) -> Result<T, String> {
    let json = from_url(text).ok_or_else(|| format!("its {name} is not base64url"))?;
    serde_json::from_slice(&json).map_err(|why| format!("its {name}: {why}"))
}

fn unwrap(kek: &[u8], key: &str, data: &str, iv: &str) -> Option<Zeroizing<Vec<u8>>> {
    let key = unwrap_key(kek.try_into().ok()?, &from_standard(key)?)?;
    let iv = from_standard(iv)?.try_into().ok()?;
    decrypt(&key, iv, b"", from_standard(data)?)
}

#[cfg(test)]
mod tests;
