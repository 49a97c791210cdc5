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
    bytes: Vec<u8>,
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
    start: u32,
    key: u32,
    value: u32,
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
        let before = self.bytes.len();
        write(&mut self.bytes)?;
        let more = size(self.bytes.len() - before)?;
        let place = self.places.last_mut().expect("it was pushed");
        place.value = size(place.value as usize + more as usize)?;
        Ok(())
    }

    /// Says that `key` holds nothing any more.
    pub fn remove(&mut self, group: KeyGroup, table: u8, key: &[u8]) -> Result<()> {
        self.push(Entry { group, table, key, expires: EventTime::MAX, value: &[] }, true)
    }

    /// Adds what changed in `other`, behind what changed here.
    pub fn append(&mut self, other: Self) -> Result<()> {
        let shift = size(self.bytes.len())?;
        size(self.bytes.len() + other.bytes.len())?;
        self.bytes.extend_from_slice(&other.bytes);
        let shifted =
            other.places.into_iter().map(|place| Place { start: place.start + shift, ..place });
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
        self.bytes.len()
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
        let bytes = &self.bytes;
        let key = |place: &Place| &bytes[place.start as usize..][..place.key as usize];
        // Stable: of equal keys the last one stays behind the others.
        self.places.sort_by(|a, b| {
            (a.group, a.table).cmp(&(b.group, b.table)).then_with(|| key(a).cmp(key(b)))
        });
        let places = &self.places;
        let last_of_its_key = move |index: &usize| {
            let place = &places[*index];
            places.get(index + 1).is_none_or(|next| {
                (place.group, place.table) != (next.group, next.table) || key(place) != key(next)
            })
        };
        (0..places.len()).filter(last_of_its_key).map(move |index| {
            let place = &places[index];
            let (key, value) = bytes[place.start as usize..]
                [..place.key as usize + place.value as usize]
                .split_at(place.key as usize);
            let Place { group, table, removed, expires, .. } = *place;
            (Entry { group, table, key, expires, value }, removed)
        })
    }

    fn push(&mut self, entry: Entry<'_>, removed: bool) -> Result<()> {
        self.places.push(Place {
            group: entry.group,
            table: entry.table,
            removed,
            expires: entry.expires,
            start: size(self.bytes.len())?,
            key: size(entry.key.len())?,
            value: size(entry.value.len())?,
        });
        self.bytes.extend_from_slice(entry.key);
        self.bytes.extend_from_slice(entry.value);
        Ok(())
    }
}

fn size(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| {
        Error::new(code::LIMIT, "one checkpoint's changes of an operator exceed 4 GiB")
            .hint("make checkpoints more often")
    })
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
