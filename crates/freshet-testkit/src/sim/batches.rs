//! A source of batches that are there from the beginning.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use freshet_core::Result;
use freshet_core::rows::Rows;
use freshet_core::source::Position;
use freshet_core::stream::Wake;
use freshet_runtime::plan::JobSource;
use freshet_runtime::source::{Fed, Feed, SplitPosition};

use super::Chance;

/// Reads partitions to their end, each a batch, in pieces whose sizes chance decides.
#[derive(Debug, Clone)]
pub struct BatchSource {
    /// The partitions.
    pub partitions: Arc<Vec<RecordBatch>>,
    /// The columns that are given.
    pub projection: Vec<usize>,
    /// Rows that are never given together with those before them, ascending.
    pub cuts: Vec<usize>,
    /// How large pieces are.
    pub chance: Chance,
}

#[async_trait]
impl JobSource for BatchSource {
    async fn open(
        &self,
        positions: &BTreeMap<String, Position>,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>> {
        let feed = |task: usize| -> Box<dyn Feed> {
            let splits = (task..self.partitions.len()).step_by(wakes.len());
            let splits = splits.map(|partition| {
                let position = positions.get(&partition.to_string());
                (partition, position.map_or(0, |position| position.0 as usize))
            });
            Box::new(BatchFeed { source: self.clone(), splits: splits.collect() })
        };
        Ok((0..wakes.len()).map(feed).collect())
    }
}

#[derive(Debug)]
struct BatchFeed {
    source: BatchSource,
    /// Partition and next row.
    splits: Vec<(usize, usize)>,
}

impl Feed for BatchFeed {
    fn splits(&self) -> usize {
        self.splits.len()
    }

    fn next(&mut self, _now: i64) -> Result<Fed> {
        let batches = &self.source.partitions;
        let left = |(partition, next): &(usize, usize)| batches[*partition].num_rows() - next;
        let ready: Vec<_> =
            (0..self.splits.len()).filter(|split| left(&self.splits[*split]) > 0).collect();
        if ready.is_empty() {
            return Ok(Fed::End);
        }
        let split = ready[self.source.chance.below(ready.len())];
        let (partition, next) = self.splits[split];
        let cut = self.source.cuts.iter().find(|cut| **cut > next);
        let left = cut.map_or(left(&self.splits[split]), |cut| cut - next);
        let count = 1 + self.source.chance.below(left.min(50));
        let rows = batches[partition].slice(next, count);
        let rows = rows.project(&self.source.projection).expect("columns that there are");
        self.splits[split].1 += count;
        Ok(Fed::Rows { split, rows: vec![Rows::inserts(rows)], dead: None })
    }

    fn positions(&self) -> Vec<SplitPosition> {
        let position = |(partition, next): &(usize, usize)| SplitPosition {
            split: partition.to_string(),
            position: Position(*next as u64),
        };
        self.splits.iter().map(position).collect()
    }
}
