//! Carries out what [`RunState`] decides: takes the lock, finishes what a crash left behind, builds
//! tasks at once as the graph allows, and keeps the record.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::source::SplitStatus;
use freshet_core::{Error, ModelId, Result, crash};
use freshet_engine::{BuildObserver, BuildProgress, BuildReport, BuildTask, ErrorReport};
use freshet_project::{EmptyFiles, Materialized, Project, ProjectState, Selection};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::builder::{BuildFailure, Builder, Recovery};
use crate::lock::EnvironmentLock;
use crate::plan::{TaskGraph, TaskIndex};
use crate::state::{RetryPolicy, RunAction, RunInput, RunRules, RunState};
use crate::{MetaStore, RunEvent, RunObserver, RunOptions, RunReport, Status, TaskReport, run_id};

/// Row counts of earlier runs that a build is told, at most.
const HISTORY: u32 = 30;

/// The phases in which a task is let to its end even where the run is cancelled: it holds a
/// decision that would otherwise have to be finished by the next run.
const UNINTERRUPTED: [&str; 2] = ["publish", "load"];

/// What a run takes from outside.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance: the run's id and the jitter of retries.
    pub seed: u64,
    /// Ends the run early.
    pub cancel: CancellationToken,
    /// How failures that may pass are tried again.
    pub retry: RetryPolicy,
}

impl RunContext {
    /// The machine's clock and chance, ended by `cancel`.
    pub fn system(cancel: CancellationToken) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
            cancel,
            retry: RetryPolicy::default(),
        }
    }
}

/// Runs the nodes of `project` that `options` select, and keeps what the project is now for the
/// next run's `state:modified`. Errors are as in [`run_selected`].
pub async fn run(
    project: Arc<Project>,
    builder: Arc<dyn Builder>,
    store: &MetaStore,
    options: &RunOptions,
    observer: Arc<dyn RunObserver>,
    context: RunContext,
) -> Result<RunReport> {
    let environment = project.environment.name.clone();
    let selection = Selection::parse(&options.select, &options.exclude)?;
    let previous: Option<ProjectState> = store.load_state(&environment).await?;
    let selected = project.select(&selection, previous.as_ref())?;
    let report =
        run_selected(Arc::clone(&project), &selected, builder, store, options, observer, context)
            .await?;
    let state = state_after(&project, previous, &report);
    store.save_state(&environment, &state).await?;
    Ok(report)
}

/// What the project is now, as far as it was built: what was left out or failed stays as it was,
/// and so it is still modified next time.
fn state_after(
    project: &Project,
    previous: Option<ProjectState>,
    report: &RunReport,
) -> ProjectState {
    let previous = previous.unwrap_or_default();
    let built: BTreeSet<&ModelId> = report
        .tasks
        .iter()
        .filter(|task| matches!(task.status, Status::Success | Status::Partial))
        .map(|task| &task.model)
        .collect();
    // Nothing is built of ephemeral nodes: they are done when all that uses them is.
    let done = |id: &ModelId| -> bool {
        let is_ephemeral = project
            .nodes
            .get(id)
            .is_some_and(|node| node.config.materialized == Materialized::Ephemeral);
        let mut users = project.nodes.iter().filter(|(_, node)| node.refs.contains(id));
        built.contains(id) || (is_ephemeral && users.all(|(user, _)| built.contains(user)))
    };
    let mut state = project.state();
    state.nodes.retain(|id, node| {
        done(id) || previous.nodes.get(id).inspect(|before| *node = (*before).clone()).is_some()
    });
    state.sources.retain(|id, checksum| {
        let mut users = project.nodes.values().filter(|node| node.sources.contains(id));
        users.all(|user| done(&user.id))
            || previous.sources.get(id).inspect(|before| checksum.clone_from(before)).is_some()
    });
    state
}

