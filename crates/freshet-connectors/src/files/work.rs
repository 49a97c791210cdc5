//! The work on the units of a scan: a worker takes one after another and keeps the books.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use freshet_core::error::{Error, ErrorKind, Result, code};
use freshet_core::format::{ReadSpec, TextLayout};
use freshet_core::record::Decoded;
use freshet_core::source::Purpose;

use super::account::{Part, SplitBooks};
use super::columns::Constant;
use super::corrections::Corrector;
use super::digest;
use super::feed::{Feed, RangeFeed, StreamFeed, hash_file};
use super::place::Blob;
use super::plan::{Fate, Layout};
use super::scan::{Shared, Unit, UnitKind, copy_of};
use super::stitch::{Guess, Settled};
use super::worker::{CHUNK, First, Pool, Start, TextUnit};
use crate::formats::BlockReader;

/// Text of a file whose rows are held back until its fate is known.
const HOLD: u64 = 8 << 20;
/// The part of a unit's size that is walked in front of it to guess where its records begin.
const WALK: u64 = 64;

/// One worker.
pub(super) struct Worker {
    shared: Arc<Shared>,
    pool: Pool,
    active: Option<Active>,
    out: Decoded,
    ready: VecDeque<RecordBatch>,
    /// Units whose guessed entries turned out wrong.
    again: VecDeque<Unit>,
    ended: bool,
}

/// What reading a unit from a guessed entry gave.
#[derive(Debug, Default)]
pub(super) struct Held {
    part: Part,
    rows: Vec<RecordBatch>,
    tally: Tally,
}

/// Counts that are entered into the books once a guess is known to be right.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    records: u64,
    bad: u64,
    bytes: u64,
    /// Memory of dead letters, which counts from the start.
    dead_letters: u64,
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
    /// The entry that was guessed, until it is known to be right; rows are held back till then.
    guess: Option<u64>,
    tally: Tally,
}

enum Work {
    Text(Box<TextUnit>),
    Block(Box<dyn BlockReader>, u64),
    Corrections,
    Hash,
}

