//! `ping`, `restart_service` and `reboot`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::fake::*;
use crate::effect::*;

fn payload(kind: &str, value: serde_json::Value) -> Payload {
    Payload::parse(kind.parse().unwrap(), &value).unwrap()
}

fn restart(service: &str, systemd: &FakeSystemd) -> Result<Prepared, Refusal> {
    let payload = payload("restart_service", json!({ "service": service }));
    prepare_with(payload, &config("ALLOWED_SERVICES=r58-api,extra@1.service,r58-fleet-agent"), systemd.way())
}

fn reboot(systemd: &FakeSystemd) -> Prepared {
    let payload = payload("reboot", json!({ "delay_seconds": 5 }));
    prepare_with(payload, &config(""), systemd.way()).unwrap()
}

/// A note from another boot of this machine.
fn of_another_boot(observed: &Observed) -> Observed {
    let own = kernel().boot_id().to_string();
    let text = observed.to_text().replace(&own, "00000000-0000-0000-0000-000000000001");
    Observed::from_text(&text).unwrap()
}

#[test]
fn a_ping_tells_the_clocks() {
    let ping = prepare(payload("ping", json!({})), &config("")).unwrap();
    assert!(!ping.is_disruptive() && ping.delay().is_zero());
    let observed = from_journal(&ping.observe(&kernel()));
    let Outcome::Completed(answer) = ping.run(&observed, LONG, &context()) else { panic!() };
    assert!(answer["time_ms"].as_i64().unwrap() > 1_600_000_000_000);
    assert!(answer["boottime_ms"].as_u64().unwrap() > 0);
    assert_eq!(observed.probe(&kernel()), Probed::NotDone);
}

#[test]
fn what_this_version_cannot_do_is_refused() {
    for (kind, value) in [("update", json!({"version": "1.2.3"})), ("bundle", json!({}))] {
        let refusal = prepare(payload(kind, value), &config("")).unwrap_err();
        assert_eq!(refusal.to_string(), "not supported by this agent version");
    }
}

#[test]
fn a_service_is_restarted_once_and_looked_at_afterwards() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    for name in ["r58-api", "r58-api.service"] {
        let prepared = restart(name, &systemd).unwrap();
        assert!(prepared.is_disruptive());
        let observed = from_journal(&prepared.observe(&kernel()));
        assert_eq!(observed.probe_with(&kernel(), &systemd.way()), Probed::NotDone);
        let Outcome::Completed(result) = prepared.run(&observed, LONG, &context()) else { panic!() };
        assert_eq!(
            (&result["service"], &result["active_state"]),
            (&json!("r58-api.service"), &json!("active"))
        );
        let Probed::Done(seen) = observed.probe_with(&kernel(), &systemd.way()) else { panic!() };
        assert_eq!(seen, result);
    }
    assert_eq!(systemd.calls(), ["restart r58-api.service", "restart r58-api.service"]);
}

#[test]
fn a_service_that_is_not_listed_letter_by_letter_is_not_allowed() {
    let systemd = FakeSystemd::with_units(&["r58-api.service", "sshd.service"]);
    let bad = [
        "sshd",
        "R58-API",
        "r58-api.socket",
        "r58-api.service.service",
        "r58-api@x",
        "extra@2",
        "extra@",
        "extra",
        "../r58-api",
        "r58-api/../sshd",
        "-r58-api",
        "--now",
        "r58-api sshd",
        "r58-api,sshd",
        "*",
        "r58-ap?",
        "/etc/passwd",
        "r58-api\u{e9}",
    ];
    for name in bad {
        let refusal = restart(name, &systemd).unwrap_err();
        assert!(matches!(refusal, Refusal::NotAllowed(_) | Refusal::Invalid(_)), "{name}");
    }
    assert_eq!(
        restart("sshd", &systemd).unwrap_err().to_string(),
        "not allowed: sshd.service is not in this device's ALLOWED_SERVICES (r58-api, extra@1.service, \
         r58-fleet-agent)"
    );
    assert!(restart("extra@1", &systemd).is_ok());
    let none =
        prepare(payload("restart_service", json!({"service": "r58-api"})), &config("ALLOWED_SERVICES="));
    assert!(none.unwrap_err().to_string().ends_with("ALLOWED_SERVICES (none)"));
    assert_eq!(systemd.calls(), Vec::<String>::new());
}

