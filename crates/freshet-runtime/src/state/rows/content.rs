//! Finds rows by what they hold: built once a row is taken back, of all rows that there are.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use freshet_core::rows::arrow_error;
use freshet_core::{Error, Result, error::code};
use xxhash_rust::xxh3::xxh3_64;

use super::chunk::{Chunk, DEAD, NONE, ROW_BITS, UNLINKED};
use super::{RowRef, RowStore, split};

/// The contents of a batch's rows.
#[derive(Debug)]
pub(crate) enum ContentsOf {
    /// There is no column: all are the same.
    Nothing,
    /// In Arrow's row format.
    Rows(arrow::row::Rows),
}

impl ContentsOf {
    fn row(&self, row: usize) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::Rows(rows) => rows.row(row).data(),
        }
    }
}

/// Buckets of rows by the hash of their content.
#[derive(Debug)]
pub(super) struct Contents {
    converter: Option<RowConverter>,
    /// The first row of each; as many as a power of two.
    buckets: Vec<RowRef>,
}

impl Contents {
    /// Of the rows that are in chains.
    pub(super) fn build(schema: &SchemaRef, chunks: &mut [Option<Chunk>]) -> Result<Self> {
        let fields: Vec<_> =
            schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields).map_err(|error| {
                Error::new(code::SQL, "rows with a column of this type cannot be taken back")
                    .caused_by(error)
            })?),
        };
        let mut contents = Self { converter, buckets: vec![NONE; 16] };
        let mut live = 0;
        for chunk in chunks.iter_mut().flatten() {
            let mut by_place = vec![0; chunk.len()];
            let mut note = |start: u32, batch: &RecordBatch| -> Result<()> {
                let rows = contents.of(batch)?;
                for row in 0..batch.num_rows() {
                    by_place[start as usize + row] = tag(rows.row(row));
                }
                Ok(())
            };
            chunk.parts.iter().try_for_each(|part| note(part.start, &part.batch))?;
            for (index, segment) in chunk.segments.iter().enumerate() {
                if let Some(blocks) = &chunk.blocks {
                    note(segment.start, &blocks.rows(schema, index)?)?;
                }
            }
            // The places of a chunk none of whose rows is left are gone.
            let places = chunk.places.iter().map(|place| (by_place[usize::from(*place)], NONE));
            chunk.contents = places.collect();
            live += chunk.live as usize;
        }
        contents.resize(chunks, live);
        Ok(contents)
    }

    /// The contents of the rows of a batch.
    pub(super) fn of(&self, batch: &RecordBatch) -> Result<ContentsOf> {
        Ok(match &self.converter {
            None => ContentsOf::Nothing,
            Some(converter) => {
                ContentsOf::Rows(converter.convert_columns(batch.columns()).map_err(arrow_error)?)
            }
        })
    }

    /// The last rows of `chunk` are those of `batch`: they are not found before they are inserted.
    pub(super) fn extend(&self, chunk: &mut Chunk, batch: &RecordBatch) -> Result<()> {
        let rows = self.of(batch)?;
        chunk.contents.extend((0..batch.num_rows()).map(|row| (tag(rows.row(row)), NONE)));
        Ok(())
    }

    /// Makes room for `rows` rows.
    pub(super) fn reserve(&mut self, chunks: &mut [Option<Chunk>], rows: usize) {
        if rows > self.buckets.len() {
            self.resize(chunks, rows * 2);
        }
    }

    fn resize(&mut self, chunks: &mut [Option<Chunk>], rows: usize) {
        self.buckets = vec![NONE; rows.next_power_of_two().max(16)];
        let mask = self.buckets.len() - 1;
        for (slot, chunk) in chunks.iter_mut().enumerate() {
            let Some(chunk) = chunk else { continue };
            for (row, link) in chunk.links.iter().enumerate() {
                if link.key == DEAD || link.next == UNLINKED {
                    continue;
                }
                let (tag, next) = &mut chunk.contents[row];
                let bucket = &mut self.buckets[*tag as usize & mask];
                *next = std::mem::replace(bucket, (slot as u32) << ROW_BITS | row as u32);
            }
        }
    }

    pub(super) fn insert(&mut self, chunks: &mut [Option<Chunk>], row: RowRef) {
        let mask = self.buckets.len() - 1;
        let (tag, next) = entry(chunks, row);
        *next = std::mem::replace(&mut self.buckets[*tag as usize & mask], row);
    }

    pub(super) fn remove(&mut self, chunks: &mut [Option<Chunk>], row: RowRef) {
        let (tag, next) = *entry(chunks, row);
        let bucket = tag as usize & (self.buckets.len() - 1);
        if self.buckets[bucket] == row {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while before != NONE {
            let entry = entry(chunks, before);
            if entry.1 == row {
                entry.1 = next;
                return;
            }
            before = entry.1;
        }
        debug_assert!(false, "a row that is in a chain is in a bucket");
    }

    /// A row of `key` that holds the same as row `row` of `contents`.
    pub(super) fn find(
        &self,
        store: &mut RowStore,
        key: u32,
        contents: &ContentsOf,
        row: usize,
    ) -> Result<RowRef> {
        let content = contents.row(row);
        let wanted = tag(content);
        let mut row = self.buckets[wanted as usize & (self.buckets.len() - 1)];
        while row != NONE {
            let (tag, next) = *entry(&mut store.chunks, row);
            if tag == wanted && store.key(row) == key {
                let batch = store.gather_batch(&[row])?;
                if self.of(&batch)?.row(0) == content {
                    return Ok(row);
                }
            }
            row = next;
        }
        Ok(NONE)
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.capacity() * 4
    }
}

fn entry(chunks: &mut [Option<Chunk>], row: RowRef) -> &mut (u32, u32) {
    let (slot, row) = split(row);
    &mut chunks[slot as usize].as_mut().expect("a row's chunk is there").contents[row]
}

fn tag(content: &[u8]) -> u32 {
    xxh3_64(content) as u32
}
