//! People who ask for commands, whatever becomes of the server meanwhile: again and again until they have an answer, or
//! lose patience.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::{Asked, unit};
use super::plan::{Kind, Request};
use crate::mosquitto::Person;
use crate::server::{ADMIN_EMAIL, ADMIN_PASSWORD};

/// How long somebody tries.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(300);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Accepted, under this id.
    Accepted(String),
    /// Refused, for this reason.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// The desk at which everybody sits. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    url: String,
    mqtt_port: u16,
    http: ureq::Agent,
    token: Arc<Mutex<Option<String>>>,
    /// Everybody is to leave now.
    hurry: Arc<AtomicBool>,
    olivia: Person,
}

impl Desk {
    pub(super) fn new(url: String, mqtt_port: u16, olivia: Person) -> Self {
        let config = ureq::Agent::config_builder();
        let config = config.http_status_as_error(false).timeout_global(Some(Duration::from_secs(5)));
        let (token, hurry) = (Arc::default(), Arc::default());
        Self { url, mqtt_port, http: config.build().into(), token, hurry, olivia }
    }

    /// Nobody tries again from now on, or they do.
    pub(super) fn hurry(&self, hurry: bool) {
        self.hurry.store(hurry, Ordering::SeqCst);
    }

    fn is_over(&self, deadline: Instant) -> bool {
        Instant::now() >= deadline || self.hurry.load(Ordering::SeqCst)
    }

    /// One request to the API: status and body, if the server answers.
    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let token = self.token()?;
        let answer = self.send(method, path, body, Some(&token))?;
        if answer.0 == 401 {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return None;
        }
        Some(answer)
    }

    fn token(&self) -> Option<String> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.is_none() {
            let account = json!({ "email": ADMIN_EMAIL, "password": ADMIN_PASSWORD });
            let (_, body) = self.send("POST", "/auth/login", Some(&account), None)?;
            *token = body["access_token"].as_str().map(str::to_owned);
        }
        token.clone()
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        token: Option<&str>,
    ) -> Option<(u16, Value)> {
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("{}/api/v1{path}", self.url));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json").body(body.to_string());
                self.http.run(request.expect("a good request"))
            }
            None => self.http.run(request.body(()).expect("a good request")),
        };
        let mut answer = answer.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.body_mut().read_json().unwrap_or(Value::Null)))
    }

    /// Tries until the server has said yes or no.
    pub(super) fn insist(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.call(method, path, Some(body)) {
                Some((status, answer)) if status < 500 && status != 429 => return Some((status, answer)),
                _ if self.is_over(deadline) => return None,
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Asks for a command. Its `ref` makes it one command, however often it is asked for.
    pub(super) fn ask(&self, request: &Request, device: &str) -> Answer {
        let body = body(request);
        if request.by_mqtt {
            return self.ask_by_mqtt(request, device, body);
        }
        match self.insist("POST", &format!("/devices/{device}/commands"), &body) {
            Some((201, answer)) => {
                answer["id"].as_str().map_or(Answer::Unknown, |id| Answer::Accepted(id.to_owned()))
            }
            Some((status, answer)) => Answer::Refused(format!("{status}: {answer}")),
            None => Answer::Unknown,
        }
    }

    /// The tool says only that the broker has it: the list of commands is asked what became of it.
    fn ask_by_mqtt(&self, request: &Request, device: &str, mut body: Value) -> Answer {
        body["to"] = json!(device);
        let reference = Asked::reference(request.number);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.publish(&body) {
                for _ in 0..5 {
                    std::thread::sleep(PAUSE);
                    let path = format!("/devices/{device}/commands?page_size=100");
                    let Some((200, list)) = self.call("GET", &path, None) else { continue };
                    let mut items = list["items"].as_array().into_iter().flatten();
                    if let Some(id) =
                        items.find(|item| item["ref"] == reference.as_str()).and_then(|i| i["id"].as_str())
                    {
                        return Answer::Accepted(id.to_owned());
                    }
                }
            }
            if self.is_over(deadline) {
                return Answer::Unknown;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn publish(&self, body: &Value) -> bool {
        let topic = format!("fleet/v1/default/operator/{}/command", self.olivia.user);
        let port = self.mqtt_port.to_string();
        let text = body.to_string();
        let mut command = Command::new("timeout");
        command.args(["5", "mosquitto_pub", "-h", "127.0.0.1", "-p", &port, "-V", self.olivia.version]);
        command.args(["-u", &self.olivia.login, "-P", &self.olivia.password]);
        command.args(["-q", "1", "-t", &topic, "-m", &text]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// A request as the API takes it.
pub(crate) fn body(request: &Request) -> Value {
    let number = request.number;
    let mut body = match request.kind {
        Kind::Ping => json!({"type": "ping"}),
        Kind::Script(tenths) => {
            json!({"type": "custom", "payload": {"script": format!("work-{tenths}"), "args": [format!("c{number}")]}})
        }
        Kind::FailingScript => {
            json!({"type": "custom", "payload": {"script": "fails", "args": [format!("c{number}")]}})
        }
        Kind::NoScript => json!({"type": "custom", "payload": {"script": "absent"}}),
        Kind::Restart => json!({"type": "restart_service", "payload": {"service": unit(number)}}),
        Kind::Reboot => json!({"type": "reboot"}),
        Kind::Config => {
            let value = super::ledger::config_value(number);
            json!({"type": "config", "payload": {"changes": {"COMMAND_POLL_INTERVAL": value}}})
        }
        Kind::RotateToken => json!({"type": "rotate_token"}),
    };
    body["ref"] = json!(Asked::reference(number));
    if let Some(seconds) = request.expires_in_seconds {
        body["expires_in_seconds"] = json!(seconds);
    }
    if request.overrides && !request.by_mqtt {
        body["override_show"] = json!({"reason": "chaos"});
    }
    body
}
