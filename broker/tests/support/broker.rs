//! The broker under test, with a file of accounts. Everybody's secret is their name with `-secret` after it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

use ::broker::credentials::authenticator::FileAuthenticator;
use ::broker::credentials::{Credentials, Sha256Hash};
use ::broker::plaintext::PlaintextPolicy;
use ::broker::{Broker, Limits, PrincipalKey};
use protocol::id::{DeviceId, OrgSlug, UserName};
use tokio::runtime::Runtime;

use super::client::Client;
use super::wire::{BOTH, Connect, Publish, Version};

/// Devices `cam-1` to `cam-60` of `acme`, `cam-1` of `other`.
const DEVICES: usize = 60;

/// `user`, organisation, role.
const PEOPLE: [(&str, &str, &str); 4] = [
    ("vera", "acme", "viewer"),
    ("otto", "acme", "operator"),
    ("ada", "acme", "admin"),
    ("olga", "other", "admin"),
];

/// What the threads of a broker under test are called, so that their panics can be told from the test's own.
const THREADS: &str = "broker-under-test";

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A broker on a port of its own. When it goes, it must not have panicked in any task, nor its router thread.
pub struct TestBroker {
    pub address: SocketAddr,
    pub broker: Broker,
    pub authenticator: Arc<FileAuthenticator>,
    runtime: Option<Runtime>,
}

impl TestBroker {
    /// With the default limits.
    pub fn start() -> TestBroker {
        TestBroker::with(|_| {})
    }

    /// With changed limits.
    pub fn with(change: impl FnOnce(&mut Limits)) -> TestBroker {
        count_panics();
        let mut limits = Limits::default();
        change(&mut limits);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREADS)
            .enable_all()
            .build()
            .unwrap();
        let authenticator = Arc::new(FileAuthenticator::new(accounts(""), PlaintextPolicy::default()));
        let (broker, address) = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let broker = Broker::start(limits, Arc::clone(&authenticator) as _).unwrap();
            let accepting = broker.clone();
            tokio::spawn(async move { accepting.serve(listener).await });
            (broker, address)
        });
        TestBroker { address, broker, authenticator, runtime: Some(runtime) }
    }

    /// Runs a future on the broker's runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    /// A device of `acme`, or `other/cam-1`.
    pub fn device(&self, version: Version, name: &str) -> Client {
        Client::connect(self.address, &device(version, name))
    }

    /// A person by name; the client id is the name with the version.
    pub fn person(&self, version: Version, name: &str) -> Client {
        Client::connect(self.address, &person(version, name))
    }

    /// The service `fleetd` over the network: it may publish everything.
    pub fn service(&self, version: Version) -> Client {
        Client::connect(self.address, &service(version))
    }

    /// Asserts that the broker still does its work for others: a device's heartbeat reaches a viewer, a command reaches
    /// the device.
    pub fn assert_serves_others(&self) {
        for version in BOTH {
            let mut viewer =
                Client::connect(self.address, &login(version, "probe-viewer", "acme/vera", "vera"));
            let mut service =
                Client::connect(self.address, &login(version, "probe-service", "fleetd", "fleetd"));
            let mut camera = self.device(version, "cam-60");
            assert!(viewer.subscribe(&["fleet/v1/acme/device/+/heartbeat"], 1)[0] <= 1);
            assert!(camera.subscribe(&["fleet/v1/acme/device/cam-60/command"], 1)[0] <= 1);
            assert_eq!(camera.publish(Publish::new(up("cam-60", "heartbeat"), "alive").qos(1, 0)), 0);
            assert_eq!(viewer.message().payload, b"alive");
            assert_eq!(service.publish(Publish::new(up("cam-60", "command"), "go").qos(1, 0)), 0);
            assert_eq!(camera.message().payload, b"go");
            camera.disconnect();
            viewer.disconnect();
            service.disconnect();
        }
        assert!(self.broker.healthy(), "the router thread is gone");
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if !std::thread::panicking() {
            assert_eq!(panics(), 0, "a task or the router thread panicked; its message is above");
        }
    }
}

/// How many panics there were in threads of brokers under test, and in router threads.
pub fn panics() -> usize {
    PANICS.load(Ordering::SeqCst)
}

/// Counts panics of the broker's threads, from the first call on.
pub fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            if name.starts_with(THREADS) || name.starts_with("router") {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(info);
        }));
    });
}

/// The topic of a device of `acme`.
pub fn up(device: &str, leaf: &str) -> String {
    format!("fleet/v1/acme/device/{device}/{leaf}")
}

fn login(version: Version, client_id: &str, username: &str, name: &str) -> Connect {
    Connect::new(version, client_id).login(username, &format!("{name}-secret"))
}

/// A device's CONNECT, as an agent sends it.
pub fn device(version: Version, name: &str) -> Connect {
    let (org, name) = name.split_once('/').unwrap_or(("acme", name));
    let id = format!("{org}/{name}");
    login(version, &id, &id, name)
}

/// A person's CONNECT.
pub fn person(version: Version, name: &str) -> Connect {
    let (_, org, _) = PEOPLE.iter().find(|(user, ..)| *user == name).unwrap();
    login(version, &format!("{name}-{version:?}"), &format!("{org}/{name}"), name)
}

/// The service's CONNECT.
pub fn service(version: Version) -> Connect {
    login(version, &format!("fleetd-{version:?}"), "fleetd", "fleetd")
}

/// The key of a device of `acme`.
pub fn device_key(name: &str) -> PrincipalKey {
    PrincipalKey::Device { org: OrgSlug::new("acme").unwrap(), device: DeviceId::new(name).unwrap() }
}

/// The key of a person of `acme`.
pub fn person_key(name: &str) -> PrincipalKey {
    PrincipalKey::Person { org: OrgSlug::new("acme").unwrap(), user: UserName::new(name).unwrap() }
}

/// Every account but `without`.
pub fn accounts(without: &str) -> Credentials {
    Credentials::parse(Path::new("accounts.toml"), &accounts_text(without)).unwrap()
}

/// The credentials file of [`accounts`].
pub fn accounts_text(without: &str) -> String {
    let hash = |name: &str| Sha256Hash::of(format!("{name}-secret").as_bytes()).to_string();
    let mut text = String::new();
    let devices =
        (1..=DEVICES).map(|number| ("acme", format!("cam-{number}"))).chain([("other", "cam-1".to_owned())]);
    for (org, id) in devices.filter(|(_, id)| id != without) {
        writeln!(text, "[[device]]\norg = \"{org}\"\nid = \"{id}\"\ntoken_sha256 = \"{}\"", hash(&id))
            .unwrap();
    }
    for (user, org, role) in PEOPLE.iter().filter(|(user, ..)| *user != without) {
        let key = hash(user);
        writeln!(
            text,
            "[[person]]\norg = \"{org}\"\nuser = \"{user}\"\nrole = \"{role}\"\napi_key_sha256 = \"{key}\""
        )
        .unwrap();
    }
    writeln!(text, "[[service]]\nname = \"fleetd\"\nsecret_sha256 = \"{}\"", hash("fleetd")).unwrap();
    text
}
