//! Looks at everything that [`super::decide`] wants to know.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plain::{Failure, PlainHttp};
use super::recordings::RecordingsWatch;
use super::{AppAnswer, AppStatus, Asked, Observed, Recordings, decide, settling_ms, unit};
use crate::config::{Config, HttpUrl, StatusFields, UnitName};
use crate::kernel::Kernel;
use crate::tls;

/// How long the application may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer of the application, in bytes.
const ANSWER_MAX_LEN: usize = 256 * 1024;
/// Longest answer that is kept to be compared with the next, in bytes.
const KEPT_MAX_LEN: usize = 16 * 1024;
/// What the client for other ways than the usual one reads and writes at a time, in bytes.
const BUFFER_LEN: usize = 16 * 1024;
/// Longest manifest of an installed version, in bytes.
const MANIFEST_MAX_LEN: u64 = 64 * 1024;

/// How the application is asked.
enum Way {
    /// `APP_STATUS_URL` is set to nothing.
    None,
    /// Without encryption, at an address of this machine.
    Plain(PlainHttp),
    /// Any other.
    Client(HttpUrl, ureq::Agent),
    /// It cannot be asked; why, in words.
    Blocked(String),
}

/// Reads the application's status. Keeps what is needed to compare one look with the next.
pub struct Reader {
    way: Way,
    fields: StatusFields,
    /// The last answer, and what it means: most of the time the next is the same.
    said: Option<(Vec<u8>, AppAnswer)>,
    unit: UnitName,
    watch: Option<RecordingsWatch>,
    app_dir: PathBuf,
    started_at_ms: u64,
}

impl Reader {
    /// Nothing is looked at yet. The agent's first seconds count from now.
    #[must_use]
    pub fn new(config: &Config, kernel: &Kernel) -> Self {
        Self {
            way: Way::to(config),
            said: None,
            fields: config.app_status_fields.clone(),
            unit: config.app_unit.clone(),
            watch: config.recordings_dir.clone().map(RecordingsWatch::new),
            app_dir: config.app_dir.clone(),
            started_at_ms: kernel.boottime_ms(),
        }
    }

    /// Looks now. Blocks for at most some 7 s when nothing answers, so it belongs on a thread of its own.
    pub fn read(&mut self, kernel: &Kernel) -> AppStatus {
        let recordings = match &mut self.watch {
            None => Recordings::NotWatched,
            Some(watch) => watch.look(kernel.boottime_ms(), kernel.wall_ms()),
        };
        let asked = self.ask();
        let unit = (asked == Asked::Refused).then(|| unit::state_of(&self.unit));
        let settled = kernel.boottime_ms().saturating_sub(self.started_at_ms) >= settling_ms();
        let observed = Observed { asked, recordings, unit, settled };
        let (liveness, because) = decide(&observed);
        let answer = match observed.asked {
            Asked::Said(answer) => answer,
            _ => AppAnswer::default(),
        };
        let version = answer.version.clone().or_else(|| installed_version(&self.app_dir));
        AppStatus { liveness, because, answer, version }
    }

    /// Asks the application now; blocks for at most some 4 s.
    pub(crate) fn ask(&mut self) -> Asked {
        let answer = match &self.way {
            Way::None => return Asked::NotConfigured,
            Way::Blocked(problem) => Err(Failure::Other(problem.clone())),
            Way::Plain(way) => way.get(PATIENCE, ANSWER_MAX_LEN),
            Way::Client(url, client) => get(client, url),
        };
        match answer {
            Ok((200, body)) => match &self.said {
                Some((last, answer)) if *last == body => Asked::Said(answer.clone()),
                _ => self.understand(body),
            },
            Ok((status, _)) => Asked::NoAnswer(format!("HTTP status {status}")),
            Err(Failure::Refused) => Asked::Refused,
            Err(Failure::TimedOut) => Asked::NoAnswer(format!("nothing within {} s", PATIENCE.as_secs())),
            Err(Failure::Other(problem)) => Asked::NoAnswer(problem),
        }
    }

    fn understand(&mut self, body: Vec<u8>) -> Asked {
        match AppAnswer::read(&body, &self.fields) {
            Ok(answer) => {
                self.said = (body.len() <= KEPT_MAX_LEN).then(|| (body, answer.clone()));
                Asked::Said(answer)
            }
            Err(problem) => Asked::NoAnswer(problem),
        }
    }
}

impl Way {
    fn to(config: &Config) -> Self {
        let Some(url) = &config.app_status_url else { return Self::None };
        if let Some(plain) = PlainHttp::to(url) {
            return Self::Plain(plain);
        }
        match client(config, url) {
            Ok(client) => Self::Client(url.clone(), client),
            Err(error) => Self::Blocked(error.to_string()),
        }
    }
}

/// A client that asks anew each time: a connection kept open would say nothing about who listens now.
fn client(config: &Config, url: &HttpUrl) -> Result<ureq::Agent, tls::TlsError> {
    let mut builder = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .input_buffer_size(BUFFER_LEN)
        .output_buffer_size(BUFFER_LEN)
        .proxy(None)
        .timeout_global(Some(PATIENCE));
    if url.scheme().is_encrypted() {
        builder = builder.tls_config(tls::http_config(config)?);
    }
    Ok(builder.build().new_agent())
}

fn get(client: &ureq::Agent, url: &HttpUrl) -> Result<(u16, Vec<u8>), Failure> {
    let failure = |error| match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => Failure::Refused,
        ureq::Error::Timeout(_) => Failure::TimedOut,
        other => Failure::Other(other.to_string()),
    };
    let called = client.get(url.to_string()).header("Accept", "application/json").call();
    let mut response = called.map_err(failure)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(ANSWER_MAX_LEN as u64).read_to_vec();
    Ok((status, body.map_err(failure)?))
}

/// The version in `current/manifest.json` below `app_dir`; none if there is no such file or version.
#[must_use]
pub fn installed_version(app_dir: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(app_dir.join("current/manifest.json")).ok()?;
    file.take(MANIFEST_MAX_LEN).read_to_end(&mut bytes).ok()?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let version = manifest.get("version")?.as_str()?;
    let clean: String = version.chars().filter(|c| !c.is_control()).take(64).collect();
    (!clean.is_empty()).then_some(clean)
}
