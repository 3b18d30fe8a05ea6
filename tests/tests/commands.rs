//! Commands from an operator's line to their effect and back, with real processes.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use end_to_end::{Machine, Person, Server, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(40);
const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// In the order of a command's life; a tool may see fewer, never another order.
fn in_order(states: &[String]) -> bool {
    const ORDER: [&str; 6] = ["accepted", "pending", "sent", "acked", "running", "completed"];
    let places: Vec<_> = states.iter().map(|state| ORDER.iter().position(|known| known == state)).collect();
    places.iter().all(Option::is_some) && places.is_sorted()
}

#[test]
fn one_line_of_mosquitto_pub_runs_a_command_and_mosquitto_sub_tells_each_state_in_both_versions() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("device online", SOON, || (api.device("studio-001")["status"] == "online").then_some(()));
    for (person, reference) in [
        (Person::new(&server, "olivia", "operator"), "by-5"),
        (Person::new(&server, "oscar", "operator").with_mqtt_311(), "by-311"),
    ] {
        let mut results = person.results(&server);
        person.send(&server, &json!({"to": "studio-001", "type": "ping", "ref": reference}));
        let done = results.wait(reference, "completed", SOON);
        assert!(in_order(&results.states(reference)), "{:?}", results.states(reference));
        assert_eq!(done["device"], "studio-001", "{done}");
        assert!(done["result"].is_object(), "{done}");
        assert!(done["revision"].as_u64().unwrap() > 1, "{done}");
        let command = api.get(&format!("/commands/{}", done["id"].as_str().unwrap()));
        assert_eq!(command["status"], "completed", "{command}");
        assert_eq!(command["ref"], reference, "{command}");
        let history: Vec<&str> = command["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["status"].as_str().unwrap())
            .collect();
        assert_eq!(history, ["pending", "sent", "acked", "running", "completed"], "{command:#}");
    }
}

#[test]
fn a_recording_is_left_alone_and_the_restart_comes_when_it_has_ended() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let operator = Person::new(&server, "olivia", "operator");
    let mut results = operator.results(&server);
    operator.send(
        &server,
        &json!({"to": "studio-001", "type": "restart_service", "payload": {"service": "r58-api"}, "ref": "r"}),
    );
    let held = results.wait("r", "held", SOON);
    assert!(held["reason"].as_str().unwrap().starts_with("live"), "{held}");
    let api = server.api();
    let id = held["id"].as_str().unwrap().to_owned();
    let command = api.get(&format!("/commands/{id}"));
    assert_eq!(command["status"], "held", "{command}");
    assert!(command["held_reason"].as_str().unwrap().starts_with("live"), "{command}");
    let device = api.device("studio-001");
    assert!(device["held_reason"].as_str().unwrap().starts_with("live"), "{device}");
    assert_eq!(device["pending_commands"], 1, "{device}");
    wait_for("reason in what the agent tells on site", SOON, || {
        let text = String::from_utf8(agent.run(&["status"], "").stdout).unwrap();
        (text.contains("restart_service") && text.contains("held: live")).then_some(())
    });
    // Safe commands go past it.
    let ping = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&ping, &["completed"], SOON);
    assert_eq!(machine.count("restart"), 0, "the recording was interrupted");

    machine.app_says("idle");
    results.wait("r", "completed", SOON);
    assert_eq!(machine.effects(), ["restart r58-api"]);
    assert_eq!(api.device("studio-001")["pending_commands"], 0);
}

#[test]
fn an_admin_may_override_a_waiting_command_and_an_operator_may_not() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let (operator, admin) = (Person::new(&server, "olivia", "operator"), Person::admin());
    let mut results = operator.results(&server);
    let mut admin_results = admin.results(&server);
    let request = json!({"to": "studio-001", "type": "restart_service", "payload": {"service": "mediamtx"}, "ref": "r"});
    operator.send(&server, &request);
    let id = results.wait("r", "held", SOON)["id"].as_str().unwrap().to_owned();
    operator.send(&server, &json!({"override": id, "reason": "I say so"}));
    results.until(SOON, |seen| seen.iter().any(|r| r["id"] == id.as_str() && r["status"] == "rejected"));
    assert_eq!(machine.effects(), Vec::<String>::new());

    admin.send(&server, &json!({"override": id, "reason": "the feed is dead anyway"}));
    admin_results
        .until(SOON, |seen| seen.iter().any(|r| r["id"] == id.as_str() && r["status"] == "accepted"));
    results.wait("r", "completed", SOON);
    assert_eq!(machine.effects(), ["restart mediamtx"]);
    let command = server.api().get(&format!("/commands/{id}"));
    assert_eq!(command["override_reason"], "the feed is dead anyway", "{command}");
}

