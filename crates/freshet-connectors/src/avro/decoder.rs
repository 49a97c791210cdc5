//! Messages to rows: each is read with the schema that it was written with.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringViewBuilder,
    new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::json::writer::{EncoderOptions, make_encoder};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use freshet_core::contract::{Contract, ContractMode};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::types::ColumnType;
use tokio::runtime::Handle;

use super::registry::Lookup;
use super::writer::{Broken, SchemaId, Schemas, Writer};
use crate::values::convert::{Fitted, Refusal, fit};
use crate::values::{Rules, ValueFormats};

/// Schemas whose decoders are kept: more than topics have at a time.
const MAX_WRITERS: usize = 256;
/// Bytes of records that are decoded at once: arrays of text have places of 32 bits.
const MAX_RUN_BYTES: usize = 256 << 20;

/// Decodes messages.
#[derive(Debug)]
pub(super) struct AvroDecoder {
    schemas: Schemas,
    contract: Arc<Contract>,
    rules: Vec<Rules>,
    writers: HashMap<SchemaId, std::result::Result<Writer, Arc<str>>>,
    /// Why there is no schema, of those that the messages at hand name.
    denied: HashMap<SchemaId, Arc<str>>,
    output: SchemaRef,
    /// For each output column its place in the contract.
    sources: Vec<usize>,
    spec: ReadSpec,
    runtime: Option<Handle>,
}

/// A message whose schema is known.
#[derive(Debug, Clone, Copy)]
struct Framed {
    message: Message,
    /// Where its record begins.
    record: u32,
    schema: SchemaId,
}

impl Framed {
    fn record(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.record as usize..self.message.end as usize]
    }
}

