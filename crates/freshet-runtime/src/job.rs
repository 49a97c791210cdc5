//! A job from its start to its end: takes over, restores, runs, and begins again after a failure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use freshet_core::clock::Clock;
use freshet_core::source::Position;
use freshet_core::stream::{Claim, Epoch, EventTime, Generation, SinkWriter, Wake};
use freshet_core::{Error, ErrorKind, Result, crash, error::code};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::channel::oneshot;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use xxhash_rust::xxh3::xxh3_64;

mod restart;
mod retry;
mod state;

use restart::Failures;
pub use restart::{FailureRate, Restart};

use crate::checkpoint::{
    Coordinator, Effect, Event, Manifest, Repository, Settings, Shape, SinkShape, StageShape,
    changes, check_name,
};
use crate::exchange::{Inbox, Limits, Partitioner, reach};
use crate::executor::{Executor, Io};
use crate::figures::Phase;
use crate::monitor::JobMonitor;
use crate::plan::{EdgePlan, JobPlan, JobSource, SinkPlan, StageInput, StagePlan};
use crate::source::Silence;
use crate::state::SpillOptions;
use crate::task::{Command, Input, Mailbox, Output, Report, Reporter, Task, TaskId, TaskParts};

/// How a job is run.
#[derive(Debug, Clone, Default)]
pub struct JobOptions {
    /// Checkpoints.
    pub checkpoints: Settings,
    /// What the queue between two tasks may hold.
    pub limits: Limits,
    /// What is done after failures.
    pub restart: Restart,
    /// How much memory the state of an operator's instance may take; all where it is not set.
    pub spill: Option<SpillOptions>,
    /// Go on though the newest checkpoint holds state that the plan has no place for.
    pub accept_state_loss: bool,
}

/// What a job stands on.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where futures run.
    pub io: Arc<dyn Io>,
    /// Where checkpoints are: what it has answered outlives a power cut.
    pub store: Arc<dyn ObjectStore>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All of its input was read.
    Exhausted,
    /// It was asked to end.
    Drained,
}

/// Asks things of a running job.
#[derive(Debug, Clone)]
pub struct JobHandle(UnboundedSender<Request>);

/// What people ask of a job.
#[derive(Debug)]
enum Request {
    Drain,
    Savepoint(Saving),
}

/// A savepoint that somebody waits for.
#[derive(Debug)]
struct Saving {
    name: String,
    answer: oneshot::Sender<Result<Epoch>>,
}

impl JobHandle {
    /// Asks the job to end: what was read is carried through, checkpointed and committed.
    pub fn drain(&self) {
        // A job that has ended needs no asking.
        let _ = self.0.unbounded_send(Request::Drain);
    }

    /// Asks for a checkpoint that lasts, under a name that none has; gives its epoch once it is durable.
    pub async fn savepoint(&self, name: &str) -> Result<Epoch> {
        check_name(name)?;
        let (answer, answered) = oneshot::channel();
        let saving = Saving { name: name.to_owned(), answer };
        let ended = || Error::new(code::CONTROL, "the job ended before the savepoint was made");
        self.0.unbounded_send(Request::Savepoint(saving)).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// What comes to the job's loop. Bounded by what it asks for: one part of each task for each barrier,
/// one answer to each effect, one failure of each worker.
enum Message {
    Report(Report),
    Event(Event),
    Failed(Error),
}

/// A job that can be run.
pub struct Job {
    plan: JobPlan,
    options: JobOptions,
    environment: Environment,
    executor: Box<dyn Executor>,
    repository: Repository,
    handle: JobHandle,
    requests: UnboundedReceiver<Request>,
    draining: bool,
    /// Savepoints of the next checkpoint.
    savings: Vec<Saving>,
    monitor: JobMonitor,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("name", &self.plan.name).finish_non_exhaustive()
    }
}

/// Whether another life of the job would end as this one did: somebody else has taken over, or
/// somebody has to mend the project, or the data.
fn is_lasting(error: &Error) -> bool {
    let by_kind = match error.kind() {
        ErrorKind::User => true,
        ErrorKind::Data => !error.is_retryable(),
        ErrorKind::External | ErrorKind::Internal => false,
    };
    by_kind || error.code() == code::FENCED
}

#[derive(Debug)]
struct ReportTo(UnboundedSender<Message>);

impl Reporter for ReportTo {
    fn report(&self, report: Report) {
        // Nobody listens to the tasks of an attempt that is over.
        let _ = self.0.unbounded_send(Message::Report(report));
    }
}

impl Job {
    /// A job of this plan.
    pub fn new(
        plan: JobPlan,
        options: JobOptions,
        environment: Environment,
        executor: Box<dyn Executor>,
    ) -> Result<Self> {
        plan.validate()?;
        let (sender, requests) = unbounded();
        Ok(Self {
            monitor: JobMonitor::new(&plan.name, Arc::clone(&environment.clock)),
            repository: Repository::new(Arc::clone(&environment.store), &plan.name),
            plan,
            options,
            environment,
            executor,
            handle: JobHandle(sender),
            requests,
            draining: false,
            savings: Vec::new(),
        })
    }

