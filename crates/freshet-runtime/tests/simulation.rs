//! Whole jobs under a seeded simulation: power cuts, killed and frozen processes, slow and failing
//! storage, at every parallelism; what the targets hold afterwards is held against the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use freshet_core::clock::Clock;
use freshet_core::scalar::ScalarExpr;
use freshet_core::store::LocalStore;
use freshet_runtime::aggregate::{AggregateSpec, Count, Extreme, Side, Sum};
use freshet_runtime::checkpoint::{Merging, Settings};
use freshet_runtime::exchange::{Limits, Partitioning};
use freshet_runtime::executor::Io;
use freshet_runtime::job::{JobOptions, Restart};
use freshet_runtime::operator::{LATE, MAIN, OperatorSpec};
use freshet_runtime::operators::{IntervalJoin, Join, JoinKind, WindowAggregate, Windows};
use freshet_runtime::plan::{EdgePlan, JobPlan, SinkPlan, StageInput, StagePlan};
use freshet_runtime::source::WatermarkSpec;
use freshet_runtime::state::{KeyGroups, MemoryScratch, SpillOptions};
use freshet_testkit::fault::{FaultFs, Mutant};
use freshet_testkit::lying::{Lie, LyingStore};
use freshet_testkit::seeds;
use freshet_testkit::sim::{
    Faults, LogSource, Process, Record, SimLog, SimSink, SlowStore, Stepped, Target, TargetMutant,
    World,
};
use object_store::ObjectStore;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};

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

const SECOND: i64 = 1_000_000;

/// What is left out on purpose.
#[derive(Debug, Clone, Copy)]
enum Broken {
    Disk(Mutant),
    Store(Lie),
    Target(TargetMutant),
}

/// Windows, as a test sees them.
#[derive(Debug, Clone, Copy)]
struct Shape {
    size: i64,
    /// Between two starts.
    slide: i64,
    /// Between two ends of one start; 0 where there is one end.
    step: i64,
    offset: i64,
}

impl Shape {
    fn windows(self) -> Windows {
        let Self { size, slide, step, offset } = self;
        match step {
            0 if size == slide => Windows::tumble(size, offset),
            0 => Windows::hop(size, slide, offset),
            step => Windows::cumulate(size, step, offset),
        }
        .expect("they make sense")
    }

    /// The windows that `time` is in, by trying all that may be.
    fn of(self, time: i64) -> Vec<(i64, i64)> {
        let Self { size, slide, step, offset } = self;
        let first = (time - size - offset) / slide - 2;
        let starts = (0..2 * size / slide + 6).map(|number| (first + number) * slide + offset);
        let windows = starts.flat_map(|start| match step {
            0 => vec![(start, start + size)],
            step => (1..=size / step).map(|number| (start, start + number * step)).collect(),
        });
        windows.filter(|(start, end)| (*start..*end).contains(&time)).collect()
    }
}

/// What a case does with the records of its log.
#[derive(Debug, Clone, Copy)]
enum Topology {
    /// Aggregates them in windows.
    Windows(Shape),
    /// Joins them with those of another log.
    Join(JoinKind),
    /// Joins them with those of another log whose times lie near to theirs.
    Interval { kind: JoinKind, lower: i64, upper: i64 },
}

/// One simulated case: everything that a seed decides before anything happens.
struct Case {
    world: World,
    log: Arc<SimLog>,
    /// What the log is joined with, where it is.
    other: Arc<SimLog>,
    topology: Topology,
    /// Microseconds that watermarks stay behind.
    delay: i64,
    /// What windows or joins come to.
    totals: Arc<Target>,
    /// The records as they are.
    copies: Arc<Target>,
    /// Records that came after their time.
    late: Arc<Target>,
    disk: Arc<FaultFs>,
    faults: Faults,
    lie: Option<Lie>,
}

