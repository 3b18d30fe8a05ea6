//! Signing in, people, service accounts and organisations.

use protocol::id::Role;
use serde_json::{Value, json};

use super::operation::{Operation, delete, get, patch, post};
use super::schema::{
    answer, anything, body, change, count, default, flag, hex, name, named, number, one_of, secret,
    short_name, string, time, told, uuid,
};
use super::system::Named;
use crate::auth::password::{PASSWORD_MAX_BYTES, PASSWORD_MIN_CHARS};
use crate::auth::policy::Action;
use crate::auth::token::{TOKEN_LEN, TOKEN_MAX_LEN};
use crate::domain::org::{MAX_DEVICES_MAX, SETTINGS_MAX_BYTES};
use crate::domain::user::{EMAIL_MAX_BYTES, NAME_MAX_CHARS};
use crate::store::{orgs, users};

const PEOPLE: &str = "/api/v1/users";
const PERSON: &str = "/api/v1/users/{id}";
const SERVICES: &str = "/api/v1/service-accounts";
const SERVICE: &str = "/api/v1/service-accounts/{id}";
const ORGS: &str = "/api/v1/orgs";
const ORG: &str = "/api/v1/orgs/{id}";

pub(super) fn operations() -> Vec<Operation> {
    let login =
        || body(&[("email", super::schema::line(EMAIL_MAX_BYTES)), ("password", secret(PASSWORD_MAX_BYTES))]);
    let tokens = "For `Authorization: Bearer`, and for the next refresh.";
    vec![
        post("/api/v1/auth/login", "login", "Sign in")
            .takes(login())
            .answers(200, named("Tokens"), tokens),
        post("/api/v1/auth/refresh", "refresh", "Exchange a refresh token for new tokens")
            .says("A refresh token works once; one that comes a second time ends every token of that login.")
            .takes(body(&[("refresh_token", secret(TOKEN_MAX_LEN))]))
            .answers(200, named("Tokens"), tokens),
        get("/api/v1/auth/me", "getOwnAccount", "The own account").answers(200, named("User"), "The account."),
        post("/api/v1/auth/password", "changeOwnPassword", "Change the own password")
            .says("Every token and live MQTT connection of the person ends, this session's too.")
            .takes(body(&[("old", secret(PASSWORD_MAX_BYTES)), ("new", new_password())]))
            .empty(204, "Changed.")
            .refuses(&[409]),
        get(PEOPLE, "listUsers", "The people of the organisation")
            .paged()
            .sorted(users::SORT_KEYS, "username")
            .lists("User"),
        post(PEOPLE, "createUser", "Add a person")
            .takes(new_user())
            .answers(201, named("UserWithPassword"), "The person; with `password` if none was given, this once.")
            .also("is_superadmin, or the org of others", Action::ManageSuperadmins)
            .refuses(&[404, 409]),
        get(PERSON, "getUser", "A person").answers(200, named("User"), "The person."),
        patch(PERSON, "updateUser", "Change a person")
            .says("People cannot disable themselves or lower their own role, and the last active admin stays: 409.")
            .takes(change(&[
                ("name", name(NAME_MAX_CHARS)),
                ("role", role()),
                ("is_active", flag()),
                ("is_superadmin", flag()),
            ]))
            .answers(200, named("User"), "The person as changed.")
            .also("superadmins, and is_superadmin", Action::ManageSuperadmins)
            .refuses(&[409]),
        delete(PERSON, "disableUser", "Disable a person")
            .takes_nothing()
            .empty(204, "Disabled; the account is not removed.")
            .also("superadmins", Action::ManageSuperadmins)
            .refuses(&[409]),
        post("/api/v1/users/{id}/reset-password", "resetPassword", "Give a person a new password")
            .may_take(body(&[("password?", new_password()), ("must_change_password?", must_change())]))
            .answers(200, named("UserWithPassword"), "The person; with `password` if none was given, this once.")
            .also("superadmins", Action::ManageSuperadmins)
            .refuses(&[409]),
        get(ORGS, "listOrgs", "Organisations").paged().sorted(orgs::SORT_KEYS, "slug").lists("Organization"),
        post(ORGS, "createOrg", "Add an organisation")
            .takes(body(&[
                ("slug", told(json!({"allOf": [short_name(), {"not": {"const": "server"}}]}), "As in MQTT topics.")),
                ("name", name(NAME_MAX_CHARS)),
                ("settings?", settings()),
                ("max_devices?", max_devices()),
            ]))
            .answers(201, named("Organization"), "The organisation.")
            .refuses(&[409]),
        get(ORG, "getOrg", "An organisation").answers(200, named("Organization"), "The organisation."),
        patch(ORG, "updateOrg", "Change an organisation")
            .takes(change(&[
                ("name", name(NAME_MAX_CHARS)),
                ("settings", settings()),
                ("max_devices?", max_devices()),
            ]))
            .answers(200, named("Organization"), "The organisation as changed.")
            .refuses(&[409]),
        get(SERVICES, "listServiceAccounts", "Accounts of programs")
            .paged()
            .sorted(users::SORT_KEYS, "username")
            .lists("ServiceAccount"),
        post(SERVICES, "createServiceAccount", "Add an account of a program")
            .takes(body(&[("username", short_name()), ("role", role()), ("name?", name(NAME_MAX_CHARS))]))
            .answers(201, named("ServiceAccount"), "The account.")
            .refuses(&[409]),
        get(SERVICE, "getServiceAccount", "A service account").answers(200, named("ServiceAccount"), "The account."),
        patch(SERVICE, "updateServiceAccount", "Change a service account")
            .takes(change(&[("name", name(NAME_MAX_CHARS)), ("role", role()), ("is_active", flag())]))
            .answers(200, named("ServiceAccount"), "The account as changed.")
            .refuses(&[409]),
        delete(SERVICE, "disableServiceAccount", "Disable a service account")
            .takes_nothing()
            .empty(204, "Disabled; its keys are dead.")
            .refuses(&[409]),
    ]
}

