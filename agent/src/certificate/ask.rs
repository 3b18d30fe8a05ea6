//! Asks the fleet server to sign: `POST {FLEET_URL}/api/v1/devices/{id}/certificate`.

use serde::Deserialize;
use serde_json::json;

use super::{Issued, request};
use crate::config::Config;
use crate::http::{self, HttpError};

/// Longest answer that is read, in bytes.
const ANSWER_MAX_LEN: u64 = 64 * 1024;

/// There is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The device has no server, or nothing to show who it is.
    #[error("this device is not enrolled at a fleet server, which could sign a certificate")]
    NotEnrolled,
    /// The system has no randomness to give.
    #[error("cannot make a key: the system gives no random numbers")]
    Random,
    /// The server could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server does not do that.
    #[error("{server} signs no certificates{detail}")]
    NotSigned {
        /// The server's address.
        server: String,
        /// Its words; empty, or starts with `: `.
        detail: String,
    },
    /// It answered with an error.
    #[error("{server} gives no certificate (HTTP {status}{detail})")]
    Status {
        /// The server's address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// Its words; empty, or starts with `: `.
        detail: String,
        /// How long it asks to be left alone, seconds.
        retry_after_seconds: Option<u64>,
    },
    /// What it answered is no certificate for this device's key.
    #[error("the answer of {server} is no certificate for this device: {problem}")]
    Answer {
        /// The server's address.
        server: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Signed {
    certificate: String,
    certificate_expires_at: String,
    certificate_renew_at: String,
}

/// Makes a key and has it signed. Blocks for at most [`http::TIMEOUT`]. Nothing is written.
///
/// # Errors
/// When the device is not enrolled, or the server cannot be reached, refuses, or answers something else.
pub(crate) fn ask(config: &Config) -> Result<Issued, CertificateError> {
    let Some(server) = &config.fleet_url else { return Err(CertificateError::NotEnrolled) };
    if config.device_token.is_none() && config.client_cert.is_none() {
        return Err(CertificateError::NotEnrolled);
    }
    let new = request::make().map_err(|_| CertificateError::Random)?;
    let client = http::client(config, server)?;
    let mut call = client.post(server.join(&format!("/api/v1/devices/{}/certificate", config.device_id)));
    if let Some(token) = &config.device_token {
        call = call.header("X-Device-Token", token.expose());
    }
    let answer = http::finish(server, call.send_json(json!({"csr": new.request})), ANSWER_MAX_LEN)?;
    let server = server.to_string();
    let detail = answer.problem_detail();
    match answer.status {
        200 | 201 => {}
        404 | 405 | 409 => return Err(CertificateError::NotSigned { server, detail }),
        status => {
            let retry_after_seconds = answer.retry_after_seconds;
            return Err(CertificateError::Status { server, status, detail, retry_after_seconds });
        }
    }
    let odd = |problem: String| CertificateError::Answer { server: server.clone(), problem };
    let signed: Signed = serde_json::from_slice(&answer.body).map_err(|error| odd(error.to_string()))?;
    let time = |text: &str| protocol::message::parse_rfc3339(text).map_err(|error| odd(error.to_string()));
    let (renew_at, expires_at) = (time(&signed.certificate_renew_at)?, time(&signed.certificate_expires_at)?);
    let issued = Issued::new(config, &new.key, &signed.certificate, renew_at, expires_at);
    issued.map_err(|error| odd(error.to_string()))
}
