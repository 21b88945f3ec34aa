//! The messages, strictly: what the protocol does not have is refused.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of which exactly this is taken.
pub(crate) const VERSION: &str = "0.4.0";

/// Opens a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub version: String,
    pub tee: String,
    #[serde(rename = "extra-params")]
    pub extra_params: Value,
}

#[derive(Serialize)]
pub(crate) struct Challenge {
    pub nonce: String,
    #[serde(rename = "extra-params")]
    pub extra_params: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attestation {
    #[serde(rename = "init-data")]
    pub init_data: Option<InitData>,
    #[serde(rename = "runtime-data")]
    pub runtime_data: RuntimeData,
    #[serde(rename = "tee-evidence")]
    pub tee_evidence: TeeEvidence,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InitData {
    pub format: String,
    pub body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuntimeData {
    pub nonce: String,
    #[serde(rename = "tee-pubkey")]
    pub tee_pubkey: TeePubKey,
}

#[derive(Deserialize, Serialize, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeePubKey {
    pub kty: String,
    pub crv: String,
    pub alg: String,
    pub x: String,
    pub y: String,
}

/// Underscores here, hyphens elsewhere: so it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TeeEvidence {
    pub primary_evidence: Value,
    pub additional_evidence: String,
}

/// A refusal's reason.
#[derive(Serialize)]
pub(crate) struct ErrorInformation {
    #[serde(rename = "type")]
    pub kind: String,
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attestation_of_the_fields_own_client_is_understood() {
        let message = r#"{"init-data":null,"runtime-data":{"nonce":"AAAA","tee-pubkey":
            {"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"eA","y":"eQ"}},
            "tee-evidence":{"primary_evidence":{"svn":"1","report_data":"AA=="},
            "additional_evidence":""}}"#;
        let attestation: Attestation = serde_json::from_str(message).expect("understood");
        assert!(attestation.init_data.is_none());
        assert_eq!(attestation.runtime_data.tee_pubkey.x, "eA");
        let hyphens = message.replace("primary_evidence", "primary-evidence");
        assert!(serde_json::from_str::<Attestation>(&hyphens).is_err());
    }
}
