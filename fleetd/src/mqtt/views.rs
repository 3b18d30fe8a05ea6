//! The worker that keeps `view/{device}` as the database has it: all of them at the start, then those that changed; a
//! device that is out of service has none.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use broker::{QoS, ServicePublisher};
use protocol::topic::Topic;
use tokio::sync::watch;

use super::{acknowledge, publish};
use crate::{
    app::{AppState, Worker},
    domain::summary::DeviceSummary,
    service::ingest::Ingest,
    store::{StoreError, summaries, views},
    worker,
};

/// How often without a nudge.
const EVERY: Duration = Duration::from_secs(60);
/// Changes are gathered for so long, so that a busy device does not have its view written for every message.
const GATHER: Duration = Duration::from_millis(200);
const GATHER_MOST: Duration = Duration::from_secs(5);
/// After a look this many times as long as it took: views may take a small part of the machine, and lag for that.
const REST: u32 = 9;
/// Devices that are read together.
const AT_ONCE: usize = 64;
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
            let began = Instant::now();
            let mut changed = app.views.take();
            match step(&app, &ingest, &publisher, &mut changed, seen_until.load(Ordering::Relaxed)).await {
                Ok(()) => {
                    seen_until.store(now - OVERLAP_MS, Ordering::Relaxed);
                    tokio::time::sleep(GATHER.max(began.elapsed() * REST).min(GATHER_MOST)).await;
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
    let changed: Vec<String> = changed.iter().cloned().collect();
    for some in changed.chunks(AT_ONCE) {
        let now_ms = app.clock.now_ms();
        let summaries = summaries::several(&app.store, some, now_ms).await?;
        let summaries: HashMap<&str, &DeviceSummary> =
            summaries.iter().map(|summary| (summary.id.as_str(), summary)).collect();
        for (id, names) in views::names(&app.store, some).await? {
            let name = (names.org.clone(), names.device.clone());
            let topic = Topic::View { org: names.org, device: names.device };
            let payload = match summaries.get(id.as_str()) {
                Some(summary) => {
                    if let Some(ack) = ingest.target_is(&name, summary.target_version.as_deref()).await {
                        acknowledge(publisher, name, &ack).await;
                    }
                    serde_json::to_vec(summary).unwrap_or_default()
                }
                // An empty retained message clears the topic.
                None => Vec::new(),
            };
            publish(publisher, &topic, payload, QoS::AtMostOnce, true).await;
            app.metrics.add("fleet_views_published_total", 1);
        }
    }
    Ok(())
}
