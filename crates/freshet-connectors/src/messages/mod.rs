//! Formats of messages: records that come each by itself, as logs and topics have them.
//!
//! What a message means is decided by the decoders of files; `raw` alone is only for messages.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::contract::{Contract, ContractColumn};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{
    Chunk, Decoder, FileHead, Message, MessageDecoder, ReadSpec, TextLayout,
};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::types::ColumnType;
use serde_json::{Map, Value};

use crate::formats::{Format, FormatReader};
use crate::values::{Column, Rules, ValueFormats};

/// The name of the format whose messages are one value each.
pub const RAW: &str = "raw";

/// A format of messages, with its contract.
#[derive(Debug, Clone)]
pub enum MessageFormat {
    /// Messages are records of text.
    Text(Arc<dyn TextLayout>),
    /// A message is the value of the one column.
    Raw {
        /// That column.
        rules: Arc<Rules>,
        /// The schema of it alone.
        schema: SchemaRef,
    },
}

impl MessageFormat {
    /// The format called `name`, one of `formats` or `raw`, for messages of `contract`.
    pub fn open(
        formats: &[Arc<dyn Format>],
        name: &str,
        options: &Map<String, Value>,
        contract: &Arc<Contract>,
    ) -> Result<Self> {
        if name == RAW {
            if !options.is_empty() {
                return Err(Error::new(code::CONFIG, "format raw has no options"));
            }
            return Self::raw(contract);
        }
        let mut options = options.clone();
        if name == "csv" {
            if options.get("header").is_some_and(|header| header != &Value::Bool(false)) {
                return Err(Error::new(code::CONFIG, "messages of CSV have no header").hint(
                    "leave out `header`: the columns are those of the contract, in its order",
                ));
            }
            if contract.columns.is_empty() {
                return Err(Error::new(code::CONFIG, "messages of CSV need declared columns"));
            }
            options.insert("header".to_owned(), Value::Bool(false));
        }
        // A message is an object, whichever way a file would hold many.
        let name = if name == "json" { "ndjson" } else { name };
        let (format, _) = crate::formats::choose(formats, Some(name), "")?;
        match format.open(&Value::Object(options), None)? {
            FormatReader::Text(format) => {
                // Messages have no head to learn from. CSV wants to see a line all the same, and
                // takes nothing from it.
                let bytes: &[u8] = if name == "csv" { b"x\n" } else { b"" };
                let head = FileHead { bytes, whole: false };
                Ok(Self::Text(format.layout(head, contract)?))
            }
            FormatReader::Blocks(_) => {
                Err(Error::new(code::CONFIG, format!("format {name} is not for messages"))
                    .hint("use ndjson, csv or raw"))
            }
        }
    }

    fn raw(contract: &Contract) -> Result<Self> {
        let column = match contract.columns.as_slice() {
            [] => ContractColumn::new("value", ColumnType::Text),
            [column] if matches!(column.data_type, ColumnType::Text | ColumnType::Binary) => {
                column.clone()
            }
            _ => {
                return Err(Error::new(
                    code::CONFIG,
                    "messages of format raw have one column, of type text or binary",
                ));
            }
        };
        let schema = Contract { columns: vec![column.clone()], ..Contract::default() }.schema();
        // An empty message is an empty text, and no text stands for null.
        let formats = ValueFormats { null_values: Vec::new(), ..ValueFormats::default() };
        Ok(Self::Raw { rules: Arc::new(Rules::compile(&column, &formats)?), schema })
    }

    /// The contract's columns.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Self::Text(layout) => layout.schema(),
            Self::Raw { schema, .. } => Arc::clone(schema),
        }
    }

    /// A decoder that gives the columns `spec.projection` of the schema.
    pub fn decoder(&self, spec: &ReadSpec) -> Result<Box<dyn MessageDecoder>> {
        match self {
            Self::Text(layout) => {
                let schema = layout.schema();
                if let Some(decoder) = layout.messages(&schema, spec)? {
                    return Ok(decoder);
                }
                let spec = ReadSpec { offsets: true, ..spec.clone() };
                let output = schema
                    .project(&spec.projection)
                    .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
                let make = {
                    let layout = Arc::clone(layout);
                    let spec = spec.clone();
                    Box::new(move || layout.decoder(&schema, &spec))
                };
                Ok(Box::new(AsFiles { decoder: make()?, make, spec, output: Arc::new(output) }))
            }
            Self::Raw { rules, schema } => Ok(Box::new(RawDecoder::new(rules, schema, spec)?)),
        }
    }
}

