#![allow(clippy::unwrap_used)]

mod at_once;
mod gone;

use std::sync::Arc;

use protocol::command::{CommandState, CommandType};
use protocol::id::{OrgSlug, Role};
use serde_json::{Value, json};

use super::*;
use crate::auth::AuthState;
use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::domain::command::Step;
use crate::domain::command_request::{CreateRequest, Target};
use crate::service::accounts::{self, NewUser};
use crate::store::commands::{self, Selection, SortKey, StatusFilter};
use crate::store::{Statement, Store, users};
use crate::values;

const NOW: i64 = 1_766_916_000_000;
const ORG: &str = "00000000-0000-4000-8000-000000000001";

struct Bench {
    app: Arc<AppState>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(devices: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().to_owned());
        let clock = Clock::fixed(NOW);
        let store = Store::open(&config.database, None).unwrap();
        let auth = AuthState::open(&config, &clock).unwrap();
        let bench = Self { app: Arc::new(AppState::new(store, config, clock, auth)), _folder: folder };
        for device in devices {
            bench.device(device).await;
        }
        bench
    }

    async fn device(&self, id: &str) {
        let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
                   VALUES ('row-' || ?2, ?1, ?2, ?2, 'approved', 'aarch64', 0, 0)";
        self.execute(sql, values![ORG, id]).await;
    }

    async fn execute(&self, sql: &'static str, params: Vec<crate::store::Value>) {
        self.app.store.apply_one(Statement::new(sql, params)).await.unwrap();
    }

    async fn person(&self, name: &str, role: Role) -> Caller {
        let new = NewUser {
            org: OrgSlug::new("default").unwrap(),
            email: format!("{name}@example.org").parse().unwrap(),
            username: None,
            name: name.to_owned(),
            role,
            is_superadmin: false,
            must_change_password: false,
        };
        let password = Secret::new("correct horse battery".into());
        let user = accounts::add_user(&self.app.store, new, password, NOW).await.unwrap();
        let stored = users::by_id(&self.app.store, &user.id).await.unwrap().unwrap();
        Caller::Person(Person { user: stored.user, key: None })
    }

    fn context(caller: &Caller) -> AuditContext {
        AuditContext { actor: caller.actor(), ip_address: None, user_agent: None }
    }

    /// Over HTTP, with `to` in the body.
    async fn create(&self, caller: &Caller, body: Value) -> Result<Vec<Answer>, Error> {
        let request = CreateRequest::read(body, None).map_err(Error::Invalid)?;
        create(&self.app, caller, request, Via::Http, &Self::context(caller)).await
    }

    /// Over MQTT, as these bytes.
    async fn publish(&self, caller: &Caller, payload: &str) -> Result<Vec<Answer>, Error> {
        let body = serde_json::from_str(payload).unwrap();
        let request = CreateRequest::read(body, None).map_err(Error::Invalid)?;
        create(&self.app, caller, request, Via::Mqtt(payload.as_bytes()), &Self::context(caller)).await
    }

    async fn one(&self, caller: &Caller, body: Value) -> Command {
        self.create(caller, body).await.unwrap().pop().unwrap().result.unwrap()
    }

    async fn stored(&self, command: &Command) -> Command {
        commands::one(&self.app.store, &command.order.org_id, command.order.id.as_str())
            .await
            .unwrap()
            .unwrap()
    }

    async fn count(&self) -> i64 {
        let row = self.app.store.query_one("SELECT count(*) AS n FROM commands", Vec::new()).await.unwrap();
        row.unwrap().int("n").unwrap()
    }

    /// `action outcome resource`, oldest first.
    async fn audit(&self) -> Vec<String> {
        let sql = "SELECT action, outcome, resource_type FROM audit_log ORDER BY at, id";
        let rows = self.app.store.query(sql, Vec::new()).await.unwrap();
        let told = |row: &crate::store::Row| {
            ["action", "outcome", "resource_type"].map(|column| row.text(column).unwrap()).join(" ")
        };
        rows.iter().map(told).filter(|row| row.starts_with("command.")).collect()
    }

    /// Brings a command to a state, as reports of its device would.
    async fn bring(&self, command: &Command, state: CommandState, reason: Option<&str>, report_seq: u32) {
        let mut command = self.stored(command).await;
        let now_ms = self.app.clock.now_ms();
        command.stand(protocol::command::standing::Standing { state, inferred: false, report_seq }, now_ms);
        command.held_reason = reason.map(str::to_owned);
        let step = Step {
            status: state,
            at: now_ms,
            device_at: None,
            report_seq: (report_seq > 0).then_some(report_seq),
            detail: reason.map(str::to_owned),
        };
        self.app.store.apply(commands::update(&mut command, Some(&step))).await.unwrap();
    }

    async fn cancel(&self, caller: &Caller, command: &Command) -> Result<Command, Error> {
        let id = command.order.id.as_str();
        cancel(&self.app, caller, id, Via::Http, &Self::context(caller)).await
    }

    async fn overrule(&self, caller: &Caller, command: &Command) -> Result<Command, Error> {
        let id = command.order.id.as_str();
        override_show(&self.app, caller, id, "it is late", Via::Http, &Self::context(caller)).await
    }
}

