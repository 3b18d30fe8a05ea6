//! systemd, where there is one: readiness, status line, watchdog and journal. Without it everything here does nothing,
//! and the log goes to standard error.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use systemd::{daemon, journal};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

/// Environment variable with the log filter, like `info,agent::uplink=debug`.
pub const LOG_VARIABLE: &str = "R58_LOG";
/// What this program is called in the journal.
const IDENTIFIER: &str = "r58-fleet-agent";

/// Tells systemd how the agent is.
#[derive(Debug)]
pub struct ServiceManager {
    /// After this time without a word systemd restarts the agent; none if there is no watchdog.
    watchdog_limit: Option<Duration>,
    /// When it was fed last.
    fed_at: Option<Duration>,
}

impl ServiceManager {
    /// Looks at what systemd has put into the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let watchdog_limit = match daemon::watchdog_enabled() {
            Ok(0) => None,
            Ok(microseconds) => Some(Duration::from_micros(microseconds)),
            Err(error) => {
                tracing::warn!(%error, "the watchdog's environment is wrong; the watchdog is not fed");
                None
            }
        };
        Self { watchdog_limit, fed_at: None }
    }

    /// When [`Self::watchdog`] has to be called next, so that another call may fail before systemd restarts the agent;
    /// none if there is no watchdog.
    #[must_use]
    pub fn watchdog_at(&self) -> Option<Duration> {
        Some(self.fed_at.unwrap_or_default() + self.watchdog_limit? * 4 / 9)
    }

    /// The agent has started.
    pub fn ready(&self) {
        notify(daemon::STATE_READY, "1");
    }

    /// One line about what the agent is doing, for `systemctl status`.
    pub fn status(&self, line: &str) {
        let one_line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        notify(daemon::STATE_STATUS, &one_line);
    }

    /// The event loop has turned, `now`. Call it from nowhere else. systemd is told a few times within its limit, and not
    /// at each turn: every word wakes it.
    pub fn watchdog(&mut self, now: Duration) {
        let Some(limit) = self.watchdog_limit else { return };
        if self.fed_at.is_none_or(|at| now >= at + limit / 9) {
            self.fed_at = Some(now);
            notify(daemon::STATE_WATCHDOG, "1");
        }
    }

    /// The agent has begun to stop.
    pub fn stopping(&self) {
        notify(daemon::STATE_STOPPING, "1");
    }
}

fn notify(key: &str, value: &str) {
    // Without NOTIFY_SOCKET this succeeds and does nothing.
    if let Err(error) = daemon::notify([(key, value)].iter()) {
        tracing::debug!(%error, key, "systemd was not told");
    }
}

/// The log's filter, as far as [`set_debug`] may change it.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// The filter that is used where nobody asks for another.
fn standard_filter(debug: bool) -> Targets {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    Targets::new().with_default(LevelFilter::WARN).with_target("agent", level).with_target(IDENTIFIER, level)
}

/// Turns the wordy log on or off while the agent runs. Does nothing if a person has said what the log shows, by
/// `--verbose` or [`LOG_VARIABLE`].
pub fn set_debug(debug: bool) {
    if let Some(filter) = FILTER.get()
        && let Err(error) = filter.reload(standard_filter(debug))
    {
        tracing::warn!(%error, "the log's filter cannot be changed");
    }
}

/// Sends the log to the journal if systemd has connected standard error to it, else to standard error, in colour on a
/// terminal. `verbose` shows what is of use when looking for a fault; the variable [`LOG_VARIABLE`] says more exactly.
/// A second call in one process changes nothing.
pub fn init_logging(verbose: bool) {
    let wanted = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.is_empty());
    let parsed = wanted.as_deref().map(str::parse::<Targets>);
    let (filter, bad_filter) = match parsed {
        Some(Ok(filter)) => (filter, false),
        Some(Err(_)) => (standard_filter(verbose), true),
        None => (standard_filter(verbose), false),
    };
    let (filter, handle) = reload::Layer::new(filter);
    if wanted.is_none() && !verbose {
        // A second call finds the first one's, which is the one in use.
        let _ = FILTER.set(handle);
    }
    let registry = tracing_subscriber::registry();
    let started = if stderr_is_journal() {
        registry.with(Journal.with_filter(filter)).try_init()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
        registry.with(lines.with_filter(filter)).try_init()
    };
    if started.is_ok() && bad_filter {
        tracing::warn!("{LOG_VARIABLE} is no log filter (like info,agent::uplink=debug); it has no effect");
    }
}

/// Whether standard error is the very stream that systemd has named; a shell may have redirected it since.
fn stderr_is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// The device's id, once it is known.
static DEVICE_ID: OnceLock<String> = OnceLock::new();

/// From now on every line of the journal carries the device's id. A second call changes nothing.
pub fn set_device_id(device_id: &str) {
    let _ = DEVICE_ID.set(device_id.to_owned());
}

