//! `GROUP BY` without a window: results that are updated for as long as rows come.
//!
//! What a group came to is given when rows have run dry for the moment or enough has gathered
//! ([`Operator::flush`]): one change for each group that changed, however many rows it took.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, concat, interleave, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::RowConverter;
use freshet_core::clock::Clock;
use freshet_core::{Error, Result, error::code};

use super::expiry::Expiry;
use crate::aggregate::{Accumulators, AggregateSpec, Layout, Named};
use crate::keys::{KeyEncoder, KeyMap, Keys as BatchKeys};
use crate::operator::{Flow, Operator, OperatorContext, OperatorSpec, Out, StateSize};
use crate::state::{
    Changes, Cold, Delta, Entry, Excess, KeyGroup, KeyGroups, Owed, Owners, Spilling, Taken,
};
use freshet_core::rows::{RowKind, Rows, arrow_error};
use freshet_core::stream::EventTime;

/// Rows of a batch that is given.
const BATCH_ROWS: usize = 8192;

/// Groups whose state is encoded at a time.
const PIECE: usize = 256;

/// What is brought to disk makes its index grow, so that more is to go.
const ROUNDS: usize = 3;

/// The table of groups in checkpoints; those of their sets of values follow.
const GROUPS: u8 = 0;

/// Updating aggregation.
///
/// Gives the key columns and the aggregates, as changes: an insert for a new group, an update where
/// its result differs from what was given last, a delete once all of its rows were taken back. Rows
/// of any kind are taken. Without keys there is one group, which is there from the beginning and
/// for ever.
#[derive(Debug, Clone)]
pub struct GroupAggregate {
    /// The columns of the input.
    pub input: SchemaRef,
    /// The columns to group by.
    pub keys: Vec<usize>,
    /// What is computed.
    pub aggregates: Vec<Arc<dyn AggregateSpec>>,
    /// The names of the aggregates.
    pub names: Vec<String>,
    /// How keys are divided.
    pub groups: KeyGroups,
    /// Microseconds of the time of day after which a group that no row came to is forgotten, without
    /// a delete.
    pub ttl: Option<i64>,
}

impl GroupAggregate {
    /// The columns that it gives.
    pub fn schema(&self) -> SchemaRef {
        let keys = self.keys.iter().map(|key| self.input.field(*key).clone());
        let aggregates = self.names.iter().zip(&self.aggregates);
        let aggregates =
            aggregates.map(|(name, aggregate)| Field::new(name, aggregate.value_type(), true));
        Arc::new(Schema::new(keys.chain(aggregates).collect::<Vec<_>>()))
    }
}

impl OperatorSpec for GroupAggregate {
    fn name(&self) -> String {
        let names = self.keys.iter().map(|key| self.input.field(*key).name().as_str());
        match self.keys.as_slice() {
            [] => "aggregate of all".into(),
            _ => format!("aggregate by {}", names.collect::<Vec<_>>().join(", ")),
        }
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let layout = Layout::new(&self.aggregates, &self.input)?;
        let encoder = KeyEncoder::new(&self.input, &self.keys)?;
        Ok(Box::new(Running {
            keys: Keys { map: encoder.map(), groups: self.groups },
            encoder,
            states: layout.converter()?,
            accumulators: Accumulators::new(&layout)?,
            schema: self.schema(),
            rows: Vec::new(),
            changes: Changes::default(),
            pending: Pending::default(),
            expiry: self.ttl.map(Expiry::new),
            clock: Arc::clone(&context.clock),
            // Sets of values stay in memory, and so do the groups that have any.
            spilling: (!self.keys.is_empty() && layout.sets() == 0)
                .then(|| Some(Spilling::new(context.spill.clone()?, self.ttl)))
                .flatten(),
            is_global: self.keys.is_empty(),
            is_ready: false,
        }))
    }
}

#[derive(Debug)]
struct Running {
    encoder: KeyEncoder,
    keys: Keys,
    accumulators: Accumulators,
    states: RowConverter,
    schema: SchemaRef,
    /// How many rows each group has; below zero where one was taken back before it was added.
    rows: Vec<i64>,
    changes: Changes,
    pending: Pending,
    expiry: Option<Expiry>,
    clock: Arc<dyn Clock>,
    /// Groups on disk, where there may be any.
    spilling: Option<Spilling>,
    is_global: bool,
    /// Whether what follows from the loaded state was computed.
    is_ready: bool,
}

/// The groups, by their keys.
#[derive(Debug)]
struct Keys {
    map: KeyMap,
    groups: KeyGroups,
}

