//! What devices sent.

use protocol::codec::limit::EXCHANGE_BYTES;
use serde_json::{Value, json};

use super::operation::{Operation, get, post};
use super::schema::{
    answer, binary, count, flag, hex, list, loose_body, measure, named, number, string, time, told,
};
use super::system::Named;
use crate::domain::rollup::METRICS;
use crate::domain::sample::{INPUT_MAX_BYTES, INPUTS_MAX, UPTIME_MAX_SECONDS, VERSION_MAX_BYTES};
use crate::http::exchange::{CBOR, WAIT_MAX_SECONDS};
use crate::http::history::{
    HEARTBEATS_MAX, SPAN_DEFAULT_HOURS, SPAN_MAX_HOURS, STEP_MAX_SECONDS, STEP_MIN_SECONDS,
};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        post(
            "/api/v1/devices/{id}/heartbeat",
            "sendHeartbeat",
            "A heartbeat of a device that speaks only HTTP",
        )
        .says("Unknown fields are ignored; null and absent mean the same.")
        .takes(heartbeat())
        .answers(
            200,
            answer(&[
                ("ack", flag()),
                ("commands_pending", told(count(), "Commands that the device has not acknowledged.")),
                ("target_version", json!({"type": ["string", "null"]})),
                ("server_time", time()),
            ]),
            "The heartbeat is on the server's disk.",
        )
        .refuses(&[409]),
        post(
            "/api/v1/devices/{id}/exchange",
            "exchange",
            "What a device and the server say to each other where MQTT does not get through",
        )
        .says(
            "Body and answer are CBOR: a list of [topic suffix, message], as `exchange` in protocol/fleet.cddl. A birth begins \
             the connection; without one, all but an empty list that does not wait is answered with 409.",
        )
        .query(
            "wait_seconds",
            super::schema::default(number(0, WAIT_MAX_SECONDS), 0),
            "How long to wait if there is nothing for the device. A newer request that waits ends an older one.",
        )
        .query(
            "connection",
            number(0, i64::MAX),
            "The connection number of the birth that this request follows.",
        )
        .takes_bytes(CBOR, EXCHANGE_BYTES)
        .gives(200, CBOR, binary(), "What there is for the device.")
        .refuses(&[409]),
        get(
            "/api/v1/devices/{id}/heartbeats",
            "listHeartbeats",
            "The heartbeats of a device, the newest first",
        )
        .paged_up_to(HEARTBEATS_MAX)
        .query("since", time(), "Received then or later.")
        .query("until", time(), "Received before then.")
        .lists("Heartbeat"),
        get("/api/v1/devices/{id}/metrics", "getMetrics", "What the heartbeats of a device come to")
            .query(
                "hours",
                super::schema::default(number(1, SPAN_MAX_HOURS), SPAN_DEFAULT_HOURS),
                "The last hours; in place of from and to.",
            )
            .query("from", time(), "Then or later.")
            .query("to", time(), "Before then.")
            .query("step", number(STEP_MIN_SECONDS, STEP_MAX_SECONDS), "Seconds of a point.")
            .answers(200, named("Metrics"), "The points."),
        get("/api/v1/devices/{id}/records", "listRecords", "Which records of a device have arrived").answers(
            200,
            answer(&[("items", list(named("RecordState")))]),
            "The device's state databases, the newest first.",
        ),
    ]
}

pub(super) fn schemas() -> Vec<Named> {
    let spread = || {
        let number = || json!({"type": "number"});
        answer(&[("min", number()), ("avg", number()), ("max", number())])
    };
    let names: Vec<String> = METRICS.iter().map(|name| format!("{name}?")).collect();
    let point: Vec<(&str, Value)> =
        std::iter::once(("ts", time())).chain(names.iter().map(|name| (name.as_str(), spread()))).collect();
    vec![
        ("Heartbeat", stored()),
        (
            "Metrics",
            answer(&[
                ("device_id", string()),
                ("from", time()),
                ("to", time()),
                ("step_seconds", count()),
                ("points", list(answer(&point))),
                ("recording_minutes", count()),
                ("mixer_minutes", count()),
            ]),
        ),
        (
            "RecordState",
            answer(&[
                ("state_id", hex(16)),
                (
                    "committed",
                    told(
                        list(json!({"type": "array", "items": count(), "minItems": 2, "maxItems": 2})),
                        "Ranges of numbers, each with its first and last.",
                    ),
                ),
                ("first_at", time()),
                ("last_at", time()),
            ]),
        ),
    ]
}

fn metrics() -> Vec<Named> {
    vec![
        ("cpu_percent?", measure(0.0, 100.0)),
        ("mem_percent?", measure(0.0, 100.0)),
        ("disk_free_gb?", measure(0.0, 1e7)),
        ("disk_total_gb?", measure(0.0, 1e7)),
        ("temperature_c?", measure(-273.15, 1000.0)),
        ("load_avg?", json!({"type": "array", "items": measure(0.0, 1e6), "minItems": 3, "maxItems": 3})),
    ]
}

fn heartbeat() -> Value {
    let input = json!({"type": "string", "maxLength": INPUT_MAX_BYTES});
    loose_body(&[
        ("ts", told(time(), "The device's clock.")),
        ("version?", json!({"type": "string", "maxLength": VERSION_MAX_BYTES})),
        ("uptime_seconds?", number(0, UPTIME_MAX_SECONDS)),
        ("metrics?", loose_body(&metrics())),
        (
            "status?",
            loose_body(&[
                ("recording_active?", flag()),
                ("mixer_active?", flag()),
                ("active_inputs?", json!({"type": "array", "items": input, "maxItems": INPUTS_MAX})),
                ("degradation_level?", number(0, 255)),
            ]),
        ),
        ("errors?", told(list(string()), "What is kept of it is bounded.")),
    ])
}

fn stored() -> Value {
    answer(&[
        ("id", string()),
        ("received_at", time()),
        ("taken_at", told(time(), "Corrected for the device's clock.")),
        ("state_id?", hex(16)),
        ("seq?", count()),
        ("ts", time()),
        ("version?", string()),
        ("uptime_seconds?", count()),
        ("metrics", answer(&metrics())),
        (
            "status",
            answer(&[
                ("recording_active", flag()),
                ("mixer_active", flag()),
                ("active_inputs", list(string())),
                ("degradation_level", number(0, 255)),
            ]),
        ),
        ("live?", told(flag(), "Whether an interruption would have been heard or seen. Absent: unknown.")),
        ("errors", list(string())),
    ])
}
