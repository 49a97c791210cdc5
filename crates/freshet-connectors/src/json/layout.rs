//! The columns of one JSON file, from the objects of its head.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::contract::{Contract, ContractColumn, ContractMode, SchemaChange, SchemaDiff};
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{Decoder, FileHead, MessageDecoder, ReadSpec, TextLayout};
use freshet_core::types::ColumnType;

use super::Shape;
use super::decoder::JsonDecoder;
use super::fields::{Level, Names};
use super::parse::blanks;
use crate::values::{Rules, ValueFormats};

/// The columns of one file.
#[derive(Debug, Clone)]
pub struct JsonLayout {
    pub(super) shape: Shape,
    pub(super) names: Names,
    pub(super) contract: Arc<Contract>,
    /// The contract's columns, then new ones.
    pub(super) columns: Vec<Arc<Rules>>,
    /// Where the new ones begin.
    pub(super) declared: usize,
    schema: SchemaRef,
    diff: Option<SchemaDiff>,
    data_offset: u64,
}

impl JsonLayout {
    /// Maps the fields of the head's objects onto the contract.
    pub fn new(
        shape: Shape,
        names: Names,
        formats: ValueFormats,
        head: FileHead<'_>,
        contract: &Arc<Contract>,
    ) -> Result<Self> {
        let mark = if head.bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        let text = &head.bytes[mark..];
        if head.whole && blanks(text, 0) == text.len() {
            return Err(Error::new(code::FILE_EMPTY, "the file is empty"));
        }
        let mut level = Level::new(names);
        for (index, column) in contract.columns.iter().enumerate() {
            for path in names.places(column.name_in_data()) {
                level.add(&path, Some(index), false);
            }
        }
        let seen = Seen::of(text, &level);
        let means = |column: &ContractColumn, name: &str| {
            names.places(column.name_in_data()).iter().any(|path| is_path(path, name))
        };
        let mut columns = Vec::new();
        let mut changes = Vec::new();
        for column in &contract.columns {
            columns.push(Arc::new(Rules::compile(column, &formats)?));
            if seen.objects > 0 && !seen.names.iter().any(|name| means(column, name)) {
                changes.push(SchemaChange::Missing { column: column.name.clone() });
                if contract.modes.missing_columns == ContractMode::Freeze {
                    let name = column.name_in_data();
                    return Err(Error::new(
                        code::HEADER,
                        format!("the objects have no field \"{name}\""),
                    )
                    .hint("mend the file, or set the contract's missing_columns to evolve"));
                }
            }
        }
        let declared = columns.len();
        let mut fields: Vec<Arc<Field>> = contract.schema().fields().iter().cloned().collect();
        let in_head = seen.names.len();
        let late = contract.found.iter().filter(|name| !seen.names.contains(name));
        for (index, name) in seen.names.iter().chain(late).cloned().enumerate() {
            if contract.columns.iter().any(|column| means(column, &name)) {
                continue;
            }
            if declared > 0 && index < in_head {
                let data_type = ColumnType::Text.to_string();
                changes.push(SchemaChange::Added { column: name.clone(), data_type });
                match contract.modes.new_columns {
                    ContractMode::Evolve => {}
                    ContractMode::DiscardValue | ContractMode::DiscardRow => continue,
                    ContractMode::Freeze => {
                        return Err(Error::new(
                            code::HEADER,
                            format!("the objects have a new field \"{name}\""),
                        )
                        .hint("declare it, or set the contract's new_columns to evolve or discard_value"));
                    }
                }
            }
            let mut unique = name.clone();
            while fields.iter().any(|field| *field.name() == unique) {
                unique.push('_');
            }
            fields.push(Arc::new(Field::new(&unique, DataType::Utf8View, true)));
            let mut column = ContractColumn::new(unique, ColumnType::Text);
            column.source_name = Some(name);
            columns.push(Arc::new(Rules::compile(&column, &formats)?));
        }
        Ok(Self {
            shape,
            names,
            contract: Arc::clone(contract),
            columns,
            declared,
            schema: Arc::new(Schema::new(fields)),
            diff: (!changes.is_empty()).then_some(SchemaDiff { file: None, changes }),
            data_offset: mark as u64,
        })
    }
}

impl TextLayout for JsonLayout {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn diff(&self) -> Option<SchemaDiff> {
        self.diff.clone()
    }

    fn data_offset(&self) -> u64 {
        self.data_offset
    }

    fn data_line(&self) -> u64 {
        0
    }

    fn decoder(&self, schema: &SchemaRef, spec: &ReadSpec) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(JsonDecoder::new(self, schema, spec)?))
    }

    fn messages(
        &self,
        schema: &SchemaRef,
        spec: &ReadSpec,
    ) -> Result<Option<Box<dyn MessageDecoder>>> {
        Ok(Some(Box::new(JsonDecoder::new(self, schema, spec)?)))
    }
}

/// Whether a name in full is this path.
fn is_path(path: &[&str], name: &str) -> bool {
    match path {
        [only] => *only == name,
        path => path.iter().copied().eq(name.split('.')),
    }
}

/// The fields that the objects of a head have.
#[derive(Debug, Default)]
struct Seen {
    names: Vec<String>,
    objects: u64,
}

/// A file with more fields than this has its later ones left out.
pub(super) const MAX_FIELDS: usize = 10_000;

impl Seen {
    /// Fields of all whole objects in `text`, in the order of their first appearance. What is not
    /// an object is passed over: the decoder will say so.
    fn of(text: &[u8], level: &Level) -> Self {
        let mut seen = Self::default();
        let mut known: HashSet<String> = HashSet::new();
        let mut at = 0;
        while let Some(found) = memchr::memchr(b'{', &text[at..]) {
            let start = at + found;
            let mut names = Vec::new();
            let result = level.tell(text, start, &mut |name| names.push(name));
            match result {
                Ok(end) => {
                    seen.objects += 1;
                    for name in names {
                        if known.len() < MAX_FIELDS && known.insert(name.clone()) {
                            seen.names.push(name);
                        }
                    }
                    at = end;
                }
                Err(_) => {
                    // On to the next line: within a line, brackets of a broken object mislead.
                    match memchr::memchr(b'\n', &text[start..]) {
                        Some(line) => at = start + line + 1,
                        None => break,
                    }
                }
            }
        }
        seen
    }
}