    /// Asks things of it while it runs.
    pub fn handle(&self) -> JobHandle {
        self.handle.clone()
    }

    /// Watches it, from now to after its end.
    pub fn monitor(&self) -> JobMonitor {
        self.monitor.clone()
    }

    /// Runs it to its end, beginning again after failures that may pass.
    pub async fn run(&mut self) -> Result<Ended> {
        let mut failures = Failures::default();
        let mut last = false;
        loop {
            let begun = self.environment.clock.now_micros();
            let result = self.attempt().await;
            self.executor.stop();
            let error = match result {
                Ok(ended) => {
                    self.monitor.enter(Phase::Ended);
                    return Ok(ended);
                }
                Err(error) => error,
            };
            self.monitor.failed(&error);
            let now = self.environment.clock.now_micros();
            let seed = xxh3_64(self.plan.name.as_bytes());
            let wait = failures.failed(&self.options.restart, begun, now, seed);
            if last || is_lasting(&error) {
                return Err(error);
            }
            let failures = failures.count();
            let wait = match wait {
                Ok(wait) => wait,
                Err(limit) => {
                    tracing::error!(pipeline = self.plan.name, failures, limit, "job is given up");
                    return Err(error);
                }
            };
            tracing::warn!(
                pipeline = self.plan.name,
                failures,
                wait_ms = wait / 1000,
                error = %error.chain(),
                "job failed and will begin again"
            );
            let waiting = self.monitor.waits("the job", &error.chain());
            let mut sleep = self.environment.io.sleep(wait).fuse();
            loop {
                futures::select_biased! {
                    request = self.requests.select_next_some() => match request {
                        // Who is to end does not wait, and tries once more to carry through what
                        // it holds.
                        Request::Drain => {
                            self.draining = true;
                            last = true;
                            break;
                        }
                        Request::Savepoint(saving) => self.savings.push(saving),
                    },
                    () = sleep => break,
                }
            }
            drop(waiting);
            self.monitor.restarts();
        }
    }

