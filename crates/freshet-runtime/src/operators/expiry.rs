//! Which places of a state no row came to for so long, by the time of day, that they are forgotten.

use std::collections::BTreeMap;

/// Parts of the time to live by which it is measured: places live up to one part longer.
const PARTS: i64 = 16;

/// When rows last came to places.
#[derive(Debug)]
pub(crate) struct Expiry {
    ttl: i64,
    /// By place; [`NEVER`] for one that is free.
    last: Vec<i64>,
    /// By place, whether it is in `due`.
    queued: Vec<bool>,
    /// Places by the part of time in which they are to be looked at: once each, free ones too.
    due: BTreeMap<i64, Vec<u32>>,
}

const NEVER: i64 = i64::MIN;

impl Expiry {
    /// Places live for `ttl` microseconds, at least.
    pub(crate) fn new(ttl: i64) -> Self {
        Self { ttl: ttl.max(1), last: Vec::new(), queued: Vec::new(), due: BTreeMap::new() }
    }

    /// Microseconds that places live for, at least.
    pub(crate) fn ttl(&self) -> i64 {
        self.ttl
    }

    /// Rows came to `places` at `now`, in microseconds since 1970.
    pub(crate) fn seen(&mut self, places: &[u32], now: i64) {
        let due = self.due_of(now);
        for place in places {
            let at = *place as usize;
            if self.last.len() <= at {
                self.last.resize(at + 1, NEVER);
                self.queued.resize(at + 1, false);
            }
            self.last[at] = now;
            if !std::mem::replace(&mut self.queued[at], true) {
                self.due.entry(due).or_default().push(*place);
            }
        }
    }

    /// When a row last came to a place.
    pub(crate) fn last(&self, place: u32) -> i64 {
        self.last.get(place as usize).copied().unwrap_or(NEVER)
    }

    /// A place is free.
    pub(crate) fn forget(&mut self, place: u32) {
        if let Some(last) = self.last.get_mut(place as usize) {
            *last = NEVER;
        }
    }

    /// When there may be a place that expires.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.due.keys().next().copied()
    }

    /// The places that have expired; they are to be forgotten ([`Self::forget`]). When rows last came to
    /// them is known until then: a checkpoint may still be given it.
    pub(crate) fn expired(&mut self, now: i64) -> Vec<u32> {
        let mut expired = Vec::new();
        let later = self.due.split_off(&now.saturating_add(1));
        for place in std::mem::replace(&mut self.due, later).into_values().flatten() {
            let at = place as usize;
            let due = self.due_of(self.last[at]);
            if self.last[at] != NEVER && due > now {
                self.due.entry(due).or_default().push(place);
                continue;
            }
            self.queued[at] = false;
            if self.last[at] != NEVER {
                expired.push(place);
            }
        }
        expired
    }

    fn due_of(&self, last: i64) -> i64 {
        let part = (self.ttl / PARTS).max(1);
        last.saturating_add(self.ttl).div_euclid(part).saturating_add(1).saturating_mul(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_expire_when_no_row_came_for_their_time() {
        let mut expiry = Expiry::new(1600);
        assert_eq!(expiry.deadline(), None);
        expiry.seen(&[0, 2], 1000);
        expiry.seen(&[1], 1500);
        expiry.seen(&[2], 2400);
        let first = expiry.deadline().expect("there are places");
        assert!((2600..=2700).contains(&first), "{first}");
        assert!(expiry.expired(first - 1).is_empty());
        assert_eq!(expiry.expired(first), [0]);
        assert_eq!(expiry.last(0), 1000);
        expiry.forget(0);
        expiry.forget(1);
        expiry.seen(&[1], 2400);
        expiry.forget(1);
        // Looked at when its first row would have let it expire, and again.
        let mut last = Vec::new();
        while let Some(next) = expiry.deadline() {
            last = expiry.expired(next).into_iter().map(|place| (place, next)).collect();
        }
        let [(2, next)] = last.as_slice() else { panic!("one was left: {last:?}") };
        assert!((4000..=4100).contains(next), "{next}");
        assert_eq!(expiry.deadline(), None);
    }
}
