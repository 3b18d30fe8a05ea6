//! Devices that speak only the old HTTP protocol: heartbeat, poll, PATCH, against a real server and database.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, Server};
use fleetd::domain::device::DeviceRowId;
use fleetd::service::http_devices;
use fleetd::store::Statement;
use fleetd::store::http_devices::unless_on_show;
use protocol::id::Role;
use protocol::message::rfc3339;
use serde_json::{Value, json};

struct Bench {
    server: Server,
    token: String,
}

impl Bench {
    fn start() -> Self {
        let server = Server::start();
        server.person("default", "admin", Role::Admin);
        server.person("default", "oper", Role::Operator);
        server.person("default", "eye", Role::Viewer);
        let token = server.device("admin", "old-1");
        Self { server, token }
    }

    /// What an agent of the old protocol sends, with fields that this server does not know.
    fn heartbeat(&self, recording: bool) -> Answer {
        self.heartbeat_of("old-1", &self.token, recording)
    }

    fn heartbeat_of(&self, id: &str, token: &str, recording: bool) -> Answer {
        let body = json!({
            "ts": "2025-12-28T10:00:00Z", "version": "unknown", "uptime_seconds": 86400, "agent": "legacy/0.3",
            "metrics": {"cpu_percent": 15.2, "temperature_c": null, "fan_rpm": 900},
            "status": {"recording_active": recording, "mixer_active": false, "active_inputs": [], "scene": "x"},
            "errors": [],
        });
        let path = format!("/api/devices/{id}/heartbeat");
        let answer = self.server.post(&path).by_device(token).json(&body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer
    }

    fn poll_of(&self, id: &str, token: &str) -> Vec<Value> {
        let path = format!("/api/devices/{id}/commands?status=pending");
        let answer = self.server.get(&path).by_device(token).send();
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body.as_array().unwrap().clone()
    }

    /// The ids that a poll gives.
    fn poll(&self) -> Vec<String> {
        let commands = self.poll_of("old-1", &self.token);
        commands.iter().map(|command| command["id"].as_str().unwrap().to_owned()).collect()
    }

    fn create_for(&self, device: &str, body: &Value) -> String {
        let answer =
            self.server.post(&format!("/api/v1/devices/{device}/commands")).by_person("admin").json(body);
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    fn create(&self, body: &Value) -> String {
        self.create_for("old-1", body)
    }

    fn ping(&self) -> String {
        self.create(&json!({"type": "ping"}))
    }

    fn reboot(&self) -> String {
        self.create(&json!({"type": "reboot"}))
    }

    fn report(&self, id: &str, body: &Value) -> Answer {
        self.server.call("PATCH", &format!("/api/v1/commands/{id}")).by_device(&self.token).json(body)
    }

    fn told(&self, id: &str, status: &str) -> u16 {
        self.report(id, &json!({"status": status})).status
    }

    fn command(&self, id: &str) -> Value {
        let answer = self.server.get(&format!("/api/v1/commands/{id}")).by_person("eye").send();
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.body
    }

    fn status(&self, id: &str) -> String {
        self.command(id)["status"].as_str().unwrap().to_owned()
    }

    fn held(&self, id: &str) -> String {
        self.command(id)["held_reason"].as_str().unwrap_or_default().to_owned()
    }

    fn history(&self, id: &str) -> Vec<String> {
        let history = self.command(id)["history"].as_array().unwrap().clone();
        history.iter().map(|line| line["status"].as_str().unwrap().to_owned()).collect()
    }

    fn sql(&self, sql: &str) {
        let work = self.server.app.store.apply_one(Statement::new(sql.to_owned(), Vec::new()));
        self.server.runtime.block_on(work).unwrap();
    }

    fn give_up_overdue(&self) {
        self.server.runtime.block_on(http_devices::give_up_overdue(&self.server.app)).unwrap();
    }

    fn lock(&self, path: &str) {
        let until = rfc3339(self.server.app.clock.now_ms() + 3_600_000);
        let body = json!({"until": until, "reason": "gala"});
        let answer = self.server.call("PUT", &format!("/api/v1{path}")).by_person("oper").json(&body);
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.body["in_effect"], true, "{}", answer.text);
    }
}

#[test]
fn an_agent_that_speaks_nothing_else_keeps_working_unchanged() {
    let bench = Bench::start();
    assert_eq!(bench.heartbeat(false).body["commands_pending"], 0);
    assert_eq!(bench.poll(), Vec::<String>::new());
    let body = json!({"type": "restart_service", "payload": {"service": "r58-api", }, "notes": "x"});
    let id = bench.create(&body);
    assert_eq!(bench.heartbeat(false).body["commands_pending"], 1);
    let polled = bench.poll_of("old-1", &bench.token);
    assert_eq!(polled.len(), 1);
    let command = &polled[0];
    for (field, value) in [
        ("id", json!(id)),
        ("device", json!("old-1")),
        ("type", json!("restart_service")),
        ("payload", json!({"service": "r58-api"})),
        ("status", json!("sent")),
        ("priority", json!(5)),
    ] {
        assert_eq!(command[field], value, "{field}: {command}");
    }
    // It is so in the database as well before the device is answered.
    assert_eq!(bench.status(&id), "sent");
    assert_eq!(bench.poll(), Vec::<String>::new());
    let acked = bench.report(&id, &json!({"status": "acked", "result": null, "error": null}));
    assert_eq!((acked.status, &acked.body["status"]), (200, &json!("acked")), "{}", acked.text);
    assert_eq!(bench.heartbeat(false).body["commands_pending"], 0);
    let done = bench.report(&id, &json!({"status": "completed", "result": {"exit_code": 0}}));
    assert_eq!((done.status, &done.body["result"]), (200, &json!({"exit_code": 0})), "{}", done.text);
    assert_eq!(bench.poll(), Vec::<String>::new());
    assert_eq!(bench.history(&id), ["pending", "sent", "acked", "completed"]);
    let device = bench.server.get("/api/v1/devices/old-1").by_person("eye").send().body;
    assert_eq!((&device["transport"], &device["pending_commands"]), (&json!("http"), &json!(0)));
}

#[test]
fn commands_come_by_priority_then_age_and_a_poll_takes_a_bounded_number() {
    let bench = Bench::start();
    let low = bench.create(&json!({"type": "ping", "priority": 9}));
    let first = bench.ping();
    let second = bench.ping();
    let urgent = bench.create(&json!({"type": "bundle", "priority": 1}));
    assert_eq!(bench.poll(), [urgent.as_str(), &first, &second, &low]);
    for _ in 0..60 {
        bench.create(&json!({"type": "ping", "priority": 10}));
    }
    assert_eq!((bench.poll().len(), bench.poll().len()), (50, 14), "the four of before are offered again");
}

#[test]
fn nothing_disruptive_is_handed_out_while_the_last_heartbeat_is_live() {
    let bench = Bench::start();
    bench.heartbeat(true);
    let (reboot, ping) = (bench.reboot(), bench.ping());
    assert_eq!(bench.poll(), [ping.as_str()]);
    assert_eq!((bench.status(&reboot), bench.held(&reboot)), ("pending".into(), "live".into()));
    assert_eq!(bench.told(&ping, "completed"), 200);
    for _ in 0..3 {
        bench.poll();
    }
    assert_eq!(bench.history(&reboot).len(), 2, "one line for one reason");
    let device = bench.server.get("/api/v1/devices/old-1").by_person("eye").send().body;
    assert!(device["held_reason"].as_str().unwrap().starts_with("live"), "{device}");
    bench.heartbeat(false);
    assert_eq!(bench.poll(), [reboot.as_str()]);
    assert_eq!((bench.status(&reboot), bench.held(&reboot)), ("sent".into(), String::new()));
}

#[test]
fn nothing_disruptive_is_handed_out_without_a_fresh_heartbeat() {
    let bench = Bench::start();
    let reboot = bench.reboot();
    assert_eq!((bench.poll().len(), bench.held(&reboot)), (0, "app_status_unknown".into()), "never heard");
    bench.heartbeat(false);
    bench.sql("UPDATE device_state SET last_heartbeat = last_heartbeat - 181000");
    assert_eq!(bench.poll().len(), 0);
    bench.heartbeat(false);
    assert_eq!(bench.poll(), [reboot]);
}

#[test]
fn a_lock_by_device_or_tag_holds_at_once_and_ends_by_its_time() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let reboot = bench.reboot();
    bench.lock("/devices/old-1/show-lock");
    assert_eq!((bench.poll().len(), bench.held(&reboot)), (0, "show_lock".into()));
    bench.server.call("DELETE", "/api/v1/devices/old-1/show-lock").by_person("oper").send();
    let patched = bench.server.call("PATCH", "/api/v1/devices/old-1").by_person("oper");
    assert_eq!(patched.json(&json!({"tags": ["hall"]})).status, 200);
    bench.lock("/show-locks/hall");
    bench.heartbeat(true);
    assert_eq!((bench.poll().len(), bench.held(&reboot)), (0, "show_lock".into()));
    bench.sql("UPDATE show_locks SET starts_at = 1, ends_at = 2");
    assert_eq!((bench.poll().len(), bench.held(&reboot)), (0, "live".into()), "another reason");
    assert_eq!(bench.history(&reboot).len(), 3);
    bench.heartbeat(false);
    assert_eq!(bench.poll(), [reboot]);
}

