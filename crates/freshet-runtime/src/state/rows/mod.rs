//! Rows of a keyed state, laid out as a log, with the rows of each key in a chain.
//!
//! Rows arrive in batches and stay in Arrow batches; a number names each ([`RowRef`]), and the rows of a
//! key are chained from the newest to the oldest. Removing a row leaves a hole that chains step over;
//! a chunk of which little is left is written again behind all others.
//!
//! A checkpoint gets rows in segments: those of one key group that were sealed together, encoded by
//! columns. What happens to them later is a small entry of bits. The key of both is the
//! prefix of the store, the number of the segment (u64, big endian), which its group knows no second
//! time, and a byte: 0 for rows, 1 for bits. Of rows, the value is the rows ([`codec`]) and,
//! where any is marked, a bit for each; of bits, which rows are no more, then which are marked. An
//! empty value holds nothing.
//!
//! Beyond a budget of memory, closed chunks go to disk ([`spill`]).
//!
//! It knows keys by their numbers in the owner's [`KeyMap`](crate::keys::KeyMap), and no join.

mod checkpoint;
mod chunk;
mod codec;
mod content;
mod gather;
mod spill;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use freshet_core::{Error, Result, error::code};

use super::{KeyGroup, KeyGroups};
use checkpoint::{Fresh, FreshRows, Frozen};
pub(crate) use checkpoint::{Loaded, Restored, UNKNOWN};
pub(crate) use chunk::NONE;
use chunk::{CHUNK_ROWS, Chunk, DEAD, Link, ROW_BITS, UNLINKED, compact, view_bytes};
use content::Contents;
pub(crate) use content::ContentsOf;
use spill::Spill;

/// Names a row as long as it is there; [`NONE`] names none.
pub(crate) type RowRef = u32;

/// Bytes that texts of rows that are not sealed may hold for nothing.
const PINNED: usize = 32 << 20;

/// Bytes of rows, with what they share with others, beyond which a chunk takes no more.
const CHUNK_BYTES: usize = 4 * PINNED;

/// Numbers of chunks: the last one's last row would be [`NONE`].
const CHUNKS: usize = (1 << (32 - ROW_BITS)) - 1;

/// Rows of a state.
#[derive(Debug)]
pub(crate) struct RowStore {
    options: Options,
    schema: SchemaRef,
    chunks: Vec<Option<Chunk>>,
    free: Vec<u32>,
    /// The chunk that takes rows.
    open: Option<u32>,
    /// By the number of the key.
    chains: Vec<Chain>,
    live: usize,
    next_serial: u64,
    next_number: u64,
    /// Closed chunks by when they are dead by themselves.
    deadlines: BTreeSet<(i64, u32)>,
    /// Closed chunks of which little is left.
    sparse: Vec<u32>,
    contents: Option<Contents>,
    /// What the next checkpoint gets.
    fresh: Vec<Fresh>,
    dirty: Vec<(u64, u32, u32)>,
    removed: Vec<(KeyGroup, u64, i64)>,
    /// What the checkpoint that is being made is still to be given.
    frozen: VecDeque<Frozen>,
    spill: Spill,
    /// Of closed chunks, bytes of rows in memory, and of what finds them.
    resident: usize,
    overhead: usize,
    /// For [`Self::gather`]: the first source of each chunk, valid where the stamp is the current one.
    sources: Vec<(u32, u32)>,
    stamp: u32,
}

/// What a store is to do.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How keys are divided.
    pub(crate) groups: KeyGroups,
    /// The table of its entries.
    pub(crate) table: u8,
    /// What the keys of its entries begin with.
    pub(crate) prefix: Vec<u8>,
    /// Whether a row's time is when it is dead by itself.
    pub(crate) dies: bool,
    /// Rows that die are not put into one chunk where their times differ by more.
    pub(crate) span: i64,
    /// When rows are dead that do not die by their own time.
    pub(crate) end: i64,
    /// Whether each row has a counter.
    pub(crate) counts: bool,
}

/// The rows of a key.
#[derive(Debug, Clone, Copy)]
struct Chain {
    head: u32,
    live: u32,
    /// Rows that are no more and that the chain still goes through.
    dead: u32,
}

const EMPTY: Chain = Chain { head: NONE, live: 0, dead: 0 };

