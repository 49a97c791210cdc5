//! CSV and its dialects.
//!
//! One line is one record: a bad line, an unclosed quote included, never costs another one. With
//! `quoted_newlines`, a quoted field may hold line ends; a record that then turns out not to be one
//! costs its first physical line, and decoding starts again at the next.
//!
//! A chunk is indexed with vector instructions a window at a time (`index`), the records of the
//! window are found (`rows`), and each column's fields are read in one loop ([`crate::values`]).
//! Columns that nobody asked for are checked in the same way and not kept, so the fate of a record
//! never depends on what is asked for.

mod decoder;
mod index;
mod layout;
mod options;
mod rows;
mod split;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::contract::Contract;
use freshet_core::error::Result;
use freshet_core::format::{Chunk, FileHead, ReadSpec, TextFormat, TextLayout};
use freshet_core::record::Decoded;

use layout::{CsvLayout, SharedLayout};
pub use options::CsvOptions;
use options::Dialect;

/// The format `csv`.
#[derive(Debug, Clone)]
pub struct CsvFormat {
    options: CsvOptions,
    dialect: Dialect,
}

impl CsvFormat {
    /// The format with these options; options that make no sense together are errors of code
    /// `CONFIG`.
    pub fn new(options: CsvOptions) -> Result<Self> {
        let dialect = Dialect::new(&options)?;
        // Formats of values are checked with a column of each type that has one.
        use freshet_core::{ColumnType, ContractColumn};
        for data_type in
            [ColumnType::Float64, ColumnType::Date, ColumnType::Time, ColumnType::Timestamp]
        {
            let column = ContractColumn::new(data_type.to_string(), data_type);
            crate::values::Rules::compile(&column, &options.value_formats())?;
        }
        Ok(Self { options, dialect })
    }

    /// The options.
    pub fn options(&self) -> &CsvOptions {
        &self.options
    }
}

impl TextFormat for CsvFormat {
    fn layout(&self, head: FileHead<'_>, contract: &Arc<Contract>) -> Result<Arc<dyn TextLayout>> {
        Ok(Arc::new(SharedLayout(Arc::new(CsvLayout::new(self, head, contract)?))))
    }

    fn splittable(&self) -> bool {
        !self.dialect.quoted_newlines
    }
}

/// Decodes a whole file that lies in memory, all columns: for fuzzing, tests and samples.
pub fn decode_all(
    bytes: &[u8],
    options: CsvOptions,
    contract: &Arc<Contract>,
) -> Result<(SchemaRef, Decoded)> {
    let format = CsvFormat::new(options)?;
    let layout = format.layout(FileHead { bytes, whole: true }, contract)?;
    let schema = layout.schema();
    let spec = ReadSpec { projection: (0..schema.fields().len()).collect(), ..ReadSpec::default() };
    let mut decoder = layout.decoder(&schema, &spec)?;
    let mut decoded = Decoded::default();
    let offset = layout.data_offset();
    let start = usize::try_from(offset).expect("the data begins inside of the file");
    let chunk = Chunk { bytes: Bytes::copy_from_slice(&bytes[start..]), offset, last: true };
    decoder.decode(&chunk, &mut decoded)?;
    Ok((schema, decoded))
}

#[cfg(test)]
mod tests;
