//! A file's header mapped onto the contract.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::contract::{Contract, ContractColumn, ContractMode, SchemaChange, SchemaDiff};
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{Decoder, FileHead, ReadSpec, TextLayout};
use freshet_core::record::Rule;
use freshet_core::types::ColumnType;

use super::CsvFormat;
use super::decoder::CsvDecoder;
use super::options::Dialect;
use super::split::{self, Attempt, Surroundings};
use crate::values::Rules;

/// The longest header in bytes.
const MAX_HEADER: usize = 16 << 20;

/// A column of the contract and where a file has it.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub rules: Arc<Rules>,
    /// The field; `None` where the file lacks it.
    pub field: Option<usize>,
}

/// The columns of one file.
#[derive(Debug)]
pub(super) struct CsvLayout {
    pub dialect: Dialect,
    /// Fields of each record.
    pub width: usize,
    /// The contract's columns in its order, then those that it does not declare and the schema
    /// has.
    pub columns: Vec<Bound>,
    /// Why every record of the file is rejected, if it is: rule, column, message.
    pub condemned: Option<(Rule, String, String)>,
    pub bad_values: ContractMode,
    schema: SchemaRef,
    diff: Option<SchemaDiff>,
    data_offset: u64,
    data_line: u64,
}

/// The header's place and names.
struct Header {
    names: Vec<String>,
    data_offset: usize,
}

impl CsvLayout {
    pub fn new(format: &CsvFormat, head: FileHead<'_>, contract: &Contract) -> Result<Self> {
        let header = if format.options.header {
            read_header(format, head)?
        } else {
            without_header(format, head, contract)?
        };
        let data_line = memchr::memchr_iter(b'\n', &head.bytes[..header.data_offset]).count()
            + usize::from(
                header.data_offset > 0
                    && head.bytes[header.data_offset - 1] != b'\n'
                    && header.data_offset > bom_length(head.bytes),
            );
        Self::bind(format, header, contract, data_line as u64)
    }

