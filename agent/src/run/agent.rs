//! The event loop's state, and what happens on each event.

use std::time::Duration;

use tokio::time::Instant;

use super::certificate::Certificates;
use super::effects::{Done, Effects};
use super::means::{Means, MeansError};
use super::probe::{Probe, Seen};
use super::report::Reporter;
use super::rotation::{Trial, Turn};
use super::session::{Asked, Climbed, Happened, Session, Stage, with_causes};
use super::store::{Folder, StoreError};
use super::{RunError, Stop};
use crate::app_status::AppStatus;
use crate::command::Commands;
use crate::command::clock::TrustedClock;
use crate::config::Config;
use crate::connect::ConnectError;
use crate::kernel::Kernel;
use crate::link::{Link, LinkError, LinkEvent, LinkSettings, Tag};
use crate::lock::LockError;
use crate::service_manager::ServiceManager;
use crate::status::StatusFile;

/// CPU use is measured over the time before a heartbeat; the first one waits for a little of it.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(1);
/// A look at the machine that is overdue by this hangs, on a disk most likely.
const HANGS_AFTER: Duration = Duration::from_secs(6);
/// How long a goodbye may take; systemd waits longer.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) kernel: Kernel,
    pub(super) service: ServiceManager,
    pub(super) reporter: Reporter,
    pub(super) folder: Folder,
    pub(super) session: Session,
    /// Whether the server has answered on this connection.
    pub(super) answered: bool,
    pub(super) app: Option<AppStatus>,
    pub(super) commands: Commands,
    pub(super) effects: Effects,
    /// What time it really is.
    pub(super) clock: TrustedClock,
    /// When an effect, or what belongs to one, was heard of last.
    pub(super) last_done: Duration,
    /// After a change of a command that could not be committed: not before then.
    pub(super) commands_retry_at: Duration,
    /// While a command waits for the application.
    pub(super) next_look: Duration,
    /// What the server wants and could not be stored, and when to try again.
    pub(super) desired_again: Option<(Duration, Vec<u8>)>,
    /// The question whose answer a command waits for, right before its effect.
    pub(super) fresh_look: Option<u64>,
    /// A change of the device's token that is under way.
    pub(super) rotation: Option<Turn>,
    /// Which of the device's tokens is tried.
    pub(super) token_trial: Trial,
    pub(super) certificates: Certificates,
    pub(super) probe: Probe,
    pub(super) origin: Instant,
    /// When the next measurements are expected, and a heartbeat with them.
    pub(super) next_heartbeat: Duration,
    /// Whether the last heartbeat had to go without measurements.
    pub(super) metrics_hang: bool,
    /// What kept the last record from being kept, so that the log says it once.
    trouble: Option<String>,
    /// Server's clock minus ours, milliseconds, when it last said so.
    pub(super) clock_offset_ms: Option<i64>,
}

enum Happening {
    Session(Happened),
    Seen(Seen),
    Done(Done),
    Time,
    Stop,
}

