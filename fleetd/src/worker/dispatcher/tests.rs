#![allow(clippy::unwrap_used)]

use broker::{Broker, Limits, ServiceSubscriber};
use protocol::{
    codec,
    command::{CommandType, open_digest, standing::Standing},
    id::StateId,
    message::{Birth, Desired, DeviceCommand},
};
use serde_json::json;

use super::*;
use crate::{
    auth::{AuthState, mqtt::DatabaseAuthenticator},
    clock::Clock,
    config::Config,
    domain::{
        command::{Order, Path},
        org::OrgId,
    },
    store::{
        Statement, Store,
        device_state::{self, DeviceKey},
    },
    values,
};

const NOW: i64 = 1_766_916_000_000;
const DAY: i64 = 86_400_000;
const ORG: &str = "00000000-0000-4000-8000-000000000001";
const STATE: StateId = StateId([7; 8]);

/// The dispatcher over a real store and a real broker, at a time that stands still.
struct Bench {
    app: Arc<AppState>,
    dispatcher: Dispatcher,
    heard: ServiceSubscriber,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(folder.path().to_owned());
        let clock = Clock::fixed(NOW);
        let store = Store::open(&config.database, None).unwrap();
        let auth = AuthState::open(&config, &clock).unwrap();
        let app = Arc::new(AppState::new(store, config, clock, auth));
        let authenticator = Arc::new(DatabaseAuthenticator::new(app.clone()));
        let broker = Broker::start(Limits::default(), authenticator).unwrap();
        let filters = ["fleet/v1/+/device/+/command", "fleet/v1/+/device/+/desired"];
        let (publisher, heard) = broker.service_link("test", &filters).unwrap();
        let dispatcher = Dispatcher::new(app.clone(), publisher);
        Self { app, dispatcher, heard, _folder: folder }
    }

    async fn sql(&self, sql: &'static str, params: Vec<crate::store::Value>) {
        self.app.store.apply_one(Statement::new(sql, params)).await.unwrap();
    }

    async fn device(&self, id: &str) {
        let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
                   VALUES (?1, ?2, ?1, ?1, 'approved', 'aarch64', 0, 0)";
        self.sql(sql, values![id, ORG]).await;
    }

    async fn born(&self, id: &str) {
        let key = DeviceKey { device_id: id.to_owned(), org_id: ORG.to_owned() };
        let birth = Birth {
            state_id: STATE,
            connection: 1,
            next_seq: 1,
            boot_id: "b".to_owned(),
            agent_version: "0.1.0".to_owned(),
            app_version: None,
            arch: "aarch64".to_owned(),
            inputs: vec![],
            command_types: vec![],
            interval_seconds: 60,
            transport: "mqtt".to_owned(),
            ts: 0,
            since_boot_ms: 0,
            app_unit: None,
        };
        let put = device_state::put_birth(&key, &birth, None, self.app.clock.now_ms());
        self.app.store.apply_one(put).await.unwrap();
    }

    async fn command(&self, id: &str, device: &str) -> Command {
        let command = Command::new(Order {
            id: id.parse().unwrap(),
            org_id: OrgId::new(ORG.to_owned()),
            device_id: DeviceRowId::new(device.to_owned()),
            device: device.parse().unwrap(),
            kind: CommandType::Ping,
            payload: json!({}),
            priority: 5,
            timeout_seconds: 120,
            notes: None,
            created_by: "user:a@b.c".to_owned(),
            created_by_name: Some("anna".to_owned()),
            created_at: self.app.clock.now_ms(),
            expires_at: self.app.clock.now_ms() + DAY,
            reference: None,
            request_hash: String::new(),
        });
        self.app.store.apply(commands::insert(&command, None)).await.unwrap();
        command
    }

    /// A heartbeat, taken now, of a device with these open commands.
    async fn heartbeat(&self, device: &str, open: &[(&str, CommandState)]) {
        let ids: Vec<(CommandId, CommandState)> =
            open.iter().map(|(id, state)| (id.parse().unwrap(), *state)).collect();
        let digest = open_digest(ids.iter().map(|(id, state)| (id, *state)));
        let sql = "UPDATE device_state SET heartbeat_at = ?1, commands_digest = ?2 WHERE device_id = ?3";
        self.sql(sql, values![self.app.clock.now_ms(), digest.to_vec(), device]).await;
    }

    /// An admin takes the lease of a group back.
    async fn release(&self, name: &str) {
        let org = OrgId::new(ORG.to_owned());
        let group = leases::group(&self.app.store, &org, name).await.unwrap();
        let release = leases::release(&org, name, &group, self.app.clock.now_ms());
        self.app.store.apply(release).await.unwrap();
    }

    async fn stands(&self, id: &str) -> Command {
        lookup::by_id(&self.app.store, id).await.unwrap().unwrap()
    }

    async fn report(&self, id: &str, state: CommandState) {
        let mut command = self.stands(id).await;
        let standing = Standing { state, inferred: false, report_seq: command.standing.report_seq + 1 };
        command.stand(standing, self.app.clock.now_ms());
        command.heard_at = Some(self.app.clock.now_ms());
        self.app.store.apply(commands::update(&mut command, None)).await.unwrap();
    }

    /// One look, and what it said: device, and what.
    async fn look(&mut self) -> Vec<(String, &'static str)> {
        self.dispatcher.with_memory(|memory| memory.next_full = None);
        self.dispatcher.step().await.unwrap();
        let mut said = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(60), self.heard.recv()).await
        {
            let device = message.topic.split('/').nth(4).unwrap().to_owned();
            let what = if message.topic.ends_with("/desired") {
                codec::decode::<Desired>(&message.payload, 65_536).unwrap();
                "desired"
            } else {
                let message: DeviceCommand = codec::decode(&message.payload, 65_536).unwrap();
                assert_eq!(message.state_id, STATE);
                kind(&message.action().unwrap())
            };
            said.push((device, what));
        }
        said
    }
}

