//! The three rules, as they must hold after each step.

use agent::app_status::Liveness;
use agent::command::{Entry, Write};
use agent::outbox::{Change, Kind, Outbox, Row};
use fleetd::domain::command::Command;
use protocol::codec;
use protocol::command::{CommandState, Mover};
use protocol::id::CommandId;
use protocol::message::{CommandReport, Event, Heartbeat, LogBatch, Reported};
use protocol::ranges::RangeSet;

use super::coverage::HOLDS;
use super::device::{Device, report_token};
use super::disk::{Disk, gone};
use super::env::{Env, is_within};

/// What was seen of the application counts for so long before an effect.
const LOOK_COUNTS_MS: u64 = 5_000;

/// A record leaves the device's disk only if the server has it, or had it and was restored since, or a void names it.
pub(crate) fn change(env: &mut Env, device: usize, disk: &Disk, outbox: &Outbox, change: &Change) {
    let mut named = RangeSet::new();
    for row in change.insert.iter().filter(|row| row.kind == Kind::Void) {
        named.extend(&gone(&row.body));
    }
    if !change.delete.is_empty() {
        named.extend(&disk.voided());
    }
    for row in &change.insert {
        let token = token_of_body(row);
        env.note(|| format!("device {device}: record {} of {}, {:?}", row.seq, disk.state_id, row.kind));
        let made = env.ledger.made.entry((device, disk.state_id, row.seq)).or_default();
        // The write may be refused: then the number is another record's, and this one's turn may come again.
        made.retain(|other| *other != token);
        made.push(token);
    }
    for seq in &change.delete {
        let key = (device, disk.state_id);
        let acked = !outbox.is_undelivered(*seq);
        let had = env.ledger.ever_durable.get(&key).is_some_and(|ever| ever.contains(*seq));
        let kind = disk.outbox.get(seq).map(|row| row.kind);
        if acked {
            env.count("acknowledged record made room");
            env.ledger.evicted.insert((device, disk.state_id, *seq));
            // What a void named is gone with it, if the server is restored to a time before it.
            let void = disk.outbox.get(seq).filter(|row| row.kind == Kind::Void).map(|row| gone(&row.body));
            for (lo, hi) in void.iter().flat_map(|void| void.as_slice().iter().copied()) {
                env.ledger.evicted.extend((lo..=hi).map(|named| (device, disk.state_id, named)));
            }
            env.check(had, || {
                format!("record {seq} of device {device} made room, and the server never had it")
            });
        } else {
            let may_go = matches!(kind, Some(Kind::Heartbeat | Kind::Log | Kind::Void));
            if kind != Some(Kind::Void) {
                env.count("records thinned");
            }
            env.check(may_go, || format!("record {seq} of device {device} was thinned: {kind:?}"));
            // That it is told of is checked at the end: then the server must count it.
            let told = named.contains(*seq) || kind == Some(Kind::Void) || env.bug.is_some();
            env.check(told, || format!("record {seq} of device {device} is gone, and nothing says so"));
        }
    }
}

/// A change of a command on the device: allowed, numbered, and only while it is open.
pub(crate) fn journal(env: &mut Env, device: &Device, write: &Write) {
    let entry = &write.entry;
    let before = device.disk().and_then(|disk| disk.journal.get(&entry.id)).map(|(_, before)| before);
    let trusted_ms = device.process.as_ref().and_then(|p| p.clock.now_ms(device.boottime_ms(env)));
    let says = |what: &str| format!("device {}: {} {what}", device.index, entry.id);
    match before {
        Some(before) => {
            env.check(before.state.is_open(), || {
                says(&format!("left its end {} for {}", before.state, entry.state))
            });
            let moves = before.state.may_become(entry.state, Mover::Device, false);
            let stays = before.state == entry.state;
            env.check(moves || stays, || says(&format!("moved from {} to {}", before.state, entry.state)));
            let numbered = entry.report.report_seq == before.report.report_seq + u32::from(write.says);
            env.check(numbered, || says("has a report out of turn"));
        }
        None => env.check(entry.report.report_seq == 1, || says("begins with another report than the first")),
    }
    if entry.state == CommandState::Held {
        let word = entry.report.reason.as_deref().and_then(|reason| reason.split(':').next());
        if let Some(word) = HOLDS.into_iter().find(|known| Some(*known) == word) {
            env.count(word);
        }
    }
    let was_running = before.is_some_and(|before| before.state == CommandState::Running);
    if entry.state == CommandState::Running && !was_running {
        let expires_at = entry.command.as_ref().map_or(0, |command| command.expires_at);
        let expired = trusted_ms.is_some_and(|now| now >= expires_at);
        env.check(!expired, || says("runs although it has expired"));
    }
}

