//! `/service-accounts`: accounts of programs, which have API keys and no password.

use http::StatusCode;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use super::users::{disable_of, get_of, list_of, unread, update_of};
use crate::domain::fields::{name, parsed};
use crate::domain::user::{Kind, NAME_MAX_CHARS};
use crate::service::Desk;
use crate::service::accounts::{self, NewService};

/// `GET /service-accounts`
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    list_of(request, Kind::Service).await
}

/// `GET /service-accounts/{id}`
pub(super) async fn get(request: Request) -> Result<Response, Problem> {
    get_of(request, Kind::Service).await
}

/// `POST /service-accounts`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let username = fields.required("username", parsed::<protocol::id::UserName>(63));
    let role = fields.required("role", parsed(20));
    let name = fields.optional("name", name(NAME_MAX_CHARS));
    fields.finish()?;
    let (Some(username), Some(role)) = (username, role) else { return Err(unread()) };
    let label = username.to_string();
    let new = NewService { name: name.unwrap_or_else(|| label.clone()), username, role };
    let desk = Desk::of(&request.app, &request.context);
    let draft = accounts::draft_service(request.caller()?.org().clone(), new, desk.now_ms)?;
    let made = accounts::add(desk, draft, None).await;
    let made = made.map_err(|error| Problem::from(error).about("service_account", &label))?;
    json(StatusCode::CREATED, &made.view())
}

/// `PATCH /service-accounts/{id}`
pub(super) async fn update(request: Request) -> Result<Response, Problem> {
    update_of(request, Kind::Service).await
}

/// `DELETE /service-accounts/{id}`
pub(super) async fn disable(request: Request) -> Result<Response, Problem> {
    disable_of(request, Kind::Service).await
}
