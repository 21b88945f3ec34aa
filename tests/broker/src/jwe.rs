//! Encrypting a resource to a guest's key.

use aes_kw::cipher::array::Array;
use aes_kw::{KeyInit, KwAes256};
use anyhow::{Result, anyhow, ensure};
use p256::{PublicKey, SecretKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fault::Fault;
use crate::protocol::TeePubKey;
use crate::{base64_url, from_base64_url, random};

const ALGORITHM: &str = "ECDH-ES+A256KW";

/// The JWE of a resource.
pub(crate) fn encrypt(resource: &[u8], to: &TeePubKey, fault: Option<Fault>) -> Result<Value> {
    ensure!(
        (&*to.kty, &*to.crv, &*to.alg) == ("EC", "P-256", ALGORITHM),
        "keys of this kind are not encrypted to"
    );
    let point = [vec![4], from_base64_url(&to.x)?, from_base64_url(&to.y)?].concat();
    let mut theirs = PublicKey::from_sec1_bytes(&point).map_err(|_| anyhow!("no public key"))?;
    if fault == Some(Fault::OtherKey) {
        theirs = SecretKey::from_slice(&random::<32>()?)?.public_key();
    }
    let ephemeral = SecretKey::from_slice(&random::<32>()?)?;
    let wrapping = wrapping_key(ephemeral.diffie_hellman(&theirs).raw_secret_bytes());
    let key = random::<32>()?;
    let mut wrapped = [0; 40];
    KwAes256::new(&Array(wrapping))
        .wrap_key(&key, &mut wrapped)
        .map_err(|why| anyhow!("wrap: {why}"))?;
    let ours = ephemeral.public_key().to_sec1_bytes();
    let header = json!({
        "alg": ALGORITHM,
        "enc": "A256GCM",
        "epk": {"kty": "EC", "crv": "P-256", "x": base64_url(&ours[1..33]), "y": base64_url(&ours[33..])},
    })
    .to_string();
    let protected = base64_url(header.as_bytes());
    let iv = random::<12>()?;
    let mut sealed = resource.to_vec();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow!("key"))?);
    let tag = cipher
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(iv),
            Aad::from(protected.as_bytes()),
            &mut sealed,
        )
        .map_err(|_| anyhow!("encrypt"))?;
    let mut tag = tag.as_ref().to_vec();
    let mut protected = protected;
    match fault {
        Some(Fault::WrongTag) => tag[0] ^= 1,
        Some(Fault::WrongHeader) => protected = base64_url(format!("{header} ").as_bytes()),
        _ => {}
    }
    Ok(json!({
        "protected": protected,
        "encrypted_key": base64_url(&wrapped),
        "iv": base64_url(&iv),
        "ciphertext": base64_url(&sealed),
        "tag": base64_url(&tag),
    }))
}

/// RFC 7518, 4.6.2, without parties' names.
fn wrapping_key(shared: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([0, 0, 0, 1]);
    hash.update(shared);
    hash.update([0, 0, 0, 14]);
    hash.update(ALGORITHM);
    hash.update([0; 8]);
    hash.update([0, 0, 1, 0]);
    hash.finalize().into()
}
