//! The broker's certificate: X.509, made here, so that a test may have one of any time and name.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use base64ct::{Base64, Encoding};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a certificate says beside its key.
pub struct Shape {
    /// A name of DNS; nothing for an address.
    pub name: Option<String>,
    /// That address, a loopback's at first.
    pub address: Ipv4Addr,
    /// Since when it holds.
    pub from: SystemTime,
    /// How long.
    pub lasts: Duration,
    /// Whether it may sign others, as openssl's `req -x509` has it.
    pub authority: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            name: None,
            address: Ipv4Addr::LOCALHOST,
            from: SystemTime::now() - Duration::from_secs(3600),
            lasts: Duration::from_secs(10 * 365 * 86400),
            authority: false,
        }
    }
}

/// A key and the certificate that shows it.
pub struct Identity {
    certificate: Vec<u8>,
    pkcs8: Vec<u8>,
}

impl Identity {
    /// One that has signed itself.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn new(shape: &Shape) -> Result<Self> {
        Self::signed(shape, None)
    }

    /// One that this has signed.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn sign(&self, shape: &Shape) -> Result<Self> {
        Self::signed(shape, Some(self))
    }

    fn signed(shape: &Shape, by: Option<&Self>) -> Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random);
        let pkcs8 = document
            .map_err(|_| anyhow!("make a key"))?
            .as_ref()
            .to_vec();
        let read = |pkcs8: &[u8]| {
            EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &random).map_err(|why| anyhow!("key: {why}"))
        };
        let key = read(&pkcs8)?;
        let signer = read(by.map_or(&pkcs8, |by| &by.pkcs8))?;
        let subject = if by.is_some() {
            "broker"
        } else {
            "trefoil tests"
        };
        let to_sign = to_be_signed(shape, subject, key.public_key().as_ref())?;
        let signature = signer
            .sign(&random, &to_sign)
            .map_err(|_| anyhow!("sign"))?;
        let certificate = sequence(&[to_sign, ECDSA_SHA256.to_vec(), bits(signature.as_ref())]);
        Ok(Self { certificate, pkcs8 })
    }

    /// The certificate as initdata has it.
    pub fn pem(&self) -> String {
        let text = Base64::encode_string(&self.certificate);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for (at, one) in text.chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(one);
        }
        pem + "\n-----END CERTIFICATE-----\n"
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone().into()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }
}

/// ecdsa-with-SHA256, 1.2.840.10045.4.3.2.
const ECDSA_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// id-ecPublicKey on prime256v1.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];

fn to_be_signed(shape: &Shape, subject: &str, point: &[u8]) -> Result<Vec<u8>> {
    let validity = sequence(&[time(shape.from)?, time(shape.from + shape.lasts)?]);
    let mut extensions = vec![extension(0x11, false, &sequence(&[alternative(shape)]))];
    if shape.authority {
        let may_sign = sequence(&[tagged(0x01, &[0xff])]);
        extensions.push(extension(0x13, true, &may_sign));
    }
    Ok(sequence(&[
        // Version 3.
        tagged(0xa0, &tagged(0x02, &[2])),
        tagged(0x02, &[1]),
        ECDSA_SHA256.to_vec(),
        name("trefoil tests"),
        validity,
        name(subject),
        sequence(&[P256.to_vec(), bits(point)]),
        tagged(0xa3, &sequence(&extensions)),
    ]))
}

/// A common name, 2.5.4.3.
fn name(common: &str) -> Vec<u8> {
    let pair = sequence(&[
        vec![0x06, 0x03, 0x55, 0x04, 0x03],
        tagged(0x0c, common.as_bytes()),
    ]);
    sequence(&[tagged(0x31, &pair)])
}

/// A name of the server: DNS's, or an address.
fn alternative(shape: &Shape) -> Vec<u8> {
    match &shape.name {
        Some(name) => tagged(0x82, name.as_bytes()),
        None => tagged(0x87, &shape.address.octets()),
    }
}

/// An extension 2.5.29.x.
fn extension(last: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![vec![0x06, 0x03, 0x55, 0x1d, last]];
    if critical {
        parts.push(tagged(0x01, &[0xff]));
    }
    parts.push(tagged(0x04, value));
    sequence(&parts)
}

/// GeneralizedTime in UTC.
fn time(at: SystemTime) -> Result<Vec<u8>> {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let (day, second) = (i64::try_from(seconds / 86400)?, seconds % 86400);
    let (year, month, day) = civil(day);
    let text = format!(
        "{year:04}{month:02}{day:02}{:02}{:02}{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    );
    // RFC 5280 wants the short form of years before 2050.
    match year {
        ..2050 => Ok(tagged(0x17, text.get(2..).context("time")?.as_bytes())),
        _ => Ok(tagged(0x18, text.as_bytes())),
    }
}

/// The date of a day since 1970, counted in years that begin in March.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tagged(0x03, &[&[0], bytes].concat())
}

/// DER's tag, length and value. Nothing here is longer than 64 KiB.
fn tagged(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut bytes = match value.len() {
        ..128 => vec![tag, low],
        128..256 => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    bytes.extend_from_slice(value);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_787), (2026, 11, 30));
    }
}
