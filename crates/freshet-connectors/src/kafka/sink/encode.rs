//! Rows to batches of messages, for each partition its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::json::writer::{EncoderOptions, make_encoder};
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::rows::{RowKind, Rows, arrow_error};

use crate::avro::AvroEncoder;
use crate::kafka::batch::{BatchBuilder, partition_of};
use crate::kafka::options::KafkaOptions;
use crate::kafka::records::Compression;

/// A batch that is full, and its partition.
pub type Full = (i32, Bytes);

/// Encodes rows.
#[derive(Debug)]
pub struct RowEncoder {
    partitions: i32,
    key: Vec<String>,
    headers: Vec<String>,
    upsert: bool,
    raw: bool,
    avro: Option<AvroEncoder>,
    compression: Compression,
    batch_bytes: usize,
    clock: Arc<dyn Clock>,
    builders: BTreeMap<i32, BatchBuilder>,
    /// Where rows without a key go until their batch is full.
    current: i32,
    value: Vec<u8>,
}

impl RowEncoder {
    /// An encoder for a topic with so many partitions.
    pub fn new(options: &KafkaOptions, partitions: i32, first: i32, clock: Arc<dyn Clock>) -> Self {
        Self {
            partitions,
            key: options.key.clone(),
            headers: options.headers.clone(),
            upsert: options.upsert,
            raw: options.format == "raw",
            avro: None,
            compression: options.compression.into(),
            batch_bytes: options.batch_bytes.as_usize(),
            clock,
            builders: BTreeMap::new(),
            current: first % partitions.max(1),
            value: Vec::new(),
        }
    }

    /// Writes values as Avro.
    pub fn of_avro(mut self, encoder: AvroEncoder) -> Self {
        self.avro = Some(encoder);
        self
    }

    /// Adds rows; gives the batches that they filled.
    pub fn push(&mut self, rows: &Rows) -> Result<Vec<Full>> {
        let mut full = Vec::new();
        let now = self.clock.now_micros() / 1000;
        let batch = rows.batch();
        let keys = self.keys(rows)?;
        let headers =
            self.headers.iter().map(|name| text(rows, name)).collect::<Result<Vec<_>>>()?;
        let schema = batch.schema();
        let kept: Vec<usize> = (0..schema.fields().len())
            .filter(|index| !self.headers.contains(schema.field(*index).name()))
            .collect();
        let values = batch.project(&kept).map_err(arrow_error)?;
        let avro = match &mut self.avro {
            Some(encoder) => Some(encoder.encode(&values)?),
            None => None,
        };
        let values: ArrayRef = match self.raw {
            false => Arc::new(StructArray::from(values)),
            true if kept.len() == 1 => {
                cast(values.column(0), &DataType::BinaryView).map_err(arrow_error)?
            }
            true => {
                return Err(Error::new(
                    code::CONFIG,
                    format!("a raw message is one column, and there are {}", kept.len()),
                )
                .hint("select one column, or set `format` to ndjson"));
            }
        };
        let options = EncoderOptions::default().with_explicit_nulls(true);
        let field = Arc::new(Field::new("row", values.data_type().clone(), true));
        let mut encoder = match self.raw || avro.is_some() {
            true => None,
            false => Some(make_encoder(&field, values.as_ref(), &options).map_err(arrow_error)?),
        };
        let mut row_headers: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(headers.len());
        for row in 0..rows.len() {
            let gone = match rows.kind(row) {
                RowKind::Insert => false,
                kind if !self.upsert => {
                    return Err(Error::new(
                        code::LOAD,
                        format!(
                            "a topic that is appended to cannot take a change ({})",
                            kind.short()
                        ),
                    )
                    .hint(
                        "set `upsert` and `key`, or write a query whose result is only added to",
                    ));
                }
                RowKind::UpdateAfter => false,
                // The row that replaces it has the same key.
                RowKind::UpdateBefore => continue,
                RowKind::Delete => true,
            };
            let key = keys.as_ref().map(|keys| keys.of(row));
            if self.upsert && key.flatten().is_none() {
                return Err(Error::new(code::LOAD, "the key of a row for an upsert topic is null"));
            }
            let partition = match key.flatten() {
                Some(key) => partition_of(key, self.partitions),
                None => self.current,
            };
            self.value.clear();
            let value = if gone {
                None
            } else if let Some(avro) = &avro {
                let ends = avro.offsets();
                Some(&avro.bytes()[ends[row]..ends[row + 1]])
            } else if let Some(encoder) = &mut encoder {
                encoder.encode(row, &mut self.value);
                Some(self.value.as_slice())
            } else {
                let values = values.as_binary_view();
                values.is_valid(row).then(|| values.value(row))
            };
            row_headers.clear();
            for (name, column) in self.headers.iter().zip(&headers) {
                row_headers.push((name.as_bytes(), column.of(row)));
            }
            let builder = self.builders.entry(partition).or_default();
            builder.push(key.flatten(), value, &row_headers, now);
            if builder.len() >= self.batch_bytes {
                full.push((partition, finish(builder, self.compression)?));
                if key.is_none() {
                    self.current = (self.current + 1) % self.partitions.max(1);
                }
            }
        }
        Ok(full)
    }