    fn bind(
        format: &CsvFormat,
        header: Header,
        contract: &Contract,
        data_line: u64,
    ) -> Result<Self> {
        let formats = format.options.value_formats();
        let width = header.names.len();
        let mut field_of: HashMap<&str, usize> = HashMap::with_capacity(width);
        for (field, name) in header.names.iter().enumerate() {
            if let Some(first) = field_of.insert(name, field) {
                return Err(header_error(format!(
                    "the header has two columns \"{name}\": {} and {}",
                    first + 1,
                    field + 1
                ))
                .hint(
                    "rename one of them in the file, or set header to false and skip_lines to 1",
                ));
            }
        }
        let mut columns = Vec::with_capacity(contract.columns.len());
        let mut fields: Vec<Field> = Vec::new();
        let mut changes = Vec::new();
        let mut condemned = None;
        let mut taken = vec![false; width];
        let modes = contract.modes;
        for column in &contract.columns {
            let rules = Arc::new(Rules::compile(column, &formats)?);
            let field = field_of.get(column.name_in_data()).copied();
            match field {
                Some(field) => taken[field] = true,
                None => {
                    changes.push(SchemaChange::Missing { column: column.name.clone() });
                    if !column.nullable || modes.missing_columns == ContractMode::DiscardRow {
                        condemned.get_or_insert_with(|| {
                            let name = column.name_in_data();
                            let message = format!("the file has no column \"{name}\"");
                            (Rule::MissingColumn, column.name.clone(), message)
                        });
                    }
                }
            }
            fields.push(column.field());
            columns.push(Bound { rules, field });
        }
        if !columns.is_empty() && columns.iter().all(|column: &Bound| column.field.is_none()) {
            // All nulls would be a sound reading of it, and never what was meant.
            return Err(header_error("the header has none of the contract's columns".to_owned())
                .hint(
                    "check the delimiter, the encoding, skip_lines and whether there is a header",
                ));
        }
        if modes.missing_columns == ContractMode::Freeze
            && let Some(SchemaChange::Missing { column }) = changes.first()
        {
            return Err(header_error(format!("the header has no column \"{column}\""))
                .hint("mend the file, or set the contract's missing_columns to evolve"));
        }

        let mut names: HashSet<String> =
            contract.columns.iter().map(|column| column.name.clone()).collect();
        for (field, name) in header.names.iter().enumerate() {
            if taken[field] {
                continue;
            }
            if !contract.columns.is_empty() {
                let data_type = ColumnType::Text.to_string();
                changes.push(SchemaChange::Added { column: name.clone(), data_type });
                match modes.new_columns {
                    ContractMode::Evolve => {}
                    ContractMode::DiscardValue => continue,
                    ContractMode::DiscardRow => {
                        condemned.get_or_insert_with(|| {
                            let message =
                                format!("the contract does not declare the column \"{name}\"");
                            (Rule::NewColumn, name.clone(), message)
                        });
                        continue;
                    }
                    ContractMode::Freeze => {
                        return Err(header_error(format!("the header has a new column \"{name}\""))
                            .hint(
                                "declare it, or set the contract's new_columns to evolve or discard_value",
                            ));
                    }
                }
            }
            let mut unique = name.clone();
            while !names.insert(unique.clone()) {
                unique.push('_');
            }
            let column = ContractColumn::new(unique, ColumnType::Text);
            fields.push(Field::new(&column.name, DataType::Utf8View, true));
            let rules = Arc::new(Rules::compile(&column, &formats)?);
            columns.push(Bound { rules, field: Some(field) });
        }

        let order: Vec<usize> =
            columns.iter().take(contract.columns.len()).filter_map(|column| column.field).collect();
        if !order.is_sorted() {
            changes.push(SchemaChange::Reordered);
        }
        Ok(Self {
            dialect: format.dialect,
            width,
            columns,
            condemned,
            bad_values: modes.bad_values,
            schema: Arc::new(Schema::new(fields)),
            diff: (!changes.is_empty()).then_some(SchemaDiff { file: None, changes }),
            data_offset: header.data_offset as u64,
            data_line,
        })
    }
}

/// A layout that decoders share.
#[derive(Debug, Clone)]
pub(super) struct SharedLayout(pub Arc<CsvLayout>);

impl TextLayout for SharedLayout {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn diff(&self) -> Option<SchemaDiff> {
        self.0.diff.clone()
    }

    fn data_offset(&self) -> u64 {
        self.0.data_offset
    }

    fn data_line(&self) -> u64 {
        self.0.data_line
    }

    fn decoder(&self, schema: &SchemaRef, spec: &ReadSpec) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(CsvDecoder::new(Arc::clone(&self.0), schema, spec)?))
    }

    fn walker(&self, spec: &ReadSpec) -> Result<Option<Box<dyn Decoder>>> {
        let spec = ReadSpec { projection: Vec::new(), offsets: false, ..spec.clone() };
        let decoder = CsvDecoder::new(Arc::clone(&self.0), &self.0.schema, &spec)?;
        Ok(Some(Box::new(decoder.walking())))
    }
}

fn header_error(message: String) -> Error {
    Error::new(code::HEADER, message)
}

fn empty() -> Error {
    Error::new(code::FILE_EMPTY, "the file holds nothing")
}

/// Bytes of the byte order mark.
fn bom_length(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 }
}

/// The line that begins at `start`: its line feed (or the end) and where the next one begins.
/// `None` where the head does not hold it whole.
fn line(head: FileHead<'_>, start: usize) -> Option<(usize, usize)> {
    match memchr::memchr(b'\n', &head.bytes[start..]) {
        Some(distance) => Some((start + distance, start + distance + 1)),
        None => head.whole.then_some((head.bytes.len(), head.bytes.len())),
    }
}

/// More of the file may mend it, where there is more.
fn too_long(head: FileHead<'_>) -> Error {
    let error = header_error(format!("the header is longer than {} bytes", head.bytes.len()))
        .hint("check the delimiter, the encoding and skip_lines");
    if head.whole { error } else { error.retryable() }
}

