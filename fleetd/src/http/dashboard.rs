//! The built-in dashboard: one page that uses the API like any other client. Its files are part of the program.

use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use warp::reply::Response;

use super::problem::Problem;
use super::request::Request;

/// Everything comes from this server, nothing is inline, and nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`
pub(super) async fn page(_: Request) -> Result<Response, Problem> {
    Ok(file("text/html; charset=utf-8", include_str!("../dashboard/index.html")))
}

/// `GET /dashboard.css`
pub(super) async fn style(_: Request) -> Result<Response, Problem> {
    Ok(file("text/css; charset=utf-8", include_str!("../dashboard/dashboard.css")))
}

/// `GET /dashboard.js`
pub(super) async fn script(_: Request) -> Result<Response, Problem> {
    Ok(file("text/javascript; charset=utf-8", include_str!("../dashboard/dashboard.js")))
}

/// `GET /favicon.svg`
pub(super) async fn icon(_: Request) -> Result<Response, Problem> {
    Ok(file("image/svg+xml", include_str!("../dashboard/favicon.svg")))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
