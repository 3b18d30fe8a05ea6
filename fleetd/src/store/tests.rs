#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;
use crate::values;

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&database(folder), None).unwrap()
}

fn database(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("fleet.db")
}

fn make_table() -> Statement {
    Statement::new("CREATE TABLE things (id BIGINT PRIMARY KEY, revision BIGINT NOT NULL, body TEXT)", vec![])
}

fn insert(id: i64, body: &str) -> Statement {
    Statement::new("INSERT INTO things (id, revision, body) VALUES (?1, 1, ?2)", values![id, body])
}

async fn count(store: &Store) -> i64 {
    store.query_one("SELECT count(*) AS n FROM things", vec![]).await.unwrap().unwrap().int("n").unwrap()
}

#[tokio::test]
async fn what_is_applied_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply(vec![make_table(), insert(1, "a"), insert(2, "b")]).await.unwrap();
    assert_eq!(count(&store).await, 2);
    store.close();
    let store = open(&folder);
    assert_eq!(count(&store).await, 2);
}

#[tokio::test]
async fn a_failing_transaction_of_a_group_undoes_itself_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply_one(make_table()).await.unwrap();
    let jobs = (0..200).map(|id| {
        let store = store.clone();
        // Every tenth one collides with its own first row.
        let second = if id % 10 == 0 { 2 * id } else { 2 * id + 1 };
        tokio::spawn(async move { store.apply(vec![insert(2 * id, "x"), insert(second, "y")]).await })
    });
    let mut failed = 0;
    for job in jobs.collect::<Vec<_>>() {
        match job.await.unwrap() {
            Ok(outcomes) => assert_eq!(outcomes.len(), 2),
            Err(error) => {
                assert!(error.is_unique_on("things.id"), "{error}");
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 20);
    assert_eq!(count(&store).await, 360);
}

#[tokio::test]
async fn compare_and_swap_fails_when_the_row_has_moved_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply(vec![make_table(), insert(1, "a")]).await.unwrap();
    let swap = || {
        Statement::new(
            "UPDATE things SET revision = revision + 1 WHERE id = ?1 AND revision = ?2",
            values![1, 1],
        )
        .expect_rows(1)
    };
    store.apply(vec![swap()]).await.unwrap();
    let lost = store.apply(vec![insert(2, "b"), swap()]).await;
    assert!(matches!(lost, Err(StoreError::Conflict { changed: 0, expected: 1, .. })), "{lost:?}");
    assert_eq!(count(&store).await, 1, "the whole transaction is undone");
}

#[tokio::test]
async fn returning_gives_rows_and_getters_refuse_other_types() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply_one(make_table()).await.unwrap();
    let sql = "INSERT INTO things (id, revision, body) VALUES (?1, ?2, NULL) RETURNING id, body";
    let outcome = store.apply_one(Statement::new(sql, values![7, 1])).await.unwrap();
    let row = &outcome.rows[0];
    assert_eq!(outcome.changed, 1);
    assert_eq!(row.int("id").unwrap(), 7);
    assert_eq!(row.opt_text("body").unwrap(), None);
    assert!(row.text("body").is_err());
    assert!(row.text("id").is_err());
    assert!(row.int("absent").is_err());
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply_one(make_table()).await.unwrap();
    let pages =
        store.query_one("PRAGMA page_count", vec![]).await.unwrap().unwrap().int("page_count").unwrap();
    let limit = |pages: i64| Statement::new(format!("PRAGMA max_page_count = {pages}"), vec![]);
    store.apply_one(limit(pages + 20)).await.unwrap();

    let body = "x".repeat(3000);
    let mut stored = 0;
    let refused = loop {
        // Small and large ones together: the group is undone by the engine and told apart again.
        let (large, small) = tokio::join!(
            store.apply_one(insert(stored + 1, &body)),
            store.apply_one(Statement::new("UPDATE things SET revision = 2 WHERE id = ?1", values![1]))
        );
        small.unwrap();
        match large {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the limit must be reached");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(refused.is_temporary());
    assert!(store.check_ready(1).await.is_err());
    assert_eq!(count(&store).await, stored, "exactly what was acknowledged is there");

    store.apply_one(limit(100_000)).await.unwrap();
    store.apply_one(insert(stored + 1, &body)).await.unwrap();
    assert_eq!(count(&store).await, stored + 1);
}

#[test]
fn a_database_of_a_newer_fleetd_is_refused_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).close();
    let raw = rusqlite::Connection::open(database(&folder)).unwrap();
    raw.execute(
        "INSERT INTO refinery_schema_history VALUES (9999, 'later', '2031-01-01T00:00:00Z', '1')",
        [],
    )
    .unwrap();
    let error = Store::open(&database(&folder), None).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9999, .. }), "{error:?}");
    assert!(error.to_string().contains("newer fleetd"), "{error}");
}

#[test]
fn a_foreign_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let raw = rusqlite::Connection::open(database(&folder)).unwrap();
    raw.execute("CREATE TABLE recipes (id INTEGER)", []).unwrap();
    drop(raw);
    let before = std::fs::read(database(&folder)).unwrap();
    let error = Store::open(&database(&folder), None).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(std::fs::read(database(&folder)).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(database(&folder), "this is a shopping list\n".repeat(100)).unwrap();
    let error = Store::open(&database(&folder), None).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("fleet.db"), "{error}");
}

#[test]
fn a_database_cut_in_half_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).close();
    let bytes = std::fs::read(database(&folder)).unwrap();
    std::fs::write(database(&folder), &bytes[..bytes.len() / 2]).unwrap();
    let error = Store::open(&database(&folder), None).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn the_schema_is_not_changed_under_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = DataLock::acquire(folder.path()).unwrap();
    let mut connection = rusqlite::Connection::open(database(&folder)).unwrap();
    let error = migrate::migrate(&mut connection, &database(&folder), false, Duration::ZERO);
    drop(connection);
    assert!(matches!(error, Err(StoreError::ServerRunning { .. })), "{error:?}");
    Store::open(&database(&folder), Some(&server)).unwrap().close();
    Store::open(&database(&folder), None).unwrap();
}

#[test]
fn the_folder_has_one_server_and_the_second_is_told_who() {
    let folder = tempfile::tempdir().unwrap();
    let first = DataLock::acquire(folder.path()).unwrap();
    let message = DataLock::acquire(folder.path()).unwrap_err().to_string();
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    drop(first);
    DataLock::acquire(folder.path()).unwrap();
}

#[tokio::test]
async fn the_database_file_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.apply_one(make_table()).await.unwrap();
    for name in ["fleet.db", "fleet.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn debug_output_shows_no_text_parameter() {
    let statement = Statement::new("SELECT ?1", values!["hunter2"]);
    assert!(!format!("{statement:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.close();
    assert!(matches!(store.apply_one(make_table()).await, Err(StoreError::Closed { .. })));
    assert!(matches!(store.query("SELECT 1", vec![]).await, Err(StoreError::Closed { .. })));
}