fn selection() -> Selection {
    Selection {
        status: None,
        kind: None,
        device: None,
        sort: SortKey::CreatedAt,
        descending: false,
        offset: 0,
        limit: 50,
    }
}

#[tokio::test]
async fn a_command_is_stored_with_its_history_and_its_row_of_the_audit_log() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let body = json!({"to": "cam-1", "type": "restart_service", "payload": {"service": "r58-api"}, "priority": 1,
        "expires_in_seconds": 3600, "timeout_seconds": 60, "ref": "n-17", "notes": "after soundcheck"});
    let command = bench.one(&otto, body).await;
    assert_eq!(bench.stored(&command).await, command);
    let order = &command.order;
    assert_eq!(order.kind, CommandType::RestartService);
    assert_eq!((order.priority, order.timeout_seconds), (1, 60));
    assert_eq!((order.created_at, order.expires_at), (NOW, NOW + 3_600_000));
    assert_eq!(order.created_by, "user:otto@example.org");
    assert_eq!(order.created_by_name.as_deref(), Some("otto"));
    assert_eq!(command.state(), CommandState::Pending);
    assert!(uuid::Uuid::parse_str(order.id.as_str()).is_ok());
    let steps = commands::steps(&bench.app.store, &order.org_id, order.id.as_str()).await.unwrap();
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].0, steps[0].1.status), (1, CommandState::Pending));
    assert_eq!(bench.audit().await, ["command.create ok command"]);
    assert_eq!(bench.app.dispatch.take().into_iter().collect::<Vec<_>>(), ["row-cam-1"]);
    assert_eq!(bench.app.views.take().into_iter().collect::<Vec<_>>(), ["row-cam-1"]);
}