fn said(device: &str, what: &'static str) -> (String, &'static str) {
    (device.to_owned(), what)
}

#[tokio::test]
async fn a_command_is_committed_as_sent_and_said_to_its_connected_device_alone() {
    let mut bench = Bench::new().await;
    for id in ["there", "away", "waits", "gone", "lost", "old"] {
        bench.device(id).await;
        bench.command(id, id).await;
        if id != "away" && id != "old" {
            bench.born(id).await;
        }
    }
    bench.sql("UPDATE devices SET approval = 'awaiting' WHERE id = 'waits'", vec![]).await;
    bench.sql("UPDATE devices SET decommissioned_at = 1 WHERE id = 'gone'", vec![]).await;
    bench.sql("UPDATE device_state SET will_at = 1 WHERE device_id = 'lost'", vec![]).await;
    let http =
        "INSERT INTO device_state (device_id, org_id, online, transport) VALUES ('old', ?1, 1, 'http')";
    bench.sql(http, values![ORG]).await;
    assert_eq!(bench.look().await, [said("there", "run")]);
    assert_eq!(bench.look().await, []);
    let sent = bench.stands("there").await;
    assert_eq!(
        (sent.state(), sent.bound, sent.sent_state_id),
        (CommandState::Sent, Some(Path::Mqtt), Some(STATE))
    );
    for id in ["away", "waits", "lost", "old"] {
        assert_eq!(bench.stands(id).await.state(), CommandState::Pending, "{id}");
    }
    assert_eq!(bench.stands("gone").await.state(), CommandState::Cancelled);
    bench.app.clock.advance_ms(dispatch::RESEND_MS);
    assert_eq!(bench.look().await, [said("there", "run")]);
    // Marked by a birth: at once, without a look at all.
    bench.born("lost").await;
    bench.app.dispatch.mark("lost");
    bench.dispatcher.with_memory(|memory| memory.next_full = Some(Instant::now() + Duration::from_secs(60)));
    bench.dispatcher.step().await.unwrap();
    assert_eq!(bench.stands("lost").await.state(), CommandState::Sent);
}

