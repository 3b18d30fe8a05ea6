//! Requests of several people, who take turns: however many one of them sends, the others are not held up. Each person's
//! own requests are seen to one after the other, in order. Bounded. Pure.

use std::collections::{BTreeMap, VecDeque};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests of one person.
    pub each: usize,
    /// Bytes of one person's requests.
    pub each_bytes: usize,
    /// Bytes of all requests.
    pub all_bytes: usize,
}

/// What waits.
#[derive(Debug)]
pub struct Turns<K, T> {
    limits: Limits,
    people: BTreeMap<K, Person<T>>,
    /// Those who have something waiting and nothing being seen to.
    next: VecDeque<K>,
    bytes: usize,
}

#[derive(Debug)]
struct Person<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
    busy: bool,
}

impl<K: Ord + Clone, T> Turns<K, T> {
    /// Nothing waits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, people: BTreeMap::new(), next: VecDeque::new(), bytes: 0 }
    }

    /// Lets a request of so many bytes wait; gives it back if there is no room.
    ///
    /// # Errors
    /// The request.
    pub fn push(&mut self, who: K, request: T, bytes: usize) -> Result<(), T> {
        let of_person = self.people.get(&who).map_or((0, 0), |person| (person.waiting.len(), person.bytes));
        if of_person.0 >= self.limits.each
            || of_person.1 + bytes > self.limits.each_bytes
            || self.bytes + bytes > self.limits.all_bytes
        {
            return Err(request);
        }
        let person = self.people.entry(who.clone()).or_insert_with(|| Person {
            waiting: VecDeque::new(),
            bytes: 0,
            busy: false,
        });
        if person.waiting.is_empty() && !person.busy {
            self.next.push_back(who);
        }
        person.waiting.push_back((request, bytes));
        person.bytes += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// The next request; its sender has no other turn until [`Turns::done`].
    pub fn take(&mut self) -> Option<(K, T)> {
        let who = self.next.pop_front()?;
        let person = self.people.get_mut(&who)?;
        let (request, bytes) = person.waiting.pop_front()?;
        person.bytes -= bytes;
        self.bytes -= bytes;
        person.busy = true;
        Some((who, request))
    }

    /// A request that was taken has been seen to.
    pub fn done(&mut self, who: K) {
        let Some(person) = self.people.get_mut(&who) else { return };
        person.busy = false;
        if person.waiting.is_empty() {
            self.people.remove(&who);
        } else {
            self.next.push_back(who);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { each: 3, each_bytes: 100, all_bytes: 200 };

    #[test]
    fn people_take_turns_whatever_one_of_them_sends() {
        let mut turns = Turns::new(Limits { each: 100, ..LIMITS });
        for n in 0..50 {
            turns.push("flood", n, 1).unwrap();
        }
        turns.push("anna", 1000, 1).unwrap();
        turns.push("bert", 2000, 1).unwrap();
        let mut served = Vec::new();
        for _ in 0..5 {
            let (who, n) = turns.take().unwrap();
            served.push(n);
            turns.done(who);
        }
        assert_eq!(served, [0, 1000, 2000, 1, 2]);
    }

    #[test]
    fn one_persons_requests_are_seen_to_one_after_the_other() {
        let mut turns = Turns::new(LIMITS);
        turns.push("anna", 1, 1).unwrap();
        turns.push("anna", 2, 1).unwrap();
        assert_eq!(turns.take(), Some(("anna", 1)));
        assert_eq!(turns.take(), None);
        turns.done("anna");
        assert_eq!(turns.take(), Some(("anna", 2)));
    }

    #[test]
    fn what_has_no_room_is_given_back() {
        let mut turns = Turns::new(LIMITS);
        for n in 0..3 {
            turns.push("a", n, 10).unwrap();
        }
        assert_eq!(turns.push("a", 3, 10), Err(3), "too many of one");
        assert_eq!(turns.push("b", 4, 101), Err(4), "too large for one");
        turns.push("b", 5, 100).unwrap();
        turns.push("c", 6, 70).unwrap();
        assert_eq!(turns.push("d", 7, 1), Err(7), "full");
        turns.take().unwrap();
        turns.push("d", 7, 1).unwrap();
    }

    proptest! {
        #[test]
        fn everything_that_was_let_in_comes_out_once_and_in_its_senders_order(
            pushes in prop::collection::vec((0..4u8, 0..60usize, any::<bool>()), 0..100),
        ) {
            let mut turns = Turns::new(LIMITS);
            let (mut kept, mut out) = (Vec::new(), Vec::new());
            for (n, (who, bytes, take)) in pushes.into_iter().enumerate() {
                if turns.push(who, n, bytes).is_ok() {
                    kept.push((who, n));
                }
                if take && let Some((who, n)) = turns.take() {
                    out.push((who, n));
                    turns.done(who);
                }
            }
            while let Some((who, n)) = turns.take() {
                out.push((who, n));
                turns.done(who);
            }
            prop_assert_eq!(turns.bytes, 0);
            prop_assert!(turns.people.is_empty());
            for who in 0..4 {
                let of = |list: &[(u8, usize)]| list.iter().filter(|(w, _)| *w == who).copied().collect::<Vec<_>>();
                prop_assert_eq!(of(&kept), of(&out));
            }
        }
    }
}
