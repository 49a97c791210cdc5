//! One simulated case: the world of a seed, what runs in it, and what happens to it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use freshet_core::clock::Clock;
use freshet_core::files::FileSystem;
use freshet_core::scalar::ScalarExpr;
use freshet_core::store::LocalStore;
use freshet_runtime::checkpoint::{Merging, Settings};
use freshet_runtime::exchange::Limits;
use freshet_runtime::executor::Io;
use freshet_runtime::job::{Ended, JobOptions, Restart};
use freshet_runtime::plan::{JobPlan, SinkPlan, StageInput};
use freshet_runtime::source::{WatermarkSpec, WhenIdle};
use freshet_runtime::state::{KeyGroups, SpillOptions};
use freshet_testkit::fault::{FaultFs, Mutant};
use freshet_testkit::lying::{Lie, LyingStore};
use freshet_testkit::sim::{
    Draw, Fate, Faults, LogSource, Process, Silence, SimLog, SimScratch, SimSink, SlowStore,
    Stepped, Steps, Target, TargetMutant, Weather, World,
};
use futures::FutureExt;
use object_store::ObjectStore;

use crate::SECOND;
use crate::reference::Reference;
use crate::script::{self, Event, Planned, Tally};
use crate::topology::Topology;

/// `time - delay`.
#[derive(Debug)]
pub struct Delayed(pub i64);

impl ScalarExpr for Delayed {
    fn evaluate(&self, batch: &RecordBatch) -> freshet_core::Result<ArrayRef> {
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let delayed: TimestampMicrosecondArray = times.unary(|time| time - self.0);
        Ok(Arc::new(delayed))
    }
}

/// What is left out on purpose.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    Disk(Mutant),
    Store(Lie),
    Target(TargetMutant),
}

/// Everything that a seed decides before anything happens.
pub struct Case {
    pub world: World,
    pub log: Arc<SimLog>,
    /// What the log is joined with, where it is.
    other: Arc<SimLog>,
    topology: Topology,
    /// Microseconds that watermarks stay behind.
    delay: i64,
    pub idle_after: Option<i64>,
    when_idle: WhenIdle,
    /// What the topology comes to.
    pub totals: Arc<Target>,
    /// The records as they are.
    pub copies: Arc<Target>,
    /// Records that came after their time.
    late: Arc<Target>,
    pub disk: Arc<FaultFs>,
    pub scratch: Option<SimScratch>,
    storage: Weather,
    commits: Weather,
    lie: Option<Lie>,
    script: Vec<Planned>,
    /// The longest time between two checkpoints.
    interval: i64,
}

impl Case {
    pub fn new(seed: u64, broken: Option<Broken>) -> Self {
        let world = World::new(seed);
        let chance = &world.chance;
        let topology = Topology::draw(seed, chance);
        let disorder = chance.between(1..3 * SECOND);
        let start = world.clock.now_micros();
        let span = chance.between(4..20) * SECOND;
        let keys = 1 + chance.between(0..30);
        let idle_after = chance.happens(0.4).then(|| chance.between(SECOND / 5..2 * SECOND));
        let silences = (0..chance.below(4)).map(|_| Silence {
            partition: chance.happens(0.6).then(|| chance.below(4)),
            start: start + chance.between(0..span),
            length: chance.between(SECOND..6 * SECOND),
            moves_time: chance.happens(0.7),
        });
        let silences: Vec<Silence> = silences.collect();
        let draw = |records: usize, keys: i64, first, deletes| {
            let draw = Draw {
                start,
                span,
                records,
                partitions: 1 + chance.below(4),
                keys,
                disorder,
                skew: if chance.happens(0.5) { chance.between(0..2 * SECOND) } else { 0 },
                silences: silences.clone(),
                first,
                deletes,
            };
            Arc::new(SimLog::drawn(chance, &draw))
        };
        let log = draw(200 + chance.below(800), keys, 0, 0.0);
        // Few matches for each: what matters is when they come.
        let deletes = if let Topology::Temporal(_) = topology { 0.2 } else { 0.0 };
        let other = draw(20 + chance.below(200), 3 * keys, 1_000_000, deletes);
        let script = script::draw(seed, span, chance);
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
        Self {
            // A third of the cases has late records.
            delay: if chance.happens(0.3) { disorder / 2 } else { disorder },
            idle_after,
            when_idle: [WhenIdle::Wait, WhenIdle::Advance][chance.below(2)],
            totals: target(),
            copies: target(),
            late: target(),
            disk: Arc::new(disk),
            scratch: chance.happens(0.5).then(SimScratch::default),
            lie: match broken {
                Some(Broken::Store(lie)) => Some(lie),
                _ => None,
            },
            interval: match chance.below(4) {
                // Old checkpoints are deleted only where there are many.
                _ if script.iter().any(|planned| planned.event.wants_many()) => SECOND / 5,
                0 | 1 => SECOND / 2,
                _ => 2 * SECOND,
            },
            script,
            ..Self::quiet(world.clone(), topology, [log, other])
        }
    }

