//! Objects to Arrow batches.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use freshet_core::contract::ContractMode;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Chunk, Decoder, Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::types::ColumnType;

use super::Shape;
use super::fields::{Level, Record, Unknown, find};
use super::layout::JsonLayout;
use super::parse::{Kind, Value, Wrong, blanks, unescape};
use super::skip::Skipper;
use crate::values::{Column, Fault, Rules};

/// Decodes the objects of one file.
#[derive(Debug)]
pub struct JsonDecoder {
    shape: Shape,
    readings: Vec<Reading>,
    /// The names of fields, with the places of their columns in `readings`.
    level: Level,
    new_columns: ContractMode,
    missing_columns: ContractMode,
    bad_values: ContractMode,
    output: SchemaRef,
    /// For each output column the reading that it comes from.
    sources: Vec<Option<usize>>,
    batch_rows: usize,
    max_record_bytes: usize,
    offsets: Option<Vec<i64>>,
    rows: usize,
    record: Record,
    /// A broken element whose end has not been seen.
    skipper: Option<Skipper>,
    /// What stands on its line in front of the next chunk: see [`indent`].
    indent: Option<usize>,
    scratch: Vec<u8>,
    /// Whether the messages at hand are known to be text.
    all_text: bool,
}

/// A column that is checked, and kept where it was asked for.
#[derive(Debug)]
struct Reading {
    rules: Arc<Rules>,
    column: Box<dyn Column>,
    kept: bool,
    declared: bool,
    text: bool,
    /// Nothing happens where it is null or not there.
    passes_null: bool,
}

/// Why an object is not a row.
struct Refusal {
    rule: Rule,
    column: Option<String>,
    message: Cow<'static, str>,
}

impl JsonDecoder {
    /// Gives the columns `spec.projection` of `schema`.
    pub fn new(layout: &JsonLayout, schema: &SchemaRef, spec: &ReadSpec) -> Result<Self> {
        let wanted: Vec<&str> =
            spec.projection.iter().map(|index| schema.field(*index).name().as_str()).collect();
        let mut readings = Vec::new();
        let mut level = Level::new(layout.names);
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (index, rules) in layout.columns.iter().enumerate() {
            let declared = index < layout.declared;
            let kept = wanted.contains(&rules.name());
            let asked = declared || kept;
            let places = layout.names.places(rules.declared().name_in_data());
            for path in &places {
                level.add(path, asked.then_some(readings.len()), places.len() > 1);
            }
            if !asked {
                continue;
            }
            known.insert(rules.name(), readings.len());
            let must_be =
                declared && layout.contract.modes.missing_columns == ContractMode::DiscardRow;
            readings.push(Reading {
                passes_null: !kept && !must_be && rules.declared().nullable,
                rules: Arc::clone(rules),
                column: rules.column(kept),
                kept,
                declared,
                text: rules.declared().data_type == ColumnType::Text,
            });
        }
        let sources = wanted.iter().map(|name| known.get(name).copied()).collect();
        let output: Schema = schema
            .project(&spec.projection)
            .or_code(code::INTERNAL, || "a projection has columns that are not there".to_owned())?;
        let modes = layout.contract.modes;
        // Without a contract, nothing is new.
        let new_columns =
            if layout.declared == 0 { ContractMode::Evolve } else { modes.new_columns };
        Ok(Self {
            shape: layout.shape,
            record: Record { values: vec![None; readings.len()], ..Record::default() },
            readings,
            level,
            new_columns,
            missing_columns: modes.missing_columns,
            bad_values: modes.bad_values,
            output: Arc::new(output),
            sources,
            batch_rows: spec.batch_rows.max(1),
            max_record_bytes: spec.max_record_bytes,
            offsets: spec.offsets.then(Vec::new),
            rows: 0,
            skipper: None,
            indent: Some(0),
            scratch: Vec::new(),
            all_text: false,
        })
    }

