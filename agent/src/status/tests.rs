#![allow(clippy::unwrap_used)]

use super::*;
use crate::lock::StateLock;

fn open(kind: &str, id: &str, state: &str, held_reason: Option<&str>) -> OpenCommand {
    OpenCommand {
        id: id.into(),
        kind: kind.into(),
        state: state.into(),
        held_reason: held_reason.map(str::to_owned),
    }
}

fn status() -> Status {
    Status {
        pid: std::process::id(),
        agent_version: "0.1.0".into(),
        started_at_ms: 1_000_000,
        written_at_ms: 4_000_000,
        device_id: "studio-001".into(),
        org: "default".into(),
        server: Some("https://fleet.example.com".into()),
        connection: Connection::Connected,
        since_ms: 3_000_000,
        link: Some("mqtts://fleet.example.com".into()),
        next_attempt_at_ms: None,
        last_error: Some("broken\u{1b}[2Jpipe".into()),
        last_error_at_ms: Some(2_900_000),
        state_damage: Some("the state database could not be trusted: it is empty".into()),
        state_damage_at_ms: Some(1_000_000),
        last_ack_at_ms: Some(3_990_000),
        outbox_depth: 2,
        outbox_bytes: 180,
        certificate_expires_at_ms: Some(1_795_000_000_000),
        certificate_renew_at_ms: Some(1_794_000_000_000),
        last_heartbeat_at_ms: Some(3_960_000),
        app: AppSummary { liveness: "live".into(), because: "it says recording".into(), version: None },
        held_reason: Some("live: the application says recording".into()),
        transport: Some("mqtts".into()),
        open_commands: vec![
            open("ping", "c-1", "running", None),
            open("restart_service", "c-2", "held", Some("live: the application says recording")),
            open("reboot", "c-3", "acked", Some("busy: c-1 runs")),
        ],
    }
}

#[test]
fn the_words_say_connection_outbox_error_and_application() {
    let text = describe(&status(), 4_000_000);
    for part in [
        "connected for 16 min 40 s",
        "State folder       the state database could not be trusted: it is empty (50 min 0 s ago)",
        "mqtts://fleet.example.com (MQTT over TLS)",
        "https://fleet.example.com",
        "studio-001, organisation default",
        "2 records (1 KiB) not yet confirmed",
        "Certificate        valid until 2026-11-18T11:06:40Z, renews 2026-11-06T21:20:00Z",
        "Last confirmation  10 s ago",
        "(18 min 20 s ago)",
        "live (it says recording)",
        "running for 50 min 0 s",
        "Commands           ping c-1 is running\n",
        "restart_service c-2 is held: live (the application says recording)\n",
        "reboot c-3 waits: busy (c-1 runs)\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn an_agent_that_waits_says_when_it_tries_again() {
    let waiting = Status { connection: Connection::Waiting, next_attempt_at_ms: Some(4_090_000), ..status() };
    assert!(
        describe(&waiting, 4_000_000).contains("not connected for 16 min 40 s; next attempt in 1 min 30 s")
    );
}

#[test]
fn durations_have_their_two_largest_units() {
    let texts = [-5, 59_999, 61_000, 3_660_000, 90_000_000].map(duration_text);
    assert_eq!(texts, ["0 s", "59 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
}

#[test]
fn the_lock_decides_whether_the_agent_runs_and_not_an_old_status_file() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("run");
    let file = StatusFile { path: folder.path().join(STATUS_FILE) };
    file.write(&status()).unwrap();
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::NotRunning);

    let mut lock = StateLock::take(folder.path()).unwrap();
    let pid = i32::try_from(std::process::id()).ok();
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::Silent { pid });
    lock.announce(file.path()).unwrap();
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::Running(Box::new(status())));

    file.write(&Status { pid: 1, ..status() }).unwrap();
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::Silent { pid });
    fs::write(file.path(), "{").unwrap();
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::Silent { pid });
    file.remove();
    drop(lock);
    assert_eq!(look_in(folder.path(), &nowhere).unwrap(), Found::NotRunning);
}

#[test]
fn a_status_file_is_replaced_whole_and_survives_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = StatusFile { path: folder.path().join(STATUS_FILE) };
    file.write(&status()).unwrap();
    file.write(&Status { outbox_depth: 7, ..status() }).unwrap();
    assert_eq!(read(file.path()).unwrap().outbox_depth, 7);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the two that take turns");
}

#[test]
fn whoever_reads_the_file_gets_a_whole_one_whatever_was_written_before_and_is_written_now() {
    let folder = tempfile::tempdir().unwrap();
    let file = StatusFile { path: folder.path().join(STATUS_FILE) };
    let with = |error: &str| Status { last_error: Some(error.to_owned()), ..status() };
    let (short, long) = (with(""), with(&"long ".repeat(2000)));
    file.write(&short).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for status in [&long, &short, &short, &long].iter().cycle().take(200) {
                std::thread::sleep(std::time::Duration::from_millis(5));
                file.write(status).unwrap();
                assert_eq!(read(file.path()).as_ref(), Some(*status));
            }
        });
        while !writer.is_finished() {
            let found = read(file.path()).expect("a whole status");
            assert!(found == short || found == long);
        }
    });
    file.remove();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
