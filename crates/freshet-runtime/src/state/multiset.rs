//! How often each value was seen under each owner: what `DISTINCT` needs, and the extremes of rows
//! that may be taken back.
//!
//! Several readers (the `FILTER`s of one column's aggregates) share one set: a value is kept once,
//! with a count for each of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};
use freshet_core::{Error, Result, error::code};

use super::{Changes, Delta, Entry, KeyGroup};
use crate::keys::{KeyEncoder, KeyMap};
use freshet_core::rows::arrow_error;
use freshet_core::stream::EventTime;

/// Ends a list of entries.
const NONE: u32 = u32::MAX;

/// Bytes of an owner in front of a value: Arrow's row format has a mark and four bytes for it.
const OWNER: usize = 5;

/// Entries that are encoded for a checkpoint at a time.
const PIECE: usize = 256;

/// Values that are read of a loaded set at a time.
const BATCH: usize = 8192;

/// How the owners of values are named in checkpoints.
pub(crate) trait Owners {
    /// Appends the owner's key; gives the group that it belongs to and when it expires.
    fn write(&self, owner: u32, key: &mut Vec<u8>) -> (KeyGroup, EventTime);
}

/// Values of one column with their counts, by owner and reader.
#[derive(Debug)]
pub(crate) struct Multiset {
    /// Encodes owner and value.
    encoder: KeyEncoder,
    keys: KeyMap,
    readers: usize,
    /// By entry and reader; below zero where a row was taken back before it was added.
    counts: Vec<i64>,
    /// The entries of an owner are a list.
    owners: Vec<u32>,
    heads: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    changes: Changes,
}

/// A value that came to be or is no more: the row that did it, and `1` or `-1`.
pub(crate) type Moved = (u32, i64);

impl Multiset {
    /// An empty set of values of this type, counted for so many readers.
    pub(crate) fn new(data_type: &DataType, readers: usize) -> Result<Self> {
        let schema = Schema::new(vec![
            Field::new("owner", DataType::UInt32, false),
            Field::new("value", data_type.clone(), true),
        ]);
        let encoder = KeyEncoder::new(&schema, &[0, 1])?;
        Ok(Self {
            keys: encoder.map(),
            encoder,
            readers,
            counts: Vec::new(),
            owners: Vec::new(),
            heads: Vec::new(),
            next: Vec::new(),
            previous: Vec::new(),
            changes: Changes::default(),
        })
    }

    /// Makes room for owners below `owners`.
    pub(crate) fn resize(&mut self, owners: usize) {
        self.heads.resize(owners, NONE);
    }

    /// Adds rows and takes rows back: row `n` is a value of `owners[n]`. `sign` says what reader and
    /// row come to, 0 where the row does not count for it; `names` names owners for the checkpoint
    /// that may be under way. Appends to `moved[reader]` what came to be or is no more.
    pub(crate) fn update(
        &mut self,
        owners: &[u32],
        values: &ArrayRef,
        sign: impl Fn(usize, usize) -> i64,
        table: (u8, &dyn Owners),
        moved: &mut [Vec<Moved>],
    ) -> Result<()> {
        let column: ArrayRef = Arc::new(UInt32Array::from(owners.to_vec()));
        let keys = self.encoder.encode_columns(&[column, Arc::clone(values)], owners.len())?;
        let nulls = values.logical_nulls();
        for (row, owner) in owners.iter().enumerate() {
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            if is_null || (0..self.readers).all(|reader| sign(reader, row) == 0) {
                continue;
            }
            let (entry, is_new) = self.keys.intern_row(&keys, row);
            self.prepare(entry, is_new, *owner);
            self.touch(entry, table)?;
            let counts = self.counts_of(entry);
            for (reader, count) in counts.iter_mut().enumerate() {
                let (before, by) = (*count, sign(reader, row));
                *count += by;
                if (before > 0) != (*count > 0) {
                    moved[reader].push((row as u32, by.signum()));
                }
            }
            if counts.iter().all(|count| *count == 0) {
                self.remove(entry, table)?;
            }
        }
        Ok(())
    }

