#![allow(clippy::unwrap_used)]
use std::borrow::Cow;
use std::collections::HashSet;

use proptest::prelude::*;

use super::state::{Incoming, Next, Offer, Received, SessionState, Subscription};
use crate::account::{Account, Share};
use crate::message::{Draft, Message};

fn message(topic: &str, payload: &str, qos: u8, origin: u64) -> Message {
    let draft = Draft {
        topic,
        properties: &[],
        payload: payload.as_bytes(),
        qos,
        retain: false,
        expiry_seconds: None,
    };
    Message::new(&draft, origin, 0, [0, 0])
}

fn subscription(filter: &str, qos: u8) -> Subscription {
    Subscription { filter: filter.into(), qos, no_local: false, retain_as_published: false }
}

fn new(id: u64, keeps: bool, limit_bytes: usize) -> SessionState {
    SessionState::new(id, keeps, limit_bytes, Share::of(None, 0))
}

fn session(filter: &str, qos: u8) -> SessionState {
    let mut state = new(1, true, 1 << 20);
    assert!(state.subscribe(subscription(filter, qos)));
    state
}

/// A client's answers and losses.
#[derive(Clone, Debug)]
enum Step {
    Offer {
        qos: u8,
    },
    Send,
    /// Acknowledge the nth of what is unacknowledged, in any order.
    Acknowledge {
        nth: usize,
    },
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3).prop_map(|qos| Step::Offer { qos }),
        4 => Just(Step::Send),
        3 => (0usize..8).prop_map(|nth| Step::Acknowledge { nth }),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    #[test]
    fn every_message_of_qos_1_and_2_arrives_over_any_acknowledgements_and_reconnects(
        steps in prop::collection::vec(step(), 1..120),
        window in 1usize..5,
    ) {
        let mut state = session("t", 2);
        let mut wanted = Vec::new();
        let mut arrived = Vec::new();
        // What the client has to answer: id, QoS, released.
        let mut open: Vec<(u16, u8, bool)> = Vec::new();
        let mut seen_qos2: HashSet<u16> = HashSet::new();
        let all = steps.into_iter().map(Some).chain(std::iter::repeat_n(None, 2000));
        for (n, step) in all.enumerate() {
            // At the end everything is sent and acknowledged.
            let step = step.unwrap_or(if n % 2 == 0 { Step::Send } else { Step::Acknowledge { nth: 0 } });
            match step {
                Step::Offer { qos } => {
                    let payload = n.to_string();
                    prop_assert_eq!(state.offer(Cow::Borrowed(&message("t", &payload, qos, 9)), true), Offer::Queued);
                    if qos > 0 { wanted.push((payload, qos)); }
                }
                Step::Send => match state.next(window) {
                    Some(Next::Publish { message, qos, packet_id, dup, .. }) if qos > 0 => {
                        let payload = String::from_utf8(message.payload().to_vec()).unwrap();
                        let again = qos == 2 && dup && seen_qos2.contains(&packet_id);
                        if qos == 2 { seen_qos2.insert(packet_id); }
                        if !again { arrived.push((payload, qos)); }
                        prop_assert!(open.iter().all(|(id, ..)| *id != packet_id), "an id in use");
                        open.push((packet_id, qos, false));
                        prop_assert!(open.len() <= window);
                    }
                    Some(Next::Release { packet_id }) => {
                        open.retain(|(id, ..)| *id != packet_id);
                        open.push((packet_id, 2, true));
                    }
                    _ => {}
                },
                Step::Acknowledge { nth } => {
                    if open.is_empty() { continue; }
                    let at = nth % open.len();
                    let (id, qos, released) = open[at];
                    if qos == 1 {
                        state.acknowledged(id);
                        open.remove(at);
                    } else if released {
                        state.completed(id);
                        seen_qos2.remove(&id);
                        open.remove(at);
                    } else {
                        prop_assert_eq!(state.received(id, false), Received::Release);
                        open[at].2 = true;
                    }
                }
                Step::Reconnect => {
                    state.detach();
                    state.resume(|_| true);
                    open.clear();
                }
            }
        }
        prop_assert!(state.next(window).is_none(), "nothing is left");
        for (payload, qos) in &wanted {
            let times = arrived.iter().filter(|(p, _)| p == payload).count();
            prop_assert!(times >= 1, "{} is missing", payload);
            if *qos == 2 { prop_assert_eq!(times, 1); }
        }
    }
}

#[test]
fn several_matching_subscriptions_give_one_delivery_with_the_best_qos() {
    let mut state = session("a/+", 0);
    assert!(state.subscribe(subscription("a/#", 1)));
    assert_eq!(state.offer(Cow::Borrowed(&message("a/b", "x", 2, 9)), true), Offer::Queued);
    assert!(matches!(state.next(9), Some(Next::Publish { qos: 1, .. })));
    assert_eq!(state.next(9), None);
}

