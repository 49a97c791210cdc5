//! A log that is read: partitions of records, some of which arrive only later.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use freshet_core::Result;
use freshet_core::rows::Rows;
use freshet_core::source::Position;
use freshet_core::stream::Wake;
use freshet_runtime::plan::JobSource;
use freshet_runtime::source::{Fed, Feed, SplitPosition};

use super::Chance;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it arrives, in microseconds of the simulation's clock.
    pub arrives: i64,
    /// When it happened.
    pub time: i64,
    /// Its key.
    pub key: i64,
    /// Its value, unique in the log.
    pub value: i64,
}

/// A log: the same whenever it is read.
#[derive(Debug)]
pub struct SimLog {
    /// Records by partition, ascending by the time of their arrival.
    pub partitions: Vec<Vec<Record>>,
}

impl SimLog {
    /// The columns `time`, `key` and `value`.
    pub fn schema() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        Arc::new(Schema::new(vec![
            Field::new("time", time, false),
            Field::new("key", DataType::Int64, false),
            Field::new("value", DataType::Int64, false),
        ]))
    }

    /// A log in which records come up to `disorder` microseconds behind later ones, over about
    /// `span` microseconds from `start`.
    pub fn random(
        chance: &Chance,
        start: i64,
        span: i64,
        records: usize,
        partitions: usize,
        keys: i64,
        disorder: i64,
    ) -> Self {
        let mut log = vec![Vec::new(); partitions];
        for value in 0..records {
            let arrives = start + span * value as i64 / records as i64;
            let record = Record {
                arrives,
                time: arrives - chance.between(0..disorder.max(1)),
                key: chance.between(0..keys),
                value: value as i64,
            };
            log[chance.below(partitions)].push(record);
        }
        Self { partitions: log }
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.partitions.iter().flatten()
    }
}

/// Reads a log to its end.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// The log.
    pub log: Arc<SimLog>,
    /// How large batches are.
    pub chance: Chance,
}

#[async_trait]
impl JobSource for LogSource {
    async fn open(
        &self,
        positions: &BTreeMap<String, Position>,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>> {
        let feed = |task: usize| -> Box<dyn Feed> {
            let splits = (task..self.log.partitions.len()).step_by(wakes.len());
            let splits = splits.map(|partition| {
                let position = positions.get(&partition.to_string());
                (partition, position.map_or(0, |position| position.0 as usize))
            });
            Box::new(LogFeed {
                log: Arc::clone(&self.log),
                chance: self.chance.clone(),
                splits: splits.collect(),
                wait: None,
            })
        };
        Ok((0..wakes.len()).map(feed).collect())
    }
}

#[derive(Debug)]
struct LogFeed {
    log: Arc<SimLog>,
    chance: Chance,
    /// Partition and next record.
    splits: Vec<(usize, usize)>,
    wait: Option<i64>,
}

impl Feed for LogFeed {
    fn splits(&self) -> usize {
        self.splits.len()
    }

    fn next(&mut self, now: i64) -> Result<Fed> {
        self.wait = None;
        let rest = |(partition, next): &(usize, usize)| &self.log.partitions[*partition][*next..];
        if self.splits.iter().all(|split| rest(split).is_empty()) {
            return Ok(Fed::End);
        }
        let arrived = |split: &(usize, usize)| {
            rest(split).iter().take_while(|record| record.arrives <= now).count()
        };
        let ready: Vec<_> = (0..self.splits.len())
            .map(|split| (split, arrived(&self.splits[split])))
            .filter(|(_, count)| *count > 0)
            .collect();
        if ready.is_empty() {
            self.wait =
                self.splits.iter().filter_map(|split| Some(rest(split).first()?.arrives)).min();
            return Ok(Fed::Nothing);
        }
        let (split, count) = ready[self.chance.below(ready.len())];
        let count = 1 + self.chance.below(count.min(40));
        let records = &rest(&self.splits[split])[..count];
        let times = records.iter().map(|record| record.time);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
            Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.key))),
            Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.value))),
        ];
        let batch = RecordBatch::try_new(SimLog::schema(), columns).expect("columns of the schema");
        self.splits[split].1 += count;
        Ok(Fed::Rows { split, rows: vec![Rows::inserts(batch)], dead: None })
    }

    fn deadline(&self) -> Option<i64> {
        self.wait
    }

    fn positions(&self) -> Vec<SplitPosition> {
        let position = |(partition, next): &(usize, usize)| SplitPosition {
            split: partition.to_string(),
            position: Position(*next as u64),
        };
        self.splits.iter().map(position).collect()
    }
}