impl Agent {
    /// Sets everything up and makes a first attempt at the state folder.
    pub(super) async fn start(
        config: Config,
        kernel: Kernel,
        service: ServiceManager,
    ) -> Result<Self, RunError> {
        let probe = Probe::start(&config, &kernel)
            .map_err(|source| RunError::System { operation: "start a thread", source })?;
        let mut agent = Self {
            reporter: Reporter::new(StatusFile::new(&config), kernel.wall_ms()),
            certificates: Certificates::new(&config),
            config,
            kernel,
            service,
            folder: Folder::new(),
            session: Session::new(),
            answered: false,
            app: None,
            commands: Commands::default(),
            effects: Effects::new(),
            clock: TrustedClock::default(),
            last_done: Duration::ZERO,
            commands_retry_at: Duration::ZERO,
            next_look: Duration::ZERO,
            desired_again: None,
            fresh_look: None,
            rotation: None,
            token_trial: Trial::Configured,
            probe,
            origin: Instant::now(),
            next_heartbeat: FIRST_HEARTBEAT,
            metrics_hang: false,
            trouble: None,
            clock_offset_ms: None,
        };
        agent.probe.look_at_machine_every(agent.interval(), FIRST_HEARTBEAT);
        crate::service_manager::set_debug(agent.config.debug);
        crate::service_manager::set_device_id(agent.config.device_id.as_str());
        tracing::info!(
            org = %agent.config.org,
            device = %agent.config.device_id,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        match agent.open_folder().await {
            Err(StoreError::Lock(held @ LockError::Held { .. })) => Err(held.into()),
            _ => Ok(agent),
        }
    }

    /// Runs the event loop.
    pub(super) async fn turn_until(&mut self, stop: &mut Stop) {
        loop {
            self.do_what_is_due().await;
            // Only from here: a loop that hangs must not feed it.
            self.service.watchdog(self.now());
            let wake = self.origin + self.wake_at();
            let listens = !self.is_crowded();
            let happening = tokio::select! {
                () = stop.asked() => Happening::Stop,
                happened = self.session.happened(), if listens => Happening::Session(happened),
                seen = self.probe.seen() => Happening::Seen(seen),
                done = self.effects.done() => Happening::Done(done),
                () = tokio::time::sleep_until(wake) => Happening::Time,
            };
            match happening {
                Happening::Stop => return,
                Happening::Time => {}
                Happening::Session(Happened::Asked(asked)) => self.asked(*asked),
                Happening::Session(Happened::Climbed(climbed)) => self.climbed(*climbed),
                Happening::Session(Happened::Link(event)) => self.link_event(event).await,
                Happening::Seen(Seen::Machine(metrics)) => self.measured(&metrics).await,
                Happening::Seen(Seen::App(app, answers)) => self.app_seen(*app, answers).await,
                Happening::Done(done) => self.effect_done(done).await,
            }
        }
    }

    /// Says goodbye and closes everything.
    pub(super) async fn stop(mut self) {
        tracing::info!("stopping");
        self.hang_up().await;
        if let Some(store) = self.folder.store.take() {
            store.close();
        }
        self.reporter.file().remove();
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.heartbeat_interval_seconds))
    }

    fn wake_at(&self) -> Duration {
        let store = self.folder.store.as_ref();
        let uplink = store.and_then(|store| store.uplink.wake_at());
        let folder = store.is_none().then_some(self.folder.retry_at);
        // Without a state there is nothing to connect with.
        let session = store.and_then(|_| self.session.wake_at());
        let watchdog = self.service.watchdog_at();
        let due = [
            uplink,
            folder,
            session,
            watchdog,
            self.commands_at(),
            self.rotation_at(),
            self.desired_again.as_ref().map(|(at, _)| *at),
        ]
        .into_iter()
        .flatten();
        due.chain([self.next_heartbeat + HANGS_AFTER, self.report_at()]).min().unwrap_or(Duration::ZERO)
    }

    async fn do_what_is_due(&mut self) {
        let now = self.now();
        if self.folder.store.is_none() && now >= self.folder.retry_at {
            // What went wrong has been reported.
            let _ = self.open_folder().await;
        }
        if now >= self.next_heartbeat + HANGS_AFTER {
            self.next_heartbeat = now + self.interval();
            self.metrics_are_missing().await;
        }
        if self.folder.store.is_some() {
            self.turn_token_trial().await;
            self.connect(now).await;
            // First this: it may find out that the state, and with it the journal, is an older copy.
            self.send().await;
            if let Some((_, payload)) = self.desired_again.take_if(|(at, _)| now >= *at) {
                self.desired(&payload).await;
            }
            self.turn_commands().await;
            self.turn_rotation().await;
            self.turn_certificate().await;
            self.send().await;
        }
        self.report(self.now());
    }

    async fn open_folder(&mut self) -> Result<(), StoreError> {
        let status_file = self.reporter.file().path().to_owned();
        let opened = self.folder.open(&self.config.state_dir, &status_file, self.kernel.wall_ms()).await;
        match &opened {
            Ok(()) => {
                self.trouble_is_over();
                let store = self.folder.store.as_mut();
                if let Some(repair) = store.and_then(|store| store.repair.take()) {
                    self.reporter.damage(repair.to_string(), self.kernel.wall_ms());
                }
                let open = self.folder.store.as_mut().map(|store| std::mem::take(&mut store.open_commands));
                self.commands.load(open.unwrap_or_default());
                self.find_rotation().await;
            }
            Err(error) => {
                self.note_trouble(error);
                self.folder.failed(self.now(), random());
            }
        }
        opened
    }

    /// Goes on with connecting, as far as that is possible without waiting.
    async fn connect(&mut self, now: Duration) {
        self.session.look_up(&self.config, now);
        if matches!(self.session.stage, Stage::Waiting { until } if now >= until) {
            self.session.begin(&self.config_to_ask_with(), now);
        }
        if let Stage::Found(to) = &self.session.stage {
            let to = to.clone();
            if !self.config.is_enrolled() {
                return self.asked(Asked::not_enrolled());
            }
            let shown = self.choose_credential(&to);
            let token = self.config.device_token.clone().filter(|_| self.sends_token());
            let Some(store) = &mut self.folder.store else { return };
            if let Err(error) = store.next_connection().await {
                return self.store_failed(&error);
            }
            let identity = store.identity();
            let will = match identity.presence(false) {
                Ok(will) => will,
                Err(error) => return self.connection_failed(with_causes(&error), Duration::ZERO),
            };
            self.session.tried = Some(to.clone());
            let means = match Means::find(&self.config_to_ask_with(), &to, shown).await {
                Ok(means) => means,
                Err(MeansError { problem, of_tls }) => {
                    if of_tls {
                        self.certificate_is_unusable();
                    }
                    return self.connection_failed(problem, Duration::ZERO);
                }
            };
            let settings = LinkSettings {
                to,
                org: self.config.org.clone(),
                device: self.config.device_id.clone(),
                token,
                connection: identity.connection,
                will,
                tls: means.tls,
                proxy: means.proxy,
                http: means.http,
                patience: self.session.patience(),
            };
            match Link::open(settings) {
                Ok((link, transport)) => self.session.stage = Stage::Linking(link, transport),
                Err(error) => self.link_down(&error),
            }
        }
    }

    fn asked(&mut self, asked: Asked) {
        if let Some(answer) = &asked.endpoints {
            self.certificate_hears_of_server(answer.as_ref().map(|endpoints| endpoints.client_certificates));
        }
        match &asked.endpoints {
            Some(Err(error)) => {
                self.rotation_hears_of_server(error);
                if matches!(error, ConnectError::NotEnrolled) {
                    self.session.forget();
                    self.read_config_again();
                }
            }
            Some(Ok(endpoints)) => self.server_time(endpoints.server_time_ms),
            None => {}
        }
        let now = self.now();
        if let Err((problem, at_least)) = self.session.choose(&self.config, asked, now) {
            self.connection_failed(problem, at_least);
        }
    }

    /// Better ways to the server were looked at.
    fn climbed(&mut self, climbed: Climbed) {
        if let Some(endpoints) = &climbed.endpoints {
            self.certificate_hears_of_server(Ok(endpoints.client_certificates));
        }
        let now = self.now();
        let way = climbed.way.clone();
        // Its connection ends with that.
        if self.session.climbed(&self.config, climbed, now, random()) {
            let way = way.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(way, "a better way to the server is open: taking it");
            self.answered = false;
            if let Some(store) = &mut self.folder.store {
                store.uplink.disconnected();
            }
        }
    }

    async fn link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up => self.link_up(),
            LinkEvent::Receipt(Tag::Packet(id)) => {
                let now = self.now();
                if let Some(store) = &mut self.folder.store {
                    store.uplink.receipt(id, now);
                }
            }
            LinkEvent::Receipt(Tag::Presence) => {}
            LinkEvent::Message { topic, payload, retained } => self.message(topic, &payload, retained).await,
            LinkEvent::Down(error) => self.link_down(&error),
        }
    }

    fn link_up(&mut self) {
        let since = self.now();
        let stage = std::mem::replace(&mut self.session.stage, Stage::Waiting { until: since });
        if let Stage::Linking(link, transport) = stage {
            self.session.stage = Stage::Linked { link, transport, since };
            if let Some(store) = &mut self.folder.store {
                store.uplink.connected();
            }
        }
    }

    fn link_down(&mut self, error: &LinkError) {
        if self.sends_token() {
            self.rotation_hears_of_link(error);
        }
        let another_way = self.certificate_hears_of_link(error);
        if let Some(store) = &mut self.folder.store {
            store.uplink.disconnected();
        }
        if another_way {
            // At once, and there: it is not the address that is wrong.
            self.answered = false;
            self.session.stage = Stage::Waiting { until: self.now() };
            let problem = with_causes(error);
            tracing::warn!("{problem}; trying another credential");
            return self.reporter.error(problem, self.kernel.wall_ms());
        }
        self.connection_failed(with_causes(error), Duration::ZERO);
    }

    pub(super) fn connection_failed(&mut self, problem: String, at_least: Duration) {
        self.answered = false;
        let wait = self.session.failed(self.now(), random(), at_least);
        tracing::warn!(retry_in_seconds = wait.as_secs(), "{problem}");
        self.reporter.error(problem, self.kernel.wall_ms());
    }

    /// Ends the connection in order, if there is one.
    pub(super) async fn hang_up(&mut self) {
        let until = self.now();
        let stage = std::mem::replace(&mut self.session.stage, Stage::Waiting { until });
        self.answered = false;
        let Some(store) = &mut self.folder.store else { return };
        store.uplink.disconnected();
        if let (Stage::Linked { link, .. }, Ok(presence)) = (stage, store.identity().presence(false)) {
            link.close(presence, FAREWELL).await;
        }
    }

    /// Notes how an attempt to keep something went.
    pub(super) fn kept(&mut self, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => {
                self.folder.works();
                self.trouble_is_over();
            }
            Err(error) => self.store_failed(&error),
        }
    }

    pub(super) fn store_failed(&mut self, error: &StoreError) {
        self.note_trouble(error);
        if error.is_fatal() {
            // Nobody knows what the database holds: it must be opened and checked again, and the server asked.
            self.folder.failed(self.now(), random());
            self.answered = false;
            self.session.stage = Stage::Waiting { until: Duration::ZERO };
        }
    }

    fn note_trouble(&mut self, error: &StoreError) {
        let text = with_causes(error);
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!("{text}");
            self.reporter.error(text.clone(), self.kernel.wall_ms());
            self.trouble = Some(text);
        }
    }

    fn trouble_is_over(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("records are kept again");
        }
    }
}

/// Any number: for spreading attempts in time.
pub(super) fn random() -> u64 {
    // Without random numbers the spread is lost, nothing else.
    getrandom::u64().unwrap_or(0)
}
