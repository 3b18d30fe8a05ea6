//! A running server with everybody who may connect to its broker.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::Client;
use crate::process::{PASSWORD, Server};
use crate::wire::{Connect, Version};

/// A name and the secret that goes with it.
#[derive(Clone)]
struct Login {
    org: &'static str,
    name: String,
    secret: String,
}

pub struct Troupe {
    pub server: Server,
    _folder: tempfile::TempDir,
    logins: BTreeMap<&'static str, Login>,
    count: std::cell::Cell<usize>,
}

/// Caller, organisation, role.
const PEOPLE: [(&str, &str, &str); 7] = [
    ("viewer", "default", "viewer"),
    ("operator", "default", "operator"),
    ("operator2", "default", "operator"),
    ("reader", "default", "operator"),
    ("admin", "default", "admin"),
    ("super", "default", "admin"),
    ("other-admin", "other", "admin"),
];

impl Troupe {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path());
        let chief = server.sign_in();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let post = |token: &str, path: &str, body: &Value| send(&server, "POST", token, path, body);
        post(&chief, "orgs", &json!({"slug": "other", "name": "Other"}));
        let mut logins = BTreeMap::new();
        let mut sessions = BTreeMap::new();
        for (caller, org, role) in PEOPLE {
            let email = format!("{caller}@example.com");
            let name = format!("the-{caller}");
            let is_superadmin = caller == "super";
            post(
                &chief,
                "users",
                &json!({"email": email, "username": name, "name": caller, "role": role, "org": org,
                    "password": PASSWORD, "is_superadmin": is_superadmin}),
            );
            let session =
                text(&post("", "auth/login", &json!({"email": email, "password": PASSWORD}))["access_token"]);
            let scopes = if caller == "reader" { json!(["devices:read"]) } else { Value::Null };
            let key = post(&session, "api-keys", &json!({"name": "k", "scopes": scopes}));
            sessions.insert(caller, session);
            logins.insert(caller, Login { org, name, secret: text(&key["key"]) });
        }
        let robot =
            post(&sessions["admin"], "service-accounts", &json!({"username": "robot", "role": "operator"}));
        let key = json!({"name": "k", "service_account_id": robot["id"]});
        let secret = text(&post(&sessions["admin"], "api-keys", &key)["key"]);
        logins.insert("service", Login { org: "default", name: "robot".to_owned(), secret });
        for (caller, admin) in [("device", "admin"), ("sibling", "admin"), ("stranger", "other-admin")] {
            let name = format!("cam-{caller}");
            let made = post(&sessions[admin], "devices/register", &json!({"device_id": name}));
            let org = logins[admin].org;
            logins.insert(caller, Login { org, name, secret: text(&made["token"]) });
        }
        let desired = json!({"desired": {"HEARTBEAT_INTERVAL": "30"}});
        send(&server, "PUT", &sessions["admin"], "devices/cam-device/config", &desired);
        Self { server, _folder: folder, logins, count: 0.into() }
    }

    /// A topic of the table as it is for this caller. `instance`: the server's own name.
    pub fn topic(&self, topic: &str, caller: &str, instance: &str) -> String {
        let name = |caller: &str| self.logins[caller].name.as_str();
        topic
            .replace("{device}", name("device"))
            .replace("{stranger}", name("stranger"))
            .replace("{operator}", name("operator"))
            .replace("{self}", name(caller))
            .replace("{instance}", instance)
    }

    /// A number that was not used before.
    pub fn number(&self) -> usize {
        self.count.set(self.count.get() + 1);
        self.count.get()
    }

    /// The CONNECT of a caller: for a device the one that replaces its last, for others one of its own.
    pub fn connect(&self, caller: &str, version: Version) -> Connect {
        let login = &self.logins[caller];
        let user = format!("{}/{}", login.org, login.name);
        let is_device = login.name.starts_with("cam-");
        let client_id = if is_device { user.clone() } else { format!("client-{}", self.number()) };
        Connect::new(version, &client_id).login(&user, &login.secret)
    }

    /// A connection; a device has its three subscriptions.
    pub fn join(&self, caller: &str, version: Version) -> Client {
        let mut client = Client::connect(self.server.mqtt, &self.connect(caller, version));
        let login = &self.logins[caller];
        if login.name.starts_with("cam-") {
            let (org, name) = (login.org, &login.name);
            let filters =
                ["command", "desired", "ack"].map(|leaf| format!("fleet/v1/{org}/device/{name}/{leaf}"));
            assert_eq!(client.subscribe(&filters.each_ref().map(String::as_str), 1), [1, 1, 1]);
        }
        client
    }
}

fn send(server: &Server, method: &str, token: &str, path: &str, body: &Value) -> Value {
    let url = format!("http://{}/api/v1/{path}", server.http);
    let request = if method == "PUT" { ureq::put(url) } else { ureq::post(url) };
    let mut request = request.header("content-type", "application/json");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut answer = request.send(body.to_string()).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}