/// Messages as files of one record, or, where that comes to the same, as lines of one file.
struct AsFiles {
    decoder: Box<dyn Decoder>,
    make: Box<dyn Fn() -> Result<Box<dyn Decoder>> + Send>,
    spec: ReadSpec,
    output: SchemaRef,
}

impl MessageDecoder for AsFiles {
    fn decode(&mut self, bytes: &Bytes, messages: &[Message], out: &mut Decoded) -> Result<()> {
        let mut rest = messages;
        while let Some(first) = rest.first() {
            let lines = rest.windows(2).take_while(|pair| {
                let (end, next) = (pair[0].end as usize, pair[1].start as usize);
                end + 1 == next && bytes.get(end) == Some(&b'\n')
            });
            let (run, behind) = rest.split_at(1 + lines.count());
            let end = run.last().map_or(first.end, |last| last.end);
            let chunk = Chunk {
                bytes: bytes.slice(first.start as usize..end as usize),
                offset: u64::from(first.start),
                last: true,
            };
            let mut lines = Decoded::default();
            match self.decoder.decode(&chunk, &mut lines) {
                Ok(_) if run.len() > 1 && places_agree(&lines, run) => {
                    place(&mut lines, |at| {
                        let found = run.binary_search_by_key(&at, |m| u64::from(m.start));
                        run[found.unwrap_or(0)].position
                    });
                    give(lines, out);
                }
                _ => {
                    // Whatever it was, the decoder may be within a record now.
                    self.decoder = (self.make)()?;
                    self.one_by_one(bytes, run, out)?;
                }
            }
            rest = behind;
        }
        Ok(())
    }
}

impl AsFiles {
    fn one_by_one(&mut self, bytes: &Bytes, run: &[Message], out: &mut Decoded) -> Result<()> {
        let mut all = Decoded::default();
        for message in run {
            let text = bytes.slice(message.start as usize..message.end as usize);
            let mut one = Decoded::default();
            let chunk = Chunk { bytes: text.clone(), offset: 0, last: true };
            self.decoder.decode(&chunk, &mut one)?;
            if one.records != 1 {
                self.decoder = (self.make)()?;
                let message = match one.records {
                    0 => "the message holds no record",
                    _ => "the message holds more than one record",
                };
                one = Decoded { records: 1, lines: 1, ..Decoded::default() };
                one.rejects.push(Reject {
                    offset: 0,
                    line: 1,
                    rule: Rule::Syntax,
                    column: None,
                    message: Cow::Borrowed(message),
                    raw: text[..text.len().min(self.spec.max_record_bytes)].into(),
                });
            }
            place(&mut one, |_| message.position);
            give(one, &mut all);
        }
        // Batches of one row each are put together.
        let batches = std::mem::take(&mut all.batches);
        let offsets = std::mem::take(&mut all.offsets);
        for (batches, offsets) in
            batches.chunks(self.spec.batch_rows).zip(offsets.chunks(self.spec.batch_rows))
        {
            let batch = concat_batches(&self.output, batches)
                .or_code(code::INTERNAL, || "batches of a decoder differ".to_owned())?;
            all.batches.push(batch);
            all.offsets.push(offsets.iter().flat_map(|offsets| offsets.iter().copied()).collect());
        }
        give(all, out);
        Ok(())
    }
}

/// Whether each message of `run` became one record, so that none ran into another.
fn places_agree(lines: &Decoded, run: &[Message]) -> bool {
    if lines.records != run.len() as u64 || !lines.balances() {
        return false;
    }
    let mut places: Vec<u64> = lines.rejects.iter().map(|reject| reject.offset).collect();
    places.extend(lines.offsets.iter().flat_map(|offsets| offsets.iter().map(|at| *at as u64)));
    places.sort_unstable();
    places.iter().zip(run).all(|(place, message)| *place == u64::from(message.start))
}

