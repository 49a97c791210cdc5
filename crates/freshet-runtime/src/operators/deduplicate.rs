//! The first row of each key in some order: `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) = 1`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use freshet_core::clock::Clock;
use freshet_core::{Error, Result, error::code};

use super::expiry::Expiry;
use super::window_aggregate::no_time;
use crate::keys::{KeyEncoder, KeyMap, Keys};
use crate::operator::{Counts, Flow, Operator, OperatorContext, OperatorSpec, Out, StateSize};
use crate::state::{
    Changes, Cold, Delta, Entry, Excess, KeyGroup, KeyGroups, Owed, Spilling, Taken,
};
use freshet_core::rows::{RowKind, Rows, arrow_error};
use freshet_core::stream::EventTime;

/// Changes of a batch that is given.
const BATCH_ROWS: usize = 8192;

/// Keys whose rows are encoded at a time.
const PIECE: usize = 256;

/// What is brought to disk makes its index grow, so that more is to go.
const ROUNDS: usize = 3;

/// Deduplication.
///
/// Gives the columns of its input, as changes: an insert for a new key, an update where another row
/// is the first one now. What a key came to is given when rows have run dry for the moment or enough
/// has gathered. Of rows that are equal in the order, the one that arrived first is the first. Rows
/// are inserts.
///
/// Where the order is that of the rows' time, nothing need be taken back ([`Self::settled`]): the first
/// row of a key is given when the watermark has come to its time, in the order of times, and what follows
/// is only counted.
#[derive(Debug, Clone)]
pub struct Deduplicate {
    /// The columns of the input.
    pub input: SchemaRef,
    /// The columns of which one row each is kept.
    pub keys: Vec<usize>,
    /// The columns that say which row comes first; none keeps the one that arrived first.
    pub order: Vec<(usize, SortOptions)>,
    /// The column of the rows' time, a timestamp in microseconds, by which they are ordered: rows are given
    /// once it is certain that they are the first. `None` gives them at once.
    pub settled: Option<usize>,
    /// How keys are divided.
    pub groups: KeyGroups,
    /// Microseconds of the time of day after which a key that no row came to is forgotten: its next
    /// row is an insert again.
    pub ttl: Option<i64>,
}

