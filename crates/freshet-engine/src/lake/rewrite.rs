//! Copy-on-write: which rows of which files a change takes away, and the files that hold the rest.
//!
//! Rows are marked in one bit each, so that a change of any size needs memory for the keys of the
//! new rows (in as many passes as the budget asks for), not for rows of the table.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{
    DataType, Date32Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use freshet_core::error::code;
use freshet_core::source::Interval;
use freshet_core::{Error, Result, ResultExt};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::writer::Batches;
use super::{DataFile, TableName, provider, schema, stats};

/// Rows that are read at once.
const BATCH_ROWS: usize = 8192;
/// Bytes at the end of a file that are read at once in the hope that they hold its metadata.
const FOOTER: usize = 64 << 10;
const MICROS_A_DAY: i64 = 86_400_000_000;

/// Reads data files of one table, row by row in their order.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub store: Arc<dyn ObjectStore>,
    pub table: TableName,
    /// The table's folder in the store.
    pub folder: Path,
    pub partition_by: Vec<String>,
}

impl Reader {
    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(code::LAKE, format!("could not read a data file of table \"{}\"", self.table))
            .caused_by(source)
    }

    /// The rows of a file with the columns `columns`, null where the file lacks one.
    pub(super) async fn read(&self, file: &DataFile, columns: &SchemaRef) -> Result<Batches> {
        let location =
            provider::location(&self.folder, &file.path).map_err(|error| self.error(error))?;
        let source = ParquetFile { store: Arc::clone(&self.store), location, size: file.size };
        let builder = self.open(source, columns).await.map_err(|error| self.error(error))?;
        let constants = columns
            .fields()
            .iter()
            .map(|field| {
                if !self.partition_by.contains(field.name()) {
                    return Ok(None);
                }
                provider::partition_value(file, field.name(), field.data_type())
                    .map(Some)
                    .map_err(|error| self.error(error))
            })
            .collect::<Result<Vec<_>>>()?;
        let stored: Vec<_> = columns
            .fields()
            .iter()
            .filter(|field| !self.partition_by.contains(field.name()))
            .cloned()
            .collect();
        let stored = Arc::new(Schema::new(stored));
        let roots: Vec<_> = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| stored.index_of(field.name()).is_ok())
            .map(|(index, _)| index)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(|error| self.error(error))?;
        let (reader, columns) = (self.clone(), Arc::clone(columns));
        let batches = batches.map(move |batch| {
            let batch = batch.map_err(|error| reader.error(error))?;
            let rows = batch.num_rows();
            let batch = schema::fit(&batch, &stored)?;
            let arrays = columns
                .fields()
                .iter()
                .zip(&constants)
                .map(|(field, constant)| match constant {
                    Some(value) => {
                        value.to_array_of_size(rows).map_err(|error| reader.error(error))
                    }
                    None => batch
                        .column_by_name(field.name())
                        .cloned()
                        .ok_or_else(|| reader.error("a column is missing")),
                })
                .collect::<Result<Vec<_>>>()?;
            schema::batch_of(&columns, arrays, rows)
        });
        Ok(batches.boxed())
    }

    /// Opens a file so that its text is read as views where the table has views: no byte of it is
    /// copied then.
    async fn open(
        &self,
        mut file: ParquetFile,
        columns: &SchemaRef,
    ) -> Result<ParquetRecordBatchStreamBuilder<ParquetFile>, ParquetError> {
        let found = ArrowReaderMetadata::load_async(&mut file, ArrowReaderOptions::new()).await?;
        let views: Vec<_> = found
            .schema()
            .fields()
            .iter()
            .map(|field| match (field.data_type(), columns.field_with_name(field.name())) {
                (DataType::Utf8, Ok(wanted)) if *wanted.data_type() == DataType::Utf8View => {
                    Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
                }
                _ => Arc::clone(field),
            })
            .collect();
        let schema = Schema::new_with_metadata(views, found.schema().metadata().clone());
        let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(found.metadata()), options)?;
        Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(file, metadata))
    }

    /// The rows of several files, one file after the other, without those that are marked.
    pub(super) fn survivors(&self, files: Vec<(DataFile, Marks)>, columns: SchemaRef) -> Batches {
        let reader = self.clone();
        stream::iter(files)
            .then(move |(file, marks)| {
                let (reader, columns) = (reader.clone(), Arc::clone(&columns));
                async move {
                    let mut at = 0;
                    let batches = reader.read(&file, &columns).await?;
                    Ok::<_, Error>(batches.map(move |batch| {
                        let batch = batch?;
                        let kept = marks.kept(at, batch.num_rows());
                        at += batch.num_rows();
                        match kept {
                            None => Ok(batch),
                            Some(kept) => filter_record_batch(&batch, &kept).map_err(|error| {
                                Error::internal("could not filter rows").caused_by(error)
                            }),
                        }
                    }))
                }
            })
            .try_flatten()
            .boxed()
    }
}

