//! A real server on a free port of 127.0.0.1 with a real database in a temporary folder, and a client, whose every request and answer
//! is held to the OpenAPI document.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

pub mod cli;
pub mod contract;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::PrincipalKey;
use fleetd::app::AppState;
use fleetd::auth::AuthState;
use fleetd::auth::mqtt::LiveConnections;
use fleetd::authority::Authority;
use fleetd::clock::Clock;
use fleetd::config::{Config, Secret};
use fleetd::service::accounts::{self, KeyTerms, NewUser};
use fleetd::service::ingest::DeviceName;
use fleetd::store::Store;
use protocol::id::{DeviceId, OrgSlug, Role, StateId};
use protocol::message::DeviceAction;
use serde_json::Value;

/// The password of every account.
pub const PASSWORD: &str = "correct horse battery";

/// Connections that only remember who was ended: what the HTTP side asks of the broker.
#[derive(Default)]
pub struct Ended(pub Mutex<Vec<String>>);

impl LiveConnections for Ended {
    fn end(&self, who: &PrincipalKey) -> usize {
        self.0.lock().unwrap().push(who.to_string());
        1
    }
    fn end_with(&self, who: &PrincipalKey, key: &str) -> usize {
        self.0.lock().unwrap().push(format!("{who} with {key}"));
        1
    }
    fn device_connected(&self, _: &OrgSlug, _: &DeviceId) -> bool {
        false
    }
    fn tell<'a>(
        &'a self,
        _: &'a DeviceName,
        _: StateId,
        _: DeviceAction,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
    fn healthy(&self) -> bool {
        true
    }
}

/// What a device asks a certificate with, for a new key.
pub fn certificate_request() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

/// A running server.
pub struct Server {
    pub url: String,
    pub address: SocketAddr,
    pub app: Arc<AppState>,
    pub ended: Arc<Ended>,
    pub runtime: tokio::runtime::Runtime,
    pub folder: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    tokens: Mutex<BTreeMap<String, String>>,
}

