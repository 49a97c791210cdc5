//! The join of rows whose times lie near to each other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::EventTime;
use freshet_core::{Error, Result};

use super::progress::{self, Progress};
use super::sides::{Candidates, Cursor, KeyColumns, Sides, take_columns};
use super::{BATCH_ROWS, CALL_ROWS, JoinKind, LEFT, Pairing, only_inserts, times_of};
use crate::operator::{
    Counts, Flow, LATE, LATE_RIGHT, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::rows::{NONE, Options, RowRef, Times};
use crate::state::{Delta, Entry, KeyGroups};

/// A join of rows that come once, on equal columns and on times that lie within bounds of each other:
/// `left.time BETWEEN right.time + lower AND right.time + upper`.
///
/// Input 0 is the left side, input 1 the right one; both give inserts alone. A row is kept until the
/// watermark says that no partner can come any more; one that an outer join pads is given then, if it
/// had none. A row that comes behind the watermark is joined with what is still there; one that can
/// match nothing any more goes to [`LATE`] or [`LATE_RIGHT`]. The watermark that is handed on stays behind
/// by [`Self::delay`], as rows with times as old as that may still be given.
#[derive(Debug, Clone)]
pub struct IntervalJoin {
    /// Which rows it gives; not semi or anti.
    pub kind: JoinKind,
    /// The columns of the left side.
    pub left: SchemaRef,
    /// The columns of the right side.
    pub right: SchemaRef,
    /// The columns of the left side that are to be equal.
    pub left_keys: Vec<usize>,
    /// The columns of the right side that they are to equal, of the same types.
    pub right_keys: Vec<usize>,
    /// The column of the left rows' time, a timestamp in microseconds.
    pub left_time: usize,
    /// The column of the right rows' time, a timestamp in microseconds.
    pub right_time: usize,
    /// How far the left row's time is behind that of the right one at least, in microseconds;
    /// usually below zero.
    pub lower: i64,
    /// How far the left row's time is behind that of the right one at most, in microseconds.
    pub upper: i64,
    /// What is to hold of left and right columns beside; a Boolean over [`Self::schema`].
    pub residual: Option<Arc<dyn ScalarExpr>>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl IntervalJoin {
    /// The columns that it gives: left, then right ones.
    pub fn schema(&self) -> SchemaRef {
        self.kind.schema(&self.left, &self.right)
    }

    /// How many microseconds the rows that it gives may be behind the watermark, by either of their
    /// times.
    pub fn delay(&self) -> i64 {
        self.lower.saturating_neg().max(self.upper).max(0)
    }
}

impl OperatorSpec for IntervalJoin {
    fn name(&self) -> String {
        let keys = self.left_keys.iter().zip(&self.right_keys);
        let keys = keys.map(|(left, right)| {
            format!("{} = {}", self.left.field(*left).name(), self.right.field(*right).name())
        });
        let keys: Vec<_> = keys.collect();
        format!("{} interval join on {}", self.kind.name(), keys.join(" and "))
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        if self.kind.is_left_alone() {
            return Err(Error::internal("an interval join gives columns of both sides"));
        }
        let schemas = [&self.left, &self.right];
        let columns = KeyColumns::new(schemas, [&self.left_keys, &self.right_keys])?;
        let options = [0, 1].map(|side| Options {
            groups: self.groups,
            table: side as u8,
            prefix: Vec::new(),
            dies: true,
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
            waiting: [BinaryHeap::new(), BinaryHeap::new()],
            is_restored: false,
            pending: None,
            late: 0,
            unmatched: 0,
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: IntervalJoin,
    pairing: Pairing,
    columns: KeyColumns,
    /// The time of a row there is when it dies: when the watermark has come so far, no partner of
    /// it can come any more.
    sides: Sides,
    progress: Progress,
    /// By side, rows that are padded when they die, unless they were matched: with that time.
    waiting: [BinaryHeap<Reverse<(i64, RowRef)>>; 2],
    /// Whether rows were restored that are not among those.
    is_restored: bool,
    pending: Option<Pending>,
    late: u64,
    unmatched: u64,
}

/// Rows that were taken, and how far they were joined.
#[derive(Debug)]
struct Pending {
    side: usize,
    rows: Rows,
    slots: Vec<u32>,
    /// The names of those that are kept.
    refs: Vec<RowRef>,
    times: Vec<i64>,
    cursor: Cursor,
    /// Whether the row whose pairs are being given has matched any.
    is_matched: bool,
}

impl Operator for Running {
    fn on_rows(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        if input > 1 {
            return Err(Error::internal(format!("a join has no input {input}")));
        }
        only_inserts(&rows, "an interval join")?;
        self.prepare();
        let rows = self.sort_out_late(input, rows, out)?;
        let times = times_of(rows.batch(), self.time_column(input))?.to_vec();
        let (keys, nulls) = self.columns.encode(input, rows.batch())?;
        let slots = self.sides.intern(&keys, nulls.as_ref());
        let dies: Vec<i64> = times.iter().map(|time| self.dies(input, *time)).collect();
        let now = self.progress.watermark().0;
        let refs = self.sides.append(
            input,
            rows.batch(),
            &keys,
            &slots,
            |row| dies[row] > now,
            Times::Each(&dies),
        )?;
        self.pending = Some(Pending {
            side: input,
            rows,
            slots,
            refs,
            times,
            cursor: Cursor::default(),
            is_matched: false,
        });
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Out<'_>) -> Result<Flow> {
        let Some(mut pending) = self.pending.take() else { return Ok(Flow::Done) };
        let mut given = 0;
        while pending.cursor.row < pending.rows.len() {
            if given >= CALL_ROWS {
                self.pending = Some(pending);
                return Ok(Flow::More);
            }
            given += self.join_some(&mut pending, out)?;
        }
        let Pending { slots, refs, .. } = pending;
        // Rows that were not kept may have brought keys that nobody has.
        if refs.contains(&NONE) {
            self.sides.forget(slots);
        }
        self.sides.trim()?;
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        self.prepare();
        self.progress.advance(watermark);
        let watermark = self.progress.watermark();
        for side in [0, 1] {
            self.pad_dead(side, watermark, out)?;
            let mut gone = Vec::new();
            self.sides.stores[side].expire(watermark.0, |_, key| gone.push(key))?;
            self.sides.forget(gone);
        }
        Ok(match watermark {
            EventTime::MAX => EventTime::MAX,
            EventTime(time) => EventTime(time.saturating_sub(self.spec.delay())),
        })
    }

    fn freeze(&mut self) {
        self.prepare();
        self.progress.freeze();
        self.sides.freeze();
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if self.sides.drain(bytes, delta)? == Flow::More {
            return Ok(Flow::More);
        }
        let frozen = self.progress.frozen();
        if frozen > EventTime::MIN {
            delta.floor(0, frozen);
            delta.floor(1, frozen);
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
            if side > 1 {
                return Err(Error::internal(format!("an interval join has no table {side}")));
            }
            let (spec, column) = (&self.spec, self.time_column(side));
            let times = |batch: &RecordBatch| {
                let times = times_of(batch, column)?.iter();
                Ok(Some(times.map(|time| dies(spec, side, *time)).collect()))
            };
            self.sides.load(&self.columns, side, entry, entry.key, times)?;
        }
        self.sides.trim()
    }

    fn size(&self) -> StateSize {
        let StateSize { bytes, keys } = self.sides.size();
        let waiting: usize = self.waiting.iter().map(BinaryHeap::capacity).sum();
        StateSize { bytes: bytes + 16 * waiting as u64, keys }
    }

    fn counts(&self) -> Counts {
        Counts { late: self.late, unmatched: self.unmatched, ..Counts::default() }
    }
}

/// When no partner of a row of this time can come any more: once the watermark is here.
fn dies(spec: &IntervalJoin, side: usize, time: i64) -> i64 {
    if side == LEFT { time.saturating_sub(spec.lower) } else { time.saturating_add(spec.upper) }
}

impl Running {
    fn time_column(&self, side: usize) -> usize {
        if side == LEFT { self.spec.left_time } else { self.spec.right_time }
    }

    fn dies(&self, side: usize, time: i64) -> i64 {
        dies(&self.spec, side, time)
    }

    /// The time of a row that dies at `dies`.
    fn time(&self, side: usize, dies: i64) -> i64 {
        match side {
            LEFT => dies.saturating_add(self.spec.lower),
            _ => dies.saturating_sub(self.spec.upper),
        }
    }

    /// Sets the rows apart that can match nothing any more; gives the others.
    fn sort_out_late(&mut self, side: usize, rows: Rows, out: &mut Out<'_>) -> Result<Rows> {
        let now = self.progress.watermark().0;
        let column = self.time_column(side);
        // How long the last partner of a row lives on once no other one can come.
        let lives_on =
            if side == LEFT { self.spec.upper } else { self.spec.lower.saturating_neg() };
        let is_late = |time: &i64| self.dies(side, *time).saturating_add(lives_on.max(0)) <= now;
        let late: Vec<bool> = times_of(rows.batch(), column)?.iter().map(is_late).collect();
        let count = late.iter().filter(|late| **late).count();
        if count == 0 {
            return Ok(rows);
        }
        self.late += count as u64;
        let late = BooleanArray::from(late);
        let port = if side == LEFT { LATE } else { LATE_RIGHT };
        out.late(port, rows.clone().filter(&late)?, EventTime(now))?;
        rows.filter(&arrow::compute::not(&late).map_err(arrow_error)?)
    }

    /// Joins a piece of what was taken; gives the number of rows that were looked at.
    fn join_some(&mut self, pending: &mut Pending, out: &mut Out<'_>) -> Result<usize> {
        let (side, other) = (pending.side, 1 - pending.side);
        let now = self.progress.watermark().0;
        let store = &self.sides.stores[other];
        let (lower, upper) = (self.spec.lower, self.spec.upper);
        let Pending { times, slots, cursor, .. } = &mut *pending;
        let candidates = cursor.candidates(slots, store, |row, partner| {
            let dies = store.time(partner);
            let partner = self.time(other, dies);
            let (left, right) =
                if side == LEFT { (times[row], partner) } else { (partner, times[row]) };
            let lies = left >= right.saturating_add(lower) && left <= right.saturating_add(upper);
            // One that is dead was padded.
            lies && dies > now
        });
        let matches = self.give_pairs(pending, &candidates, out)?;
        let is_match = |pair: usize| matches.as_ref().is_none_or(|matches| matches.value(pair));
        if self.spec.kind.pads(other) {
            for (pair, partner) in candidates.refs.iter().enumerate() {
                if is_match(pair) {
                    self.sides.stores[other].mark(*partner);
                }
            }
        }
        let mut padded = Vec::new();
        let mut pair = 0;
        for (row, end) in &candidates.ends {
            let is_matched = std::mem::take(&mut pending.is_matched) || (pair..*end).any(is_match);
            pair = *end;
            self.keep(pending, *row, is_matched, &mut padded);
        }
        pending.is_matched |= (pair..candidates.rows.len()).any(is_match);
        if !padded.is_empty() {
            let own = take_columns(pending.rows.batch(), &padded, false)?;
            self.pad(side, own, padded.len(), out)?;
        }
        Ok(candidates.rows.len().max(padded.len()))
    }

    /// Gives the pairs that match, and says which.
    fn give_pairs(
        &mut self,
        pending: &Pending,
        candidates: &Candidates,
        out: &mut Out<'_>,
    ) -> Result<Option<BooleanArray>> {
        if candidates.rows.is_empty() {
            return Ok(None);
        }
        let own = take_columns(pending.rows.batch(), &candidates.rows, false)?;
        let other = self.sides.stores[1 - pending.side].gather(&candidates.refs, false)?;
        let joined = self.pairing.join(pending.side, own, other, candidates.rows.len())?;
        let matches = self.pairing.matches(&joined)?;
        let joined = match &matches {
            Some(matches) => filter_record_batch(&joined, matches).map_err(arrow_error)?,
            None => joined,
        };
        out.rows(Rows::inserts(joined))?;
        Ok(matches)
    }

    /// All pairs of a row have been seen: it is kept, or it goes into `padded`.
    fn keep(&mut self, pending: &Pending, row: usize, is_matched: bool, padded: &mut Vec<u32>) {
        let is_padded = self.spec.kind.pads(pending.side);
        let name = pending.refs[row];
        if name != NONE {
            let store = &mut self.sides.stores[pending.side];
            store.link(name);
            if is_padded && is_matched {
                store.mark(name);
            } else if is_padded {
                let dies = store.time(name);
                self.waiting[pending.side].push(Reverse((dies, name)));
            }
        } else if !is_matched {
            self.unmatched += 1;
            if is_padded {
                padded.push(row as u32);
            }
        }
    }

    /// Gives the rows that have died by `watermark` without a partner, if they are padded.
    fn pad_dead(&mut self, side: usize, watermark: EventTime, out: &mut Out<'_>) -> Result<()> {
        loop {
            let mut dead = Vec::new();
            while dead.len() < BATCH_ROWS
                && let Some(Reverse((dies, row))) = self.waiting[side].peek().copied()
                && dies <= watermark.0
            {
                self.waiting[side].pop();
                if !self.sides.stores[side].is_marked(row) {
                    dead.push(row);
                }
            }
            if dead.is_empty() {
                return Ok(());
            }
            self.unmatched += dead.len() as u64;
            let own = self.sides.stores[side].gather(&dead, false)?;
            self.pad(side, own, dead.len(), out)?;
        }
    }

    fn pad(
        &self,
        side: usize,
        own: Vec<arrow::array::ArrayRef>,
        rows: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let fields = self.sides.stores[1 - side].schema().fields().iter();
        let nulls = fields.map(|field| arrow::array::new_null_array(field.data_type(), rows));
        let batch = self.pairing.join(side, own, nulls.collect(), rows)?;
        out.rows(Rows::inserts(batch))
    }

    /// Lets restored rows wait as they did.
    fn prepare(&mut self) {
        if !std::mem::take(&mut self.is_restored) {
            return;
        }
        let now = self.progress.watermark().0;
        for side in [0, 1].into_iter().filter(|side| self.spec.kind.pads(*side)) {
            let store = &self.sides.stores[side];
            let waits = |row: &RowRef| store.time(*row) > now && !store.is_marked(*row);
            self.waiting[side] =
                store.all().filter(waits).map(|row| Reverse((store.time(row), row))).collect();
        }
    }
}

#[cfg(test)]
#[path = "interval_tests.rs"]
mod tests;
