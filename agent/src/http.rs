//! A small HTTP client for short questions to the fleet server, with failures that a person can act on.

use std::error::Error;
use std::io;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Config, HttpUrl};
use crate::proxy::{self, ProxyError};
use crate::tls::{self, TlsError};

/// How long one question may take in all.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection that is not in use is kept for the next request.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest part of a server's own words that is passed on, in characters.
const DETAIL_MAX_CHARS: usize = 300;

/// No answer of a fleet server was had. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// TLS cannot be set up on this side.
    #[error(transparent)]
    Setup(#[from] TlsError),
    /// The environment names a proxy that cannot be used.
    #[error(transparent)]
    ProxySetting(#[from] ProxyError),
    /// There is a proxy in between, and it is not through it.
    #[error(
        "no connection to {server} through the proxy {proxy}: {problem}; check HTTPS_PROXY, NO_PROXY and the proxy itself"
    )]
    Proxy {
        /// The server's address.
        server: String,
        /// The proxy's host and port.
        proxy: String,
        /// What happened.
        problem: String,
    },
    /// The connection ended before the answer.
    #[error("{server} closed the connection without an answer; check the network, then try again")]
    Closed {
        /// The server's address.
        server: String,
    },
    /// The host name is not known.
    #[error("the name {host} is not known here: check the address and the DNS of this network")]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// Nobody listens.
    #[error(
        "{host} refuses connections on port {port}: check the port, whether the server runs, and the venue's firewall"
    )]
    Refused {
        /// The server's host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// Nothing came back in time.
    #[error(
        "no answer from {server} in time: check the network cable or Wi-Fi and the venue's firewall, then try again"
    )]
    TimedOut {
        /// The server's address.
        server: String,
    },
    /// The server's certificate is not accepted.
    #[error(
        "the TLS certificate of {server} is not accepted: {problem}. Check this device's clock (date), the address, and \
         --ca or CA_FILE if the server has a certificate authority of its own"
    )]
    Certificate {
        /// The server's address.
        server: String,
        /// In rustls' words.
        problem: String,
    },
    /// The peer speaks no TLS that this side does.
    #[error(
        "no encrypted connection to {server} can be made: {problem}. Check the port, and whether the address has to \
         start with http:// instead; a network that wants a login first does this too"
    )]
    Tls {
        /// The server's address.
        server: String,
        /// In rustls' words.
        problem: String,
    },
    /// The peer is not what it should be.
    #[error(
        "{server} answered with a web page (HTTP {status}), which a fleet server does not do: if this network wants a \
         login first, do that in a browser on it; else check the address"
    )]
    WebPage {
        /// The server's address.
        server: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer points elsewhere.
    #[error(
        "{server} points to {to}: use that address if it is your fleet server's; if not, this network wants a login \
         first, in a browser on it"
    )]
    Redirect {
        /// The server's address.
        server: String,
        /// Where to.
        to: String,
    },
    /// The answer is longer than any that is right.
    #[error("the answer of {server} is too long for a fleet server's; check the address")]
    TooLong {
        /// The server's address.
        server: String,
    },
    /// Anything else.
    #[error("the connection to {server} failed: {problem}; check the network, then try again")]
    Other {
        /// The server's address.
        server: String,
        /// What happened.
        problem: String,
    },
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Retry-After`, if it is a number of seconds.
    pub(crate) retry_after_seconds: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// The parts of an RFC 9457 problem that are shown to a person.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<FieldProblem>,
}

#[derive(Deserialize)]
struct FieldProblem {
    field: String,
    message: String,
}

impl Answer {
    /// The server's own words about an error: empty, or starting with `: `. Control characters are left out, as this
    /// goes to a terminal.
    pub(crate) fn problem_detail(&self) -> String {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let mut parts: Vec<String> = problem.detail.or(problem.title).into_iter().collect();
        parts.extend(problem.errors.iter().map(|e| format!("{}: {}", e.field, e.message)));
        let text = parts.join("; ");
        let clean: String = text.chars().filter(|c| !c.is_control()).take(DETAIL_MAX_CHARS).collect();
        if clean.is_empty() { clean } else { format!(": {clean}") }
    }
}

/// A client for `server` that follows no redirects, so that a credential goes nowhere else.
///
/// # Errors
/// When the server is to be spoken to over TLS and that cannot be set up.
pub(crate) fn client(config: &Config, server: &HttpUrl) -> Result<ureq::Agent, HttpError> {
    client_within(config, server, TIMEOUT)
}

/// The same with another limit on the time of one question.
pub(crate) fn client_within(
    config: &Config,
    server: &HttpUrl,
    time: Duration,
) -> Result<ureq::Agent, HttpError> {
    let mut builder = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(time))
        .max_response_header_size(32 * 1024)
        // The server closes one that stands idle for 15 s: a request must not meet that.
        .max_idle_age(IDLE_MAX)
        .proxy(proxy_for(server)?)
        .user_agent(concat!("r58-fleet-agent/", env!("CARGO_PKG_VERSION")));
    if server.scheme().is_encrypted() {
        builder = builder.tls_config(tls::http_config(config)?);
    }
    Ok(builder.build().new_agent())
}

fn proxy_for(server: &HttpUrl) -> Result<Option<ureq::Proxy>, HttpError> {
    let proxy = proxy::for_target(server.scheme(), server.host(), server.port())?;
    let unusable = |error| explain(server, error);
    proxy.map(|proxy| proxy.for_http().map_err(unusable)).transpose()
}

/// Reads an answer of at most `max_len` bytes and sorts out what no fleet server says.
pub(crate) fn finish(
    server: &HttpUrl,
    called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    max_len: u64,
) -> Result<Answer, HttpError> {
    let mut response = called.map_err(|error| explain(server, error))?;
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    if let (300..=399, Some(to)) = (status, header("location")) {
        let to = to.chars().take(DETAIL_MAX_CHARS).collect();
        return Err(HttpError::Redirect { server: server.to_string(), to });
    }
    let content_type = header("content-type").unwrap_or_default().to_ascii_lowercase();
    if status == 511 || content_type.starts_with("text/html") {
        return Err(HttpError::WebPage { server: server.to_string(), status });
    }
    let retry_after_seconds = header("retry-after").and_then(|text| text.trim().parse().ok());
    let body = response.body_mut().with_config().limit(max_len).read_to_vec();
    let body = body.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => HttpError::TooLong { server: server.to_string() },
        other => explain(server, other),
    })?;
    Ok(Answer { status, retry_after_seconds, body })
}

fn explain(server: &HttpUrl, error: ureq::Error) -> HttpError {
    let address = server.to_string();
    if let Ok(Some(proxy)) = proxy::for_target(server.scheme(), server.host(), server.port())
        && is_of_proxy(&error)
    {
        let problem = with_causes(&error);
        return HttpError::Proxy { server: address, proxy: proxy.to_string(), problem };
    }
    let host = || server.host().to_owned();
    match error {
        ureq::Error::HostNotFound => HttpError::UnknownHost { host: host() },
        ureq::Error::Timeout(ureq::Timeout::Resolve) => HttpError::UnknownHost { host: host() },
        ureq::Error::Timeout(_) => HttpError::TimedOut { server: address },
        ureq::Error::Rustls(error) => explain_tls(address, &error),
        ureq::Error::Io(error) => explain_io(server, &error),
        other => HttpError::Other { server: address, problem: with_causes(&other) },
    }
}

/// Whether the way to a proxy, or the proxy itself, is what fails.
fn is_of_proxy(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl | ureq::Error::HostNotFound => true,
        ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

fn explain_tls(server: String, error: &rustls::Error) -> HttpError {
    let problem = error.to_string();
    match error {
        rustls::Error::InvalidCertificate(_) => HttpError::Certificate { server, problem },
        _ => HttpError::Tls { server, problem },
    }
}

fn explain_io(server: &HttpUrl, error: &io::Error) -> HttpError {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return explain_tls(server.to_string(), tls);
    }
    let problem = error.to_string();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            HttpError::Refused { host: server.host().to_owned(), port: server.port() }
        }
        io::ErrorKind::TimedOut => HttpError::TimedOut { server: server.to_string() },
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::UnexpectedEof => HttpError::Closed { server: server.to_string() },
        // The standard library has no kind of its own for a failed look-up, only these words.
        _ if problem.starts_with("failed to lookup address information") => {
            HttpError::UnknownHost { host: server.host().to_owned() }
        }
        _ => HttpError::Other { server: server.to_string(), problem },
    }
}

/// An error and its causes in one text.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let words = deeper.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = deeper.source();
    }
    text
}
