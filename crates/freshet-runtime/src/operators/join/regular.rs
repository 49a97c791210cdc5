//! The join of two changelogs, all rows of which are kept.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use freshet_core::clock::Clock;
use freshet_core::rows::Rows;
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::EventTime;
use freshet_core::{Error, Result};

use super::sides::{Candidates, Cursor, KeyColumns, Sides, take_columns};
use super::{BATCH_ROWS, CALL_ROWS, JoinKind, LEFT, Pairing, changes};
use crate::operator::{Flow, Operator, OperatorContext, OperatorSpec, Out, StateSize};
use crate::state::rows::{ContentsOf, NONE, Options, RowRef, Times, UNKNOWN};
use crate::state::{Delta, Entry, KeyGroups};

/// A join of two changelogs on equal columns.
///
/// Input 0 is the left side, input 1 the right one; rows of either may be of any kind. What it gives
/// are additions and removals ([`Insert`](freshet_core::rows::RowKind::Insert) and
/// [`Delete`](freshet_core::rows::RowKind::Delete)) that come to the join of what came in, at
/// every moment. Rows with a null among their keys match nothing, and are not kept.
#[derive(Debug, Clone)]
pub struct Join {
    /// Which rows it gives.
    pub kind: JoinKind,
    /// The columns of the left side.
    pub left: SchemaRef,
    /// The columns of the right side.
    pub right: SchemaRef,
    /// The columns of the left side that are to be equal.
    pub left_keys: Vec<usize>,
    /// The columns of the right side that they are to equal, of the same types.
    pub right_keys: Vec<usize>,
    /// What is to hold of left and right columns beside; a Boolean over [`JoinKind::schema`] (of an
    /// inner join, where left rows alone are given).
    pub residual: Option<Arc<dyn ScalarExpr>>,
    /// How many microseconds of the time of day a row is kept at least, and an eighth longer at most;
    /// for ever where it is not set. Rows go without a word: what they gave stays given.
    pub ttl: Option<i64>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl Join {
    /// The columns that it gives: left, then right ones; left ones alone of a semi or anti join.
    pub fn schema(&self) -> SchemaRef {
        self.kind.schema(&self.left, &self.right)
    }
}

impl OperatorSpec for Join {
    fn name(&self) -> String {
        let keys = self.left_keys.iter().zip(&self.right_keys);
        let keys = keys.map(|(left, right)| {
            format!("{} = {}", self.left.field(*left).name(), self.right.field(*right).name())
        });
        format!("{} join on {}", self.kind.name(), keys.collect::<Vec<_>>().join(" and "))
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let schemas = [&self.left, &self.right];
        let columns = KeyColumns::new(schemas, [&self.left_keys, &self.right_keys])?;
        // Where every pair of equal keys matches, and no row goes silently, the number of the other
        // side's rows says how many partners a row has.
        let counted = self.residual.is_some() || self.ttl.is_some();
        let options = [0, 1].map(|side| Options {
            groups: self.groups,
            table: side as u8,
            prefix: Vec::new(),
            dies: self.ttl.is_some(),
            span: self.ttl.map_or(i64::MAX, |ttl| ttl / 8),
            end: i64::MAX,
            counts: counted && needs_counts(self.kind, side),
        });
        Ok(Box::new(Running {
            pairing: Pairing::new(self.kind, &self.left, &self.right, self.residual.clone()),
            counted,
            ttl: self.ttl,
            clock: Arc::clone(&context.clock),
            sides: Sides::new(columns.map(), schemas, options, context.spill.clone()),
            columns,
            pending: None,
            unknown: 0,
            frozen_at: EventTime::MIN,
        }))
    }
}

/// Whether it matters how many partners a row of this side has.
fn needs_counts(kind: JoinKind, side: usize) -> bool {
    kind.pads(side) || (kind.is_left_alone() && side == LEFT)
}

#[derive(Debug)]
struct Running {
    pairing: Pairing,
    columns: KeyColumns,
    /// Whether rows count their partners one by one.
    counted: bool,
    ttl: Option<i64>,
    clock: Arc<dyn Clock>,
    sides: Sides,
    pending: Option<Pending>,
    /// About how many rows do not know the number of their partners since they were restored.
    unknown: usize,
    /// The time of day of the checkpoint that is being made.
    frozen_at: EventTime,
}

/// Rows that were taken, and how far they were joined.
#[derive(Debug)]
struct Pending {
    side: usize,
    rows: Rows,
    slots: Vec<u32>,
    /// The names of those that are kept.
    refs: Vec<RowRef>,
    contents: Option<ContentsOf>,
    cursor: Cursor,
    /// How the row whose pairs are being given stands.
    matched: u32,
    /// What a row that is taken back was known as.
    found: Option<RowRef>,
}

/// Rows to be given: of both sides, [`NONE`] for nulls.
#[derive(Debug, Default)]
struct Given {
    adds: Vec<bool>,
    own: Vec<u32>,
    other: Vec<RowRef>,
}

impl Given {
    fn push(&mut self, adds: bool, own: u32, other: RowRef) {
        self.adds.push(adds);
        self.own.push(own);
        self.other.push(other);
    }
}

impl Operator for Running {
    fn on_rows(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        if input > 1 {
            return Err(Error::internal(format!("a join has no input {input}")));
        }
        let (keys, nulls) = self.columns.encode(input, rows.batch())?;
        let slots = self.sides.intern(&keys, nulls.as_ref());
        let times = match self.ttl {
            Some(ttl) => Times::At(self.clock.now_micros().saturating_add(ttl)),
            None => Times::None,
        };
        let adds = |row: usize| rows.kind(row).adds();
        let refs = self.sides.append(input, rows.batch(), &keys, &slots, adds, times)?;
        let any_back = (0..rows.len()).any(|row| !adds(row));
        let contents = match any_back {
            true => Some(self.sides.stores[input].contents_of(rows.batch())?),
            false => None,
        };
        if self.unknown > 0 {
            self.count_partners(1 - input, &slots)?;
        }
        self.pending = Some(Pending {
            side: input,
            rows,
            slots,
            refs,
            contents,
            cursor: Cursor::default(),
            matched: 0,
            found: None,
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
        if pending.contents.is_some() {
            self.sides.forget(pending.slots);
        }
        for store in &mut self.sides.stores {
            store.maintain_some()?;
        }
        self.sides.trim()?;
        Ok(Flow::Done)
    }

    fn deadline(&self) -> Option<i64> {
        self.sides.stores.iter().filter_map(|store| store.deadline()).min()
    }

    fn on_time(&mut self, now: i64, _out: &mut Out<'_>) -> Result<()> {
        let mut gone = Vec::new();
        for store in &mut self.sides.stores {
            store.expire(now, |_, key| gone.push(key))?;
        }
        self.sides.forget(gone);
        Ok(())
    }

    fn freeze(&mut self) {
        self.frozen_at = EventTime(self.clock.now_micros());
        self.sides.freeze();
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if self.sides.drain(bytes, delta)? == Flow::More {
            return Ok(Flow::More);
        }
        if self.ttl.is_some() {
            delta.floor(0, self.frozen_at);
            delta.floor(1, self.frozen_at);
        }
        Ok(Flow::Done)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        let counts = [0, 1].map(|side| self.counted && needs_counts(self.pairing.kind, side));
        let timed = self.ttl.is_some();
        for entry in entries {
            let side = usize::from(entry.table);
            if side > 1 {
                return Err(Error::internal(format!("a join has no table {side}")));
            }
            let end = entry.expires.0;
            let times = |batch: &RecordBatch| Ok(timed.then(|| vec![end; batch.num_rows()]));
            let before = self.sides.stores[side].len();
            self.sides.load(&self.columns, side, entry, entry.key, times)?;
            if counts[side] {
                self.unknown += self.sides.stores[side].len().saturating_sub(before);
            }
        }
        self.sides.trim()
    }

    fn size(&self) -> StateSize {
        self.sides.size()
    }
}

impl Running {
    /// Joins a piece of what was taken; gives the number of rows that were looked at or given.
    fn join_some(&mut self, pending: &mut Pending, out: &mut Out<'_>) -> Result<usize> {
        let Pending { side, slots, cursor, .. } = pending;
        let candidates = cursor.candidates(slots, &self.sides.stores[1 - *side], |_, _| true);
        let pairs = candidates.rows.len();
        if self.pairing.kind == JoinKind::Inner {
            self.give_pairs(pending, &candidates, out)?;
            for (row, _) in &candidates.ends {
                self.keep(pending, *row, 0)?;
            }
            return Ok(pairs);
        }
        let matches = match &self.pairing.residual {
            Some(_) if pairs > 0 => {
                let joined = self.joined(pending, &candidates.rows, &candidates.refs, false)?;
                self.pairing.matches(&joined)?
            }
            _ => None,
        };
        let given = self.decide(pending, &candidates, matches.as_ref())?;
        self.give(pending, &given, out)?;
        Ok(pairs.max(given.adds.len()))
    }

    /// Gives the pairs that match: what an inner join gives.
    fn give_pairs(
        &mut self,
        pending: &Pending,
        candidates: &Candidates,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if candidates.rows.is_empty() {
            return Ok(());
        }
        let batch = self.joined(pending, &candidates.rows, &candidates.refs, false)?;
        let matches = self.pairing.matches(&batch)?;
        let rows = match pending.rows.kinds() {
            None => Rows::inserts(batch),
            Some(kinds) => {
                let adds: Vec<bool> =
                    candidates.rows.iter().map(|row| kinds[*row as usize].adds()).collect();
                changes(batch, &adds)
            }
        };
        out.rows(match &matches {
            Some(matches) => rows.filter(matches)?,
            None => rows,
        })
    }

    /// Pairs as a batch of joined rows.
    fn joined(
        &mut self,
        pending: &Pending,
        own: &[u32],
        other: &[RowRef],
        any_none: bool,
    ) -> Result<RecordBatch> {
        let own_columns = take_columns(pending.rows.batch(), own, any_none)?;
        let others = self.sides.stores[1 - pending.side].gather(other, any_none)?;
        self.pairing.join(pending.side, own_columns, others, own.len())
    }

    /// Goes through pairs in their order, and says what is to be given.
    fn decide(
        &mut self,
        pending: &mut Pending,
        candidates: &Candidates,
        matches: Option<&BooleanArray>,
    ) -> Result<Given> {
        let mut given = Given::default();
        let mut ends = candidates.ends.iter().peekable();
        let mut pair = 0;
        loop {
            while let Some((row, end)) = ends.peek()
                && *end == pair
            {
                self.end_row(pending, *row, &mut given)?;
                ends.next();
            }
            if pair == candidates.rows.len() {
                return Ok(given);
            }
            if matches.is_none_or(|matches| matches.value(pair)) {
                let row = candidates.rows[pair] as usize;
                self.match_pair(pending, row, candidates.refs[pair], &mut given)?;
            }
            pair += 1;
        }
    }

    /// A row that was taken matches one of the other side.
    fn match_pair(
        &mut self,
        pending: &mut Pending,
        row: usize,
        other: RowRef,
        given: &mut Given,
    ) -> Result<()> {
        let kind = self.pairing.kind;
        let (own_side, other_side) = (pending.side, 1 - pending.side);
        let adds = pending.rows.kind(row).adds();
        pending.matched += 1;
        // One that was not kept any more was not counted either.
        let is_known = adds || self.find(pending, row)? != NONE;
        let before = match needs_counts(kind, other_side) && is_known {
            false => None,
            true if self.counted => {
                let counter = self.sides.stores[other_side].counter(other);
                let before = *counter;
                *counter = if adds { before + 1 } else { before.saturating_sub(1) };
                Some(before)
            }
            true => Some(self.sides.stores[own_side].count(pending.slots[row])),
        };
        let is_first = adds && before == Some(0);
        let is_last = !adds && before == Some(1);
        match kind {
            JoinKind::LeftSemi | JoinKind::LeftAnti => {
                if own_side != LEFT && (is_first || is_last) {
                    given.push(is_first == (kind == JoinKind::LeftSemi), NONE, other);
                }
            }
            _ => {
                if is_first {
                    given.push(false, NONE, other);
                }
                given.push(adds, row as u32, other);
                if is_last {
                    given.push(true, NONE, other);
                }
            }
        }
        Ok(())
    }

    /// All pairs of a row have been seen.
    fn end_row(&mut self, pending: &mut Pending, row: usize, given: &mut Given) -> Result<()> {
        let matched = std::mem::take(&mut pending.matched);
        let kind = self.pairing.kind;
        let is_given = match kind {
            JoinKind::LeftSemi => pending.side == LEFT && matched > 0,
            JoinKind::LeftAnti => pending.side == LEFT && matched == 0,
            _ => kind.pads(pending.side) && matched == 0,
        };
        if is_given {
            given.push(pending.rows.kind(row).adds(), row as u32, NONE);
        }
        self.keep(pending, row, matched)
    }

    /// Adds a row to its side, or takes it away.
    fn keep(&mut self, pending: &mut Pending, row: usize, matched: u32) -> Result<()> {
        if pending.slots[row] == NONE {
            return Ok(());
        }
        let kept = pending.refs[row];
        let counts = self.counted && needs_counts(self.pairing.kind, pending.side);
        if kept != NONE {
            let store = &mut self.sides.stores[pending.side];
            store.link(kept);
            if counts {
                *store.counter(kept) = matched;
            }
            return Ok(());
        }
        let found = self.find(pending, row)?;
        pending.found = None;
        if found != NONE {
            let store = &mut self.sides.stores[pending.side];
            if counts && *store.counter(found) == UNKNOWN {
                self.unknown = self.unknown.saturating_sub(1);
            }
            store.remove(found);
        }
        Ok(())
    }

    /// The row that a removal takes away.
    fn find(&mut self, pending: &mut Pending, row: usize) -> Result<RowRef> {
        if let Some(found) = pending.found {
            return Ok(found);
        }
        let Some(contents) = &pending.contents else { return Ok(NONE) };
        let store = &mut self.sides.stores[pending.side];
        let found = store.find(pending.slots[row], contents, row)?;
        pending.found = Some(found);
        Ok(found)
    }

    fn give(&mut self, pending: &Pending, given: &Given, out: &mut Out<'_>) -> Result<()> {
        let alone = self.pairing.kind.is_left_alone();
        for start in (0..given.adds.len()).step_by(BATCH_ROWS) {
            let range = start..given.adds.len().min(start + BATCH_ROWS);
            let (own, other) = (&given.own[range.clone()], &given.other[range.clone()]);
            let batch = match (alone, pending.side) {
                (false, _) => {
                    let any_none = own.contains(&NONE) || other.contains(&NONE);
                    self.joined(pending, own, other, any_none)?
                }
                (true, LEFT) => {
                    let columns = take_columns(pending.rows.batch(), own, false)?;
                    super::batch_of(&self.pairing.given, columns, own.len())?
                }
                (true, _) => {
                    let columns = self.sides.stores[LEFT].gather(other, false)?;
                    super::batch_of(&self.pairing.given, columns, other.len())?
                }
            };
            out.rows(changes(batch, &given.adds[range]))?;
        }
        Ok(())
    }

    /// Counts the partners of rows of `side` that do not know their number, of these keys.
    fn count_partners(&mut self, side: usize, slots: &[u32]) -> Result<()> {
        if !(self.counted && needs_counts(self.pairing.kind, side)) {
            return Ok(());
        }
        let slots: HashSet<u32> = slots.iter().copied().filter(|slot| *slot != NONE).collect();
        for slot in slots {
            let mut row = self.sides.stores[side].first(slot);
            while row != NONE {
                if *self.sides.stores[side].counter(row) == UNKNOWN {
                    let count = self.partners(side, row, slot)?;
                    *self.sides.stores[side].counter(row) = count;
                    self.unknown = self.unknown.saturating_sub(1);
                }
                row = self.sides.stores[side].after(row);
            }
        }
        Ok(())
    }

    fn partners(&mut self, side: usize, row: RowRef, slot: u32) -> Result<u32> {
        let all: Vec<RowRef> = self.sides.stores[1 - side].of(slot).collect();
        if self.pairing.residual.is_none() {
            return Ok(all.len() as u32);
        }
        let mut count = 0;
        for part in all.chunks(BATCH_ROWS) {
            let own = self.sides.stores[side].gather(&vec![row; part.len()], false)?;
            let other = self.sides.stores[1 - side].gather(part, false)?;
            let joined = self.pairing.join(side, own, other, part.len())?;
            let matches = self.pairing.matches(&joined)?;
            count += matches.map_or(part.len(), |matches| matches.true_count());
        }
        Ok(count as u32)
    }
}

#[cfg(test)]
#[path = "regular_tests.rs"]
mod tests;