pub(super) fn schemas() -> Vec<Named> {
    let with_password =
        [person(), vec![("password?", told(string(), "The password that was made."))]].concat();
    vec![
        (
            "Tokens",
            answer(&[
                ("access_token", string()),
                ("token_type", one_of(["bearer"])),
                ("expires_in", told(count(), "Seconds.")),
                ("refresh_token", hex(TOKEN_LEN)),
            ]),
        ),
        ("User", answer(&person())),
        ("UserWithPassword", answer(&with_password)),
        ("ServiceAccount", answer(&account())),
        (
            "Organization",
            answer(&[
                ("id", uuid()),
                ("name", string()),
                ("slug", short_name()),
                ("settings", anything()),
                ("max_devices?", max_devices()),
                ("created_at", time()),
                ("updated_at", time()),
            ]),
        ),
    ]
}

fn account() -> Vec<Named> {
    vec![
        ("id", uuid()),
        ("org_id", uuid()),
        ("org", short_name()),
        ("username", short_name()),
        ("name", string()),
        ("role", role()),
        ("is_superadmin", flag()),
        ("is_active", flag()),
        ("created_at", time()),
    ]
}

/// A service account that asks who it is has no address.
fn person() -> Vec<Named> {
    [account(), vec![("email?", string()), ("must_change_password?", flag()), ("last_login?", time())]]
        .concat()
}

fn new_user() -> Value {
    body(&[
        ("email", email()),
        ("name", name(NAME_MAX_CHARS)),
        ("role", role()),
        ("username?", told(short_name(), "Made from the address if not given.")),
        ("password?", new_password()),
        ("must_change_password?", must_change()),
        ("is_superadmin?", default(flag(), false)),
        ("org?", told(short_name(), "The slug of another organisation than the own.")),
    ])
}

fn email() -> Value {
    let form = r#"^\s*[^\s@/<>",\u0080-\uffff]+@[^\s@/<>",\u0080-\uffff]+\s*$"#;
    told(
        json!({"type": "string", "minLength": 3, "maxLength": EMAIL_MAX_BYTES, "pattern": form}),
        "Kept in small letters.",
    )
}

fn new_password() -> Value {
    told(
        json!({"type": "string", "minLength": PASSWORD_MIN_CHARS, "maxLength": PASSWORD_MAX_BYTES, "format": "password"}),
        "Not easy to guess.",
    )
}

fn must_change() -> Value {
    told(default(flag(), false), "Whoever signs in with this password can do nothing but change it.")
}

fn settings() -> Value {
    told(anything(), &format!("At most {SETTINGS_MAX_BYTES} bytes."))
}

fn max_devices() -> Value {
    told(number(0, MAX_DEVICES_MAX), "Most devices that may be registered.")
}

pub(super) fn role() -> Value {
    one_of(Role::ALL.iter().map(|role| role.as_str()))
}
