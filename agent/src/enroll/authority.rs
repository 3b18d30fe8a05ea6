//! The authority that the server was given a certificate by, kept beside `fleet.conf`.
//!
//! Its file is named by what is in it: an enrolment that is cut off leaves the one that is in force as it is.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::{EnrollError, hex};
use crate::config::{self, FileError};
use crate::tls;

pub(super) struct Authority {
    pem: Vec<u8>,
    path: PathBuf,
}

/// Whom alone the device trusts from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Where the certificates are kept.
    pub file: PathBuf,
    /// The SHA-256 of each, as `openssl x509 -fingerprint -sha256` shows it.
    pub fingerprints: Vec<String>,
}

impl Authority {
    /// Reads it, and sees that there are certificates in it.
    pub(super) fn read(from: &Path, config_file: &Path) -> Result<Self, EnrollError> {
        let pem = tls::read_authorities(from)?;
        let name = format!("ca-{}.pem", &hex(&Sha256::digest(&pem))[..16]);
        // What runs as a service has no folder of its own.
        let folder = config_file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Ok(Self { pem, path: folder.join(name) })
    }

    /// Writes it where it stays.
    pub(super) fn keep(&self) -> Result<(), FileError> {
        config::write_private(&self.path, &self.pem)
    }

    /// What to tell of it.
    pub(super) fn pinned(self) -> Pinned {
        let certificates = CertificateDer::pem_slice_iter(&self.pem).filter_map(Result::ok);
        let fingerprint = |certificate: CertificateDer<'_>| {
            let pairs: Vec<String> =
                Sha256::digest(&certificate).iter().map(|byte| format!("{byte:02X}")).collect();
            pairs.join(":")
        };
        Pinned { fingerprints: certificates.map(fingerprint).collect(), file: self.path }
    }

    /// Where that is, as `fleet.conf` can name it.
    pub(super) fn place(&self) -> Result<&str, EnrollError> {
        self.path.to_str().ok_or_else(|| EnrollError::Place(self.path.clone()))
    }
}
