//! What a run does next: a pure function of what has happened so far.
//!
//! [`RunState::apply`] takes one input and answers with the actions that follow from it. It reads
//! no clock and does no I/O; chance (the jitter of retries) comes from a seed. The same inputs
//! always give the same actions.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::Status;
use crate::plan::{TaskGraph, TaskIndex};

/// How often and when a task is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least one is made.
    pub max_attempts: u32,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub base: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, base: Duration::from_secs(1), cap: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// The wait after attempt number `attempt`: half of it is fixed, half is chance, so that tasks
    /// that failed together do not come back together.
    fn wait_micros(&self, attempt: u32, rng: &mut SmallRng) -> i64 {
        let doubled = 2u32.saturating_pow(attempt.saturating_sub(1));
        let longest = self.base.saturating_mul(doubled).min(self.cap);
        let longest = i64::try_from(longest.as_micros()).unwrap_or(i64::MAX / 4);
        longest - rng.random_range(0..=longest / 2)
    }
}

/// The rules of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRules {
    /// Tasks at once; at least one.
    pub parallelism: usize,
    /// Whether nothing more is started after the first failure.
    pub fail_fast: bool,
    /// How failures that may pass are tried again.
    pub retry: RetryPolicy,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunInput {
    /// The run begins. Given once, first.
    Begin,
    /// A running task ended well.
    TaskFinished {
        /// The task.
        task: TaskIndex,
        /// Whether a file was left out.
        partial: bool,
    },
    /// A running task failed.
    TaskFailed {
        /// The task.
        task: TaskIndex,
        /// Whether trying again may help.
        retryable: bool,
        /// The time, microseconds since 1970.
        now: i64,
    },
    /// A running task ended because it was told to.
    TaskCancelled {
        /// The task.
        task: TaskIndex,
    },
    /// Somebody wants the run to end.
    CancelRequested,
    /// Time went on.
    Tick {
        /// The time, microseconds since 1970.
        now: i64,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAction {
    /// An attempt begins.
    StartTask {
        /// The task.
        task: TaskIndex,
        /// Counts from 1.
        attempt: u32,
    },
    /// A tick is wanted at this time; the task begins another attempt then.
    ScheduleRetry {
        /// The task.
        task: TaskIndex,
        /// The attempt that will begin.
        attempt: u32,
        /// The time, microseconds since 1970.
        at: i64,
    },
    /// A running task is to end soon; it answers with any of its three ends.
    CancelTask {
        /// The task.
        task: TaskIndex,
    },
    /// The task is not attempted, or not again.
    EndTask {
        /// The task.
        task: TaskIndex,
        /// `Success`, `Partial`, `Failed`, `Skipped` or `Cancelled`.
        status: Status,
        /// For skipped tasks: the failed task that made it so.
        because: Option<TaskIndex>,
    },
    /// All tasks have ended. The last action of a run.
    FinishRun {
        /// `Success`, `Partial`, `Failed` or `Cancelled`.
        status: Status,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskState {
    /// Some of what it waits for has not ended, or there is no free place.
    Waiting,
    Running {
        attempt: u32,
    },
    /// It failed and is tried again at `at`, or later when a place is free.
    Retrying {
        attempt: u32,
        at: i64,
    },
    Ended(Status),
}

/// Where a run stands.
#[derive(Debug, Clone)]
pub struct RunState {
    graph: Arc<TaskGraph>,
    rules: RunRules,
    tasks: Vec<TaskState>,
    /// How many tasks each one still waits for.
    waits: Vec<usize>,
    running: usize,
    now: i64,
    begun: bool,
    finished: bool,
    cancelled: bool,
    /// A task failed, and nothing more is to be started after that.
    stopping: bool,
    rng: SmallRng,
}

impl RunState {
    /// A run of `graph` that has not begun.
    pub fn new(graph: Arc<TaskGraph>, rules: RunRules, seed: u64) -> Self {
        Self {
            tasks: vec![TaskState::Waiting; graph.len()],
            waits: graph.tasks().map(|task| graph.waits(task)).collect(),
            graph,
            rules,
            running: 0,
            now: i64::MIN,
            begun: false,
            finished: false,
            cancelled: false,
            stopping: false,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// The tasks and what they wait for.
    pub fn graph(&self) -> &Arc<TaskGraph> {
        &self.graph
    }

    /// How a task stands.
    pub fn status(&self, task: TaskIndex) -> Status {
        match self.tasks[task.0] {
            TaskState::Waiting => Status::Pending,
            TaskState::Running { .. } | TaskState::Retrying { .. } => Status::Running,
            TaskState::Ended(status) => status,
        }
    }

    /// Whether all tasks have ended.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// When the next tick is wanted: the earliest retry that is not due yet.
    pub fn next_tick(&self) -> Option<i64> {
        let due = self.tasks.iter().filter_map(|task| match task {
            TaskState::Retrying { at, .. } if *at > self.now => Some(*at),
            _ => None,
        });
        due.min()
    }

    /// Takes one input and says what follows.
    ///
    /// # Panics
    /// Where the input makes no sense: an end of a task that is not running, a second beginning.
    pub fn apply(&mut self, input: RunInput) -> Vec<RunAction> {
        let mut actions = Vec::new();
        match input {
            RunInput::Begin => {
                assert!(!self.begun, "a run begins once");
                self.begun = true;
            }
            RunInput::TaskFinished { task, partial } => {
                self.take_running(task);
                let status = if partial { Status::Partial } else { Status::Success };
                self.end(task, status, None, &mut actions);
            }
            RunInput::TaskFailed { task, retryable, now } => {
                let attempt = self.take_running(task);
                self.now = self.now.max(now);
                let again = retryable && attempt < self.rules.retry.max_attempts;
                if again && !self.cancelled && !self.stopping {
                    let wait = self.rules.retry.wait_micros(attempt, &mut self.rng);
                    let at = self.now.saturating_add(wait);
                    let attempt = attempt + 1;
                    self.tasks[task.0] = TaskState::Retrying { attempt, at };
                    actions.push(RunAction::ScheduleRetry { task, attempt, at });
                } else {
                    self.fail(task, &mut actions);
                }
            }
            RunInput::TaskCancelled { task } => {
                self.take_running(task);
                self.end(task, Status::Cancelled, None, &mut actions);
            }
            RunInput::CancelRequested => self.cancel(&mut actions),
            RunInput::Tick { now } => self.now = self.now.max(now),
        }
        self.start_ready(&mut actions);
        self.finish(&mut actions);
        actions
    }

    fn take_running(&mut self, task: TaskIndex) -> u32 {
        let TaskState::Running { attempt } = self.tasks[task.0] else {
            panic!("task {} of the run ended without running", task.0);
        };
        self.running -= 1;
        attempt
    }

    fn end(
        &mut self,
        task: TaskIndex,
        status: Status,
        because: Option<TaskIndex>,
        actions: &mut Vec<RunAction>,
    ) {
        self.tasks[task.0] = TaskState::Ended(status);
        if matches!(status, Status::Success | Status::Partial) {
            for next in self.graph.downstream(task) {
                self.waits[next.0] -= 1;
            }
        }
        for next in self.graph.followers(task) {
            self.waits[next.0] -= 1;
        }
        actions.push(RunAction::EndTask { task, status, because });
    }

    /// Ends a task as failed and skips what can no longer run.
    fn fail(&mut self, task: TaskIndex, actions: &mut Vec<RunAction>) {
        self.end(task, Status::Failed, None, actions);
        self.stopping |= self.rules.fail_fast;
        let mut lost = vec![self.stopping; self.graph.len()];
        lost[task.0] = true;
        let graph = Arc::clone(&self.graph);
        for other in graph.tasks() {
            if lost[other.0] {
                for next in graph.downstream(other) {
                    lost[next.0] = true;
                }
            }
        }
        for other in graph.tasks().filter(|other| lost[other.0]) {
            match self.tasks[other.0] {
                TaskState::Waiting => self.end(other, Status::Skipped, Some(task), actions),
                // It has failed already, and nothing more is started.
                TaskState::Retrying { .. } => self.end(other, Status::Failed, None, actions),
                TaskState::Running { .. } | TaskState::Ended(_) => {}
            }
        }
    }

    fn cancel(&mut self, actions: &mut Vec<RunAction>) {
        if std::mem::replace(&mut self.cancelled, true) {
            return;
        }
        let graph = Arc::clone(&self.graph);
        for task in graph.tasks() {
            match self.tasks[task.0] {
                TaskState::Waiting => self.end(task, Status::Cancelled, None, actions),
                TaskState::Retrying { .. } => self.end(task, Status::Failed, None, actions),
                TaskState::Running { .. } => actions.push(RunAction::CancelTask { task }),
                TaskState::Ended(_) => {}
            }
        }
    }

    /// Fills the free places: retries that are due first, then what has the longest way to go.
    fn start_ready(&mut self, actions: &mut Vec<RunAction>) {
        if !self.begun || self.cancelled {
            return;
        }
        let free = self.rules.parallelism.max(1).saturating_sub(self.running);
        if free == 0 {
            return;
        }
        let mut ready: Vec<(bool, usize, TaskIndex, u32)> = Vec::new();
        for task in self.graph.tasks() {
            match self.tasks[task.0] {
                TaskState::Waiting if self.waits[task.0] == 0 => {
                    ready.push((true, usize::MAX - self.graph.height(task), task, 1));
                }
                TaskState::Retrying { attempt, at } if at <= self.now => {
                    ready.push((false, usize::MAX - self.graph.height(task), task, attempt));
                }
                _ => {}
            }
        }
        ready.sort_unstable();
        for (_, _, task, attempt) in ready.into_iter().take(free) {
            self.tasks[task.0] = TaskState::Running { attempt };
            self.running += 1;
            actions.push(RunAction::StartTask { task, attempt });
        }
    }

    fn finish(&mut self, actions: &mut Vec<RunAction>) {
        if self.finished || !self.begun {
            return;
        }
        let mut run = Status::Success;
        for task in &self.tasks {
            let TaskState::Ended(status) = task else { return };
            if severity(*status) > severity(run) {
                run = *status;
            }
        }
        self.finished = true;
        // Skipped tasks always stand beside the failed one that they were skipped for.
        actions.push(RunAction::FinishRun { status: run });
    }
}

/// Which status of a task decides that of its run.
fn severity(status: Status) -> u8 {
    match status {
        Status::Pending | Status::Running | Status::Success => 0,
        Status::Skipped => 1,
        Status::Partial => 2,
        Status::Cancelled => 3,
        Status::Failed => 4,
    }
}

#[cfg(test)]
mod tests;
