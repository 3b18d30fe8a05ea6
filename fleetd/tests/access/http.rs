//! Every route of the HTTP API, by everybody: `http.txt`.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fleetd::values;

use crate::cast::{Cast, Credential, Stage};
use crate::common::{Answer, Server};
use crate::props::{self, Props};
use crate::table::{self, Differences, Row};

const TABLE: &str = include_str!("http.txt");
const THREADS: usize = 6;
const DEVICES: (&str, &str) = ("/api/v1/devices", "/api/devices");

fn rows() -> (Vec<String>, Vec<Row>) {
    table::read(TABLE, 4)
}

/// A route without the names of its variables.
fn route(method: &str, path: &str) -> String {
    let mut segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    let first = segments.next().unwrap().to_owned();
    let path = segments.fold(first, |path, segment| format!("{path}/{segment}"));
    format!("{method} {path}")
}

#[test]
fn the_table_has_every_route_and_no_other() {
    let told: BTreeSet<String> = rows()
        .1
        .iter()
        .flat_map(|row| {
            let alias = row.keys[1].strip_prefix(DEVICES.0).map(|rest| format!("{}{rest}", DEVICES.1));
            [Some(row.keys[1].clone()), alias]
                .into_iter()
                .flatten()
                .map(|path| route(&row.keys[0], &path))
                .collect::<Vec<_>>()
        })
        .collect();
    let served: BTreeSet<String> =
        fleetd::http::paths().iter().map(|(method, path)| route(method.as_str(), path)).collect();
    let missing: Vec<_> = served.difference(&told).collect();
    let invented: Vec<_> = told.difference(&served).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "not in the table: {missing:?}\nno such route: {invented:?}"
    );
}

#[test]
fn everybody_gets_from_every_route_what_the_table_says() {
    let (callers, rows) = rows();
    let stage = Stage::new(Server::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        config.rate_limit_requests = 100_000;
    }));
    // Several at once, as most of the time is spent waiting for the disk.
    let next = AtomicUsize::new(0);
    let differences = Mutex::new(Differences::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut cast = Cast::new(&stage);
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let walk = Walk { stage: &stage, cast: &cast, row };
                    walk.along(&callers, &differences);
                    if row.keys[1].ends_with("/auth/password") {
                        // Nobody's token is good any more.
                        cast = Cast::new(&stage);
                    }
                }
            });
        }
    });
    differences.into_inner().unwrap().none("fleetd/tests/access/http.txt");
}

/// One row of the table.
struct Walk<'a> {
    stage: &'a Stage,
    cast: &'a Cast,
    row: &'a Row,
}

/// One cell of it.
struct Cell<'a> {
    walk: &'a Walk<'a>,
    caller: &'a str,
    /// What the routes of devices begin with.
    devices: &'a str,
    credential: Credential,
    props: Props,
}

impl Walk<'_> {
    fn along(&self, callers: &[String], differences: &Mutex<Differences>) {
        let [method, path, scope, _] = &self.row.keys[..] else { panic!("{:?}", self.row.keys) };
        let prefixes = [DEVICES.0, DEVICES.1];
        for devices in &prefixes[..if path.starts_with(DEVICES.0) { 2 } else { 1 }] {
            // What a path names, as long as nobody has changed it. Everybody's own is made for each.
            let mut kept: Option<Props> = None;
            for caller in callers {
                for n in 0..Cast::shown_by(caller) {
                    let left = kept.take().filter(|_| !path.contains("own-key"));
                    let make = || props::make(self.stage, self.cast, caller, method, path);
                    let props = left.unwrap_or_else(make);
                    let mut all = self.cast.credentials(self.stage, caller, scope, &props.device);
                    let credential = all.swap_remove(n);
                    let cell = Cell { walk: self, caller, devices, credential, props };
                    for (expected, found) in cell.visit() {
                        differences.lock().unwrap().note(self.row, caller, &expected, &found);
                    }
                    if method == "GET" || self.row.cells[caller] != "ok" {
                        kept = Some(cell.props);
                    }
                }
            }
        }
    }
}

