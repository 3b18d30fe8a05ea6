//! The table of routes and what happens around every handler: who is calling, may they, how long may it take, and
//! the row of the audit log when it is refused.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tokio::sync::oneshot;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::problem::Problem;
use super::query::decode;
use super::request::{BodyStream, Peer, Request};
use crate::app::AppState;
use crate::auth::caller::{Caller, identify};
use crate::auth::policy::{self, Action};
use crate::domain::audit::{AuditEntry, AuditOutcome, Resource};
use crate::service::devices::unknown;
use crate::service::{Error, tokens};
use crate::store::{audit, devices};

/// How long a handler may take, unless the table says otherwise.
const HANDLER_TIME: Duration = Duration::from_secs(30);

/// Who may use a route.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// The handler finds out; what it refuses is noted under this name.
    Handler(&'static str),
    /// Those who may do this.
    Needs(Action),
    /// Those who may do this, or who send this header: the handler looks at it.
    NeedsOrHeader(Action, &'static str),
}

impl Access {
    fn audit_name(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::Handler(name) => Some(name),
            Self::Needs(action) | Self::NeedsOrHeader(action, _) => action.audit_name(),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

struct Row {
    route: Route,
    handler: Handler,
    /// How long the handler may take.
    time: Duration,
}

/// What is known of a route without asking it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// The method.
    pub(super) method: Method,
    /// The path, with `{variables}`.
    pub(super) path: String,
    /// Who may.
    pub(super) access: Access,
    /// The path that this one is another name of.
    pub(super) alias_of: Option<String>,
}

/// Routes, from the first to the last.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a route. `path` has literal segments and `{variables}`.
    pub(super) fn row<H, F>(mut self, method: Method, path: &str, access: Access, handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.rows.push(Row {
            route: Route { method, path: path.to_owned(), access, alias_of: None },
            handler,
            time: HANDLER_TIME,
        });
        self
    }

    /// Gives the handler of the last route another time.
    pub(super) fn within(mut self, time: Duration) -> Self {
        if let Some(row) = self.rows.last_mut() {
            row.time = time;
        }
        self
    }

    /// Serves every route under `prefix` under `alias` as well.
    pub(super) fn alias(mut self, prefix: &str, alias: &str) -> Self {
        let again: Vec<Row> = self
            .rows
            .iter()
            .filter_map(|row| {
                let path = format!("{alias}{}", row.route.path.strip_prefix(prefix)?);
                let route = Route { path, alias_of: Some(row.route.path.clone()), ..row.route.clone() };
                Some(Row { route, handler: row.handler.clone(), time: row.time })
            })
            .collect();
        self.rows.extend(again);
        self
    }

    /// Every route.
    pub(super) fn routes(&self) -> Vec<Route> {
        self.rows.iter().map(|row| row.route.clone()).collect()
    }

    /// What the routes are for.
    #[cfg(test)]
    pub(super) fn actions(&self) -> Vec<Action> {
        let needs = |row: &Row| match row.route.access {
            Access::Needs(action) | Access::NeedsOrHeader(action, _) => Some(action),
            Access::Open | Access::Handler(_) => None,
        };
        self.rows.iter().filter_map(needs).collect()
    }

    /// The filter that serves the table, and answers 404 and 405 for everything else.
    pub(super) fn filter(self, app: &Arc<AppState>) -> BoxedFilter<(Response,)> {
        let routes = Arc::new(self.routes());
        let nothing = warp::path::full().map(move |path: warp::path::FullPath| {
            let allowed = allowed_methods(&routes, path.as_str());
            let problem = if allowed.is_empty() {
                Problem::no_such_path()
            } else {
                Problem::method_not_allowed(allowed)
            };
            problem.into_response()
        });
        let mut all: BoxedFilter<(Response,)> = nothing.boxed();
        for row in self.rows.into_iter().rev() {
            all = row_filter(row, app).or(all).unify().boxed();
        }
        all.recover(unexpected).unify().boxed()
    }
}

/// Maps a rejection that no handler made; the last filter of the table leaves none but faults of the server.
async fn unexpected(rejection: Rejection) -> Result<Response, std::convert::Infallible> {
    tracing::warn!(?rejection, "a request was rejected outside the route table");
    Ok(Problem::bad_request("the request cannot be served").into_response())
}

fn allowed_methods(routes: &[Route], path: &str) -> String {
    let mut methods: Vec<&str> = Vec::new();
    for route in routes.iter().filter(|route| matches(&route.path, path)) {
        if !methods.contains(&route.method.as_str()) {
            methods.push(route.method.as_str());
            if route.method == Method::GET {
                methods.push("HEAD");
            }
        }
    }
    methods.join(", ")
}

fn matches(pattern: &str, path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let pattern = pattern.strip_suffix('/').unwrap_or(pattern);
    let (mut given, mut wanted) = (path.split('/'), pattern.split('/'));
    loop {
        match (given.next(), wanted.next()) {
            (None, None) => return true,
            (Some(given), Some(wanted))
                if wanted == given || (wanted.starts_with('{') && !given.is_empty()) => {}
            _ => return false,
        }
    }
}

fn method_filter(method: &Method) -> BoxedFilter<()> {
    match *method {
        Method::POST => warp::post().boxed(),
        Method::PUT => warp::put().boxed(),
        Method::PATCH => warp::patch().boxed(),
        Method::DELETE => warp::delete().boxed(),
        _ => warp::get().boxed(),
    }
}

fn path_filter(pattern: &str) -> BoxedFilter<(Vec<String>,)> {
    let mut filter: BoxedFilter<(Vec<String>,)> = warp::any().map(Vec::new).boxed();
    for segment in pattern.split('/').filter(|segment| !segment.is_empty()) {
        filter = if segment.starts_with('{') {
            let with = |mut params: Vec<String>, value: String| {
                params.push(value);
                params
            };
            filter.and(warp::path::param::<String>()).map(with).boxed()
        } else {
            filter.and(warp::path(segment.to_owned())).boxed()
        };
    }
    filter.and(warp::path::end()).boxed()
}

fn boxed_body<B: Buf>(body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static) -> BodyStream {
    Box::pin(body.map(|part| {
        part.map(|mut buffer| -> Bytes {
            let length = buffer.remaining();
            buffer.copy_to_bytes(length)
        })
    }))
}

fn row_filter(row: Row, app: &Arc<AppState>) -> BoxedFilter<(Response,)> {
    let app = app.clone();
    let (access, handler, time) = (row.route.access, row.handler, row.time);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let body = warp::body::stream().map(boxed_body);
    path_filter(&row.route.path)
        .and(method_filter(&row.route.method))
        .and(warp::ext::get::<Peer>())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(body)
        .then(move |params: Vec<String>, peer: Peer, headers: HeaderMap, query: String, body: BodyStream| {
            let (app, handler) = (app.clone(), handler.clone());
            async move {
                let Some(params) = params.iter().map(|param| decode(param, false)).collect() else {
                    return Problem::bad_request("the path is not percent-encoded UTF-8").into_response();
                };
                // Dropped with this future, at the latest when the client closes its connection.
                let (_here, gone) = oneshot::channel();
                let request = Request::new(app, peer, headers, params, query, body, gone);
                // A task of its own: a client that goes away does not cut a change off between its commit and what
                // follows from it.
                let work = tokio::spawn(run(request, access, handler));
                match tokio::time::timeout(time, work).await {
                    Ok(Ok(response)) => response,
                    Ok(Err(error)) => {
                        tracing::error!(%error, "a handler ended early");
                        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "an internal error").into_response()
                    }
                    Err(_) => {
                        Problem::from(Error::Unavailable("it took too long; try again")).into_response()
                    }
                }
            }
        })
        .boxed()
}

