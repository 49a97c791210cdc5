//! What a running job does next about its checkpoints and commits: a pure state machine.
//!
//! The order that everything rests on: all parts of an epoch are durable, then the manifest that
//! names them is, then its sinks commit. Whoever drives this carries out the effects and brings back
//! what became of them; it never acts by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use freshet_core::stream::{Epoch, EventTime, PendingCommit, Token};

use super::compaction::{Merge, Merging};
use super::manifest::{Manifest, RunRef};
use crate::exchange::Barrier;
use crate::source::SplitPosition;
use crate::state::KeyGroupRange;
use crate::task::TaskId;

/// How often, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Between the beginnings of two checkpoints.
    pub interval: i64,
    /// Between the end of one and the beginning of the next, at least.
    pub pause: i64,
    /// Manifests that are kept.
    pub keep: usize,
    /// When runs become one.
    #[serde(default)]
    pub merging: Merging,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval: 1_000_000, pause: 0, keep: 3, merging: Merging::default() }
    }
}

/// What the coordinator knows of a job's tasks.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// By the place of a stage in the plan.
    pub stages: Vec<StageShape>,
}

/// One stage.
#[derive(Debug, Clone, Default)]
pub struct StageShape {
    /// Its id in manifests.
    pub id: String,
    /// How many tasks it has.
    pub tasks: u16,
    /// Whether it reads a source.
    pub is_source: bool,
    /// The ids of the operators of its chain.
    pub operators: Vec<String>,
    /// The sink at its end.
    pub sink: Option<SinkShape>,
}

/// The sink of a stage.
#[derive(Debug, Clone, Default)]
pub struct SinkShape {
    /// Its id in manifests.
    pub id: String,
    /// Microseconds between two commits; 0 commits each epoch.
    pub commit_interval: i64,
}

/// A task's part of a checkpoint, all of it durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Whose it is.
    pub task: TaskId,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// How far event time has come.
    pub watermark: EventTime,
    /// What changed, by the operator's place in the chain.
    pub runs: Vec<(usize, RunRef)>,
    /// Up to when entries are dead, by place and table.
    pub floors: Vec<(usize, u8, EventTime)>,
    /// Where reading stands.
    pub positions: Vec<SplitPosition>,
    /// What was staged.
    pub token: Option<Token>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time went on.
    Tick,
    /// A part of the checkpoint is durable.
    Part(Part),
    /// A source's task has read all that there is.
    Exhausted(TaskId),
    /// The manifest of an epoch is durable.
    Written(Epoch),
    /// A sink holds everything up to this epoch.
    Committed {
        /// The sink's stage.
        stage: u16,
        /// The epoch.
        epoch: Epoch,
    },
    /// A merge came to this run, which is durable; to none where nothing is left.
    Merged {
        /// The merge's id.
        id: u64,
        /// Its output.
        run: Option<RunRef>,
    },
    /// A merge failed; what it was to merge is as it was.
    NotMerged {
        /// The merge's id.
        id: u64,
    },
    /// The job is to end: what was read is to be carried through.
    Drain,
    /// The next checkpoint is wanted at once.
    Hurry,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Let a barrier pass at all sources.
    Inject(Barrier),
    /// Write a manifest, then say [`Event::Written`].
    Write(Box<Manifest>),
    /// Commit epochs of a sink, then say [`Event::Committed`].
    Commit {
        /// The sink's stage.
        stage: u16,
        /// The last epoch of it.
        epoch: Epoch,
        /// All epochs of it, ascending.
        pending: Vec<PendingCommit>,
    },
    /// Merge runs, then say [`Event::Merged`] or [`Event::NotMerged`].
    Merge(Box<Merge>),
    /// Tell the sources where the newest checkpoint stands.
    Publish(Epoch),
    /// Delete what no checkpoint needs.
    Collect {
        /// Manifests that are kept.
        keep: usize,
        /// State files of this epoch or later ones are left alone.
        before: Epoch,
    },
    /// The job came to its end.
    Finish,
}

/// The coordinator of one instance of a job.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    shape: Shape,
    /// The newest durable manifest.
    manifest: Manifest,
    step: Step,
    /// When the next checkpoint is due.
    due: i64,
    exhausted: BTreeSet<TaskId>,
    draining: bool,
    sinks: BTreeMap<u16, SinkProgress>,
    collected: Epoch,
    /// Merges that are under way, or that no durable manifest has taken up.
    merges: Vec<MergeProgress>,
    next_merge: u64,
    /// What is not merged before an epoch, because it failed.
    resting: Vec<(String, KeyGroupRange, Epoch)>,
}

