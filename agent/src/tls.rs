//! Whom the device trusts, and how it shows who it is, over TLS: the same for HTTPS and MQTT.
//!
//! Trusted are the authorities in `CA_FILE` alone if it is set, else those of the system
//! (`/etc/ssl/certs/ca-certificates.crt`, or the file that `SSL_CERT_FILE` names).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier,
};
use zeroize::Zeroizing;

use crate::certificate;
use crate::config::Config;

/// Where Debian keeps the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longest file with certificates or a key, in bytes.
const PEM_MAX_LEN: u64 = 4 * 1024 * 1024;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path} ({what})")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no list of authorities.
    #[error("{path} does not exist: install the package ca-certificates, or set CA_FILE")]
    NoAuthorities {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it has to.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// What it has to hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit.
    #[error("CLIENT_CERT {cert} cannot be used with CLIENT_KEY {key}")]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The cryptography does not offer what is needed.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// A certificate and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Those that are configured.
    pub(crate) fn configured(config: &Config) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (&config.client_cert, &config.client_key) else { return Ok(None) };
        let chain = certificates("certificate", cert)?;
        Ok(Some(Self { chain, key: private_key(&read_key(key)?, key)? }))
    }

    /// Both from one text, of the file at `path`.
    pub(crate) fn from_pem(pem: &[u8], path: &Path) -> Result<Self, TlsError> {
        let chain = all_certificates("certificate", pem, path)?;
        let identity = Self { chain, key: private_key(pem, path)? };
        // They have to belong together.
        let provider = rustls::crypto::ring::default_provider();
        rustls::sign::CertifiedKey::from_der(identity.chain.clone(), identity.key.clone_key(), &provider)
            .map_err(|source| TlsError::Identity { cert: path.to_owned(), key: path.to_owned(), source })?;
        Ok(identity)
    }
}

/// What rustls needs for a connection to the fleet server or broker, as it is configured.
///
/// # Errors
/// When a file is missing or does not hold what it has to.
pub fn client_config(config: &Config) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_with(config, Identity::configured(config)?)
}

/// The same with this certificate, or none, whatever is configured.
pub(crate) fn client_config_with(
    config: &Config,
    identity: Option<Identity>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = builder()?.with_root_certificates(roots(config)?);
    with_identity(config, builder, identity).map(Arc::new)
}

/// The same, with somebody who remembers the certificate that the peer shows, trusted or not.
pub(crate) fn witnessed_config(
    config: &Config,
    identity: Option<Identity>,
) -> Result<(Arc<ClientConfig>, Arc<Witness>), TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(config)?), provider)
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
    let witness = Arc::new(Witness { judge, seen: OnceLock::new() });
    // Only what is remembered is added: the verdict stays that of the usual judge.
    let verifier: Arc<dyn ServerCertVerifier> = witness.clone();
    let builder = builder()?.dangerous().with_custom_certificate_verifier(verifier);
    Ok((Arc::new(with_identity(config, builder, identity)?), witness))
}

/// Judges a peer's certificate as always, and remembers it.
#[derive(Debug)]
pub(crate) struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    seen: OnceLock<CertificateDer<'static>>,
}

impl Witness {
    /// The certificate that the peer showed.
    pub(crate) fn certificate(&self) -> Option<&[u8]> {
        self.seen.get().map(AsRef::as_ref)
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.seen.get_or_init(|| own.clone().into_owned());
        self.judge.verify_server_cert(own, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

fn roots(config: &Config) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    // A list of a hundred authorities may have one that rustls does not like; the others are still good.
    let (usable, _) = roots.add_parsable_certificates(authorities(config)?);
    if usable == 0 {
        return Err(TlsError::Pem { what: "usable authority certificate", path: authorities_file(config) });
    }
    Ok(roots)
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)
}

/// How the device shows who it is.
fn with_identity(
    config: &Config,
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<Identity>,
) -> Result<ClientConfig, TlsError> {
    Ok(match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key).map_err(|source| {
            let [cert, key] =
                [&config.client_cert, &config.client_key].map(|path| path.clone().unwrap_or_default());
            TlsError::Identity { cert, key, source }
        })?,
        None => builder.with_no_client_auth(),
    })
}

/// The same for the HTTP client.
pub(crate) fn http_config(config: &Config) -> Result<ureq::tls::TlsConfig, TlsError> {
    use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
    let owned = |der: &CertificateDer<'_>| Certificate::from_der(der.as_ref()).to_owned();
    let roots: Vec<_> = authorities(config)?.iter().map(owned).collect();
    // The agent's own one is for the broker: where there is a token, HTTP goes by that, also through proxies.
    let client = match (&config.client_cert, &config.client_key) {
        (Some(cert), Some(key)) if config.device_token.is_none() || !certificate::is_ours(config) => {
            let chain: Vec<_> = certificates("certificate", cert)?.iter().map(owned).collect();
            let parsed = PrivateKey::from_pem(&read_key(key)?);
            let key = parsed.map_err(|_| TlsError::Pem { what: "private key", path: key.clone() })?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
        _ => None,
    };
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&roots)).client_cert(client).build())
}

fn authorities_file(config: &Config) -> PathBuf {
    let system =
        || std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM_AUTHORITIES.into(), PathBuf::from);
    config.ca_file.clone().unwrap_or_else(system)
}

fn authorities(config: &Config) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let path = authorities_file(config);
    if config.ca_file.is_none() && !path.exists() {
        return Err(TlsError::NoAuthorities { path });
    }
    certificates("authority certificate", &path)
}

/// What is in a file of authorities, if it is one.
///
/// # Errors
/// When it cannot be read, or has no certificate in it.
pub(crate) fn read_authorities(path: &Path) -> Result<Vec<u8>, TlsError> {
    certificates("authority certificate", path)?;
    read("authority certificate", path)
}

/// The first certificate in a file, in DER form.
pub(crate) fn first_certificate(path: &Path) -> Result<Vec<u8>, TlsError> {
    // Proof: `certificates` gives none only as an error.
    certificates("certificate", path).map(|all| all.first().map(|first| first.to_vec()).unwrap_or_default())
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    all_certificates(what, &read(what, path)?, path)
}

fn all_certificates(
    what: &'static str,
    pem: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if all.is_empty() { Err(TlsError::Pem { what, path: path.to_owned() }) } else { Ok(all) }
}

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| TlsError::Pem { what: "private key", path: path.to_owned() })
}

fn read_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    read("private key", path).map(Zeroizing::new)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { what, path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > PEM_MAX_LEN {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB")));
    }
    fs::read(path).map_err(failed)
}
