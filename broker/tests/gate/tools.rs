//! Real clients: Mosquitto's command-line tools and Python's paho-mqtt, in both versions.

use crate::support::broker::up;
use crate::support::tools::{Finished, mosquitto, python, start};
use crate::support::*;

const ADA: (&str, &str) = ("acme/ada", "ada-secret");
const VERA: (&str, &str) = ("acme/vera", "vera-secret");
const CAMERA: (&str, &str) = ("acme/cam-1", "cam-1-secret");
const SERVICE: (&str, &str) = ("fleetd", "fleetd-secret");
const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

fn publish(broker: &TestBroker, version: &str, login: (&str, &str), more: &[&str]) -> Finished {
    mosquitto("mosquitto_pub", broker.address, version, login, more).finish()
}

/// Waits until `count` people are connected and have subscribed, as far as can be seen from here.
fn people(broker: &TestBroker, count: u64) {
    until("the subscribers are connected", || broker.broker.counters().connections_people == count);
    // SUBSCRIBE follows CONNACK at once; there is no counter of it.
    std::thread::sleep(std::time::Duration::from_millis(300));
}

#[test]
fn mosquitto_tools_of_both_versions_talk_through_one_port() {
    let broker = TestBroker::start();
    let readers = VERSIONS.map(|version| {
        let more = ["-t", "fleet/v1/acme/device/+/heartbeat", "-q", "1", "-C", "2", "-v"];
        mosquitto("mosquitto_sub", broker.address, version, VERA, &[&more[..], &["-i", version]].concat())
    });
    people(&broker, 2);
    let topic = up("cam-1", "heartbeat");
    let as_device = ["-i", "acme/cam-1", "-t", &topic, "-q", "1"];
    let sent = publish(&broker, "mqttv311", CAMERA, &[&as_device[..], &["-m", "from 3.1.1"]].concat());
    assert!(sent.status.success(), "{sent:?}");
    let properties = ["-m", "from 5", "-D", "publish", "user-property", "k", "v"];
    let sent = publish(&broker, "mqttv5", CAMERA, &[&as_device[..], &properties].concat());
    assert!(sent.status.success(), "{sent:?}");
    for reader in readers {
        let read = reader.finish();
        assert_eq!(read.stdout, format!("{topic} from 3.1.1\n{topic} from 5\n"), "{read:?}");
        assert!(read.status.success());
    }
}

#[test]
fn mosquitto_tools_say_what_was_refused() {
    let broker = TestBroker::start();
    for (version, bad_password) in [("mqttv311", 4), ("mqttv5", 0x86)] {
        let wrong = publish(&broker, version, ("acme/ada", "wrong"), &["-t", "x", "-m", "x"]);
        assert_eq!(wrong.status.code(), Some(bad_password), "{wrong:?}");
        // A forbidden filter: the tool gives up when all are refused.
        let more = ["-t", "fleet/v1/acme/device/+/log", "-W", "5"];
        let read = mosquitto("mosquitto_sub", broker.address, version, VERA, &more).finish();
        assert!(read.stderr.contains("denied"), "{read:?}");
        let will = ["--will-topic", &up("cam-2", "presence"), "--will-payload", "evil"];
        let command = up("cam-1", "command");
        let more = [&will[..], &["-i", "acme/cam-1", "-t", &command, "-W", "5"]].concat();
        let read = mosquitto("mosquitto_sub", broker.address, version, CAMERA, &more).finish();
        assert_eq!(read.status.code(), Some(if version == "mqttv5" { 0x87 } else { 5 }), "{read:?}");
    }
    let topic = up("cam-1", "command");
    let sent = publish(&broker, "mqttv5", VERA, &["-t", &topic, "-m", "evil", "-q", "1", "-d"]);
    assert!(sent.stdout.contains("RC:135"), "PUBACK 0x87: {sent:?}");
    let old = publish(&broker, "mqttv31", ADA, &["-t", "x", "-m", "x"]);
    assert_eq!(old.status.code(), Some(1), "3.1 is refused by version: {old:?}");
    broker.assert_serves_others();
}

