#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::message::Draft;

fn message(topic: &str, payload: &str, expiry_seconds: Option<u32>) -> Message {
    let draft =
        Draft { topic, properties: &[], payload: payload.as_bytes(), qos: 1, retain: true, expiry_seconds };
    Message::new(&draft, 1, 0, [0, 0])
}

proptest! {
    #[test]
    fn the_store_agrees_with_a_plain_map(
        steps in prop::collection::vec(("[ab]/[abc]", "[xy]?"), 0..40),
        filter in prop::sample::select(vec!["#", "+/a", "a/#", "a/+", "b/c", "a", "b"]),
        chunk in 1usize..4,
    ) {
        let mut store = Retained::new(100, 1 << 20);
        let mut model: HashMap<String, String> = HashMap::new();
        for (topic, payload) in &steps {
            store.store(&message(topic, payload, None));
            if payload.is_empty() { model.remove(topic); } else { model.insert(topic.clone(), payload.clone()); }
        }
        let mut expected: Vec<(String, String)> =
            model.into_iter().filter(|(topic, _)| matches(filter, topic)).collect();
        expected.sort();
        // In pieces, as connections fetch them.
        let (mut got, mut after) = (Vec::new(), None::<String>);
        loop {
            let piece = store.matching(filter, after.as_deref(), chunk, 0);
            prop_assert!(piece.messages.len() <= chunk);
            got.extend(piece.messages.iter().map(|m| (m.topic().to_owned(), String::from_utf8(m.payload().to_vec()).unwrap())));
            after = piece.after;
            if after.is_none() { break; }
        }
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn a_full_store_takes_no_new_topic_and_no_more_bytes() {
    let mut store = Retained::new(2, 1 << 20);
    assert_eq!(store.store(&message("a", "1", None)), Stored::Kept);
    assert_eq!(store.store(&message("b", "1", None)), Stored::Kept);
    assert_eq!(store.store(&message("c", "1", None)), Stored::Full);
    assert_eq!(store.store(&message("b", "2", None)), Stored::Kept);
    assert_eq!(store.store(&message("a", "", None)), Stored::Cleared);
    assert_eq!(store.store(&message("c", "1", None)), Stored::Kept);
    assert_eq!(store.len(), 2);
    let mut small = Retained::new(10, 100);
    assert_eq!(small.store(&message("a", &"x".repeat(100), None)), Stored::Full);
    assert_eq!(small.bytes(), 0);
}

#[test]
fn an_expired_message_is_neither_delivered_nor_kept() {
    let mut store = Retained::new(10, 1 << 20);
    store.store(&message("a", "1", Some(5)));
    assert_eq!(store.matching("#", None, 10, 4_999).messages.len(), 1);
    assert_eq!(store.matching("#", None, 10, 5_000).messages.len(), 0);
    store.expire(5_000);
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

#[test]
fn a_search_for_what_is_not_there_ends_after_some_topics_and_goes_on_where_it_was() {
    let mut store = Retained::new(10_000, 1 << 20);
    for number in 0..2_000 {
        store.store(&message(&format!("a/{number:04}"), "1", None));
    }
    store.store(&message("a/9999/wanted", "1", None));
    let (mut after, mut pieces, mut found) = (None::<String>, 0, 0);
    loop {
        let piece = store.matching("a/+/wanted", after.as_deref(), 64, 0);
        found += piece.messages.len();
        pieces += 1;
        after = piece.after;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((pieces, found), (2_001 / LOOKED_AT + 1, 1));
}
