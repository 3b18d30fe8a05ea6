//! `fleet-broker run`: from config to a listening broker, and its signals.

use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use broker::config::Config;
use broker::credentials::authenticator::FileAuthenticator;
use broker::credentials::file;
use broker::service_manager;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{Outcome, with_causes};

/// How long open connections get to end when the broker stops.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);

pub(crate) fn run(config: Config) -> Outcome<()> {
    start_log(&config.log);
    // Before anything listens, so that a wrong file is noticed at once.
    let credentials = file::load(&config.credentials)?;
    broker::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let authenticator = Arc::new(FileAuthenticator::new(credentials, config.plaintext.clone()));
        serve(&config, authenticator).await
    });
    // A password check that still runs must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: &Config, authenticator: Arc<FileAuthenticator>) -> Outcome<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = broker::listen(config.listen).map_err(|error| explain_bind(config.listen, error))?;
    let address = listener.local_addr()?;
    let broker = Broker::start(config.limits.clone(), Arc::clone(&authenticator) as _)?;
    let accepting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.serve(listener).await }
    });
    info!(%address, "listening");
    if config.plaintext.allow_all {
        warn!(
            "passwords and tokens are taken over unencrypted connections from everywhere (allow_plaintext)"
        );
    }
    service_manager::tell("READY", "1");
    let watchdog_every = service_manager::watchdog_every();
    loop {
        let pause = async {
            match watchdog_every {
                Some(every) => tokio::time::sleep(every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Only here: a loop that hangs must not feed it.
            () = pause => if broker.healthy() {
                service_manager::tell("WATCHDOG", "1");
            },
            _ = hangup.recv() => reload(config, &authenticator, &broker),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = broker.router_gone() => {
                return Err("the router has stopped unexpectedly; restart the broker, and report its last log lines".into());
            }
        }
    }
    service_manager::tell("STOPPING", "1");
    info!("stopping");
    if tokio::time::timeout(SHUTDOWN_TIME, broker.shutdown()).await.is_err() {
        warn!("some connections did not end in time");
    }
    accepting.abort();
    info!("stopped");
    Ok(())
}

/// Reads the credentials file again. A bad one changes nothing.
fn reload(config: &Config, authenticator: &FileAuthenticator, broker: &Broker) {
    let new = match file::load(&config.credentials) {
        Ok(new) => new,
        Err(problem) => {
            error!("the old credentials stay in force: {}", with_causes(&problem));
            return;
        }
    };
    let (devices, people, services) = new.counts();
    let outdated = authenticator.replace(new);
    let ended: usize = outdated.iter().map(|key| broker.end_connections(key)).sum();
    info!(devices, people, services, changed = outdated.len(), ended, "credentials read again");
}

fn explain_bind(address: SocketAddr, error: std::io::Error) -> String {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there; stop it, or set `listen` in the config or FLEET_MQTT_LISTEN to another port"
        }
        ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges; take a higher one, or start as a system service"
        }
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; set `listen` or FLEET_MQTT_LISTEN to one of its own, or 0.0.0.0"
        }
        _ => "set `listen` in the config or FLEET_MQTT_LISTEN to an address and port of this machine",
    };
    format!("cannot listen on {address}: {error}; {hint}")
}

/// To standard error, where journald picks it up; with colours only for a person.
fn start_log(filter: &str) {
    // The filter was checked with the config. The router's own lines cost time for every message and say nothing new;
    // a directive in the config that names them wins.
    let filter = format!("rumqttd=off,{filter}").parse::<Targets>().unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}
