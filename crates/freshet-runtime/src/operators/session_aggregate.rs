//! `GROUP BY` over session windows: rows of a key between two pauses.
//!
//! A session begins with a row's time and ends a gap after its last one; rows that bridge two
//! sessions join them. Rows exactly the gap apart are in one session, as in Flink, whose
//! `TimeWindow.intersects` includes the ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::RowConverter;
use freshet_core::{Error, Result, error::code};

use super::window_aggregate::{decode_time, encode_time, no_time, window_schema};
use crate::aggregate::{Accumulators, AggregateSpec, Layout, Named};
use crate::keys::{KeyEncoder, KeyMap};
use crate::operator::{
    Counts, Flow, LATE, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::{Changes, Delta, Entry, KeyGroup, KeyGroups, Owners};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::stream::EventTime;

/// Rows of a batch that closing sessions give.
const BATCH_ROWS: usize = 8192;

/// Sessions whose state is encoded at a time.
const PIECE: usize = 256;

/// The table of sessions in checkpoints; those of their sets of values follow.
const SESSIONS: u8 = 0;

/// Aggregation over sessions.
///
/// Gives the key columns, `window_start` and `window_end` (timestamps in microseconds; the end is the
/// gap behind the last row), and the aggregates, when the watermark passes a session's end: sessions
/// in the order of their ends. A row is late, and goes to [`LATE`] as it is, where its own session
/// would have ended and it joins none that is open. Rows are inserts.
#[derive(Debug, Clone)]
pub struct SessionAggregate {
    /// The columns of the input.
    pub input: SchemaRef,
    /// The column of the rows' time, a timestamp in microseconds.
    pub time: usize,
    /// Microseconds without a row after which a session is over.
    pub gap: i64,
    /// The columns whose values have sessions of their own.
    pub keys: Vec<usize>,
    /// What is computed.
    pub aggregates: Vec<Arc<dyn AggregateSpec>>,
    /// The names of the aggregates.
    pub names: Vec<String>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl SessionAggregate {
    /// The columns that it gives.
    pub fn schema(&self) -> SchemaRef {
        window_schema(&self.input, &self.keys, &self.names, &self.aggregates)
    }
}

impl OperatorSpec for SessionAggregate {
    fn name(&self) -> String {
        let names = self.keys.iter().map(|key| self.input.field(*key).name().as_str());
        match self.keys.as_slice() {
            [] => "session window".into(),
            _ => format!("session window by {}", names.collect::<Vec<_>>().join(", ")),
        }
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let layout = Layout::new(&self.aggregates, &self.input)?;
        let encoder = KeyEncoder::new(&self.input, &self.keys)?;
        Ok(Box::new(Running {
            sessions: Sessions {
                keys: encoder.map(),
                groups: self.groups,
                all: Vec::new(),
                free: Vec::new(),
                of_key: Vec::new(),
            },
            encoder,
            states: layout.converter()?,
            accumulators: Accumulators::new(&layout)?,
            schema: self.schema(),
            spec: self.clone(),
            watermark: context.watermark,
            ends: BTreeSet::new(),
            changes: Changes::default(),
            late: 0,
            is_ready: false,
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: SessionAggregate,
    encoder: KeyEncoder,
    sessions: Sessions,
    accumulators: Accumulators,
    states: RowConverter,
    schema: SchemaRef,
    watermark: EventTime,
    /// The ends of open sessions with their numbers.
    ends: BTreeSet<(i64, u32)>,
    changes: Changes,
    late: u64,
    /// Whether what follows from the loaded state was computed.
    is_ready: bool,
}

/// The open sessions, by number.
#[derive(Debug)]
struct Sessions {
    keys: KeyMap,
    groups: KeyGroups,
    all: Vec<Session>,
    free: Vec<u32>,
    /// By key, the numbers of its sessions; no two of them touch.
    of_key: Vec<Vec<u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    key: u32,
    /// The time of the row that began it: it stays within the session, so that no other of the same
    /// key is called so.
    name: i64,
    first: i64,
    last: i64,
}

impl Owners for Sessions {
    fn write(&self, owner: u32, key: &mut Vec<u8>) -> (KeyGroup, EventTime) {
        let session = &self.all[owner as usize];
        key.extend_from_slice(&encode_time(session.name));
        self.keys.write(session.key, key);
        (self.groups.group(self.keys.hash(session.key)), EventTime::MAX)
    }
}

impl Sessions {
    fn named(&self) -> Named<'_> {
        Named { owners: self, first: SESSIONS + 1 }
    }

    /// A new session of a key.
    fn begin(&mut self, key: u32, time: i64) -> u32 {
        let session = Session { key, name: time, first: time, last: time };
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = session;
                number
            }
            None => {
                self.all.push(session);
                (self.all.len() - 1) as u32
            }
        };
        if self.of_key.len() <= key as usize {
            self.of_key.resize(key as usize + 1, Vec::new());
        }
        self.of_key[key as usize].push(number);
        number
    }

    /// A session is no more; nor is its key where it was the last.
    fn end(&mut self, number: u32) {
        let key = self.all[number as usize].key;
        let sessions = &mut self.of_key[key as usize];
        sessions.retain(|of| *of != number);
        if sessions.is_empty() {
            self.keys.remove(key);
        }
        self.free.push(number);
    }

    /// The number of a session by the bytes that name it; begins it where it is not known.
    fn read(&mut self, name: &[u8]) -> Result<u32> {
        let damaged = || Error::new(code::STATE, "the name of a session is damaged");
        let (time, key) = name.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (time, key) = (decode_time(*time), self.keys.read(key)?);
        let known = self.of_key.get(key as usize).into_iter().flatten();
        let known = known.copied().find(|number| self.all[*number as usize].name == time);
        Ok(known.unwrap_or_else(|| self.begin(key, time)))
    }
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        self.ready()?;
        if rows.kinds().is_some() {
            return Err(Error::internal("a session was given rows that take others back"));
        }
        let batch = rows.batch();
        let times = batch.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
        let keys = self.encoder.encode(batch)?;
        let (mut numbers, mut taken, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..rows.len() {
            if times.is_null(row) {
                return Err(no_time());
            }
            let time = times.value(row);
            let key = self.sessions.keys.find(&keys, row);
            let touching = self.touching(key, time);
            if touching.is_empty() && time.saturating_add(self.spec.gap) - 1 <= self.watermark.0 {
                late.push(row as u32);
                continue;
            }
            let number = match touching.as_slice() {
                [] => {
                    let key = self.sessions.keys.intern_row(&keys, row).0;
                    self.begin(key, time)?
                }
                [first, rest @ ..] => {
                    let bridges = !rest.is_empty();
                    if bridges {
                        // What was assigned to sessions that are joined is added before.
                        self.aggregate(&numbers, &taken, &rows)?;
                        numbers.clear();
                        taken.clear();
                    }
                    for other in rest {
                        self.join(*first, *other)?;
                    }
                    self.widen(*first, time, time)?;
                    *first
                }
            };
            numbers.push(number);
            taken.push(row as u32);
        }
        self.aggregate(&numbers, &taken, &rows)?;
        if !late.is_empty() {
            self.late += late.len() as u64;
            out.late(LATE, rows.take(&late)?, self.watermark)?;
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        self.ready()?;
        let mut closed = Vec::new();
        while let Some((end, number)) = self.ends.first().copied() {
            if end - 1 > watermark.0 {
                break;
            }
            self.ends.pop_first();
            closed.push(number);
        }
        for closed in closed.chunks(BATCH_ROWS) {
            self.give(closed, out)?;
        }
        for number in closed {
            self.forget(number)?;
        }
        self.watermark = watermark;
        Ok(watermark)
    }

    fn freeze(&mut self) {
        self.changes.freeze();
        self.accumulators.freeze();
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        let enough = delta.bytes() + bytes;
        self.changes.drain(delta)?;
        while delta.bytes() < enough {
            let owed = self.changes.owed(PIECE);
            if owed.is_empty() {
                let Self { accumulators, sessions, .. } = self;
                let done = accumulators.drain(enough, sessions.named(), delta)?;
                return Ok(if done { Flow::Done } else { Flow::More });
            }
            self.write(&owed, delta)?;
        }
        Ok(Flow::More)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for part in entries.chunk_by(|a, b| a.table == b.table) {
            if part[0].table == SESSIONS {
                self.load_sessions(part)?;
                continue;
            }
            for entry in part {
                let set = usize::from(entry.table - SESSIONS - 1);
                let Self { accumulators, sessions, .. } = self;
                accumulators.load(set, entry, |name| sessions.read(name))?;
            }
        }
        Ok(())
    }

    fn size(&self) -> StateSize {
        let sessions = self.sessions.keys.bytes()
            + self.sessions.all.capacity() * size_of::<Session>()
            + self.sessions.of_key.capacity() * size_of::<Vec<u32>>()
            + self.ends.len() * 24;
        let bytes = sessions + self.accumulators.bytes() + self.changes.bytes();
        StateSize { bytes: bytes as u64, keys: self.ends.len() as u64 }
    }

    fn counts(&self) -> Counts {
        Counts { late: self.late, ..Counts::default() }
    }
}

impl Running {
    /// Computes what follows from the loaded state.
    fn ready(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_ready, true) {
            return Ok(());
        }
        self.resize();
        let gap = self.spec.gap;
        for number in self.sessions.of_key.iter().flatten() {
            self.ends.insert((end_of(&self.sessions.all[*number as usize], gap), *number));
        }
        self.accumulators.loaded()
    }

    fn resize(&mut self) {
        let bound = self.sessions.all.len();
        self.changes.resize(bound);
        self.accumulators.resize(bound);
    }

    /// The sessions of a key that a row of this time would be in, the earliest first.
    fn touching(&self, key: Option<u32>, time: i64) -> Vec<u32> {
        let Some(key) = key else { return Vec::new() };
        let gap = self.spec.gap;
        let touches = |number: &u32| {
            let session = &self.sessions.all[*number as usize];
            time >= session.first.saturating_sub(gap) && time <= session.last.saturating_add(gap)
        };
        let sessions = self.sessions.of_key.get(key as usize).into_iter().flatten();
        let mut touching: Vec<u32> = sessions.copied().filter(touches).collect();
        touching.sort_unstable_by_key(|number| self.sessions.all[*number as usize].first);
        touching
    }

    fn begin(&mut self, key: u32, time: i64) -> Result<u32> {
        let number = self.sessions.begin(key, time);
        self.resize();
        self.touch(number)?;
        self.ends.insert((end_of(&self.sessions.all[number as usize], self.spec.gap), number));
        Ok(number)
    }

    /// Makes a session reach from `first` to `last`.
    fn widen(&mut self, number: u32, first: i64, last: i64) -> Result<()> {
        self.touch(number)?;
        let gap = self.spec.gap;
        let session = &mut self.sessions.all[number as usize];
        let end = end_of(session, gap);
        session.first = session.first.min(first);
        session.last = session.last.max(last);
        let later = end_of(session, gap);
        if later != end {
            self.ends.remove(&(end, number));
            self.ends.insert((later, number));
        }
        Ok(())
    }

    /// Makes session `other` a part of session `number`.
    fn join(&mut self, number: u32, other: u32) -> Result<()> {
        let Session { first, last, .. } = self.sessions.all[other as usize];
        self.touch(other)?;
        self.widen(number, first, last)?;
        let Self { accumulators, sessions, .. } = self;
        accumulators.fold(number, other, sessions.named())?;
        self.ends.remove(&(end_of(&self.sessions.all[other as usize], self.spec.gap), other));
        self.forget(other)
    }

    /// Forgets a session, whose end is none any more.
    fn forget(&mut self, number: u32) -> Result<()> {
        if self.changes.forget(number) {
            self.write_early(number)?;
        }
        let mut key = Vec::new();
        let (group, _) = Owners::write(&self.sessions, number, &mut key);
        self.changes.removed().remove(group, SESSIONS, &key)?;
        let Self { accumulators, sessions, .. } = self;
        accumulators.clear(number, sessions.named())?;
        self.sessions.end(number);
        Ok(())
    }

    /// Adds the rows `taken`, which belong to the sessions `numbers`.
    fn aggregate(&mut self, numbers: &[u32], taken: &[u32], rows: &Rows) -> Result<()> {
        if taken.is_empty() {
            return Ok(());
        }
        let rows = if taken.len() == rows.len() { rows.clone() } else { rows.take(taken)? };
        let Self { accumulators, sessions, .. } = self;
        accumulators.update(numbers, rows.batch(), None, sessions.named())
    }

    fn give(&self, numbers: &[u32], out: &mut Out<'_>) -> Result<()> {
        let sessions = || numbers.iter().map(|number| &self.sessions.all[*number as usize]);
        let keys: Vec<u32> = sessions().map(|session| session.key).collect();
        let mut columns = self.encoder.columns(&self.sessions.keys, &keys)?;
        let starts = sessions().map(|session| session.first);
        let ends = sessions().map(|session| end_of(session, self.spec.gap));
        columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(starts)) as ArrayRef);
        columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(ends)));
        columns.extend(self.accumulators.values(numbers)?);
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error)?;
        out.rows(Rows::inserts(batch))
    }

    /// Says that a session is about to change.
    fn touch(&mut self, number: u32) -> Result<()> {
        if self.changes.touch(number) {
            self.write_early(number)?;
        }
        Ok(())
    }

    fn write_early(&mut self, number: u32) -> Result<()> {
        let mut early = self.changes.take_early();
        self.write(&[number], &mut early)?;
        self.changes.put_early(early);
        Ok(())
    }

    fn write(&self, numbers: &[u32], delta: &mut Delta) -> Result<()> {
        let columns = self.accumulators.states(numbers)?;
        let states = match columns.as_slice() {
            [] => None,
            columns => Some(self.states.convert_columns(columns).map_err(arrow_error)?),
        };
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (row, number) in numbers.iter().enumerate() {
            key.clear();
            value.clear();
            let (group, expires) = Owners::write(&self.sessions, *number, &mut key);
            let session = &self.sessions.all[*number as usize];
            value.extend_from_slice(&session.first.to_le_bytes());
            value.extend_from_slice(&session.last.to_le_bytes());
            if let Some(states) = &states {
                value.extend_from_slice(states.row(row).as_ref());
            }
            delta.set(Entry { group, table: SESSIONS, key: &key, expires, value: &value })?;
        }
        Ok(())
    }

    fn load_sessions(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        let damaged = || Error::new(code::STATE, "an entry of a session's state is damaged");
        let (mut numbers, mut states) = (Vec::new(), Vec::new());
        let parser = self.states.parser();
        for entry in entries {
            let number = self.sessions.read(entry.key)?;
            let (first, rest) = entry.value.split_first_chunk::<8>().ok_or_else(damaged)?;
            let (last, state) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            let session = &mut self.sessions.all[number as usize];
            session.first = i64::from_le_bytes(*first);
            session.last = i64::from_le_bytes(*last);
            numbers.push(number);
            states.push(parser.parse(state));
        }
        self.resize();
        let states = match self.accumulators.states(&[])?.is_empty() {
            true => Vec::new(),
            false => self.states.convert_rows(states).map_err(arrow_error)?,
        };
        self.accumulators.merge_states(&numbers, &states)
    }
}

fn end_of(session: &Session, gap: i64) -> i64 {
    session.last.saturating_add(gap)
}

#[cfg(test)]
mod tests;
