//! From no connection to a link: which way to take, when to try again, and when to look for a better one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::connect::{self, ConnectError, Endpoints};
use crate::ladder::{Ladder, Ways};
use crate::link::{Address, Link, LinkEvent, Transport, try_way};
use crate::{proxy, tls};

/// A connection that lasted this long was a good one: the next attempt comes soon. One that ends earlier, again and
/// again, has two devices with one name behind it, or a broker in trouble.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// The longest that a server may ask to be left alone.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// What the server said of its broker a moment ago is not asked again.
const ANSWER_HOLDS: Duration = Duration::from_secs(60);
/// How long a connection may take to come about: enough for TLS and a log-in with 2 s of delay each way, and short enough
/// that a device is connected within two minutes where a firewall swallows all that is not HTTPS.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// The same once every way was tried in vain: now the network may be slower than all that.
const PATIENCE: Duration = Duration::from_secs(60);
/// From a way that is not the best one, better ones are tried this often.
const CLIMB_EVERY: Duration = Duration::from_secs(15 * 60);
/// The first time after a better one was left.
const AFTER_FALL: Duration = Duration::from_secs(60);
/// A test's other number of seconds for [`CLIMB_EVERY`]; in debug builds only.
#[cfg(debug_assertions)]
const TEST_CLIMB: &str = "R58_FLEET_TEST_CLIMB_SECONDS";

/// What was found out before an attempt.
#[derive(Debug)]
pub(super) struct Asked {
    /// What is remembered, when that was read.
    ways: Option<Ways>,
    /// The server's answer, when it was asked.
    pub(super) endpoints: Option<Result<Endpoints, ConnectError>>,
}

impl Asked {
    /// The device has no token.
    pub(super) fn not_enrolled() -> Self {
        Self { ways: None, endpoints: Some(Err(ConnectError::NotEnrolled)) }
    }
}

/// How far the connection is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing, until then.
    Waiting { until: Duration },
    /// The server is asked where its broker is.
    Asking(JoinHandle<Asked>),
    /// The way is known; the link is yet to be opened.
    Found(Address),
    /// Connecting.
    Linking(Link, Transport),
    /// Connected since then.
    Linked { link: Link, transport: Transport, since: Duration },
}

