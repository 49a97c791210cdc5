//! Blocks of frames to rows: the format decodes the records, and each gets its place in the log.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder,
    TimestampMicrosecondArray,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use freshet_core::contract::Contract;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::Decoded;
use freshet_core::stream::{Block, BlockDecoder};

use super::frame::{self, Header, Records};
use crate::messages::MessageFormat;

/// What the log knows of each record, behind the contract's columns.
pub(super) const PLACES: [&str; 4] = ["_partition", "_offset", "_time", "_key"];

/// The columns of the format, then those of [`PLACES`].
pub(super) fn schema(format: &dyn MessageFormat, contract: &Contract) -> Result<SchemaRef> {
    let schema = format.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    for name in PLACES {
        if contract.index_of(name).is_some() || schema.index_of(name).is_ok() {
            return Err(Error::new(
                code::CONFIG,
                format!("column \"{name}\" is declared, and the log has one of that name"),
            )
            .hint("give it another name, with `source_name` for the one in the data"));
        }
        let data_type = match name {
            "_offset" => DataType::Int64,
            "_time" => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => DataType::Utf8View,
        };
        fields.push(Arc::new(Field::new(name, data_type, true)));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Decodes the blocks of a log.
pub(super) struct LogDecoder {
    records: Box<dyn MessageDecoder>,
    output: SchemaRef,
    /// For each output column its place among the format's, or which one of the log's it is.
    sources: Vec<Source>,
    offsets: bool,
    messages: Vec<Message>,
    frames: Vec<(Header, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Format(usize),
    Partition,
    Offset,
    Time,
    Key,
}

impl LogDecoder {
    /// Gives the columns `projection` of `schema`.
    pub fn new(
        format: &dyn MessageFormat,
        schema: &SchemaRef,
        projection: &[usize],
        max_record_bytes: usize,
    ) -> Result<Self> {
        let output = schema
            .project(projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let columns = schema.fields().len() - PLACES.len();
        let mut inner = Vec::new();
        let sources: Vec<Source> = projection
            .iter()
            .map(|index| match index.checked_sub(columns) {
                Some(0) => Source::Partition,
                Some(1) => Source::Offset,
                Some(2) => Source::Time,
                Some(_) => Source::Key,
                None => {
                    inner.push(*index);
                    Source::Format(inner.len() - 1)
                }
            })
            .collect();
        let offsets = sources
            .iter()
            .any(|source| matches!(source, Source::Offset | Source::Time | Source::Key));
        let spec =
            ReadSpec { projection: inner, offsets: true, max_record_bytes, ..ReadSpec::default() };
        Ok(Self {
            records: format.decoder(&spec)?,
            output: Arc::new(output),
            sources,
            offsets,
            messages: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// Finds the records of a block.
    fn find(&mut self, block: &Block) -> Result<()> {
        let bad = |bad: frame::Bad| {
            let why = match bad {
                frame::Bad::Short(_) => "it ends within a frame",
                frame::Bad::Damaged(why) => why,
            };
            Error::new(
                code::LOG_DAMAGED,
                format!(
                    "a block of the event log from position {} is damaged: {why}",
                    block.position.0
                ),
            )
        };
        self.messages.clear();
        self.frames.clear();
        let mut at = 0;
        while at < block.bytes.len() {
            // Whoever fetched it has compared the checksum.
            let bytes = &block.bytes[at..];
            let header = frame::header(bytes).map_err(bad)?;
            let records = Records::new(bytes, &header).map_err(bad)?;
            let behind = u32::try_from(at + header.len);
            behind.map_err(|_| Error::internal("a block of the event log has 4 GiB or more"))?;
            for (position, range) in (header.base..).zip(records.values()) {
                if position >= block.position.0 && position < block.next.0 {
                    let (start, end) = ((at + range.start) as u32, (at + range.end) as u32);
                    self.messages.push(Message { start, end, position });
                }
            }
            let len = header.len;
            self.frames.push((header, at));
            at += len;
        }
        Ok(())
    }

    /// A batch of the format's columns with those that the log adds.
    fn complete(
        &self,
        block: &Block,
        batch: &RecordBatch,
        offsets: &ScalarBuffer<i64>,
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        // The frame of each row: both ascend.
        let mut frames = Vec::new();
        if self.offsets {
            let mut frame = 0;
            frames.extend(offsets.iter().map(|offset| {
                while frame + 1 < self.frames.len() && self.frames[frame].0.next() <= *offset as u64
                {
                    frame += 1;
                }
                frame
            }));
        }
        let columns = self.sources.iter().map(|source| -> Result<ArrayRef> {
            Ok(match source {
                Source::Format(index) => Arc::clone(batch.column(*index)),
                Source::Partition => {
                    let number = self.frames.first().map_or(0, |(header, _)| header.partition);
                    let name = number.to_string();
                    Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(&name, rows)))
                }
                Source::Offset => Arc::new(Int64Array::new(offsets.clone(), None)),
                Source::Time => {
                    let times = frames.iter().map(|frame| self.frames[*frame].0.time);
                    Arc::new(TimestampMicrosecondArray::from_iter_values(times))
                }
                Source::Key => self.keys(block, offsets, &frames)?,
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
            .or_code(code::INTERNAL, || "columns of a batch differ in length".to_owned())
    }

    fn keys(&self, block: &Block, offsets: &[i64], frames: &[usize]) -> Result<ArrayRef> {
        let mut keys = StringViewBuilder::with_capacity(offsets.len());
        let mut open: Option<(usize, Records<'_>)> = None;
        for (offset, frame) in offsets.iter().zip(frames) {
            let (header, at) = &self.frames[*frame];
            let records = match &open {
                Some((known, records)) if known == frame => records,
                _ => {
                    let records = Records::new(&block.bytes[*at..], header)
                        .map_err(|_| Error::internal("a frame was sound a moment ago"))?;
                    &open.insert((*frame, records)).1
                }
            };
            // A key that is no text is shown as far as it is one.
            let key = records.key((*offset as u64 - header.base) as usize);
            keys.append_option(key.map(String::from_utf8_lossy));
        }
        Ok(Arc::new(keys.finish()))
    }
}

impl BlockDecoder for LogDecoder {
    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding> {
        self.find(block)?;
        let (batches, offsets) = (out.batches.len(), out.offsets.len());
        if self.records.decode(&block.bytes, &self.messages, out)? == Decoding::Waits {
            return Ok(Decoding::Waits);
        }
        let places = out.offsets.split_off(offsets);
        let found = out.batches.split_off(batches);
        for (batch, offsets) in found.iter().zip(&places) {
            out.batches.push(self.complete(block, batch, offsets)?);
        }
        out.offsets.extend(places);
        Ok(Decoding::Done)
    }
}
