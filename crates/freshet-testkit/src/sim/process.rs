//! One life of a job's program: its futures, its timers and its tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use freshet_core::clock::Clock;
use freshet_core::stream::Wake;
use freshet_core::{Error, Result};
use freshet_runtime::executor::{Executor, Io, OnFailure};
use freshet_runtime::job::{Ended, Environment, Job, JobHandle, JobOptions};
use freshet_runtime::monitor::JobMonitor;
use freshet_runtime::plan::JobPlan;
use freshet_runtime::task::{Progress, Task};
use futures::future::BoxFuture;
use futures::task::ArcWake;
use object_store::ObjectStore;
use parking_lot::Mutex;

use super::World;
use super::steps::Died;

/// A process that runs one job.
#[derive(Debug)]
pub struct Process {
    id: u64,
    world: World,
    io: Arc<SimIo>,
    tasks: Arc<Mutex<Tasks>>,
    handle: JobHandle,
    monitor: JobMonitor,
    ended: Arc<Mutex<Option<Result<Ended>>>>,
}

/// What a step of a process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// Something may have happened.
    Worked,
    /// Nothing can happen before the time of day is this; never where it is `None`.
    Waits(Option<i64>),
    /// The job has ended.
    Ended,
    /// It was killed at this step of the protocol: it is to be dropped.
    Died(&'static str),
}

#[derive(Default)]
struct Tasks {
    tasks: Vec<Slot>,
    on_failure: Option<OnFailure>,
    wakes: Vec<Arc<Flag>>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

struct Slot {
    task: Task,
    worker: usize,
    asleep: bool,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct SimExecutor {
    shared: Arc<Mutex<Tasks>>,
}

impl Executor for SimExecutor {
    fn workers(&self) -> usize {
        self.shared.lock().wakes.len()
    }

    fn wake(&self, worker: usize) -> Arc<dyn Wake> {
        Arc::clone(&self.shared.lock().wakes[worker]) as Arc<dyn Wake>
    }

    fn start(&mut self, tasks: Vec<Vec<Task>>, on_failure: OnFailure) -> Result<()> {
        let mut shared = self.shared.lock();
        let slots = tasks.into_iter().enumerate().flat_map(|(worker, tasks)| {
            tasks.into_iter().map(move |task| Slot { task, worker, asleep: false })
        });
        shared.tasks = slots.collect();
        shared.on_failure = Some(on_failure);
        Ok(())
    }

    fn stop(&mut self) {
        let mut shared = self.shared.lock();
        shared.on_failure = None;
        shared.tasks.clear();
    }
}

/// The futures of a process.
#[derive(Default)]
struct SimIo {
    clock: Option<Arc<dyn Clock>>,
    futures: Mutex<BTreeMap<u64, BoxFuture<'static, ()>>>,
    state: Arc<Mutex<Ready>>,
}

#[derive(Debug, Default)]
struct Ready {
    next: u64,
    ready: BTreeSet<u64>,
    timers: BTreeMap<(i64, u64), Waker>,
}

impl std::fmt::Debug for SimIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimIo").finish_non_exhaustive()
    }
}

impl Io for SimIo {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.ready.insert(id);
        self.futures.lock().insert(id, future);
    }

    fn sleep(&self, micros: i64) -> BoxFuture<'static, ()> {
        let clock = Arc::clone(self.clock.as_ref().expect("a process has a clock"));
        let at = clock.now_micros() + micros;
        Box::pin(Sleep { at, clock, state: Arc::clone(&self.state) })
    }
}

struct Sleep {
    at: i64,
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<Ready>>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now_micros() >= self.at {
            return Poll::Ready(());
        }
        let mut state = self.state.lock();
        let id = state.next;
        state.next += 1;
        state.timers.insert((self.at, id), context.waker().clone());
        Poll::Pending
    }
}

struct Readied {
    id: u64,
    state: Arc<Mutex<Ready>>,
}

impl ArcWake for Readied {
    fn wake_by_ref(this: &Arc<Self>) {
        this.state.lock().ready.insert(this.id);
    }
}