/// Replaces places of bytes by positions.
fn place(decoded: &mut Decoded, position: impl Fn(u64) -> u64) {
    for reject in &mut decoded.rejects {
        reject.offset = position(reject.offset);
        reject.line = 1;
    }
    for offsets in &mut decoded.offsets {
        let signed = |at: &i64| i64::try_from(position(*at as u64)).unwrap_or(i64::MAX);
        *offsets = offsets.iter().map(signed).collect();
    }
}

fn give(mut from: Decoded, out: &mut Decoded) {
    out.batches.append(&mut from.batches);
    out.offsets.append(&mut from.offsets);
    out.rejects.append(&mut from.rejects);
    out.records += from.records;
    out.good += from.good;
    out.discarded_values += from.discarded_values;
    out.lines += from.lines;
    out.evolution.merge(from.evolution);
}

/// Messages as values of one column.
struct RawDecoder {
    rules: Arc<Rules>,
    /// The column where it is text; bytes are taken as they are.
    text: Option<Box<dyn Column>>,
    /// How often the column is given.
    copies: usize,
    output: SchemaRef,
    spec: ReadSpec,
}

impl RawDecoder {
    fn new(rules: &Arc<Rules>, schema: &SchemaRef, spec: &ReadSpec) -> Result<Self> {
        let output = schema
            .project(&spec.projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let copies = spec.projection.len();
        let is_text = rules.declared().data_type == ColumnType::Text;
        Ok(Self {
            text: is_text.then(|| rules.column(copies > 0)),
            rules: Arc::clone(rules),
            copies,
            output: Arc::new(output),
            spec: spec.clone(),
        })
    }

    fn check(&mut self, message: &[u8]) -> std::result::Result<(), (Rule, Cow<'static, str>)> {
        let Some(column) = &mut self.text else { return Ok(()) };
        if simdutf8::basic::from_utf8(message).is_err() {
            return Err((Rule::Encoding, Cow::Borrowed("the record is not UTF-8")));
        }
        let Err(fault) = column.append(message, 0, message.len(), true) else { return Ok(()) };
        if self.copies > 0 {
            let held = column.len() - 1;
            column.remove(held, &[0]);
        }
        Err((fault.rule(), self.rules.message(fault, message)))
    }
}

impl MessageDecoder for RawDecoder {
    fn decode(&mut self, bytes: &Bytes, messages: &[Message], out: &mut Decoded) -> Result<()> {
        for messages in messages.chunks(self.spec.batch_rows.max(1)) {
            let mut good = Vec::with_capacity(messages.len());
            let mut binary = BinaryBuilder::new();
            for message in messages {
                let value = &bytes[message.start as usize..message.end as usize];
                out.records += 1;
                out.lines += 1;
                if value.len() > self.spec.max_record_bytes {
                    let limit = self.spec.max_record_bytes;
                    out.rejects.push(Reject::too_large(message.position, 1, limit, value));
                    continue;
                }
                match self.check(value) {
                    Ok(()) => {
                        good.push(i64::try_from(message.position).unwrap_or(i64::MAX));
                        if self.text.is_none() && self.copies > 0 {
                            binary.append_value(value);
                        }
                    }
                    Err((rule, why)) => out.rejects.push(Reject {
                        offset: message.position,
                        line: 1,
                        rule,
                        column: (rule != Rule::Encoding).then(|| self.rules.name().to_owned()),
                        message: why,
                        raw: value.into(),
                    }),
                }
            }
            if good.is_empty() {
                continue;
            }
            out.good += good.len() as u64;
            let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
            let columns: Vec<ArrayRef> = match (&mut self.text, self.copies) {
                (_, 0) => Vec::new(),
                (Some(text), copies) => vec![text.finish(); copies],
                (None, copies) => vec![Arc::new(binary.finish()) as ArrayRef; copies],
            };
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
                    .or_code(code::INTERNAL, || "columns of a batch differ".to_owned())?;
            out.batches.push(batch);
            if self.spec.offsets {
                out.offsets.push(ScalarBuffer::from(good));
            }
        }
        Ok(())
    }
}
