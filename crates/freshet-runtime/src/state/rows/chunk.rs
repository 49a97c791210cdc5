//! A chunk: up to 8192 rows that arrived one after another.
//!
//! A row is known by its number in the chunk for as long as the chunk is there. Where its values lie is
//! another matter: rows that arrived lately lie in the batches that they came in; from time to time those are
//! sealed, which copies their rows into the order of key groups and lets go of the memory that
//! their batches shared with others. So a checkpoint's entries are slices.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use freshet_core::Result;
use freshet_core::rows::arrow_error;

use super::spill::Blocks;
use crate::state::KeyGroup;

/// Bits of a row's number in its chunk. Tests are to come to the end of many chunks.
pub(super) const ROW_BITS: u32 = if cfg!(test) { 5 } else { 13 };

/// Rows of a chunk.
pub(super) const CHUNK_ROWS: usize = 1 << ROW_BITS;

/// No row.
pub(crate) const NONE: u32 = u32::MAX;

/// In place of the next row: the row is in no chain yet.
pub(super) const UNLINKED: u32 = u32::MAX - 1;

/// In place of the number of a row's key: the row is no more.
pub(super) const DEAD: u32 = u32::MAX;

/// A row's place in the chain of its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// The next row of the key, or [`NONE`].
    pub(super) next: u32,
    /// The number of the key, or [`DEAD`].
    pub(super) key: u32,
}

/// Values of neighbouring rows.
#[derive(Debug)]
pub(super) struct Part {
    /// The place of the first in the chunk.
    pub(super) start: u32,
    pub(super) batch: RecordBatch,
    /// Bytes of memory that the batch holds, shared ones included.
    pub(super) bytes: usize,
}

/// Neighbouring rows of one key group: one entry of a checkpoint.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) group: KeyGroup,
    /// Names the entry: no other one of the group has it.
    pub(super) number: u64,
    pub(super) start: u32,
    pub(super) len: u32,
    /// Rows that there still are.
    pub(super) live: u32,
    /// When the last of them is dead by itself.
    pub(super) expires: i64,
    /// Whether bits of its rows changed since the last checkpoint.
    pub(super) dirty: bool,
}

/// Rows that arrived one after another.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// No other chunk has it.
    pub(super) serial: u64,
    pub(super) links: Vec<Link>,
    /// Where the values of each row lie.
    pub(super) places: Vec<u16>,
    /// Ascending by their start.
    pub(super) parts: Vec<Part>,
    /// So many rows, the first ones, are sealed, in so many parts.
    pub(super) sealed: usize,
    pub(super) sealed_parts: usize,
    /// Of sealed rows, ascending by their start.
    pub(super) segments: Vec<Segment>,
    /// By place: rows that are no more.
    pub(super) dead: Bits,
    /// By place: what the owner says of rows.
    pub(super) marks: Bits,
    /// Rows that there are.
    pub(super) live: u32,
    /// Rows that a chain goes through; dead ones may be among them.
    pub(super) linked: u32,
    /// The time of each row, where rows have one.
    pub(super) times: Vec<i64>,
    /// When all rows are dead by themselves.
    pub(super) last_expires: i64,
    /// When the first row that came is.
    pub(super) first_expires: i64,
    /// What the owner counts of each row, where it does.
    pub(super) counts: Vec<u32>,
    /// Of the index of rows by their content: a part of the hash, and the next row of the bucket.
    pub(super) contents: Vec<(u32, u32)>,
    /// The groups of rows that are not sealed.
    pub(super) groups: Vec<KeyGroup>,
    /// Its segments on disk, once they are there; then it has no parts.
    pub(super) blocks: Option<Blocks>,
    /// Once it is closed, bytes of its parts, and of what stays in memory beside.
    pub(super) resident: usize,
    pub(super) overhead: usize,
}

/// A bit for each row; none is there before one is set.
#[derive(Debug, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn get(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Whether it was not set before.
    pub(super) fn set(&mut self, place: usize) -> bool {
        if self.0.len() <= place / 64 {
            self.0.resize(place / 64 + 1, 0);
        }
        let word = &mut self.0[place / 64];
        let before = *word;
        *word |= 1 << (place % 64);
        *word != before
    }

    fn clear(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word &= !(1 << (place % 64));
        }
    }

    /// The bits of `start..start + len`, eight to a byte, the first one lowest.
    pub(super) fn write(&self, start: usize, len: usize, into: &mut Vec<u8>) {
        for first in (0..len).step_by(8) {
            let bits = first..len.min(first + 8);
            let bit = |place: usize| u8::from(self.get(start + place)) << (place - first);
            into.push(bits.map(bit).sum());
        }
    }

    pub(super) fn any(&self, start: usize, len: usize) -> bool {
        !self.0.is_empty() && (start..start + len).any(|place| self.get(place))
    }
}

