//! Commands that are created as sent.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use broker::PrincipalKey;
use protocol::id::{DeviceId, StateId};
use protocol::message::{Birth, DeviceAction};

use super::*;
use crate::auth::mqtt::LiveConnections;
use crate::service::ingest::DeviceName;
use crate::store::device_state::{self, DeviceKey};
use crate::store::dispatch;

const STATE: StateId = StateId([7; 8]);

/// The broker, as far as it is needed: every device is connected, and what one is told is noted with what the database
/// has of the command at that moment.
struct Line {
    store: Store,
    said: Mutex<Vec<(String, StateId, CommandState)>>,
}

impl LiveConnections for Line {
    fn end(&self, _: &PrincipalKey) -> usize {
        0
    }

    fn end_with(&self, _: &PrincipalKey, _: &str) -> usize {
        0
    }

    fn device_connected(&self, _: &OrgSlug, device: &DeviceId) -> bool {
        device.as_str() != "gone"
    }

    fn tell<'a>(
        &'a self,
        (_, device): &'a DeviceName,
        state_id: StateId,
        action: DeviceAction,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let DeviceAction::Run(run) = action else { panic!("{action:?}") };
            let stored = dispatch::by_id(&self.store, run.id.as_str()).await.unwrap().unwrap();
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push((device.to_string(), state_id, stored.state()));
        })
    }

    fn healthy(&self) -> bool {
        true
    }
}

impl Bench {
    async fn with_line(devices: &[&str]) -> (Self, Arc<Line>) {
        let bench = Self::new(devices).await;
        for device in devices {
            bench.born(device).await;
        }
        let line = Arc::new(Line { store: bench.app.store.clone(), said: Mutex::default() });
        assert!(bench.app.live.set(line.clone()).is_ok());
        (bench, line)
    }

    async fn born(&self, device: &str) {
        let key = DeviceKey { device_id: format!("row-{device}"), org_id: ORG.to_owned() };
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
        self.app.store.apply_one(device_state::put_birth(&key, &birth, None, NOW)).await.unwrap();
    }

    async fn history(&self, command: &Command) -> Vec<(i64, CommandState)> {
        let (org, id) = (&command.order.org_id, command.order.id.as_str());
        let steps = commands::steps(&self.app.store, org, id).await.unwrap();
        steps.into_iter().map(|(revision, step)| (revision, step.status)).collect()
    }
}

fn said(line: &Line) -> Vec<(String, StateId, CommandState)> {
    std::mem::take(&mut *line.said.lock().unwrap_or_else(PoisonError::into_inner))
}

#[tokio::test]
async fn a_command_for_a_connected_device_is_created_as_sent_and_said_after_its_commit() {
    let (bench, line) = Bench::with_line(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let command = bench.one(&otto, json!({"to": "cam-1", "type": "reboot", "notes": "why"})).await;
    assert_eq!(bench.stored(&command).await, command);
    assert_eq!((command.state(), command.revision), (CommandState::Sent, 2));
    assert_eq!((command.sent_state_id, command.sent_at), (Some(STATE), Some(NOW)));
    let both = [(1, CommandState::Pending), (2, CommandState::Sent)];
    assert_eq!(bench.history(&command).await, both);
    assert_eq!(said(&line), [("cam-1".to_owned(), STATE, CommandState::Sent)]);
    assert_eq!(bench.audit().await, ["command.create ok command"]);
    // The dispatcher has nothing to do with it now, the view and the results worker have.
    assert!(bench.app.dispatch.take().is_empty());
    assert_eq!(bench.app.views.take().into_iter().collect::<Vec<_>>(), ["row-cam-1"]);
}

#[tokio::test]
async fn a_command_waits_for_the_dispatcher_if_anything_would_have_to_come_before_it() {
    let (bench, line) = Bench::with_line(&["cam-1", "gone", "held", "wishes"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    // One has a command that it has not acknowledged; one is not connected; one awaits approval; one has not answered what is desired of it.
    bench.one(&otto, json!({"to": "cam-1", "type": "ping"})).await;
    bench.execute("UPDATE devices SET approval = 'awaiting' WHERE device_id = 'held'", vec![]).await;
    let desired =
        "INSERT INTO device_desired (device_id, org_id, version, updated_at) VALUES ('row-wishes', ?1, 3, 0)";
    bench.execute(desired, values![ORG]).await;
    assert_eq!(said(&line).len(), 1);
    assert!(bench.app.dispatch.take().is_empty());
    for device in ["cam-1", "gone", "held", "wishes"] {
        let command = bench.one(&otto, json!({"to": device, "type": "ping"})).await;
        assert_eq!((command.state(), command.revision), (CommandState::Pending, 1), "{device}");
        assert_eq!(bench.history(&command).await, [(1, CommandState::Pending)], "{device}");
        assert_eq!(bench.app.dispatch.take().into_iter().collect::<Vec<_>>(), [format!("row-{device}")]);
    }
    assert_eq!(said(&line), []);
    bench
        .execute("UPDATE device_state SET reported_version = 3 WHERE device_id = 'row-wishes'", vec![])
        .await;
    bench.execute("UPDATE commands SET status = 'completed'", vec![]).await;
    let command = bench.one(&otto, json!({"to": "wishes", "type": "ping"})).await;
    assert_eq!(command.state(), CommandState::Sent);
}

#[tokio::test]
async fn of_many_at_once_for_one_device_one_is_created_as_sent_and_the_others_wait_their_turn() {
    let (bench, line) = Bench::with_line(&["cam-1"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let calls = (0..40).map(|_| bench.one(&otto, json!({"to": "cam-1", "type": "ping"})));
    let made = futures_util::future::join_all(calls).await;
    let sent = made.iter().filter(|command| command.state() == CommandState::Sent).count();
    assert_eq!((sent, said(&line).len(), bench.count().await), (1, 1, 40));
    for command in &made {
        assert_eq!(bench.stored(command).await, *command);
    }
}

#[tokio::test]
async fn a_request_for_all_is_created_as_sent_for_each_device_that_is_there() {
    let (bench, line) = Bench::with_line(&["cam-1", "cam-2", "gone"]).await;
    let otto = bench.person("otto", Role::Operator).await;
    let answers = bench.create(&otto, json!({"to": "*", "type": "ping", "ref": "r"})).await.unwrap();
    let states: Vec<_> = answers.iter().map(|answer| answer.result.as_ref().unwrap().state()).collect();
    assert_eq!(states, [CommandState::Sent, CommandState::Sent, CommandState::Pending]);
    assert_eq!(said(&line).len(), 2);
    // The same again says nothing again.
    let again = bench.create(&otto, json!({"to": "*", "type": "ping", "ref": "r"})).await.unwrap();
    let ids = |answers: &[Answer]| -> Vec<_> {
        answers.iter().map(|answer| answer.result.as_ref().unwrap().order.id.clone()).collect()
    };
    assert_eq!((ids(&again), said(&line)), (ids(&answers), vec![]));
}