/// Runs the nodes `selected` of `project`.
///
/// An error means that the run did not begin, or that its record could not be kept; what failed
/// inside of it is in the report.
pub async fn run_selected(
    project: Arc<Project>,
    selected: &[ModelId],
    builder: Arc<dyn Builder>,
    store: &MetaStore,
    options: &RunOptions,
    observer: Arc<dyn RunObserver>,
    context: RunContext,
) -> Result<RunReport> {
    let started = context.clock.now();
    let id = run_id(started, context.seed);
    let _lock = EnvironmentLock::acquire(&project.environment.state_dir, &id, started)?;
    crash::point("run.locked");
    let recovered = recover(&project, &*builder, store, &*context.clock).await?;
    crash::point("run.recovered");

    let graph = Arc::new(TaskGraph::new(&project, selected));
    let report = RunReport {
        id,
        project: project.name.clone(),
        environment: project.environment.name.clone(),
        command: options.command.clone(),
        started,
        finished: None,
        status: Status::Running,
        tasks: graph.models().iter().map(pending).collect(),
        recovered,
    };
    store.begin_run(&report).await?;
    crash::point("run.begun");
    info!(run = %report.id, tasks = graph.len(), "run begins");
    observer
        .on_event(RunEvent::Started { run: report.id.clone(), models: graph.models().to_vec() });

    let rules = RunRules {
        parallelism: parallelism(&project, options),
        fail_fast: options.fail_fast,
        retry: context.retry,
    };
    let driver = Driver {
        state: RunState::new(graph, rules, context.seed),
        project,
        builder,
        store,
        options,
        observer,
        context,
        report,
        attempts: JoinSet::new(),
        running: HashMap::new(),
        first_error: None,
    };
    driver.drive().await
}

fn parallelism(project: &Project, options: &RunOptions) -> usize {
    let asked = options.threads.or(project.environment.threads);
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

fn pending(model: &ModelId) -> TaskReport {
    TaskReport {
        model: model.clone(),
        status: Status::Pending,
        attempts: 0,
        started: None,
        finished: None,
        build: None,
        error: None,
        because: None,
    }
}

/// Finishes what earlier processes began, in the lake first and then in the index. Returns what
/// was finished, for people. The caller holds the lock.
async fn recover(
    project: &Project,
    builder: &dyn Builder,
    store: &MetaStore,
    clock: &dyn Clock,
) -> Result<Vec<String>> {
    let interrupted = store.interrupted().await?;
    let killed = store.is_new() || !interrupted.is_empty();
    let recovered = builder.recover(killed).await?;
    for intent in &recovered {
        warn!(model = %intent.model, number = intent.number, run = %intent.run,
            action = ?intent.action, "found an intent that was left behind");
        store.record_recovered(intent, clock.now()).await?;
    }
    // A process that died after a commit did not tell the index of it.
    if killed {
        let intents = builder.intents().await?;
        debug!(intents = intents.len(), "the record of runs is brought up to the lake");
        store.rebuild(&intents, &project.name, &project.environment.name).await?;
    }
    // Only now: a process that dies before this leaves the sign for the next one.
    store.mark_interrupted().await?;
    let finished = recovered.iter().filter(|intent| intent.action == Recovery::Finished);
    Ok(finished
        .map(|intent| format!("{} {} (run {})", intent.model, intent.number, intent.run))
        .collect())
}

/// What one attempt came to.
type Outcome = Result<BuildReport, BuildFailure>;

/// An attempt under way.
#[derive(Debug)]
struct Attempt {
    task: TaskIndex,
    handle: AbortHandle,
    observer: Arc<AttemptObserver>,
}

struct Driver<'a> {
    project: Arc<Project>,
    builder: Arc<dyn Builder>,
    store: &'a MetaStore,
    options: &'a RunOptions,
    observer: Arc<dyn RunObserver>,
    context: RunContext,
    state: RunState,
    report: RunReport,
    attempts: JoinSet<Outcome>,
    running: HashMap<Id, Attempt>,
    /// The first failure to keep the record; the run goes on, since the lake is what counts.
    first_error: Option<Error>,
}

