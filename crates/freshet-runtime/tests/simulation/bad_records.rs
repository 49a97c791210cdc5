//! Very many bad records in a row, through a job that goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::Result;
use freshet_core::format::Decoding;
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::source::Position;
use freshet_core::stream::{Block, BlockDecoder, Fetcher, Partition, Start, StreamSource};
use freshet_runtime::checkpoint::Settings;
use freshet_runtime::exchange::{Limits, Partitioning};
use freshet_runtime::job::{JobOptions, Restart};
use freshet_runtime::operator::MAIN;
use freshet_runtime::plan::{EdgePlan, JobPlan, SinkPlan, StageInput, StagePlan};
use freshet_runtime::source::{DEAD_LETTERS, StreamInput, WatermarkSpec, dead_letter_schema};
use freshet_runtime::state::KeyGroups;
use freshet_testkit::sim::{Faults, Process, SimLog, SimSink, Stepped, Target, World};
use object_store::memory::InMemory;

use crate::SECOND;
use crate::case::Delayed;

/// Records of each partition: good ones, then very many bad ones, then good ones.
const GOOD: u64 = 500;
const BAD: u64 = 100_000;
const RECORDS: u64 = 2 * GOOD + BAD;
/// Records of a block.
const BLOCK: u64 = 700;

#[derive(Debug)]
struct Poisoned;

#[async_trait]
impl StreamSource for Poisoned {
    fn schema(&self) -> SchemaRef {
        SimLog::schema()
    }

    async fn partitions(&self) -> Result<Vec<Partition>> {
        Ok(["p0", "p1"].map(|name| Partition(name.into())).to_vec())
    }

    async fn fetcher(&self) -> Result<Box<dyn Fetcher>> {
        Ok(Box::new(Blocks(Vec::new())))
    }

    fn decoder(&self, _projection: &[usize]) -> Result<Box<dyn BlockDecoder>> {
        Ok(Box::new(Decoder))
    }
}

/// Where reading of each partition stands.
struct Blocks(Vec<u64>);

#[async_trait]
impl Fetcher for Blocks {
    async fn add(&mut self, _partition: &Partition, start: Start) -> Result<Option<Position>> {
        let position = match start {
            Start::At(position) => position,
            _ => Position(0),
        };
        self.0.push(position.0);
        Ok(Some(position))
    }

    async fn fetch(&mut self) -> Result<Option<Block>> {
        // In turn, by how far each is.
        let least = self.0.iter_mut().enumerate().min_by_key(|(_, next)| **next);
        let Some((partition, next)) = least.filter(|(_, next)| **next < RECORDS) else {
            return Ok(None);
        };
        let position = Position(*next);
        *next = (*next + BLOCK).min(RECORDS);
        let len = (*next - position.0) as usize * 50;
        Ok(Some(Block {
            partition,
            bytes: Bytes::from(vec![0; len]),
            position,
            next: Position(*next),
            written: None,
        }))
    }
}

#[derive(Debug)]
struct Decoder;

impl BlockDecoder for Decoder {
    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding> {
        let mut good = Vec::new();
        for number in block.position.0..block.next.0 {
            if (GOOD..GOOD + BAD).contains(&number) {
                out.rejects.push(Reject {
                    offset: number,
                    line: 1,
                    rule: Rule::Syntax,
                    column: None,
                    message: "it is none".into(),
                    raw: format!("bad {number}").into_bytes().into(),
                });
            } else {
                good.push(number as i64);
            }
        }
        out.records = block.next.0 - block.position.0;
        out.good = good.len() as u64;
        if !good.is_empty() {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(TimestampMicrosecondArray::from(good.clone())),
                Arc::new(Int64Array::from_iter_values(good.iter().map(|number| number % 7))),
                Arc::new(Int64Array::from(good)),
            ];
            let batch = RecordBatch::try_new(SimLog::schema(), columns);
            out.batches.push(batch.expect("columns of the schema"));
        }
        Ok(Decoding::Done)
    }
}

const LIMITS: Limits = Limits { rows: 2000, bytes: 1 << 20 };