impl OperatorSpec for Deduplicate {
    fn name(&self) -> String {
        let names = self.keys.iter().map(|key| self.input.field(*key).name().as_str());
        format!("deduplicate by {}", names.collect::<Vec<_>>().join(", "))
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let fields = self.input.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let order = self.order.iter().map(|(column, options)| {
            let data_type = self.input.field(*column).data_type().clone();
            SortField::new_with_options(data_type, *options)
        });
        let converter = |fields: Vec<SortField>| {
            RowConverter::new(fields).map_err(|error| {
                Error::new(code::SQL, "rows with a column of this type cannot be deduplicated")
                    .caused_by(error)
            })
        };
        let encoder = KeyEncoder::new(&self.input, &self.keys)?;
        Ok(Box::new(Running {
            rows: converter(fields.collect())?,
            order: converter(order.collect())?,
            keys: encoder.map(),
            encoder,
            spec: self.clone(),
            best: Vec::new(),
            held: 0,
            due: BTreeSet::new(),
            pending: Vec::new(),
            marked: Vec::new(),
            changes: Changes::default(),
            expiry: self.ttl.map(Expiry::new),
            clock: Arc::clone(&context.clock),
            spilling: context.spill.clone().map(|spill| Spilling::new(spill, self.ttl)),
            deduplicated: 0,
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: Deduplicate,
    encoder: KeyEncoder,
    rows: RowConverter,
    order: RowConverter,
    keys: KeyMap,
    /// By key.
    best: Vec<Option<Best>>,
    /// Bytes of all of them.
    held: usize,
    /// Keys by the time of their row, where it is still to be given.
    due: BTreeSet<(i64, u32)>,
    /// Keys whose row changed since changes were last given, with the row that readers have.
    pending: Vec<(u32, Option<Best>)>,
    marked: Vec<bool>,
    changes: Changes,
    expiry: Option<Expiry>,
    clock: Arc<dyn Clock>,
    /// Keys on disk, where there may be any.
    spilling: Option<Spilling>,
    deduplicated: u64,
}

/// The first row of a key so far: its place in the order, then the row, both as Arrow rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Best {
    /// The row's time, where it is still to be given.
    time: i64,
    order: u32,
    /// Empty once the row was given for good.
    bytes: Box<[u8]>,
}

impl Best {
    /// The row was given for good.
    const GIVEN: i64 = i64::MIN;

    fn new(time: i64, order: &[u8], row: &[u8]) -> Self {
        Self { time, order: order.len() as u32, bytes: [order, row].concat().into() }
    }

    fn given() -> Self {
        Self { time: Self::GIVEN, order: 0, bytes: Box::default() }
    }

    fn is_given(&self) -> bool {
        self.bytes.is_empty()
    }

    fn order(&self) -> &[u8] {
        &self.bytes[..self.order as usize]
    }

    fn row(&self) -> &[u8] {
        &self.bytes[self.order as usize..]
    }
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, _out: &mut Out<'_>) -> Result<Flow> {
        if rows.kinds().is_some() {
            return Err(Error::internal("a deduplication was given rows that take others back"));
        }
        let batch = rows.batch();
        let keys = self.encoder.encode(batch)?;
        let ordered = self.spec.order.iter().map(|(column, _)| Arc::clone(batch.column(*column)));
        let ordered: Vec<ArrayRef> = ordered.collect();
        let order = match ordered.as_slice() {
            [] => None,
            ordered => Some(self.order.convert_columns(ordered).map_err(arrow_error)?),
        };
        let (mut slots, mut new) = (Vec::new(), Vec::new());
        self.keys.intern(&keys, &mut slots, &mut new);
        self.resize();
        self.recall(&keys, &slots, &mut new)?;
        if let Some(expiry) = &mut self.expiry {
            expiry.seen(&slots, self.clock.now_micros());
        }
        let times = self.spec.settled.map(|time| {
            Arc::clone(batch.column(time)).as_primitive::<TimestampMicrosecondType>().clone()
        });
        if times.as_ref().is_some_and(|times| times.null_count() > 0) {
            return Err(no_time());
        }
        let mut rows = None;
        for (row, slot) in slots.iter().enumerate() {
            let own = order.as_ref().map(|order| order.row(row));
            let own = own.as_ref().map_or(&[][..], |own| own.as_ref());
            let best = self.best[*slot as usize].as_ref();
            let is_first = best.is_none_or(|best| !best.is_given() && own < best.order());
            self.deduplicated += u64::from(new.binary_search(&(row as u32)).is_err());
            if !is_first {
                continue;
            }
            // Most batches of a stream that was deduplicated before give none.
            let rows = match &mut rows {
                Some(rows) => rows,
                none => {
                    none.insert(self.rows.convert_columns(batch.columns()).map_err(arrow_error)?)
                }
            };
            let time = times.as_ref().map_or(0, |times| times.value(row));
            let best = Best::new(time, own, rows.row(row).as_ref());
            self.replace(*slot, best)?;
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        let mut certain = Vec::new();
        while let Some((time, slot)) = self.due.first().copied() {
            if time > watermark.0 {
                break;
            }
            self.due.pop_first();
            certain.push(slot);
        }
        for slots in certain.chunks(BATCH_ROWS) {
            let mut rows = Vec::with_capacity(slots.len());
            for slot in slots {
                self.touch(*slot)?;
                let best = self.best[*slot as usize].replace(Best::given());
                rows.extend(best);
            }
            self.held -= rows.iter().map(|best| best.bytes.len()).sum::<usize>();
            let parser = self.rows.parser();
            let columns = rows.iter().map(|best| parser.parse(best.row()));
            let columns = self.rows.convert_rows(columns).map_err(arrow_error)?;
            let batch = RecordBatch::try_new(Arc::clone(&self.spec.input), columns);
            out.rows(Rows::inserts(batch.map_err(arrow_error)?))?;
        }
        self.trim()?;
        Ok(watermark)
    }

    fn deadline(&self) -> Option<i64> {
        let expiry = self.expiry.as_ref()?;
        let cold = self.spilling.as_ref().and_then(|all| all.cold.deadline(expiry.ttl()));
        [expiry.deadline(), cold].into_iter().flatten().min()
    }

    fn on_time(&mut self, now: i64, out: &mut Out<'_>) -> Result<()> {
        self.flush(out)?;
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        if let Some(spilling) = &mut self.spilling {
            let mut early = self.changes.take_early();
            let (groups, removed) = (self.spec.groups, self.changes.removed());
            spilling.cold.expire(now.saturating_sub(expiry.ttl()), |hash, key, owed| {
                let group = groups.group(hash);
                if let Some(value) = owed {
                    early.set(entry(group, key, value))?;
                }
                removed.remove(group, 0, key)
            })?;
            self.changes.put_early(early);
        }
        for slot in expiry.expired(now) {
            let best = self.best[slot as usize].as_ref();
            if best.is_some_and(|best| self.due.contains(&(best.time, slot))) {
                // It is still to be given: its time begins then.
                self.expiry.iter_mut().for_each(|expiry| expiry.seen(&[slot], now));
                continue;
            }
            self.forget(slot)?;
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Out<'_>) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        for (slot, _) in &pending {
            self.marked[*slot as usize] = false;
        }
        // An update is two rows.
        for pending in pending.chunks(BATCH_ROWS / 2) {
            let (mut rows, mut kinds) = (Vec::new(), Vec::new());
            let parser = self.rows.parser();
            for (slot, before) in pending {
                let best = self.best[*slot as usize].as_ref();
                let best =
                    best.ok_or_else(|| Error::internal("a key without a row has changed"))?;
                match before {
                    None => kinds.push(RowKind::Insert),
                    Some(before) if before.row() == best.row() => continue,
                    Some(before) => {
                        rows.push(parser.parse(before.row()));
                        kinds.extend([RowKind::UpdateBefore, RowKind::UpdateAfter]);
                    }
                }
                rows.push(parser.parse(best.row()));
            }
            if rows.is_empty() {
                continue;
            }
            let columns = self.rows.convert_rows(rows).map_err(arrow_error)?;
            let batch = RecordBatch::try_new(Arc::clone(&self.spec.input), columns);
            out.rows(Rows::changes(batch.map_err(arrow_error)?, kinds))?;
        }
        self.trim()
    }

    fn holds_back(&self) -> bool {
        !self.pending.is_empty()
    }

    fn freeze(&mut self) {
        self.changes.freeze();
        self.spilling.iter_mut().for_each(|spilling| spilling.cold.freeze());
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        let enough = delta.bytes() + bytes;
        self.changes.drain(delta)?;
        while delta.bytes() < enough {
            let owed = self.changes.owed(PIECE);
            if !owed.is_empty() {
                owed.into_iter().try_for_each(|slot| self.write(slot, delta))?;
                continue;
            }
            let groups = self.spec.groups;
            let Some(spilling) = &mut self.spilling else { return Ok(Flow::Done) };
            let each =
                |hash, key: &[u8], value: &[u8]| delta.set(entry(groups.group(hash), key, value));
            if !spilling.cold.drain(each)? {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::More)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for entry in entries {
            let slot = self.keys.read(entry.key)?;
            self.resize();
            self.decode(slot, entry.value)?;
        }
        self.trim()
    }

    fn size(&self) -> StateSize {
        let cold = self.spilling.as_ref().map(|spilling| &spilling.cold);
        let (bytes, keys) = cold.map_or((0, 0), |cold| (cold.bytes(), cold.len()));
        StateSize { bytes: (self.bytes() + bytes) as u64, keys: (self.keys.len() + keys) as u64 }
    }

    fn counts(&self) -> Counts {
        Counts { deduplicated: self.deduplicated, ..Counts::default() }
    }
}

impl Running {
    /// Gives a new key what it was in a checkpoint.
    fn decode(&mut self, slot: u32, value: &[u8]) -> Result<()> {
        let damaged = || Error::new(code::STATE, "an entry of a deduplication's state is damaged");
        let (seen, rest) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (time, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (order, row) = rest.split_at_checked(length).ok_or_else(damaged)?;
        if let Some(expiry) = &mut self.expiry {
            expiry.seen(&[slot], i64::from_le_bytes(*seen));
        }
        let best = Best::new(i64::from_le_bytes(*time), order, row);
        if self.spec.settled.is_some() && !best.is_given() {
            self.due.insert((best.time, slot));
        }
        self.held += best.bytes.len();
        self.best[slot as usize] = Some(best);
        Ok(())
    }

    /// Takes new keys back that are on disk: those of the rows `new`, which loses them.
    fn recall(&mut self, keys: &Keys, slots: &[u32], new: &mut Vec<u32>) -> Result<()> {
        let Some(mut spilling) = self.spilling.take() else { return Ok(()) };
        if !spilling.cold.is_empty() {
            let (mut key, mut unknown) = (Vec::new(), Vec::with_capacity(new.len()));
            for row in std::mem::take(new) {
                let slot = slots[row as usize];
                key.clear();
                self.keys.write(slot, &mut key);
                match spilling.cold.take(keys.hashes()[row as usize], &key)? {
                    Some(Taken { value, owed }) => {
                        match owed {
                            Owed::No => {}
                            Owed::Next => {
                                self.changes.touch(slot);
                            }
                            Owed::Now => {
                                let group = self.spec.groups.group(self.keys.hash(slot));
                                let mut early = self.changes.take_early();
                                early.set(entry(group, &key, value))?;
                                self.changes.put_early(early);
                            }
                        }
                        self.decode(slot, value)?;
                    }
                    None => unknown.push(row),
                }
            }
            *new = unknown;
        }
        self.spilling = Some(spilling);
        Ok(())
    }

    /// Bytes in memory, those of the index of keys on disk apart.
    fn bytes(&self) -> usize {
        let places = self.best.capacity() * size_of::<Option<Best>>() + self.marked.capacity();
        self.keys.bytes() + places + self.held + self.changes.bytes()
    }

    /// Whether a key's row is still to be given.
    fn waits(&self, slot: u32) -> bool {
        let best = self.best[slot as usize].as_ref();
        self.spec.settled.is_some() && best.is_some_and(|best| !best.is_given())
    }

    /// Brings keys to disk where there are too many, all of whose rows were given.
    fn trim(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            // Rows that wait stay.
            if self.spilling.is_none() || self.keys.len() == self.due.len() {
                break;
            }
            if !self.trim_once()? {
                break;
            }
        }
        self.spilling.as_mut().map_or(Ok(()), |spilling| spilling.cold.tend())
    }

    /// Whether anything was brought to disk.
    fn trim_once(&mut self) -> Result<bool> {
        let bytes = self.bytes();
        let Some(spilling) = &mut self.spilling else { return Ok(false) };
        match spilling.excess(bytes, self.keys.len(), self.keys.room()) {
            Excess::Nothing => return Ok(false),
            Excess::Some(mut count) => {
                while count > 0
                    && let Some(mut spilling) = self.spilling.take()
                {
                    let may_go = |slot: u32| {
                        let is_there = self.best[slot as usize].is_some();
                        is_there && self.changes.is_clean(slot) && !self.waits(slot)
                    };
                    let slots = spilling.next(self.best.len(), count.min(PIECE), may_go);
                    self.spilling = Some(spilling);
                    if slots.is_empty() {
                        break;
                    }
                    count -= slots.len();
                    self.evict(&slots)?;
                }
            }
            Excess::All => {
                let mut slots = self.keys.slots();
                slots.retain(|slot| !self.waits(*slot));
                for slots in slots.chunks(PIECE) {
                    self.evict(slots)?;
                }
                if self.keys.is_empty() {
                    self.keys = self.encoder.map();
                    (self.best, self.marked) = (Vec::new(), Vec::new());
                }
            }
        }
        Ok(true)
    }

    /// Brings keys to disk.
    fn evict(&mut self, slots: &[u32]) -> Result<()> {
        let Some(mut spilling) = self.spilling.take() else { return Ok(()) };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for slot in slots.iter().copied() {
            self.encode(slot, &mut key, &mut value)?;
            if !Cold::has_room(key.len(), value.len()) {
                continue;
            }
            let hash = self.keys.hash(slot);
            let is_changed = self.changes.is_changed(slot);
            spilling.cold.add(hash, &key, &value, self.seen(slot), is_changed)?;
            // The checkpoint that is being made gets what it is still to have of it.
            if self.changes.forget(slot) {
                self.write_early(slot)?;
            }
            if let Some(best) = self.best[slot as usize].take() {
                self.held -= best.bytes.len();
            }
            if let Some(expiry) = &mut self.expiry {
                expiry.forget(slot);
            }
            self.keys.remove(slot);
        }
        spilling.cold.write()?;
        self.spilling = Some(spilling);
        Ok(())
    }

    fn resize(&mut self) {
        let bound = self.keys.bound();
        self.best.resize(bound, None);
        self.marked.resize(bound, false);
        self.changes.resize(bound);
    }

    fn replace(&mut self, slot: u32, best: Best) -> Result<()> {
        self.touch(slot)?;
        let place = slot as usize;
        self.held += best.bytes.len();
        let time = best.time;
        let before = self.best[place].replace(best);
        if self.spec.settled.is_some() {
            if let Some(before) = &before {
                self.due.remove(&(before.time, slot));
            }
            self.due.insert((time, slot));
        }
        self.held -= before.as_ref().map_or(0, |before| before.bytes.len());
        let waits = self.spec.settled.is_some();
        if !waits && !std::mem::replace(&mut self.marked[place], true) {
            self.pending.push((slot, before));
        }
        Ok(())
    }

    /// Says that the row of a key is about to change.
    fn touch(&mut self, slot: u32) -> Result<()> {
        if self.changes.touch(slot) {
            self.write_early(slot)?;
        }
        Ok(())
    }

    fn write_early(&mut self, slot: u32) -> Result<()> {
        let mut early = self.changes.take_early();
        self.write(slot, &mut early)?;
        self.changes.put_early(early);
        Ok(())
    }

    fn write(&self, slot: u32, delta: &mut Delta) -> Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        self.encode(slot, &mut key, &mut value)?;
        let group = self.spec.groups.group(self.keys.hash(slot));
        delta.set(entry(group, &key, &value))
    }

    /// What a key is in checkpoints.
    fn encode(&self, slot: u32, key: &mut Vec<u8>, value: &mut Vec<u8>) -> Result<()> {
        let Some(best) = &self.best[slot as usize] else {
            return Err(Error::internal("a key without a row is to be written"));
        };
        key.clear();
        value.clear();
        self.keys.write(slot, key);
        value.extend_from_slice(&self.seen(slot).to_le_bytes());
        value.extend_from_slice(&best.time.to_le_bytes());
        value.extend_from_slice(&best.order.to_le_bytes());
        value.extend_from_slice(&best.bytes);
        Ok(())
    }

    /// When a row last came to a key, where that is known.
    fn seen(&self, slot: u32) -> i64 {
        self.expiry.as_ref().map_or(0, |expiry| expiry.last(slot))
    }

    fn forget(&mut self, slot: u32) -> Result<()> {
        if self.changes.forget(slot) {
            self.write_early(slot)?;
        }
        let mut key = Vec::new();
        self.keys.write(slot, &mut key);
        let group = self.spec.groups.group(self.keys.hash(slot));
        self.changes.removed().remove(group, 0, &key)?;
        if let Some(best) = self.best[slot as usize].take() {
            self.held -= best.bytes.len();
            self.due.remove(&(best.time, slot));
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.forget(slot);
        }
        self.keys.remove(slot);
        Ok(())
    }
}

/// An entry of a checkpoint.
fn entry<'a>(group: KeyGroup, key: &'a [u8], value: &'a [u8]) -> Entry<'a> {
    Entry { group, table: 0, key, expires: EventTime::MAX, value }
}

#[cfg(test)]
mod tests;
