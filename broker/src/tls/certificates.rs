//! A certificate and its key, from files, as they are now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::peer::verifier;

/// Longest file with certificates or a key, in bytes.
const PEM_MAX_BYTES: u64 = 1024 * 1024;
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A certificate cannot be used.
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
    /// A file does not hold what it has to.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// What it has to hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not fit, or are of a kind that cannot be used.
    #[error("the certificate {cert} cannot be used with the key {key}")]
    Unfit {
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

/// A server's certificate chain and private key. Where a file changes, both are read again; what cannot be used then is told
/// in the log, and the old ones stay.
#[derive(Debug)]
pub struct Certificates {
    cert: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// By what a file's change is noticed.
type Mark = [Option<(SystemTime, u64)>; 2];

impl Certificates {
    /// Reads both files, in PEM form: the chain from the server's own certificate on, and the key.
    ///
    /// # Errors
    /// [`TlsError`]: a file cannot be read or used.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = RwLock::new(Arc::new(read(cert, key, &provider)?));
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), provider, current }))
    }

    /// What a listener needs, for a protocol with this ALPN name, if it has one. With `clients`, an authority's certificate, it
    /// asks for certificates that this authority has signed; nobody has to have one.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn server_config(
        self: &Arc<Self>,
        alpn: Option<&str>,
        clients: Option<&CertificateDer<'_>>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let builder = match clients {
            Some(authority) => builder.with_client_cert_verifier(
                verifier(authority.clone(), &self.provider).map_err(TlsError::Setup)?,
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Looks at the files for as long as it runs, and reads them again when one has changed.
    pub async fn watch(self: Arc<Self>) {
        let mut seen = self.mark();
        let mut pending = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.mark();
            if now == seen {
                continue;
            }
            // Both are written one after the other: read when they have stood still for one look.
            if pending != Some(now) {
                pending = Some(now);
                continue;
            }
            seen = now;
            self.read_again();
        }
    }

    /// Reads both files again. Says whether they could be used.
    pub fn read_again(&self) -> bool {
        let (cert, key) = (self.cert.display(), self.key.display());
        match read(&self.cert, &self.key, &self.provider) {
            Ok(fresh) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                tracing::info!(%cert, %key, "a new certificate is in use");
                true
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%cert, %key, error, "the changed certificate cannot be used; the one before stays");
                false
            }
        }
    }

    fn mark(&self) -> Mark {
        let mark = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        [mark(&self.cert), mark(&self.key)]
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn read(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let pem = |what, path: &Path| TlsError::Pem { what, path: path.to_owned() };
    let bytes = read_file("certificate", cert)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(pem("certificate", cert));
    }
    let bytes = Zeroizing::new(read_file("private key", key)?);
    let parsed = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| pem("private key", key))?;
    let unfit = |source| TlsError::Unfit { cert: cert.to_owned(), key: key.to_owned(), source };
    CertifiedKey::from_der(chain, parsed, provider).map_err(unfit)
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { what, path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > PEM_MAX_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    fs::read(path).map_err(failed)
}
