//! The places of connections before login. Pure: it tells who has to leave, somebody else ends the connection.
//!
//! A connection that has not said who it is, or was refused and has not gone yet, is open: the next one from its
//! address may have its place, that of the oldest first. So a newcomer always gets in, and whoever sends a CONNECT, which
//! makes it new again, has been answered long before its place is wanted. A check that takes long (a password that waits for its turn) has a place of another
//! kind that nobody takes away; those places being taken does not hinder who needs no long check.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// A connection's number: a later one is larger.
pub(crate) type Number = u64;

/// The address that counts as one: of IPv6 the network of 64 bits, as whoever has one address of it has all of them.
pub(crate) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// Long checks of an address for each of its open places.
const LONG_CHECKS: usize = 4;
/// A waiting CONNECT and its copies of so many bytes, or fewer, take one place for a long check.
const BYTES_A_PLACE: usize = 4096;

/// How many places a long check takes whose CONNECT has so many bytes.
pub(crate) fn weight(connect_bytes: usize) -> usize {
    1 + 2 * connect_bytes / BYTES_A_PLACE
}

/// The connections before login; `T` tells one that it has to leave.
#[derive(Debug)]
pub(crate) struct Places<T> {
    addresses: HashMap<IpAddr, Address<T>>,
    /// Open ones of an address; it may have [`LONG_CHECKS`] times as many long checks.
    per_address: usize,
    /// Of each kind in all.
    total: usize,
    open: usize,
    checked: usize,
}

#[derive(Debug)]
struct Address<T> {
    open: BTreeMap<Number, T>,
    checked: usize,
}

impl<T> Places<T> {
    /// Bounds for open places of one address, and for each kind of place in all; at least one.
    pub(crate) fn new(per_address: usize, total: usize) -> Places<T> {
        let (per_address, total) = (per_address.max(1), total.max(1));
        Places { addresses: HashMap::new(), per_address, total, open: 0, checked: 0 }
    }

    /// Takes an open place, and says who has to leave for it.
    pub(crate) fn open(&mut self, address: IpAddr, number: Number, tell: T) -> Option<T> {
        let crowded = self.addresses.get(&address).is_some_and(|entry| entry.open.len() >= self.per_address);
        let from = if crowded {
            Some(address)
        } else if self.open >= self.total {
            self.most_crowded()
        } else {
            None
        };
        let leaves = from.and_then(|from| self.close_oldest(from));
        let fresh = || Address { open: BTreeMap::new(), checked: 0 };
        self.addresses.entry(address).or_insert_with(fresh).open.insert(number, tell);
        self.open += 1;
        leaves
    }

    /// Gives an open place back, if it still was one.
    pub(crate) fn close(&mut self, address: IpAddr, number: Number) -> Option<T> {
        let entry = self.addresses.get_mut(&address)?;
        let tell = entry.open.remove(&number)?;
        self.open -= 1;
        self.forget_if_empty(address);
        Some(tell)
    }

    /// Makes an open place, if it still is one, as new as `now_number`.
    pub(crate) fn renew(&mut self, address: IpAddr, number: Number, now_number: Number) {
        if let Some(entry) = self.addresses.get_mut(&address)
            && let Some(tell) = entry.open.remove(&number)
        {
            entry.open.insert(now_number, tell);
        }
    }

    /// Takes as many places for a long check as it weighs, if there are. Heavy ones leave half of them to the others.
    pub(crate) fn check(&mut self, address: IpAddr, weight: usize) -> bool {
        let share = if weight > 1 { 2 } else { 1 };
        let of_address = self.addresses.get(&address).map_or(0, |entry| entry.checked);
        if of_address + weight > self.per_address.saturating_mul(LONG_CHECKS) / share
            || self.checked + weight > self.total / share
        {
            return false;
        }
        let fresh = || Address { open: BTreeMap::new(), checked: 0 };
        self.addresses.entry(address).or_insert_with(fresh).checked += weight;
        self.checked += weight;
        true
    }

    /// Gives the places of a long check back.
    pub(crate) fn checked(&mut self, address: IpAddr, weight: usize) {
        if let Some(entry) = self.addresses.get_mut(&address) {
            entry.checked -= weight;
            self.checked -= weight;
        }
        self.forget_if_empty(address);
    }

    /// Closes the connection that has been open longest behind the address with most, whether or not all is full.
    pub(crate) fn make_room(&mut self) -> Option<T> {
        let address = self.most_crowded()?;
        self.close_oldest(address)
    }

