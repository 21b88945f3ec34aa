//! What a pod's author does: seals secrets.

use aes_kw::cipher::array::Array;
use aes_kw::{KeyInit, KwAes256};
use anyhow::{Result, anyhow};
use base64ct::{Base64, Encoding};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::{base64_url, random};

/// Who signs sealed secrets, by the name that is their `kid`.
pub struct Sealer {
    key: EcdsaKeyPair,
    kid: String,
}

impl Sealer {
    /// One with a key of its own.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn new(kid: &str) -> Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random);
        let document = document.map_err(|_| anyhow!("make a key"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        Ok(Self {
            key: key.map_err(|why| anyhow!("read a key: {why}"))?,
            kid: kid.to_owned(),
        })
    }

    /// The public half as a JWK, which is a resource.
    pub fn jwk(&self) -> Vec<u8> {
        let point = self.key.public_key().as_ref();
        let (x, y) = (base64_url(&point[1..33]), base64_url(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y})
            .to_string()
            .into_bytes()
    }

    /// A sealed secret that is a resource.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn vault(&self, name: &str) -> Result<String> {
        self.seal(&json!({
            "version": "0.1.0", "type": "vault", "name": name, "provider": "kbs",
            "provider_settings": {}, "annotations": {},
        }))
    }

    /// A sealed secret that holds the secret, encrypted, for whoever has the resource, which is `key`.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn envelope(&self, secret: &[u8], key_id: &str, key: [u8; 32]) -> Result<String> {
        let data_key = random::<32>()?;
        let mut wrapped = [0; 40];
        KwAes256::new(&Array(key))
            .wrap_key(&data_key, &mut wrapped)
            .map_err(|why| anyhow!("wrap: {why}"))?;
        let iv = random::<12>()?;
        let cipher = UnboundKey::new(&AES_256_GCM, &data_key).map_err(|_| anyhow!("key"))?;
        let mut data = secret.to_vec();
        LessSafeKey::new(cipher)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut data)
            .map_err(|_| anyhow!("encrypt"))?;
        self.seal(&json!({
            "version": "0.1.0", "type": "envelope", "provider": "kbs", "key_id": key_id,
            "encrypted_key": Base64::encode_string(&wrapped),
            "encrypted_data": Base64::encode_string(&data),
            "wrap_type": "A256GCM", "iv": Base64::encode_string(&iv),
            "provider_settings": {}, "annotations": {},
        }))
    }

    /// Any payload, signed.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn seal(&self, payload: &Value) -> Result<String> {
        let header = json!({"alg": "ES256", "kid": self.kid});
        let signed = format!(
            "{}.{}",
            base64_url(header.to_string().as_bytes()),
            base64_url(payload.to_string().as_bytes())
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| anyhow!("sign"))?;
        Ok(format!(
            "sealed.{signed}.{}",
            base64_url(signature.as_ref())
        ))
    }
}
