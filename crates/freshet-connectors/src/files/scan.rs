//! A scan of some files, and its running: units of work that workers take until none is left.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::contract::{Evolution, SchemaDiff};
use freshet_core::error::{Error, Result};
use freshet_core::format::ReadSpec;
use freshet_core::source::{Purpose, RunningScan, Scan, ScanReport};
use futures::stream::BoxStream;
use parking_lot::Mutex;

use super::FilesSource;
use super::account::SplitBooks;
use super::columns::Output;
use super::digest;
use super::plan::{Fate, Layout, PlannedFile, ReadyFile, unify};
use super::stitch::Stitch;
use super::work::{Held, Worker};
use crate::formats::FormatReader;

/// What a worker takes at a time of a file in a remote store: several requests.
const REMOTE_UNIT: u64 = 32 << 20;

/// Bytes that a record of text is taken to have where nothing is known of it.
const TEXT_RECORD: u64 = 100;

/// Some files with one schema.
#[derive(Debug)]
pub struct FilesScan {
    inner: Arc<ScanInner>,
}

#[derive(Debug)]
pub(super) struct ScanInner {
    pub source: FilesSource,
    pub files: Vec<PlannedFile>,
    pub data: SchemaRef,
    schema: SchemaRef,
    diffs: Vec<SchemaDiff>,
}

impl FilesScan {
    /// A scan of planned files.
    pub fn new(source: FilesSource, files: Vec<PlannedFile>) -> Result<Self> {
        let unified = unify(&source, &files, &Self::taken(&source));
        let schema = Self::schema_of(&source, &unified.data);
        Ok(Self {
            inner: Arc::new(ScanInner {
                source,
                files,
                data: unified.data,
                schema,
                diffs: unified.diffs,
            }),
        })
    }

    /// Names that new columns of the data cannot have.
    pub fn taken(source: &FilesSource) -> BTreeSet<&str> {
        let captures = source.pattern.captures().iter().map(|capture| capture.name.as_str());
        captures.chain(["_file", "_offset"]).collect()
    }

    /// All columns, given those of the data.
    pub fn schema_of(source: &FilesSource, data: &SchemaRef) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = data.fields().iter().cloned().collect();
        for capture in source.pattern.captures() {
            fields.push(Arc::new(Field::new(&capture.name, capture.column_type().arrow(), true)));
        }
        fields.push(Arc::new(Field::new("_file", DataType::Utf8View, false)));
        fields.push(Arc::new(Field::new("_offset", DataType::Int64, false)));
        Arc::new(Schema::new(fields))
    }
}

impl Scan for FilesScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.inner.schema)
    }

    fn diffs(&self) -> Vec<SchemaDiff> {
        self.inner.diffs.clone()
    }

    fn total_bytes(&self) -> u64 {
        let ready = self.inner.files.iter().filter(|file| matches!(file.fate, Fate::Ready(_)));
        ready.map(|file| file.size).sum()
    }

    fn estimated_records(&self) -> Option<u64> {
        let records = |file: &PlannedFile| match &file.fate {
            Fate::Ready(ready) => match &ready.layout {
                Layout::Blocks(layout) => layout.records(),
                Layout::Text(_) => file.size / TEXT_RECORD,
            },
            Fate::Out(..) => 0,
        };
        Some(self.inner.files.iter().map(records).sum())
    }

    fn is_in_order(&self) -> bool {
        // A correction is decoded after the records around it.
        let corrected = |file: &PlannedFile| match &file.fate {
            Fate::Ready(ready) => !ready.corrections.is_empty(),
            Fate::Out(..) => false,
        };
        !self.inner.files.iter().any(corrected)
    }

    fn start(
        &self,
        projection: &[usize],
        batch_rows: usize,
        purpose: Purpose,
    ) -> Result<Arc<dyn RunningScan>> {
        Ok(Arc::new(Running(Shared::new(&self.inner, projection, batch_rows, purpose)?)))
    }
}

/// A piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub file: usize,
    /// Number among the file's parts, in the order of its text.
    pub part: usize,
    pub kind: UnitKind,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum UnitKind {
    /// Stored bytes that are text, `[start, end)`, and the line that `end` cuts to its end.
    Range { start: u64, end: u64, hash: bool },
    /// The same of a file whose records may go over several lines; see [`super::stitch`].
    Stitched { start: u64, end: u64, hash: bool },
    /// The whole file in order.
    Stream,
    /// The digest alone.
    Hash,
    /// One block.
    Block(usize),
    /// The corrections alone.
    Corrections,
}

struct Running(Arc<Shared>);

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("units", &self.0.units.len()).finish_non_exhaustive()
    }
}

/// What the workers of one running scan share.
pub(super) struct Shared {
    pub scan: Arc<ScanInner>,
    pub purpose: Purpose,
    pub spec: ReadSpec,
    pub output: Output,
    pub units: Vec<Unit>,
    pub next: AtomicUsize,
    pub books: Vec<SplitBooks>,
    /// For each file, the number of its first unit and what its units are stitched with; of use
    /// for files of [`UnitKind::Stitched`] only.
    pub stitches: Vec<(usize, Stitch<Held>)>,
    pub bytes: Arc<AtomicU64>,
    pub records: AtomicU64,
    pub dead_letter_bytes: AtomicU64,
    pub failure: OnceLock<Error>,
    pub evolution: Mutex<Evolution>,
}