#[derive(Debug)]
struct MergeProgress {
    merge: Merge,
    step: MergeStep,
}

#[derive(Debug, PartialEq)]
enum MergeStep {
    UnderWay,
    /// The next manifest takes it up.
    Done(Option<RunRef>),
    /// The manifest that is being written has it.
    TakenUp,
}

#[derive(Debug)]
enum Step {
    Idle,
    /// A barrier is on its way.
    Gathering {
        barrier: Barrier,
        begun: i64,
        waiting: BTreeSet<TaskId>,
        parts: Vec<Part>,
    },
    /// A manifest is being written.
    Writing {
        barrier: Barrier,
        begun: i64,
        manifest: Box<Manifest>,
    },
    /// The last manifest is written: commits are awaited.
    Ending,
    Ended,
}

#[derive(Debug, Default)]
struct SinkProgress {
    /// What is held by durable manifests and not committed.
    pending: Vec<PendingCommit>,
    /// Up to which epoch a commit is under way.
    committing: Option<Epoch>,
    last_commit: i64,
}

/// Manifests between two collections: listing a bucket has its price.
const COLLECT_EVERY: u64 = 10;

/// Merges that are under way at once: each has some memory, and all are the work of cores that the
/// stream wants.
const MERGES_AT_ONCE: usize = 2;

/// Checkpoints after which a merge that failed is tried again.
const MERGE_AGAIN_AFTER: u64 = 20;

impl Coordinator {
    /// Of an instance that has claimed the job by `manifest`, all of whose pending commits were made.
    pub fn new(settings: Settings, shape: Shape, manifest: Manifest, now: i64) -> Self {
        let sinks = shape.stages.iter().enumerate().filter(|(_, stage)| stage.sink.is_some());
        Self {
            sinks: sinks
                .map(|(stage, _)| {
                    (stage as u16, SinkProgress { last_commit: now, ..SinkProgress::default() })
                })
                .collect(),
            settings,
            shape,
            step: Step::Idle,
            due: now + settings.interval,
            exhausted: BTreeSet::new(),
            draining: false,
            collected: manifest.epoch,
            merges: Vec::new(),
            next_merge: 0,
            resting: Vec::new(),
            manifest,
        }
    }

    /// The newest durable checkpoint.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// When a tick is wanted next.
    pub fn deadline(&self) -> Option<i64> {
        matches!(self.step, Step::Idle).then_some(self.due)
    }

    /// The tasks whose part of the checkpoint is missing, and since when.
    pub fn waits_for(&self) -> Option<(Epoch, i64, Vec<TaskId>)> {
        match &self.step {
            Step::Gathering { barrier, begun, waiting, .. } => {
                Some((barrier.epoch, *begun, waiting.iter().copied().collect()))
            }
            Step::Writing { barrier, begun, .. } => Some((barrier.epoch, *begun, Vec::new())),
            _ => None,
        }
    }

