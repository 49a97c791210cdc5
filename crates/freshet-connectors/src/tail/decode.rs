//! Lines to rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::Decoded;
use freshet_core::stream::{Block, BlockDecoder, Partition};

use super::source::Names;
use crate::messages::MessageFormat;

/// The columns that each line has beside those of its format: the file's name when it was found, and
/// the place of its first byte.
pub(super) const PLACES: [&str; 2] = ["_file", "_offset"];

/// The columns of the format, then those of [`PLACES`].
pub(super) fn schema(format: &dyn MessageFormat) -> Result<SchemaRef> {
    let schema = format.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    for (name, data_type) in PLACES.iter().zip([DataType::Utf8View, DataType::Int64]) {
        if schema.index_of(name).is_ok() {
            let message = format!("column \"{name}\" is declared, and tail has one of that name");
            return Err(Error::new(code::CONFIG, message)
                .hint("give it another name, with `source_name` for the one in the data"));
        }
        fields.push(Arc::new(Field::new(*name, data_type, true)));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Decodes the blocks of files.
pub(super) struct TailDecoder {
    records: Box<dyn MessageDecoder>,
    output: SchemaRef,
    columns: Vec<Column>,
    names: Arc<Names>,
    partitions: Vec<Arc<str>>,
    messages: Vec<Message>,
}

#[derive(Debug, Clone, Copy)]
enum Column {
    Format(usize),
    File,
    Offset,
}

impl TailDecoder {
    /// Gives the columns `projection` of `schema`.
    pub fn new(
        format: &dyn MessageFormat,
        schema: &SchemaRef,
        projection: &[usize],
        max_record_bytes: usize,
        names: Arc<Names>,
    ) -> Result<Self> {
        let output = schema
            .project(projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let width = schema.fields().len() - PLACES.len();
        let mut inner = Vec::new();
        let columns = projection
            .iter()
            .map(|index| match index.checked_sub(width) {
                Some(0) => Column::File,
                Some(_) => Column::Offset,
                None => {
                    inner.push(*index);
                    Column::Format(inner.len() - 1)
                }
            })
            .collect();
        let spec =
            ReadSpec { projection: inner, offsets: true, max_record_bytes, ..ReadSpec::default() };
        Ok(Self {
            records: format.decoder(&spec)?,
            output: Arc::new(output),
            columns,
            names,
            partitions: Vec::new(),
            messages: Vec::new(),
        })
    }

    fn find(&mut self, block: &Block) -> Result<()> {
        self.messages.clear();
        let bytes = &block.bytes[..];
        let mut start = 0;
        while start < bytes.len() {
            let feed = memchr::memchr(b'\n', &bytes[start..]).map(|end| start + end);
            let mut end = feed.unwrap_or(bytes.len());
            let next = end + 1;
            if end > start && bytes[end - 1] == b'\r' {
                end -= 1;
            }
            // A blank line is no record.
            if !bytes[start..end].trim_ascii().is_empty() {
                let place = |at: usize| {
                    u32::try_from(at)
                        .map_err(|_| Error::internal("a block of a file has 4 GiB or more"))
                };
                let position = block.position.0 + start as u64;
                self.messages.push(Message { start: place(start)?, end: place(end)?, position });
            }
            start = next;
        }
        Ok(())
    }
}

impl BlockDecoder for TailDecoder {
    fn add(&mut self, partition: &Partition) {
        self.partitions.push(self.names.of(partition));
    }

    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding> {
        self.find(block)?;
        let (batches, offsets) = (out.batches.len(), out.offsets.len());
        if self.records.decode(&block.bytes, &self.messages, out)? == Decoding::Waits {
            return Ok(Decoding::Waits);
        }
        let places = out.offsets.split_off(offsets);
        let found = out.batches.split_off(batches);
        for (batch, offsets) in found.iter().zip(&places) {
            let rows = batch.num_rows();
            let name = self.partitions.get(block.partition).map_or("", |name| name);
            let columns = self.columns.iter().map(|column| -> ArrayRef {
                match column {
                    Column::Format(index) => Arc::clone(batch.column(*index)),
                    Column::File => {
                        Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(name, rows)))
                    }
                    Column::Offset => Arc::new(Int64Array::new(offsets.clone(), None)),
                }
            });
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let columns = columns.collect();
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
                    .or_code(code::INTERNAL, || "columns of a batch differ in length".to_owned())?;
            out.batches.push(batch);
        }
        out.offsets.extend(places);
        Ok(Decoding::Done)
    }
}
