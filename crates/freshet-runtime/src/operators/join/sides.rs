//! The rows of both sides of a join, under common keys.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use freshet_core::rows::arrow_error;
use freshet_core::{Error, Result};

use super::{BATCH_ROWS, LEFT};
use crate::keys::{KeyEncoder, KeyMap, Keys};
use crate::operator::{Flow, StateSize};
use crate::state::rows::{Loaded, NONE, Options, Restored, RowRef, RowStore, Times};
use crate::state::{Allowance, Delta, Entry, KeyGroup, KeyGroups, SpillOptions};

/// What both sides of a join are made of.
#[derive(Debug)]
pub(super) struct KeyColumns {
    encoders: [KeyEncoder; 2],
    columns: [Vec<usize>; 2],
}

impl KeyColumns {
    /// The columns of both sides that are to be equal, in pairs.
    pub(super) fn new(schemas: [&SchemaRef; 2], columns: [&[usize]; 2]) -> Result<Self> {
        let [left, right] = [0, 1].map(|side| KeyEncoder::new(schemas[side], columns[side]));
        let encoders = [left?, right?];
        if encoders[0].types() != encoders[1].types() {
            return Err(Error::internal("the keys of a join differ in their types"));
        }
        Ok(Self { encoders, columns: columns.map(<[usize]>::to_vec) })
    }

    /// The keys of a batch's rows, and which of them have no null.
    pub(super) fn encode(
        &self,
        side: usize,
        batch: &RecordBatch,
    ) -> Result<(Keys, Option<NullBuffer>)> {
        let keys = self.encoders[side].encode(batch)?;
        let nulls = self.columns[side].iter().fold(None, |nulls, column| {
            NullBuffer::union(nulls.as_ref(), batch.column(*column).logical_nulls().as_ref())
        });
        Ok((keys, nulls.filter(|nulls| nulls.null_count() > 0)))
    }

    /// An empty table of keys.
    pub(super) fn map(&self) -> KeyMap {
        self.encoders[LEFT].map()
    }
}

/// Keys, and the rows that each has on both sides.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) keys: KeyMap,
    pub(super) stores: [RowStore; 2],
    groups: KeyGroups,
    /// The segment that was restored last, with its side.
    restored: Option<(usize, KeyGroup, u64, Range<RowRef>)>,
    spill: Option<Allowance>,
    /// What went wrong when a checkpoint was cut: said as soon as somebody can be told.
    failed: Option<Error>,
}

impl Sides {
    pub(super) fn new(
        keys: KeyMap,
        schemas: [&SchemaRef; 2],
        options: [Options; 2],
        spill: Option<SpillOptions>,
    ) -> Self {
        let groups = options[0].groups;
        let [left, right] = options;
        let stores =
            [RowStore::new(schemas[0].clone(), left), RowStore::new(schemas[1].clone(), right)];
        let spill = spill.map(Allowance::new);
        Self { keys, stores, groups, restored: None, spill, failed: None }
    }

    /// The numbers of the keys of a batch's rows; [`NONE`] for keys with a null.
    pub(super) fn intern(&mut self, keys: &Keys, nulls: Option<&NullBuffer>) -> Vec<u32> {
        let mut slots = Vec::new();
        match nulls {
            None => self.keys.intern(keys, &mut slots, &mut Vec::new()),
            Some(nulls) => slots.extend((0..keys.len()).map(|row| {
                if nulls.is_valid(row) { self.keys.intern_row(keys, row).0 } else { NONE }
            })),
        }
        for store in &mut self.stores {
            store.resize(self.keys.bound());
        }
        slots
    }

