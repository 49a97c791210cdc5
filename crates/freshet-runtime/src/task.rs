//! One instance of one stage: takes elements from its inputs, drives its chain of operators, and
//! hands on what they give.
//!
//! A task never waits and knows no thread: whoever owns it calls [`Task::step`] again and again, and
//! may leave it alone while it says that it waits. Everything that it does follows from the order
//! of its inputs, the clock that it is given, and the order of the calls.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use freshet_core::Result;
use futures::future::BoxFuture;

use crate::exchange::{Barrier, ChannelSender, Element, Inbox, Partitioner, Taken};
use crate::figures::{OperatorFigures, TaskFigures};
use crate::monitor::{Board, Meter, PUBLISH_EVERY};
use crate::operator::{Chain, Flow, MAIN, Port, Tail};
use crate::source::{Fed, Feed, Silence, SplitPosition, WatermarkSpec, Watermarks};
use crate::state::Delta;
use crate::time::{ChannelMerge, Merged};
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::stream::{Epoch, EventTime, SinkWriter, Token};

/// Rows that are worked off at once where they arrived in small pieces.
const BATCH_ROWS: usize = 8192;

/// Rows after which what operators hold back is emitted in any case.
const FLUSH_ROWS: usize = 4 * BATCH_ROWS;

/// Microseconds after which what operators hold back is emitted in any case.
const LINGER: i64 = 5_000;

/// Bytes of state that are encoded for a checkpoint before the first batch behind it: well below a
/// millisecond.
const DRAIN_BYTES: usize = 256 << 10;

/// Bytes of state that are encoded between two later batches at most: each time twice as many as before,
/// a few milliseconds in the end. A batch may bring two million bytes of new state; were less taken
/// away, no checkpoint would ever come to its end.
const MOST_DRAINED: usize = 4 << 20;

/// Names a task.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct TaskId {
    /// The stage's place in the plan.
    pub stage: u16,
    /// The instance of it.
    pub index: u16,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stage, self.index)
    }
}

/// What a call of [`Task::step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Something was done; there may be more to do.
    Worked,
    /// Nothing could be done.
    Waiting(Wait),
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Rows.
    Input,
    /// Room in the queue of output `edge`.
    Output {
        /// The edge's place among the task's outputs.
        edge: usize,
    },
    /// Room in the sink.
    Sink,
    /// Nothing any more: the last barrier has passed.
    Finished,
}

/// What a task tells the job's coordinator.
#[derive(Debug)]
pub enum Report {
    /// Its part of a checkpoint.
    Cut(Cut),
    /// All of its splits came to their end.
    Exhausted(TaskId),
}

/// A task's part of a checkpoint.
pub struct Cut {
    /// Whose it is.
    pub task: TaskId,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// How far event time has come.
    pub watermark: EventTime,
    /// What changed in the state of each operator of the chain.
    pub deltas: Vec<Delta>,
    /// Where reading stands.
    pub positions: Vec<SplitPosition>,
    /// The sink's part, still on its way.
    pub staging: Option<BoxFuture<'static, Result<Token>>>,
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut")
            .field("task", &self.task)
            .field("epoch", &self.epoch)
            .field("watermark", &self.watermark)
            .finish_non_exhaustive()
    }
}

/// Where a task's reports go.
pub trait Reporter: fmt::Debug + Send {
    /// Takes a report; never waits.
    fn report(&self, report: Report);
}

/// What a source's task is told.
#[derive(Debug)]
pub enum Command {
    /// Let this barrier pass.
    Barrier(Barrier),
}

/// The commands for one task.
#[derive(Debug, Default)]
pub struct Mailbox(parking_lot::Mutex<VecDeque<Command>>);

impl Mailbox {
    /// Adds a command; whoever owns the task is to be woken.
    pub fn push(&self, command: Command) {
        self.0.lock().push_back(command);
    }

    fn pop(&self) -> Option<Command> {
        self.0.lock().pop_front()
    }
}

