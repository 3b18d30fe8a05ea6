//! `fleet.cddl` describes the bytes that the golden fixtures hold: each message against its own rule.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// The rule of the file with `root` as its first, since a validator starts at the first rule.
fn schema_for(root: &str) -> String {
    let cddl = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fleet.cddl")).unwrap();
    format!("root = {root}\n{cddl}")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn validate(rule: &str, cbor: &[u8]) -> Result<(), String> {
    cddl::validate_cbor_from_slice(&schema_for(rule), cbor, None).map_err(|e| e.to_string())
}

/// Which fixture is described by which rule. Devices write packed, servers named.
const RULES: [(&str, &str); 20] = [
    ("birth.packed.hex", "birth"),
    ("presence.packed.hex", "presence"),
    ("presence-of-a-newer-version.packed.hex", "presence"),
    ("heartbeat.packed.hex", "heartbeat"),
    ("heartbeat-without-sensors.packed.hex", "heartbeat"),
    ("heartbeat-batch.packed.hex", "heartbeat-batch"),
    ("command-report.packed.hex", "command-report"),
    ("reported.packed.hex", "reported"),
    ("log-batch.packed.hex", "log-batch"),
    ("event.packed.hex", "event"),
    ("ack.named.hex", "ack"),
    ("desired.named.hex", "desired"),
    ("device-command.named.hex", "device-command"),
    ("device-cancel.named.hex", "device-command"),
    ("device-go.named.hex", "device-command"),
    ("operator-request.named.hex", "operator-request"),
    ("operator-result.named.hex", "operator-result"),
    ("server-status.named.hex", "server-status"),
    ("exchange.packed.hex", "exchange"),
    ("exchange-nothing.named.hex", "exchange"),
];

#[test]
fn every_golden_message_matches_its_rule() {
    for (file, rule) in RULES {
        validate(rule, &fixture(file)).unwrap_or_else(|e| panic!("{file} does not match `{rule}`: {e}"));
    }
}

#[test]
fn a_message_does_not_match_another_ones_rule() {
    assert!(validate("presence", &fixture("heartbeat.packed.hex")).is_err());
    assert!(validate("heartbeat", &fixture("birth.packed.hex")).is_err());
    assert!(validate("ack", &fixture("desired.named.hex")).is_err());
}
