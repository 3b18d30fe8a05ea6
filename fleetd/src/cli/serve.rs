//! `fleetd serve`: opens everything, runs it, and ends it in order.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use broker::tls::{Certificates, TlsError};
use broker::{Broker, BrokerError, Limits, service_manager};
use protocol::topic::OPERATOR_COMMAND_FILTER;
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    app::{AppState, Bound},
    auth::{AuthError, AuthState, mqtt::DatabaseAuthenticator},
    authority::{Authority, AuthorityError, devices::DeviceAuthority},
    clock::Clock,
    config::Config,
    mqtt,
    service::{
        first_start,
        ingest::{Ingest, error_chain},
        revocations,
    },
    store::{DataLock, LockError, Store, StoreError, make_data_dir},
    worker,
};

/// How long tasks may take to end once they were told to.
const STOP_TIME: Duration = Duration::from_secs(15);

/// How often a database that the full disk keeps from being opened is tried again.
const ROOM_EVERY: Duration = Duration::from_secs(2);

/// How long subscribers have to receive the server's goodbye before their connections end.
const GOODBYE_TIME: Duration = Duration::from_millis(300);

/// Why the server does not start, or stops by itself.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the message names
pub(super) enum ServeError {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot open the database")]
    Store(#[from] StoreError),
    #[error("cannot prepare sign-in")]
    Auth(#[from] AuthError),
    #[error(
        "cannot listen on {address} ({variable}): {}",
        if source.kind() == io::ErrorKind::AddrInUse {
            "something else listens there; stop it or set another address"
        } else {
            "set another address"
        }
    )]
    Listen { address: SocketAddr, variable: &'static str, source: io::Error },
    #[error(
        "{0}; `fleetd tls init` makes a certificate and its key, or name yours in FLEET_TLS_CERT and FLEET_TLS_KEY"
    )]
    Tls(#[source] TlsError),
    #[error("cannot prepare the authority that signs certificates for devices")]
    Authority(#[from] AuthorityError),
    #[error("cannot start the MQTT broker")]
    Broker(#[from] BrokerError),
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot make the first account: {0}")]
    AdminRefused(String),
    #[error("cannot make the first account")]
    Admin(#[source] Box<crate::service::Error>),
    #[error("cannot tell the first password, which is in {path}")]
    FirstPassword { path: PathBuf, source: io::Error },
    #[error("the MQTT router has stopped; the server has to be started again")]
    RouterGone,
    #[error("the HTTP server has stopped")]
    HttpGone,
}

/// Where the server listens, as `addresses.json` in the data folder tells it.
#[derive(Debug, Serialize)]
struct Addresses {
    http: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    https: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtts: Option<SocketAddr>,
}

/// Where the server listens.
struct Listeners {
    http: TcpListener,
    mqtt: Option<TcpListener>,
    https: Option<TcpListener>,
    mqtts: Option<TcpListener>,
    /// For the last two.
    certificates: Option<Arc<Certificates>>,
}

impl Listeners {
    fn open(config: &Config) -> Result<Self, ServeError> {
        let maybe =
            |address: Option<SocketAddr>, key| address.map(|address| listen(address, key)).transpose();
        let certificates = match config.https_listen.or(config.mqtts_listen) {
            Some(_) => Some(Certificates::load(&config.tls_cert, &config.tls_key).map_err(ServeError::Tls)?),
            None => None,
        };
        Ok(Self {
            http: listen(config.http_listen, HTTP)?,
            mqtt: maybe(config.mqtt_listen, MQTT)?,
            https: maybe(config.https_listen, HTTPS)?,
            mqtts: maybe(config.mqtts_listen, MQTTS)?,
            certificates,
        })
    }

    fn addresses(&self) -> Result<Addresses, ServeError> {
        let maybe =
            |listener: &Option<TcpListener>, key| listener.as_ref().map(|l| local(l, key)).transpose();
        Ok(Addresses {
            http: local(&self.http, HTTP)?,
            mqtt: maybe(&self.mqtt, MQTT)?,
            https: maybe(&self.https, HTTPS)?,
            mqtts: maybe(&self.mqtts, MQTTS)?,
        })
    }
}

// What an address is set by.
const HTTP: &str = "FLEET_HTTP_LISTEN, http_listen";
const MQTT: &str = "FLEET_MQTT_LISTEN, mqtt_listen";
const HTTPS: &str = "FLEET_HTTPS_LISTEN, https_listen";
const MQTTS: &str = "FLEET_MQTTS_LISTEN, mqtts_listen";

/// Runs the server until it is told to stop (SIGTERM or SIGINT).
pub(super) fn run(config: Config) -> Result<(), ServeError> {
    start_log(&config);
    broker::descriptors::raise_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
    runtime.block_on(serve(config))
}

fn start_log(config: &Config) {
    // The router and the migrations tell every step; what the configuration says of them wins. It has been checked to
    // parse.
    let directives = format!("rumqttd=off,refinery_core=warn,{}", config.log);
    let filter = directives.parse::<Targets>().unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    // The journal has its own times.
    let lines = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => lines.without_time().boxed(),
        None => lines.boxed(),
    };
    // A second call, in tests, changes nothing.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let clock = Clock::system();
    make_data_dir(&config.data_dir)?;
    let lock = DataLock::acquire(&config.data_dir)?;
    let database_lock = lock_database(&config)?;
    let held = database_lock.as_ref().unwrap_or(&lock);
    let store = wait_for_room(|| Store::open(&config.database, Some(held))).await?;
    let auth = AuthState::open(&config, &clock)?;
    let app = Arc::new(AppState::new(store, config, clock, auth));

    if app.config.tls_client_certificates {
        let life = app.config.tls_client_certificate_life;
        let authority = Authority::of(&app.config.data_dir).devices(life, app.clock.now_ms() / 1000)?;
        // For the first time: the state was made above.
        let _ = app.device_authority.set(authority);
    }
    // All before anything starts, so that a taken port leaves nothing half done.
    let listeners = Listeners::open(&app.config)?;
    let addresses = listeners.addresses()?;

    first_account(&app).await?;

    let limits =
        Limits { device_messages_per_second: app.config.device_messages_per_second, ..Limits::default() };
    let broker = Broker::start(limits, Arc::new(DatabaseAuthenticator::new(app.clone())))?;
    app.metrics.add_source("fleet_broker_", mqtt::counters(broker.clone()));
    // The state was made above and nobody else has it yet: both are set here for the first time.
    let _ = app.bound.set(Bound { mqtt: addresses.mqtt, https: addresses.https, mqtts: addresses.mqtts });
    let _ = app.broker.set(broker.clone());
    let running = Running::start(app, broker, listeners).await?;
    match write_addresses(&running.app, &addresses) {
        // Only tools read it. The server answers what it can, and goes on by itself when there is room again.
        Err(ServeError::Write { path, source }) if source.kind() == io::ErrorKind::StorageFull => {
            tracing::error!(path = %path.display(), "the disk is full: the server starts all the same; free some space");
        }
        written => written?,
    }
    let text = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |one| one.to_string());
    let [mqtt, https, mqtts] = [addresses.mqtt, addresses.https, addresses.mqtts].map(text);
    tracing::info!("listening http={} mqtt={mqtt} https={https} mqtts={mqtts}", addresses.http);
    service_manager::tell("READY", "1");

    let ended = running.until_told().await;
    service_manager::tell("STOPPING", "1");
    running.stop().await;
    drop((database_lock, lock));
    ended
}

/// Opens the database. On a full disk that may not work, after a stop in order above all, when SQLite has to make its files
/// anew: then it waits, as the running server does.
async fn wait_for_room<T>(mut open: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let mut told = false;
    loop {
        match open() {
            Err(full @ StoreError::Full { .. }) => {
                if !std::mem::replace(&mut told, true) {
                    let reason = error_chain(&full);
                    tracing::error!(reason, "the server starts when there is room");
                }
                tokio::time::sleep(ROOM_EVERY).await;
            }
            opened => return opened,
        }
    }
}

/// A database outside of the data folder has a lock of its own beside it: two folders must not share it.
fn lock_database(config: &Config) -> Result<Option<DataLock>, LockError> {
    let same = |a: &Path, b: &Path| match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    };
    match config.database.parent() {
        Some(folder) if !same(folder, &config.data_dir) => DataLock::acquire(folder).map(Some),
        _ => Ok(None),
    }
}