/// A look at better ways, beside the one in use.
#[derive(Debug)]
pub(super) struct Climbed {
    /// What the server said, if it was asked.
    pub(super) endpoints: Option<Endpoints>,
    /// The best one that is open.
    pub(super) way: Option<Address>,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Happened {
    /// The server has answered, or not.
    Asked(Box<Asked>),
    /// On the link.
    Link(LinkEvent),
    /// Better ways were looked at.
    Climbed(Box<Climbed>),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) stage: Stage,
    backoff: Backoff,
    ladder: Ladder,
    /// What the server said last: good for when it is away but its broker is not.
    known: Endpoints,
    /// When it said so.
    known_at: Option<Duration>,
    /// What is in the file, or is about to be; none as long as it was not read.
    remembered: Option<Arc<Mutex<Ways>>>,
    /// The server has asked to be left alone for so long.
    at_least: Duration,
    /// The way in use or tried last.
    pub(super) tried: Option<Address>,
    /// When better ways are looked at.
    climb_at: Option<Duration>,
    climbing: Option<JoinHandle<Climbed>>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Waiting { until: Duration::ZERO },
            backoff: Backoff::LINK,
            ladder: Ladder::default(),
            known: Endpoints::default(),
            known_at: None,
            remembered: None,
            at_least: Duration::ZERO,
            tried: None,
            climb_at: None,
            climbing: None,
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
            Stage::Linked { .. } if self.climbing.is_none() => self.climb_at,
            _ => None,
        }
    }

    /// What the server said before counts no more.
    pub(super) fn forget(&mut self) {
        self.known = Endpoints::default();
        self.known_at = None;
    }

    /// How long the next connection may take to come about.
    pub(super) fn patience(&self) -> Duration {
        if self.ladder.has_been_around() { PATIENCE } else { FIRST_PATIENCE }
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, config: &Config, now: Duration) {
        self.stop_climbing();
        let asks = config.mqtt_url.is_none() && self.known_at.is_none_or(|at| now >= at + ANSWER_HOLDS);
        let reads = self.remembered.is_none();
        if !asks && !reads {
            // With what is known there is a way.
            let nothing = Asked { ways: None, endpoints: None };
            if self.choose(config, nothing, now).is_ok() {
                return;
            }
        }
        let config = config.clone();
        // It blocks for up to half a minute.
        self.stage = Stage::Asking(tokio::task::spawn_blocking(move || Asked {
            ways: reads.then(|| Ways::load(&config.state_dir)),
            endpoints: asks.then(|| connect::fetch(&config)),
        }));
    }

    /// Takes what was found out, and chooses a way.
    ///
    /// # Errors
    /// There is none that this agent can take; why, and how long to wait at least.
    pub(super) fn choose(
        &mut self,
        config: &Config,
        asked: Asked,
        now: Duration,
    ) -> Result<(), (String, Duration)> {
        if let Some(ways) = asked.ways {
            self.known = ways.endpoints.clone();
            self.ladder.remember(ways.good.clone());
            self.remembered = Some(Arc::new(Mutex::new(ways)));
        }
        self.at_least = Duration::ZERO;
        match asked.endpoints {
            Some(Ok(endpoints)) => {
                self.known = endpoints;
                self.known_at = Some(now);
            }
            Some(Err(error @ ConnectError::NotEnrolled)) => {
                return Err((with_causes(&error), Duration::ZERO));
            }
            Some(Err(error)) => {
                if let ConnectError::Status { retry_after_seconds: Some(seconds), .. } = &error {
                    self.at_least = Duration::from_secs(*seconds).min(LONGEST_RETRY_AFTER);
                }
                tracing::info!("the server does not say where its broker is: {}", with_causes(&error));
            }
            None => {}
        }
        self.ladder.offer(ways(config, &self.known));
        match self.ladder.next() {
            Some(way) => {
                self.stage = Stage::Found(way.clone());
                Ok(())
            }
            None => Err((
                "there is no way to a server that this agent can take: set FLEET_URL, or MQTT_URL to an mqtts://, wss:// or mqtt:// \
                 address"
                    .to_owned(),
                Duration::ZERO,
            )),
        }
    }

    /// The attempt or connection has ended: waits for the next, and says how long.
    pub(super) fn failed(&mut self, now: Duration, random: u64, at_least: Duration) -> Duration {
        self.stop_climbing();
        let at_once = self.ladder.failed();
        if let Stage::Linked { since, .. } = &self.stage
            && now.saturating_sub(*since) >= GOOD_AFTER
        {
            self.backoff.reset();
            self.ladder.lasted();
        }
        let wait = match at_once {
            true => at_least,
            false => self.backoff.next(random).max(at_least).max(self.at_least),
        };
        self.stage = Stage::Waiting { until: now + wait };
        wait
    }

    /// The server has answered over the way that was tried. Gives the last good way before it, if that was another one.
    pub(super) fn works(&mut self, config: &Config, now: Duration, random: u64) -> Option<Address> {
        let way = self.tried.clone()?;
        let before = self.ladder.good().filter(|good| **good != way).cloned();
        self.ladder.works(&way);
        // After a fall it may have been the server that was away, and not the way.
        let wait = match &before {
            Some(good) if self.ladder.above(&way).any(|above| above == good) => AFTER_FALL.min(climb_every()),
            _ => climb_every(),
        };
        // Over the last resort there may be better ones that the server does not name yet.
        let may_rise = self.ladder.above(&way).next().is_some()
            || matches!(way, Address::Exchange(_)) && config.mqtt_url.is_none();
        self.climb_at = may_rise.then(|| now + spread(wait, random));
        self.remember(config.state_dir.clone());
        before
    }

    /// Writes down what is to be remembered, if that has changed; beside everything else, as nothing depends on it.
    fn remember(&self, state_dir: PathBuf) {
        let Some(remembered) = self.remembered.clone() else { return };
        let ways = Ways::new(&self.known, self.ladder.good().cloned());
        if std::mem::replace(&mut *lock(&remembered), ways.clone()) == ways {
            return;
        }
        tokio::task::spawn_blocking(move || {
            // Under the lock, so that the last one to write writes the last one.
            let ways = lock(&remembered);
            if let Err(error) = ways.save(&state_dir) {
                tracing::debug!("{}", with_causes(&error));
            }
        });
    }

    /// Begins to look at better ways, if that is due.
    pub(super) fn look_up(&mut self, config: &Config, now: Duration) {
        let is_linked = matches!(self.stage, Stage::Linked { .. });
        if !is_linked || self.climbing.is_some() || self.climb_at.is_none_or(|at| now < at) {
            return;
        }
        let Some(tried) = self.tried.clone() else { return };
        let (config, known) = (config.clone(), self.known.clone());
        self.climbing = Some(tokio::spawn(climb(config, known, tried)));
    }

    /// Better ways were looked at. True: one is open, and is taken next.
    pub(super) fn climbed(&mut self, config: &Config, climbed: Climbed, now: Duration, random: u64) -> bool {
        self.climbing = None;
        self.climb_at = Some(now + spread(climb_every(), random));
        if let Some(endpoints) = climbed.endpoints {
            self.known = endpoints;
            self.known_at = Some(now);
            self.ladder.offer(ways(config, &self.known));
        }
        let Some(way) = climbed.way else { return false };
        self.ladder.climb(way.clone());
        self.stop_climbing();
        self.stage = Stage::Found(way);
        true
    }

    fn stop_climbing(&mut self) {
        self.climb_at = None;
        if let Some(climbing) = self.climbing.take() {
            climbing.abort();
        }
    }

    /// The next thing that happens. Ends never while there is nothing to wait for.
    pub(super) async fn happened(&mut self) -> Happened {
        match &mut self.stage {
            Stage::Waiting { .. } | Stage::Found(_) => std::future::pending().await,
            Stage::Asking(task) => Happened::Asked(Box::new(match task.await {
                Ok(asked) => asked,
                Err(error) => {
                    let problem = format!("asking it failed: {error}");
                    let error = ConnectError::Answer { server: "the server".to_owned(), problem };
                    Asked { ways: None, endpoints: Some(Err(error)) }
                }
            })),
            Stage::Linking(link, _) => Happened::Link(link.event().await),
            Stage::Linked { link, .. } => tokio::select! {
                biased;
                event = link.event() => Happened::Link(event),
                climbed = outcome(self.climbing.as_mut()) => Happened::Climbed(Box::new(climbed)),
            },
        }
    }
}

