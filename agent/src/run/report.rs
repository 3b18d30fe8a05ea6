//! What `r58-fleet-agent status` and `systemctl status` show.

use std::time::Duration;

use super::session::Stage;
use super::{Agent, messages};
use crate::command::OpenCommand;
use crate::link::Address;
use crate::status::{AppSummary, Connection, Status, StatusFile};

/// Written at most this often, when something has changed.
const QUICKEST: Duration = Duration::from_secs(1);
/// After a heartbeat the server's word about it is waited for, so that one writing tells both.
const WORD_OF_SERVER: Duration = Duration::from_secs(3);
/// Written at least this often, should somebody have taken the file away.
const REGULAR: Duration = Duration::from_secs(300);

/// Keeps what the event loop tells, and writes it.
#[derive(Debug)]
pub(super) struct Reporter {
    file: StatusFile,
    started_at_ms: i64,
    connection: Connection,
    since_ms: i64,
    last_error: Option<(String, i64)>,
    /// What was wrong with the state at its last opening that found something.
    damage: Option<(String, i64)>,
    pub(super) last_ack_at_ms: Option<i64>,
    last_heartbeat_at_ms: Option<i64>,
    changed: bool,
    /// What has changed besides may wait until then.
    at_the_latest: Option<Duration>,
    written_at: Option<Duration>,
    told_systemd: String,
}

impl Reporter {
    pub(super) fn new(file: StatusFile, now_ms: i64) -> Self {
        Self {
            file,
            started_at_ms: now_ms,
            connection: Connection::Connecting,
            since_ms: now_ms,
            last_error: None,
            damage: None,
            last_ack_at_ms: None,
            last_heartbeat_at_ms: None,
            changed: true,
            at_the_latest: None,
            written_at: None,
            told_systemd: String::new(),
        }
    }

    pub(super) fn file(&self) -> &StatusFile {
        &self.file
    }

    pub(super) fn error(&mut self, text: String, now_ms: i64) {
        self.last_error = Some((text, now_ms));
        self.changed = true;
    }

    pub(super) fn damage(&mut self, text: String, now_ms: i64) {
        self.damage = Some((text, now_ms));
        self.changed = true;
    }

    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// A heartbeat was recorded at `ts_ms`.
    pub(super) fn heartbeat(&mut self, ts_ms: i64, now: Duration) {
        self.last_heartbeat_at_ms = Some(ts_ms);
        self.at_the_latest.get_or_insert(now + WORD_OF_SERVER);
    }

    fn due_at(&self) -> Duration {
        let Some(at) = self.written_at else { return Duration::ZERO };
        let soonest = at + QUICKEST;
        match self.at_the_latest {
            _ if self.changed => soonest,
            Some(latest) => latest.max(soonest),
            None => at + REGULAR,
        }
    }
}

impl Agent {
    /// When the status must be written next.
    pub(super) fn report_at(&self) -> Duration {
        self.reporter.due_at()
    }

    /// Writes the status if it is due.
    pub(super) fn report(&mut self, now: Duration) {
        let wall_ms = self.kernel.wall_ms();
        let connection = self.connection();
        if connection != self.reporter.connection {
            self.reporter.connection = connection;
            self.reporter.since_ms = wall_ms;
            self.reporter.changed = true;
        }
        if now < self.reporter.due_at() {
            return;
        }
        self.reporter.changed = false;
        self.reporter.at_the_latest = None;
        self.reporter.written_at = Some(now);
        let open_commands = self.open_commands();
        let status = self.status(now, wall_ms, open_commands);
        // The folder may be gone or full; the next time it may not. Nothing depends on it.
        if let Err(error) = self.reporter.file.write(&status) {
            tracing::debug!(%error, path = %self.reporter.file.path().display(), "the status was not written");
        }
        let line = self.line(&status);
        if line != self.reporter.told_systemd {
            self.service.status(&line);
            self.reporter.told_systemd = line;
        }
    }

    fn connection(&self) -> Connection {
        match &self.session.stage {
            Stage::Waiting { .. } => Connection::Waiting,
            Stage::Linked { .. } if self.answered => Connection::Connected,
            _ => Connection::Connecting,
        }
    }

    fn status(&self, now: Duration, wall_ms: i64, open_commands: Vec<OpenCommand>) -> Status {
        let outbox = self.folder.store.as_ref().map(|store| store.uplink.outbox());
        let server = match (&self.config.fleet_url, &self.config.mqtt_url) {
            (Some(url), _) => Some(url.to_string()),
            (None, url) => url.as_ref().map(ToString::to_string),
        };
        let next_attempt_at_ms = match &self.session.stage {
            Stage::Waiting { until } => {
                let wait = until.saturating_sub(now).as_millis();
                Some(wall_ms.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX)))
            }
            _ => None,
        };
        let app = self.app.as_ref().map_or_else(
            || AppSummary {
                liveness: "unknown".to_owned(),
                because: "not asked yet".to_owned(),
                version: None,
            },
            |app| AppSummary {
                liveness: app.liveness.to_string(),
                because: app.because.clone(),
                version: app.version.clone(),
            },
        );
        let tried = self.session.tried.as_ref();
        Status {
            pid: std::process::id(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.reporter.started_at_ms,
            written_at_ms: wall_ms,
            device_id: self.config.device_id.to_string(),
            org: self.config.org.to_string(),
            server,
            connection: self.reporter.connection,
            since_ms: self.reporter.since_ms,
            link: tried.map(ToString::to_string),
            next_attempt_at_ms,
            last_error: self.reporter.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_at_ms: self.reporter.last_error.as_ref().map(|(_, at)| *at),
            state_damage: self.reporter.damage.as_ref().map(|(text, _)| text.clone()),
            state_damage_at_ms: self.reporter.damage.as_ref().map(|(_, at)| *at),
            last_ack_at_ms: self.reporter.last_ack_at_ms,
            outbox_depth: outbox.map_or(0, |outbox| outbox.depth() as u64),
            outbox_bytes: outbox.map_or(0, |outbox| outbox.unacked_bytes()),
            certificate_expires_at_ms: self.certificates.times().map(|(expires, _)| expires),
            certificate_renew_at_ms: self.certificates.times().map(|(_, renews)| renews),
            last_heartbeat_at_ms: self.reporter.last_heartbeat_at_ms,
            app,
            held_reason: open_commands.iter().find_map(|command| command.held_reason.clone()),
            open_commands,
            transport: tried.and_then(Address::transport).map(|transport| transport.as_str().to_owned()),
        }
    }

    fn line(&self, status: &Status) -> String {
        let identity: Option<messages::Identity> =
            self.folder.store.as_ref().map(super::store::Store::identity);
        let link = status.link.as_deref().unwrap_or("the server");
        match (identity, status.connection) {
            (None, _) => format!("the state folder cannot be used: {}", error_text(status)),
            (_, Connection::Connected) => format!("connected to {link}"),
            (_, Connection::Connecting) => format!("connecting to {link}"),
            (_, Connection::Waiting) => format!("not connected: {}", error_text(status)),
        }
    }
}

fn error_text(status: &Status) -> &str {
    status.last_error.as_deref().unwrap_or("no attempt yet")
}