    /// One life of the job: from taking over to the first failure.
    async fn attempt(&mut self) -> Result<Ended> {
        let now = self.environment.clock.now_micros();
        self.refuse_loss().await?;
        let mut manifest = self.repository.claim(self.plan.groups, now).await?;
        manifest.fit(&self.plan);
        crash::point("job.claimed");
        self.plan.groups = manifest.groups;
        let writers = self.open_sinks(&manifest).await?;
        if manifest.finished {
            return Ok(Ended::Exhausted);
        }
        self.monitor.begin(&self.plan, &manifest);
        // What an earlier life still sends comes to nobody.
        let (sender, mut messages) = unbounded();
        let mailboxes = self.start(&manifest, writers, &sender).await?;
        crash::point("job.restored");
        let (generation, alive) = (manifest.generation, Arc::new(()));
        let life = |sender, mailboxes| Life { generation, alive: &alive, sender, mailboxes };
        let now = self.environment.clock.now_micros();
        let mut coordinator =
            Coordinator::new(self.options.checkpoints, self.shape(), manifest, now);
        self.monitor.enter(if self.draining { Phase::Draining } else { Phase::Running });
        let mut effects = match self.draining {
            true => coordinator.on(Event::Drain, now),
            false => Vec::new(),
        };
        loop {
            for effect in effects.drain(..) {
                if matches!(effect, Effect::Finish) {
                    crash::point("job.ended");
                    let exhausted = coordinator.manifest().finished;
                    return Ok(if exhausted { Ended::Exhausted } else { Ended::Drained });
                }
                let life = life(&sender, &mailboxes);
                self.carry_out(effect, coordinator.manifest(), &life);
            }
            let heard = self.hear(&mut messages, coordinator.deadline()).await;
            let now = self.environment.clock.now_micros();
            effects = match heard {
                Heard::Time => coordinator.on(Event::Tick, now),
                Heard::Request(Request::Drain) => {
                    self.draining = true;
                    self.monitor.enter(Phase::Draining);
                    coordinator.on(Event::Drain, now)
                }
                Heard::Request(Request::Savepoint(saving)) => {
                    self.savings.push(saving);
                    coordinator.on(Event::Hurry, now)
                }
                Heard::Message(Message::Event(event)) => {
                    self.monitor.heard(&event);
                    match event {
                        Event::Written(_) => crash::point("checkpoint.known"),
                        Event::Committed { .. } => crash::point("commit.known"),
                        _ => {}
                    }
                    let written = matches!(event, Event::Written(_));
                    let effects = coordinator.on(event, now);
                    if written {
                        self.monitor.written(coordinator.manifest());
                        self.save(coordinator.manifest());
                    }
                    effects
                }
                Heard::Message(Message::Failed(error)) => return Err(error),
                Heard::Message(Message::Report(Report::Exhausted(task))) => {
                    coordinator.on(Event::Exhausted(task), now)
                }
                Heard::Message(Message::Report(Report::Cut(cut))) => {
                    self.keep(cut, &life(&sender, &mailboxes));
                    Vec::new()
                }
            };
            self.monitor.checkpointing(coordinator.waits_for());
        }
    }

