//! Looks at everything that [`super::decide`] wants to know.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::recordings::RecordingsWatch;
use super::{AppAnswer, AppStatus, Asked, Observed, Recordings, decide, settling_ms, unit};
use crate::config::{Config, HttpUrl, StatusFields, UnitName};
use crate::kernel::Kernel;
use crate::tls;

/// How long the application may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer of the application, in bytes.
const ANSWER_MAX_LEN: u64 = 256 * 1024;
/// Longest manifest of an installed version, in bytes.
const MANIFEST_MAX_LEN: u64 = 64 * 1024;

/// Reads the application's status. Keeps what is needed to compare one look with the next.
pub struct Reader {
    url: Option<HttpUrl>,
    client: Result<ureq::Agent, String>,
    fields: StatusFields,
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
            client: client(config).map_err(|error| error.to_string()),
            url: config.app_status_url.clone(),
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

    fn ask(&self) -> Asked {
        let Some(url) = &self.url else { return Asked::NotConfigured };
        let client = match &self.client {
            Ok(client) => client,
            Err(problem) => return Asked::NoAnswer(problem.clone()),
        };
        let mut response = match client.get(url.to_string()).header("Accept", "application/json").call() {
            Ok(response) => response,
            Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Asked::Refused;
            }
            Err(ureq::Error::Timeout(_)) => {
                return Asked::NoAnswer(format!("nothing within {} s", PATIENCE.as_secs()));
            }
            Err(error) => return Asked::NoAnswer(error.to_string()),
        };
        let status = response.status().as_u16();
        if status != 200 {
            return Asked::NoAnswer(format!("HTTP status {status}"));
        }
        match response.body_mut().with_config().limit(ANSWER_MAX_LEN).read_to_vec() {
            Ok(body) => AppAnswer::read(&body, &self.fields).map_or_else(Asked::NoAnswer, Asked::Said),
            Err(error) => Asked::NoAnswer(error.to_string()),
        }
    }
}

/// A client that asks anew each time: a connection kept open would say nothing about who listens now.
fn client(config: &Config) -> Result<ureq::Agent, tls::TlsError> {
    let mut builder = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(PATIENCE));
    if config.app_status_url.as_ref().is_some_and(|url| url.scheme().is_encrypted()) {
        builder = builder.tls_config(tls::http_config(config)?);
    }
    Ok(builder.build().new_agent())
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
