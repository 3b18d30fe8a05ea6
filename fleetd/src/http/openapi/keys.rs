//! API keys and enrolment keys.

use serde_json::{Value, json};

use super::operation::{Operation, delete, get, patch, post};
use super::schema::{
    answer, body, change, count, default, flag, hex, line, list, name, named, number, one_of, string, time,
    told, uuid,
};
use super::system::Named;
use crate::auth::policy::{Action, SCOPES};
use crate::auth::token::{PREFIX_LEN, TOKEN_LEN};
use crate::domain::api_key::KEY_NAME_MAX_CHARS;
use crate::domain::enrollment::MAX_USES_MAX;
use crate::store::{api_keys, enrollment_keys};

const API_KEYS: &str = "/api/v1/api-keys";
const API_KEY: &str = "/api/v1/api-keys/{id}";
const ENROLLMENT_KEYS: &str = "/api/v1/enrollment-keys";
const ENROLLMENT_KEY: &str = "/api/v1/enrollment-keys/{id}";

pub(super) fn operations() -> Vec<Operation> {
    let others = |operation: Operation| operation.also("keys of service accounts", Action::ManageServiceKeys);
    vec![
        others(get(API_KEYS, "listApiKeys", "The own keys, or those of a service account"))
            .paged()
            .sorted(api_keys::SORT_KEYS, "created_at")
            .query("service_account_id", string(), "Whose keys; the own if it is not given or empty.")
            .lists("ApiKey")
            .refuses(&[404]),
        others(post(API_KEYS, "createApiKey", "Make an API key"))
            .takes(body(&[
                ("name", name(KEY_NAME_MAX_CHARS)),
                ("scopes?", told(some_scopes(), "All that the owner may do if not given.")),
                ("expires_at?", told(time(), "In the future.")),
                ("service_account_id?", line(64)),
            ]))
            .answers(201, named("NewApiKey"), "The key itself is shown this once.")
            .refuses(&[404, 409]),
        others(get(API_KEY, "getApiKey", "An API key")).answers(200, named("ApiKey"), "The key's terms."),
        others(patch(API_KEY, "updateApiKey", "Rename an API key"))
            .takes(change(&[("name", name(KEY_NAME_MAX_CHARS))]))
            .answers(200, named("ApiKey"), "The key's terms.")
            .refuses(&[409]),
        others(delete(API_KEY, "revokeApiKey", "Take an API key back"))
            .takes_nothing()
            .empty(204, "The key is dead.")
            .refuses(&[409]),
        get(ENROLLMENT_KEYS, "listEnrollmentKeys", "Keys with which devices register themselves")
            .paged()
            .sorted(enrollment_keys::SORT_KEYS, "created_at")
            .lists("EnrollmentKey"),
        post(ENROLLMENT_KEYS, "createEnrollmentKey", "Make an enrolment key")
            .may_take(body(&[
                ("max_uses?", number(1, MAX_USES_MAX)),
                ("expires_at?", told(time(), "In the future.")),
                ("require_approval?", default(flag(), false)),
            ]))
            .answers(201, named("NewEnrollmentKey"), "The key itself is shown this once."),
        get(ENROLLMENT_KEY, "getEnrollmentKey", "An enrolment key").answers(
            200,
            named("EnrollmentKey"),
            "The key's terms.",
        ),
        delete(ENROLLMENT_KEY, "revokeEnrollmentKey", "Take an enrolment key back")
            .takes_nothing()
            .empty(204, "The key is dead; devices that enrolled with it keep their tokens.")
            .refuses(&[409]),
    ]
}

pub(super) fn schemas() -> Vec<Named> {
    let new = |terms: Vec<Named>| answer(&[terms, vec![("key", hex(TOKEN_LEN))]].concat());
    vec![
        ("ApiKey", answer(&api_key())),
        ("NewApiKey", new(api_key())),
        ("EnrollmentKey", answer(&enrollment_key())),
        ("NewEnrollmentKey", new(enrollment_key())),
    ]
}

fn api_key() -> Vec<Named> {
    vec![
        ("id", uuid()),
        ("owner", string()),
        ("name", string()),
        ("key_prefix", hex(PREFIX_LEN)),
        ("scopes", told(list(scope()), "Empty: all that the owner may do.")),
        ("expires_at?", time()),
        ("last_used_at?", time()),
        ("created_at", time()),
    ]
}

fn enrollment_key() -> Vec<Named> {
    vec![
        ("id", uuid()),
        ("key_prefix", hex(PREFIX_LEN)),
        ("max_uses?", number(1, MAX_USES_MAX)),
        ("uses", count()),
        ("require_approval", flag()),
        ("expires_at?", time()),
        ("created_at", time()),
    ]
}

fn scope() -> Value {
    one_of(SCOPES.iter().copied())
}

fn some_scopes() -> Value {
    json!({"type": "array", "items": scope(), "minItems": 1})
}