#[test]
fn a_held_command_can_be_cancelled_and_a_running_one_cannot() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    machine.restarts_take(3);
    agent.start();
    let api = server.api();
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let held = api.command("studio-001", &restart);
    api.wait_for_command(&held, &["held"], SOON);
    let (status, _) = api.post(&format!("/commands/{held}/cancel"), &json!({}));
    assert_eq!(status, 200);
    api.wait_for_command(&held, &["cancelled"], SOON);

    machine.app_says("idle");
    let running = api.command("studio-001", &restart);
    api.wait_for_command(&running, &["running"], SOON);
    let (status, body) = api.post(&format!("/commands/{running}/cancel"), &json!({}));
    assert_eq!(status, 200, "{body}");
    let done = api.wait_for_command(&running, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    assert_eq!(machine.effects(), ["restart r58-api"]);
    let (status, body) = api.post(&format!("/commands/{running}/cancel"), &json!({}));
    assert_eq!(status, 409, "{body}");
}

#[test]
fn a_command_that_is_held_past_its_expiry_expires_without_an_effect() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let api = server.api();
    let request =
        json!({"type": "restart_service", "payload": {"service": "r58-api"}, "expires_in_seconds": 5});
    let id = api.command("studio-001", &request);
    api.wait_for_command(&id, &["held"], SOON);
    api.wait_for_command(&id, &["expired"], SOON);
    machine.app_says("idle");
    let after = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&after, &["completed"], SOON);
    assert_eq!(machine.effects(), Vec::<String>::new());
}

#[test]
fn a_lock_that_is_made_while_the_device_is_away_holds_the_command_that_is_made_after_it() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("device online", SOON, || (api.device("studio-001")["status"] == "online").then_some(()));
    agent.kill();
    let until = protocol::message::rfc3339(now_ms() + 3_600_000);
    let (status, lock) = api.put("/devices/studio-001/show-lock", &json!({"until": until, "reason": "gala"}));
    assert_eq!(status, 200, "{lock}");
    assert_eq!(lock["in_effect"], false, "{lock}");
    let id =
        api.command("studio-001", &json!({"type": "restart_service", "payload": {"service": "r58-api"}}));
    agent.start();
    wait_for("lock in effect", SOON, || {
        let held = api.get(&format!("/commands/{id}"));
        held["held_reason"].as_str().is_some_and(|reason| reason.starts_with("show_lock")).then_some(())
    });
    let (_, lock) = api.put("/devices/studio-001/show-lock", &json!({"until": until, "reason": "gala"}));
    wait_for("report of the lock", SOON, || {
        (api.get("/devices/studio-001/show-lock")["in_effect"] == true).then_some(())
    });
    assert_eq!(machine.effects(), Vec::<String>::new(), "{lock}");
    assert_eq!(api.delete("/devices/studio-001/show-lock"), 204);
    api.wait_for_command(&id, &["completed"], SOON);
    assert_eq!(machine.effects(), ["restart r58-api"]);
}

#[test]
fn a_reboot_is_told_by_the_boot_id_and_done_once() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    let id = api.command("studio-001", &json!({"type": "reboot"}));
    wait_for("reboot", SOON, || (machine.count("reboot") == 1).then_some(()));
    agent.kill();
    machine.boot();
    agent.start();
    let done = api.wait_for_command(&id, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    assert_eq!(machine.effects(), ["reboot"]);
}

#[test]
fn a_config_command_changes_the_file_keeps_its_comments_and_takes_effect_at_once() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    let id =
        api.command("studio-001", &json!({"type": "config", "payload": {"changes": {"R58_DEBUG": true}}}));
    let done = api.wait_for_command(&id, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    let file = std::fs::read_to_string(agent.config_file()).unwrap();
    assert!(file.contains("# an agent under test") && file.contains("R58_DEBUG=true"), "{file}");
    wait_for("config in sync", SOON, || {
        (api.get("/devices/studio-001/config")["in_sync"] == true).then_some(())
    });
    assert_eq!(api.get("/devices/studio-001/config")["desired"]["R58_DEBUG"], "true");

    let refused =
        api.command("studio-001", &json!({"type": "config", "payload": {"changes": {"DEVICE_TOKEN": "x"}}}));
    let refused = api.wait_for_command(&refused, ENDED, SOON);
    assert_eq!(refused["status"], "rejected", "{refused:#}");
    let bad = api.command(
        "studio-001",
        &json!({"type": "config", "payload": {"changes": {"HEARTBEAT_INTERVAL": "soon"}}}),
    );
    let bad = api.wait_for_command(&bad, ENDED, SOON);
    assert_eq!(bad["status"], "rejected", "{bad:#}");
    assert!(bad.to_string().contains("HEARTBEAT_INTERVAL"), "{bad:#}");
}

