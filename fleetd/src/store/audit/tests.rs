#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::domain::audit::{AuditContext, AuditOutcome, Resource};
use crate::domain::audit_chain::Fault;
use crate::service::audit::{Verified, verify};
use crate::store::{functions, make_at_version};

const ORG: &str = "00000000-0000-4000-8000-000000000001";

/// A log, and what somebody does to its file.
struct Log {
    folder: tempfile::TempDir,
    store: Store,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("fleet.db"), None).unwrap();
        Self { folder, store }
    }

    async fn with(entries: i64) -> Self {
        let log = Self::new();
        for at in 1..=entries {
            log.store.apply_one(entry(at)).await.unwrap();
        }
        log
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fleet.db")
    }

    /// As somebody who may write to the file, and knows how hashes are made.
    fn tamper(&self, sql: &str) -> rusqlite::Result<()> {
        let raw = Connection::open(self.path()).unwrap();
        functions::register(&raw).unwrap();
        raw.execute_batch("DROP TRIGGER audit_log_is_not_changed; DROP TRIGGER audit_log_is_not_cut;")?;
        raw.execute_batch(sql)
    }

    async fn check(&self, noted: &[Head]) -> Verified {
        verify(&self.store, noted, |_, _| {}).await.unwrap()
    }

    async fn fault(&self) -> Option<Fault> {
        self.check(&[]).await.fault
    }

    async fn head(&self) -> Head {
        head(&self.store).await.unwrap().unwrap()
    }
}

fn entry(at: i64) -> Statement {
    let context = AuditContext { ip_address: Some("192.0.2.1".to_owned()), ..AuditContext::system() };
    insert(&AuditEntry {
        org_id: Some(&OrgId::new(ORG.to_owned())),
        at,
        context: &context,
        action: "device.update",
        resource: Resource::new("device", &format!("cam-{at}")),
        outcome: AuditOutcome::Ok,
        details: json!({"at": at}),
    })
}

/// Gives the entry the hash that goes with its content and the entry before it.
fn rehash(number: i64) -> String {
    format!(
        "UPDATE audit_log SET hash = audit_hash((SELECT hash FROM audit_log WHERE number = {number} - 1), number, id, org_id, at, \
         actor, action, resource_type, resource_id, outcome, details, ip_address, user_agent) WHERE number = {number};"
    )
}

#[tokio::test]
async fn an_empty_log_is_whole() {
    assert_eq!(Log::new().check(&[]).await, Verified { head: Head::start(), fault: None });
}

