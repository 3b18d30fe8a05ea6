//! Devices: registered, described, locked for shows, configured.

use protocol::command::limits::REASON_MAX_LEN;
use protocol::command::payload::{CHANGES_MAX, VALUE_MAX_LEN};
use serde_json::{Value, json};

use super::operation::{Operation, delete, get, patch, post, put};
use super::schema::{
    answer, anything, body, change, count, default, either, flag, hex, line, list, named, one_of, short_name,
    string, tag, text, time, told, uuid, version,
};
use super::system::Named;
use crate::auth::policy::Action;
use crate::auth::token::TOKEN_LEN;
use crate::domain::certificate_request::REQUEST_MAX_LEN;
use crate::domain::desired::CONFIG_MAX_BYTES;
use crate::domain::device::{
    DEFAULT_ARCH, DeviceStatus, NAME_MAX_CHARS, NOTES_MAX_CHARS, SHORT_MAX_CHARS, STORED_JSON_MAX_BYTES,
    TAGS_MAX, UpdateChannel,
};
use crate::http::devices::SEARCH_MAX_CHARS;
use crate::service::device_config::KEY_MAX_LEN;
use crate::store::summaries::SortKey;

const DEVICES: &str = "/api/v1/devices";
const DEVICE: &str = "/api/v1/devices/{id}";
const CONFIG: &str = "/api/v1/devices/{id}/config";
const LOCK: &str = "/api/v1/devices/{id}/show-lock";
const TAG_LOCK: &str = "/api/v1/show-locks/{tag}";

pub(super) fn operations() -> Vec<Operation> {
    [people(), shows(), configs()].into_iter().flatten().collect()
}

fn people() -> Vec<Operation> {
    let device = || named("Device");
    vec![
        get("/api/v1/connect", "getBroker", "Where a device finds the broker").answers(
            200,
            answer(&[
                ("mqtt_url?", told(string(), "Only for a device that may use plain MQTT itself.")),
                ("mqtts_url?", told(string(), "MQTT over TLS.")),
                ("wss_url?", told(string(), "MQTT over WebSocket.")),
                ("device_id", told(string(), "Whose token this is.")),
                ("org", told(string(), "Its organisation.")),
                ("server_time", time()),
                ("client_certificates", told(flag(), "The server signs certificates for devices.")),
            ]),
            "The addresses that this device may use.",
        ),
        post("/api/v1/devices/register", "registerDevice", "Register a device")
            .says("By an admin, or by the device itself with an enrolment key. The same id with the same `token_sha256` gets the same answer again.")
            .by(&["bearer", "enrollmentKey"])
            .needs(Action::RegisterDevice)
            .takes(registration())
            .answers(201, registered(), "Registered.")
            .refuses(&[409, 429]),
        post("/api/v1/devices/{id}/certificate", "issueCertificate", "Sign a certificate for a device")
            .says("For the device itself. Of the request only the public key is taken; the name is the device's.")
            .takes(body(&[("csr", request())]))
            .answers(
                201,
                answer(&[
                    ("certificate", told(string(), "In PEM form.")),
                    ("certificate_expires_at", time()),
                    ("certificate_renew_at", told(time(), "Two thirds of its life are over then.")),
                    ("server_time", time()),
                ]),
                "The certificate.",
            )
            .refuses(&[409, 429]),
        get(DEVICES, "listDevices", "The devices of the organisation")
            .paged()
            .sorted(&SortKey::ALL, "device_id")
            .query("status", status(), "Those in this state.")
            .query("tag", or_empty(tag()), "Those with this tag; empty: all.")
            .query("version", string(), "Those with this version of the application; empty: all.")
            .query(
                "q",
                json!({"type": "string", "maxLength": SEARCH_MAX_CHARS}),
                "Part of an id, name, location or serial number; empty: all.",
            )
            .lists("Device"),
        get(DEVICE, "getDevice", "A device").answers(200, device(), "The device."),
        get("/api/v1/devices/{id}/status", "getDeviceStatus", "A device").answers(200, device(), "The device."),
        patch(DEVICE, "updateDevice", "Describe a device")
            .takes(change(&[
                ("name", line(NAME_MAX_CHARS)),
                ("location?", line(NAME_MAX_CHARS)),
                ("tags", json!({"type": "array", "items": tag(), "maxItems": TAGS_MAX})),
                ("metadata", told(anything(), &stored())),
                ("notes?", text(NOTES_MAX_CHARS)),
                ("update_channel", channel()),
                ("target_version?", version()),
                ("redundancy_group?", tag()),
                ("maintenance", flag()),
            ]))
            .answers(200, device(), "The device as changed.")
            .also("target_version", Action::SetTargetVersion)
            .refuses(&[409]),
        delete(DEVICE, "decommissionDevice", "Take a device out of service")
            .takes_nothing()
            .empty(204, "Its token and connections have ended, its history is kept.")
            .refuses(&[409]),
        post("/api/v1/devices/{id}/approve", "approveDevice", "Say yes to a device that registered itself")
            .takes_nothing()
            .answers(200, device(), "The device, approved.")
            .refuses(&[409]),
        post("/api/v1/devices/{id}/allow-reenrollment", "allowReenrollment", "Let a device enrol once more")
            .takes_nothing()
            .answers(200, device(), "The device; its next enrolment may bring another token.")
            .refuses(&[409]),
        post("/api/v1/devices/{id}/rotate-token", "rotateDeviceToken", "Give a device a new token")
            .takes_nothing()
            .answers(
                200,
                answer(&[("device_id", short_name()), ("token", hex(TOKEN_LEN))]),
                "The old token and its connections have ended, and so have its certificates.",
            )
            .refuses(&[409]),
        post(
            "/api/v1/devices/{id}/revoke-certificates",
            "revokeCertificates",
            "Take back the certificates of a device",
        )
        .takes_nothing()
        .answers(200, device(), "The device; connections made with its certificates end. Its token is as good as before.")
        .refuses(&[409]),
    ]
}