impl Owners for Keys {
    fn write(&self, owner: u32, key: &mut Vec<u8>) -> (KeyGroup, EventTime) {
        self.map.write(owner, key);
        (self.groups.group(self.map.hash(owner)), EventTime::MAX)
    }
}

impl Keys {
    fn named(&self) -> Named<'_> {
        Named { owners: self, first: GROUPS + 1 }
    }
}

/// Groups that changed since changes were last given.
#[derive(Debug, Default)]
struct Pending {
    slots: Vec<u32>,
    /// By slot, whether it is among them.
    marked: Vec<bool>,
    /// Whether readers have a row of the group, one for each of `slots`.
    given: Vec<bool>,
    /// What that row's aggregates are, of those that are given: in pieces, in order.
    before: Vec<Vec<ArrayRef>>,
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, _out: &mut Out<'_>) -> Result<Flow> {
        self.ready()?;
        let batch = rows.batch();
        let keys = self.encoder.encode(batch)?;
        let (mut slots, mut new) = (Vec::new(), Vec::new());
        self.keys.map.intern(&keys, &mut slots, &mut new);
        self.resize();
        self.recall(&keys, &slots, &new)?;
        self.mark(&slots)?;
        self.touch(&slots)?;
        if let Some(expiry) = &mut self.expiry {
            expiry.seen(&slots, self.clock.now_micros());
        }
        let Self { accumulators, keys, .. } = self;
        accumulators.update(&slots, batch, rows.kinds(), keys.named())?;
        for (row, slot) in slots.iter().enumerate() {
            self.rows[*slot as usize] += rows.kind(row).sign();
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        // The one group of all is given though no row came.
        if !self.is_ready {
            self.ready()?;
            self.flush(out)?;
        }
        Ok(watermark)
    }

    fn deadline(&self) -> Option<i64> {
        let expiry = self.expiry.as_ref()?;
        let cold = self.spilling.as_ref().and_then(|all| all.cold.deadline(expiry.ttl()));
        [expiry.deadline(), cold].into_iter().flatten().min()
    }

    fn on_time(&mut self, now: i64, out: &mut Out<'_>) -> Result<()> {
        self.ready()?;
        self.flush(out)?;
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        if let Some(spilling) = &mut self.spilling {
            let mut early = self.changes.take_early();
            let (groups, removed) = (self.keys.groups, self.changes.removed());
            spilling.cold.expire(now.saturating_sub(expiry.ttl()), |hash, key, owed| {
                let group = groups.group(hash);
                if let Some(value) = owed {
                    early.set(entry(group, key, value))?;
                }
                removed.remove(group, GROUPS, key)
            })?;
            self.changes.put_early(early);
        }
        let expired = expiry.expired(now);
        expired.into_iter().try_for_each(|slot| self.forget(slot))
    }

    fn flush(&mut self, out: &mut Out<'_>) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.slots.is_empty() {
            self.give(&pending, out)?;
        }
        // Its memory is used again.
        self.pending.marked = pending.marked;
        for slot in pending.slots {
            self.pending.marked[slot as usize] = false;
            if self.rows[slot as usize] == 0 && !self.is_global {
                self.forget(slot)?;
            }
        }
        self.trim()
    }

    fn holds_back(&self) -> bool {
        !self.pending.slots.is_empty()
    }

    fn freeze(&mut self) {
        self.changes.freeze();
        self.accumulators.freeze();
        self.spilling.iter_mut().for_each(|spilling| spilling.cold.freeze());
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        let enough = delta.bytes() + bytes;
        self.changes.drain(delta)?;
        loop {
            if delta.bytes() >= enough {
                return Ok(Flow::More);
            }
            let owed = self.changes.owed(PIECE);
            if owed.is_empty() {
                break;
            }
            self.write(&owed, delta)?;
        }
        if let Some(spilling) = &mut self.spilling {
            let groups = self.keys.groups;
            while spilling
                .cold
                .drain(|hash, key, value| delta.set(entry(groups.group(hash), key, value)))?
            {
                if delta.bytes() >= enough {
                    return Ok(Flow::More);
                }
            }
        }
        let Self { accumulators, keys, .. } = self;
        let done = accumulators.drain(enough, keys.named(), delta)?;
        Ok(if done { Flow::Done } else { Flow::More })
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for part in entries.chunk_by(|a, b| a.table == b.table) {
            if part[0].table == GROUPS {
                self.load_groups(part)?;
                self.trim()?;
                continue;
            }
            for entry in part {
                let Self { accumulators, keys, .. } = self;
                let set = usize::from(entry.table - GROUPS - 1);
                accumulators.load(set, entry, |key| keys.map.read(key))?;
            }
        }
        Ok(())
    }

    fn size(&self) -> StateSize {
        let cold = self.spilling.as_ref().map(|spilling| &spilling.cold);
        let (bytes, keys) = cold.map_or((0, 0), |cold| (cold.bytes(), cold.len()));
        StateSize {
            bytes: (self.bytes() + bytes) as u64,
            keys: (self.keys.map.len() + keys) as u64,
        }
    }
}

