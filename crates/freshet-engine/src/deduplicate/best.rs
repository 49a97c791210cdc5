//! Deduplication of rows that arrive in any order: the best row of each key is kept, all others are
//! forgotten as soon as a better one is seen.
//!
//! Once these rows do not fit into memory they go to disk, divided by key, and so does all that
//! comes after, a memory's worth at a time; each part is then read by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::Rows;
use datafusion::error::Result as DfResult;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::keys::{Keys, mix_wide};
use super::positions::Positions;
use super::spill::{Disk, Division, Part, compact};

/// The best rows of `input`.
pub fn stream(
    input: SendableRecordBatchStream,
    order: &LexOrdering,
    disk: Disk,
) -> DfResult<SendableRecordBatchStream> {
    let schema = Arc::clone(&disk.schema);
    let positions = Positions::new(order.clone(), &schema)?;
    let state = Deduplication {
        source: Some(input),
        positions,
        disk,
        held: Held::default(),
        division: None,
        level: 0,
        parts: VecDeque::new(),
        done: VecDeque::new(),
    };
    let rows = futures::stream::try_unfold(state, |mut state| async move {
        let batch = state.next().await?;
        Ok(batch.map(|batch| (batch, state)))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

/// The best rows so far.
#[derive(Default)]
struct Held {
    batches: Vec<Batch>,
    best: HashTable<Best>,
    rows: usize,
    live: usize,
}

struct Batch {
    rows: RecordBatch,
    keys: Keys,
    order: Rows,
    /// Which rows are still the best of their keys.
    live: Vec<bool>,
}

#[derive(Clone, Copy)]
struct Best {
    key: u128,
    batch: u32,
    row: u32,
}

impl Held {
    fn add(&mut self, mut batch: Batch) {
        let index = self.batches.len() as u32;
        for row in 0..batch.live.len() {
            let key = batch.keys.wide(row);
            let new = Best { key, batch: index, row: row as u32 };
            let equal = |best: &Best| best.key == key;
            match self.best.entry(mix_wide(key), equal, |best| mix_wide(best.key)) {
                Entry::Vacant(entry) => {
                    entry.insert(new);
                    self.live += 1;
                }
                Entry::Occupied(mut entry) => {
                    let best = *entry.get();
                    let there = self.batches.get_mut(best.batch as usize);
                    let old = there.as_deref().unwrap_or(&batch);
                    if !batch.precedes(row, old, best.row as usize) {
                        continue;
                    }
                    there.unwrap_or(&mut batch).live[best.row as usize] = false;
                    *entry.get_mut() = new;
                }
            }
            batch.live[row] = true;
        }
        self.rows += batch.live.len();
        self.batches.push(batch);
    }
}

impl Batch {
    /// Bytes that it takes while it is held, with its share of a table that has just doubled.
    fn size(&self) -> usize {
        let keys = self.live.len() * (size_of::<u128>() + 2 * size_of::<Best>());
        self.rows.get_array_memory_size() + self.order.size() + keys
    }

    /// Whether the row `mine` comes before the row `theirs` of `other`.
    fn precedes(&self, mine: usize, other: &Self, theirs: usize) -> bool {
        self.order.row(mine) < other.order.row(theirs)
    }

    fn live_rows(&self) -> DfResult<RecordBatch> {
        if self.live.iter().all(|live| *live) {
            return Ok(self.rows.clone());
        }
        Ok(filter_record_batch(&self.rows, &BooleanArray::from(self.live.clone()))?)
    }
}

struct Deduplication {
    /// `None` once it has ended.
    source: Option<SendableRecordBatchStream>,
    positions: Positions,
    disk: Disk,
    held: Held,
    /// Made once the best rows do not fit into memory.
    division: Option<Division>,
    /// How often the rows of the source were divided.
    level: u32,
    /// What is left to be read afterwards.
    parts: VecDeque<Part>,
    /// Rows that are final.
    done: VecDeque<Batch>,
}

impl Deduplication {
    async fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.done.pop_front() {
                let rows = batch.live_rows()?;
                if self.done.is_empty() {
                    self.disk.memory.free();
                }
                if rows.num_rows() > 0 {
                    self.disk.metrics.record_output(rows.num_rows());
                    return Ok(Some(rows));
                }
                continue;
            }
            let Some(source) = &mut self.source else {
                let Some(part) = self.parts.pop_front() else { return Ok(None) };
                self.source = Some(part.rows);
                self.level = part.level;
                continue;
            };
            match source.next().await {
                Some(batch) => self.take(&batch?)?,
                None => {
                    self.source = None;
                    self.finish_source()?;
                }
            }
        }
    }

    /// Looks at the rows of a batch.
    fn take(&mut self, batch: &RecordBatch) -> DfResult<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let timer = self.disk.metrics.elapsed_compute().clone();
        let _timer = timer.timer();
        let batch = self.prepare(batch)?;
        let bytes = batch.size();
        let mut fits = self.disk.memory.grow(bytes);
        if !fits && self.held.live <= self.held.rows / 2 {
            self.forget_dead_rows()?;
            fits = self.disk.memory.grow(bytes);
        }
        if !fits && !self.held.batches.is_empty() {
            self.write_held()?;
            fits = self.disk.memory.grow(bytes);
        }
        self.held.add(batch);
        // Not even one batch fits: it goes to disk at once.
        if fits { Ok(()) } else { self.write_held() }
    }

    fn prepare(&self, rows: &RecordBatch) -> DfResult<Batch> {
        let rows = compact(rows)?;
        let keys = self.disk.keys.encode(&rows)?;
        let order = self.positions.of(&rows)?;
        let live = vec![false; rows.num_rows()];
        Ok(Batch { rows, keys, order, live })
    }

    /// Keeps the best rows alone in memory.
    fn forget_dead_rows(&mut self) -> DfResult<()> {
        let held = std::mem::take(&mut self.held);
        let mut bytes = 0;
        for batch in held.batches {
            let rows = batch.live_rows()?;
            drop(batch);
            if rows.num_rows() > 0 {
                let batch = self.prepare(&rows)?;
                bytes += batch.size();
                self.held.add(batch);
            }
        }
        // Fewer rows than before cannot need more; batches of views may still round up.
        self.disk.memory.shrink_to(bytes);
        Ok(())
    }

    /// Writes the best rows so far to disk.
    fn write_held(&mut self) -> DfResult<()> {
        let division = match &mut self.division {
            Some(division) => division,
            none => none.insert(self.disk.divide(self.level)?),
        };
        for batch in std::mem::take(&mut self.held).batches {
            let live = batch.live.iter().enumerate().filter(|(_, live)| **live);
            division.write(&self.disk, &batch.rows, &batch.keys, live.map(|(row, _)| row))?;
        }
        self.disk.memory.free();
        Ok(())
    }

    /// The rows in memory are final, or the last to be divided.
    fn finish_source(&mut self) -> DfResult<()> {
        if self.division.is_some() {
            self.write_held()?;
        }
        match self.division.take() {
            Some(division) => self.parts.extend(division.finish(&self.disk)?),
            None => self.done = std::mem::take(&mut self.held).batches.into(),
        }
        Ok(())
    }
}