impl Shared {
    fn new(
        scan: &Arc<ScanInner>,
        projection: &[usize],
        batch_rows: usize,
        purpose: Purpose,
    ) -> Result<Arc<Self>> {
        let output = Output::new(&scan.schema, scan.data.fields().len(), projection)?;
        let spec = ReadSpec {
            projection: output.data_columns().to_vec(),
            batch_rows: batch_rows.max(1),
            max_record_bytes: scan.source.options.max_record_bytes.as_usize(),
            offsets: output.wants_offsets(),
            stop: None,
        };
        let mut units = Vec::new();
        let mut books = Vec::new();
        let mut stitches = Vec::new();
        for (index, file) in scan.files.iter().enumerate() {
            let before = units.len();
            let entry = match &file.fate {
                Fate::Ready(ready) => ready.layout.data_offset(),
                Fate::Out(..) => 0,
            };
            stitches.push((before, Stitch::new(entry)));
            books.push(match &file.fate {
                Fate::Out(status, error) => {
                    SplitBooks::closed(file.split.clone(), *status, error.clone(), None)
                }
                Fate::Ready(ready) => {
                    let local = !file.split.id.starts_with("s3://");
                    let digest = purpose == Purpose::Build && ready.digest.is_none();
                    cut(&scan.source, (index, file), ready, (local, digest), &mut units)?;
                    let first_line = match &ready.layout {
                        Layout::Text(layout) => layout.data_line(),
                        Layout::Blocks(_) => 0,
                    };
                    let text = ready.codec.is_plain().then_some(file.size);
                    let sequences = ready.corrections.values().map(|c| c.sequence);
                    SplitBooks::open(
                        file.split.clone(),
                        units.len() - before,
                        first_line,
                        text,
                        ready.digest.clone(),
                        sequences.max().unwrap_or(0),
                    )
                }
            });
        }
        // Workers take units in this order, which is that of `_file`.
        units.sort_by_key(|unit: &Unit| &scan.files[unit.file].split.id);
        Ok(Arc::new(Self {
            scan: Arc::clone(scan),
            purpose,
            spec,
            output,
            units,
            next: AtomicUsize::new(0),
            books,
            stitches,
            bytes: Arc::default(),
            records: AtomicU64::new(0),
            dead_letter_bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
            evolution: Mutex::default(),
        }))
    }

    /// Stops all workers; the first reason stays.
    pub fn fail(&self, error: Error) {
        let _ = self.failure.set(error);
    }

    /// Ends a build whose contract has to evolve before it can go on.
    pub fn evolve(&self, evolution: &Evolution) -> Result<()> {
        if evolution.is_empty() || self.purpose == Purpose::Query {
            return Ok(());
        }
        self.evolution.lock().merge(evolution.clone());
        let name = &self.scan.source.spec.name;
        let error = || Error::internal(format!("the contract of source \"{name}\" has evolved"));
        self.fail(error());
        Err(error())
    }

    /// A split turned out to be unfit: forgotten where none of its rows were given, else the end.
    pub fn set_aside(&self, file: usize, error: Error) {
        self.stitches[file].1.clear();
        let books = &self.books[file];
        let given = books.is_given();
        books.set_aside(Arc::new(copy_of(&error)));
        if given {
            self.fail(error);
        }
    }
}

/// The units of one file.
fn cut(
    source: &FilesSource,
    (file, planned): (usize, &PlannedFile),
    ready: &ReadyFile,
    (local, needs_digest): (bool, bool),
    units: &mut Vec<Unit>,
) -> Result<()> {
    let mut part = 0;
    let mut push = |kind| {
        units.push(Unit { file, part, kind });
        part += 1;
    };
    if ready.corrections_only {
        push(UnitKind::Corrections);
        return Ok(());
    }
    match (&ready.layout, &source.reader) {
        (Layout::Blocks(layout), _) => {
            (0..layout.blocks()).for_each(|block| push(UnitKind::Block(block)));
            if needs_digest && (local || layout.blocks() == 0) {
                push(UnitKind::Hash);
            }
        }
        (Layout::Text(layout), FormatReader::Text(format))
            if ready.codec.is_plain()
                && (format.splittable() || layout.walker(&ReadSpec::default())?.is_some()) =>
        {
            let wanted = source.options.split_size.0.max(1);
            // Blocks of the digest are not divided between workers, unless units are smaller.
            let by_block = wanted >= digest::BLOCK;
            let step = match (by_block, local) {
                (false, _) => wanted,
                (true, true) => wanted / digest::BLOCK * digest::BLOCK,
                (true, false) => (wanted / digest::BLOCK * digest::BLOCK).max(REMOTE_UNIT),
            };
            let hash = needs_digest && (by_block || planned.size <= step);
            let mut start = 0;
            while start < planned.size {
                let end = start.saturating_add(step).min(planned.size);
                push(if format.splittable() {
                    UnitKind::Range { start, end, hash }
                } else {
                    UnitKind::Stitched { start, end, hash }
                });
                start = end;
            }
            if needs_digest && !hash {
                push(UnitKind::Hash);
            }
        }
        (Layout::Text(_), _) => push(UnitKind::Stream),
    }
    Ok(())
}

impl RunningScan for Running {
    fn worker(&self) -> BoxStream<'static, Result<RecordBatch>> {
        let worker = Worker::new(Arc::clone(&self.0));
        Box::pin(futures::stream::unfold(worker, |mut worker| async move {
            worker.next().await.map(|result| (result, worker))
        }))
    }

    fn bytes_read(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn records_read(&self) -> u64 {
        self.0.records.load(Ordering::Relaxed)
    }

    fn evolution(&self) -> Evolution {
        self.0.evolution.lock().clone()
    }

    fn report(&self) -> ScanReport {
        ScanReport { splits: self.0.books.iter().map(SplitBooks::report).collect() }
    }
}

/// The same error once more, for another worker.
pub(super) fn copy_of(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.chain());
    if let Some(hint) = error.hint_text() {
        copy = copy.hint(hint);
    }
    if error.is_retryable() { copy.retryable() } else { copy }
}
