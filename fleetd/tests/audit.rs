//! The audit log as people read, export and check it.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{PASSWORD, Server};
use fleetd::service::accounts::KeyTerms;
use protocol::id::Role;
use serde_json::{Value, json};

fn fleetd(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fleetd"))
        .args(arguments)
        .env_clear()
        .env("FLEET_DATA_DIR", data)
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The head that `fleetd audit verify` prints.
#[track_caller]
fn verified(data: &Path) -> String {
    let told = succeeds(&fleetd(data, &["audit", "verify"]));
    told.trim().split_once("whole; head ").unwrap_or_else(|| panic!("{told}")).1.to_owned()
}

fn superadmin(server: &Server, name: &str) {
    server.person("default", name, Role::Admin);
    let sql = "UPDATE users SET is_superadmin = 1 WHERE username = ?1";
    let statement = fleetd::store::Statement::new(sql, fleetd::values![name]).expect_rows(1);
    server.runtime.block_on(server.app.store.apply_one(statement)).unwrap();
}

/// An admin and a superadmin of one organisation, an admin of another, and some changes of each.
fn stage() -> Server {
    let server = Server::start();
    for name in ["ann", "olga", "vera"] {
        let role = [Role::Admin, Role::Operator, Role::Viewer]
            [["ann", "olga", "vera"].iter().position(|n| *n == name).unwrap()];
        server.person("default", name, role);
    }
    server.person("acme", "acme", Role::Admin);
    superadmin(&server, "root");
    for id in ["cam-1", "cam-2"] {
        server.device("ann", id);
        server.device("acme", id);
    }
    let patch = |who: &str, body: Value| {
        server.call("PATCH", "/api/v1/devices/cam-1").by_person(who).json(&body).status
    };
    assert_eq!(patch("olga", json!({"notes": "first"})), 200);
    assert_eq!(patch("vera", json!({"notes": "no"})), 403);
    let ping = json!({"type": "ping", "payload": {}, "to": "cam-1"});
    assert_eq!(server.post("/api/v1/commands").by_person("olga").json(&ping).status, 201);
    let wrong = json!({"email": "nobody@example.org", "password": "x"});
    assert_eq!(server.post("/api/v1/auth/login").json(&wrong).status, 401);
    server
}

fn audit(server: &Server, who: &str, query: &str) -> Value {
    let answer = server.get(&format!("/api/v1/audit{query}")).by_person(who).send();
    assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    answer.body
}

/// `action outcome actor resource_id` of each entry.
fn rows(page: &Value) -> Vec<String> {
    let told = |item: &Value| {
        ["action", "outcome", "actor", "resource_id"].map(|name| item[name].as_str().unwrap()).join(" ")
    };
    page["items"].as_array().unwrap().iter().map(told).collect()
}

#[test]
fn an_admin_sees_the_own_organisation_alone_and_a_superadmin_everything() {
    let server = stage();
    let own = audit(&server, "ann", "?page_size=100");
    let orgs = |page: &Value| {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["org"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert!(orgs(&own).iter().all(|org| org.as_deref() == Some("default")), "{own}");
    assert_eq!(
        own["total"].as_i64().unwrap(),
        i64::try_from(own["items"].as_array().unwrap().len()).unwrap()
    );
    let other = audit(&server, "acme", "?page_size=100");
    assert!(orgs(&other).iter().all(|org| org.as_deref() == Some("acme")) && !orgs(&other).is_empty());
    assert_eq!(
        rows(&audit(&server, "acme", "?device=cam-1")),
        ["device.register ok user:acme@example.org cam-1"]
    );
    let all = audit(&server, "root", "?page_size=100");
    for org in [Some("default"), Some("acme"), None] {
        assert!(orgs(&all).iter().any(|found| found.as_deref() == org), "{org:?}");
    }
    assert!(rows(&all).iter().any(|row| row.starts_with("auth.login refused anonymous")), "{all}");
    let numbers: Vec<_> =
        all["items"].as_array().unwrap().iter().map(|item| item["number"].as_i64().unwrap()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[0] == pair[1] + 1) && numbers.last() == Some(&1),
        "{numbers:?}"
    );
    assert!(
        orgs(&audit(&server, "root", "?org=acme&page_size=100"))
            .iter()
            .all(|org| org.as_deref() == Some("acme"))
    );
    assert_eq!(audit(&server, "ann", "?org=default")["total"], audit(&server, "ann", "")["total"]);
    server.get("/api/v1/audit?org=acme").by_person("ann").send().is_problem(403);
    server.get("/api/v1/audit?org=nowhere").by_person("root").send().is_problem(404);
}

#[test]
fn operators_viewers_devices_and_nobody_see_no_audit_log() {
    let server = stage();
    for format in ["", "?format=csv", "?format=jsonl"] {
        let path = format!("/api/v1/audit{format}");
        server.get(&path).by_person("olga").send().is_problem(403);
        server.get(&path).by_person("vera").send().is_problem(403);
        server.get(&path).send().is_problem(401);
    }
    let token = server.device("ann", "cam-9");
    server.get("/api/v1/audit").by_device(&token).send().is_problem(403);
}

#[test]
fn entries_are_found_by_action_person_device_and_time() {
    let server = stage();
    let changed = "device.update ok user:olga@example.org cam-1";
    let refused = "device.update refused user:vera@example.org cam-1";
    let registered = "device.register ok user:ann@example.org cam-1";
    assert_eq!(rows(&audit(&server, "ann", "?action=device.update")), [refused, changed]);
    let group = rows(&audit(&server, "ann", "?action=device"));
    assert_eq!(group.len(), 4, "{group:?}");
    assert_eq!(audit(&server, "ann", "?action=dev")["total"], 0, "a group is a whole word");
    assert_eq!(audit(&server, "ann", "?action=device.%25")["total"], 0, "no pattern");
    let of_olga = rows(&audit(&server, "ann", "?user=olga@example.org"));
    assert_eq!((of_olga.len(), of_olga[1].as_str()), (4, changed), "{of_olga:?}");
    assert!(
        of_olga[0].starts_with("command.create ok") && of_olga[3].starts_with("user.create ok system"),
        "{of_olga:?}"
    );
    assert_eq!(audit(&server, "ann", "?user=user:vera@example.org&action=device.update")["total"], 1);
    let of_device = rows(&audit(&server, "ann", "?device=cam-1"));
    assert!(of_device[0].starts_with("command.create ok user:olga@example.org"), "{of_device:?}");
    assert_eq!(of_device[1..], [refused, changed, registered]);

    let entry = audit(&server, "ann", "?action=device.update&user=olga@example.org")["items"][0].clone();
    assert_eq!((&entry["resource_type"], &entry["outcome"]), (&json!("device"), &json!("ok")));
    assert_eq!(entry["ip_address"], "127.0.0.1");
    assert!(entry["hash"].as_str().unwrap().len() == 64 && entry["details"].is_object(), "{entry}");
    let at = entry["at"].as_str().unwrap();
    let from = audit(&server, "ann", &format!("?since={at}"));
    let to = audit(&server, "ann", &format!("?until={at}"));
    assert!(rows(&from).contains(&changed.to_owned()) && !rows(&to).contains(&changed.to_owned()));
    let total = audit(&server, "ann", "")["total"].as_i64().unwrap();
    assert_eq!(from["total"].as_i64().unwrap() + to["total"].as_i64().unwrap(), total);

    let pages: Vec<_> = (1..=total)
        .flat_map(|page| rows(&audit(&server, "ann", &format!("?page_size=1&page={page}"))))
        .collect();
    assert_eq!(pages, rows(&audit(&server, "ann", "?page_size=100")));
    for query in
        ["?since=yesterday", "?format=xml", "?format=csv&page=2", "?who=ann", "?org=a/b", "?page_size=101"]
    {
        server.get(&format!("/api/v1/audit{query}")).by_person("ann").send().is_problem(400);
    }
}

#[test]
fn the_address_behind_a_trusted_proxy_and_the_user_agent_are_in_the_entry() {
    let server = Server::start_with(|config| config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()]);
    server.person("default", "ann", Role::Admin);
    let made = server
        .post("/api/v1/devices/register")
        .by_person("ann")
        .header("x-forwarded-for", "203.0.113.7")
        .header("user-agent", "=cmd|' /C calc'!A0 \"quoted\", and more")
        .json(&json!({"device_id": "cam-1"}));
    assert_eq!(made.status, 201, "{}", made.text);
    let entry = audit(&server, "ann", "?action=device.register")["items"][0].clone();
    assert_eq!(
        (&entry["ip_address"], entry["user_agent"].as_str().unwrap().len()),
        (&json!("203.0.113.7"), 37)
    );
    let csv = server.get("/api/v1/audit?format=csv&action=device.register").by_person("ann").send();
    assert!(
        csv.text.contains(",203.0.113.7,\"'=cmd|' /C calc'!A0 \"\"quoted\"\", and more\","),
        "{}",
        csv.text
    );
}

#[test]
fn an_export_has_every_entry_once_in_both_formats() {
    let server = stage();
    // More than an export holds at a time.
    for at in 0..450 {
        let body = json!({"notes": format!("note {at}")});
        assert_eq!(server.call("PATCH", "/api/v1/devices/cam-2").by_person("olga").json(&body).status, 200);
    }
    let total = audit(&server, "ann", "")["total"].as_u64().unwrap();
    let lines = server.get("/api/v1/audit?format=jsonl").by_person("ann").send();
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    let entries: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len() as u64, total);
    assert_eq!(entries[..50], audit(&server, "ann", "")["items"].as_array().unwrap()[..]);
    let numbers: Vec<_> = entries.iter().map(|entry| entry["number"].as_i64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]));

    let csv = server.get("/api/v1/audit?format=csv&user=olga@example.org").by_person("ann").send();
    assert!(csv.headers["content-type"].starts_with("text/csv"), "{:?}", csv.headers);
    assert_eq!(csv.headers["content-disposition"], "attachment; filename=\"audit.csv\"");
    let mut lines = csv.text.split("\r\n");
    assert_eq!(
        lines.next(),
        Some(
            "number,id,at,org,actor,action,resource_type,resource_id,outcome,details,ip_address,user_agent,hash"
        )
    );
    assert_eq!(lines.filter(|line| line.contains(",default,")).count(), 454);
    // The command line has the same, of all organisations if none is named.
    let data = server.folder.path();
    let same = succeeds(&fleetd(
        data,
        &["audit", "list", "--format", "csv", "--user", "olga@example.org", "--org", "default"],
    ));
    assert_eq!(same, csv.text);
    let all = succeeds(&fleetd(data, &["audit", "list", "--format", "jsonl"]));
    let acme = succeeds(&fleetd(data, &["audit", "list", "--format", "jsonl", "--org", "acme"]));
    assert!(
        all.lines().count() > entries.len()
            && all.contains("\"org\":\"acme\"")
            && !acme.contains("\"org\":\"default\"")
    );
    let table = succeeds(&fleetd(data, &["audit", "list", "--action", "device.update", "--limit", "7"]));
    assert_eq!(table.lines().count(), 8, "{table}");
    assert!(table.lines().next().unwrap().starts_with("NUMBER"), "{table}");
}

