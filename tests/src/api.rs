//! The HTTP API as a person uses it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

/// A logged-in client.
pub struct Api {
    url: String,
    token: String,
    http: ureq::Agent,
}

impl Api {
    /// Logs in.
    pub fn log_in(url: &str, email: &str, password: &str) -> Self {
        Self::try_log_in(url, email, password).expect("the server answers")
    }

    /// Logs in, if the server answers.
    pub fn try_log_in(url: &str, email: &str, password: &str) -> Option<Self> {
        let config = ureq::Agent::config_builder();
        let http: ureq::Agent =
            config.http_status_as_error(false).timeout_global(Some(Duration::from_secs(20))).build().into();
        let mut api = Self { url: url.to_owned(), token: String::new(), http };
        let (_, body) =
            api.ask("POST", "/auth/login", Some(&json!({ "email": email, "password": password })))?;
        body["access_token"].as_str().unwrap_or_else(|| panic!("log in: {body}")).clone_into(&mut api.token);
        Some(api)
    }

    /// Status and body of the answer, if the server answers.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("Bearer {}", self.token));
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

    /// `GET /api/v1{path}`: status and body.
    pub fn try_get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, None).expect("the server answers")
    }

    /// `GET /api/v1{path}`: the body of a 200.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// `POST /api/v1{path}`: status and body.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", path, Some(body)).expect("the server answers")
    }

    /// `PUT /api/v1{path}`: status and body.
    pub fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("PUT", path, Some(body)).expect("the server answers")
    }

    /// `PATCH /api/v1{path}`: status and body.
    pub fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("PATCH", path, Some(body)).expect("the server answers")
    }

    /// `DELETE /api/v1{path}`: the status.
    pub fn delete(&self, path: &str) -> u16 {
        self.ask("DELETE", path, None).expect("the server answers").0
    }

    /// Sends a command to a device; its id.
    pub fn command(&self, device: &str, request: &Value) -> String {
        let (status, body) = self.post(&format!("/devices/{device}/commands"), request);
        assert_eq!(status, 201, "{request}: {body}");
        body["id"].as_str().expect("a command has an id").to_owned()
    }

    /// Waits until a command has one of these states; gives it with its history.
    pub fn wait_for_command(&self, id: &str, states: &[&str], limit: Duration) -> Value {
        let mut last = Value::Null;
        let deadline = std::time::Instant::now() + limit;
        loop {
            let (status, body) = self.try_get(&format!("/commands/{id}"));
            if status == 200 {
                last = body;
            }
            if last["status"].as_str().is_some_and(|status| states.contains(&status)) {
                return last;
            }
            assert!(std::time::Instant::now() < deadline, "not {states:?} within {limit:?}: {last:#}");
            // A person may ask 600 times a minute.
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    /// The device as the API shows it.
    pub fn device(&self, device: &str) -> Value {
        self.get(&format!("/devices/{device}"))
    }

    /// Every heartbeat of a device, newest first.
    pub fn heartbeats(&self, device: &str) -> Vec<Value> {
        let mut all = Vec::new();
        for page in 1.. {
            let body = self.get(&format!("/devices/{device}/heartbeats?page={page}&page_size=100"));
            all.extend(body["items"].as_array().expect("a list").iter().cloned());
            if body["has_more"] != json!(true) {
                break;
            }
        }
        all
    }

    /// The sequence numbers of all heartbeats that came over MQTT, one entry for each row.
    pub fn heartbeat_seqs(&self, device: &str) -> Vec<u64> {
        self.heartbeats(device).iter().filter_map(|h| h["seq"].as_u64()).collect()
    }

    /// The committed numbers of all state ids of a device, joined.
    pub fn committed(&self, device: &str) -> BTreeSet<u64> {
        let body = self.get(&format!("/devices/{device}/records"));
        let items = body["items"].as_array().expect("a list");
        let ranges = items.iter().flat_map(|item| item["committed"].as_array().expect("ranges"));
        ranges.flat_map(|r| r[0].as_u64().expect("a number")..=r[1].as_u64().expect("a number")).collect()
    }
}
