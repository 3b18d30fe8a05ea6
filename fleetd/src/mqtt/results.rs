//! The worker that tells operators on `operator/{user}/result` what became of their commands: every step of the history
//! that was not told yet, each command's steps in order. Told first, marked after that: at least once.

use std::{sync::Arc, time::Duration};

use broker::{QoS, ServicePublisher};
use protocol::{
    command::CommandState,
    failpoint::reached,
    id::{OrgSlug, UserName},
    message::{OperatorResult, rfc3339},
    topic::Topic,
};
use tokio::sync::watch;

use super::publish;
use crate::{
    app::{AppState, Worker},
    failpoint,
    store::{
        StoreError,
        results::{self, Untold},
    },
    worker,
};

/// How often without a nudge.
const EVERY: Duration = Duration::from_secs(1);
/// Steps are gathered for so long before they are told and marked: most commands take several within a few milliseconds,
/// and a commit for each mark would stand in the way of the next.
const GATHER: Duration = Duration::from_millis(20);

/// Runs until `stop` turns true.
pub async fn run(app: Arc<AppState>, publisher: ServicePublisher, stop: watch::Receiver<bool>) {
    worker::run(app, stop, Worker::Results, EVERY, move |app| {
        let publisher = publisher.clone();
        async move {
            tokio::time::sleep(GATHER).await;
            step(&app, &publisher).await
        }
    })
    .await;
}

async fn step(app: &AppState, publisher: &ServicePublisher) -> Result<(), StoreError> {
    loop {
        let steps = results::untold(&app.store).await?;
        if steps.is_empty() {
            return Ok(());
        }
        let mut published = 0;
        for step in &steps {
            if let Some(user) = &step.user {
                if !tell(publisher, &step.org, user, &result_of(step)).await {
                    // The router has stopped, and the server is about to: the next one tells all of it again.
                    return Ok(());
                }
                published += 1;
            }
        }
        reached(failpoint::RESULT_AFTER_PUBLISH);
        app.store.apply(results::told(&steps)).await?;
        reached(failpoint::RESULT_AFTER_TOLD);
        app.metrics.add("fleet_results_published_total", published);
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