#[test]
fn a_lock_or_a_recording_that_comes_between_decision_and_commit_undoes_the_handing_out() {
    let bench = Bench::start();
    let now = bench.server.app.clock.now_ms();
    let commit = || {
        let row = bench.server.get("/api/v1/devices/old-1").by_person("eye").send().body["id"].clone();
        let device = DeviceRowId::new(row.as_str().unwrap().to_owned());
        let guard = unless_on_show(&device, now + 1000);
        bench.server.runtime.block_on(bench.server.app.store.apply_one(guard)).is_ok()
    };
    bench.heartbeat(false);
    assert!(commit());
    bench.heartbeat(true);
    assert!(!commit());
    bench.heartbeat(false);
    let patched = bench.server.call("PATCH", "/api/v1/devices/old-1").by_person("oper");
    assert_eq!(patched.json(&json!({"tags": ["hall"]})).status, 200);
    bench.lock("/show-locks/hall");
    assert!(!commit());
    bench.sql("UPDATE show_locks SET tag = 'other'");
    assert!(commit());
    bench.lock("/devices/old-1/show-lock");
    assert!(!commit());
}

#[test]
fn a_dry_run_says_what_the_next_poll_would_do() {
    let bench = Bench::start();
    let ask = || {
        let body = json!({"to": "old-1", "type": "reboot"});
        let answer = bench.server.post("/api/v1/commands?dry_run=true").by_person("oper").json(&body);
        answer.body["items"][0]["reason"].as_str().map(|text| text.split(':').next().unwrap().to_owned())
    };
    bench.heartbeat(true);
    assert_eq!(ask().as_deref(), Some("live"));
    bench.heartbeat(false);
    assert_eq!(ask(), None);
}

