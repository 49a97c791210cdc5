//! `GROUP BY window, keys` over windows that are known from a row's time alone: tumbling, hopping
//! and cumulating ones.
//!
//! Time is divided into slices, the greatest pieces that lie in each window whole or not at all; a
//! row is aggregated into its slice once, and a window is put together of its slices when it closes.
//! Slicing is after Li et al., "No pane, no gain" (SIGMOD Record 34(1), 2005).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use freshet_core::{Error, Result, error::code};

use super::dirty::Dirty;
use crate::aggregate::{Aggregate, AggregateSpec, Arguments};
use crate::keys::{KeyEncoder, KeyMap};
use crate::operator::{
    Counts, Flow, LATE, Operator, OperatorContext, OperatorSpec, Out, StateSize,
};
use crate::state::{Delta, Entry, KeyGroups};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::stream::EventTime;

/// Rows of a batch that a closing window gives.
const BATCH_ROWS: usize = 8192;

/// How time is divided, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// When the window that ends at `end` begins.
    fn start(&self, end: i64) -> i64 {
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
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let keys = self.keys.iter().map(|key| self.input.field(*key).clone());
        let bounds =
            ["window_start", "window_end"].map(|name| Field::new(name, time.clone(), false));
        let aggregates = self.names.iter().zip(&self.aggregates);
        let aggregates =
            aggregates.map(|(name, aggregate)| Field::new(name, aggregate.value_type(), true));
        Arc::new(Schema::new(keys.chain(bounds).chain(aggregates).collect::<Vec<_>>()))
    }
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
        let types = self.aggregates.iter().flat_map(|aggregate| aggregate.state_types());
        let states = RowConverter::new(types.map(SortField::new).collect()).map_err(arrow_error)?;
        Ok(Box::new(Running {
            encoder: KeyEncoder::new(&self.input, &self.keys)?,
            states,
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
        }))
    }
}

#[derive(Debug)]
struct Running {
    spec: WindowAggregate,
    encoder: KeyEncoder,
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
}

/// The keys of a slice and what they come to.
#[derive(Debug)]
struct Slice {
    keys: KeyMap,
    aggregates: Vec<Box<dyn Aggregate>>,
    dirty: Dirty,
}

impl Slice {
    fn new(encoder: &KeyEncoder, aggregates: &[Arc<dyn AggregateSpec>]) -> Self {
        Self {
            keys: encoder.map(),
            aggregates: aggregates.iter().map(|aggregate| aggregate.create()).collect(),
            dirty: Dirty::default(),
        }
    }

    fn resize(&mut self) {
        let bound = self.keys.bound();
        self.dirty.resize(bound);
        for aggregate in &mut self.aggregates {
            aggregate.resize(bound);
        }
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let states = self.aggregates.iter().map(|aggregate| aggregate.state(slots));
        Ok(states.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Adds states, row `n` of which belongs to the key `slots[n]`.
    fn merge(
        &mut self,
        specs: &[Arc<dyn AggregateSpec>],
        slots: &[u32],
        states: &[ArrayRef],
    ) -> Result<()> {
        let mut rest = states;
        for (aggregate, spec) in self.aggregates.iter_mut().zip(specs) {
            let (own, behind) = rest.split_at(spec.state_types().len());
            aggregate.merge(slots, own)?;
            rest = behind;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let aggregates: usize = self.aggregates.iter().map(|aggregate| aggregate.bytes()).sum();
        self.keys.bytes() + aggregates + self.dirty.bytes()
    }
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        let batch = rows.batch();
        let times = batch.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
        let keys = self.encoder.encode(batch)?;
        // Rows by slice. Most batches lie in one or two.
        let mut by_slice: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut late = Vec::new();
        let (mut current, mut place) = (None, 0);
        for row in 0..rows.len() {
            if times.is_null(row) {
                return Err(Error::new(
                    code::EXECUTION,
                    "a row has no time to put it into a window",
                )
                .hint("declare the column as required, or filter rows without it"));
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
            out.side(LATE, rows.take(&late)?)?;
        }
        Ok(Flow::Done)
    }

    fn on_watermark(&mut self, watermark: EventTime, out: &mut Out<'_>) -> Result<EventTime> {
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
            loop {
                if delta.bytes() >= enough {
                    return Ok(Flow::More);
                }
                let slice = self.slices.get_mut(&end).expect("it is there");
                let owed = slice.dirty.owed(256);
                if owed.is_empty() {
                    break;
                }
                self.write(end, &owed, delta)?;
            }
        }
        if self.frozen_floor > EventTime::MIN {
            delta.floor(0, self.frozen_floor);
        }
        Ok(Flow::Done)
    }

    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        for part in entries.chunk_by(|a, b| a.key.get(..8) == b.key.get(..8)) {
            let damaged = || Error::new(code::STATE, "an entry of a window's state is damaged");
            let (end, _) = part[0].key.split_first_chunk::<8>().ok_or_else(damaged)?;
            let end = decode_time(*end);
            self.open(end);
            let slice = self.slices.get_mut(&end).expect("it was opened");
            let slots = part.iter().map(|entry| slice.keys.read(&entry.key[8..]));
            let slots = slots.collect::<Result<Vec<_>>>()?;
            slice.resize();
            let parser = self.states.parser();
            let states = self
                .states
                .convert_rows(part.iter().map(|entry| parser.parse(entry.value)))
                .map_err(arrow_error)?;
            slice.merge(&self.spec.aggregates, &slots, &states)?;
        }
        Ok(())
    }

    fn size(&self) -> StateSize {
        let slices = self.slices.values();
        let (bytes, keys) = slices
            .fold((0, 0), |(bytes, keys), slice| (bytes + slice.bytes(), keys + slice.keys.len()));
        StateSize { bytes: bytes as u64, keys: keys as u64 }
    }

    fn counts(&self) -> Counts {
        Counts { late: self.late, ..Counts::default() }
    }
}

impl Running {
    /// Makes sure that there is a slice, and that its windows will be closed.
    fn open(&mut self, end: i64) {
        let Self { slices, encoder, spec, ends, watermark, .. } = self;
        slices.entry(end).or_insert_with(|| {
            ends.extend(spec.windows.ends(end).filter(|end| end - 1 > watermark.0));
            Slice::new(encoder, &spec.aggregates)
        });
    }