    /// One object a line.
    fn lines(&mut self, chunk: &Chunk, out: &mut Decoded) -> Result<usize> {
        let bytes = chunk.bytes.as_ref();
        // Looked at once for the whole chunk; a line at a time only where that fails.
        let all_text = simdutf8::basic::from_utf8(bytes).is_ok();
        let mut at = 0;
        while at < bytes.len() {
            let (end, next) = match memchr::memchr(b'\n', &bytes[at..]) {
                Some(found) => (at + found, at + found + 1),
                None if chunk.last => (bytes.len(), bytes.len()),
                None => break,
            };
            out.lines += 1;
            let line = &bytes[at..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if blanks(line, 0) < line.len() {
                let offset = chunk.offset + at as u64;
                self.line(line, all_text, offset, out)?;
            }
            at = next;
        }
        Ok(at)
    }

    fn line(&mut self, line: &[u8], all_text: bool, offset: u64, out: &mut Decoded) -> Result<()> {
        if line.len() > self.max_record_bytes {
            out.records += 1;
            out.rejects.push(Reject::too_large(offset, out.lines, self.max_record_bytes, line));
            return Ok(());
        }
        let result = if !all_text && simdutf8::basic::from_utf8(line).is_err() {
            Err(Refusal::new(Rule::Encoding, "the record is not UTF-8"))
        } else {
            let start = blanks(line, 0);
            let scanned = if line.get(start) == Some(&b'{') {
                self.scan(line, start)
            } else {
                Err(Wrong::Syntax("an object was expected"))
            };
            match scanned {
                Ok(end) if blanks(line, end) == line.len() => self.take(line),
                Ok(_) => {
                    Err(Refusal::new(Rule::Syntax, "something follows the object on its line"))
                }
                Err(wrong) => Err(wrong.into()),
            }
        };
        self.enter(result, line, offset, out.lines, out)
    }

    /// Objects in an array, or one after another.
    fn elements(&mut self, chunk: &Chunk, out: &mut Decoded) -> Result<usize> {
        let bytes = chunk.bytes.as_ref();
        let mut counted = 0;
        let mut at = 0;
        if let Some(skipper) = &mut self.skipper {
            match skipper.feed(bytes) {
                Some(end) => {
                    at = end;
                    self.skipper = None;
                }
                None => at = bytes.len(),
            }
        }
        while at < bytes.len() {
            let byte = bytes[at];
            if matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b'[' | b']') {
                at += 1;
                continue;
            }
            out.lines += memchr::memchr_iter(b'\n', &bytes[counted..at]).count() as u64;
            counted = at;
            let line = out.lines + 1;
            let offset = chunk.offset + at as u64;
            let scanned = if byte == b'{' {
                self.scan(bytes, at)
            } else {
                Err(Wrong::Syntax("an object was expected"))
            };
            match scanned {
                Ok(end) => {
                    let element = &bytes[at..end];
                    let result = if let Some(refusal) = out_of_size(self.max_record_bytes, element)
                    {
                        Err(refusal)
                    } else if simdutf8::basic::from_utf8(element).is_err() {
                        Err(Refusal::new(Rule::Encoding, "the record is not UTF-8"))
                    } else {
                        self.take(bytes)
                    };
                    self.enter(result, element, offset, line, out)?;
                    at = end;
                }
                Err(Wrong::Ends(_)) if !chunk.last && bytes.len() - at <= self.max_record_bytes => {
                    break;
                }
                Err(wrong) => {
                    let mut skipper = Skipper::new(indent(self.indent, bytes, at));
                    // A stray bracket has its end in front of itself, and is an element of its own.
                    let end = skipper.feed(&bytes[at..]).map(|end| at + end.max(1));
                    let visible = bytes.len() - at;
                    if end.is_none() && !chunk.last && visible <= self.max_record_bytes {
                        break;
                    }
                    let element = bytes[at..end.unwrap_or(bytes.len())].trim_ascii_end();
                    let refusal = match out_of_size(self.max_record_bytes, element) {
                        Some(refusal) => refusal,
                        None => wrong.into(),
                    };
                    self.enter(Err(refusal), element, offset, line, out)?;
                    match end {
                        Some(end) => at = end,
                        None => {
                            self.skipper = (!chunk.last).then_some(skipper);
                            at = bytes.len();
                        }
                    }
                }
            }
        }
        out.lines += memchr::memchr_iter(b'\n', &bytes[counted..at]).count() as u64;
        if chunk.last && at > 0 && bytes[at - 1] != b'\n' {
            out.lines += 1;
        }
        self.indent = indent(self.indent, bytes, at);
        Ok(at)
    }

    /// Finds the fields of the object at `at`.
    #[inline]
    fn scan(&mut self, bytes: &[u8], at: usize) -> Result<usize, Wrong> {
        let unknown = match self.new_columns {
            ContractMode::DiscardRow | ContractMode::Freeze => Unknown::Refused,
            ContractMode::Evolve => Unknown::Told,
            ContractMode::DiscardValue => Unknown::Ignored,
        };
        find(bytes, at, &mut self.level, &mut self.record, unknown)
    }