/// What a task reads.
#[derive(Debug)]
pub enum Input {
    /// What other tasks send.
    Channels {
        /// The queues.
        inbox: Arc<Inbox>,
        /// Which input of the first operator each channel belongs to.
        inputs: Vec<usize>,
    },
    /// A source.
    Source {
        /// The source's rows.
        feed: Box<dyn Feed>,
        /// How far its splits' time has come.
        watermark: Option<WatermarkSpec>,
        /// What it shares with the source's other tasks.
        silence: Arc<Silence>,
        /// What the coordinator wants.
        mailbox: Arc<Mailbox>,
    },
}

/// An edge to another stage.
#[derive(Debug)]
pub struct Output {
    /// The operator of the chain whose rows these are.
    pub from: usize,
    /// Which of its outputs.
    pub port: Port,
    /// How they are divided.
    pub partitioner: Partitioner,
    /// The instances that the partitioner reaches, in its order.
    pub targets: Vec<ChannelSender>,
}

/// Where a task's rows go.
#[derive(Debug)]
pub struct Outputs {
    /// Other stages.
    pub edges: Vec<Output>,
    /// The sink that takes what the last operator gives.
    pub sink: Option<Box<dyn SinkWriter>>,
    /// The last operator's place.
    last: usize,
    /// Rows that the last operator gave, and their bytes.
    rows_out: u64,
    bytes_out: u64,
}

impl Tail for Outputs {
    fn rows(&mut self, from: usize, port: Port, rows: Rows) -> Result<()> {
        if (from, port) == (self.last, MAIN) {
            self.rows_out += rows.len() as u64;
            self.bytes_out += rows.bytes() as u64;
        }
        for edge in &mut self.edges {
            if (edge.from, edge.port) == (from, port) {
                let targets = &edge.targets;
                edge.partitioner.divide(rows.clone(), |target, rows| {
                    targets[target].send(Element::Rows(rows));
                })?;
            }
        }
        match &mut self.sink {
            Some(sink) if (from, port) == (self.last, MAIN) => sink.write(rows),
            _ => Ok(()),
        }
    }

    fn late(&mut self, from: usize, port: Port, rows: Rows, watermark: EventTime) -> Result<()> {
        if self.edges.iter().all(|edge| (edge.from, edge.port) != (from, port)) {
            return Ok(());
        }
        self.rows(from, port, with_watermark(rows, watermark)?)
    }
}

/// The columns of late rows: their own, then the watermark by which they were late.
pub fn late_schema(rows: &SchemaRef) -> SchemaRef {
    let fields = rows.fields().iter().map(|field| field.as_ref().clone());
    let watermark = DataType::Timestamp(TimeUnit::Microsecond, None);
    let watermark = Field::new("freshet watermark", watermark, false);
    Arc::new(Schema::new(fields.chain([watermark]).collect::<Vec<_>>()))
}

fn with_watermark(rows: Rows, watermark: EventTime) -> Result<Rows> {
    let mut columns = rows.batch().columns().to_vec();
    columns.push(Arc::new(TimestampMicrosecondArray::from_value(watermark.0, rows.len())));
    let batch = RecordBatch::try_new(late_schema(&rows.schema()), columns).map_err(arrow_error)?;
    Ok(rows.with_batch(batch))
}

impl Outputs {
    /// Tells all instances behind.
    fn broadcast(&self, element: &Element) {
        for edge in &self.edges {
            for target in &edge.targets {
                target.send(element.clone());
            }
        }
    }

    fn blocked(&self) -> Option<Wait> {
        for (place, edge) in self.edges.iter().enumerate() {
            // All are asked: each that has no room is to say when it has.
            if edge.targets.iter().filter(|target| !target.has_room()).count() > 0 {
                return Some(Wait::Output { edge: place });
            }
        }
        self.sink.as_ref().is_some_and(|sink| !sink.has_room()).then_some(Wait::Sink)
    }
}

/// One instance of one stage.
pub struct Task {
    id: TaskId,
    chain: Chain,
    input: Reading,
    outputs: Outputs,
    reporter: Box<dyn Reporter>,
    /// How far event time has come, as those behind were told.
    watermark: EventTime,
    /// The chain's first operator has more to give.
    more: bool,
    /// A checkpoint whose state is still being given, and bytes of it that are given next.
    cutting: Option<Cut>,
    drained: usize,
    /// Rows that were worked off since the last flush, and when the first of them was.
    unflushed: Option<(usize, i64)>,
    finished: bool,
    /// Whether the last step could do nothing for want of room, or because it is over.
    is_held: bool,
    has_greeted: bool,
    meter: Meter,
    /// Where figures are published, and when they were.
    board: Arc<Board>,
    published: i64,
    stale: bool,
}

