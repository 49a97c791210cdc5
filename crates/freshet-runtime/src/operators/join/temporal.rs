//! The join of rows with a table as it was at their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use freshet_core::rows::{RowKind, Rows, arrow_error};
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::EventTime;
use freshet_core::{Error, Result};

use super::progress::{self, Progress};
use super::sides::{KeyColumns, Sides, take_columns};
use super::{BATCH_ROWS, JoinKind, LEFT, Pairing, RIGHT, only_inserts, times_of};
use crate::operator::{
    Counts, Flow, LATE, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::rows::{NONE, Options, RowRef, Times};
use crate::state::{Delta, Entry, KeyGroups};

/// A join of rows with the version that a table had of their key at their time:
/// `left JOIN right FOR SYSTEM_TIME AS OF left.time`.
///
/// Input 0 is the left side, which gives inserts alone; input 1 is the table's changelog, whose key is its
/// primary key. Each of its rows is a version that holds from its time on, until that of the next one;
/// a row of kind [`Delete`](RowKind::Delete) says that there is none. Of two versions of one time the one
/// that came last counts; rows of kind [`UpdateBefore`](RowKind::UpdateBefore) are not looked at. A left
/// row waits until the watermark has come to its time; one that comes later than that goes to [`LATE`].
/// Versions that nobody can ask for any more are forgotten.
#[derive(Debug, Clone)]
pub struct TemporalJoin {
    /// Which rows it gives: inner or left.
    pub kind: JoinKind,
    /// The columns of the left side.
    pub left: SchemaRef,
    /// The columns of the table.
    pub right: SchemaRef,
    /// The columns of the left side that are to equal the table's key.
    pub left_keys: Vec<usize>,
    /// The columns of the table's key, of the same types.
    pub right_keys: Vec<usize>,
    /// The column of the left rows' time, a timestamp in microseconds.
    pub left_time: usize,
    /// The column of the versions' time, a timestamp in microseconds.
    pub right_time: usize,
    /// What is to hold of left and right columns beside; a Boolean over [`Self::schema`].
    pub residual: Option<Arc<dyn ScalarExpr>>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl TemporalJoin {
    /// The columns that it gives: left, then right ones.
    pub fn schema(&self) -> SchemaRef {
        self.kind.schema(&self.left, &self.right)
    }
}

impl OperatorSpec for TemporalJoin {
    fn name(&self) -> String {
        let keys = self.left_keys.iter().zip(&self.right_keys);
        let keys = keys.map(|(left, right)| {
            format!("{} = {}", self.left.field(*left).name(), self.right.field(*right).name())
        });
        let keys: Vec<_> = keys.collect();
        format!("{} temporal join on {}", self.kind.name(), keys.join(" and "))
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        if !matches!(self.kind, JoinKind::Inner | JoinKind::Left) {
            return Err(Error::internal("a temporal join is an inner or a left one"));
        }
        let schemas = [&self.left, &self.right];
        let columns = KeyColumns::new(schemas, [&self.left_keys, &self.right_keys])?;
        let options = [true, false].map(|is_left| Options {
            groups: self.groups,
            table: u8::from(!is_left),
            prefix: Vec::new(),
            // A version is forgotten when another one has taken its place.
            dies: is_left,
            span: i64::MAX,
            end: i64::MAX,
            counts: false,
        });
        Ok(Box::new(Running {
            pairing: Pairing::new(self.kind, &self.left, &self.right, self.residual.clone()),
            sides: Sides::new(columns.map(), schemas, options, context.spill.clone()),
            columns,
            spec: self.clone(),
            progress: Progress::new(context),
            waiting: BinaryHeap::new(),
            arrived: 0,
            replacing: BinaryHeap::new(),
            is_restored: false,
            late: 0,
            unmatched: 0,
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: TemporalJoin,
    pairing: Pairing,
    columns: KeyColumns,
    /// Left rows that wait, and versions: of each key from the latest to the earliest, each time once.
    /// A version that says that there is none is marked.
    sides: Sides,
    progress: Progress,
    /// Left rows by their time, and by their arrival.
    waiting: BinaryHeap<Reverse<(i64, u64, RowRef)>>,
    arrived: u64,
    /// Times of versions with their keys: once the watermark is there, nobody asks for earlier ones.
    replacing: BinaryHeap<Reverse<(i64, u32)>>,
    /// Whether rows were restored that are in neither of them.
    is_restored: bool,
    late: u64,
    unmatched: u64,
}

impl Operator for Running {
    fn on_rows(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        self.prepare();
        match input {
            LEFT => self.take_left(rows, out)?,
            RIGHT => self.take_versions(&rows)?,
            _ => return Err(Error::internal(format!("a join has no input {input}"))),
        }
        self.sides.trim()?;
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        self.prepare();
        self.progress.advance(watermark);
        let watermark = self.progress.watermark();
        while self.join_some(watermark, out)? {}
        let mut gone = Vec::new();
        self.sides.stores[LEFT].expire(watermark.0, |_, key| gone.push(key))?;
        while let Some(Reverse((time, key))) = self.replacing.peek().copied() {
            if time > watermark.0 {
                break;
            }
            self.replacing.pop();
            // The number may be that of another key by now, or of none.
            if self.sides.stores[RIGHT].count(key) > 0 {
                self.forget_versions(key, watermark.0);
                gone.push(key);
            }
        }
        self.sides.forget(gone);
        self.sides.stores[RIGHT].maintain_some()?;
        Ok(watermark)
    }

    fn freeze(&mut self) {
        self.progress.freeze();
        self.sides.freeze();
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if self.sides.drain(bytes, delta)? == Flow::More {
            return Ok(Flow::More);
        }
        if self.progress.frozen() > EventTime::MIN {
            delta.floor(LEFT as u8, self.progress.frozen());
        }
        self.progress.drain(delta)?;
        Ok(Flow::Done)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        self.is_restored = true;
        for entry in entries {
            let side = usize::from(entry.table);
            if entry.table == progress::TABLE {
                self.progress.load(entry)?;
                continue;
            }
            let column = match side {
                LEFT => self.spec.left_time,
                RIGHT => self.spec.right_time,
                _ => {
                    return Err(Error::internal(format!("a temporal join has no table {side}")));
                }
            };
            let times = |batch: &RecordBatch| Ok(Some(times_of(batch, column)?.to_vec()));
            self.sides.load(&self.columns, side, entry, entry.key, times)?;
        }
        self.sides.trim()
    }

    fn size(&self) -> StateSize {
        let StateSize { bytes, keys } = self.sides.size();
        let heaps = 24 * self.waiting.capacity() + 16 * self.replacing.capacity();
        StateSize { bytes: bytes + heaps as u64, keys }
    }

    fn counts(&self) -> Counts {
        Counts { late: self.late, unmatched: self.unmatched, ..Counts::default() }
    }
}

impl Running {
    fn take_left(&mut self, rows: Rows, out: &mut Out<'_>) -> Result<()> {
        only_inserts(&rows, "the left side of a temporal join")?;
        let now = self.progress.watermark().0;
        let late = times_of(rows.batch(), self.spec.left_time)?.iter().map(|time| *time <= now);
        let late: Vec<bool> = late.collect();
        let count = late.iter().filter(|late| **late).count();
        let rows = if count == 0 {
            rows
        } else {
            self.late += count as u64;
            let late = BooleanArray::from(late);
            out.late(LATE, rows.clone().filter(&late)?, EventTime(now))?;
            rows.filter(&arrow::compute::not(&late).map_err(arrow_error)?)?
        };
        let times = times_of(rows.batch(), self.spec.left_time)?;
        let (keys, nulls) = self.columns.encode(LEFT, rows.batch())?;
        let slots = self.sides.intern(&keys, nulls.as_ref());
        let batch = rows.batch();
        let all = |_| true;
        let refs = self.sides.append(LEFT, batch, &keys, &slots, all, Times::Each(times))?;
        for (row, time) in refs.iter().zip(times).filter(|(row, _)| **row != NONE) {
            self.sides.stores[LEFT].link(*row);
            self.waiting.push(Reverse((*time, self.arrived, *row)));
            self.arrived += 1;
        }
        // What has a null in its key need not wait.
        let alone = slots.iter().enumerate().filter(|(_, slot)| **slot == NONE);
        let alone: Vec<u32> = alone.map(|(row, _)| row as u32).collect();
        self.unmatched += alone.len() as u64;
        if alone.is_empty() || self.spec.kind != JoinKind::Left {
            return Ok(());
        }
        let own = take_columns(rows.batch(), &alone, false)?;
        let others = self.spec.right.fields().iter();
        let others = others.map(|field| new_null_array(field.data_type(), alone.len())).collect();
        out.rows(Rows::inserts(self.pairing.join(LEFT, own, others, alone.len())?))
    }

    fn take_versions(&mut self, rows: &Rows) -> Result<()> {
        let times = times_of(rows.batch(), self.spec.right_time)?;
        let (keys, nulls) = self.columns.encode(RIGHT, rows.batch())?;
        let slots = self.sides.intern(&keys, nulls.as_ref());
        let is_version = |row: usize| rows.kind(row) != RowKind::UpdateBefore;
        let batch = rows.batch();
        let refs =
            self.sides.append(RIGHT, batch, &keys, &slots, is_version, Times::Each(times))?;
        for (row, name) in refs.iter().enumerate().filter(|(_, name)| **name != NONE) {
            self.put(*name, slots[row], times[row]);
            if rows.kind(row) == RowKind::Delete {
                self.sides.stores[RIGHT].mark(*name);
            }
            self.replacing.push(Reverse((times[row], slots[row])));
        }
        if refs.contains(&NONE) {
            self.sides.forget(slots);
        }
        Ok(())
    }

    /// Puts a version among the others of its key; takes the one of the same time away.
    fn put(&mut self, name: RowRef, key: u32, time: i64) {
        let store = &mut self.sides.stores[RIGHT];
        let (mut before, mut next) = (NONE, store.first(key));
        while next != NONE && store.time(next) > time {
            before = next;
            next = store.after(next);
        }
        match before {
            NONE => store.link(name),
            before => store.link_behind(before, name),
        }
        if next != NONE && store.time(next) == time {
            store.remove(next);
        }
    }

    /// The version of a key at a time, if there is any.
    fn version(&self, key: u32, time: i64) -> RowRef {
        let store = &self.sides.stores[RIGHT];
        let found = store.of(key).find(|version| store.time(*version) <= time);
        found.filter(|version| !store.is_marked(*version)).unwrap_or(NONE)
    }

    /// Forgets the versions of a key that nobody asks for once time has come to `now`.
    fn forget_versions(&mut self, key: u32, now: i64) {
        let store = &mut self.sides.stores[RIGHT];
        let mut row = store.first(key);
        let mut is_replaced = false;
        while row != NONE {
            let next = store.after(row);
            let holds = !is_replaced && store.time(row) <= now;
            // That there is none needs no row.
            if is_replaced || (holds && store.is_marked(row)) {
                store.remove(row);
            }
            is_replaced |= holds;
            row = next;
        }
    }

    /// Joins some of the rows whose time has come; `false` where there is none.
    fn join_some(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<bool> {
        let (mut own, mut versions) = (Vec::new(), Vec::new());
        while own.len() < BATCH_ROWS
            && let Some(Reverse((time, _, row))) = self.waiting.peek().copied()
            && time <= watermark.0
        {
            self.waiting.pop();
            own.push(row);
            versions.push(self.version(self.sides.stores[LEFT].key(row), time));
        }
        if own.is_empty() {
            return Ok(false);
        }
        self.join(&own, &versions, out)?;
        Ok(true)
    }

    fn join(&mut self, own: &[RowRef], versions: &[RowRef], out: &mut Out<'_>) -> Result<()> {
        let is_left = self.spec.kind == JoinKind::Left;
        let none = versions.iter().filter(|version| **version == NONE).count();
        self.unmatched += none as u64;
        if none > 0 && !is_left {
            let pairs = own.iter().zip(versions).filter(|(_, version)| **version != NONE);
            let (own, versions): (Vec<_>, Vec<_>) =
                pairs.map(|(own, other)| (*own, *other)).unzip();
            return if own.is_empty() { Ok(()) } else { self.join(&own, &versions, out) };
        }
        let left = self.sides.stores[LEFT].gather(own, false)?;
        let right = self.sides.stores[RIGHT].gather(versions, none > 0)?;
        let batch = self.pairing.join(LEFT, left.clone(), right, own.len())?;
        let batch = match self.pairing.matches(&batch)? {
            None => batch,
            Some(matches) => {
                let pairs = versions.iter().filter(|version| **version != NONE).count();
                // Nulls of a row without a version may be what the condition asks for.
                let matches: BooleanArray = (0..own.len())
                    .map(|row| Some(matches.value(row) && versions[row] != NONE))
                    .collect();
                self.unmatched += (pairs - matches.true_count()) as u64;
                match is_left {
                    false => filter_record_batch(&batch, &matches).map_err(arrow_error)?,
                    true => self.pad_unmatched(left, &batch, &matches)?,
                }
            }
        };
        if batch.num_rows() > 0 {
            out.rows(Rows::inserts(batch))?;
        }
        Ok(())
    }

    /// The same rows, with nulls for right columns where they do not match.
    fn pad_unmatched(
        &self,
        left: Vec<ArrayRef>,
        batch: &RecordBatch,
        matches: &BooleanArray,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let not = arrow::compute::not(matches).map_err(arrow_error)?;
        let right = batch.columns()[left.len()..].iter();
        let right = right.map(|column| match column.data_type() {
            arrow::datatypes::DataType::Null => Ok(Arc::clone(column)),
            _ => arrow::compute::nullif(column, &not).map_err(arrow_error),
        });
        let right = right.collect::<Result<Vec<_>>>()?;
        self.pairing.join(LEFT, left, right, rows)
    }

    /// Lets restored rows wait as they did.
    fn prepare(&mut self) {
        if !std::mem::take(&mut self.is_restored) {
            return;
        }
        let now = self.progress.watermark().0;
        let store = &self.sides.stores[LEFT];
        let left = store.all().map(|row| (store.time(row), row));
        let left = left.filter(|(time, _)| *time > now).enumerate();
        self.waiting =
            left.map(|(place, (time, row))| Reverse((time, place as u64, row))).collect();
        self.arrived = self.waiting.len() as u64;
        let store = &mut self.sides.stores[RIGHT];
        store.sort_by_time();
        let versions = store.all().map(|row| Reverse((store.time(row), store.key(row))));
        self.replacing = versions.collect();
    }
}

#[cfg(test)]
#[path = "temporal_tests.rs"]
mod tests;