impl Driver<'_> {
    async fn drive(mut self) -> Result<RunReport> {
        let mut actions = VecDeque::from(self.state.apply(RunInput::Begin));
        let mut cancelled = false;
        loop {
            while let Some(action) = actions.pop_front() {
                actions.extend(self.carry_out(action).await);
            }
            if self.state.is_finished() {
                break;
            }
            let tick = self.state.next_tick();
            let wait = tick.map(|at| at.saturating_sub(self.context.clock.now_micros()));
            let input = tokio::select! {
                Some(ended) = self.attempts.join_next_with_id() => self.ended(ended).await,
                () = self.context.cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    warn!(run = %self.report.id, "run is cancelled");
                    RunInput::CancelRequested
                }
                () = sleep_micros(wait.unwrap_or(0)), if wait.is_some() => {
                    // The injected clock may stand still while this timer does not.
                    let now = self.context.clock.now_micros().max(tick.unwrap_or(i64::MIN));
                    RunInput::Tick { now }
                }
            };
            actions.extend(self.state.apply(input));
        }
        let finished = self.context.clock.now();
        self.report.finished = Some(finished);
        let kept = self.store.finish_run(&self.report.id, self.report.status, finished).await;
        self.keep(kept);
        crash::point("run.finished");
        let age = self.project.environment.keep_runs;
        let age = age.and_then(|age| chrono::Duration::from_std(age.0).ok());
        // Nothing is older than time itself.
        if let Some(before) = age.and_then(|age| finished.checked_sub_signed(age)) {
            let pruned = self.store.prune(before, false).await;
            self.keep(pruned.map(drop));
        }
        info!(run = %self.report.id, status = ?self.report.status, "run ended");
        self.observer.on_event(RunEvent::Finished(Box::new(self.report.clone())));
        match self.first_error {
            None => Ok(self.report),
            Some(error) => Err(error),
        }
    }

    /// Returns what follows at once from an action that could not be carried out.
    async fn carry_out(&mut self, action: RunAction) -> Vec<RunAction> {
        match action {
            RunAction::StartTask { task, attempt } => {
                if let Err(error) = self.start(task, attempt).await {
                    let input = self.failed(task, BuildFailure::from(error)).await;
                    return self.state.apply(input);
                }
            }
            RunAction::ScheduleRetry { task, attempt, at } => {
                self.announce_retry(task, attempt, at)
            }
            RunAction::CancelTask { task } => self.cancel(task),
            RunAction::EndTask { task, status, because } => self.end(task, status, because).await,
            RunAction::FinishRun { status } => self.report.status = status,
        }
        Vec::new()
    }

    async fn start(&mut self, task: TaskIndex, attempt: u32) -> Result<()> {
        let model = self.state.graph().model(task).clone();
        let now = self.context.clock.now();
        let entry = &mut self.report.tasks[task.0];
        entry.status = Status::Running;
        entry.attempts = attempt;
        entry.started.get_or_insert(now);
        self.observer.on_event(RunEvent::TaskStarted { model: model.clone(), attempt });
        let node =
            self.project.nodes.get(&model).ok_or_else(|| {
                Error::internal(format!("task \"{model}\" is not in the project"))
            })?;
        let build = BuildTask {
            run: self.report.id.clone(),
            attempt,
            full_refresh: node.config.full_refresh.unwrap_or(self.options.full_refresh),
            interval: self.options.interval,
            progress: self.store.progress(&model).await?,
            history: self.store.history(&model, HISTORY).await?,
            model: model.clone(),
        };
        let observer = Arc::new(AttemptObserver {
            run: Arc::clone(&self.observer),
            uninterrupted: AtomicBool::new(false),
        });
        let builder = Arc::clone(&self.builder);
        let told: Arc<dyn BuildObserver> = Arc::clone(&observer) as _;
        let work = async move { builder.build(&build, told).await };
        let handle = spawn(&mut self.attempts, &self.report.id, &model, attempt, work);
        self.running.insert(handle.id(), Attempt { task, handle, observer });
        Ok(())
    }

    /// What an attempt's end means to the run.
    async fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) -> RunInput {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let attempt = self.running.remove(&id).expect("each attempt is entered when it starts");
        let task = attempt.task;
        match ended {
            Ok((_, Ok(build))) => {
                let partial = is_partial(&self.project, &build);
                let entry = &mut self.report.tasks[task.0];
                entry.build = Some(build);
                entry.error = None;
                RunInput::TaskFinished { task, partial }
            }
            Ok((_, Err(failure))) => self.failed(task, failure).await,
            Err(error) if error.is_cancelled() => RunInput::TaskCancelled { task },
            Err(error) => {
                let model = self.state.graph().model(task);
                let what = panic_message(error);
                let error = Error::internal(format!("building model \"{model}\" met a fault"))
                    .caused_by(what)
                    .hint("please report it with the output of `freshet runs show`");
                self.failed(task, error.into()).await
            }
        }
    }

    async fn failed(&mut self, task: TaskIndex, failure: BuildFailure) -> RunInput {
        let BuildFailure { error, report } = failure;
        let model = self.state.graph().model(task).clone();
        let now = self.context.clock.now();
        let kept = ErrorReport::from(&error);
        let attempt = self.report.tasks[task.0].attempts;
        warn!(run = %self.report.id, %model, attempt, code = kept.code, error = kept.message,
            "attempt failed");
        let recorded = self.store.record_error(&self.report.id, &model, attempt, now, &kept).await;
        self.keep(recorded);
        let entry = &mut self.report.tasks[task.0];
        entry.build = report.map(|report| *report);
        entry.error = Some(kept);
        let now = self.context.clock.now_micros();
        RunInput::TaskFailed { task, retryable: error.is_retryable(), now }
    }

    fn announce_retry(&mut self, task: TaskIndex, attempt: u32, at: i64) {
        let entry = &self.report.tasks[task.0];
        let Some(error) = entry.error.clone() else { return };
        self.observer.on_event(RunEvent::TaskRetry {
            model: entry.model.clone(),
            attempt,
            at: chrono::DateTime::from_timestamp_micros(at)
                .unwrap_or_else(|| self.context.clock.now()),
            error: Box::new(error),
        });
    }

    fn cancel(&self, task: TaskIndex) {
        for attempt in self.running.values().filter(|attempt| attempt.task == task) {
            if !attempt.observer.uninterrupted.load(Ordering::SeqCst) {
                attempt.handle.abort();
            }
        }
    }

    async fn end(&mut self, task: TaskIndex, status: Status, because: Option<TaskIndex>) {
        let now = self.context.clock.now();
        let because = because.map(|task| self.state.graph().model(task).clone());
        let entry = &mut self.report.tasks[task.0];
        entry.status = status;
        entry.because = because;
        entry.finished = entry.started.is_some().then_some(now);
        let kept = self.store.record_task(&self.report.id, &self.report.tasks[task.0]).await;
        self.keep(kept);
        crash::point("run.task_recorded");
        let entry = self.report.tasks[task.0].clone();
        info!(run = %self.report.id, model = %entry.model, ?status, "task ended");
        self.observer.on_event(RunEvent::TaskFinished(Box::new(entry)));
    }

    fn keep(&mut self, kept: Result<()>) {
        if let Err(error) = kept {
            error!(run = %self.report.id, %error, "the record of the run could not be kept");
            self.first_error.get_or_insert(error);
        }
    }
}