    /// The batches that are not full.
    pub fn finish(&mut self) -> Result<Vec<Full>> {
        let mut rest = Vec::new();
        for (partition, builder) in &mut self.builders {
            if !builder.is_empty() {
                rest.push((*partition, finish(builder, self.compression)?));
            }
        }
        Ok(rest)
    }

    fn keys(&self, rows: &Rows) -> Result<Option<Texts>> {
        match self.key.as_slice() {
            [] => Ok(None),
            [only] => text(rows, only).map(Some),
            several => {
                let columns =
                    several.iter().map(|name| place(rows, name)).collect::<Result<Vec<_>>>()?;
                let keys = rows.batch().project(&columns).map_err(arrow_error)?;
                let keys: ArrayRef = Arc::new(StructArray::from(keys));
                let field = Arc::new(Field::new("key", keys.data_type().clone(), true));
                let options = EncoderOptions::default().with_explicit_nulls(true);
                let mut encoder =
                    make_encoder(&field, keys.as_ref(), &options).map_err(arrow_error)?;
                let mut bytes = Vec::new();
                let mut ends = Vec::with_capacity(rows.len());
                for row in 0..rows.len() {
                    encoder.encode(row, &mut bytes);
                    ends.push(bytes.len());
                }
                Ok(Some(Texts::Encoded { bytes, ends }))
            }
        }
    }
}

/// A text for each row.
enum Texts {
    Column(ArrayRef),
    Encoded { bytes: Vec<u8>, ends: Vec<usize> },
}

impl Texts {
    fn of(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Column(column) => {
                let column = column.as_string_view();
                column.is_valid(row).then(|| column.value(row).as_bytes())
            }
            Self::Encoded { bytes, ends } => {
                let start = if row == 0 { 0 } else { ends[row - 1] };
                Some(&bytes[start..ends[row]])
            }
        }
    }
}

fn text(rows: &Rows, name: &str) -> Result<Texts> {
    let column = rows.batch().column(place(rows, name)?);
    Ok(Texts::Column(cast(column, &DataType::Utf8View).map_err(arrow_error)?))
}

fn place(rows: &Rows, name: &str) -> Result<usize> {
    rows.schema().index_of(name).map_err(|_| {
        Error::new(code::CONFIG, format!("there is no column \"{name}\" to write to kafka"))
            .hint("look at `key` and `headers`")
    })
}

fn finish(builder: &mut BatchBuilder, compression: Compression) -> Result<Bytes> {
    let batch = builder.finish(compression);
    batch.map(Bytes::from).or_code(code::LOAD, || "could not compress a batch".to_owned())
}
