//! A set of keys that takes little more memory than the keys; integers that lie close together take
//! less ([`super::dense`]).
//!
//! Open addressing with linear probing. The table is cut into shards by the hash's top bits, each
//! of which grows by half when it is seven eighths full: growing never needs a second table, only a
//! second shard.

use std::ops::Range;

use super::dense::{DenseSet, Progress};
use super::keys::{Keys, mix, mix_wide};

const SHARDS: usize = 64;
/// Slots of a shard at first.
const FIRST: usize = 64;
/// Keys whose slots are touched before the first of them is looked at, so that their cache misses
/// overlap.
const AHEAD: usize = 16;

/// A key as it lies in a slot; the default marks an empty one.
trait Slot: Copy + Default + PartialEq {
    fn hash(self) -> u64;
}

impl Slot for u64 {
    fn hash(self) -> u64 {
        mix(self)
    }
}

impl Slot for u128 {
    fn hash(self) -> u64 {
        mix_wide(self)
    }
}

/// The keys seen so far.
#[derive(Debug)]
pub struct KeySet {
    table: Table,
    has_null: bool,
}

#[derive(Debug)]
enum Table {
    Dense(DenseSet),
    Narrow(Shards<u64>),
    Wide(Shards<u128>),
}

/// What became of a batch's keys.
#[derive(Debug, PartialEq, Eq)]
pub enum Inserted {
    /// All were looked at.
    All,
    /// The set could not grow at this row.
    Until(usize),
}

impl KeySet {
    /// An empty set of keys like `keys`.
    pub fn like(keys: &Keys) -> Self {
        let table = match keys {
            Keys::Narrow(..) => Table::Dense(DenseSet::new()),
            Keys::Wide(_) => Table::Wide(Shards::new()),
        };
        Self { table, has_null: false }
    }

    /// Puts the keys of `rows` in, and for each whether it is new into `fresh`. `grow` is asked for
    /// each further amount of bytes; where it refuses, the set stays as it is from there on.
    pub fn insert(
        &mut self,
        keys: &Keys,
        rows: Range<usize>,
        fresh: &mut Vec<bool>,
        grow: &mut dyn FnMut(usize) -> bool,
    ) -> Inserted {
        match keys {
            Keys::Narrow(_, Some(nulls)) => {
                for row in rows {
                    if nulls.is_null(row) {
                        fresh.push(!std::mem::replace(&mut self.has_null, true));
                    } else if self.table.insert(keys, row..row + 1, fresh, grow) != Inserted::All {
                        return Inserted::Until(row);
                    }
                }
                Inserted::All
            }
            _ => self.table.insert(keys, rows, fresh, grow),
        }
    }

    /// Whether the key of a row is in it.
    pub fn contains(&self, keys: &Keys, row: usize) -> bool {
        match (&self.table, keys) {
            (_, Keys::Narrow(_, Some(nulls))) if nulls.is_null(row) => self.has_null,
            (Table::Dense(table), Keys::Narrow(keys, _)) => table.contains(keys[row]),
            (Table::Narrow(table), Keys::Narrow(keys, _)) => table.contains(keys[row]),
            (Table::Wide(table), Keys::Wide(keys)) => table.contains(keys[row]),
            _ => unreachable!("the keys of one encoder are all alike"),
        }
    }
}

impl Table {
    fn insert(
        &mut self,
        keys: &Keys,
        mut rows: Range<usize>,
        fresh: &mut Vec<bool>,
        grow: &mut dyn FnMut(usize) -> bool,
    ) -> Inserted {
        if let (Self::Dense(table), Keys::Narrow(keys, _)) = (&mut *self, keys) {
            match table.insert(keys, rows.clone(), fresh, grow) {
                Progress::All => return Inserted::All,
                Progress::Full(row) => return Inserted::Until(row),
                Progress::Sparse(row) => {
                    // The memory of the bitmaps becomes the table's.
                    let mut left = table.bytes();
                    let mut grow = |bytes: usize| {
                        let more = bytes.saturating_sub(left);
                        let fits = more == 0 || grow(more);
                        left -= if fits { bytes.min(left) } else { 0 };
                        fits
                    };
                    let Some(shards) = Shards::of(table.iter(), &mut grow) else {
                        return Inserted::Until(row);
                    };
                    *self = Self::Narrow(shards);
                    rows.start = row;
                }
            }
        }
        match (self, keys) {
            (Self::Narrow(table), Keys::Narrow(keys, _)) => table.insert(keys, rows, fresh, grow),
            (Self::Wide(table), Keys::Wide(keys)) => table.insert(keys, rows, fresh, grow),
            _ => unreachable!("the keys of one encoder are all alike"),
        }
    }
}