impl Chunk {
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// The part that holds the values at `place`, and the row in it.
    pub(super) fn locate(&self, place: usize) -> (usize, usize) {
        if let [only] = self.parts.as_slice() {
            return (0, place - only.start as usize);
        }
        let part = self.parts.partition_point(|part| part.start as usize <= place) - 1;
        (part, place - self.parts[part].start as usize)
    }

    /// The segment that a sealed place lies in. Rows that died before they were sealed are in none.
    pub(super) fn segment(&self, place: usize) -> Option<usize> {
        let behind = self.segments.partition_point(|segment| segment.start as usize <= place);
        let index = behind.checked_sub(1)?;
        let segment = &self.segments[index];
        (place < (segment.start + segment.len) as usize).then_some(index)
    }

    /// Adds rows that are not sealed.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let part = Part { start: self.places.len() as u32, bytes: batch_bytes(&batch), batch };
        self.places.extend((part.start as u16)..(part.start as u16) + part.batch.num_rows() as u16);
        self.parts.push(part);
        // As many rows again are copied as there are doublings, not as there are batches.
        while let [.., before, last] = &self.parts[self.sealed_parts..] {
            let small = before.batch.num_rows() <= 2 * last.batch.num_rows();
            if !small || self.parts.len() - self.sealed_parts < MANY_PARTS {
                break;
            }
            self.merge_last()?;
        }
        Ok(())
    }

    /// Makes the last two parts one.
    pub(super) fn merge_last(&mut self) -> Result<()> {
        let (Some(last), Some(before)) = (self.parts.pop(), self.parts.pop()) else {
            return Ok(());
        };
        let schema = before.batch.schema();
        let gap = last.start as usize - before.start as usize - before.batch.num_rows();
        debug_assert_eq!(gap, 0, "only neighbours are merged");
        let batch = concat_batches(&schema, [&before.batch, &last.batch]).map_err(arrow_error)?;
        let batch = compact(&batch);
        let bytes = batch_bytes(&batch);
        self.parts.push(Part { start: before.start, batch, bytes });
        Ok(())
    }

    /// Rows from `first` on came: remembers when they are dead by themselves.
    pub(super) fn expect(&mut self, first: usize, dies: bool, end: i64) {
        let last = if dies { self.times[first..].iter().copied().max() } else { Some(end) };
        self.last_expires = self.last_expires.max(last.unwrap_or(end));
    }

    /// Seals what is not: gives the segments that came of it, numbered `number`.
    pub(super) fn seal(
        &mut self,
        schema: &SchemaRef,
        number: u64,
        dies: bool,
        end: i64,
    ) -> Result<Option<SealedPart>> {
        let (start, behind) = (self.sealed, self.len());
        if start == behind {
            return Ok(None);
        }
        let mut order: Vec<u32> = (start as u32..behind as u32)
            .filter(|row| self.links[*row as usize].key != DEAD)
            .collect();
        order.sort_by_key(|row| self.groups[*row as usize - start]);
        let mut segments: Vec<Segment> = Vec::new();
        for (rank, row) in order.iter().enumerate() {
            let group = self.groups[*row as usize - start];
            let expires = if dies { self.times[*row as usize] } else { end };
            match segments.last_mut().filter(|segment| segment.group == group) {
                Some(segment) => {
                    segment.len += 1;
                    segment.live += 1;
                    segment.expires = segment.expires.max(expires);
                }
                None => segments.push(Segment {
                    group,
                    number,
                    start: (start + rank) as u32,
                    len: 1,
                    live: 1,
                    expires,
                    dirty: false,
                }),
            }
        }
        let batch = self.gather_tail(schema, &order)?;
        let tail: Vec<bool> = (start..behind).map(|place| self.marks.get(place)).collect();
        for place in start..behind {
            self.marks.clear(place);
        }
        let live = order.len();
        let mut dead = start + live;
        for (rank, row) in order.iter().enumerate() {
            self.places[*row as usize] = (start + rank) as u16;
            if tail[*row as usize - start] {
                self.marks.set(start + rank);
            }
        }
        for row in start..behind {
            if self.links[row].key == DEAD {
                self.places[row] = dead as u16;
                dead += 1;
            }
        }
        self.parts.truncate(self.sealed_parts);
        self.groups.clear();
        self.sealed = behind;
        if live == 0 {
            return Ok(None);
        }
        let sealed = self.add_sealed(start, batch, segments)?;
        Ok(Some(sealed))
    }

    /// Adds a part of rows in the order of their segments.
    pub(super) fn add_sealed(
        &mut self,
        start: usize,
        batch: RecordBatch,
        segments: Vec<Segment>,
    ) -> Result<SealedPart> {
        let bytes = batch_bytes(&batch);
        let sealed = SealedPart {
            start: start as u32,
            batch: batch.clone(),
            first: self.segments.len(),
            segments: segments.len(),
        };
        self.parts.push(Part { start: start as u32, batch, bytes });
        self.segments.extend(segments);
        while let [.., before, last] = self.parts.as_slice() {
            let end = before.start as usize + before.batch.num_rows();
            let small = before.batch.num_rows() <= 2 * last.batch.num_rows();
            if !small || end != last.start as usize {
                break;
            }
            self.merge_last()?;
        }
        self.sealed_parts = self.parts.len();
        Ok(sealed)
    }

    /// The rows `order`, none of them sealed, in that order.
    fn gather_tail(&self, schema: &SchemaRef, order: &[u32]) -> Result<RecordBatch> {
        let parts = &self.parts[self.sealed_parts..];
        let batch = match parts {
            [] => RecordBatch::new_empty(Arc::clone(schema)),
            [only] => {
                let indices = order.iter().map(|row| row - only.start);
                take_record_batch(&only.batch, &UInt32Array::from_iter_values(indices))
                    .map_err(arrow_error)?
            }
            parts => {
                let batches: Vec<_> = parts.iter().map(|part| &part.batch).collect();
                let find = |row: &u32| {
                    let part = parts.partition_point(|part| part.start <= *row) - 1;
                    (part, (row - parts[part].start) as usize)
                };
                let indices: Vec<_> = order.iter().map(find).collect();
                if schema.fields().is_empty() {
                    let options = RecordBatchOptions::new().with_row_count(Some(order.len()));
                    RecordBatch::try_new_with_options(Arc::clone(schema), vec![], &options)
                        .map_err(arrow_error)?
                } else {
                    interleave_record_batch(&batches, &indices).map_err(arrow_error)?
                }
            }
        };
        Ok(compact(&batch))
    }

    /// Bytes of memory that the values of its rows take.
    pub(super) fn part_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// About how many bytes of memory it takes beside.
    pub(super) fn overhead(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
            + self.places.capacity() * 2
            + self.segments.capacity() * size_of::<Segment>()
            + (self.times.capacity() + self.contents.capacity()) * 8
            + self.counts.capacity() * 4
            + (self.dead.0.capacity() + self.marks.0.capacity()) * 8
    }
}

