//! How a running job is watched: tasks publish their figures now and then, the job's loop what it is
//! at, and whoever asks gets both as [`JobFigures`].
//!
//! Tasks count for themselves, without a lock or an atomic; a few times a second their owner copies
//! the counts to where others can read them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use freshet_core::clock::Clock;
use freshet_core::stream::{Epoch, Wait};
use parking_lot::Mutex;

use crate::checkpoint::{Event, Manifest};
use crate::figures::{
    BegunCheckpoint, CheckpointFigures, JobFigures, MadeCheckpoint, Phase, SinkFigures,
    StageFigures, TaskFigures,
};
use crate::plan::{EdgePlan, JobPlan, JobSource, StageInput};
use crate::task::{self, Progress, TaskId};

/// Microseconds between two times that a task publishes its figures.
pub(crate) const PUBLISH_EVERY: i64 = 200_000;

/// Where a task's time goes. It is either at work, or waits, or it is its turn only later because
/// others of its worker are at work; of that time nothing is counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    busy: i64,
    blocked: i64,
    idle: i64,
    /// What it waits for, and since when.
    wait: Option<(task::Wait, i64)>,
    /// Up to when time was counted.
    counted: i64,
}

impl Meter {
    /// A call of the task began and ended at these times and came to `progress`.
    pub fn stepped(&mut self, progress: Progress, begun: i64, ended: i64) {
        self.count(begun);
        self.counted = self.counted.max(ended);
        match progress {
            Progress::Worked => {
                self.busy += (ended - begun).max(0);
                self.wait = None;
            }
            Progress::Waiting(wait) => {
                let since = self.wait.filter(|(same, _)| *same == wait).map(|(_, since)| since);
                self.wait = Some((wait, since.unwrap_or(ended)));
            }
        }
    }

    /// Counts the time up to `now`.
    fn count(&mut self, now: i64) {
        let span = (now - self.counted).max(0);
        match self.wait {
            Some((task::Wait::Input | task::Wait::Finished, _)) => self.idle += span,
            Some((task::Wait::Output { .. } | task::Wait::Sink, _)) => self.blocked += span,
            None => {}
        }
        self.counted = self.counted.max(now);
    }
}

/// Where a task's figures are published.
#[derive(Debug, Default)]
pub struct Board(Mutex<Published>);

#[derive(Debug, Default, Clone)]
struct Published {
    figures: TaskFigures,
    meter: Meter,
    /// What its source waits for.
    waits: Vec<Wait>,
}

impl Board {
    pub(crate) fn publish(&self, figures: TaskFigures, meter: &Meter, waits: Vec<Wait>) {
        *self.0.lock() = Published { figures, meter: meter.clone(), waits };
    }
}

/// Watches one job, whichever life it is in.
#[derive(Clone)]
pub struct JobMonitor(Arc<Inner>);

struct Inner {
    job: String,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    since: i64,
    generation: u64,
    restarts: u64,
    failure: Option<String>,
    stages: Vec<Stage>,
    checkpoints: CheckpointFigures,
    begun: Option<BegunCheckpoint>,
    sinks: BTreeMap<u16, SinkFigures>,
    /// Commits under way, by stage, and since when.
    committing: BTreeMap<u16, i64>,
    waits: BTreeMap<u64, Wait>,
    next_wait: u64,
}

struct Stage {
    figures: StageFigures,
    source: Option<Arc<dyn JobSource>>,
    boards: Vec<Arc<Board>>,
    /// Where the rows of its outputs go, in their order.
    targets: Vec<String>,
}

impl fmt::Debug for JobMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobMonitor").field("job", &self.0.job).finish_non_exhaustive()
    }
}

/// A wait that is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    monitor: JobMonitor,
    id: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.monitor.0.state.lock().waits.remove(&self.id);
    }
}

