//! What fuzzing asks of the HTTP server, as plain functions: the fuzz targets call them with libFuzzer's bytes, `tests/fuzz.rs` with the seeds
//! and bytes that are made from them.
//!
//! One server with a real database serves all inputs. Whatever the bytes are:
//!
//! - nothing panics, and nothing is answered with 5xx but 503;
//! - the connection ends when the client has gone, within the time that a request may take;
//! - what reads a credential lets in nobody but those who have one;
//! - a body that a reader takes is one that the OpenAPI document allows.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use broker::PrincipalKey;
use fleetd::app::AppState;
use fleetd::auth::AuthState;
use fleetd::auth::caller::{Caller, Credential, identify};
use fleetd::auth::mqtt::LiveConnections;
use fleetd::auth::token::TokenHash;
use fleetd::clock::Clock;
use fleetd::config::{Config, Secret};
use fleetd::domain::audit::AuditContext;
use fleetd::domain::command_request::{CreateRequest, Target};
use fleetd::domain::device::{DevicePatch, Registration};
use fleetd::domain::fields::Fields;
use fleetd::domain::http_report::HttpReport;
use fleetd::domain::org::OrgPatch;
use fleetd::domain::show_lock::LockRequest;
use fleetd::domain::user::{Kind, UserPatch};
use fleetd::http::{Front, readers};
use fleetd::service::Desk;
use fleetd::service::accounts::{self, KeyTerms, NewUser};
use fleetd::service::api_keys::{self, NewKey};
use fleetd::service::device_config;
use fleetd::service::ingest::DeviceName;
use fleetd::service::register::{Requester, register_at};
use fleetd::store::{Store, users};
use http::{HeaderMap, HeaderValue};
use protocol::id::{DeviceId, OrgSlug, Role, StateId};
use protocol::message::DeviceAction;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;

/// What the server's threads are called.
pub const THREADS: &str = "fleetd-under-test";
/// How long one connection may take: a handler has 30 seconds, a body 20.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the client waits for more of an answer. Few inputs make it wait: see [`complete`].
const IDLE: Duration = Duration::from_millis(200);
/// Largest answer that is believed: an export of the audit log of a long run.
const ANSWER_MAX_BYTES: usize = 256 << 20;
/// After so many inputs the device that an input may have taken out of service is put back.
const MEND_AFTER: u64 = 64;

const DEVICE: &str = "cam-1";
const DEVICE_TOKEN: &str = "cam-secret";

/// Nobody is connected to a broker.
struct NoBroker;

impl LiveConnections for NoBroker {
    fn end_with(&self, _: &PrincipalKey, _: &str) -> usize {
        0
    }
    fn end(&self, _: &PrincipalKey) -> usize {
        0
    }
    fn device_connected(&self, _: &OrgSlug, _: &DeviceId) -> bool {
        false
    }
    fn healthy(&self) -> bool {
        true
    }
    fn tell<'a>(
        &'a self,
        _: &'a DeviceName,
        _: StateId,
        _: DeviceAction,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// A server that serves one input after the other.
pub struct Harness {
    runtime: Runtime,
    app: Arc<AppState>,
    front: Arc<Front>,
    words: Vec<(&'static [u8], String)>,
    admin: Caller,
    idle: Duration,
    inputs: u64,
    faults: i64,
    _folder: tempfile::TempDir,
}

impl Harness {
    /// One that waits long for each answer, for a few inputs that are known to be good.
    pub fn patient() -> Harness {
        Harness { idle: PATIENCE, ..Harness::new() }
    }

    pub fn new() -> Harness {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREADS)
            .enable_all()
            .build()
            .expect("a runtime");
        let mut config = Config::new(folder.path().to_owned());
        // No limit may slow an input down, and a client may say where it comes from.
        config.rate_limit_requests = 1_000_000;
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
        let clock = Clock::system();
        let store = Store::open(&config.database, None).expect("a database");
        let auth = AuthState::open(&config, &clock).expect("a signing key");
        let app = Arc::new(AppState::new(store, config, clock, auth));
        assert!(app.live.set(Arc::new(NoBroker)).is_ok());
        let front = Arc::new(Front::new(&app));
        let (words, admin) = runtime.block_on(people(&app));
        let mut harness =
            Harness { runtime, app, front, words, admin, idle: IDLE, inputs: 0, faults: 0, _folder: folder };
        harness.mend();
        harness
    }

