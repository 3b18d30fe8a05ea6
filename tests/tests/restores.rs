//! A server that was restored from a backup, while the devices went on: what is told of commands is true, nothing runs
//! twice, no record is lost, and what is desired counts again.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use end_to_end::{Agent, Api, Machine, Server, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const ENDED: &[&str] =
    &["completed", "failed", "timed_out", "indeterminate", "rejected", "cancelled", "expired"];

/// A backup beside the running server.
fn back_up(server: &Server) -> PathBuf {
    let file = server.folder().join("backup.tar.zst");
    let told = server.run_ok(&["backup", file.to_str().unwrap()], "");
    assert_eq!(told, file.to_str().unwrap());
    file
}

/// Stops the server, restores and starts it again; gives what people are told.
fn restore(server: &mut Server, file: &std::path::Path) -> String {
    assert!(server.stop().success());
    let told = server.run_ok(&["restore", "--force", file.to_str().unwrap()], "");
    server.start_again();
    told
}

fn is_online(api: &Api, device: &str) {
    wait_for("device online", SOON, || (api.device(device)["status"] == "online").then_some(()));
}

fn in_hours(hours: i64) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    protocol::message::rfc3339(i64::try_from(since.as_millis()).unwrap() + hours * 3_600_000)
}

fn restart() -> Value {
    json!({"type": "restart_service", "payload": {"service": "r58-api"}})
}

#[test]
fn what_became_of_commands_meanwhile_is_found_out_and_none_runs_twice() {
    let mut server = Server::start();
    let machines: Vec<Machine> = (0..3).map(|_| Machine::new()).collect();
    let [mut held, mut away, mut later] = ["held", "away", "later"].map(|_| None::<Agent>);
    for ((agent, name), machine) in
        [(&mut held, "held"), (&mut away, "away"), (&mut later, "later")].into_iter().zip(&machines)
    {
        *agent = Some(machine.agent(&server, name));
    }
    let (mut held, mut away, mut later) = (held.unwrap(), away.unwrap(), later.unwrap());
    let api = server.api();
    machines[0].app_says("recording");
    held.start();
    let [waits, unsent, unseen] = ["held", "away", "later"].map(|device| api.command(device, &restart()));
    api.wait_for_command(&waits, &["held"], SOON);
    let file = back_up(&server);

    // The server goes on: what waited runs, what was not sent is sent and runs, and there is something new.
    machines[0].app_says("idle");
    away.start();
    api.wait_for_command(&waits, &["completed"], SOON);
    api.wait_for_command(&unsent, &["completed"], SOON);
    let new = api.command("away", &json!({"type": "custom", "payload": {"script": "count"}}));
    machines[1].script("count", "");
    api.wait_for_command(&new, ENDED, SOON);
    let heartbeats = api.heartbeat_seqs("held").len();

    let told = restore(&mut server, &file);
    assert!(told.contains("3 open commands"), "{told}");
    let api = server.api();
    for id in [&waits, &unsent] {
        let done = api.wait_for_command(id, ENDED, SOON);
        assert_eq!(done["status"], "completed", "{done:#}");
        let history = done["history"].as_array().unwrap();
        let asked =
            |line: &Value| line["detail"].as_str().is_some_and(|text| text.contains("restored from a copy"));
        assert!(history.iter().any(asked), "{done:#}");
    }
    assert_eq!(api.try_get(&format!("/commands/{new}")).0, 404, "it is forgotten");
    // Nobody can tell any more whether it was sent; its device says that it was not done.
    later.start();
    let done = api.wait_for_command(&unseen, ENDED, SOON);
    assert_eq!(done["status"], "indeterminate", "{done:#}");
    let again = api.command("later", &restart());
    api.wait_for_command(&again, &["completed"], SOON);
    assert_eq!(machines[0].effects(), ["restart r58-api"]);
    assert_eq!(machines[1].count("restart"), 1);
    assert_eq!(machines[2].effects(), ["restart r58-api"], "the new one alone");

    // Records since the backup have come again, each once.
    wait_for("everything again", SOON, || {
        let committed = api.committed("held");
        (committed.len() >= heartbeats && committed.iter().copied().eq(1..=committed.len() as u64))
            .then_some(())
    });
    let mut seqs = api.heartbeat_seqs("held");
    let all = seqs.len();
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), all, "nothing is stored twice");
}