impl AvroDecoder {
    pub fn new(schemas: Schemas, contract: &Arc<Contract>, spec: &ReadSpec) -> Result<Self> {
        let output = contract
            .schema()
            .project(&spec.projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let formats = ValueFormats { null_values: Vec::new(), ..ValueFormats::default() };
        let rules = contract.columns.iter().map(|column| Rules::compile(column, &formats));
        Ok(Self {
            schemas,
            rules: rules.collect::<Result<_>>()?,
            contract: Arc::clone(contract),
            writers: HashMap::new(),
            denied: HashMap::new(),
            output: Arc::new(output),
            sources: spec.projection.clone(),
            spec: ReadSpec { batch_rows: spec.batch_rows.max(1), ..spec.clone() },
            runtime: Handle::try_current().ok(),
        })
    }

    /// Makes sure that the decoder of a schema is there; `false` where the schema is waited for.
    fn prepare(&mut self, id: SchemaId) -> Result<bool> {
        if self.writers.contains_key(&id) {
            return Ok(true);
        }
        let writer = match self.schemas.find(id, self.runtime.as_ref())? {
            Lookup::Waits => return Ok(false),
            Lookup::Denied(why) => {
                self.denied.insert(id, why);
                return Ok(true);
            }
            Lookup::Known(schema) => Writer::new(&schema, &self.contract, self.spec.batch_rows)?,
        };
        self.writers.insert(id, writer.map_err(|why| why.into()));
        Ok(true)
    }

    /// Decodes records of one schema, in their order.
    fn run(
        &mut self,
        bytes: &[u8],
        framed: &[Framed],
        batches: &mut Batches,
        out: &mut Decoded,
    ) -> Result<()> {
        let id = framed[0].schema;
        let refusal = match self.writers.get(&id) {
            Some(Ok(writer)) => writer.condemned.clone(),
            Some(Err(why)) => Some(unreadable(format!("its schema cannot be read: {why}"))),
            None => {
                let why = self.denied.get(&id).map_or("nobody knows it", |why| why);
                Some(unreadable(format!("it has no schema: {why}")))
            }
        };
        if let Some(refusal) = refusal {
            out.rejects.extend(framed.iter().map(|one| refused(bytes, one.message, &refusal)));
            return Ok(());
        }
        // What is still to be decoded, the next piece last.
        let mut pieces = vec![framed];
        while let Some(piece) = pieces.pop() {
            if piece.is_empty() {
                continue;
            }
            let Some(Ok(writer)) = self.writers.get_mut(&id) else {
                return Err(Error::internal("a schema was forgotten while it was used"));
            };
            let decoded = writer.decode(piece.iter().map(|one| one.record(bytes)))?;
            match decoded {
                Ok(batch) => self.fit(id, bytes, piece, &batch, batches, out)?,
                Err(Broken::At(index, why)) => {
                    // Those before it are sound as far as one can tell, and were lost with it.
                    pieces.push(&piece[index + 1..]);
                    if index > 0 {
                        pieces.push(&piece[index..=index]);
                        pieces.push(&piece[..index]);
                        continue;
                    }
                    let refusal = unreadable(format!("the record is broken: {why}"));
                    out.rejects.push(refused(bytes, piece[0].message, &refusal));
                }
                Err(Broken::Some(why)) if piece.len() == 1 => {
                    let refusal = unreadable(format!("the record is broken: {why}"));
                    out.rejects.push(refused(bytes, piece[0].message, &refusal));
                }
                Err(Broken::Some(_)) => {
                    let (first, second) = piece.split_at(piece.len() / 2);
                    pieces.push(second);
                    pieces.push(first);
                }
            }
        }
        Ok(())
    }

    /// Brings the columns of a batch to the contract's, and rejects the rows that do not keep to it.
    fn fit(
        &self,
        id: SchemaId,
        bytes: &[u8],
        framed: &[Framed],
        batch: &RecordBatch,
        batches: &mut Batches,
        out: &mut Decoded,
    ) -> Result<()> {
        let rows = batch.num_rows();
        let Some(Ok(writer)) = self.writers.get(&id) else {
            return Err(Error::internal("a schema was forgotten while it was used"));
        };
        if rows != framed.len() {
            return Err(Error::internal("avro gave another number of records than it was given"));
        }
        let mut columns: Vec<Option<ArrayRef>> = Vec::with_capacity(self.rules.len());
        for (place, rules) in writer.columns.iter().zip(&self.rules) {
            let array = place.map(|place| {
                let is_text = rules.declared().data_type == ColumnType::Text;
                readable(batch.schema().field(place), batch.column(place), is_text)
            });
            columns.push(array.transpose()?);
        }
        let read: Vec<_> = columns
            .iter()
            .zip(&self.rules)
            .map(|(array, rules)| array.as_ref().map(|array| (array, rules)))
            .collect();
        let Fitted { arrays, refusals, discarded } =
            fit(&self.contract, &read, &mut out.evolution)?;
        for (row, refusal) in &refusals {
            if self.contract.modes.bad_values == ContractMode::Freeze {
                return Err(Error::new(
                    code::FILE_TOO_BAD,
                    format!(
                        "the record at position {} breaks the contract: column \"{}\": {}",
                        framed[*row].message.position, refusal.column, refusal.message
                    ),
                )
                .hint("set the contract's bad_values to discard_row"));
            }
            out.rejects.push(refused(bytes, framed[*row].message, refusal));
        }
        let keeps = |row: &usize| !refusals.contains_key(row);
        out.discarded_values +=
            discarded.iter().filter(|(row, _)| keeps(row)).map(|(_, count)| count).sum::<u64>();
        if refusals.len() == rows {
            return Ok(());
        }
        let output: Vec<ArrayRef> = self
            .sources
            .iter()
            .zip(self.output.fields())
            .map(|(source, field)| {
                arrays[*source].clone().unwrap_or_else(|| new_null_array(field.data_type(), rows))
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let mut good =
            RecordBatch::try_new_with_options(Arc::clone(&self.output), output, &options)
                .or_code(code::INTERNAL, || "a column of avro has another type".to_owned())?;
        if !refusals.is_empty() {
            let kept: BooleanArray = (0..rows).map(|row| Some(keeps(&row))).collect();
            good = filter_record_batch(&good, &kept)
                .or_code(code::INTERNAL, || "rows could not be selected".to_owned())?;
        }
        let positions = framed.iter().enumerate().filter(|(row, _)| keeps(row));
        let positions = positions
            .map(|(_, one)| i64::try_from(one.message.position).unwrap_or(i64::MAX))
            .collect();
        batches.push((good, positions));
        Ok(())
    }

    /// Gives what came in pieces in batches of some size.
    fn give(&self, pieces: Batches, out: &mut Decoded) -> Result<()> {
        let mut held: Batches = Vec::new();
        let mut rows = 0;
        for piece in pieces {
            if rows + piece.0.num_rows() > self.spec.batch_rows {
                self.give_one(std::mem::take(&mut held), out)?;
                rows = 0;
            }
            rows += piece.0.num_rows();
            held.push(piece);
        }
        self.give_one(held, out)
    }

    fn give_one(&self, pieces: Batches, out: &mut Decoded) -> Result<()> {
        let (batches, positions): (Vec<RecordBatch>, Vec<Vec<i64>>) = pieces.into_iter().unzip();
        let batch = match batches.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            several => concat_batches(&self.output, several)
                .or_code(code::INTERNAL, || "batches of a decoder differ".to_owned())?,
        };
        out.good += batch.num_rows() as u64;
        out.batches.push(batch);
        if self.spec.offsets {
            out.offsets.push(ScalarBuffer::from(positions.concat()));
        }
        Ok(())
    }
}

/// Rows, and the position of each.
type Batches = Vec<(RecordBatch, Vec<i64>)>;

impl MessageDecoder for AvroDecoder {
    fn decode(
        &mut self,
        bytes: &Bytes,
        messages: &[Message],
        out: &mut Decoded,
    ) -> Result<Decoding> {
        // All schemas are asked for before anything is decoded: those that are missing are fetched
        // together, and nothing is decoded in vain.
        let mut framed = Vec::with_capacity(messages.len());
        let mut last = None;
        let mut waits = false;
        let before = out.rejects.len();
        self.denied.clear();
        if self.writers.len() > MAX_WRITERS {
            self.writers.clear();
        }
        for message in messages {
            let raw = message.of(bytes);
            if raw.len() > self.spec.max_record_bytes {
                let limit = self.spec.max_record_bytes;
                out.rejects.push(Reject::too_large(message.position, 1, limit, raw));
                continue;
            }
            match self.schemas.frame(raw) {
                Ok((schema, begin)) => {
                    if last != Some(schema) {
                        waits |= !self.prepare(schema)?;
                        last = Some(schema);
                    }
                    let record = message.start + begin as u32;
                    framed.push(Framed { message: *message, record, schema });
                }
                Err(why) => {
                    let refusal = Refusal {
                        rule: Rule::Syntax,
                        column: String::new(),
                        message: Cow::Borrowed(why),
                    };
                    out.rejects.push(refused(bytes, *message, &refusal));
                }
            }
        }
        if waits {
            out.rejects.truncate(before);
            return Ok(Decoding::Waits);
        }
        out.records += messages.len() as u64;
        out.lines += messages.len() as u64;
        let mut batches = Vec::new();
        let mut rest = framed.as_slice();
        while let Some(first) = rest.first() {
            let mut size = 0;
            let fits = |one: &&Framed| {
                size += (one.message.end - one.message.start) as usize;
                one.schema == first.schema && size <= MAX_RUN_BYTES
            };
            let length = rest.iter().take(self.spec.batch_rows).take_while(fits).count().max(1);
            let (run, behind) = rest.split_at(length);
            self.run(bytes, run, &mut batches, out)?;
            rest = behind;
        }
        self.give(batches, out)?;
        out.rejects[before..].sort_by_key(|reject| reject.offset);
        Ok(Decoding::Done)
    }
}

/// Bytes that are no record.
fn unreadable(why: String) -> Refusal {
    Refusal { rule: Rule::Encoding, column: String::new(), message: Cow::Owned(why) }
}

/// A message that is a dead letter.
fn refused(bytes: &[u8], message: Message, refusal: &Refusal) -> Reject {
    let Refusal { rule, column, message: why } = refusal.clone();
    Reject {
        offset: message.position,
        line: 1,
        rule,
        column: (!column.is_empty()).then_some(column),
        message: why,
        raw: message.of(bytes).into(),
    }
}

/// A column as it can be held against a contract: what has no type of its own there is text.
fn readable(field: &Field, array: &ArrayRef, to_text: bool) -> Result<ArrayRef> {
    let failure = || format!("column \"{}\" of avro has no text", field.name());
    match array.data_type() {
        DataType::FixedSizeBinary(16) if to_text => {
            let values = array.as_fixed_size_binary();
            let mut texts = StringViewBuilder::with_capacity(array.len());
            for row in 0..array.len() {
                texts.append_option(values.is_valid(row).then(|| uuid_text(values.value(row))));
            }
            Ok(Arc::new(texts.finish()))
        }
        // What is one of several types is read by its text.
        DataType::Union(..) => {
            let values = array.as_union();
            let mut texts = StringViewBuilder::with_capacity(array.len());
            for row in 0..array.len() {
                let value = values.value(row);
                match value.logical_null_count() {
                    0 => texts.append_value(
                        array_value_to_string(&value, 0).or_code(code::SOURCE, failure)?,
                    ),
                    _ => texts.append_null(),
                }
            }
            Ok(Arc::new(texts.finish()))
        }
        data_type if data_type.is_nested() && to_text => {
            let field = Arc::new(Field::new("value", data_type.clone(), true));
            let options = EncoderOptions::default().with_explicit_nulls(true);
            // One of several types has no JSON: such a value is not of the type that was declared.
            let Ok(mut encoder) = make_encoder(&field, array.as_ref(), &options) else {
                return Ok(Arc::clone(array));
            };
            let mut texts = StringViewBuilder::with_capacity(array.len());
            let mut text = Vec::new();
            for row in 0..array.len() {
                if array.is_null(row) {
                    texts.append_null();
                    continue;
                }
                text.clear();
                encoder.encode(row, &mut text);
                texts.append_value(std::str::from_utf8(&text).or_code(code::INTERNAL, failure)?);
            }
            Ok(Arc::new(texts.finish()))
        }
        _ => Ok(Arc::clone(array)),
    }
}

/// A UUID as it is written.
fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
