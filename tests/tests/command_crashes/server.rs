//! The server dies.

use std::time::{Duration, Instant};

use end_to_end::{Api, Person, Server};
use protocol::failpoint::VARIABLE;
use serde_json::{Value, json};

use crate::case::{Case, DISRUPTIVE, KINDS, Kind, Story, has_ended};
use crate::{SOON, WITHOUT_HASTE, in_parallel};

/// How many servers are under test at the same time.
const AT_ONCE: usize = 4;

/// The lives in which a command passes this place.
fn stories(place: &str) -> Vec<Story> {
    let (what, _) = place.split_once('_').unwrap();
    match what {
        "request" => [
            &DISRUPTIVE.map(Story::Cancelled)[..],
            &DISRUPTIVE.map(Story::Overridden),
            &KINDS.map(Story::Asked),
        ]
        .concat(),
        "change" => [
            &DISRUPTIVE.map(Story::Cancelled)[..],
            &DISRUPTIVE.map(Story::Overridden),
            &KINDS.map(Story::Recalled),
        ]
        .concat(),
        "lease" => DISRUPTIVE.map(Story::Plain).to_vec(),
        "desired" => KINDS.map(Story::Desired).to_vec(),
        "token" => vec![Story::Plain(Kind::RotateToken)],
        _ => KINDS.map(Story::Plain).to_vec(),
    }
}

/// Asks for the command until it is known to be taken, whatever becomes of the server meanwhile: its `ref` makes it one.
fn insist(server: &Server, api: &Api, case: &Case, by_mqtt: bool) -> Option<String> {
    let (device, mut request) = (case.agent.device(), case.story.request());
    let commands = format!("/devices/{device}/commands");
    if by_mqtt {
        request["to"] = json!(device);
        // The answer may be lost with the server, so the list is asked what became of it.
        let _ = Person::admin().publish(server, &request.to_string(), &[]);
        let (_, list) = api.ask("GET", &commands, None)?;
        return list["items"][0]["id"].as_str().map(str::to_owned);
    }
    let (status, body) = api.ask("POST", &commands, Some(&request))?;
    assert_eq!(status, 201, "{request}: {body}");
    body["id"].as_str().map(str::to_owned)
}

/// What a restore from a backup does to every open command.
fn mark_as_restored(server: &Server, id: &str) {
    let database = rusqlite::Connection::open(server.data_dir().join("fleet.db")).unwrap();
    let marked = database.execute("UPDATE commands SET query_first = 1 WHERE id = ?1", [id]).unwrap();
    assert_eq!(marked, 1);
}

/// One command, in whose life the server dies at `place`.
fn live_through(server: &mut Server, api: &Api, place: &str, story: Story) {
    let mut case = Case::new(server, story, &story.name());
    let device = case.agent.device().to_owned();
    if place.starts_with("lease") {
        let group = json!({"redundancy_group": device});
        assert_eq!(api.patch(&format!("/devices/{device}"), &group).0, 200);
    }
    let by_mqtt = place.starts_with("operator") || place.starts_with("result");
    let mut id = matches!(story, Story::Asked(_)).then(|| api.command(&device, &story.request()));
    assert!(server.stop().success());
    if let Some(id) = &id {
        mark_as_restored(server, id);
    }
    server.set(VARIABLE, Some(place));
    server.start_again();
    let mut agent_runs = !matches!(story, Story::Recalled(_));
    if agent_runs {
        case.agent.start();
    }
    let mut died = false;
    let deadline = Instant::now() + 2 * SOON;
    let command = loop {
        if server.ended().is_some() {
            died = true;
            server.kill();
            server.set(VARIABLE, None);
            server.start_again();
        }
        if id.is_none() {
            if matches!(story, Story::Desired(_)) {
                let _ = api.ask(
                    "PATCH",
                    &format!("/devices/{device}"),
                    Some(&json!({"target_version": "1.2.3"})),
                );
            }
            id = insist(server, api, &case, by_mqtt);
        }
        if let Some(id) = &id
            && let Some((status, command)) = api.ask("GET", &format!("/commands/{id}"), None)
        {
            assert_eq!(status, 200, "an accepted command is gone: {command}");
            if !agent_runs && command["status"] == "pending" {
                let _ = api.ask("POST", &format!("/commands/{id}/cancel"), Some(&json!({})));
            } else if !agent_runs {
                case.agent.start();
                agent_runs = true;
            }
            case.go_on(api, &command);
            // The last places are passed after the end.
            if has_ended(&command) && died {
                break command;
            }
        }
        assert!(Instant::now() < deadline, "{place}, {story:?}: died: {died}, not ended\n{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    case.check(&command, place);
    let (_, list): (u16, Value) = api.try_get(&format!("/devices/{device}/commands"));
    assert_eq!(list["total"], 1, "{place}, {story:?}: one request, several commands: {list:#}");
}

#[test]
fn the_server_may_die_at_any_place_and_no_effect_happens_twice_and_the_end_is_true() {
    in_parallel(fleetd::failpoint::ALL, AT_ONCE, |&place| {
        let mut server = Server::start_with(&[WITHOUT_HASTE]);
        let api = server.api();
        for story in stories(place) {
            live_through(&mut server, &api, place, story);
        }
    });
}
