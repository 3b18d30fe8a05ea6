#![allow(clippy::unwrap_used)]
use std::collections::VecDeque;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::message::Draft;
use crate::principal::Principal;

const ACME: &str = "fleet/v1/acme/device/cam-1/heartbeat";
const OTHER: &str = "fleet/v1/other/device/cam-1/heartbeat";

fn services() -> Scope {
    Scope::All
}

fn people() -> Scope {
    let device = |org: &str| Principal::Device {
        org: OrgSlug::new(org).unwrap(),
        device: protocol::id::DeviceId::new("cam-1").unwrap(),
        credential: None,
    };
    Scope::of(&device("acme"))
}

fn route(logs: &Logs, topic: &str) -> Route {
    logs.route(topic.parse().ok().as_ref())
}

fn reader(logs: &Logs, scope: &Scope) -> Readers {
    let mut readers = Readers::default();
    readers.join(logs, scope, Kinds::default().with(Kind::Heartbeat), 1);
    readers.confirm(1);
    readers
}

fn message(bytes: usize, places: Places) -> Message {
    let draft =
        Draft { topic: ACME, properties: &[], payload: &[], qos: 1, retain: false, expiry_seconds: None };
    let payload = vec![0; bytes - draft.len()];
    Message::new(&Draft { payload: &payload, ..draft }, 1, 0, places)
}

/// A reader takes a message that has these places.
fn take(readers: &mut Readers, places: Places) {
    for channel in readers.channels() {
        readers.took(&Bytes::from(channel), None, &message(100, places));
    }
    readers.settle();
}

/// Messages of 10 kB until there is no room.
fn fill(route: &Route) -> Vec<Places> {
    std::iter::from_fn(|| route.try_enter(10_000)).collect()
}

#[test]
fn what_nobody_reads_goes_nowhere_and_needs_no_room() {
    let logs = Logs::new();
    let of_acme = route(&logs, ACME);
    assert!(of_acme.is_empty() && logs.is_current(&of_acme));
    for _ in 0..10_000 {
        assert_eq!(of_acme.try_enter(10_000), Some([0, 0]));
    }
    let person = reader(&logs, &people());
    assert!(!logs.is_current(&of_acme), "somebody reads it now");
    assert!(!route(&logs, ACME).is_empty() && route(&logs, OTHER).is_empty());
    drop(person);
    assert!(route(&logs, ACME).is_empty());
}

#[test]
fn who_publishes_waits_until_all_readers_have_taken_what_is_in_the_log_and_in_the_order_of_asking() {
    let logs = Logs::new();
    let mut readers = [reader(&logs, &services()), reader(&logs, &services())];
    let of_acme = route(&logs, ACME);
    let places = fill(&of_acme);
    assert_eq!(places.len(), SERVICE_SEGMENT_BYTES * ROOM_SEGMENTS / 10_064);
    let mut waiting: VecDeque<_> = (0..3).map(|_| Box::pin(of_acme.clone().reserve(10_000))).collect();
    assert!(waiting.iter_mut().all(|waits| waits.as_mut().now_or_never().is_none()));
    take(&mut readers[0], places[50]);
    assert!(waiting.iter_mut().all(|waits| waits.as_mut().now_or_never().is_none()), "one of two");
    take(&mut readers[1], places[0]);
    assert_eq!(of_acme.try_enter(10_000), None, "others have asked before");
    let mut room = waiting.pop_front().unwrap().now_or_never().unwrap().unwrap();
    assert!(waiting.iter_mut().all(|waits| waits.as_mut().now_or_never().is_none()));
    assert!(room.enter(&of_acme, 10_000).is_some());
    assert_eq!(room.enter(&of_acme, 10_000), None, "it was for one");
    // Who goes while it waits leaves its turn to the next; who goes without using its room leaves that.
    drop(waiting.pop_front());
    take(&mut readers[1], places[1]);
    drop(waiting.pop_front().unwrap().now_or_never().unwrap().unwrap());
    assert_eq!(of_acme.try_enter(10_000).map(|places| places[1]), Some(0));
    // A reader that leaves is not waited for.
    let [first, second] = readers;
    drop(second);
    assert_eq!(fill(&of_acme).len(), 49);
    drop(first);
}

#[test]
fn a_message_for_services_and_people_needs_room_in_the_logs_of_both() {
    let logs = Logs::new();
    let (mut service, mut person) = (reader(&logs, &services()), reader(&logs, &people()));
    let (of_acme, of_other) = (route(&logs, ACME), route(&logs, OTHER));
    let places = fill(&of_acme);
    assert_eq!(places.len(), SMALL_SEGMENT_BYTES * ROOM_SEGMENTS / 10_064, "the smaller one is full");
    let others = fill(&of_other);
    assert_eq!(places.len() + others.len(), SERVICE_SEGMENT_BYTES * ROOM_SEGMENTS / 10_064);
    take(&mut person, places[0]);
    assert_eq!(of_acme.try_enter(10_000), None, "now the larger one");
    take(&mut service, places[0]);
    let room = of_acme.clone().reserve(10_000).now_or_never().unwrap().unwrap();
    drop(room);
    assert!(of_acme.try_enter(10_000).is_some());
    // The largest message has both for itself.
    take(&mut service, others[others.len() - 1]);
    assert_eq!(of_acme.try_enter(300_000), None);
}