fn shows() -> Vec<Operation> {
    let lock = || named("ShowLock");
    vec![
        get(LOCK, "getDeviceShowLock", "The show lock of a device").answers(200, lock(), "The lock."),
        put(LOCK, "lockDevice", "Hold back what is disruptive on a device, for a show")
            .takes(new_lock())
            .answers(200, lock(), "The lock, in place of the one that there may have been.")
            .refuses(&[409]),
        delete(LOCK, "unlockDevice", "Take the show lock of a device back")
            .takes_nothing()
            .empty(204, "Taken back.")
            .refuses(&[409]),
        get(TAG_LOCK, "getTagShowLock", "The show lock of a tag").answers(200, lock(), "The lock."),
        put(TAG_LOCK, "lockTag", "Hold back what is disruptive on the devices with a tag, for a show")
            .takes(new_lock())
            .answers(200, lock(), "The lock, in place of the one that there may have been.")
            .refuses(&[409]),
        delete(TAG_LOCK, "unlockTag", "Take the show lock of a tag back")
            .takes_nothing()
            .empty(204, "Taken back.")
            .refuses(&[409]),
        delete(
            "/api/v1/redundancy-groups/{name}/lease",
            "releaseLease",
            "Take the lease of a redundancy group back",
        )
        .takes_nothing()
        .empty(204, "Taken back; no member counts as being disrupted.")
        .refuses(&[409]),
    ]
}

fn configs() -> Vec<Operation> {
    let config = || named("DeviceConfig");
    vec![
        get(CONFIG, "getDeviceConfig", "The config that a device should have and has").answers(
            200,
            config(),
            "Both.",
        ),
        put(CONFIG, "setDeviceConfig", "Choose the config that a device should have")
            .takes(body(&[(
                "desired",
                told(wanted_config(0), &format!("At most {CONFIG_MAX_BYTES} bytes.")),
            )]))
            .answers(200, config(), "Both, as they are now.")
            .refuses(&[409]),
    ]
}

pub(super) fn schemas() -> Vec<Named> {
    vec![
        ("Device", device()),
        (
            "ShowLock",
            answer(&[
                ("from", time()),
                ("until", time()),
                ("reason", string()),
                ("by", string()),
                (
                    "in_effect",
                    told(flag(), "Every device concerned has told the server that it knows the lock."),
                ),
                ("device?", short_name()),
                ("tag?", tag()),
                ("devices", told(count(), "How many devices it holds.")),
                ("devices_in_effect", told(count(), "How many of them know it.")),
            ]),
        ),
        (
            "DeviceConfig",
            answer(&[
                ("desired", texts()),
                ("desired_version", count()),
                ("reported?", anything()),
                ("reported_version?", count()),
                ("in_sync", flag()),
                ("errors?", told(anything(), "Why keys were not taken, by key.")),
            ]),
        ),
    ]
}

