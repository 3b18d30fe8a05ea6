//! The ways to the server, from the best to the last resort, and which of them is tried next. Pure.
//!
//! The last one that worked goes first, the others in their order, each once before any comes again: so whichever works is
//! found after as many attempts as there are ways. From a lower one a better one is tried now and then, see [`Ladder::climb`].
//! What is remembered over restarts is in a file, [`Ways`].

#[cfg(test)]
mod tests;
mod ways;

pub use ways::Ways;

use crate::link::Address;

/// The ways, and what has become of them.
#[derive(Debug, Default)]
pub struct Ladder {
    /// The best first.
    rungs: Vec<Address>,
    /// The last over which the server has answered.
    good: Option<Address>,
    /// Attempts and short connections since the last good one.
    failures: usize,
    /// Before all others, once.
    first: Option<Address>,
}

impl Ladder {
    /// Says which ways there are, the best first. Those that this agent does not have are left out.
    pub fn offer(&mut self, rungs: impl IntoIterator<Item = Address>) {
        self.rungs.clear();
        for rung in rungs {
            if rung.transport().is_some() && !self.rungs.contains(&rung) {
                self.rungs.push(rung);
            }
        }
    }

    /// The last way that worked, as it was remembered.
    pub fn remember(&mut self, good: Option<Address>) {
        self.good = good;
    }

    /// The last way that worked.
    #[must_use]
    pub fn good(&self) -> Option<&Address> {
        self.good.as_ref()
    }

    /// Which way to try now.
    #[must_use]
    pub fn next(&self) -> Option<&Address> {
        if let Some(first) = &self.first {
            return Some(first);
        }
        let good = self.good.as_ref().and_then(|good| self.rungs.iter().find(|rung| *rung == good));
        let others = self.rungs.iter().filter(|rung| Some(*rung) != good);
        let count = self.rungs.len().max(1);
        good.into_iter().chain(others).nth(self.failures % count)
    }

    /// Whether every way has been tried in vain since one was good.
    #[must_use]
    pub fn has_been_around(&self) -> bool {
        self.failures >= self.rungs.len()
    }

    /// An attempt has failed, or a connection did not last. Returns whether the last good way is to be tried at once: what has
    /// failed was a better one, for which it had been left.
    pub fn failed(&mut self) -> bool {
        if self.first.take().is_some() {
            return true;
        }
        self.failures = self.failures.wrapping_add(1);
        false
    }

    /// A connection has lasted.
    pub fn lasted(&mut self) {
        self.failures = 0;
    }

    /// The server has answered over this way.
    pub fn works(&mut self, way: &Address) {
        self.first = None;
        self.good = Some(way.clone());
    }

    /// The ways that are better than this one, the best first.
    pub fn above(&self, way: &Address) -> impl Iterator<Item = &Address> {
        let place = self.rungs.iter().position(|rung| rung == way).unwrap_or(0);
        self.rungs.iter().take(place)
    }

    /// Tries this way next, whatever the others are like.
    pub fn climb(&mut self, way: Address) {
        self.first = Some(way);
    }
}
