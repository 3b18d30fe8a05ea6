//! The authority for devices: it signs the certificates by which they log in, and nothing else. Its own key and certificate
//! (`devices-ca.key`, `devices-ca.pem`) lie beside those of the server's authority. It is another one, so that no certificate of a
//! server, or of anybody whom that authority knows, passes as a device's, and none of a device as a server's.

use std::fmt;
use std::time::Duration;

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Authority, AuthorityError, Files, called, moment};
use crate::domain::certificate_request::CertificateRequest;

/// Certificates begin so long before they are signed: the clocks of servers beside each other need not agree.
const BEFORE: i64 = 300;

/// Signs for devices.
pub struct DeviceAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    life: Duration,
}

/// A certificate that was signed. Nobody may log in with it before its row is in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The certificate in PEM form.
    pub pem: String,
    /// Its serial number: 32 hex digits.
    pub serial: String,
    /// SHA-256 of it, by which it is known again.
    pub sha256: broker::tls::CertificateHash,
    /// When it should be replaced, ms since 1970: two thirds of its life are over.
    pub renew_at: i64,
    /// When it ends, ms since 1970.
    pub expires_at: i64,
}

impl Authority {
    /// The authority for devices, made if there is none. Its certificates live so long.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn devices(&self, life: Duration, now_s: i64) -> Result<DeviceAuthority, AuthorityError> {
        const FILES: Files = Files { certificate: "devices-ca.pem", key: "devices-ca.key" };
        self.make_folder()?;
        if !self.path(FILES.key).exists() {
            self.make_authority(FILES, "R58 Fleet devices", now_s)?;
        }
        let pem = self.read(FILES.certificate)?.ok_or_else(|| self.damaged(FILES.certificate))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
        let certificate = certificate.map_err(|_| self.damaged(FILES.certificate))?;
        Ok(DeviceAuthority { issuer: self.issuer(FILES)?, certificate, life })
    }
}

impl DeviceAuthority {
    /// What the listeners know the certificates by.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Signs a certificate for this key under this name, `{org}/{device}`.
    ///
    /// # Errors
    /// [`AuthorityError::Making`].
    pub fn sign(
        &self,
        name: &str,
        request: &CertificateRequest,
        now_ms: i64,
    ) -> Result<Signed, AuthorityError> {
        let serial = *uuid::Uuid::new_v4().as_bytes();
        let life_s = i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX / 2000);
        // A certificate has whole seconds.
        let now_s = now_ms.div_euclid(1000);
        let expires_s = now_s.saturating_add(life_s);
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        params.not_before = moment(now_s.saturating_sub(BEFORE))?.to_datetime();
        params.not_after = moment(expires_s)?.to_datetime();
        let key = SubjectPublicKeyInfo::from_der(request.public_key())?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Signed {
            pem: certificate.pem(),
            serial: serial.iter().map(|byte| format!("{byte:02x}")).collect(),
            sha256: broker::tls::CertificateHash::of(certificate.der()),
            renew_at: now_s.saturating_add(life_s / 3 * 2 + life_s % 3 * 2 / 3) * 1000,
            expires_at: expires_s * 1000,
        })
    }
}

/// Without the key.
impl fmt::Debug for DeviceAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthority").field("life", &self.life).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    const NOW_MS: i64 = 1_795_000_000_123;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn request() -> CertificateRequest {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        CertificateRequest::from_pem(&request.pem().unwrap()).unwrap()
    }

    fn passes(authority: &CertificateDer<'_>, pem: &str, after: Duration) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let then = Duration::from_millis(u64::try_from(NOW_MS).unwrap()) + after;
        verifier.verify_client_cert(&certificate, &[], UnixTime::since_unix_epoch(then)).is_ok()
    }

    #[test]
    fn a_certificate_says_what_the_server_knows_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::of(data.path()).devices(90 * DAY, NOW_MS / 1000).unwrap();
        let request = request();
        let signed = authority.sign("default/studio-001", &request, NOW_MS).unwrap();
        assert_eq!(signed.expires_at, (NOW_MS / 1000 + 90 * 86_400) * 1000);
        assert_eq!(signed.renew_at, (NOW_MS / 1000 + 60 * 86_400) * 1000);
        let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
        assert_eq!(signed.sha256, broker::tls::CertificateHash::of(&der));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=default/studio-001");
        assert_eq!(certificate.public_key().raw, request.public_key());
        assert_eq!(certificate.validity().not_after.timestamp() * 1000, signed.expires_at);
        assert_eq!(certificate.validity().not_before.timestamp(), NOW_MS / 1000 - BEFORE);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!certificate.is_ca() && certificate.subject_alternative_name().unwrap().is_none());
        let next = authority.sign("default/studio-001", &request, NOW_MS).unwrap();
        assert_ne!((&next.serial, next.sha256), (&signed.serial, signed.sha256));
    }

    #[test]
    fn it_passes_until_it_expires_and_neither_authority_passes_for_the_other() {
        let data = tempfile::tempdir().unwrap();
        let files = Authority::of(data.path());
        let authority = files.devices(DAY, NOW_MS / 1000).unwrap();
        let signed = authority.sign("default/studio-001", &request(), NOW_MS).unwrap();
        assert!(passes(authority.certificate(), &signed.pem, Duration::ZERO));
        assert!(
            !passes(authority.certificate(), &signed.pem, DAY + Duration::from_secs(1)),
            "it has expired"
        );
        files.init(&["fleet.example".to_owned()], NOW_MS / 1000).unwrap();
        let server = fs::read_to_string(data.path().join("tls/server.pem")).unwrap();
        let of_servers = CertificateDer::from_pem_slice(&fs::read(files.certificate()).unwrap()).unwrap();
        assert!(!passes(authority.certificate(), &server, Duration::ZERO));
        assert!(!passes(&of_servers, &signed.pem, Duration::ZERO));
        assert!(!passes(&of_servers, &server, Duration::ZERO), "it is for servers");
    }

    #[test]
    fn it_is_made_once_and_its_key_is_private() {
        let data = tempfile::tempdir().unwrap();
        let files = Authority::of(data.path());
        let first = files.devices(DAY, NOW_MS / 1000).unwrap();
        let again = files.devices(DAY, NOW_MS / 1000 + 9).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let key = data.path().join("tls/devices-ca.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&key, "mine").unwrap();
        assert!(matches!(files.devices(DAY, NOW_MS / 1000), Err(AuthorityError::Damaged { .. })));
    }
}
