//! A request as handlers see it: who, from where, what, with bounded bodies.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::tls::PeerCertificate;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use warp::reply::Response;

use super::problem::Problem;
use super::query::Query;
use crate::app::AppState;
use crate::auth::caller::{Caller, Credential};
use crate::config::Secret;
use crate::domain::audit::{Actor, AuditContext};
use crate::domain::fields::Fields;
use crate::domain::network::Origin;

/// Most bytes of a JSON body.
pub(super) const JSON_MAX_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(20);
/// How much of a client's own name is kept, in characters.
const USER_AGENT_MAX_CHARS: usize = 200;

/// The other end of the connection; put into every request by the server.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: SocketAddr,
    /// Whether the connection is encrypted.
    pub(super) encrypted: bool,
    /// The certificate that it has shown, if any. What a proxy says of its clients' certificates is never asked.
    pub(super) certificate: PeerCertificate,
}

/// A body that has not been read yet.
pub(super) type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request on its way through a handler.
pub(super) struct Request {
    /// The server's parts.
    pub(super) app: Arc<AppState>,
    /// The other end of the connection.
    pub(super) peer: Peer,
    /// Where it comes from.
    pub(super) origin: Origin,
    /// Who it comes from; always there where the route needs it.
    pub(super) caller: Option<Caller>,
    /// For the audit log.
    pub(super) context: AuditContext,
    /// The headers.
    pub(super) headers: HeaderMap,
    /// The decoded variable parts of the path, in order.
    pub(super) params: Vec<String>,
    /// When it came.
    pub(super) received_at: Instant,
    raw_query: String,
    body: Option<BodyStream>,
    /// Ends with the client's interest in the answer.
    gone: oneshot::Receiver<()>,
}

impl Request {
    /// Puts a request together; nobody has been asked who it is from.
    pub(super) fn new(
        app: Arc<AppState>,
        peer: Peer,
        headers: HeaderMap,
        params: Vec<String>,
        raw_query: String,
        body: BodyStream,
        gone: oneshot::Receiver<()>,
    ) -> Self {
        let forwarded_for = joined(&headers, "x-forwarded-for");
        let origin = app.auth.proxies.origin(peer.address, peer.encrypted, forwarded_for.as_deref());
        let user_agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let context = AuditContext {
            actor: Actor::Anonymous,
            ip_address: Some(origin.address.to_string()),
            user_agent: user_agent.map(|text| text.chars().take(USER_AGENT_MAX_CHARS).collect()),
        };
        Self {
            app,
            peer,
            origin,
            caller: None,
            context,
            headers,
            params,
            received_at: Instant::now(),
            raw_query,
            body: Some(body),
            gone,
        }
    }

