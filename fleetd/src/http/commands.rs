//! `/commands` and `/devices/{id}/commands`: create, look, cancel, override.

use http::StatusCode;
use protocol::command::CommandType;
use protocol::command::payload::plain_unit;
use serde::Serialize;
use serde_json::json;
use warp::reply::Response;

use super::problem::Problem;
use super::query::Query;
use super::request::{JSON_MAX_BYTES, Request, json};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::domain::command::{Command, CommandView};
use crate::domain::command_request::{APP_UNIT_DEFAULT, CreateRequest, Target, reason};
use crate::domain::device::{Device, DeviceRowId};
use crate::domain::fields::Fields;
use crate::service::commands::{self as service, Via};
use crate::service::devices::unknown;
use crate::store::commands::{Selection, SortKey};
use crate::store::{device_state, devices};

/// What became of a request for one of several devices.
#[derive(Serialize)]
struct Item<'a> {
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `POST /devices/{id}/commands`
pub(super) async fn create_for_device(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let to = one_device(&request)?;
    let body = request.json(JSON_MAX_BYTES).await?;
    create_one(request, CreateRequest::read(body, Some(to))?).await
}

/// `POST /commands`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let dry_run = query.flag("dry_run")?;
    query.finish()?;
    let body = request.json(JSON_MAX_BYTES).await?;
    let wanted = CreateRequest::read(body, None)?;
    let caller = request.caller()?;
    if dry_run {
        let items = service::dry_run(&request.app, caller, &wanted, &request.context).await?;
        return json(StatusCode::OK, &json!({"items": items}));
    }
    let alone = matches!(wanted.to, Target::Device(_));
    let mut answers = service::create(&request.app, caller, wanted, Via::Http, &request.context).await?;
    // Refused for the only device that was named: the request as a whole is.
    if alone && answers.first().is_some_and(|answer| answer.result.is_err()) {
        let answer = answers.swap_remove(0);
        let device = answer.device;
        return answer.result.map_or_else(
            |error| Err(Problem::from(error).about("device", &device)),
            |command| json(StatusCode::CREATED, &command.view()),
        );
    }
    let items: Vec<_> = answers
        .iter()
        .map(|answer| Item {
            device_id: &answer.device,
            command: answer.result.as_ref().ok().map(Command::view),
            error: answer.result.as_ref().err().map(crate::service::Error::reason),
        })
        .collect();
    json(StatusCode::CREATED, &json!({"items": items}))
}

/// `POST /devices/{id}/restart`
pub(super) async fn restart(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let to = one_device(&request)?;
    let body = request.json_or_nothing(JSON_MAX_BYTES).await?;
    let device = found(&request.app, request.caller()?, request.id()).await?;
    let birth = device_state::birth(&request.app.store, device.id.as_str()).await?;
    let unit = birth.and_then(|birth| birth.app_unit).unwrap_or_else(|| APP_UNIT_DEFAULT.to_owned());
    let kind = CommandType::RestartService;
    let wanted = CreateRequest::read_shorthand(body, to, kind, &["service"], |payload| {
        payload.entry("service").or_insert_with(|| plain_unit(&unit).into());
    })?;
    create_one(request, wanted).await
}

/// `POST /devices/{id}/update`
pub(super) async fn update(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let to = one_device(&request)?;
    let body = request.json_or_nothing(JSON_MAX_BYTES).await?;
    let device = found(&request.app, request.caller()?, request.id()).await?;
    let target = device.description.target_version;
    let names = ["version", "branch", "force"];
    let wanted = CreateRequest::read_shorthand(body, to, CommandType::Update, &names, |payload| {
        if !payload.contains_key("branch")
            && let Some(version) = target
        {
            payload.entry("version").or_insert_with(|| version.into());
        }
    })?;
    create_one(request, wanted).await
}

/// `GET /devices/{id}/commands`
pub(super) async fn list_of_device(mut request: Request) -> Result<Response, Problem> {
    let query = request.query()?;
    let device = service::device(&request.app, request.caller()?, request.id()).await?;
    list_with(request, query, Some(device)).await
}

/// `GET /commands`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let device = match query.text("device_id") {
        Some(id) => Some(service::device(&request.app, request.caller()?, &id).await?),
        None => None,
    };
    list_with(request, query, device).await
}

async fn list_with(
    request: Request,
    mut query: Query,
    device: Option<DeviceRowId>,
) -> Result<Response, Problem> {
    let page = query.page()?;
    // The newest first, if nothing else is asked for.
    let (sort, descending) = match query.sort_given(&SortKey::ALL)? {
        Some(given) => given,
        None => (SortKey::CreatedAt, true),
    };
    let selection = Selection {
        status: query.parsed("status")?,
        kind: query.parsed("type")?,
        device,
        sort,
        descending,
        offset: page.offset(),
        limit: page.limit(),
    };
    query.finish()?;
    let (commands, total) = service::list(&request.app, request.caller()?, &selection).await?;
    json(StatusCode::OK, &page.listing(commands.iter().map(Command::view).collect(), total))
}

/// `GET /commands/{id}`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    json(StatusCode::OK, &service::get(&request.app, request.caller()?, request.id()).await?)
}

/// `POST /commands/{id}/cancel`
pub(super) async fn cancel(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let command =
        service::cancel(&request.app, request.caller()?, request.id(), Via::Http, &request.context).await?;
    json(StatusCode::OK, &command.view())
}

/// `POST /commands/{id}/override`
pub(super) async fn override_show(mut request: Request) -> Result<Response, Problem> {
    let mut fields: Fields = request.fields().await?;
    let why = fields.required("reason", reason);
    fields.finish()?;
    let (app, caller, context) = (&request.app, request.caller()?, &request.context);
    let why = why.unwrap_or_default();
    let command = service::override_show(app, caller, request.id(), &why, Via::Http, context).await?;
    json(StatusCode::OK, &command.view())
}

/// The device that the path names; what cannot be an id names none.
fn one_device(request: &Request) -> Result<Target, Problem> {
    match Target::parse(request.id()) {
        Ok(target @ Target::Device(_)) => Ok(target),
        _ => Err(unknown(request.id()).into()),
    }
}

async fn found(app: &AppState, caller: &Caller, id: &str) -> Result<Device, Problem> {
    let device = devices::find(&app.store, &caller.org().id, id).await?;
    let device = device.filter(|device| device.decommissioned_at.is_none());
    device.ok_or_else(|| unknown(id).into())
}

async fn create_one(request: Request, wanted: CreateRequest) -> Result<Response, Problem> {
    let (app, caller, context) = (&request.app, request.caller()?, &request.context);
    let mut answers = service::create(app, caller, wanted, Via::Http, context).await?;
    // One device was named, and there is an answer for each.
    let answer = answers.pop().ok_or_else(|| unknown(request.id()))?;
    let command = answer.result?;
    json(StatusCode::CREATED, &command.view())
}