impl Cell<'_> {
    /// What differs: expected, and found.
    fn visit(&self) -> Vec<(String, String)> {
        let Walk { row, stage, .. } = self.walk;
        let (method, noted, expected) = (&row.keys[0], &row.keys[3], row.cells[self.caller].as_str());
        let mut different = Vec::new();
        if method == "GET" {
            let (head, _) = self.ask("HEAD", &self.props.path);
            if !is(&head, expected) {
                different.push((expected.to_owned(), format!("{} for HEAD", head.status)));
            }
        }
        let (answer, address) = self.ask(method, &self.props.path);
        if !is(&answer, expected) {
            different.push((expected.to_owned(), format!("{} {}", answer.status, answer.text)));
            return different;
        }
        if answer.status >= 400 {
            answer.is_problem(answer.status);
        }
        // Each asks from an address of its own.
        let sql = "SELECT action, outcome, actor FROM audit_log WHERE ip_address = ?1 ORDER BY number";
        let found = stage.server.app.store.query(sql, values![address]);
        let found = stage.server.runtime.block_on(found).unwrap();
        let told = |row: &fleetd::store::Row| {
            let [action, outcome, actor] =
                ["action", "outcome", "actor"].map(|column| row.text(column).unwrap());
            format!("{action} {outcome} by {}", actor.split(':').next().unwrap_or_default())
        };
        let found: Vec<_> = found.iter().map(told).collect();
        let outcome = if expected == "ok" { "ok" } else { "refused" };
        let wanted =
            if noted == "-" { vec![] } else { vec![format!("{noted} {outcome} by {}", self.kind())] };
        if found != wanted {
            different.push((format!("{wanted:?} in the audit log"), format!("{found:?}")));
        }
        if matches!(self.caller, "other-admin" | "other-super" | "stranger") {
            different.extend(self.tells_something(&answer));
        }
        different
    }

    /// What is another organisation's is not there: the answer names nothing of it, and is the answer to an id that nobody has.
    fn tells_something(&self, answer: &Answer) -> Vec<(String, String)> {
        let [method, path, ..] = &self.walk.row.keys[..] else { panic!("{:?}", self.walk.row.keys) };
        let mut different = Vec::new();
        // Who owns organisations may read all that was done; and everybody what they typed themselves.
        let sees = self.caller == "other-super" || method != "GET" || answer.status >= 300;
        let names = answer.text.contains("royal") && !path.ends_with("/audit");
        if !sees && (names || answer.text.contains(r#""org":"default""#)) {
            different.push(("nothing of `default`".to_owned(), answer.text.clone()));
        }
        if let Some((path, id)) = self.props.nowhere.as_ref().filter(|_| answer.status >= 400) {
            let (nowhere, _) = self.ask(method, path);
            let wanted = format!("{} {}", answer.status, answer.text.replace(&self.props.id, "ID"));
            let found = format!("{} {}", nowhere.status, nowhere.text.replace(id, "ID"));
            if wanted != found {
                different.push((format!("{wanted} for an id that nobody has"), found));
            }
        }
        different
    }

    /// As the audit log calls who asks.
    fn kind(&self) -> &'static str {
        match self.caller {
            // Whoever signs in is who the password is of.
            _ if self.walk.row.keys[3] == "auth.login" => "user",
            "none" | "bad" | "expired" | "revoked" | "disabled" => "anonymous",
            "device" | "sibling" | "stranger" => "device",
            "with" | "without" => "key",
            _ => "user",
        }
    }

    /// Asks, and says from which address.
    fn ask(&self, method: &str, path: &str) -> (Answer, String) {
        // How often somebody fails from one address is another matter.
        let address = self.walk.stage.new_address();
        let call = self.walk.stage.server.call(method, &path.replacen(DEVICES.0, self.devices, 1));
        let call = call.header("x-forwarded-for", &address);
        let call = match &self.credential {
            Credential::Nothing => call,
            Credential::Bearer(token) => call.bearer(token),
            Credential::Device(token) => call.by_device(token),
        };
        let answer = match &self.props.body {
            // An empty list of messages in CBOR.
            None if method == "POST" && path.ends_with("/exchange") => {
                call.header("content-type", "application/cbor").bytes(&[0x80])
            }
            Some(body) if method != "HEAD" => call.json(body),
            _ => call.send(),
        };
        (answer, address)
    }
}

fn is(answer: &Answer, expected: &str) -> bool {
    answer.status.to_string() == expected || (expected == "ok" && (200..300).contains(&answer.status))
}
