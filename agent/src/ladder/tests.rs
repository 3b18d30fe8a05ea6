#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const WAYS: [&str; 4] =
    ["mqtts://f.example", "wss://f.example/mqtt", "mqtt://f.example", "https://f.example"];

fn way(n: usize) -> Address {
    match n {
        3 => Address::Exchange(WAYS[3].parse().unwrap()),
        n => Address::Broker(WAYS[n].parse().unwrap()),
    }
}

fn ladder(good: Option<usize>) -> Ladder {
    let mut ladder = Ladder::default();
    ladder.offer((0..4).map(way));
    ladder.remember(good.map(way));
    ladder
}

fn tried(ladder: &mut Ladder, times: usize) -> Vec<String> {
    (0..times)
        .map(|_| {
            let next = ladder.next().unwrap().to_string();
            assert!(!ladder.failed());
            next
        })
        .collect()
}

#[test]
fn the_ways_are_tried_from_the_best_down_and_then_again() {
    let mut all: Vec<_> = WAYS.into();
    all.push(WAYS[0]);
    assert_eq!(tried(&mut ladder(None), 5), all);
}

#[test]
fn the_last_good_one_goes_first_and_the_others_keep_their_order() {
    assert_eq!(tried(&mut ladder(Some(1)), 5), [WAYS[1], WAYS[0], WAYS[2], WAYS[3], WAYS[1]]);
    // One that is not offered any more is no way.
    let mut moved = ladder(None);
    moved.remember(Some(Address::Broker("mqtts://old.example".parse().unwrap())));
    assert_eq!(tried(&mut moved, 1), [WAYS[0]]);
}

#[test]
fn what_this_agent_does_not_have_and_what_stands_twice_is_no_rung() {
    let mut ladder = Ladder::default();
    ladder.offer([Address::Broker("ws://f.example".parse().unwrap()), way(3), way(3)]);
    assert_eq!(tried(&mut ladder, 2), [WAYS[3], WAYS[3]]);
    ladder.offer([]);
    assert!(ladder.next().is_none());
}

#[test]
fn a_better_way_that_fails_leads_back_to_the_good_one_at_once() {
    let mut ladder = ladder(Some(3));
    assert_eq!(ladder.above(&way(3)).cloned().collect::<Vec<_>>(), [way(0), way(1), way(2)]);
    assert_eq!(ladder.above(&way(0)).count(), 0);
    ladder.climb(way(1));
    assert_eq!(ladder.next(), Some(&way(1)));
    assert!(ladder.failed(), "at once");
    assert_eq!(ladder.next(), Some(&way(3)));
    ladder.climb(way(0));
    ladder.works(&way(0));
    assert_eq!((ladder.next(), ladder.good()), (Some(&way(0)), Some(&way(0))));
}

#[derive(Debug, Clone)]
enum Step {
    Fails,
    Lasts,
    Climbs(usize),
    Offered(Vec<bool>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => Just(Step::Fails),
        1 => Just(Step::Lasts),
        1 => (0..4usize).prop_map(Step::Climbs),
        1 => proptest::collection::vec(any::<bool>(), 4).prop_map(Step::Offered),
    ]
}

proptest! {
    /// From whatever state: the good one goes first, and a way that works is found in as many attempts as there are ways.
    #[test]
    fn a_working_way_is_found_before_any_is_tried_twice(steps in proptest::collection::vec(step(), 0..30), good in proptest::option::of(0..4usize), working in 0..4usize) {
        let mut ladder = ladder(good);
        for step in steps {
            match step {
                Step::Fails => { ladder.failed(); }
                Step::Lasts => ladder.lasted(),
                Step::Climbs(n) => ladder.climb(way(n)),
                Step::Offered(which) => ladder.offer((0..4).filter(|n| which[*n]).map(way)),
            }
        }
        ladder.offer((0..4).map(way));
        let mut attempts = 0;
        while ladder.next() != Some(&way(working)) {
            // A climb is one attempt more.
            attempts += usize::from(!ladder.failed());
            prop_assert!(attempts < 4);
        }
        ladder.works(&way(working));
        ladder.lasted();
        prop_assert_eq!(ladder.next(), Some(&way(working)));
    }
}