/// Whether a change takes a command back from `running` before its effect.
pub(crate) fn is_held_again(device: &Device, write: &Write) -> bool {
    let before = device.disk().and_then(|disk| disk.journal.get(&write.entry.id));
    write.entry.state == CommandState::Held
        && before.is_some_and(|(_, before)| before.state == CommandState::Running)
}

/// An effect begins: everything that the contract asks for must hold now, as far as the device can know it.
pub(crate) fn begin(env: &mut Env, device: &Device, id: &CommandId) {
    let says = |what: &str| format!("device {}: {id} begins {what}", device.index);
    let (Some(disk), Some(process)) = (device.disk(), &device.process) else {
        return env.broken(|| says("without a state"));
    };
    let journalled = disk.journal.get(id);
    let is_running = journalled.is_some_and(|(_, entry)| entry.state == CommandState::Running);
    env.check(is_running, || says("and is not journalled as running"));
    let in_file = journalled.is_some_and(|(number, _)| device.folder.high >= Some(*number));
    env.check(in_file, || says("and its number is not beside the database"));
    let again =
        env.ledger.effects.get(id).is_some_and(|times| *times > 0) || env.ledger.under_way.contains_key(id);
    env.check(!again, || says("a second time"));
    let Some(entry) = process.commands.get(id) else { return env.broken(|| says("unknown")) };
    if !entry.disruptive {
        return;
    }
    disruptive(env, device, entry);
}

fn disruptive(env: &mut Env, device: &Device, entry: &Entry) {
    let (Some(disk), Some(process)) = (device.disk(), &device.process) else { return };
    let (id, now) = (&entry.id, device.boottime_ms(env));
    let says = |what: &str| format!("device {}: {id} begins {what}", device.index);
    // What the server wanted when it sent the command, and what the device has on its disk.
    let has = disk.desired.as_ref().map_or(0, |desired| desired.version);
    let sent_with = env.ledger.sent_with.get(id).copied().unwrap_or(0);
    env.check(has >= sent_with, || says("and the device may not know of a lock"));
    let Some(trusted_ms) = process.clock.now_ms(now) else {
        return env.broken(|| says("without a confirmed time"));
    };
    env.check(trusted_ms <= env.now_ms, || says("with a time ahead of the true one"));
    if entry.override_reason.is_some() {
        let asked = env.ledger.overridden.contains(id);
        env.check(asked, || says("with an override that nobody asked for"));
    } else {
        // What was heard last counts, also while the disk does not take it.
        let desired = process.desired_again.as_ref().or(disk.desired.as_ref());
        let locks = desired.iter().flat_map(|desired| &desired.show_locks);
        let locked = locks.clone().any(|lock| lock.0 <= trusted_ms && trusted_ms < lock.1);
        env.check(!locked, || says("under a show lock"));
        // The last possible look: taken after `running` was committed, and not long ago.
        let since = process.running_since.get(id).copied();
        let looked = process.seen.is_some_and(|(seen, at)| {
            seen == Liveness::Idle && since.is_some_and(|since| at >= since) && now - at <= LOOK_COUNTS_MS
        });
        env.check(looked, || says("without having seen the application idle right before"));
    }
    let open = |id: &CommandId| disk.journal.get(id).is_some_and(|(_, entry)| entry.state.is_open());
    let beside = device.going.iter().any(|going| {
        env.ledger.under_way.get(&going.id).is_some_and(|other| other.disruptive) && open(&going.id)
    });
    env.check(!beside, || says("beside another disruptive effect"));
    // One device of the redundancy group at a time. What a lost state has forgotten is nobody's to know.
    let partner = env.ledger.under_way.iter().find(|(_, other)| {
        let grouped = env.grouped[device.index] && env.grouped[other.device];
        grouped && other.disruptive && other.device != device.index
    });
    let partner = partner.map(|(other, at)| (other.clone(), at.clone()));
    if let Some((other, at)) = partner {
        let known = env.ledger.durable.contains_key(&(at.device, at.state_id))
            && env.ledger.current_state.get(&at.device) == Some(&at.state_id);
        env.check(!known, || says(&format!("while {other} disrupts device {}", at.device)));
    }
}

