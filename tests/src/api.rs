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
        let config = ureq::Agent::config_builder();
        let http: ureq::Agent =
            config.http_status_as_error(false).timeout_global(Some(Duration::from_secs(20))).build().into();
        let mut answer = http
            .post(format!("{url}/api/v1/auth/login"))
            .send_json(json!({ "email": email, "password": password }))
            .expect("the server answers");
        let body: Value = answer.body_mut().read_json().expect("JSON");
        let token = body["access_token"].as_str().unwrap_or_else(|| panic!("log in: {body}")).to_owned();
        Self { url: url.to_owned(), token, http }
    }

    /// `GET /api/v1{path}`: status and body.
    pub fn try_get(&self, path: &str) -> (u16, Value) {
        let mut answer = self
            .http
            .get(format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("Bearer {}", self.token))
            .call()
            .expect("the server answers");
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or(Value::Null))
    }

    /// `GET /api/v1{path}`: the body of a 200.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// `POST /api/v1{path}`: status and body.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut answer = self
            .http
            .post(format!("{}/api/v1{path}", self.url))
            .header("Authorization", format!("Bearer {}", self.token))
            .send_json(body)
            .expect("the server answers");
        (answer.status().as_u16(), answer.body_mut().read_json().unwrap_or(Value::Null))
    }

    /// `DELETE /api/v1{path}`: the status.
    pub fn delete(&self, path: &str) -> u16 {
        let url = format!("{}/api/v1{path}", self.url);
        let request = self.http.delete(url).header("Authorization", format!("Bearer {}", self.token));
        request.call().expect("the server answers").status().as_u16()
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