/// A new database gets an account, so that somebody can sign in. A password that was made is told once: to whoever started
/// the server at a terminal, else it stays in its file until it is changed. It must not be in a log.
async fn first_account(app: &AppState) -> Result<(), ServeError> {
    let failed = |source: crate::service::Error| match source {
        crate::service::Error::Invalid(_) => ServeError::AdminRefused(source.reason()),
        source => ServeError::Admin(Box::new(source)),
    };
    let (data_dir, now_ms) = (&app.config.data_dir, app.clock.now_ms());
    let made = first_start::first_account(&app.store, data_dir, app.config.admin.as_ref(), now_ms).await;
    let Some(path) = made.map_err(failed)? else { return Ok(()) };
    let terminal = io::stdout();
    if terminal.is_terminal() {
        let told = std::fs::read_to_string(&path).map(zeroize::Zeroizing::new).and_then(|account| {
            let text =
                "The first account was made. This is shown once; choose another password when you sign in.\n";
            let mut out = terminal.lock();
            writeln!(out, "{text}\n{}", account.as_str())?;
            out.flush()
        });
        match told {
            Ok(()) => first_start::forget_password(data_dir),
            Err(source) => return Err(ServeError::FirstPassword { path, source }),
        }
    } else {
        tracing::warn!(path = %path.display(), "the first account was made: its address and password are in this file, which \
             goes when another password was chosen");
    }
    Ok(())
}

