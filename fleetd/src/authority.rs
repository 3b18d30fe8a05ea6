//! A certificate authority of one's own, for networks where no public one gives certificates: `fleetd tls init`. It lives in the
//! folder `tls` of the data folder: `ca.pem` and `ca.key`, and the server's `server.pem` and `server.key`. Devices have
//! another one beside it: [`devices`].
//!
//! All certificates of servers begin in 1970: a device whose clock has lost its battery gets in as well, and the server tells it the time.

pub mod devices;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use crate::store::folder::sync_folder;

/// How long the authority is good for, in days: twenty years.
const AUTHORITY_DAYS: i64 = 20 * 365;
/// How long a server's certificate is good for, in days.
const SERVER_DAYS: i64 = 365;
/// When so many days of a server's certificate are left, it is renewed: a third of its life.
const RENEW_DAYS: i64 = SERVER_DAYS / 3;
const DAY_SECONDS: i64 = 24 * 3600;
/// Longest file with a certificate or a key, in bytes.
const PEM_MAX_BYTES: u64 = 64 * 1024;

/// Something about the authority does not work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of ours that holds something else.
    #[error("{path} is not what fleetd has written; put it away, and `fleetd tls init` makes another")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Nobody said what the server is called, and there is no certificate that does.
    #[error(
        "what is the server called? Say --name fleet.example.org, or --name 10.8.0.1, for every name that devices use"
    )]
    NoName,
    /// A name that cannot be in a certificate.
    #[error("{0:?} is no host name and no address")]
    Name(String),
    /// Certificates cannot be made.
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
}

/// The authority's files.
#[derive(Debug, Clone)]
pub struct Authority {
    folder: PathBuf,
}

/// An authority's two files.
#[derive(Debug, Clone, Copy)]
struct Files {
    certificate: &'static str,
    key: &'static str,
}

/// Of the authority that signs for the server.
const SERVERS: Files = Files { certificate: "ca.pem", key: "ca.key" };

/// What [`Authority::init`] has done.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// Whether there was no authority before.
    pub new_authority: bool,
    /// What the server's certificate is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub ends_at: i64,
}

/// What the server's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Server {
    names: Vec<String>,
    ends_at: i64,
}

impl Authority {
    /// That of a data folder.
    #[must_use]
    pub fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("tls") }
    }

    /// The authority's certificate, which devices need.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path(SERVERS.certificate)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes the authority, if there is none, and a certificate for the server under these names, or under those that it has.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn init(&self, names: &[String], now_s: i64) -> Result<Made, AuthorityError> {
        let names = match names {
            [] => self.server()?.map(|server| server.names).ok_or(AuthorityError::NoName)?,
            given => given.iter().map(|name| check_name(name)).collect::<Result<_, _>>()?,
        };
        self.make_folder()?;
        let new_authority = !self.path(SERVERS.key).exists();
        if new_authority {
            self.make_authority(SERVERS, "R58 Fleet authority", now_s)?;
        }
        let ends_at = self.issue(&names, now_s)?;
        Ok(Made { new_authority, names, ends_at })
    }

    /// Renews the server's certificate if this authority has issued it and a third of its life is left. Says whether it did.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn renew(&self, now_s: i64) -> Result<bool, AuthorityError> {
        if !self.path(SERVERS.key).exists() {
            return Ok(false);
        }
        match self.server()? {
            Some(server) if server.ends_at - now_s < RENEW_DAYS * DAY_SECONDS => {
                self.issue(&server.names, now_s).map(|_| true)
            }
            _ => Ok(false),
        }
    }

    fn make_folder(&self) -> Result<(), AuthorityError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        // The server, which is not root, reads and writes in it.
        made.and_then(|()| {
            crate::store::swap::like_its_folder(&self.folder, self.folder.parent().unwrap_or(&self.folder))
        })
        .map_err(|source| AuthorityError::File {
            operation: "make",
            path: self.folder.clone(),
            source,
        })
    }

    fn make_authority(&self, files: Files, name: &str, now_s: i64) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = called(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_for(&mut params, now_s + AUTHORITY_DAYS * DAY_SECONDS)?;
        let certificate = params.self_signed(&key)?;
        // The key last: without it another is made.
        self.write(files.certificate, certificate.pem().as_bytes())?;
        self.write(files.key, Zeroizing::new(key.serialize_pem()).as_bytes())
    }

    fn issuer(&self, files: Files) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let certificate = self.read(files.certificate)?.ok_or_else(|| self.damaged(files.certificate))?;
        Issuer::from_ca_cert_pem(&certificate, self.read_key(files.key)?)
            .map_err(|_| self.damaged(files.certificate))
    }

    fn read_key(&self, name: &str) -> Result<KeyPair, AuthorityError> {
        let pem = self.read(name)?.ok_or_else(|| self.damaged(name))?;
        KeyPair::from_pem(&pem).map_err(|_| self.damaged(name))
    }

    fn damaged(&self, name: &str) -> AuthorityError {
        AuthorityError::Damaged { path: self.path(name) }
    }

    /// Issues a certificate for the server's key, which stays the same, so that there is never one without the other.
    fn issue(&self, names: &[String], now_s: i64) -> Result<i64, AuthorityError> {
        if !self.path("server.key").exists() {
            self.write("server.key", Zeroizing::new(KeyPair::generate()?.serialize_pem()).as_bytes())?;
        }
        let key = self.read_key("server.key")?;
        let issuer = self.issuer(SERVERS)?;
        let authority = self.read(SERVERS.certificate)?.ok_or_else(|| self.damaged(SERVERS.certificate))?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = called(names.first().map_or("fleetd", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let ends_at = now_s + SERVER_DAYS * DAY_SECONDS;
        valid_for(&mut params, ends_at)?;
        let chain = format!("{}{}", params.signed_by(&key, &issuer)?.pem(), *authority);
        self.write("server.pem", chain.as_bytes())?;
        Ok(ends_at)
    }

    /// The present certificate of the server, if there is one.
    fn server(&self) -> Result<Option<Server>, AuthorityError> {
        let Some(text) = self.read("server.pem")? else { return Ok(None) };
        let damaged = || self.damaged("server.pem");
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| damaged())?;
        let (_, certificate) = X509Certificate::from_der(&pem.contents).map_err(|_| damaged())?;
        let names =
            certificate.subject_alternative_name().ok().flatten().map_or_else(Vec::new, |names| {
                names.value.general_names.iter().filter_map(name_of).collect()
            });
        let ends_at = certificate.validity().not_after.timestamp();
        if names.is_empty() { Err(damaged()) } else { Ok(Some(Server { names, ends_at })) }
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, AuthorityError> {
        let path = self.path(name);
        let failed = |source| AuthorityError::File { operation: "read", path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(meta) if meta.len() > PEM_MAX_BYTES => Err(AuthorityError::Damaged { path }),
            Ok(_) => fs::read_to_string(&path).map(|text| Some(Zeroizing::new(text))).map_err(failed),
        }
    }

    /// Written beside and renamed, so that nobody finds half of it, and private from the first byte on.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), AuthorityError> {
        let (path, beside) = (self.path(name), self.path(&format!("{name}.new")));
        let _ = fs::remove_file(&beside);
        let work = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            crate::store::swap::like_its_folder(&beside, self.folder.parent().unwrap_or(&self.folder))?;
            fs::rename(&beside, &path)?;
            sync_folder(&self.folder)
        };
        work().map_err(|source| AuthorityError::File { operation: "write", path: path.clone(), source })
    }
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

