//! Makes this machine a device of a fleet.
//!
//! With an enrolment key the device makes its own token and sends only its SHA-256. The order makes it safe to repeat after a power cut at any
//! instant: the token is on the disk (in [`pending`]'s file, mode 0600) before its hash leaves, the same id and hash get
//! the same answer from the server, and `fleet.conf` changes in one step once the server has agreed. An enrolment that
//! is refused leaves an earlier one untouched. A token that an admin has made is asked about and written down, no more.

mod authority;
mod facts;
mod pending;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use protocol::id::{DeviceId, OrgSlug};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::certificate;
use crate::config::{self, Config, ConfigError, FileError, HttpUrl, Key, Secret};
use crate::http::{self, Answer, HttpError};
use crate::kernel;
use crate::tls::TlsError;
use authority::Authority;
pub use authority::Pinned;
pub(crate) use pending::path as pending_file;

/// Longest answer that is read, in bytes.
const ANSWER_MAX_LEN: u64 = 64 * 1024;
/// Longest enrolment key, in bytes.
const KEY_MAX_LEN: usize = 256;

/// What the installer asks for.
#[derive(Debug)]
pub struct Request<'a> {
    /// The fleet server.
    pub server: HttpUrl,
    /// What lets this device in.
    pub credential: Credential,
    /// The wanted id; else the configured one, else the one made from the host's name.
    pub device_id: Option<DeviceId>,
    /// A file with the authorities that alone are trusted from now on, if the server has one of its own.
    pub ca: Option<PathBuf>,
    /// `--config`.
    pub config_file: Option<&'a Path>,
}

/// What lets a device in.
#[derive(Debug)]
pub enum Credential {
    /// An enrolment key: the device makes its own token and registers itself.
    Key(Secret),
    /// The token of a device that an admin has registered.
    Token(Secret),
}

/// The device belongs to a fleet now.
#[derive(Debug)]
pub struct Enrolled {
    /// Its id.
    pub device_id: DeviceId,
    /// Its organisation.
    pub org: OrgSlug,
    /// The server.
    pub server: HttpUrl,
    /// Its status there; `awaiting_approval` if an admin has to agree first.
    pub status: String,
    /// The configuration file.
    pub file: PathBuf,
    /// Until when the certificate is good that it got as well, ms since 1970, or why it got none; absent where the server signs none,
    /// or somebody has put one there.
    pub certificate: Option<Result<i64, String>>,
    /// Whether it says something else now than before.
    pub changed: bool,
    /// The authority that alone is trusted from now on, if one was given.
    pub authority: Option<Pinned>,
    /// Keys that the environment sets to something else, so that the file has no effect.
    pub overridden: Vec<Key>,
}

/// The device could not be enrolled. Each text says what to do; running the same command again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The present configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Where `fleet.conf` is cannot be written into it.
    #[error("{0} is no UTF-8, so that fleet.conf cannot name it; use another folder")]
    Place(PathBuf),
    /// The key is no key.
    #[error(
        "the enrolment key is empty, too long or has blanks in it: copy it whole from `fleetd enrollment-key add`"
    )]
    KeyForm,
    /// The token is no token.
    #[error(
        "a device's token has 64 characters 0-9 and a-f: copy it whole, as the server showed it when the device was registered \
         or got a new token"
    )]
    TokenForm,
    /// The server does not know the token.
    #[error(
        "{server} does not accept this token{detail}. A token is good until the next one is made: have an admin make one \
         (rotate-token) and use that; and use https:// where the address is http://"
    )]
    TokenUnknown {
        /// The server's address.
        server: String,
        /// The server's words.
        detail: String,
    },
    /// The token is another device's.
    #[error(
        "this token is that of the device {found}, not of {wanted}; leave --device-id out, or get the right token"
    )]
    OtherDevice {
        /// Whose it is.
        found: DeviceId,
        /// Whose it should be.
        wanted: DeviceId,
    },
    /// The system has no randomness to give.
    #[error("cannot make a token: the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// The server could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// 401: nobody knows the key.
    #[error(
        "the server does not accept this enrolment key{0}. Copy it again, whole, or ask an admin for a new one \
         (fleetd enrollment-key add)"
    )]
    KeyUnknown(String),
    /// 403: the key may not be used, or not in this way.
    #[error(
        "the server refuses{0}. Run this again with a new key, or with https:// where the address is http://"
    )]
    Forbidden(String),
    /// 404: there is no fleet server at this address.
    #[error(
        "there is no fleet server at {0}: check the address, and leave out any path unless an admin gave you one"
    )]
    NotFound(String),
    /// 409: the id belongs to somebody.
    #[error(
        "the server does not give this device the id {id}{detail}. Once an admin has allowed the re-enrolment, run the \
         same command again; for another device choose another id with --device-id"
    )]
    Taken {
        /// The id.
        id: DeviceId,
        /// The server's words.
        detail: String,
    },
    /// 422: the server does not like what was sent.
    #[error(
        "the server does not accept what this device says about itself{0}. Is the server older than this agent?"
    )]
    Invalid(String),
    /// 429: too many attempts.
    #[error(
        "the server has had too many failed attempts{}: wait, check the key, then run the same command again",
        .0.map(|s| format!(" and asks to wait {s} s")).unwrap_or_default()
    )]
    TooMany(Option<u64>),
    /// 5xx: the server has trouble of its own.
    #[error(
        "the server has trouble of its own (HTTP {status}{detail}): run the same command again in some minutes"
    )]
    Trouble {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        detail: String,
    },
    /// Something that a fleet server does not say.
    #[error("{server} does not answer like a fleet server ({problem}): check the address")]
    Answer {
        /// The server's address.
        server: String,
        /// What is odd.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Shown {
    status: String,
}

