//! Devices over HTTP exchange: a real server, real requests, and people's MQTT tools beside them.
#![allow(clippy::unwrap_used)]

mod process;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use process::{
    Mqtt, PASSWORD, STATE, Server,
    commands::Stage,
    eventually,
    exchange::{Answered, Line, ack, command, said},
    heartbeat, register,
};
use protocol::{
    codec::{self, limit},
    message::{Exchange, ExchangeMessage, Heartbeat, Presence},
};
use serde_json::{Value, json};

/// Well below the wait of a poll, and long enough for a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn line(stage: &Stage, connection: u64) -> Line {
    Line::new(stage.server.http, "cam-1", &stage.token, connection)
}

fn shown(stage: &Stage) -> Value {
    stage.http("GET", "/api/v1/devices/cam-1", None).1
}

/// A request of the device with a long wait, up to its body of so many bytes.
fn announce(stage: &Stage, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(stage.server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!(
        "POST /api/v1/devices/cam-1/exchange?wait_seconds=55 HTTP/1.1\r\nhost: x\r\ncontent-type: application/cbor\r\n\
         x-device-token: {}\r\ncontent-length: {bytes}\r\n\r\n",
        stage.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn first_line(stream: &mut TcpStream) -> String {
    let mut answer = [0; 64];
    let read = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// A poll of 55 s on a thread of its own that waits at the server.
fn poll(line: Line) -> std::thread::JoinHandle<(Answered, Duration)> {
    let begun = Instant::now();
    let poll = std::thread::spawn(move || (line.ask(55, vec![]), begun.elapsed()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!poll.is_finished(), "it waits");
    poll
}

#[test]
fn what_a_device_says_takes_the_way_of_mqtt_and_the_answer_comes_back() {
    let stage = Stage::new();
    let watcher = Mqtt::connect(
        &stage.server,
        "watcher",
        "default/admin",
        PASSWORD,
        &["fleet/v1/default/device/cam-1/heartbeat", "fleet/v1/default/device/cam-1/presence"],
        None,
    );
    let line = line(&stage, 1);
    assert_eq!(line.begin().len(), 0);
    let online = codec::encode_packed(&Presence { state_id: STATE, connection: 1, online: true }).unwrap();
    assert_eq!(line.ask(0, vec![said("presence", online)]).0, 200);
    line.heartbeat(1);
    let device = shown(&stage);
    assert_eq!((&device["transport"], &device["status"]), (&json!("https"), &json!("online")));
    assert_eq!(device["ip_address"], "127.0.0.1");
    assert_eq!(stage.metric("fleet_broker_connections_exchange"), 1);
    // Everybody who listens hears it.
    watcher.wait("the heartbeat", |topic, payload| {
        topic.ends_with("/heartbeat").then(|| codec::decode::<Heartbeat>(payload, 8192).unwrap().seq)
    });
    // A record again is acknowledged again, and stored once; a batch with packed and with named records is one as well.
    line.heartbeat(1);
    let records =
        [codec::encode_packed(&heartbeat(2, 1)).unwrap(), codec::encode_named(&heartbeat(3, 1)).unwrap()];
    let batch = codec::batch(records.iter().map(Vec::as_slice));
    line.next(vec![said("heartbeat", batch)], "both", |message| {
        ack(message).filter(|ranges| ranges.contains(3))
    });
    assert_eq!(stage.http("GET", "/api/v1/devices/cam-1/heartbeats", None).1["total"], 3);
    // Goodbye: at once, and once.
    let offline = codec::encode_packed(&Presence { state_id: STATE, connection: 1, online: false }).unwrap();
    assert_eq!(line.ask(0, vec![said("presence", offline)]).0, 200);
    eventually("it has left", || (stage.metric("fleet_broker_connections_exchange") == 0).then_some(()));
    assert_eq!(stage.metric("fleet_broker_wills_total"), 0);
    assert_eq!(line.ask(0, vec![said("heartbeat", vec![0xa0])]).0, 409);
    eventually("it is offline", || (shown(&stage)["status"] == "offline").then_some(()));
}

#[test]
fn what_a_newer_agent_says_is_kept_and_acknowledged_and_what_cannot_be_read_is_poison() {
    let stage = Stage::new();
    let line = line(&stage, 1);
    line.begin();
    // {0: 7, 1: 1}: a record on a topic that nobody knows yet, and {0: 8, 1: "x"}: no heartbeat.
    let said_both =
        vec![said("radar/blips", vec![0xa2, 0, 7, 1, 1]), said("heartbeat", vec![0xa2, 0, 8, 1, 0x61, b'x'])];
    line.next(said_both, "both", |message| {
        ack(message).filter(|ranges| ranges.contains(7) && ranges.contains(8))
    });
    assert_eq!(stage.metric("fleet_records_poison_total"), 2);
}

#[test]
fn a_waiting_request_hears_of_a_command_at_once_and_the_command_runs_to_its_end() {
    let stage = Stage::new();
    line(&stage, 1).begin();
    let waiting = poll(line(&stage, 1));
    let made = stage.http("POST", "/api/v1/devices/cam-1/commands", Some(json!({"type": "ping"}))).1;
    assert_eq!(made["status"], "sent", "{made}");
    let ((status, told, _), took) = waiting.join().unwrap();
    assert!(status == 200 && took < SOON, "{took:?}");
    let run = told.0.iter().find_map(command).unwrap();
    assert_eq!(made["id"], run.id.as_str());
    let line = line(&stage, 1);
    for (number, state) in ["acked", "running", "completed"].into_iter().enumerate() {
        line.report(run.id.as_str(), 10 + number as u64, number as u32 + 1, state);
    }
    let ended = stage.http("GET", &format!("/api/v1/commands/{}", run.id), None).1;
    assert_eq!(ended["status"], "completed");
    // It speaks by exchange: the poll of devices that know nothing else is not for it.
    stage.http("POST", "/api/v1/devices/cam-1/commands", Some(json!({"type": "ping"})));
    let url = format!("http://{}/api/v1/devices/cam-1/commands?status=pending", stage.server.http);
    let mut polled = ureq::get(&url).header("x-device-token", &stage.token).call().unwrap();
    assert_eq!(polled.body_mut().read_to_string().unwrap(), "[]");
    // An answer that was lost: the command is sent again.
    let lost = line.run();
    let again = line.run();
    assert_eq!(lost.id, again.id);
}

#[test]
fn a_request_waits_as_long_as_it_says_and_a_newer_one_takes_its_place() {
    let stage = Stage::new();
    line(&stage, 1).begin();
    // What else there is for it after a birth.
    while !line(&stage, 1).ask(2, vec![]).1.0.is_empty() {}
    let begun = Instant::now();
    assert_eq!(line(&stage, 1).ask(2, vec![]).1, Exchange::default());
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(line(&stage, 1).ask(0, vec![]).1, Exchange::default());
    let older = poll(line(&stage, 1));
    let newer = poll(line(&stage, 1));
    let ((status, told, _), took) = older.join().unwrap();
    assert!((status, told) == (200, Exchange::default()) && took < SOON, "{took:?}");
    // A client that has gone is not told anything: the command goes to the one that waits.
    let mut gone = announce(&stage, 1);
    gone.write_all(&[0x80]).unwrap();
    let ((status, told, _), _) = newer.join().unwrap();
    assert_eq!((status, told), (200, Exchange::default()));
    drop(gone);
    std::thread::sleep(Duration::from_millis(300));
    stage.http("POST", "/api/v1/devices/cam-1/commands", Some(json!({"type": "ping"})));
    let ((_, told, _), took) = poll_now(line(&stage, 1));
    assert!(
        told.0.iter().any(|message| command(message).is_some()) && took < SOON,
        "{told:?} after {took:?}"
    );
}

fn poll_now(line: Line) -> (Answered, Duration) {
    let begun = Instant::now();
    (line.ask(55, vec![]), begun.elapsed())
}

#[test]
fn a_device_has_one_way_at_a_time_and_its_last_birth_says_which() {
    let stage = Stage::new();
    let over_mqtt = stage.device(1);
    assert_eq!(shown(&stage)["transport"], "mqtt");
    line(&stage, 2).begin();
    assert_eq!(shown(&stage)["transport"], "https");
    assert_eq!(stage.metric("fleet_broker_connections_devices"), 1);
    let waiting = poll(line(&stage, 2));
    over_mqtt.publish("birth", vec![0xa0]);
    assert_eq!(over_mqtt.all(Duration::from_millis(500)).len(), 0, "that connection has ended");

    let over_mqtt = stage.device(3);
    let ((status, ..), took) = waiting.join().unwrap();
    assert!(status == 409 && took < SOON, "{status} after {took:?}");
    assert_eq!(
        line(&stage, 2).ask(0, vec![said("heartbeat", vec![0xa0])]).0,
        409,
        "nothing is taken without a birth"
    );
    assert_eq!(stage.metric("fleet_broker_connections_devices"), 1);
    let id =
        stage.http("POST", "/api/v1/devices/cam-1/commands", Some(json!({"type": "ping"}))).1["id"].clone();
    assert_eq!(over_mqtt.run().id.as_str(), id);
    // The will of the connection that was replaced came after the birth that replaced it: it says nothing.
    assert_eq!(shown(&stage)["status"], "online");

    // A copy of the device: the other one's requests are not taken for this one's.
    line(&stage, 4).begin();
    line(&stage, 5).begin();
    assert_eq!(line(&stage, 4).ask(55, vec![]).0, 409);
    assert_eq!(line(&stage, 5).ask(0, vec![]).0, 200);
    // After a restart that came without a goodbye the device asks first whether the way is free.
    assert_eq!(line(&stage, 6).ask(0, vec![]), (200, Exchange::default(), String::new()));
    line(&stage, 6).begin();
}

#[test]
fn a_token_that_dies_ends_a_waiting_request_within_a_second() {
    let stage = Stage::new();
    type Change<'a> = (&'a str, &'a str);
    let changes: [Change<'_>; 2] =
        [("POST", "/api/v1/devices/cam-1/rotate-token"), ("DELETE", "/api/v1/devices/cam-1")];
    let mut token = stage.token.clone();
    for (method, path) in changes {
        Line::new(stage.server.http, "cam-1", &token, 1).begin();
        while !Line::new(stage.server.http, "cam-1", &token, 1).ask(2, vec![]).1.0.is_empty() {}
        let waiting = poll(Line::new(stage.server.http, "cam-1", &token, 1));
        let begun = Instant::now();
        let (status, changed) = stage.http(method, path, None);
        assert!(status < 300, "{changed}");
        let ((status, _, problem), _) = waiting.join().unwrap();
        // Signing in takes its time as well.
        assert!(status == 401 && begun.elapsed() < Duration::from_secs(4), "{status} {problem}");
        assert_eq!(Line::new(stage.server.http, "cam-1", &token, 2).ask(0, vec![]).0, 401);
        eventually("it has left", || (stage.metric("fleet_broker_connections_devices") == 0).then_some(()));
        token = changed["token"].as_str().unwrap_or_default().to_owned();
    }
}

#[test]
fn without_a_birth_nothing_is_taken_and_whoever_asks_whether_the_way_is_free_is_told() {
    let stage = Stage::new();
    let line = line(&stage, 1);
    assert_eq!(line.ask(0, vec![]).0, 200);
    let (status, _, problem) = line.ask(1, vec![]);
    assert!(status == 409 && problem.contains("begin with a birth"), "{problem}");
    assert_eq!(line.ask(0, vec![said("heartbeat", codec::encode_packed(&heartbeat(1, 1)).unwrap())]).0, 409);
    assert_eq!(line.ask(0, vec![said("birth", vec![0x80])]).0, 409);
    assert_eq!(line.ask(0, vec![]).0, 200);
    assert_eq!(stage.metric("fleet_births_total"), 0);
}

#[test]
fn what_is_too_large_unreadable_or_not_its_own_is_refused_and_harms_nobody() {
    let stage = Stage::new();
    let other = register(stage.data.path(), "cam-2");
    let line = line(&stage, 1);
    line.begin();
    // By what is announced: the body is not waited for.
    let mut large = announce(&stage, limit::EXCHANGE_BYTES + 1);
    assert!(first_line(&mut large).starts_with("HTTP/1.1 413"));
    for bad in [&b""[..], &[0xff], b"[]", &[0x81], &[0x81, 0x81, 0x60], &[0x81, 0x82, 0, 0x40], &[0x80, 0x80]]
    {
        let (status, _, problem) = line.post("", bad);
        assert_eq!(status, 400, "{bad:?}: {problem}");
    }
    let many = Exchange(vec![said("log", vec![]); limit::EXCHANGE_MESSAGES + 1]);
    assert_eq!(line.post("", &codec::encode_packed(&many).unwrap()).0, 400);
    // 200,000 levels deep.
    assert_eq!(line.post("", &vec![0x81; 200_000]).0, 400);
    for query in
        ["?wait_seconds=56", "?wait_seconds=-1", "?wait=1", "?connection=x", "?wait_seconds=1&wait_seconds=1"]
    {
        assert_eq!(line.post(query, &[0x80]).0, 400, "{query}");
    }
    for suffix in ["command", "ack", "+", "#", "", "\u{0}", "heartbeat/#", "../cam-2/heartbeat"] {
        let (status, ..) = line.ask(0, vec![said(suffix, vec![0xa0])]);
        assert!(status == 403 || suffix.starts_with("..") && status == 200, "{suffix:?}: {status}");
    }
    // Another device's path, and nobody's; another type; people.
    let as_other = Line { token: other, ..Line::new(stage.server.http, "cam-1", "", 1) };
    assert_eq!(as_other.ask(0, vec![]).0, 403);
    assert_eq!(
        Line { token: "x".into(), ..Line::new(stage.server.http, "cam-1", "", 1) }.ask(0, vec![]).0,
        401
    );
    let (status, _) = stage.http("POST", "/api/v1/devices/cam-1/exchange", Some(json!([])));
    assert_eq!(status, 403);
    let url = format!("http://{}/api/v1/devices/cam-1/exchange", stage.server.http);
    let request =
        ureq::post(&url).header("content-type", "application/json").header("x-device-token", &line.token);
    assert!(matches!(request.send("[]"), Err(ureq::Error::StatusCode(415))));
    // Still there.
    line.heartbeat(1);
    assert_eq!(stage.http("GET", "/api/v1/devices/cam-1/heartbeats", None).1["total"], 1);
}

#[test]
fn a_body_that_does_not_arrive_is_not_waited_for() {
    let stage = Stage::new();
    line(&stage, 1).begin();
    let mut slow = announce(&stage, 1000);
    slow.write_all(&[0x81]).unwrap();
    line(&stage, 1).heartbeat(1);
    assert!(first_line(&mut slow).starts_with("HTTP/1.1 408"));
}

#[test]
fn a_server_that_stops_answers_and_one_that_is_back_asks_for_a_birth() {
    let stage = Stage::new();
    line(&stage, 1).begin();
    while !line(&stage, 1).ask(2, vec![]).1.0.is_empty() {}
    let waiting = poll(line(&stage, 1));
    let Stage { data, server, token } = stage;
    assert!(server.terminate());
    let ((status, told, _), took) = waiting.join().unwrap();
    assert!(status == 200 && took < SOON, "{status} after {took:?}");
    let ExchangeMessage(suffix, said) = &told.0[0];
    assert!(suffix.starts_with("server/"), "{suffix}");
    let said: Value = serde_json::from_slice(&said.0).unwrap();
    assert_eq!(said["online"], false);
    let server = Server::start(data.path());
    let line = Line::new(server.http, "cam-1", &token, 1);
    assert_eq!(line.ask(55, vec![]).0, 409);
    line.begin();
    line.heartbeat(1);
}
