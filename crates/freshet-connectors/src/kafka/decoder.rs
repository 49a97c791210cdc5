//! Blocks of batches to rows: checked, decompressed, walked over, and given to the format in one go.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    StringViewBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::rows::RowKind;
use freshet_core::stream::{Block, BlockDecoder, Partition};
use serde_json::{Map, Value};

use super::compression::Unpacker;
use super::options::{Corrupt, KafkaOptions};
use super::records::{BatchHeader, Compression, Damage, Span, walk, walk_headers};
use super::source::{Key, META};
use crate::messages::MessageFormat;

/// Decompressed bytes that are gathered before they are decoded: enough for a batch of rows, little
/// enough for a cache.
const GATHER: usize = 1 << 20;

/// Decodes the blocks of a source's partitions.
#[derive(Debug)]
pub struct KafkaDecoder {
    values: Boxed,
    keys: Option<(Boxed, Key)>,
    output: SchemaRef,
    columns: Vec<OutputColumn>,
    partitions: Vec<Partition>,
    max_batch: usize,
    corrupt: Corrupt,
    max_record: usize,
    needs: Needs,
    gathered: Gathered,
    unpacker: Unpacker,
    /// Decompressed payloads.
    scratch: Vec<u8>,
    decoded: Decoded,
}

/// A decoder without `Debug`.
struct Boxed(Box<dyn MessageDecoder>);

impl std::fmt::Debug for Boxed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageDecoder")
    }
}

/// Where a column comes from.
#[derive(Debug, Clone, Copy)]
enum OutputColumn {
    /// The column with this number of the format's, and its number among those of keys.
    Value(usize, Option<usize>),
    /// What is known of the message: a place in [`META`].
    Meta(usize),
}

/// What has to be remembered of each message.
#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    /// Times.
    times: bool,
    /// Keys, for a column or for deletes.
    keys: bool,
    headers: bool,
    /// Anything at all.
    any: bool,
}

/// Messages whose bytes lie in one buffer.
#[derive(Debug, Default)]
struct Gathered {
    messages: Vec<Message>,
    /// In microseconds since 1970.
    times: Vec<i64>,
    keys: Vec<Option<Span>>,
    headers: Vec<Span>,
    /// Which have no value, where those are deletes.
    dead: Vec<bool>,
}

impl Gathered {
    /// Forgets all but the first `length`.
    fn truncate(&mut self, length: usize) {
        self.messages.truncate(length);
        self.times.truncate(length);
        self.keys.truncate(length);
        self.headers.truncate(length);
        self.dead.truncate(length);
    }
}

impl KafkaDecoder {
    /// A decoder of the columns `projection` of `schema`.
    pub(super) fn new(
        options: &KafkaOptions,
        format: &dyn MessageFormat,
        key: Option<&Key>,
        schema: &SchemaRef,
        projection: &[usize],
    ) -> Result<Self> {
        let inner = format.schema();
        let width = inner.fields().len();
        let of_values: Vec<usize> = projection.iter().copied().filter(|n| *n < width).collect();
        let mut columns = Vec::with_capacity(projection.len());
        let mut needs = Needs::default();
        let key_schema = key.map(|key| key.format.schema());
        let mut of_keys = Vec::new();
        for index in projection {
            if *index < width {
                let name = inner.field(*index).name();
                let in_key = key_schema.as_ref().and_then(|schema| schema.index_of(name).ok());
                let in_key = in_key.map(|in_key| {
                    of_keys.push(in_key);
                    of_keys.len() - 1
                });
                columns.push(OutputColumn::Value(
                    columns.iter().filter(|c| matches!(c, OutputColumn::Value(..))).count(),
                    in_key,
                ));
            } else {
                let meta = index - width;
                match META.get(meta) {
                    Some(&"_timestamp") => needs.times = true,
                    Some(&"_key") => needs.keys = true,
                    Some(&"_headers") => needs.headers = true,
                    Some(_) => {}
                    None => {
                        return Err(Error::internal("a projection has columns that are not there"));
                    }
                }
                needs.any |= META[meta] != "_partition";
                columns.push(OutputColumn::Meta(meta));
            }
        }
        needs.keys |= key.is_some();
        let spec = |projection: Vec<usize>| ReadSpec {
            projection,
            max_record_bytes: options.max_record_bytes.as_usize(),
            offsets: needs.any,
            ..ReadSpec::default()
        };
        let output = schema
            .project(projection)
            .or_code(code::INTERNAL, || "a projection has columns that are not there".to_owned())?;
        let keys = match key {
            None => None,
            Some(key) => {
                let decoder = key.format.decoder(&spec(of_keys))?;
                Some((Boxed(decoder), key.clone()))
            }
        };
        Ok(Self {
            values: Boxed(format.decoder(&spec(of_values))?),
            keys,
            output: Arc::new(output),
            columns,
            partitions: Vec::new(),
            max_batch: options.max_batch_bytes.as_usize(),
            corrupt: options.corrupt_batches,
            max_record: options.max_record_bytes.as_usize(),
            needs,
            gathered: Gathered::default(),
            unpacker: Unpacker::default(),
            scratch: Vec::new(),
            decoded: Decoded::default(),
        })
    }