/// Skips the byte order mark and the lines that are to be skipped.
fn preamble(format: &CsvFormat, head: FileHead<'_>) -> Result<usize> {
    let mut at = bom_length(head.bytes);
    for _ in 0..format.options.skip_lines {
        if at == head.bytes.len() && head.whole {
            return Err(empty());
        }
        at = line(head, at).ok_or_else(|| too_long(head))?.1;
    }
    Ok(at)
}

/// Skips blank lines and comments; gives the first line that is neither as (start, feed, next).
fn first_line(
    format: &CsvFormat,
    head: FileHead<'_>,
    mut at: usize,
) -> Result<Option<(usize, usize, usize)>> {
    loop {
        if at == head.bytes.len() && head.whole {
            return Ok(None);
        }
        let (feed, next) = line(head, at).ok_or_else(|| too_long(head))?;
        let content = &head.bytes[at..split::content_end(head.bytes, at, feed)];
        let comment = content.first().is_some_and(|byte| Some(*byte) == format.dialect.comment);
        if !content.is_empty() && !comment {
            return Ok(Some((at, feed, next)));
        }
        at = next;
    }
}

/// The fields of the record that begins at `start`, without quotes, and where the next one begins.
fn record(
    format: &CsvFormat,
    head: FileHead<'_>,
    (start, feed): (usize, usize),
) -> Result<(Vec<Vec<u8>>, usize)> {
    let around = Surroundings { data: head.bytes, last: head.whole, limit: MAX_HEADER };
    let mut ends = vec![(start as u32).wrapping_sub(1)];
    let feed = match split::record(&format.dialect, around, start, feed, &mut ends) {
        Attempt::Ends(feed) => feed,
        Attempt::More => return Err(too_long(head)),
        Attempt::Misshapen(_) => {
            return Err(header_error("a quote in the header is not closed as it should be".into())
                .hint("check the delimiter and the quote"));
        }
    };
    let width = ends.len() - 1;
    let dialect = &format.dialect;
    let fields = crate::values::Fields::new(head.bytes, &ends, &[1], width).quoting(
        dialect.quote,
        dialect.escape,
        true,
    );
    let mut scratch = Vec::new();
    let texts = (0..width)
        .map(|column| {
            let (start, end) = fields.with_column(column, width).span(0);
            fields.content(start, end, &mut scratch).0.to_vec()
        })
        .collect();
    Ok((texts, head.bytes.len().min(feed + 1)))
}

fn read_header(format: &CsvFormat, head: FileHead<'_>) -> Result<Header> {
    let at = preamble(format, head)?;
    let Some((start, feed, _)) = first_line(format, head, at)? else { return Err(empty()) };
    let (texts, data_offset) = record(format, head, (start, feed))?;
    let mut names = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let text = String::from_utf8(text).map_err(|_| {
            header_error(format!("the name of column {} is not UTF-8", index + 1))
                .hint("set the source's encoding")
        })?;
        let name = text.trim();
        // A column without a name is called by its place.
        names.push(if name.is_empty() { format!("column{}", index + 1) } else { name.to_owned() });
    }
    Ok(Header { names, data_offset })
}

/// The names of a file that has none: the contract's, or else made by place.
fn without_header(format: &CsvFormat, head: FileHead<'_>, contract: &Contract) -> Result<Header> {
    let data_offset = preamble(format, head)?;
    let first = first_line(format, head, data_offset);
    if let Ok(None) = first {
        return Err(empty());
    }
    let names = if contract.columns.is_empty() {
        let (start, feed, _) = first?.ok_or_else(empty)?;
        let (fields, _) = record(format, head, (start, feed))?;
        (1..=fields.len()).map(|place| format!("column{place}")).collect()
    } else {
        contract.columns.iter().map(|column| column.name_in_data().to_owned()).collect()
    };
    Ok(Header { names, data_offset })
}