/// The times of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Times<'a> {
    /// They have none.
    None,
    /// All have the same.
    At(i64),
    /// Each has its own.
    Each(&'a [i64]),
}

impl Times<'_> {
    fn of(&self, row: usize) -> Option<i64> {
        match self {
            Self::None => None,
            Self::At(time) => Some(*time),
            Self::Each(times) => Some(times[row]),
        }
    }
}

impl RowStore {
    /// A store of rows of this schema.
    pub(crate) fn new(schema: SchemaRef, options: Options) -> Self {
        Self {
            options,
            schema,
            chunks: Vec::new(),
            free: Vec::new(),
            open: None,
            chains: Vec::new(),
            live: 0,
            next_serial: 0,
            next_number: 0,
            deadlines: BTreeSet::new(),
            sparse: Vec::new(),
            contents: None,
            fresh: Vec::new(),
            dirty: Vec::new(),
            removed: Vec::new(),
            frozen: VecDeque::new(),
            spill: Spill::default(),
            resident: 0,
            overhead: 0,
            sources: Vec::new(),
            stamp: 0,
        }
    }

    /// The columns of its rows.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Key numbers are below this.
    pub(crate) fn resize(&mut self, keys: usize) {
        if self.chains.len() < keys {
            self.chains.resize(keys, EMPTY);
        }
    }

    /// Takes rows, row `n` of which has the key `keys[n]` of group `group(n)`; gives their names. A
    /// row is in the chain of its key once it is linked.
    pub(crate) fn append(
        &mut self,
        batch: &RecordBatch,
        keys: &[u32],
        group: impl Fn(usize) -> KeyGroup,
        times: Times<'_>,
    ) -> Result<Vec<RowRef>> {
        if let Some(contents) = &mut self.contents {
            contents.reserve(&mut self.chunks, self.live + keys.len());
        }
        let mut refs = Vec::with_capacity(keys.len());
        let mut done = 0;
        while done < keys.len() {
            let slot = self.room(self.dies_at(times.of(done)))?;
            let Options { counts, dies, end, .. } = self.options;
            let chunk = self.chunk_mut(slot);
            let first = chunk.len();
            let rows = done..keys.len().min(done + CHUNK_ROWS - first);
            let piece = batch.slice(rows.start, rows.len());
            let (used, held) = view_bytes(&piece);
            let held_all: usize = chunk.parts[chunk.sealed_parts..].iter().map(|p| p.bytes).sum();
            // Few rows must not keep the memory that many came in.
            let is_waste = held > 2 * used && held + held_all > PINNED;
            chunk.push(if is_waste { compact(&piece) } else { piece })?;
            chunk.groups.extend(rows.clone().map(&group));
            let links = keys[rows.clone()].iter();
            chunk.links.extend(links.map(|key| Link { next: UNLINKED, key: *key }));
            chunk.times.extend(rows.clone().filter_map(|row| times.of(row)));
            chunk.expect(first, dies, end);
            if counts {
                chunk.counts.resize(chunk.links.len(), 0);
            }
            chunk.live += rows.len() as u32;
            self.live += rows.len();
            let base = slot << ROW_BITS;
            refs.extend((first..first + rows.len()).map(|row| base | row as u32));
            if let Some(contents) = &self.contents {
                let chunk = self.chunks[slot as usize].as_mut().expect("it is open");
                contents.extend(chunk, &batch.slice(rows.start, rows.len()))?;
            }
            let chunk = self.chunk(slot);
            if chunk.len() == CHUNK_ROWS || chunk.part_bytes() > CHUNK_BYTES {
                self.close()?;
            }
            done = rows.end;
        }
        Ok(refs)
    }

    /// Puts a row before the others of its key.
    pub(crate) fn link(&mut self, row: RowRef) {
        let link = self.link_of(row);
        let chain = &mut self.chains[link.key as usize];
        let before = std::mem::replace(&mut chain.head, row);
        chain.live += 1;
        let (chunk, place) = split(row);
        let chunk = self.chunk_mut(chunk);
        chunk.links[place].next = before;
        chunk.linked += 1;
        if let Some(contents) = &mut self.contents {
            contents.insert(&mut self.chunks, row);
        }
    }