    /// A case to which nothing happens; watermarks stay behind by a second.
    pub fn quiet(world: World, topology: Topology, [log, other]: [Arc<SimLog>; 2]) -> Self {
        Self {
            log,
            other,
            topology,
            delay: SECOND,
            idle_after: None,
            when_idle: WhenIdle::Wait,
            totals: Arc::new(Target::new(true)),
            copies: Arc::new(Target::new(true)),
            late: Arc::new(Target::new(true)),
            disk: Arc::new(FaultFs::new(7)),
            scratch: None,
            storage: Faults::NONE.into(),
            commits: Faults::NONE.into(),
            lie: None,
            script: Vec::new(),
            interval: SECOND / 2,
            world,
        }
    }

    fn plan(&self, parallelism: u16, io: &Arc<dyn Io>) -> JobPlan {
        let chance = &self.world.chance;
        let groups = KeyGroups::default();
        let sink = |id: &str, target: &Arc<Target>, commit_interval| SinkPlan {
            id: id.into(),
            sink: Arc::new(SimSink {
                target: Arc::clone(target),
                faults: self.commits.clone(),
                chance: chance.clone(),
                io: Arc::clone(io),
            }),
            commit_interval,
        };
        let source = |log: &Arc<SimLog>| StageInput::Source {
            source: Arc::new(LogSource { log: Arc::clone(log), chance: chance.clone() }),
            watermark: Some(WatermarkSpec {
                expr: Arc::new(Delayed(self.delay)),
                idle_after: self.idle_after,
                when_idle: self.when_idle,
            }),
        };
        let sinks = [
            sink("copies", &self.copies, 0),
            sink("totals", &self.totals, 1_500_000),
            sink("late rows", &self.late, 0),
        ];
        let sources = [source(&self.log), source(&self.other)];
        let stages = self.topology.stages(parallelism, groups, sources, sinks);
        JobPlan { name: "job".into(), groups, stages }
    }

