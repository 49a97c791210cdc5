//! A scan of some files, and its running: units of work that workers take until none is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::contract::SchemaDiff;
use freshet_core::error::{Error, ErrorKind, Result, code};
use freshet_core::format::ReadSpec;
use freshet_core::record::Decoded;
use freshet_core::source::{RunningScan, Scan, ScanReport};
use futures::stream::BoxStream;

use super::FilesSource;
use super::account::{Part, SplitBooks};
use super::columns::{Constant, Output};
use super::corrections::Corrector;
use super::digest;
use super::feed::{Feed, RangeFeed, StreamFeed, hash_file};
use super::place::Blob;
use super::plan::{Fate, Layout, PlannedFile, ReadyFile, unify};
use super::worker::{CHUNK, Pool, Start, TextUnit};
use crate::formats::{BlockReader, FormatReader};

/// What a worker takes at a time of a file in a remote store: several requests.
const REMOTE_UNIT: u64 = 32 << 20;
/// Text of a file whose rows are held back until its fate is known.
const HOLD: u64 = 8 << 20;

/// Some files with one schema.
#[derive(Debug)]
pub struct FilesScan {
    inner: Arc<ScanInner>,
}

#[derive(Debug)]
struct ScanInner {
    source: FilesSource,
    files: Vec<PlannedFile>,
    data: SchemaRef,
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

    fn start(&self, projection: &[usize], batch_rows: usize) -> Result<Arc<dyn RunningScan>> {
        Ok(Arc::new(Running(Shared::new(&self.inner, projection, batch_rows)?)))
    }
}

/// A piece of work.
#[derive(Debug, Clone, Copy)]
struct Unit {
    file: usize,
    /// Number among the file's parts, in the order of its text.
    part: usize,
    kind: UnitKind,
}

