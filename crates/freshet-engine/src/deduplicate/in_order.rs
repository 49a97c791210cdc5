//! Deduplication of rows that arrive in order, or whose order does not matter: the first of a key
//! passes, the others do not.
//!
//! Each input is read by a task of its own, some batches ahead, which makes their keys as well; one
//! stream takes their batches in the order of their rows. Batches of several inputs rarely overlap (a worker reads a piece of a
//! file at a time), so that almost all pass uncut.
//!
//! Once the set of keys cannot grow any more it stays as it is: rows whose keys it has are dropped
//! as before, the others go to disk, divided by key, and each part is read by itself at the end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{OwnedRow, Rows};
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use tokio::sync::mpsc;

use super::keys::{KeyEncoder, Keys};
use super::positions::Positions;
use super::set::{Inserted, KeySet};
use super::spill::{Disk, Division, Part};

/// Batches that an input may be ahead: about two pieces of a file.
const AHEAD: usize = 32;

/// The first rows of all inputs together.
pub fn stream(
    inputs: Vec<SendableRecordBatchStream>,
    order: &LexOrdering,
    disk: Disk,
) -> DfResult<SendableRecordBatchStream> {
    let inputs = inputs
        .into_iter()
        .map(|input| Input::start(input, order.clone(), Arc::clone(&disk.keys)))
        .collect::<DfResult<Vec<_>>>()?;
    let positions = Positions::new(order.clone(), &disk.schema)?;
    Ok(Deduplication::run(Source::Inputs(inputs, positions), disk))
}

/// The first rows of one input, as they come.
pub fn any(input: SendableRecordBatchStream, disk: Disk) -> SendableRecordBatchStream {
    Deduplication::run(Source::Rows(input), disk)
}

/// A batch, its keys, and where it lies in the order.
struct Located {
    batch: RecordBatch,
    keys: Arc<Keys>,
    first: OwnedRow,
    last: OwnedRow,
}

/// Some of the rows of a batch.
struct Piece {
    batch: RecordBatch,
    /// Of the whole batch.
    keys: Arc<Keys>,
    rows: Range<usize>,
}

/// One input, read ahead.
struct Input {
    /// The next batch and the row at which it goes on.
    head: Option<(Located, usize)>,
    /// Positions of all rows of the head, once they were needed.
    rows: Option<Rows>,
    batches: mpsc::Receiver<DfResult<Located>>,
    ended: bool,
    task: SpawnedTask<()>,
}

impl Input {
    fn start(
        mut input: SendableRecordBatchStream,
        order: LexOrdering,
        keys: Arc<KeyEncoder>,
    ) -> DfResult<Self> {
        let positions = Positions::new(order, &input.schema())?;
        let (sender, batches) = mpsc::channel(AHEAD);
        let task = SpawnedTask::spawn(async move {
            while let Some(batch) = input.next().await {
                let located = batch.and_then(|batch| locate(batch, &positions, &keys)).transpose();
                if let Some(located) = located {
                    let failed = located.is_err();
                    if sender.send(located).await.is_err() || failed {
                        return;
                    }
                    // The receiver was woken into this worker's slot for what runs next, from which
                    // no other worker can take it: let it run.
                    tokio::task::yield_now().await;
                }
            }
        });
        Ok(Self { head: None, rows: None, batches, ended: false, task })
    }

    /// Waits for a batch, unless there is one or none is left.
    async fn fill(&mut self) -> DfResult<()> {
        if self.head.is_some() || self.ended {
            return Ok(());
        }
        match self.batches.recv().await {
            Some(located) => self.head = Some((located?, 0)),
            None => {
                self.ended = true;
                // A panic of the task must not look like the end of its rows.
                (&mut self.task)
                    .await
                    .map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?;
            }
        }
        Ok(())
    }
}

fn locate(
    batch: RecordBatch,
    positions: &Positions,
    keys: &KeyEncoder,
) -> DfResult<Option<Located>> {
    let Some(end) = batch.num_rows().checked_sub(1) else { return Ok(None) };
    let first = positions.of(&batch.slice(0, 1))?.row(0).owned();
    let last = positions.of(&batch.slice(end, 1))?.row(0).owned();
    let keys = Arc::new(keys.encode(&batch)?);
    Ok(Some(Located { batch, keys, first, last }))
}

enum Source {
    Inputs(Vec<Input>, Positions),
    Rows(SendableRecordBatchStream),
}

impl Source {
    /// The next rows in the order.
    async fn next(&mut self, keys: &KeyEncoder) -> DfResult<Option<Piece>> {
        match self {
            Self::Inputs(inputs, positions) => merge(inputs, positions).await,
            Self::Rows(rows) => {
                let Some(batch) = rows.next().await.transpose()? else { return Ok(None) };
                let keys = Arc::new(keys.encode(&batch)?);
                Ok(Some(Piece { rows: 0..batch.num_rows(), batch, keys }))
            }
        }
    }
}

