//! The agent at work: one event loop that wires clock, database, uplink and link. Everything that decides is elsewhere
//! and pure; everything that blocks is on a thread of its own.

mod agent;
mod certificate;
mod commands;
mod desired;
mod effects;
mod hear;
mod journal;
mod means;
mod messages;
mod probe;
mod report;
mod rotation;
mod say;
mod sensors;
mod session;
mod settings;
mod store;

#[cfg(test)]
mod tests;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::kernel::{Kernel, KernelError};
use crate::lock::LockError;
use crate::service_manager::ServiceManager;

use agent::Agent;

/// Why the agent did not run. Everything that may pass by itself is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel does not answer.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Another agent uses the state folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system gives no event loop, thread or signal handler.
    #[error("cannot {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Runs until SIGTERM or SIGINT; not at all if the configuration says `FLEET_ENABLED=false`.
///
/// # Errors
/// It could not start.
pub fn run(config: Config) -> Result<(), RunError> {
    if !config.enabled {
        tracing::info!("FLEET_ENABLED is false: the agent does not run");
        return Ok(());
    }
    let kernel = Kernel::open()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { operation: "start the event loop", source })?;
    // As a task it is woken without a detour through the kernel by what runs beside it on the same thread.
    let outcome = runtime.block_on(async { tokio::spawn(main(config, kernel)).await });
    // A thread that asks a server, or a hanging disk, does not hold up the end.
    runtime.shutdown_background();
    // Nobody cancels it.
    outcome.unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()))
}

async fn main(config: Config, kernel: Kernel) -> Result<(), RunError> {
    let service = ServiceManager::from_environment();
    let mut stop = Stop::new()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut agent = Agent::start(config, kernel, service).await?;
    agent.service.ready();
    agent.turn_until(&mut stop).await;
    agent.service.stopping();
    agent.stop().await;
    Ok(())
}

/// The wish of the system or a person that the agent should end.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, RunError> {
        let listen =
            |kind| signal(kind).map_err(|source| RunError::System { operation: "listen to signals", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