    /// Adds the values of `from` in `other` to those of `to`, owner by owner. Gives, by reader, the
    /// values that came to be, with their owners.
    pub(crate) fn merge(
        &mut self,
        to: &[u32],
        other: &Self,
        from: &[u32],
        table: (u8, &dyn Owners),
        mut came: impl FnMut(usize, &[u32], ArrayRef) -> Result<()>,
    ) -> Result<()> {
        for (to, from) in to.iter().zip(from) {
            for entries in other.entries(*from).chunks(PIECE) {
                let values = other.values(entries)?;
                let counts = entries.iter().map(|entry| *entry as usize * other.readers);
                let counts: Vec<i64> =
                    counts.flat_map(|at| other.counts[at..][..other.readers].to_vec()).collect();
                self.add(*to, &values, &counts, table, &mut came)?;
            }
        }
        Ok(())
    }

    /// Gives the values of `from` to `to`. Tells, by reader, the values that came to be.
    pub(crate) fn hand_over(
        &mut self,
        to: u32,
        from: u32,
        table: (u8, &dyn Owners),
        mut came: impl FnMut(usize, &[u32], ArrayRef) -> Result<()>,
    ) -> Result<()> {
        let entries = self.entries(from);
        for entries in entries.chunks(PIECE) {
            let values = self.values(entries)?;
            let counts: Vec<i64> =
                entries.iter().flat_map(|entry| self.counts_of(*entry).to_vec()).collect();
            self.add(to, &values, &counts, table, &mut came)?;
        }
        self.clear(from, table)
    }

    /// Adds values with their counts, by value and reader.
    fn add(
        &mut self,
        owner: u32,
        values: &ArrayRef,
        counts: &[i64],
        table: (u8, &dyn Owners),
        came: &mut impl FnMut(usize, &[u32], ArrayRef) -> Result<()>,
    ) -> Result<()> {
        let owners = vec![owner; values.len()];
        let mut moved = vec![Vec::new(); self.readers];
        let readers = self.readers;
        let count = |reader: usize, row: usize| counts[row * readers + reader];
        self.update(&owners, values, count, table, &mut moved)?;
        for (reader, moved) in moved.iter().enumerate() {
            let rows: UInt32Array = moved.iter().map(|(row, _)| Some(*row)).collect();
            let values = take(values, &rows, None).map_err(arrow_error)?;
            came(reader, &owners[..rows.len()], values)?;
        }
        Ok(())
    }

    /// Forgets all values of an owner.
    pub(crate) fn clear(&mut self, owner: u32, table: (u8, &dyn Owners)) -> Result<()> {
        for entry in self.entries(owner) {
            self.touch(entry, table)?;
            self.remove(entry, table)?;
        }
        Ok(())
    }

    /// The values that any reader has, as they were loaded: owners, values, and by reader whether it
    /// has them.
    pub(crate) fn loaded(
        &self,
        mut each: impl FnMut(usize, &[u32], ArrayRef) -> Result<()>,
    ) -> Result<()> {
        let all = self.keys.slots();
        for entries in all.chunks(BATCH) {
            for reader in 0..self.readers {
                let has = |entry: &u32| self.counts[*entry as usize * self.readers + reader] > 0;
                let entries: Vec<u32> = entries.iter().copied().filter(has).collect();
                let owners: Vec<u32> =
                    entries.iter().map(|entry| self.owners[*entry as usize]).collect();
                each(reader, &owners, self.values(&entries)?)?;
            }
        }
        Ok(())
    }

    /// Cuts a checkpoint.
    pub(crate) fn freeze(&mut self) {
        self.changes.freeze();
    }

    /// Gives entries of the frozen checkpoint until `delta` has `enough` bytes; `false` where some
    /// are left.
    pub(crate) fn drain(
        &mut self,
        enough: usize,
        table: (u8, &dyn Owners),
        delta: &mut Delta,
    ) -> Result<bool> {
        self.changes.drain(delta)?;
        while delta.bytes() < enough {
            let owed = self.changes.owed(PIECE);
            if owed.is_empty() {
                return Ok(true);
            }
            for entry in owed {
                self.write(entry, table, delta)?;
            }
        }
        Ok(false)
    }

