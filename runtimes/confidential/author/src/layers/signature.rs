//! Signatures of images, as cosign makes them with a key: a text that names the image's digest, signed, beside
//! the image under a tag of its own.

use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use base64ct::{Base64, Encoding};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use trefoil_core::{Context, Error, ErrorKind, Result};

use super::blob::Directory;
use super::document::{Descriptor, Manifest};
use super::{Choice, Digest};

/// What a public key of P-256 begins with in DER, before the point (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// A point that is not compressed.
const POINT: usize = 65;
/// The layers of a signature's manifest: one for each signature.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation with the signature of one.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What the signed text says that it is.
const KIND: &str = "cosign container image signature";
/// The longest text, in bytes.
const MOST_PAYLOAD: u64 = 64 << 10;

/// Whose signatures are believed.
#[derive(Clone, Debug)]
pub struct PublicKey {
    point: Vec<u8>,
}

impl FromStr for PublicKey {
    type Err = Error;

    /// Reads a key of P-256 in PEM.
    fn from_str(pem: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("the key must be a public key of P-256 in PEM, as cosign.pub is");
        let body = pem
            .trim()
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or_else(wrong)?;
        let body: String = body.split_whitespace().collect();
        let der = Base64::decode_vec(&body).map_err(|_| wrong())?;
        match der.strip_prefix(&P256) {
            Some(point) if point.len() == POINT && point[0] == 4 => Ok(Self {
                point: point.to_vec(),
            }),
            _ => Err(wrong()),
        }
    }
}

/// The signed text, as far as it says what was signed.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SignedImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

impl PublicKey {
    /// Makes sure that an image of a layout has a signature of this key: of its manifest, or of an index that
    /// leads to it from its name.
    ///
    /// # Errors
    /// If it has none.
    pub fn verify_image(&self, layout: &Path, choice: &Choice) -> Result<()> {
        let directory = Directory::new(layout);
        let (manifest, through) = choice.find_through(&directory)?;
        for signed in through.iter().chain([&manifest]) {
            if self.has_signed(&directory, &signed.digest)? {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "the image {} has no signature of this key in its layout: `cosign save` keeps them with it",
                manifest.digest
            ),
        ))
    }

    /// Whether there is a signature of this key for a digest.
    fn has_signed(&self, directory: &Directory, digest: &Digest) -> Result<bool> {
        let (algorithm, digits) = digest.parts();
        let signatures = Choice {
            reference: Some(format!("image:{algorithm}-{digits}.sig")),
            ..Choice::default()
        };
        let found = match signatures.find(directory) {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let manifest: Manifest = directory.document(&found)?;
        for layer in manifest
            .layers
            .iter()
            .filter(|layer| layer.media_type == PAYLOAD)
        {
            if self.is_signature(directory, layer, digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a layer is this key's signature for a digest. One of another key is none, and no error.
    fn is_signature(
        &self,
        directory: &Directory,
        layer: &Descriptor,
        digest: &Digest,
    ) -> Result<bool> {
        let Some(signature) = layer.annotations.get(SIGNATURE) else {
            return Ok(false);
        };
        let Ok(signature) = Base64::decode_vec(signature) else {
            return Ok(false);
        };
        if layer.size > MOST_PAYLOAD {
            return Ok(false);
        }
        let doing = || format!("read the signature {}", layer.digest);
        let mut payload = Vec::new();
        directory
            .blob(&layer.digest, layer.size)?
            .read_to_end(&mut payload)
            .context(doing)?;
        if !self.verify(&payload, &signature) {
            return Ok(false);
        }
        let payload: Payload = serde_json::from_slice(&payload).context(doing)?;
        Ok(payload.critical.kind == KIND && payload.critical.image.digest == *digest)
    }

    fn verify(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(payload, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by OpenSSL.
    const PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEallcPRdGsKXxWcDGfOUYho+6LO+u
fURVt5hPp/YLQc8eSkV3OnwGfNgxUiOYjHWT+VUf7rZisD91pgzkXlx7hQ==
-----END PUBLIC KEY-----
";
    const TEXT: &str = r#"{"critical":{"identity":{"docker-reference":"example.org/web"},"image":{"docker-manifest-digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},"type":"cosign container image signature"},"optional":null}"#;
    const SIGNED: &str = "MEUCIQCDMw4+SyhsB+3bAbxPFC22p+0EUwbxbjtYFNRnYZaRlAIgQX9MDI9vjTxJFWWd/peyuOrhpvsjc44SM/Rg0Tf7G78=";

    #[test]
    fn a_signature_of_another_program_is_verified() {
        let key: PublicKey = PEM.parse().expect("a key");
        let signature = Base64::decode_vec(SIGNED).expect("base64");
        assert!(key.verify(TEXT.as_bytes(), &signature));
        assert!(!key.verify(b"another text", &signature));
        for at in 0..signature.len() {
            let mut other = signature.clone();
            other[at] ^= 1;
            assert!(!key.verify(TEXT.as_bytes(), &other), "{at}");
        }
    }

    #[test]
    fn what_is_no_key_of_p256_is_refused() {
        let rsa = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAK==\n-----END PUBLIC KEY-----\n";
        let cut = PEM.replacen('M', "", 1);
        for pem in [
            "",
            "MFkw",
            rsa,
            cut.as_str(),
            &PEM.replace("PUBLIC", "PRIVATE"),
        ] {
            let why = pem.parse::<PublicKey>().expect_err(pem).to_string();
            assert!(why.contains("P-256 in PEM"), "{why}");
        }
    }
}