    fn most_crowded(&self) -> Option<IpAddr> {
        let most = self.addresses.iter().max_by_key(|(_, entry)| entry.open.len());
        most.map(|(address, _)| *address)
    }

    fn close_oldest(&mut self, address: IpAddr) -> Option<T> {
        let number = *self.addresses.get(&address)?.open.first_key_value()?.0;
        self.close(address, number)
    }

    fn forget_if_empty(&mut self, address: IpAddr) {
        if self.addresses.get(&address).is_some_and(|entry| entry.open.is_empty() && entry.checked == 0) {
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENUE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    #[test]
    fn a_newcomer_gets_the_place_of_the_one_that_is_open_longest_behind_the_same_address() {
        let mut places = Places::new(2, 100);
        assert_eq!(places.open(OTHER, 1, "elsewhere"), None);
        assert_eq!(places.open(VENUE, 2, "first"), None);
        assert_eq!(places.open(VENUE, 3, "second"), None);
        assert_eq!(places.open(VENUE, 4, "third"), Some("first"));
        assert_eq!(places.close(VENUE, 2), None, "it has left already");
        assert_eq!(places.close(VENUE, 3), Some("second"));
        assert_eq!(places.open(VENUE, 5, "fourth"), None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let of = |text: &str| site(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::9"), of("2001:db8:1:3::9"));
        assert_eq!(of("::ffff:192.0.2.7"), VENUE);
        assert_ne!(of("192.0.2.8"), VENUE);
    }

    #[test]
    fn when_all_is_full_the_address_with_most_makes_room() {
        let mut places = Places::new(10, 4);
        places.open(OTHER, 0, "lonely");
        for number in 1..4 {
            assert_eq!(places.open(VENUE, number, "crowd"), None);
        }
        assert_eq!(places.open([203, 0, 113, 1].into(), 4, "newcomer"), Some("crowd"));
        assert_eq!(places.open, 4);
    }

    #[test]
    fn room_is_made_by_the_oldest_of_the_address_with_most() {
        let mut places = Places::new(10, 100);
        places.open(OTHER, 0, "lonely");
        places.open(VENUE, 1, "first");
        places.open(VENUE, 2, "second");
        assert_eq!(places.make_room(), Some("first"));
        assert_eq!(places.open, 2);
        assert!(places.make_room().is_some() && places.make_room().is_some());
        assert_eq!(places.make_room(), None);
    }

    #[test]
    fn whoever_has_said_something_is_new_again() {
        let mut places = Places::new(2, 100);
        places.open(VENUE, 1, "said something");
        places.open(VENUE, 2, "silent");
        places.renew(VENUE, 1, 3);
        assert_eq!(places.open(VENUE, 4, "newcomer"), Some("silent"));
        assert_eq!(places.close(VENUE, 3), Some("said something"));
        places.renew(VENUE, 2, 5);
        assert_eq!(places.open, 1, "who has left is not back");
    }

    #[test]
    fn long_checks_are_bounded_and_take_no_open_place() {
        let mut places = Places::new(1, LONG_CHECKS + 1);
        assert_eq!((0..10).filter(|_| places.check(VENUE, 1)).count(), LONG_CHECKS);
        assert!(places.check(OTHER, 1) && !places.check(OTHER, 1));
        assert_eq!(places.open(VENUE, 1, "a box"), None);
        places.checked(VENUE, 1);
        assert!(places.check(OTHER, 1));
    }

    #[test]
    fn large_connects_do_not_fill_the_memory_and_leave_room_for_small_ones() {
        assert_eq!((weight(0), weight(200), weight(2048), weight(65_536)), (1, 1, 2, 33));
        let mut places = Places::<()>::new(256, 4096);
        let large = (0..1000).filter(|_| places.check(VENUE, weight(65_536))).count();
        assert_eq!(large, 256 * LONG_CHECKS / 2 / 33);
        let small = (0..1000).filter(|_| places.check(VENUE, weight(200))).count();
        assert!(small >= 256 * LONG_CHECKS / 2);
    }

    #[test]
    fn nothing_is_left_when_everybody_has_gone() {
        let mut places = Places::new(2, 100);
        for number in 0..50 {
            places.open(VENUE, number, ());
        }
        assert_eq!(places.open, 2);
        assert!(places.check(VENUE, 1));
        for number in 0..50 {
            places.close(VENUE, number);
        }
        places.checked(VENUE, 1);
        assert!(places.addresses.is_empty() && places.open == 0 && places.checked == 0);
    }
}
