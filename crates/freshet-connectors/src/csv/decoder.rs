//! Chunks to batches: index a window, find its records, read its columns, drop the bad rows.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use bytes::Bytes;
use freshet_core::contract::ContractMode;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Chunk, Decoder, ReadSpec};
use freshet_core::record::{Decoded, Reject, Rule};

use super::index::{Index, Level};
use super::layout::{Bound, CsvLayout};
use super::rows::Rows;
use super::split::{self, Surroundings};
use crate::values::{Column, Fault, Fields, Rules};

/// Bytes that are indexed and read at a time: with the index they stay in the caches near the core
/// (all columns of the example `csv_bench`: 830 MB/s, 610 with 64 KiB, 1 core).
const WINDOW: usize = 32 << 10;

/// Wide records take larger windows, so that each column still has some rows to read in a go.
const WINDOW_PER_COLUMN: usize = 1 << 10;

/// No window is larger than this, unless a record is.
const LARGEST_WINDOW: usize = 512 << 10;

/// Bytes of a chunk that are decoded at a time, so that places in them fit 32 bits.
const PIECE: usize = 1 << 30;

/// No record may be larger than this, whatever the reader allows.
const LARGEST_RECORD: usize = 256 << 20;

/// A column that is looked at.
#[derive(Debug)]
struct Reading {
    column: Box<dyn Column>,
    rules: Arc<Rules>,
    field: usize,
    kept: bool,
}

/// Where a column of the output comes from.
#[derive(Debug)]
enum Output {
    Reading(usize),
    Null(DataType),
}

/// The decoder of one file's layout.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    layout: Arc<CsvLayout>,
    level: Level,
    window: usize,
    limit: usize,
    batch_rows: usize,
    want_offsets: bool,
    /// Records that begin here or behind are not decoded.
    stop: u64,
    /// Whether records are found and not read.
    walking: bool,
    schema: SchemaRef,
    /// The contract's columns in its order, then new ones.
    readings: Vec<Reading>,
    outputs: Vec<Output>,
    index: Index,
    rows: Rows,
    /// Rows that the kept columns hold.
    held: usize,
    offsets: Vec<i64>,
    scratch: Scratch,
}

/// Lists that are empty between calls.
#[derive(Debug, Default)]
struct Scratch {
    column_faults: Vec<(u32, Fault)>,
    /// Row in its block, reading, fault.
    faults: Vec<(u32, u32, Fault)>,
    dead: Vec<u32>,
}

/// The data that is being decoded.
#[derive(Clone, Copy)]
struct Piece<'a> {
    data: &'a [u8],
    offset: u64,
    /// Physical lines in front of the window.
    lines: u64,
}