    /// Takes rows of a side that have a key and of which `keep` holds, as far as they are chosen;
    /// gives their names, [`NONE`] for others.
    pub(super) fn append(
        &mut self,
        side: usize,
        batch: &RecordBatch,
        keys: &Keys,
        slots: &[u32],
        keep: impl Fn(usize) -> bool,
        times: Times<'_>,
    ) -> Result<Vec<RowRef>> {
        let groups = self.groups;
        let hashes = keys.hashes();
        let group = |row: usize| groups.group(hashes[row]);
        let is_kept = |row: &usize| slots[*row] != NONE && keep(*row);
        let kept = (0..slots.len()).filter(is_kept).count();
        if kept == slots.len() {
            return self.stores[side].append(batch, slots, group, times);
        }
        let mut refs = vec![NONE; slots.len()];
        if kept == 0 {
            return Ok(refs);
        }
        let chosen: Vec<usize> = (0..slots.len()).filter(is_kept).collect();
        let indices = UInt32Array::from_iter_values(chosen.iter().map(|row| *row as u32));
        let part = arrow::compute::take_record_batch(batch, &indices).map_err(arrow_error)?;
        let part_slots: Vec<u32> = chosen.iter().map(|row| slots[*row]).collect();
        let chosen_times: Vec<i64>;
        let times = match times {
            Times::Each(all) => {
                chosen_times = chosen.iter().map(|row| all[*row]).collect();
                Times::Each(&chosen_times)
            }
            other => other,
        };
        let names =
            self.stores[side].append(&part, &part_slots, |row| group(chosen[row]), times)?;
        for (row, name) in chosen.into_iter().zip(names) {
            refs[row] = name;
        }
        Ok(refs)
    }

    /// Forgets keys of which no side has a row.
    pub(super) fn forget(&mut self, mut slots: Vec<u32>) {
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            if slot != NONE && self.stores.iter().all(|store| store.count(slot) == 0) {
                self.keys.remove(slot);
            }
        }
    }

    /// Takes an entry of a checkpoint, whose key is without prefix. `times` gives those of a batch's
    /// rows, where they have any.
    pub(super) fn load(
        &mut self,
        columns: &KeyColumns,
        side: usize,
        entry: &Entry<'_>,
        key: &[u8],
        times: impl Fn(&RecordBatch) -> Result<Option<Vec<i64>>>,
    ) -> Result<()> {
        let schema = self.stores[side].schema().clone();
        match RowStore::read(&schema, key, entry.value)? {
            Loaded::Nothing => self.restored = None,
            Loaded::Rows { number, batch, marks } => {
                let (keys, nulls) = columns.encode(side, &batch)?;
                let slots = self.intern(&keys, nulls.as_ref());
                if slots.contains(&NONE) {
                    return Err(Error::internal("a row without a key was kept"));
                }
                let times = times(&batch)?;
                let rows = self.stores[side].restore(&Restored {
                    batch: &batch,
                    keys: &slots,
                    group: entry.group,
                    number,
                    marks,
                    expires: entry.expires.0,
                    times: times.as_deref().map_or(Times::None, Times::Each),
                })?;
                self.restored = Some((side, entry.group, number, rows));
            }
            Loaded::Bits { number, bits } => {
                // Where the rows are not there, they were removed, or are dead by themselves.
                let restored = self.restored.take();
                let same = |(of, group, other, _): &(usize, KeyGroup, u64, _)| {
                    (*of, *group, *other) == (side, entry.group, number)
                };
                if let Some((_, _, _, rows)) = restored.filter(same) {
                    let gone = self.stores[side].restore_bits(rows, bits)?;
                    self.forget(gone);
                }
            }
        }
        Ok(())
    }

    /// Cuts a checkpoint.
    pub(super) fn freeze(&mut self) {
        self.failed = self.stores.iter_mut().try_for_each(RowStore::freeze).err();
    }

    /// Gives entries of the frozen checkpoint, about `bytes` of them.
    pub(super) fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        let enough = delta.bytes() + bytes;
        for store in &mut self.stores {
            if !store.drain(enough, delta)? {
                return Ok(Flow::More);
            }
        }
        Ok(Flow::Done)
    }

    /// Writes rows to disk until what is left in memory is below the budget.
    pub(super) fn trim(&mut self) -> Result<()> {
        let bytes = self.size().bytes as usize;
        let Some(allowance) = &mut self.spill else { return Ok(()) };
        let (budget, scratch) = (allowance.of(bytes), allowance.scratch());
        loop {
            let bytes = self.size().bytes as usize;
            if bytes <= budget {
                return Ok(());
            }
            let [left, right] = &mut self.stores;
            if left.resident() + right.resident() == 0 {
                left.close_above(budget / 4)?;
                right.close_above(budget / 4)?;
            }
            let larger = if left.resident() > right.resident() { left } else { right };
            if larger.resident() == 0 || !larger.spill(&*scratch)? {
                break;
            }
        }
        // Rows that were read lately may have an eighth, or what is left of the budget.
        let cached: usize = self.stores.iter().map(RowStore::cached).sum();
        let rest = budget.saturating_sub(self.size().bytes as usize - cached);
        for store in &mut self.stores {
            store.shrink_cache(rest.max(budget / 8) / 2);
        }
        Ok(())
    }

    pub(super) fn size(&self) -> StateSize {
        let bytes = self.stores.iter().map(RowStore::bytes).sum::<usize>() + self.keys.bytes();
        StateSize { bytes: bytes as u64, keys: self.keys.len() as u64 }
    }
}

