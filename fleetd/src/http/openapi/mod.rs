//! The OpenAPI document. What an operation takes and answers is written in the files beside this one; which operations there are, who
//! may use them and with which credential comes from the table of routes.

mod accounts;
mod commands;
mod devices;
mod history;
mod keys;
mod operation;
mod schema;
mod system;

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use warp::reply::Response;

use super::problem::Problem;
use super::request::Request;
use super::table::Route;
use operation::Operation;

const ABOUT: &str = "\
Bodies and answers are JSON; times are RFC 3339. Lists have pages. GET routes answer HEAD as well. A path that knows other methods answers 405, \
with `Allow`; a path that is not here 404; both as `application/problem+json`. What cannot be read as HTTP, or has more than 64 headers or 32 KiB of \
them, is answered with 400 or 431 without a body. `/mqtt` is MQTT over WebSocket and no part of this document. Behind `x-alias` is the same without a version, for older devices and scripts. `x-role` is the least \
role of a person, `x-scope` what an API key with scopes must have (null: no key with scopes will do), `x-superadmin` that the person owns organisations \
as well, `x-device` that a device may, for itself; `x-also-needs` has what a part of it needs beside that.";

/// For how long a copy is good without asking.
const CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The document of this server, as JSON text.
struct Document {
    text: Bytes,
    etag: HeaderValue,
}

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let text = Bytes::from(document(&super::routes::routes()).to_string());
    let digest: String = Sha256::digest(&text).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // Hex digits between quotes are a header.
    let etag = HeaderValue::from_str(&format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""));
    Document { text, etag }
});

/// The OpenAPI document as JSON text.
#[must_use]
pub fn openapi() -> &'static [u8] {
    &DOCUMENT.text
}

/// `GET /openapi.json`
pub(super) async fn serve(request: Request) -> Result<Response, Problem> {
    let known = is_known(&request.headers, &DOCUMENT.etag);
    let mut response = Response::new(if known { Bytes::new() } else { DOCUMENT.text.clone() }.into());
    let headers = response.headers_mut();
    headers.insert(ETAG, DOCUMENT.etag.clone());
    headers.insert(CACHE_CONTROL, CACHING);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(response)
}

/// Whether the client has the document already.
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let named = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
}

fn operations() -> Vec<Operation> {
    [
        accounts::operations(),
        keys::operations(),
        devices::operations(),
        commands::operations(),
        history::operations(),
        system::operations(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Joins the operations with the routes. A test holds that each has the other.
fn document(routes: &[Route]) -> Value {
    let mut operations = operations();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes.iter().filter(|route| route.alias_of.is_none()) {
        let Some(at) = operations.iter().position(|one| one.is_of(&route.method, &route.path)) else {
            continue;
        };
        let operation = operations.swap_remove(at).document(route.access);
        let item = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation;
        let alias = routes.iter().find(|other| other.alias_of.as_ref() == Some(&route.path));
        if let Some(alias) = alias {
            item["x-alias"] = alias.path.clone().into();
        }
    }
    let schemas: Map<String, Value> = [
        accounts::schemas(),
        keys::schemas(),
        devices::schemas(),
        commands::schemas(),
        history::schemas(),
        system::schemas(),
    ]
    .into_iter()
    .flatten()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect();
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "R58 Fleet",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": operation::path_parameters(),
            "responses": operation::problems(),
            "securitySchemes": {
                "bearer": {
                    "type": "http", "scheme": "bearer",
                    "description": "Of people and programs: an access token (a JWT) from /api/v1/auth/login, or an API key.",
                },
                "deviceToken": {
                    "type": "apiKey", "in": "header", "name": "X-Device-Token", "description": "Of a device.",
                },
                "enrollmentKey": {
                    "type": "apiKey", "in": "header", "name": "X-Enrollment-Key",
                    "description": "Of a device that registers itself.",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_has_an_operation_and_every_operation_a_route() {
        let routes = super::super::routes::routes();
        let wanted: BTreeSet<_> = routes
            .iter()
            .filter(|route| route.alias_of.is_none())
            .map(|route| format!("{} {}", route.method, route.path))
            .collect();
        let all: Vec<_> = operations().iter().map(Operation::label).collect();
        let written: BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!(written.len(), all.len(), "an operation is written twice");
        assert_eq!(written, wanted);
    }

    #[test]
    fn a_copy_that_the_client_has_is_known_by_its_tag() {
        let etag = HeaderValue::from_static("\"a1\"");
        let asks = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            is_known(&headers, &etag)
        };
        assert!(asks("\"a1\"") && asks("\"b\", W/\"a1\"") && asks("*"));
        assert!(!asks("\"a\"") && !asks("a1"));
        assert!(!is_known(&HeaderMap::new(), &etag));
    }
}
