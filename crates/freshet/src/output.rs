//! The rows of a query, printed: as a table for people, as CSV or JSON for programs, batch by batch.

use std::io::{self, Write};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::cli::OutputFormat;
use crate::exit::Failure;
use crate::format::{count, counted, seconds};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Paint, printable};

/// A cell of a table is cut at this many characters.
const MAX_CELL_CHARS: usize = 200;

/// The result of a query that is under way.
pub struct Rows {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy)]
pub struct PrintOptions {
    /// The form.
    pub format: OutputFormat,
    /// Rows of a table that are printed; the others are counted.
    pub max_rows: usize,
    /// The terminal's width, for tables.
    pub width: Option<usize>,
    /// Colours.
    pub paint: Paint,
    /// Whether a table is followed by its number of rows and the time.
    pub timer: bool,
}

/// Prints all rows, reading them as it goes. Returns how many there were.
pub async fn print(
    mut rows: Rows,
    out: &mut (dyn Write + Send),
    options: &PrintOptions,
    started: Instant,
) -> Result<u64, Failure> {
    let mut printer = Printer::new(rows.schema.clone(), options);
    let mut total = 0;
    while let Some(batch) = rows.batches.next().await {
        let batch = batch?;
        total += batch.num_rows() as u64;
        printer.batch(out, &batch)?;
    }
    printer.finish(out, total, started)?;
    out.flush()?;
    Ok(total)
}

/// Prints batches in one of the forms.
struct Printer {
    schema: SchemaRef,
    options: PrintOptions,
    started: bool,
    table: Table,
    shown: usize,
}

impl Printer {
    fn new(schema: SchemaRef, options: &PrintOptions) -> Self {
        let columns = schema.fields().iter().map(|field| {
            let align = if is_number(field.data_type()) { Align::Right } else { Align::Left };
            (printable(field.name(), false), align)
        });
        let table = Table::new(columns, Frame::Boxed);
        Self { schema, options: *options, started: false, table, shown: 0 }
    }

    fn batch(&mut self, out: &mut dyn Write, batch: &RecordBatch) -> Result<(), Failure> {
        match self.options.format {
            OutputFormat::Table => self.keep(batch),
            OutputFormat::Csv => self.csv(out, batch),
            OutputFormat::Ndjson => ndjson(out, batch),
            OutputFormat::Json => {
                if batch.num_rows() == 0 {
                    return Ok(());
                }
                // The array writer brackets each batch; only what is inside is taken over.
                let mut text = Vec::new();
                let mut writer =
                    WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut text);
                writer.write(batch).and_then(|()| writer.finish()).map_err(failed)?;
                let inner = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]"));
                let inner = inner.expect("an array is in brackets");
                out.write_all(if self.started { b",\n " } else { b"[" })?;
                self.started = true;
                Ok(out.write_all(inner)?)
            }
        }
    }

    fn keep(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let rows = batch.num_rows().min(self.options.max_rows - self.shown);
        if rows == 0 {
            return Ok(());
        }
        let batch = batch.slice(0, rows);
        let columns = formatters(&batch)?;
        for row in 0..rows {
            let mut cells = Vec::with_capacity(columns.len());
            for (column, nulls) in &columns {
                cells.push(if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    Cell::toned("NULL", Tone::Dim)
                } else {
                    let text = column.value(row).try_to_string().map_err(failed)?;
                    Cell::from(cut(&printable(&text, false)))
                });
            }
            self.table.row(cells);
        }
        self.shown += rows;
        Ok(())
    }

    fn csv(&mut self, out: &mut dyn Write, batch: &RecordBatch) -> Result<(), Failure> {
        self.csv_header(out)?;
        let columns = formatters(batch)?;
        let mut text = String::new();
        let mut line = Vec::new();
        for row in 0..batch.num_rows() {
            for (i, (column, nulls)) in columns.iter().enumerate() {
                if i > 0 {
                    line.push(b',');
                }
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    continue;
                }
                text.clear();
                column.value(row).write(&mut text).map_err(format_failed)?;
                csv_field(&mut line, &text);
            }
            line.push(b'\n');
            // A line a write would be slow, a batch a write could be large.
            if line.len() > 64 * 1024 {
                out.write_all(&line)?;
                line.clear();
            }
        }
        Ok(out.write_all(&line)?)
    }

    fn csv_header(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        let mut line = Vec::new();
        for (i, field) in self.schema.fields().iter().enumerate() {
            if i > 0 {
                line.push(b',');
            }
            csv_field(&mut line, field.name());
        }
        line.push(b'\n');
        out.write_all(&line)
    }

    fn finish(&mut self, out: &mut dyn Write, total: u64, started: Instant) -> io::Result<()> {
        match self.options.format {
            OutputFormat::Csv => self.csv_header(out),
            OutputFormat::Ndjson => Ok(()),
            OutputFormat::Json => out.write_all(if self.started { b"]\n" } else { b"[]\n" }),
            OutputFormat::Table => {
                if !self.schema.fields().is_empty() {
                    self.table.write(out, self.options.width, self.options.paint)?;
                }
                let mut facts = vec![counted(total, "row")];
                if (self.shown as u64) < total {
                    facts.push(format!("{} shown", count(self.shown as u64)));
                }
                if self.options.timer {
                    facts.push(seconds(started.elapsed().as_secs_f64()));
                }
                writeln!(out, "{}", self.options.paint.dim(&format!("({})", facts.join(", "))))
            }
        }
    }
}

fn ndjson(out: &mut dyn Write, batch: &RecordBatch) -> Result<(), Failure> {
    let mut text = Vec::new();
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    writer.write(batch).and_then(|()| writer.finish()).map_err(failed)?;
    Ok(out.write_all(&text)?)
}

/// A column's values as text, and which of them are null: of `null` itself all, of a dictionary
/// those whose entry is.
type Column<'a> = (ArrayFormatter<'a>, Option<NullBuffer>);

/// Times as ISO 8601 writes them, without trailing zeros.
fn formatters(batch: &RecordBatch) -> Result<Vec<Column<'_>>, Failure> {
    const OPTIONS: FormatOptions<'static> = FormatOptions::new()
        .with_display_error(false)
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
        .with_datetime_format(Some("%Y-%m-%d %H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
    batch
        .columns()
        .iter()
        .map(|column| {
            let formatter = ArrayFormatter::try_new(column.as_ref(), &OPTIONS).map_err(failed)?;
            Ok((formatter, column.logical_nulls()))
        })
        .collect()
}

fn failed(error: ArrowError) -> Failure {
    Error::new(code::EXECUTION, "could not print a value").caused_by(error).into()
}

fn format_failed(_: impl std::fmt::Debug) -> Failure {
    Error::new(code::EXECUTION, "could not print a value: it is outside of what its type can show")
        .into()
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_number(value),
        other => other.is_numeric(),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CELL_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A field of CSV. Empty text is `""`, so that it differs from null.
fn csv_field(line: &mut Vec<u8>, text: &str) {
    let quoted = text.is_empty()
        || text.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'))
        || text.starts_with([' ', '\t'])
        || text.ends_with([' ', '\t']);
    if !quoted {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    line.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests;