#[test]
fn a_reader_that_takes_nothing_is_not_waited_for_until_it_has_caught_up() {
    let logs = Logs::new();
    let (mut stuck, mut well) = (reader(&logs, &services()), reader(&logs, &services()));
    let of_acme = route(&logs, ACME);
    let first = fill(&of_acme);
    logs.forsake_stuck_readers();
    logs.forsake_stuck_readers();
    // Nobody has taken anything: nobody is waited for.
    let more: Vec<Places> = (0..1_000).map(|_| of_acme.try_enter(10_000).unwrap()).collect();
    take(&mut well, more[10]);
    assert!(of_acme.try_enter(10_000).is_some(), "it is far behind");
    take(&mut well, more[999]);
    let places = fill(&of_acme);
    assert_eq!(places.len(), first.len(), "it is waited for");
    take(&mut well, *places.last().unwrap());
    assert!(of_acme.try_enter(10_000).is_some(), "the other one is not");
    take(&mut stuck, *places.last().unwrap());
    take(&mut well, fill(&of_acme).pop().unwrap());
    assert_eq!(of_acme.try_enter(10_000), None, "now both are");
    logs.close();
    assert!(matches!(of_acme.reserve(10_000).now_or_never(), Some(Err(RouterGone))));
}

#[test]
fn what_cannot_wait_takes_its_room_from_what_comes_after_it() {
    let logs = Logs::new();
    let mut service = reader(&logs, &services());
    let of_acme = route(&logs, ACME);
    let count = fill(&of_acme).len();
    let entered: Vec<_> = (0..count / 2).map(|_| of_acme.enter_at_once(10_000)).collect();
    take(&mut service, *entered.last().unwrap());
    assert_eq!(fill(&of_acme).len(), count);
}

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(usize),
    /// The reader takes so many of the messages that are in the log for it.
    Take(usize, usize),
    Enter(usize),
    EnterAtOnce(usize),
    Forsake,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Join),
        1 => (0usize..4).prop_map(Step::Leave),
        6 => (0usize..4, 1usize..40).prop_map(|(who, count)| Step::Take(who, count)),
        8 => (150usize..60_000).prop_map(Step::Enter),
        1 => (150usize..60_000).prop_map(Step::EnterAtOnce),
        1 => Just(Step::Forsake),
    ]
}

proptest! {
    #[test]
    fn no_awaited_reader_misses_anything_and_no_room_is_lost(steps in prop::collection::vec(step(), 1..300)) {
        let logs = Logs::new();
        let size = (SMALL_SEGMENT_BYTES * ROOM_SEGMENTS) as u64;
        // Each with the places of the messages that it has still to take.
        let mut readers: Vec<(Readers, VecDeque<Places>)> = Vec::new();
        let (mut at_once, mut forsaken) = (0, false);
        for step in steps {
            let of_acme = route(&logs, ACME);
            match step {
                Step::Join if readers.len() < 4 => readers.push((reader(&logs, &people()), VecDeque::new())),
                Step::Leave(who) if who < readers.len() => drop(readers.remove(who)),
                Step::Take(who, count) if who < readers.len() => {
                    let (reader, left) = &mut readers[who];
                    if let Some(last) = left.drain(..count.min(left.len())).next_back() {
                        take(reader, last);
                    }
                }
                Step::Enter(bytes) => {
                    if let Some(places) = of_acme.try_enter(bytes) {
                        readers.iter_mut().for_each(|(_, left)| left.push_back(places));
                    }
                }
                Step::EnterAtOnce(bytes) => {
                    at_once += bytes as u64 + 64;
                    let places = of_acme.enter_at_once(bytes);
                    readers.iter_mut().for_each(|(_, left)| left.push_back(places));
                }
                Step::Forsake => {
                    logs.forsake_stuck_readers();
                    forsaken = true;
                }
                _ => {}
            }
            for (_, left) in &readers {
                if let (Some(first), Some(last)) = (left.front(), left.back()) {
                    prop_assert!(forsaken || last[1] - first[1] <= size + at_once);
                }
            }
        }
        for (reader, left) in &mut readers {
            if let Some(last) = left.pop_back() {
                take(reader, last);
            }
        }
        // Everybody has taken everything: all the room is there, if anybody reads.
        let of_acme = route(&logs, ACME);
        if !readers.is_empty() {
            let room = of_acme.clone().reserve(size as usize).now_or_never();
            prop_assert!(room.is_some_and(|room| room.is_ok()));
            prop_assert_eq!(of_acme.try_enter(size as usize).map(|places| places[0]), Some(0));
            prop_assert_eq!(of_acme.try_enter(1), None);
        }
    }
}
