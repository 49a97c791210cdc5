//! Entries of keys that no row came to lately, on disk, each found by eight bytes in memory.
//!
//! Entries are written behind one another into files and never changed; one that is taken back leaves a hole. A
//! file goes when nothing in it is left, and one that is mostly holes is written again behind all others,
//! a piece at a time. The index has for each entry a number: some bits of its key's hash, and
//! its place. What a place holds says whether it is the key that was asked for: in a table of ten million keys, one
//! in twenty-five keys that are not there is read for nothing. After the append-only store and index of
//! Bitcask (Sheehy and Smith, 2010) and the tags of FASTER's index (Chandramouli and others, 2018).
//!
//! An entry on disk begins at a multiple of [`UNIT`] with an XXH3 of what follows (u64), the key's hash (u64), when
//! a row came to it last (i64), the lengths of key and value (u32 each), the interval between two checkpoints
//! in which it changed (u64; 0 for one that a checkpoint has), key, value; all little endian. Nothing here is durable:
//! what no checkpoint has yet is read again when one is made.

use std::sync::Arc;

use freshet_core::{Error, Result, error::code};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::{Scratch, ScratchFile};

const UNIT: usize = 8;
const HEADER: usize = 40;

/// Units of a file.
const FILE_BITS: u32 = 21;
const FILE_BYTES: u64 = (UNIT as u64) << FILE_BITS;

/// Bits of a place: the number of a file, and a unit in it.
const PLACE_BITS: u32 = 36;
const PLACES: u64 = (1 << PLACE_BITS) - 1;
const FILES: usize = 1 << (PLACE_BITS - FILE_BITS);

/// Bytes that are read for an entry before its length is known.
const GUESS: usize = 256;

/// Bytes that are read, or written again, at a time.
const PIECE: usize = 256 << 10;

/// Entries on disk.
#[derive(Debug)]
pub(crate) struct Cold {
    scratch: Arc<dyn Scratch>,
    index: HashTable<u64>,
    files: Vec<Option<File>>,
    /// The file that entries are added to.
    open: Option<usize>,
    /// What is still to be written to it.
    buffer: Vec<u8>,
    /// Bytes of entries, and of holes.
    live: u64,
    dead: u64,
    /// Holes that are let be, whatever there is beside.
    slack: u64,
    /// The file that is being written again, with its serial number, and how far that is.
    moving: Option<(usize, u64, u64)>,
    next_serial: u64,
    /// Entries whose times differ by more are in different files.
    span: i64,
    read: Vec<u8>,
    /// Checkpoints that were cut, and one.
    interval: u64,
    /// Entries that no checkpoint has; some of them may be gone.
    changed: Vec<u64>,
    /// Those of the checkpoint that is being made, as far as they were not given.
    frozen: Vec<u64>,
}

/// An entry that was taken back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) owed: Owed,
}

/// Whether a checkpoint is to be given an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    /// The last one has it.
    No,
    /// The next one.
    Next,
    /// The one that is being made: it is to be given at once.
    Now,
}

#[derive(Debug)]
struct File {
    file: Arc<dyn ScratchFile>,
    serial: u64,
    len: u64,
    live: u64,
    /// The times of its entries.
    first: i64,
    last: i64,
}

/// An entry that was read, in the bytes that were read.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Where it begins in the file, and its bytes there.
    offset: u64,
    len: usize,
    /// Where it begins in what was read.
    start: usize,
    hash: u64,
    seen: i64,
    key: usize,
    value: usize,
    changed: u64,
}

impl Found {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start + HEADER..][..self.key]
    }

    fn value<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start + HEADER + self.key..][..self.value]
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        let entry = &bytes[self.start..][..HEADER + self.key + self.value];
        if xxh3_64(&entry[8..]).to_le_bytes() == entry[..8] { Ok(()) } else { Err(damaged()) }
    }
}