    /// Puts a row behind another one of its key.
    pub(crate) fn link_behind(&mut self, other: RowRef, row: RowRef) {
        let next = self.link_of(other).next;
        self.set_next(other, row);
        let (chunk, place) = split(row);
        let chunk = self.chunk_mut(chunk);
        let key = chunk.links[place].key;
        chunk.links[place].next = next;
        chunk.linked += 1;
        self.chains[key as usize].live += 1;
        if let Some(contents) = &mut self.contents {
            contents.insert(&mut self.chunks, row);
        }
    }

    /// How many rows a key has.
    pub(crate) fn count(&self, key: u32) -> u32 {
        self.chains[key as usize].live
    }

    /// The first row of a key.
    pub(crate) fn first(&self, key: u32) -> RowRef {
        self.alive(self.chains[key as usize].head)
    }

    /// The row of the same key behind this one.
    pub(crate) fn after(&self, row: RowRef) -> RowRef {
        self.alive(self.link_of(row).next)
    }

    fn alive(&self, row: RowRef) -> RowRef {
        let mut row = row;
        while row != NONE {
            let link = self.link_of(row);
            if link.key != DEAD {
                break;
            }
            row = link.next;
        }
        row
    }

    /// The time of a row that has one.
    pub(crate) fn time(&self, row: RowRef) -> i64 {
        let (chunk, row) = split(row);
        self.chunk(chunk).times[row]
    }

    /// When a row of this time is dead by itself.
    fn dies_at(&self, time: Option<i64>) -> i64 {
        if self.options.dies { time.unwrap_or(self.options.end) } else { self.options.end }
    }

    /// The counter of a row.
    pub(crate) fn counter(&mut self, row: RowRef) -> &mut u32 {
        let (chunk, row) = split(row);
        &mut self.chunk_mut(chunk).counts[row]
    }

    /// Whether a row is marked.
    pub(crate) fn is_marked(&self, row: RowRef) -> bool {
        let (chunk, row) = split(row);
        let chunk = self.chunk(chunk);
        chunk.marks.get(chunk.places[row].into())
    }

    /// Marks a row, once and for all.
    pub(crate) fn mark(&mut self, row: RowRef) {
        let (slot, row) = split(row);
        let chunk = self.chunk_mut(slot);
        let place = usize::from(chunk.places[row]);
        if chunk.marks.set(place) {
            self.touch(slot, place);
        }
    }

    /// A bit of the row at `place` has changed.
    fn touch(&mut self, slot: u32, place: usize) {
        let chunk = self.chunk_mut(slot);
        if place >= chunk.sealed {
            return;
        }
        let serial = chunk.serial;
        if let Some(index) = chunk.segment(place)
            && !std::mem::replace(&mut chunk.segments[index].dirty, true)
        {
            self.dirty.push((serial, slot, index as u32));
        }
    }

    /// Removes a row.
    pub(crate) fn remove(&mut self, row: RowRef) {
        let key = self.kill(row, true);
        let chain = self.chains[key as usize];
        if chain.live == 0 || chain.dead > chain.live + 8 {
            self.prune(key);
        }
    }

    /// Removes a row, which stays in its chain; gives the number of its key.
    fn kill(&mut self, row: RowRef, is_kept: bool) -> u32 {
        let (slot, number) = split(row);
        if let Some(contents) = &mut self.contents {
            contents.remove(&mut self.chunks, row);
        }
        let chunk = self.chunk_mut(slot);
        let key = std::mem::replace(&mut chunk.links[number].key, DEAD);
        debug_assert_ne!(key, DEAD, "a row is removed once");
        let place = usize::from(chunk.places[number]);
        chunk.live -= 1;
        if place < chunk.sealed {
            chunk.dead.set(place);
            if let Some(index) = chunk.segment(place) {
                let segment = &mut chunk.segments[index];
                segment.live -= 1;
                if is_kept && segment.live == 0 {
                    let removed = (segment.group, segment.number, segment.expires);
                    self.removed.push(removed);
                } else if is_kept {
                    self.touch(slot, place);
                }
            }
        }
        self.live -= 1;
        let chain = &mut self.chains[key as usize];
        chain.live -= 1;
        chain.dead += 1;
        let chunk = self.chunk(slot);
        let (live, len) = (chunk.live as usize, chunk.len());
        if Some(slot) != self.open {
            if live == 0 {
                self.forget(slot);
            } else if is_kept && live == len / 4 {
                // It passes here once on its way down.
                self.sparse.push(slot);
            }
        }
        key
    }

