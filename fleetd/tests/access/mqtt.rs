//! Every topic of the broker, by everybody: `mqtt.txt`.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::codec;

use crate::client::{Client, Outcome, PATIENCE};
use crate::process;
use crate::table::{self, Differences, Row};
use crate::troupe::Troupe;
use crate::wire::{self, BOTH, Publish, Received, Version, Will, kind};
use crate::witness::{Heard, Witness};

const TABLE: &str = include_str!("mqtt.txt");
const PRESENCE: &str = "fleet/v1/default/device/cam-device/presence";
const OWN_COMMAND: &str = "fleet/v1/default/operator/{self}/command";
/// How long nothing may come after everything that was to come has come.
const QUIET: Duration = Duration::from_millis(300);

/// Something that was tried, and how it was answered.
struct Attempt<'a> {
    row: &'a Row,
    caller: &'a str,
    version: Version,
    topic: String,
    payload: String,
    /// `yes`: it was not refused.
    answer: String,
}

/// Listeners who together may see everything: both organisations' admins, and the device whose topics they are.
struct Gallery {
    ours: Witness,
    theirs: Witness,
    device: Option<Witness>,
}

impl Gallery {
    fn heard(&self) -> Vec<Heard> {
        let device = self.device.iter().flat_map(Witness::heard);
        self.ours.heard().into_iter().chain(self.theirs.heard()).chain(device).collect()
    }
}

fn listen(troupe: &Troupe, caller: &str, filters: &[&str]) -> Witness {
    let mut client = troupe.join(caller, Version::V5);
    if !filters.is_empty() {
        assert!(client.subscribe(filters, 1).iter().all(|code| *code == 1));
    }
    Witness::start(client)
}

#[test]
fn everybody_may_do_over_mqtt_what_the_table_says() {
    let (mut callers, rows) = table::read(TABLE, 2);
    let troupe = Troupe::start();
    let mut gallery = Gallery {
        ours: listen(&troupe, "admin", &["fleet/v1/default/#", "fleet/v1/server/+"]),
        theirs: listen(&troupe, "other-admin", &["fleet/v1/other/#"]),
        device: Some(listen(&troupe, "device", &[])),
    };
    let instance = instance(&gallery.ours);
    let mut differences = Differences::default();
    // The device takes its connection over from the one that listens.
    assert_eq!(callers.remove(0), "device");
    callers.retain(|caller| caller != "fleetd");
    callers.push("device".to_owned());
    let mut attempts = Vec::new();
    for caller in &callers {
        if caller == "device" {
            gallery.device = None;
        }
        for version in BOTH {
            let mut stand = Stand {
                troupe: &troupe,
                caller,
                version,
                instance: &instance,
                client: None,
                heard: Vec::new(),
            };
            for row in rows.iter().filter(|row| row.keys[0] != "subscribe") {
                attempts.push(stand.attempt(row));
            }
            if caller == "device" {
                // What came on its own topics in between.
                assert!(
                    stand.heard.iter().all(|heard| !heard.payload.starts_with("forged")),
                    "{:?}",
                    stand.heard
                );
            }
        }
    }
    judge(&attempts, &gallery, &mut differences);
    // Nothing was left behind either.
    let later = listen(&troupe, "admin", &["fleet/v1/default/#", "fleet/v1/server/+"]);
    assert!(later.waits_for(|heard| heard.topic.starts_with("fleet/v1/server/")));
    std::thread::sleep(QUIET);
    for heard in later.heard().iter().filter(|heard| heard.retain && heard.payload.starts_with("forged")) {
        assert_eq!(heard.topic, PRESENCE, "{heard:?} is retained");
    }
    differences.none("fleetd/tests/access/mqtt.txt");
}