#[test]
fn an_override_passes_lock_show_and_silence() {
    let bench = Bench::start();
    bench.heartbeat(true);
    bench.lock("/devices/old-1/show-lock");
    let reboot = bench.reboot();
    let with_reason = bench.create(&json!({"type": "reboot", "override_show": {"reason": "it smokes"}}));
    assert_eq!(bench.poll(), [with_reason]);
    let reason = json!({"reason": "it smokes"});
    let path = format!("/api/v1/commands/{reboot}/override");
    bench.server.post(&path).by_person("oper").json(&reason).is_problem(403);
    let answer = bench.server.post(&path).by_person("admin").json(&reason);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(bench.poll(), [reboot]);
}

#[test]
fn an_operator_may_override_silence_after_ten_minutes_and_nothing_else() {
    let bench = Bench::start();
    let reboot = bench.reboot();
    assert_eq!(bench.poll().len(), 0);
    let path = format!("/api/v1/commands/{reboot}/override");
    let ask = || bench.server.post(&path).by_person("oper").json(&json!({"reason": "I stand before it"}));
    ask().is_problem(403);
    bench.sql("UPDATE command_history SET at = at - 600000");
    assert_eq!(ask().status, 200);
    assert_eq!(bench.poll(), [reboot]);
}

#[test]
fn a_command_called_back_or_expired_before_the_poll_is_never_handed_out() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let (cancelled, expired) = (bench.reboot(), bench.ping());
    bench.server.post(&format!("/api/v1/commands/{cancelled}/cancel")).by_person("oper").send();
    bench.sql(&format!("UPDATE commands SET expires_at = 1 WHERE id = '{expired}'"));
    assert_eq!(bench.poll(), Vec::<String>::new());
    assert_eq!((bench.told(&cancelled, "acked"), bench.told(&expired, "acked")), (409, 409));
}

