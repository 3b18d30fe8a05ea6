//! The agent dies.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use end_to_end::Server;
use protocol::failpoint::VARIABLE;
use serde_json::{Value, json};

use crate::case::{Case, DISRUPTIVE, KINDS, Kind, Story, has_ended};
use crate::{SOON, WITHOUT_HASTE, in_parallel};

/// How many devices are under test at the same time.
const AT_ONCE: usize = 6;

/// The lives in which a command passes this place.
fn stories(place: &str) -> Vec<Story> {
    let part = |name: &str| place.contains(name);
    match () {
        () if part("journal.held") => DISRUPTIVE.map(Story::Held).to_vec(),
        () if part("journal.override") => DISRUPTIVE.map(Story::Overridden).to_vec(),
        () if part("journal.cancelled") => DISRUPTIVE.map(Story::Cancelled).to_vec(),
        () if part("journal.expired") => DISRUPTIVE.map(Story::Expires).to_vec(),
        () if part("journal.rejected") => {
            [Kind::RestartService, Kind::Config, Kind::Custom].map(Story::NotAllowed).to_vec()
        }
        () if part("journal.failed") => vec![Story::Fails],
        () if part("journal.timed_out") => vec![Story::TimesOut],
        () if part("journal.indeterminate") => vec![Story::KilledMidway],
        () if part("agent.desired") => KINDS.map(Story::Desired).to_vec(),
        () if part("fallen-back") => vec![Story::TokenLapses],
        () if part("agent.rotation") => vec![Story::Plain(Kind::RotateToken)],
        () if part("agent.file") => [Kind::Config, Kind::RotateToken].map(Story::Plain).to_vec(),
        // A machine that reboots takes the agent with it.
        () if part("effect.after") || part("effect.heard") => {
            KINDS.into_iter().filter(|kind| *kind != Kind::Reboot).map(Story::Plain).collect()
        }
        () => KINDS.map(Story::Plain).to_vec(),
    }
}

#[test]
fn the_agent_may_die_at_any_place_and_no_effect_happens_twice_and_the_end_is_true() {
    let server = Server::start_with(&[WITHOUT_HASTE]);
    let reached = Mutex::new(BTreeSet::new());
    let all: Vec<(&str, Story)> = agent::failpoint::ALL
        .iter()
        .flat_map(|place| stories(place).into_iter().map(move |story| (*place, story)))
        .collect();
    in_parallel(&all, AT_ONCE, |&(place, story)| {
        let api = server.api();
        let device = format!("{}-{}", place.replace('.', "-"), story.name());
        let mut case = Case::new(&server, story, &device);
        // The new token is in the agent's file, and was never used.
        let first = if story == Story::TokenLapses { "agent.rotation.switched" } else { place };
        case.agent.set(VARIABLE, Some(first));
        case.agent.start();
        if matches!(story, Story::Desired(_)) {
            let (status, body) =
                api.patch(&format!("/devices/{device}"), &json!({"target_version": "1.2.3"}));
            assert_eq!(status, 200, "{body}");
        }
        let id = api.command(&device, &story.request());
        let deadline = Instant::now() + SOON;
        let mut command = Value::Null;
        while Instant::now() < deadline && !has_ended(&command) {
            if case.agent.ended().is_some() {
                case.agent.kill();
                if story == Story::TokenLapses && !case.meddled {
                    case.meddled = true;
                    let database = rusqlite::Connection::open(server.data_dir().join("fleet.db")).unwrap();
                    database.busy_timeout(SOON).unwrap();
                    let lapse = "UPDATE device_tokens SET expires_at = 1 WHERE slot = 'pending' AND device_id = \
                                 (SELECT id FROM devices WHERE device_id = ?1)";
                    assert_eq!(database.execute(lapse, [&device]).unwrap(), 1);
                    case.agent.set(VARIABLE, Some(place));
                } else {
                    reached.lock().unwrap().insert((place, story.name()));
                    case.agent.set(VARIABLE, None);
                }
                if case.machine.count("reboot") > 0 && !case.rebooted {
                    case.rebooted = true;
                    case.machine.boot();
                }
                case.agent.start();
            }
            command = api.get(&format!("/commands/{id}"));
            case.go_on(&api, &command);
            std::thread::sleep(Duration::from_millis(100));
        }
        // It may still die at a place after the end that the server knows; it must come back all the same.
        case.check(&command, place);
    });
    let reached = reached.into_inner().unwrap();
    let missed: Vec<_> =
        all.iter().filter(|(place, story)| !reached.contains(&(*place, story.name()))).collect();
    assert!(missed.is_empty(), "not passed: {missed:#?}");
}
