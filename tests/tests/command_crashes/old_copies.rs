//! A database that is older than what was done: restored, rolled back or lost.

use end_to_end::{Machine, Server, wait_for};
use serde_json::json;

use crate::SOON;
use crate::case::ENDED;

#[test]
fn an_older_copy_of_the_agents_state_runs_nothing_twice() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    agent.start();
    let api = server.api();
    wait_for("device online", SOON, || (api.device("studio-001")["status"] == "online").then_some(()));
    machine.app_says("recording");
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    assert!(agent.stop().success());
    // An image is made while the command is held, and written back after it has run.
    let copy = std::fs::read(agent.state_file()).unwrap();
    machine.app_says("idle");
    agent.start();
    api.wait_for_command(&id, &["completed"], SOON);
    assert!(agent.stop().success());
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", agent.state_file().display()));
    }
    std::fs::write(agent.state_file(), copy).unwrap();
    agent.start();
    let ping = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&ping, &["completed"], SOON);
    assert_eq!(machine.effects(), ["restart r58-api"]);
    assert_eq!(api.get(&format!("/commands/{id}"))["status"], "completed");
}

#[test]
fn a_device_with_a_new_state_makes_what_was_open_indeterminate_and_runs_none_of_it() {
    let (server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let api = server.api();
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    agent.kill();
    std::fs::remove_dir_all(agent.state_dir().join("db")).unwrap();
    machine.app_says("idle");
    agent.start();
    let ended = api.wait_for_command(&id, ENDED, SOON);
    assert_eq!(ended["status"], "indeterminate", "{ended:#}");
    assert_eq!(ended["inferred"], true, "{ended:#}");
    let ping = api.command("studio-001", &json!({"type": "ping"}));
    api.wait_for_command(&ping, &["completed"], SOON);
    assert_eq!(machine.effects(), Vec::<String>::new());
}

#[test]
fn a_server_that_was_restored_from_a_copy_learns_what_became_of_its_commands() {
    let (mut server, machine) = (Server::start(), Machine::new());
    let mut agent = machine.agent(&server, "studio-001");
    machine.app_says("recording");
    agent.start();
    let api = server.api();
    let restart = json!({"type": "restart_service", "payload": {"service": "r58-api"}});
    let id = api.command("studio-001", &restart);
    api.wait_for_command(&id, &["held"], SOON);
    assert!(server.stop().success());
    let copy = server.folder().join("copy");
    copy_folder(&server.data_dir(), &copy);
    server.start_again();
    machine.app_says("idle");
    server.api().wait_for_command(&id, &["completed"], SOON);
    assert!(server.stop().success());
    std::fs::remove_dir_all(server.data_dir()).unwrap();
    copy_folder(&copy, &server.data_dir());
    server.start_again();
    let done = server.api().wait_for_command(&id, ENDED, SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    assert_eq!(machine.effects(), ["restart r58-api"]);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o700)).unwrap();
}