#[test]
fn what_is_desired_counts_again_though_devices_had_newer_versions() {
    let (mut server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    is_online(&api, "studio-001");
    let set = |api: &Api, interval: &str| {
        let body = json!({"desired": {"COMMAND_POLL_INTERVAL": interval}});
        let (status, answer) = api.put("/devices/studio-001/config", &body);
        assert_eq!(status, 200, "{answer}");
    };
    let is_in_sync = |api: &Api, interval: &str| {
        wait_for("config in sync", SOON, || {
            let config = api.get("/devices/studio-001/config");
            let there = config["reported"]["COMMAND_POLL_INTERVAL"] == interval;
            (there && config["in_sync"] == true).then_some(())
        });
    };
    set(&api, "31");
    is_in_sync(&api, "31");
    let file = back_up(&server);
    for interval in ["32", "33", "34"] {
        set(&api, interval);
    }
    is_in_sync(&api, "34");
    let until = in_hours(2);
    let lock = |api: &Api| {
        let body = json!({"until": until, "reason": "gala"});
        assert_eq!(api.put("/devices/studio-001/show-lock", &body).0, 200);
        wait_for("the lock is in effect", SOON, || {
            (api.get("/devices/studio-001/show-lock")["in_effect"] == true).then_some(())
        });
    };
    lock(&api);

    restore(&mut server, &file);
    let api = server.api();
    is_in_sync(&api, "31");
    // The lock was set after the backup: it is gone, at the server and on the device.
    let id = api.command("studio-001", &restart());
    api.wait_for_command(&id, &["completed"], SOON);
    // And a new one holds.
    lock(&api);
    let id = api.command("studio-001", &restart());
    let held = api.wait_for_command(&id, &["held", "completed"], SOON);
    assert!(held["held_reason"].as_str().is_some_and(|why| why.starts_with("show_lock")), "{held:#}");
    assert_eq!(machine.effects(), ["restart r58-api"]);
}

#[test]
fn a_device_comes_back_whose_token_was_changed_since() {
    let (mut server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    is_online(&api, "studio-001");
    let file = back_up(&server);
    let id = api.command("studio-001", &json!({"type": "rotate_token"}));
    api.wait_for_command(&id, &["completed"], SOON);
    restore(&mut server, &file);
    let api = server.api();
    let id = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&id, &["completed"], SOON);
    let id = api.command("studio-001", &json!({"type": "rotate_token"}));
    api.wait_for_command(&id, &["completed"], SOON);
}

#[test]
fn a_device_that_was_registered_since_enrols_again_and_obeys() {
    let (mut server, machine) = (Server::start(), Machine::new());
    let file = back_up(&server);
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    is_online(&api, "studio-001");
    let lock = |api: &Api, until: &str| {
        let body = json!({"until": until, "reason": "gala"});
        assert_eq!(api.put("/devices/studio-001/show-lock", &body).0, 200);
    };
    let in_effect = |api: &Api| {
        wait_for("the lock is in effect", SOON, || {
            (api.get("/devices/studio-001/show-lock")["in_effect"] == true).then_some(())
        });
    };
    // It has the first version, of what the restored server will know nothing.
    lock(&api, &in_hours(1));
    in_effect(&api);
    restore(&mut server, &file);
    let api = server.api();
    assert_eq!(api.try_get("/devices/studio-001").0, 404);
    agent.stop();
    let key = server.enrollment_key();
    let enrolled = agent.run(&["enroll", &server.url(), "--key", "-", "--device-id", "studio-001"], &key);
    assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
    agent.start();
    is_online(&api, "studio-001");
    // Its own first version, with other content.
    lock(&api, &in_hours(2));
    in_effect(&api);
    assert_eq!(api.delete("/devices/studio-001/show-lock"), 204);
    let id = api.command("studio-001", &restart());
    api.wait_for_command(&id, &["completed"], SOON);
    assert_eq!(machine.effects(), ["restart r58-api"]);
}

#[test]
fn a_partner_that_runs_what_the_backup_does_not_know_is_not_joined_by_another() {
    let mut server = Server::start();
    let machines: [Machine; 2] = std::array::from_fn(|_| Machine::new());
    let mut agents = ["left", "right"].into_iter().zip(&machines).map(|(name, m)| m.agent(&server, name));
    let mut agents: [Agent; 2] = std::array::from_fn(|_| agents.next().unwrap());
    let api = server.api();
    for (agent, name) in agents.iter_mut().zip(["left", "right"]) {
        let (status, answer) = api.patch(&format!("/devices/{name}"), &json!({"redundancy_group": "pair"}));
        assert_eq!(status, 200, "{answer}");
        agent.start();
        is_online(&api, name);
    }
    let file = back_up(&server);
    // It has the lease, and runs until it is told.
    let go_on = machines[0].path("go-on");
    machines[0].script("waits", &format!("until [ -e '{}' ]; do sleep 0.1; done", go_on.display()));
    let forgotten = api.command("left", &json!({"type": "custom", "payload": {"script": "waits"}}));
    api.wait_for_command(&forgotten, &["running"], SOON);
    restore(&mut server, &file);
    let api = server.api();
    assert_eq!(api.try_get(&format!("/commands/{forgotten}")).0, 404);
    ["left", "right"].iter().for_each(|name| is_online(&api, name));
    let id = api.command("right", &restart());
    let held = api.wait_for_command(&id, &["held", "completed"], SOON);
    assert!(held["held_reason"].as_str().is_some_and(|why| why.starts_with("awaiting_lease")), "{held:#}");
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!((machines[0].effects().len(), machines[1].count("restart")), (1, 0));
    std::fs::write(go_on, "").unwrap();
    api.wait_for_command(&id, &["completed"], 3 * SOON);
    assert_eq!(machines[1].effects(), ["restart r58-api"]);
}