#[derive(Deserialize)]
struct Registered {
    device_id: String,
    org: String,
    status: String,
    #[serde(default)]
    client_certificates: bool,
}

/// Enrols this machine. Blocks for at most [`http::TIMEOUT`], and as long again where the server signs certificates.
///
/// # Errors
/// When the configuration, the key, the network or the server does not allow it.
pub fn enroll(request: &Request<'_>) -> Result<Enrolled, EnrollError> {
    check(&request.credential)?;
    let file = config::choose_file(request.config_file).unwrap_or_else(|| config::SYSTEM_FILE.into());
    let mut current = match Config::load(Some(&file)) {
        Err(ConfigError::File(FileError::Missing { .. })) => {
            Config::from_parts(None, &config::environment(), &kernel::hostname())?
        }
        other => other?,
    };
    let authority = request.ca.as_deref().map(|ca| Authority::read(ca, &file)).transpose()?;
    if let Some(ca) = &request.ca {
        current.ca_file = Some(ca.clone());
    }
    let Member { device_id, org, status, token, signs } = match &request.credential {
        Credential::Key(key) => register(request, key, &current, &file)?,
        Credential::Token(token) => verify(request, token, &current)?,
    };

    let server = request.server.to_string();
    let mut changes = vec![
        (Key::FleetUrl, server.as_str()),
        (Key::FleetOrg, org.as_str()),
        (Key::DeviceId, device_id.as_str()),
        (Key::DeviceToken, token.expose()),
    ];
    if let Some(authority) = &authority {
        authority.keep()?;
        changes.push((Key::CaFile, authority.place()?));
    }
    let lines: Vec<_> = changes.iter().map(|(key, value)| (key.name(), *value)).collect();
    let before = config::read_file(&file).ok();
    config::update_file(&file, config::EXAMPLE, &lines)?;
    let changed = before != config::read_file(&file).ok();
    pending::remove(&file);
    let certificate = if signs { certify(&file) } else { None };
    let overrides = config::environment();
    let differs = |(key, value): &(Key, &str)| overrides.iter().any(|(k, v)| k == key && v != value);
    let overridden = changes.iter().filter(|change| differs(change)).map(|(key, _)| *key).collect();
    let authority = authority.map(Authority::pinned);
    let server = request.server.clone();
    Ok(Enrolled { device_id, org, server, status, file, certificate, changed, authority, overridden })
}