/// One file of the store, as Parquet's reader wants it.
struct ParquetFile {
    store: Arc<dyn ObjectStore>,
    location: Path,
    size: u64,
}

fn parquet_error(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ParquetFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.location, range).map_err(parquet_error).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.location, &ranges).await.map_err(parquet_error) }
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(FOOTER));
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

/// The rows of one file that a change takes away.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    bits: Option<BooleanBuffer>,
    pub count: u64,
    pub rows: u64,
}

impl Marks {
    fn kept(&self, at: usize, rows: usize) -> Option<BooleanArray> {
        let bits = self.bits.as_ref()?.slice(at, rows);
        (bits.count_set_bits() > 0).then(|| BooleanArray::new(!&bits, None))
    }

    /// Adds the marks of another pass over the same file.
    fn or(&mut self, other: Marks) {
        self.rows = self.rows.max(other.rows);
        self.bits = match (self.bits.take(), other.bits) {
            (Some(a), Some(b)) => Some(&a | &b),
            (a, b) => a.or(b),
        };
        self.count = self.bits.as_ref().map_or(0, |bits| bits.count_set_bits() as u64);
    }
}

/// Says which rows are taken away.
pub(super) trait Marker: Send + Sync {
    /// The columns that it looks at.
    fn columns(&self) -> &SchemaRef;

    /// One bit for each row of a batch of these columns.
    fn mark(&self, batch: &RecordBatch, marks: &mut BooleanBufferBuilder) -> Result<()>;
}

/// Marks the rows of several files, `threads` files at once.
pub(super) async fn mark(
    reader: &Reader,
    files: &[DataFile],
    marker: Arc<dyn Marker>,
    threads: usize,
) -> Result<Vec<Marks>> {
    let tasks = files.iter().cloned().map(|file| {
        let (reader, marker) = (reader.clone(), Arc::clone(&marker));
        async move {
            let task = tokio::spawn(async move { mark_file(&reader, &file, &*marker).await });
            task.await
                .map_err(|error| Error::internal("reading a file panicked").caused_by(error))?
        }
    });
    stream::iter(tasks).buffered(threads.max(1)).try_collect().await
}

async fn mark_file(reader: &Reader, file: &DataFile, marker: &dyn Marker) -> Result<Marks> {
    let mut batches = reader.read(file, marker.columns()).await?;
    let mut bits = BooleanBufferBuilder::new(0);
    while let Some(batch) = batches.try_next().await? {
        marker.mark(&batch, &mut bits)?;
    }
    let bits = bits.finish();
    let count = bits.count_set_bits() as u64;
    Ok(Marks { rows: bits.len() as u64, count, bits: (count > 0).then_some(bits) })
}

