#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// Topics of few different levels, so that filters hit.
fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab$]?", 1..5).prop_map(|levels| levels.join("/"))
}

fn filter() -> impl Strategy<Value = String> {
    (prop::collection::vec("[ab$+]?", 0..4), any::<bool>()).prop_map(|(mut levels, hash)| {
        if hash || levels.is_empty() {
            levels.push("#".into());
        }
        levels.join("/")
    })
}

/// The standard's words, one level at a time.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", f @ ..], [_, t @ ..]) => naive(f, t),
        ([a, f @ ..], [b, t @ ..]) => a == b && naive(f, t),
        _ => false,
    }
}

proptest! {
    #[test]
    fn matching_agrees_with_a_level_by_level_model(filter in filter(), topic in topic()) {
        let (f, t): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
        let hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
        prop_assert_eq!(matches(&filter, &topic), !hidden && naive(&f, &t));
    }

    #[test]
    fn filters_that_match_one_topic_overlap(a in filter(), b in filter(), topic in topic()) {
        if matches(&a, &topic) && matches(&b, &topic) {
            prop_assert!(overlap(&a, &b) && overlap(&b, &a));
        }
    }

    #[test]
    fn a_topic_begins_with_the_literal_prefix_of_its_filter(filter in filter(), topic in topic()) {
        if matches(&filter, &topic) {
            prop_assert!(topic.starts_with(literal_prefix(&filter)));
        }
    }

    #[test]
    fn any_text_is_matched_without_panic(filter in ".{0,20}", topic in ".{0,20}") {
        let _ = (matches(&filter, &topic), overlap(&filter, &topic), literal_prefix(&filter));
    }
}

#[test]
fn a_trailing_hash_matches_its_parent_too() {
    assert!(matches("a/#", "a") && matches("a/#", "a/b/c") && !matches("a/#", "ab"));
    assert!(matches("#", "a") && !matches("#", "$SYS/x") && !matches("+/x", "$SYS/x"));
}
