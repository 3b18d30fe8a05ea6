//! The messages and decisions that need no peer.

use protocol::message::event;

use crate::run::messages::{MOST_INPUTS, new_inputs, show_event};

#[test]
fn inputs_are_added_behind_the_known_ones_once_each_and_64_at_most() {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(new_inputs(&names(&["b", "a", "b"]), &names(&["a"])), ["b"]);
    let many: Vec<String> = (0..100).map(|n| format!("in{n}")).collect();
    assert_eq!(new_inputs(&many, &names(&["x"])).len(), MOST_INPUTS - 1);
}

#[test]
fn a_show_starts_when_it_is_seen_live_and_ends_only_when_it_is_seen_idle() {
    let kind = |before, now| show_event(before, now, 0).map(|event| event.kind);
    assert_eq!(kind(None, Some(true)).as_deref(), Some(event::SHOW_STARTED));
    assert_eq!(kind(Some(false), Some(true)).as_deref(), Some(event::SHOW_STARTED));
    assert_eq!(kind(Some(true), Some(false)).as_deref(), Some(event::SHOW_ENDED));
    for (before, now) in [(None, None), (None, Some(false)), (Some(true), None), (Some(true), Some(true))] {
        assert_eq!(kind(before, now), None);
    }
}