#[tokio::test]
async fn a_ref_names_one_command_of_one_person_for_one_device() {
    let bench = Bench::new(&["cam-1", "cam-2"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let olga = bench.person("olga", Role::Operator).await;
    let body = json!({"to": "cam-1", "type": "ping", "ref": "r"});
    let first = bench.one(&otto, body.clone()).await;
    assert_eq!(bench.one(&otto, body.clone()).await.order.id, first.order.id);
    // By MQTT, written otherwise, and with an API key it is still the same request of the same person.
    let by_mqtt = bench.publish(&otto, r#"{"ref": "r", "type":"ping", "to":"cam-1", "payload": {}}"#).await;
    assert_eq!(by_mqtt.unwrap()[0].result.as_ref().unwrap().order.id, first.order.id);
    let Caller::Person(mut keyed) = otto.clone() else { unreachable!() };
    keyed.key = Some(crate::auth::caller::KeyInUse { id: "k".into(), prefix: "abcd".into(), scopes: vec![] });
    assert_eq!(bench.one(&Caller::Person(keyed), body.clone()).await.order.id, first.order.id);
    assert_eq!(bench.count().await, 1);
    // Another body, another person, another device.
    let other = json!({"to": "cam-1", "type": "ping", "ref": "r", "priority": 1});
    let refused = bench.create(&otto, other).await.unwrap().pop().unwrap().result.unwrap_err();
    assert!(matches!(&refused, Error::Conflict(why) if why.contains(first.order.id.as_str())), "{refused:?}");
    assert_ne!(bench.one(&olga, body).await.order.id, first.order.id);
    let on_another = json!({"to": "cam-2", "type": "ping", "ref": "r"});
    assert_ne!(bench.one(&otto, on_another).await.order.id, first.order.id);
    assert_eq!(bench.count().await, 3);
}

#[tokio::test]
async fn the_same_ref_is_the_same_command_also_when_its_time_has_passed() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let body = json!({"to": "cam-1", "type": "ping", "ref": "r", "expires_at": "2025-12-28T10:00:10Z"});
    let first = bench.one(&otto, body.clone()).await;
    bench.app.clock.advance_ms(60_000);
    assert_eq!(bench.one(&otto, body).await.order.id, first.order.id);
    let new = json!({"to": "cam-1", "type": "ping", "ref": "s", "expires_at": "2025-12-28T10:00:10Z"});
    assert!(
        matches!(bench.create(&otto, new).await, Err(Error::Invalid(errors)) if errors[0].field == "expires_at")
    );
}

#[tokio::test]
async fn the_same_request_many_times_at_once_makes_one_command() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    for (payload, by_mqtt) in
        [(r#"{"to":"cam-1","type":"ping","ref":"x"}"#, false), (r#"{"to":"cam-1","type":"ping"}"#, true)]
    {
        let before = bench.count().await;
        let calls = (0..20).map(|_| async {
            let answers = if by_mqtt {
                bench.publish(&otto, payload).await
            } else {
                bench.create(&otto, serde_json::from_str(payload).unwrap()).await
            };
            answers.unwrap().pop().unwrap().result.unwrap().order.id
        });
        let mut ids = futures_util::future::join_all(calls).await;
        ids.dedup();
        assert_eq!(ids.len(), 1, "{payload}");
        assert_eq!(bench.count().await - before, 1, "{payload}");
    }
}

#[tokio::test]
async fn the_same_bytes_by_mqtt_are_one_command_for_a_minute_and_by_http_they_are_two() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let olga = bench.person("olga", Role::Operator).await;
    let payload = r#"{"to":"cam-1","type":"ping"}"#;
    let id = async |caller: &Caller, payload: &str| {
        bench.publish(caller, payload).await.unwrap().pop().unwrap().result.unwrap().order.id
    };
    let first = id(&otto, payload).await;
    bench.app.clock.advance_ms(59_999);
    assert_eq!(id(&otto, payload).await, first);
    assert_ne!(id(&olga, payload).await, first);
    assert_ne!(id(&otto, r#"{"to":"cam-1", "type":"ping"}"#).await, first);
    bench.app.clock.advance_ms(1);
    assert_ne!(id(&otto, payload).await, first);
    let body = json!({"to": "cam-1", "type": "ping"});
    let one = bench.one(&otto, body.clone()).await;
    assert_ne!(bench.one(&otto, body).await.order.id, one.order.id);
}

#[tokio::test]
async fn a_tag_and_a_star_get_one_answer_for_each_device_in_service() {
    let bench = Bench::new(&["cam-1", "cam-2", "cam-3"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    for device in ["row-cam-1", "row-cam-3"] {
        let tag = "INSERT INTO device_tags (org_id, device_id, tag) VALUES (?1, ?2, 'hall')";
        bench.execute(tag, values![ORG, device]).await;
    }
    let names = |answers: &[Answer]| answers.iter().map(|answer| answer.device.clone()).collect::<Vec<_>>();
    let hall = bench.create(&otto, json!({"to": "tag:hall", "type": "ping", "ref": "r"})).await.unwrap();
    assert_eq!(names(&hall), ["cam-1", "cam-3"]);
    // One of them has its command already: the rest is made, as after a crash in the middle.
    let all = bench.create(&otto, json!({"to": "*", "type": "ping", "ref": "r"})).await.unwrap();
    assert_eq!(names(&all), ["cam-1", "cam-2", "cam-3"]);
    assert!(all.iter().all(|answer| answer.result.is_ok()));
    assert_eq!(bench.count().await, 3);
    // Another body: refused where the name is taken.
    let mixed = json!({"to": "*", "type": "ping", "ref": "r", "priority": 1});
    bench.device("cam-4").await;
    let answers = bench.create(&otto, mixed).await.unwrap();
    let accepted: Vec<bool> = answers.iter().map(|answer| answer.result.is_ok()).collect();
    assert_eq!(accepted, [false, false, false, true]);
    bench.execute("UPDATE devices SET decommissioned_at = 1 WHERE id = 'row-cam-1'", vec![]).await;
    let fewer = bench.create(&otto, json!({"to": "tag:hall", "type": "ping"})).await.unwrap();
    assert_eq!(names(&fewer), ["cam-3"]);
    for to in ["cam-1", "cam-9", "tag:nobody"] {
        let body = json!({"to": to, "type": "ping"});
        assert!(matches!(bench.create(&otto, body).await, Err(Error::NotFound(_))), "{to}");
    }
    assert!(bench.audit().await.contains(&"command.create refused command".to_owned()));
}

#[tokio::test]
async fn a_flood_ends_at_the_bound_with_a_reason_and_other_devices_go_on() {
    let bench = Bench::new(&["cam-1", "cam-2"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let template = bench.one(&otto, json!({"to": "cam-1", "type": "ping"})).await;
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
                INSERT INTO commands (id, org_id, device_id, type, payload, priority, timeout_seconds, created_by, \
                created_at, expires_at, request_hash, status) \
                SELECT 'c' || i, org_id, device_id, type, payload, priority, timeout_seconds, created_by, created_at, \
                expires_at, request_hash, 'pending' FROM n, commands WHERE id = ?2";
    bench.execute(fill, values![OPEN_PER_DEVICE_MAX - 1, template.order.id.as_str()]).await;
    let refused = bench.create(&otto, json!({"to": "cam-1", "type": "ping"})).await.unwrap().pop().unwrap();
    let why = refused.result.unwrap_err().reason();
    assert!(why.contains("cam-1 has 1000 commands"), "{why}");
    let both = bench.create(&otto, json!({"to": "*", "type": "ping"})).await.unwrap();
    assert_eq!(both.iter().map(|answer| answer.result.is_ok()).collect::<Vec<_>>(), [false, true]);
    // One that has ended makes room for one, also when many come at once.
    bench.execute("UPDATE commands SET status = 'expired' WHERE id = 'c1'", vec![]).await;
    let calls = (0..20).map(|_| async {
        let answers = bench.create(&otto, json!({"to": "cam-1", "type": "ping"})).await;
        answers.unwrap().pop().unwrap().result.map_err(|error| error.reason())
    });
    let answers = futures_util::future::join_all(calls).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| *error == why));
    assert_eq!(commands::open_count(&bench.app.store, &template.order.device_id).await.unwrap(), 1000);
}

#[tokio::test]
async fn roles_say_who_may_create_what_and_refusals_over_mqtt_are_noted() {
    let bench = Bench::new(&["cam-1"]).await;
    let vera = bench.person("vera", Role::Viewer).await;
    let otto = bench.person("otto", Role::Operator).await;
    let anna = bench.person("anna", Role::Admin).await;
    let ping = r#"{"to":"cam-1","type":"ping"}"#;
    let update = r#"{"to":"cam-1","type":"update","payload":{"version":"2"}}"#;
    let overriding = r#"{"to":"cam-1","type":"reboot","override_show":{"reason":"now"}}"#;
    for (caller, payload, may) in [
        (&vera, ping, false),
        (&otto, ping, true),
        (&otto, update, false),
        (&otto, overriding, false),
        (&anna, update, true),
        (&anna, overriding, true),
    ] {
        match bench.publish(caller, payload).await {
            Ok(answers) => assert!(may && answers[0].result.is_ok(), "{payload}"),
            Err(error) => assert!(!may && matches!(error, Error::Forbidden(_)), "{payload}: {error:?}"),
        }
    }
    let refused = bench.audit().await.iter().filter(|row| row.contains("refused")).count();
    assert_eq!(refused, 3);
    let row = bench
        .app
        .store
        .query_one("SELECT override_reason, override_by FROM commands WHERE type = 'reboot'", vec![]);
    let row = row.await.unwrap().unwrap();
    assert_eq!(row.text("override_reason").unwrap(), "now");
    assert_eq!(row.text("override_by").unwrap(), "user:anna@example.org");
}

#[tokio::test]
async fn there_is_one_change_of_a_token_at_a_time() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let body = json!({"to": "cam-1", "type": "rotate_token"});
    let first = bench.one(&otto, body.clone()).await;
    let second = bench.create(&otto, body.clone()).await.unwrap().pop().unwrap().result.unwrap_err();
    assert!(matches!(&second, Error::Conflict(why) if why.contains("token")), "{second:?}");
    bench.cancel(&otto, &first).await.unwrap();
    bench.one(&otto, body).await;
}

#[tokio::test]
async fn cancel_ends_what_was_never_sent_and_asks_the_device_for_the_rest() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let vera = bench.person("vera", Role::Viewer).await;
    let ping = json!({"to": "cam-1", "type": "ping"});
    let pending = bench.one(&otto, ping.clone()).await;
    assert!(matches!(bench.cancel(&vera, &pending).await, Err(Error::Forbidden(_))));
    let cancelled = bench.cancel(&otto, &pending).await.unwrap();
    assert_eq!((cancelled.state(), cancelled.completed_at), (CommandState::Cancelled, Some(NOW)));
    assert!(matches!(bench.cancel(&otto, &pending).await, Err(Error::Conflict(_))));
    for state in [CommandState::Sent, CommandState::Acked, CommandState::Held, CommandState::Running] {
        let command = bench.one(&otto, ping.clone()).await;
        bench.bring(&command, state, None, 1).await;
        let asked = bench.cancel(&otto, &command).await.unwrap();
        assert_eq!((asked.state(), asked.cancel_requested_at), (state, Some(NOW)));
        assert_eq!(bench.stored(&command).await, asked);
        bench.app.clock.advance_ms(5);
        assert_eq!(bench.cancel(&otto, &command).await.unwrap(), asked, "asking again changes nothing");
        bench.app.clock.advance_ms(-5);
    }
    for state in CommandState::ALL.iter().filter(|state| state.is_terminal()) {
        let command = bench.one(&otto, ping.clone()).await;
        bench.bring(&command, *state, None, 1).await;
        assert!(matches!(bench.cancel(&otto, &command).await, Err(Error::Conflict(_))), "{state}");
        assert!(matches!(bench.overrule(&otto, &command).await, Err(Error::Conflict(_))), "{state}");
    }
    let nobody = cancel(&bench.app, &otto, "nothing", Via::Mqtt(b""), &Bench::context(&otto)).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))));
    assert!(bench.audit().await.contains(&"command.cancel refused command".to_owned()));
}