#[tokio::test]
async fn what_is_overdue_ends_also_for_devices_that_are_away() {
    let mut bench = Bench::new().await;
    for id in ["never", "silent", "heard", "http", "restored"] {
        bench.device(id).await;
        bench.command(id, id).await;
    }
    for id in ["silent", "heard", "http"] {
        bench.born(id).await;
    }
    bench.look().await;
    bench.sql("UPDATE commands SET bound = 'http' WHERE id = 'http'", vec![]).await;
    bench.sql("UPDATE commands SET query_first = 1 WHERE id = 'restored'", vec![]).await;
    bench.sql("UPDATE device_state SET online = 0", vec![]).await;
    bench.app.clock.advance_ms(DAY);
    assert_eq!(bench.look().await, []);
    assert_eq!(bench.stands("never").await.state(), CommandState::Expired);
    for id in ["silent", "heard", "http"] {
        assert_eq!(bench.stands(id).await.state(), CommandState::Sent, "{id}: the device decides");
    }
    assert_eq!(bench.stands("restored").await.state(), CommandState::Pending, "the device may have it");

    bench.app.clock.advance_ms(SILENCE_AFTER_EXPIRY_MS);
    let heard = "UPDATE device_state SET last_seen_at = ?1 WHERE device_id = 'heard'";
    bench.sql(heard, values![bench.app.clock.now_ms() - 1000]).await;
    bench.look().await;
    for id in ["silent", "http", "restored"] {
        let end = bench.stands(id).await;
        assert_eq!((end.state(), end.standing.inferred), (CommandState::Indeterminate, true), "{id}");
    }
    assert_eq!(bench.stands("heard").await.state(), CommandState::Sent);
    assert_eq!(bench.app.metrics.total("fleet_commands_given_up_total"), 3);
    let steps = "SELECT count(*) AS n FROM command_history WHERE command_id = 'silent'";
    let rows = bench.app.store.query(steps, vec![]).await.unwrap();
    assert_eq!(rows[0].int("n").unwrap(), 3, "pending, sent, indeterminate");
}

#[tokio::test]
async fn two_heartbeats_with_a_wrong_digest_make_the_server_ask() {
    let mut bench = Bench::new().await;
    bench.device("cam").await;
    bench.born("cam").await;
    let command = bench.command("c", "cam").await;
    bench.look().await;
    bench.report("c", CommandState::Held).await;
    let heartbeat = async |bench: &Bench, digest: [u8; 4]| {
        bench.app.clock.advance_ms(1000);
        let sql = "UPDATE device_state SET heartbeat_at = ?1, commands_digest = ?2, last_seen_at = ?1";
        bench.sql(sql, values![bench.app.clock.now_ms(), digest.to_vec()]).await;
    };
    let right = open_digest([(&command.order.id, CommandState::Held)]);
    heartbeat(&bench, right).await;
    assert_eq!(bench.look().await, []);
    heartbeat(&bench, open_digest([])).await;
    assert_eq!(bench.look().await, [], "its report may be on its way");
    assert_eq!(bench.look().await, [], "the same heartbeat counts once");
    heartbeat(&bench, open_digest([])).await;
    assert_eq!(bench.look().await, [said("cam", "query")]);
    assert_eq!(bench.stands("c").await.query_sent_at, Some(bench.app.clock.now_ms()));
}

#[tokio::test]
async fn a_desired_state_is_said_before_commands_and_until_it_is_answered() {
    let mut bench = Bench::new().await;
    bench.device("cam").await;
    let put = "INSERT INTO device_desired (device_id, org_id, version, updated_at) VALUES ('cam', ?1, 4, 0)";
    bench.sql(put, values![ORG]).await;
    assert_eq!(bench.look().await, [], "it is away");
    bench.born("cam").await;
    bench.command("c", "cam").await;
    assert_eq!(bench.look().await, [said("cam", "desired"), said("cam", "run")]);
    bench.report("c", CommandState::Completed).await;
    bench.app.clock.advance_ms(dispatch::RESEND_MS);
    assert_eq!(bench.look().await, [said("cam", "desired")]);
    bench.sql("UPDATE device_state SET reported_version = 4", vec![]).await;
    bench.app.clock.advance_ms(DAY);
    assert_eq!(bench.look().await, []);
    bench.sql("UPDATE device_desired SET version = 5", vec![]).await;
    assert_eq!(bench.look().await, [said("cam", "desired")]);
}

