//! The worker that keeps `view/{device}` as the database has it: all of them at the start, then those that changed; a
//! device that is out of service has none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use broker::{QoS, ServicePublisher};
use protocol::topic::Topic;
use tokio::sync::watch;

use super::{acknowledge, publish};
use crate::{
    app::{AppState, Worker},
    domain::org::OrgId,
    service::ingest::Ingest,
    store::{StoreError, summaries, views},
    worker,
};

/// How often without a nudge.
const EVERY: Duration = Duration::from_secs(60);
/// Changes are gathered for so long, so that a busy device does not have its view written for every message.
const GATHER: Duration = Duration::from_millis(200);
/// Changes are looked for a little further back than the last look, since clocks and commits are not one.
const OVERLAP_MS: i64 = 5_000;

/// Runs until `stop` turns true.
pub async fn run(
    app: Arc<AppState>,
    ingest: Arc<Ingest>,
    publisher: ServicePublisher,
    stop: watch::Receiver<bool>,
) {
    let seen_until = Arc::new(AtomicI64::new(i64::MIN));
    worker::run(app, stop, Worker::Views, EVERY, move |app| {
        let (ingest, publisher, seen_until) = (ingest.clone(), publisher.clone(), seen_until.clone());
        async move {
            let now = app.clock.now_ms();
            let mut changed = app.views.take();
            match step(&app, &ingest, &publisher, &mut changed, seen_until.load(Ordering::Relaxed)).await {
                Ok(()) => {
                    seen_until.store(now - OVERLAP_MS, Ordering::Relaxed);
                    tokio::time::sleep(GATHER).await;
                    Ok(())
                }
                Err(error) => {
                    // Not lost: marked again for the next run.
                    changed.iter().for_each(|device_id| app.views.mark(device_id));
                    tokio::time::sleep(GATHER).await;
                    Err(error)
                }
            }
        }
    })
    .await;
}

async fn step(
    app: &AppState,
    ingest: &Ingest,
    publisher: &ServicePublisher,
    changed: &mut std::collections::BTreeSet<String>,
    since: i64,
) -> Result<(), StoreError> {
    changed.extend(views::changed_since(&app.store, since).await?);
    for device_id in changed.iter() {
        let Some(names) = views::names(&app.store, device_id).await? else { continue };
        let name = (names.org.clone(), names.device.clone());
        let topic = Topic::View { org: names.org, device: names.device };
        let now_ms = app.clock.now_ms();
        let payload = match summaries::one(&app.store, &OrgId::new(names.org_id), device_id, now_ms).await? {
            Some(summary) => {
                if let Some(ack) = ingest.target_is(&name, summary.target_version.as_deref()).await {
                    acknowledge(publisher, name, &ack).await;
                }
                serde_json::to_vec(&summary).unwrap_or_default()
            }
            // An empty retained message clears the topic.
            None => Vec::new(),
        };
        publish(publisher, &topic, payload, QoS::AtMostOnce, true).await;
        app.metrics.add("fleet_views_published_total", 1);
    }
    Ok(())
}