    /// A plan that has no place for what the newest checkpoint holds is refused before anything is
    /// taken over, unless that is accepted.
    async fn refuse_loss(&self) -> Result<()> {
        if self.options.accept_state_loss {
            return Ok(());
        }
        let Some(newest) = self.repository.newest().await? else { return Ok(()) };
        let lost = changes(&self.plan, &newest).into_iter();
        let lost: Vec<_> = lost.filter(|change| change.is_loss(&newest)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = lost.iter().map(|change| change.name.as_str()).collect();
        Err(Error::new(
            code::STATE_LOST,
            format!(
                "the checkpoint of job \"{}\" holds state that its SQL has no place for: {}",
                self.plan.name,
                names.join("; ")
            ),
        )
        .hint(
            "`freshet plan` says what becomes of each operator; \
             `freshet up --accept-state-loss` goes on without this state",
        ))
    }

    /// What comes next; the time of day where nothing comes before `deadline`.
    async fn hear(
        &mut self,
        messages: &mut UnboundedReceiver<Message>,
        deadline: Option<i64>,
    ) -> Heard {
        let mut sleep = match deadline {
            None => futures::future::pending().boxed(),
            Some(deadline) => {
                let wait = deadline - self.environment.clock.now_micros();
                self.environment.io.sleep(wait.max(0))
            }
        }
        .fuse();
        futures::select_biased! {
            message = messages.next() => {
                Heard::Message(message.expect("this life holds a sender itself"))
            }
            request = self.requests.next() => {
                Heard::Request(request.expect("the job holds a handle itself"))
            }
            () = sleep => Heard::Time,
        }
    }

    /// Opens all sinks, which fences those who came before, and makes the commits that they left.
    async fn open_sinks(
        &self,
        manifest: &Manifest,
    ) -> Result<HashMap<usize, Vec<Box<dyn SinkWriter>>>> {
        let claim = Claim { generation: manifest.generation, epoch: manifest.epoch };
        let mut writers = HashMap::new();
        for (place, stage) in self.plan.stages.iter().enumerate() {
            let Some(SinkPlan { id, sink, .. }) = &stage.sink else { continue };
            let staged = format!("{}/staged/{id}", self.plan.name);
            let store = Arc::clone(&self.environment.store);
            sink.stage_in(Arc::new(PrefixStore::new(store, staged)));
            let opened = sink.open(claim, &self.wakes(stage)).await?;
            crash::point("job.opened");
            if let Some(state) = manifest.sinks.get(id).filter(|state| !state.pending.is_empty()) {
                sink.commit(manifest.generation, &state.pending).await?;
                crash::point("job.recovered");
            }
            writers.insert(place, opened);
        }
        Ok(writers)
    }

    /// What wakes the workers of a stage's tasks.
    fn wakes(&self, stage: &StagePlan) -> Vec<Arc<dyn Wake>> {
        (0..stage.parallelism).map(|index| self.executor.wake(self.worker(index))).collect()
    }

    fn worker(&self, index: u16) -> usize {
        usize::from(index) % self.executor.workers()
    }

    /// Makes all tasks, their state restored, and starts them; gives the mailboxes of sources.
    async fn start(
        &mut self,
        manifest: &Manifest,
        mut writers: HashMap<usize, Vec<Box<dyn SinkWriter>>>,
        sender: &UnboundedSender<Message>,
    ) -> Result<Vec<(Arc<dyn Wake>, Arc<Mailbox>)>> {
        let mut inboxes = self.inboxes();
        let mut mailboxes = Vec::new();
        let mut tasks: Vec<Vec<Task>> = (0..self.executor.workers()).map(|_| Vec::new()).collect();
        for (place, stage) in self.plan.stages.iter().enumerate() {
            let mut feeds = match &stage.input {
                StageInput::Source { source, .. } => {
                    let none = BTreeMap::new();
                    let positions = manifest.sources.get(&stage.id).unwrap_or(&none);
                    source.open(positions, &self.wakes(stage)).await?
                }
                StageInput::Edges(_) => Vec::new(),
            }
            .into_iter();
            let mut writers = writers.remove(&place).unwrap_or_default().into_iter();
            let watermark = manifest.watermarks.get(&stage.id).copied().unwrap_or(EventTime::MIN);
            let silence = Arc::<Silence>::default();
            for index in 0..stage.parallelism {
                let id = TaskId { stage: place as u16, index };
                let input = match &stage.input {
                    StageInput::Source { watermark, .. } => {
                        let mailbox = Arc::<Mailbox>::default();
                        mailboxes
                            .push((self.executor.wake(self.worker(index)), Arc::clone(&mailbox)));
                        let feed = feeds.next().ok_or_else(|| missing("feed", stage))?;
                        Input::Source {
                            feed,
                            watermark: watermark.clone(),
                            silence: Arc::clone(&silence),
                            mailbox,
                        }
                    }
                    StageInput::Edges(_) => {
                        let (inbox, inputs) = inboxes[place].remove(&index).expect("one a task");
                        Input::Channels { inbox, inputs }
                    }
                };
                let sink = match &stage.sink {
                    Some(_) => Some(writers.next().ok_or_else(|| missing("writer", stage))?),
                    None => None,
                };
                let groups = manifest.groups.range(index.into(), stage.parallelism.into());
                let chain = self.chain(stage, groups, watermark, manifest).await?;
                let task = Task::new(TaskParts {
                    id,
                    chain,
                    input,
                    edges: self.outputs(place, index, &inboxes)?,
                    sink,
                    reporter: Box::new(ReportTo(sender.clone())),
                    watermark,
                    board: self.monitor.board(id),
                });
                tasks[self.worker(index)].push(task);
            }
        }
        let sender = sender.clone();
        let on_failure = move |task: TaskId, error: Error| {
            tracing::warn!(%task, %error, "task failed");
            let _ = sender.unbounded_send(Message::Failed(error));
        };
        self.executor.start(tasks, Arc::new(on_failure))?;
        Ok(mailboxes)
    }

    /// The queues in front of all tasks that have any, by stage and index, each with the input of
    /// the first operator that its channels lead to.
    fn inboxes(&self) -> Vec<Inboxes> {
        let stages = self.plan.stages.iter();
        stages
            .map(|stage| {
                if matches!(stage.input, StageInput::Source { .. }) {
                    return HashMap::new();
                }
                let inboxes = (0..stage.parallelism).map(|index| {
                    let channels = self.channels(stage, index);
                    let senders = channels
                        .iter()
                        .map(|(_, upstream)| self.executor.wake(self.worker(*upstream)))
                        .collect();
                    let receiver = self.executor.wake(self.worker(index));
                    let inbox = Inbox::new(self.options.limits, receiver, senders);
                    let inputs = channels.iter().map(|(edge, _)| edge.input).collect();
                    (index, (inbox, inputs))
                });
                inboxes.collect()
            })
            .collect()
    }

    /// The channels into one task, in their order: the edge, and the task at its other end.
    fn channels<'a>(&'a self, stage: &'a StagePlan, index: u16) -> Vec<(&'a EdgePlan, u16)> {
        let StageInput::Edges(edges) = &stage.input else { return Vec::new() };
        let channels = edges.iter().flat_map(|edge| {
            let upstream = 0..self.plan.stages[edge.from].parallelism;
            let reaches = move |own: &u16| {
                reach(&edge.partitioning, (*own).into(), stage.parallelism.into())
                    .contains(&index.into())
            };
            upstream.filter(reaches).map(move |upstream| (edge, upstream))
        });
        channels.collect()
    }

