//! Counters and gauges for Prometheus.
//!
//! A registry of our own: the text format is a dozen lines, everything here is counted by batch rather than in hot
//! loops, and no further dependency has to be carried to every device's server.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
};

/// What a metric counts, for its `HELP` line. Every name that is used must be here; a test holds that.
const HELP: &[(&str, Kind, &str)] = &[
    ("fleet_records_stored_total", Kind::Counter, "Records committed, by kind."),
    (
        "fleet_records_duplicate_total",
        Kind::Counter,
        "Records that were stored before and acknowledged again.",
    ),
    ("fleet_records_mismatched_total", Kind::Counter, "Records of another connection than the last birth's."),
    ("fleet_records_poison_total", Kind::Counter, "Records that could not be understood and were kept raw."),
    ("fleet_records_unnumbered_total", Kind::Counter, "Records without a readable sequence number."),
    (
        "fleet_records_gaps_total",
        Kind::Counter,
        "Records left uncommitted since the committed set has too many gaps.",
    ),
    ("fleet_messages_malformed_total", Kind::Counter, "Messages that could not be read at all, by topic."),
    (
        "fleet_messages_deferred_total",
        Kind::Counter,
        "Messages beyond their device's share of a batch: not looked at, to be sent again.",
    ),
    ("fleet_messages_unknown_device_total", Kind::Counter, "Messages of devices that are not in service."),
    ("fleet_births_total", Kind::Counter, "Births taken."),
    ("fleet_heartbeats_http_total", Kind::Counter, "Heartbeats by HTTP committed."),
    ("fleet_exchange_requests_total", Kind::Counter, "HTTP exchanges of devices that were read."),
    ("fleet_exchange_messages_total", Kind::Counter, "Messages in them."),
    ("fleet_ingest_failures_total", Kind::Counter, "Batches of a device that the database did not take."),
    ("fleet_worker_runs_total", Kind::Counter, "Runs of a worker that did their step."),
    ("fleet_worker_failures_total", Kind::Counter, "Runs of a worker that failed."),
    ("fleet_worker_last_run_seconds", Kind::Gauge, "When a worker last finished, seconds since 1970."),
    ("fleet_devices_turned_offline_total", Kind::Counter, "Devices that went silent or were lost."),
    ("fleet_views_published_total", Kind::Counter, "Views of devices written to the broker."),
    (
        "fleet_presence_rewritten_total",
        Kind::Counter,
        "Retained presences that disagreed with the last birth.",
    ),
    ("fleet_commands_sent_total", Kind::Counter, "Commands sent to devices for the first time."),
    (
        "fleet_commands_repeated_total",
        Kind::Counter,
        "Messages about commands sent to devices again, by kind: run, cancel, query, override, go.",
    ),
    ("fleet_commands_expired_total", Kind::Counter, "Commands that expired before they were sent."),
    (
        "fleet_commands_given_up_total",
        Kind::Counter,
        "Commands whose end the server inferred: nobody can tell it any more.",
    ),
    (
        "fleet_command_reports_foreign_total",
        Kind::Counter,
        "Reports of devices about another device's command; they move nothing.",
    ),
    (
        "fleet_command_reports_unknown_total",
        Kind::Counter,
        "Reports about commands that this database does not have.",
    ),
    (
        "fleet_command_reports_refused_total",
        Kind::Counter,
        "Reports that contradict what is known; they move nothing.",
    ),
    ("fleet_desired_published_total", Kind::Counter, "Desired states published to devices."),
    ("fleet_leases_granted_total", Kind::Counter, "Redundancy leases given."),
    ("fleet_results_published_total", Kind::Counter, "Results published to operators."),
    (
        "fleet_operator_requests_total",
        Kind::Counter,
        "Command requests of operators over MQTT, by what became of them.",
    ),
    ("fleet_http_requests_total", Kind::Counter, "HTTP requests answered, by class of status."),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Counter,
    Gauge,
}

type Key = (&'static str, Option<(&'static str, &'static str)>);

/// Gives numbers that are counted elsewhere: name, whether it is a gauge, value.
pub type Source = Box<dyn Fn() -> Vec<(&'static str, bool, u64)> + Send + Sync>;

/// The process's metrics; clones share them.
#[derive(Clone, Default)]
pub struct Metrics {
    values: Arc<Mutex<BTreeMap<Key, u64>>>,
    sources: Arc<Mutex<Vec<(&'static str, Source)>>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Adds to a counter.
    pub fn add(&self, name: &'static str, more: u64) {
        self.change((name, None), |value| *value += more, more > 0);
    }

    /// Adds to the counter with this label.
    pub fn add_labelled(&self, name: &'static str, label: &'static str, value: &'static str, more: u64) {
        self.change((name, Some((label, value))), |sum| *sum += more, more > 0);
    }

    /// Sets the gauge with this label.
    pub fn set_labelled(&self, name: &'static str, label: &'static str, value: &'static str, to: u64) {
        self.change((name, Some((label, value))), |gauge| *gauge = to, true);
    }

    fn change(&self, key: Key, change: impl FnOnce(&mut u64), needed: bool) {
        if needed {
            let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
            change(values.entry(key).or_default());
        }
    }

    /// Shows what `source` gives as well, each name behind `prefix`.
    pub fn add_source(&self, prefix: &'static str, source: Source) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push((prefix, source));
    }

    /// A counter's value, all labels together.
    #[must_use]
    pub fn total(&self, name: &str) -> u64 {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.iter().filter(|(key, _)| key.0 == name).map(|(_, value)| value).sum()
    }

    /// All of it in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        for (name, kind, help) in HELP {
            let kind = if *kind == Kind::Counter { "counter" } else { "gauge" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            let mut any = false;
            for ((_, label), value) in values.iter().filter(|(key, _)| key.0 == *name) {
                any = true;
                let _ = match label {
                    Some((label, of)) => writeln!(text, "{name}{{{label}=\"{of}\"}} {value}"),
                    None => writeln!(text, "{name} {value}"),
                };
            }
            if !any && kind == "counter" {
                let _ = writeln!(text, "{name} 0");
            }
        }
        for (prefix, source) in self.sources.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (name, is_gauge, value) in source() {
                let (kind, end) = if is_gauge { ("gauge", "") } else { ("counter", "_total") };
                let _ = writeln!(text, "# TYPE {prefix}{name}{end} {kind}\n{prefix}{name}{end} {value}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_with_their_labels_and_untouched_ones_as_zero() {
        let metrics = Metrics::default();
        metrics.add("fleet_births_total", 2);
        metrics.add_labelled("fleet_records_stored_total", "kind", "heartbeat", 3);
        metrics.add_labelled("fleet_records_stored_total", "kind", "event", 1);
        let text = metrics.render();
        assert!(text.contains("fleet_births_total 2\n"));
        assert!(text.contains("fleet_records_stored_total{kind=\"heartbeat\"} 3\n"));
        assert!(text.contains("fleet_records_poison_total 0\n"));
        assert_eq!(metrics.total("fleet_records_stored_total"), 4);
    }
}