impl Worker {
    /// One more worker of a scan.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pool: Pool::default(),
            active: None,
            out: Decoded::default(),
            ready: VecDeque::new(),
            again: VecDeque::new(),
            ended: false,
        }
    }

    /// The next batch of rows.
    pub async fn next(&mut self) -> Option<Result<RecordBatch>> {
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
                let again = self.again.pop_front();
                let Some(unit) = again.or_else(|| self.take()) else {
                    self.ended = true;
                    return None;
                };
                if !self.shared.books[unit.file].is_set_aside() {
                    match self.begin(unit, again.is_some()).await {
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
                // Of a wrong guess anything may come; the unit is read again once its entry is known.
                Err(_) if active.guess.is_some() => {
                    let nothing = Held { tally: active.tally, ..Held::default() };
                    let guess = Guess { entry: None, exit: 0, weight: 0, content: nothing };
                    if let Err(error) = self.wait(active.unit, guess).await {
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

    fn take(&self) -> Option<Unit> {
        let index = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.units.get(index).copied()
    }

    async fn begin(&mut self, unit: Unit, again: bool) -> Result<Active> {
        let guess = match unit.kind {
            UnitKind::Stitched { start, .. } => guess_entry(&self.shared, unit, start).await?,
            _ => None,
        };
        let shared = &self.shared;
        let scan = &shared.scan;
        let planned = &scan.files[unit.file];
        let Fate::Ready(ready) = &planned.fate else {
            return Err(Error::internal("a unit of a file that cannot be read"));
        };
        let split = &planned.split;
        let blob = scan.source.place.open(&split.id, planned.size, &split.version).await?;
        let needs_digest = shared.purpose == Purpose::Build && ready.digest.is_none();
        let text_unit = |feed: Feed, offset: u64, place: Option<(u64, u64)>| -> Result<Work> {
            let layout = text_of(&ready.layout)?;
            let mut start = unit_start(shared, offset);
            start.data_offset = layout.data_offset();
            if let Some((entry, stop)) = place {
                (start.data_offset, start.stop, start.first) = (entry, Some(stop), First::Known);
            }
            let spec = ReadSpec { stop: start.stop, ..shared.spec.clone() };
            let decoder = layout.decoder(&scan.data, &spec)?;
            // What is read again is not counted again.
            let elsewhere = Arc::default();
            let read = if again { &elsewhere } else { &shared.bytes };
            Ok(Work::Text(Box::new(TextUnit::new(feed, decoder, start, read))))
        };
        let alone = shared.books[unit.file].parts() == 1;
        let mut absolute = false;
        let work = match unit.kind {
            UnitKind::Range { start, end, hash } => {
                text_unit(Feed::Range(RangeFeed::new(blob, start, end, hash)), start, None)?
            }
            UnitKind::Stitched { start, end, hash } => {
                let known = shared.stitches[unit.file].1.entry(unit.part);
                let entry = guess.or(known).ok_or_else(|| {
                    Error::internal("a unit is read whose entry nobody guessed or knows")
                })?;
                let feed = Feed::Range(RangeFeed::onward(blob, start, end, hash));
                text_unit(feed, start, Some((entry, end)))?
            }
            UnitKind::Stream => text_unit(
                Feed::Stream(StreamFeed::new(blob, &split.id, ready.codec, needs_digest)?),
                0,
                None,
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
            held: (alone || guess.is_some()).then(Vec::new),
            text: 0,
            guess,
            tally: Tally::default(),
        })
    }

    /// Reads a little more; `false` at the unit's end.
    async fn step(&mut self, active: &mut Active) -> Result<bool> {
        let shared = Arc::clone(&self.shared);
        let books = &shared.books[active.unit.file];
        if books.is_set_aside() {
            return Ok(false);
        }
        if let Some(guess) = active.guess
            && let Some(entry) = shared.stitches[active.unit.file].1.entry(active.unit.part)
        {
            if guess == entry {
                active.guess = None;
                let rows = active.held.take().unwrap_or_default();
                self.count(active.unit.file, active.tally, rows)?;
            } else {
                self.forget(std::mem::take(&mut active.tally));
                *active = self.begin(active.unit, true).await?;
            }
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
        active.part.evolution.merge(std::mem::take(&mut out.evolution));
        if active.guess.is_none() {
            shared.evolve(&active.part.evolution)?;
        }
        let bad = out.rejects.len() as u64;
        if active.guess.is_some() {
            active.tally.records += out.records;
            active.tally.bad += bad;
            active.tally.bytes += bytes;
        } else {
            shared.records.fetch_add(out.records, Ordering::Relaxed);
            books.count(out.records, bad, bytes);
        }
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
            active.tally.dead_letters += size as u64;
            active.part.rejects.append(&mut out.rejects);
            let max_bad = shared.scan.source.spec.max_bad;
            if let (false, None, Some(error)) =
                (only_corrections, active.guess, books.will_be_too_bad(max_bad))
            {
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
            && active.guess.is_none()
            && let Some(held) = active.held.take()
        {
            books.give();
            self.ready.extend(held);
        }
        Ok(())
    }

    /// Closes a unit that was read to its end.
    async fn finish(&mut self, mut active: Active) -> Result<()> {
        let unit = active.unit;
        let books = &self.shared.books[unit.file];
        if books.is_set_aside() {
            self.shared.stitches[unit.file].1.clear();
            return Ok(());
        }
        let mut exit = 0;
        if let Work::Text(text) = &mut active.work {
            let first = match unit.kind {
                UnitKind::Range { start, .. } | UnitKind::Stitched { start, .. } => {
                    start / digest::BLOCK
                }
                _ => 0,
            };
            active.part.blocks = text.blocks().map(|blocks| (first, blocks));
            exit = text.offset();
        }
        if active.guess.is_some() {
            let guess = Guess {
                entry: active.guess,
                exit,
                weight: active.text,
                content: Held {
                    part: active.part,
                    rows: active.held.take().unwrap_or_default(),
                    tally: active.tally,
                },
            };
            return self.wait(unit, guess).await;
        }
        let only_corrections = matches!(active.work, Work::Corrections);
        self.close(unit, active.part, only_corrections).await?;
        if let Some(held) = active.held
            && !held.is_empty()
        {
            self.shared.books[unit.file].give();
            self.ready.extend(held);
        }
        if let UnitKind::Stitched { .. } = unit.kind {
            self.pass(unit, exit)?;
            self.settle(unit).await?;
        }
        Ok(())
    }

    /// Enters a part, and closes the books with the last one.
    async fn close(&mut self, unit: Unit, part: Part, only_corrections: bool) -> Result<()> {
        self.shared.evolve(&part.evolution)?;
        let books = &self.shared.books[unit.file];
        if !books.enter(unit.part, part) {
            return Ok(());
        }
        let max_bad = self.shared.scan.source.spec.max_bad;
        if let (false, Some(error)) = (only_corrections, books.is_too_bad(max_bad)) {
            return Err(error);
        }
        let mut blocks = None;
        let for_books = self.shared.purpose == Purpose::Build;
        if for_books && !books.has_digest() && books.has_rejects() {
            // Only dead letters need the digest of a file whose bytes were not all read.
            let split = books.split();
            let size = split.size.unwrap_or(0);
            let place = &self.shared.scan.source.place;
            let blob: Arc<dyn Blob> = place.open(&split.id, size, &split.version).await?;
            blocks = Some(hash_file(&blob).await?);
        }
        books.close(blocks);
        Ok(())
    }
}

/// The stitching of units whose entries are guessed; see [`super::stitch`].
impl Worker {
    /// Lets a guess wait for the units before it; where too much waits already, because other
    /// workers do not get on, walks through their units instead.
    async fn wait(&mut self, unit: Unit, guess: Guess<Held>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (first, stitch) = &shared.stitches[unit.file];
        let mut waits = stitch.wait(unit.part, guess);
        while let Err(guess) = waits {
            let (known, entry) = stitch.known();
            if known < unit.part
                && let UnitKind::Stitched { end, .. } = shared.units[first + known].kind
            {
                let exit = walk(&shared, unit, entry, First::Known, end).await?;
                self.pass(shared.units[first + known], exit)?;
            }
            waits = stitch.wait(unit.part, guess);
        }
        self.settle(unit).await
    }

    /// Says where a unit ended that was read from its known entry on.
    fn pass(&self, unit: Unit, exit: u64) -> Result<()> {
        if self.shared.stitches[unit.file].1.pass(unit.part, exit) {
            return Ok(());
        }
        let id = &self.shared.books[unit.file].split().id;
        Err(Error::new(code::FILE_BROKEN, format!("file \"{id}\" changed while it was read"))
            .hint("set `settle` on the source where files are written in place, and run again"))
    }

    /// Deals with the guesses about the file of `unit` of which is known now whether they are right.
    async fn settle(&mut self, unit: Unit) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (first, stitch) = &shared.stitches[unit.file];
        for (part, settled) in stitch.settle() {
            let unit = shared.units[first + part];
            match settled {
                Settled::Right(held) => {
                    self.count(unit.file, held.tally, held.rows)?;
                    self.close(unit, held.part, false).await?;
                }
                Settled::Wrong(held) => {
                    self.forget(held.tally);
                    self.again.push_back(unit);
                }
            }
        }
        Ok(())
    }

    /// Enters what was read from a guessed entry that is right, and passes its rows on.
    fn count(&mut self, file: usize, tally: Tally, rows: Vec<RecordBatch>) -> Result<()> {
        let books = &self.shared.books[file];
        self.shared.records.fetch_add(tally.records, Ordering::Relaxed);
        books.count(tally.records, tally.bad, tally.bytes);
        if tally.bad > 0
            && let Some(error) = books.will_be_too_bad(self.shared.scan.source.spec.max_bad)
        {
            return Err(error);
        }
        if !rows.is_empty() {
            books.give();
            self.ready.extend(rows);
        }
        Ok(())
    }

    /// Gives back the memory of dead letters that are none.
    fn forget(&self, tally: Tally) {
        self.shared.dead_letter_bytes.fetch_sub(tally.dead_letters, Ordering::Relaxed);
    }
}

/// Guesses the entry of a unit that begins at `start`; `None` where it is known.
///
/// The records are walked from the first line on that begins some way in front of it. From a
/// wrong place in the text, walking nearly always finds its way to a right one within a few
/// lines: what is no record costs a line, and a quote closes sooner or later.
async fn guess_entry(shared: &Shared, unit: Unit, start: u64) -> Result<Option<u64>> {
    if shared.stitches[unit.file].1.entry(unit.part).is_some() {
        return Ok(None);
    }
    let size = shared.scan.source.options.split_size.0;
    let from = start.saturating_sub(size / WALK + 1);
    walk(shared, unit, from, First::NextLine, start).await.map(Some)
}

/// Where the first record at or behind `end` begins, as seen from `from` on.
async fn walk(shared: &Shared, unit: Unit, from: u64, first: First, end: u64) -> Result<u64> {
    let planned = &shared.scan.files[unit.file];
    let Fate::Ready(ready) = &planned.fate else {
        return Err(Error::internal("a unit of a file that cannot be read"));
    };
    let layout = text_of(&ready.layout)?;
    let spec = ReadSpec { stop: Some(end), ..shared.spec.clone() };
    let walker = layout
        .walker(&spec)?
        .ok_or_else(|| Error::internal("a file of this format cannot be cut by guessing"))?;
    let split = &planned.split;
    let blob = shared.scan.source.place.open(&split.id, planned.size, &split.version).await?;
    let feed = Feed::Range(RangeFeed::onward(blob, from, end.max(from), false));
    let mut start = unit_start(shared, from);
    start.data_offset = if first == First::Known { from } else { layout.data_offset() };
    (start.first, start.stop) = (first, Some(end));
    let mut text = TextUnit::new(feed, walker, start, &Arc::default());
    let (mut pool, mut out) = (Pool::default(), Decoded::default());
    while text.step(&mut pool, &mut out).await? {
        out.clear();
    }
    Ok(text.offset())
}

/// A unit that begins at `offset`, but for what is known of its records.
fn unit_start(shared: &Shared, offset: u64) -> Start {
    Start {
        offset,
        data_offset: offset,
        first: First::NextLine,
        stop: None,
        chunk: shared.scan.source.options.split_size.as_usize().min(CHUNK),
        max_record_bytes: shared.spec.max_record_bytes,
    }
}

fn text_of(layout: &Layout) -> Result<&Arc<dyn TextLayout>> {
    match layout {
        Layout::Text(layout) => Ok(layout),
        Layout::Blocks(_) => Err(Error::internal("text of a file of blocks")),
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