#[test]
fn no_local_holds_back_what_the_client_published_itself() {
    let mut state = new(7, false, 1 << 20);
    assert!(state.subscribe(Subscription { no_local: true, ..subscription("#", 0) }));
    assert_eq!(state.offer(Cow::Borrowed(&message("t", "own", 0, 7)), true), Offer::NotWanted);
    assert_eq!(state.offer(Cow::Borrowed(&message("t", "other", 0, 8)), true), Offer::Queued);
}

#[test]
fn a_full_queue_says_so_and_has_room_again_when_it_drains() {
    let mut state = new(1, false, 1_000);
    assert!(state.subscribe(subscription("t", 0)));
    let big = message("t", &"x".repeat(1_000), 0, 9);
    assert_eq!(state.offer(Cow::Borrowed(&big), true), Offer::Queued);
    assert_eq!(state.offer(Cow::Borrowed(&big), true), Offer::Full);
    assert!(!state.has_room());
    assert!(state.next(1).is_some());
    assert!(state.has_room());
}

#[test]
fn an_absent_client_gets_no_qos_0() {
    let mut state = session("t", 1);
    state.offer(Cow::Borrowed(&message("t", "before", 0, 9)), true);
    state.detach();
    assert_eq!(state.offer(Cow::Borrowed(&message("t", "lost", 0, 9)), false), Offer::NotWanted);
    assert_eq!(state.offer(Cow::Borrowed(&message("t", "kept", 1, 9)), false), Offer::Queued);
    state.resume(|_| true);
    let Some(Next::Publish { message, .. }) = state.next(1) else { panic!("a message") };
    assert_eq!(&message.payload()[..], b"kept");
    assert_eq!(state.next(1), None);
}

#[test]
fn what_a_client_may_no_longer_see_is_dropped_when_it_comes_back() {
    let mut state = session("secret", 1);
    assert!(state.subscribe(subscription("open", 1)));
    for topic in ["secret", "open", "secret"] {
        state.offer(Cow::Borrowed(&message(topic, topic, 1, 9)), true);
    }
    assert!(state.next(1).is_some(), "one is on its way");
    state.detach();
    state.resume(|filter| filter == "open");
    let Some(Next::Publish { message, .. }) = state.next(9) else { panic!("a message") };
    assert_eq!(message.topic(), "open");
    assert_eq!(state.next(9), None);
    assert_eq!(state.subscription_count(), 1);
}

#[test]
fn a_repeated_qos_2_publish_counts_once_until_it_is_released() {
    let mut state = session("t", 0);
    assert_eq!(state.incoming(5, 2), Incoming::First);
    assert_eq!(state.incoming(5, 2), Incoming::Repeated);
    assert_eq!(state.incoming(6, 2), Incoming::First);
    assert_eq!(state.incoming(7, 2), Incoming::TooMany);
    assert!(state.release(5) && !state.release(5));
    assert_eq!(state.incoming(5, 2), Incoming::First);
}

#[test]
fn acknowledgements_of_nothing_change_nothing() {
    let mut state = session("t", 2);
    state.acknowledged(3);
    state.completed(3);
    assert_eq!(state.received(3, false), Received::Unknown);
    state.offer(Cow::Borrowed(&message("t", "x", 2, 9)), true);
    let Some(Next::Publish { packet_id, .. }) = state.next(1) else { panic!("a message") };
    state.completed(packet_id);
    assert_eq!(state.received(packet_id, false), Received::Release, "PUBCOMP before PUBREC is not believed");
}

#[test]
fn a_message_that_is_never_acknowledged_keeps_its_identifier_while_the_others_go_round() {
    let mut state = session("t", 1);
    let send = |state: &mut SessionState| {
        assert_eq!(state.offer(Cow::Borrowed(&message("t", "x", 1, 9)), true), Offer::Queued);
        let Some(Next::Publish { packet_id, .. }) = state.next(3) else { panic!("a message") };
        packet_id
    };
    let first = send(&mut state);
    let mut seen = HashSet::from([first]);
    for _ in 1..u32::from(u16::MAX) {
        let id = send(&mut state);
        assert!(id != 0 && seen.insert(id), "{id} is in use or was used a moment ago");
        state.acknowledged(id);
    }
    // All are used up but the first one's, which is skipped from now on; order of the answers does not matter.
    for _ in 0..3 {
        let (a, b) = (send(&mut state), send(&mut state));
        assert!(a != b && a != first && b != first);
        state.acknowledged(b);
        state.acknowledged(a);
    }
    state.acknowledged(first);
    state.detach();
    state.resume(|_| true);
    assert_eq!(state.next(3), None, "everything was acknowledged");
}

#[test]
fn what_is_kept_for_the_next_connection_is_bounded_by_bytes() {
    let mut state = new(1, true, 10_000);
    assert!(state.subscribe(subscription("t", 1)));
    let big = message("t", &"x".repeat(6_000), 1, 9);
    let mut sent = Vec::new();
    for _ in 0..4 {
        state.offer(Cow::Borrowed(&big), true);
        if let Some(Next::Publish { packet_id, .. }) = state.next(1_000) {
            sent.push(packet_id);
        }
    }
    assert_eq!(sent.len(), 2, "the second one is more than fits, the third waits");
    state.acknowledged(sent[1]);
    assert!(matches!(state.next(1_000), Some(Next::Publish { .. })));
    // A session that ends with its connection keeps nothing, and waits for nothing.
    let mut state = new(1, false, 10_000);
    assert!(state.subscribe(subscription("t", 1)));
    for _ in 0..4 {
        state.offer(Cow::Borrowed(&big), true);
        assert!(matches!(state.next(1_000), Some(Next::Publish { .. })));
    }
}

