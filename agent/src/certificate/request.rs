//! A new key, and the request (PKCS#10) by which a certificate is asked for it. The server takes nothing from it but the key, so
//! nothing else is in it; and as both kinds have one size each, it is put together from constant parts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

/// Up to the key: `CertificationRequestInfo { version 0, no subject, SubjectPublicKeyInfo { ecPublicKey, prime256v1, …`.
const INFO: [u8; 33] = [
    0x30, 0x62, 0x02, 0x01, 0x00, 0x30, 0x00, 0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// After the key: no attributes.
const NO_ATTRIBUTES: [u8; 2] = [0xa0, 0x00];
/// `AlgorithmIdentifier { ecdsa-with-SHA256 }`.
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// Length of a public key of this curve, with its first byte.
const POINT_LEN: usize = 65;
/// Characters of a line of PEM.
const LINE: usize = 64;

/// A key that nobody else has, and the request for it.
pub(super) struct NewKey {
    /// PKCS#8, in PEM form.
    pub(super) key: Zeroizing<String>,
    /// In PEM form.
    pub(super) request: String,
}

/// Makes both.
///
/// # Errors
/// The system gives no random numbers.
pub(super) fn make() -> Result<NewKey, ring::error::Unspecified> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|_| ring::error::Unspecified)?;
    let point = pair.public_key().as_ref();
    if point.len() != POINT_LEN {
        return Err(ring::error::Unspecified);
    }
    let info = [&INFO[..], point, &NO_ATTRIBUTES].concat();
    let signature = pair.sign(&random, &info)?;
    // A bit string begins with the number of bits that do not count.
    let signature = element(0x03, &[&[0], signature.as_ref()].concat());
    let request = element(0x30, &[&info[..], &ECDSA_SHA256, &signature].concat());
    Ok(NewKey {
        key: pem("PRIVATE KEY", pkcs8.as_ref()),
        request: pem("CERTIFICATE REQUEST", &request).to_string(),
    })
}

/// Tag, length and content. No content here has 256 bytes or more.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ ..=0x7f) => element.push(short),
        Ok(long) => element.extend([0x81, long]),
        Err(_) => element.extend([0x82, (content.len() >> 8) as u8, content.len() as u8]),
    }
    element.extend_from_slice(content);
    element
}

fn pem(kind: &str, der: &[u8]) -> Zeroizing<String> {
    let digits = Zeroizing::new(STANDARD.encode(der));
    // Of the right size at once, so that no part of it is left behind in memory.
    let mut text = Zeroizing::new(String::with_capacity(digits.len() * 2 + 100));
    text.push_str(&format!("-----BEGIN {kind}-----\n"));
    for start in (0..digits.len()).step_by(LINE) {
        // Digits are ASCII.
        text.push_str(digits.get(start..digits.len().min(start + LINE)).unwrap_or_default());
        text.push('\n');
    }
    text.push_str(&format!("-----END {kind}-----\n"));
    text
}
