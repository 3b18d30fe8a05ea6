//! A [`Status`] in words.

use protocol::message::rfc3339;

use super::{Connection, Status};
use crate::command::OpenCommand;

/// Open commands that are shown.
const COMMANDS_SHOWN: usize = 20;

/// How long ago, or how long, in words: the two largest units that are not zero.
#[must_use]
pub fn duration_text(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Several lines for a terminal, as things are at `now_ms` by the same clock that wrote `status`.
#[must_use]
pub fn describe(status: &Status, now_ms: i64) -> String {
    let ago = |ms: i64| format!("{} ago", duration_text(now_ms - ms));
    let maybe_ago = |ms: Option<i64>| ms.map_or_else(|| "never".to_owned(), ago);
    let since = duration_text(now_ms - status.since_ms);
    let connection = match status.connection {
        Connection::Connected => format!("connected for {since}"),
        Connection::Connecting => format!("connecting for {since}"),
        Connection::Waiting => match status.next_attempt_at_ms {
            Some(at) if at > now_ms => {
                format!("not connected for {since}; next attempt in {}", duration_text(at - now_ms))
            }
            _ => format!("not connected for {since}"),
        },
    };
    let mut lines = vec![
        ("Connection", connection),
        ("Server", status.server.clone().unwrap_or_else(|| "none configured".to_owned())),
        ("Link", link(status)),
        ("Device", format!("{}, organisation {}", status.device_id, status.org)),
        ("Outbox", outbox(status.outbox_depth, status.outbox_bytes)),
        ("Last heartbeat", maybe_ago(status.last_heartbeat_at_ms)),
        ("Last confirmation", maybe_ago(status.last_ack_at_ms)),
    ];
    if let (Some(until), Some(renews)) = (status.certificate_expires_at_ms, status.certificate_renew_at_ms) {
        lines.push(("Certificate", format!("valid until {}, renews {}", rfc3339(until), rfc3339(renews))));
    }
    if let Some(error) = &status.last_error {
        let when = status.last_error_at_ms.map(|ms| format!(" ({})", ago(ms))).unwrap_or_default();
        lines.push(("Last error", format!("{error}{when}")));
    }
    if let Some(damage) = &status.state_damage {
        let when = status.state_damage_at_ms.map(|ms| format!(" ({})", ago(ms))).unwrap_or_default();
        lines.push(("State folder", format!("{damage}{when}")));
    }
    let version = status.app.version.as_ref().map(|v| format!(", version {v}")).unwrap_or_default();
    lines.push(("Application", format!("{} ({}){version}", status.app.liveness, status.app.because)));
    for (n, command) in status.open_commands.iter().take(COMMANDS_SHOWN).enumerate() {
        lines.push((if n == 0 { "Commands" } else { "" }, one_command(command)));
    }
    if let Some(more) = status.open_commands.len().checked_sub(COMMANDS_SHOWN).filter(|more| *more > 0) {
        lines.push(("", format!("and {more} more")));
    }
    let running = duration_text(now_ms - status.started_at_ms);
    lines.push((
        "Agent",
        format!("version {}, process {}, running for {running}", status.agent_version, status.pid),
    ));
    let mut text = String::new();
    for (name, value) in lines {
        // An error may quote what a server said; the terminal gets no control characters from it.
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push_str(&format!("{name:<18} {value}\n"));
    }
    text
}

fn link(status: &Status) -> String {
    let way = match status.transport.as_deref() {
        Some("mqtts") => " (MQTT over TLS)",
        Some("wss") => " (MQTT over WebSocket)",
        Some("mqtt") => " (MQTT without encryption)",
        Some("https" | "http") => " by HTTP exchange, the last resort where no MQTT gets through",
        _ => "",
    };
    status.link.as_ref().map_or_else(|| "none yet".to_owned(), |link| format!("{link}{way}"))
}

fn one_command(command: &OpenCommand) -> String {
    let OpenCommand { id, kind, state, held_reason } = command;
    match held_reason.as_deref().map(|reason| reason.split_once(": ").unwrap_or((reason, ""))) {
        None => format!("{kind} {id} is {state}"),
        Some((word, "")) => format!("{kind} {id} waits: {word}"),
        Some((word, detail)) if state == "held" => format!("{kind} {id} is held: {word} ({detail})"),
        Some((word, detail)) => format!("{kind} {id} waits: {word} ({detail})"),
    }
}

fn outbox(depth: u64, bytes: u64) -> String {
    match depth {
        0 => "empty: the server has everything".to_owned(),
        1 => format!("1 record ({} KiB) not yet confirmed by the server", bytes.div_ceil(1024)),
        _ => format!("{depth} records ({} KiB) not yet confirmed by the server", bytes.div_ceil(1024)),
    }
}
