//! The key that secrets are encrypted to: made for one exchange, in no other hands, and wiped after it.

use aes_kw::cipher::array::Array;
use aes_kw::{KeyInit, KwAes256};
use p256::{PublicKey, SecretKey};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::Failure;
use crate::encoding::{array_from_url, to_url};

/// How a secret's key is encrypted, as JOSE names it.
pub(crate) const ALGORITHM: &str = "ECDH-ES+A256KW";

/// The curve.
pub(crate) const CURVE: &str = "P-256";

/// The size of a symmetric key, in bytes.
const KEY: usize = 32;

/// A point of the curve, as two coordinates.
pub(crate) type Coordinates = ([u8; KEY], [u8; KEY]);

/// A key pair of a guest's.
pub(crate) struct TeeKey {
    /// Wiped when it is dropped.
    secret: SecretKey,
}

impl TeeKey {
    /// One that nobody else has.
    ///
    /// # Errors
    /// If the kernel gives no random bytes.
    pub(crate) fn generate() -> Result<Self, Failure> {
        let random = SystemRandom::new();
        // One in 2³² is no key of the curve's.
        for _ in 0..8 {
            let mut bytes = Zeroizing::new([0; KEY]);
            random
                .fill(bytes.as_mut())
                .map_err(|_| Failure::here("make a key: the kernel gives no random bytes"))?;
            if let Ok(secret) = SecretKey::from_slice(bytes.as_ref()) {
                return Ok(Self { secret });
            }
        }
        Err(Failure::here("make a key: the random bytes make none"))
    }

    /// One that is known.
    #[cfg(any(test, fuzzing))]
    #[expect(clippy::expect_used, reason = "of tests alone")]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let secret = SecretKey::from_slice(bytes).expect("a key");
        Self { secret }
    }

    /// The public half's coordinates.
    pub(crate) fn public(&self) -> Coordinates {
        let point = self.secret.public_key().to_sec1_bytes();
        let half = |from: usize| {
            let mut half = [0; KEY];
            if let Some(bytes) = point.get(from..from + KEY) {
                half.copy_from_slice(bytes);
            }
            half
        };
        // The first byte says that neither is compressed.
        (half(1), half(1 + KEY))
    }

    /// The public half, as the protocol has it.
    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.public();
        json!({"kty": "EC", "crv": CURVE, "alg": ALGORITHM, "x": to_url(&x), "y": to_url(&y)})
    }

    /// Unwraps a key that was encrypted to this one by somebody with an ephemeral key.
    pub(crate) fn unwrap(
        &self,
        theirs: &Coordinates,
        parties: [&[u8]; 2],
        wrapped: &[u8],
    ) -> Option<Zeroizing<[u8; KEY]>> {
        let point = [&[4][..], &theirs.0, &theirs.1].concat();
        // Refused if it is not on the curve.
        let theirs = PublicKey::from_sec1_bytes(&point).ok()?;
        let shared = self.secret.diffie_hellman(&theirs);
        let key = concat_kdf(shared.raw_secret_bytes(), parties);
        unwrap_key(&key, wrapped)
    }
}

/// The wrapping key of RFC 7518, 4.6.2: one round of the Concat KDF with SHA-256.
fn concat_kdf(shared: &[u8], [u, v]: [&[u8]; 2]) -> Zeroizing<[u8; KEY]> {
    let mut digest = Context::new(&SHA256);
    digest.update(&1_u32.to_be_bytes());
    digest.update(shared);
    for part in [ALGORITHM.as_bytes(), u, v] {
        // Each is a part of a header, which is bounded.
        digest.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.update(&256_u32.to_be_bytes());
    let mut key = Zeroizing::new([0; KEY]);
    key.copy_from_slice(digest.finish().as_ref());
    key
}

/// Unwraps a key of 32 bytes by AES key wrap (RFC 3394).
pub(crate) fn unwrap_key(key: &[u8; KEY], wrapped: &[u8]) -> Option<Zeroizing<[u8; KEY]>> {
    let mut unwrapped = Zeroizing::new([0; KEY]);
    match KwAes256::new(&Array(*key)).unwrap_key(wrapped, unwrapped.as_mut()) {
        Ok(bytes) if bytes.len() == KEY => Some(unwrapped),
        _ => None,
    }
}

/// Decrypts AES-256-GCM; `sealed` ends with the tag.
pub(crate) fn decrypt(
    key: &[u8; KEY],
    iv: [u8; 12],
    aad: &[u8],
    sealed: Vec<u8>,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(sealed);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let iv = Nonce::assume_unique_for_key(iv);
    let length = key
        .open_in_place(iv, Aad::from(aad), &mut bytes)
        .ok()?
        .len();
    bytes.truncate(length);
    Some(bytes)
}

/// The coordinates of a public key on P-256, from its JWK.
pub(crate) fn coordinates(jwk: &Value) -> Option<Coordinates> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if (text("kty"), text("crv")) != (Some("EC"), Some(CURVE)) {
        return None;
    }
    Some((array_from_url(text("x")?)?, array_from_url(text("y")?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::from_url;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
        digits
            .chunks(2)
            .map(|two| pair(two).expect("hex"))
            .collect()
    }

    #[test]
    fn a_key_is_unwrapped_as_rfc_3394_has_it() {
        // 4.6: 256 bits of key data with a 256-bit key.
        let key: [u8; 32] = (0..32).collect::<Vec<u8>>().try_into().expect("32");
        let wrapped = bytes(
            "28C9F404C4B810F4 CBCCB35CFB87F826 3F5786E2D80ED326 CBC7F0E71A99F43B FB988B9B7A02DD21",
        );
        let unwrapped = unwrap_key(&key, &wrapped).expect("unwrap");
        let data = bytes("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
        assert_eq!(unwrapped.as_slice(), data);
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(unwrap_key(&key, &changed).is_none());
        }
        for length in [0, 8, 24, 32, 39] {
            assert!(unwrap_key(&key, &wrapped[..length]).is_none());
        }
        assert!(unwrap_key(&key, &[0; 48]).is_none());
    }

    #[test]
    fn the_shared_secret_is_rfc_7518s() {
        // Appendix C; the derived key there is for another algorithm, the secret is the same.
        let alice = "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0";
        let alice_y = "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps";
        let bob = from_url("VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw").expect("bob's key");
        let key = TeeKey::of(&bob);
        let (x, y) = key.public();
        assert_eq!(to_url(&x), "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ");
        assert_eq!(to_url(&y), "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck");
        let point = [
            vec![4],
            from_url(alice).expect("x"),
            from_url(alice_y).expect("y"),
        ];
        let theirs = PublicKey::from_sec1_bytes(&point.concat()).expect("a point");
        let shared = key.secret.diffie_hellman(&theirs);
        let expected: [u8; 32] = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49,
            110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        assert_eq!(shared.raw_secret_bytes().as_slice(), expected);
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let key = TeeKey::generate().expect("a key");
        assert!(
            key.unwrap(&([1; 32], [2; 32]), [b"", b""], &[0; 40])
                .is_none()
        );
        assert!(
            key.unwrap(&([0; 32], [0; 32]), [b"", b""], &[0; 40])
                .is_none()
        );
    }
}