#[derive(Debug)]
struct Shards<K> {
    shards: Vec<Shard<K>>,
    /// Whether the key that marks an empty slot was seen.
    has_empty: bool,
}

#[derive(Debug)]
struct Shard<K> {
    slots: Box<[K]>,
    len: usize,
}

impl<K: Slot> Shards<K> {
    fn new() -> Self {
        let empty = |_| Shard { slots: Box::default(), len: 0 };
        Self { shards: (0..SHARDS).map(empty).collect(), has_empty: false }
    }

    /// A set of `keys`; `None` where it cannot grow as large.
    fn of(keys: impl Iterator<Item = K>, grow: &mut dyn FnMut(usize) -> bool) -> Option<Self> {
        let mut shards = Self::new();
        for key in keys {
            if shards.insert(&[key], 0..1, &mut Vec::new(), grow) != Inserted::All {
                return None;
            }
        }
        Some(shards)
    }

    fn insert(
        &mut self,
        keys: &[K],
        rows: Range<usize>,
        fresh: &mut Vec<bool>,
        grow: &mut dyn FnMut(usize) -> bool,
    ) -> Inserted {
        let mut next = rows.start;
        while next < rows.end {
            let end = rows.end.min(next + AHEAD);
            let mut hashes = [0; AHEAD];
            let mut touched = false;
            for (hash, key) in hashes.iter_mut().zip(&keys[next..end]) {
                *hash = key.hash();
                let shard = &self.shards[shard_of(*hash)];
                touched |= shard.slots.get(shard.slot(*hash)) == Some(key);
            }
            std::hint::black_box(touched);
            for (row, hash) in (next..end).zip(hashes) {
                let key = keys[row];
                if key == K::default() {
                    fresh.push(!std::mem::replace(&mut self.has_empty, true));
                    continue;
                }
                let shard = &mut self.shards[shard_of(hash)];
                if shard.is_full() && !shard.grow(grow) {
                    return Inserted::Until(row);
                }
                fresh.push(shard.insert(key, hash));
            }
            next = end;
        }
        Inserted::All
    }

    fn contains(&self, key: K) -> bool {
        if key == K::default() {
            return self.has_empty;
        }
        let hash = key.hash();
        let shard = &self.shards[shard_of(hash)];
        !shard.slots.is_empty() && shard.find(key, hash).is_ok()
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> 58) as usize
}

impl<K: Slot> Shard<K> {
    fn is_full(&self) -> bool {
        self.len >= self.slots.len() - self.slots.len() / 8
    }

    /// Where a hash belongs: ascends with the hash, so that a larger table is filled from front to
    /// back (Lemire, "A fast alternative to the modulo reduction", 2016).
    fn slot(&self, hash: u64) -> usize {
        ((u128::from(hash << 6) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slot of a key, or the empty one where it belongs.
    fn find(&self, key: K, hash: u64) -> Result<usize, usize> {
        let mut slot = self.slot(hash);
        loop {
            let there = self.slots[slot];
            if there == key {
                return Ok(slot);
            }
            if there == K::default() {
                return Err(slot);
            }
            slot += 1;
            if slot == self.slots.len() {
                slot = 0;
            }
        }
    }

    fn insert(&mut self, key: K, hash: u64) -> bool {
        match self.find(key, hash) {
            Ok(_) => false,
            Err(slot) => {
                self.slots[slot] = key;
                self.len += 1;
                true
            }
        }
    }

    fn grow(&mut self, grow: &mut dyn FnMut(usize) -> bool) -> bool {
        let before = self.slots.len();
        let after = (before + before / 2).max(FIRST);
        if !grow((after - before) * size_of::<K>()) {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![K::default(); after].into());
        self.len = 0;
        for key in old {
            if key != K::default() {
                self.insert(key, key.hash());
            }
        }
        true
    }
}
