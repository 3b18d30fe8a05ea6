//! Whose turn it is: the first, by priority then age, that may run now. One that is held holds back no other.

use protocol::command::CommandState;
use protocol::id::CommandId;

use super::show_mode::{self, Facts, Hold, Lease};
use super::work::{Lane, Stage, Work};
use super::{Commands, Entry, Step, Words, Write};

impl Commands {
    /// Ends what has expired, holds what may not run, and begins with what may.
    pub(super) fn next(&mut self, facts: &Facts<'_>) -> Option<Step> {
        let mut waiting: Vec<&Entry> = self
            .open
            .values()
            .filter(|entry| entry.is_waiting() && !self.works.contains_key(&entry.id))
            .collect();
        waiting.sort_by_key(|entry| entry.command.as_ref().map(|c| (c.priority, c.created_at)));
        let mut chosen: Option<(CommandId, Lane)> = None;
        for entry in waiting {
            if !self.unrecognised
                && let Some(write) = ended_by_itself(entry, facts)
            {
                return Some(Step::Write(Box::new(write)));
            }
            if entry.delay_left_ms(facts.now).is_some() || self.unrecognised {
                continue;
            }
            if entry.disruptive
                && let Some(hold) = show_mode::hold(entry, facts, self.leases.get(&entry.id))
            {
                match self.held(entry, &hold, facts) {
                    Some(write) => return Some(Step::Write(Box::new(write))),
                    None => continue,
                }
            }
            let lane = Lane::of(entry);
            if chosen.is_none() && self.busy_with(lane).is_none() {
                chosen = Some((entry.id.clone(), lane));
            }
        }
        let (id, lane) = chosen?;
        self.works.insert(id.clone(), Work { lane, stage: Stage::Preparing });
        Some(Step::Prepare(id))
    }

    /// The change that says why it is held, if that is news. While the server does not have what was said last, the
    /// rest waits: reports of a device that is away for weeks must not fill its disk.
    pub(super) fn held(&self, entry: &Entry, hold: &Hold, facts: &Facts<'_>) -> Option<Write> {
        let quiet = entry.state == CommandState::Held && (facts.undelivered)(entry.record_seq);
        if *hold == Hold::AwaitingLease && facts.connected {
            let fresh = self.leases.get(&entry.id).is_some_and(|lease| lease.is_fresh(facts));
            if let (false, false, Some(nonce)) = (fresh, quiet, facts.nonce) {
                let words = Words { nonce: Some(nonce), ..Words::reason(hold.text()) };
                let write = entry.moved(CommandState::Held, words, facts.ts_ms);
                return Some(Write { asks: Some(Lease::asked(nonce, facts)), ..write });
            }
        }
        let news = entry.held_for() != Some(hold.word()) && !quiet;
        news.then(|| entry.moved(CommandState::Held, Words::reason(hold.text()), facts.ts_ms))
    }
}

/// The end of a command that will not run: its time is over, or what it asks for is lost.
pub(super) fn ended_by_itself(entry: &Entry, facts: &Facts<'_>) -> Option<Write> {
    let Some(command) = &entry.command else {
        let words = Words::reason("this device has lost what the command asked for");
        return Some(entry.moved(CommandState::Indeterminate, words, facts.ts_ms));
    };
    let expired = facts.trusted_ms.is_some_and(|now| now >= command.expires_at);
    expired.then(|| entry.moved(CommandState::Expired, Words::default(), facts.ts_ms))
}
