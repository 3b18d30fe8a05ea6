//! A power cut at any write or send in the path of a command: its effect happens at most once, and what is told of it is
//! true. Every failpoint of the agent and of the server is walked through, for every type of command that passes there.
#![allow(clippy::unwrap_used)]

mod agent;
mod case;
mod old_copies;
mod server;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// These tests ask more often than a person does.
const WITHOUT_HASTE: (&str, &str) = ("FLEET_RATE_LIMIT_REQUESTS", "1000000");

/// Runs `work` on every item, some at the same time.
fn in_parallel<T: Sync>(items: &[T], at_once: usize, work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst)) {
                    work(item);
                }
            });
        }
    });
}