#[test]
fn what_was_not_acknowledged_is_offered_again_at_the_second_poll_or_given_up() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let again: Vec<String> = [
        json!({"type": "ping"}),
        json!({"type": "bundle"}),
        json!({"type": "config", "payload": {"changes": {"R58_DEBUG": "1"}}}),
    ]
    .iter()
    .map(|body| bench.create(body))
    .collect();
    let reboot = bench.reboot();
    assert_eq!(bench.poll().len(), 4);
    assert_eq!(bench.poll(), Vec::<String>::new());
    assert_eq!(bench.poll(), again);
    assert_eq!((bench.poll().len(), bench.poll().len()), (0, 3));
    assert_eq!(bench.history(&again[0]), ["pending", "sent"]);
    let given_up = bench.command(&reboot);
    assert_eq!((&given_up["status"], &given_up["inferred"]), (&json!("indeterminate"), &json!(true)));
    // It is alive after all: what it says counts, once.
    assert_eq!(bench.told(&reboot, "acked"), 409, "it was given up: it is not to be begun any more");
    assert_eq!(bench.told(&reboot, "completed"), 200);
    assert_eq!((bench.told(&reboot, "completed"), bench.told(&reboot, "failed")), (200, 409));
    assert!(bench.command(&reboot).get("inferred").is_none());
    // What is acknowledged is not offered any more.
    assert_eq!(bench.told(&again[0], "acked"), 200);
    assert_eq!((bench.poll().len(), bench.poll()), (0, again[1..].to_vec()));
}

#[test]
fn an_acknowledged_command_is_given_up_its_time_limit_after_its_expiry() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let (reboot, ping) = (bench.reboot(), bench.ping());
    bench.poll();
    assert_eq!((bench.told(&reboot, "acked"), bench.told(&ping, "running")), (200, 200));
    let now = bench.server.app.clock.now_ms();
    bench.sql(&format!("UPDATE commands SET expires_at = {}", now - 60_000));
    bench.give_up_overdue();
    assert_eq!((bench.status(&reboot), bench.status(&ping)), ("acked".into(), "running".into()));
    bench.sql(&format!("UPDATE commands SET expires_at = {}", now - 121_000));
    bench.give_up_overdue();
    for id in [&reboot, &ping] {
        let command = bench.command(id);
        assert_eq!((&command["status"], &command["inferred"]), (&json!("indeterminate"), &json!(true)));
    }
    assert_eq!(bench.told(&reboot, "acked"), 200, "it repeats what is known");
    assert_eq!(bench.told(&reboot, "failed"), 200);
    assert_eq!(bench.status(&reboot), "failed");
}

#[test]
fn reports_go_forward_and_never_back() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let id = bench.ping();
    assert_eq!(bench.told(&id, "acked"), 409, "it was not handed out yet");
    bench.poll();
    let said = ["acked", "acked", "running", "acked", "failed", "failed", "acked", "completed", "running"];
    let heard: Vec<u16> = said.iter().map(|status| bench.told(&id, status)).collect();
    assert_eq!(heard, [200, 200, 200, 200, 200, 200, 200, 409, 200]);
    assert_eq!(bench.history(&id), ["pending", "sent", "acked", "running", "failed"]);
    for (bad, field) in [
        (json!({"status": "done"}), "status"),
        (json!({"status": "sent"}), "status"),
        (json!({}), "status"),
        (json!({"status": "completed", "progress": 5}), "progress"),
        (json!({"status": "completed", "result": "x".repeat(33_000)}), "result"),
    ] {
        assert_eq!(bench.report(&id, &bad).is_problem(422).fields(), [field]);
    }
    bench.report(&id, &json!({"status": "completed", "result": "x".repeat(70_000)})).is_problem(413);
    bench.report(&id, &json!(["acked"])).is_problem(422);
}