    /// Takes what happened at the time of day `now`; gives what is to be done.
    pub fn on(&mut self, event: Event, now: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {}
            Event::Exhausted(task) => {
                self.exhausted.insert(task);
            }
            Event::Drain => self.draining = true,
            Event::Hurry => self.due = self.due.min(now),
            Event::Part(part) => self.on_part(part, now, &mut effects),
            Event::Written(epoch) => self.on_written(epoch, now, &mut effects),
            Event::Merged { id, run } => {
                self.progress(id).step = MergeStep::Done(run);
                self.merge(&mut effects);
            }
            Event::NotMerged { id } => {
                let place = self.merges.iter().position(|other| other.merge.id == id);
                let failed = self.merges.swap_remove(place.expect("it is under way"));
                let again = Epoch(self.manifest.epoch.0 + MERGE_AGAIN_AFTER);
                self.resting.push((failed.merge.operator, failed.merge.groups, again));
            }
            Event::Committed { stage, epoch } => {
                let sink = self.sinks.get_mut(&stage).expect("a stage with a sink");
                assert_eq!(sink.committing, Some(epoch), "the commit that was asked for");
                sink.committing = None;
                sink.last_commit = now;
                sink.pending.retain(|pending| pending.epoch > epoch);
                self.commit(now, &mut effects);
            }
        }
        self.begin(now, &mut effects);
        self.end(&mut effects);
        effects
    }

    /// Lets a barrier pass where it is time.
    fn begin(&mut self, now: i64, effects: &mut Vec<Effect>) {
        if !matches!(self.step, Step::Idle) {
            return;
        }
        let last = self.draining || self.is_exhausted();
        if !last && now < self.due {
            return;
        }
        let barrier = Barrier { epoch: self.manifest.epoch.next(), last };
        let tasks = self.shape.stages.iter().enumerate().flat_map(|(stage, shape)| {
            (0..shape.tasks).map(move |index| TaskId { stage: stage as u16, index })
        });
        self.step =
            Step::Gathering { barrier, begun: now, waiting: tasks.collect(), parts: Vec::new() };
        effects.push(Effect::Inject(barrier));
    }

    fn is_exhausted(&self) -> bool {
        let sources = self.shape.stages.iter().filter(|stage| stage.is_source);
        let tasks: usize = sources.map(|stage| usize::from(stage.tasks)).sum();
        self.exhausted.len() == tasks
    }

    fn on_part(&mut self, part: Part, now: i64, effects: &mut Vec<Effect>) {
        let Step::Gathering { barrier, begun, waiting, parts } = &mut self.step else {
            unreachable!("a part comes while parts are gathered")
        };
        assert_eq!(part.epoch, barrier.epoch, "a part is of the epoch that is being gathered");
        assert!(waiting.remove(&part.task), "each task gives one part");
        parts.push(part);
        if !waiting.is_empty() {
            return;
        }
        let (barrier, begun, mut parts) = (*barrier, *begun, std::mem::take(parts));
        parts.sort_by_key(|part| part.task);
        let manifest = Box::new(self.compose(barrier, parts, now));
        effects.push(Effect::Write(manifest.clone()));
        self.step = Step::Writing { barrier, begun, manifest };
    }

    /// The manifest of an epoch all of whose parts are there.
    fn compose(&mut self, barrier: Barrier, parts: Vec<Part>, now: i64) -> Manifest {
        let mut manifest = self.manifest.clone();
        manifest.epoch = barrier.epoch;
        manifest.created = now;
        manifest.finished = barrier.last && self.is_exhausted();
        for MergeProgress { merge, step } in &mut self.merges {
            if let MergeStep::Done(output) = step {
                let runs = manifest.operators.entry(merge.operator.clone()).or_default();
                merge.apply(output.take(), runs);
                *step = MergeStep::TakenUp;
            }
        }
        for (stage, sink) in &self.sinks {
            let id = self.sink(*stage).id.clone();
            manifest.sinks.entry(id).or_default().pending.clone_from(&sink.pending);
        }
        let mut watermarks = BTreeMap::new();
        for part in parts {
            let stage = &self.shape.stages[usize::from(part.task.stage)];
            let watermark = watermarks.entry(stage.id.clone()).or_insert(part.watermark);
            *watermark = part.watermark.min(*watermark);
            for (place, run) in part.runs {
                manifest.operators.entry(stage.operators[place].clone()).or_default().push(run);
                manifest.changed = barrier.epoch;
            }
            for (place, table, time) in part.floors {
                let floors = manifest.floors.entry(stage.operators[place].clone()).or_default();
                let floor = floors.entry(table).or_insert(time);
                *floor = time.max(*floor);
            }
            if stage.is_source {
                let positions = manifest.sources.entry(stage.id.clone()).or_default();
                positions.extend(part.positions.into_iter().map(|at| (at.split, at.position)));
            }
            if let (Some(token), Some(sink)) = (part.token, &stage.sink) {
                let pending = &mut manifest.sinks.entry(sink.id.clone()).or_default().pending;
                match pending.last_mut() {
                    Some(last) if last.epoch == barrier.epoch => last.parts.push(token),
                    _ => pending.push(PendingCommit { epoch: barrier.epoch, parts: vec![token] }),
                }
            }
        }
        manifest.watermarks = watermarks;
        manifest.forget_dead();
        manifest
    }

    fn on_written(&mut self, epoch: Epoch, now: i64, effects: &mut Vec<Effect>) {
        let Step::Writing { barrier, begun, manifest } =
            std::mem::replace(&mut self.step, Step::Idle)
        else {
            unreachable!("a manifest was being written")
        };
        assert_eq!(barrier.epoch, epoch, "the manifest that was being written");
        self.manifest = *manifest;
        self.merges.retain(|merge| merge.step != MergeStep::TakenUp);
        self.resting.retain(|(_, _, until)| *until > epoch);
        for (stage, sink) in &mut self.sinks {
            let shape = self.shape.stages[usize::from(*stage)].sink.as_ref();
            let id = &shape.expect("a stage with a sink").id;
            let held = self.manifest.sinks.get(id).map(|sink| sink.pending.as_slice());
            // Earlier ones may have been committed while this was written.
            let new = held.unwrap_or_default().iter().filter(|pending| pending.epoch == epoch);
            sink.pending.extend(new.cloned());
        }
        if barrier.last {
            self.step = Step::Ending;
        } else {
            self.due = (begun + self.settings.interval).max(now + self.settings.pause);
        }
        effects.push(Effect::Publish(epoch));
        self.commit(now, effects);
        if epoch.0 >= self.collected.0 + COLLECT_EVERY {
            self.collected = epoch;
            // Files of merges have the number of the checkpoint that they began with.
            let merges = self.merges.iter().map(|progress| progress.merge.epoch);
            let before = merges.chain([epoch]).min().expect("there is one");
            effects.push(Effect::Collect { keep: self.settings.keep, before });
        }
        self.merge(effects);
    }

    /// Asks for the merges that are due, those of most runs first.
    fn merge(&mut self, effects: &mut Vec<Effect>) {
        let under_way = |progress: &&MergeProgress| progress.step == MergeStep::UnderWay;
        let under_way = self.merges.iter().filter(under_way).count();
        if under_way >= MERGES_AT_ONCE || matches!(self.step, Step::Ending | Step::Ended) {
            return;
        }
        let mut due: Vec<Merge> = self.shape.stages.iter().flat_map(|at| self.due(at)).collect();
        due.sort_by_key(|merge| std::cmp::Reverse(merge.inputs.len()));
        for mut merge in due.into_iter().take(MERGES_AT_ONCE - under_way) {
            merge.id = self.next_merge;
            self.next_merge += 1;
            effects.push(Effect::Merge(Box::new(merge.clone())));
            self.merges.push(MergeProgress { merge, step: MergeStep::UnderWay });
        }
    }

    /// The merges that the operators of a stage are due.
    fn due<'a>(&'a self, stage: &'a StageShape) -> impl Iterator<Item = Merge> + 'a {
        let of = |operator| (0..stage.tasks).map(move |task| (operator, task));
        stage.operators.iter().flat_map(of).filter_map(|(operator, task): (&String, u16)| {
            let groups = self.manifest.groups.range(task.into(), stage.tasks.into());
            let is_busy = self.merges.iter().any(|MergeProgress { merge, .. }| {
                merge.operator == *operator && merge.groups == groups
            });
            let rests = self.resting.iter().any(|(of, at, _)| of == operator && *at == groups);
            if is_busy || rests {
                return None;
            }
            Merge::plan(&self.manifest, operator, groups, self.settings.merging)
        })
    }

    fn progress(&mut self, id: u64) -> &mut MergeProgress {
        let progress = self.merges.iter_mut().find(|progress| progress.merge.id == id);
        progress.expect("a merge that is under way")
    }

    /// Asks for the commits that are due.
    fn commit(&mut self, now: i64, effects: &mut Vec<Effect>) {
        let ending = matches!(self.step, Step::Ending);
        for (stage, sink) in &mut self.sinks {
            let shape = self.shape.stages[usize::from(*stage)].sink.as_ref();
            let interval = shape.expect("a stage with a sink").commit_interval;
            let due = ending || now >= sink.last_commit + interval;
            if let (true, None, Some(last)) = (due, sink.committing, sink.pending.last()) {
                sink.committing = Some(last.epoch);
                effects.push(Effect::Commit {
                    stage: *stage,
                    epoch: last.epoch,
                    pending: sink.pending.clone(),
                });
            }
        }
    }

    fn end(&mut self, effects: &mut Vec<Effect>) {
        let settled = self.sinks.values().all(|sink| sink.pending.is_empty());
        if matches!(self.step, Step::Ending) && settled {
            self.step = Step::Ended;
            effects.push(Effect::Finish);
        }
    }

    fn sink(&self, stage: u16) -> &SinkShape {
        let sink = self.shape.stages[usize::from(stage)].sink.as_ref();
        sink.expect("a stage with a sink")
    }
}

#[cfg(test)]
mod tests;