#[test]
fn a_service_that_is_not_there_fails_with_systemds_words() {
    let systemd = FakeSystemd::new();
    let prepared = restart("r58-api", &systemd).unwrap();
    let Outcome::Failed { error, .. } = prepared.run(&prepared.observe(&kernel()), LONG, &context()) else {
        panic!()
    };
    assert_eq!(error, "Failed to restart r58-api.service: Unit r58-api.service not found.");
}

#[test]
fn a_service_that_falls_over_after_its_restart_has_failed() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    // What systemctl leaves behind is ended with it, so the fall is somebody else's doing.
    let unit = systemd.file("unit-r58-api.service");
    let falls = thread::spawn(move || {
        let deadline = Instant::now() + LONG;
        let before = fs::read_to_string(&unit).unwrap();
        while Instant::now() < deadline {
            let now = fs::read_to_string(&unit).unwrap();
            if now != before {
                let fallen = now.replace("=active", "=failed").replace("=success", "=exit-code");
                return fs::write(&unit, fallen).unwrap();
            }
            thread::sleep(Duration::from_millis(10));
        }
    });
    let prepared = restart("r58-api", &systemd).unwrap();
    let observed = prepared.observe(&kernel());
    let outcome = prepared.run(&observed, LONG, &context());
    let Outcome::Failed { error, result: Some(result) } = outcome else { panic!("{outcome:?}") };
    falls.join().unwrap();
    assert_eq!(error, "r58-api.service was restarted and is failed now (result: exit-code)");
    assert_eq!(result["active_state"], "failed");
    let probed = observed.probe_with(&kernel(), &systemd.way());
    assert!(matches!(probed, Probed::Failed { .. }), "{probed:?}");
}

#[test]
fn a_restart_that_systemd_only_says_it_has_done_is_not_believed() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    script(&systemd.file("on-restart"), "#!/bin/sh\n");
    let prepared = restart("r58-api", &systemd).unwrap();
    let outcome = prepared.run(&prepared.observe(&kernel()), Duration::from_secs(1), &context());
    let Outcome::Failed { error, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(error, "systemd was asked to restart r58-api.service, and has not done it");
}

#[test]
fn a_restart_that_takes_too_long_has_timed_out() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    script(&systemd.file("on-restart"), "#!/bin/sh\nexec sleep 600\n");
    let prepared = restart("r58-api", &systemd).unwrap();
    let outcome = prepared.run(&prepared.observe(&kernel()), Duration::from_secs(1), &context());
    assert!(matches!(outcome, Outcome::TimedOut { .. }), "{outcome:?}");
}

#[test]
fn a_restart_interrupted_by_a_power_cut_is_not_guessed_at() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    let prepared = restart("r58-api", &systemd).unwrap();
    let observed = of_another_boot(&prepared.observe(&kernel()));
    assert!(matches!(observed.probe_with(&kernel(), &systemd.way()), Probed::Unknown(_)));
}

#[test]
fn a_restart_without_anybody_to_ask_afterwards_is_unknown() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    let observed = restart("r58-api", &systemd).unwrap().observe(&kernel());
    script(&systemd.file("systemctl"), "#!/bin/sh\nexit 1\n");
    assert!(matches!(observed.probe_with(&kernel(), &systemd.way()), Probed::Unknown(_)));
}

#[test]
fn a_unit_that_systemd_is_at_is_looked_at_again() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    let observed = restart("r58-api", &systemd).unwrap().observe(&kernel());
    fs::write(systemd.file("unit-r58-api.service"), "LoadState=loaded\nActiveState=deactivating\n").unwrap();
    assert_eq!(observed.probe_with(&kernel(), &systemd.way()), Probed::StillGoing);
}

#[test]
fn a_systemctl_that_outlives_the_agent_asks_for_nothing_after_the_probe() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    // It takes its time before it asks.
    let slow = systemd.file("slow");
    fs::rename(systemd.file("systemctl"), &slow).unwrap();
    script(
        &systemd.file("systemctl"),
        "#!/bin/sh\nhere=$(dirname \"$0\")\ncase $* in *restart*) touch \"$here/started\"; sleep 600 ;; esac\n\
         exec \"$here/slow\" \"$@\"\n",
    );
    let prepared = restart("r58-api", &systemd).unwrap();
    let observed = from_journal(&prepared.observe(&kernel()));
    thread::scope(|scope| {
        let run = scope.spawn(|| prepared.run(&observed, Duration::from_secs(2), &context()));
        let deadline = Instant::now() + LONG;
        while !systemd.file("started").exists() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(observed.probe_with(&kernel(), &systemd.way()), Probed::NotDone);
        assert!(!matches!(run.join().unwrap(), Outcome::Completed(_)));
    });
    assert_eq!(systemd.calls(), Vec::<String>::new());
}

