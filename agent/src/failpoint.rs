//! Named places in the path of a command at which a test can kill the agent; see [`protocol::failpoint`]. They stand at
//! every write and every send. A test walks through [`ALL`].

pub use protocol::failpoint::reached;

use protocol::command::CommandState;

use crate::command::Write;
use crate::config::FILE_FAILPOINTS;
use crate::effect::rotation;

/// A message on the command topic has come.
pub const MESSAGE_CAME: &str = "agent.message.came";
/// The number beside the database: before, between writing and renaming, and after.
pub const HIGH_BEFORE: &str = "agent.journal-high.before";
/// See [`HIGH_BEFORE`].
pub const HIGH_WRITTEN: &str = "agent.journal-high.written";
/// See [`HIGH_BEFORE`].
pub const HIGH_AFTER: &str = "agent.journal-high.after";
/// Immediately before an effect.
pub const EFFECT_BEFORE: &str = "agent.effect.before";
/// An effect has ended, and nobody knows yet.
pub const EFFECT_AFTER: &str = "agent.effect.after";
/// The event loop has heard how an effect ended.
pub const EFFECT_HEARD: &str = "agent.effect.heard";
/// A payload of command reports: before it is handed to the link, and after.
pub const REPORT_BEFORE: &str = "agent.report.before";
/// See [`REPORT_BEFORE`].
pub const REPORT_AFTER: &str = "agent.report.after";
/// A newer `desired` has come and nothing was done about it.
pub const DESIRED_CAME: &str = "agent.desired.came";
/// Its keys are in `fleet.conf`; before and after its commit.
pub const DESIRED_BEFORE_COMMIT: &str = "agent.desired.before-commit";
/// See [`DESIRED_BEFORE_COMMIT`].
pub const DESIRED_AFTER_COMMIT: &str = "agent.desired.after-commit";

/// The two places around the commit of a journal entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journalled {
    /// Nothing is written yet.
    pub before: &'static str,
    /// The database has committed it.
    pub after: &'static str,
}

macro_rules! journalled {
    ($($state:ident $name:ident = $text:literal,)*) => {
        impl Journalled {
            $(const $name: Self = Self {
                before: concat!("agent.journal.", $text, ".before"),
                after: concat!("agent.journal.", $text, ".after"),
            };)*
            const OVERRIDE: Self =
                Self { before: "agent.journal.override.before", after: "agent.journal.override.after" };

            /// Those of a change.
            #[must_use]
            pub fn of(write: &Write) -> Self {
                if !write.says {
                    return Self::OVERRIDE;
                }
                match write.entry.state {
                    $(CommandState::$state => Self::$name,)*
                    // No entry of a journal is in these.
                    CommandState::Pending | CommandState::Sent => Self::ACKED,
                }
            }
        }

        /// Every place.
        pub const ALL: &[&str] = &[
            $(Journalled::$name.before, Journalled::$name.after,)*
            Journalled::OVERRIDE.before,
            Journalled::OVERRIDE.after,
            MESSAGE_CAME,
            HIGH_BEFORE,
            HIGH_WRITTEN,
            HIGH_AFTER,
            EFFECT_BEFORE,
            EFFECT_AFTER,
            EFFECT_HEARD,
            REPORT_BEFORE,
            REPORT_AFTER,
            DESIRED_CAME,
            DESIRED_BEFORE_COMMIT,
            DESIRED_AFTER_COMMIT,
            // Every file that an effect replaces, and the steps of a new token.
            FILE_FAILPOINTS[0],
            FILE_FAILPOINTS[1],
            FILE_FAILPOINTS[2],
            FILE_FAILPOINTS[3],
            rotation::FAILPOINTS[0],
            rotation::FAILPOINTS[1],
            rotation::FAILPOINTS[2],
            rotation::FAILPOINTS[3],
        ];
    };
}

journalled! {
    Acked ACKED = "acked",
    Held HELD = "held",
    Running RUNNING = "running",
    Completed COMPLETED = "completed",
    Failed FAILED = "failed",
    TimedOut TIMED_OUT = "timed_out",
    Indeterminate INDETERMINATE = "indeterminate",
    Rejected REJECTED = "rejected",
    Cancelled CANCELLED = "cancelled",
    Expired EXPIRED = "expired",
}
