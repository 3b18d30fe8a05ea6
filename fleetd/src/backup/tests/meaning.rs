//! What a restored database knows of the time between.

use super::Place;

const ORG: &str = "00000000-0000-4000-8000-000000000001";

/// Two devices of a group, one with a desired state, and a command in every state.
fn stage() -> Place {
    let place = Place::new();
    let mut sql = String::new();
    for id in ["a", "b", "http"] {
        sql += &format!(
            "INSERT INTO devices (id, org_id, device_id, name, approval, arch, redundancy_group, created_at, updated_at) \
             VALUES ('{id}', '{ORG}', '{id}', '{id}', 'approved', 'aarch64', 'pair', 1, 1);"
        );
    }
    for status in ["pending", "sent", "acked", "held", "running", "completed", "indeterminate"] {
        sql += &format!(
            "INSERT INTO commands (id, org_id, device_id, type, payload, priority, timeout_seconds, created_by, \
             created_at, expires_at, request_hash, status, revision, query_sent_at) \
             VALUES ('{status}', '{ORG}', 'a', 'ping', '{{}}', 5, 60, 'x', 1, 2, 'x', '{status}', 4, 9);\
             INSERT INTO command_history (command_id, revision, org_id, status, at) \
             VALUES ('{status}', 4, '{ORG}', '{status}', 1);"
        );
    }
    sql += &format!(
        "INSERT INTO device_desired (device_id, org_id, version, config, show_locks, lock_versions, updated_at) \
         VALUES ('a', '{ORG}', 7, '{{\"K\":\"1\"}}', '[[1,2]]', '[6]', 1);\
         INSERT INTO redundancy_leases (org_id, name, revision, device_id, command_id) VALUES ('{ORG}', 'old', 3, 'a', 'held');\
         INSERT INTO users (id, org_id, email, username, name, role, password_hash, token_version, created_at, updated_at) \
         VALUES ('u', '{ORG}', 'a@example.org', 'a', 'A', 'admin', 'x', 3, 1, 1);\
         INSERT INTO refresh_tokens (id, org_id, user_id, family_id, token_sha256, token_version, created_at, expires_at) \
         VALUES ('r', '{ORG}', 'u', 'f', 'h', 3, 1, 2);\
         INSERT INTO device_certificates (serial, org_id, device_id, sha256, key_sha256, created_at, expires_at) \
         VALUES ('c', '{ORG}', 'a', 'h', 'k', 1, 9223372036854775807);"
    );
    sql += &format!(
        "INSERT INTO device_state (device_id, org_id, last_heartbeat, commands_digest) VALUES ('http', '{ORG}', 5, x'01');"
    );
    place.sql(&sql);
    place.back_up("backup").unwrap();
    place.clock.advance_ms(3_600_000);
    let done = place.restore(&place.file("backup"), true).unwrap();
    assert_eq!(done.open_commands, 5);
    place
}

#[test]
fn every_open_command_is_asked_about_first_and_says_why() {
    let place = stage();
    let open = "('pending', 'sent', 'acked', 'held', 'running')";
    let asked = format!(
        "SELECT count(*) FROM commands WHERE query_first = 1 AND query_sent_at IS NULL AND status IN {open}"
    );
    assert_eq!(place.number(&asked), 5);
    assert_eq!(place.number("SELECT count(*) FROM commands WHERE query_first = 1"), 5, "ends stand");
    let told = "SELECT count(*) FROM command_history h JOIN commands c ON c.id = h.command_id \
                AND c.revision = h.revision WHERE h.detail LIKE 'the server was restored from a copy of 2025-12-28T10:00%' \
                AND h.told = 0 AND h.revision > 1000 AND h.status = c.status";
    assert_eq!(place.number(told), 5);
}

#[test]
fn of_every_device_it_has_to_be_shown_what_it_has_open_before_a_group_has_a_lease_to_give() {
    let place = stage();
    assert_eq!(place.number("SELECT count(*) FROM devices WHERE restored_at = 1766919600000"), 3);
    let told_before = "SELECT count(*) FROM device_state WHERE commands_digest IS NOT NULL";
    assert_eq!(place.number(told_before), 0);
    assert_eq!(
        place.number("SELECT count(*) FROM redundancy_leases WHERE command_id = 'held'"),
        1,
        "its holder stands"
    );
}

#[test]
fn what_is_desired_is_newer_than_what_any_device_has() {
    let place = stage();
    let raised = "SELECT count(*) FROM device_desired WHERE version >= 1766919600000";
    assert_eq!(
        place.number(raised),
        2,
        "also of a device of which nothing was desired, but of none that polls"
    );
    let kept = "SELECT count(*) FROM device_desired WHERE config = '{\"K\":\"1\"}' AND show_locks = '[[1,2]]' \
                AND lock_versions = '[]'";
    assert_eq!(place.number(kept), 1);
    let group = "SELECT count(*) FROM device_desired WHERE device_id = 'b' AND redundancy_group = 'pair'";
    assert_eq!(place.number(group), 1);
    // Once more, from the same backup: past what was given out meanwhile.
    let before = place.number("SELECT max(version) FROM device_desired");
    place.clock.advance_ms(1);
    place.restore(&place.file("backup"), true).unwrap();
    assert!(place.number("SELECT min(version) FROM device_desired") > before);
}

#[test]
fn nobody_stays_signed_in_and_the_audit_log_tells_every_organisation() {
    let place = stage();
    assert_eq!(place.number("SELECT count(*) FROM refresh_tokens"), 0);
    assert_eq!(place.number("SELECT token_version FROM users"), 1_766_919_600_000);
    let rows = "SELECT count(*) FROM audit_log a JOIN organizations o ON o.id = a.org_id WHERE a.action = 'server.restore' \
                AND a.actor = 'system' AND a.details LIKE '%2025-12-28T10:00:00%'";
    assert_eq!(place.number(rows), place.number("SELECT count(*) FROM organizations"));
}

#[test]
fn no_certificate_that_was_taken_back_since_comes_to_life() {
    let place = stage();
    assert_eq!(place.number("SELECT count(*) FROM device_certificates"), 0);
}