fn valid_for(params: &mut CertificateParams, ends_at: i64) -> Result<(), AuthorityError> {
    // Two of one authority must not have the same (RFC 5280, 4.1.2.2); what the library takes by itself comes from the key.
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = moment(ends_at)?.to_datetime();
    Ok(())
}

/// A time as certificates have it, from seconds since 1970. What cannot be written must not become the library's year 4096.
fn moment(seconds: i64) -> Result<ASN1Time, AuthorityError> {
    Ok(ASN1Time::from_timestamp(seconds).map_err(|_| rcgen::Error::Time)?)
}

fn check_name(name: &str) -> Result<String, AuthorityError> {
    let is_label = |label: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(plain)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_host = name.len() <= 253 && name.split('.').all(is_label);
    if name.parse::<IpAddr>().is_ok() || is_host {
        return Ok(name.to_ascii_lowercase());
    }
    Err(AuthorityError::Name(name.chars().take(100).collect()))
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: i64 = 1_795_000_000;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_is_made_once_and_the_server_gets_a_certificate_for_its_names() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::of(data.path());
        let made = authority.init(&names(&["Fleet.example", "10.8.0.1", "::1"]), NOW).unwrap();
        assert_eq!((made.new_authority, made.ends_at), (true, NOW + 365 * 86_400));
        let first = fs::read(authority.certificate()).unwrap();
        let key = fs::read(authority.path("server.key")).unwrap();
        let server = authority.server().unwrap().unwrap();
        assert_eq!(
            server,
            Server { names: names(&["fleet.example", "10.8.0.1", "::1"]), ends_at: made.ends_at }
        );
        for name in ["ca.key", "server.key"] {
            assert_eq!(fs::metadata(authority.path(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let again = authority.init(&[], NOW + 10).unwrap();
        assert_eq!((again.new_authority, again.names), (false, server.names));
        assert_eq!(fs::read(authority.certificate()).unwrap(), first);
        assert_eq!(fs::read(authority.path("server.key")).unwrap(), key);
        assert!(
            broker::tls::Certificates::load(&authority.path("server.pem"), &authority.path("server.key"))
                .is_ok()
        );
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life_and_not_before() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::of(data.path());
        assert!(!authority.renew(NOW).unwrap(), "there is none");
        authority.init(&names(&["fleet.example"]), NOW).unwrap();
        assert!(!authority.renew(NOW + 200 * DAY_SECONDS).unwrap());
        let late = NOW + 250 * DAY_SECONDS;
        assert!(authority.renew(late).unwrap());
        assert_eq!(authority.server().unwrap().unwrap().ends_at, late + SERVER_DAYS * DAY_SECONDS);
    }

    #[test]
    fn what_is_no_name_and_what_was_written_by_others_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::of(data.path());
        assert!(matches!(authority.init(&[], NOW), Err(AuthorityError::NoName)));
        for bad in ["", "a b", "-x.example", "x..y", "https://x", "x_y", &"a".repeat(64)] {
            assert!(matches!(authority.init(&names(&[bad]), NOW), Err(AuthorityError::Name(_))), "{bad:?}");
        }
        authority.init(&names(&["x"]), NOW).unwrap();
        fs::write(authority.path("server.pem"), "mine").unwrap();
        assert!(matches!(authority.renew(NOW), Err(AuthorityError::Damaged { .. })));
        fs::write(authority.path("ca.key"), "mine").unwrap();
        assert!(matches!(authority.init(&names(&["x"]), NOW), Err(AuthorityError::Damaged { .. })));
    }
}
