//! Savepoints under a seeded simulation: they outlive the checkpoints after them, and a job goes on
//! from one exactly where it stood, at any parallelism.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use freshet_core::clock::Clock;
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::store::LocalStore;
use freshet_core::stream::EventTime;
use freshet_runtime::aggregate::{AggregateSpec, Count, Sum};
use freshet_runtime::checkpoint::{Merging, Repository, Settings};
use freshet_runtime::exchange::{Limits, Partitioning};
use freshet_runtime::executor::Io;
use freshet_runtime::job::{JobOptions, Restart};
use freshet_runtime::operator::{MAIN, OperatorSpec};
use freshet_runtime::operators::{WindowAggregate, Windows};
use freshet_runtime::plan::{EdgePlan, JobPlan, SinkPlan, StageInput, StagePlan};
use freshet_runtime::source::WatermarkSpec;
use freshet_runtime::state::KeyGroups;
use freshet_testkit::fault::FaultFs;
use freshet_testkit::seeds;
use freshet_testkit::sim::{Faults, LogSource, Process, SimLog, SimSink, Stepped, Target, World};
use futures::executor::block_on;
use object_store::ObjectStore;

const SECOND: i64 = 1_000_000;

/// `time - delay`.
#[derive(Debug)]
struct Delayed(i64);

impl ScalarExpr for Delayed {
    fn evaluate(&self, batch: &RecordBatch) -> freshet_core::Result<ArrayRef> {
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let delayed: TimestampMicrosecondArray = times.unary(|time| time - self.0);
        Ok(Arc::new(delayed))
    }
}

struct Case {
    world: World,
    log: Arc<SimLog>,
    size: i64,
    disorder: i64,
    disk: Arc<FaultFs>,
}

/// What one line of jobs writes.
struct Targets {
    totals: Arc<Target>,
    copies: Arc<Target>,
}

impl Targets {
    fn new() -> Self {
        Self { totals: Arc::new(Target::new(true)), copies: Arc::new(Target::new(true)) }
    }
}

impl Case {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let chance = &world.chance;
        let disorder = chance.between(1..2 * SECOND);
        let (start, span) = (world.clock.now_micros(), chance.between(4..12) * SECOND);
        let (records, partitions) = (200 + chance.below(600), 1 + chance.below(4));
        let log = SimLog::random(chance, start, span, records, partitions, 20, disorder);
        let size = chance.between(3..20) * 100_000;
        Self { log: Arc::new(log), size, disorder, disk: Arc::new(FaultFs::new(seed)), world }
    }

    fn plan(&self, parallelism: u16, io: &Arc<dyn Io>, targets: &Targets) -> JobPlan {
        let (chance, groups) = (self.world.chance.clone(), KeyGroups::default());
        let sink = |id: &str, target: &Arc<Target>| SinkPlan {
            id: id.into(),
            sink: Arc::new(SimSink {
                target: Arc::clone(target),
                faults: Faults::NONE.into(),
                chance: chance.clone(),
                io: Arc::clone(io),
            }),
            commit_interval: 0,
        };
        let int = DataType::Int64;
        let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![
            Arc::new(Count::rows()),
            Arc::new(Sum::new(2, int.clone(), int).expect("a sum of integers")),
        ];
        let window: Arc<dyn OperatorSpec> = Arc::new(WindowAggregate {
            input: SimLog::schema(),
            time: 0,
            windows: Windows::tumble(self.size, 0).expect("they make sense"),
            keys: vec![1],
            aggregates,
            names: ["n", "sum"].map(str::to_owned).to_vec(),
            groups,
        });
        let source = StageInput::Source {
            source: Arc::new(LogSource { log: Arc::clone(&self.log), chance: chance.clone() }),
            watermark: Some(WatermarkSpec::new(Arc::new(Delayed(self.disorder)))),
        };
        let edge = StageInput::Edges(vec![EdgePlan {
            from: 0,
            operator: 0,
            port: MAIN,
            input: 0,
            partitioning: Partitioning::Hash(vec![1]),
            schema: SimLog::schema(),
        }]);
        let stage = |id: &str, input, operators, sink| StagePlan {
            id: id.into(),
            parallelism,
            input,
            operators,
            sink: Some(sink),
        };
        let windows = vec![("window".to_owned(), window)];
        JobPlan {
            name: "job".into(),
            groups,
            stages: vec![
                stage("log", source, vec![], sink("copies", &targets.copies)),
                stage("windows", edge, windows, sink("totals", &targets.totals)),
            ],
        }
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let disk = Arc::clone(&self.disk);
        Arc::new(LocalStore::new(disk, "/state").expect("the folder can be made"))
    }

    fn start(&self, targets: &Targets) -> Process {
        let chance = &self.world.chance;
        let (workers, parallelism) = (1 + chance.below(3), 1 + chance.below(4) as u16);
        let options = JobOptions {
            checkpoints: Settings {
                interval: chance.between(50_000..SECOND),
                pause: 0,
                keep: 1,
                merging: Merging { fan_in: 2 + chance.below(3), smallest: 500 },
            },
            limits: Limits { rows: 1 + chance.below(200), bytes: 1 << 20 },
            restart: Restart { attempts: Some(100), delay: 10_000, ..Restart::default() },
            ..JobOptions::default()
        };
        Process::start(&self.world, options, workers, |io| {
            (self.plan(parallelism, &io, targets), self.store())
        })
        .expect("the plan is sound")
    }

    fn repository(&self) -> Repository {
        Repository::new(self.store(), "job")
    }

    fn step(&self, process: &mut Process) -> bool {
        match process.step() {
            Stepped::Worked => true,
            Stepped::Ended => false,
            Stepped::Died(step) => panic!("nobody asked it to die at {step}"),
            Stepped::Waits(until) => {
                let now = self.world.clock.now_micros();
                let until = until.expect("something can happen");
                self.world.clock.advance_micros((until - now).max(1));
                true
            }
        }
    }

    /// Runs to the end, through power cuts now and then.
    fn finish(&self, mut process: Process, targets: &Targets) {
        let mut crashes = self.world.chance.below(3);
        loop {
            if crashes > 0 && self.world.chance.happens(0.002) {
                crashes -= 1;
                drop(process);
                self.disk.crash();
                process = self.start(targets);
            }
            if !self.step(&mut process) {
                let ended = process.ended().expect("it has ended");
                ended.expect("nothing keeps it from ending");
                return;
            }
        }
    }

    /// The rows that windows come to that are not closed at `watermark`.
    fn totals(&self, watermark: EventTime) -> Vec<String> {
        let mut totals = BTreeMap::<(i64, i64), (i64, i64)>::new();
        for record in self.log.records() {
            let start = record.time.div_euclid(self.size) * self.size;
            let total = totals.entry((record.key, start)).or_default();
            *total = (total.0 + 1, total.1 + record.value);
        }
        let time = |time: i64| {
            let time = chrono::DateTime::from_timestamp_micros(time).expect("a time");
            time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
        };
        let open = totals.into_iter().filter(|((_, start), _)| start + self.size - 1 > watermark.0);
        let mut rows: Vec<String> = open
            .map(|((key, start), (n, sum))| {
                format!("+I {key},{},{},{n},{sum}", time(start), time(start + self.size))
            })
            .collect();
        rows.sort_unstable();
        rows
    }
}

