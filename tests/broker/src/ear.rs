//! The token: an entity attestation result (EAR) as a signed JWT.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::base64_url;
use crate::protocol::RuntimeData;
use crate::verifier::Claims;

/// Who signs tokens.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
}

impl Signer {
    pub(crate) fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random);
        let document = document.map_err(|_| anyhow!("make a key"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        Ok(Self {
            key: key.map_err(|why| anyhow!("read a key: {why}"))?,
        })
    }

    /// The token of a guest. It is contraindicated: nothing was proven.
    pub(crate) fn token(&self, claims: &Claims, data: &RuntimeData) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256"});
        let claims = json!({
            "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
            "iat": now,
            "exp": now + 300,
            "submods": {"cpu0": {
                "ear.status": "contraindicated",
                "ear.veraison.annotated-evidence": {
                    "sample": {"launch_digest": claims.launch_digest},
                    "init_data": claims.init_data,
                    "report_data": claims.report_data,
                    "runtime_data_claims": {"nonce": data.nonce, "tee-pubkey": data.tee_pubkey},
                },
            }},
        });
        let signed = format!(
            "{}.{}",
            base64_url(header.to_string().as_bytes()),
            base64_url(claims.to_string().as_bytes())
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| anyhow!("sign the token"))?;
        Ok(format!("{signed}.{}", base64_url(signature.as_ref())))
    }
}