#[test]
fn a_server_and_commands_beside_it_write_one_chain() {
    let server = Server::start();
    server.person("default", "ann", Role::Admin);
    server.device("ann", "cam-1");
    let data = server.folder.path();
    std::thread::scope(|scope| {
        for process in 0..2 {
            scope.spawn(move || {
                for at in 0..15 {
                    let slug = format!("org-{process}-{at}");
                    succeeds(&fleetd(data, &["org", "add", "--slug", &slug, "--name", "X"]));
                }
            });
        }
        for at in 0..150 {
            let body = json!({"notes": format!("note {at}")});
            assert_eq!(
                server.call("PATCH", "/api/v1/devices/cam-1").by_person("ann").json(&body).status,
                200
            );
        }
    });
    let head = verified(data);
    let number: i64 = head.split_once(':').unwrap().0.parse().unwrap();
    assert!(number >= 180, "{head}");
}

#[test]
fn verify_prints_the_head_and_fails_when_the_log_is_not_whole() {
    let server = stage();
    let data = server.folder.path();
    let noted = verified(data);
    server.device("ann", "cam-3");
    let later = verified(data);
    assert_ne!(noted, later);
    succeeds(&fleetd(data, &["audit", "verify", "--expect", &noted, "--expect", &later]));
    let told: Value = serde_json::from_str(&succeeds(&fleetd(data, &["audit", "verify", "--json"]))).unwrap();
    let (number, hash) = later.split_once(':').unwrap();
    assert_eq!(
        (&told["whole"], &told["entries"], &told["head"]["hash"]),
        (&json!(true), &json!(number.parse::<i64>().unwrap()), &json!(hash))
    );
    assert!(fails(&fleetd(data, &["audit", "verify", "--expect", "7"])).contains("64 hexadecimal digits"));

    let raw = rusqlite::Connection::open(data.join("fleet.db")).unwrap();
    raw.execute_batch("DROP TRIGGER audit_log_is_not_changed; DROP TRIGGER audit_log_is_not_cut").unwrap();
    raw.execute("DELETE FROM audit_log WHERE number = (SELECT max(number) FROM audit_log)", []).unwrap();
    succeeds(&fleetd(data, &["audit", "verify", "--expect", &noted]));
    let told = fails(&fleetd(data, &["audit", "verify", "--expect", &later]));
    assert!(told.contains(&format!("entry {number} was noted")) && told.contains("cut off"), "{told}");
    raw.execute("UPDATE audit_log SET actor = 'user:mallory@example.org' WHERE number = 3", []).unwrap();
    let output = fleetd(data, &["audit", "verify", "--json"]);
    assert!(fails(&output).contains("entry 3 is not the one"));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["whole"], &told["entries"], &told["fault"]),
        (&json!(false), &json!(2), &json!({"fault": "changed", "number": 3}))
    );
    let nowhere = tempfile::tempdir().unwrap();
    assert!(fails(&fleetd(nowhere.path(), &["audit", "verify"])).contains("there is no database"));
    assert!(!nowhere.path().join("fleet.db").exists());
}

