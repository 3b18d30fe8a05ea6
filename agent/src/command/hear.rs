//! What a message on the command topic means.

use protocol::command::limits::{PRIORITY, REMEMBERED_AFTER_EXPIRY_MS, TIMEOUT_MAX_SECONDS};
use protocol::command::payload::Payload;
use protocol::command::{CommandState, CommandType};
use protocol::id::CommandId;
use protocol::message::{Command, DeviceAction};

use super::show_mode::Facts;
use super::work::Work;
use super::{Commands, Entry, MOST_OPEN, Words, Write};

const UNRECOGNISED: &str = "the server has not recognised this state yet; it says so again";

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Commit this.
    Write(Box<Write>),
    /// A new command in order: check it against this device, then commit [`accepted`] or [`Commands::refused`].
    Check(Box<Command>, Payload),
    /// Say once more what was said of it last, if the server does not have that yet or asks for it.
    Repeat,
    /// Nothing is to be done; why.
    Nothing(&'static str),
}

/// The command that a message is about.
#[must_use]
pub fn id_of(action: &DeviceAction) -> &CommandId {
    match action {
        DeviceAction::Run(command) => &command.id,
        DeviceAction::Cancel(id) | DeviceAction::Query(id) => id,
        DeviceAction::Override(order) => &order.id,
        DeviceAction::Go(go) => &go.id,
    }
}

impl Commands {
    /// Decides. `for_this_state` says whether the message is for this state database; `known` is the journal's entry
    /// for the message's id, open or not.
    pub fn hear(
        &mut self,
        action: DeviceAction,
        for_this_state: bool,
        known: Option<&Entry>,
        facts: &Facts<'_>,
    ) -> Heard {
        match action {
            DeviceAction::Run(command) => match known {
                Some(_) => Heard::Repeat,
                None => self.run(*command, for_this_state, facts),
            },
            _ if !for_this_state => Heard::Nothing("it is for an earlier state of this device"),
            DeviceAction::Cancel(_)
                if self.may_be_older_copy(facts) && known.is_none_or(Entry::is_waiting) =>
            {
                Heard::Nothing(UNRECOGNISED)
            }
            DeviceAction::Cancel(id) => match known {
                None => write(unknown(id, CommandState::Cancelled, Words::default(), facts)),
                Some(entry) if entry.is_waiting() => {
                    write(entry.moved(CommandState::Cancelled, Words::default(), facts.ts_ms))
                }
                Some(_) => Heard::Repeat,
            },
            DeviceAction::Query(id) => match known {
                None => {
                    let words = Words::reason("this device does not know the command");
                    write(unknown(id, CommandState::Indeterminate, words, facts))
                }
                Some(_) => Heard::Repeat,
            },
            DeviceAction::Override(order) => match known {
                Some(entry) if self.has_not_begun(entry) && entry.override_reason.is_none() => {
                    let entry = Entry { override_reason: Some(order.reason), ..entry.clone() };
                    write(Write { entry, says: false, asks: None })
                }
                _ => Heard::Nothing("no such command waits without an override"),
            },
            DeviceAction::Go(go) => {
                let lease = self.leases.get_mut(&go.id);
                match lease.is_some_and(|lease| lease.go(&go.nonce.0, facts)) {
                    true => Heard::Nothing("the lease is granted"),
                    false => Heard::Nothing("no such lease is waited for any more"),
                }
            }
        }
    }

    /// Whether it waits, or is journalled as running and still before the second look: it may be held again.
    fn has_not_begun(&self, entry: &Entry) -> bool {
        entry.is_waiting() || self.works.get(&entry.id).is_some_and(Work::is_before_its_effect)
    }

    fn run(&self, command: Command, for_this_state: bool, facts: &Facts<'_>) -> Heard {
        let safe = self.open.values().filter(|entry| !entry.disruptive).count();
        if for_this_state && self.open.len() >= MOST_OPEN && safe > MOST_OPEN / 2 {
            // Safe ones are soon through.
            return Heard::Nothing(
                "too many commands wait on this device; it takes more when some have ended",
            );
        }
        match self.check(&command, for_this_state) {
            Ok(payload) => Heard::Check(Box::new(command), payload),
            Err(reason) if !for_this_state => write(rejected(command, reason, facts)),
            Err(reason) => match self.refused(command, reason, facts) {
                Some(refused) => write(refused),
                None => Heard::Nothing(UNRECOGNISED),
            },
        }
    }

    /// The change that rejects a command; none while it may have run after this copy of the state was made.
    #[must_use]
    pub fn refused(&self, command: Command, reason: String, facts: &Facts<'_>) -> Option<Write> {
        (!self.may_be_older_copy(facts)).then(|| rejected(command, reason, facts))
    }

    fn check(&self, command: &Command, for_this_state: bool) -> Result<Payload, String> {
        if !for_this_state {
            return Err("meant for an earlier state of this device".to_owned());
        }
        let kind = match command.kind.parse::<CommandType>() {
            Ok(CommandType::Update | CommandType::Bundle) | Err(_) => {
                return Err("not supported by this agent version".to_owned());
            }
            Ok(kind) => kind,
        };
        if !PRIORITY.contains(&command.priority) {
            return Err("priority: must be from 1 to 10".to_owned());
        }
        if command.timeout_seconds == 0 || command.timeout_seconds > TIMEOUT_MAX_SECONDS {
            return Err(format!("timeout_seconds: must be from 1 to {TIMEOUT_MAX_SECONDS}"));
        }
        let payload = Payload::parse(kind, &command.payload).map_err(|error| error.to_string())?;
        if self.open.len() >= MOST_OPEN {
            return Err(format!("this device has {MOST_OPEN} open commands already"));
        }
        Ok(payload)
    }
}

/// The change that takes a command in. `disruptive` and `delay_ms` are what it is on this device.
#[must_use]
pub fn accepted(command: Command, disruptive: bool, delay_ms: u64, facts: &Facts<'_>) -> Write {
    let entry = Entry { disruptive, delay_ms, ..Entry::of(command, facts.now) };
    entry.moved(CommandState::Acked, Words::default(), facts.ts_ms)
}

fn rejected(command: Command, reason: String, facts: &Facts<'_>) -> Write {
    Entry::of(command, facts.now).moved(CommandState::Rejected, Words::reason(reason), facts.ts_ms)
}

/// An entry for a command that never came, so that a copy of it that comes later does not run.
fn unknown(id: CommandId, state: CommandState, words: Words, facts: &Facts<'_>) -> Write {
    // Its expiry is not known: from now on at least as long as from any expiry. A clock that nobody has confirmed may be
    // years behind: then its number alone makes it go.
    let now_ms = facts.trusted_ms.unwrap_or(i64::MAX);
    let kept_until_ms = now_ms.saturating_add(2 * REMEMBERED_AFTER_EXPIRY_MS);
    Entry::new(id, kept_until_ms, facts.now).moved(state, words, facts.ts_ms)
}

fn write(write: Write) -> Heard {
    Heard::Write(Box::new(write))
}