    /// Starts a process of the job.
    pub fn start(&self, parallelism: u16) -> Process {
        let chance = &self.world.chance;
        let workers = 1 + chance.below(3);
        let options = JobOptions {
            checkpoints: Settings {
                interval: chance.between(self.interval / 10..self.interval),
                pause: 0,
                keep: 1 + chance.below(3),
                merging: Merging { fan_in: 2 + chance.below(4), smallest: 500 },
            },
            limits: Limits { rows: 1 + chance.below(200), bytes: 1 << 20 },
            // Where there is a budget, next to all rows are over it.
            spill: self.scratch.as_ref().map(|scratch| SpillOptions {
                budget: (1 + chance.below(4000)).into(),
                scratch: Arc::new(scratch.clone()),
            }),
            restart: Restart {
                // A job that cannot go on ends with its error, sooner or later.
                attempts: Some(1000),
                longest: 100_000,
                ..Restart::exponential(10_000, 2.0, 100_000)
            },
            accept_state_loss: false,
        };
        Process::start(&self.world, options, workers, |io| {
            if self.disk.metadata(STATE.as_ref()).is_err() {
                // Whoever has no folder to begin in is not begun.
                self.disk.limit(None);
            }
            let disk = Arc::clone(&self.disk);
            let folder = LocalStore::new(disk, STATE).expect("the folder can be made");
            let folder: Arc<dyn ObjectStore> = Arc::new(folder);
            let lying = match self.lie {
                Some(lie) => Arc::new(LyingStore::new(folder, lie)),
                None => folder,
            };
            let store = SlowStore {
                inner: lying,
                faults: self.storage.clone(),
                chance: chance.clone(),
                io: Arc::clone(&io),
            };
            (self.plan(parallelism, &io), Arc::new(store) as Arc<dyn ObjectStore>)
        })
        .expect("the plan is sound")
    }

    /// Lets a process run until so much time has passed since the beginning, or it has ended.
    pub fn run_until(&self, process: &mut Process, elapsed: i64) -> Result<(), String> {
        while self.world.elapsed() < elapsed {
            match process.step() {
                Stepped::Worked => {}
                Stepped::Waits(until) => {
                    let left = elapsed - self.world.elapsed();
                    let wait = until.map_or(left, |until| until - self.world.clock.now_micros());
                    self.world.clock.advance_micros(wait.clamp(1, left));
                }
                Stepped::Ended => return process.ended().expect("it has ended").map(drop),
                Stepped::Died(step) => return Err(format!("it died at {step}")),
            }
        }
        Ok(())
    }

    /// Runs the case to its end, through all that happens to it.
    pub fn run(&self, tally: &mut Tally) -> Result<(), String> {
        let steps = Steps::watch();
        let mut course = Course {
            case: self,
            steps: &steps,
            live: Vec::new(),
            frozen: Vec::new(),
            parallelism: 0,
            script: self.script.iter().copied().collect(),
            over: Vec::new(),
            trap: None,
            finished: false,
            savepoints: 0,
            drained: Vec::new(),
            tally,
        };
        course.start();
        course.run()?;
        tally.passed = steps.passed();
        Ok(())
    }

    /// Holds what the targets have against the logs.
    pub fn verify(&self) -> Result<(), String> {
        let reference = Reference {
            log: &self.log,
            other: &self.other,
            is_exact: self.is_exact(),
            copies: &self.copies,
            totals: &self.totals,
            late: &self.late,
        };
        reference.verify(self.topology).map_err(|error| format!("{:?}: {error}", self.topology))
    }

    /// Whether no record can come after its time: no partition is ever left behind, and watermarks
    /// stay behind its disorder.
    fn is_exact(&self) -> bool {
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
        let other = !self.topology.reads_other() || covers(&self.other);
        self.idle_after.is_none() && covers(&self.log) && other
    }
}

const STATE: &str = "/state";

/// Microseconds that a trap waits for somebody to come there.
const PATIENCE: i64 = 3 * SECOND;

/// A case while it runs.
struct Course<'a> {
    case: &'a Case,
    steps: &'a Steps,
    live: Vec<Process>,
    /// Those that are thought dead.
    frozen: Vec<Process>,
    /// That of the last process that was started.
    parallelism: u16,
    script: VecDeque<Planned>,
    /// What lasts, and when it is over.
    over: Vec<(i64, Event)>,
    /// The step at which a trap is set, when it is given up, and what is set after it.
    trap: Option<(i64, Option<&'static str>)>,
    /// Whether one of them has read everything.
    finished: bool,
    savepoints: u32,
    /// Those that were asked to end.
    drained: Vec<u64>,
    tally: &'a mut Tally,
}

