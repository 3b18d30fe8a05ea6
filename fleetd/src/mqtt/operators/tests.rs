#![allow(clippy::unwrap_used)]

use protocol::id::Role;
use serde_json::json;

use super::*;
use crate::{
    auth::AuthState,
    clock::Clock,
    config::{Config, Secret},
    service::accounts::{self, NewUser},
    store::{Statement, Store},
};

const NOW: i64 = 1_766_916_000_000;

struct Bench {
    app: Arc<AppState>,
    sender: Sender,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(role: Role) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().to_owned());
        let clock = Clock::fixed(NOW);
        let store = Store::open(&config.database, None).unwrap();
        let auth = AuthState::open(&config, &clock).unwrap();
        let app = Arc::new(AppState::new(store, config, clock, auth));
        let new = NewUser {
            org: OrgSlug::new("default").unwrap(),
            email: "anna@example.org".parse().unwrap(),
            username: None,
            name: "anna".to_owned(),
            role,
            is_superadmin: false,
            must_change_password: false,
        };
        let password = Secret::new("correct horse battery".into());
        let user = accounts::add_user(&app.store, new, password, NOW).await.unwrap();
        let sender = (OrgSlug::new("default").unwrap(), user.username);
        Self { app, sender, _folder: folder }
    }

    async fn rejected(&self, request: Request) -> String {
        let answers = answer(&self.app, &self.sender, &request).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers[0].status, "rejected");
        answers[0].reason.clone().unwrap()
    }

    async fn publish(&self, payload: impl Into<Vec<u8>>) -> String {
        self.rejected(Request::Payload(Bytes::from(payload.into()))).await
    }

    /// `action outcome resource: details`, oldest first.
    async fn audit(&self) -> Vec<String> {
        let sql = "SELECT action, outcome, resource_type, resource_id, details, actor FROM audit_log \
                   WHERE outcome = 'refused' ORDER BY at, id";
        let rows = self.app.store.query(sql, Vec::new()).await.unwrap();
        let told = |row: &crate::store::Row| {
            assert_eq!(row.text("actor").unwrap(), "user:anna@example.org");
            let words = ["action", "resource_type", "resource_id", "details"];
            words.map(|column| row.text(column).unwrap()).join(" ")
        };
        rows.iter().map(told).collect()
    }
}

#[tokio::test]
async fn every_refused_request_is_in_the_audit_log_also_one_that_cannot_be_read() {
    let bench = Bench::new(Role::Operator).await;
    bench.publish("{\"to\": ").await;
    bench.publish("[1]").await;
    bench
        .publish(json!({"to": "cam-1", "type": "explode", "payload": {"secret": "xyzzy"}}).to_string())
        .await;
    bench.publish(json!({"cancel": "c-1", "now": true}).to_string()).await;
    bench.publish(json!({"override": "c-2"}).to_string()).await;
    bench.rejected(Request::Retained).await;
    let noted = bench.audit().await;
    let begins: Vec<_> = noted.iter().map(|row| row.split(" {").next().unwrap()).collect();
    assert_eq!(
        begins,
        [
            "command.create command ",
            "command.create command ",
            "command.create device cam-1",
            "command.cancel command c-1",
            "command.override command c-2",
            "command.create command ",
        ]
    );
    assert!(noted[2].contains("type:"), "{noted:?}");
    assert!(!noted.concat().contains("xyzzy"), "what was sent is not in it");
}

#[tokio::test]
async fn a_disabled_account_with_a_live_connection_is_refused_and_that_is_noted() {
    let bench = Bench::new(Role::Admin).await;
    let disable = Statement::new("UPDATE users SET is_active = 0", Vec::new());
    bench.app.store.apply_one(disable).await.unwrap();
    let why = bench.publish(json!({"to": "cam-1", "type": "ping"}).to_string()).await;
    assert_eq!(why, "this account is disabled");
    assert_eq!(bench.audit().await.len(), 1);
}

#[tokio::test]
async fn what_is_told_in_the_audit_log_is_bounded() {
    let bench = Bench::new(Role::Operator).await;
    let long = "x".repeat(40_000);
    bench
        .publish(json!({"to": "cam-1", "type": "ping", long.as_str(): 1, "priority": long}).to_string())
        .await;
    let noted = bench.audit().await;
    assert!(noted[0].len() < 5_000, "{}", noted[0].len());
}
