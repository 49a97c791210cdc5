//! Reading of one row group.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use arrow::json::LineDelimitedWriter;
use async_trait::async_trait;
use freshet_core::contract::ContractMode;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::ReadSpec;
use freshet_core::record::{Decoded, Reject};
use futures::StreamExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};

use super::{Columns, Reader, broken, guarded};
use crate::files::Blob;
use crate::formats::BlockReader;
use crate::values::convert::{Fitted, Refusal, exact, fit};
use crate::values::{Rules, ValueFormats};

/// Reads one row group.
pub struct GroupReader {
    columns: Arc<Columns>,
    stream: ParquetRecordBatchStream<Reader>,
    /// Place in the file of each column of the stream.
    places: Vec<usize>,
    rules: Vec<Option<Rules>>,
    output: SchemaRef,
    offsets: bool,
    row: u64,
}

impl GroupReader {
    /// Gives the columns `spec.projection` of `schema`.
    pub fn new(
        columns: &Arc<Columns>,
        blob: &Arc<dyn Blob>,
        block: usize,
        schema: &SchemaRef,
        spec: &ReadSpec,
    ) -> Result<Self> {
        let output = Arc::new(schema.project(&spec.projection).or_code(code::INTERNAL, || {
            "a projection has columns that are not there".to_owned()
        })?);
        // The contract's columns are always read: a row's fate does not depend on what is asked for.
        let mut places: Vec<usize> = columns.declared.iter().flatten().copied().collect();
        places.extend(output.fields().iter().filter_map(|field| columns.place_of(field.name())));
        places.sort_unstable();
        places.dedup();
        let formats = ValueFormats { null_values: Vec::new(), ..ValueFormats::default() };
        let rules = columns
            .contract
            .columns
            .iter()
            .zip(&columns.declared)
            .map(|(column, place)| place.map(|_| Rules::compile(column, &formats)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let mask = ProjectionMask::roots(columns.metadata.parquet_schema(), places.iter().copied());
        let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(
            Reader(Arc::clone(blob)),
            columns.metadata.clone(),
        )
        .with_row_groups(vec![block])
        .with_projection(mask)
        .with_batch_size(spec.batch_rows)
        .build()
        .map_err(|error| broken(&columns.file, error))?;
        Ok(Self {
            columns: Arc::clone(columns),
            stream,
            places,
            rules,
            output,
            offsets: spec.offsets,
            row: columns.first_rows[block],
        })
    }

    fn take(&mut self, batch: &RecordBatch, out: &mut Decoded) -> Result<()> {
        let rows = batch.num_rows();
        let columns = Arc::clone(&self.columns);
        let array_at = |place: usize| -> Result<&ArrayRef> {
            let index = self.places.iter().position(|known| *known == place);
            index
                .and_then(|index| batch.columns().get(index))
                .ok_or_else(|| Error::internal("a Parquet column was not read"))
        };
        let mut read = Vec::with_capacity(columns.declared.len());
        for (place, rules) in columns.declared.iter().zip(&self.rules) {
            read.push(match (place, rules) {
                (Some(place), Some(rules)) => Some((array_at(*place)?, rules)),
                _ => None,
            });
        }
        let Fitted { arrays, mut refusals, discarded } =
            fit(&columns.contract, &read, &mut out.evolution)?;
        if let Some((rule, column, message)) = &columns.condemned {
            refusals.extend((0..rows).map(|row| {
                let message = Cow::Owned(message.clone());
                (row, Refusal { rule: *rule, column: column.clone(), message })
            }));
        }
        let mut output: Vec<ArrayRef> = Vec::with_capacity(self.output.fields().len());
        for field in self.output.fields() {
            let array = match columns.contract.index_of(field.name()) {
                Some(index) => arrays[index].clone(),
                None => match columns.place_of(field.name()) {
                    Some(place) => Some(exact(array_at(place)?, field.data_type())?.0),
                    None => None,
                },
            };
            output.push(array.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let converted =
            RecordBatch::try_new_with_options(Arc::clone(&self.output), output, &options)
                .or_code(code::INTERNAL, || "a Parquet column has another type".to_owned())?;
        self.pass(batch, converted, &refusals, &discarded, out)
    }

    /// Gives the good rows of a batch, and rejects the others.
    fn pass(
        &mut self,
        raw: &RecordBatch,
        converted: RecordBatch,
        refusals: &BTreeMap<usize, Refusal>,
        discarded: &BTreeMap<usize, u64>,
        out: &mut Decoded,
    ) -> Result<()> {
        let rows = converted.num_rows();
        for (row, refusal) in refusals {
            let place = self.row + *row as u64;
            if self.columns.contract.modes.bad_values == ContractMode::Freeze {
                return Err(Error::new(
                    code::FILE_TOO_BAD,
                    format!(
                        "row {} of file \"{}\" breaks the contract: column \"{}\": {}",
                        place + 1,
                        self.columns.file,
                        refusal.column,
                        refusal.message
                    ),
                )
                .hint("mend the file, or set the contract's bad_values to discard_row"));
            }
            out.rejects.push(Reject {
                offset: place,
                line: place + 1,
                rule: refusal.rule,
                column: Some(refusal.column.clone()),
                message: refusal.message.clone(),
                raw: self.as_json(raw, *row)?.into(),
            });
        }
        let keeps = |row: &usize| !refusals.contains_key(row);
        out.discarded_values +=
            discarded.iter().filter(|(row, _)| keeps(row)).map(|(_, count)| count).sum::<u64>();
        let good = (rows - refusals.len()) as u64;
        out.records += rows as u64;
        out.lines += rows as u64;
        out.good += good;
        if good > 0 {
            let kept: Vec<bool> = (0..rows).map(|row| keeps(&row)).collect();
            if self.offsets {
                let places = kept
                    .iter()
                    .enumerate()
                    .filter(|(_, kept)| **kept)
                    .map(|(row, _)| i64::try_from(self.row + row as u64).unwrap_or(i64::MAX));
                out.offsets.push(ScalarBuffer::from(places.collect::<Vec<_>>()));
            }
            out.batches.push(if refusals.is_empty() {
                converted
            } else {
                arrow::compute::filter_record_batch(&converted, &BooleanArray::from(kept))
                    .or_code(code::INTERNAL, || "rows could not be selected".to_owned())?
            });
        }
        self.row += rows as u64;
        Ok(())
    }

    /// The contract's columns of a row, as they are in the file.
    fn as_json(&self, batch: &RecordBatch, row: usize) -> Result<Vec<u8>> {
        let failure = || "a row could not be written as JSON".to_owned();
        let declared: Vec<usize> = self
            .places
            .iter()
            .enumerate()
            .filter(|(_, place)| {
                self.columns.contract.columns.is_empty()
                    || self.columns.declared.contains(&Some(**place))
            })
            .map(|(index, _)| index)
            .collect();
        let one = batch.slice(row, 1).project(&declared).or_code(code::INTERNAL, failure)?;
        let mut text = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut text);
        writer.write(&one).or_code(code::INTERNAL, failure)?;
        writer.finish().or_code(code::INTERNAL, failure)?;
        drop(writer);
        text.truncate(text.trim_ascii_end().len());
        Ok(text)
    }
}

#[async_trait]
impl BlockReader for GroupReader {
    async fn next(&mut self, out: &mut Decoded) -> Result<bool> {
        match guarded(&self.columns.file, self.stream.next()).await? {
            None => Ok(false),
            Some(Ok(batch)) => self.take(&batch, out).map(|()| true),
            Some(Err(error)) => Err(broken(&self.columns.file, error)),
        }
    }
}