#[tokio::test]
async fn of_two_asks_at_the_same_moment_one_gets_the_lease() {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
        bench.born(id).await;
        bench.command(id, id).await;
    }
    bench.sql("UPDATE devices SET redundancy_group = 'hall'", vec![]).await;
    assert_eq!(bench.look().await.len(), 2);
    for id in ["one", "two"] {
        bench.report(id, CommandState::Held).await;
        let asks = "UPDATE commands SET lease_nonce = ?1, lease_asked_at = ?2 WHERE id = ?3";
        bench.sql(asks, values![vec![1u8; 16], bench.app.clock.now_ms(), id]).await;
    }
    // Both are seen to at the same time.
    let first = bench.look().await;
    assert_eq!(first.iter().filter(|(_, what)| *what == "go").count(), 1, "{first:?}");
    assert_eq!(bench.look().await, [], "said a moment ago");
    bench.app.clock.advance_ms(REQUEST_MS);
    assert_eq!(bench.look().await, first, "again, to the same");
    let (winner, other) = if first[0].0 == "one" { ("one", "two") } else { ("two", "one") };
    bench.report(winner, CommandState::Completed).await;
    bench.sql("UPDATE device_state SET online = 0 WHERE device_id = ?1", values![winner]).await;
    assert_eq!(bench.look().await, [], "it is not back");
    bench.born(winner).await;
    assert_eq!(bench.look().await, [said(other, "go")]);
    assert_eq!(bench.app.metrics.total("fleet_leases_granted_total"), 2);
}

#[tokio::test]
async fn commands_of_absent_devices_cost_a_look_nothing() {
    let mut bench = Bench::new().await;
    bench.device("away").await;
    bench.device("there").await;
    bench.born("there").await;
    for n in 0..300 {
        bench.command(&format!("c{n}"), "away").await;
    }
    bench.command("c", "there").await;
    let (open, _) = lookup::open_of_connected(&bench.app.store, "", 100).await.unwrap();
    assert_eq!(open.values().map(Vec::len).sum::<usize>(), 1);
    let waiting = lookup::waiting(&bench.app.store).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(bench.look().await, [said("there", "run")]);
    let plan = bench
        .app
        .store
        .query("EXPLAIN QUERY PLAN SELECT id FROM commands WHERE status IN ('pending', 'sent', 'acked', 'held', 'running') AND expires_at <= 5", vec![])
        .await
        .unwrap();
    assert!(plan[0].text("detail").unwrap().contains("commands_open_expiry"), "{plan:?}");
}

/// `device` asks for its group's lease for its command `id`.
async fn asks(bench: &Bench, id: &str) {
    bench.report(id, CommandState::Held).await;
    let asks = "UPDATE commands SET lease_nonce = ?1, lease_asked_at = ?2 WHERE id = ?3";
    bench.sql(asks, values![vec![1u8; 16], bench.app.clock.now_ms(), id]).await;
}

#[tokio::test]
async fn a_partner_that_came_into_the_group_in_the_middle_of_a_restart_keeps_the_others_waiting() {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
        bench.born(id).await;
        bench.command(id, id).await;
    }
    bench.sql("UPDATE commands SET type = 'reboot'", vec![]).await;
    bench.look().await;
    bench.report("two", CommandState::Running).await;
    bench.sql("UPDATE devices SET redundancy_group = 'hall'", vec![]).await;
    asks(&bench, "one").await;
    assert_eq!(bench.look().await, [], "two is being disrupted, though it never had the lease");
    // Unless an admin says that it is over.
    bench.release("hall").await;
    assert_eq!(bench.look().await, [said("one", "go")]);
    bench.app.clock.advance_ms(1);
    bench.command("again", "two").await;
    bench.sql("UPDATE commands SET type = 'reboot'", vec![]).await;
    bench.look().await;
    bench.report("one", CommandState::Completed).await;
    bench.report("again", CommandState::Running).await;
    bench.command("next", "one").await;
    bench.look().await;
    asks(&bench, "next").await;
    assert_eq!(bench.look().await, [], "what began after that counts");
    bench.report("again", CommandState::Completed).await;
    assert_eq!(bench.look().await, [said("one", "go")]);
}

#[tokio::test]
async fn a_partner_that_brings_the_lease_of_another_group_keeps_the_others_waiting() {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
        bench.born(id).await;
        bench.command(id, id).await;
    }
    bench.sql("UPDATE devices SET redundancy_group = 'attic' WHERE id = 'two'", vec![]).await;
    bench.look().await;
    asks(&bench, "two").await;
    assert_eq!(bench.look().await, [said("two", "go")]);
    bench.sql("UPDATE devices SET redundancy_group = 'hall'", vec![]).await;
    bench.sql("UPDATE commands SET lease_nonce = NULL WHERE id = 'two'", vec![]).await;
    asks(&bench, "one").await;
    assert_eq!(bench.look().await, [], "two may begin at any moment");
    bench.report("two", CommandState::Completed).await;
    assert_eq!(bench.look().await, [said("one", "go")]);
}