fn listen(address: SocketAddr, variable: &'static str) -> Result<TcpListener, ServeError> {
    broker::listen(address).map_err(|source| ServeError::Listen { address, variable, source })
}

fn local(listener: &TcpListener, variable: &'static str) -> Result<SocketAddr, ServeError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    listener.local_addr().map_err(|source| ServeError::Listen { address: unknown, variable, source })
}

/// Written beside and renamed, so that nobody reads half of it.
fn write_addresses(app: &AppState, addresses: &Addresses) -> Result<(), ServeError> {
    let path = app.config.data_dir.join("addresses.json");
    let beside = app.config.data_dir.join("addresses.json.new");
    let failed = |source| ServeError::Write { path: path.clone(), source };
    let json = serde_json::to_vec(addresses).map_err(|error| failed(error.into()))?;
    std::fs::write(&beside, json).and_then(|()| std::fs::rename(&beside, &path)).map_err(failed)
}

/// Everything that runs.
struct Running {
    app: Arc<AppState>,
    broker: Broker,
    publisher: broker::ServicePublisher,
    started_ms: i64,
    stop: watch::Sender<bool>,
    /// Ends last: what devices said is committed and acknowledged until the broker is down.
    ingest: JoinSet<()>,
    stop_ingest: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Has no end of its own.
    watch: JoinSet<()>,
    http_gone: watch::Receiver<bool>,
}

