//! The ways to the server from the best to the last resort, with real processes: where the network lets only HTTP through, where it
//! wants a login first, through a proxy; what is done over HTTP exchange, and the way back up.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use end_to_end::{
    Agent, Api, BlackHole, ConnectProxy, Direction, Flow, Front, Machine, Manners, Proxy, Server, free_port,
    wait_for,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// A server that speaks no MQTT to devices.
fn without_mqtt() -> Server {
    Server::start_with(&[("FLEET_MQTT_LISTEN", ""), ASKED_OFTEN])
}

/// The tests look more often than a person may.
const ASKED_OFTEN: (&str, &str) = ("FLEET_RATE_LIMIT_REQUESTS", "1000000");

#[track_caller]
fn connected_over(api: &Api, transport: &str) {
    wait_for(transport, SOON, || {
        let device = api.device("studio-001");
        (device["transport"] == transport && device["status"] == "online").then_some(())
    });
}

/// The events that the server has stored of the device.
fn events(server: &Server) -> Vec<(String, Value)> {
    let file = server.data_dir().join("fleet.db");
    let database =
        rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows = database.prepare("SELECT kind, details FROM device_events ORDER BY seq").unwrap();
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let found = rows.query_map([], read).unwrap().map(Result::unwrap);
    found
        .map(|(kind, details)| {
            (kind, serde_json::from_str(&details.unwrap_or_default()).unwrap_or(Value::Null))
        })
        .collect()
}

/// Every heartbeat once, and no number that the agent has used is missing once it has nothing more to send.
fn nothing_is_lost_and_nothing_twice(api: &Api, agent: &Agent) {
    wait_for("an empty outbox", SOON, || {
        let status = agent.status()?["status"].take();
        let last = *agent.outbox_seqs().last()?;
        let committed = api.committed("studio-001");
        (status["connection"] == "connected" && (1..=last).all(|seq| committed.contains(&seq))).then_some(())
    });
    let seqs = api.heartbeat_seqs("studio-001");
    assert_eq!(seqs.len(), seqs.iter().collect::<BTreeSet<_>>().len(), "stored twice: {seqs:?}");
}

