//! What a device asks a certificate with: a PKCS#10 request, of which nothing is taken but its public key, and that only if the
//! request was signed with the key that belongs to it. What it says of names, uses and extensions is left alone: the server knows
//! whose certificate it is and what for.

use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer as _;

/// Longest request, in bytes of its PEM form; one of the agent has 300.
pub(crate) const REQUEST_MAX_LEN: usize = 4096;

/// A public key whose owner has shown that the private one is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The key as a certificate has it: a SubjectPublicKeyInfo in DER form.
    spki: Vec<u8>,
}

impl CertificateRequest {
    /// Reads a field of a JSON body.
    ///
    /// # Errors
    /// What is expected instead.
    pub fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::String(pem) => Self::from_pem(&pem),
            _ => Err("a certificate request in PEM form is expected, as text".to_owned()),
        }
    }

    /// Reads a request, which may come from anybody.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        if pem.len() > REQUEST_MAX_LEN {
            return Err(format!("is too long: at most {REQUEST_MAX_LEN} bytes are read"));
        }
        let unreadable = || "is no certificate request (PKCS#10) in PEM form".to_owned();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable())?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| unreadable())?;
        if !rest.is_empty() {
            return Err(unreadable());
        }
        let key = &request.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err("its key is of another kind: an elliptic curve key, P-256 (prime256v1), is expected"
                .to_owned());
        }
        let is_signed = request.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256
            && request.verify_signature().is_ok();
        if !is_signed {
            return Err("its signature is not that of its own key, by ECDSA with SHA-256".to_owned());
        }
        Ok(Self { spki: key.raw.to_vec() })
    }

    /// The public key as a certificate has it: a SubjectPublicKeyInfo in DER form.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.spki
    }

    /// By what the key is known again: 64 hex digits.
    #[must_use]
    pub fn key_sha256(&self) -> String {
        Sha256::digest(&self.spki).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        PublicKeyData as _,
    };

    use super::*;

    fn request(key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["fleet.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "default/somebody-else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn pem(der: &[u8]) -> String {
        pem_of("CERTIFICATE REQUEST", der)
    }

    fn pem_of(kind: &str, der: &[u8]) -> String {
        use std::fmt::Write as _;
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = format!("-----BEGIN {kind}-----\n");
        for line in der.chunks(48) {
            for three in line.chunks(3) {
                let bits = three
                    .iter()
                    .chain([&0; 2])
                    .take(3)
                    .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
                for n in 0..4 {
                    text.push(if n <= three.len() {
                        char::from(DIGITS[bits >> (18 - 6 * n) & 63])
                    } else {
                        '='
                    });
                }
            }
            text.push('\n');
        }
        writeln!(text, "-----END {kind}-----").unwrap();
        text
    }

    #[test]
    fn of_a_request_nothing_but_the_key_is_taken() {
        let key = KeyPair::generate().unwrap();
        let read = CertificateRequest::from_pem(&pem(&request(&key))).unwrap();
        assert_eq!(read.public_key(), key.subject_public_key_info());
        assert_eq!(read.key_sha256().len(), 64);
        let again = CertificateRequest::read(Value::String(pem(&request(&key)))).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn a_request_that_its_own_key_has_not_signed_is_refused() {
        let mut der = request(&KeyPair::generate().unwrap());
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(CertificateRequest::from_pem(&pem(&der)).unwrap_err().contains("signature"));
        // Somebody else's key in a request of one's own.
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut der = request(&own);
        let (own, other) = (own.der_bytes(), other.der_bytes());
        let at = der.windows(own.len()).position(|part| part == own).unwrap();
        der[at..at + other.len()].copy_from_slice(other);
        assert!(CertificateRequest::from_pem(&pem(&der)).unwrap_err().contains("signature"));
    }

    #[test]
    fn keys_of_other_kinds_and_what_is_no_request_are_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let der = request(&KeyPair::generate_for(algorithm).unwrap());
            assert!(CertificateRequest::from_pem(&pem(&der)).unwrap_err().contains("P-256"));
        }
        let der = request(&KeyPair::generate().unwrap());
        let mut longer = der.clone();
        longer.push(0);
        for bad in [
            String::new(),
            "-----BEGIN CERTIFICATE REQUEST-----".to_owned(),
            pem(&[]),
            pem(&der[..der.len() - 1]),
            pem(&longer),
            pem_of("CERTIFICATE", &der),
        ] {
            let problem = CertificateRequest::from_pem(&bad).unwrap_err();
            assert!(problem.contains("no certificate request"), "{bad}: {problem}");
        }
        assert!(
            CertificateRequest::from_pem(&"x".repeat(REQUEST_MAX_LEN + 1)).unwrap_err().contains("too long")
        );
        assert!(CertificateRequest::read(Value::Bool(true)).is_err());
    }

    proptest! {
        /// A request that was changed anywhere is refused or has the same key: never a panic, never another key.
        #[test]
        fn a_request_that_was_changed_gives_no_other_key(at in 0_usize..1000, bit in 0_u8..8, cut in 0_usize..600) {
            let key = KeyPair::generate().unwrap();
            let mut der = request(&key);
            let at = at % der.len();
            der[at] ^= 1 << bit;
            if let Ok(read) = CertificateRequest::from_pem(&pem(&der)) {
                prop_assert_eq!(read.public_key(), &key.subject_public_key_info()[..]);
            }
            der.truncate(cut.min(der.len() - 1));
            prop_assert!(CertificateRequest::from_pem(&pem(&der)).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000), text in ".{0,300}") {
            prop_assert!(CertificateRequest::from_pem(&pem(&bytes)).is_err());
            prop_assert!(CertificateRequest::from_pem(&text).is_err());
        }
    }
}