impl Running {
    async fn start(app: Arc<AppState>, broker: Broker, listeners: Listeners) -> Result<Self, ServeError> {
        let (stop, stopped) = watch::channel(false);
        let (stop_ingest, ingest_stopped) = watch::channel(false);
        let started_ms = app.clock.now_ms();

        let (publisher, subscriber) = broker.uplink_link("fleetd")?;
        // For the first time: the state was made for this.
        let _ =
            app.live.set(Arc::new(mqtt::Embedded { broker: broker.clone(), publisher: publisher.clone() }));
        let way_in = Arc::new(Ingest::new(app.store.clone(), app.clock.clone(), app.metrics.clone()));
        let mut ingest = JoinSet::new();
        ingest.spawn(mqtt::ingest::run(
            app.clone(),
            broker.clone(),
            way_in.clone(),
            subscriber,
            publisher.clone(),
            ingest_stopped,
        ));

        let mut watch = JoinSet::new();
        watch.spawn(revocations::watch(app.clone()));
        let mut tasks = JoinSet::new();
        worker::start(&app, &stopped, &mut tasks);
        tasks.spawn(mqtt::views::run(app.clone(), way_in, publisher.clone(), stopped.clone()));
        tasks.spawn(worker::dispatcher::run(app.clone(), publisher.clone(), stopped.clone()));
        let (operators, requests) = broker.service_link("fleetd operators", &[OPERATOR_COMMAND_FILTER])?;
        let refused = broker.refused_retains();
        tasks.spawn(mqtt::operators::run(app.clone(), requests, operators, refused, stopped.clone()));
        tasks.spawn(mqtt::results::run(app.clone(), publisher.clone(), stopped.clone()));
        mqtt::tell_status(&app, &publisher, true, started_ms).await;
        // Listening begins when the way in stands, so that no device talks to nobody.
        let Listeners { http, mqtt, https, mqtts, certificates } = listeners;
        if let Some(listener) = mqtt {
            let broker = broker.clone();
            tasks.spawn(async move { broker.serve(listener).await });
        }
        let (http_ended, http_gone) = watch::channel(false);
        let mut serve_http = |listener, tls| {
            let (state, mut told, ended) = (app.clone(), stopped.clone(), http_ended.clone());
            tasks.spawn(async move {
                let shutdown = async move {
                    let _ = told.wait_for(|stop| *stop).await;
                };
                crate::http::serve(listener, state, tls, shutdown).await;
                ended.send_replace(true);
            });
        };
        serve_http(http, None);
        if let Some(certificates) = certificates {
            let clients = app.device_authority.get().map(DeviceAuthority::certificate);
            if let Some(listener) = https {
                let config =
                    certificates.server_config(Some("http/1.1"), clients).map_err(ServeError::Tls)?;
                serve_http(listener, Some(config));
            }
            if let Some(listener) = mqtts {
                let config = certificates.server_config(None, clients).map_err(ServeError::Tls)?;
                let broker = broker.clone();
                tasks.spawn(async move { broker.serve_tls(listener, config).await });
            }
            watch.spawn(certificates.watch());
        }
        Ok(Self { app, broker, publisher, started_ms, stop, ingest, stop_ingest, tasks, watch, http_gone })
    }

    /// Waits for a signal, or for a part to fail; feeds the watchdog meanwhile.
    async fn until_told(&self) -> Result<(), ServeError> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
        let mut http_gone = self.http_gone.clone();
        let every = service_manager::watchdog_every();
        loop {
            let pause = async {
                match every {
                    Some(every) => tokio::time::sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = self.broker.router_gone() => return Err(ServeError::RouterGone),
                _ = http_gone.wait_for(|gone| *gone) => return Err(ServeError::HttpGone),
                () = pause => if self.broker.healthy() {
                    service_manager::tell("WATCHDOG", "1");
                },
            }
        }
    }

    async fn stop(mut self) {
        tracing::info!("stopping");
        mqtt::tell_status(&self.app, &self.publisher, false, self.started_ms).await;
        tokio::time::sleep(GOODBYE_TIME).await;
        self.watch.abort_all();
        self.stop.send_replace(true);
        self.broker.shutdown().await;
        self.stop_ingest.send_replace(true);
        let ended = async {
            while self.ingest.join_next().await.is_some() {}
            while self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(STOP_TIME, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let store = self.app.store.clone();
        // Blocks for the last commit.
        if tokio::task::spawn_blocking(move || store.close()).await.is_err() {
            tracing::error!("the database could not be closed");
        }
        tracing::info!("stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_that_a_full_disk_keeps_from_being_opened_is_waited_for_and_another_fault_is_told() {
        let full = || StoreError::Full { operation: "open".to_owned(), source: "full".into() };
        let mut answers = vec![Ok(7), Err(full())];
        let opened = wait_for_room(|| answers.pop().unwrap_or_else(|| Err(full()))).await;
        assert!(matches!(opened, Ok(7)), "{opened:?}");
        let busy = || Err::<(), _>(StoreError::Busy { operation: "open".to_owned() });
        assert!(matches!(wait_for_room(busy).await, Err(StoreError::Busy { .. })));
    }
}
