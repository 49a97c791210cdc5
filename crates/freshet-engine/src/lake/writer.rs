//! Batches into data files: one Parquet writer for each stream and partition, in bounded memory,
//! straight into the object store.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use flate2::write::GzEncoder;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use tokio::task::JoinSet;

use super::{DataFile, ExportCompression, ExportFormat, LakeOptions, TableName, provider, stats};

/// Bytes that go to the store at once.
const PART: usize = 8 << 20;
/// Partitions of one stream that are written at the same time.
const OPEN_FILES: usize = 128;
/// Rows of the first batch that decide whether a column gets a dictionary.
const SAMPLE: usize = 4096;

/// Batches with exactly the columns of the table.
pub(super) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// Where files are written, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub store: Arc<dyn ObjectStore>,
    pub table: TableName,
    /// The table's folder in the store.
    pub folder: Path,
    /// All columns in the table's order.
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    pub options: Arc<LakeOptions>,
    pub format: ExportFormat,
    pub compression: ExportCompression,
    /// What files are called by; `None` gives each a name of its own.
    pub name: Option<String>,
    /// Paths of the files that are finished.
    pub written: Mutex<Vec<String>>,
}

impl Target {
    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(code::LAKE, format!("could not write a data file of table \"{}\"", self.table))
            .caused_by(source)
    }

    /// Writes each stream on a task of its own. On an error, what was written is deleted.
    pub(super) async fn write(self: &Arc<Self>, streams: Vec<Batches>) -> Result<Vec<DataFile>> {
        let mut tasks = JoinSet::new();
        for (number, stream) in streams.into_iter().enumerate() {
            let target = Arc::clone(self);
            tasks.spawn(async move { target.write_one(number, stream).await });
        }
        let mut files = Vec::new();
        let mut failed = None;
        while let Some(done) = tasks.join_next().await {
            let result = match done {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => continue,
                Err(error) => Err(Error::internal("a writer panicked").caused_by(error)),
            };
            match result {
                Ok(written) => files.extend(written),
                Err(error) => {
                    tasks.abort_all();
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => {
                files.sort_by(|a, b| a.path.cmp(&b.path));
                Ok(files)
            }
            Some(error) => {
                self.undo().await;
                Err(error)
            }
        }
    }

    /// Deletes what was written so far; what is left over is found by `vacuum`.
    pub(super) async fn undo(&self) {
        let written = std::mem::take(&mut *self.written.lock());
        for path in written {
            if let Ok(location) = provider::location(&self.folder, &path)
                && let Err(error) = self.store.delete(&location).await
            {
                tracing::warn!(table = %self.table, %error, "could not delete a staged file");
            }
        }
    }

    async fn write_one(
        self: Arc<Self>,
        stream: usize,
        mut batches: Batches,
    ) -> Result<Vec<DataFile>> {
        let mut writer = StreamWriter::new(&self, stream)?;
        loop {
            match batches.try_next().await {
                Ok(Some(batch)) => {
                    if let Err(error) = writer.write(&batch).await {
                        writer.abort().await;
                        return Err(error);
                    }
                }
                Ok(None) => return writer.close().await,
                Err(error) => {
                    writer.abort().await;
                    return Err(error);
                }
            }
        }
    }
}

/// One value for each partition column, as text.
type PartitionKey = Vec<Option<String>>;

/// Divides the rows of one stream among the files of its partitions.
struct StreamWriter<'a> {
    target: &'a Arc<Target>,
    /// The stream's number.
    stream: usize,
    /// Files begun so far.
    begun: usize,
    /// The columns that files hold: all but the partition columns.
    file_schema: SchemaRef,
    file_columns: Vec<usize>,
    partition_columns: Vec<usize>,
    keys: Option<RowConverter>,
    /// Open files by the bytes of their partition's row.
    open: HashMap<Vec<u8>, FileWriter>,
    done: Vec<DataFile>,
}

