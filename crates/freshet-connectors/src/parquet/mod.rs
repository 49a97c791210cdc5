//! Parquet: row groups are read by place, columns are brought to the contract's types, and a row
//! with a value that does not fit is a dead letter, kept as JSON.
//!
//! The place of a row is its number in the file: `_offset` counts from 0, lines from 1.

mod read;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::Contract;
use freshet_core::contract::{ContractColumn, ContractMode, SchemaChange, SchemaDiff, type_name};
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{FileHead, ReadSpec, TextFormat, TextLayout};
use freshet_core::record::Rule;
use freshet_core::registry::{ConnectorInfo, Role};
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, MetadataFetch};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::Blob;
use crate::formats::{BlockFormat, BlockLayout, BlockReader, Format, FormatReader};
use crate::json::{JsonFormat, JsonOptions, Shape};
use crate::options;

/// Options of the format `parquet`: it has none, files say everything themselves.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetOptions {}

/// The format `parquet`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parquet;

impl Format for Parquet {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "parquet",
            roles: &[Role::Format],
            summary: "Apache Parquet",
            guarantee: None,
            options: schemars::schema_for!(ParquetOptions),
        }
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["parquet", "pq"]
    }

    fn open(&self, options: &Value, _extension: Option<&str>) -> Result<FormatReader> {
        options::parse::<ParquetOptions>(options, "format_options")?;
        Ok(FormatReader::Blocks(Arc::new(*self)))
    }
}

/// A blob as the library reads it.
struct Reader(Arc<dyn Blob>);

impl Reader {
    fn bytes(
        &self,
        range: std::ops::Range<u64>,
    ) -> BoxFuture<'static, Result<Bytes, ParquetError>> {
        let blob = Arc::clone(&self.0);
        async move {
            if range.start > range.end || range.end > blob.size() {
                return Err(ParquetError::EOF("a place behind the file's end".to_owned()));
            }
            let length = usize::try_from(range.end - range.start)
                .map_err(|_| ParquetError::EOF("a range larger than memory".to_owned()))?;
            let bytes = blob.read(range.start, length).await;
            bytes.map_err(|error| ParquetError::External(Box::new(error)))
        }
        .boxed()
    }
}

impl MetadataFetch for &Reader {
    fn fetch(&mut self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.bytes(range)
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(
        &mut self,
        range: std::ops::Range<u64>,
    ) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.bytes(range)
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.0.size();
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 << 10));
            Ok(Arc::new(reader.load_and_finish(&*self, size).await?))
        }
        .boxed()
    }
}

/// The library's error as ours: what came from the place keeps its code.
fn broken(file: &str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => not_parquet(file).caused_by(source),
        },
        error => not_parquet(file).caused_by(error),
    }
}

fn not_parquet(file: &str) -> Error {
    Error::new(
        code::FILE_BROKEN,
        format!("file \"{file}\" is broken: it is no readable Parquet file"),
    )
    .hint("replace the file and run again")
}

/// Runs a step of the library, which panics at some damaged files.
async fn guarded<T>(file: &str, step: impl Future<Output = T>) -> Result<T> {
    std::panic::AssertUnwindSafe(step)
        .catch_unwind()
        .await
        .map_err(|_| not_parquet(file).caused_by("its index contradicts itself"))
}

#[async_trait]
impl BlockFormat for Parquet {
    async fn layout(
        &self,
        blob: &Arc<dyn Blob>,
        file: &str,
        contract: &Arc<Contract>,
    ) -> Result<Arc<dyn BlockLayout>> {
        let mut reader = Reader(Arc::clone(blob));
        let metadata = guarded(file, reader.get_metadata(None)).await?;
        let metadata = metadata.map_err(|error| broken(file, error))?;
        let bind = async { ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()) };
        let metadata = guarded(file, bind).await?.map_err(|error| broken(file, error))?;
        Ok(Arc::new(ParquetLayout(Arc::new(Columns::bind(metadata, file, contract)?))))
    }
}

/// One file's columns mapped onto the contract.
#[derive(Debug)]
struct Columns {
    file: String,
    metadata: ArrowReaderMetadata,
    contract: Arc<Contract>,
    /// For each contract column its place in the file.
    declared: Vec<Option<usize>>,
    /// Place in the file of each new column.
    new: Vec<usize>,
    schema: SchemaRef,
    diff: Option<SchemaDiff>,
    /// Why every row is rejected, if it is.
    condemned: Option<(Rule, String, String)>,
    /// Rows in front of each row group.
    first_rows: Vec<u64>,
}