#[test]
fn a_device_answers_for_its_own_commands_alone() {
    let bench = Bench::start();
    let other = bench.server.device("admin", "old-2");
    let id = bench.ping();
    bench.poll();
    let path = format!("/api/v1/commands/{id}");
    let acked = json!({"status": "acked"});
    bench.server.call("PATCH", &path).by_device(&other).json(&acked).is_problem(404);
    bench.server.call("PATCH", "/api/v1/commands/nope").by_device(&other).json(&acked).is_problem(404);
    for person in ["eye", "oper", "admin"] {
        bench.server.call("PATCH", &path).by_person(person).json(&acked).is_problem(403);
    }
    bench.server.call("PATCH", &path).json(&acked).is_problem(401);
    let poll = "/api/v1/devices/old-1/commands?status=pending";
    bench.server.get(poll).by_device(&other).send().is_problem(403);
    bench
        .server
        .get("/api/v1/devices/old-1/commands?status=sent")
        .by_device(&bench.token)
        .send()
        .is_problem(400);
    // For people the same path is a list.
    assert_eq!(bench.server.get(poll).by_person("eye").send().body["total"], 0);
    assert_eq!(bench.status(&id), "sent");
}

#[test]
fn a_device_that_waits_for_approval_gets_nothing() {
    let bench = Bench::start();
    bench.sql("UPDATE devices SET approval = 'awaiting'");
    let id = bench.ping();
    assert_eq!(bench.heartbeat(false).body["commands_pending"], 0);
    assert_eq!((bench.poll().len(), bench.status(&id)), (0, "pending".into()));
    bench.server.post("/api/v1/devices/old-1/approve").by_person("admin").send();
    assert_eq!(bench.poll(), [id]);
}

#[test]
fn after_a_birth_the_poll_is_empty_until_ten_minutes_after_the_last_connection() {
    let bench = Bench::start();
    bench.heartbeat(false);
    let (first, second) = (bench.ping(), bench.ping());
    let now = bench.server.app.clock.now_ms();
    bench.sql(&format!("UPDATE device_state SET birth_at = {now}, connected_at = {now}"));
    bench.heartbeat(false);
    assert_eq!((bench.poll().len(), bench.status(&first)), (0, "pending".into()));
    // One of them went by MQTT meanwhile: it stays there.
    bench.sql(&format!("UPDATE commands SET status = 'sent', bound = 'mqtt' WHERE id = '{first}'"));
    bench.sql(&format!("UPDATE device_state SET connected_at = {}", now - 600_000));
    assert_eq!(bench.poll(), [second]);
    assert_eq!((bench.poll().len(), bench.poll().len()), (0, 1));
    assert_eq!(bench.told(&first, "acked"), 409);
    assert_eq!(bench.status(&first), "sent");
}

#[test]
fn of_a_redundancy_group_one_device_is_disrupted_at_a_time_and_none_while_a_partner_is_away() {
    let bench = Bench::start();
    let other = bench.server.device("admin", "old-2");
    for id in ["old-1", "old-2"] {
        let patched = bench.server.call("PATCH", &format!("/api/v1/devices/{id}")).by_person("oper");
        assert_eq!(patched.json(&json!({"redundancy_group": "pair"})).status, 200);
    }
    bench.heartbeat(false);
    let (first, second) = (bench.reboot(), bench.reboot());
    assert_eq!(
        (bench.poll().len(), bench.held(&first)),
        (0, "awaiting_lease".into()),
        "the partner is offline"
    );
    bench.heartbeat_of("old-2", &other, false);
    let theirs = bench.create_for("old-2", &json!({"type": "reboot"}));
    assert_eq!(bench.poll(), [first.as_str()], "one of the two");
    assert_eq!(bench.held(&second), "awaiting_lease");
    assert_eq!(bench.poll_of("old-2", &other).len(), 0);
    assert_eq!(bench.held(&theirs), "awaiting_lease");
    // Also an override does not pass it.
    let path = format!("/api/v1/commands/{theirs}/override");
    bench.server.post(&path).by_person("admin").json(&json!({"reason": "now"}));
    assert_eq!(bench.poll_of("old-2", &other).len(), 0);
    assert_eq!((bench.told(&first, "acked"), bench.told(&first, "completed")), (200, 200));
    assert_eq!(bench.poll_of("old-2", &other).len(), 1);
    assert_eq!(bench.poll(), Vec::<String>::new());
}