enum Reading {
    Channels(Channels),
    Source(Source),
}

struct Channels {
    inbox: Arc<Inbox>,
    inputs: Vec<usize>,
    /// What was taken from each channel and not worked off.
    taken: Vec<VecDeque<Taken>>,
    watermarks: ChannelMerge,
    /// Which channels have come to the barrier that others have not.
    aligned: Vec<bool>,
    barrier: Option<Barrier>,
    /// The channel whose turn it is.
    turn: usize,
    /// Rows that were taken, and their bytes.
    rows_in: u64,
    bytes_in: u64,
}

struct Source {
    feed: Box<dyn Feed>,
    watermarks: Option<Watermarks>,
    mailbox: Arc<Mailbox>,
    exhausted: bool,
    /// Whether those behind know that there are no splits.
    is_idle: bool,
}

/// How a task begins.
#[derive(Debug)]
pub struct TaskParts {
    /// Its name.
    pub id: TaskId,
    /// Its operators, their state restored.
    pub chain: Chain,
    /// What it reads.
    pub input: Input,
    /// Where its rows go.
    pub edges: Vec<Output>,
    /// Its sink.
    pub sink: Option<Box<dyn SinkWriter>>,
    /// Whom it tells.
    pub reporter: Box<dyn Reporter>,
    /// How far event time had come at the checkpoint that it was restored from.
    pub watermark: EventTime,
    /// Where its figures are published.
    pub board: Arc<Board>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Task {
    /// A task of these parts.
    pub fn new(parts: TaskParts) -> Self {
        let TaskParts { id, chain, input, edges, sink, reporter, watermark, board } = parts;
        let input = match input {
            Input::Channels { inbox, inputs } => {
                let channels = inbox.channels();
                Reading::Channels(Channels {
                    inbox,
                    inputs,
                    taken: (0..channels).map(|_| VecDeque::new()).collect(),
                    watermarks: ChannelMerge::restored(channels, watermark),
                    aligned: vec![false; channels],
                    barrier: None,
                    turn: 0,
                    rows_in: 0,
                    bytes_in: 0,
                })
            }
            Input::Source { feed, watermark: spec, silence, mailbox } => Reading::Source(Source {
                feed,
                watermarks: spec.map(|spec| Watermarks::new(spec, silence, watermark)),
                mailbox,
                exhausted: false,
                is_idle: false,
            }),
        };
        let outputs =
            Outputs { edges, sink, last: chain.len().saturating_sub(1), rows_out: 0, bytes_out: 0 };
        Self {
            id,
            chain,
            input,
            outputs,
            reporter,
            watermark,
            more: false,
            cutting: None,
            drained: DRAIN_BYTES,
            unflushed: None,
            finished: false,
            is_held: false,
            has_greeted: false,
            meter: Meter::default(),
            board,
            published: i64::MIN,
            stale: true,
        }
    }

    /// Its name.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Does a bounded piece of work, at the time of day `now` in microseconds since 1970.
    pub fn step(&mut self, now: i64) -> Result<Progress> {
        let progress = self.try_step(now)?;
        self.is_held = matches!(
            progress,
            Progress::Waiting(Wait::Output { .. } | Wait::Sink | Wait::Finished)
        );
        Ok(progress)
    }

    fn try_step(&mut self, now: i64) -> Result<Progress> {
        self.greet();
        let drained = self.drain()?;
        if self.finished {
            return Ok(if drained { Progress::Worked } else { Progress::Waiting(Wait::Finished) });
        }
        if let Some(wait) = self.outputs.blocked() {
            return Ok(if drained { Progress::Worked } else { Progress::Waiting(wait) });
        }
        if self.more {
            self.more = self.chain.resume(&mut self.outputs)? == Flow::More;
            return Ok(Progress::Worked);
        }
        if self.chain.deadline().is_some_and(|deadline| deadline <= now) {
            self.chain.on_time(now, &mut self.outputs)?;
            return Ok(Progress::Worked);
        }
        let due = |(rows, since): (usize, i64)| rows >= FLUSH_ROWS || now >= since + LINGER;
        if self.unflushed.is_some_and(due) {
            self.flush()?;
        }
        if self.read(now)? {
            return Ok(Progress::Worked);
        }
        // Nothing is there to wait for: what was held back goes out.
        if self.unflushed.is_some() {
            self.flush()?;
            return Ok(Progress::Worked);
        }
        Ok(if drained { Progress::Worked } else { Progress::Waiting(Wait::Input) })
    }

    /// Tells those behind how far event time had come at the checkpoint that it begins with: they may
    /// have waited for others, and it may be that no later time ever comes.
    fn greet(&mut self) {
        if !std::mem::replace(&mut self.has_greeted, true) && self.watermark > EventTime::MIN {
            self.outputs.broadcast(&Element::Watermark(self.watermark));
        }
    }

    /// The time of day at which there is something to do though nothing arrives.
    pub fn deadline(&self) -> Option<i64> {
        // Whoever makes room wakes it; until then there is nothing that time could bring.
        if self.is_held {
            return None;
        }
        let (idle, feed) = match &self.input {
            Reading::Source(source) => {
                let watermarks = source.watermarks.as_ref().filter(|_| !source.exhausted);
                let idle = watermarks.and_then(Watermarks::deadline);
                (idle, source.feed.deadline())
            }
            Reading::Channels(_) => (None, None),
        };
        [self.chain.deadline(), idle, feed].into_iter().flatten().min()
    }

    /// The operators, for their figures.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// A call of [`Self::step`] began and ended at these times, in microseconds since 1970, and came
    /// to `progress`. Publishes figures where it is time.
    pub fn stepped(&mut self, progress: Progress, begun: i64, ended: i64) {
        self.stale |= progress == Progress::Worked;
        self.meter.stepped(progress, begun, ended);
        if ended >= self.published.saturating_add(PUBLISH_EVERY) {
            self.publish(ended);
        }
    }

    /// Whether it has worked since it published its figures.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Publishes figures: before its owner leaves it alone, since nobody knows for how long.
    pub fn publish(&mut self, now: i64) {
        (self.published, self.stale) = (now, false);
        let figures = self.figures();
        let waits = match &self.input {
            Reading::Source(source) => source.feed.waits(),
            Reading::Channels(_) => Vec::new(),
        };
        self.board.publish(figures, &self.meter, waits);
    }

    fn figures(&self) -> TaskFigures {
        let operators = self.chain.figures().map(|(rows_in, counts, size)| OperatorFigures {
            rows_in,
            filtered: counts.filtered,
            late: counts.late,
            deduplicated: counts.deduplicated,
            unmatched: counts.unmatched,
            state_bytes: size.bytes,
            state_keys: size.keys,
        });
        let mut figures = TaskFigures {
            rows_out: self.outputs.rows_out,
            bytes_out: self.outputs.bytes_out,
            watermark: Some(self.watermark).filter(|time| *time != EventTime::MIN),
            operators: operators.collect(),
            ..TaskFigures::default()
        };
        match &self.input {
            Reading::Channels(channels) => {
                (figures.rows_in, figures.bytes_in) = (channels.rows_in, channels.bytes_in);
                figures.queue = Some(channels.inbox.figures());
                figures.is_idle = channels.watermarks.is_idle();
            }
            Reading::Source(source) => source.enter(&mut figures),
        }
        figures
    }

    fn flush(&mut self) -> Result<()> {
        self.unflushed = None;
        self.chain.flush(&mut self.outputs)
    }

    /// Takes up one piece of what there is to read; `false` where there is nothing.
    fn read(&mut self, now: i64) -> Result<bool> {
        match &mut self.input {
            Reading::Channels(channels) => match channels.next()? {
                Some((channel, element)) => {
                    self.take(channel, element, now)?;
                    Ok(true)
                }
                None => Ok(false),
            },
            Reading::Source(_) => self.read_source(now),
        }
    }

    fn take(&mut self, channel: usize, element: Element, now: i64) -> Result<()> {
        let Reading::Channels(channels) = &mut self.input else {
            unreachable!("a source has no channels")
        };
        match element {
            Element::Rows(rows) => {
                let input = channels.inputs[channel];
                self.work(input, rows, now)
            }
            Element::Watermark(watermark) => {
                let merged = channels.watermarks.advance(channel, watermark);
                self.on_merged(merged)
            }
            Element::Idle => {
                let merged = channels.watermarks.idle(channel);
                self.on_merged(merged)
            }
            Element::Barrier(barrier) => match channels.align(channel, barrier) {
                true => {
                    let merged = channels.watermarks.settle();
                    self.on_merged(merged)?;
                    self.on_barrier(barrier, Vec::new())
                }
                false => Ok(()),
            },
        }
    }

    fn work(&mut self, input: usize, rows: Rows, now: i64) -> Result<()> {
        let (count, since) = self.unflushed.unwrap_or((0, now));
        let count = count + rows.len();
        self.more = self.chain.on_rows(input, rows, &mut self.outputs)? == Flow::More;
        self.unflushed = self.chain.holds_back().then_some((count, since));
        Ok(())
    }

    fn on_merged(&mut self, merged: Merged) -> Result<()> {
        if let Some(watermark) = merged.watermark {
            self.unflushed = None;
            let watermark = self.chain.on_watermark(watermark, &mut self.outputs)?;
            if watermark > self.watermark {
                self.watermark = watermark;
                if let Some(sink) = &mut self.outputs.sink {
                    sink.on_watermark(watermark)?;
                }
                self.outputs.broadcast(&Element::Watermark(watermark));
            }
        }
        if merged.is_idle {
            self.outputs.broadcast(&Element::Idle);
        }
        Ok(())
    }

    fn on_barrier(&mut self, barrier: Barrier, positions: Vec<SplitPosition>) -> Result<()> {
        self.flush()?;
        // The one before is drained long ago: a barrier is let in once all parts of the last were there.
        while self.drain()? {}
        self.chain.freeze();
        let staging = match &mut self.outputs.sink {
            Some(sink) => Some(sink.cut(barrier.epoch)?),
            None => None,
        };
        self.outputs.broadcast(&Element::Barrier(barrier));
        self.cutting = Some(Cut {
            task: self.id,
            epoch: barrier.epoch,
            watermark: self.watermark,
            deltas: (0..self.chain.len()).map(|_| Delta::default()).collect(),
            positions,
            staging,
        });
        self.drained = DRAIN_BYTES;
        self.finished = barrier.last;
        Ok(())
    }

    /// Gives a piece of the state of the checkpoint that is being made; `false` where there is none.
    fn drain(&mut self) -> Result<bool> {
        let Some(cut) = &mut self.cutting else { return Ok(false) };
        let bytes = self.drained;
        self.drained = (bytes * 2).min(MOST_DRAINED);
        if self.chain.drain(bytes, &mut cut.deltas)? == Flow::Done {
            let cut = self.cutting.take().expect("it is being cut");
            self.reporter.report(Report::Cut(cut));
        }
        Ok(true)
    }

    fn read_source(&mut self, now: i64) -> Result<bool> {
        let Reading::Source(source) = &mut self.input else {
            unreachable!("only called for sources")
        };
        if let Some(Command::Barrier(barrier)) = source.mailbox.pop() {
            let positions = source.feed.positions();
            self.on_barrier(barrier, positions)?;
            return Ok(true);
        }
        if let Some(watermarks) = &mut source.watermarks {
            watermarks.extend(source.feed.splits(), now);
        }
        if source.feed.splits() == 0 && !std::mem::replace(&mut source.is_idle, true) {
            // Nobody waits for a task that has nothing to read.
            self.outputs.broadcast(&Element::Idle);
            return Ok(true);
        }
        match source.feed.next(now)? {
            Fed::Rows { split, rows, dead } => {
                let mut merged = Merged::SAME;
                if let Some(watermarks) = &mut source.watermarks {
                    watermarks.extend(split + 1, now);
                    for rows in &rows {
                        let later = watermarks.observe(split, rows.batch(), now)?;
                        merged = merged.then(later);
                    }
                    // A task that always has rows of one split would never hear of the others' silence.
                    if watermarks.deadline().is_some_and(|deadline| deadline <= now) {
                        let feed = &source.feed;
                        merged = merged.then(watermarks.tick(now, |split| feed.has_backlog(split)));
                    }
                }
                if let Some(dead) = dead {
                    self.outputs.rows(0, crate::source::DEAD_LETTERS, dead)?;
                }
                for rows in rows {
                    self.work(0, rows, now)?;
                    while self.more {
                        self.more = self.chain.resume(&mut self.outputs)? == Flow::More;
                    }
                }
                self.on_merged(merged)?;
                Ok(true)
            }
            Fed::Nothing => {
                let merged = match &mut source.watermarks {
                    Some(watermarks) => {
                        watermarks.tick(now, |split| source.feed.has_backlog(split))
                    }
                    None => Merged::SAME,
                };
                self.on_merged(merged)?;
                Ok(merged != Merged::SAME)
            }
            Fed::End if source.exhausted => Ok(false),
            Fed::End => {
                source.exhausted = true;
                self.on_merged(EventTime::MAX.into())?;
                self.reporter.report(Report::Exhausted(self.id));
                Ok(true)
            }
        }
    }
}

impl Source {
    /// Enters what is known of its splits.
    fn enter(&self, figures: &mut TaskFigures) {
        figures.splits = self.feed.figures();
        figures.is_idle = self.watermarks.as_ref().is_some_and(Watermarks::is_idle);
        figures.alerts = self.feed.alerts();
        for (number, split) in figures.splits.iter_mut().enumerate() {
            figures.rows_in += split.records;
            figures.bytes_in += split.bytes;
            figures.dead_letters += split.dead_letters;
            figures.skipped += split.skipped;
            if let Some((time, is_idle)) =
                self.watermarks.as_ref().and_then(|all| all.split(number))
            {
                split.watermark = Some(time).filter(|time| *time != EventTime::MIN);
                split.is_idle = is_idle;
            }
        }
    }
}

impl Channels {
    /// The next element of a channel that is not held up by a barrier.
    fn next(&mut self) -> Result<Option<(usize, Element)>> {
        let count = self.taken.len();
        for turn in (0..count).map(|offset| (self.turn + offset) % count) {
            if self.aligned[turn] {
                continue;
            }
            let taken = &mut self.taken[turn];
            if taken.is_empty() {
                self.inbox.take(turn, taken);
            }
            let Some(Taken { element, bytes }) = taken.pop_front() else { continue };
            self.turn = (turn + 1) % count;
            let Element::Rows(rows) = element else { return Ok(Some((turn, element))) };
            let (rows, bytes) = coalesce(rows, bytes, taken)?;
            self.rows_in += rows.len() as u64;
            self.bytes_in += bytes as u64;
            self.inbox.release(turn, rows.len(), bytes);
            return Ok(Some((turn, Element::Rows(rows))));
        }
        Ok(None)
    }

