//! A server with its real broker in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::{Broker, Limits};
use fleetd::auth::mqtt::DatabaseAuthenticator;
use serde_json::{Value, json};

use crate::client::{Client, Outcome};
use crate::common::{Answer, Server};
use crate::wire::{Connect, Version};

/// What the end of a credential promises.
pub const PROMISE: Duration = Duration::from_secs(1);

pub struct Site {
    pub server: Server,
    pub mqtt: SocketAddr,
    broker: Broker,
}

impl Site {
    pub fn start() -> Self {
        let server = Server::start_without_broker();
        let (broker, publisher, mqtt) = server.runtime.block_on(async {
            let authenticator = Arc::new(DatabaseAuthenticator::new(server.app.clone()));
            let broker = Broker::start(Limits::default(), authenticator).unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serving = broker.clone();
            tokio::spawn(async move { serving.serve(listener).await });
            let (publisher, _) = broker.service_link("test", &[]).unwrap();
            (broker, publisher, address)
        });
        let live = fleetd::mqtt::Embedded { broker: broker.clone(), publisher };
        assert!(server.app.live.set(Arc::new(live)).is_ok());
        Self { server, mqtt, broker }
    }

    /// Tries to connect as `org/name`; the code of the answer.
    pub fn attempt(&self, name: &str, secret: &str) -> (Client, u8) {
        // A device's client id is its name; people may call theirs so as well, once.
        let id = if name.contains("cam-") { name.to_owned() } else { uuid::Uuid::new_v4().to_string() };
        let (client, code, _) =
            Client::attempt(self.mqtt, &Connect::new(Version::V5, &id).login(name, secret).keep_alive(600));
        (client, code)
    }

    #[track_caller]
    pub fn join(&self, name: &str, secret: &str) -> Client {
        let (client, code) = self.attempt(name, secret);
        assert_eq!(code, 0, "{name} is not let in: {code:#04x}");
        client
    }

    /// Asks as a person.
    #[track_caller]
    pub fn ask(&self, by: &str, method: &str, path: &str, body: &Value) -> Answer {
        let call = self.server.call(method, &format!("/api/v1/{path}")).by_person(by);
        let answer = if body.is_null() { call.send() } else { call.json(body) };
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        answer
    }

    /// An API key: its id, and itself.
    pub fn key(&self, by: &str, more: &Value) -> (String, String) {
        let mut body = json!({"name": "key"});
        for (field, value) in more.as_object().unwrap() {
            body[field] = value.clone();
        }
        let made = self.ask(by, "POST", "api-keys", &body).body;
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// The id of a person.
    pub fn id(&self, name: &str) -> String {
        let me = self.server.get("/api/v1/auth/me").by_person(name).send();
        me.body["id"].as_str().unwrap().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.runtime.block_on(self.broker.shutdown());
    }
}

/// Fails unless the connection ends soon after `since`.
#[track_caller]
pub fn ends(mut client: Client, since: Instant, what: &str) {
    loop {
        match client.wait(PROMISE.saturating_sub(since.elapsed())) {
            Outcome::Closed => return,
            Outcome::Packet(_) => {}
            Outcome::Silence => panic!("{what}: the connection still stands after {:?}", since.elapsed()),
        }
    }
}