#[tokio::test]
async fn a_partner_that_polls_and_was_handed_something_disruptive_keeps_the_others_waiting() {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
    }
    bench.born("one").await;
    bench.command("one", "one").await;
    bench.command("two", "two").await;
    bench.look().await;
    bench
        .sql("INSERT INTO device_state (device_id, org_id, online) VALUES ('two', ?1, 1)", values![ORG])
        .await;
    bench
        .sql("UPDATE commands SET type = 'reboot', status = 'acked', bound = 'http' WHERE id = 'two'", vec![])
        .await;
    bench.sql("UPDATE devices SET redundancy_group = 'hall'", vec![]).await;
    asks(&bench, "one").await;
    assert_eq!(bench.look().await, []);
    bench.report("two", CommandState::Completed).await;
    assert_eq!(bench.look().await, [said("one", "go")]);
}

/// Two of a group, one of which asks for the lease, after a restore since which both have given birth.
async fn restored() -> Bench {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
    }
    bench.command("one", "one").await;
    bench.sql("UPDATE devices SET redundancy_group = 'hall', restored_at = ?1", values![NOW - 1]).await;
    bench.born("one").await;
    bench.born("two").await;
    bench.look().await;
    bench.app.clock.advance_ms(60_000);
    asks(&bench, "one").await;
    assert_eq!(bench.look().await, []);
    bench.heartbeat("one", &[("one", CommandState::Held)]).await;
    bench
}

#[tokio::test]
async fn after_a_restore_a_partner_that_runs_a_forgotten_command_keeps_the_others_waiting() {
    let mut bench = restored().await;
    bench.heartbeat("two", &[("forgotten", CommandState::Running)]).await;
    assert_eq!(bench.look().await, []);
    let report = |report_seq: u32, state: CommandState| {
        let key = DeviceKey { device_id: "two".to_owned(), org_id: ORG.to_owned() };
        let report = protocol::message::CommandReport {
            seq: u64::from(report_seq),
            connection: 1,
            ts: 0,
            id: "forgotten".parse().unwrap(),
            report_seq,
            state: state.to_string(),
            reason: None,
            progress_percent: None,
            result: None,
            error: None,
            nonce: None,
            token_sha256: None,
        };
        crate::store::reports::put_report(&key, STATE, &report, NOW)
    };
    for (report_seq, state) in [(1, CommandState::Acked), (2, CommandState::Held), (3, CommandState::Running)]
    {
        bench.app.store.apply_one(report(report_seq, state)).await.unwrap();
        assert_eq!(bench.look().await, [], "{state}");
    }
    bench.app.store.apply_one(report(4, CommandState::Completed)).await.unwrap();
    assert_eq!(bench.look().await, [], "by its last heartbeat it runs");
    bench.heartbeat("two", &[]).await;
    assert_eq!(bench.look().await, [said("one", "go")]);
    // From here on all is known, whatever the heartbeats say.
    bench.heartbeat("two", &[("other", CommandState::Running)]).await;
    bench.report("one", CommandState::Completed).await;
    bench.command("next", "one").await;
    bench.look().await;
    asks(&bench, "next").await;
    assert_eq!(bench.look().await, [said("one", "go")]);
}

