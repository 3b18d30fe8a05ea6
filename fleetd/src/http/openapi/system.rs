//! The audit log, the server itself, and the dashboard.

use serde_json::{Value, json};

use super::operation::{Operation, get};
use super::schema::{answer, count, hex, list, named, one_of, short_name, string, time, told, uuid};
use crate::domain::audit_entry::AuditFormat;

/// A schema and its name.
pub(super) type Named = (&'static str, Value);

pub(super) fn operations() -> Vec<Operation> {
    let lines = "Every entry that is selected, without pages.";
    vec![
        get("/api/v1/audit", "listAudit", "Who changed what, the newest first")
            .says("An admin sees the own organisation, a superadmin everything. An export takes no `page` and `page_size`.")
            .paged()
            .query("action", string(), "Such as `device.update`; empty: all.")
            .query("user", string(), "By this actor; empty: all.")
            .query("device", string(), "About this device; empty: all.")
            .query("since", time(), "Then or later.")
            .query("until", time(), "Before then.")
            .query("org", short_name(), "Only this organisation.")
            .query("format", super::schema::default(one_of(["json", "csv", "jsonl"]), "json"), "How the entries are told.")
            .lists("AuditLogEntry")
            .gives(200, AuditFormat::Csv.content_type(), string(), lines)
            .gives(200, AuditFormat::Jsonl.content_type(), told(string(), "An `AuditLogEntry` on each line."), lines)
            .with_header(200, "Content-Disposition", "The name of the file, for an export.")
            .refuses(&[404]),
        get("/api/v1/openapi.json", "getOpenApi", "This document")
            .header("If-None-Match", string(), "The ETag of the copy that the client has.")
            .answers(200, json!({"type": "object"}), "OpenAPI 3.1.")
            .with_header(200, "ETag", "Names this version of the document.")
            .empty(304, "The client's copy is good.")
            .with_header(304, "ETag", "Names this version of the document."),
        get("/health", "getHealth", "The process answers").answers(
            200,
            answer(&[("status", one_of(["ok"])), ("version", string())]),
            "It does.",
        ),
        get("/ready", "getReadiness", "The database takes writes and the broker works").answers(
            200,
            answer(&[("status", one_of(["ready"])), ("database", one_of(["ok"])), ("broker", one_of(["ok"]))]),
            "Both do.",
        ),
        get("/metrics", "getServerMetrics", "What the server counts, for Prometheus").gives(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            string(),
            "Prometheus' text format.",
        ),
        get("/ws", "getGone", "Where an earlier server had its own protocol").refuses(&[410]),
        get("/", "getDashboard", "The dashboard").gives(200, "text/html; charset=utf-8", string(), "The page."),
        get("/dashboard.css", "getDashboardStyle", "The dashboard's style").gives(
            200,
            "text/css; charset=utf-8",
            string(),
            "The style.",
        ),
        get("/dashboard.js", "getDashboardScript", "The dashboard's script").gives(
            200,
            "text/javascript; charset=utf-8",
            string(),
            "The script.",
        ),
        get("/favicon.svg", "getDashboardIcon", "The dashboard's icon").gives(
            200,
            "image/svg+xml",
            string(),
            "The icon.",
        ),
    ]
}

pub(super) fn schemas() -> Vec<Named> {
    vec![
        (
            "AuditLogEntry",
            answer(&[
                ("number", told(count(), "Its place in the chain, from 1.")),
                ("id", uuid()),
                ("at", time()),
                ("org?", string()),
                ("actor", told(string(), "`user:…`, `device:…`, `key:…`, `anonymous` or `system`.")),
                ("action", string()),
                ("resource_type", string()),
                ("resource_id", string()),
                ("outcome", one_of(["ok", "refused"])),
                ("details", json!({})),
                ("ip_address?", string()),
                ("user_agent?", string()),
                ("hash", told(hex(64), "Of the chain up to here.")),
            ]),
        ),
        (
            "Problem",
            answer(&[
                ("type", json!({"type": "string", "format": "uri"})),
                ("title", string()),
                ("status", super::schema::number(400, 599)),
                ("detail", string()),
                ("errors?", told(list(named("FieldError")), "For 422.")),
            ]),
        ),
        (
            "FieldError",
            answer(&[("field", told(string(), "Empty: the body as a whole.")), ("message", string())]),
        ),
    ]
}