impl Course<'_> {
    /// Starts a process, with another parallelism than the last one had.
    fn start(&mut self) {
        let chance = &self.case.world.chance;
        let before = self.parallelism;
        self.parallelism = 1 + chance.below(if before == 0 { 4 } else { 3 }) as u16;
        if before > 0 && self.parallelism >= before {
            self.parallelism += 1;
        }
        self.live.push(self.case.start(self.parallelism));
    }

    /// All processes of the machine die; `power` goes with them, or does not.
    fn die(&mut self, power: bool) {
        self.live.clear();
        self.frozen.clear();
        if power {
            self.tally.count("the machine lost its power");
            self.case.disk.crash();
        } else {
            self.case.disk.restart();
        }
        self.start();
    }

    fn run(&mut self) -> Result<(), String> {
        let chance = &self.case.world.chance;
        let mut steps = 0_u64;
        while !self.live.is_empty() || !self.frozen.is_empty() {
            steps += 1;
            if steps > 1_000_000 {
                return Err(format!("still running after {steps} steps"));
            }
            self.happen();
            if self.case.disk.is_killed() {
                self.tally.count("a process died in a write");
                self.die(chance.happens(0.5));
            }
            // One that was thought dead goes on.
            if !self.frozen.is_empty() && (self.live.is_empty() || chance.happens(0.01)) {
                let place = chance.below(self.frozen.len());
                self.live.push(self.frozen.swap_remove(place));
                self.tally.count("a frozen process went on");
            }
            let place = chance.below(self.live.len());
            let stepped = self.live[place].step();
            if let Some(step) = self.steps.frozen() {
                self.tally.steps.entry(step).or_default()[2] += 1;
                self.frozen.push(self.live.swap_remove(place));
                self.start();
                continue;
            }
            match stepped {
                Stepped::Worked => {}
                Stepped::Died(step) => self.died(step),
                Stepped::Ended => self.ended(place)?,
                Stepped::Waits(until) => self.wait(until)?,
            }
        }
        // Whoever comes now finds that there is nothing to do.
        if !self.finished {
            return Err("nobody came to the end".into());
        }
        self.steps.clear();
        for (_, event) in std::mem::take(&mut self.over) {
            self.cease(event);
        }
        self.case.disk.restart();
        self.start();
        self.case.world.run(&mut self.live[0])
    }

    fn died(&mut self, step: &'static str) {
        let power = self.case.world.chance.happens(0.5);
        let counts = self.tally.steps.entry(step).or_default();
        counts[0] += 1;
        counts[1] += u64::from(power);
        if let Some((_, Some(next))) = self.trap.take() {
            self.set(next, 1, Fate::Dies, None);
        }
        self.die(power);
    }

    fn ended(&mut self, place: usize) -> Result<(), String> {
        let process = self.live.swap_remove(place);
        let asked = self.drained.contains(&process.id());
        match process.ended().expect("it has ended") {
            Ok(Ended::Exhausted) => self.finished = true,
            Ok(Ended::Drained) => self.tally.count("a job was drained and rescaled"),
            Err(error) if error.starts_with("F0902") => self.tally.count("a process was fenced"),
            // One that is to end tries it once more, and no more.
            Err(_) if asked => self.tally.count("a job failed while it was drained"),
            Err(error) => return Err(error),
        }
        if self.live.is_empty() && !self.finished {
            self.start();
        }
        Ok(())
    }

    /// Nobody of one process can go on: lets time go on.
    fn wait(&mut self, until: Option<i64>) -> Result<(), String> {
        let world = &self.case.world;
        let now = world.clock.now_micros();
        // Others may have something to do.
        if self.live.len() > 1 && world.chance.happens(0.9) {
            return Ok(());
        }
        let origin = now - world.elapsed();
        let planned = self.script.front().map(|planned| origin + planned.at);
        let over = self.over.iter().map(|(until, _)| *until);
        let next = over.chain(planned).filter(|next| *next > now).min();
        match [until, next].into_iter().flatten().min() {
            Some(until) => world.clock.advance_micros((until - now).max(1)),
            None => return Err("nothing can happen any more".into()),
        }
        Ok(())
    }

    fn set(&mut self, step: &'static str, nth: u64, fate: Fate, next: Option<&'static str>) {
        self.steps.set(step, nth, fate);
        let patience = if step.starts_with("collect") || step.starts_with("merge") {
            5 * PATIENCE
        } else {
            PATIENCE
        };
        self.trap = Some((self.case.world.clock.now_micros() + patience, next));
    }

    /// Lets happen what is due.
    fn happen(&mut self) {
        let case = self.case;
        let now = case.world.clock.now_micros();
        let over: Vec<_> = self.over.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, event) in over {
            self.cease(event);
        }
        if self.steps.is_set() && self.trap.is_some_and(|(until, _)| until <= now) {
            self.steps.clear();
        }
        if self.finished || self.live.is_empty() {
            return;
        }
        let is_due = |planned: &Planned| planned.at <= case.world.elapsed();
        let Some(planned) = self.script.front().copied().filter(is_due) else { return };
        // One trap at a time.
        if matches!(planned.event, Event::AtStep { .. }) && self.steps.is_set() {
            return;
        }
        self.script.pop_front();
        let until = now + planned.lasts;
        match planned.event {
            Event::AtStep { step, nth, fate } => self.lead_to(step, nth, fate),
            Event::InWrite { operation } => case.disk.kill_at(operation),
            Event::Killed => {
                self.tally.count("a process was killed between two steps");
                let power = case.world.chance.happens(0.5);
                self.die(power);
            }
            Event::Storage(faults) => {
                self.tally.count("the store failed or was slow");
                case.storage.turn(faults);
                self.over.push((until, planned.event));
            }
            Event::Commits(faults) => {
                self.tally.count("commits failed, were slow, or lost their answers");
                case.commits.turn(faults);
                self.over.push((until, planned.event));
            }
            Event::DiskFull { room } => {
                self.tally.count("the disk was full");
                case.disk.limit(Some(room));
                self.over.push((until, planned.event));
            }
            Event::ScratchFull => {
                if let Some(scratch) = &case.scratch {
                    self.tally.count("there was no room for scratch files");
                    scratch.fill(true);
                    self.over.push((until, planned.event));
                }
            }
            Event::Rescale => self.drain(),
            Event::Savepoint => self.save(),
        }
    }

    /// What lasted is over.
    fn cease(&self, event: Event) {
        let case = self.case;
        match event {
            Event::Storage(_) => case.storage.turn(Faults::NONE),
            Event::Commits(_) => case.commits.turn(Faults::NONE),
            Event::DiskFull { .. } => case.disk.limit(None),
            _ => case.scratch.iter().for_each(|scratch| scratch.fill(false)),
        }
    }

    /// Sets a trap, and sees to it that somebody comes there.
    fn lead_to(&mut self, step: &'static str, nth: u64, fate: Fate) {
        match step {
            // What was to be committed is found by the next life.
            "job.recovered" => self.set("commit.begun", nth, Fate::Dies, Some(step)),
            "job.ended" => {
                self.set(step, 1, fate, None);
                self.drain();
            }
            "savepoint.made" => {
                self.set(step, 1, fate, None);
                self.save();
            }
            step if step.starts_with("job.") => {
                self.set(step, nth, fate, None);
                self.die(false);
            }
            step => self.set(step, nth, fate, None),
        }
    }

    fn drain(&mut self) {
        self.live[0].handle().drain();
        self.drained.push(self.live[0].id());
    }

    fn save(&mut self) {
        self.savepoints += 1;
        let name = format!("s{}", self.savepoints);
        // It is asked for; nobody waits for the answer.
        let _ = self.live[0].handle().savepoint(&name).now_or_never();
    }
}
