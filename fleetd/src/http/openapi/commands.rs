//! Commands: what people ask for, and what the device says became of it.

use protocol::command::limits::{
    EXPIRY_MAX_SECONDS, NOTES_MAX_LEN, PRIORITY, PRIORITY_DEFAULT, REASON_MAX_LEN, REFERENCE_MAX_LEN,
    RESULT_MAX_LEN, TIMEOUT_MAX_SECONDS,
};
use protocol::command::payload::{ARGS_MAX, DELAY_MAX_SECONDS, NAME_MAX_LEN, VALUE_MAX_LEN};
use protocol::command::{CommandState, CommandType};
use serde_json::{Value, json};

use super::devices::wanted_config;
use super::operation::{Operation, get, patch, post, switch};
use super::schema::{
    answer, anything, body, count, default, either, flag, line, list, named, number, one_of, page_of,
    short_name, string, text, time, told, uuid,
};
use super::system::Named;
use crate::auth::policy::Action;
use crate::domain::command_request::PAYLOAD_MAX_BYTES;
use crate::domain::http_report::{ERROR_MAX_CHARS, STATES};
use crate::store::commands::SortKey;

const OF_DEVICE: &str = "/api/v1/devices/{id}/commands";
const ALL: &str = "/api/v1/commands";
const ONE: &str = "/api/v1/commands/{id}";

pub(super) fn operations() -> Vec<Operation> {
    let command = || named("Command");
    let same =
        "The same `ref` and request again gets the same command; another request with this `ref` is 409.";
    vec![
        create(post(OF_DEVICE, "createDeviceCommand", "Tell a device to do something"))
            .says(same)
            .takes(named("NewCommand"))
            .answers(201, command(), "The command."),
        selected(get(OF_DEVICE, "listDeviceCommands", "The commands of a device; for the device itself: what it is to do"))
            .says("A person gets a page of a list. The device itself sends no parameter but `status=pending` and gets an array of those that it is to do, which become `sent`.")
            .answers(
                200,
                either([page_of("Command"), list(command())]),
                "A page of the list, or what the device is to do.",
            ),
        create(post("/api/v1/devices/{id}/restart", "restartDevice", "Restart a unit of a device"))
            .may_take(body(&[vec![("service?", told(unit(), "The device's application if not given."))], terms()].concat()))
            .answers(201, command(), "The command."),
        create(post("/api/v1/devices/{id}/update", "updateDeviceSoftware", "Have a device install something"))
            .says("Without `version` and `branch`: the device's `target_version`.")
            .may_take(body(
                &[vec![("version?", unit()), ("branch?", unit()), ("force?", default(flag(), false))], terms()].concat(),
            ))
            .answers(201, command(), "The command."),
        create(post(ALL, "createCommands", "Tell one device, those with a tag, or all to do something"))
            .says(same)
            .query("dry_run", switch(), "Create nothing, and say what would happen.")
            .takes(named("NewCommandTo"))
            .answers(200, answer(&[("items", list(named("Outlook")))]), "Dry run: what would happen.")
            .answers(
                201,
                either([command(), answer(&[("items", list(named("CommandOrError")))])]),
                "For one device the command; else what became of the request for each.",
            ),
        selected(get(ALL, "listCommands", "The commands of the organisation"))
            .query("device_id", string(), "Those of this device; empty: all.")
            .lists("Command")
            .refuses(&[404]),
        get(ONE, "getCommand", "A command with its history").answers(200, named("CommandWithHistory"), "The command."),
        patch(ONE, "reportCommand", "Tell what became of a command")
            .takes(body(&[
                ("status", one_of(STATES.map(CommandState::as_str))),
                ("result?", told(json!({}), &format!("At most {RESULT_MAX_LEN} bytes."))),
                ("error?", told(or_nothing(text(ERROR_MAX_CHARS)), "Empty: none.")),
            ]))
            .answers(200, command(), "The command.")
            .refuses(&[409]),
        post("/api/v1/commands/{id}/cancel", "cancelCommand", "Call a command back")
            .takes_nothing()
            .answers(200, command(), "The command; with `cancel_requested_at` while the device has not answered.")
            .refuses(&[409]),
        post("/api/v1/commands/{id}/override", "overrideCommand", "Let a command run although a show may be on")
            .takes(body(&[("reason", reason())]))
            .answers(200, command(), "The command.")
            .also("a command that does not wait for app_status_unknown for 10 minutes", Action::OverrideShow)
            .refuses(&[409]),
    ]
}

fn create(operation: Operation) -> Operation {
    operation
        .also("the type update", Action::CreateUpdate)
        .also("override_show", Action::OverrideShow)
        .refuses(&[400, 404, 409])
}

fn selected(operation: Operation) -> Operation {
    operation
        .paged()
        .sorted(&SortKey::ALL, "-created_at")
        .query(
            "status",
            one_of(CommandState::ALL.iter().map(|state| state.as_str()).chain(["open"])),
            "Those in this state; `open`: that have not ended.",
        )
        .query("type", kind(), "Those of this type.")
}

