//! What the server wants of this device: config, show locks, redundancy group. Applied when its version is higher than
//! the last one, kept on disk, and answered by what is in force then.
//!
//! A server that does not know this device's past (the device was enrolled anew, or the server was restored from a
//! backup) begins with low versions. One with other content than the device has under that number is applied as well; a
//! lower one is answered with the version that the device has, and the server goes past it.

use std::time::Duration;

use protocol::codec::{self, limit};
use protocol::message::{Desired, Reported};

use super::agent::Agent;
use crate::command::Wanted;
use crate::config::Config;
use crate::effect;
use crate::failpoint;
use crate::state::Kept;

/// Locks that are looked at; a server sends a few.
const LOCKS_MAX: usize = 1_000;
/// After a wish that could not be stored.
const RETRY: Duration = Duration::from_secs(30);
/// Longest value in a report that would be too large otherwise, in bytes.
const VALUE_SHOWN_MAX_LEN: usize = 200;

/// What commands depend on.
pub(super) fn wanted(desired: Option<&Desired>) -> Wanted {
    desired.map_or_else(Wanted::default, |desired| Wanted {
        version: desired.version,
        show_locks: desired.show_locks.clone(),
        redundancy_group: desired.redundancy_group.clone(),
    })
}

impl Agent {
    /// Takes in what the server wants, if that is news.
    pub(super) async fn desired(&mut self, payload: &[u8]) {
        let desired: Desired = match codec::decode(payload, limit::COMMAND_BYTES) {
            Ok(desired) => desired,
            Err(error) => return tracing::warn!(%error, "what the server wants cannot be read"),
        };
        let Some(store) = &self.folder.store else { return };
        let has = store.wanted.version;
        if desired.version < has {
            tracing::info!(
                version = desired.version,
                has,
                "the server's wishes are older than ours; it is told"
            );
            return self.report_version().await;
        }
        if desired.version == has && store.kept.desired.as_ref().is_none_or(|kept| *kept == desired) {
            return;
        }
        if desired.show_locks.len() > LOCKS_MAX {
            return tracing::warn!(
                locks = desired.show_locks.len(),
                "what the server wants has too many locks"
            );
        }
        failpoint::reached(failpoint::DESIRED_CAME);
        let (config, changes) = (self.config.clone(), desired.config.clone());
        // It writes a file.
        let applied = tokio::task::spawn_blocking(move || effect::apply_config(&changes, &config)).await;
        let errors = match applied {
            Ok(errors) => errors,
            // It comes again with the next birth.
            Err(error) => return tracing::error!(%error, "what the server wants was not applied"),
        };
        for (key, problem) in &errors {
            tracing::warn!(key, problem, "a key that the server wants cannot be set");
        }
        tracing::info!(
            version = desired.version,
            locks = desired.show_locks.len(),
            "the server's wishes have changed"
        );
        self.read_config_again();
        let ts_ms = self.kernel.wall_ms();
        let reported = fitting(Reported { errors, ..report(&self.config, desired.version, ts_ms) });
        let Some(store) = &mut self.folder.store else { return };
        let kept = Kept { desired: Some(desired), reported: Some(reported) };
        let kept = store.keep_desired(kept, true, ts_ms).await;
        // The server says it again only with the next birth.
        self.desired_again = kept.is_err().then(|| (self.now() + RETRY, payload.to_vec()));
        self.kept(kept);
        self.reporter.touch();
    }

    /// Reports once more which version the device has.
    async fn report_version(&mut self) {
        let ts_ms = self.kernel.wall_ms();
        let Some(store) = &mut self.folder.store else { return };
        let now = fitting(report(&self.config, store.wanted.version, ts_ms));
        let before = store.kept.reported.as_ref();
        let errors = before.map(|before| before.errors.clone()).unwrap_or_default();
        let kept =
            Kept { desired: store.kept.desired.clone(), reported: Some(fitting(Reported { errors, ..now })) };
        let kept = store.keep_desired(kept, true, ts_ms).await;
        self.kept(kept);
    }

    /// Reports the config in force, if it is another one than was reported last.
    pub(super) async fn report_config(&mut self) {
        let ts_ms = self.kernel.wall_ms();
        let Some(store) = &mut self.folder.store else { return };
        let now = fitting(report(&self.config, store.wanted.version, ts_ms));
        let before = store.kept.reported.as_ref();
        let same_version = before.is_some_and(|before| before.desired_version == now.desired_version);
        if same_version && before.is_some_and(|before| before.config == now.config) {
            return;
        }
        // What could not be set then still cannot.
        let errors = before.filter(|_| same_version).map(|before| before.errors.clone()).unwrap_or_default();
        let kept =
            Kept { desired: store.kept.desired.clone(), reported: Some(fitting(Reported { errors, ..now })) };
        let kept = store.keep_desired(kept, true, ts_ms).await;
        self.kept(kept);
    }
}

/// Makes a report fit into a message: long values are cut, and if that is not enough nothing but the version is left.
fn fitting(mut reported: Reported) -> Reported {
    let fits = |reported: &Reported| {
        codec::encode_packed(reported).is_ok_and(|bytes| bytes.len() + 64 <= limit::COMMAND_BYTES)
    };
    if fits(&reported) {
        return reported;
    }
    for text in reported.config.values_mut().chain(reported.errors.values_mut()) {
        if text.len() > VALUE_SHOWN_MAX_LEN {
            text.truncate(text.floor_char_boundary(VALUE_SHOWN_MAX_LEN));
            text.push('…');
        }
    }
    if !fits(&reported) {
        reported.config.clear();
        reported.errors = [("fleet.conf".to_owned(), "it is too large to be reported".to_owned())].into();
    }
    reported
}

fn report(config: &Config, desired_version: u64, ts_ms: i64) -> Reported {
    Reported {
        seq: 0,
        connection: 0,
        ts: ts_ms,
        desired_version,
        config: config.in_force.clone(),
        errors: std::collections::BTreeMap::new(),
    }
}
