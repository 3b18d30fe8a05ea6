//! Certificates of those who connect. A listener may ask for one; who has none connects as before.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, server::VerifierBuilderError};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a whole certificate. Whoever has issued it knows it again by that.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateHash([u8; 32]);

impl CertificateHash {
    /// Of a certificate in DER form.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// As 64 small hex digits. It is no secret.
impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the other end of a connection has shown, as soon as its handshake is done. Each clone sees the same.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificate(Arc<OnceLock<CertificateHash>>);

impl PeerCertificate {
    /// The certificate; `None` before the handshake, and where the other end has shown none.
    #[must_use]
    pub fn get(&self) -> Option<CertificateHash> {
        self.0.get().copied()
    }

    /// Notes what was shown in a handshake.
    pub(super) fn note(&self, shown: Option<&[CertificateDer<'_>]>) {
        if let Some(own) = shown.and_then(<[_]>::first) {
            // A connection has one handshake.
            let _ = self.0.set(CertificateHash::of(own));
        }
    }
}

/// Asks for certificates that this authority alone has signed, and lets those in who have none. What is shown has to be right:
/// another authority's, one that has expired, or one that is for something else ends the handshake.
pub(super) fn verifier(
    authority: CertificateDer<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error: VerifierBuilderError| rustls::Error::General(error.to_string()))
}