#[test]
fn the_agents_own_unit_is_safe_and_its_new_run_is_the_proof() {
    let systemd = FakeSystemd::with_units(&["r58-fleet-agent.service"]);
    let prepared = restart("r58-fleet-agent", &systemd).unwrap();
    assert!(!prepared.is_disruptive());
    let observed = from_journal(&prepared.observe(&kernel()));
    systemd.start("r58-fleet-agent.service");
    let file = systemd.file("unit-r58-fleet-agent.service");
    let starting = fs::read_to_string(&file).unwrap().replace("=active", "=activating");
    fs::write(&file, starting).unwrap();
    assert!(matches!(observed.probe_with(&kernel(), &systemd.way()), Probed::Done(_)));
}

#[test]
fn a_reboot_is_asked_for_once_and_proved_by_the_boot_id() {
    let systemd = FakeSystemd::new();
    fs::write(systemd.file("system-state"), "stopping\n").unwrap();
    let prepared = reboot(&systemd);
    assert!(prepared.is_disruptive());
    assert_eq!(prepared.delay(), Duration::from_secs(5));
    let observed = from_journal(&prepared.observe(&kernel()));
    assert_eq!(prepared.run(&observed, Duration::from_millis(300), &context()), Outcome::RebootAsked);
    assert_eq!(systemd.calls(), ["reboot"]);
    assert_eq!(observed.probe_with(&kernel(), &systemd.way()), Probed::StillGoing);
    fs::remove_file(systemd.file("system-state")).unwrap();
    assert_eq!(observed.probe_with(&kernel(), &systemd.way()), Probed::NotDone);
    let after = of_another_boot(&observed).probe_with(&kernel(), &systemd.way());
    assert!(matches!(after, Probed::Done(_)), "{after:?}");
}

#[test]
fn a_reboot_that_does_not_come_has_failed() {
    let systemd = FakeSystemd::new();
    let prepared = reboot(&systemd);
    let limit = Duration::from_millis(300);
    let outcome = prepared.run(&prepared.observe(&kernel()), limit, &context());
    assert!(matches!(&outcome, Outcome::Failed { error, .. } if error.contains("nothing has happened")));
    script(&systemd.file("on-reboot"), "#!/bin/sh\necho 'Access denied' >&2\nexit 1\n");
    let outcome = prepared.run(&prepared.observe(&kernel()), limit, &context());
    assert_eq!(outcome, Outcome::failed("Access denied"));
}

#[test]
fn without_any_systemd_a_tests_machine_is_not_rebooted() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = Systemd::on_path(folder.path());
    let prepared = prepare_with(payload("reboot", json!({})), &config(""), nothing).unwrap();
    let outcome = prepared.run(&prepared.observe(&kernel()), Duration::from_millis(300), &context());
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
}

#[test]
fn a_note_of_another_command_does_nothing() {
    let systemd = FakeSystemd::with_units(&["r58-api.service"]);
    let other = reboot(&systemd).observe(&kernel());
    let outcome = restart("r58-api", &systemd).unwrap().run(&other, LONG, &context());
    assert!(matches!(outcome, Outcome::Failed { .. }));
    assert_eq!(systemd.calls(), Vec::<String>::new());
}

#[test]
fn a_note_with_more_in_it_is_read_and_one_that_is_no_note_is_not() {
    assert!(Observed::from_text(r#"{"effect": "ping", "colour": "red"}"#).is_ok());
    assert!(Observed::from_text(r#"{"effect": "sing"}"#).is_err());
    assert!(Observed::from_text("").is_err());
}

#[test]
fn every_example_of_a_command_in_the_documentation_is_one() {
    let text = include_str!("../../../../docs/commands.md");
    let mut kinds = Vec::new();
    for example in text.split("```json\n").skip(1) {
        let example: serde_json::Value = serde_json::from_str(example.split("```").next().unwrap()).unwrap();
        let Some(kind) = example["type"].as_str() else { continue };
        payload(kind, example["payload"].clone());
        kinds.push(kind.to_owned());
    }
    assert_eq!(kinds, ["ping", "restart_service", "reboot", "config", "custom", "rotate_token"]);
}