    /// One connection. The first byte of `input` says how the bytes are cut into segments, and whether the client waits for its answers (then what it
    /// began is completed) or goes; the rest is what the client sends, with words such as `$KEY` in place of credentials that are different in each run.
    /// Gives what the server has said.
    pub fn request(&mut self, input: &[u8]) -> Vec<u8> {
        let Some((first, bytes)) = input.split_first() else { return Vec::new() };
        let waits = first & 1 == 0;
        let segment = if first & 2 == 0 { usize::MAX } else { usize::from(first >> 2).max(1) };
        let mut bytes = self.with_words(bytes);
        if waits {
            complete(&mut bytes);
        }
        let idle = self.idle;
        self.inputs += 1;
        if self.inputs.is_multiple_of(MEND_AFTER) {
            self.mend();
        }
        let front = self.front.clone();
        let said = self.runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let peer: SocketAddr = ([127, 0, 0, 1], 4711).into();
            let serving = tokio::spawn(async move { drop(front.serve_stream(server, peer).await) });
            let mut said = Vec::new();
            send(&mut client, &mut said, &bytes, segment).await;
            // A client that closes its half gets no answer any more: so it waits until the server closes, or waits for more.
            while waits && said.len() <= ANSWER_MAX_BYTES {
                match tokio::time::timeout(idle, client.read_buf(&mut said)).await {
                    Ok(Ok(count)) if count > 0 => {}
                    _ => break,
                }
            }
            drop(client);
            let ended = tokio::time::timeout(PATIENCE, serving).await.expect("the connection ends");
            ended.expect("the connection's task does not panic");
            said
        });
        assert!(said.len() <= ANSWER_MAX_BYTES, "an endless answer");
        assert!(
            said.is_empty() || said.starts_with(b"HTTP/1."),
            "no HTTP: {}",
            String::from_utf8_lossy(&said)
        );
        self.check_faults(&said);
        said
    }

    /// Every answer of 5xx must be a 503.
    fn check_faults(&mut self, said: &[u8]) {
        let text = self.app.metrics.render();
        let counted =
            text.lines().find_map(|line| line.strip_prefix("fleet_http_requests_total{status=\"5xx\"} "));
        let counted: i64 = counted.map_or(0, |number| number.parse().expect("a number"));
        let new = counted - std::mem::replace(&mut self.faults, counted);
        if new > 0 {
            let away = said
                .windows(12)
                .filter(|part| part.ends_with(b" 503") && part.starts_with(b"HTTP/1."))
                .count();
            let text = String::from_utf8_lossy(said);
            assert!(i64::try_from(away).is_ok_and(|away| away >= new), "a fault of the server: {text}");
        }
    }

    /// What proves who somebody is, as it may come in headers; `input` is a kind and the bytes.
    pub fn credential(&mut self, input: &[u8]) {
        let Some((kind, bytes)) = input.split_first() else { return };
        let bytes = self.with_words(bytes);
        let names = ["authorization", "x-device-token", "x-forwarded-for", "x-enrollment-key"];
        let name = names[usize::from(*kind) % names.len()];
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let headers: HeaderMap = [(http::HeaderName::from_static(name), value)].into_iter().collect();
            if let Some(credential) = readers::credential(&headers) {
                self.identify(&credential);
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        self.identify(&Credential::Bearer(Secret::new(text.to_string())));
        let peer: SocketAddr = ([127, 0, 0, 1], 4711).into();
        let origin = self.app.auth.proxies.origin(peer, false, Some(&text));
        assert!(origin.credentials_allowed);
        let stranger = self.app.auth.proxies.origin(([203, 0, 113, 5], 9).into(), false, Some(&text));
        assert_eq!(stranger.address.to_string(), "203.0.113.5");
        let _ = readers::query(&text);
        if let Some(part) = readers::path_part(&text) {
            drop((Target::parse(&part), DeviceId::new(&part), part.parse::<protocol::id::CommandId>()));
        }
        if let Some(hash) = TokenHash::from_hex(&text) {
            assert_eq!(hash.to_hex(), text.to_ascii_lowercase());
        }
    }

    fn identify(&self, credential: &Credential) {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let now_ms = self.app.clock.now_ms();
        let known = self.runtime.block_on(identify(
            &self.app.auth,
            &self.app.store,
            credential,
            Some(DEVICE),
            address,
            now_ms,
        ));
        if known.is_ok() {
            let (Credential::Bearer(secret) | Credential::DeviceToken(secret)) = credential else {
                panic!("a header passed for a certificate");
            };
            let is_ours = self.words.iter().any(|(_, word)| word == secret.expose());
            assert!(is_ours, "somebody was let in with {:?}", secret.expose());
        }
    }

    fn with_words(&self, bytes: &[u8]) -> Vec<u8> {
        let mut whole = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            match self.words.iter().find(|(word, _)| rest.starts_with(word)) {
                Some((word, value)) => {
                    whole.extend_from_slice(value.as_bytes());
                    rest = &rest[word.len()..];
                }
                None => {
                    whole.push(*first);
                    rest = after;
                }
            }
        }
        whole
    }

    /// Puts the device back if an input has taken it out of service, or given it another token.
    fn mend(&mut self) {
        let body = json!({"device_id": DEVICE, "token_sha256": TokenHash::of(DEVICE_TOKEN).to_hex()});
        let registration = Registration::read(body).expect("a good registration");
        let requester = Requester::person(&self.admin).expect("an admin");
        let context = AuditContext::system();
        let desk =
            Desk { store: &self.app.store, now_ms: self.app.clock.now_ms(), source: "", context: &context };
        // Taken by another token: stays so until it is decommissioned or may enrol again.
        drop(self.runtime.block_on(register_at(desk, &requester, &registration)));
    }
}