    /// Takes an entry of a checkpoint; `owner` gives the number of an owner by its key.
    pub(crate) fn load(
        &mut self,
        entry: &Entry<'_>,
        owner: impl FnOnce(&[u8]) -> Result<u32>,
    ) -> Result<()> {
        let damaged = || Error::new(code::STATE, "an entry of a set of values is damaged");
        let (length, rest) = entry.key.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (key, value) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let owner = owner(key)?;
        let mut bytes = vec![1];
        bytes.extend_from_slice(&owner.to_be_bytes());
        bytes.extend_from_slice(value);
        let place = self.keys.read(&bytes)?;
        self.prepare(place, true, owner);
        if entry.value.len() != 8 * self.readers {
            return Err(damaged());
        }
        let counts = entry.value.chunks_exact(8);
        for (count, bytes) in self.counts_of(place).iter_mut().zip(counts) {
            *count = i64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        Ok(())
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let lists = self.owners.capacity() + self.next.capacity() + self.previous.capacity();
        self.keys.bytes()
            + 8 * self.counts.capacity()
            + 4 * (lists + self.heads.capacity())
            + self.changes.bytes()
    }

    fn counts_of(&mut self, entry: u32) -> &mut [i64] {
        &mut self.counts[entry as usize * self.readers..][..self.readers]
    }

    fn values(&self, entries: &[u32]) -> Result<ArrayRef> {
        Ok(self.encoder.columns(&self.keys, entries)?.remove(1))
    }

    fn entries(&self, owner: u32) -> Vec<u32> {
        let mut entries = Vec::new();
        let mut entry = self.heads.get(owner as usize).copied().unwrap_or(NONE);
        while entry != NONE {
            entries.push(entry);
            entry = self.next[entry as usize];
        }
        entries
    }

    /// Makes room for an entry; a new one is put into its owner's list.
    fn prepare(&mut self, entry: u32, is_new: bool, owner: u32) {
        let bound = self.keys.bound();
        self.counts.resize(bound * self.readers, 0);
        self.owners.resize(bound, NONE);
        self.next.resize(bound, NONE);
        self.previous.resize(bound, NONE);
        self.changes.resize(bound);
        if !is_new {
            return;
        }
        if self.heads.len() <= owner as usize {
            self.resize(owner as usize + 1);
        }
        self.counts_of(entry).fill(0);
        let head = std::mem::replace(&mut self.heads[owner as usize], entry);
        self.owners[entry as usize] = owner;
        self.next[entry as usize] = head;
        self.previous[entry as usize] = NONE;
        if head != NONE {
            self.previous[head as usize] = entry;
        }
    }

    fn touch(&mut self, entry: u32, table: (u8, &dyn Owners)) -> Result<()> {
        if self.changes.touch(entry) {
            self.write_early(entry, table)?;
        }
        Ok(())
    }

    fn write_early(&mut self, entry: u32, table: (u8, &dyn Owners)) -> Result<()> {
        let mut early = self.changes.take_early();
        self.write(entry, table, &mut early)?;
        self.changes.put_early(early);
        Ok(())
    }

    fn remove(&mut self, entry: u32, table: (u8, &dyn Owners)) -> Result<()> {
        if self.changes.forget(entry) {
            self.write_early(entry, table)?;
        }
        let mut key = Vec::new();
        let (group, _) = self.key(entry, table.1, &mut key);
        self.changes.removed().remove(group, table.0, &key)?;
        let place = entry as usize;
        let (next, previous) = (self.next[place], self.previous[place]);
        match previous {
            NONE => self.heads[self.owners[place] as usize] = next,
            previous => self.next[previous as usize] = next,
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.keys.remove(entry);
        Ok(())
    }

    /// The key of an entry in checkpoints: the owner's with its length, then the value's.
    fn key(&self, entry: u32, owners: &dyn Owners, key: &mut Vec<u8>) -> (KeyGroup, EventTime) {
        key.clear();
        key.extend_from_slice(&[0; 4]);
        let place = owners.write(self.owners[entry as usize], key);
        let length = (key.len() - 4) as u32;
        key[..4].copy_from_slice(&length.to_be_bytes());
        let mut value = Vec::new();
        self.keys.write(entry, &mut value);
        key.extend_from_slice(&value[OWNER..]);
        place
    }

    fn write(
        &self,
        entry: u32,
        (table, owners): (u8, &dyn Owners),
        delta: &mut Delta,
    ) -> Result<()> {
        let mut key = Vec::new();
        let (group, expires) = self.key(entry, owners, &mut key);
        let counts = &self.counts[entry as usize * self.readers..][..self.readers];
        let value: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
        delta.set(Entry { group, table, key: &key, expires, value: &value })
    }
}
