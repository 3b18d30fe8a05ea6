//! What every request, message and worker shares.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use broker::PrincipalKey;
use protocol::id::{DeviceId, OrgSlug, UserName};
use tokio::sync::Notify;

use crate::{
    auth::{AuthState, mqtt::LiveConnections},
    authority::devices::DeviceAuthority,
    clock::Clock,
    config::Config,
    metrics::Metrics,
    service::exchange::Exchanges,
    store::Store,
};

/// Where the server listens, beside plain HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bound {
    /// Plain MQTT.
    pub mqtt: Option<SocketAddr>,
    /// HTTPS.
    pub https: Option<SocketAddr>,
    /// MQTT over TLS.
    pub mqtts: Option<SocketAddr>,
}

/// The running server's parts; handlers get it as `Arc<AppState>`.
pub struct AppState {
    /// The database.
    pub store: Store,
    /// The checked configuration.
    pub config: Config,
    /// Wall time.
    pub clock: Clock,
    /// Wakes workers before their timer does.
    pub nudges: Nudges,
    /// Signs people in, checks tokens, counts failures.
    pub auth: AuthState,
    /// Names this process among those that use the database.
    pub instance: String,
    /// The broker's connections; set once it runs, as it needs this state to check who connects.
    pub live: OnceLock<Arc<dyn LiveConnections>>,
    /// The broker, for MQTT over WebSocket; set once it runs.
    pub broker: OnceLock<broker::Broker>,
    /// The devices that are connected by HTTP exchange.
    pub exchanges: Exchanges,
    /// Where the server really listens; set once it does (a configured port may be 0).
    pub bound: OnceLock<Bound>,
    /// Signs certificates for devices, where the server does; set before it listens.
    pub device_authority: OnceLock<DeviceAuthority>,
    /// Counters for `/metrics`.
    pub metrics: Metrics,
    /// Devices whose view is to be written anew.
    pub views: Marks,
    /// Devices with commands, a birth or a desired state that the dispatcher should look at now.
    pub dispatch: Marks,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AppState {
    /// The parts, before the broker runs.
    #[must_use]
    pub fn new(store: Store, config: Config, clock: Clock, auth: AuthState) -> Self {
        let nudges = Nudges::default();
        let views = Marks::new(Worker::Views, &nudges);
        let dispatch = Marks::new(Worker::Dispatcher, &nudges);
        Self {
            store,
            config,
            clock,
            nudges,
            auth,
            instance: uuid::Uuid::new_v4().to_string(),
            live: OnceLock::new(),
            broker: OnceLock::new(),
            exchanges: Exchanges::default(),
            bound: OnceLock::new(),
            device_authority: OnceLock::new(),
            metrics: Metrics::default(),
            views,
            dispatch,
        }
    }

    /// Ends the live connections of a device: its token has died, or it was decommissioned.
    pub fn end_device(&self, org: &OrgSlug, device: &DeviceId) {
        self.end(&PrincipalKey::Device { org: org.clone(), device: device.clone() });
    }

    /// Ends the live connections of a person.
    pub fn end_person(&self, org: &OrgSlug, user: &UserName) {
        self.end(&PrincipalKey::Person { org: org.clone(), user: user.clone() });
    }

    /// Ends those live connections of a person that were made with one API key.
    pub fn end_key(&self, org: &OrgSlug, user: &UserName, key: &str) {
        self.end_with(&PrincipalKey::Person { org: org.clone(), user: user.clone() }, key);
    }

    /// Ends those live connections of a device that were made with the certificate of this serial number.
    pub fn end_certificate(&self, org: &OrgSlug, device: &DeviceId, serial: &str) {
        self.end_with(&PrincipalKey::Device { org: org.clone(), device: device.clone() }, serial);
    }

    fn end_with(&self, who: &PrincipalKey, credential: &str) {
        if let Some(live) = self.live.get() {
            let ended = live.end_with(who, credential);
            tracing::info!(%who, ended, "ended the live connections made with an API key or a certificate");
        }
    }

    fn end(&self, who: &PrincipalKey) {
        if let Some(live) = self.live.get() {
            let ended = live.end(who);
            tracing::info!(%who, ended, "ended live connections");
        }
    }
}

/// The devices that a worker should see to now.
#[derive(Debug)]
pub struct Marks {
    worker: Worker,
    nudges: Nudges,
    marked: Mutex<BTreeSet<String>>,
}

impl Marks {
    fn new(worker: Worker, nudges: &Nudges) -> Self {
        Self { worker, nudges: nudges.clone(), marked: Mutex::default() }
    }

    /// Marks a device (its row id) and wakes the worker.
    pub fn mark(&self, device_id: &str) {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner).insert(device_id.to_owned());
        self.nudges.nudge(self.worker);
    }

    /// Takes what is marked.
    #[must_use]
    pub fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.marked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A worker that can be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worker {
    /// Turns silent devices offline.
    HeartbeatMonitor,
    /// Drops what is past its retention.
    Retention,
    /// Computes the roll-ups.
    MetricsAggregator,
    /// Rewrites `view/{device}` of the devices that changed.
    Views,
    /// Sends devices their commands and desired state.
    Dispatcher,
    /// Tells operators what became of their commands.
    Results,
    /// Gives up what was handed out to devices that poll and never came to an end.
    HttpCommands,
    /// Keeps what is desired of devices as tags, locks and descriptions say.
    Desired,
    /// Renews the server's own certificate.
    Certificates,
}

impl Worker {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::HeartbeatMonitor,
        Self::Retention,
        Self::MetricsAggregator,
        Self::Views,
        Self::Dispatcher,
        Self::Results,
        Self::HttpCommands,
        Self::Desired,
        Self::Certificates,
    ];

    /// The name in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HeartbeatMonitor => "heartbeat_monitor",
            Self::Retention => "retention",
            Self::MetricsAggregator => "metrics_aggregator",
            Self::Views => "views",
            Self::Dispatcher => "dispatcher",
            Self::Results => "results",
            Self::HttpCommands => "http_commands",
            Self::Desired => "desired",
            Self::Certificates => "certificates",
        }
    }
}

/// One wake-up call for each worker. A nudge given while the worker runs makes it run once more.
#[derive(Clone, Debug)]
pub struct Nudges {
    calls: Arc<BTreeMap<Worker, Notify>>,
}

impl Default for Nudges {
    fn default() -> Self {
        Self { calls: Arc::new(Worker::ALL.into_iter().map(|worker| (worker, Notify::new())).collect()) }
    }
}

impl Nudges {
    /// Wakes a worker.
    pub fn nudge(&self, worker: Worker) {
        if let Some(call) = self.calls.get(&worker) {
            call.notify_one();
        }
    }

    /// Waits for the next nudge of a worker.
    pub async fn nudged(&self, worker: Worker) {
        match self.calls.get(&worker) {
            Some(call) => call.notified().await,
            None => std::future::pending().await,
        }
    }
}
