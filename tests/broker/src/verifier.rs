//! Whether evidence is good.

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::json::canonical;
use crate::protocol::Attestation;

/// What evidence has shown of a guest.
#[derive(Clone)]
pub(crate) struct Claims {
    /// What was launched, in hex.
    pub launch_digest: String,
    /// The digest of its initdata, in hex.
    pub init_data: String,
    /// What the key and the nonce were bound by, in hex.
    pub report_data: String,
}

/// Verifies the evidence of one attestation. The only kind there is a verifier for is a simulated TEE's,
/// and its evidence is taken only where that was asked for by name.
pub(crate) fn verify(
    tee: &str,
    attestation: &Attestation,
    hash: &str,
    accept_simulated: bool,
) -> Result<Claims> {
    ensure!(
        tee == "sample",
        "there is no verifier for evidence of {tee:?}"
    );
    ensure!(
        accept_simulated,
        "evidence of a SIMULATED TEE is not accepted; it shows nothing"
    );
    ensure!(
        attestation.tee_evidence.additional_evidence.is_empty(),
        "there is no verifier for additional evidence"
    );
    let evidence = &attestation.tee_evidence.primary_evidence;
    let text = |name: &str| {
        let field = evidence.get(name).and_then(Value::as_str);
        field.with_context(|| format!("the evidence has no {name}"))
    };
    let said = Base64::decode_vec(text("report_data")?)
        .map_err(|why| anyhow::anyhow!("report_data: {why}"))?;
    let bound = report_data(attestation, hash)?;
    ensure!(
        said == bound,
        "REPORT_DATA is for another key or another nonce"
    );
    let init_data = text("init_data")?;
    if let Some(sent) = &attestation.init_data {
        ensure!(sent.format == "toml", "init-data is not TOML");
        ensure!(
            init_data == hex(&Sha256::digest(&sent.body)),
            "the initdata is not the one that the TEE has bound"
        );
    }
    Ok(Claims {
        launch_digest: text("launch_digest")?.to_owned(),
        init_data: init_data.to_owned(),
        report_data: hex(&said),
    })
}

/// What the evidence has to bind.
fn report_data(attestation: &Attestation, hash: &str) -> Result<[u8; 64]> {
    let bound = canonical(&json!({
        "tee-pubkey": serde_json::to_value(&attestation.runtime_data.tee_pubkey)?,
        "nonce": attestation.runtime_data.nonce,
        "additional-evidence": attestation.tee_evidence.additional_evidence,
    }))?;
    let digest = match hash {
        "sha256" => Sha256::digest(bound).to_vec(),
        "sha384" => Sha384::digest(bound).to_vec(),
        "sha512" => Sha512::digest(bound).to_vec(),
        other => bail!("there is no hash {other:?}"),
    };
    let mut data = [0; 64];
    data[..digest.len()].copy_from_slice(&digest);
    Ok(data)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