/// Whether something was left out of what was published.
fn is_partial(project: &Project, build: &BuildReport) -> bool {
    let left_out = build.files.iter().any(|file| match file.status {
        SplitStatus::Read => false,
        SplitStatus::SetAside | SplitStatus::Unfinished => true,
        SplitStatus::Empty => project
            .sources
            .get(&file.source)
            .is_none_or(|source| source.empty_files == EmptyFiles::Report),
    });
    left_out || !build.missing.is_empty()
}

/// The one place that spawns: every task has a name and a span.
fn spawn(
    set: &mut JoinSet<Outcome>,
    run: &freshet_core::RunId,
    model: &ModelId,
    attempt: u32,
    work: impl Future<Output = Outcome> + Send + 'static,
) -> AbortHandle {
    let span = info_span!("task", %run, %model, attempt);
    set.spawn(work.instrument(span))
}

async fn sleep_micros(micros: i64) {
    tokio::time::sleep(Duration::from_micros(u64::try_from(micros).unwrap_or(0))).await;
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "it ended without a result".into() };
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload
            .downcast::<&'static str>()
            .map_or_else(|_| "it panicked without a message".into(), |message| (*message).into()),
    }
}

/// Hands on what one attempt tells, and remembers whether it may be interrupted.
#[derive(Debug)]
struct AttemptObserver {
    run: Arc<dyn RunObserver>,
    uninterrupted: AtomicBool,
}

impl BuildObserver for AttemptObserver {
    fn phase(&self, model: &ModelId, phase: &'static str) {
        self.uninterrupted.store(UNINTERRUPTED.contains(&phase), Ordering::SeqCst);
        self.run.on_event(RunEvent::TaskPhase { model: model.clone(), phase });
    }

    fn progress(&self, model: &ModelId, progress: BuildProgress) {
        self.run.on_event(RunEvent::TaskProgress { model: model.clone(), progress });
    }
}

#[cfg(test)]
mod tests;
