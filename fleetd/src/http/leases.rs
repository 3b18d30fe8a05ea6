//! `/redundancy-groups/{name}/lease`: whose turn it is to be disrupted.

use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, no_content};
use crate::service::leases as service;

/// `DELETE /redundancy-groups/{name}/lease`
pub(super) async fn release(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    service::release(&request.app, request.caller()?, request.id(), &request.context).await?;
    Ok(no_content())
}
