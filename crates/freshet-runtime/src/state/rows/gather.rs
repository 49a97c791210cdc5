//! Rows of a store as columns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};
use freshet_core::Result;
use freshet_core::rows::arrow_error;

use super::{NONE, RowRef, RowStore, split};

impl RowStore {
    /// The rows' columns, in the order of `rows`; a row of nulls for [`NONE`], where `any_none`.
    pub(crate) fn gather(&mut self, rows: &[RowRef], any_none: bool) -> Result<Vec<ArrayRef>> {
        self.stamp = self.stamp.wrapping_add(1);
        self.sources.resize(self.chunks.len(), (self.stamp.wrapping_sub(1), 0));
        let Self { chunks, sources, spill, schema, .. } = self;
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut segments = HashMap::<(u32, usize), usize>::new();
        let first = usize::from(any_none);
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            if *row == NONE {
                debug_assert!(any_none, "it was said that there is none");
                places.push((0, 0));
                continue;
            }
            let (slot, number) = split(*row);
            let chunk = chunks[slot as usize].as_ref().expect("rows that there are");
            let place = usize::from(chunk.places[number]);
            if let Some(blocks) = &chunk.blocks {
                let segment = chunk.segment(place).expect("a row that there is lies in one");
                let source = match segments.entry((slot, segment)) {
                    Entry::Occupied(entry) => *entry.get(),
                    Entry::Vacant(entry) => {
                        batches.push(spill.rows(schema, chunk, blocks, segment)?);
                        *entry.insert(first + batches.len() - 1)
                    }
                };
                places.push((source, place - chunk.segments[segment].start as usize));
                continue;
            }
            let source = &mut sources[slot as usize];
            if source.0 != self.stamp {
                *source = (self.stamp, (first + batches.len()) as u32);
                batches.extend(chunk.parts.iter().map(|part| part.batch.clone()));
            }
            let (part, place) = chunk.locate(place);
            places.push((source.1 as usize + part, place));
        }
        let only = (batches.len() == 1 && !any_none)
            .then(|| UInt32Array::from_iter_values(places.iter().map(|(_, place)| *place as u32)));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (index, field) in self.schema.fields().iter().enumerate() {
            columns.push(
                match &only {
                    Some(indices) => take(batches[0].column(index), indices, None),
                    None => {
                        let nulls = new_null_array(field.data_type(), 1);
                        let nulls = any_none.then_some(&*nulls);
                        let parts = batches.iter().map(|batch| &**batch.column(index));
                        let parts: Vec<&dyn Array> = nulls.into_iter().chain(parts).collect();
                        match parts.is_empty() {
                            true => Ok(new_null_array(field.data_type(), 0)),
                            false => interleave(&parts, &places),
                        }
                    }
                }
                .map_err(arrow_error)?,
            );
        }
        Ok(columns)
    }

    /// The rows as a batch, in the order of `rows`, none of which is [`NONE`].
    pub(crate) fn gather_batch(&mut self, rows: &[RowRef]) -> Result<RecordBatch> {
        let columns = self.gather(rows, false)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(arrow_error)
    }
}