    /// Holds `channel` until all have come to the barrier; `true` once they have.
    fn align(&mut self, channel: usize, barrier: Barrier) -> bool {
        let begun = *self.barrier.get_or_insert(barrier);
        assert_eq!(begun, barrier, "barriers come in the same order on all channels");
        assert!(!self.aligned[channel], "a barrier comes once on each channel");
        self.aligned[channel] = true;
        let all = self.aligned.iter().all(|aligned| *aligned);
        if all {
            self.barrier = None;
            self.aligned.fill(false);
        }
        all
    }
}

/// Joins rows with those that wait behind them, where pieces are small.
fn coalesce(first: Rows, bytes: usize, taken: &mut VecDeque<Taken>) -> Result<(Rows, usize)> {
    let fits = |rows: usize, taken: &VecDeque<Taken>| match taken.front() {
        Some(Taken { element: Element::Rows(next), .. }) => rows + next.len() <= BATCH_ROWS,
        _ => false,
    };
    if !fits(first.len(), taken) {
        return Ok((first, bytes));
    }
    let (mut count, mut bytes) = (first.len(), bytes);
    let schema = first.schema();
    let mut parts = vec![first];
    while fits(count, taken) {
        if let Some(Taken { element: Element::Rows(next), bytes: more }) = taken.pop_front() {
            count += next.len();
            bytes += more;
            parts.push(next);
        }
    }
    Ok((Rows::concat(&schema, &parts)?, bytes))
}
