//! `GROUP BY window, keys` over windows that are known from a row's time alone: tumbling, hopping
//! and cumulating ones.
//!
//! Time is divided into slices, the greatest pieces that lie in each window whole or not at all; a
//! row is aggregated into its slice once, and a window is put together of its slices when it closes.
//! Slicing is after Li et al., "No pane, no gain" (SIGMOD Record 34(1), 2005).

use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::RowConverter;
use freshet_core::{Error, Result, error::code};

use crate::aggregate::{Accumulators, AggregateSpec, Layout, Named};
use crate::keys::{KeyEncoder, KeyMap};
use crate::operator::{
    Counts, Flow, LATE, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::{Delta, Dirty, Entry, KeyGroup, KeyGroups, Owners};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::stream::EventTime;

/// Rows of a batch that a closing window gives.
const BATCH_ROWS: usize = 8192;

/// Keys whose state is encoded at a time.
const PIECE: usize = 256;

/// The table of keys in checkpoints; those of their sets of values follow.
const KEYS: u8 = 0;

/// How time is divided, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Windows {
    size: i64,
    /// Between the starts of two windows; of cumulating ones, between two ends.
    step: i64,
    offset: i64,
    cumulate: bool,
}

impl Windows {
    /// Windows of `size`, one after another.
    pub fn tumble(size: i64, offset: i64) -> Result<Self> {
        Self::new(size, size, offset, false)
    }

    /// Windows of `size`, one of which begins every `slide`.
    pub fn hop(size: i64, slide: i64, offset: i64) -> Result<Self> {
        Self::new(size, slide, offset, false)
    }

    /// Windows that begin every `size` and end after one `step`, two, and so on up to `size`.
    pub fn cumulate(size: i64, step: i64, offset: i64) -> Result<Self> {
        if step > 0 && size % step != 0 {
            let message = "the size of a cumulating window is no multiple of its step";
            return Err(Error::new(code::SQL, message));
        }
        Self::new(size, step, offset, true)
    }

    fn new(size: i64, step: i64, offset: i64, cumulate: bool) -> Result<Self> {
        if size <= 0 || step <= 0 {
            return Err(Error::new(code::SQL, "the size of a window is not above zero"));
        }
        if step > size {
            // Rows between two windows would belong to none; Flink leaves them out as well.
            return Err(Error::new(code::SQL, "a window's slide is larger than its size"));
        }
        // One period is enough, and keeps sums small.
        let period = if cumulate { size } else { step };
        Ok(Self { size, step, offset: offset.rem_euclid(period), cumulate })
    }

    /// How long a window is; the longest of those that cumulate.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// The width of a slice.
    fn slice(&self) -> i64 {
        if self.cumulate { self.step } else { gcd(self.size, self.step) }
    }

    /// The end of the slice that `time` is in.
    fn slice_end(&self, time: i64) -> i64 {
        let slice = self.slice();
        (time - self.offset).div_euclid(slice).saturating_add(1) * slice + self.offset
    }

    /// The ends of the windows that the slice ending at `slice_end` is in, ascending.
    fn ends(&self, slice_end: i64) -> impl Iterator<Item = i64> + use<> {
        let Self { size, step, offset, cumulate } = *self;
        let start = slice_end - self.slice();
        let (first, last) = if cumulate {
            let window = (start - offset).div_euclid(size) * size + offset;
            (slice_end, window + size)
        } else {
            // The last window begins at or before the slice's start, on a multiple of the step.
            let begin = (start - offset).div_euclid(step) * step + offset;
            let count = (begin + size - slice_end) / step;
            (begin + size - count * step, begin + size)
        };
        (0..=(last - first) / step).map(move |number| first + number * step)
    }

    /// The windows that `time` is in, start and end, ascending by their ends.
    pub fn of(&self, time: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let windows = *self;
        self.ends(self.slice_end(time)).map(move |end| (windows.start(end), end))
    }

