//! Rows as the bytes of one file.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use flate2::write::GzEncoder;
use freshet_core::contract::type_name;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::rows::Rows;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::WriterProperties;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of files that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// JSON, one object a line.
    Ndjson,
    /// Text in columns, with a line of names.
    Csv,
}

/// How files that are written are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FileCompression {
    /// Not at all.
    None,
    /// As `gzip` does.
    Gzip,
    /// As `zstd` does.
    Zstd,
}

/// An error where rows of a schema cannot be written.
pub(super) fn check(format: FileFormat, schema: &Schema) -> Result<()> {
    let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
    match (format, nested) {
        (FileFormat::Csv, Some(field)) => Err(Error::new(
            code::CONFIG,
            format!(
                "column \"{}\" is of type {}, which cannot be written as csv",
                field.name(),
                type_name(field.data_type())
            ),
        )
        .hint("write parquet or ndjson, or cast it to text")),
        _ => Ok(()),
    }
}

/// What names of files end with.
pub(super) fn extension(format: FileFormat, compression: Option<FileCompression>) -> String {
    let name = match format {
        FileFormat::Parquet => return ".parquet".into(),
        FileFormat::Ndjson => ".ndjson",
        FileFormat::Csv => ".csv",
    };
    let end = match compression {
        Some(FileCompression::Gzip) => ".gz",
        Some(FileCompression::Zstd) => ".zst",
        _ => "",
    };
    format!("{name}{end}")
}

/// A file of these rows, whose kinds say nothing.
pub(super) fn file(
    format: FileFormat,
    compression: Option<FileCompression>,
    rows: &[Rows],
) -> Result<Vec<u8>> {
    let failed = || "could not encode a file".to_owned();
    let batches: Vec<&RecordBatch> = rows.iter().map(Rows::batch).collect();
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let plain = match format {
        FileFormat::Parquet => {
            let compression = match compression.unwrap_or(FileCompression::Zstd) {
                FileCompression::None => Compression::UNCOMPRESSED,
                FileCompression::Gzip => Compression::GZIP(GzipLevel::default()),
                FileCompression::Zstd => Compression::ZSTD(ZstdLevel::default()),
            };
            let properties = WriterProperties::builder().set_compression(compression).build();
            let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties))
                .or_code(code::LOAD, failed)?;
            for batch in batches {
                writer.write(batch).or_code(code::LOAD, failed)?;
            }
            return writer.into_inner().or_code(code::LOAD, failed);
        }
        FileFormat::Ndjson => {
            let builder = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, arrow::json::writer::LineDelimited>(Vec::new());
            writer.write_batches(&batches).or_code(code::LOAD, failed)?;
            writer.finish().or_code(code::LOAD, failed)?;
            writer.into_inner()
        }
        FileFormat::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(Vec::new());
            for batch in batches {
                writer.write(&as_text(batch)?).or_code(code::LOAD, failed)?;
            }
            writer.into_inner()
        }
    };
    match compression.unwrap_or(FileCompression::None) {
        FileCompression::None => Ok(plain),
        FileCompression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&plain).or_code(code::LOAD, failed)?;
            encoder.finish().or_code(code::LOAD, failed)
        }
        FileCompression::Zstd => {
            zstd::stream::encode_all(plain.as_slice(), 0).or_code(code::LOAD, failed)
        }
    }
}

/// Bytes have no form in CSV: they are written as text where they are text.
fn as_text(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let is_bytes = matches!(
            field.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        );
        if is_bytes {
            let text = arrow::compute::cast(column, &DataType::Utf8View)
                .or_code(code::LOAD, || {
                    format!("column \"{}\" holds bytes that are no text", field.name())
                })?;
            fields.push(field.as_ref().clone().with_data_type(DataType::Utf8View));
            columns.push(text);
        } else {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
        }
    }
    RecordBatch::try_new(Schema::new(fields).into(), columns)
        .or_code(code::LOAD, || "could not encode a file".to_owned())
}