    /// Remembers the messages of a batch whose payload is `bytes[base..]`.
    fn gather(
        &mut self,
        header: &BatchHeader,
        bytes: &[u8],
        base: usize,
        block: &Block,
        out: &mut Decoded,
    ) -> Result<(), Damage> {
        let deletes = self.keys.is_some();
        let Self { gathered, needs, .. } = self;
        let known = gathered.messages.len();
        let (first, behind) = (block.position.0, block.next.0);
        let mut filtered = 0;
        let walked = walk(&bytes[base..], header.count, |record| {
            let offset = header.base_offset as u64 + record.offset_delta as u64;
            // A batch may begin before what was asked for.
            if offset < first || offset >= behind {
                return;
            }
            if record.value.is_none() && !deletes {
                filtered += 1;
                return;
            }
            let place =
                |span: Span| Span { start: span.start + base as u32, end: span.end + base as u32 };
            let value = place(record.value.unwrap_or_default());
            gathered.messages.push(Message {
                start: value.start,
                end: value.end,
                position: offset,
            });
            if needs.times {
                let millis = match header.is_log_append_time() {
                    true => header.max_timestamp,
                    false => header.base_timestamp.saturating_add(record.timestamp_delta),
                };
                gathered.times.push(millis.saturating_mul(1000));
            }
            if needs.keys {
                gathered.keys.push(record.key.map(place));
            }
            if needs.headers {
                gathered.headers.push(place(record.headers));
            }
            if deletes {
                gathered.dead.push(record.value.is_none());
            }
        });
        match walked {
            Ok(()) => {
                out.records += filtered;
                out.filtered += filtered;
            }
            Err(_) => gathered.truncate(known),
        }
        walked
    }

    /// Decodes what was gathered, all of which lies in `bytes`.
    fn flush(&mut self, bytes: &Bytes, partition: usize, out: &mut Decoded) -> Result<Decoding> {
        let all = self.gathered.messages.len();
        let mut from = 0;
        while from < all {
            let dead = self.gathered.dead.get(from).copied().unwrap_or(false);
            let rest = self.gathered.dead.get(from..).unwrap_or_default();
            let to = match rest.iter().position(|other| *other != dead) {
                Some(length) => from + length,
                None => all,
            };
            let decoding = if dead {
                self.deletes(bytes, from..to, partition, out)?
            } else {
                let mut decoded = std::mem::take(&mut self.decoded);
                let messages = &self.gathered.messages[from..to];
                let decoding = self.values.0.decode(bytes, messages, &mut decoded)?;
                self.enter(&mut decoded, bytes, from..to, partition, RowKind::Insert, out)?;
                self.decoded = decoded;
                decoding
            };
            if decoding == Decoding::Waits {
                return Ok(Decoding::Waits);
            }
            from = to;
        }
        self.gathered.truncate(0);
        Ok(Decoding::Done)
    }