#[derive(Debug, Clone, Copy)]
enum UnitKind {
    /// Stored bytes that are text, `[start, end)`.
    Range { start: u64, end: u64, hash: bool },
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
struct Shared {
    scan: Arc<ScanInner>,
    spec: ReadSpec,
    output: Output,
    units: Vec<Unit>,
    next: AtomicUsize,
    books: Vec<SplitBooks>,
    bytes: Arc<AtomicU64>,
    records: AtomicU64,
    dead_letter_bytes: AtomicU64,
    failure: OnceLock<Error>,
}

impl Shared {
    fn new(scan: &Arc<ScanInner>, projection: &[usize], batch_rows: usize) -> Result<Arc<Self>> {
        let output = Output::new(&scan.schema, scan.data.fields().len(), projection)?;
        let spec = ReadSpec {
            projection: output.data_columns().to_vec(),
            batch_rows: batch_rows.max(1),
            max_record_bytes: scan.source.options.max_record_bytes.as_usize(),
            offsets: output.wants_offsets(),
        };
        let mut units = Vec::new();
        let mut books = Vec::new();
        for (index, file) in scan.files.iter().enumerate() {
            let before = units.len();
            books.push(match &file.fate {
                Fate::Out(status, error) => {
                    SplitBooks::closed(file.split.clone(), *status, error.clone(), None)
                }
                Fate::Ready(ready) => {
                    let local = !file.split.id.starts_with("s3://");
                    cut(&scan.source, index, file, ready, local, &mut units);
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
        Ok(Arc::new(Self {
            scan: Arc::clone(scan),
            spec,
            output,
            units,
            next: AtomicUsize::new(0),
            books,
            bytes: Arc::default(),
            records: AtomicU64::new(0),
            dead_letter_bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
        }))
    }

    /// Stops all workers; the first reason stays.
    fn fail(&self, error: Error) {
        let _ = self.failure.set(error);
    }

    /// A split turned out to be unfit: forgotten where none of its rows were given, else the end.
    fn set_aside(&self, file: usize, error: Error) {
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
    file: usize,
    planned: &PlannedFile,
    ready: &ReadyFile,
    local: bool,
    units: &mut Vec<Unit>,
) {
    let mut part = 0;
    let mut push = |kind| {
        units.push(Unit { file, part, kind });
        part += 1;
    };
    if ready.corrections_only {
        push(UnitKind::Corrections);
        return;
    }
    let needs_digest = ready.digest.is_none();
    match (&ready.layout, &source.reader) {
        (Layout::Blocks(layout), _) => {
            (0..layout.blocks()).for_each(|block| push(UnitKind::Block(block)));
            if needs_digest && (local || layout.blocks() == 0) {
                push(UnitKind::Hash);
            }
        }
        (Layout::Text(_), FormatReader::Text(format))
            if format.splittable() && ready.codec.is_plain() =>
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
                push(UnitKind::Range { start, end, hash });
                start = end;
            }
            if needs_digest && !hash {
                push(UnitKind::Hash);
            }
        }
        (Layout::Text(_), _) => push(UnitKind::Stream),
    }
}

impl RunningScan for Running {
    fn worker(&self) -> BoxStream<'static, Result<RecordBatch>> {
        let worker = Worker {
            shared: Arc::clone(&self.0),
            pool: Pool::default(),
            active: None,
            out: Decoded::default(),
            ready: VecDeque::new(),
            ended: false,
        };
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

    fn report(&self) -> ScanReport {
        ScanReport { splits: self.0.books.iter().map(SplitBooks::report).collect() }
    }
}

/// One worker.
struct Worker {
    shared: Arc<Shared>,
    pool: Pool,
    active: Option<Active>,
    out: Decoded,
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

/// A unit that is being read.
struct Active {
    unit: Unit,
    work: Work,
    constants: Vec<Constant>,
    corrector: Option<Corrector>,
    part: Part,
    /// Rows held back until the file's fate is known; `None` once they are given as they come.
    held: Option<Vec<RecordBatch>>,
    /// Text decoded so far.
    text: u64,
}

enum Work {
    Text(Box<TextUnit>),
    Block(Box<dyn BlockReader>, u64),
    Corrections,
    Hash,
}

impl Worker {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(error) = self.shared.failure.get() {
                self.ended = true;
                self.active = None;
                return Some(Err(copy_of(error)));
            }
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            let Some(mut active) = self.active.take() else {
                let index = self.shared.next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = self.shared.units.get(index).copied() else {
                    self.ended = true;
                    return None;
                };
                if !self.shared.books[unit.file].is_set_aside() {
                    match self.begin(unit).await {
                        Ok(active) => self.active = Some(active),
                        Err(error) => self.stop(unit.file, error),
                    }
                }
                continue;
            };
            let file = active.unit.file;
            match self.step(&mut active).await {
                Ok(true) => self.active = Some(active),
                Ok(false) => {
                    if let Err(error) = self.finish(active).await {
                        self.stop(file, error);
                    }
                }
                Err(error) => {
                    self.shared.books[file].abandon(active.unit.part, active.part);
                    self.stop(file, error);
                }
            }
        }
    }

    /// Sorts an error: of the file, which is set aside, or of the world, which ends the scan.
    fn stop(&self, file: usize, error: Error) {
        let of_file = error.kind() == ErrorKind::Data
            || (error.code() == code::SOURCE && !error.is_retryable());
        if !of_file {
            self.shared.fail(error);
        } else if [code::FILE_BROKEN, code::FILE_TOO_BAD].contains(&error.code()) {
            self.shared.set_aside(file, error);
        } else {
            let id = &self.shared.books[file].split().id;
            let message = format!("file \"{id}\" could not be read to its end");
            self.shared.set_aside(file, Error::new(code::FILE_BROKEN, message).caused_by(error));
        }
    }

    async fn begin(&mut self, unit: Unit) -> Result<Active> {
        let shared = &self.shared;
        let scan = &shared.scan;
        let planned = &scan.files[unit.file];
        let Fate::Ready(ready) = &planned.fate else {
            return Err(Error::internal("a unit of a file that cannot be read"));
        };
        let split = &planned.split;
        let blob = scan.source.place.open(&split.id, planned.size, &split.version).await?;
        let needs_digest = ready.digest.is_none();
        let text_unit = |feed: Feed, offset: u64| -> Result<Work> {
            let Layout::Text(layout) = &ready.layout else {
                return Err(Error::internal("text of a file of blocks"));
            };
            let start = Start {
                offset,
                data_offset: layout.data_offset(),
                chunk: scan.source.options.split_size.as_usize().min(CHUNK),
                max_record_bytes: shared.spec.max_record_bytes,
            };
            let decoder = layout.decoder(&scan.data, &shared.spec)?;
            Ok(Work::Text(Box::new(TextUnit::new(feed, decoder, start, &shared.bytes))))
        };
        let alone = shared.books[unit.file].parts() == 1;
        let mut absolute = false;
        let work = match unit.kind {
            UnitKind::Range { start, end, hash } => {
                text_unit(Feed::Range(RangeFeed::new(blob, start, end, hash)), start)?
            }
            UnitKind::Stream => text_unit(
                Feed::Stream(StreamFeed::new(blob, &split.id, ready.codec, needs_digest)?),
                0,
            )?,
            UnitKind::Block(block) => {
                let Layout::Blocks(layout) = &ready.layout else {
                    return Err(Error::internal("a block of a file of text"));
                };
                absolute = true;
                let reader = layout.open(&blob, block, &scan.data, &shared.spec).await?;
                Work::Block(reader, planned.size / layout.blocks().max(1) as u64)
            }
            UnitKind::Corrections => {
                absolute = true;
                Work::Corrections
            }
            UnitKind::Hash => Work::Hash,
        };
        let corrector = if ready.corrections.is_empty() {
            None
        } else {
            let layout = ready.layout.correcting()?;
            let corrections = Arc::clone(&ready.corrections);
            Some(Corrector::new(layout, &scan.data, &shared.spec, corrections))
        };
        Ok(Active {
            unit,
            work,
            constants: shared.output.constants(split, scan.source.pattern.captures())?,
            corrector,
            part: Part { absolute, ..Part::default() },
            held: alone.then(Vec::new),
            text: 0,
        })
    }

    /// Reads a little more; `false` at the unit's end.
    async fn step(&mut self, active: &mut Active) -> Result<bool> {
        let shared = Arc::clone(&self.shared);
        let books = &shared.books[active.unit.file];
        if books.is_set_aside() {
            return Ok(false);
        }
        self.out.clear();
        let mut bytes = 0;
        let more = match &mut active.work {
            Work::Text(unit) => {
                let before = unit.offset();
                let more = unit.step(&mut self.pool, &mut self.out).await?;
                bytes = unit.offset() - before;
                more
            }
            Work::Block(reader, size) => {
                let more = reader.next(&mut self.out).await?;
                if !more {
                    shared.bytes.fetch_add(*size, Ordering::Relaxed);
                }
                more
            }
            Work::Corrections => {
                read_corrections(
                    &shared,
                    active.unit.file,
                    active.corrector.as_ref(),
                    &mut self.out,
                )
                .await
                .map(|dropped| active.part.dropped += dropped)?;
                false
            }
            Work::Hash => {
                let planned = &shared.scan.files[active.unit.file];
                let split = &planned.split;
                let place = &shared.scan.source.place;
                let blob = place.open(&split.id, planned.size, &split.version).await?;
                active.part.blocks = Some((0, hash_file(&blob).await?));
                false
            }
        };
        active.text += bytes;
        self.account(active, books, bytes)?;
        Ok(more)
    }

    /// Enters into the books what `out` holds, and passes its rows on.
    fn account(&mut self, active: &mut Active, books: &SplitBooks, bytes: u64) -> Result<()> {
        let out = &mut self.out;
        let only_corrections = matches!(active.work, Work::Corrections);
        if let Some(corrector) = &active.corrector
            && !only_corrections
        {
            active.part.dropped += corrector.apply(out)?;
        }
        let shared = &self.shared;
        let bad = out.rejects.len() as u64;
        shared.records.fetch_add(out.records, Ordering::Relaxed);
        books.count(out.records, bad, bytes);
        active.part.records += out.records;
        active.part.good += out.good;
        active.part.discarded_values += out.discarded_values;
        active.part.lines += out.lines;
        if bad > 0 {
            let size: usize = out
                .rejects
                .iter()
                .map(|reject| {
                    std::mem::size_of_val(reject) + reject.raw.len() + reject.message.len()
                })
                .sum();
            let total = shared.dead_letter_bytes.fetch_add(size as u64, Ordering::Relaxed);
            active.part.rejects.append(&mut out.rejects);
            let max_bad = shared.scan.source.spec.max_bad;
            if let (false, Some(error)) = (only_corrections, books.will_be_too_bad(max_bad)) {
                return Err(error);
            }
            let limit = shared.scan.source.options.max_dead_letter_bytes;
            if total + size as u64 > limit.0 {
                return Err(books.is_too_bad(max_bad).unwrap_or_else(|| {
                    Error::new(
                        code::LIMIT,
                        format!("the dead letters of one reading need more memory than {limit}"),
                    )
                    .hint("raise `max_dead_letter_bytes`, or read fewer files at once")
                }));
            }
        }
        let offsets = std::mem::take(&mut out.offsets);
        let mut offsets = offsets.into_iter();
        for batch in out.batches.drain(..) {
            let offsets: Option<ScalarBuffer<i64>> = offsets.next();
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = shared.output.assemble(batch, offsets, &active.constants)?;
            match &mut active.held {
                Some(held) => held.push(batch),
                None => {
                    books.give();
                    self.ready.push_back(batch);
                }
            }
        }
        if active.text > HOLD
            && let Some(held) = active.held.take()
        {
            books.give();
            self.ready.extend(held);
        }
        Ok(())
    }

    /// Closes a unit that was read to its end.
    async fn finish(&mut self, mut active: Active) -> Result<()> {
        let books = &self.shared.books[active.unit.file];
        if books.is_set_aside() {
            return Ok(());
        }
        if let Work::Text(unit) = &mut active.work {
            let first = match active.unit.kind {
                UnitKind::Range { start, .. } => start / digest::BLOCK,
                _ => 0,
            };
            active.part.blocks = unit.blocks().map(|blocks| (first, blocks));
        }
        let only_corrections = matches!(active.work, Work::Corrections);
        let last = books.enter(active.unit.part, active.part);
        if last {
            let max_bad = self.shared.scan.source.spec.max_bad;
            if let (false, Some(error)) = (only_corrections, books.is_too_bad(max_bad)) {
                return Err(error);
            }
            let mut blocks = None;
            if !books.has_digest() && books.has_rejects() {
                // Only dead letters need the digest of a file whose bytes were not all read.
                let split = books.split();
                let size = split.size.unwrap_or(0);
                let place = &self.shared.scan.source.place;
                let blob: Arc<dyn Blob> = place.open(&split.id, size, &split.version).await?;
                blocks = Some(hash_file(&blob).await?);
            }
            books.close(blocks);
        }
        if let Some(held) = active.held
            && !held.is_empty()
        {
            books.give();
            self.ready.extend(held);
        }
        Ok(())
    }
}

/// Decodes only the corrections of a file; returns how many records they drop.
async fn read_corrections(
    shared: &Arc<Shared>,
    file: usize,
    corrector: Option<&Corrector>,
    out: &mut Decoded,
) -> Result<u64> {
    let planned = &shared.scan.files[file];
    let (Fate::Ready(ready), Some(corrector)) = (&planned.fate, corrector) else { return Ok(0) };
    let mut dropped = 0;
    for correction in ready.corrections.values() {
        out.records += 1;
        dropped += u64::from(corrector.decode(correction, 0, out)?);
    }
    if out.rejects.is_empty() {
        return Ok(dropped);
    }
    let mut lines: BTreeMap<u64, u64> = out.rejects.iter().map(|r| (r.offset, 0)).collect();
    match &ready.layout {
        Layout::Blocks(_) => lines.iter_mut().for_each(|(row, line)| *line = row + 1),
        Layout::Text(_) => {
            let split = &planned.split;
            let place = &shared.scan.source.place;
            let blob = place.open(&split.id, planned.size, &split.version).await?;
            let feed = StreamFeed::new(blob, &split.id, ready.codec, false)?;
            super::reader::count_lines(Feed::Stream(feed), &mut lines).await?;
        }
    }
    for reject in &mut out.rejects {
        reject.line = lines.get(&reject.offset).copied().unwrap_or(0);
    }
    Ok(dropped)
}

/// The same error once more, for another worker.
fn copy_of(error: &Error) -> Error {
    let mut copy = Error::new(error.code(), error.chain());
    if let Some(hint) = error.hint_text() {
        copy = copy.hint(hint);
    }
    if error.is_retryable() { copy.retryable() } else { copy }
}
