//! The join of rows of equal windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::EventTime;
use freshet_core::{Error, Result};

use super::progress::{self, Progress};
use super::sides::{KeyColumns, Sides, take_columns};
use super::{BATCH_ROWS, JoinKind, LEFT, Pairing, RIGHT, batch_of, only_inserts, times_of};
use crate::operator::{
    Counts, Flow, LATE, LATE_RIGHT, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::rows::{NONE, Options, RowRef, Times};
use crate::state::{Delta, Entry, KeyGroups};

/// A join of rows that have windows, on equal columns and equal windows.
///
/// Input 0 is the left side, input 1 the right one; both give inserts alone, with the bounds of their window
/// as columns. What a window comes to is given when the watermark passes its end, and it is forgotten
/// then; rows whose window was forgotten go to [`LATE`] or [`LATE_RIGHT`].
#[derive(Debug, Clone)]
pub struct WindowJoin {
    /// Which rows it gives.
    pub kind: JoinKind,
    /// The columns of the left side.
    pub left: SchemaRef,
    /// The columns of the right side.
    pub right: SchemaRef,
    /// The columns of the left side that are to be equal, those of the window apart.
    pub left_keys: Vec<usize>,
    /// The columns of the right side that they are to equal, of the same types.
    pub right_keys: Vec<usize>,
    /// The left columns of the window's start and end, timestamps in microseconds.
    pub left_window: [usize; 2],
    /// The right columns of the window's start and end, timestamps in microseconds.
    pub right_window: [usize; 2],
    /// What is to hold of left and right columns beside; a Boolean over [`JoinKind::schema`] (of an
    /// inner join, where left rows alone are given).
    pub residual: Option<Arc<dyn ScalarExpr>>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl WindowJoin {
    /// The columns that it gives: left, then right ones; left ones alone of a semi or anti join.
    pub fn schema(&self) -> SchemaRef {
        self.kind.schema(&self.left, &self.right)
    }
}

impl OperatorSpec for WindowJoin {
    fn name(&self) -> String {
        let keys = self.left_keys.iter().zip(&self.right_keys);
        let keys = keys.map(|(left, right)| {
            format!("{} = {}", self.left.field(*left).name(), self.right.field(*right).name())
        });
        let keys: Vec<_> = keys.collect();
        format!("{} window join on {}", self.kind.name(), keys.join(" and "))
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let schemas = [&self.left, &self.right];
        Ok(Box::new(Running {
            pairing: Pairing::new(self.kind, &self.left, &self.right, self.residual.clone()),
            columns: KeyColumns::new(schemas, [&self.left_keys, &self.right_keys])?,
            spec: self.clone(),
            progress: Progress::new(context),
            windows: BTreeMap::new(),
            early: Delta::default(),
            is_draining: false,
            late: 0,
            unmatched: 0,
        }))
    }
}

/// A window's end and start, in this order.
type Window = (i64, i64);

#[derive(Debug)]
struct Running {
    spec: WindowJoin,
    pairing: Pairing,
    columns: KeyColumns,
    progress: Progress,
    windows: BTreeMap<Window, Sides>,
    /// What a checkpoint that is being made has of windows that were closed meanwhile.
    early: Delta,
    is_draining: bool,
    late: u64,
    unmatched: u64,
}

impl Operator for Running {
    fn on_rows(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        if input > RIGHT {
            return Err(Error::internal(format!("a join has no input {input}")));
        }
        only_inserts(&rows, "a window join")?;
        let [start, end] =
            if input == LEFT { self.spec.left_window } else { self.spec.right_window };
        let starts = times_of(rows.batch(), start)?;
        let ends = times_of(rows.batch(), end)?;
        // Most batches have rows of one window or two.
        let mut by_window: Vec<(Window, Vec<u32>)> = Vec::new();
        for row in 0..rows.len() {
            let window = (ends[row], starts[row]);
            match by_window.iter_mut().rev().find(|(of, _)| *of == window) {
                Some((_, chosen)) => chosen.push(row as u32),
                None => by_window.push((window, vec![row as u32])),
            }
        }
        for (window, chosen) in by_window {
            let part = if chosen.len() == rows.len() { rows.clone() } else { rows.take(&chosen)? };
            if is_over(window, self.progress.watermark()) {
                self.late += part.len() as u64;
                let port = if input == LEFT { LATE } else { LATE_RIGHT };
                out.late(port, part, self.progress.watermark())?;
            } else {
                self.take(input, window, &part, out)?;
            }
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        self.progress.advance(watermark);
        let watermark = self.progress.watermark();
        while let Some(entry) = self.windows.first_entry()
            && is_over(*entry.key(), watermark)
        {
            let mut sides = entry.remove();
            if self.is_draining {
                sides.drain(usize::MAX / 2, &mut self.early)?;
            }
            self.close(&mut sides, out)?;
        }
        Ok(watermark)
    }

    fn freeze(&mut self) {
        self.progress.freeze();
        self.is_draining = true;
        for sides in self.windows.values_mut() {
            sides.freeze();
        }
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if !self.early.is_empty() {
            delta.append(std::mem::take(&mut self.early))?;
        }
        let enough = delta.bytes() + bytes;
        for sides in self.windows.values_mut() {
            let left = enough.saturating_sub(delta.bytes());
            if sides.drain(left, delta)? == Flow::More {
                return Ok(Flow::More);
            }
        }
        self.is_draining = false;
        // A window is dead with the last time that is in it.
        let frozen = self.progress.frozen();
        if frozen > EventTime::MIN {
            delta.floor(LEFT as u8, frozen);
            delta.floor(RIGHT as u8, frozen);
        }
        self.progress.drain(delta)?;
        Ok(Flow::Done)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for entry in entries {
            let side = usize::from(entry.table);
            if entry.table == progress::TABLE {
                self.progress.load(entry)?;
                continue;
            }
            if side > RIGHT {
                return Err(Error::internal(format!("a window join has no table {side}")));
            }
            let Some((prefix, key)) = entry.key.split_first_chunk::<16>() else {
                return Err(Error::internal("an entry of a window join has no window"));
            };
            let window = decode(*prefix);
            self.open(window);
            let sides = self.windows.get_mut(&window).expect("it was opened");
            sides.load(&self.columns, side, entry, key, |_| Ok(None))?;
        }
        Ok(())
    }

    fn size(&self) -> StateSize {
        let sizes = self.windows.values().map(Sides::size);
        sizes.fold(StateSize::default(), |sum, size| StateSize {
            bytes: sum.bytes + size.bytes,
            keys: sum.keys + size.keys,
        })
    }

    fn counts(&self) -> Counts {
        Counts { late: self.late, unmatched: self.unmatched, ..Counts::default() }
    }
}

fn is_over((end, _): Window, watermark: EventTime) -> bool {
    end.saturating_sub(1) <= watermark.0
}

/// A window as the first bytes of keys: end, then start.
fn encode((end, start): Window) -> Vec<u8> {
    let bytes = [end, start].map(|time| ((time as u64) ^ (1 << 63)).to_be_bytes());
    bytes.concat()
}

fn decode(bytes: [u8; 16]) -> Window {
    let time = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("8 bytes");
        (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
    };
    (time(&bytes[..8]), time(&bytes[8..]))
}

/// Rows that no row of the other side has matched.
fn unmatched(sides: &Sides, side: usize) -> Vec<RowRef> {
    let store = &sides.stores[side];
    store.all().filter(|row| !store.is_marked(*row)).collect()
}

impl Running {
    fn open(&mut self, window: Window) {
        let Self { windows, columns, spec, .. } = self;
        windows.entry(window).or_insert_with(|| {
            let options = [LEFT, RIGHT].map(|side| Options {
                groups: spec.groups,
                table: side as u8,
                prefix: encode(window),
                dies: false,
                span: i64::MAX,
                end: window.0.saturating_sub(1),
                counts: false,
            });
            Sides::new(columns.map(), [&spec.left, &spec.right], options, None)
        });
    }

    /// Takes rows of one window.
    fn take(&mut self, side: usize, window: Window, rows: &Rows, out: &mut Out<'_>) -> Result<()> {
        self.open(window);
        let batch = rows.batch();
        let (keys, nulls) = self.columns.encode(side, batch)?;
        let sides = self.windows.get_mut(&window).expect("it was opened");
        let slots = sides.intern(&keys, nulls.as_ref());
        let refs = sides.append(side, batch, &keys, &slots, |_| true, Times::None)?;
        for row in refs.iter().filter(|row| **row != NONE) {
            sides.stores[side].link(*row);
        }
        // What has a null in its key need not wait.
        let alone = slots.iter().enumerate().filter(|(_, slot)| **slot == NONE);
        let alone: Vec<u32> = alone.map(|(row, _)| row as u32).collect();
        if alone.is_empty() {
            return Ok(());
        }
        self.unmatched += alone.len() as u64;
        let own = take_columns(batch, &alone, false)?;
        self.give_alone(side, own, alone.len(), out)
    }

    /// Gives what a window comes to.
    fn close(&mut self, sides: &mut Sides, out: &mut Out<'_>) -> Result<()> {
        let kind = self.spec.kind;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let rows: Vec<RowRef> = sides.stores[LEFT].all().collect();
        for row in rows {
            let mut partner = sides.stores[RIGHT].first(sides.stores[LEFT].key(row));
            while partner != NONE {
                left.push(row);
                right.push(partner);
                if left.len() == BATCH_ROWS {
                    self.match_pairs(sides, &left, &right, out)?;
                    left.clear();
                    right.clear();
                }
                partner = sides.stores[RIGHT].after(partner);
            }
        }
        self.match_pairs(sides, &left, &right, out)?;
        for side in [LEFT, RIGHT] {
            let alone = match kind {
                JoinKind::LeftSemi if side == LEFT => {
                    let store = &sides.stores[LEFT];
                    store.all().filter(|row| store.is_marked(*row)).collect()
                }
                _ => unmatched(sides, side),
            };
            if kind != JoinKind::LeftSemi {
                self.unmatched += alone.len() as u64;
            }
            if kind.pads(side) || (kind.is_left_alone() && side == LEFT) {
                for alone in alone.chunks(BATCH_ROWS) {
                    let own = sides.stores[side].gather(alone, false)?;
                    self.give(side, own, alone.len(), out)?;
                }
            }
        }
        Ok(())
    }

    /// Gives the pairs that match; marks their rows.
    fn match_pairs(
        &self,
        sides: &mut Sides,
        left: &[RowRef],
        right: &[RowRef],
        out: &mut Out<'_>,
    ) -> Result<()> {
        if left.is_empty() {
            return Ok(());
        }
        let is_given = !self.spec.kind.is_left_alone();
        let joined = match is_given || self.spec.residual.is_some() {
            true => Some(self.joined(sides, left, right)?),
            false => None,
        };
        let matches = match &joined {
            Some(joined) => self.pairing.matches(joined)?,
            None => None,
        };
        for (pair, (left, right)) in left.iter().zip(right).enumerate() {
            if matches.as_ref().is_none_or(|matches| matches.value(pair)) {
                sides.stores[LEFT].mark(*left);
                sides.stores[RIGHT].mark(*right);
            }
        }
        let Some(joined) = joined.filter(|_| is_given) else { return Ok(()) };
        let joined = match &matches {
            Some(matches) => filter_record_batch(&joined, matches).map_err(arrow_error)?,
            None => joined,
        };
        out.rows(Rows::inserts(joined))
    }

    fn joined(&self, sides: &mut Sides, left: &[RowRef], right: &[RowRef]) -> Result<RecordBatch> {
        let own = sides.stores[LEFT].gather(left, false)?;
        let others = sides.stores[RIGHT].gather(right, false)?;
        self.pairing.join(LEFT, own, others, left.len())
    }

    /// Gives rows that match nothing, where the join gives such rows of their side.
    fn give_alone(
        &self,
        side: usize,
        own: Vec<arrow::array::ArrayRef>,
        rows: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let kind = self.spec.kind;
        if kind.pads(side) || (kind == JoinKind::LeftAnti && side == LEFT) {
            self.give(side, own, rows, out)?;
        }
        Ok(())
    }

    /// Gives rows of a side, with nulls for the other one, if that is given.
    fn give(
        &self,
        side: usize,
        own: Vec<arrow::array::ArrayRef>,
        rows: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let batch = if self.spec.kind.is_left_alone() {
            batch_of(&self.pairing.given, own, rows)?
        } else {
            let other = if side == LEFT { &self.spec.right } else { &self.spec.left };
            let fields = other.fields().iter();
            let nulls = fields.map(|field| new_null_array(field.data_type(), rows));
            self.pairing.join(side, own, nulls.collect(), rows)?
        };
        out.rows(Rows::inserts(batch))
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
