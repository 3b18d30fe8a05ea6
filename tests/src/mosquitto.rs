//! People at a terminal, with Mosquitto's tools.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{ADMIN_EMAIL, ADMIN_PASSWORD};
use crate::{Server, process};

/// One person.
#[derive(Debug, Clone)]
pub struct Person {
    /// The user name in topics.
    pub user: String,
    /// What to log in with.
    pub login: String,
    /// The password.
    pub password: String,
    /// `311` or `5`.
    pub version: &'static str,
}

impl Person {
    /// The administrator that the server's first start makes.
    pub fn admin() -> Self {
        Self {
            user: "admin".to_owned(),
            login: ADMIN_EMAIL.to_owned(),
            password: ADMIN_PASSWORD.to_owned(),
            version: "5",
        }
    }

    /// Somebody new in the organisation `default`.
    pub fn new(server: &Server, user: &str, role: &str) -> Self {
        let password = format!("the password of {user}, long enough");
        let email = format!("{user}@example.com");
        let arguments =
            ["user", "add", "--email", &email, "--name", user, "--role", role, "--username", user];
        server.run_ok(&arguments, &format!("{password}\n"));
        Self { user: user.to_owned(), login: format!("default/{user}"), password, version: "5" }
    }

    /// The same person with the older protocol.
    #[must_use]
    pub fn with_mqtt_311(mut self) -> Self {
        self.version = "311";
        self
    }

    fn tool(&self, name: &str, server: &Server) -> Command {
        // Line by line, although nobody looks at a terminal.
        let mut command = Command::new("stdbuf");
        let port = server.mqtt_port().to_string();
        command.args([
            "-oL",
            name,
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-V",
            self.version,
            "-u",
            &self.login,
            "-P",
            &self.password,
        ]);
        command
    }

    /// Publishes on the person's command topic, with QoS 1. Whether the tool was content, and what it said.
    pub fn publish(&self, server: &Server, payload: &str, more: &[&str]) -> (bool, String) {
        let topic = format!("fleet/v1/default/operator/{}/command", self.user);
        let mut command = self.tool("mosquitto_pub", server);
        command.args(["-q", "1", "-t", &topic, "-s"]).args(more);
        let output = process::run(&mut command, payload);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Sends a command; the tool must be content.
    pub fn send(&self, server: &Server, request: &Value) {
        let (good, said) = self.publish(server, &request.to_string(), &[]);
        assert!(good, "mosquitto_pub: {said}");
    }

    /// Listens on the person's result topic. Returns once the broker has granted that.
    pub fn results(&self, server: &Server) -> Results {
        let topic = format!("fleet/v1/default/operator/{}/result", self.user);
        let mut command = self.tool("mosquitto_sub", server);
        // The debug output tells when the subscription stands.
        command.args(["-q", "1", "-t", &topic, "-d"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("mosquitto_sub is installed by `make setup`");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        let (send, lines_out) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let results = Results { child, lines: lines_out, seen: Vec::new() };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = results.lines.recv_timeout(left).expect("mosquitto_sub gets its subscription");
            if line.starts_with("Subscribed") {
                return results;
            }
        }
    }
}

/// What a person reads on the result topic.
pub struct Results {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<Value>,
}

impl Results {
    /// Reads on until `enough` says so; gives everything that was read since the beginning.
    ///
    /// # Panics
    /// It does not say so within `limit`.
    pub fn until(&mut self, limit: Duration, mut enough: impl FnMut(&[Value]) -> bool) -> &[Value] {
        let deadline = Instant::now() + limit;
        while !enough(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                // The tool's own debug lines are no JSON.
                Ok(line) => self.seen.extend(serde_json::from_str(&line)),
                Err(_) => panic!("not within {limit:?}; so far: {:#?}", self.seen),
            }
        }
        &self.seen
    }

    /// Waits for a result about the command of this `ref` with this status.
    pub fn wait(&mut self, reference: &str, status: &str, limit: Duration) -> Value {
        let is_it = |result: &&Value| result["ref"] == reference && result["status"] == status;
        let all = self.until(limit, |seen| seen.iter().any(|result| is_it(&result)));
        all.iter().find(is_it).cloned().expect("it was just seen")
    }

    /// The states of the command of this `ref` so far, in the order in which they came.
    pub fn states(&self, reference: &str) -> Vec<String> {
        let of_it = self.seen.iter().filter(|result| result["ref"] == reference);
        of_it.filter_map(|result| result["status"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