    /// The edges out of one task.
    fn outputs(&self, place: usize, index: u16, inboxes: &[Inboxes]) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for (to, stage) in self.plan.stages.iter().enumerate() {
            let StageInput::Edges(edges) = &stage.input else { continue };
            for edge in edges.iter().filter(|edge| edge.from == place) {
                let partitioner = Partitioner::new(
                    &edge.partitioning,
                    index.into(),
                    stage.parallelism.into(),
                    self.plan.groups,
                    &edge.schema,
                )?;
                let target = |target: usize| {
                    let (inbox, _) = &inboxes[to][&(target as u16)];
                    let channels = self.channels(stage, target as u16);
                    let own = channels
                        .iter()
                        .position(|(other, upstream)| {
                            std::ptr::eq(*other, edge) && *upstream == index
                        })
                        .expect("a task has a channel to each that it reaches");
                    inbox.sender(own)
                };
                let targets = partitioner.reaches().map(target).collect();
                outputs.push(Output { from: edge.operator, port: edge.port, partitioner, targets });
            }
        }
        Ok(outputs)
    }

    fn shape(&self) -> Shape {
        let stages = self.plan.stages.iter().map(|stage| StageShape {
            id: stage.id.clone(),
            tasks: stage.parallelism,
            is_source: matches!(stage.input, StageInput::Source { .. }),
            operators: stage.operators.iter().map(|(id, _)| id.clone()).collect(),
            sink: stage.sink.as_ref().map(|sink| SinkShape {
                id: sink.id.clone(),
                commit_interval: sink.commit_interval,
            }),
        });
        Shape { stages: stages.collect() }
    }