fn device() -> Value {
    let lock = answer(&[
        ("from", time()),
        ("until", time()),
        ("reason", string()),
        ("by", string()),
        ("tag?", told(tag(), "The tag that it was made for; absent: it was made for the device.")),
    ]);
    let number = || json!({"type": "number"});
    answer(&[
        ("id", told(uuid(), "Stays with the readable id for ever.")),
        ("device_id", short_name()),
        ("name", string()),
        ("org_id", uuid()),
        ("status", status()),
        ("last_heartbeat?", time()),
        ("current_version?", string()),
        ("target_version?", string()),
        ("update_channel", channel()),
        ("platform?", string()),
        ("arch", string()),
        ("serial_number?", string()),
        ("mac_address?", string()),
        ("capabilities", json!({"type": ["object", "array"]})),
        ("location?", string()),
        ("tags", list(tag())),
        ("metadata", anything()),
        ("notes?", string()),
        ("redundancy_group?", tag()),
        ("created_at", time()),
        ("updated_at", time()),
        ("cpu_percent?", number()),
        ("mem_percent?", number()),
        ("disk_free_gb?", number()),
        ("temperature_c?", number()),
        ("recording_active", flag()),
        ("mixer_active", flag()),
        ("uptime_seconds?", count()),
        ("ip_address?", string()),
        ("pending_commands", told(count(), "Commands that have not ended.")),
        ("held_reason?", told(string(), "Why the first of them that waits does so.")),
        ("show_lock?", told(lock, "The lock that stands, or the next to come.")),
        ("active_alerts", count()),
        ("transport?", one_of(["mqtts", "mqtt", "wss", "https", "http"])),
        ("agent_version?", string()),
        ("live?", told(flag(), "Absent: the device cannot tell.")),
        ("outbox_depth?", count()),
        (
            "certificate_expires_at?",
            told(time(), "The last of its certificates; absent: it has none, or they were taken back."),
        ),
    ])
}

fn registration() -> Value {
    body(&[
        ("device_id", short_name()),
        ("name?", line(NAME_MAX_CHARS)),
        ("platform?", line(SHORT_MAX_CHARS)),
        ("arch?", default(line(32), DEFAULT_ARCH)),
        ("serial_number?", line(SHORT_MAX_CHARS)),
        ("mac_address?", line(SHORT_MAX_CHARS)),
        ("current_version?", version()),
        ("capabilities?", told(either([anything(), list(json!({}))]), &stored())),
        (
            "token_sha256?",
            told(
                json!({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
                "Of the text of a token that the device has made.",
            ),
        ),
        ("csr?", request()),
    ])
}

fn request() -> Value {
    told(
        json!({"type": "string", "maxLength": REQUEST_MAX_LEN}),
        "A certificate request (PKCS#10) in PEM form, for a P-256 key, signed with it by ECDSA and SHA-256.",
    )
}

fn registered() -> Value {
    answer(&[
        ("device_id", short_name()),
        ("org", short_name()),
        ("token?", told(hex(TOKEN_LEN), "Only if no `token_sha256` was sent; shown this once.")),
        ("fleet_url", string()),
        ("status", status()),
        ("client_certificates", told(flag(), "The server signs certificates for devices.")),
        (
            "certificate?",
            told(
                string(),
                "In PEM form. Only if `csr` was sent, and not for a repeated registration with another key.",
            ),
        ),
        ("certificate_expires_at?", time()),
        ("certificate_renew_at?", told(time(), "Two thirds of its life are over then.")),
    ])
}

fn new_lock() -> Value {
    body(&[
        ("until", told(time(), "In the future, at most 30 days away.")),
        ("reason", line(REASON_MAX_LEN)),
        ("from?", told(time(), "Now, if not given.")),
    ])
}

/// Config keys and values as they are given.
pub(super) fn wanted_config(least: usize) -> Value {
    let text =
        json!({"type": "string", "maxLength": VALUE_MAX_LEN, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"});
    let mut schema = json!({
        "type": "object",
        "minProperties": least,
        "maxProperties": CHANGES_MAX,
        "additionalProperties": either([text, json!({"type": ["number", "boolean"]})]),
    });
    if least == 0 {
        let key = json!({"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": KEY_MAX_LEN});
        schema["propertyNames"] = key;
    }
    schema
}

fn texts() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

fn or_empty(schema: Value) -> Value {
    either([schema, json!({"type": "string", "maxLength": 0})])
}

fn stored() -> String {
    format!("At most {STORED_JSON_MAX_BYTES} bytes.")
}

fn status() -> Value {
    one_of(DeviceStatus::ALL.map(DeviceStatus::as_str))
}

fn channel() -> Value {
    one_of(UpdateChannel::ALL.map(UpdateChannel::as_str))
}
