//! Where a command stands at the server, and what a report of the device does to it.

use super::{CommandState, Mover};

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: CommandState,
    /// The state is an end that the server inferred.
    pub inferred: bool,
    /// The highest `report_seq` that counted; 0 while the device has said nothing.
    pub report_seq: u32,
}

/// A device's report, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The state that it reports.
    pub state: CommandState,
    /// Its number among the reports about this command; from 1.
    pub report_seq: u32,
    /// It comes from the state database that the command was sent to.
    pub same_state_database: bool,
}

/// What a report means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The command is in another state now.
    Moved(Standing),
    /// The state is the same; progress, reason or nonce may be new.
    Progress(Standing),
    /// A step of the past that was overtaken: it belongs into the history and changes nothing.
    Late,
    /// Nothing new.
    Known,
    /// It contradicts what is known; why. Nothing changes.
    Refused(&'static str),
}

impl Standing {
    /// A command that was never sent.
    pub const PENDING: Self = Self { state: CommandState::Pending, inferred: false, report_seq: 0 };

    /// Takes a report in. Any order, loss and repetition of a device's reports leads to the same end, once its last
    /// one has come.
    #[must_use]
    pub fn report(self, told: Told) -> Heard {
        use CommandState as S;
        if told.report_seq == 0 || matches!(told.state, S::Pending | S::Sent) {
            return Heard::Refused("no device reports that");
        }
        // A database that never had the command can only say so: that tells nothing of what another one did.
        if !told.same_state_database && matches!(told.state, S::Rejected | S::Cancelled | S::Indeterminate) {
            return Heard::Refused("it comes from a state database that never had the command");
        }
        let next = Self { state: told.state, inferred: false, report_seq: told.report_seq };
        if self.inferred {
            // Whatever number it has: the device's own end counts more than a guess.
            return if self.state.may_become(told.state, Mover::Device, true) {
                Heard::Moved(next)
            } else {
                Heard::Late
            };
        }
        if told.report_seq <= self.report_seq {
            return match (told.report_seq == self.report_seq, told.state == self.state) {
                (true, true) => Heard::Known,
                (true, false) => Heard::Refused("two reports with one number"),
                // An end is a device's last report.
                (false, _) if told.state.is_terminal() => Heard::Refused("it went on after its end"),
                (false, _) => Heard::Late,
            };
        }
        if self.state.is_terminal() {
            return Heard::Refused("the command has ended");
        }
        if told.state == self.state {
            return Heard::Progress(next);
        }
        if self.state.may_become(told.state, Mover::Device, false) {
            Heard::Moved(next)
        } else {
            Heard::Refused("the command was further already")
        }
    }

    /// The server's own move, if it may make it.
    #[must_use]
    pub fn by_server(self, next: CommandState) -> Option<Self> {
        self.state.may_become(next, Mover::Server, self.inferred).then_some(Self { state: next, ..self })
    }

    /// Gives up a command of which a restored server does not know whether it was ever sent, and whose device cannot be
    /// asked: as [`given_up`](Self::given_up), also from `pending`.
    #[must_use]
    pub fn forgotten(self) -> Option<Self> {
        match self.state {
            CommandState::Pending => {
                Some(Self { state: CommandState::Indeterminate, inferred: true, ..self })
            }
            _ => self.given_up(),
        }
    }

    /// Gives the command up: the device cannot be asked any more.
    #[must_use]
    pub fn given_up(self) -> Option<Self> {
        let next = CommandState::Indeterminate;
        self.state.may_become(next, Mover::Inference, self.inferred).then_some(Self {
            state: next,
            inferred: true,
            ..self
        })
    }
}