    /// Carries out what the coordinator wants. What takes time is answered by a message.
    fn carry_out(&self, effect: Effect, manifest: &Manifest, life: &Life<'_>) {
        let io = &self.environment.io;
        let repository = self.repository.clone();
        let retry = self.retry();
        match effect {
            Effect::Inject(barrier) => {
                for (wake, mailbox) in life.mailboxes {
                    mailbox.push(Command::Barrier(barrier));
                    wake.wake();
                }
                crash::point("checkpoint.begun");
            }
            Effect::Write(manifest) => life.answer(io, async move {
                crash::point("checkpoint.gathered");
                retry.run("manifest", || repository.write(&manifest)).await?;
                crash::point("checkpoint.written");
                Ok(Event::Written(manifest.epoch))
            }),
            Effect::Commit { stage, epoch, pending } => {
                let sink = self.plan.stages[usize::from(stage)].sink.as_ref();
                let sink = Arc::clone(&sink.expect("a stage with a sink").sink);
                let generation = life.generation;
                self.monitor.committing(stage);
                life.answer(io, async move {
                    crash::point("commit.begun");
                    retry.run("commit", || sink.commit(generation, &pending)).await?;
                    crash::point("commit.done");
                    Ok(Event::Committed { stage, epoch })
                });
            }
            Effect::Merge(merge) => self.merge(*merge, life),
            Effect::Publish(_) => {
                for (source, positions) in self.published(manifest) {
                    io.spawn(Box::pin(async move {
                        // For the eyes of others: the next one makes up for it.
                        if let Err(error) = source.publish(&positions).await {
                            tracing::warn!(%error, "positions could not be published");
                        }
                        crash::point("checkpoint.published");
                    }));
                }
            }
            Effect::Collect { keep, before } => {
                let pipeline = self.plan.name.clone();
                io.spawn(Box::pin(async move {
                    // What is left over is found by the next collection.
                    if let Err(error) = repository.collect(keep, before).await {
                        tracing::warn!(pipeline, %error, "old checkpoints could not be deleted");
                    }
                }));
            }
            Effect::Finish => unreachable!("the job's loop ends by it"),
        }
    }

    fn published(
        &self,
        manifest: &Manifest,
    ) -> Vec<(Arc<dyn JobSource>, BTreeMap<String, Position>)> {
        let stages = self.plan.stages.iter();
        let sources = stages.filter_map(|stage| match &stage.input {
            StageInput::Source { source, .. } => {
                Some((Arc::clone(source), manifest.sources.get(&stage.id)?.clone()))
            }
            StageInput::Edges(_) => None,
        });
        sources.collect()
    }

    /// Keeps a checkpoint as the savepoints that were asked for.
    fn save(&mut self, manifest: &Manifest) {
        for Saving { name, answer } in self.savings.drain(..) {
            let (repository, manifest) = (self.repository.clone(), manifest.clone());
            self.environment.io.spawn(Box::pin(async move {
                let saved = repository.save(&name, &manifest).await;
                crash::point("savepoint.made");
                // Whoever asked may have gone.
                let _ = answer.send(saved.map(|()| manifest.epoch));
            }));
        }
    }
}

/// The queues in front of the tasks of a stage, by index, each with the input of the first operator
/// that its channels lead to.
type Inboxes = HashMap<u16, (Arc<Inbox>, Vec<usize>)>;

/// What came to the job's loop.
enum Heard {
    Message(Message),
    Request(Request),
    Time,
}

/// What belongs to one life of the job alone.
struct Life<'a> {
    generation: Generation,
    /// Gone once it is over.
    alive: &'a Arc<()>,
    sender: &'a UnboundedSender<Message>,
    mailboxes: &'a [(Arc<dyn Wake>, Arc<Mailbox>)],
}

impl Life<'_> {
    /// Runs a future beside the job; what it comes to is told to this life.
    fn answer(
        &self,
        io: &Arc<dyn Io>,
        future: impl Future<Output = Result<Event>> + Send + 'static,
    ) {
        let sender = self.sender.clone();
        io.spawn(Box::pin(async move {
            let message = match future.await {
                Ok(event) => Message::Event(event),
                Err(error) => Message::Failed(error),
            };
            let _ = sender.unbounded_send(message);
        }));
    }
}

fn missing(what: &str, stage: &StagePlan) -> Error {
    Error::internal(format!("stage \"{}\" has more tasks than {what}s", stage.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_nothing_heals_end_a_job_and_others_do_not() {
        let of = |code| Error::new(code, "a failure");
        for lasting in [code::FENCED, code::CONFIG, code::LOG_DAMAGED, code::FILE_TOO_BAD] {
            assert!(is_lasting(&of(lasting)), "{lasting}");
        }
        for passing in [code::SOURCE, code::LOAD, code::LOG, code::INTERNAL] {
            assert!(!is_lasting(&of(passing)), "{passing}");
        }
        assert!(!is_lasting(&of(code::LOG_DAMAGED).retryable()));
    }
}
