//! Commands over MQTT: a real server, a device and people's tools as rumqttc clients.
#![allow(clippy::unwrap_used)]

mod process;

use std::time::Duration;

use process::{
    Server,
    commands::{Box, Heard, Operator, Stage, ping},
    eventually, register,
};
use protocol::{
    codec::{self, Bytes},
    id::StateId,
    message::{CommandReport, DeviceAction},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MOMENT: Duration = Duration::from_millis(400);

#[test]
fn one_line_of_an_operator_goes_to_the_device_and_every_step_comes_back() {
    let stage = Stage::new();
    let device = stage.device(1);
    let operator = stage.operator();
    operator.ask(&json!({"to": "cam-1", "type": "restart_service", "payload": {"service": "r58-api"},
        "priority": 1, "expires_in_seconds": 3600, "timeout_seconds": 30, "ref": "note-17", "notes": "after soundcheck"}));
    let run = device.run();
    assert_eq!((run.kind.as_str(), run.priority, run.timeout_seconds), ("restart_service", 1, 30));
    assert_eq!(run.payload, json!({"service": "r58-api"}));
    assert_eq!(run.expires_at - run.created_at, 3_600_000);
    let id = run.id.as_str();
    device.report(id, 1, "acked");
    let held = CommandReport { reason: Some("live: recording".into()), ..device.a_report(id, 2, "held") };
    device.send(&held);
    device.report(id, 3, "running");
    let done = CommandReport { result: Some(json!({"active": true})), ..device.a_report(id, 4, "completed") };
    device.send(&done);

    let steps: Vec<Value> = (0..6).map(|_| operator.next()).collect();
    let states: Vec<_> = steps.iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(states, ["accepted", "sent", "acked", "held", "running", "completed"]);
    let revisions: Vec<_> = steps.iter().map(|step| step["revision"].as_u64().unwrap()).collect();
    assert!(revisions.is_sorted() && revisions[0] == 1, "{revisions:?}");
    for step in &steps {
        assert_eq!(
            (&step["ref"], &step["id"], &step["device"]),
            (&json!("note-17"), &json!(id), &json!("cam-1"))
        );
    }
    assert_eq!(steps[3]["reason"], "live: recording");
    assert_eq!(steps[5]["result"], json!({"active": true}));
    assert_eq!(stage.metric("fleet_commands_sent_total"), 1);
    // Counted once they are marked as told.
    eventually("the count", || (stage.metric("fleet_results_published_total") == 6).then_some(()));
    // The same request again is the same command.
    operator.ask(&json!({"to": "cam-1", "type": "restart_service", "payload": {"service": "r58-api"},
        "priority": 1, "expires_in_seconds": 3600, "timeout_seconds": 30, "ref": "note-17", "notes": "after soundcheck"}));
    assert_eq!(operator.hears("accepted")["id"], id);
}

#[test]
fn an_absent_device_gets_its_commands_when_it_comes_and_its_desired_state_before_them() {
    let stage = Stage::new();
    let operator = stage.operator();
    operator.ask(&ping("cam-1"));
    operator.hears("accepted");
    let until = protocol::message::rfc3339(process::now_ms() + 3_600_000);
    let lock = json!({"until": until, "reason": "the show"});
    assert_eq!(stage.http("PUT", "/api/v1/devices/cam-1/show-lock", Some(lock)).0, 200);
    std::thread::sleep(MOMENT);

    let device = stage.device(1);
    let command = device.run();
    let before = device.all(Duration::ZERO);
    let desired = before.iter().find_map(|heard| match heard {
        Heard::Desired(desired) => Some(desired.clone()),
        _ => None,
    });
    let desired = desired.expect("the desired state came before the command");
    assert_eq!(command.desired_version, desired.version);
    assert_eq!(desired.show_locks.len(), 1);
    operator.hears("sent");

    // A change reaches the connected device at once.
    assert_eq!(stage.http("DELETE", "/api/v1/devices/cam-1/show-lock", None).0, 204);
    let newer = device.next("the new desired state", |heard| match heard {
        Heard::Desired(newer) if newer.version > desired.version => Some(newer.clone()),
        _ => None,
    });
    assert!(newer.show_locks.is_empty());
}

#[test]
fn many_large_commands_reach_a_device_a_few_at_a_time() {
    const MANY: usize = 24;
    let stage = Stage::new();
    let operator = stage.operator();
    let args: Vec<String> = (0..10).map(|_| "x".repeat(4_000)).collect();
    for n in 0..MANY {
        operator.ask(&json!({"to": "cam-1", "type": "custom", "ref": n.to_string(),
            "payload": {"script": "x.sh", "args": args}}));
    }
    (0..MANY).for_each(|_| drop(operator.hears("accepted")));
    // All of it is more than the broker would queue for one device.
    let device = stage.device(1);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < MANY {
        let run = device.run();
        if seen.insert(run.id.clone()) {
            device.report(run.id.as_str(), 1, "rejected");
        }
    }
    assert_eq!(stage.metric("fleet_commands_sent_total"), MANY as u64, "each once");
}

#[test]
fn after_a_restore_the_device_is_asked_and_its_word_counts() {
    let stage = Stage::new();
    let Stage { data, server, token } = stage;
    let operator = Operator::connect(&server, "admin");
    for reference in ["ran", "never"] {
        operator.ask(&json!({"to": "cam-1", "type": "reboot", "ref": reference}));
        operator.hears("accepted");
    }
    assert!(server.terminate());
    let copy = tempfile::tempdir().unwrap();
    let files = || std::fs::read_dir(data.path()).unwrap().map(|entry| entry.unwrap().path());
    let is_database = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().contains(".db");
    for file in files().filter(is_database) {
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    let server = Server::start(data.path());
    let device = Box::connect(&server, "cam-1", &token, 1);
    let (one, two) = (device.run(), device.run());
    device.report(one.id.as_str(), 1, "running");
    device.report(one.id.as_str(), 2, "completed");
    assert!(server.terminate());
    drop(device);

    // The copy comes back, in which nothing was sent; the second command's journal entry is lost with its device's disk.
    files().filter(is_database).for_each(|file| std::fs::remove_file(file).unwrap());
    for entry in std::fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, data.path().join(path.file_name().unwrap())).unwrap();
    }
    let database = files().find(|path| path.extension().is_some_and(|end| end == "db")).unwrap();
    let marked = rusqlite::Connection::open(database).unwrap();
    assert_eq!(marked.execute("UPDATE commands SET query_first = 1", []).unwrap(), 2);
    drop(marked);
    let server = Server::start(data.path());
    let operator = Operator::connect(&server, "admin");
    let device = Box::connect(&server, "cam-1", &token, 2);
    let asked: std::collections::BTreeSet<_> = (0..2)
        .map(|_| match device.action("the question") {
            DeviceAction::Query(id) => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [one.id.clone(), two.id.clone()].into());
    device.report(one.id.as_str(), 2, "completed");
    device.report(two.id.as_str(), 1, "indeterminate");
    assert_eq!(operator.hears("completed")["ref"], "ran");
    assert_eq!(operator.hears("indeterminate")["ref"], "never");
    let after = device.all(MOMENT);
    assert!(!after.iter().any(|heard| matches!(heard, Heard::Command(_, DeviceAction::Run(_)))), "{after:?}");
}

#[test]
fn what_a_device_has_not_acknowledged_comes_again_with_its_next_birth_and_after_that_never() {
    let stage = Stage::new();
    let operator = stage.operator();
    let device = stage.device(1);
    operator.ask(&ping("cam-1"));
    let first = device.run();
    drop(device);
    let device = stage.device(2);
    let again = device.run();
    assert_eq!(again.id, first.id);
    device.report(first.id.as_str(), 1, "acked");
    drop(device);
    let device = stage.device(3);
    let all = device.all(MOMENT * 2);
    let is_run = |heard: &&Heard| matches!(heard, Heard::Command(_, DeviceAction::Run(_)));
    assert_eq!(all.iter().filter(is_run).count(), 0, "{all:?}");
    device.report(first.id.as_str(), 2, "completed");
    operator.hears("completed");
}

#[test]
fn a_device_with_a_new_state_database_is_asked_for_nothing_that_the_old_one_had() {
    let stage = Stage::new();
    let operator = stage.operator();
    let device = stage.device(1);
    operator.ask(&json!({"to": "cam-1", "type": "reboot"}));
    let run = device.run();
    device.report(run.id.as_str(), 1, "running");
    drop(device);
    let device = Box::connect_as(&stage.server, "cam-1", &stage.token, 1, StateId([7; 8]));
    let end = operator.hears("indeterminate");
    assert!(end["reason"].as_str().unwrap().contains("state database"), "{end}");
    let shown = stage.http("GET", &format!("/api/v1/commands/{}", run.id), None);
    if shown.0 == 200 {
        assert_eq!((&shown.1["status"], &shown.1["inferred"]), (&json!("indeterminate"), &json!(true)));
    }
    assert!(device.all(MOMENT).iter().all(|heard| !matches!(heard, Heard::Command(..))));
}

#[test]
fn a_cancel_is_done_at_once_before_sending_and_is_the_devices_to_answer_after_that() {
    let stage = Stage::new();
    let operator = stage.operator();
    operator.ask(&ping("cam-1"));
    let id = operator.hears("accepted")["id"].clone();
    operator.ask(&json!({"cancel": id}));
    assert_eq!(operator.hears("cancelled")["id"], id);

    let device = stage.device(1);
    operator.ask(&json!({"to": "cam-1", "type": "reboot", "payload": {"delay_seconds": 60}}));
    let run = device.run();
    device.report(run.id.as_str(), 1, "acked");
    operator.hears("acked");
    operator.ask(&json!({"cancel": run.id}));
    assert_eq!(device.action("the cancel"), DeviceAction::Cancel(run.id.clone()));
    // It is said again while the device does not answer.
    assert_eq!(device.action("the cancel again"), DeviceAction::Cancel(run.id.clone()));
    device.report(run.id.as_str(), 2, "cancelled");
    operator.hears("cancelled");
    let why = operator.refused(json!({"cancel": run.id}).to_string());
    assert!(why["reason"].as_str().unwrap().contains("ended"), "{why}");
}

#[test]
fn an_override_reaches_a_command_that_is_held() {
    let stage = Stage::new();
    let operator = stage.operator();
    let device = stage.device(1);
    operator.ask(&json!({"to": "cam-1", "type": "reboot"}));
    let run = device.run();
    let held = CommandReport { reason: Some("live".into()), ..device.a_report(run.id.as_str(), 1, "held") };
    device.send(&held);
    operator.hears("held");
    operator.ask(&json!({"override": run.id, "reason": "it hangs"}));
    let DeviceAction::Override(order) = device.action("the override") else { panic!() };
    assert_eq!((order.id, order.reason.as_str()), (run.id, "it hangs"));
}

#[test]
fn a_device_that_reports_anothers_command_moves_nothing() {
    let stage = Stage::new();
    let token = register(stage.data.path(), "cam-2");
    let operator = stage.operator();
    let (device, hostile) = (stage.device(1), Box::connect(&stage.server, "cam-2", &token, 1));
    operator.ask(&ping("cam-1"));
    let run = device.run();
    hostile.report(run.id.as_str(), 1, "completed");
    assert_eq!(stage.metric("fleet_command_reports_foreign_total"), 1);
    device.report(run.id.as_str(), 1, "rejected");
    let steps: Vec<_> = (0..3).map(|_| operator.next()["status"].clone()).collect();
    assert_eq!(steps, ["accepted", "sent", "rejected"]);
}

#[test]
fn a_new_token_takes_over_when_it_is_first_used_and_the_old_one_dies() {
    let stage = Stage::new();
    let operator = stage.operator();
    let device = stage.device(1);
    operator.ask(&json!({"to": "cam-1", "type": "rotate_token"}));
    let run = device.run();
    let new = "ab".repeat(32);
    let announce = CommandReport {
        token_sha256: Some(Bytes(Sha256::digest(&new).to_vec())),
        ..device.a_report(run.id.as_str(), 1, "running")
    };
    device.send(&announce);
    // Both work until the new one is used.
    let connect = |token: &str| {
        let http = format!("http://{}/api/v1/connect", stage.server.http);
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        agent.get(&http).header("x-device-token", token).call().unwrap().status().as_u16()
    };
    assert_eq!(connect(&stage.token), 200);
    let old = device;
    let device = Box::connect(&stage.server, "cam-1", &new, 2);
    let ends = |device: &Box| {
        let began = std::time::Instant::now();
        device.mqtt.wait_for(Duration::from_secs(60), |_, _| false);
        began.elapsed() < Duration::from_secs(30)
    };
    assert!(ends(&old), "so has its connection");
    assert_eq!(connect(&stage.token), 401, "the old one is dead");
    assert_eq!(connect(&new), 200);
    device.report(run.id.as_str(), 2, "completed");
    operator.hears("completed");

    // Once more, with the first use by HTTP.
    operator.ask(&json!({"to": "cam-1", "type": "rotate_token", "ref": "2"}));
    let run = device.run();
    let newer = "cd".repeat(32);
    let announce = CommandReport {
        token_sha256: Some(Bytes(Sha256::digest(&newer).to_vec())),
        ..device.a_report(run.id.as_str(), 1, "running")
    };
    device.send(&announce);
    assert_eq!(connect(&newer), 200);
    assert!(ends(&device), "a connection with the old token ends");
    assert_eq!(connect(&new), 401);
}

#[test]
fn of_a_redundancy_group_one_device_at_a_time_may_go() {
    let stage = Stage::new();
    let token = register(stage.data.path(), "cam-2");
    let path = "/api/v1/redundancy-groups/hall/lease";
    assert_eq!(stage.http("DELETE", path, None).0, 404);
    for id in ["cam-1", "cam-2"] {
        let body = json!({"redundancy_group": "hall"});
        assert_eq!(stage.http("PATCH", &format!("/api/v1/devices/{id}"), Some(body)).0, 200);
    }
    let operator = stage.operator();
    let one = stage.device(1);
    operator.ask(&json!({"to": "*", "type": "reboot"}));
    let run_one = one.run();
    one.asks_for_lease(run_one.id.as_str(), 1, 1);
    let none = one.all(MOMENT);
    assert!(
        !none.iter().any(|heard| matches!(heard, Heard::Command(_, DeviceAction::Go(_)))),
        "a partner is away"
    );

    let two = Box::connect(&stage.server, "cam-2", &token, 1);
    let run_two = two.run();
    let DeviceAction::Go(go) = one.action("its lease") else { panic!() };
    assert_eq!((&go.id, &go.nonce), (&run_one.id, &Bytes(vec![1; 16])));
    two.asks_for_lease(run_two.id.as_str(), 1, 2);
    one.report(run_one.id.as_str(), 2, "running");
    let none = two.all(MOMENT * 3);
    assert!(
        !none.iter().any(|heard| matches!(heard, Heard::Command(_, DeviceAction::Go(_)))),
        "one at a time"
    );
    one.report(run_one.id.as_str(), 3, "completed");
    let DeviceAction::Go(go) = two.action("the next lease") else { panic!() };
    assert_eq!((&go.id, &go.nonce), (&run_two.id, &Bytes(vec![2; 16])));

    two.report(run_two.id.as_str(), 2, "running");
    // It never says more: an admin takes the lease back, and the first may go again.
    operator.ask(&json!({"to": "cam-1", "type": "reboot", "ref": "again"}));
    let again = one.run();
    one.asks_for_lease(again.id.as_str(), 1, 3);
    let none = one.all(MOMENT * 3);
    assert!(!none.iter().any(|heard| matches!(heard, Heard::Command(_, DeviceAction::Go(_)))));
    assert_eq!(stage.http("DELETE", path, None).0, 204);
    assert!(matches!(one.action("the lease"), DeviceAction::Go(_)));
    let audit = stage.http("GET", "/api/v1/audit?action=lease.release", None);
    // Once taken back, and before, when nobody had the group yet, refused.
    let outcomes = [&audit.1["items"][0]["outcome"], &audit.1["items"][1]["outcome"]];
    assert_eq!((outcomes, &audit.1["total"]), ([&json!("ok"), &json!("refused")], &json!(2)), "{audit:?}");
    assert_eq!(audit.1["items"][0]["details"]["device"], "cam-2", "{audit:?}");
}

/// At each of these places the server dies once in the life of a command. It is sent with the commit that creates it, or by
/// the dispatcher if its device has not answered what is desired of it.
#[test]
fn wherever_the_server_dies_a_command_runs_once_and_its_end_is_told() {
    use fleetd::failpoint as at;
    let sent = [at::SENT_BEFORE_COMMIT, at::SENT_AFTER_COMMIT, at::SENT_AFTER_PUBLISH];
    let others = [
        at::REPORTS_BEFORE_COMMIT,
        at::REPORTS_AFTER_COMMIT,
        at::RESULT_AFTER_PUBLISH,
        at::RESULT_AFTER_TOLD,
        at::CREATE_AFTER_COMMIT,
        at::CREATE_BEFORE_COMMIT,
        at::OPERATOR_BEFORE_ANSWER,
    ];
    let at_once = sent.iter().chain(&others).map(|place| (*place, false));
    for (place, waits) in at_once.chain(sent.map(|place| (place, true))) {
        let stage = Stage::new();
        if waits {
            let until = protocol::message::rfc3339(process::now_ms() + 3_600_000);
            let lock = json!({"until": until, "reason": "the show"});
            assert_eq!(stage.http("PUT", "/api/v1/devices/cam-1/show-lock", Some(lock)).0, 200);
        }
        let Stage { data, server, token } = stage;
        assert!(server.terminate());
        let mut server = Server::start_with(data.path(), &[(protocol::failpoint::VARIABLE, place)]);
        let first = Operator::connect(&server, "admin");
        let device = Box::connect(&server, "cam-1", &token, 1);
        let request = json!({"to": "cam-1", "type": "ping", "ref": "once"});
        first.ask(&request);
        let (mut state, mut runs) = (None::<(String, u32)>, 0);
        let mut play = |device: &Box, time: Duration| {
            for heard in device.all(time) {
                if let Heard::Command(_, DeviceAction::Run(run)) = heard {
                    let id = run.id.to_string();
                    let (known, seq) = state.get_or_insert_with(|| {
                        runs += 1;
                        (id.clone(), 0)
                    });
                    assert_eq!(*known, id, "one command");
                    *seq += 1;
                }
            }
            // The effect is done with the first copy; what is reported does not change after that.
            if let Some((id, _)) = &state {
                let report = device.a_report(id, 1, "completed");
                device.publish("status", codec::encode_packed(&report).unwrap());
            }
        };
        eventually(place, || {
            play(&device, Duration::from_millis(50));
            server.is_dead().then_some(())
        });
        drop((device, first, server));

        let server = Server::start(data.path());
        let operator = Operator::connect(&server, "admin");
        let device = Box::connect(&server, "cam-1", &token, 2);
        operator.ask(&request);
        let person = server.sign_in();
        eventually(place, || {
            play(&device, Duration::from_millis(50));
            let all = server.get_json(&person, "/api/v1/commands");
            let items = all["items"].as_array()?;
            assert!(items.len() <= 1, "{all}");
            (items.first()?["status"] == "completed").then_some(())
        });
        operator.hears("accepted");
        let metrics = server.get(&person, "/metrics");
        assert!(metrics.contains("fleet_results_published_total"), "{place}");
    }
}