    /// Rows of the keys of messages that have no value.
    fn deletes(
        &mut self,
        bytes: &[u8],
        range: std::ops::Range<usize>,
        partition: usize,
        out: &mut Decoded,
    ) -> Result<Decoding> {
        let mut text = Vec::new();
        let mut messages = Vec::new();
        let Some((_, key)) = &self.keys else {
            return Err(Error::internal(
                "messages without values are deletes, but keys are not read",
            ));
        };
        for index in range.clone() {
            let offset = self.gathered.messages[index].position;
            let reject = |message: &'static str, raw: &[u8]| Reject {
                offset,
                line: 1,
                rule: Rule::NotNull,
                column: None,
                message: message.into(),
                raw: raw.into(),
            };
            let Some(span) = self.gathered.keys[index] else {
                out.records += 1;
                out.rejects.push(reject("a message has neither value nor key", b""));
                continue;
            };
            let raw = span.of(bytes);
            let start = text.len() as u32;
            match &key.only {
                None => text.extend_from_slice(raw),
                Some(column) => {
                    let Ok(raw) = std::str::from_utf8(raw) else {
                        out.records += 1;
                        out.rejects.push(reject("the key is not UTF-8", raw));
                        continue;
                    };
                    let mut object = Map::new();
                    object.insert(column.clone(), Value::from(raw));
                    text.extend_from_slice(Value::Object(object).to_string().as_bytes());
                }
            }
            messages.push(Message { start, end: text.len() as u32, position: offset });
        }
        let mut decoded = Decoded::default();
        let mut decoding = Decoding::Done;
        if let Some((decoder, _)) = &mut self.keys {
            decoding = decoder.0.decode(&text.into(), &messages, &mut decoded)?;
        }
        self.enter(&mut decoded, bytes, range, partition, RowKind::Delete, out)?;
        Ok(decoding)
    }

    /// Takes over what a format made of some messages, adding the columns that it does not know.
    fn enter(
        &mut self,
        decoded: &mut Decoded,
        bytes: &[u8],
        range: std::ops::Range<usize>,
        partition: usize,
        kind: RowKind,
        out: &mut Decoded,
    ) -> Result<()> {
        out.records += decoded.records;
        out.good += decoded.good;
        out.discarded_values += decoded.discarded_values;
        out.rejects.append(&mut decoded.rejects);
        out.evolution.merge(std::mem::take(&mut decoded.evolution));
        let mut at = range.start;
        let mut offsets = decoded.offsets.iter();
        for batch in decoded.batches.drain(..) {
            let rows = batch.num_rows();
            // The message of each row.
            let mut places: Vec<usize> = Vec::new();
            if self.needs.any {
                let offsets = offsets.next().ok_or_else(|| {
                    Error::internal("a decoder did not say where its records begin")
                })?;
                places.reserve(rows);
                for offset in offsets.iter() {
                    while at < range.end && self.gathered.messages[at].position as i64 != *offset {
                        at += 1;
                    }
                    if at == range.end {
                        return Err(Error::internal(
                            "a decoder gave a record that it was not given",
                        ));
                    }
                    places.push(at);
                }
            }
            let mut columns = Vec::with_capacity(self.columns.len());
            for (index, column) in self.columns.iter().enumerate() {
                columns.push(match (*column, kind) {
                    (OutputColumn::Meta(meta), _) => {
                        self.meta(META[meta], &places, rows, bytes, partition)?
                    }
                    (OutputColumn::Value(number, _), RowKind::Insert)
                    | (OutputColumn::Value(_, Some(number)), _) => Arc::clone(batch.column(number)),
                    (OutputColumn::Value(_, None), _) => {
                        new_null_array(self.output.field(index).data_type(), rows)
                    }
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
                    .or_code(code::INTERNAL, || "columns of a batch differ in length".to_owned())?;
            out.batches.push(batch);
            if self.keys.is_some() {
                out.kinds.push(vec![kind; rows]);
            }
        }
        decoded.clear();
        Ok(())
    }

    /// A column of what is known of the messages at `places`.
    fn meta(
        &self,
        name: &str,
        places: &[usize],
        rows: usize,
        bytes: &[u8],
        partition: usize,
    ) -> Result<ArrayRef> {
        let Gathered { messages, times, keys, headers, .. } = &self.gathered;
        Ok(match name {
            "_partition" => {
                let partition = self.partitions.get(partition).ok_or_else(|| {
                    Error::internal("a block is of a partition that its decoder was not told of")
                })?;
                Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(&partition.0, rows)))
            }
            "_offset" => Arc::new(Int64Array::from_iter_values(
                places.iter().map(|at| messages[*at].position as i64),
            )),
            "_timestamp" => Arc::new(TimestampMicrosecondArray::from_iter_values(
                places.iter().map(|at| times[*at]),
            )),
            "_key" => {
                let mut builder = BinaryViewBuilder::with_capacity(rows);
                for at in places {
                    builder.append_option(keys[*at].map(|span| span.of(bytes)));
                }
                Arc::new(builder.finish())
            }
            _ => {
                let mut builder = StringViewBuilder::with_capacity(rows);
                for at in places {
                    builder.append_value(headers_text(bytes, headers[*at]));
                }
                Arc::new(builder.finish())
            }
        })
    }
}

