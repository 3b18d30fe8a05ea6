//! Errors as RFC 9457 problem JSON. What a client is told and what the log says are two things.

use std::error::Error as StdError;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use warp::reply::Response;

use crate::domain::audit::Resource;
use crate::domain::fields::FieldError;
use crate::domain::org::OrgId;
use crate::service::Error;
use crate::store::StoreError;

/// After how many seconds a client may try again when a part of the server is away.
const AWAY_RETRY_SECONDS: u32 = 5;

/// An answer that says what is wrong.
#[derive(Debug)]
pub(super) struct Problem(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u32>,
    allow: Option<String>,
    about: Option<Resource>,
    org: Option<OrgId>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem of this status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Told {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            allow: None,
            about: None,
            org: None,
        }))
    }

    /// The request cannot be read.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Nothing is at this path.
    pub(super) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing at this path; docs/api.md lists the paths")
    }

    /// Credentials came, or are about to come, where others can read them.
    pub(super) fn plaintext_forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "credentials are not accepted over plain HTTP: use HTTPS, or set FLEET_ALLOW_PLAINTEXT=1 on the server if \
             the network in between is trusted",
        )
    }

    /// The path knows other methods.
    pub(super) fn method_not_allowed(allow: String) -> Self {
        let mut problem =
            Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path knows the methods {allow}"));
        problem.0.allow = Some(allow);
        problem
    }

    /// The body is larger than `limit` bytes.
    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body may have at most {limit} bytes"))
    }

    /// Readable, but some fields are wrong.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields are not right");
        problem.0.errors = errors;
        problem
    }

    /// For the audit log: what the refused request was about.
    pub(super) fn about(mut self, kind: &'static str, id: &str) -> Self {
        self.0.about = Some(Resource::new(kind, id));
        self
    }

    /// For the audit log: the organisation, where the caller does not tell it.
    pub(super) fn in_org(mut self, org: Option<OrgId>) -> Self {
        self.0.org = org;
        self
    }

    /// What the refused request was about.
    pub(super) fn resource(&self) -> Option<&Resource> {
        self.0.about.as_ref()
    }

    /// The organisation that the refused request was about.
    pub(super) fn org(&self) -> Option<&OrgId> {
        self.0.org.as_ref()
    }

    /// The names of the wrong fields.
    #[cfg(test)]
    pub(super) fn fields(&self) -> Vec<&str> {
        self.0.errors.iter().map(|error| error.field.as_str()).collect()
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// What the client is told.
    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Whether the audit log should know: refused, and not for the server's own trouble or for being too often.
    pub(super) fn is_refusal(&self) -> bool {
        self.0.status.is_client_error() && self.0.status != StatusCode::TOO_MANY_REQUESTS
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response {
        let title = self.0.status.canonical_reason().unwrap_or("Error");
        let body = Body {
            r#type: format!("urn:r58-fleet:problem:{}", title.to_ascii_lowercase().replace(' ', "-")),
            title,
            status: self.0.status.as_u16(),
            detail: &self.0.detail,
            errors: &self.0.errors,
        };
        // A struct of texts and numbers always becomes JSON.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(body.into());
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.0.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(allow) = self.0.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fleet\""));
        }
        if self.0.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let log = |what: &str| tracing::error!("{what}: {}", chain(&error));
        let status = match &error {
            Error::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Error::Forbidden(_) => StatusCode::FORBIDDEN,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Conflict(_) => StatusCode::CONFLICT,
            Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            // The code and the schema disagree: a fault, not a database that is away.
            Error::Store(
                StoreError::Column { .. } | StoreError::Unique { .. } | StoreError::Reference { .. },
            ) => {
                log("a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Error::Store(_) => {
                log("the database is away");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Internal(_) => {
                log("a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut problem = Self::new(status, error.to_string());
        match error {
            Error::Invalid(errors) => problem.0.errors = errors,
            Error::TooMany { retry_after_seconds } => {
                problem.0.retry_after_seconds = Some(retry_after_seconds)
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                problem.0.retry_after_seconds = Some(AWAY_RETRY_SECONDS);
            }
            _ => {}
        }
        problem
    }
}

impl From<Vec<FieldError>> for Problem {
    fn from(errors: Vec<FieldError>) -> Self {
        Self::invalid(errors)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