#[test]
fn mosquitto_sub_with_a_persistent_session_gets_what_it_missed() {
    let broker = TestBroker::start();
    for version in VERSIONS {
        let mut session = vec!["-i", "desk", "-c", "-q", "1", "-t", "fleet/v1/acme/view/+"];
        if version == "mqttv5" {
            session.extend(["-x", "3600"]);
        }
        let first = mosquitto("mosquitto_sub", broker.address, version, ADA, &session);
        people(&broker, 1);
        first.kill();
        until("it has left", || broker.broker.counters().connections_people == 0);
        for text in ["one", "two", "three"] {
            let sent = publish(
                &broker,
                version,
                SERVICE,
                &["-t", "fleet/v1/acme/view/cam-1", "-m", text, "-q", "2"],
            );
            assert!(sent.status.success(), "{sent:?}");
        }
        session.extend(["-C", "3"]);
        let read = mosquitto("mosquitto_sub", broker.address, version, ADA, &session).finish();
        assert_eq!(read.stdout, "one\ntwo\nthree\n", "{read:?}");
        // Leave no session to the other version's round.
        let clean = ["-i", "desk", "-t", "fleet/v1/acme/view/+", "-W", "1"];
        mosquitto("mosquitto_sub", broker.address, version, ADA, &clean).finish();
    }
}

#[test]
fn mosquitto_tools_leave_and_read_wills_and_retained_messages() {
    let broker = TestBroker::start();
    for version in VERSIONS {
        let presence = up("cam-1", "presence");
        let watch = mosquitto("mosquitto_sub", broker.address, version, VERA, &["-t", &presence, "-C", "1"]);
        people(&broker, 1);
        let command = up("cam-1", "command");
        let will = ["--will-topic", &presence, "--will-payload", version, "--will-retain", "--will-qos", "1"];
        let camera = [&["-i", "acme/cam-1", "-t", &command][..], &will].concat();
        let camera = mosquitto("mosquitto_sub", broker.address, version, CAMERA, &camera);
        until("the device is connected", || broker.broker.counters().connections_devices == 1);
        camera.kill();
        assert_eq!(watch.finish().stdout, format!("{version}\n"));
        let late = ["-t", &presence, "-C", "1", "-F", "%r %t %p"];
        let late = mosquitto("mosquitto_sub", broker.address, version, VERA, &late).finish();
        assert_eq!(late.stdout, format!("1 {presence} {version}\n"));
        // Cleared, so that the other round begins without it.
        let cleared = publish(&broker, version, SERVICE, &["-t", &presence, "-r", "-n", "-q", "1"]);
        assert!(cleared.status.success(), "{cleared:?}");
    }
}

#[test]
fn a_device_gets_its_command_from_mosquitto_pub() {
    let broker = TestBroker::start();
    for version in VERSIONS {
        let command = up("cam-1", "command");
        let more = ["-i", "acme/cam-1", "-t", &command, "-q", "1", "-C", "1"];
        let camera = mosquitto("mosquitto_sub", broker.address, version, CAMERA, &more);
        until("the device is connected", || broker.broker.counters().connections_devices == 1);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let sent = publish(&broker, version, SERVICE, &["-t", &command, "-m", "reboot", "-q", "1"]);
        assert!(sent.status.success(), "{sent:?}");
        assert_eq!(camera.finish().stdout, "reboot\n");
        until("it has left", || broker.broker.counters().connections_devices == 0);
    }
}

#[test]
fn python_paho_talks_through_both_versions() {
    let broker = TestBroker::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/paho_check.py");
    let port = broker.address.port().to_string();
    for version in ["3.1.1", "5"] {
        let check = start(python(), [script, &port, version]).finish();
        assert!(
            check.status.success(),
            "{}\n{}{}",
            "if paho-mqtt is missing: make setup",
            check.stdout,
            check.stderr
        );
        assert!(check.stdout.ends_with("all good\n"), "{check:?}");
    }
    broker.assert_serves_others();
}
