//! What people ask for by MQTT, rightly and wrongly: a real server, and people's tools as rumqttc clients.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::{BTreeMap, BTreeSet};

use process::{
    Mqtt, PASSWORD,
    commands::{Operator, Stage, add_user, ping},
};
use protocol::{codec, message::OperatorRequest};
use serde_json::json;

#[test]
fn bad_requests_are_answered_with_the_reason() {
    let stage = Stage::new();
    add_user(stage.data.path(), "olga", "operator");
    let admin = stage.operator();
    let mut answers = BTreeMap::new();
    let mut large = br#"{"notes": ""#.to_vec();
    large.resize(70_000, b'x');
    let bad: [(&str, Vec<u8>); 13] = [
        ("text", b"restart please".to_vec()),
        ("nothing", Vec::new()),
        ("half", br#"{"to": "cam-1", "#.to_vec()),
        ("list", b"[1, 2]".to_vec()),
        ("cbor number", vec![0x05]),
        ("cbor bomb", vec![0x81; 5000]),
        ("large", large),
        ("unknown type", json!({"to": "cam-1", "type": "explode"}).to_string().into()),
        ("unknown key", json!({"to": "cam-1", "type": "ping", "colour": 1}).to_string().into()),
        ("priority", json!({"to": "cam-1", "type": "ping", "priority": 0}).to_string().into()),
        ("nobody", json!({"to": "cam-9", "type": "ping", "ref": "r9"}).to_string().into()),
        ("no command", json!({"cancel": "nothing-like-it"}).to_string().into()),
        ("no reason", json!({"override": "x"}).to_string().into()),
    ];
    for (name, payload) in bad {
        let answer = admin.refused(payload);
        let reason = answer["reason"].as_str().unwrap().to_owned();
        assert!(!reason.is_empty() && reason.len() <= 2000, "{name}: {reason}");
        answers.insert(name, answer);
    }
    let says = |name: &str, part: &str| {
        assert!(answers[name]["reason"].as_str().unwrap().contains(part), "{name}: {}", answers[name]);
    };
    says("half", "JSON");
    says("large", "65536");
    says("unknown type", "type");
    says("unknown key", "colour");
    says("priority", "priority");
    says("nobody", "cam-9");
    says("no reason", "reason");
    assert_eq!(answers["nobody"]["ref"], "r9", "so that the sender knows which");

    // What a person may write: a byte order mark before JSON, and CBOR of the same shape.
    let mut marked = b"\xef\xbb\xbf \n".to_vec();
    marked.extend(json!({"to": "cam-1", "type": "ping", "ref": "bom"}).to_string().into_bytes());
    admin.publish(marked);
    assert_eq!(admin.hears("accepted")["ref"], "bom");
    let request = OperatorRequest {
        to: Some("cam-1".to_owned()),
        kind: Some("ping".to_owned()),
        reference: Some("cbor".to_owned()),
        ..OperatorRequest::default()
    };
    admin.publish(codec::encode_named(&request).unwrap());
    assert_eq!(admin.hears("accepted")["ref"], "cbor");
    // A ref names one request.
    let other =
        admin.refused(json!({"to": "cam-1", "type": "ping", "ref": "bom", "priority": 2}).to_string());
    assert!(other["reason"].as_str().unwrap().contains("bom"), "{other}");
    assert_eq!(other["device"], "cam-1");
    // Without one, the same bytes are one command for a minute.
    admin.ask(&ping("cam-1"));
    let first = admin.hears("accepted")["id"].clone();
    admin.ask(&ping("cam-1"));
    assert_eq!(admin.hears("accepted")["id"], first);

    let olga = Operator::connect(&stage.server, "olga");
    let update =
        olga.refused(json!({"to": "cam-1", "type": "update", "payload": {"version": "2"}}).to_string());
    assert!(update["reason"].as_str().unwrap().contains("admin"), "{update}");
    let forced = olga
        .refused(json!({"to": "cam-1", "type": "reboot", "override_show": {"reason": "now"}}).to_string());
    assert!(forced["reason"].as_str().unwrap().contains("admin"), "{forced}");
}

#[test]
fn a_retained_request_is_refused_and_its_sender_is_told_why() {
    let stage = Stage::new();
    let watcher = stage.operator();
    let filter = "fleet/v1/server/+";
    let sender = Mqtt::connect(&stage.server, "other-tool", "default/admin", PASSWORD, &[filter], None);
    sender.publish(&watcher.topic(), ping("cam-1").to_string().into(), true);
    let why = watcher.hears("rejected");
    assert!(why["reason"].as_str().unwrap().contains("retain"), "{why}");
}

#[test]
fn a_flood_of_ten_thousand_requests_is_answered_and_holds_up_nobody_else() {
    const FLOOD: usize = 10_000;
    let stage = Stage::new();
    add_user(stage.data.path(), "olga", "operator");
    let device = stage.device(1);
    let flooder = stage.operator();
    let olga = Operator::connect(&stage.server, "olga");
    let (client, topic) = (flooder.mqtt.client.clone(), flooder.topic());
    let sender = std::thread::spawn(move || {
        for n in 0..FLOOD {
            // None of them is possible, so that each has an answer of its own.
            let request = json!({"to": "cam-9", "type": "ping", "ref": n.to_string()});
            client.publish(&topic, rumqttc::QoS::AtLeastOnce, false, request.to_string()).unwrap();
        }
    });
    // Somebody else's request goes through meanwhile, and so do the device's records.
    olga.ask(&ping("cam-1"));
    let run = device.run();
    device.report(run.id.as_str(), 1, "completed");
    olga.hears("completed");
    let mut answered = BTreeSet::new();
    while answered.len() < FLOOD {
        let answer = flooder.next();
        assert_eq!(answer["status"], "rejected");
        match answer["ref"].as_str() {
            Some(reference) => assert!(answered.insert(reference.to_owned())),
            None => panic!("{answer}"),
        }
    }
    sender.join().unwrap();
}