impl<'a> StreamWriter<'a> {
    fn new(target: &'a Arc<Target>, stream: usize) -> Result<Self> {
        let schema = &target.schema;
        let partition_columns = target
            .partition_by
            .iter()
            .map(|name| {
                schema.index_of(name).map_err(|_| {
                    Error::new(
                        code::CONFIG,
                        format!("column \"{name}\" of `partition_by` is not in the result"),
                    )
                    .hint("name a column that the model selects")
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let file_columns: Vec<_> =
            (0..schema.fields().len()).filter(|at| !partition_columns.contains(at)).collect();
        if file_columns.is_empty() {
            return Err(Error::new(
                code::CONFIG,
                format!("table \"{}\" has only columns of `partition_by`", target.table),
            )
            .hint("leave one column out of `partition_by`"));
        }
        let fields: Vec<_> = file_columns.iter().map(|at| schema.fields()[*at].clone()).collect();
        let keys = if partition_columns.is_empty() {
            None
        } else {
            let fields = partition_columns
                .iter()
                .map(|at| SortField::new(schema.field(*at).data_type().clone()))
                .collect();
            Some(RowConverter::new(fields).or_code(code::CONFIG, || {
                format!("table \"{}\" cannot be divided by these columns", target.table)
            })?)
        };
        Ok(Self {
            target,
            stream,
            begun: 0,
            file_schema: Arc::new(Schema::new(fields)),
            file_columns,
            partition_columns,
            keys,
            open: HashMap::new(),
            done: Vec::new(),
        })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let rows = batch
            .project(&self.file_columns)
            .map_err(|error| Error::internal("a batch lacks columns").caused_by(error))?;
        if self.keys.is_none() {
            return self.write_part(Vec::new(), &rows, || Ok(Vec::new())).await;
        }
        let columns: Vec<ArrayRef> =
            self.partition_columns.iter().map(|at| Arc::clone(batch.column(*at))).collect();
        for (key, indices) in self.parts(&columns)? {
            let first = indices.value(0) as usize;
            let part = if indices.len() == rows.num_rows() {
                rows.clone()
            } else {
                take_record_batch(&rows, &indices)
                    .map_err(|error| Error::internal("could not divide a batch").caused_by(error))?
            };
            self.write_part(key, &part, || {
                columns.iter().map(|column| partition_text(column, first)).collect()
            })
            .await?;
        }
        Ok(())
    }

    /// The rows of each partition, in their order.
    fn parts(&self, columns: &[ArrayRef]) -> Result<Vec<(Vec<u8>, UInt32Array)>> {
        let Some(converter) = &self.keys else { return Ok(Vec::new()) };
        let rows = converter.convert_columns(columns).map_err(|error| {
            Error::internal("could not compare partition values").caused_by(error)
        })?;
        let mut parts: Vec<(Vec<u8>, Vec<u32>)> = Vec::new();
        let mut known: HashMap<&[u8], usize> = HashMap::new();
        let bytes: Vec<_> = rows.iter().collect();
        // Neighbours mostly belong together.
        let mut last: (&[u8], usize) = (&[], 0);
        for (index, row) in bytes.iter().enumerate() {
            if parts.is_empty() || row.data() != last.0 {
                let at = *known.entry(row.data()).or_insert_with(|| {
                    parts.push((row.data().to_vec(), Vec::new()));
                    parts.len() - 1
                });
                last = (row.data(), at);
            }
            let (_, at) = last;
            // A batch has far fewer than 2³² rows.
            parts[at].1.push(index as u32);
        }
        Ok(parts.into_iter().map(|(key, indices)| (key, indices.into())).collect())
    }

    async fn write_part(
        &mut self,
        key: Vec<u8>,
        rows: &RecordBatch,
        values: impl FnOnce() -> Result<PartitionKey>,
    ) -> Result<()> {
        if !self.open.contains_key(&key) {
            if self.open.len() >= OPEN_FILES {
                self.close_largest().await?;
            }
            let name = match &self.target.name {
                Some(name) => format!("{name}-{:03}-{:03}", self.stream, self.begun),
                None => format!("part-{}.zstd", uuid::Uuid::new_v4().simple()),
            };
            self.begun += 1;
            let file = FileWriter::open(self.target, &self.file_schema, &name, values()?, rows)?;
            self.open.insert(key.clone(), file);
        }
        let options = &self.target.options;
        let file = self.open.get_mut(&key).expect("it was opened above");
        file.write(self.target, rows).await?;
        if file.bytes() >= options.target_file_bytes
            && let Some(file) = self.open.remove(&key)
        {
            self.done.push(file.close(self.target).await?);
        }
        if self.open.len() > 1 {
            let held: usize = self.open.values().map(|file| file.encoder.memory()).sum();
            if held > options.row_group_bytes {
                let largest = self.open.values_mut().max_by_key(|file| file.encoder.memory());
                if let Some(file) = largest {
                    file.flush(self.target).await?;
                }
            }
        }
        Ok(())
    }

    async fn close_largest(&mut self) -> Result<()> {
        let largest =
            self.open.iter().max_by_key(|(_, file)| file.rows).map(|(key, _)| key.clone());
        if let Some(file) = largest.and_then(|key| self.open.remove(&key)) {
            self.done.push(file.close(self.target).await?);
        }
        Ok(())
    }

    async fn close(mut self) -> Result<Vec<DataFile>> {
        let mut open = std::mem::take(&mut self.open).into_values();
        while let Some(file) = open.next() {
            match file.close(self.target).await {
                Ok(file) => self.done.push(file),
                Err(error) => {
                    for file in open {
                        file.abort().await;
                    }
                    return Err(error);
                }
            }
        }
        Ok(self.done)
    }

    async fn abort(&mut self) {
        for (_, file) in self.open.drain() {
            file.abort().await;
        }
    }
}

/// A partition value as the Delta log has it; `None` is null.
fn partition_text(column: &ArrayRef, row: usize) -> Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    let is_plain_time = matches!(column.data_type(), DataType::Timestamp(_, None));
    let text = cast(&column.slice(row, 1), &DataType::Utf8)
        .or_code(code::CONFIG, || "a partition column has a type without text".to_owned())?;
    let text = text.as_string::<i32>().value(0).to_owned();
    Ok(Some(if is_plain_time { text.replace('T', " ") } else { text }))
}

/// The folder of a partition, with a slash at its end; empty without partitions.
fn partition_folder(columns: &[String], values: &[Option<String>]) -> String {
    /// Bytes of a value that its folder shows; file systems allow 255 for a name.
    const SHOWN: usize = 60;
    let mut folder = String::new();
    for (column, value) in columns.iter().zip(values) {
        let value = match value {
            None => "__HIVE_DEFAULT_PARTITION__".to_owned(),
            Some(value) if value.len() > SHOWN => {
                let shown: String = value.chars().take(SHOWN / 4).collect();
                let digest = blake3::hash(value.as_bytes()).to_hex();
                format!("{}-{}", escape(&shown), &digest[..16])
            }
            Some(value) => escape(value),
        };
        folder.push_str(&format!("{}={value}/", escape(column)));
    }
    folder
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Bytes that Parquet wrote and the store has not got yet.
#[derive(Debug, Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Text on its way into the pipe, compressed.
#[derive(Clone)]
struct Packer(Arc<Mutex<Packing>>);

enum Packing {
    Plain(Pipe),
    Gzip(GzEncoder<Pipe>),
    Zstd(zstd::stream::write::Encoder<'static, Pipe>),
    Ended,
}

impl Packer {
    fn new(compression: ExportCompression, pipe: &Pipe) -> std::io::Result<Self> {
        let pipe = pipe.clone();
        let packing = match compression {
            ExportCompression::None => Packing::Plain(pipe),
            ExportCompression::Gzip => {
                Packing::Gzip(GzEncoder::new(pipe, flate2::Compression::default()))
            }
            ExportCompression::Zstd => Packing::Zstd(zstd::stream::write::Encoder::new(pipe, 1)?),
        };
        Ok(Self(Arc::new(Mutex::new(packing))))
    }

    /// Writes what ends the compressed text.
    fn finish(&self) -> std::io::Result<()> {
        match std::mem::replace(&mut *self.0.lock(), Packing::Ended) {
            Packing::Plain(_) | Packing::Ended => Ok(()),
            Packing::Gzip(encoder) => encoder.finish().map(drop),
            Packing::Zstd(encoder) => encoder.finish().map(drop),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut *self.0.lock() {
            Packing::Plain(pipe) => pipe.write(bytes),
            Packing::Gzip(encoder) => encoder.write(bytes),
            Packing::Zstd(encoder) => encoder.write(bytes),
            Packing::Ended => Err(std::io::Error::other("the file is finished")),
        }
    }

    /// The writers of text ask for it after each batch, where it would cost compression.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Turns batches into a format's bytes.
enum Encoder {
    Parquet(Box<ArrowWriter<Pipe>>),
    Csv(Box<arrow::csv::Writer<Packer>>, Packer),
    Ndjson(arrow::json::LineDelimitedWriter<Packer>, Packer),
}

impl Encoder {
    fn open(target: &Target, schema: &SchemaRef, first: &RecordBatch, pipe: &Pipe) -> Result<Self> {
        let packer = || {
            let packer = Packer::new(target.compression, pipe);
            packer.map_err(|error| target.error(error))
        };
        Ok(match target.format {
            ExportFormat::Parquet => {
                let options = ArrowWriterOptions::new()
                    .with_properties(properties(schema, first, target))
                    .with_skip_arrow_metadata(true);
                let schema = Arc::clone(schema);
                let writer = ArrowWriter::try_new_with_options(pipe.clone(), schema, options);
                Self::Parquet(Box::new(writer.map_err(|error| target.error(error))?))
            }
            ExportFormat::Csv => {
                let packer = packer()?;
                let writer = arrow::csv::WriterBuilder::new().with_header(true);
                Self::Csv(Box::new(writer.build(packer.clone())), packer)
            }
            ExportFormat::Ndjson => {
                let packer = packer()?;
                let writer = arrow::json::WriterBuilder::new().with_explicit_nulls(true);
                Self::Ndjson(writer.build(packer.clone()), packer)
            }
        })
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        match self {
            Self::Parquet(writer) => writer.write(rows),
            Self::Csv(writer, _) => Ok(writer.write(rows)?),
            Self::Ndjson(writer, _) => Ok(writer.write(rows)?),
        }
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        match self {
            Self::Parquet(writer) => writer.flush(),
            Self::Csv(..) | Self::Ndjson(..) => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<Option<ParquetMetaData>, ParquetError> {
        match self {
            Self::Parquet(writer) => writer.finish().map(Some),
            Self::Csv(_, packer) => {
                packer.finish()?;
                Ok(None)
            }
            Self::Ndjson(writer, packer) => {
                writer.finish()?;
                packer.finish()?;
                Ok(None)
            }
        }
    }

    /// Bytes held in memory.
    fn memory(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.memory_size(),
            Self::Csv(..) | Self::Ndjson(..) => 0,
        }
    }

    /// Bytes that are encoded and not in the pipe yet, about.
    fn pending(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.in_progress_size(),
            Self::Csv(..) | Self::Ndjson(..) => 0,
        }
    }
}

/// One data file that is being written.
struct FileWriter {
    path: String,
    location: Path,
    values: PartitionKey,
    schema: SchemaRef,
    encoder: Encoder,
    pipe: Pipe,
    /// Begun once the file exceeds one part.
    upload: Option<Box<dyn MultipartUpload>>,
    sent: usize,
    rows: u64,
}

impl FileWriter {
    fn open(
        target: &Target,
        schema: &SchemaRef,
        name: &str,
        values: PartitionKey,
        first: &RecordBatch,
    ) -> Result<Self> {
        let folder = partition_folder(&target.partition_by, &values);
        let path = format!("{folder}{name}.{}", target.format.extension(target.compression));
        let location =
            provider::location(&target.folder, &path).map_err(|error| target.error(error))?;
        let pipe = Pipe::default();
        let encoder = Encoder::open(target, schema, first, &pipe)?;
        Ok(Self {
            path,
            location,
            values,
            schema: Arc::clone(schema),
            encoder,
            pipe,
            upload: None,
            sent: 0,
            rows: 0,
        })
    }

    /// Bytes of the file so far, about.
    fn bytes(&self) -> u64 {
        (self.sent + self.pipe.0.lock().len() + self.encoder.pending()) as u64
    }

    async fn write(&mut self, target: &Target, rows: &RecordBatch) -> Result<()> {
        self.encoder.write(rows).map_err(|error| target.error(error))?;
        self.rows += rows.num_rows() as u64;
        if self.encoder.memory() >= target.options.row_group_bytes {
            return self.flush(target).await;
        }
        self.send(target).await
    }

    /// Ends the row group.
    async fn flush(&mut self, target: &Target) -> Result<()> {
        self.encoder.flush().map_err(|error| target.error(error))?;
        self.send(target).await
    }

    /// Gives full parts to the store.
    async fn send(&mut self, target: &Target) -> Result<()> {
        if self.pipe.0.lock().len() < PART {
            return Ok(());
        }
        let part = std::mem::take(&mut *self.pipe.0.lock());
        self.sent += part.len();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let upload = target.store.put_multipart(&self.location).await;
                self.upload.insert(upload.map_err(|error| target.error(error))?)
            }
        };
        upload.put_part(PutPayload::from(part)).await.map_err(|error| target.error(error))
    }

    async fn close(mut self, target: &Target) -> Result<DataFile> {
        match self.finish(target).await {
            Ok(file) => {
                target.written.lock().push(file.path.clone());
                Ok(file)
            }
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn finish(&mut self, target: &Target) -> Result<DataFile> {
        let metadata = self.encoder.finish().map_err(|error| target.error(error))?;
        let rest = std::mem::take(&mut *self.pipe.0.lock());
        let size = (self.sent + rest.len()) as u64;
        match &mut self.upload {
            Some(upload) => {
                if !rest.is_empty() {
                    let sent = upload.put_part(PutPayload::from(rest)).await;
                    sent.map_err(|error| target.error(error))?;
                }
                upload.complete().await.map_err(|error| target.error(error))?;
            }
            None => {
                let put = target.store.put(&self.location, PutPayload::from(rest)).await;
                put.map_err(|error| target.error(error))?;
            }
        }
        let partition_values: BTreeMap<_, _> =
            target.partition_by.iter().cloned().zip(self.values.iter().cloned()).collect();
        Ok(DataFile {
            path: self.path.clone(),
            size,
            rows: Some(self.rows),
            partition_values,
            stats: metadata
                .map(|metadata| stats::of_file(&metadata, &self.schema))
                .unwrap_or_default(),
            modified_ms: target.options.clock.now_micros() / 1_000,
        })
    }

    async fn abort(mut self) {
        if let Some(upload) = &mut self.upload {
            // What an abort leaves behind is the store's to clean up.
            let _ = upload.abort().await;
        }
    }
}

/// How columns are encoded: compressed as the target says; integers and dates delta-packed; a
/// dictionary for text only where values repeat, which the first rows tell.
fn properties(schema: &SchemaRef, first: &RecordBatch, target: &Target) -> WriterProperties {
    let compression = match target.compression {
        ExportCompression::None => Compression::UNCOMPRESSED,
        ExportCompression::Gzip => Compression::GZIP(GzipLevel::default()),
        ExportCompression::Zstd => {
            Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a level of zstd"))
        }
    };
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(compression)
        .set_created_by(concat!("freshet ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_row_count(Some(target.options.row_group_rows))
        .set_write_batch_size(8192)
        .set_dictionary_enabled(false);
    for (field, column) in schema.fields().iter().zip(first.columns()) {
        let path = ColumnPath::from(field.name().as_str());
        match field.data_type() {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Timestamp(..) => {
                builder = builder.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            DataType::Decimal128(precision, _) if *precision <= 18 => {
                builder = builder.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            DataType::Utf8View | DataType::Binary => {
                builder = builder
                    .set_column_encoding(path.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_dictionary_enabled(path.clone(), repeats(column))
                    .set_column_dictionary_page_size_limit(path, 256 << 10);
            }
            _ => {}
        }
    }
    builder.build()
}

/// Whether the values of a text column come again often enough for a dictionary.
fn repeats(column: &ArrayRef) -> bool {
    let rows = column.len().min(SAMPLE);
    let distinct = match column.data_type() {
        DataType::Utf8View => {
            column.as_string_view().iter().take(rows).flatten().collect::<HashSet<_>>().len()
        }
        DataType::Binary => {
            column.as_binary::<i32>().iter().take(rows).flatten().collect::<HashSet<_>>().len()
        }
        _ => rows,
    };
    distinct * 2 < rows
}