/// Has a certificate signed for the device that was enrolled. The agent that runs tries again where this fails, so it is no reason
/// to call the enrolment a failure.
fn certify(file: &Path) -> Option<Result<i64, String>> {
    let config = Config::load(Some(file)).ok().filter(|config| !certificate::is_somebodys(config))?;
    let issued = match certificate::ask(&config) {
        Ok(issued) => issued,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(issued.keep(&config).map(|()| issued.expires_at_ms).map_err(|error| error.to_string()))
}

/// A device that the server knows.
struct Member {
    device_id: DeviceId,
    org: OrgSlug,
    status: String,
    token: Secret,
    /// The server signs certificates.
    signs: bool,
}

/// The device registers itself, with a token that it has made.
fn register(
    request: &Request<'_>,
    key: &Secret,
    current: &Config,
    file: &Path,
) -> Result<Member, EnrollError> {
    let device_id = request.device_id.clone().unwrap_or_else(|| current.device_id.clone());
    let token = match reusable(current, &request.server, &device_id) {
        Some(token) => token,
        None => pending::load_or_make(file, &request.server, &device_id)?,
    };
    let mut body = json!({
        "device_id": device_id,
        "token_sha256": hex(&Sha256::digest(token.expose())),
        "arch": std::env::consts::ARCH,
    });
    for (name, value) in facts::collect(&current.app_dir) {
        body[name] = value.into();
    }
    let client = http::client(current, &request.server)?;
    let called = client
        .post(request.server.join("/api/v1/devices/register"))
        .header("X-Enrollment-Key", key.expose())
        .send_json(&body);
    let answer = http::finish(&request.server, called, ANSWER_MAX_LEN)?;
    let Agreed { org, status, signs } = judge(&request.server, &device_id, &answer)?;
    Ok(Member { device_id, org, status, token, signs })
}

/// Asks the server whose token this is, and how that device is.
fn verify(request: &Request<'_>, token: &Secret, current: &Config) -> Result<Member, EnrollError> {
    let server = &request.server;
    let client = http::client(current, server)?;
    let ask = |path: &str| {
        let called = client.get(server.join(path)).header("X-Device-Token", token.expose()).call();
        http::finish(server, called, ANSWER_MAX_LEN)
    };
    let answer = ask("/api/v1/connect")?;
    let odd = |problem: &str| EnrollError::Answer { server: server.to_string(), problem: problem.to_owned() };
    let detail = answer.problem_detail();
    match answer.status {
        200 => {}
        401 | 403 => return Err(EnrollError::TokenUnknown { server: server.to_string(), detail }),
        404 | 405 => return Err(EnrollError::NotFound(server.to_string())),
        429 => return Err(EnrollError::TooMany(answer.retry_after_seconds)),
        status @ 500.. => return Err(EnrollError::Trouble { status, detail }),
        status => return Err(odd(&format!("HTTP {status}{detail}"))),
    }
    let endpoints = crate::connect::parse(&answer.body).map_err(|problem| odd(&problem))?;
    let (device_id, org) = endpoints
        .whose
        .ok_or_else(|| odd("it does not say whose token this is; is it older than this agent?"))?;
    if let Some(wanted) = request.device_id.as_ref().filter(|wanted| **wanted != device_id) {
        return Err(EnrollError::OtherDevice { found: device_id, wanted: wanted.clone() });
    }
    // Only to be told: the token is good.
    let shown = ask(&format!("/api/v1/devices/{device_id}")).ok().filter(|answer| answer.status == 200);
    let shown: Option<Shown> = shown.and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let status = shown.map_or_else(|| "registered".to_owned(), |shown| shown.status);
    Ok(Member { device_id, org, status, token: token.clone(), signs: endpoints.client_certificates })
}

fn check(credential: &Credential) -> Result<(), EnrollError> {
    match credential {
        Credential::Key(key) => {
            let text = key.expose();
            let good =
                !text.is_empty() && text.len() <= KEY_MAX_LEN && text.bytes().all(|b| b.is_ascii_graphic());
            if good { Ok(()) } else { Err(EnrollError::KeyForm) }
        }
        Credential::Token(token) if config::is_token(token.expose()) => Ok(()),
        Credential::Token(_) => Err(EnrollError::TokenForm),
    }
}

/// The token of an enrolment of this device at this server that is in force: repeating it changes nothing.
fn reusable(current: &Config, server: &HttpUrl, device_id: &DeviceId) -> Option<Secret> {
    let same = current.fleet_url.as_ref() == Some(server) && current.device_id == *device_id;
    current.device_token.clone().filter(|_| same && !current.token_from_environment)
}

/// What the server has agreed to.
struct Agreed {
    org: OrgSlug,
    status: String,
    /// It signs certificates as well.
    signs: bool,
}

/// What the answer means, or what to do.
fn judge(server: &HttpUrl, id: &DeviceId, answer: &Answer) -> Result<Agreed, EnrollError> {
    let odd = |problem: String| EnrollError::Answer { server: server.to_string(), problem };
    let detail = answer.problem_detail();
    match answer.status {
        200 | 201 => {
            let registered: Registered =
                serde_json::from_slice(&answer.body).map_err(|error| odd(error.to_string()))?;
            if registered.device_id != id.as_str() {
                return Err(odd("it registered another id".to_owned()));
            }
            let org = OrgSlug::new(&registered.org).map_err(|error| odd(format!("organisation: {error}")))?;
            Ok(Agreed { org, status: registered.status, signs: registered.client_certificates })
        }
        401 => Err(EnrollError::KeyUnknown(detail)),
        403 => Err(EnrollError::Forbidden(detail)),
        404 | 405 => Err(EnrollError::NotFound(server.to_string())),
        409 => Err(EnrollError::Taken { id: id.clone(), detail }),
        400 | 413 | 415 | 422 => Err(EnrollError::Invalid(detail)),
        429 => Err(EnrollError::TooMany(answer.retry_after_seconds)),
        status @ 500.. => Err(EnrollError::Trouble { status, detail }),
        status => Err(odd(format!("HTTP {status}{detail}"))),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