#[test]
fn a_hundred_thousand_bad_records_in_a_row_are_dead_letters_and_the_job_goes_on() {
    let world = World::new(5);
    let (good, dead) = (Arc::new(Target::new(true)), Arc::new(Target::new(true)));
    let store = Arc::new(InMemory::new());
    let start = |parallelism: u16| {
        let options = JobOptions {
            checkpoints: Settings { interval: SECOND / 20, ..Settings::default() },
            limits: LIMITS,
            restart: Restart::fixed_delay(Some(0), 1),
            ..JobOptions::default()
        };
        let process = Process::start(&world, options, 2, |io| {
            let sink = |id: &str, target: &Arc<Target>| {
                let slow = Faults { refused: 0.0, lost: 0.0, slow: 20_000 };
                let sink = SimSink {
                    target: Arc::clone(target),
                    faults: slow.into(),
                    chance: world.chance.clone(),
                    io: Arc::clone(&io),
                };
                Some(SinkPlan { id: id.into(), sink: Arc::new(sink), commit_interval: 0 })
            };
            let source = StreamInput {
                source: Arc::new(Poisoned),
                projection: vec![0, 1, 2],
                start: Start::Earliest,
                io: Arc::clone(&io),
                threshold: None,
                corrections: None,
            };
            let watermark = Some(WatermarkSpec::new(Arc::new(Delayed(SECOND))));
            let edge = |port, partitioning, schema| EdgePlan {
                from: 0,
                operator: 0,
                port,
                input: 0,
                partitioning,
                schema,
            };
            let stage = |id: &str, input, sink| StagePlan {
                id: id.into(),
                parallelism,
                input,
                operators: Vec::new(),
                sink,
            };
            let source = StageInput::Source { source: Arc::new(source), watermark };
            let keyed = vec![edge(MAIN, Partitioning::Hash(vec![1]), SimLog::schema())];
            let bad = vec![edge(DEAD_LETTERS, Partitioning::Forward, dead_letter_schema())];
            let stages = vec![
                stage("source", source, None),
                stage("good", StageInput::Edges(keyed), sink("good sink", &good)),
                stage("dead", StageInput::Edges(bad), sink("dead sink", &dead)),
            ];
            let groups = KeyGroups::default();
            let plan = JobPlan { name: "job".into(), groups, stages };
            (plan, Arc::clone(&store) as Arc<_>)
        });
        process.expect("the plan is sound")
    };
    let mut process = start(2);
    let (mut steps, mut fullest) = (0_u64, 0);
    loop {
        steps += 1;
        // Another life in the midst of them, at another parallelism.
        if steps == 300 {
            assert!(process.ended().is_none(), "it is in the midst of them");
            drop(process);
            process = start(1);
        }
        match process.step() {
            Stepped::Worked => {}
            Stepped::Waits(until) => {
                let until = until.expect("something can happen");
                world.clock.advance_micros(
                    (until - freshet_core::clock::Clock::now_micros(&*world.clock)).max(1),
                );
            }
            Stepped::Ended => break,
            Stepped::Died(step) => panic!("nobody asked it to die at {step}"),
        }
        let figures = process.monitor().figures();
        let queues = figures.stages.iter().flat_map(|stage| &stage.tasks);
        let rows = queues.filter_map(|task| task.queue).map(|queue| queue.rows).max();
        fullest = fullest.max(rows.unwrap_or(0));
    }
    process.ended().expect("it has ended").expect("bad records end nothing");
    // A queue is over its bound by what one step gives, and there are two before a task.
    assert!(
        fullest > 0 && fullest <= 2 * (LIMITS.rows as u64 + BLOCK),
        "{fullest} rows in a queue"
    );
    let mut found = BTreeMap::<String, BTreeSet<u64>>::new();
    let dead = dead.rows();
    for row in &dead {
        let fields: Vec<&str> = row.split(',').collect();
        let position = fields[1].parse().expect("a position");
        found.entry(fields[0].to_owned()).or_default().insert(position);
    }
    assert_eq!(dead.len() as u64, 2 * BAD, "each once");
    for (partition, positions) in &found {
        assert!(positions.iter().copied().eq(GOOD..GOOD + BAD), "all of {partition}");
    }
    assert_eq!(found.len(), 2);
    assert_eq!(good.rows().len() as u64, 2 * 2 * GOOD, "and all good ones");
}