impl Columns {
    fn bind(metadata: ArrowReaderMetadata, file: &str, contract: &Arc<Contract>) -> Result<Self> {
        let in_file = Arc::clone(metadata.schema());
        let mut changes = Vec::new();
        let mut declared = Vec::new();
        let mut condemned = None;
        let modes = contract.modes;
        for column in &contract.columns {
            let place = in_file.fields().iter().position(|f| f.name() == column.name_in_data());
            declared.push(place);
            if place.is_some() {
                continue;
            }
            changes.push(SchemaChange::Missing { column: column.name.clone() });
            let name = column.name_in_data();
            if modes.missing_columns == ContractMode::Freeze {
                return Err(header(format!("file \"{file}\" has no column \"{name}\"")));
            }
            if !column.nullable || modes.missing_columns == ContractMode::DiscardRow {
                let message = format!("the file has no column \"{name}\"");
                condemned.get_or_insert((Rule::MissingColumn, column.name.clone(), message));
            }
        }
        let mut fields: Vec<Arc<Field>> = contract.schema().fields().iter().cloned().collect();
        let mut new = Vec::new();
        for (place, field) in in_file.fields().iter().enumerate() {
            if declared.contains(&Some(place)) {
                continue;
            }
            let data_type = held_as(field.data_type());
            if !contract.columns.is_empty() {
                changes.push(SchemaChange::Added {
                    column: field.name().clone(),
                    data_type: type_name(&data_type),
                });
                match modes.new_columns {
                    ContractMode::Evolve => {}
                    ContractMode::DiscardValue => continue,
                    ContractMode::DiscardRow => {
                        let message = format!(
                            "the contract does not declare the column \"{}\"",
                            field.name()
                        );
                        condemned.get_or_insert((Rule::NewColumn, field.name().clone(), message));
                        continue;
                    }
                    ContractMode::Freeze => {
                        return Err(header(format!(
                            "file \"{file}\" has a new column \"{}\"",
                            field.name()
                        )));
                    }
                }
            }
            let mut unique = field.name().clone();
            while fields.iter().any(|known| *known.name() == unique) {
                unique.push('_');
            }
            fields.push(Arc::new(Field::new(unique, data_type, true)));
            new.push(place);
        }
        let mut first_rows = Vec::new();
        let mut rows = 0_u64;
        for group in metadata.metadata().row_groups() {
            first_rows.push(rows);
            let more = u64::try_from(group.num_rows()).ok();
            rows = more.and_then(|more| rows.checked_add(more)).ok_or_else(|| not_parquet(file))?;
            // The library takes these for granted.
            let sane = group.columns().iter().all(|column| {
                column.data_page_offset() >= 0
                    && column.compressed_size() >= 0
                    && column.uncompressed_size() >= 0
                    && column.num_values() >= 0
                    && column.dictionary_page_offset().is_none_or(|offset| offset >= 0)
            });
            if !sane {
                return Err(not_parquet(file));
            }
        }
        Ok(Self {
            file: file.to_owned(),
            contract: Arc::clone(contract),
            declared,
            new,
            schema: Arc::new(Schema::new(fields)),
            diff: (!changes.is_empty()).then_some(SchemaDiff { file: None, changes }),
            condemned,
            first_rows,
            metadata,
        })
    }

    /// The place in the file of the column called `name` in `schema`.
    fn place_of(&self, name: &str) -> Option<usize> {
        if let Some(index) = self.contract.index_of(name) {
            return self.declared[index];
        }
        let index = self.schema.index_of(name).ok()?;
        self.new.get(index.checked_sub(self.contract.columns.len())?).copied()
    }
}

fn header(message: String) -> Error {
    Error::new(code::HEADER, message)
        .hint("mend the file, or set the contract's modes to evolve or discard_value")
}

/// The type in which a column that the contract does not declare is held.
fn held_as(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Dictionary(_, value) => held_as(value),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC")))
        }
        other => other.clone(),
    }
}

#[derive(Debug)]
struct ParquetLayout(Arc<Columns>);

#[async_trait]
impl BlockLayout for ParquetLayout {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }

    fn diff(&self) -> Option<SchemaDiff> {
        self.0.diff.clone()
    }

    fn blocks(&self) -> usize {
        self.0.first_rows.len()
    }

    fn records(&self) -> u64 {
        let groups = self.0.metadata.metadata().row_groups();
        groups.iter().filter_map(|group| u64::try_from(group.num_rows()).ok()).sum()
    }

    async fn open(
        &self,
        blob: &Arc<dyn Blob>,
        block: usize,
        schema: &SchemaRef,
        spec: &ReadSpec,
    ) -> Result<Box<dyn BlockReader>> {
        Ok(Box::new(read::GroupReader::new(&self.0, blob, block, schema, spec)?))
    }

    fn corrections(&self) -> Result<Arc<dyn TextLayout>> {
        // New columns of the file are text to JSON, and null in corrected records.
        let mut contract = (*self.0.contract).clone();
        contract.modes.missing_columns = ContractMode::Evolve;
        if contract.columns.is_empty() {
            for field in self.0.schema.fields() {
                let data_type = type_name(field.data_type()).parse();
                let data_type = data_type.unwrap_or(freshet_core::ColumnType::Text);
                contract.columns.push(ContractColumn::new(field.name(), data_type));
            }
        }
        let format = JsonFormat::new(JsonOptions::default(), Shape::Lines)?;
        format.layout(FileHead { bytes: b"{}", whole: true }, &Arc::new(contract))
    }
}
