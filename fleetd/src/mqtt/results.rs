//! The worker that tells operators on `operator/{user}/result` what became of their commands: every step of the history
//! that was not told yet, each command's steps in order. Told first, marked after that: at least once.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use broker::{QoS, ServicePublisher};
use protocol::{
    command::CommandState,
    failpoint::reached,
    id::{CommandId, OrgSlug, UserName},
    message::{OperatorResult, rfc3339},
    topic::Topic,
};
use tokio::sync::{Mutex, watch};

use super::publish;
use crate::{
    app::{AppState, Worker},
    failpoint,
    store::{
        Store, StoreError,
        results::{self, Untold},
    },
    worker,
};

/// How often without a nudge.
const EVERY: Duration = Duration::from_secs(1);
/// Steps are marked as told together, when they have waited for so long or are so many: a commit for each would stand in
/// the way of those that somebody waits for. Fewer than one look takes in, so that there is always room for others.
const MARK_AFTER: Duration = Duration::from_millis(250);
const MARK_AT: usize = 100;

/// Runs until `stop` turns true.
pub async fn run(app: Arc<AppState>, publisher: ServicePublisher, stop: watch::Receiver<bool>) {
    let teller = Arc::new(Teller { publisher, unmarked: Mutex::default() });
    let (store, last) = (app.store.clone(), teller.clone());
    worker::run(app, stop, Worker::Results, EVERY, move |app| {
        let teller = teller.clone();
        async move { teller.step(&app).await }
    })
    .await;
    let mut unmarked = last.unmarked.lock().await;
    if let Err(error) = unmarked.mark(&store).await {
        tracing::warn!(%error, "some results are told once more after the next start");
    }
}

struct Teller {
    publisher: ServicePublisher,
    unmarked: Mutex<Unmarked>,
}

/// Steps that are told and not marked. Lost by a crash: they are told again then.
#[derive(Default)]
struct Unmarked {
    steps: HashSet<(CommandId, i64)>,
    since: Option<Instant>,
}

impl Unmarked {
    fn add(&mut self, steps: &[Untold]) {
        self.steps.extend(steps.iter().map(|step| (step.command.clone(), step.revision)));
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_due(&self) -> bool {
        self.steps.len() >= MARK_AT || self.since.is_some_and(|since| since.elapsed() >= MARK_AFTER)
    }

    async fn mark(&mut self, store: &Store) -> Result<(), StoreError> {
        let marks = self.steps.iter().map(|(command, revision)| results::mark(command.as_str(), *revision));
        store.apply(marks.collect()).await?;
        reached(failpoint::RESULT_AFTER_TOLD);
        *self = Self::default();
        Ok(())
    }
}

impl Teller {
    async fn step(&self, app: &AppState) -> Result<(), StoreError> {
        let mut unmarked = self.unmarked.lock().await;
        loop {
            if unmarked.is_due() {
                unmarked.mark(&app.store).await?;
            }
            let mut steps = results::untold(&app.store).await?;
            steps.retain(|step| !unmarked.steps.contains(&(step.command.clone(), step.revision)));
            if steps.is_empty() {
                return Ok(());
            }
            let mut published = 0;
            for step in &steps {
                if let Some(user) = &step.user {
                    if !tell(&self.publisher, &step.org, user, &result_of(step)).await {
                        // The router has stopped, and the server is about to: the next one tells all of it again.
                        return Ok(());
                    }
                    published += 1;
                }
            }
            reached(failpoint::RESULT_AFTER_PUBLISH);
            unmarked.add(&steps);
            app.metrics.add("fleet_results_published_total", published);
        }
    }
}

/// Publishes one result; false if the broker does not have it.
pub(super) async fn tell(
    publisher: &ServicePublisher,
    org: &OrgSlug,
    user: &UserName,
    result: &OperatorResult,
) -> bool {
    let topic = Topic::OperatorResult { org: org.clone(), user: user.clone() };
    match serde_json::to_vec(result) {
        Ok(json) => publish(publisher, &topic, json, QoS::AtLeastOnce, false).await,
        Err(error) => {
            tracing::error!(%topic, %error, "result not encoded");
            // It would be no better the next time.
            true
        }
    }
}

fn result_of(step: &Untold) -> OperatorResult {
    // The first step of a command is that it was accepted.
    let status = match step.status {
        CommandState::Pending if step.revision == 1 => "accepted",
        other => other.as_str(),
    };
    OperatorResult {
        reference: step.reference.clone(),
        id: Some(step.command.clone()),
        device: Some(step.device.clone()),
        status: status.to_owned(),
        reason: step.detail.clone().filter(|_| status != "accepted"),
        revision: u64::try_from(step.revision).ok(),
        result: step.result.clone(),
        error: step.error.clone(),
        at: rfc3339(step.at),
    }
}