impl JobMonitor {
    pub(crate) fn new(job: &str, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            phase: Phase::Starting,
            since: clock.now_micros(),
            generation: 0,
            restarts: 0,
            failure: None,
            stages: Vec::new(),
            checkpoints: CheckpointFigures::default(),
            begun: None,
            sinks: BTreeMap::new(),
            committing: BTreeMap::new(),
            waits: BTreeMap::new(),
            next_wait: 0,
        };
        Self(Arc::new(Inner { job: job.to_owned(), clock, state: Mutex::new(state) }))
    }

    /// What the job says of itself now.
    pub fn figures(&self) -> JobFigures {
        let now = self.0.clock.now_micros();
        let state = self.0.state.lock();
        let mut waits: Vec<Wait> = state.waits.values().cloned().collect();
        let stages: Vec<StageFigures> = state
            .stages
            .iter()
            .map(|stage| {
                let ends = stage.source.as_ref().map(|source| source.ends()).unwrap_or_default();
                waits.extend(stage.source.iter().flat_map(|source| source.waits()));
                let tasks = stage.boards.iter().enumerate().map(|(index, board)| {
                    let published = board.0.lock().clone();
                    waits.extend(published.waits.iter().cloned());
                    let mut figures = published.into_figures(stage, index, now);
                    for split in &mut figures.splits {
                        split.end = ends.get(&split.split).map(|end| end.0);
                    }
                    figures
                });
                StageFigures { tasks: tasks.collect(), ..stage.figures.clone() }
            })
            .collect();
        for task in stages.iter().flat_map(|stage| &stage.tasks) {
            let none = [task::Wait::INPUT, task::Wait::FINISHED];
            let wait = task.wait.as_ref().filter(|wait| !none.contains(&wait.reason.as_str()));
            waits.extend(wait.cloned());
        }
        let rows = |stage: usize| stages.get(stage).into_iter().flat_map(|stage| &stage.tasks);
        let sinks = state.sinks.values().map(|sink| SinkFigures {
            rows: rows(sink.stage).map(|task| task.rows_out).sum(),
            ..sink.clone()
        });
        waits.extend(state.begun.as_ref().and_then(|begun| begun.wait(&stages, now)));
        JobFigures {
            job: self.0.job.clone(),
            at: now,
            phase: state.phase,
            since: state.since,
            generation: state.generation,
            restarts: state.restarts,
            failure: state.failure.clone(),
            sinks: sinks.collect(),
            checkpoints: CheckpointFigures {
                under_way: state.begun.clone(),
                ..state.checkpoints.clone()
            },
            stages,
            waits,
        }
    }

    fn now(&self) -> i64 {
        self.0.clock.now_micros()
    }

    /// The job is at something else now.
    pub(crate) fn enter(&self, phase: Phase) {
        let now = self.now();
        let mut state = self.0.state.lock();
        if state.phase != phase {
            (state.phase, state.since) = (phase, now);
        }
    }

    /// A life of the job begins: figures start at zero.
    pub(crate) fn begin(&self, plan: &JobPlan, manifest: &Manifest) {
        let stages = plan.stages.iter().enumerate().map(|(place, stage)| {
            let source = match &stage.input {
                StageInput::Source { source, .. } => Some(Arc::clone(source)),
                StageInput::Edges(_) => None,
            };
            Stage {
                figures: StageFigures {
                    id: stage.id.clone(),
                    is_source: source.is_some(),
                    operators: stage.operators.iter().map(|(_, spec)| spec.name()).collect(),
                    tasks: Vec::new(),
                },
                source,
                boards: (0..stage.parallelism).map(|_| Arc::default()).collect(),
                targets: targets(plan, place),
            }
        });
        let stages = stages.collect();
        let sinks = plan.stages.iter().enumerate().filter_map(|(place, stage)| {
            let id = stage.sink.as_ref()?.id.clone();
            Some((place as u16, SinkFigures { id, stage: place, ..SinkFigures::default() }))
        });
        let mut state = self.0.state.lock();
        state.stages = stages;
        state.generation = manifest.generation.0;
        state.sinks = sinks.collect();
        state.committing.clear();
        state.checkpoints.last = Some(made(manifest, manifest.created, 0, 0));
    }

    /// Where a task of the life that has begun publishes its figures.
    pub(crate) fn board(&self, task: TaskId) -> Arc<Board> {
        let state = self.0.state.lock();
        Arc::clone(&state.stages[usize::from(task.stage)].boards[usize::from(task.index)])
    }

    /// A life of the job has ended by an error.
    pub(crate) fn failed(&self, error: &freshet_core::Error) {
        self.enter(Phase::Failed);
        let mut state = self.0.state.lock();
        state.failure = Some(error.chain());
        if state.begun.take().is_some() {
            state.checkpoints.failed += 1;
        }
    }

    /// The job is about to begin again.
    pub(crate) fn restarts(&self) {
        self.enter(Phase::Starting);
        self.0.state.lock().restarts += 1;
    }

    /// A checkpoint is being made, or none is.
    pub(crate) fn checkpointing(&self, waits: Option<(Epoch, i64, Vec<TaskId>)>) {
        let begun = waits.map(|(epoch, since, missing)| BegunCheckpoint { epoch, since, missing });
        self.0.state.lock().begun = begun;
    }

    /// Something happened that the job's loop was told of, before it acts on it.
    pub(crate) fn heard(&self, event: &Event) {
        let now = self.now();
        let mut state = self.0.state.lock();
        if let Event::Committed { stage, epoch } = event {
            let begun = state.committing.remove(stage);
            if let Some(sink) = state.sinks.get_mut(stage) {
                sink.commits += 1;
                sink.committed = Some(*epoch);
                sink.committed_at = Some(now);
                sink.latency = begun.map(|begun| now - begun);
            }
        }
    }

    /// A checkpoint is durable.
    pub(crate) fn written(&self, manifest: &Manifest) {
        let now = self.now();
        let mut state = self.0.state.lock();
        let begun = state.begun.as_ref().map_or(now, |begun| begun.since);
        // Files of an epoch bear its number.
        let prefix = format!("{:020}-", manifest.epoch.0);
        let new = manifest.operators.values().flatten().filter(|run| run.file.contains(&prefix));
        let new = new.map(|run| run.len).sum();
        state.checkpoints.completed += 1;
        state.checkpoints.last = Some(made(manifest, now, now - begun, new));
    }

    /// A commit of a sink has begun.
    pub(crate) fn committing(&self, stage: u16) {
        let now = self.now();
        self.0.state.lock().committing.insert(stage, now);
    }

    /// Something failed and will be tried again: it is waited for until it succeeds.
    pub(crate) fn retries(
        &self,
        waiting: &mut Option<Waiting>,
        what: &str,
        error: &freshet_core::Error,
    ) {
        self.0.state.lock().checkpoints.retries += 1;
        match waiting {
            None => *waiting = Some(self.waits(what, &error.chain())),
            Some(Waiting { id, .. }) => {
                if let Some(wait) = self.0.state.lock().waits.get_mut(id) {
                    wait.reason = error.chain();
                }
            }
        }
    }

    /// Something is waited for, from now on.
    pub(crate) fn waits(&self, what: &str, reason: &str) -> Waiting {
        let wait = Wait { what: what.to_owned(), reason: reason.to_owned(), since: self.now() };
        let mut state = self.0.state.lock();
        let id = state.next_wait;
        state.next_wait += 1;
        state.waits.insert(id, wait);
        Waiting { monitor: self.clone(), id }
    }
}

