#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn every_wait_lies_between_the_shortest_and_the_longest(randoms in prop::collection::vec(any::<u64>(), 1..200)) {
        let mut backoff = Backoff::LINK;
        for random in randoms {
            let wait = backoff.next(random);
            prop_assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(300), "{wait:?}");
        }
    }

    #[test]
    fn any_limits_and_any_number_of_attempts_do_not_overflow(
        shortest in any::<u64>(), longest in any::<u64>(), random in any::<u64>(), attempts in 0u32..200,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(shortest), Duration::from_millis(longest));
        for _ in 0..attempts {
            backoff.next(random);
        }
        prop_assert!(backoff.next(random) <= Duration::from_secs(86_400));
    }
}

#[test]
fn the_ceiling_doubles_until_it_is_the_longest_wait() {
    let mut backoff = Backoff::LINK;
    let ceilings: Vec<u64> = (0..10)
        .map(|_| {
            backoff.next(0);
            backoff.ceiling_ms() / 1000
        })
        .collect();
    assert_eq!(ceilings, [8, 16, 32, 64, 128, 256, 300, 300, 300, 300]);
    let mut from_its_start = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    from_its_start.next(0);
    assert_eq!(from_its_start.ceiling_ms(), 2000);
}

#[test]
fn after_success_waits_begin_short_again() {
    let mut backoff = Backoff::LINK;
    for _ in 0..9 {
        backoff.next(7);
    }
    backoff.reset();
    assert!(backoff.next(u64::MAX) <= Duration::from_secs(8));
}

#[test]
fn a_thousand_devices_that_lose_their_server_at_one_moment_do_not_come_back_in_one_second() {
    let mut by_second = [0; 9];
    for n in 0..1000u64 {
        let mut backoff = Backoff::LINK;
        let wait = backoff.next(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).as_secs();
        by_second[usize::try_from(wait).unwrap()] += 1;
    }
    assert!(by_second.iter().all(|devices| *devices < 200), "{by_second:?}");
}

#[test]
fn waits_are_spread_over_the_whole_span() {
    let mut seen = [false; 10];
    for n in 0..1000u64 {
        let mut backoff = Backoff::LINK;
        for _ in 0..12 {
            backoff.next(0);
        }
        let wait = backoff.next(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).as_secs();
        seen[usize::try_from(wait / 30).unwrap().min(9)] = true;
    }
    assert_eq!(seen, [true; 10]);
}