/// The ways to the server, the best first.
fn ways(config: &Config, known: &Endpoints) -> Vec<Address> {
    let mut ways: Vec<Address> = match &config.mqtt_url {
        Some(url) => vec![url.clone().into()],
        None => known.in_order().cloned().map(Address::Broker).collect(),
    };
    ways.extend(config.fleet_url.clone().map(Address::Exchange));
    ways
}

/// Looks which of the better ways are open, the best first, after asking the server for them anew.
async fn climb(config: Config, known: Endpoints, from: Address) -> Climbed {
    let asking = config.clone();
    let read = tokio::task::spawn_blocking(move || {
        let asked = asking.mqtt_url.is_none().then(|| connect::fetch(&asking).ok()).flatten();
        let tls = tls::client_config(&asking).or_else(|_| tls::client_config_with(&asking, None));
        (asked, tls.ok())
    });
    let (endpoints, tls) = read.await.unwrap_or_default();
    let mut ladder = Ladder::default();
    ladder.offer(ways(&config, endpoints.as_ref().unwrap_or(&known)));
    for way in ladder.above(&from) {
        let proxy = proxy::for_target(way.scheme(), way.host(), way.port());
        let outcome = match proxy {
            Ok(proxy) => try_way(way, tls.clone(), proxy.as_ref()).await,
            Err(error) => Err(error.to_string()),
        };
        match outcome {
            Ok(()) => return Climbed { endpoints, way: Some(way.clone()) },
            Err(problem) => tracing::info!(%way, "a better way to the server is not open: {problem}"),
        }
    }
    Climbed { endpoints, way: None }
}

async fn outcome(climbing: Option<&mut JoinHandle<Climbed>>) -> Climbed {
    match climbing {
        Some(task) => task.await.unwrap_or(Climbed { endpoints: None, way: None }),
        None => std::future::pending().await,
    }
}

/// Three to five quarters of the time, so that a venue's devices do not go in step.
fn spread(wait: Duration, random: u64) -> Duration {
    // A quarter of an hour in ms fits.
    let span_ms = u64::try_from(wait.as_millis() / 2).unwrap_or(u64::MAX - 1);
    wait * 3 / 4 + Duration::from_millis(random % (span_ms + 1))
}

#[cfg(debug_assertions)]
fn climb_every() -> Duration {
    let wanted = std::env::var(TEST_CLIMB).ok().and_then(|text| text.parse().ok());
    wanted.map_or(CLIMB_EVERY, Duration::from_secs)
}

#[cfg(not(debug_assertions))]
fn climb_every() -> Duration {
    CLIMB_EVERY
}

/// What is remembered is whole at every moment.
fn lock(ways: &Mutex<Ways>) -> std::sync::MutexGuard<'_, Ways> {
    ways.lock().unwrap_or_else(PoisonError::into_inner)
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
