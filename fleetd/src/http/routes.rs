//! Every route of the server: method, path, who may, and the function that answers.

use std::sync::Arc;

use http::Method;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::table::Access::{Handler, Needs, NeedsOrHeader, Open};
use super::table::{Route, Table};
use super::{
    api_keys, audit, auth, certificates, commands, connect, dashboard, device_commands, device_config,
    devices, enrollment_keys, exchange, history, leases, openapi, orgs, service_accounts, show_locks, system,
    users,
};
use crate::app::AppState;
use crate::auth::policy::Action;

/// The prefix that devices' routes also have without a version.
const UNVERSIONED: (&str, &str) = ("/api/v1/devices", "/api/devices");

#[rustfmt::skip]
fn table() -> Table {
    use Method as M;
    Table::default()
        // People.
        .row(M::POST,   "/api/v1/auth/login",     Handler("auth.login"),   auth::login)
        .row(M::POST,   "/api/v1/auth/refresh",   Handler("auth.refresh"), auth::refresh)
        .row(M::GET,    "/api/v1/auth/me",        Needs(Action::ReadOwnAccount),    auth::me)
        .row(M::POST,   "/api/v1/auth/password",  Needs(Action::ChangeOwnPassword), auth::password)
        .row(M::GET,    "/api/v1/users",           Needs(Action::ReadUsers),   users::list)
        .row(M::POST,   "/api/v1/users",           Needs(Action::CreateUser),  users::create)
        .row(M::GET,    "/api/v1/users/{id}",      Needs(Action::ReadUsers),   users::get)
        .row(M::PATCH,  "/api/v1/users/{id}",      Needs(Action::UpdateUser),  users::update)
        .row(M::DELETE, "/api/v1/users/{id}",      Needs(Action::DisableUser), users::disable)
        .row(M::POST,   "/api/v1/users/{id}/reset-password", Needs(Action::ResetPassword), users::reset_password)
        // Organisations, programs, and what they and devices show in place of a password.
        .row(M::GET,    "/api/v1/orgs",                  Needs(Action::ReadOrgs),              orgs::list)
        .row(M::POST,   "/api/v1/orgs",                  Needs(Action::CreateOrg),             orgs::create)
        .row(M::GET,    "/api/v1/orgs/{id}",             Needs(Action::ReadOrgs),              orgs::get)
        .row(M::PATCH,  "/api/v1/orgs/{id}",             Needs(Action::UpdateOrg),             orgs::update)
        .row(M::GET,    "/api/v1/service-accounts",      Needs(Action::ReadServiceAccounts),   service_accounts::list)
        .row(M::POST,   "/api/v1/service-accounts",      Needs(Action::CreateServiceAccount),  service_accounts::create)
        .row(M::GET,    "/api/v1/service-accounts/{id}", Needs(Action::ReadServiceAccounts),   service_accounts::get)
        .row(M::PATCH,  "/api/v1/service-accounts/{id}", Needs(Action::UpdateServiceAccount),  service_accounts::update)
        .row(M::DELETE, "/api/v1/service-accounts/{id}", Needs(Action::DisableServiceAccount), service_accounts::disable)
        .row(M::GET,    "/api/v1/api-keys",              Needs(Action::ReadApiKeys),           api_keys::list)
        .row(M::POST,   "/api/v1/api-keys",              Needs(Action::CreateApiKey),          api_keys::create)
        .row(M::GET,    "/api/v1/api-keys/{id}",         Needs(Action::ReadApiKeys),           api_keys::get)
        .row(M::PATCH,  "/api/v1/api-keys/{id}",         Needs(Action::UpdateApiKey),          api_keys::update)
        .row(M::DELETE, "/api/v1/api-keys/{id}",         Needs(Action::RevokeApiKey),          api_keys::revoke)
        .row(M::GET,    "/api/v1/enrollment-keys",       Needs(Action::ReadEnrollmentKeys),    enrollment_keys::list)
        .row(M::POST,   "/api/v1/enrollment-keys",       Needs(Action::CreateEnrollmentKey),   enrollment_keys::create)
        .row(M::GET,    "/api/v1/enrollment-keys/{id}",  Needs(Action::ReadEnrollmentKeys),    enrollment_keys::get)
        .row(M::DELETE, "/api/v1/enrollment-keys/{id}",  Needs(Action::RevokeEnrollmentKey),   enrollment_keys::revoke)
        // Devices about themselves.
        .row(M::GET,    "/api/v1/connect",                Needs(Action::Connect),       connect::connect)
        .row(M::POST,   "/api/v1/devices/{id}/heartbeat", Needs(Action::SendHeartbeat), history::heartbeat)
        .row(M::POST,   "/api/v1/devices/{id}/certificate", Needs(Action::IssueCertificate), certificates::issue)
        .row(M::POST,   "/api/v1/devices/{id}/exchange",  Needs(Action::Exchange),      exchange::exchange)
        .within(exchange::TIME)
        // Devices, by people.
        .row(M::POST,   "/api/v1/devices/register",    NeedsOrHeader(Action::RegisterDevice, devices::ENROLLMENT_KEY), devices::register)
        .row(M::GET,    "/api/v1/devices",             Needs(Action::ListDevices),        devices::list)
        .row(M::GET,    "/api/v1/devices/{id}",        Needs(Action::ReadDevice),         devices::get)
        .row(M::GET,    "/api/v1/devices/{id}/status", Needs(Action::ReadDevice),         devices::get)
        .row(M::PATCH,  "/api/v1/devices/{id}",        Needs(Action::UpdateDevice),       devices::update)
        .row(M::DELETE, "/api/v1/devices/{id}",        Needs(Action::DecommissionDevice), devices::decommission)
        .row(M::POST,   "/api/v1/devices/{id}/approve",            Needs(Action::ApproveDevice),     devices::approve)
        .row(M::POST,   "/api/v1/devices/{id}/allow-reenrollment", Needs(Action::AllowReenrollment), devices::allow_reenrollment)
        .row(M::POST,   "/api/v1/devices/{id}/rotate-token",       Needs(Action::RotateDeviceToken), devices::rotate_token)
        .row(M::POST,   "/api/v1/devices/{id}/revoke-certificates", Needs(Action::RevokeCertificates), certificates::revoke)
        // Shows.
        .row(M::GET,    "/api/v1/devices/{id}/show-lock", Needs(Action::ReadShowLock),  show_locks::of_device)
        .row(M::PUT,    "/api/v1/devices/{id}/show-lock", Needs(Action::SetShowLock),   show_locks::lock_device)
        .row(M::DELETE, "/api/v1/devices/{id}/show-lock", Needs(Action::ClearShowLock), show_locks::unlock_device)
        .row(M::GET,    "/api/v1/show-locks/{tag}",       Needs(Action::ReadShowLock),  show_locks::of_tag)
        .row(M::PUT,    "/api/v1/show-locks/{tag}",       Needs(Action::SetShowLock),   show_locks::lock_tag)
        .row(M::DELETE, "/api/v1/show-locks/{tag}",       Needs(Action::ClearShowLock), show_locks::unlock_tag)
        .row(M::DELETE, "/api/v1/redundancy-groups/{name}/lease", Needs(Action::ReleaseLease), leases::release)
        // What a device should run with.
        .row(M::GET,    "/api/v1/devices/{id}/config", Needs(Action::ReadConfig), device_config::get)
        .row(M::PUT,    "/api/v1/devices/{id}/config", Needs(Action::SetConfig),  device_config::set)
        // What devices sent.
        .row(M::GET,    "/api/v1/devices/{id}/heartbeats", Needs(Action::ReadHistory), history::heartbeats)
        .row(M::GET,    "/api/v1/devices/{id}/metrics",    Needs(Action::ReadHistory), history::metrics)
        .row(M::GET,    "/api/v1/devices/{id}/records",    Needs(Action::ReadHistory), history::records)
        // Commands.
        .row(M::POST,   "/api/v1/devices/{id}/commands", Needs(Action::CreateCommand),      commands::create_for_device)
        .row(M::GET,    "/api/v1/devices/{id}/commands", Needs(Action::ReadDeviceCommands), device_commands::list_or_poll)
        .row(M::POST,   "/api/v1/devices/{id}/restart",  Needs(Action::CreateCommand),      commands::restart)
        .row(M::POST,   "/api/v1/devices/{id}/update",   Needs(Action::CreateUpdate),       commands::update)
        .alias(UNVERSIONED.0, UNVERSIONED.1)
        .row(M::POST,   "/api/v1/commands",               Needs(Action::CreateCommand),   commands::create)
        .row(M::GET,    "/api/v1/commands",               Needs(Action::ReadCommands),    commands::list)
        .row(M::GET,    "/api/v1/commands/{id}",          Needs(Action::ReadCommands),    commands::get)
        .row(M::PATCH,  "/api/v1/commands/{id}",          Needs(Action::ReportCommand),   device_commands::report)
        .row(M::POST,   "/api/v1/commands/{id}/cancel",   Needs(Action::CancelCommand),   commands::cancel)
        .row(M::POST,   "/api/v1/commands/{id}/override", Needs(Action::OverrideUnknown), commands::override_show)
        // Who did what.
        .row(M::GET,    "/api/v1/audit", Needs(Action::ReadAudit), audit::list)
        // The server itself.
        .row(M::GET,    "/api/v1/openapi.json", Open, openapi::serve)
        .row(M::GET,    "/health",  Open, system::health)
        .row(M::GET,    "/ready",   Open, system::ready)
        .row(M::GET,    "/metrics", Open, system::metrics)
        .row(M::GET,    "/ws",      Open, system::gone)
        // The dashboard.
        .row(M::GET,    "/",              Open, dashboard::page)
        .row(M::GET,    "/dashboard.css", Open, dashboard::style)
        .row(M::GET,    "/dashboard.js",  Open, dashboard::script)
        .row(M::GET,    "/favicon.svg",   Open, dashboard::icon)
}

/// The whole server as one filter.
pub(super) fn filter(app: &Arc<AppState>) -> BoxedFilter<(Response,)> {
    table().filter(app)
}

/// Every route, for documentation.
pub(super) fn routes() -> Vec<Route> {
    table().routes()
}

/// Method and path of every route, for tests.
#[must_use]
pub fn paths() -> Vec<(Method, String)> {
    routes().into_iter().map(|route| (route.method, route.path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::policy::SCOPES;

    #[test]
    fn every_route_asks_for_a_scope_that_a_key_can_have_or_for_none() {
        for action in table().actions() {
            let scope = action.scope();
            assert!(scope.is_empty() || SCOPES.contains(&scope), "{action:?}: {scope}");
        }
    }
}
