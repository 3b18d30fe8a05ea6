//! Background work: each worker takes no input, reads the state, makes one step, and may be run twice. A timer and a
//! nudge run it; a failure is logged and counted, and the next run tries again.

pub mod aggregator;
pub mod certificates;
pub mod dispatcher;
pub mod monitor;
pub mod retention;
#[cfg(test)]
mod tests;

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    app::{AppState, Worker},
    service::{desired, http_devices, ingest::error_chain},
};

/// How often commands that were handed out are looked through; their times are minutes and days.
const HTTP_COMMANDS_EVERY: Duration = Duration::from_secs(30);
/// How often what is desired of all devices is looked through; a change is seen to when it is made.
const DESIRED_EVERY: Duration = Duration::from_secs(60);

/// Starts the workers that need nothing but the state. They end when `stop` turns true.
pub fn start(app: &Arc<AppState>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    tasks.spawn(run(app.clone(), stop.clone(), Worker::HeartbeatMonitor, monitor::EVERY, |app| async move {
        monitor::step(&app).await
    }));
    tasks.spawn(run(app.clone(), stop.clone(), Worker::Retention, retention::EVERY, |app| async move {
        retention::step(&app).await
    }));
    tasks.spawn(run(
        app.clone(),
        stop.clone(),
        Worker::MetricsAggregator,
        aggregator::EVERY,
        |app| async move { aggregator::step(&app).await },
    ));
    tasks.spawn(run(
        app.clone(),
        stop.clone(),
        Worker::HttpCommands,
        HTTP_COMMANDS_EVERY,
        |app| async move { http_devices::give_up_overdue(&app).await },
    ));
    tasks.spawn(run(
        app.clone(),
        stop.clone(),
        Worker::Certificates,
        certificates::EVERY,
        |app| async move { certificates::step(&app).await },
    ));
    tasks.spawn(run(app.clone(), stop.clone(), Worker::Desired, DESIRED_EVERY, |app| async move {
        desired::refresh_all(&app).await
    }));
}

/// Runs `step` at once, then every `every`, and when nudged.
pub async fn run<F, E>(
    app: Arc<AppState>,
    mut stop: watch::Receiver<bool>,
    worker: Worker,
    every: Duration,
    mut step: impl FnMut(Arc<AppState>) -> F,
) where
    F: Future<Output = Result<(), E>>,
    E: Error,
{
    let mut failing = false;
    loop {
        let next = Instant::now() + every;
        let counter = match step(app.clone()).await {
            Ok(()) => {
                failing = false;
                "fleet_worker_runs_total"
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(
                        worker = worker.name(),
                        error = error_chain(&error),
                        "worker failed; it tries again"
                    );
                }
                failing = true;
                "fleet_worker_failures_total"
            }
        };
        app.metrics.add_labelled(counter, "worker", worker.name(), 1);
        let now_seconds = u64::try_from(app.clock.now_ms() / 1000).unwrap_or(0);
        app.metrics.set_labelled("fleet_worker_last_run_seconds", "worker", worker.name(), now_seconds);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep_until(next) => {}
            () = app.nudges.nudged(worker) => {}
        }
    }
}