impl Case {
    fn new(seed: u64, broken: Option<Broken>) -> Self {
        let world = World::new(seed);
        let chance = &world.chance;
        let disorder = chance.between(1..3 * SECOND);
        let start = world.clock.now_micros();
        let span = chance.between(4..20) * SECOND;
        let records = 200 + chance.below(1500);
        let keys = 1 + chance.between(0..30);
        let random = |records: usize, keys: i64| {
            let partitions = 1 + chance.below(4);
            SimLog::random(chance, start, span, records, partitions, keys, disorder)
        };
        let log = random(records, keys);
        // Few matches for each: what matters is when they come.
        let other = random(20 + chance.below(200), 3 * keys);
        let offset = chance.between(0..SECOND);
        let slide = chance.between(1..20) * 100_000;
        let size = slide * chance.between(2..6);
        let shape = match chance.below(3) {
            0 => Shape { size, slide: size, step: 0, offset },
            1 => Shape { size, slide, step: 0, offset },
            _ => Shape { size, slide: size, step: slide, offset },
        };
        let topology = match chance.below(5) {
            0 => Topology::Join(JoinKind::Inner),
            1 => Topology::Join(JoinKind::Left),
            2 => {
                let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full];
                let lower = chance.between(-2 * SECOND..SECOND);
                let upper = lower + chance.between(0..2 * SECOND);
                Topology::Interval { kind: kinds[chance.below(4)], lower, upper }
            }
            _ => Topology::Windows(shape),
        };
        // Not every target fences: a table remembers the last epoch that it holds, no more. Where a
        // step is left out on purpose, a fence could make up for it.
        let fences = broken.is_none() && chance.happens(0.5);
        let target = || match broken {
            Some(Broken::Target(mutant)) => Arc::new(Target::with_mutant(mutant)),
            _ => Arc::new(Target::new(fences)),
        };
        let disk = match broken {
            Some(Broken::Disk(mutant)) => FaultFs::new(seed).with_mutant(mutant),
            _ => FaultFs::new(seed),
        };
        let faults = match chance.below(3) {
            0 => Faults::NONE,
            1 => Faults { refused: 0.05, lost: 0.05, slow: 50_000 },
            _ => Faults { refused: 0.0, lost: 0.02, slow: 2 * SECOND },
        };
        Self {
            log: Arc::new(log),
            other: Arc::new(other),
            topology,
            // A third of the cases has late records.
            delay: if chance.happens(0.3) { disorder / 2 } else { disorder },
            totals: target(),
            copies: target(),
            late: target(),
            disk: Arc::new(disk),
            faults,
            lie: match broken {
                Some(Broken::Store(lie)) => Some(lie),
                _ => None,
            },
            world,
        }
    }

    fn aggregates() -> Vec<Arc<dyn AggregateSpec>> {
        let int = DataType::Int64;
        vec![
            Arc::new(Count::rows()),
            Arc::new(Sum::new(2, int.clone(), int.clone()).expect("a sum of integers")),
            Arc::new(Extreme::new(Side::Greatest, 2, int).expect("integers have an order")),
        ]
    }

    fn plan(&self, parallelism: u16, io: &Arc<dyn Io>) -> JobPlan {
        let chance = self.world.chance.clone();
        let groups = KeyGroups::default();
        let sink = |id: &str, target: &Arc<Target>, commit_interval| SinkPlan {
            id: id.into(),
            sink: Arc::new(SimSink {
                target: Arc::clone(target),
                faults: self.faults,
                chance: chance.clone(),
                io: Arc::clone(io),
            }),
            commit_interval,
        };
        let source = |log: &Arc<SimLog>| StageInput::Source {
            source: Arc::new(LogSource { log: Arc::clone(log), chance: chance.clone() }),
            watermark: Some(WatermarkSpec::new(Arc::new(Delayed(self.delay)))),
        };
        let edge = |from, port, input, partitioning| EdgePlan {
            from,
            operator: 0,
            port,
            input,
            partitioning,
            schema: SimLog::schema(),
        };
        let by_key = || Partitioning::Hash(vec![1]);
        let stage = |id: &str, input, operators, sink| StagePlan {
            id: id.into(),
            parallelism,
            input,
            operators,
            sink,
        };
        let totals = sink("totals", &self.totals, 1_500_000);
        let mut stages =
            vec![stage("log", source(&self.log), vec![], Some(sink("copies", &self.copies, 0)))];
        let operator: Arc<dyn OperatorSpec> = match self.topology {
            Topology::Windows(shape) => Arc::new(WindowAggregate {
                input: SimLog::schema(),
                time: 0,
                windows: shape.windows(),
                keys: vec![1],
                aggregates: Self::aggregates(),
                names: ["n", "sum", "max"].map(str::to_owned).to_vec(),
                groups,
            }),
            Topology::Join(kind) => Arc::new(Join {
                kind,
                left: SimLog::schema(),
                right: SimLog::schema(),
                left_keys: vec![1],
                right_keys: vec![1],
                residual: None,
                ttl: None,
                groups,
            }),
            Topology::Interval { kind, lower, upper } => Arc::new(IntervalJoin {
                kind,
                left: SimLog::schema(),
                right: SimLog::schema(),
                left_keys: vec![1],
                right_keys: vec![1],
                left_time: 0,
                right_time: 0,
                lower,
                upper,
                residual: None,
                groups,
            }),
        };
        let mut edges = vec![edge(0, MAIN, 0, by_key())];
        if !matches!(self.topology, Topology::Windows(_)) {
            stages.push(stage("other", source(&self.other), vec![], None));
            edges.push(edge(1, MAIN, 1, by_key()));
        }
        let keyed = stages.len();
        let operators = vec![("operator".into(), operator)];
        stages.push(stage("keyed", StageInput::Edges(edges), operators, Some(totals)));
        let late = StageInput::Edges(vec![edge(keyed, LATE, 0, Partitioning::Forward)]);
        stages.push(stage("late", late, vec![], Some(sink("late rows", &self.late, 0))));
        JobPlan { name: "job".into(), groups, stages }
    }

    fn start(&self) -> Process {
        let chance = &self.world.chance;
        let workers = 1 + chance.below(3);
        let parallelism = 1 + chance.below(4) as u16;
        let options = JobOptions {
            checkpoints: Settings {
                interval: chance.between(100_000..2 * SECOND),
                pause: 0,
                keep: 1 + chance.below(3),
                merging: Merging { fan_in: 2 + chance.below(4), smallest: 500 },
            },
            limits: Limits { rows: 1 + chance.below(200), bytes: 1 << 20 },
            // Where there is a budget, next to all rows are over it.
            spill: chance.happens(0.5).then(|| SpillOptions {
                budget: (1 + chance.below(4000)).into(),
                scratch: Arc::new(MemoryScratch::default()),
            }),
            restart: Restart {
                // A job that cannot go on ends with its error, sooner or later.
                attempts: Some(100),
                delay: 10_000,
                longest: 100_000,
                ..Restart::default()
            },
        };
        Process::start(&self.world, options, workers, |io| {
            let disk = Arc::clone(&self.disk);
            let folder = LocalStore::new(disk, "/state").expect("the folder can be made");
            let folder: Arc<dyn ObjectStore> = Arc::new(folder);
            let lying = match self.lie {
                Some(lie) => Arc::new(LyingStore::new(folder, lie)),
                None => folder,
            };
            let store = SlowStore {
                inner: lying,
                faults: self.faults,
                chance: chance.clone(),
                io: Arc::clone(&io),
            };
            (self.plan(parallelism, &io), Arc::new(store) as Arc<dyn ObjectStore>)
        })
        .expect("the plan is sound")
    }

    /// Runs the case to its end through `crashes` crashes; counts what happened.
    fn run(&self, crashes: usize) -> Result<(), String> {
        let chance = &self.world.chance;
        let mut live = vec![self.start()];
        let mut frozen: Vec<Process> = Vec::new();
        let mut left = crashes;
        let mut steps = 0_u64;
        loop {
            steps += 1;
            if steps > 3_000_000 {
                return Err(format!("still running after {steps} steps"));
            }
            // Now and then something happens to a process.
            if left > 0 && chance.happens(0.002) {
                left -= 1;
                match chance.below(4) {
                    0 => {
                        live.clear();
                        frozen.clear();
                        self.disk.crash();
                        live.push(self.start());
                    }
                    1 => {
                        // The disk says when: in the midst of a write.
                        self.disk.kill_at(1 + chance.below(20) as u64);
                    }
                    2 => {
                        live.clear();
                        live.push(self.start());
                    }
                    _ => {
                        frozen.append(&mut live);
                        live.push(self.start());
                    }
                }
            }
            if self.disk.is_killed() {
                live.clear();
                frozen.clear();
                if chance.happens(0.5) {
                    self.disk.crash();
                } else {
                    self.disk.restart();
                }
                live.push(self.start());
            }
            // One that was thought dead goes on.
            if !frozen.is_empty() && chance.happens(0.01) {
                let place = chance.below(frozen.len());
                live.push(frozen.swap_remove(place));
            }
            let place = chance.below(live.len());
            match live[place].step() {
                Stepped::Worked => {}
                Stepped::Ended => {
                    let process = live.swap_remove(place);
                    match process.ended().expect("it has ended") {
                        Ok(_) => return Ok(()),
                        Err(error) if error.starts_with("F0902") => {
                            if live.is_empty() {
                                live.push(self.start());
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
                Stepped::Waits(until) => {
                    let now = self.world.clock.now_micros();
                    match until {
                        _ if live.len() > 1 && chance.happens(0.9) => {}
                        Some(until) if until > now => self.world.clock.advance_micros(until - now),
                        Some(_) => self.world.clock.advance_micros(1),
                        None => return Err("nothing can happen any more".into()),
                    }
                }
            }
        }
    }

    /// Holds what the targets have against the log.
    fn verify(&self) -> Result<(), String> {
        let mut records: Vec<String> = self.log.records().map(show_insert).collect();
        records.sort_unstable();
        compare("copies", &self.copies.rows(), &records)?;
        let late = self.late.rows();
        if self.delay_covers_disorder() {
            compare("late rows", &late, &[])?;
        }
        match self.topology {
            Topology::Windows(shape) => self.verify_windows(shape, &late),
            Topology::Join(kind) => self.verify_join(kind, |_, _| true),
            // A late row may have been in time for some of its partners, not for others.
            Topology::Interval { .. } if !self.delay_covers_disorder() => Ok(()),
            Topology::Interval { kind, lower, upper } => self.verify_join(kind, |left, right| {
                (right.time + lower..=right.time + upper).contains(&left.time)
            }),
        }
    }

    /// Holds what a join gave, folded, against all pairs.
    fn verify_join(
        &self,
        kind: JoinKind,
        lies: impl Fn(&Record, &Record) -> bool,
    ) -> Result<(), String> {
        let show = |record: Option<&Record>| match record {
            Some(record) => format!("{},{},{}", show_time(record.time), record.key, record.value),
            None => "null,null,null".into(),
        };
        let matches = |left: &Record, right: &Record| left.key == right.key && lies(left, right);
        let mut expected = Vec::new();
        for left in self.log.records() {
            let before = expected.len();
            let partners = self.other.records().filter(|right| matches(left, right));
            expected.extend(
                partners.map(|right| format!("{},{}", show(Some(left)), show(Some(right)))),
            );
            if expected.len() == before && matches!(kind, JoinKind::Left | JoinKind::Full) {
                expected.push(format!("{},{}", show(Some(left)), show(None)));
            }
        }
        if matches!(kind, JoinKind::Right | JoinKind::Full) {
            let alone = self.other.records();
            let alone = alone.filter(|right| !self.log.records().any(|left| matches(left, right)));
            expected.extend(alone.map(|right| format!("{},{}", show(None), show(Some(right)))));
        }
        expected.sort_unstable();
        let mut folded = BTreeMap::<String, i64>::new();
        for row in self.totals.rows() {
            let (kind, row) = row.split_at(3);
            *folded.entry(row.to_owned()).or_default() += if kind == "-D " { -1 } else { 1 };
        }
        if let Some((row, count)) = folded.iter().find(|(_, count)| **count < 0) {
            return Err(format!("join: {row} is there {count} times"));
        }
        let folded = folded.into_iter().flat_map(|(row, count)| vec![row; count as usize]);
        compare("join", &folded.collect::<Vec<_>>(), &expected)
    }

    /// Holds what windows came to against the log, late records apart.
    fn verify_windows(&self, shape: Shape, late: &[String]) -> Result<(), String> {
        let mut totals = BTreeMap::<(i64, i64, i64), (i64, i64, i64)>::new();
        for record in self.log.records() {
            if late.binary_search(&show_insert(record)).is_ok() {
                continue;
            }
            for (start, end) in shape.of(record.time) {
                let total = totals.entry((record.key, start, end)).or_insert((0, 0, i64::MIN));
                total.0 += 1;
                total.1 += record.value;
                total.2 = record.value.max(total.2);
            }
        }
        let mut expected: Vec<String> = totals
            .into_iter()
            .map(|((key, start, end), (n, sum, max))| {
                let bounds = [start, end].map(show_time).join(",");
                format!("+I {key},{bounds},{n},{sum},{max}")
            })
            .collect();
        expected.sort_unstable();
        if self.delay_covers_disorder() {
            compare("totals", &self.totals.rows(), &expected)?;
        } else {
            // A late record may have been in time for some of its windows, not for others: only
            // tumbling windows take it or leave it.
            if shape.size == shape.slide && shape.step == 0 {
                compare("totals", &self.totals.rows(), &expected)?;
            }
        }
        Ok(())
    }

    fn delay_covers_disorder(&self) -> bool {
        let covers = |log: &SimLog| {
            log.partitions.iter().all(|records| {
                let mut greatest = i64::MIN;
                records.iter().all(|record| {
                    let fits = record.time > greatest.saturating_sub(self.delay);
                    greatest = record.time.max(greatest);
                    fits
                })
            })
        };
        match self.topology {
            Topology::Windows(_) => covers(&self.log),
            _ => covers(&self.log) && covers(&self.other),
        }
    }
}

fn show_time(time: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(time).expect("a time");
    time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

fn show_insert(record: &Record) -> String {
    format!("+I {},{},{}", show_time(record.time), record.key, record.value)
}

fn compare(what: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let count = |rows: &[String]| {
        let mut counts = BTreeMap::<String, i64>::new();
        for row in rows {
            *counts.entry(row.clone()).or_default() += 1;
        }
        counts
    };
    let (found_counts, expected_counts) = (count(found), count(expected));
    let mut differences = Vec::new();
    for (row, expect) in &expected_counts {
        let there = found_counts.get(row).copied().unwrap_or(0);
        if there != *expect {
            differences.push(format!("{row}: {there} instead of {expect}"));
        }
    }
    for (row, there) in &found_counts {
        if !expected_counts.contains_key(row) {
            differences.push(format!("{row}: {there} instead of 0"));
        }
    }
    let some: Vec<_> = differences.iter().take(5).cloned().collect();
    Err(format!(
        "{what}: {} rows instead of {}, {} differ, such as {}",
        found.len(),
        expected.len(),
        differences.len(),
        some.join("; ")
    ))
}

fn simulate(seed: u64, broken: Option<Broken>) -> Result<(), String> {
    let case = Case::new(seed, broken);
    let crashes = case.world.chance.below(6);
    case.run(crashes)?;
    case.verify()
}

#[test]
fn nothing_is_lost_or_doubled_whatever_fails() {
    seeds::for_each(0..300, |seed| {
        if let Err(error) = simulate(seed, None) {
            panic!("{error}");
        }
    });
}

/// Each step that durability rests on is left out once: some seed must notice.
#[test]
fn a_step_that_is_left_out_is_noticed() {
    let manifest = |path: &str| path.contains("/manifests/");
    let state = |path: &str| path.contains("/state/");
    let merged = |path: &str| path.contains("-merged.");
    let mutants = [
        ("files are not synchronised", Broken::Disk(Mutant::IgnoreSyncFile)),
        ("folders are not synchronised", Broken::Disk(Mutant::IgnoreSyncDir)),
        ("two instances write one manifest", Broken::Store(Lie::Unconditional(manifest))),
        ("sinks commit before the manifest", Broken::Store(Lie::LeftOut(manifest))),
        ("state is not written", Broken::Store(Lie::LeftOut(state))),
        ("merged state is not written", Broken::Store(Lie::LeftOut(merged))),
        ("the target forgets what it holds", Broken::Target(TargetMutant::NoMarker)),
    ];
    for (what, broken) in mutants {
        let noticed = (0..400).find(|seed| {
            let result = std::panic::catch_unwind(|| simulate(*seed, Some(broken)));
            !matches!(result, Ok(Ok(())))
        });
        assert!(noticed.is_some(), "nobody noticed that {what}");
    }
}