/// Hands events to journald with their level. Their fields are appended to the message for people, and are fields of the journal
/// too, in capitals, for programs: `journalctl COMMAND_ID=…`.
struct Journal;

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let fields = line.journal_fields(event.metadata(), DEVICE_ID.get().map(String::as_str));
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        // There is nowhere left to complain to.
        let _ = journal::send(&fields);
    }
}

/// syslog's numbers.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[derive(Default)]
struct Line {
    message: String,
    /// As a person reads them behind the message.
    fields: String,
    /// As a program reads them: `NAME=value`.
    for_programs: Vec<String>,
}

impl Line {
    fn add(&mut self, field: &Field, shown: fmt::Arguments<'_>, value: &str) {
        use fmt::Write as _;
        let name = field.name();
        // Writing to a String cannot fail.
        let _ = if name == "message" {
            self.message.write_fmt(shown)
        } else {
            self.for_programs.extend(journal_name(name).map(|name| format!("{name}={value}")));
            write!(self.fields, " {name}={shown}")
        };
    }

    fn journal_fields(self, metadata: &Metadata<'_>, device_id: Option<&str>) -> Vec<String> {
        let mut fields = self.for_programs;
        fields.extend(device_id.map(|id| format!("DEVICE_ID={id}")));
        fields.push(format!("MESSAGE={}{}", self.message, self.fields));
        fields.push(format!("PRIORITY={}", priority(*metadata.level())));
        fields.push(format!("SYSLOG_IDENTIFIER={IDENTIFIER}"));
        fields.push(format!("CODE_MODULE={}", metadata.target()));
        fields
    }
}

/// A field's name as the journal writes it, unless the journal has a meaning of its own for that.
fn journal_name(name: &str) -> Option<String> {
    const TAKEN: [&str; 6] = ["MESSAGE", "PRIORITY", "SYSLOG_", "CODE_", "OBJECT_", "DEVICE_ID"];
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    let sound = name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_uppercase());
    (sound && !TAKEN.iter().any(|taken| name.starts_with(taken))).then_some(name)
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.add(field, format_args!("{text}"), &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.add(field, format_args!("{value}"), value);
        } else {
            self.add(field, format_args!("{value:?}"), value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::{Arc, Mutex};

    struct Collect(Arc<Mutex<Vec<Vec<String>>>>);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap().push(line.journal_fields(event.metadata(), Some("studio-001")));
        }
    }

    fn logged(write: impl FnOnce()) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Collect(Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, write);
        lines.lock().unwrap().pop().unwrap()
    }

    #[test]
    fn a_journal_line_has_the_message_then_the_fields_and_syslogs_level() {
        let line = logged(|| {
            tracing::warn!(path = "a\nb", attempt = 3, error = %"refused", "cannot {}", "connect");
        });
        assert!(
            line.contains(&r#"MESSAGE=cannot connect path="a\nb" attempt=3 error=refused"#.to_owned()),
            "{line:?}"
        );
        assert!(line.contains(&"PRIORITY=4".to_owned()), "{line:?}");
    }

    #[test]
    fn a_journal_line_has_its_fields_and_the_device_for_programs() {
        let line = logged(|| {
            tracing::info!(command_id = %"0197a", reason = None::<&str>, state = Some("held"), priority = 1, "command");
        });
        assert!(line.contains(&"COMMAND_ID=0197a".to_owned()), "{line:?}");
        assert!(line.contains(&"STATE=held".to_owned()), "{line:?}");
        assert!(line.contains(&"DEVICE_ID=studio-001".to_owned()), "{line:?}");
        assert!(!line.iter().any(|field| field.starts_with("REASON=")), "{line:?}");
        let levels: Vec<_> = line.iter().filter(|field| field.starts_with("PRIORITY=")).collect();
        assert_eq!(levels, ["PRIORITY=6"], "a field of ours stands for one of the journal's");
    }

    #[test]
    fn without_systemd_every_notification_is_harmless() {
        let mut manager = ServiceManager { watchdog_limit: None, fed_at: None };
        manager.ready();
        manager.status("two\nlines");
        manager.watchdog(Duration::ZERO);
        manager.stopping();
        assert_eq!(manager.watchdog_at(), None);
    }

    #[test]
    fn a_loop_that_turns_feeds_the_watchdog_twice_within_its_limit_and_not_at_every_turn() {
        let seconds = Duration::from_secs;
        let mut manager = ServiceManager { watchdog_limit: Some(seconds(90)), fed_at: None };
        for (turn, fed) in [(0, 0), (9, 0), (10, 10), (12, 10), (50, 50)] {
            manager.watchdog(seconds(turn));
            assert_eq!(manager.fed_at, Some(seconds(fed)), "at {turn} s");
            assert_eq!(manager.watchdog_at(), Some(seconds(fed + 40)));
        }
    }
}