pub(super) fn schemas() -> Vec<Named> {
    let history = answer(&[
        ("revision", count()),
        ("status", state()),
        ("at", time()),
        ("device_at?", told(time(), "By the device's clock.")),
        ("detail?", string()),
    ]);
    vec![
        ("Command", answer(&shape())),
        ("CommandWithHistory", answer(&[shape(), vec![("history", list(history))]].concat())),
        (
            "CommandOrError",
            answer(&[("device_id", short_name()), ("command?", named("Command")), ("error?", string())]),
        ),
        (
            "Outlook",
            answer(&[
                ("device_id", short_name()),
                ("would_run", flag()),
                ("reason?", told(string(), "Why not: a word, a colon, and the same for people.")),
            ]),
        ),
        ("NewCommand", new_command(&[])),
        ("NewCommandTo", new_command(&[("to", to())])),
    ]
}

fn shape() -> Vec<Named> {
    vec![
        ("id", uuid()),
        ("device_id", uuid()),
        ("device", told(short_name(), "The readable id.")),
        ("type", kind()),
        ("payload", anything()),
        ("status", state()),
        ("inferred?", told(flag(), "The server gave up asking; the device may still say how it ended.")),
        ("held_reason?", string()),
        ("priority", priority()),
        ("ref?", string()),
        ("notes?", string()),
        ("created_by", string()),
        ("created_at", time()),
        ("sent_at?", time()),
        ("acked_at?", time()),
        ("cancel_requested_at?", time()),
        ("started_at?", time()),
        ("completed_at?", time()),
        ("expires_at", time()),
        ("timeout_seconds", count()),
        ("progress_percent?", number(0, 255)),
        ("result?", json!({})),
        ("error?", string()),
        ("reason?", told(string(), "Why it was rejected or cannot be told.")),
        ("override_reason?", string()),
        ("revision", told(count(), "Rises with each change.")),
    ]
}

/// What every type takes.
fn terms() -> Vec<Named> {
    let default_timeout = "120, for `update` 3600, if not given.";
    vec![
        ("priority?", default(priority(), PRIORITY_DEFAULT)),
        ("expires_in_seconds?", number(1, EXPIRY_MAX_SECONDS)),
        (
            "expires_at?",
            told(time(), "In place of `expires_in_seconds`; in the future, at most 30 days away."),
        ),
        ("timeout_seconds?", told(number(1, TIMEOUT_MAX_SECONDS.into()), default_timeout)),
        ("ref?", told(line(REFERENCE_MAX_LEN), "The sender's own name for it; counted in bytes.")),
        ("notes?", told(text(NOTES_MAX_LEN), "Counted in bytes.")),
        ("override_show?", told(body(&[("reason", reason())]), "Run although a show may be on.")),
    ]
}

/// One schema for each type: its payload, and what `more` adds.
fn new_command(more: &[Named]) -> Value {
    let each = CommandType::ALL.iter().map(|kind| {
        let field = match kind {
            CommandType::Update | CommandType::RestartService | CommandType::Config | CommandType::Custom => {
                "payload"
            }
            CommandType::Reboot | CommandType::Bundle | CommandType::RotateToken | CommandType::Ping => {
                "payload?"
            }
        };
        let own = vec![("type", one_of([kind.as_str()])), (field, payload(*kind))];
        let mut schema = body(&[own, more.to_vec(), terms()].concat());
        schema["title"] = kind.as_str().into();
        schema
    });
    let all: Vec<Value> = each.collect();
    json!({"oneOf": all, "description": format!("The payload has at most {PAYLOAD_MAX_BYTES} bytes.")})
}

/// What a type takes; see `protocol::command::payload`.
fn payload(kind: CommandType) -> Value {
    let switch = |on: bool| default(flag(), on);
    match kind {
        CommandType::Update => {
            let with = |name: &'static str| body(&[(name, unit()), ("force?", switch(false))]);
            either([with("version"), with("branch")])
        }
        CommandType::Reboot => body(&[("delay_seconds?", number(0, DELAY_MAX_SECONDS.into()))]),
        CommandType::RestartService => body(&[("service", unit())]),
        CommandType::Bundle => body(&[
            ("include_logs?", switch(true)),
            ("include_config?", switch(true)),
            ("include_recordings?", switch(false)),
            ("include_diagnostics?", switch(true)),
        ]),
        CommandType::Config => body(&[("changes", wanted_config(1))]),
        CommandType::Custom => {
            let arg = json!({"type": "string", "maxLength": VALUE_MAX_LEN, "pattern": r"^[^\u0000]*$"});
            body(&[
                ("script", unit()),
                ("args?", json!({"type": "array", "items": arg, "maxItems": ARGS_MAX})),
            ])
        }
        CommandType::RotateToken | CommandType::Ping => body(&[]),
    }
}

fn to() -> Value {
    told(
        either([
            json!({"type": "string", "enum": ["*"]}),
            json!({"type": "string", "pattern": "^tag:", "maxLength": 4 + crate::domain::device::TAG_MAX_CHARS}),
            short_name(),
        ]),
        "A device id, `tag:NAME` or `*`.",
    )
}

fn unit() -> Value {
    line(NAME_MAX_LEN)
}

fn reason() -> Value {
    let mut reason = text(REASON_MAX_LEN);
    reason["description"] = "Not blank; counted in bytes.".into();
    reason
}

fn or_nothing(mut text: Value) -> Value {
    text["minLength"] = 0.into();
    text
}

fn priority() -> Value {
    told(number((*PRIORITY.start()).into(), (*PRIORITY.end()).into()), "1 is the most urgent.")
}

fn kind() -> Value {
    one_of(CommandType::ALL.iter().map(|kind| kind.as_str()))
}

fn state() -> Value {
    one_of(CommandState::ALL.iter().map(|state| state.as_str()))
}