/// Finds out who is calling and whether they may, runs the handler, and notes a refused change.
async fn run(mut request: Request, access: Access, handler: Handler) -> Response {
    let app = request.app.clone();
    let address = request.origin.address;
    let admitted = admit(&mut request, access).await;
    let context = request.context.clone();
    let org = request.caller.as_ref().map(|caller| caller.org().id.clone());
    let id = request.params.first().cloned().unwrap_or_default();
    let outcome = match admitted {
        Ok(()) => handler(request).await,
        Err(problem) => Err(problem),
    };
    let problem = match outcome {
        Ok(response) => return response,
        Err(problem) => problem,
    };
    if let Some(action) = access.audit_name().filter(|_| problem.is_refusal())
        && app.auth.may_note_refusal(address, &context.actor.to_string())
    {
        let kind = match action.split_once('.') {
            // The path has the device's id, if it has one.
            _ if action == "command.create" => "device",
            Some(("auth", _)) | None => "user",
            Some(("lease", _)) => "redundancy_group",
            Some((kind, _)) => kind,
        };
        let entry = AuditEntry {
            org_id: org.as_ref().or(problem.org()),
            at: app.clock.now_ms(),
            context: &context,
            action,
            resource: problem.resource().cloned().unwrap_or_else(|| Resource::new(kind, &id)),
            outcome: AuditOutcome::Refused,
            details: json!({"status": problem.status().as_u16(), "reason": problem.detail()}),
        };
        if let Err(error) = app.store.apply_one(audit::insert(&entry)).await {
            tracing::error!(%error, "cannot note a refused change");
        }
    }
    problem.into_response()
}