#[test]
fn everybody_hears_over_mqtt_what_the_table_says_and_nothing_else() {
    let (callers, rows) = table::read(TABLE, 2);
    let troupe = Troupe::start();
    let ours = listen(&troupe, "admin", &["fleet/v1/default/#", "fleet/v1/server/+"]);
    let instance = instance(&ours);
    let mut differences = Differences::default();
    let subscribes: Vec<&Row> = rows.iter().filter(|row| row.keys[0] == "subscribe").collect();
    for caller in callers.iter().filter(|caller| *caller != "fleetd") {
        for version in BOTH {
            let mut stand = Stand {
                troupe: &troupe,
                caller,
                version,
                instance: &instance,
                client: None,
                heard: Vec::new(),
            };
            stand.subscribe(&subscribes, &mut differences);
            stand.listen(&subscribes, &ours, &mut differences);
        }
    }
    // What the server itself publishes has been seen by now.
    for row in rows.iter().filter(|row| row.keys[0] == "publish" && row.cells["fleetd"] == "yes") {
        let topic = troupe.topic(&row.keys[1], "operator", &instance);
        if !ours.waits_for(|heard| heard.topic == topic) {
            differences.note(row, "fleetd", "yes", "nothing from the server");
        }
    }
    differences.none("fleetd/tests/access/mqtt.txt");
}

/// The name of the server's own topic.
fn instance(witness: &Witness) -> String {
    let of = |heard: &Heard| heard.topic.strip_prefix("fleet/v1/server/").map(str::to_owned);
    assert!(witness.waits_for(|heard| of(heard).is_some()), "the server says that it is there");
    witness.heard().iter().find_map(of).unwrap()
}

/// Compares what was tried with the table and with what was delivered.
fn judge(attempts: &[Attempt<'_>], gallery: &Gallery, differences: &mut Differences) {
    let is_it = |attempt: &Attempt<'_>, heard: &Heard| heard.payload == attempt.payload;
    let delivered =
        |attempt: &&Attempt<'_>| attempt.row.cells[attempt.caller] == "yes" && attempt.answer == "yes";
    // In the order of sending: once one does not come, the others are not waited for.
    attempts.iter().filter(delivered).all(|attempt| {
        let witness =
            if attempt.topic.starts_with("fleet/v1/other/") { &gallery.theirs } else { &gallery.ours };
        witness.waits_for(|heard| is_it(attempt, heard))
    });
    std::thread::sleep(QUIET);
    let heard = gallery.heard();
    for attempt in attempts {
        let expected = &attempt.row.cells[attempt.caller];
        let topics: BTreeSet<&str> =
            heard.iter().filter(|heard| is_it(attempt, heard)).map(|heard| heard.topic.as_str()).collect();
        let found = match attempt.answer.as_str() {
            "yes" if topics.is_empty() => "dropped".to_owned(),
            "yes" if topics.iter().eq([&attempt.topic]) => "yes".to_owned(),
            answer if topics.is_empty() => answer.to_owned(),
            answer => format!("{answer}, and delivered on {topics:?}"),
        };
        if found != *expected {
            differences.note(
                attempt.row,
                attempt.caller,
                expected,
                &format!("{found} ({:?})", attempt.version),
            );
        }
    }
}

/// One caller with one version of MQTT.
struct Stand<'a> {
    troupe: &'a Troupe,
    caller: &'a str,
    version: Version,
    instance: &'a str,
    client: Option<Client>,
    heard: Vec<Heard>,
}

impl<'a> Stand<'a> {
    fn topic(&self, row: &Row) -> String {
        self.troupe.topic(&row.keys[1], self.caller, self.instance)
    }

