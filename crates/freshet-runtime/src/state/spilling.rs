//! When the keys of an operator go to disk, and which.
//!
//! An operator keeps what it has of each key in a place. What its tables take is not given back when a
//! place is free, but used again: so the tables grow while the next growth fits into the budget, then as many keys go
//! as new ones need. Where they have outgrown it all the same, all keys go, and the tables begin anew; those that
//! rows come to are taken back one by one.

use super::{Allowance, Cold, SpillOptions};

/// Keys on disk, and the budget of those in memory.
#[derive(Debug)]
pub(crate) struct Spilling {
    pub(crate) cold: Cold,
    allowance: Allowance,
    /// The place that is looked at next.
    hand: usize,
    /// How many keys were in memory the last time.
    keys: usize,
}

/// What is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Nothing,
    /// So many places, of those that a checkpoint has.
    Some(usize),
    /// All places.
    All,
}

/// New keys that there is always room for.
const FEW: usize = 512;

/// Parts of the time to live by which files of entries are divided.
const PARTS: i64 = 16;

impl Spilling {
    /// `ttl` is the time after which keys are forgotten, where they are.
    pub(crate) fn new(options: SpillOptions, ttl: Option<i64>) -> Self {
        let allowance = Allowance::new(options);
        let span = ttl.map_or(i64::MAX, |ttl| ttl / PARTS);
        Self { cold: Cold::new(allowance.scratch(), span), allowance, hand: 0, keys: 0 }
    }

    /// What is to go of tables that take `bytes` and have `keys` and room for `room` before they grow.
    pub(crate) fn excess(&mut self, bytes: usize, keys: usize, room: usize) -> Excess {
        let new = keys.saturating_sub(std::mem::replace(&mut self.keys, keys));
        let cold = self.cold.bytes();
        let budget = self.allowance.of(bytes + cold).saturating_sub(cold);
        if bytes <= budget / 2 {
            Excess::Nothing
        } else if bytes > budget.saturating_add(budget / 4) {
            Excess::All
        } else {
            // Room for as many new ones as came since the last time, twice.
            let most = room.saturating_sub(2 * new.max(FEW));
            match keys > most {
                true => Excess::Some(keys.saturating_sub(most.saturating_sub(room / 16))),
                false => Excess::Nothing,
            }
        }
    }

    /// Up to `limit` places below `bound` of which `may_go` holds, in turn.
    pub(crate) fn next(
        &mut self,
        bound: usize,
        limit: usize,
        may_go: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let mut places = Vec::new();
        for _ in 0..bound {
            if places.len() == limit {
                break;
            }
            self.hand = if self.hand + 1 < bound { self.hand + 1 } else { 0 };
            if may_go(self.hand as u32) {
                places.push(self.hand as u32);
            }
        }
        places
    }
}