#[test]
fn a_job_goes_on_from_a_savepoint_exactly_where_it_stood() {
    let gone_back = AtomicUsize::new(0);
    seeds::for_each(0..60, |seed| {
        let case = Case::new(seed);
        let first = Targets::new();
        let mut process = case.start(&first);
        for _ in 0..case.world.chance.below(3000) {
            if !case.step(&mut process) {
                return;
            }
        }
        let handle = process.handle().clone();
        let mut saving = pin!(handle.savepoint("kept"));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let epoch = loop {
            if let Poll::Ready(saved) = saving.as_mut().poll(&mut context) {
                match saved {
                    Ok(epoch) => break epoch,
                    // It came to its end first.
                    Err(error) => {
                        assert_eq!(error.code(), code::CONTROL);
                        return;
                    }
                }
            }
            case.step(&mut process);
        };
        case.finish(process, &first);
        assert_eq!(first.totals.rows(), case.totals(EventTime::MIN));

        let repository = case.repository();
        let saved = block_on(repository.savepoint("kept")).expect("it is read");
        let saved = saved.expect("it lasts");
        assert_eq!(saved.epoch, epoch);
        let newest = block_on(repository.newest()).expect("it is read").expect("there is one");
        let now = case.world.clock.now_micros();
        if !newest.is_same_place(&saved) {
            let refused = block_on(repository.restore("kept", false, now));
            assert_eq!(refused.expect_err("it is refused").code(), code::CONTROL);
        }
        let restored = block_on(repository.restore("kept", true, now)).expect("it is restored");
        assert_eq!(restored.epoch, epoch);
        if restored.is_newest {
            return;
        }

        // Into other targets, so that what it gives from there on is seen alone.
        let second = Targets::new();
        case.finish(case.start(&second), &second);
        let read: u64 = saved.sources["log"].values().map(|position| position.0).sum();
        let all = case.log.records().count() as u64;
        assert_eq!(second.copies.rows().len() as u64, all - read);
        assert_eq!(second.totals.rows(), case.totals(saved.watermarks["windows"]));
        gone_back.fetch_add(1, Ordering::Relaxed);
    });
    assert!(gone_back.load(Ordering::Relaxed) >= 20, "{gone_back:?} of the cases went back");
}

#[test]
fn savepoints_have_names_that_are_used_once() {
    let case = Case::new(1);
    let targets = Targets::new();
    case.finish(case.start(&targets), &targets);
    let repository = case.repository();
    let newest = block_on(repository.newest()).expect("it is read").expect("there is one");
    block_on(repository.save("one", &newest)).expect("it is made");
    block_on(repository.save("one", &newest)).expect("the same once more is the same");
    let mut other = newest.clone();
    other.epoch = other.epoch.next();
    let refused = block_on(repository.save("one", &other)).expect_err("the name is used");
    assert_eq!(refused.code(), code::CONTROL);
    let refused = block_on(repository.save("../one", &newest)).expect_err("no name");
    assert_eq!(refused.code(), code::ARGUMENTS);
    assert_eq!(block_on(repository.savepoints()).expect("they are listed"), ["one"]);
    let same = block_on(repository.restore("one", false, 0)).expect("nothing is to be done");
    assert!(same.is_newest);
    let missing = block_on(repository.restore("two", true, 0)).expect_err("there is none");
    assert_eq!(missing.code(), code::CONTROL);
    block_on(repository.forget("one")).expect("it is deleted");
    assert_eq!(block_on(repository.savepoints()).expect("they are listed"), [""; 0]);
}