#[tokio::test]
async fn entries_are_numbered_and_chained_also_several_in_one_commit_and_after_one_that_was_undone() {
    let log = Log::new();
    log.store.apply(vec![entry(1), entry(2), entry(3)]).await.unwrap();
    let fails = Statement::new("UPDATE store_probe SET at = 1 WHERE id = 7", vec![]).expect_rows(1);
    let both =
        log.store.apply_each(vec![vec![entry(4)], vec![entry(90), fails.clone()], vec![entry(5)]]).await;
    assert_eq!(both.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    log.store.apply(vec![entry(91), fails]).await.unwrap_err();
    log.store.apply_one(entry(6)).await.unwrap();
    let found = log.check(&[]).await;
    assert_eq!((found.fault, found.head.number), (None, 6));
    assert_eq!(found.head, log.head().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_write_at_once_through_two_connections_make_one_chain() {
    let log = Log::new();
    let other = Store::open(&log.path(), None).unwrap();
    let jobs: Vec<_> = (0..200)
        .map(|at| {
            let store = if at % 2 == 0 { log.store.clone() } else { other.clone() };
            tokio::spawn(async move { store.apply(vec![entry(at), entry(at)]).await })
        })
        .collect();
    for job in jobs {
        job.await.unwrap().unwrap();
    }
    let found = log.check(&[]).await;
    assert_eq!((found.fault, found.head.number), (None, 400));
}

#[tokio::test]
async fn the_database_refuses_to_change_to_delete_and_to_replace_an_entry() {
    let log = Log::with(3).await;
    let insert = "INTO audit_log (number, id, at, actor, action, resource_type, resource_id, outcome, details, hash) \
                  SELECT 2, id, at, actor, action, resource_type, resource_id, outcome, details, hash FROM audit_log \
                  WHERE number = 3";
    for sql in [
        "UPDATE audit_log SET actor = 'user:x' WHERE number = 2".to_owned(),
        "UPDATE audit_log SET number = number + 10".to_owned(),
        "DELETE FROM audit_log WHERE number = 3".to_owned(),
        "DELETE FROM audit_log".to_owned(),
        format!("INSERT OR REPLACE {insert}"),
    ] {
        let error = log.store.apply_one(Statement::new(sql.clone(), vec![])).await.unwrap_err();
        let told = crate::service::ingest::error_chain(&error);
        assert!(told.contains("the audit log only grows"), "{sql}: {told}");
    }
    let again = log.store.apply_one(Statement::new(format!("INSERT {insert}"), vec![])).await.unwrap_err();
    assert!(again.is_unique_on("audit_log.number"), "{again}");
    assert_eq!(log.fault().await, None);
    assert_eq!(log.head().await.number, 3);
}

#[tokio::test]
async fn an_edit_of_any_column_is_found() {
    for change in [
        "id = 'x'",
        "org_id = NULL",
        "at = at + 1",
        "at = 'yesterday'",
        "actor = 'user:somebody'",
        "action = 'device.updatf'",
        "resource_type = 'devic'",
        "resource_id = resource_id || ' '",
        "outcome = 'refused'",
        "details = '{\"at\": 5}'",
        "details = CAST(details AS BLOB)",
        "ip_address = NULL",
        "ip_address = ''",
        "user_agent = ''",
        "resource_type = 'devicec', resource_id = substr(resource_id, 2)",
        "hash = replace(hash, substr(hash, 1, 1), 'x')",
        "hash = upper(hash || 'A')",
    ] {
        let log = Log::with(9).await;
        log.tamper(&format!(
            "PRAGMA ignore_check_constraints = 1; UPDATE audit_log SET {change} WHERE number = 5"
        ))
        .unwrap();
        let found = log.check(&[]).await;
        assert_eq!((found.fault, found.head.number), (Some(Fault::Changed { number: 5 }), 4), "{change}");
    }
}

#[tokio::test]
async fn an_edit_with_a_hash_that_fits_is_found_at_the_entry_after_it() {
    let log = Log::with(9).await;
    log.tamper(&format!("UPDATE audit_log SET actor = 'user:x' WHERE number = 5; {}", rehash(5))).unwrap();
    assert_eq!(log.fault().await, Some(Fault::Changed { number: 6 }));
}

#[tokio::test]
async fn a_deletion_is_found_also_when_the_gap_is_closed() {
    let log = Log::with(9).await;
    log.tamper("DELETE FROM audit_log WHERE number IN (4, 5)").unwrap();
    assert_eq!(log.fault().await, Some(Fault::Missing { first: 4, last: 5 }));
    let raw = Connection::open(log.path()).unwrap();
    raw.execute("UPDATE audit_log SET number = number - 2 WHERE number > 5", []).unwrap();
    assert_eq!(log.fault().await, Some(Fault::Changed { number: 4 }));
}

#[tokio::test]
async fn a_deletion_of_the_first_entries_is_found() {
    let log = Log::with(9).await;
    log.tamper("DELETE FROM audit_log WHERE number < 3").unwrap();
    assert_eq!(log.fault().await, Some(Fault::Missing { first: 1, last: 2 }));
}

#[tokio::test]
async fn an_insertion_in_the_middle_or_before_the_first_is_found() {
    let copy = |number: &str| {
        format!(
            "INSERT INTO audit_log (number, id, at, actor, action, resource_type, resource_id, outcome, details, hash) \
             SELECT {number}, 'new', at, actor, action, resource_type, resource_id, outcome, details, hash FROM audit_log \
             WHERE number = 4;"
        )
    };
    let log = Log::with(9).await;
    log.tamper(&format!(
        "UPDATE audit_log SET number = -number WHERE number > 4; UPDATE audit_log SET number = 1 - number WHERE number < 0; \
         {} {}",
        copy("5"),
        rehash(5)
    ))
    .unwrap();
    assert_eq!(log.fault().await, Some(Fault::Changed { number: 6 }));
    for number in ["0", "-7"] {
        let log = Log::with(9).await;
        log.tamper(&copy(number)).unwrap();
        assert_eq!(log.fault().await, Some(Fault::Stray { number: number.parse().unwrap() }));
    }
}

#[tokio::test]
async fn two_entries_that_changed_places_are_found() {
    let log = Log::with(9).await;
    log.tamper(
        "UPDATE audit_log SET number = 100 WHERE number = 4; UPDATE audit_log SET number = 4 WHERE number = 6; \
         UPDATE audit_log SET number = 6 WHERE number = 100",
    )
    .unwrap();
    assert_eq!(log.fault().await, Some(Fault::Changed { number: 4 }));
}

#[tokio::test]
async fn a_tail_that_was_cut_off_is_found_by_a_head_that_was_noted() {
    let log = Log::with(5).await;
    let early = log.head().await;
    log.store.apply(vec![entry(6), entry(7)]).await.unwrap();
    let noted = log.head().await;
    assert_eq!(log.check(&[early.clone(), noted.clone()]).await.fault, None);
    log.tamper("DELETE FROM audit_log WHERE number > 5").unwrap();
    let found = log.check(&[]).await;
    assert_eq!((found.fault, &found.head), (None, &early), "the rest is a sound chain by itself");
    assert_eq!(
        log.check(&[early.clone(), noted.clone()]).await.fault,
        Some(Fault::Cut { number: 7, end: 5 })
    );
    // As many new ones do not hide it.
    log.store.apply(vec![entry(8), entry(9), entry(10)]).await.unwrap();
    assert_eq!(log.check(&[noted]).await.fault, Some(Fault::Rewritten { number: 7 }));
    assert_eq!(log.check(&[early]).await.fault, None);
}

#[tokio::test]
async fn a_log_of_several_looks_is_walked_to_its_end() {
    let log = Log::new();
    let all: Vec<_> = (0..4_100).map(entry).collect();
    log.store.apply(all).await.unwrap();
    let mut seen = Vec::new();
    let found = verify(&log.store, &[], |done, all| seen.push((done, all))).await.unwrap();
    assert_eq!((found.fault, found.head.number), (None, 4_100));
    assert_eq!(seen, [(2_000, 4_100), (4_000, 4_100), (4_100, 4_100)]);
    log.tamper("UPDATE audit_log SET at = 0 WHERE number = 4099").unwrap();
    assert_eq!(log.fault().await, Some(Fault::Changed { number: 4_099 }));
}

#[test]
fn entries_from_before_the_chain_are_chained_by_the_upgrade_in_the_order_in_which_they_were_added() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fleet.db");
    let old = make_at_version(&path, 17);
    for at in 0..3_000 {
        // Neither the ids nor the times are in order.
        let add = "INSERT INTO audit_log (id, org_id, at, actor, action, resource_type, resource_id, outcome, details, user_agent) \
                   VALUES (?1, ?2, ?3, 'system', 'x.y', 't', ?4, 'ok', '{}', ?5)";
        let org = (at % 2 == 0).then_some(ORG);
        old.execute(
            add,
            rusqlite::params![format!("{:x}", (at * 7_919) % 3_001), org, 9_000 - at, at.to_string(), org],
        )
        .unwrap();
    }
    drop(old);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let log = Log { store: Store::open(&path, None).unwrap(), folder };
    runtime.block_on(async {
        let sql = "SELECT count(*) AS n FROM audit_log WHERE number <= 3000 AND resource_id <> number - 1";
        let disordered = log.store.query_one(sql, vec![]).await.unwrap().unwrap();
        assert_eq!(disordered.int("n").unwrap(), 0);
        assert_eq!(log.check(&[]).await.fault, None);
        let last = before(&log.store, &Selection::default(), i64::MAX, 1).await.unwrap().pop().unwrap();
        assert_eq!(
            (last.number, last.action.as_str(), &last.details),
            (3_001, "audit.chain", &json!({"entries_before": 3_000}))
        );
        assert!(last.at > 1_600_000_000_000 && uuid::Uuid::parse_str(&last.id).is_ok());
        log.store.apply_one(entry(1)).await.unwrap();
        assert_eq!(log.check(&[]).await.head.number, 3_002);
    });
}

#[tokio::test]
async fn pages_of_an_organisation_are_read_from_their_index_alone_in_order() {
    let log = Log::with(1).await;
    let selection = Selection { org: Some(OrgId::new(ORG.to_owned())), ..Selection::default() };
    let conditions = Conditions::of(&selection);
    let sql = format!("EXPLAIN QUERY PLAN {ENTRY} WHERE {} ORDER BY a.number DESC LIMIT 5", conditions.sql);
    let plan = log.store.query(sql, conditions.params).await.unwrap();
    let plan: Vec<_> = plan.iter().map(|row| row.text("detail").unwrap()).collect();
    assert!(plan.iter().any(|line| line.contains("audit_log_by_org")), "{plan:?}");
    assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{plan:?}");
}
