//! A connector's stream as a source of jobs: fetching beside the workers, decoding on them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Poll, Waker};

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use freshet_core::error::Error;
use freshet_core::format::Decoding;
use freshet_core::record::{Decoded, Reject};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::source::Position;
use freshet_core::stream::{
    Block, BlockDecoder, Fetcher, Partition, Start, StreamCorrections, StreamSource, Wait, Wake,
};
use freshet_core::{Result, error::code};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::corrections::{Corrected, Dealer, Inbox, is_of_corrections};
use super::threshold::{Threshold, Watch};
use super::{Fed, Feed, SplitPosition};
use crate::executor::Io;
use crate::figures::SplitFigures;
use crate::plan::JobSource;

/// Bytes that are fetched ahead for one task.
const AHEAD: usize = 16 << 20;

/// The longest wait between two tries to fetch, in microseconds; the first is a hundredth of it.
const LONGEST_WAIT: i64 = 10_000_000;

/// Waits between two tries to decode a block whose records need something that is being fetched, in
/// microseconds.
const SHORTEST_HOLD: i64 = 5_000;
const LONGEST_HOLD: i64 = 200_000;

/// A stream that a job reads.
#[derive(Debug, Clone)]
pub struct StreamInput {
    /// What is read.
    pub source: Arc<dyn StreamSource>,
    /// Its columns that are given.
    pub projection: Vec<usize>,
    /// Where partitions begin that no checkpoint knows.
    pub start: Start,
    /// Where fetching runs.
    pub io: Arc<dyn Io>,
    /// How many bad records there may be; any number where it is not set.
    pub threshold: Option<Threshold>,
    /// What is read in place of bad records.
    pub corrections: Option<Arc<dyn StreamCorrections>>,
}

/// The columns of dead letters as they leave a source's task: `partition`, `position`, `line`,
/// `column`, `rule`, `message` and `raw`.
pub fn dead_letter_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("partition", DataType::Utf8, false),
        Field::new("position", DataType::Int64, false),
        Field::new("line", DataType::Int64, false),
        Field::new("column", DataType::Utf8, true),
        Field::new("rule", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
        Field::new("raw", DataType::Binary, false),
    ]))
}

#[async_trait]
impl JobSource for StreamInput {
    async fn open(
        &self,
        positions: &BTreeMap<String, Position>,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>> {
        let mut feeds: Vec<Box<dyn Feed>> = Vec::new();
        let watch = self.threshold.clone().map(|threshold| Arc::new(Watch::new(threshold)));
        let (inboxes, first) = self.deal(wakes).await?;
        for (task, wake) in wakes.iter().enumerate() {
            let shared = Arc::new(Shared { state: Mutex::default(), wake: Arc::clone(wake) });
            let mut fetching = Fetching {
                input: self.clone(),
                task,
                tasks: wakes.len(),
                known: positions.clone(),
                shared: Arc::clone(&shared),
                fetcher: self.source.fetcher().await?,
            };
            // What is there now is known before the first row: the job's time waits for all of it.
            fetching.discover().await?;
            self.io.spawn(Box::pin(fetching.run()));
            let decoder = self.source.decoder(&self.projection)?;
            let corrected = match inboxes.get(task) {
                None => None,
                Some(inbox) => {
                    let (inbox, projection) = (Arc::clone(inbox), &self.projection);
                    Some(Corrected::new(&self.source, projection, inbox, positions, first)?)
                }
            };
            let source = Arc::clone(&self.source);
            feeds.push(Box::new(StreamFeed {
                ends: Box::new(move || source.ends()),
                shared,
                decoder,
                splits: Vec::new(),
                held: None,
                corrected,
                watch: watch.clone(),
                tells: task == 0,
            }));
        }
        Ok(feeds)
    }

    async fn publish(&self, positions: &BTreeMap<String, Position>) -> Result<()> {
        let positions = positions.iter().filter(|(split, _)| !is_of_corrections(split));
        let positions = positions.map(|(split, at)| (Partition(split.clone()), *at));
        self.source.publish(&positions.collect()).await
    }

    fn waits(&self) -> Vec<Wait> {
        self.source.waits()
    }

    fn ends(&self) -> BTreeMap<String, Position> {
        self.source.ends().into_iter().map(|(partition, end)| (partition.0, end)).collect()
    }
}

impl StreamInput {
    /// Inboxes of all tasks with the corrections that there are, where the source has any, and the
    /// number of the last one; more are handed on as they are given.
    async fn deal(&self, wakes: &[Arc<dyn Wake>]) -> Result<(Vec<Arc<Inbox>>, u64)> {
        let Some(corrections) = &self.corrections else { return Ok((Vec::new(), 0)) };
        let inboxes: Vec<Arc<Inbox>> = wakes.iter().map(Inbox::new).collect();
        let tasks = wakes.len();
        let mut dealer = Dealer {
            corrections: Arc::clone(corrections),
            inboxes: inboxes.iter().map(Arc::downgrade).collect(),
            owner: move |partition: &Partition| owner(&partition.0, tasks),
            last: 0,
        };
        dealer.look().await?;
        let first = dealer.last;
        self.io.spawn(Box::pin(dealer.run(Arc::clone(&self.io))));
        Ok((inboxes, first))
    }
}

/// The task that reads a partition, which depends on nothing but its name. Partitions with one name
/// and a number behind it are dealt out in turn, so that no task has two more than another.
pub(super) fn owner(partition: &str, tasks: usize) -> usize {
    let name = partition.trim_end_matches(|byte: char| byte.is_ascii_digit());
    let number = partition[name.len()..].parse().unwrap_or(0_u64);
    (xxh3_64(name.as_bytes()).wrapping_add(number) % tasks as u64) as usize
}

/// What fetching and decoding share.
struct Shared {
    state: Mutex<State>,
    wake: Arc<dyn Wake>,
}

#[derive(Default)]
struct State {
    blocks: VecDeque<Block>,
    bytes: usize,
    /// Partitions in the order in which they were added, and where each begins, as far as is known.
    partitions: Vec<(Partition, Option<Position>)>,
    /// Whoever fetches waits for room.
    waiting: Option<Waker>,
    ended: bool,
    failed: Option<Error>,
    /// Why fetching is tried again later.
    wait: Option<Wait>,
    /// Nobody decodes any more.
    closed: bool,
}

/// Fetches the blocks of one task.
struct Fetching {
    input: StreamInput,
    task: usize,
    tasks: usize,
    /// Where a checkpoint says that partitions go on.
    known: BTreeMap<String, Position>,
    shared: Arc<Shared>,
    fetcher: Box<dyn Fetcher>,
}

impl Fetching {
    /// Adds the partitions of this task that are new.
    async fn discover(&mut self) -> Result<()> {
        for partition in self.input.source.partitions().await? {
            let owner = owner(&partition.0, self.tasks);
            let is_new = {
                let state = self.shared.state.lock();
                state.partitions.iter().all(|(known, _)| *known != partition)
            };
            if owner != self.task || !is_new {
                continue;
            }
            let start = match self.known.get(&partition.0) {
                Some(position) => Start::At(*position),
                None => self.input.start,
            };
            let begins = self.fetcher.add(&partition, start).await?;
            self.shared.state.lock().partitions.push((partition, begins));
        }
        Ok(())
    }