    /// When the window that ends at `end` begins.
    pub fn start(&self, end: i64) -> i64 {
        if self.cumulate {
            (end - 1 - self.offset).div_euclid(self.size) * self.size + self.offset
        } else {
            end - self.size
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Aggregation over windows.
///
/// Gives the key columns, `window_start` and `window_end` (timestamps in microseconds), and the
/// aggregates, when the watermark passes a window's end. Rows all of whose windows have closed are
/// late: they go to [`LATE`] as they are.
#[derive(Debug, Clone)]
pub struct WindowAggregate {
    /// The columns of the input.
    pub input: SchemaRef,
    /// The column of the rows' time, a timestamp in microseconds.
    pub time: usize,
    /// The windows.
    pub windows: Windows,
    /// The columns to group by beside the window.
    pub keys: Vec<usize>,
    /// What is computed.
    pub aggregates: Vec<Arc<dyn AggregateSpec>>,
    /// The names of the aggregates.
    pub names: Vec<String>,
    /// How keys are divided.
    pub groups: KeyGroups,
}

impl WindowAggregate {
    /// The columns that it gives.
    pub fn schema(&self) -> SchemaRef {
        window_schema(&self.input, &self.keys, &self.names, &self.aggregates)
    }
}

/// Keys, bounds and aggregates of windows as columns.
pub(super) fn window_schema(
    input: &SchemaRef,
    keys: &[usize],
    names: &[String],
    aggregates: &[Arc<dyn AggregateSpec>],
) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let keys = keys.iter().map(|key| input.field(*key).clone());
    let bounds = ["window_start", "window_end"].map(|name| Field::new(name, time.clone(), false));
    let aggregates = names.iter().zip(aggregates);
    let aggregates =
        aggregates.map(|(name, aggregate)| Field::new(name, aggregate.value_type(), true));
    Arc::new(Schema::new(keys.chain(bounds).chain(aggregates).collect::<Vec<_>>()))
}

/// A row without a time.
pub(super) fn no_time() -> Error {
    Error::new(code::EXECUTION, "a row has no time to put it into a window")
        .hint("declare the column as required, or filter rows without it")
}

impl OperatorSpec for WindowAggregate {
    fn name(&self) -> String {
        let keys: Vec<_> =
            self.keys.iter().map(|key| self.input.field(*key).name().as_str()).collect();
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        let kind = match self.windows {
            Windows { cumulate: true, .. } => "cumulate",
            Windows { size, step, .. } if size == step => "tumble",
            _ => "hop",
        };
        format!("{kind} window{by}")
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let layout = Layout::new(&self.aggregates, &self.input)?;
        Ok(Box::new(Running {
            encoder: KeyEncoder::new(&self.input, &self.keys)?,
            states: layout.converter()?,
            layout,
            schema: self.schema(),
            spec: self.clone(),
            watermark: context.watermark,
            slices: BTreeMap::new(),
            ends: BTreeSet::new(),
            floor: context.watermark,
            frozen_floor: context.watermark,
            early: Delta::default(),
            late: 0,
            slots: Vec::new(),
            is_ready: false,
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: WindowAggregate,
    encoder: KeyEncoder,
    layout: Arc<Layout>,
    /// The states of all aggregates as one value of a checkpoint.
    states: RowConverter,
    schema: SchemaRef,
    watermark: EventTime,
    /// By their ends.
    slices: BTreeMap<i64, Slice>,
    /// The ends of the windows that have any slice and are open.
    ends: BTreeSet<i64>,
    /// Slices whose last window closed at or before this are gone.
    floor: EventTime,
    /// The same at the time of the checkpoint that is being made.
    frozen_floor: EventTime,
    /// Entries of that checkpoint that were given before they changed.
    early: Delta,
    late: u64,
    slots: Vec<u32>,
    /// Whether what follows from the loaded state was computed.
    is_ready: bool,
}

/// The keys of a slice and what they come to.
#[derive(Debug)]
struct Slice {
    keys: SliceKeys,
    accumulators: Accumulators,
    dirty: Dirty,
}

#[derive(Debug)]
struct SliceKeys {
    map: KeyMap,
    groups: KeyGroups,
    /// The end of the slice.
    end: i64,
    /// The end of the last window that it is in.
    last: i64,
}

impl Owners for SliceKeys {
    fn write(&self, owner: u32, key: &mut Vec<u8>) -> (KeyGroup, EventTime) {
        key.extend_from_slice(&encode_time(self.end));
        self.map.write(owner, key);
        (self.groups.group(self.map.hash(owner)), EventTime(self.last - 1))
    }
}

impl SliceKeys {
    fn named(&self) -> Named<'_> {
        Named { owners: self, first: KEYS + 1 }
    }
}

impl Slice {
    fn new(
        encoder: &KeyEncoder,
        layout: &Arc<Layout>,
        spec: &WindowAggregate,
        end: i64,
    ) -> Result<Self> {
        let last = spec.windows.ends(end).last().expect("a slice is in some window");
        Ok(Self {
            keys: SliceKeys { map: encoder.map(), groups: spec.groups, end, last },
            accumulators: Accumulators::new(layout)?,
            dirty: Dirty::default(),
        })
    }

    fn resize(&mut self) {
        let bound = self.keys.map.bound();
        self.dirty.resize(bound);
        self.accumulators.resize(bound);
    }

    fn bytes(&self) -> usize {
        self.keys.map.bytes() + self.accumulators.bytes() + self.dirty.bytes()
    }

    /// Gives the entries of some keys.
    fn write(&self, states: &RowConverter, slots: &[u32], delta: &mut Delta) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let columns = self.accumulators.states(slots)?;
        let states = match columns.as_slice() {
            [] => None,
            columns => Some(states.convert_columns(columns).map_err(arrow_error)?),
        };
        let mut key = Vec::new();
        for (row, slot) in slots.iter().enumerate() {
            key.clear();
            let (group, expires) = self.keys.write(*slot, &mut key);
            let state = states.as_ref().map(|states| states.row(row));
            let value = state.as_ref().map_or(&[][..], |state| state.as_ref());
            delta.set(Entry { group, table: KEYS, key: &key, expires, value })?;
        }
        Ok(())
    }

    /// Gives entries of the frozen checkpoint until `delta` has `enough` bytes; `false` where some
    /// are left.
    fn drain(&mut self, states: &RowConverter, enough: usize, delta: &mut Delta) -> Result<bool> {
        while delta.bytes() < enough {
            let owed = self.dirty.owed(PIECE);
            if owed.is_empty() {
                let Self { accumulators, keys, .. } = self;
                return accumulators.drain(enough, keys.named(), delta);
            }
            self.write(states, &owed, delta)?;
        }
        Ok(false)
    }
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        self.ready()?;
        let batch = rows.batch();
        let times = batch.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
        let keys = self.encoder.encode(batch)?;
        // Rows by slice. Most batches lie in one or two.
        let mut by_slice: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut late = Vec::new();
        let (mut current, mut place) = (None, 0);
        for row in 0..rows.len() {
            if times.is_null(row) {
                return Err(no_time());
            }
            let end = self.spec.windows.slice_end(times.value(row));
            if current != Some(end) {
                current = Some(end);
                place = match by_slice.iter().position(|(of, _)| *of == end) {
                    Some(place) => place,
                    None => {
                        by_slice.push((end, Vec::new()));
                        by_slice.len() - 1
                    }
                };
            }
            by_slice[place].1.push(row as u32);
        }
        for (end, chosen) in by_slice {
            let last = self.spec.windows.ends(end).last().expect("a slice is in some window");
            if last - 1 <= self.watermark.0 {
                late.extend(chosen);
                continue;
            }
            self.aggregate(end, &rows, &keys, &chosen)?;
        }
        if !late.is_empty() {
            late.sort_unstable();
            self.late += late.len() as u64;
            out.late(LATE, rows.take(&late)?, self.watermark)?;
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
        self.ready()?;
        while let Some(end) = self.ends.first().copied() {
            if end - 1 > watermark.0 {
                break;
            }
            self.close(end, out)?;
            self.ends.pop_first();
        }
        self.watermark = watermark;
        Ok(watermark)
    }

    fn freeze(&mut self) {
        self.frozen_floor = self.floor;
        for slice in self.slices.values_mut() {
            slice.dirty.freeze();
            slice.accumulators.freeze();
        }
    }

    fn drain(&mut self, bytes: usize, delta: &mut Delta) -> Result<Flow> {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            delta.append(early)?;
        }
        let enough = delta.bytes() + bytes;
        let ends: Vec<i64> = self.slices.keys().copied().collect();
        for end in ends {
            let slice = self.slices.get_mut(&end).expect("it is there");
            if !slice.drain(&self.states, enough, delta)? {
                return Ok(Flow::More);
            }
        }
        if self.frozen_floor > EventTime::MIN {
            for table in KEYS..=KEYS + self.layout.sets() {
                delta.floor(table, self.frozen_floor);
            }
        }
        Ok(Flow::Done)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for part in entries.chunk_by(|a, b| a.table == b.table && a.key.get(..8) == b.key.get(..8))
        {
            match part[0].table {
                KEYS => self.load_keys(part)?,
                table => self.load_values(usize::from(table - KEYS - 1), part)?,
            }
        }
        Ok(())
    }

    fn size(&self) -> StateSize {
        let slices = self.slices.values();
        let (bytes, keys) = slices.fold((0, 0), |(bytes, keys), slice| {
            (bytes + slice.bytes(), keys + slice.keys.map.len())
        });
        StateSize { bytes: bytes as u64, keys: keys as u64 }
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
        self.slices.values_mut().try_for_each(|slice| slice.accumulators.loaded())
    }

    /// The slice that ends at `end`; makes sure that there is one, and that its windows will be closed.
    fn open(&mut self, end: i64) -> Result<&mut Slice> {
        let Self { slices, encoder, spec, ends, watermark, layout, .. } = self;
        match slices.entry(end) {
            Occupied(known) => Ok(known.into_mut()),
            Vacant(new) => {
                ends.extend(spec.windows.ends(end).filter(|end| end - 1 > watermark.0));
                Ok(new.insert(Slice::new(encoder, layout, spec, end)?))
            }
        }
    }

    /// Takes entries of keys of one slice.
    fn load_keys(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        let end = end_of(entries[0].key)?;
        let slice = self.open(end)?;
        let slots = entries.iter().map(|entry| slice.keys.map.read(&entry.key[8..]));
        let slots = slots.collect::<Result<Vec<_>>>()?;
        slice.resize();
        if slice.accumulators.states(&[])?.is_empty() {
            return Ok(());
        }
        let parser = self.states.parser();
        let states = entries.iter().map(|entry| parser.parse(entry.value));
        let states = self.states.convert_rows(states).map_err(arrow_error)?;
        self.open(end)?.accumulators.merge_states(&slots, &states)
    }

    /// Takes entries of a set of values.
    fn load_values(&mut self, set: usize, entries: &[Entry<'_>]) -> Result<()> {
        for entry in entries {
            // The owner's key, which begins with the slice's end, stands behind its length.
            let end = end_of(entry.key.get(4..).unwrap_or_default())?;
            let slice = self.open(end)?;
            let Slice { keys, accumulators, .. } = slice;
            accumulators.load(set, entry, |key| keys.map.read(key.get(8..).unwrap_or_default()))?;
            slice.resize();
        }
        Ok(())
    }

    /// Adds the rows `chosen` to the slice that ends at `end`.
    fn aggregate(
        &mut self,
        end: i64,
        rows: &Rows,
        keys: &crate::keys::Keys,
        chosen: &[u32],
    ) -> Result<()> {
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        let slice = self.open(end)?;
        slots.extend(chosen.iter().map(|row| slice.keys.map.intern_row(keys, *row as usize).0));
        slice.resize();
        let dirty = &mut slice.dirty;
        let owed: Vec<u32> = slots.iter().copied().filter(|slot| dirty.touch(*slot)).collect();
        self.slices[&end].write(&self.states, &owed, &mut self.early)?;
        let rows = if chosen.len() == rows.len() { rows.clone() } else { rows.take(chosen)? };
        let slice = self.slices.get_mut(&end).expect("it was opened");
        let Slice { keys, accumulators, .. } = slice;
        accumulators.update(&slots, rows.batch(), rows.kinds(), keys.named())?;
        self.slots = slots;
        Ok(())
    }

    /// Gives the window that ends at `end`, and forgets the slices that are in no later one.
    fn close(&mut self, end: i64, out: &mut Out<'_>) -> Result<()> {
        let start = self.spec.windows.start(end);
        let parts: Vec<i64> = self.slices.range(start + 1..=end).map(|(end, _)| *end).collect();
        match parts.as_slice() {
            [] => {}
            [only] => self.give(&self.slices[only], start, end, out)?,
            parts => {
                let mut whole = Slice::new(&self.encoder, &self.layout, &self.spec, end)?;
                for part in parts {
                    let part = &self.slices[part];
                    let from = part.keys.map.slots();
                    let to =
                        from.iter().map(|slot| whole.keys.map.intern_from(&part.keys.map, *slot));
                    let to: Vec<u32> = to.collect();
                    whole.resize();
                    let Slice { keys, accumulators, .. } = &mut whole;
                    accumulators.merge(&to, &part.accumulators, &from, keys.named())?;
                }
                self.give(&whole, start, end, out)?;
            }
        }
        let gone = parts
            .iter()
            .filter(|part| self.spec.windows.ends(**part).last().is_none_or(|last| last <= end));
        for part in gone.copied().collect::<Vec<_>>() {
            // A checkpoint that is being made was cut while it was there.
            let slice = self.slices.get_mut(&part).expect("it is there");
            slice.drain(&self.states, usize::MAX, &mut self.early)?;
            self.slices.remove(&part);
        }
        self.floor = self.floor.max(EventTime(end - 1));
        Ok(())
    }

    fn give(&self, slice: &Slice, start: i64, end: i64, out: &mut Out<'_>) -> Result<()> {
        for slots in slice.keys.map.slots().chunks(BATCH_ROWS) {
            let mut columns = self.encoder.columns(&slice.keys.map, slots)?;
            for bound in [start, end] {
                columns.push(Arc::new(TimestampMicrosecondArray::from_value(bound, slots.len())));
            }
            columns.extend(slice.accumulators.values(slots)?);
            let batch =
                RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error)?;
            out.rows(Rows::inserts(batch))?;
        }
        Ok(())
    }
}

/// Eight bytes that have the order of times.
pub(super) fn encode_time(time: i64) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

/// The end of the slice that the key of an entry begins with.
fn end_of(key: &[u8]) -> Result<i64> {
    let end = key.first_chunk::<8>();
    let damaged = || Error::new(code::STATE, "an entry of a window's state is damaged");
    Ok(decode_time(*end.ok_or_else(damaged)?))
}

pub(super) fn decode_time(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests;
