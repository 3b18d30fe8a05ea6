//! `/audit`: who changed what.

use futures_util::TryStreamExt as _;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use protocol::id::OrgSlug;
use warp::Reply as _;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use crate::domain::audit_entry::AuditFormat;
use crate::service::audit as service;
use crate::store::audit::Selection;

/// `GET /audit`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let selection = Selection {
        org: None,
        action: query.text("action"),
        user: query.text("user"),
        device: query.text("device"),
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let org: Option<OrgSlug> = query.parsed("org")?;
    let format = query
        .choice(
            "format",
            &[("json", None), ("csv", Some(AuditFormat::Csv)), ("jsonl", Some(AuditFormat::Jsonl))],
        )?
        .flatten();
    // An export has no pages.
    let page = if format.is_none() { Some(query.page()?) } else { None };
    query.finish()?;
    let store = &request.app.store;
    let selection = service::visible(store, request.caller()?, org.as_ref(), selection).await?;
    match (page, format) {
        (Some(page), _) => {
            let (entries, total) = service::page(store, &selection, page.offset(), page.limit()).await?;
            json(StatusCode::OK, &page.listing(entries, total))
        }
        (None, format) => Ok(export(&request, selection, format.unwrap_or(AuditFormat::Jsonl))),
    }
}

fn export(request: &Request, selection: Selection, format: AuditFormat) -> Response {
    let pieces = service::export(request.app.store.clone(), selection, format);
    // The client sees that the answer broke off.
    let pieces = pieces.inspect_err(|error| tracing::error!(%error, "an export of the audit log broke off"));
    let mut response = warp::reply::stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(format.disposition()));
    response
}