#[test]
fn a_restored_server_says_so_in_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let add = |slug: &str| succeeds(&fleetd(&data, &["org", "add", "--slug", slug, "--name", "X"]));
    add("one");
    let noted = verified(&data);
    let backup = folder.path().join("backup");
    let backup = backup.to_str().unwrap();
    succeeds(&fleetd(&data, &["backup", backup]));
    add("two");
    let lost = verified(&data);
    succeeds(&fleetd(&data, &["restore", "--force", backup]));
    succeeds(&fleetd(&data, &["audit", "verify", "--expect", &noted]));
    let listed =
        succeeds(&fleetd(&data, &["audit", "list", "--action", "server.restore", "--format", "jsonl"]));
    assert!(listed.contains("\"backup_made_at\"") && listed.contains("\"org\":\"one\""), "{listed}");
    let told = fails(&fleetd(&data, &["audit", "verify", "--expect", &lost]));
    assert!(
        told.contains("another hash") && told.contains("a backup of 20") && told.contains("was restored on"),
        "{told}"
    );
    let raw = rusqlite::Connection::open(data.join("fleet.db")).unwrap();
    assert!(raw.execute("DELETE FROM audit_log", []).unwrap_err().to_string().contains("only grows"));
    // What was set aside is a log of its own, and whole.
    let aside = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let aside = aside
        .into_iter()
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("before-restore"))
        .unwrap();
    assert_eq!(verified(&aside), lost);
}