    fn attempt(&mut self, row: &'a Row) -> Attempt<'a> {
        let topic = self.topic(row);
        let payload = format!("forged-{}", self.troupe.number());
        let answer = match row.keys[0].as_str() {
            "publish" => self.publish(&topic, &payload, false),
            "retain" => self.publish(&topic, &payload, true),
            "will" => self.will(&topic, &payload, false),
            "retained-will" => self.will(&topic, &payload, true),
            action => panic!("{action}"),
        };
        Attempt { row, caller: self.caller, version: self.version, topic, payload, answer }
    }

    fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> String {
        let join = || self.troupe.join(self.caller, self.version);
        let mut client = self.client.take().unwrap_or_else(join);
        let mut publish = Publish::new(topic, payload).qos(1, client.next_id());
        publish.retain = retain;
        client.send(publish.encode(self.version));
        let answer = self.answer(&mut client, |packet| match packet {
            Received::PubAck { id, code } if *id == publish.id => Some(*code),
            _ => None,
        });
        if answer.is_some() {
            self.client = Some(client);
        }
        match (self.version, answer) {
            // No matching subscribers is a success as well.
            (_, Some(0 | 0x10)) => "yes".to_owned(),
            (Version::V5, Some(0x87)) | (Version::V311, None) => "no".to_owned(),
            (_, other) => format!("{other:#04x?}"),
        }
    }

    fn will(&mut self, topic: &str, payload: &str, retain: bool) -> String {
        let (topic, payload) = (topic.to_owned(), payload.as_bytes().to_vec());
        let will = Will { topic, payload, qos: 1, retain, properties: Vec::new() };
        let connect = self.troupe.connect(self.caller, self.version).will(will);
        // A device has one connection.
        self.client = None;
        let (client, code, _) = Client::attempt(self.troupe.server.mqtt, &connect);
        client.reset();
        match (self.version, code) {
            (_, 0) => "yes".to_owned(),
            (Version::V5, 0x87) | (Version::V311, 5) => "no".to_owned(),
            (_, other) => format!("{other:#04x}"),
        }
    }

    /// Waits for a packet and takes in what else comes; `None` if the connection ends.
    fn answer(&mut self, client: &mut Client, is_it: impl Fn(&Received) -> Option<u8>) -> Option<u8> {
        loop {
            match client.wait(PATIENCE) {
                Outcome::Packet(Received::Publish { topic, payload, qos, retain, id, .. }) => {
                    if qos == 1 {
                        client.try_send(wire::acknowledge(kind::PUBACK, id));
                    }
                    let payload = String::from_utf8_lossy(&payload.0).into_owned();
                    self.heard.push(Heard { topic, payload, retain });
                }
                Outcome::Packet(packet) => {
                    if let Some(code) = is_it(&packet) {
                        return Some(code);
                    }
                }
                Outcome::Closed => return None,
                Outcome::Silence => panic!("no answer for {} by {:?}", self.caller, self.version),
            }
        }
    }

    /// Subscribes to every filter of the table, each by itself, on one connection.
    fn subscribe(&mut self, rows: &[&Row], differences: &mut Differences) {
        let mut client =
            Client::connect(self.troupe.server.mqtt, &self.troupe.connect(self.caller, self.version));
        for row in rows {
            let id = client.next_id();
            client.send(wire::subscribe(self.version, id, &[(self.topic(row), 1)], &[]));
            let code = self.answer(&mut client, |packet| match packet {
                Received::SubAck { id: of, codes } if *of == id => Some(codes[0]),
                _ => None,
            });
            let expected = row.cells[self.caller].as_str();
            let right = match (self.version, expected) {
                (_, "yes") => 1,
                (Version::V311, _) => 0x80,
                (Version::V5, "unsupported") => 0x9e,
                (Version::V5, _) => 0x87,
            };
            if code != Some(right) {
                differences.note(row, self.caller, expected, &format!("{code:#04x?} ({:?})", self.version));
            }
        }
        self.client = Some(client);
    }

    /// Lets everybody say something, and compares what was heard of it.
    fn listen(&mut self, rows: &[&Row], ours: &Witness, differences: &mut Differences) {
        let mut client = self.client.take().unwrap();
        let number = self.troupe.number();
        let mark = format!("heard-{number}");
        let mut said = BTreeSet::new();
        let mut say = |client: &mut Client, topic: String, payload: &[u8]| {
            let id = client.next_id();
            client.send(Publish::new(&topic, payload).qos(1, id).encode(Version::V5));
            loop {
                match client.receive() {
                    Received::PubAck { id: of, code } if of == id => {
                        break assert!(code < 0x80, "{topic}: {code:#04x}");
                    }
                    Received::Publish { id, qos: 1, .. } => client.send(wire::acknowledge(kind::PUBACK, id)),
                    _ => {}
                }
            }
            if payload == mark.as_bytes() {
                said.insert(topic);
            }
        };
        // A caller that is a device keeps its one connection: its own part nobody plays.
        let is_alone = |role: &str| role == self.caller && matches!(role, "device" | "stranger");
        let mut play = |role: &str, topics: &[&str]| {
            let mut actor =
                Some(role).filter(|role| !is_alone(role)).map(|role| self.troupe.join(role, Version::V5))?;
            for topic in topics {
                say(&mut actor, self.troupe.topic(topic, role, self.instance), mark.as_bytes());
            }
            if role == "device" {
                let topic = self.troupe.topic("fleet/v1/default/device/{device}/birth", role, "");
                say(&mut actor, topic, &codec::encode_packed(&process::birth(number as u64)).unwrap());
            }
            Some(actor)
        };
        let leaves = ["birth", "presence", "heartbeat", "status", "reported", "log", "event"];
        let ups = leaves.map(|leaf| format!("fleet/v1/default/device/{{device}}/{leaf}"));
        let device = play("device", &ups.each_ref().map(String::as_str));
        play("stranger", &["fleet/v1/other/device/{stranger}/heartbeat"]);
        play("operator2", &[OWN_COMMAND]);
        play("operator", &[OWN_COMMAND]);
        let mut asks = self.troupe.join("operator", Version::V5);
        let ping = format!(r#"{{"to": "cam-device", "type": "ping", "ref": "{mark}"}}"#);
        say(&mut asks, self.troupe.topic(OWN_COMMAND, "operator", ""), ping.as_bytes());
        // It is sent to a device that is there and was born.
        let status = if device.is_some() { r#""status":"sent""# } else { r#""status":"accepted""# };
        assert!(ours.waits_for(|heard| {
            heard.topic.ends_with("/the-operator/result")
                && [&mark, status].iter().all(|part| heard.payload.contains(*part))
        }));
        std::thread::sleep(QUIET);
        client.send([kind::PINGREQ, 0]);
        self.answer(&mut client, |packet| matches!(packet, Received::PingResp).then_some(0)).unwrap();
        let heard = std::mem::take(&mut self.heard);
        for row in rows.iter().filter(|row| !row.keys[1].contains(['+', '#', '$'])) {
            let (topic, expected) = (self.topic(row), row.cells[self.caller].as_str());
            let came = heard.iter().any(|heard| heard.topic == topic);
            let marked = heard.iter().any(|heard| heard.topic == topic && heard.payload == mark);
            if came && expected != "yes" {
                differences.note(row, self.caller, expected, &format!("a message ({:?})", self.version));
            }
            if said.contains(&topic) && expected == "yes" && !marked {
                differences.note(row, self.caller, "yes: a message", &format!("none ({:?})", self.version));
            }
        }
        let known: Vec<String> = rows.iter().map(|row| self.topic(row)).collect();
        let strange =
            heard.iter().find(|heard| !known.contains(&heard.topic) && !self.may_see_all(&heard.topic));
        assert!(strange.is_none(), "{} heard {strange:?}", self.caller);
    }

    /// Whether a topic that is not in the table is of an organisation of which this caller sees everything, or one of many
    /// devices that it sees.
    fn may_see_all(&self, topic: &str) -> bool {
        match self.caller {
            "admin" | "super" => topic.starts_with("fleet/v1/default/"),
            "other-admin" => topic.starts_with("fleet/v1/other/"),
            "device" | "sibling" | "stranger" => false,
            _ => topic.starts_with("fleet/v1/default/view/"),
        }
    }
}