/// Headers as an object of JSON; of two with one name the last counts.
fn headers_text(bytes: &[u8], span: Span) -> String {
    let mut object = Map::new();
    let walked = walk_headers(bytes, span, |name, value| {
        let value = value.map_or(Value::Null, |value| String::from_utf8_lossy(value).into());
        object.insert(String::from_utf8_lossy(name).into_owned(), value);
    });
    match walked {
        Ok(()) => Value::Object(object).to_string(),
        // The batch's checksum was right: whoever wrote it wrote this.
        Err(_) => "{}".to_owned(),
    }
}

impl BlockDecoder for KafkaDecoder {
    fn add(&mut self, partition: &Partition) {
        self.partitions.push(partition.clone());
    }

    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let result = self.batches(block, &mut scratch, out);
        scratch.clear();
        // One huge batch is no reason to hold its memory for ever.
        scratch.shrink_to(8 * GATHER);
        self.scratch = scratch;
        self.gathered.truncate(0);
        result
    }
}

impl KafkaDecoder {
    fn batches(
        &mut self,
        block: &Block,
        scratch: &mut Vec<u8>,
        out: &mut Decoded,
    ) -> Result<Decoding> {
        let bytes = &block.bytes;
        let mut at = 0;
        // Whether what was gathered lies in `scratch`.
        let mut in_scratch = false;
        while at < bytes.len() {
            let header = match BatchHeader::parse(&bytes[at..]) {
                Ok(Some(header)) => header,
                Ok(None) => return Err(Error::internal("a block ends in the midst of a batch")),
                Err(damage) => return Err(broken(damage, block)),
            };
            let batch = &bytes[at..at + header.length];
            at += header.length;
            if header.is_control() {
                continue;
            }
            let taken = if header.is_sound(batch) {
                let compression = header.compression();
                let compressed = compression != Ok(Compression::None);
                if compressed != in_scratch || scratch.len() >= GATHER {
                    if self.flush_all(block, scratch, in_scratch, out)? == Decoding::Waits {
                        return Ok(Decoding::Waits);
                    }
                    in_scratch = compressed;
                }
                match compression {
                    Ok(Compression::None) => {
                        let base = at - header.payload(batch).len();
                        self.gather(&header, &bytes[..at], base, block, out)
                            .map_err(|damage| damage.to_string())
                    }
                    Ok(compression) => {
                        let base = scratch.len();
                        let payload = header.payload(batch);
                        let unpacked = self
                            .unpacker
                            .unpack(compression, payload, self.max_batch, scratch)
                            .map_err(|error| error.to_string())
                            .and_then(|()| {
                                self.gather(&header, scratch, base, block, out)
                                    .map_err(|damage| damage.to_string())
                            });
                        if unpacked.is_err() {
                            scratch.truncate(base);
                        }
                        unpacked
                    }
                    Err(damage) => Err(damage.to_string()),
                }
            } else {
                Err("its checksum is wrong".to_owned())
            };
            if let Err(why) = taken {
                if self.corrupt == Corrupt::Fail {
                    return Err(broken_because(why, block));
                }
                if self.flush_all(block, scratch, in_scratch, out)? == Decoding::Waits {
                    return Ok(Decoding::Waits);
                }
                out.records += 1;
                out.rejects.push(Reject {
                    offset: header.base_offset as u64,
                    line: 1,
                    rule: Rule::Encoding,
                    column: None,
                    message: format!("a batch of {} records is broken: {why}", header.count).into(),
                    raw: batch[..batch.len().min(self.max_record)].into(),
                });
            }
        }
        self.flush_all(block, scratch, in_scratch, out)
    }

    /// Decodes what was gathered, which lies in `scratch` or in the block.
    fn flush_all(
        &mut self,
        block: &Block,
        scratch: &mut Vec<u8>,
        in_scratch: bool,
        out: &mut Decoded,
    ) -> Result<Decoding> {
        if !in_scratch {
            return self.flush(&block.bytes, block.partition, out);
        }
        let mut bytes = Bytes::from(std::mem::take(scratch));
        let decoding = self.flush(&bytes, block.partition, out)?;
        // The memory is used again unless a column refers to it.
        if bytes.is_unique() {
            bytes.clear();
            *scratch = bytes.into();
        }
        Ok(decoding)
    }
}

fn broken(damage: Damage, block: &Block) -> Error {
    broken_because(damage.to_string(), block)
}

fn broken_because(why: String, block: &Block) -> Error {
    Error::new(
        code::SOURCE,
        format!("could not read a batch of a topic behind offset {}", block.position.0),
    )
    .caused_by(why)
    .hint("it is read again, since it may have been damaged on its way; where it stays broken, set `corrupt_batches` to skip")
    .retryable()
}