#[test]
fn every_command_and_a_new_token_take_their_course_over_http_exchange() {
    let (server, machine) = (without_mqtt(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.script("greet", "");
    agent.start();
    let api = server.api();
    connected_over(&api, "http");
    wait_for("the status on site", SOON, || {
        let text = String::from_utf8(agent.run(&["status"], "").stdout).unwrap();
        text.contains("by HTTP exchange, the last resort").then_some(())
    });
    let run = |request: Value| {
        let done = api.wait_for_command(&api.command("studio-001", &request), ENDED, SOON);
        assert_eq!(done["status"], "completed", "{done:#}");
        let states = done["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["status"].as_str().unwrap().to_owned());
        assert!(states.clone().any(|state| state == "running"), "{done:#}");
        done
    };
    run(json!({"type": "ping"}));
    run(json!({"type": "restart_service", "payload": {"service": "r58-api"}}));
    run(json!({"type": "custom", "payload": {"script": "greet", "args": ["hall"]}}));
    run(json!({"type": "config", "payload": {"changes": {"R58_DEBUG": "true"}}}));
    assert_eq!(machine.effects(), ["restart r58-api", "greet hall"]);
    // The config in force is reported after the command has ended.
    wait_for("the config in force", SOON, || {
        (api.get("/devices/studio-001/config")["in_sync"] == true).then_some(())
    });

    let token = || {
        let text = std::fs::read_to_string(agent.config_file()).unwrap();
        text.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN=")).unwrap().to_owned()
    };
    let before = token();
    run(json!({"type": "rotate_token"}));
    assert_ne!(before, token());
    assert!(!agent.log().contains(&before) && !agent.log().contains(&token()));
    run(json!({"type": "ping"}));

    // What waits for the end of a show waits here as well, and can be called back.
    machine.app_says("recording");
    let held =
        api.command("studio-001", &json!({"type": "restart_service", "payload": {"service": "r58-api"}}));
    api.wait_for_command(&held, &["held"], SOON);
    api.post(&format!("/commands/{held}/cancel"), &json!({}));
    assert_eq!(api.wait_for_command(&held, ENDED, SOON)["status"], "cancelled");
    machine.app_says("idle");

    // A reboot is reported from the boot after it.
    let reboot = api.command("studio-001", &json!({"type": "reboot"}));
    api.wait_for_command(&reboot, &["running"], SOON);
    wait_for("the reboot", SOON, || (machine.count("reboot") == 1).then_some(()));
    agent.kill();
    machine.boot();
    agent.start();
    assert_eq!(api.wait_for_command(&reboot, ENDED, SOON)["status"], "completed");
    nothing_is_lost_and_nothing_twice(&api, &agent);
    assert!(agent.stop().success());
    wait_for("its goodbye", SOON, || (api.device("studio-001")["status"] == "offline").then_some(()));
}

#[test]
fn nothing_is_lost_and_nothing_stored_or_done_twice_when_server_and_agent_are_killed_during_exchange() {
    let (mut server, machine) = (without_mqtt(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let mut api = server.api();
    connected_over(&api, "http");
    for round in 0..4 {
        let id = api
            .command("studio-001", &json!({"type": "restart_service", "payload": {"service": "mediamtx"}}));
        std::thread::sleep(Duration::from_millis(150 * round));
        match round % 2 {
            0 => {
                server.kill();
                server.start_again();
                api = server.api();
            }
            _ => {
                agent.kill();
                agent.start();
            }
        }
        let done = api.wait_for_command(&id, ENDED, Duration::from_secs(120));
        assert!(done["status"] == "completed" || done["status"] == "failed", "{done:#}");
        assert!(machine.count("restart mediamtx") <= round as usize + 1, "{:?}", machine.effects());
    }
    nothing_is_lost_and_nothing_twice(&api, &agent);
    // In order: the server stops while a request waits, and is back.
    assert!(server.stop().success());
    server.start_again();
    nothing_is_lost_and_nothing_twice(&server.api(), &agent);
}

#[test]
fn a_device_goes_up_again_when_a_better_way_opens_and_tells_it() {
    let mut server = without_mqtt();
    let mut agent = Agent::enroll(&server, "studio-001").with("R58_FLEET_TEST_CLIMB_SECONDS", "2");
    agent.start();
    let api = server.api();
    connected_over(&api, "http");
    assert!(server.stop().success());
    let mqtt = format!("127.0.0.1:{}", server.mqtt_port());
    server.set("FLEET_MQTT_LISTEN", Some(&mqtt));
    server.start_again();
    let api = server.api();
    connected_over(&api, "mqtt");
    let changed = ("transport_changed".to_owned(), json!({"from": "http", "to": "mqtt"}));
    wait_for("the event", SOON, || events(&server).contains(&changed).then_some(()));
    wait_for("the line in the log", SOON, || {
        agent.log().contains("connected over mqtt now, over http before").then_some(())
    });
    nothing_is_lost_and_nothing_twice(&api, &agent);
    // The good way is remembered: the next start asks nothing else.
    assert!(agent.stop().success());
    let text = std::fs::read_to_string(agent.state_dir().join("ways.json")).unwrap();
    assert!(text.contains(&format!("mqtt://127.0.0.1:{}", server.mqtt_port())), "{text}");
    agent.start();
    connected_over(&api, "mqtt");
    assert_eq!(events(&server).iter().filter(|event| **event == changed).count(), 1);
}

#[test]
fn a_better_way_that_opens_and_leads_nowhere_is_left_for_the_good_one_at_once() {
    let server = without_mqtt();
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut agent = Agent::enroll(&server, "studio-001")
        .with("R58_FLEET_TEST_CLIMB_SECONDS", "8")
        .with("MQTT_URL", &format!("mqtt://{}", silent.local_addr().unwrap()));
    // Where it is good already.
    let ways = json!({"good": server.url()}).to_string();
    std::fs::write(agent.state_dir().join("ways.json"), ways).unwrap();
    agent.start();
    let api = server.api();
    connected_over(&api, "http");
    let began = Instant::now();
    wait_for("the attempt", SOON, || {
        agent.log().contains("a better way to the server is open").then_some(())
    });
    let before = api.heartbeat_seqs("studio-001").len();
    // It is given 30 s; what was recorded meanwhile comes right after.
    wait_for("more heartbeats", SOON, || {
        (api.heartbeat_seqs("studio-001").len() > before + 20).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(55), "{:?}", began.elapsed());
    connected_over(&api, "http");
    nothing_is_lost_and_nothing_twice(&api, &agent);
}

#[test]
fn where_only_http_gets_through_a_device_is_connected_within_two_minutes() {
    let server = Server::start_with(&[ASKED_OFTEN]);
    let (mqtts, wss) = (BlackHole::new(), BlackHole::new());
    let broker = json!({
        "mqtts_url": format!("mqtts://127.0.0.1:{}", mqtts.port()),
        "wss_url": format!("wss://127.0.0.1:{}/mqtt", wss.port()),
    });
    let front = Front::of(server.http_port(), Manners::Broker(broker.to_string()));
    let mut agent = Agent::enroll(&server, "studio-001").with("FLEET_URL", &front.url());
    let began = Instant::now();
    agent.start();
    let api = server.api();
    wait_for("http", Duration::from_secs(120), || {
        (api.device("studio-001")["transport"] == "http").then_some(())
    });
    println!(
        "connected {:.1} s after a cold start with both MQTT ports black-holed",
        began.elapsed().as_secs_f32()
    );
    // From then on at once, over restarts.
    assert!(agent.stop().success());
    let began = Instant::now();
    let before = api.heartbeat_seqs("studio-001").len();
    agent.start();
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() > before).then_some(()));
    println!("connected {:.1} s after a start with the good way remembered", began.elapsed().as_secs_f32());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_network_that_wants_a_login_first_is_told_as_such_and_left_when_it_lets_through() {
    let server = without_mqtt();
    let front = Front::of(server.http_port(), Manners::Portal);
    let mut agent = Agent::enroll(&server, "studio-001").with("FLEET_URL", &front.url());
    agent.start();
    wait_for("the reason on site", SOON, || {
        let text = String::from_utf8(agent.run(&["status"], "").stdout).unwrap();
        text.contains("if this network wants a login first").then_some(())
    });
    assert!(agent.wait_for_record_past(3) > 3, "it records all the while");
    front.now(Manners::Broker(json!({}).to_string()));
    let api = server.api();
    connected_over(&api, "http");
    nothing_is_lost_and_nothing_twice(&api, &agent);
}

#[test]
fn a_network_that_swallows_what_is_exchanged_is_noticed_within_90_s() {
    let server = without_mqtt();
    let proxy = Proxy::to(server.http_port());
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut agent =
        Agent::enroll(&server, "studio-001").with("FLEET_URL", &url).with("HEARTBEAT_INTERVAL", "3600");
    agent.start();
    let api = server.api();
    connected_over(&api, "http");
    std::thread::sleep(Duration::from_secs(3));
    proxy.set(Direction::Up, Flow::Stalled);
    proxy.set(Direction::Down, Flow::Stalled);
    let began = Instant::now();
    wait_for("the end", Duration::from_secs(90), || agent.log().contains("does not answer").then_some(()));
    println!("noticed after {:.0} s", began.elapsed().as_secs_f32());
    proxy.heal();
    wait_for("connected again", SOON, || {
        (agent.status()?["status"]["connection"] == "connected").then_some(())
    });
}

#[test]
fn enrolment_mqtts_and_wss_go_through_a_proxy_with_a_password_that_shows_nowhere() {
    let (https, mqtts) = (free_port(), free_port());
    let mut server = Server::start_with(&[ASKED_OFTEN]);
    assert!(server.stop().success());
    server.run_ok(&["tls", "init", "--name", "localhost", "--name", "127.0.0.1"], "");
    server.set("FLEET_HTTPS_LISTEN", Some(&format!("127.0.0.1:{https}")));
    server.set("FLEET_MQTTS_LISTEN", Some(&format!("127.0.0.1:{mqtts}")));
    server.set("FLEET_MQTT_LISTEN", Some(""));
    server.start_again();
    let authority = server.data_dir().join("tls/ca.pem").to_str().unwrap().to_owned();
    // base64 of ann:hush-4711
    let proxy = ConnectProxy::new("YW5uOmh1c2gtNDcxMQ==", &[https, mqtts]);
    let setting = |port: u16| format!("http://ann:hush-4711@127.0.0.1:{port}");
    let mut agent = Agent::unenrolled("studio-001").with("HTTPS_PROXY", &setting(proxy.port()));
    let url = format!("https://localhost:{https}");
    let output = agent.run(
        &["enroll", &url, "--key", "-", "--device-id", "studio-001", "--ca", &authority],
        &server.enrollment_key(),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    agent.start();
    let api = server.api();
    connected_over(&api, "mqtts");
    let (to_https, to_mqtts) = (format!("localhost:{https} 200"), format!("127.0.0.1:{mqtts} 200"));
    assert!(
        [&to_https, &to_mqtts].iter().all(|target| proxy.asked().contains(target)),
        "{:?}",
        proxy.asked()
    );
    assert!(agent.stop().success());

    // One that lets HTTPS alone through, as most do.
    let strict = ConnectProxy::new("YW5uOmh1c2gtNDcxMQ==", &[https]);
    agent.set("HTTPS_PROXY", Some(&setting(strict.port())));
    agent.start();
    connected_over(&api, "wss");
    assert!(strict.asked().contains(&format!("127.0.0.1:{mqtts} 403")), "{:?}", strict.asked());
    assert!(agent.stop().success());

    // A wrong password; then past it, where the way up is open again.
    agent.set("HTTPS_PROXY", Some(&format!("http://ann:hush-4712@127.0.0.1:{}", strict.port())));
    agent.start();
    wait_for("the reason", SOON, || {
        let text = String::from_utf8(agent.run(&["status"], "").stdout).unwrap();
        (text.contains("through the proxy 127.0.0.1") && text.contains("407")).then_some(())
    });
    assert!(agent.stop().success());
    let asked = strict.asked().len();
    agent.set("NO_PROXY", Some("localhost,127.0.0.0/8"));
    agent.set("R58_FLEET_TEST_CLIMB_SECONDS", Some("2"));
    agent.start();
    connected_over(&api, "mqtts");
    assert_eq!(strict.asked().len(), asked);
    assert!(!agent.log().contains("hush-471"), "{}", agent.log());
}