    /// Adds the rows `chosen` to the slice that ends at `end`.
    fn aggregate(
        &mut self,
        end: i64,
        rows: &Rows,
        keys: &crate::keys::Keys,
        chosen: &[u32],
    ) -> Result<()> {
        self.open(end);
        let slice = self.slices.get_mut(&end).expect("it was opened");
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        slots.extend(chosen.iter().map(|row| slice.keys.intern_row(keys, *row as usize).0));
        slice.resize();
        let mut owed = Vec::new();
        for slot in &slots {
            if slice.dirty.touch(*slot) {
                owed.push(*slot);
            }
        }
        if !owed.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            self.write(end, &owed, &mut early)?;
            self.early = early;
        }
        let whole = chosen.len() == rows.len();
        let indices = (!whole).then(|| UInt32Array::from(chosen.to_vec()));
        let column = |column: usize| match &indices {
            None => Ok(Arc::clone(rows.batch().column(column))),
            Some(indices) => take(rows.batch().column(column), indices, None).map_err(arrow_error),
        };
        let kinds: Option<Vec<_>> =
            rows.kinds().map(|kinds| chosen.iter().map(|row| kinds[*row as usize]).collect());
        let slice = self.slices.get_mut(&end).expect("it was opened");
        for (aggregate, spec) in slice.aggregates.iter_mut().zip(&self.spec.aggregates) {
            let columns =
                spec.arguments().iter().map(|place| column(*place)).collect::<Result<Vec<_>>>()?;
            let filter = spec.filter().map(column).transpose()?;
            let arguments = Arguments {
                columns: &columns,
                filter: filter.as_ref().map(|filter| filter.as_boolean()),
                kinds: kinds.as_deref(),
            };
            aggregate.update(&slots, arguments)?;
        }
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
                let mut whole = Slice::new(&self.encoder, &self.spec.aggregates);
                for part in parts {
                    let part = &self.slices[part];
                    let from = part.keys.slots();
                    let to: Vec<u32> =
                        from.iter().map(|slot| whole.keys.intern_from(&part.keys, *slot)).collect();
                    whole.resize();
                    whole.merge(&self.spec.aggregates, &to, &part.state(&from)?)?;
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
            let owed = slice.dirty.owed(usize::MAX);
            let mut early = std::mem::take(&mut self.early);
            self.write(part, &owed, &mut early)?;
            self.early = early;
            self.slices.remove(&part);
        }
        self.floor = self.floor.max(EventTime(end - 1));
        Ok(())
    }

    fn give(&self, slice: &Slice, start: i64, end: i64, out: &mut Out<'_>) -> Result<()> {
        for slots in slice.keys.slots().chunks(BATCH_ROWS) {
            let mut columns = self.encoder.columns(&slice.keys, slots)?;
            for bound in [start, end] {
                columns.push(Arc::new(TimestampMicrosecondArray::from_value(bound, slots.len())));
            }
            for aggregate in &slice.aggregates {
                columns.push(aggregate.value(slots)?);
            }
            let batch =
                RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error)?;
            out.rows(Rows::inserts(batch))?;
        }
        Ok(())
    }

    /// Gives the entries of some keys of a slice.
    fn write(&self, end: i64, slots: &[u32], delta: &mut Delta) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let slice = &self.slices[&end];
        let states = self.states.convert_columns(&slice.state(slots)?).map_err(arrow_error)?;
        let last = self.spec.windows.ends(end).last().expect("a slice is in some window");
        let mut key = encode_time(end).to_vec();
        for (slot, state) in slots.iter().zip(states.iter()) {
            key.truncate(8);
            slice.keys.write(*slot, &mut key);
            delta.set(Entry {
                group: self.spec.groups.group(slice.keys.hash(*slot)),
                table: 0,
                key: &key,
                expires: EventTime(last - 1),
                value: state.as_ref(),
            })?;
        }
        Ok(())
    }
}

/// Eight bytes that have the order of times.
fn encode_time(time: i64) -> [u8; 8] {
    ((time as u64) ^ (1 << 63)).to_be_bytes()
}

fn decode_time(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests;