impl Running {
    fn resize(&mut self) {
        let bound = self.keys.map.bound();
        self.rows.resize(bound, 0);
        self.pending.marked.resize(bound, false);
        self.changes.resize(bound);
        self.accumulators.resize(bound);
    }

    /// Computes what follows from the loaded state.
    fn ready(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_ready, true) {
            return Ok(());
        }
        self.resize();
        self.accumulators.loaded()?;
        if self.is_global && self.keys.map.is_empty() {
            let nothing = RecordBatch::new_empty(Arc::clone(&self.schema));
            let keys = self.encoder.encode_columns(nothing.columns(), 1)?;
            let (slot, _) = self.keys.map.intern_row(&keys, 0);
            self.resize();
            self.touch(&[slot])?;
            self.pending.slots.push(slot);
            self.pending.given.push(false);
            self.pending.marked[slot as usize] = true;
        }
        Ok(())
    }

    /// Remembers what readers have of groups that are about to change.
    fn mark(&mut self, slots: &[u32]) -> Result<()> {
        let mut given = Vec::new();
        for slot in slots {
            if std::mem::replace(&mut self.pending.marked[*slot as usize], true) {
                continue;
            }
            let is_given = self.rows[*slot as usize] > 0 || self.is_global;
            self.pending.slots.push(*slot);
            self.pending.given.push(is_given);
            if is_given {
                given.push(*slot);
            }
        }
        if !given.is_empty() {
            self.pending.before.push(self.accumulators.values(&given)?);
        }
        Ok(())
    }

    /// Says that groups are about to change.
    fn touch(&mut self, slots: &[u32]) -> Result<()> {
        let changes = &mut self.changes;
        let owed: Vec<u32> = slots.iter().copied().filter(|slot| changes.touch(*slot)).collect();
        self.write_early(&owed)
    }

    fn write_early(&mut self, slots: &[u32]) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let mut early = self.changes.take_early();
        self.write(slots, &mut early)?;
        self.changes.put_early(early);
        Ok(())
    }

    fn write(&self, slots: &[u32], delta: &mut Delta) -> Result<()> {
        self.encode(slots, |slot, key, value| {
            let group = self.keys.groups.group(self.keys.map.hash(slot));
            delta.set(entry(group, key, value))
        })
    }

    /// Calls `each` with groups and what they are in checkpoints: key and value.
    fn encode(
        &self,
        slots: &[u32],
        mut each: impl FnMut(u32, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let columns = self.accumulators.states(slots)?;
        let states = match columns.as_slice() {
            [] => None,
            columns => Some(self.states.convert_columns(columns).map_err(arrow_error)?),
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (row, slot) in slots.iter().enumerate() {
            key.clear();
            value.clear();
            self.keys.map.write(*slot, &mut key);
            value.extend_from_slice(&self.rows[*slot as usize].to_le_bytes());
            value.extend_from_slice(&self.seen(*slot).to_le_bytes());
            if let Some(states) = &states {
                value.extend_from_slice(states.row(row).as_ref());
            }
            each(*slot, &key, &value)?;
        }
        Ok(())
    }

    /// When a row last came to a group, where that is known.
    fn seen(&self, slot: u32) -> i64 {
        self.expiry.as_ref().map_or(0, |expiry| expiry.last(slot))
    }

    fn load_groups(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        let mut groups = Vec::with_capacity(entries.len());
        for entry in entries {
            groups.push((self.keys.map.read(entry.key)?, entry.value));
        }
        self.resize();
        self.decode(groups)
    }

    /// Gives groups that are empty what they were in a checkpoint.
    fn decode<'a>(&mut self, groups: impl IntoIterator<Item = (u32, &'a [u8])>) -> Result<()> {
        let damaged = || Error::new(code::STATE, "an entry of a group's state is damaged");
        let (mut slots, mut states) = (Vec::new(), Vec::new());
        let parser = self.states.parser();
        for (slot, value) in groups {
            let (rows, rest) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
            let (seen, state) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            self.rows[slot as usize] = i64::from_le_bytes(*rows);
            if let Some(expiry) = &mut self.expiry {
                expiry.seen(&[slot], i64::from_le_bytes(*seen));
            }
            slots.push(slot);
            states.push(parser.parse(state));
        }
        let states = match self.accumulators.states(&[])?.is_empty() {
            true => Vec::new(),
            false => self.states.convert_rows(states).map_err(arrow_error)?,
        };
        self.accumulators.merge_states(&slots, &states)
    }

    /// Takes the groups of new keys back that are on disk: those of the rows `new`.
    fn recall(&mut self, keys: &BatchKeys, slots: &[u32], new: &[u32]) -> Result<()> {
        let Some(spilling) = &mut self.spilling else { return Ok(()) };
        if spilling.cold.is_empty() {
            return Ok(());
        }
        let (mut key, mut found) = (Vec::new(), Vec::new());
        for row in new {
            let slot = slots[*row as usize];
            key.clear();
            self.keys.map.write(slot, &mut key);
            let hash = keys.hashes()[*row as usize];
            let Some(Taken { value, owed }) = spilling.cold.take(hash, &key)? else { continue };
            match owed {
                Owed::No => {}
                Owed::Next => {
                    self.changes.touch(slot);
                }
                Owed::Now => {
                    let mut early = self.changes.take_early();
                    early.set(entry(self.keys.groups.group(hash), &key, value))?;
                    self.changes.put_early(early);
                }
            }
            found.push((slot, value.to_vec()));
        }
        if found.is_empty() {
            return Ok(());
        }
        self.decode(found.iter().map(|(slot, value)| (*slot, value.as_slice())))
    }

    /// Bytes in memory, those of the index of groups on disk apart.
    fn bytes(&self) -> usize {
        self.keys.map.bytes()
            + self.accumulators.bytes()
            + 8 * self.rows.capacity()
            + self.changes.bytes()
    }

    /// Brings groups to disk where there are too many. None of them is to be given.
    fn trim(&mut self) -> Result<()> {
        for _ in 0..ROUNDS {
            if self.spilling.is_none() || self.keys.map.is_empty() || !self.trim_once()? {
                break;
            }
        }
        self.spilling.as_mut().map_or(Ok(()), |spilling| spilling.cold.tend())
    }

    /// Whether anything was brought to disk.
    fn trim_once(&mut self) -> Result<bool> {
        let bytes = self.bytes();
        let Some(spilling) = &mut self.spilling else { return Ok(false) };
        let map = &self.keys.map;
        match spilling.excess(bytes, map.len(), map.room()) {
            Excess::Nothing => return Ok(false),
            Excess::Some(mut count) => {
                while let Some(spilling) = self.spilling.as_mut().filter(|_| count > 0) {
                    // Without rows there is no group.
                    let may_go =
                        |slot: u32| self.rows[slot as usize] != 0 && self.changes.is_clean(slot);
                    let slots = spilling.next(self.rows.len(), count.min(PIECE), may_go);
                    if slots.is_empty() {
                        break;
                    }
                    count -= slots.len();
                    self.evict(&slots)?;
                }
            }
            Excess::All => {
                for slots in self.keys.map.slots().chunks(PIECE) {
                    self.evict(slots)?;
                }
                if self.keys.map.is_empty() {
                    self.keys.map = self.encoder.map();
                    self.accumulators.reset()?;
                    (self.rows, self.pending.marked) = (Vec::new(), Vec::new());
                }
            }
        }
        Ok(true)
    }

    /// Brings groups to disk.
    fn evict(&mut self, slots: &[u32]) -> Result<()> {
        let Some(mut spilling) = self.spilling.take() else { return Ok(()) };
        let mut gone = Vec::with_capacity(slots.len());
        self.encode(slots, |slot, key, value| {
            if Cold::has_room(key.len(), value.len()) {
                gone.push(slot);
                let hash = self.keys.map.hash(slot);
                let is_changed = self.changes.is_changed(slot);
                spilling.cold.add(hash, key, value, self.seen(slot), is_changed)?;
            }
            Ok(())
        })?;
        spilling.cold.write()?;
        self.spilling = Some(spilling);
        // The checkpoint that is being made gets what it is still to have of them.
        let changes = &mut self.changes;
        let owed: Vec<u32> = gone.iter().copied().filter(|slot| changes.forget(*slot)).collect();
        self.write_early(&owed)?;
        for slot in gone {
            self.leave(slot)?;
        }
        Ok(())
    }

    /// Gives what changed.
    fn give(&self, pending: &Pending, out: &mut Out<'_>) -> Result<()> {
        let Pending { slots, given, before, .. } = pending;
        let keys = self.encoder.columns(&self.keys.map, slots)?;
        let after = self.accumulators.values(slots)?;
        // The places, among those that readers have, of each group.
        let mut place = 0_usize;
        let old: Vec<Option<usize>> = given
            .iter()
            .map(|given| {
                place += usize::from(*given);
                given.then(|| place - 1)
            })
            .collect();
        let mut before_columns = Vec::new();
        for column in 0..after.len() {
            let pieces: Vec<&dyn Array> =
                before.iter().map(|piece| piece[column].as_ref()).collect();
            before_columns.push(match pieces.as_slice() {
                [] => after[column].slice(0, 0),
                pieces => concat(pieces).map_err(arrow_error)?,
            });
        }
        let rows: UInt32Array =
            (0..slots.len() as u32).filter(|row| given[*row as usize]).map(Some).collect();
        let same = same(&before_columns, &after, &rows)?;
        // Which of the two sides, and the row there.
        let mut changes: Vec<((usize, usize), RowKind)> = Vec::new();
        for (row, slot) in slots.iter().enumerate() {
            let is_there = self.rows[*slot as usize] > 0 || self.is_global;
            match (old[row], is_there) {
                (Some(old), true) if same.as_ref().is_none_or(|same| same.value(old)) => {}
                (Some(old), true) => {
                    changes.push(((0, old), RowKind::UpdateBefore));
                    changes.push(((1, row), RowKind::UpdateAfter));
                }
                (Some(old), false) => changes.push(((0, old), RowKind::Delete)),
                (None, true) => changes.push(((1, row), RowKind::Insert)),
                (None, false) => {}
            }
        }
        let old_keys = keys.iter().map(|key| take(key, &rows, None).map_err(arrow_error));
        let old_columns: Vec<ArrayRef> =
            old_keys.chain(before_columns.into_iter().map(Ok)).collect::<Result<_>>()?;
        let new_columns: Vec<ArrayRef> = keys.into_iter().chain(after).collect();
        let mut rest = changes.as_slice();
        while !rest.is_empty() {
            let mut count = rest.len().min(BATCH_ROWS);
            // The two rows of an update stay together.
            if rest.get(count).is_some_and(|(_, kind)| *kind == RowKind::UpdateAfter) {
                count -= 1;
            }
            let (piece, behind) = rest.split_at(count);
            rest = behind;
            let places: Vec<(usize, usize)> = piece.iter().map(|(place, _)| *place).collect();
            let columns = old_columns.iter().zip(&new_columns).map(|(old, new)| {
                interleave(&[old.as_ref(), new.as_ref()], &places).map_err(arrow_error)
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
                    .map_err(arrow_error)?;
            let kinds = piece.iter().map(|(_, kind)| *kind).collect();
            out.rows(Rows::changes(batch, kinds))?;
        }
        Ok(())
    }

    /// Forgets a group.
    fn forget(&mut self, slot: u32) -> Result<()> {
        if self.changes.forget(slot) {
            self.write_early(&[slot])?;
        }
        let mut key = Vec::new();
        let (group, _) = self.keys.write(slot, &mut key);
        self.changes.removed().remove(group, GROUPS, &key)?;
        self.leave(slot)
    }

    /// Frees the slot of a group whose values are elsewhere, or nowhere.
    fn leave(&mut self, slot: u32) -> Result<()> {
        let Self { accumulators, keys, .. } = self;
        accumulators.clear(slot, keys.named())?;
        self.rows[slot as usize] = 0;
        if let Some(expiry) = &mut self.expiry {
            expiry.forget(slot);
        }
        self.keys.map.remove(slot);
        Ok(())
    }
}

/// An entry of a checkpoint.
fn entry<'a>(group: KeyGroup, key: &'a [u8], value: &'a [u8]) -> Entry<'a> {
    Entry { group, table: GROUPS, key, expires: EventTime::MAX, value }
}

/// Of rows that readers have, whether they are the same as now; `None` where there is no column that
/// could differ.
fn same(
    before: &[ArrayRef],
    after: &[ArrayRef],
    rows: &UInt32Array,
) -> Result<Option<BooleanArray>> {
    let mut same: Option<BooleanArray> = None;
    for (before, after) in before.iter().zip(after) {
        let after = take(after, rows, None).map_err(arrow_error)?;
        let equal = not_distinct(before, &after).map_err(arrow_error)?;
        same = Some(match same {
            None => equal,
            Some(known) => and(&known, &equal).map_err(arrow_error)?,
        });
    }
    Ok(same)
}

#[cfg(test)]
mod tests;
