//! A resource as the broker sends it: JWE in its flattened form (RFC 7516, 7.2.2).

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Failure;
use crate::encoding::{array_from_url, from_url};
use crate::key::{ALGORITHM, TeeKey, coordinates, decrypt};

/// How the resource itself is encrypted.
const ENCRYPTION: &str = "A256GCM";

/// A header is no longer, in bytes of base64.
const LONGEST_HEADER: usize = 8 << 10;

#[derive(Deserialize)]
struct Flattened {
    protected: String,
    encrypted_key: String,
    iv: String,
    ciphertext: String,
    tag: String,
    aad: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
    epk: Value,
    apu: Option<String>,
    apv: Option<String>,
    zip: Option<Value>,
    crit: Option<Value>,
}

/// The resource that was encrypted to a key.
///
/// # Errors
/// [`Failure::Wrong`] if it was encrypted to another one, or is not of the form. Which of a decryption's
/// steps has failed is not told.
pub(crate) fn open(answer: &[u8], key: &TeeKey) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let flattened: Flattened = serde_json::from_slice(answer)
        .map_err(|why| Failure::wrong(format!("not a JWE in flattened form: {why}")))?;
    let header = read_header(&flattened.protected)?;
    decrypted(&flattened, &header, key).ok_or_else(|| {
        Failure::wrong("the JWE can't be decrypted: it was made for another key, or was changed")
    })
}

fn read_header(protected: &str) -> Result<Header, Failure> {
    if protected.len() > LONGEST_HEADER {
        return Err(Failure::wrong(format!(
            "the JWE's header is longer than {LONGEST_HEADER} bytes"
        )));
    }
    let json = from_url(protected)
        .ok_or_else(|| Failure::wrong("the JWE's header is not base64url without padding"))?;
    let header: Header = serde_json::from_slice(&json)
        .map_err(|why| Failure::wrong(format!("the JWE's header: {why}")))?;
    if (&*header.alg, &*header.enc) != (ALGORITHM, ENCRYPTION) {
        return Err(Failure::wrong(format!(
            "the JWE is encrypted by {:?} and {:?}, not by {ALGORITHM} and {ENCRYPTION}",
            header.alg, header.enc
        )));
    }
    // What would have to be understood, and is not.
    if header.zip.is_some() || header.crit.is_some() {
        return Err(Failure::wrong(
            "the JWE's header has zip or crit, which are not supported",
        ));
    }
    Ok(header)
}

fn decrypted(flattened: &Flattened, header: &Header, key: &TeeKey) -> Option<Zeroizing<Vec<u8>>> {
    let party = |text: &Option<String>| from_url(text.as_deref().unwrap_or_default());
    let (u, v) = (party(&header.apu)?, party(&header.apv)?);
    let wrapped = from_url(&flattened.encrypted_key)?;
    let content_key = key.unwrap(&coordinates(&header.epk)?, [&u, &v], &wrapped)?;
    // The header as it came: whoever writes it anew may write it otherwise.
    let aad = match &flattened.aad {
        Some(more) => format!("{}.{more}", flattened.protected),
        None => flattened.protected.clone(),
    };
    let mut sealed = from_url(&flattened.ciphertext)?;
    sealed.extend(array_from_url::<16>(&flattened.tag)?);
    decrypt(
        &content_key,
        array_from_url(&flattened.iv)?,
        aad.as_bytes(),
        sealed,
    )
}

#[cfg(test)]
mod tests;