/// At rest, what an uplink holds for acknowledged is in the server's database, unless that was restored since.
pub(crate) fn at_rest(env: &mut Env, device: &Device) {
    let (Some(disk), Some(process)) = (device.disk(), &device.process) else { return };
    let Some(uplink) = &process.uplink else { return };
    if process.heard_restores != env.ledger.restores || !process.answered {
        return;
    }
    let empty = RangeSet::new();
    let durable = env.ledger.durable.get(&(device.index, disk.state_id)).unwrap_or(&empty);
    if !is_within(uplink.outbox().committed(), durable) {
        let (told, has) = (uplink.outbox().committed().clone(), durable.clone());
        env.broken(|| {
            format!("device {}: {told:?} is acknowledged, and the server has {has:?}", device.index)
        });
    }
}

/// A command changes at the server.
pub(crate) fn server_moves(env: &mut Env, before: Option<&Command>, after: &Command, mover: Mover) {
    let id = &after.order.id;
    let Some(before) = before else {
        return env.check(after.revision == 1, || format!("{id} is new at revision {}", after.revision));
    };
    env.check(after.revision == before.revision + 1, || format!("{id}: the revision does not rise by one"));
    let (from, to) = (before.standing, after.standing);
    let rises = to.report_seq >= from.report_seq || from.inferred;
    env.check(rises, || {
        format!("{id}: the report's number falls from {} to {}", from.report_seq, to.report_seq)
    });
    if from.state == to.state && from.inferred == to.inferred {
        return;
    }
    // What a restored server believes never sent counts as sent once it is given up.
    let forgotten = before.query_first && from.state == CommandState::Pending && mover == Mover::Inference;
    let seen_as = if forgotten { CommandState::Sent } else { from.state };
    let allowed =
        seen_as.may_become(to.state, mover, from.inferred) || (from.inferred && from.state == to.state);
    env.check(allowed, || format!("{id} moves from {} to {} by {mover:?}", from.state, to.state));
    if from.state != to.state || from.inferred {
        env.coverage.moved(from.state, to.state, mover, from.inferred);
    }
    env.note(|| format!("server: {id} is {}{}", to.state, if to.inferred { " (inferred)" } else { "" }));
}

/// What tells this record from every other; 0 for one that tells of others.
pub(crate) fn token_of_body(row: &Row) -> u64 {
    let limit = row.kind.max_record_bytes();
    let of = |ts: i64| ts.cast_unsigned();
    match row.kind {
        Kind::Heartbeat => {
            codec::decode::<Heartbeat>(&row.body, limit).map_or(0, |it| u64::from(it.outbox_depth))
        }
        Kind::Report => codec::decode::<CommandReport>(&row.body, limit).map_or(0, |it| report_token(&it)),
        Kind::Reported => codec::decode::<Reported>(&row.body, limit).map_or(0, |it| of(it.ts)),
        Kind::Log => codec::decode::<LogBatch>(&row.body, limit).map_or(0, |it| of(it.ts)),
        Kind::Event => codec::decode::<Event>(&row.body, limit).map_or(0, |it| of(it.ts)),
        Kind::Void => 0,
    }
}
