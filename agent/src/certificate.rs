//! The device's own certificate, where its server signs them: it logs in with it in place of its token.
//!
//! Key and certificate are in one file, `client.pem` beside `fleet.conf`, mode 0600, which is replaced in one step; so they always
//! belong together. `CLIENT_CERT` and `CLIENT_KEY` in `fleet.conf` both name it. Where they name something else, the files are
//! somebody's own, and nothing here touches them.
//!
//! A new certificate has a new key. It is in memory alone until a server has answered on a connection made with it, and only then
//! takes the place of the one before. Whatever is wrong with a certificate, the token is as good as before ([`Trial`]).

mod ask;
mod request;
#[cfg(test)]
mod tests;
mod trial;

use std::path::{Path, PathBuf};

use protocol::id::{DeviceId, OrgSlug};
use protocol::message::{parse_rfc3339, rfc3339};
use zeroize::Zeroizing;

use crate::config::{self, Config, FileError, Key, Readers};
use crate::tls::{Identity, TlsError};

pub(crate) use ask::{CertificateError, ask};
pub(crate) use trial::{Blame, Trial, With};

/// Name of the file.
const FILE: &str = "client.pem";

/// A certificate that the server has signed, with its key.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    /// What the file holds.
    text: Zeroizing<String>,
    pub(crate) identity: Identity,
    /// When it should be replaced, ms since 1970, by the server's clock.
    pub(crate) renew_at_ms: i64,
    /// When it ends.
    pub(crate) expires_at_ms: i64,
}

/// The file of a device with this configuration; none where everything comes from the environment.
pub(crate) fn path(config: &Config) -> Option<PathBuf> {
    let folder = config.file.as_deref()?.parent().filter(|folder| !folder.as_os_str().is_empty());
    std::path::absolute(folder.unwrap_or(Path::new("."))).ok().map(|folder| folder.join(FILE))
}

/// Whether the configuration names that file.
pub(crate) fn is_ours(config: &Config) -> bool {
    let ours = path(config);
    ours.is_some() && config.client_cert == ours && config.client_key == ours
}

/// Whether somebody has put a certificate of their own there.
pub(crate) fn is_somebodys(config: &Config) -> bool {
    config.client_cert.is_some() && !is_ours(config)
}

impl Issued {
    fn new(
        config: &Config,
        key: &str,
        chain: &str,
        renew_at_ms: i64,
        expires_at_ms: i64,
    ) -> Result<Self, TlsError> {
        let text = Zeroizing::new(format!(
            "The key and the certificate of a device of R58 Fleet. Its agent replaces this file.\n\
             {DEVICE}{}\n{RENEW}{}\n{EXPIRES}{}\n{key}{chain}",
            name(&config.org, &config.device_id),
            rfc3339(renew_at_ms),
            rfc3339(expires_at_ms)
        ));
        let identity = Identity::from_pem(text.as_bytes(), Path::new(FILE))?;
        Ok(Self { text, identity, renew_at_ms, expires_at_ms })
    }

    /// The one in the file that the configuration names. One that is missing, damaged or another device's counts as none: the
    /// token lets the device in, and the server signs another one.
    pub(crate) fn stored(config: &Config) -> Option<Self> {
        let path = path(config).filter(|_| is_ours(config))?;
        let read = config::read_file(&path).map_err(|error| error.to_string()).and_then(|text| {
            Self::parse(text, &path, config).ok_or_else(|| "it is not what the agent has written".to_owned())
        });
        read.map_err(|problem| tracing::warn!(path = %path.display(), problem, "no certificate is used")).ok()
    }

    fn parse(text: Zeroizing<String>, path: &Path, config: &Config) -> Option<Self> {
        let after = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let time = |name: &str| parse_rfc3339(after(name)?).ok();
        let (renew_at_ms, expires_at_ms) = (time(RENEW)?, time(EXPIRES)?);
        if after(DEVICE)? != name(&config.org, &config.device_id) {
            return None;
        }
        let identity = Identity::from_pem(text.as_bytes(), path).ok()?;
        Some(Self { identity, renew_at_ms, expires_at_ms, text })
    }

    /// Puts it in place of the one before, and into `fleet.conf` if it is not there. A power cut leaves the old or the new; a
    /// file that `fleet.conf` does not name yet is of no use, and replaced the next time.
    ///
    /// # Errors
    /// When a file cannot be replaced.
    pub(crate) fn keep(&self, config: &Config) -> Result<(), FileError> {
        let (Some(path), Some(file)) = (path(config), &config.file) else { return Ok(()) };
        config::write_private(&path, self.text.as_bytes())?;
        if is_ours(config) {
            return Ok(());
        }
        let Some(place) = path.to_str() else { return Ok(()) };
        let lines = [(Key::ClientCert.name(), place), (Key::ClientKey.name(), place)];
        config::change_file(file, None, Readers::AsBefore, |text| {
            config::set(text, &lines).map_err(|source| FileError::Edit { path: file.clone(), source })
        })
    }
}

const DEVICE: &str = "Device: ";
const RENEW: &str = "Renew: ";
const EXPIRES: &str = "Expires: ";

fn name(org: &OrgSlug, device: &DeviceId) -> String {
    format!("{org}/{device}")
}
