//! What changed in an operator's state between two checkpoints.

use std::collections::BTreeMap;

use freshet_core::{Error, Result, error::code};

use super::KeyGroup;
use freshet_core::stream::EventTime;

/// One entry of a state: what it holds under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The group of the key.
    pub group: KeyGroup,
    /// Which of the operator's tables it is in.
    pub table: u8,
    /// The key's bytes.
    pub key: &'a [u8],
    /// Dead once event time has come this far.
    pub expires: EventTime,
    /// What it holds; empty in a delta where the entry is no more ([`Delta::remove`]).
    pub value: &'a [u8],
}

/// Entries that were set or removed, in any order; the last one of a key counts.
#[derive(Debug, Default)]
pub struct Delta {
    /// Keys and values, in blocks that are never moved: to copy one that grows would hold a worker up.
    blocks: Vec<Vec<u8>>,
    bytes: usize,
    places: Vec<Place>,
    /// All entries of a table that expire at or before this are dead.
    floors: Vec<(u8, EventTime)>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    group: KeyGroup,
    table: u8,
    removed: bool,
    expires: EventTime,
    block: u32,
    start: u32,
    key: u32,
    value: u32,
}

/// Bytes of a block, unless one entry has more.
const BLOCK: usize = 1 << 20;

impl Place {
    fn key(self, blocks: &[Vec<u8>]) -> &[u8] {
        &blocks[self.block as usize][self.start as usize..][..self.key as usize]
    }

    fn value(self, blocks: &[Vec<u8>]) -> &[u8] {
        let start = self.start as usize + self.key as usize;
        &blocks[self.block as usize][start..][..self.value as usize]
    }
}

impl Delta {
    /// Sets what `entry.key` holds.
    pub fn set(&mut self, entry: Entry<'_>) -> Result<()> {
        self.push(entry, false)
    }

    /// Sets what `entry.key` holds to `entry.value` and what `write` appends to it.
    pub(crate) fn set_written(
        &mut self,
        entry: Entry<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.push(entry, false)?;
        let place = self.places.last_mut().expect("it was pushed");
        let block = &mut self.blocks[place.block as usize];
        let before = block.len();
        write(block)?;
        let more = block.len() - before;
        place.value = size(place.value as usize + more)?;
        self.bytes += more;
        Ok(())
    }

    /// Says that `key` holds nothing any more.
    pub fn remove(&mut self, group: KeyGroup, table: u8, key: &[u8]) -> Result<()> {
        self.push(Entry { group, table, key, expires: EventTime::MAX, value: &[] }, true)
    }

    /// Adds what changed in `other`, behind what changed here.
    pub fn append(&mut self, other: Self) -> Result<()> {
        let shift = size(self.blocks.len())?;
        self.blocks.extend(other.blocks);
        self.bytes += other.bytes;
        let shifted =
            other.places.into_iter().map(|place| Place { block: place.block + shift, ..place });
        self.places.extend(shifted);
        for (table, time) in other.floors {
            self.floor(table, time);
        }
        Ok(())
    }

    /// Says that all entries of `table` that expire at or before `time` are dead.
    pub fn floor(&mut self, table: u8, time: EventTime) {
        match self.floors.iter_mut().find(|(of, _)| *of == table) {
            Some((_, floor)) => *floor = time.max(*floor),
            None => self.floors.push((table, time)),
        }
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no entry was set or removed; others may have died all the same.
    pub fn has_no_entries(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.floors.is_empty()
    }

    /// By table, when the last of its entries is dead; what is removed is to be known for ever.
    pub fn expires(&self) -> BTreeMap<u8, EventTime> {
        let mut expires = BTreeMap::new();
        for place in &self.places {
            let last = expires.entry(place.table).or_insert(place.expires);
            *last = place.expires.max(*last);
        }
        expires
    }

    /// Up to when entries are dead, by table.
    pub fn floors(&self) -> &[(u8, EventTime)] {
        &self.floors
    }

    /// The entries, ascending by group, table and key, each key once; `None` for one that was removed.
    pub fn sorted(&mut self) -> impl Iterator<Item = (Entry<'_>, bool)> {
        let blocks = &self.blocks;
        // Stable: of equal keys the last one stays behind the others.
        self.places.sort_by(|a, b| {
            let order = (a.group, a.table).cmp(&(b.group, b.table));
            order.then_with(|| a.key(blocks).cmp(b.key(blocks)))
        });
        let places = &self.places;
        let last_of_its_key = move |index: &usize| {
            let place = &places[*index];
            places.get(index + 1).is_none_or(|next| {
                (place.group, place.table) != (next.group, next.table)
                    || place.key(blocks) != next.key(blocks)
            })
        };
        (0..places.len()).filter(last_of_its_key).map(move |index| {
            let place = places[index];
            let Place { group, table, removed, expires, .. } = place;
            let (key, value) = (place.key(blocks), place.value(blocks));
            (Entry { group, table, key, expires, value }, removed)
        })
    }

    fn push(&mut self, entry: Entry<'_>, removed: bool) -> Result<()> {
        let needed = entry.key.len() + entry.value.len();
        let fits =
            |block: &Vec<u8>| block.len() < BLOCK && block.len() + needed <= block.capacity();
        if !self.blocks.last().is_some_and(fits) {
            // The first ones are small: most changes are.
            let capacity = self.bytes.clamp(1 << 12, BLOCK);
            self.blocks.push(Vec::with_capacity(capacity.max(needed)));
        }
        let number = size(self.blocks.len() - 1)?;
        let block = self.blocks.last_mut().expect("there is one");
        self.places.push(Place {
            group: entry.group,
            table: entry.table,
            removed,
            expires: entry.expires,
            block: number,
            start: size(block.len())?,
            key: size(entry.key.len())?,
            value: size(entry.value.len())?,
        });
        block.extend_from_slice(entry.key);
        block.extend_from_slice(entry.value);
        self.bytes += needed;
        Ok(())
    }
}

fn size(length: usize) -> Result<u32> {
    u32::try_from(length)
        .map_err(|_| Error::new(code::LIMIT, "one entry of an operator's state exceeds 4 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_key_counts() {
        let entry = |key: &'static str, value: &'static str| Entry {
            group: KeyGroup(u16::from(key == "z")),
            table: 0,
            key: key.as_bytes(),
            expires: EventTime::MAX,
            value: value.as_bytes(),
        };
        let mut delta = Delta::default();
        for (key, value) in [("b", "1"), ("z", "0"), ("a", "1"), ("b", "2")] {
            delta.set(entry(key, value)).expect("it fits");
        }
        delta.remove(KeyGroup(0), 0, b"a").expect("it fits");
        let sorted: Vec<_> = delta.sorted().collect();
        let removed = Entry { value: b"", ..entry("a", "") };
        assert_eq!(sorted, [(removed, true), (entry("b", "2"), false), (entry("z", "0"), false)]);
    }
}
