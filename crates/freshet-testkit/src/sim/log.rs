//! A log that is read: partitions of records, some of which arrive only later.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use freshet_core::Result;
use freshet_core::clock::Clock;
use freshet_core::rows::{RowKind, Rows};
use freshet_core::source::Position;
use freshet_core::stream::Wake;
use freshet_runtime::plan::JobSource;
use freshet_runtime::source::{Fed, Feed, SplitPosition};

use super::{Chance, World};

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
    /// What it does to the table that the log tells of.
    pub kind: RowKind,
}

/// A time in which nothing arrives.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// The partition; all of them where it is not set.
    pub partition: Option<usize>,
    /// Its first microsecond of the simulation's clock.
    pub start: i64,
    /// Its length, in microseconds.
    pub length: i64,
    /// Whether what would have arrived happens later as well, and not only arrives later.
    pub moves_time: bool,
}

/// How a log is drawn.
#[derive(Debug, Clone)]
pub struct Draw {
    /// When the first record arrives, in microseconds of the simulation's clock.
    pub start: i64,
    /// Microseconds within which all arrive, silences apart.
    pub span: i64,
    /// How many there are.
    pub records: usize,
    /// How many partitions there are.
    pub partitions: usize,
    /// How many keys there are.
    pub keys: i64,
    /// Microseconds by which records may come behind later ones of their partition.
    pub disorder: i64,
    /// Microseconds by which the clock of a partition may be slow.
    pub skew: i64,
    /// When nothing arrives.
    pub silences: Vec<Silence>,
    /// The value of the first record: values ascend.
    pub first: i64,
    /// The share of records that delete their key.
    pub deletes: f64,
}

/// A log: the same whenever it is read.
#[derive(Debug)]
pub struct SimLog {
    /// Records by partition, ascending by the time of their arrival.
    pub partitions: Vec<Vec<Record>>,
}

impl Draw {
    /// 200 records of ten keys in two partitions, up to a second out of order, from now on.
    pub fn over(world: &World, span: i64) -> Self {
        Self {
            start: world.clock.now_micros(),
            span,
            records: 200,
            partitions: 2,
            keys: 10,
            disorder: 1_000_000,
            skew: 0,
            silences: Vec::new(),
            first: 0,
            deletes: 0.0,
        }
    }
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
        let draw = Draw {
            start,
            span,
            records,
            partitions,
            keys,
            disorder,
            skew: 0,
            silences: Vec::new(),
            first: 0,
            deletes: 0.0,
        };
        Self::drawn(chance, &draw)
    }

    /// A log as `draw` says. No two of its records are of the same time.
    pub fn drawn(chance: &Chance, draw: &Draw) -> Self {
        let skews: Vec<i64> =
            (0..draw.partitions).map(|_| chance.between(0..draw.skew.max(1))).collect();
        let mut partitions = vec![Vec::<Record>::new(); draw.partitions];
        let mut times = HashSet::new();
        for number in 0..draw.records {
            let place = chance.below(draw.partitions);
            let mut arrives = draw.start + draw.span * number as i64 / draw.records as i64;
            let mut time = arrives - chance.between(0..draw.disorder.max(1)) - skews[place];
            for silence in &draw.silences {
                let end = silence.start + silence.length;
                let is_silent = silence.partition.is_none_or(|partition| partition == place);
                if is_silent && (silence.start..end).contains(&arrives) {
                    time += if silence.moves_time { end - arrives } else { 0 };
                    arrives = end;
                }
            }
            while !times.insert(time) {
                time += 1;
            }
            let records = &mut partitions[place];
            // Silences that overlap may have moved those before further.
            let arrives = records.last().map_or(arrives, |last| arrives.max(last.arrives));
            records.push(Record {
                arrives,
                time,
                key: chance.between(0..draw.keys),
                value: draw.first + number as i64,
                kind: match chance.happens(draw.deletes) {
                    true => RowKind::Delete,
                    false => RowKind::Insert,
                },
            });
        }
        Self { partitions }
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
        let kinds = records.iter().map(|record| record.kind).collect();
        self.splits[split].1 += count;
        Ok(Fed::Rows { split, rows: vec![Rows::changes(batch, kinds)], dead: None })
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