/// A checkpoint that takes longer than this is something that is waited for, in microseconds.
const LONG: i64 = 10_000_000;

impl BegunCheckpoint {
    fn wait(&self, stages: &[StageFigures], now: i64) -> Option<Wait> {
        let of = |task: &TaskId| {
            let stage = stages.get(usize::from(task.stage)).map_or("", |stage| stage.id.as_str());
            format!("\"{stage}\" {}", task.index)
        };
        let missing: Vec<String> = self.missing.iter().take(4).map(of).collect();
        (now - self.since >= LONG).then(|| Wait {
            what: format!("checkpoint {}", self.epoch),
            reason: match missing.as_slice() {
                [] => "its manifest is being written".to_owned(),
                missing => format!("parts of {} are missing", missing.join(", ")),
            },
            since: self.since,
        })
    }
}

impl Published {
    fn into_figures(mut self, stage: &Stage, index: usize, now: i64) -> TaskFigures {
        self.meter.count(now);
        let Meter { busy, blocked, idle, wait, .. } = self.meter;
        let micros = |span: i64| u64::try_from(span).unwrap_or_default();
        TaskFigures {
            busy: micros(busy),
            blocked: micros(blocked),
            idle: micros(idle),
            wait: wait.map(|(wait, since)| Wait {
                what: format!("task {index} of \"{}\"", stage.figures.id),
                reason: wait.reason(&stage.targets),
                since,
            }),
            ..self.figures
        }
    }
}

impl task::Wait {
    /// The reason of a task that waits for rows.
    const INPUT: &'static str = "rows";
    /// That of one that has done its part.
    const FINISHED: &'static str = "the end of the job";

    fn reason(self, targets: &[String]) -> String {
        match self {
            Self::Input => Self::INPUT.to_owned(),
            Self::Output { edge } => {
                let target = targets.get(edge).map_or("", String::as_str);
                format!("room in front of \"{target}\"")
            }
            Self::Sink => "room in the sink".to_owned(),
            Self::Finished => Self::FINISHED.to_owned(),
        }
    }
}

/// The stages that the outputs of stage `place` lead to, in the order that tasks have them.
fn targets(plan: &JobPlan, place: usize) -> Vec<String> {
    let edges = plan.stages.iter().flat_map(|stage| {
        let edges: &[EdgePlan] = match &stage.input {
            StageInput::Edges(edges) => edges,
            StageInput::Source { .. } => &[],
        };
        edges.iter().map(move |edge| (edge.from, &stage.id))
    });
    edges.filter(|(from, _)| *from == place).map(|(_, id)| id.clone()).collect()
}

fn made(manifest: &Manifest, at: i64, duration: i64, new_bytes: u64) -> MadeCheckpoint {
    let bytes = manifest.operators.values().flatten().map(|run| run.len).sum();
    MadeCheckpoint { epoch: manifest.epoch, at, duration, new_bytes, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_as_work_or_as_one_wait() {
        let mut meter = Meter { counted: 100, ..Meter::default() };
        meter.stepped(Progress::Worked, 100, 150);
        meter.stepped(Progress::Waiting(task::Wait::Input), 160, 161);
        meter.stepped(Progress::Waiting(task::Wait::Input), 200, 201);
        assert_eq!(meter.wait, Some((task::Wait::Input, 161)));
        meter.stepped(Progress::Waiting(task::Wait::Sink), 300, 301);
        meter.stepped(Progress::Worked, 400, 410);
        meter.count(500);
        // Between two pieces of work it is another's turn: that time is nobody's.
        let Meter { busy, blocked, idle, wait, .. } = meter;
        assert_eq!((busy, blocked, idle, wait), (60, 99, 138, None));
    }
}