#[tokio::test]
async fn after_a_restore_a_command_that_seems_unsent_is_not_cancelled_behind_its_devices_back() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let command = bench.one(&otto, json!({"to": "cam-1", "type": "ping"})).await;
    bench.execute("UPDATE commands SET query_first = 1", vec![]).await;
    let asked = bench.cancel(&otto, &command).await.unwrap();
    assert_eq!((asked.state(), asked.cancel_requested_at), (CommandState::Pending, Some(NOW)));
}

#[tokio::test]
async fn an_admin_overrides_at_once_and_an_operator_what_has_been_unknown_for_ten_minutes() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let anna = bench.person("anna", Role::Admin).await;
    let reboot = json!({"to": "cam-1", "type": "reboot"});
    let command = bench.one(&otto, reboot.clone()).await;
    let forbidden = async |command: &Command| {
        assert!(matches!(bench.overrule(&otto, command).await, Err(Error::Forbidden(_))));
    };
    forbidden(&command).await;
    bench.bring(&command, CommandState::Held, Some("live: recording"), 2).await;
    bench.app.clock.advance_ms(3_600_000);
    forbidden(&command).await;
    let unknown = Some("app_status_unknown: the application does not answer");
    bench.bring(&command, CommandState::Held, unknown, 3).await;
    bench.app.clock.advance_ms(300_000);
    // The device says it in other words, and a report of an earlier step comes late: the time goes on.
    bench.bring(&command, CommandState::Held, Some("app_status_unknown"), 4).await;
    let late = "INSERT INTO command_history (command_id, revision, org_id, status, at, report_seq) \
                VALUES (?2, 99, ?1, 'acked', ?3, 1)";
    bench.execute(late, values![ORG, command.order.id.as_str(), bench.app.clock.now_ms()]).await;
    bench.app.clock.advance_ms(299_999);
    forbidden(&command).await;
    bench.app.clock.advance_ms(1);
    let overridden = bench.overrule(&otto, &command).await.unwrap();
    assert_eq!(overridden.overridden.as_ref().unwrap().by, "user:otto@example.org");
    assert_eq!(bench.overrule(&otto, &command).await.unwrap(), overridden, "asking again changes nothing");
    let at_once = bench.one(&otto, reboot).await;
    bench.bring(&at_once, CommandState::Held, Some("live"), 1).await;
    let overridden = bench.overrule(&anna, &at_once).await.unwrap();
    assert_eq!(overridden.state(), CommandState::Held);
    assert_eq!(bench.stored(&at_once).await, overridden);
    assert!(bench.audit().await.contains(&"command.override ok command".to_owned()));
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_paged() {
    let bench = Bench::new(&["cam-1", "cam-2"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    for (device, kind) in [("cam-1", "ping"), ("cam-2", "reboot"), ("cam-1", "reboot")] {
        bench.one(&otto, json!({"to": device, "type": kind})).await;
        bench.app.clock.advance_ms(1000);
    }
    let ended = bench.one(&otto, json!({"to": "cam-2", "type": "ping"})).await;
    bench.bring(&ended, CommandState::Completed, None, 1).await;
    let told = async |selection: Selection| {
        let (commands, total) = list(&bench.app, &otto, &selection).await.unwrap();
        let told: Vec<String> =
            commands.iter().map(|c| format!("{} {}", c.order.device, c.order.kind)).collect();
        (told.join(", "), total)
    };
    assert_eq!(told(selection()).await, ("cam-1 ping, cam-2 reboot, cam-1 reboot, cam-2 ping".into(), 4));
    let newest = Selection { descending: true, limit: 2, ..selection() };
    assert_eq!(told(newest).await, ("cam-2 ping, cam-1 reboot".into(), 4));
    let open = Selection { status: Some(StatusFilter::Open), ..selection() };
    assert_eq!(told(open).await.1, 3);
    let completed = Selection { status: "completed".parse().ok(), ..selection() };
    assert_eq!(told(completed).await, ("cam-2 ping".into(), 1));
    let reboots = Selection { kind: Some(CommandType::Reboot), sort: SortKey::Device, ..selection() };
    assert_eq!(told(reboots).await, ("cam-1 reboot, cam-2 reboot".into(), 2));
    let of_one = Selection { device: Some(ended.order.device_id.clone()), ..selection() };
    assert_eq!(told(of_one).await.1, 2);
    for (_, sort) in SortKey::ALL {
        assert_eq!(told(Selection { sort, ..selection() }).await.1, 4);
    }
    let with_history = get(&bench.app, &otto, ended.order.id.as_str()).await.unwrap();
    let shown = serde_json::to_value(with_history).unwrap();
    assert_eq!(shown["status"], "completed");
    let history: Vec<_> = shown["history"].as_array().unwrap().iter().map(|s| s["status"].clone()).collect();
    assert_eq!(history, ["pending", "completed"]);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_keep_it_and_changes_nothing() {
    let bench = Bench::new(&["cam-1", "cam-2", "cam-3", "cam-4", "cam-5"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let state =
        "INSERT INTO device_state (device_id, org_id, online, live) VALUES ('row-' || ?2, ?1, ?3, ?4)";
    for (device, online, live) in [
        ("cam-1", true, Some(false)),
        ("cam-2", true, Some(true)),
        ("cam-3", false, Some(false)),
        ("cam-4", true, None),
        ("cam-5", true, Some(false)),
    ] {
        bench.execute(state, values![ORG, device, online, live]).await;
    }
    let lock = "INSERT INTO show_locks (id, org_id, tag, starts_at, ends_at, reason, created_by, created_at) \
                VALUES ('l', ?1, 'hall', ?2, ?3, 'gala', 'user:x', 0)";
    bench.execute(lock, values![ORG, NOW - 1, NOW + 1]).await;
    let tag = "INSERT INTO device_tags (org_id, device_id, tag) VALUES (?1, 'row-cam-5', 'hall')";
    bench.execute(tag, values![ORG]).await;
    let told = async |body: Value| {
        let request = CreateRequest::read(body, Some(Target::All)).unwrap();
        let outlooks = dry_run(&bench.app, &otto, &request, &Bench::context(&otto)).await.unwrap();
        let word = |outlook: &Outlook| {
            assert_eq!(outlook.would_run, outlook.reason.is_none());
            outlook.reason.as_deref().map_or("runs", |reason| reason.split(':').next().unwrap()).to_owned()
        };
        outlooks.iter().map(word).collect::<Vec<_>>()
    };
    assert_eq!(
        told(json!({"type": "reboot"})).await,
        ["runs", "live", "offline", "app_status_unknown", "show_lock"]
    );
    assert_eq!(told(json!({"type": "ping"})).await, ["runs", "runs", "offline", "runs", "runs"]);
    assert_eq!(told(json!({"type": "update", "payload": {"version": "2"}})).await, ["role"; 5]);
    assert_eq!(bench.count().await, 0);
    bench.one(&otto, json!({"to": "cam-1", "type": "ping", "ref": "r"})).await;
    assert_eq!(told(json!({"type": "ping", "ref": "r"})).await[0], "known");
    assert_eq!(told(json!({"type": "ping", "ref": "r", "priority": 1})).await[0], "ref");
    // The lock ends.
    bench.app.clock.advance_ms(1);
    assert_eq!(told(json!({"type": "reboot"})).await[4], "runs");
    let group = "UPDATE devices SET redundancy_group = 'g' WHERE device_id IN ('cam-1', 'cam-3')";
    bench.execute(group, vec![]).await;
    assert_eq!(told(json!({"type": "reboot"})).await[0], "awaiting_lease");
}

#[tokio::test]
async fn a_device_shows_its_open_commands_what_holds_them_and_the_lock() {
    let bench = Bench::new(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let summary = async || {
        let org = crate::domain::org::OrgId::new(ORG.to_owned());
        let now_ms = bench.app.clock.now_ms();
        let summary = crate::store::summaries::one(&bench.app.store, &org, "cam-1", now_ms).await;
        serde_json::to_value(summary.unwrap().unwrap()).unwrap()
    };
    let before = summary().await;
    assert_eq!(before["pending_commands"], 0);
    assert!(before.get("held_reason").is_none() && before.get("show_lock").is_none());
    let less_urgent = bench.one(&otto, json!({"to": "cam-1", "type": "reboot"})).await;
    let urgent = bench.one(&otto, json!({"to": "cam-1", "type": "reboot", "priority": 1})).await;
    bench.bring(&less_urgent, CommandState::Held, Some("live"), 1).await;
    bench.bring(&urgent, CommandState::Held, Some("show_lock"), 1).await;
    let lock = "INSERT INTO show_locks (id, org_id, device_id, tag, starts_at, ends_at, reason, created_by, created_at) \
                VALUES (?2, ?1, ?3, ?4, ?5, ?6, ?2, 'user:x', 0)";
    bench.execute(lock, values![ORG, "later", "row-cam-1", None::<&str>, NOW + 500, NOW + 900]).await;
    bench.execute(lock, values![ORG, "gala", None::<&str>, "hall", NOW - 5, NOW + 100]).await;
    let tag = "INSERT INTO device_tags (org_id, device_id, tag) VALUES (?1, 'row-cam-1', 'hall')";
    bench.execute(tag, values![ORG]).await;
    let held = summary().await;
    assert_eq!((&held["pending_commands"], &held["held_reason"]), (&json!(2), &json!("show_lock")));
    assert_eq!((&held["show_lock"]["reason"], &held["show_lock"]["tag"]), (&json!("gala"), &json!("hall")));
    bench.app.clock.advance_ms(100);
    assert_eq!(summary().await["show_lock"]["reason"], "later");
    bench.app.clock.advance_ms(800);
    assert!(summary().await.get("show_lock").is_none());
}
