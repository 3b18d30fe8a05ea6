//! `/devices/{id}/certificate` and `/devices/{id}/revoke-certificates`.

use http::StatusCode;
use protocol::message::rfc3339;
use serde_json::{Value, json};
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use crate::app::AppState;
use crate::authority::devices::Signed;
use crate::domain::certificate_request::CertificateRequest;
use crate::service::certificates as service;

/// `POST /devices/{id}/certificate`
pub(super) async fn issue(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let csr = fields.required("csr", CertificateRequest::read);
    fields.finish()?;
    // `finish` has failed if it was absent or wrong.
    let Some(csr) = csr else { return Err(Problem::bad_request("csr is required")) };
    let signed =
        service::issue(&request.app, request.caller()?, request.id(), &csr, &request.context).await?;
    let mut answer = json!({"server_time": rfc3339(request.app.clock.now_ms())});
    put(&mut answer, &signed);
    json(StatusCode::CREATED, &answer)
}

/// Whether devices should ask for certificates: the server signs them, and takes them where MQTT over TLS ends. It does not end here
/// where a proxy takes the encryption off.
pub(super) fn are_offered(app: &AppState) -> bool {
    let bound = app.bound.get().copied().unwrap_or_default();
    app.device_authority.get().is_some() && bound.mqtts.or(app.config.mqtts_listen).is_some()
}

/// Adds a certificate to an answer.
pub(super) fn put(answer: &mut Value, signed: &Signed) {
    answer["certificate"] = signed.pem.as_str().into();
    answer["certificate_expires_at"] = rfc3339(signed.expires_at).into();
    answer["certificate_renew_at"] = rfc3339(signed.renew_at).into();
}

/// `POST /devices/{id}/revoke-certificates`
pub(super) async fn revoke(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let device = service::revoke(&request.app, request.caller()?, request.id(), &request.context).await?;
    json(StatusCode::OK, &device)
}