impl Cold {
    /// Nothing yet. Entries whose times lie further apart than `span` are in different files.
    pub(crate) fn new(scratch: Arc<dyn Scratch>, span: i64) -> Self {
        Self {
            scratch,
            index: HashTable::new(),
            files: Vec::new(),
            open: None,
            buffer: Vec::new(),
            live: 0,
            dead: 0,
            slack: 2 * FILE_BYTES,
            moving: None,
            next_serial: 0,
            span,
            read: Vec::new(),
            interval: 1,
            changed: Vec::new(),
            frozen: Vec::new(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let changed = (self.changed.capacity() + self.frozen.capacity()) * size_of::<u64>();
        self.index.allocation_size() + self.buffer.capacity() + self.read.capacity() + changed
    }

    /// Bytes that an entry takes; one that is too large for a file has no room here.
    pub(crate) fn has_room(key: usize, value: usize) -> bool {
        ((HEADER + key + value).next_multiple_of(UNIT) as u64) < FILE_BYTES
    }

    /// Adds the entry of a key that has none, whose hash is `hash` and to which a row came last at `seen`;
    /// `is_changed` where no checkpoint has it. [`Self::write`] is to be called before anything else is
    /// asked.
    pub(crate) fn add(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        seen: i64,
        is_changed: bool,
    ) -> Result<()> {
        let interval = if is_changed { self.interval } else { 0 };
        self.add_of(interval, hash, key, value, seen)
    }

    fn add_of(
        &mut self,
        interval: u64,
        hash: u64,
        key: &[u8],
        value: &[u8],
        seen: i64,
    ) -> Result<()> {
        let len = (HEADER + key.len() + value.len()).next_multiple_of(UNIT);
        let number = self.room(len as u64, seen)?;
        let start = self.buffer.len();
        let buffer = &mut self.buffer;
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&hash.to_le_bytes());
        buffer.extend_from_slice(&seen.to_le_bytes());
        buffer.extend_from_slice(&(key.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&interval.to_le_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value);
        let sum = xxh3_64(&buffer[start + 8..]);
        buffer[start..start + 8].copy_from_slice(&sum.to_le_bytes());
        buffer.resize(start + len, 0);
        let file = self.files[number].as_mut().expect("it is open");
        let place = place(number, file.len);
        file.len += len as u64;
        file.live += len as u64;
        (file.first, file.last) = (file.first.min(seen), file.last.max(seen));
        self.live += len as u64;
        let entry = (tag(hash) << PLACE_BITS) | place;
        self.index.insert_unique(spread(tag(hash)), entry, |entry| spread(*entry >> PLACE_BITS));
        match self.owed(interval) {
            Owed::No => {}
            Owed::Now => self.frozen.push(entry),
            Owed::Next => {
                if self.changed.len() > 2 * self.index.len() + PIECE {
                    let mut changed = std::mem::take(&mut self.changed);
                    changed.retain(|entry| self.has(*entry));
                    self.changed = changed;
                }
                self.changed.push(entry);
            }
        }
        if self.buffer.len() >= PIECE { self.write() } else { Ok(()) }
    }

    /// Writes what was added.
    pub(crate) fn write(&mut self) -> Result<()> {
        let Some(open) = self.open.filter(|_| !self.buffer.is_empty()) else { return Ok(()) };
        let file = self.files[open].as_ref().expect("it is open");
        let offset = file.file.append(&self.buffer)?;
        if offset + self.buffer.len() as u64 != file.len {
            return Err(Error::internal("a scratch file has more than was written to it"));
        }
        self.buffer.clear();
        self.buffer.shrink_to(PIECE);
        Ok(())
    }

    /// Takes the entry of a key out, if there is one.
    pub(crate) fn take(&mut self, hash: u64, key: &[u8]) -> Result<Option<Taken<'_>>> {
        let tag = tag(hash);
        let same = |entry: &&u64| **entry >> PLACE_BITS == tag;
        let candidates: Vec<u64> =
            self.index.iter_hash(spread(tag)).filter(same).copied().collect();
        for entry in candidates {
            let found = self.read_entry(entry)?;
            if found.hash == hash && found.key(&self.read) == key {
                found.check(&self.read)?;
                self.remove(entry, found.len);
                let owed = self.owed(found.changed);
                return Ok(Some(Taken { value: found.value(&self.read), owed }));
            }
        }
        Ok(None)
    }

    fn owed(&self, changed: u64) -> Owed {
        match changed {
            changed if changed == self.interval => Owed::Next,
            // Some that were given are given once more, as they were.
            changed if changed + 1 == self.interval && changed > 0 && !self.frozen.is_empty() => {
                Owed::Now
            }
            _ => Owed::No,
        }
    }

    fn has(&self, entry: u64) -> bool {
        self.index.find(spread(entry >> PLACE_BITS), |other| *other == entry).is_some()
    }

    /// Cuts a checkpoint.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(self.frozen.is_empty(), "one checkpoint at a time");
        self.frozen = std::mem::take(&mut self.changed);
        // They are read in the order in which they lie.
        self.frozen.sort_unstable_by_key(|entry| std::cmp::Reverse(entry & PLACES));
        self.interval += 1;
    }