async fn merge(inputs: &mut [Input], positions: &Positions) -> DfResult<Option<Piece>> {
    for input in inputs.iter_mut() {
        input.fill().await?;
    }
    let first = |input: &Input| -> DfResult<Option<OwnedRow>> {
        Ok(match (&input.head, &input.rows) {
            (Some((_, from)), Some(rows)) => Some(rows.row(*from).owned()),
            (Some((head, _)), None) => Some(head.first.clone()),
            (None, _) => None,
        })
    };
    let mut firsts = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.iter().enumerate() {
        if let Some(first) = first(input)? {
            firsts.push((first, index));
        }
    }
    firsts.sort();
    let Some((_, chosen)) = firsts.first() else { return Ok(None) };
    let input = &mut inputs[*chosen];
    let Some((head, from)) = input.head.take() else { return Ok(None) };
    let rows = head.batch.num_rows();
    let end = match firsts.get(1) {
        Some((bound, _)) if head.last > *bound => {
            let all = match input.rows.take() {
                Some(all) => all,
                None => positions.of(&head.batch)?,
            };
            let (mut low, mut high) = (from + 1, rows);
            while low < high {
                let middle = usize::midpoint(low, high);
                if all.row(middle).owned() <= *bound {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            input.rows = Some(all);
            low
        }
        _ => rows,
    };
    let piece = Piece { batch: head.batch.clone(), keys: Arc::clone(&head.keys), rows: from..end };
    if end < rows {
        input.head = Some((head, end));
    } else {
        input.rows = None;
    }
    Ok(Some(piece))
}

struct Deduplication {
    source: Source,
    disk: Disk,
    /// Made with the first keys.
    set: Option<KeySet>,
    /// Made once the set cannot grow any more.
    division: Option<Division>,
    /// How often the rows of the source were divided.
    level: u32,
    /// What is left to be read afterwards.
    parts: VecDeque<Part>,
}

impl Deduplication {
    fn run(source: Source, disk: Disk) -> SendableRecordBatchStream {
        let schema = Arc::clone(&disk.schema);
        let parts = VecDeque::new();
        let state = Self { source, disk, set: None, division: None, level: 0, parts };
        let rows = futures::stream::try_unfold(state, |mut state| async move {
            let batch = state.next().await?;
            Ok(batch.map(|batch| (batch, state)))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    async fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        loop {
            if let Some(piece) = self.source.next(&self.disk.keys).await? {
                let kept = self.keep(&piece)?;
                if kept.num_rows() > 0 {
                    self.disk.metrics.record_output(kept.num_rows());
                    return Ok(Some(kept));
                }
            } else if !self.turn_to_next_part()? {
                return Ok(None);
            }
        }
    }

    /// The first rows of their keys.
    fn keep(&mut self, piece: &Piece) -> DfResult<RecordBatch> {
        let timer = self.disk.metrics.elapsed_compute().clone();
        let _timer = timer.timer();
        let Piece { batch, keys, rows } = piece;
        let mut fresh = Vec::with_capacity(rows.len());
        let set = self.set.get_or_insert_with(|| KeySet::like(keys));
        let full = match &self.division {
            Some(_) => Some(rows.start),
            None => {
                let memory = &mut self.disk.memory;
                let mut grow = |bytes| memory.grow(bytes);
                match set.insert(keys, rows.clone(), &mut fresh, &mut grow) {
                    Inserted::All => None,
                    Inserted::Until(row) => Some(row),
                }
            }
        };
        if let Some(from) = full {
            self.divide(batch, keys, from..rows.end)?;
            fresh.resize(rows.len(), false);
        }
        let batch = batch.slice(rows.start, rows.len());
        if fresh.iter().all(|fresh| *fresh) {
            return Ok(batch);
        }
        Ok(filter_record_batch(&batch, &BooleanArray::from(fresh))?)
    }

    /// Writes those of `rows` aside whose keys are not known.
    fn divide(&mut self, batch: &RecordBatch, keys: &Keys, rows: Range<usize>) -> DfResult<()> {
        let division = match &mut self.division {
            Some(division) => division,
            none => none.insert(self.disk.divide(self.level)?),
        };
        let set = &self.set;
        let unknown = rows.filter(|row| !set.as_ref().is_some_and(|set| set.contains(keys, *row)));
        division.write(&self.disk, batch, keys, unknown)
    }

    /// Goes on with rows that were written aside; false where there are none.
    fn turn_to_next_part(&mut self) -> DfResult<bool> {
        self.set = None;
        self.disk.memory.free();
        if let Some(division) = self.division.take() {
            self.parts.extend(division.finish(&self.disk)?);
        }
        let Some(part) = self.parts.pop_front() else { return Ok(false) };
        self.source = Source::Rows(part.rows);
        self.level = part.level;
        Ok(true)
    }
}