impl Default for Harness {
    fn default() -> Harness {
        Harness::new()
    }
}

/// Makes people and keys, and says with what words inputs name them.
async fn people(app: &Arc<AppState>) -> (Vec<(&'static [u8], String)>, Caller) {
    let now_ms = app.clock.now_ms();
    let org = OrgSlug::new("default").expect("a slug");
    let mut words: Vec<(&'static [u8], String)> = vec![(b"$DEVICE", DEVICE_TOKEN.to_owned())];
    let mut owner = None;
    for (name, role) in [("root", Role::Admin), ("vera", Role::Viewer)] {
        let new = NewUser {
            org: org.clone(),
            email: format!("{name}@example.org").parse().expect("an address"),
            username: None,
            name: name.to_owned(),
            role,
            is_superadmin: role == Role::Admin,
            must_change_password: false,
        };
        let password = Secret::new("correct horse battery".to_owned());
        let user = accounts::add_user(&app.store, new, password, now_ms).await.expect("a person");
        let context = AuditContext::system();
        let desk = Desk { store: &app.store, now_ms, source: "", context: &context };
        let new = NewKey { name: name.to_owned(), scopes: Vec::new(), expires_at: None };
        let (_, key) = api_keys::create(desk, &user, new).await.expect("a key");
        let stored = users::by_id(&app.store, &user.id).await.expect("a database").expect("the person");
        let token = app.auth.jwt.issue(&user.id, stored.user.token_version, None, now_ms).expect("a token");
        let (key_word, token_word): (&[u8], &[u8]) = match role {
            Role::Admin => (b"$ADMINKEY", b"$ADMINJWT"),
            _ => (b"$KEY", b"$JWT"),
        };
        words.push((key_word, key.expose().to_owned()));
        words.push((token_word, token.expose().to_owned()));
        if role == Role::Admin {
            owner = Some((user, key));
        }
    }
    let (_, key) = owner.expect("an admin");
    words.push((b"$SOON", protocol::message::rfc3339((now_ms / 1000 + 24 * 3600) * 1000)));
    let terms = KeyTerms { max_uses: None, expires_in_hours: None, require_approval: false };
    let enroll = accounts::add_enrollment_key(&app.store, &org, &terms, now_ms).await.expect("a key");
    words.push((b"$ENROLL", enroll.expose().to_owned()));
    let person = fleetd::auth::caller::person_by_api_key(&app.store, &key, now_ms).await.expect("a database");
    (words, Caller::Person(person.expect("the admin")))
}

/// Ends the head or body that `bytes` break off in, as far as it can be told, and has the server close after its last answer.
fn complete(bytes: &mut Vec<u8>) {
    let mut from = 0;
    while from < bytes.len() {
        let Some(end) = bytes[from..].windows(4).position(|part| part == b"\r\n\r\n") else {
            bytes.extend_from_slice(b"\r\n\r\n");
            break;
        };
        let head = String::from_utf8_lossy(&bytes[from..from + end]).to_ascii_lowercase();
        from += end + 4;
        if head.contains("transfer-encoding:") {
            bytes.extend_from_slice(b"\r\n0\r\n\r\n");
            break;
        }
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
        let length: usize =
            length.and_then(|text| text.trim().parse().ok()).filter(|n| *n < 1 << 20).unwrap_or(0);
        if bytes.len() < from + length {
            bytes.resize(from + length, b' ');
        }
        from += length;
    }
    bytes.extend_from_slice(b"GET /health HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n");
}

/// Writes `bytes` in segments and reads at the same time, as a client with two threads would.
async fn send(client: &mut DuplexStream, said: &mut Vec<u8>, bytes: &[u8], segment: usize) {
    for part in bytes.chunks(segment) {
        let mut part = part;
        while !part.is_empty() {
            let (mut reader, mut writer) = tokio::io::split(&mut *client);
            let mut chunk = [0; 4096];
            let step = async {
                tokio::select! {
                    written = writer.write(part) => written.ok().map(|count| (count, 0)),
                    count = reader.read(&mut chunk) => count.ok().filter(|count| *count > 0).map(|count| (0, count)),
                }
            };
            match tokio::time::timeout(PATIENCE, step).await.expect("the server reads or writes") {
                Some((written, read)) => {
                    part = &part[written..];
                    said.extend(&chunk[..read]);
                }
                // The server has closed: it had its reasons.
                None => return,
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The body of a request, read as every body that there is.
pub fn body(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return };
    let now_ms = 1_766_916_000_000;
    let device = || Target::Device(DEVICE.to_owned());
    let read = |taken: bool, operation: &str| {
        if taken {
            check_allowed(operation, &body);
        }
    };
    read(CreateRequest::read(body.clone(), Some(device())).is_ok(), "createDeviceCommand");
    if let Ok(request) = CreateRequest::read(body.clone(), None) {
        read(true, "createCommands");
        drop((request.hash(), request.expires_at(now_ms, 1000)));
    }
    let nothing = |_: &mut Map<String, Value>| {};
    let restart = protocol::command::CommandType::RestartService;
    let service = CreateRequest::read_shorthand(body.clone(), device(), restart, &["service"], nothing);
    read(service.is_ok(), "restartDevice");
    read(DevicePatch::read(body.clone()).is_ok(), "updateDevice");
    read(Registration::read(body.clone()).is_ok(), "registerDevice");
    read(HttpReport::read(body.clone()).is_ok(), "reportCommand");
    read(LockRequest::read(body.clone(), now_ms).is_ok(), "lockDevice");
    read(device_config::read(body.clone()).is_ok(), "setDeviceConfig");
    read(readers::heartbeat(body.clone()), "");
    if let Ok(fields) = Fields::new(body.clone()) {
        read(UserPatch::read(fields, Kind::Person).is_ok(), "updateUser");
    }
    if let Ok(fields) = Fields::new(body.clone()) {
        read(UserPatch::read(fields, Kind::Service).is_ok(), "updateServiceAccount");
    }
    if let Ok(fields) = Fields::new(body.clone()) {
        read(OrgPatch::read(fields).is_ok(), "updateOrg");
    }
}

/// A heartbeat's bounds are checked after it was read, so that it stands for no operation here.
fn check_allowed(operation: &str, body: &Value) {
    static BODIES: LazyLock<Vec<(String, jsonschema::Validator)>> = LazyLock::new(bodies);
    let wanted = BODIES.iter().find(|(id, _)| id == operation);
    if let Some((_, schema)) = wanted {
        let wrong: Vec<_> = schema.iter_errors(body).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{operation} took what the document does not allow: {body}: {wrong:#?}");
    } else {
        assert!(operation.is_empty(), "{operation} is not in the document");
    }
}

/// The schemas of bodies, by operation.
fn bodies() -> Vec<(String, jsonschema::Validator)> {
    let document: Value = serde_json::from_slice(fleetd::http::openapi()).expect("JSON");
    let operations = document["paths"].as_object().into_iter().flatten();
    let operations = operations.flat_map(|(_, item)| item.as_object().into_iter().flatten());
    operations
        .filter_map(|(_, operation)| {
            let schema = operation["requestBody"]["content"]["application/json"]["schema"].as_object()?;
            let whole = json!({"allOf": [schema], "components": document["components"]});
            let validator =
                jsonschema::options().should_validate_formats(true).build(&whole).expect("a schema");
            Some((operation["operationId"].as_str()?.to_owned(), validator))
        })
        .collect()
}