impl Server {
    /// Starts one with the default configuration.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts one with a changed configuration.
    pub fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let server = Self::begin(change);
        assert!(server.app.live.set(server.ended.clone()).is_ok());
        server
    }

    /// Starts one to which the test gives a real broker.
    pub fn start_without_broker() -> Self {
        Self::begin(|_| {})
    }

    fn begin(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().to_owned());
        config.tls_client_certificates = true;
        change(&mut config);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock = Clock::system();
        let store = Store::open(&config.database, None).unwrap();
        let auth = AuthState::open(&config, &clock).unwrap();
        let app = Arc::new(AppState::new(store, config, clock, auth));
        if app.config.tls_client_certificates {
            let life = app.config.tls_client_certificate_life;
            let devices = Authority::of(folder.path()).devices(life, app.clock.now_ms() / 1000).unwrap();
            assert!(app.device_authority.set(devices).is_ok());
        }
        let ended = Arc::new(Ended::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        runtime.spawn(fleetd::http::serve(listener, app.clone(), None, async {
            let _ = stopped.await;
        }));
        runtime.spawn(fleetd::service::revocations::watch(app.clone()));
        let (url, tokens) = (format!("http://{address}"), Mutex::default());
        Self { url, address, app, ended, runtime, folder, stop: Some(stop), tokens }
    }

    /// Adds a person `{name}@example.org` to an organisation, which is made if it is not there.
    pub fn person(&self, org: &str, name: &str, role: Role) {
        self.add(org, name, role, false);
    }

    /// Adds an admin of an organisation who owns all of them.
    pub fn superadmin(&self, org: &str, name: &str) {
        self.add(org, name, Role::Admin, true);
    }

    fn add(&self, org: &str, name: &str, role: Role, is_superadmin: bool) {
        let slug = OrgSlug::new(org).unwrap();
        let now_ms = self.app.clock.now_ms();
        self.runtime.block_on(async {
            if accounts::find_org(&self.app.store, &slug).await.is_err() {
                accounts::add_org(&self.app.store, slug.clone(), org, now_ms).await.unwrap();
            }
            let new = NewUser {
                org: slug,
                email: format!("{name}@example.org").parse().unwrap(),
                username: None,
                name: name.to_owned(),
                role,
                is_superadmin,
                must_change_password: false,
            };
            accounts::add_user(&self.app.store, new, Secret::new(PASSWORD.into()), now_ms).await.unwrap();
        });
    }

    /// Makes an enrolment key.
    pub fn enrollment_key(&self, org: &str, terms: KeyTerms) -> String {
        let slug = OrgSlug::new(org).unwrap();
        let now_ms = self.app.clock.now_ms();
        let made = accounts::add_enrollment_key(&self.app.store, &slug, &terms, now_ms);
        self.runtime.block_on(made).unwrap().expose().to_owned()
    }

    /// An access token of a person; signed in once.
    pub fn token(&self, name: &str) -> String {
        if let Some(token) = self.tokens.lock().unwrap().get(name) {
            return token.clone();
        }
        let body = serde_json::json!({"email": format!("{name}@example.org"), "password": PASSWORD});
        let answer = self.post("/api/v1/auth/login").json(&body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        self.tokens.lock().unwrap().insert(name.to_owned(), token.clone());
        token
    }

    /// Registers a device as a person and gives its token.
    pub fn device(&self, admin: &str, id: &str) -> String {
        let answer = self
            .post("/api/v1/devices/register")
            .bearer(&self.token(admin))
            .json(&serde_json::json!({"device_id": id}));
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.body["token"].as_str().unwrap().to_owned()
    }

    /// Rows of the audit log as `action outcome actor resource`, oldest first.
    pub fn audit(&self) -> Vec<String> {
        let rows = self.runtime.block_on(self.app.store.query(
            "SELECT action, outcome, actor, resource_id, details, ip_address FROM audit_log ORDER BY at, id",
            Vec::new(),
        ));
        rows.unwrap()
            .iter()
            .map(|row| {
                ["action", "outcome", "actor", "resource_id"]
                    .map(|column| row.text(column).unwrap())
                    .join(" ")
            })
            .collect()
    }

    pub fn get(&self, path: &str) -> Call<'_> {
        self.call("GET", path)
    }

    pub fn post(&self, path: &str) -> Call<'_> {
        self.call("POST", path)
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        Call { server: self, method: method.to_owned(), path: path.to_owned(), headers: Vec::new() }
    }

    /// What the audit log says of one action, as JSON text.
    pub fn audit_details(&self, action: &str) -> Vec<String> {
        let sql = "SELECT details FROM audit_log WHERE action = ?1 ORDER BY at, id";
        let rows = self.runtime.block_on(self.app.store.query(sql, fleetd::values![action]));
        rows.unwrap().iter().map(|row| row.text("details").unwrap()).collect()
    }

    /// Stops the server and waits for it.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// A request in the making.
pub struct Call<'a> {
    server: &'a Server,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub text: String,
    pub body: Value,
}

impl Answer {
    /// The names of the wrong fields.
    pub fn fields(&self) -> Vec<String> {
        let errors = self.body["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Fails unless it is problem JSON with this status.
    #[track_caller]
    pub fn is_problem(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        assert_eq!(self.body["status"], status, "{}", self.text);
        for field in ["type", "title", "detail"] {
            assert!(self.body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {}", self.text);
        }
        self
    }
}

impl Call<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// As a person who signs in first.
    pub fn by_person(self, name: &str) -> Self {
        let token = self.server.token(name);
        self.bearer(&token)
    }

    pub fn by_device(self, token: &str) -> Self {
        self.header("x-device-token", token)
    }

    #[track_caller]
    pub fn json(self, body: &Value) -> Answer {
        self.header("content-type", "application/json").bytes(body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn bytes(self, body: &[u8]) -> Answer {
        self.run(Some(body))
    }

    #[track_caller]
    pub fn send(self) -> Answer {
        self.run(None)
    }

    #[track_caller]
    fn run(self, body: Option<&[u8]>) -> Answer {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        let mut request = ureq::http::Request::builder()
            .method(self.method.as_str())
            .uri(format!("{}{}", self.server.url, self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = match body {
            Some(body) => agent.run(request.body(body).unwrap()),
            None => agent.run(request.body(()).unwrap()),
        };
        let answer = Self::answer(response.unwrap());
        contract::check(&self.method, &self.path, body, &answer);
        answer
    }

    fn answer(response: ureq::http::Response<ureq::Body>) -> Answer {
        let (parts, mut body) = response.into_parts();
        let text = body.read_to_string().unwrap_or_default();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status.as_u16(), headers, text, body }
    }
}