    /// Reads the fields that a scan found; a row more, or why not. The inner result of a refusal
    /// leaves nothing of the row behind.
    fn take(&mut self, bytes: &[u8]) -> Result<u64, Refusal> {
        let mut refusal = self.record.unknown.take().map(|name| Refusal {
            rule: Rule::NewColumn,
            message: Cow::Owned(format!("the contract does not declare the field \"{name}\"")),
            column: Some(name),
        });
        let mut discarded = 0;
        let mut appended = 0;
        for (index, reading) in self.readings.iter_mut().enumerate() {
            if refusal.is_some() {
                break;
            }
            appended = index + 1;
            let value = self.record.values[index];
            if reading.passes_null && value.is_none_or(|value| value.kind == Kind::Null) {
                continue;
            }
            if value.is_none()
                && reading.declared
                && self.missing_columns == ContractMode::DiscardRow
            {
                let _ = reading.column.append_null();
                refusal = Some(Refusal {
                    rule: Rule::MissingColumn,
                    column: Some(reading.rules.name().to_owned()),
                    message: Cow::Borrowed("the object does not have the field"),
                });
                break;
            }
            let Some((spelled, fault)) = reading.append(bytes, value, &mut self.scratch) else {
                refusal = Some(Refusal {
                    rule: Rule::Encoding,
                    column: Some(reading.rules.name().to_owned()),
                    message: Cow::Borrowed("a \\u escape is half a pair"),
                });
                break;
            };
            let Some(fault) = fault else { continue };
            let nullable = reading.rules.declared().nullable;
            if self.bad_values == ContractMode::DiscardValue && nullable && fault != Fault::Missing
            {
                discarded += 1;
                continue;
            }
            let raw = match spelled {
                Spelled::Scratch => self.scratch.as_slice(),
                Spelled::Place(start, end) => &bytes[start..end],
            };
            if self.bad_values == ContractMode::Evolve
                && matches!(fault, Fault::Type | Fault::Range)
                && simdutf8::basic::from_utf8(raw).is_ok()
                && let Some(wider) = reading.rules.widened(raw)
            {
                self.record.widened.widen(reading.rules.name(), wider);
            }
            refusal = Some(Refusal {
                rule: fault.rule(),
                column: Some(reading.rules.name().to_owned()),
                message: reading.rules.message(fault, raw),
            });
        }
        let Some(refusal) = refusal else { return Ok(discarded) };
        for reading in &mut self.readings[..appended] {
            if reading.kept {
                let held = reading.column.len() - 1;
                reading.column.remove(held, &[0]);
            }
        }
        Err(refusal)
    }

    /// Enters what became of a record.
    fn enter(
        &mut self,
        result: Result<u64, Refusal>,
        raw: &[u8],
        offset: u64,
        line: u64,
        out: &mut Decoded,
    ) -> Result<()> {
        out.records += 1;
        match result {
            Ok(discarded) => {
                for name in self.record.new.drain(..) {
                    if self.record.told.insert(name.as_bytes().to_vec()) {
                        self.record.late.insert(name);
                    }
                }
                out.good += 1;
                out.discarded_values += discarded;
                self.rows += 1;
                if let Some(offsets) = &mut self.offsets {
                    offsets.push(i64::try_from(offset).unwrap_or(i64::MAX));
                }
                if self.rows == self.batch_rows {
                    self.flush(out)?;
                }
            }
            Err(refusal) => {
                let of_value = matches!(
                    refusal.rule,
                    Rule::Type | Rule::Range | Rule::NotNull | Rule::Constraint
                );
                if of_value && self.bad_values == ContractMode::Freeze {
                    return Err(Error::new(
                        code::FILE_TOO_BAD,
                        format!(
                            "the record at byte {offset} breaks the contract: column \"{}\": {}",
                            refusal.column.unwrap_or_default(),
                            refusal.message
                        ),
                    )
                    .hint("mend the file, or set the contract's bad_values to discard_row"));
                }
                out.rejects.push(Reject {
                    offset,
                    line,
                    rule: refusal.rule,
                    column: refusal.column,
                    message: refusal.message,
                    raw: raw[..raw.len().min(self.max_record_bytes)].into(),
                });
            }
        }
        Ok(())
    }

    /// Gives all that is held.
    fn conclude(&mut self, out: &mut Decoded) -> Result<()> {
        self.flush(out)?;
        out.evolution.merge(std::mem::take(&mut self.record.widened));
        out.evolution.added.append(&mut self.record.late);
        Ok(())
    }

