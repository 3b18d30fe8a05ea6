//! A config that changes while the agent runs.

use super::agent::Agent;
use super::probe::Probe;
use crate::config::Config;

impl Agent {
    /// Somebody may have enrolled the device since.
    pub(super) fn read_config_again(&mut self) {
        match Config::load(self.config.file.as_deref()) {
            // Another state folder needs another process.
            Ok(config) if config.state_dir == self.config.state_dir => self.use_config(config),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the configuration cannot be read again"),
        }
    }

    /// What takes effect without a restart.
    fn use_config(&mut self, config: Config) {
        crate::service_manager::set_debug(config.debug);
        if config.application() != self.config.application() {
            match Probe::start(&config, &self.kernel) {
                // What was seen was said by somebody else, or of another folder.
                Ok(probe) => {
                    let first = self.next_heartbeat.saturating_sub(self.now());
                    probe.look_at_machine_every(self.interval(), first);
                    (self.probe, self.app, self.fresh_look) = (probe, None, None);
                }
                Err(error) => tracing::error!(%error, "the application is watched as before: no thread"),
            }
        }
        let interval_changed = config.heartbeat_interval_seconds != self.config.heartbeat_interval_seconds;
        self.config = config;
        self.certificates.read_again(&self.config);
        if interval_changed {
            let first = self.next_heartbeat.saturating_sub(self.now()).min(self.interval());
            self.next_heartbeat = self.now() + first;
            self.probe.look_at_machine_every(self.interval(), first);
            // The birth says it too.
            if let Some(store) = &mut self.folder.store {
                store.uplink.birth_has_changed();
            }
        }
    }
}