    async fn run(mut self) {
        if let Err(error) = self.fetch_all().await {
            self.shared.state.lock().failed = Some(error);
        }
        self.shared.wake.wake();
    }

    async fn fetch_all(&mut self) -> Result<()> {
        use futures::FutureExt;
        let (io, shared) = (Arc::clone(&self.input.io), Arc::clone(&self.shared));
        let interval = self.input.source.discovery_interval();
        let interval = interval.map(|span| i64::try_from(span.as_micros()).unwrap_or(i64::MAX));
        let later = || match interval {
            Some(interval) => io.sleep(interval).fuse(),
            None => futures::future::pending().boxed().fuse(),
        };
        let mut look = later();
        let mut wait = LONGEST_WAIT / 100;
        loop {
            if !shared.room().await {
                return Ok(());
            }
            let fetched = futures::select_biased! {
                fetched = self.fetcher.fetch().fuse() => Some(fetched),
                () = look => None,
            };
            match fetched {
                None => {
                    look = later();
                    // New partitions can wait; the next look finds them.
                    if let Err(error) = self.discover().await {
                        tracing::warn!(%error, "could not look for new partitions");
                    }
                }
                Some(Ok(Some(block))) => {
                    wait = LONGEST_WAIT / 100;
                    let mut state = self.shared.state.lock();
                    state.wait = None;
                    state.bytes += block.bytes.len();
                    state.blocks.push_back(block);
                    drop(state);
                    self.shared.wake.wake();
                }
                Some(Ok(None)) => {
                    self.shared.state.lock().ended = true;
                    return Ok(());
                }
                Some(Err(error)) if error.is_retryable() => {
                    tracing::warn!(wait_ms = wait / 1000, %error, "could not fetch, will try again");
                    self.shared.tries_again(&error);
                    io.sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }
}

impl Shared {
    /// Notes that fetching failed and will be tried again.
    fn tries_again(&self, error: &Error) {
        let mut state = self.state.lock();
        // Since when is entered by whoever decodes, who knows the time.
        let since = state.wait.as_ref().map_or(0, |wait| wait.since);
        state.wait = Some(Wait { what: "fetching".to_owned(), reason: error.chain(), since });
        drop(state);
        self.wake.wake();
    }

    /// Waits until there is room; `false` where nobody decodes any more.
    async fn room(&self) -> bool {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.closed {
                return Poll::Ready(false);
            }
            if state.bytes < AHEAD {
                return Poll::Ready(true);
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Where partitions end, as far as is known.
type Ends = Box<dyn Fn() -> BTreeMap<Partition, Position> + Send>;

/// Decodes what was fetched.
pub(super) struct StreamFeed {
    ends: Ends,
    shared: Arc<Shared>,
    decoder: Box<dyn BlockDecoder>,
    splits: Vec<Split>,
    held: Option<Held>,
    corrected: Option<Corrected>,
    watch: Option<Arc<Watch>>,
    /// Whether this feed is the one that tells of alerts.
    tells: bool,
}

/// A block that cannot be decoded yet.
struct Held {
    block: Block,
    /// The time of day at which it is tried again, in microseconds since 1970.
    again: i64,
    /// The wait before that.
    wait: i64,
}

/// A partition as far as it was decoded.
#[derive(Debug)]
struct Split {
    partition: Partition,
    /// Where reading stands; `None` where that is not known before the first block.
    position: Option<Position>,
    read: Read,
}

/// What was decoded of a partition.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    dead_letters: u64,
    skipped: u64,
    bytes: u64,
    written: Option<i64>,
}

impl Read {
    fn count(&mut self, decoded: &Decoded) {
        self.records += decoded.records;
        self.dead_letters += decoded.rejects.len() as u64;
        self.skipped += decoded.filtered;
    }
}

impl fmt::Debug for StreamFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamFeed").field("splits", &self.splits).finish_non_exhaustive()
    }
}

impl StreamFeed {
    /// Takes up the partitions that were added.
    fn learn(&mut self) {
        let state = self.shared.state.lock();
        for (partition, position) in &state.partitions[self.splits.len()..] {
            let position = *position;
            self.decoder.add(partition);
            let partition = partition.clone();
            self.splits.push(Split { partition, position, read: Read::default() });
        }
    }

    /// The next block, unless there is none now.
    fn take(&mut self) -> Result<Option<Block>, Fed> {
        let mut state = self.shared.state.lock();
        match state.blocks.pop_front() {
            Some(block) => {
                state.bytes -= block.bytes.len();
                if let Some(waiting) = state.waiting.take() {
                    waiting.wake();
                }
                Ok(Some(block))
            }
            None if state.ended => Err(Fed::End),
            None => Ok(None),
        }
    }
}

impl StreamFeed {
    /// Records that were read before, corrected.
    fn correct(&mut self, now: i64) -> Result<Option<Fed>> {
        let Some(corrected) = &mut self.corrected else { return Ok(None) };
        let splits = &mut self.splits;
        if splits.is_empty() {
            // Nobody would wait for their time.
            return Ok(None);
        }
        let stands = |partition: &Partition| {
            splits.iter().find(|split| split.partition == *partition)?.position
        };
        let mut decoded = Decoded::default();
        let Some(partition) = corrected.next(now, stands, &mut decoded)? else { return Ok(None) };
        // Of a partition that is gone, they are told with another one.
        let number = splits.iter().position(|split| split.partition == partition).unwrap_or(0);
        splits[number].read.count(&decoded);
        fed(number, &partition, decoded).map(Some)
    }
}

/// What was decoded of a partition, the split of this number.
fn fed(split: usize, partition: &Partition, decoded: Decoded) -> Result<Fed> {
    let dead = match decoded.rejects.as_slice() {
        [] => None,
        rejects => Some(Rows::inserts(dead_letters(partition, rejects)?)),
    };
    let mut kinds = decoded.kinds.into_iter();
    let rows = decoded.batches.into_iter().map(|batch| match kinds.next() {
        Some(kinds) => Rows::changes(batch, kinds),
        None => Rows::inserts(batch),
    });
    Ok(Fed::Rows { split, rows: rows.collect(), dead })
}

impl Feed for StreamFeed {
    fn splits(&self) -> usize {
        self.shared.state.lock().partitions.len()
    }

    fn next(&mut self, now: i64) -> Result<Fed> {
        {
            let mut state = self.shared.state.lock();
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if let Some(wait) = state.wait.as_mut().filter(|wait| wait.since == 0) {
                wait.since = now;
            }
        }
        self.learn();
        if let Some(fed) = self.correct(now)? {
            return Ok(fed);
        }
        if self.corrected.as_ref().is_some_and(Corrected::is_waiting) {
            return Ok(Fed::Nothing);
        }
        let (block, waited) = match self.held.take() {
            Some(held) if held.again > now => {
                self.held = Some(held);
                return Ok(Fed::Nothing);
            }
            Some(held) => (held.block, held.wait),
            None => match self.take() {
                Ok(Some(block)) => (block, 0),
                Ok(None) => return Ok(Fed::Nothing),
                Err(end) => return Ok(end),
            },
        };
        let mut decoded = Decoded::default();
        let mut decoding = self.decoder.decode(&block, &mut decoded)?;
        if let (Decoding::Done, Some(corrected)) = (decoding, &mut self.corrected)
            && let Some(split) = self.splits.get(block.partition)
        {
            decoding = corrected.mend(&split.partition, &mut decoded)?;
        }
        if decoding == Decoding::Waits {
            let wait = (waited * 2).clamp(SHORTEST_HOLD, LONGEST_HOLD);
            self.held = Some(Held { block, again: now + wait, wait });
            return Ok(Fed::Nothing);
        }
        if !decoded.balances() {
            return Err(Error::internal("a block's records are not all accounted for"));
        }
        if let Some(watch) = &self.watch {
            watch.count(now, &decoded)?;
        }
        let Split { partition, position, read } = self
            .splits
            .get_mut(block.partition)
            .ok_or_else(|| Error::internal("a block is of a partition that was not added"))?;
        *position = Some(block.next);
        read.count(&decoded);
        read.bytes += block.bytes.len() as u64;
        read.written = block.written.or(read.written);
        fed(block.partition, partition, decoded)
    }

    fn deadline(&self) -> Option<i64> {
        let held = self.held.as_ref().map(|held| held.again);
        let corrected = self.corrected.as_ref().and_then(Corrected::deadline);
        held.into_iter().chain(corrected).min()
    }

    fn has_backlog(&self, split: usize) -> bool {
        let held = self.held.as_ref().is_some_and(|held| held.block.partition == split);
        if held || self.shared.state.lock().blocks.iter().any(|block| block.partition == split) {
            return true;
        }
        let Some(split) = self.splits.get(split) else { return false };
        let end = (self.ends)().get(&split.partition).copied();
        split.position.is_some_and(|position| end.is_some_and(|end| position < end))
    }

    fn positions(&self) -> Vec<SplitPosition> {
        let stands = self.splits.iter().filter_map(|split| {
            Some(SplitPosition { split: split.partition.0.clone(), position: split.position? })
        });
        let mut positions: Vec<SplitPosition> = stands.collect();
        if let Some(corrected) = &self.corrected {
            let read = self.splits.iter().filter(|split| split.position.is_some());
            positions.extend(corrected.positions(read.map(|split| &split.partition)));
        }
        positions
    }

    fn figures(&self) -> Vec<SplitFigures> {
        let mut ahead = vec![false; self.splits.len()];
        for block in &self.shared.state.lock().blocks {
            if let Some(ahead) = ahead.get_mut(block.partition) {
                *ahead = true;
            }
        }
        let figures = self.splits.iter().zip(ahead).map(|(split, fetched_ahead)| SplitFigures {
            split: split.partition.0.clone(),
            position: split.position.map(|position| position.0),
            records: split.read.records,
            dead_letters: split.read.dead_letters,
            skipped: split.read.skipped,
            bytes: split.read.bytes,
            written: split.read.written,
            fetched_ahead,
            ..SplitFigures::default()
        });
        figures.collect()
    }

    fn waits(&self) -> Vec<Wait> {
        self.shared.state.lock().wait.iter().cloned().collect()
    }

    fn alerts(&self) -> u64 {
        self.watch.as_ref().filter(|_| self.tells).map_or(0, |watch| watch.alerts())
    }
}

impl Drop for StreamFeed {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }
}

fn dead_letters(partition: &Partition, rejects: &[Reject]) -> Result<RecordBatch> {
    let number = |number: u64| {
        i64::try_from(number)
            .map_err(|_| Error::new(code::LIMIT, "a position is beyond all numbers"))
    };
    let positions = rejects.iter().map(|reject| number(reject.offset));
    let lines = rejects.iter().map(|reject| number(reject.line));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![partition.0.as_str(); rejects.len()])),
        Arc::new(Int64Array::from(positions.collect::<Result<Vec<_>>>()?)),
        Arc::new(Int64Array::from(lines.collect::<Result<Vec<_>>>()?)),
        Arc::new(rejects.iter().map(|reject| reject.column.as_deref()).collect::<StringArray>()),
        Arc::new(StringArray::from_iter_values(rejects.iter().map(|reject| reject.rule.as_str()))),
        Arc::new(StringArray::from_iter_values(rejects.iter().map(|reject| &reject.message))),
        Arc::new(BinaryArray::from_iter_values(rejects.iter().map(|reject| &reject.raw))),
    ];
    RecordBatch::try_new(dead_letter_schema(), columns).map_err(arrow_error)
}

#[cfg(test)]
pub(super) mod tests;