/// Parts of rows that are not sealed, beyond which small ones are merged.
const MANY_PARTS: usize = 8;

/// Rows that were just sealed, with the place of their segments in the chunk's.
#[derive(Debug)]
pub(super) struct SealedPart {
    pub(super) start: u32,
    pub(super) batch: RecordBatch,
    pub(super) first: usize,
    pub(super) segments: usize,
}

/// The same rows in memory of their own.
pub(super) fn compact(batch: &RecordBatch) -> RecordBatch {
    let column = |column: &ArrayRef| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    };
    let columns = batch.columns().iter().map(column).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .expect("columns keep their types and lengths")
}

/// Bytes of memory that the columns hold, shared ones included.
pub(super) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.get_buffer_memory_size()).sum()
}

/// Bytes that texts in views take of the memory that they hold, and all of the latter.
pub(super) fn view_bytes(batch: &RecordBatch) -> (usize, usize) {
    let (mut used, mut held) = (0, 0);
    for column in batch.columns() {
        let buffers = match column.data_type() {
            DataType::Utf8View => {
                let array = column.as_string_view();
                used += array.total_buffer_bytes_used();
                array.data_buffers()
            }
            DataType::BinaryView => {
                let array = column.as_binary_view();
                used += array.total_buffer_bytes_used();
                array.data_buffers()
            }
            _ => continue,
        };
        held += buffers.iter().map(arrow::buffer::Buffer::capacity).sum::<usize>();
    }
    (used, held)
}