    /// Takes the rows that are no more out of a key's chain.
    fn prune(&mut self, key: u32) {
        let (mut before, mut row) = (NONE, self.chains[key as usize].head);
        while row != NONE {
            let link = self.link_of(row);
            if link.key == DEAD {
                match before {
                    NONE => self.chains[key as usize].head = link.next,
                    before => self.set_next(before, link.next),
                }
                self.unlink(row);
            } else {
                before = row;
            }
            row = link.next;
        }
        self.chains[key as usize].dead = 0;
    }

    /// No chain goes through a row any more.
    fn unlink(&mut self, row: RowRef) {
        let (slot, _) = split(row);
        let chunk = self.chunk_mut(slot);
        chunk.linked -= 1;
        if chunk.linked == 0 && chunk.live == 0 && Some(slot) != self.open {
            self.free(slot);
        }
    }

    /// None of a chunk's rows is left: chains may go through it for a while.
    fn forget(&mut self, slot: u32) {
        let chunk = self.chunks[slot as usize].as_mut().expect("it was there");
        self.deadlines.remove(&(chunk.last_expires, slot));
        chunk.parts = Vec::new();
        chunk.segments = Vec::new();
        chunk.places = Vec::new();
        chunk.blocks = None;
        self.resident -= std::mem::take(&mut chunk.resident);
        if chunk.linked == 0 {
            self.free(slot);
        }
    }

    fn free(&mut self, slot: u32) {
        if let Some(chunk) = self.chunks[slot as usize].take() {
            self.resident -= chunk.resident;
            self.overhead -= chunk.overhead;
        }
        self.free.push(slot);
    }