#[tokio::test]
async fn after_a_restore_an_admin_may_say_that_no_member_is_being_disrupted() {
    let mut bench = restored().await;
    bench.release("hall").await;
    assert_eq!(bench.look().await, [said("one", "go")]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_stops_nothing_but_itself() {
    let mut bench = Bench::new().await;
    bench.device("cam").await;
    bench.born("cam").await;
    bench.command("bad", "cam").await;
    bench.command("late", "cam").await;
    bench.command("good", "cam").await;
    bench
        .sql(
            "UPDATE commands SET type = 'of-a-newer-server', expires_at = ?1 WHERE id = 'bad'",
            values![NOW - 1],
        )
        .await;
    bench.sql("UPDATE commands SET expires_at = ?1 WHERE id = 'late'", values![NOW - 1]).await;
    assert_eq!(bench.look().await, [said("cam", "run")]);
    assert_eq!(bench.stands("late").await.state(), CommandState::Expired);
    bench.app.dispatch.mark("cam");
    assert_eq!(bench.look().await, []);
}

#[tokio::test]
async fn a_look_takes_in_so_many_commands_and_the_next_one_goes_on_behind_them() {
    let bench = Bench::new().await;
    for device in ["a", "b", "c", "d"] {
        bench.device(device).await;
        bench.born(device).await;
        bench.command(&format!("{device}1"), device).await;
        bench.command(&format!("{device}2"), device).await;
    }
    let (mut after, mut seen) = (String::new(), Vec::new());
    for _ in 0..3 {
        let (open, next) = lookup::open_of_connected(&bench.app.store, &after, 5).await.unwrap();
        // Whole devices: with only some of its commands a device would be misjudged.
        assert!(open.values().all(|commands| commands.len() == 2), "{open:?}");
        seen.extend(open.into_keys().map(|id| id.as_str().to_owned()));
        after = next;
    }
    assert_eq!(seen, ["a", "b", "c", "d", "a", "b"]);
}

#[tokio::test]
async fn the_commands_of_a_device_that_was_taken_out_end_and_its_lease_is_free() {
    let mut bench = Bench::new().await;
    for id in ["one", "two"] {
        bench.device(id).await;
        bench.born(id).await;
        bench.command(id, id).await;
    }
    bench.command("waits", "one").await;
    bench.sql("UPDATE devices SET redundancy_group = 'hall'", vec![]).await;
    bench.look().await;
    asks(&bench, "one").await;
    assert_eq!(bench.look().await, [said("one", "go")]);
    bench
        .sql(
            "UPDATE commands SET status = 'pending', sent_state_id = NULL, bound = NULL WHERE id = 'waits'",
            vec![],
        )
        .await;
    bench.sql("UPDATE devices SET decommissioned_at = 5 WHERE id = 'one'", vec![]).await;
    bench.sql("UPDATE device_state SET online = 0 WHERE device_id = 'one'", vec![]).await;
    asks(&bench, "two").await;
    bench.look().await;
    let (waits, one) = (bench.stands("waits").await, bench.stands("one").await);
    assert_eq!(waits.state(), CommandState::Cancelled, "a device that takes its id later must not run it");
    assert_eq!((one.state(), one.standing.inferred), (CommandState::Indeterminate, true));
    assert_eq!(one.reason.as_deref(), Some("the device was decommissioned"));
    assert_eq!(bench.stands("two").await.state(), CommandState::Held);
    assert!(
        bench.look().await.contains(&said("two", "go"))
            || bench.app.metrics.total("fleet_leases_granted_total") == 2
    );
}

#[tokio::test]
async fn looks_and_polls_find_their_rows_by_index() {
    let bench = Bench::new().await;
    let open = "('pending', 'sent', 'acked', 'held', 'running')";
    let gone = format!(
        "SELECT c.id FROM devices d CROSS JOIN commands c WHERE d.decommissioned_at IS NOT NULL \
         AND c.device_id = d.id AND c.status IN {open} LIMIT 500"
    );
    let unacknowledged = format!(
        "SELECT count(*) FROM commands WHERE device_id = 'a' AND status IN {open} AND status IN ('pending', 'sent')"
    );
    let by_age = "SELECT c.id FROM commands c JOIN devices d ON d.id = c.device_id WHERE c.org_id = 'o' \
                  ORDER BY c.created_at DESC, c.id DESC LIMIT 50";
    let members = "SELECT d.id FROM devices d WHERE d.org_id = 'o' AND d.redundancy_group = 'g'";
    for (sql, indexes) in [
        (gone.as_str(), &["devices_gone", "commands_open"][..]),
        (&unacknowledged, &["commands_open"]),
        (by_age, &["commands_by_org", "TERM OF ORDER BY"]),
        (members, &["devices_by_group"]),
    ] {
        let rows = bench.app.store.query(format!("EXPLAIN QUERY PLAN {sql}"), vec![]).await.unwrap();
        let plan: Vec<_> = rows.iter().map(|row| row.text("detail").unwrap()).collect();
        assert!(indexes.iter().all(|index| plan.concat().contains(index)), "{sql}: {plan:?}");
    }
}