    /// The caller of a route that needs one.
    pub(super) fn caller(&self) -> Result<&Caller, Problem> {
        self.caller.as_ref().ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "sign in first"))
    }

    /// The first variable part of the path.
    pub(super) fn id(&self) -> &str {
        self.params.first().map_or("", String::as_str)
    }

    /// The query, to be read, once. One that nobody has taken is looked at before a body is: a parameter that is not known is
    /// an error.
    pub(super) fn query(&mut self) -> Result<Query, Problem> {
        Query::parse(&std::mem::take(&mut self.raw_query))
    }

    /// What the request brought to prove who it is from. What it says itself counts before how it came.
    pub(super) fn credential(&self) -> Result<Option<Credential>, Problem> {
        let said = credential(&self.headers)?;
        Ok(said.or_else(|| self.peer.certificate.get().map(Credential::Certificate)))
    }

    /// A header that holds a secret.
    pub(super) fn secret_header(&self, name: &'static str) -> Result<Option<Secret>, Problem> {
        secret(&self.headers, name)
    }

    /// Refuses credentials that anybody on the way could read.
    pub(super) fn check_confidential(&self) -> Result<(), Problem> {
        if self.origin.credentials_allowed {
            return Ok(());
        }
        Err(Problem::plaintext_forbidden())
    }

    /// Resolves when nobody waits for the answer any more. For a handler that waits for something to happen; at most once.
    pub(super) fn client_gone(&mut self) -> impl Future<Output = ()> + use<> {
        let gone = std::mem::replace(&mut self.gone, oneshot::channel().1);
        async move { drop(gone.await) }
    }

    /// Reads the body, at most `limit` bytes of it.
    pub(super) async fn bytes(&mut self, limit: usize) -> Result<Bytes, Problem> {
        self.query()?.finish()?;
        let announced =
            self.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit)) {
            return Err(Problem::too_large(limit));
        }
        let Some(mut body) = self.body.take() else { return Ok(Bytes::new()) };
        let read = async {
            let mut whole = BytesMut::new();
            while let Some(part) = body.next().await {
                let part = part.map_err(|_| Problem::bad_request("the body ended before its end"))?;
                if whole.len() + part.len() > limit {
                    return Err(Problem::too_large(limit));
                }
                whole.extend_from_slice(&part);
            }
            Ok(whole.freeze())
        };
        match tokio::time::timeout(BODY_TIME, read).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive")),
        }
    }

    /// Reads a JSON body.
    pub(super) async fn json(&mut self, limit: usize) -> Result<Value, Problem> {
        self.check_json()?;
        parse_json(&self.bytes(limit).await?)
    }

    /// Reads a JSON body that may be left out: nothing stands for an empty object.
    pub(super) async fn json_or_nothing(&mut self, limit: usize) -> Result<Value, Problem> {
        let is_json = self.check_json();
        let bytes = self.bytes(limit).await?;
        if bytes.is_empty() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        is_json?;
        parse_json(&bytes)
    }

    fn check_json(&self) -> Result<(), Problem> {
        self.check_type("application/json", "the body must be JSON, with Content-Type: application/json")
    }

    /// Refuses a body that is said to be something else.
    pub(super) fn check_type(&self, expected: &str, otherwise: &'static str) -> Result<(), Problem> {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        if essence.is_some_and(|essence| essence.eq_ignore_ascii_case(expected)) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, otherwise))
    }

    /// Reads a JSON object, to be taken apart field by field.
    pub(super) async fn fields(&mut self) -> Result<Fields, Problem> {
        let body = self.json(JSON_MAX_BYTES).await?;
        Ok(Fields::new(body)?)
    }

    /// Reads a JSON object that may be left out, to be taken apart field by field.
    pub(super) async fn fields_or_none(&mut self) -> Result<Fields, Problem> {
        let body = self.json_or_nothing(JSON_MAX_BYTES).await?;
        Ok(Fields::new(body)?)
    }

    /// For routes that take no body: an empty one, or an empty object.
    pub(super) async fn no_fields(&mut self) -> Result<(), Problem> {
        let announced = self.headers.contains_key(CONTENT_TYPE);
        let bytes = self.bytes(JSON_MAX_BYTES).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        if !announced {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this request takes no body"));
        }
        let body = serde_json::from_slice::<Value>(&bytes)
            .map_err(|_| Problem::bad_request("this request takes no body, or an empty JSON object"))?;
        Ok(Fields::new(body)?.finish()?)
    }

    /// The name and port under which the client reached the server, if it said so in a usable way.
    pub(super) fn host(&self) -> Option<&str> {
        let host = self.headers.get(HOST)?.to_str().ok()?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
        (!host.is_empty() && host.len() <= 255 && host.chars().all(good)).then_some(host)
    }
}

/// What a request with these headers brought to prove who it is from.
pub(super) fn credential(headers: &HeaderMap) -> Result<Option<Credential>, Problem> {
    let bearer = match headers.get(AUTHORIZATION) {
        None => None,
        Some(value) => {
            let token = value.to_str().ok().and_then(|text| {
                let (scheme, token) = text.trim().split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim().to_owned()))
            });
            let expected = "the Authorization header must be: Bearer, a space, an access token or API key";
            Some(token.ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, expected))?)
        }
    };
    match (bearer, secret(headers, "x-device-token")?) {
        (Some(_), Some(_)) => {
            Err(Problem::bad_request("send either Authorization or X-Device-Token, not both"))
        }
        (Some(token), None) => Ok(Some(Credential::Bearer(token))),
        (None, Some(token)) => Ok(Some(Credential::DeviceToken(token))),
        (None, None) => Ok(None),
    }
}

/// A header that holds a secret.
fn secret(headers: &HeaderMap, name: &'static str) -> Result<Option<Secret>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        Problem::new(StatusCode::UNAUTHORIZED, format!("the header {name} is not plain text"))
    })?;
    Ok(Some(Secret::new(text.trim().to_owned())))
}

fn parse_json(bytes: &[u8]) -> Result<Value, Problem> {
    // Some editors put a byte order mark before the text.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(text).map_err(|e| {
        Problem::bad_request(format!("the body is not JSON (line {}, column {})", e.line(), e.column()))
    })
}

/// All values of a header that may come several times, as one.
pub(super) fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    // What is no text stays in its place: it must not take along what a proxy has added to it.
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    if values.is_empty() { None } else { Some(values.join(",")) }
}

/// An answer of JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(body).map_err(crate::service::Error::internal)?;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// An answer without a body.
pub(super) fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