#[test]
fn no_secret_of_any_request_is_in_the_audit_log() {
    let server = Server::start();
    server.person("default", "ann", Role::Admin);
    server.person("default", "olga", Role::Operator);
    let key = server.enrollment_key(
        "default",
        KeyTerms { max_uses: None, expires_in_hours: None, require_approval: false },
    );
    let login = server
        .post("/api/v1/auth/login")
        .json(&json!({"email": "olga@example.org", "password": PASSWORD}))
        .body;
    let [access, refresh] =
        ["access_token", "refresh_token"].map(|name| login[name].as_str().unwrap().to_owned());
    let token = server.device("ann", "cam-1");
    let (wrong, new, device_secret) =
        ["a wrong secret of somebody", "a new and better password", "S3cret-of-the-venue"].into();
    let mut secrets = vec![PASSWORD.to_owned(), key.clone(), access.clone(), refresh.clone(), token.clone()];
    secrets.extend([wrong, new, device_secret].map(str::to_owned));
    secrets.push(server.token("ann"));

    let post = |path: &str| server.post(&format!("/api/v1{path}"));
    let statuses = [
        post("/auth/login").json(&json!({"email": "olga@example.org", "password": wrong})),
        post("/auth/login").json(&json!({"email": "nobody@example.org", "password": wrong})),
        post("/auth/login").json(&json!({"email": "olga@example.org", "password": PASSWORD, "old": wrong})),
        post("/auth/refresh").json(&json!({"refresh_token": wrong})),
        post("/auth/refresh").json(&json!({"refresh_token": refresh})),
        // Used a second time: the whole family ends.
        post("/auth/refresh").json(&json!({"refresh_token": refresh})),
        post("/auth/password").by_person("ann").json(&json!({"old": wrong, "new": new})),
        post("/auth/password").bearer(wrong).json(&json!({"old": PASSWORD, "new": new})),
        post("/auth/password").by_person("ann").json(&json!({"old": PASSWORD, "new": new})),
        post("/devices/register").header("x-enrollment-key", wrong).json(&json!({"device_id": "cam-2"})),
        post("/devices/register")
            .header("x-enrollment-key", &key)
            .json(&json!({"device_id": "cam-2", "token_sha256": "ab".repeat(32)})),
        post("/devices/register")
            .header("x-enrollment-key", &key)
            .json(&json!({"device_id": "cam-2", "token_sha256": "cd".repeat(32)})),
        post("/devices/cam-1/heartbeat").by_device(wrong).json(&json!({"ts": "2025-12-28T10:00:00Z"})),
        post("/devices/cam-1/rotate-token").by_device(&token).json(&json!({})),
        post("/commands")
            .bearer(&access)
            .json(&json!({"to": "cam-1", "type": "rotate_token", "payload": {"token": wrong}})),
        server
            .call("PUT", "/api/v1/devices/cam-1/config")
            .bearer(&access)
            .json(&json!({"config": {"API_TOKEN": device_secret}})),
        server
            .call("PUT", "/api/v1/devices/cam-1/config")
            .bearer(&access)
            .json(&json!({"config": {"STREAM_KEY": device_secret, "SITE": "hall"}})),
    ];
    let refused = statuses.iter().filter(|answer| (400..500).contains(&answer.status)).count();
    assert!(refused >= 8, "{:?}", statuses.map(|answer| (answer.status, answer.text)));
    let rotated = server.post("/api/v1/devices/cam-1/rotate-token").bearer(&{
        let again = post("/auth/login").json(&json!({"email": "ann@example.org", "password": new}));
        again.body["access_token"].as_str().unwrap().to_owned()
    });
    let rotated = rotated.send();
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    secrets.push(rotated.body["token"].as_str().unwrap().to_owned());

    let all = succeeds(&fleetd(server.folder.path(), &["audit", "list", "--format", "jsonl"]));
    assert!(
        all.lines().count() > 12 && all.contains("auth.login") && all.contains("device.rotate_token"),
        "{all}"
    );
    for secret in &secrets {
        assert!(!all.contains(secret.as_str()), "{secret} is in {all}");
    }
    verified(server.folder.path());
}