async fn admit(request: &mut Request, access: Access) -> Result<(), Problem> {
    let action = match access {
        Access::Needs(action) => action,
        Access::NeedsOrHeader(action, header) if !request.headers.contains_key(header) => action,
        Access::Open | Access::Handler(_) | Access::NeedsOrHeader(..) => return Ok(()),
    };
    authenticate(request).await?;
    let (caller, id) = (request.caller()?, request.params.first().map(String::as_str));
    let Err(why) = policy::check(caller, action, id) else { return Ok(()) };
    // To a device as well, another organisation's is not there.
    if let (Caller::Device(own), Some(id)) = (caller, id)
        && action.is_for_own_device()
        && devices::find(&request.app.store, &own.org.id, id).await?.is_none()
    {
        return Err(unknown(id).into());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, why))
}

/// Finds out who is calling, and counts the request.
async fn authenticate(request: &mut Request) -> Result<(), Problem> {
    let Some(credential) = request.credential()? else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "sign in: Authorization: Bearer with an access token or API key; devices send X-Device-Token",
        ));
    };
    request.check_confidential()?;
    let app = request.app.clone();
    let device = request.params.first().map(String::as_str);
    let now_ms = app.clock.now_ms();
    let caller = identify(&app.auth, &app.store, &credential, device, request.origin.address, now_ms).await?;
    if let Caller::Device(device) = &caller
        && !tokens::settle(&app, device, false).await?
    {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "this device token has lapsed"));
    }
    request.context.actor = caller.actor();
    let counted = caller.rate_key().map_or(Ok(()), |key| app.auth.count_request(key));
    request.caller = Some(caller);
    Ok(counted?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_the_filters_do() {
        assert!(matches("/devices/{id}/status", "/devices/a/status"));
        assert!(matches("/devices", "/devices/"));
        assert!(matches("/", "/"));
        assert!(!matches("/devices/{id}", "/devices"));
        assert!(!matches("/devices/{id}", "/devices//"));
        assert!(!matches("/devices/{id}", "/devices/a/b"));
    }

    #[test]
    fn the_allowed_methods_of_a_path_are_told() {
        let row = |method, path: &str| Route {
            method,
            path: path.to_owned(),
            access: Access::Open,
            alias_of: None,
        };
        let paths = [row(Method::GET, "/a/{id}"), row(Method::DELETE, "/a/{id}"), row(Method::POST, "/a")];
        assert_eq!(allowed_methods(&paths, "/a/7"), "GET, HEAD, DELETE");
        assert_eq!(allowed_methods(&paths, "/b"), "");
    }
}
