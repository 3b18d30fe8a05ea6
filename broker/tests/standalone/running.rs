//! `fleet-broker run`.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::{Broker, Files, fleet_broker, output};
use crate::support::broker::{accounts_text, device, person, service, up};
use crate::support::*;

#[test]
fn it_serves_devices_people_and_services_and_stops_on_sigterm_and_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let files = Files::new(&accounts_text(""));
        let broker = Broker::start(&files);
        let mut viewer = Client::connect(broker.address, &person(Version::V5, "vera"));
        let mut camera = Client::connect(broker.address, &device(Version::V311, "cam-1"));
        let mut fleetd = Client::connect(broker.address, &service(Version::V5));
        assert_eq!(viewer.subscribe(&["fleet/v1/acme/device/+/heartbeat"], 1), [1]);
        assert_eq!(fleetd.subscribe(&["fleet/v1/+/device/+/heartbeat"], 1), [1]);
        assert_eq!(camera.publish(Publish::new(up("cam-1", "heartbeat"), "beat").qos(1, 0)), 0);
        assert_eq!(viewer.message().text(), "beat");
        assert_eq!(fleetd.message().text(), "beat");
        broker.signal(signal);
        let began = Instant::now();
        viewer.expect_end(&[0x8b]);
        camera.expect_end(&[]);
        let (status, log) = broker.finish();
        assert!(status.success(), "{log}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(log.contains("stopped"), "{log}");
        assert!(!log.contains("-secret"), "no secret in the log: {log}");
    }
}

#[test]
fn a_person_logs_in_with_a_password() {
    let done = output(fleet_broker(&["hash", "password"]), "correct horse\n");
    let hash = String::from_utf8(done.stdout).unwrap();
    let person = format!(
        "[[person]]\norg = \"acme\"\nuser = \"bert\"\nrole = \"viewer\"\nemail = \"bert@example.org\"\npassword_argon2id = \"{}\"\n",
        hash.trim()
    );
    let files = Files::new(&(accounts_text("") + &person));
    let broker = Broker::start(&files);
    for version in BOTH {
        for name in ["acme/bert", "bert@example.org", "Bert@Example.ORG"] {
            let right = Connect::new(version, name).login(name, "correct horse");
            Client::connect(broker.address, &right).ping();
            let (_, code, _) =
                Client::attempt(broker.address, &Connect { password: Some("wrong horse".into()), ..right });
            assert_eq!(code, if version == Version::V5 { 0x86 } else { 4 });
        }
    }
}

#[test]
fn sighup_reads_the_credentials_again_and_ends_who_is_gone_or_changed() {
    let files = Files::new(&accounts_text(""));
    let mut broker = Broker::start(&files);
    let mut gone = Client::connect(broker.address, &device(Version::V5, "cam-1"));
    let mut demoted = Client::connect(broker.address, &person(Version::V5, "ada"));
    let mut stays = Client::connect(broker.address, &device(Version::V311, "cam-2"));
    let mut stays_too = Client::connect(broker.address, &person(Version::V5, "vera"));
    let changed = accounts_text("cam-1").replace("role = \"admin\"", "role = \"viewer\"");
    assert_ne!(changed, accounts_text("cam-1"));
    files.write_credentials(&changed);
    broker.signal(Signal::SIGHUP);
    let began = Instant::now();
    gone.expect_end(&[0x87, 0x98]);
    demoted.expect_end(&[0x87, 0x98]);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    broker.wait_for_log("credentials read again");
    assert_eq!(Client::attempt(broker.address, &device(Version::V5, "cam-1")).1, 0x86);
    let mut demoted = Client::connect(broker.address, &person(Version::V5, "ada"));
    assert_eq!(demoted.subscribe(&["fleet/v1/acme/#"], 1), [0x87], "the new role counts");
    stays.ping();
    stays_too.ping();
}

#[test]
fn a_bad_credentials_file_at_sighup_changes_nothing_and_is_reported() {
    let files = Files::new(&accounts_text(""));
    let mut broker = Broker::start(&files);
    let mut camera = Client::connect(broker.address, &device(Version::V5, "cam-1"));
    files.write_credentials("[[device]]\norg = 5\n");
    broker.signal(Signal::SIGHUP);
    let line = broker.wait_for_log("the old credentials stay in force");
    assert!(line.contains("line 2, key org"), "{line}");
    files.write_credentials(&accounts_text(""));
    files.set_mode(0o644);
    broker.signal(Signal::SIGHUP);
    assert!(broker.wait_for_log("the old credentials stay in force").contains("chmod 600"));
    camera.ping();
    Client::connect(broker.address, &device(Version::V5, "cam-2")).ping();
}

#[test]
fn a_port_in_use_is_an_error_that_says_so() {
    let files = Files::new(&accounts_text(""));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = fleet_broker(&["run", "--config", files.config().to_str().unwrap()]);
    command.env("FLEET_MQTT_LISTEN", &address);
    let done = output(command, "");
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
    assert!(said.contains("another program listens there") && said.contains("FLEET_MQTT_LISTEN"), "{said}");
}

#[test]
fn it_does_not_start_with_credentials_that_others_can_read() {
    let files = Files::new(&accounts_text(""));
    files.set_mode(0o644);
    let done = output(fleet_broker(&["run", "--config", files.config().to_str().unwrap()]), "");
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn the_environment_overrides_the_file_for_the_running_broker() {
    let files = Files::new(&accounts_text(""));
    let mut command = fleet_broker(&["run", "--config", files.config().to_str().unwrap()]);
    command
        .env("FLEET_BROKER_HANDSHAKE_SECONDS", "1")
        .env("FLEET_BROKER_PACKET_BYTES", "2000")
        .env("FLEET_LOG", "debug");
    let broker = Broker::from(command);
    let mut silent = Client::silent(broker.address, Version::V5);
    let began = Instant::now();
    assert_eq!(silent.wait(PATIENCE), Outcome::Closed);
    assert!(began.elapsed() > Duration::from_millis(900) && began.elapsed() < Duration::from_secs(5));
    let mut camera = Client::connect(broker.address, &device(Version::V5, "cam-1"));
    camera.send(Publish::new(up("cam-1", "log"), vec![0; 3000]).encode(Version::V5));
    camera.expect_end(&[0x95]);
    broker.signal(Signal::SIGTERM);
    let (_, log) = broker.finish();
    assert!(log.contains("DEBUG") && !log.contains("-secret"), "{log}");
    assert!(!log.contains("rumqttd"), "the router's own lines are off: {log}");
}
