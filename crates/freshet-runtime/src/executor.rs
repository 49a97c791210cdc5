//! Who calls tasks and polls futures: threads in a process, or a simulator.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use freshet_core::clock::Clock;
use freshet_core::stream::Wake;
use freshet_core::{Error, Result};
use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex};

use crate::task::{Progress, Task, TaskId};

/// Where futures run that read and write: never on a worker.
pub trait Io: Debug + Send + Sync {
    /// Runs a future to its end.
    fn spawn(&self, future: BoxFuture<'static, ()>);

    /// Comes to its end after so many microseconds.
    fn sleep(&self, micros: i64) -> BoxFuture<'static, ()>;
}

/// Told of a task that failed.
pub type OnFailure = Arc<dyn Fn(TaskId, Error) + Send + Sync>;

/// Calls the tasks of a job.
pub trait Executor: Debug + Send + Sync {
    /// How many workers there are.
    fn workers(&self) -> usize;

    /// What wakes a worker.
    fn wake(&self, worker: usize) -> Arc<dyn Wake>;

    /// Begins to call tasks: each list by one worker. After the first failure of a task, that
    /// worker stops.
    fn start(&mut self, tasks: Vec<Vec<Task>>, on_failure: OnFailure) -> Result<()>;

    /// Stops: no task is called any more, and all are dropped.
    fn stop(&mut self);
}

/// A thread that sleeps until somebody wakes it.
#[derive(Debug, Default)]
struct Parker {
    woken: Mutex<bool>,
    condition: Condvar,
}

impl Wake for Parker {
    fn wake(&self) {
        let mut woken = self.woken.lock();
        if !*woken {
            *woken = true;
            self.condition.notify_one();
        }
    }
}

impl Parker {
    /// Sleeps until it is woken or so much time has passed.
    fn park(&self, at_most: Duration) {
        let mut woken = self.woken.lock();
        if !*woken {
            self.condition.wait_for(&mut woken, at_most);
        }
        *woken = false;
    }
}

/// Calls tasks on threads of its own.
#[derive(Debug)]
pub struct Threads {
    name: String,
    clock: Arc<dyn Clock>,
    parkers: Vec<Arc<Parker>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The longest that a worker sleeps: nothing rests on it but how soon a stop is seen.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

impl Threads {
    /// `workers` threads, named after the job.
    pub fn new(name: impl Into<String>, workers: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            name: name.into(),
            clock,
            parkers: (0..workers).map(|_| Arc::default()).collect(),
            stop: Arc::default(),
            threads: Vec::new(),
        }
    }
}

impl Executor for Threads {
    fn workers(&self) -> usize {
        self.parkers.len()
    }

    fn wake(&self, worker: usize) -> Arc<dyn Wake> {
        Arc::clone(&self.parkers[worker]) as Arc<dyn Wake>
    }

    fn start(&mut self, tasks: Vec<Vec<Task>>, on_failure: OnFailure) -> Result<()> {
        self.stop();
        self.stop = Arc::default();
        for (number, (tasks, parker)) in tasks.into_iter().zip(&self.parkers).enumerate() {
            let worker = Worker {
                tasks,
                parker: Arc::clone(parker),
                clock: Arc::clone(&self.clock),
                stop: Arc::clone(&self.stop),
                on_failure: Arc::clone(&on_failure),
            };
            let thread = std::thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || worker.run())
                .map_err(|error| {
                    Error::new(freshet_core::error::code::IO, "could not start a worker's thread")
                        .caused_by(error)
                })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for parker in &self.parkers {
            parker.wake();
        }
        for thread in self.threads.drain(..) {
            // A panic of a task was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker {
    tasks: Vec<Task>,
    parker: Arc<Parker>,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
    on_failure: OnFailure,
}

impl Worker {
    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let mut now = self.clock.now_micros();
            let mut worked = false;
            for task in &mut self.tasks {
                match step(task, now) {
                    Ok(progress) => {
                        worked |= progress == Progress::Worked;
                        let ended = self.clock.now_micros();
                        task.stepped(progress, now, ended);
                        now = ended;
                    }
                    Err(error) => {
                        (self.on_failure)(task.id(), error);
                        return;
                    }
                }
            }
            if !worked {
                self.tasks
                    .iter_mut()
                    .filter(|task| task.is_stale())
                    .for_each(|task| task.publish(now));
                let deadline = self.tasks.iter().filter_map(Task::deadline).min();
                let until = deadline.map(|at| Duration::from_micros((at - now).max(0) as u64));
                self.parker.park(until.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP));
            }
        }
    }
}

/// A step of a task; a panic is an error of ours.
fn step(task: &mut Task, now: i64) -> Result<Progress> {
    let step = std::panic::AssertUnwindSafe(|| task.step(now));
    std::panic::catch_unwind(step).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(Error::internal(format!("a worker panicked: {message}")))
    })
}