    /// Removes the rows that are dead by themselves at `time`, where whole chunks are; calls `each` with
    /// the keys of rows that were there.
    pub(crate) fn expire(&mut self, time: i64, mut each: impl FnMut(&Self, u32)) -> Result<()> {
        if let Some(open) = self.open
            && self.chunk(open).len() > 0
            && self.chunk(open).last_expires <= time
        {
            self.close()?;
        }
        while let Some((expires, slot)) = self.deadlines.first().copied() {
            if expires > time {
                break;
            }
            self.deadlines.pop_first();
            let serial = self.chunk(slot).serial;
            let base = slot << ROW_BITS;
            let mut keys = Vec::new();
            for row in 0..self.chunk(slot).len() as u32 {
                if self.link_of(base | row).key != DEAD {
                    keys.push(self.kill(base | row, false));
                }
            }
            debug_assert!(
                self.chunks[slot as usize]
                    .as_ref()
                    .is_none_or(|c| c.serial == serial && c.live == 0)
            );
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                self.prune(key);
                each(self, key);
            }
        }
        Ok(())
    }

    /// When [`Self::expire`] would have something to do.
    pub(crate) fn deadline(&self) -> Option<i64> {
        let open = self.open.map(|open| self.chunk(open)).filter(|open| open.len() > 0);
        let closed = self.deadlines.first().map(|(expires, _)| *expires);
        let first = [open.map(|open| open.last_expires), closed].into_iter().flatten().min();
        first.filter(|first| *first < i64::MAX)
    }

    /// Writes a few chunks of which little is left behind all others. The names of their rows change:
    /// nobody may hold one.
    pub(crate) fn maintain_some(&mut self) -> Result<()> {
        // Each takes a fraction of a millisecond.
        for _ in 0..4 {
            if !self.maintain()? {
                break;
            }
        }
        Ok(())
    }

    /// Writes one such chunk; `false` where there is none.
    fn maintain(&mut self) -> Result<bool> {
        let Some(slot) = self.sparse.pop() else { return Ok(false) };
        let Some(chunk) = &self.chunks[slot as usize] else { return Ok(true) };
        if chunk.live == 0 || chunk.live as usize * 4 > chunk.len() || Some(slot) == self.open {
            return Ok(true);
        }
        let base = slot << ROW_BITS;
        let rows = (0..chunk.len() as u32).filter(|row| chunk.links[*row as usize].key != DEAD);
        let old: Vec<RowRef> = rows.map(|row| base | row).collect();
        let keys: Vec<u32> = old.iter().map(|row| self.link_of(*row).key).collect();
        let groups: Vec<KeyGroup> = old.iter().map(|row| self.group_of(*row)).collect();
        let timed = !self.chunk(slot).times.is_empty();
        let times: Vec<i64> = old.iter().filter(|_| timed).map(|row| self.time(*row)).collect();
        let batch = self.gather_batch(&old)?;
        let times = if timed { Times::Each(&times) } else { Times::None };
        let new = self.append(&batch, &keys, |row| groups[row], times)?;
        let mut moved = vec![NONE; CHUNK_ROWS];
        for (old, new) in old.iter().zip(&new) {
            moved[split(*old).1] = *new;
            if self.options.counts {
                let count = *self.counter(*old);
                *self.counter(*new) = count;
            }
            if self.is_marked(*old) {
                self.mark(*new);
            }
        }
        let mut distinct = keys;
        distinct.sort_unstable();
        distinct.dedup();
        for key in distinct {
            self.replace(key, slot, &moved);
        }
        for (old, new) in old.into_iter().zip(new) {
            self.kill_moved(old);
            if let Some(contents) = &mut self.contents {
                contents.insert(&mut self.chunks, new);
            }
        }
        Ok(true)
    }

    /// Puts the rows of each key into the order of their times, the latest first.
    pub(crate) fn sort_by_time(&mut self) {
        for key in 0..self.chains.len() as u32 {
            let mut rows: Vec<RowRef> = self.of(key).collect();
            if rows.is_sorted_by(|before, row| self.time(*before) >= self.time(*row)) {
                continue;
            }
            self.prune(key);
            rows.sort_by_key(|row| std::cmp::Reverse(self.time(*row)));
            self.chains[key as usize].head = rows[0];
            for pair in rows.windows(2) {
                self.set_next(pair[0], pair[1]);
            }
            self.set_next(rows[rows.len() - 1], NONE);
        }
    }

    /// Puts what rows of a chunk became into their places in a key's chain.
    fn replace(&mut self, key: u32, slot: u32, moved: &[RowRef]) {
        let (mut before, mut row) = (NONE, self.chains[key as usize].head);
        while row != NONE {
            let link = self.link_of(row);
            let (chunk, place) = split(row);
            let mut now = row;
            if chunk == slot && moved[place] != NONE {
                now = moved[place];
                match before {
                    NONE => self.chains[key as usize].head = now,
                    before => self.set_next(before, now),
                }
                self.set_next(now, link.next);
                self.chunk_mut(slot).linked -= 1;
                self.chunk_mut(split(now).0).linked += 1;
            }
            (before, row) = (now, link.next);
        }
    }

    /// Removes a row that lives on elsewhere, and that no chain goes through.
    fn kill_moved(&mut self, row: RowRef) {
        let key = self.link_of(row).key as usize;
        let chain = self.chains[key];
        self.kill(row, true);
        self.chains[key] = chain;
    }

    fn group_of(&self, row: RowRef) -> KeyGroup {
        let (chunk, row) = split(row);
        let chunk = self.chunk(chunk);
        match chunk.segment(chunk.places[row].into()) {
            Some(index) => chunk.segments[index].group,
            None => chunk.groups[row - chunk.sealed],
        }
    }

    /// What rows are found by.
    pub(crate) fn contents_of(&mut self, batch: &RecordBatch) -> Result<ContentsOf> {
        let contents = match self.contents.take() {
            Some(contents) => contents,
            None => Contents::build(&self.schema, &mut self.chunks)?,
        };
        self.contents.insert(contents).of(batch)
    }

    /// A row of this key that holds the same as row `row` of `contents`.
    pub(crate) fn find(&mut self, key: u32, contents: &ContentsOf, row: usize) -> Result<RowRef> {
        let Some(index) = self.contents.take() else { return Ok(NONE) };
        let found = index.find(self, key, contents, row);
        self.contents = Some(index);
        found
    }

    /// The rows of a key, from the newest to the oldest.
    pub(crate) fn of(&self, key: u32) -> impl Iterator<Item = RowRef> {
        let some = |row: RowRef| (row != NONE).then_some(row);
        std::iter::successors(some(self.first(key)), move |row| some(self.after(*row)))
    }

    /// All rows.
    pub(crate) fn all(&self) -> impl Iterator<Item = RowRef> {
        (0..self.chains.len() as u32).flat_map(|key| self.of(key))
    }

    /// The number of a row's key.
    pub(crate) fn key(&self, row: RowRef) -> u32 {
        self.link_of(row).key
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        let open = self.open.map(|open| self.chunk(open));
        let open = open.map_or(0, |open| open.part_bytes() + open.overhead());
        let contents = self.contents.as_ref().map_or(0, Contents::bytes);
        let chains = self.chains.capacity() * size_of::<Chain>();
        open + self.resident + self.overhead + self.spill.cached() + chains + contents
    }

    fn chunk(&self, slot: u32) -> &Chunk {
        self.chunks[slot as usize].as_ref().expect("a row's chunk is there")
    }

    fn chunk_mut(&mut self, slot: u32) -> &mut Chunk {
        self.chunks[slot as usize].as_mut().expect("a row's chunk is there")
    }

    fn link_of(&self, row: RowRef) -> Link {
        let (chunk, row) = split(row);
        self.chunk(chunk).links[row]
    }

    fn set_next(&mut self, row: RowRef, next: RowRef) {
        let (chunk, row) = split(row);
        self.chunk_mut(chunk).links[row].next = next;
    }

    /// A chunk that takes a row that is dead at `expires`.
    fn room(&mut self, expires: i64) -> Result<u32> {
        if let Some(open) = self.open {
            let chunk = self.chunk(open);
            let fits = expires == i64::MAX
                || chunk.len() == 0
                || expires.abs_diff(chunk.first_expires) <= self.options.span as u64;
            if fits && chunk.len() < CHUNK_ROWS {
                return Ok(open);
            }
            self.close()?;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let chunk =
            Chunk { serial, first_expires: expires, last_expires: i64::MIN, ..Chunk::default() };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.chunks[slot as usize] = Some(chunk);
                slot
            }
            None if self.chunks.len() == CHUNKS => {
                return Err(Error::new(
                    code::LIMIT,
                    "the state of an operator's instance exceeds four billion rows",
                )
                .hint("make the job more parallel, or bound its state by a time to live"));
            }
            None => {
                self.chunks.push(Some(chunk));
                self.chunks.len() as u32 - 1
            }
        };
        self.open = Some(slot);
        Ok(slot)
    }

    /// Seals the open chunk; nothing more comes into it.
    fn close(&mut self) -> Result<()> {
        self.seal()?;
        let Some(slot) = self.open.take() else { return Ok(()) };
        let chunk = self.chunk_mut(slot);
        chunk.groups = Vec::new();
        chunk.links.shrink_to_fit();
        chunk.places.shrink_to_fit();
        chunk.resident = chunk.part_bytes();
        chunk.overhead = chunk.overhead();
        let (resident, overhead, serial) = (chunk.resident, chunk.overhead, chunk.serial);
        let (live, len, expires) = (chunk.live as usize, chunk.len(), chunk.last_expires);
        self.resident += resident;
        self.overhead += overhead;
        if live == 0 {
            self.forget(slot);
            return Ok(());
        }
        self.spill.resident.push_back((slot, serial));
        if expires < i64::MAX {
            self.deadlines.insert((expires, slot));
        }
        if live * 4 <= len {
            self.sparse.push(slot);
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        let Some(slot) = self.open else { return Ok(()) };
        let number = self.next_number;
        let schema = Arc::clone(&self.schema);
        let Options { dies, end, .. } = self.options;
        let chunk = self.chunk_mut(slot);
        let serial = chunk.serial;
        let Some(sealed) = chunk.seal(&schema, number, dies, end)? else { return Ok(()) };
        let segments = chunk.segments[sealed.first..][..sealed.segments].to_vec();
        let marks = segments.iter().map(|segment| {
            let (start, len) = (segment.start as usize, segment.len as usize);
            chunk.marks.any(start, len).then(|| {
                let mut bits = Vec::new();
                chunk.marks.write(start, len, &mut bits);
                bits
            })
        });
        let marks = marks.collect();
        let rows = FreshRows::Memory { start: sealed.start, batch: sealed.batch };
        self.fresh.push(Fresh { chunk: serial, first: sealed.first, rows, segments, marks });
        self.next_number += 1;
        Ok(())
    }
}

fn split(row: RowRef) -> (u32, usize) {
    (row >> ROW_BITS, row as usize & (CHUNK_ROWS - 1))
}

#[cfg(test)]
mod tests;