#[test]
fn a_custom_script_runs_with_its_arguments_and_nothing_outside_the_folder_does() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.script("tidy", "echo done; exit 3");
    std::os::unix::fs::symlink("/bin/true", machine.path("scripts/link")).unwrap();
    agent.start();
    let api = server.api();
    let run = |payload| {
        let id = api.command("studio-001", &json!({"type": "custom", "payload": payload}));
        api.wait_for_command(&id, ENDED, SOON)
    };
    let tidy = run(json!({"script": "tidy", "args": ["a b", "$HOME;reboot"]}));
    assert_eq!(tidy["status"], "failed", "{tidy:#}");
    assert_eq!(tidy["result"]["exit_code"], 3, "{tidy:#}");
    assert_eq!(machine.effects(), ["tidy a b $HOME;reboot"]);
    for script in ["../bin/systemctl", "/bin/true", "link", "absent", "..", "."] {
        let refused = run(json!({ "script": script }));
        assert_eq!(refused["status"], "rejected", "{script}: {refused:#}");
        assert!(refused["reason"].as_str().or(refused["error"].as_str()).is_some(), "{refused:#}");
    }
    assert_eq!(machine.effects().len(), 1);
}

#[test]
fn a_rotated_token_is_the_only_one_that_works_afterwards() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    let token = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN=")).unwrap();
        line.trim_matches('"').to_owned()
    };
    let before = token(&std::fs::read_to_string(agent.config_file()).unwrap());
    let id = api.command("studio-001", &json!({"type": "rotate_token"}));
    let done = api.wait_for_command(&id, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    let after = token(&std::fs::read_to_string(agent.config_file()).unwrap());
    assert_ne!(before, after);
    let connect = |token: &str| {
        let request = ureq::get(format!("{}/api/v1/connect", server.url())).header("X-Device-Token", token);
        request.config().http_status_as_error(false).build().call().unwrap().status().as_u16()
    };
    assert_eq!(connect(&before), 401);
    assert_eq!(connect(&after), 200);
    // The token is nowhere to be read but in the agent's own file.
    for log in [agent.log(), server.log(), done.to_string()] {
        assert!(!log.contains(&after) && !log.contains(&before));
    }
    let next = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&next, &["completed"], SOON);
}

#[test]
fn partners_of_a_redundancy_group_are_never_disrupted_at_the_same_time() {
    let server = Server::start();
    let machines = [Machine::new(), Machine::new()];
    let names = ["studio-a", "studio-b"];
    let api = server.api();
    let mut agents: Vec<_> =
        machines.iter().zip(names).map(|(machine, name)| machine.agent(&server, name)).collect();
    for (agent, name) in agents.iter_mut().zip(names) {
        machines.iter().for_each(|machine| machine.restarts_take(2));
        let (status, body) =
            api.patch(&format!("/devices/{name}"), &json!({"redundancy_group": "main-hall"}));
        assert_eq!(status, 200, "{body}");
        agent.start();
    }
    for name in names {
        wait_for("device online", SOON, || (api.device(name)["status"] == "online").then_some(()));
    }
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let ids: Vec<String> = names.iter().map(|name| api.command(name, &restart)).collect();
    let done: Vec<_> =
        ids.iter().map(|id| api.wait_for_command(id, ENDED, Duration::from_secs(120))).collect();
    let span = |command: &serde_json::Value| {
        assert_eq!(command["status"], "completed", "{command:#}");
        (
            command["started_at"].as_str().unwrap().to_owned(),
            command["completed_at"].as_str().unwrap().to_owned(),
        )
    };
    let (first, second) = (span(&done[0]), span(&done[1]));
    assert!(first.1 <= second.0 || second.1 <= first.0, "both at once: {first:?} {second:?}");

    // With a partner away nobody gets the lease.
    agents[1].kill();
    wait_for("partner offline", SOON, || (api.device("studio-b")["status"] == "offline").then_some(()));
    let alone = api.command("studio-a", &restart);
    wait_for("command that waits for the lease", SOON, || {
        let command = api.get(&format!("/commands/{alone}"));
        command["held_reason"].as_str().is_some_and(|r| r.starts_with("awaiting_lease")).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(machines[0].count("restart"), 1);
    agents[1].start();
    api.wait_for_command(&alone, &["completed"], Duration::from_secs(120));
    assert_eq!(machines[0].count("restart"), 2);
}

#[test]
fn a_command_for_many_devices_has_one_answer_for_each() {
    let server = Server::start();
    let api = server.api();
    let machine = Machine::new();
    let mut agents: Vec<_> = (1..=3).map(|n| machine.agent(&server, &format!("studio-{n}"))).collect();
    agents.iter_mut().for_each(end_to_end::Agent::start);
    for n in 1..=2 {
        let (status, body) = api.patch(&format!("/devices/studio-{n}"), &json!({"tags": ["hall"]}));
        assert_eq!(status, 200, "{body}");
    }
    let operator = Person::new(&server, "olivia", "operator");
    let mut results = operator.results(&server);
    operator.send(&server, &json!({"to": "tag:hall", "type": "ping", "ref": "t"}));
    operator.send(&server, &json!({"to": "*", "type": "ping", "ref": "all"}));
    let done = |seen: &[serde_json::Value], reference: &str| {
        let of_it = seen.iter().filter(|r| r["ref"] == reference && r["status"] == "completed");
        of_it.filter_map(|r| r["device"].as_str()).collect::<std::collections::BTreeSet<_>>().len()
    };
    results.until(SOON, |seen| done(seen, "t") == 2 && done(seen, "all") == 3);
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