#[test]
fn two_polls_at_once_hand_a_command_out_once() {
    let bench = Bench::start();
    bench.heartbeat(false);
    for _ in 0..5 {
        let reboot = bench.reboot();
        let handed_out: usize = std::thread::scope(|scope| {
            let polls: Vec<_> = (0..2).map(|_| scope.spawn(|| bench.poll().len())).collect();
            polls.into_iter().map(|poll| poll.join().unwrap()).sum()
        });
        assert_eq!(handed_out, 1);
        assert_eq!(bench.told(&reboot, "completed"), 200);
    }
}

#[test]
fn a_completed_config_command_is_desired_from_then_on_and_a_failed_one_is_not() {
    let bench = Bench::start();
    let change = |key: &str| bench.create(&json!({"type": "config", "payload": {"changes": {key: "30"}}}));
    let (good, bad) = (change("HEARTBEAT_INTERVAL"), change("R58_DEBUG"));
    bench.poll();
    assert_eq!((bench.told(&good, "acked"), bench.told(&good, "completed")), (200, 200));
    assert_eq!(bench.told(&bad, "failed"), 200);
    let config = bench.server.get("/api/v1/devices/old-1/config").by_person("eye").send().body;
    assert_eq!(config["desired"], json!({"HEARTBEAT_INTERVAL": "30"}));
    assert_eq!((&config["desired_version"], &config["in_sync"]), (&json!(1), &json!(false)));
}

#[test]
fn the_desired_config_is_read_and_replaced() {
    let bench = Bench::start();
    let path = "/api/v1/devices/old-1/config";
    let get = || bench.server.get(path).by_person("eye").send().body;
    let put = |who: &str, body: &Value| bench.server.call("PUT", path).by_person(who).json(body);
    assert_eq!(get(), json!({"desired": {}, "desired_version": 0, "in_sync": true}));
    let wanted = json!({"desired": {"HEARTBEAT_INTERVAL": 30, "R58_DEBUG": true}});
    let answer = put("oper", &wanted);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["desired"], json!({"HEARTBEAT_INTERVAL": "30", "R58_DEBUG": "true"}));
    assert_eq!(put("oper", &wanted).body["desired_version"], 1, "the same again is no new version");
    bench.heartbeat(false);
    let report = |version: i64, config: Value, errors: Value| {
        bench.sql(&format!(
            "UPDATE device_state SET reported_version = {version}, reported_config = '{config}', reported_errors = '{errors}'"
        ));
        get()
    };
    let both = json!({"HEARTBEAT_INTERVAL": "30", "R58_DEBUG": "true", "OTHER": "1"});
    assert_eq!(report(0, both.clone(), json!({}))["in_sync"], false, "it answers an older version");
    assert_eq!(report(1, both, json!({}))["in_sync"], true);
    let refused = report(1, json!({"HEARTBEAT_INTERVAL": "30"}), json!({"R58_DEBUG": "not allowed"}));
    assert_eq!(
        (&refused["in_sync"], &refused["errors"]["R58_DEBUG"]),
        (&json!(false), &json!("not allowed"))
    );
    assert_eq!(put("oper", &json!({"desired": {}})).body["desired_version"], 2);
    put("eye", &wanted).is_problem(403);
    bench.server.call("PUT", path).by_device(&bench.token).json(&wanted).is_problem(403);
    for (bad, field) in [
        (json!({}), "desired"),
        (json!({"desired": []}), "desired"),
        (json!({"desired": {"A": ["x"]}}), "desired.A"),
        (json!({"desired": {"A": "a\nb"}}), "desired.A"),
        (json!({"desired": {"A B": "1"}}), "desired.A B"),
        (json!({"desired": {"A": "x".repeat(5000)}}), "desired.A"),
        (json!({"config": {"A": "1"}}), "desired"),
    ] {
        assert_eq!(put("oper", &bad).is_problem(422).fields()[0], field, "{bad}");
    }
    let many: serde_json::Map<_, _> = (0..10).map(|n| (format!("K{n}"), json!("x".repeat(4000)))).collect();
    put("oper", &json!({"desired": many})).is_problem(422);
    assert!(bench.server.audit().contains(&"device.config ok user:oper@example.org old-1".to_owned()));
}
