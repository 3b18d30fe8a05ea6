//! Sets of sequence numbers as sorted, disjoint, inclusive ranges: what is committed, what is void.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of `u64` kept as few ranges as possible. On the wire: `[[lo, hi], …]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    /// Sorted by `lo`; neighbours neither overlap nor touch.
    ranges: Vec<(u64, u64)>,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The ranges, ascending, inclusive at both ends, with gaps between them.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers are in the set; saturates.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().fold(0u64, |sum, (lo, hi)| sum.saturating_add((hi - lo).saturating_add(1)))
    }

    /// The greatest number in the set.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.ranges.last().map(|r| r.1)
    }

    /// Whether `n` is in the set.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        let after = self.ranges.partition_point(|r| r.0 <= n);
        after > 0 && self.ranges[after - 1].1 >= n
    }

    /// Adds `n`; tells whether it was new.
    pub fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        self.insert_range(n, n);
        true
    }

    /// Adds `lo..=hi`; nothing if `lo > hi`.
    pub fn insert_range(&mut self, lo: u64, hi: u64) {
        if lo > hi {
            return;
        }
        // Every range that overlaps or touches lo..=hi is merged into it.
        let first = self.ranges.partition_point(|r| r.1 < lo && r.1 + 1 < lo);
        let last = self.ranges.partition_point(|r| r.0 <= hi || r.0 - 1 <= hi);
        let merged = self.ranges[first..last].iter().fold((lo, hi), |m, r| (m.0.min(r.0), m.1.max(r.1)));
        self.ranges.splice(first..last, [merged]);
    }

    /// Adds every number of `other`.
    pub fn extend(&mut self, other: &Self) {
        // An insertion moves everything behind it: many at once are merged instead, which costs n log n and not n².
        const FEW: usize = 16;
        if other.ranges.len() <= FEW {
            other.ranges.iter().for_each(|&(lo, hi)| self.insert_range(lo, hi));
        } else {
            *self = self.ranges.iter().chain(&other.ranges).copied().collect();
        }
    }
}

impl FromIterator<u64> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::new();
        for n in numbers {
            set.insert(n);
        }
        set
    }
}

impl FromIterator<(u64, u64)> for RangeSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        // Sorted first, so that each insertion is at the end: hostile input costs n log n, not n².
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut set = Self::new();
        for (lo, hi) in sorted {
            set.insert_range(lo, hi);
        }
        set
    }
}

impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.ranges.serialize(s)
    }
}

impl<'de> Deserialize<'de> for RangeSet {
    /// Takes any list of pairs: unsorted and overlapping ones are merged, `lo > hi` is an error.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(u64, u64)>::deserialize(d)?;
        if let Some((lo, hi)) = pairs.iter().find(|(lo, hi)| lo > hi) {
            return Err(serde::de::Error::custom(format!("range [{lo}, {hi}] ends before it begins")));
        }
        Ok(pairs.into_iter().collect())
    }
}