impl CsvDecoder {
    pub fn new(layout: Arc<CsvLayout>, schema: &SchemaRef, spec: &ReadSpec) -> Result<Self> {
        let place_of: HashMap<&str, usize> = layout
            .columns
            .iter()
            .enumerate()
            .map(|(place, bound)| (bound.rules.name(), place))
            .collect();
        let mut wanted = vec![false; layout.columns.len()];
        let mut fields = Vec::with_capacity(spec.projection.len());
        for &column in &spec.projection {
            let field = schema.fields().get(column).ok_or_else(|| {
                let columns = schema.fields().len();
                Error::internal(format!("column {column} was asked for of {columns}"))
            })?;
            if let Some(place) = place_of.get(field.name().as_str()) {
                wanted[*place] = true;
            }
            fields.push(Arc::clone(field));
        }
        let mut readings: Vec<Reading> = Vec::new();
        let mut reading_of = vec![None; layout.columns.len()];
        for (place, Bound { rules, field }) in layout.columns.iter().enumerate() {
            let Some(field) = *field else { continue };
            let kept = wanted[place];
            if kept || !rules.accept_all() {
                reading_of[place] = Some(readings.len());
                let column = rules.column(kept);
                readings.push(Reading { column, rules: Arc::clone(rules), field, kept });
            }
        }
        let outputs = fields
            .iter()
            .map(|field| {
                let place = place_of.get(field.name().as_str());
                let reading = place.and_then(|place| reading_of[*place]);
                reading.map_or_else(|| Output::Null(field.data_type().clone()), Output::Reading)
            })
            .collect();
        let window = WINDOW.max(layout.width.saturating_mul(WINDOW_PER_COLUMN)).min(LARGEST_WINDOW);
        Ok(Self {
            layout,
            level: Level::best(),
            window,
            limit: spec.max_record_bytes.min(LARGEST_RECORD),
            batch_rows: spec.batch_rows.clamp(1, 1 << 24),
            want_offsets: spec.offsets,
            stop: spec.stop.unwrap_or(u64::MAX),
            walking: false,
            schema: Arc::new(Schema::new(fields)),
            readings,
            outputs,
            index: Index::default(),
            rows: Rows::default(),
            held: 0,
            offsets: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// Finds records and gives none.
    pub fn walking(mut self) -> Self {
        self.readings.clear();
        self.outputs.clear();
        self.walking = true;
        self
    }

    /// Decodes with another level and window than the best: for tests that expect no difference.
    #[cfg(test)]
    pub fn with(mut self, level: Level, window: usize) -> Self {
        self.level = level;
        self.window = window;
        self
    }

    /// Decodes the records that `bytes` holds whole; see [`Decoder::decode`].
    fn piece(
        &mut self,
        bytes: &Bytes,
        offset: u64,
        last: bool,
        out: &mut Decoded,
    ) -> Result<usize> {
        let source = Buffer::from(bytes.clone());
        self.give_source(&source);
        let read = self.windows(bytes, offset, last, out);
        // What is held after an error is of no use any more, and may refer to the source.
        let read = read.and_then(|consumed| self.flush(out).map(|()| consumed));
        if read.is_err() {
            for reading in self.readings.iter_mut().filter(|reading| reading.kept) {
                reading.column.finish();
            }
            self.held = 0;
            self.offsets.clear();
        }
        self.give_source(&Buffer::from(Vec::<u8>::new()));
        read
    }

    fn give_source(&mut self, source: &Buffer) {
        for reading in self.readings.iter_mut().filter(|reading| reading.kept) {
            reading.column.set_source(source);
        }
    }

    fn windows(
        &mut self,
        data: &[u8],
        offset: u64,
        last: bool,
        out: &mut Decoded,
    ) -> Result<usize> {
        let layout = Arc::clone(&self.layout);
        let around = Surroundings { data, last, limit: self.limit };
        let stop = usize::try_from(self.stop.saturating_sub(offset)).unwrap_or(usize::MAX);
        let stop = stop.min(data.len());
        let mut at = 0;
        while at < stop {
            // A line that begins in front of `stop` may end behind it; no line behind it is looked
            // at.
            let mut end = stop.min(at + self.window);
            loop {
                let whole = last && end == data.len();
                self.index.build(self.level, &layout.dialect, data, (at, end), whole);
                if !self.index.lines.is_empty() || end == data.len() {
                    break;
                }
                // A line is longer than the window.
                match memchr::memchr(b'\n', &data[end..]) {
                    Some(distance) => end += distance + 1,
                    None if last => end = data.len(),
                    None => return Ok(at),
                }
            }
            if self.index.lines.is_empty() {
                break;
            }
            let progress = self.rows.find(&mut self.index, &layout.dialect, around, layout.width);
            if self.walking {
                out.lines += progress.lines as u64;
                at = progress.resume;
            } else if progress.resume > at {
                let piece = Piece { data, offset, lines: out.lines };
                let first_reject = out.rejects.len();
                self.reject_shapes(piece, out);
                // A record of several lines may go on beyond what was indexed.
                let ascii = self.index.ascii && progress.resume <= end;
                if !ascii && simdutf8::basic::from_utf8(&data[at..progress.resume]).is_err() {
                    self.reject_encodings(piece, out);
                }
                self.read_rows(piece, out)?;
                out.rejects[first_reject..].sort_by_key(|reject| reject.offset);
                out.lines += progress.lines as u64;
                at = progress.resume;
            }
            if progress.more {
                break;
            }
        }
        Ok(at)
    }

    /// Rejects the records of the window that have not the shape of one.
    fn reject_shapes(&mut self, piece: Piece<'_>, out: &mut Decoded) {
        out.records += (self.rows.bad.len() + self.rows.rows.len()) as u64;
        for bad in self.rows.bad.drain(..) {
            let offset = piece.offset + bad.start as u64;
            let line = piece.line(&self.index, bad.start);
            let raw = &piece.data[bad.start..bad.end];
            out.rejects.push(match bad.rule {
                Rule::TooLarge => Reject::too_large(offset, line, self.limit, raw),
                rule => Reject {
                    offset,
                    line,
                    rule,
                    column: None,
                    message: bad.message,
                    raw: raw.into(),
                },
            });
        }
    }

    /// Rejects the records of the window that are not UTF-8.
    fn reject_encodings(&mut self, piece: Piece<'_>, out: &mut Decoded) {
        let (index, width) = (&self.index, self.layout.width);
        self.rows.rows.retain(|&row| {
            let (start, end) = piece.record(index, row, width);
            let Err(error) = std::str::from_utf8(&piece.data[start..end]) else { return true };
            let message = format!("byte {} of the record is not UTF-8", error.valid_up_to() + 1);
            out.rejects.push(piece.reject(index, row, width, Rule::Encoding, None, message.into()));
            false
        });
    }

    /// Reads the rows of the window, as many at a time as the batch has room for.
    fn read_rows(&mut self, piece: Piece<'_>, out: &mut Decoded) -> Result<()> {
        let rows = std::mem::take(&mut self.rows.rows);
        let mut from = 0;
        while from < rows.len() {
            let to = rows.len().min(from + self.batch_rows - self.held);
            self.read_block(piece, &rows[from..to], out)?;
            from = to;
            // The last few places of a batch are not worth a block of their own.
            if self.held + self.batch_rows / 16 >= self.batch_rows {
                self.flush(out)?;
            }
        }
        self.rows.rows = rows;
        Ok(())
    }

    fn read_block(&mut self, piece: Piece<'_>, rows: &[u32], out: &mut Decoded) -> Result<()> {
        let layout = Arc::clone(&self.layout);
        let (width, dialect) = (layout.width, &layout.dialect);
        if let Some((rule, column, message)) = &layout.condemned {
            out.rejects.extend(rows.iter().map(|&row| {
                let (name, message) = (Some(column.clone()), Cow::Owned(message.clone()));
                piece.reject(&self.index, row, width, *rule, name, message)
            }));
            return Ok(());
        }
        let fields = Fields::new(piece.data, &self.index.ends, rows, width).quoting(
            dialect.quote,
            dialect.escape,
            self.index.escapes,
        );
        let Scratch { column_faults, faults, dead } = &mut self.scratch;
        faults.clear();
        dead.clear();
        for (order, reading) in self.readings.iter_mut().enumerate() {
            column_faults.clear();
            let fields = fields.with_column(reading.field, width);
            reading.column.append_block(&fields, column_faults);
            faults.extend(column_faults.iter().map(|(row, fault)| (*row, order as u32, *fault)));
        }
        if !faults.is_empty() {
            faults.sort_unstable_by_key(|(row, order, _)| (*row, *order));
            let mut content = Vec::new();
            for of_row in faults.chunk_by(|a, b| a.0 == b.0) {
                let discards = |(_, order, fault): &&(u32, u32, Fault)| {
                    let required = !self.readings[*order as usize].rules.declared().nullable;
                    layout.bad_values == ContractMode::DiscardValue
                        && *fault != Fault::Missing
                        && !required
                };
                let Some((row, order, fault)) = of_row.iter().find(|fault| !discards(fault)) else {
                    out.discarded_values += of_row.len() as u64;
                    continue;
                };
                let rules = &self.readings[*order as usize].rules;
                let fields = fields.with_column(self.readings[*order as usize].field, width);
                let (start, end) = fields.span(*row as usize);
                let value = fields.content(start, end, &mut content).0;
                if layout.bad_values == ContractMode::Evolve
                    && matches!(fault, Fault::Type | Fault::Range)
                    && let Some(wider) = rules.widened(value)
                {
                    out.evolution.widen(rules.name(), wider);
                }
                let message = rules.message(*fault, value);
                let reject = piece.reject(
                    &self.index,
                    rows[*row as usize],
                    width,
                    fault.rule(),
                    Some(rules.name().to_owned()),
                    message,
                );
                if layout.bad_values == ContractMode::Freeze {
                    return Err(Error::new(
                        code::FILE_TOO_BAD,
                        format!(
                            "the record at byte {} breaks the contract: column \"{}\": {}",
                            reject.offset,
                            rules.name(),
                            reject.message
                        ),
                    )
                    .hint("mend the file, or set the contract's bad_values to discard_row"));
                }
                out.rejects.push(reject);
                dead.push(*row);
            }
            for reading in self.readings.iter_mut().filter(|reading| reading.kept) {
                reading.column.remove(self.held, dead);
            }
        }
        if self.want_offsets {
            let mut dead = dead.iter().copied().peekable();
            self.offsets.extend(rows.iter().enumerate().filter_map(|(row, &run)| {
                let start = self.index.ends[run as usize - 1].wrapping_add(1);
                let alive = dead.next_if_eq(&(row as u32)).is_none();
                alive.then_some(piece.offset as i64 + i64::from(start))
            }));
        }
        let alive = rows.len() - dead.len();
        self.held += alive;
        out.good += alive as u64;
        Ok(())
    }

    /// Gives the rows that are held as a batch.
    fn flush(&mut self, out: &mut Decoded) -> Result<()> {
        if self.held == 0 {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.held);
        let kept: Vec<Option<ArrayRef>> = self
            .readings
            .iter_mut()
            .map(|reading| reading.kept.then(|| reading.column.finish()))
            .collect();
        let columns = self
            .outputs
            .iter()
            .map(|output| match output {
                Output::Reading(reading) => {
                    kept[*reading].clone().expect("a reading that is put out is kept")
                }
                Output::Null(data_type) => new_null_array(data_type, rows),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .or_code(code::INTERNAL, || "columns of CSV do not make a batch".to_owned())?;
        out.batches.push(batch);
        if self.want_offsets {
            out.offsets.push(ScalarBuffer::from(std::mem::take(&mut self.offsets)));
        }
        Ok(())
    }
}

impl Piece<'_> {
    /// The one-based line of the record that begins at `start`.
    fn line(&self, index: &Index, start: usize) -> u64 {
        let before =
            index.lines.partition_point(|line| (index.ends[*line as usize] as usize) < start);
        self.lines + before as u64 + 1
    }

    /// Where a record's content lies.
    fn record(&self, index: &Index, row: u32, width: usize) -> (usize, usize) {
        let start = index.ends[row as usize - 1].wrapping_add(1) as usize;
        let feed = index.ends[row as usize + width - 1] as usize;
        (start, split::content_end(self.data, start, feed))
    }

    fn reject(
        &self,
        index: &Index,
        row: u32,
        width: usize,
        rule: Rule,
        column: Option<String>,
        message: Cow<'static, str>,
    ) -> Reject {
        let (start, end) = self.record(index, row, width);
        Reject {
            offset: self.offset + start as u64,
            line: self.line(index, start),
            rule,
            column,
            message,
            raw: self.data[start..end].into(),
        }
    }
}

impl Decoder for CsvDecoder {
    fn is_record(&self, beginning: &[u8]) -> bool {
        beginning.first().is_none_or(|byte| Some(*byte) != self.layout.dialect.comment)
    }

    fn decode(&mut self, chunk: &Chunk, out: &mut Decoded) -> Result<usize> {
        let mut done = 0;
        while done < chunk.bytes.len() {
            let end = chunk.bytes.len().min(done + PIECE);
            let last = chunk.last && end == chunk.bytes.len();
            let bytes = chunk.bytes.slice(done..end);
            let offset = chunk.offset + done as u64;
            if offset >= self.stop {
                break;
            }
            let mut consumed = self.piece(&bytes, offset, last, out)?;
            if consumed == 0 && end < chunk.bytes.len() {
                // One line fills the piece, so it is larger than any record may be.
                let rest = &chunk.bytes[done..];
                let feed = memchr::memchr(b'\n', rest);
                if feed.is_none() && !chunk.last {
                    break;
                }
                if self.is_record(rest) {
                    out.rejects.push(Reject::too_large(offset, out.lines + 1, self.limit, rest));
                    out.records += 1;
                }
                out.lines += 1;
                consumed = feed.map_or(rest.len(), |feed| feed + 1);
            }
            if consumed == 0 {
                break;
            }
            done += consumed;
        }
        Ok(done)
    }
}