    /// Calls `each` with the hash, key and value of one entry that the checkpoint is owed that is being made;
    /// `false` once there is none.
    pub(crate) fn drain(
        &mut self,
        each: impl FnOnce(u64, &[u8], &[u8]) -> Result<()>,
    ) -> Result<bool> {
        while let Some(entry) = self.frozen.pop() {
            if self.has(entry) {
                let found = self.read_entry(entry)?;
                found.check(&self.read)?;
                // The number of an entry that is gone may have been given to another one.
                if found.changed + 1 != self.interval {
                    continue;
                }
                each(found.hash, found.key(&self.read), found.value(&self.read))?;
                return Ok(true);
            }
        }
        self.frozen = Vec::new();
        Ok(false)
    }

    /// When entries may be too old that are so after `ttl`.
    pub(crate) fn deadline(&self, ttl: i64) -> Option<i64> {
        let files = self.files.iter().flatten().filter(|file| file.live > 0);
        files.map(|file| file.last.saturating_add(ttl).saturating_add(self.span)).min()
    }

    /// Takes all entries out to which no row came after `before`, file by file; calls `each` with hash and key,
    /// and with the value where it is owed to the checkpoint that is being made.
    pub(crate) fn expire(
        &mut self,
        before: i64,
        mut each: impl FnMut(u64, &[u8], Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        for number in 0..self.files.len() {
            let is_old = |file: &File| file.live > 0 && file.last <= before;
            if !self.files[number].as_ref().is_some_and(is_old) {
                continue;
            }
            if self.open == Some(number) {
                self.close()?;
            }
            let mut at = 0;
            while self.files[number].is_some()
                && let Some(next) = self.walk(number, at, |cold, entry, found, bytes| {
                    let owed = cold.owed(found.changed) == Owed::Now;
                    each(found.hash, found.key(bytes), owed.then(|| found.value(bytes)))?;
                    cold.remove(entry, found.len);
                    Ok(())
                })?
            {
                at = next;
            }
        }
        Ok(())
    }

    /// Writes a piece of the file with the most holes again, if there are more holes than entries.
    pub(crate) fn tend(&mut self) -> Result<()> {
        let is_there = |cold: &Self, number: usize, serial: u64| {
            cold.files[number].as_ref().is_some_and(|file| file.serial == serial)
        };
        let moving = self.moving.take();
        let moving = moving.filter(|(number, serial, _)| is_there(self, *number, *serial));
        let (number, serial, at) = match moving {
            Some(moving) => moving,
            None if self.dead <= self.live + self.slack => return Ok(()),
            None => {
                let files = self.files.iter().enumerate();
                let holes = files.filter_map(|(number, file)| {
                    let file = file.as_ref().filter(|_| self.open != Some(number))?;
                    Some((file.len - file.live, number, file.serial))
                });
                let Some((_, number, serial)) = holes.max() else { return self.close() };
                (number, serial, 0)
            }
        };
        let next = self.walk(number, at, |cold, entry, found, bytes| {
            cold.remove(entry, found.len);
            let (key, value) = (found.key(bytes), found.value(bytes));
            cold.add_of(found.changed, found.hash, key, value, found.seen)
        })?;
        self.write()?;
        let next = next.filter(|_| is_there(self, number, serial));
        self.moving = next.map(|next| (number, serial, next));
        Ok(())
    }

    /// Calls `each` with the entries that are there in a piece of a file; gives where the next begins.
    fn walk(
        &mut self,
        number: usize,
        at: u64,
        mut each: impl FnMut(&mut Self, u64, Found, &[u8]) -> Result<()>,
    ) -> Result<Option<u64>> {
        let file = self.files[number].as_ref().expect("it is there");
        let (len, source) = (file.len, Arc::clone(&file.file));
        if at >= len {
            return Ok(None);
        }
        let mut bytes = vec![0; (PIECE as u64).min(len - at) as usize];
        source.read(at, &mut bytes)?;
        let first = parse(&bytes, at, 0).ok_or_else(damaged)?;
        if first.len > bytes.len() {
            bytes.resize(first.len, 0);
            source.read(at, &mut bytes)?;
        }
        let mut start = 0;
        while let Some(found) = parse(&bytes, at, start).filter(|f| start + f.len <= bytes.len()) {
            found.check(&bytes)?;
            let entry = (tag(found.hash) << PLACE_BITS) | place(number, found.offset);
            if self.has(entry) {
                each(self, entry, found, &bytes)?;
            }
            start += found.len;
        }
        Ok(Some(at + start as u64))
    }

    fn read_entry(&mut self, entry: u64) -> Result<Found> {
        let place = entry & PLACES;
        let offset = (place & ((1 << FILE_BITS) - 1)) * UNIT as u64;
        let file = self.files[(place >> FILE_BITS) as usize].as_ref().expect("it has an entry");
        let rest = (file.len - offset) as usize;
        self.read.resize(rest.min(GUESS), 0);
        file.file.read(offset, &mut self.read)?;
        let found = parse(&self.read, offset, 0).ok_or_else(damaged)?;
        let all = HEADER + found.key + found.value;
        if all > rest {
            return Err(damaged());
        }
        if all > self.read.len() {
            self.read.resize(all, 0);
            file.file.read(offset, &mut self.read)?;
        }
        Ok(found)
    }

    fn remove(&mut self, entry: u64, len: usize) {
        if let Ok(found) =
            self.index.find_entry(spread(entry >> PLACE_BITS), |other| *other == entry)
        {
            found.remove();
        }
        let number = ((entry & PLACES) >> FILE_BITS) as usize;
        let file = self.files[number].as_mut().expect("it has an entry");
        file.live -= len as u64;
        self.live -= len as u64;
        self.dead += len as u64;
        if file.live == 0 && self.open != Some(number) {
            self.dead -= file.len;
            self.files[number] = None;
        }
    }

    /// The file that takes an entry of so many bytes, and of this time.
    fn room(&mut self, len: u64, seen: i64) -> Result<usize> {
        if let Some(open) = self.open {
            let file = self.files[open].as_ref().expect("it is open");
            let (first, last) = (file.first.min(seen), file.last.max(seen));
            if file.len + len <= FILE_BYTES && last.abs_diff(first) <= self.span as u64 {
                return Ok(open);
            }
            self.close()?;
        }
        let free = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if free == FILES {
            return Err(Error::new(
                code::LIMIT,
                "the state of an operator's instance exceeds 512 GiB on disk",
            )
            .hint("make the job more parallel, or bound its state by a time to live"));
        }
        let file = self.scratch.create()?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let file = File { file, serial, len: 0, live: 0, first: seen, last: seen };
        if free == self.files.len() {
            self.files.push(None);
        }
        self.files[free] = Some(file);
        self.open = Some(free);
        Ok(free)
    }

    /// Nothing more comes into the open file.
    fn close(&mut self) -> Result<()> {
        self.write()?;
        let Some(open) = self.open.take() else { return Ok(()) };
        let file = self.files[open].as_ref().expect("it was open");
        if file.live == 0 {
            self.dead -= file.len;
            self.files[open] = None;
        }
        Ok(())
    }
}

/// The entry that begins at `start` of bytes that were read from `offset` on, as far as its header says.
fn parse(bytes: &[u8], offset: u64, start: usize) -> Option<Found> {
    let header = bytes.get(start..start + HEADER)?;
    let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let (key, value) = (short(24) as usize, short(28) as usize);
    Some(Found {
        offset: offset + start as u64,
        len: (HEADER + key + value).next_multiple_of(UNIT),
        start,
        hash: long(8),
        seen: long(16) as i64,
        key,
        value,
        changed: long(32),
    })
}

/// The number of a place: a file, and where in it.
fn place(file: usize, offset: u64) -> u64 {
    ((file as u64) << FILE_BITS) | (offset / UNIT as u64)
}

/// The bits of a hash that the index has: the lowest, since the highest say the key's group.
fn tag(hash: u64) -> u64 {
    hash & ((1 << (64 - PLACE_BITS)) - 1)
}

/// A hash of a tag, all of whose bits are used.
fn spread(tag: u64) -> u64 {
    let spread = tag.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread ^ (spread >> 32)
}

fn damaged() -> Error {
    Error::new(code::STATE, "a scratch file of an operator's state is damaged")
}

#[cfg(test)]
mod tests;
