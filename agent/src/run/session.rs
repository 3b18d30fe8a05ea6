//! From no connection to a link: where to connect, and when to try again.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::config::{Config, MqttUrl};
use crate::connect::{self, ConnectError, Endpoints};
use crate::link::{Link, LinkEvent, Transport};

/// A connection that lasted this long was a good one: the next attempt comes soon. One that ends earlier, again and
/// again, has two devices with one name behind it, or a broker in trouble.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// The longest that a server may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// How far the connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing, until then.
    Waiting { until: Duration },
    /// The server is asked where its broker is.
    Asking(JoinHandle<Result<Endpoints, ConnectError>>),
    /// The broker is known; the link is yet to be opened.
    Found(MqttUrl),
    /// Connecting.
    Linking(Link, Transport),
    /// Connected since then.
    Linked { link: Link, transport: Transport, since: Duration },
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Happened {
    /// The server has answered, or not.
    Asked(Result<Endpoints, ConnectError>),
    /// On the link.
    Link(LinkEvent),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) stage: Stage,
    backoff: Backoff,
    /// What the server said last: good for when it is away but its broker is not.
    known: Endpoints,
    /// Attempts and short connections since the last good one: each goes on to the next address.
    failures: usize,
    /// The broker of the last good connection: it is tried first.
    good: Option<MqttUrl>,
    /// The broker in use or tried last.
    pub(super) tried: Option<MqttUrl>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Waiting { until: Duration::ZERO },
            backoff: Backoff::LINK,
            known: Endpoints::default(),
            failures: 0,
            good: None,
            tried: None,
        }
    }

    /// The link, if it stands.
    pub(super) fn link(&self) -> Option<&Link> {
        match &self.stage {
            Stage::Linked { link, .. } => Some(link),
            _ => None,
        }
    }

    /// When something is to be done without anything happening.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        match &self.stage {
            Stage::Waiting { until } => Some(*until),
            Stage::Found(_) => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// What the server said before counts no more.
    pub(super) fn forget(&mut self) {
        self.known = Endpoints::default();
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, config: &Config) {
        self.stage = match &config.mqtt_url {
            Some(url) => Stage::Found(url.clone()),
            None => {
                let config = config.clone();
                // It blocks for up to half a minute.
                Stage::Asking(tokio::task::spawn_blocking(move || connect::fetch(&config)))
            }
        };
    }

    /// Takes the server's answer and chooses an address.
    ///
    /// # Errors
    /// There is none that this agent can connect to; why, and how long to wait at least.
    pub(super) fn choose(
        &mut self,
        asked: Result<Endpoints, ConnectError>,
    ) -> Result<(), (String, Duration)> {
        let mut problem = None;
        match asked {
            Ok(endpoints) => self.known = endpoints,
            Err(error) => {
                let wait = match &error {
                    ConnectError::Status { retry_after_seconds: Some(seconds), .. } => {
                        Duration::from_secs(*seconds).min(LONGEST_RETRY_AFTER)
                    }
                    _ => Duration::ZERO,
                };
                problem = Some((with_causes(&error), wait));
            }
        }
        let mut usable: Vec<&MqttUrl> =
            self.known.in_order().filter(|url| Transport::for_url(url).is_some()).collect();
        // The others stay as they are.
        usable.sort_by_key(|url| self.good.as_ref() != Some(*url));
        match usable.get(self.failures % usable.len().max(1)) {
            Some(url) => {
                self.stage = Stage::Found((*url).clone());
                Ok(())
            }
            None => Err(problem.unwrap_or_else(|| {
                let offered: Vec<String> = self.known.in_order().map(ToString::to_string).collect();
                let text = format!(
                    "the server offers no broker that this agent can connect to (it offers: {}); it needs an \
                     mqtts:// or wss:// address, or an mqtt:// one, which a server gives only where plain text is allowed",
                    if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
                );
                (text, Duration::ZERO)
            })),
        }
    }

    /// The attempt or connection has ended: waits for the next, and says how long.
    pub(super) fn failed(&mut self, now: Duration, random: u64, at_least: Duration) -> Duration {
        self.failures = self.failures.wrapping_add(1);
        if let Stage::Linked { since, .. } = &self.stage
            && now.saturating_sub(*since) >= GOOD_AFTER
        {
            self.backoff.reset();
            self.failures = 0;
            self.good = self.tried.clone();
        }
        let wait = self.backoff.next(random).max(at_least);
        self.stage = Stage::Waiting { until: now + wait };
        wait
    }

    /// The next thing that happens. Ends never while there is nothing to wait for.
    pub(super) async fn happened(&mut self) -> Happened {
        match &mut self.stage {
            Stage::Waiting { .. } | Stage::Found(_) => std::future::pending().await,
            Stage::Asking(task) => Happened::Asked(match task.await {
                Ok(answer) => answer,
                Err(error) => Err(ConnectError::Answer {
                    server: "the server".to_owned(),
                    problem: format!("asking it failed: {error}"),
                }),
            }),
            Stage::Linking(link, _) | Stage::Linked { link, .. } => Happened::Link(link.event().await),
        }
    }
}

/// An error and its causes in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let words = deeper.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = deeper.source();
    }
    text
}