    /// Gives the rows that are held as a batch.
    fn flush(&mut self, out: &mut Decoded) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut arrays: Vec<Option<ArrayRef>> = self
            .readings
            .iter_mut()
            .map(|reading| reading.kept.then(|| reading.column.finish()))
            .collect();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.sources.len());
        for (index, source) in self.sources.iter().enumerate() {
            let array = source.and_then(|source| arrays[source].clone());
            columns.push(array.unwrap_or_else(|| {
                new_null_array(self.output.field(index).data_type(), self.rows)
            }));
        }
        arrays.clear();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
            .or_code(code::INTERNAL, || "columns of a batch differ in length".to_owned())?;
        if let Some(offsets) = &mut self.offsets {
            out.offsets.push(ScalarBuffer::from(std::mem::take(offsets)));
        }
        out.batches.push(batch);
        self.rows = 0;
        Ok(())
    }
}

impl MessageDecoder for JsonDecoder {
    fn decode(
        &mut self,
        bytes: &Bytes,
        messages: &[Message],
        out: &mut Decoded,
    ) -> Result<Decoding> {
        let mut text = 0;
        for (index, message) in messages.iter().enumerate() {
            if index == text {
                // Looked at once for all that lie behind each other; where that fails, each is looked at
                // alone, and the others never again together: that would be work without an end.
                let run = run(&messages[index..]);
                let all = message.start as usize..messages[index + run - 1].end as usize;
                let all = run > 1 && simdutf8::basic::from_utf8(&bytes[all]).is_ok();
                text = index + run;
                self.all_text = all;
            }
            out.lines += 1;
            self.line(message.of(bytes), self.all_text, message.position, out)?;
        }
        self.conclude(out)?;
        Ok(Decoding::Done)
    }
}

/// How many messages lie behind each other with one byte between them, and so form one text where
/// each is a text and that byte is ASCII.
fn run(messages: &[Message]) -> usize {
    let follows = |pair: &[Message]| pair[0].end.checked_add(1) == Some(pair[1].start);
    1 + messages.windows(2).take_while(|pair| follows(pair)).count()
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, chunk: &Chunk, out: &mut Decoded) -> Result<usize> {
        let consumed = match self.shape {
            Shape::Lines => self.lines(chunk, out)?,
            Shape::Elements => self.elements(chunk, out)?,
        };
        self.conclude(out)?;
        Ok(consumed)
    }
}

/// Where the text of a value is, for messages.
#[derive(Debug, Clone, Copy)]
enum Spelled {
    Scratch,
    Place(usize, usize),
}

impl Reading {
    /// Adds a value; what is wrong with it. `None` where its escapes are no text.
    #[inline]
    fn append(
        &mut self,
        bytes: &[u8],
        value: Option<Value>,
        scratch: &mut Vec<u8>,
    ) -> Option<(Spelled, Option<Fault>)> {
        let Some(Value { kind, start, end }) = value else {
            return Some((Spelled::Place(0, 0), self.column.append_null().err()));
        };
        let place = Spelled::Place(start, end);
        Some(match kind {
            Kind::Null => (place, self.column.append_null().err()),
            Kind::Text(true) => {
                if unescape(&bytes[start..end], scratch).is_none() {
                    let _ = self.column.append_null();
                    return None;
                }
                (Spelled::Scratch, self.column.append(scratch, 0, scratch.len(), false).err())
            }
            Kind::Text(false) => (place, self.column.append(bytes, start, end, false).err()),
            kind if kind == Kind::Misplaced || kind == Kind::Nested && !self.text => {
                let _ = self.column.append_null();
                (place, Some(Fault::Type))
            }
            Kind::Number | Kind::Boolean | Kind::Nested | Kind::Misplaced => {
                (place, self.column.append(bytes, start, end, true).err())
            }
        })
    }
}

impl Refusal {
    fn new(rule: Rule, message: &'static str) -> Self {
        Self { rule, column: None, message: Cow::Borrowed(message) }
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Ends(true) | Wrong::Unclosed => Self::new(Rule::Quote, "a string is not closed"),
            Wrong::Ends(false) => Self::new(Rule::Syntax, "the object is not closed"),
            Wrong::Syntax(why) => Self::new(Rule::Syntax, why),
        }
    }
}

fn out_of_size(limit: usize, element: &[u8]) -> Option<Refusal> {
    (element.len() > limit).then(|| {
        let reject = Reject::too_large(0, 0, limit, element);
        Refusal { rule: reject.rule, column: None, message: reject.message }
    })
}

/// Blanks in front of `at` on its line, or `None` where something else stands there. `before` is
/// the same for the start of `bytes`.
fn indent(before: Option<usize>, bytes: &[u8], at: usize) -> Option<usize> {
    let (line, blanks) = match memchr::memrchr(b'\n', &bytes[..at]) {
        Some(found) => (found + 1, 0),
        None => (0, before?),
    };
    let text = &bytes[line..at];
    text.iter().all(|byte| matches!(byte, b' ' | b'\t')).then_some(blanks + text.len())
}