/// Some columns of a table, by name.
pub(super) fn columns(schema: &SchemaRef, names: &[String], what: &str) -> Result<SchemaRef> {
    let fields = names
        .iter()
        .map(|name| {
            schema.fields().iter().find(|field| field.name() == name).cloned().ok_or_else(|| {
                Error::new(
                    code::CONFIG,
                    format!("column \"{name}\" of `{what}` is not in the result"),
                )
                .hint("name a column that the model selects")
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// Turns keys into 128 bits each, with a secret of this process, so that nobody can make two keys
/// collide.
#[derive(Debug)]
struct KeyHasher {
    converter: RowConverter,
    high: RandomState,
    low: RandomState,
}

impl KeyHasher {
    fn new(columns: &SchemaRef) -> Result<Self> {
        let fields = columns
            .fields()
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let converter = RowConverter::new(fields)
            .or_code(code::CONFIG, || "`unique_key` has a column that cannot be compared".into())?;
        Ok(Self { converter, high: RandomState::new(), low: RandomState::new() })
    }

    fn hashes(&self, batch: &RecordBatch) -> Result<Vec<u128>> {
        let rows = self
            .converter
            .convert_columns(batch.columns())
            .map_err(|error| Error::internal("could not compare keys").caused_by(error))?;
        Ok(rows
            .iter()
            .map(|row| {
                let high = u128::from(self.high.hash_one(row.data()));
                // Never 0, which is an empty slot.
                (high << 64 | u128::from(self.low.hash_one(row.data()))) | 1
            })
            .collect())
    }
}

/// The keys of the new rows, or of one part of them.
#[derive(Debug)]
pub(super) struct Keys {
    columns: SchemaRef,
    hasher: Arc<KeyHasher>,
    /// Open addressing; 0 is empty. At most two thirds are taken.
    slots: Vec<u128>,
    /// One bit for each slot: whether a row of the table has the key.
    hits: Vec<AtomicU64>,
    part: u64,
    parts: u64,
}

/// Memory for one key, counting the free slots of a table that has just grown.
pub(super) const KEY_BYTES: usize = 48;

impl Keys {
    fn new(columns: &SchemaRef, hasher: &Arc<KeyHasher>, keys: u64, part: u64, parts: u64) -> Self {
        let expected = usize::try_from(keys / parts + keys / parts / 8 + 64).unwrap_or(usize::MAX);
        let slots = expected.saturating_add(expected / 2).next_power_of_two();
        Self {
            columns: Arc::clone(columns),
            hasher: Arc::clone(hasher),
            slots: vec![0; slots],
            hits: Vec::new(),
            part,
            parts,
        }
    }

    fn is_mine(&self, hash: u128) -> bool {
        self.parts == 1 || (hash >> 96) as u64 % self.parts == self.part
    }

    /// The slot of a key, or the free slot where it belongs.
    fn slot(&self, hash: u128) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize >> 1 & mask;
        while self.slots[at] != 0 && self.slots[at] != hash {
            at = (at + 1) & mask;
        }
        at
    }

    fn seal(&mut self) {
        self.hits = std::iter::repeat_with(AtomicU64::default)
            .take(self.slots.len().div_ceil(64))
            .collect();
    }

    fn hit_count(&self) -> u64 {
        self.hits.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

impl Marker for Keys {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn mark(&self, batch: &RecordBatch, marks: &mut BooleanBufferBuilder) -> Result<()> {
        for hash in self.hasher.hashes(batch)? {
            let mut marked = false;
            if self.is_mine(hash) {
                let slot = self.slot(hash);
                marked = self.slots[slot] != 0;
                if marked {
                    self.hits[slot / 64].fetch_or(1 << (slot % 64), Ordering::Relaxed);
                }
            }
            marks.append(marked);
        }
        Ok(())
    }
}

/// What the keys of new rows mean for a table.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// One for each candidate file.
    pub marks: Vec<Marks>,
    /// Keys of new rows that the table has.
    pub keys: u64,
}

/// Marks the rows of `candidates` whose key is among those of `new`. `unique` makes two new rows
/// with one key an error of code `MERGE`.
pub(super) async fn match_keys(
    reader: &Reader,
    new: &[DataFile],
    candidates: &[DataFile],
    columns: &SchemaRef,
    unique: bool,
    memory: usize,
    threads: usize,
) -> Result<Matched> {
    let hasher = Arc::new(KeyHasher::new(columns)?);
    let keys: u64 = new.iter().filter_map(|file| file.rows).sum();
    let bytes = keys.saturating_mul(KEY_BYTES as u64);
    let parts = bytes.div_ceil(memory.max(1) as u64).max(1);
    let mut matched =
        Matched { marks: vec![Marks::default(); candidates.len()], ..Matched::default() };
    for part in 0..parts {
        let mut table = Keys::new(columns, &hasher, keys, part, parts);
        let mut taken = 0;
        for file in new {
            let mut batches = reader.read(file, columns).await?;
            while let Some(batch) = batches.try_next().await? {
                for (row, hash) in hasher.hashes(&batch)?.into_iter().enumerate() {
                    if !table.is_mine(hash) {
                        continue;
                    }
                    let slot = table.slot(hash);
                    if table.slots[slot] == hash {
                        if unique {
                            return Err(duplicate(&reader.table, &batch, row));
                        }
                        continue;
                    }
                    table.slots[slot] = hash;
                    taken += 1;
                    if taken * 3 > table.slots.len() * 2 {
                        // Hashes fell unevenly: more of this part than planned.
                        let grown = vec![0; table.slots.len() * 2];
                        for hash in std::mem::replace(&mut table.slots, grown) {
                            if hash != 0 {
                                let slot = table.slot(hash);
                                table.slots[slot] = hash;
                            }
                        }
                    }
                }
            }
        }
        if candidates.is_empty() {
            continue;
        }
        table.seal();
        let table = Arc::new(table);
        let marker: Arc<dyn Marker> = Arc::clone(&table) as _;
        let marks = mark(reader, candidates, marker, threads).await?;
        for (all, marks) in matched.marks.iter_mut().zip(marks) {
            all.or(marks);
        }
        matched.keys += table.hit_count();
    }
    Ok(matched)
}

fn duplicate(table: &TableName, batch: &RecordBatch, row: usize) -> Error {
    let key: Vec<_> = batch
        .schema_ref()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let value = array_value_to_string(column, row).unwrap_or_default();
            let value = if column.is_null(row) { "null".to_owned() } else { value };
            format!("{} = {value}", field.name())
        })
        .collect();
    Error::new(
        code::MERGE,
        format!("the new rows of table \"{table}\" hold a `unique_key` twice: {}", key.join(", ")),
    )
    .hint(
        "keep one row for each key, e.g. with `row_number() over (partition by … order by …) = 1`",
    )
}

/// The files that may hold a key of `new`, as far as their statistics tell.
pub(super) fn candidates(
    base: &[DataFile],
    new: &[DataFile],
    columns: &SchemaRef,
    partition_by: &[String],
) -> Vec<DataFile> {
    base.iter()
        .filter(|file| new.iter().any(|new| may_share_key(file, new, columns, partition_by)))
        .cloned()
        .collect()
}

fn may_share_key(
    file: &DataFile,
    new: &DataFile,
    columns: &SchemaRef,
    partition_by: &[String],
) -> bool {
    columns.fields().iter().all(|field| {
        if partition_by.contains(field.name()) {
            let value =
                |file| provider::partition_value(file, field.name(), field.data_type()).ok();
            return match (value(file), value(new)) {
                (Some(a), Some(b)) => a == b,
                _ => true,
            };
        }
        let (Some(a), Some(b)) = (file.stats.get(field.name()), new.stats.get(field.name())) else {
            return true;
        };
        let has_nulls = |nulls: Option<u64>| nulls.is_none_or(|nulls| nulls > 0);
        if has_nulls(a.nulls) && has_nulls(b.nulls) {
            return true;
        }
        let bounds = |stats| Some((stats::min_of(stats, field)?, stats::max_of(stats, field)?));
        let all_null =
            |stats: &super::ColumnStats, rows| stats.nulls.is_some() && stats.nulls == rows;
        match (bounds(a), bounds(b)) {
            (Some((a_min, a_max)), Some((b_min, b_max))) => {
                // Not comparable is not known.
                !(a_max.partial_cmp(&b_min).is_some_and(|order| order.is_lt())
                    || b_max.partial_cmp(&a_min).is_some_and(|order| order.is_lt()))
            }
            _ => !all_null(a, file.rows) && !all_null(b, new.rows),
        }
    })
}

/// Spans of event time.
#[derive(Debug)]
pub(super) struct Spans {
    columns: SchemaRef,
    /// Microseconds since 1970, `[start, end)`, ascending.
    spans: Vec<(i64, i64)>,
}

impl Spans {
    pub(super) fn new(columns: SchemaRef, intervals: &[Interval]) -> Result<Self> {
        let field = columns.field(0);
        if !matches!(
            field.data_type(),
            DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)
        ) {
            return Err(Error::new(
                code::CONFIG,
                format!(
                    "column \"{}\" of `event_time` is neither date nor timestamp",
                    field.name()
                ),
            )
            .hint("cast it in the model"));
        }
        let mut spans: Vec<_> = intervals
            .iter()
            .map(|interval| {
                let micros = |time: chrono::NaiveDateTime| time.and_utc().timestamp_micros();
                (micros(interval.start), micros(interval.end))
            })
            .collect();
        spans.sort_unstable();
        Ok(Self { columns, spans })
    }

    fn contains(&self, micros: i64) -> bool {
        self.spans.iter().any(|(start, end)| (*start..*end).contains(&micros))
    }

    /// Whether a file may hold rows in a span, and whether it holds no others.
    pub(super) fn cover(&self, file: &DataFile, partition_by: &[String]) -> (bool, bool) {
        let field = self.columns.field(0);
        let (min, max, nulls) = if partition_by.contains(field.name()) {
            let value = provider::partition_value(file, field.name(), field.data_type()).ok();
            let nulls = u64::from(value.as_ref().is_some_and(|value| value.is_null()));
            (value.clone(), value, Some(nulls))
        } else {
            match file.stats.get(field.name()) {
                Some(known) => {
                    (stats::min_of(known, field), stats::max_of(known, field), known.nulls)
                }
                None => (None, None, None),
            }
        };
        let micros = |value: Option<datafusion::common::ScalarValue>| {
            let array = value?.to_array().ok()?;
            micros_of(&array).ok()?.first().copied().flatten()
        };
        match (micros(min), micros(max)) {
            (Some(min), Some(max)) => {
                let some = self.spans.iter().any(|(start, end)| min < *end && max >= *start);
                let all = self.spans.iter().any(|(start, end)| min >= *start && max < *end);
                (some, all && nulls == Some(0))
            }
            _ => (true, false),
        }
    }

    /// Rows of a batch of the table that are in no span.
    pub(super) fn outside(&self, batch: &RecordBatch) -> Result<u64> {
        let Some(column) = batch.column_by_name(self.columns.field(0).name()) else { return Ok(0) };
        let outside = micros_of(column)?
            .into_iter()
            .filter(|micros| !micros.is_some_and(|micros| self.contains(micros)));
        Ok(outside.count() as u64)
    }
}

impl Marker for Spans {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn mark(&self, batch: &RecordBatch, marks: &mut BooleanBufferBuilder) -> Result<()> {
        for micros in micros_of(batch.column(0))? {
            marks.append(micros.is_some_and(|micros| self.contains(micros)));
        }
        Ok(())
    }
}

/// Dates and timestamps as microseconds since 1970.
pub(crate) fn micros_of(column: &ArrayRef) -> Result<Vec<Option<i64>>> {
    match column.data_type() {
        DataType::Date32 => Ok(column
            .as_primitive::<Date32Type>()
            .iter()
            .map(|days| days.map(|days| i64::from(days) * MICROS_A_DAY))
            .collect()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(column.as_primitive::<TimestampMicrosecondType>().iter().collect())
        }
        other => Err(Error::internal(format!("{other} is no event time"))),
    }
}