/// Offers a message as the pump does for a client that is not waited for; how many had to leave.
fn offer(state: &mut SessionState, message: &Message) -> u64 {
    match state.offer(Cow::Borrowed(message), true) {
        Offer::Queued | Offer::NotWanted => 0,
        Offer::Full | Offer::NoRoom => state.offer_and_drop(message, true),
    }
}

/// What is queued, in its order: topic and payload.
fn queued(state: &mut SessionState) -> Vec<(String, String)> {
    std::iter::from_fn(|| match state.next(usize::MAX)? {
        Next::Publish { message, .. } => {
            Some((message.topic().to_owned(), String::from_utf8_lossy(&message.payload()).into_owned()))
        }
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn where_there_is_no_room_the_oldest_of_the_topics_with_most_leave_and_who_says_little_is_heard() {
    let mut state = new(1, false, 100_000);
    assert!(state.subscribe(subscription("#", 1)));
    let mut dropped = 0;
    for number in 1..=10_000 {
        let number = number.to_string();
        let mut say = |topic: &str| dropped += offer(&mut state, &message(topic, &number, 1, 9));
        say("loud");
        say("louder");
        say("louder");
        if number.ends_with("000") {
            say("quiet");
        }
    }
    let left = queued(&mut state);
    assert_eq!(dropped as usize + left.len(), 30_010);
    let of = |wanted: &str| -> Vec<u32> {
        left.iter().filter(|(topic, _)| topic == wanted).map(|(_, number)| number.parse().unwrap()).collect()
    };
    assert_eq!(of("quiet"), (1..=10).map(|n| n * 1_000).collect::<Vec<u32>>());
    for topic in ["loud", "louder"] {
        let numbers = of(topic);
        assert!(numbers.len() > 150 && numbers.is_sorted());
        assert_eq!(numbers.last(), Some(&10_000), "the newest stay");
    }
}

#[test]
fn what_a_session_holds_is_counted_exactly_whatever_becomes_of_it() {
    let account = Account::new(1_000_000);
    let mut state = SessionState::new(1, true, 20_000, Share::of(Some(account.clone()), 0));
    assert!(state.subscribe(subscription("t/+", 2)));
    let empty = account.taken();
    let mut sent = Vec::new();
    for round in 0..500u32 {
        let topic = format!("t/{}", round % 7);
        offer(&mut state, &message(&topic, &"x".repeat(round as usize), (round % 3) as u8, 9));
        if round % 2 == 0
            && let Some(Next::Publish { packet_id, qos, .. }) = state.next(20)
            && qos > 0
        {
            sent.push((packet_id, qos));
        }
        if round % 5 == 0
            && let Some((packet_id, qos)) = sent.pop()
        {
            state.received(packet_id, qos == 1);
            state.completed(packet_id);
        }
        if round % 100 == 99 {
            state.detach();
            state.resume(|_| true);
        }
    }
    while let Some(next) = state.next(usize::MAX) {
        let (Next::Publish { packet_id, .. } | Next::Release { packet_id }) = next;
        state.forget(packet_id);
    }
    state.resume(|_| true);
    assert_eq!(account.taken(), empty);
    state.unsubscribe("t/+");
    assert_eq!(account.taken(), 0);
}

#[test]
fn an_account_that_holds_too_much_holds_no_more_and_each_session_goes_on_with_its_own_part() {
    let account = Account::new(100_000);
    let session = || {
        let mut state = SessionState::new(1, false, 1 << 20, Share::of(Some(account.clone()), 10_000));
        assert!(state.subscribe(subscription("t", 1)));
        state
    };
    let (mut greedy, mut other) = (session(), session());
    let kilobyte = message("t", &"x".repeat(1_000), 1, 9);
    while greedy.offer(Cow::Borrowed(&kilobyte), true) == Offer::Queued {}
    assert_eq!(greedy.offer(Cow::Borrowed(&kilobyte), true), Offer::NoRoom);
    for _ in 0..8 {
        assert_eq!(other.offer(Cow::Borrowed(&kilobyte), true), Offer::Queued);
    }
    while other.offer(Cow::Borrowed(&kilobyte), true) == Offer::Queued {}
    assert_eq!(offer(&mut other, &message("t", &"x".repeat(30_000), 1, 9)), 1, "nothing leaves for it");
    assert!(offer(&mut other, &kilobyte) > 0, "the oldest leave");
    drop(greedy);
    assert_eq!(other.offer(Cow::Borrowed(&message("t", &"x".repeat(30_000), 1, 9)), true), Offer::Queued);
    drop(other);
    assert_eq!(account.taken(), 0);
}