/// How far the rows of a batch were held against those of the other side.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// The row whose turn it is.
    pub(super) row: usize,
    /// Its next candidate, once its turn has begun.
    next: Option<RowRef>,
}

/// Pairs of rows whose keys are equal.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) rows: Vec<u32>,
    pub(super) refs: Vec<RowRef>,
    /// The rows that end here, each with the number of pairs up to its end.
    pub(super) ends: Vec<(usize, usize)>,
}

/// Candidates that are looked at in one go, taken or not.
const LOOKED_AT: usize = 8 * BATCH_ROWS;

impl Cursor {
    /// The next pairs of rows with these keys and rows of the other side that `accept` takes.
    pub(super) fn candidates(
        &mut self,
        slots: &[u32],
        other: &RowStore,
        accept: impl Fn(usize, RowRef) -> bool,
    ) -> Candidates {
        let mut candidates = Candidates::default();
        let mut left = LOOKED_AT;
        while self.row < slots.len() && candidates.rows.len() < BATCH_ROWS {
            let slot = slots[self.row];
            let first = || if slot == NONE { NONE } else { other.first(slot) };
            let mut next = self.next.take().unwrap_or_else(first);
            while next != NONE && candidates.rows.len() < BATCH_ROWS && left > 0 {
                left -= 1;
                if accept(self.row, next) {
                    candidates.rows.push(self.row as u32);
                    candidates.refs.push(next);
                }
                next = other.after(next);
            }
            if next != NONE {
                self.next = Some(next);
                break;
            }
            candidates.ends.push((self.row, candidates.rows.len()));
            self.row += 1;
        }
        candidates
    }
}

/// The rows `indices` of a batch's columns; nulls for [`NONE`], where `any_none`.
pub(super) fn take_columns(
    batch: &RecordBatch,
    indices: &[u32],
    any_none: bool,
) -> Result<Vec<ArrayRef>> {
    let is_all = || indices.iter().enumerate().all(|(place, index)| place as u32 == *index);
    if indices.len() == batch.num_rows() && is_all() {
        return Ok(batch.columns().to_vec());
    }
    let indices: UInt32Array = match any_none {
        true => indices.iter().map(|index| (*index != NONE).then_some(*index)).collect(),
        false => UInt32Array::from(indices.to_vec()),
    };
    let columns = batch.columns().iter().map(|column| take(column, &indices, None));
    columns.collect::<std::result::Result<_, _>>().map_err(arrow_error)
}