impl Process {
    /// Starts a process with so many workers; `build` makes what it runs and the store that it sees.
    pub fn start(
        world: &World,
        options: JobOptions,
        workers: usize,
        build: impl FnOnce(Arc<dyn Io>) -> (JobPlan, Arc<dyn ObjectStore>),
    ) -> Result<Self> {
        let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let io = Arc::new(SimIo { clock: Some(Arc::clone(&clock)), ..SimIo::default() });
        let tasks = Arc::new(Mutex::new(Tasks::default()));
        tasks.lock().wakes = (0..workers).map(|_| Arc::default()).collect();
        let executor = Box::new(SimExecutor { shared: Arc::clone(&tasks) });
        let (plan, store) = build(Arc::clone(&io) as Arc<dyn Io>);
        let environment = Environment { clock, io: Arc::clone(&io) as Arc<dyn Io>, store };
        let mut job = Job::new(plan, options, environment, executor)?;
        let (handle, monitor) = (job.handle(), job.monitor());
        let ended = Arc::new(Mutex::new(None));
        let result = Arc::clone(&ended);
        io.spawn(Box::pin(async move {
            let ended = job.run().await;
            *result.lock() = Some(ended);
        }));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, world: world.clone(), io, tasks, handle, monitor, ended })
    }

    /// Tells it apart from all others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Asks the job to end.
    pub fn handle(&self) -> &JobHandle {
        &self.handle
    }

    /// How the job ended, if it has.
    pub fn ended(&self) -> Option<Result<Ended, String>> {
        let ended = self.ended.lock();
        ended.as_ref().map(|ended| match ended {
            Ok(ended) => Ok(*ended),
            Err(error) => Err(describe(error)),
        })
    }

    /// Watches the job.
    pub fn monitor(&self) -> &JobMonitor {
        &self.monitor
    }

    /// Does one step, which chance chooses among those that are possible.
    pub fn step(&mut self) -> Stepped {
        // Nothing of a process that has died is looked at afterwards.
        let step = std::panic::AssertUnwindSafe(|| self.try_step());
        std::panic::catch_unwind(step).unwrap_or_else(|panic| match panic.downcast::<Died>() {
            Ok(died) => Stepped::Died(died.0),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn try_step(&mut self) -> Stepped {
        if self.ended.lock().is_some() {
            return Stepped::Ended;
        }
        let now = self.world.clock.now_micros();
        let ready: Vec<u64> = {
            let mut state = self.io.state.lock();
            let later = state.timers.split_off(&(now + 1, 0));
            for (_, waker) in std::mem::replace(&mut state.timers, later) {
                // Waking takes the lock that is held here.
                parking_lot::MutexGuard::unlocked(&mut state, || waker.wake());
            }
            state.ready.iter().copied().collect()
        };
        let awake = self.awake(now);
        match ready.len() + awake.len() {
            0 => return Stepped::Waits(self.deadline()),
            choices => {
                let chosen = self.world.chance.below(choices);
                match ready.get(chosen) {
                    Some(id) => self.poll(*id),
                    None => self.step_task(awake[chosen - ready.len()], now),
                }
            }
        }
        Stepped::Worked
    }

    /// The tasks that may have something to do.
    fn awake(&self, now: i64) -> Vec<usize> {
        let mut shared = self.tasks.lock();
        let Tasks { tasks, wakes, .. } = &mut *shared;
        for (worker, flag) in wakes.iter().enumerate() {
            if flag.0.swap(false, Ordering::SeqCst) {
                for slot in tasks.iter_mut().filter(|slot| slot.worker == worker) {
                    slot.asleep = false;
                }
            }
        }
        let due = |slot: &Slot| slot.task.deadline().is_some_and(|deadline| deadline <= now);
        let awake = tasks.iter().enumerate().filter(|(_, slot)| !slot.asleep || due(slot));
        awake.map(|(place, _)| place).collect()
    }

    fn step_task(&self, place: usize, now: i64) {
        let mut shared = self.tasks.lock();
        let Some(slot) = shared.tasks.get_mut(place) else { return };
        match slot.task.step(now) {
            Ok(progress) => {
                slot.asleep = progress != Progress::Worked;
                slot.task.stepped(progress, now, now);
            }
            Err(error) => {
                let id = slot.task.id();
                // The worker of a task that failed stops, as threads do.
                let worker = slot.worker;
                shared.tasks.retain(|slot| slot.worker != worker);
                if let Some(on_failure) = shared.on_failure.clone() {
                    drop(shared);
                    on_failure(id, error);
                }
            }
        }
    }

    fn poll(&self, id: u64) {
        self.io.state.lock().ready.remove(&id);
        let Some(mut future) = self.io.futures.lock().remove(&id) else { return };
        let waker =
            futures::task::waker(Arc::new(Readied { id, state: Arc::clone(&self.io.state) }));
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.io.futures.lock().insert(id, future);
        }
    }

    /// When something can happen again.
    fn deadline(&self) -> Option<i64> {
        let timer = self.io.state.lock().timers.keys().next().map(|(at, _)| *at);
        let shared = self.tasks.lock();
        let tasks = shared.tasks.iter().filter_map(|slot| slot.task.deadline());
        tasks.chain(timer).min()
    }
}

fn describe(error: &Error) -> String {
    let mut text = format!("{} {error}", error.code());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
