//! What a run is asked for and what it reports: plain data, stored, shown and printed as JSON.

use chrono::{DateTime, Utc};
use freshet_core::source::Interval;
use freshet_core::{ModelId, RunId};
use freshet_engine::{BuildProgress, BuildReport, ErrorReport};
use serde::{Deserialize, Serialize};

/// What a run is asked for.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// `--select` as given; empty selects all.
    pub select: Vec<String>,
    /// `--exclude` as given.
    pub exclude: Vec<String>,
    /// Build incremental models anew.
    pub full_refresh: bool,
    /// Compute this span of event time again.
    pub interval: Option<Interval>,
    /// Start nothing more after the first failure.
    pub fail_fast: bool,
    /// Models at once; `None` is one a core.
    pub threads: Option<usize>,
    /// The command line, for the record; without secrets.
    pub command: String,
}

/// How a run, or a task, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It has not begun.
    Pending,
    /// It is under way.
    Running,
    /// Everything was published.
    Success,
    /// Published, but a file was set aside or is missing, or a model was left out.
    Partial,
    /// It failed; what it would have published was not.
    Failed,
    /// Not attempted because something that it depends on failed.
    Skipped,
    /// Stopped from outside before its end.
    Cancelled,
}

/// A run as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    /// Its id.
    pub id: RunId,
    /// The project.
    pub project: String,
    /// The environment.
    pub environment: String,
    /// The command line.
    pub command: String,
    /// Start.
    pub started: DateTime<Utc>,
    /// End; `None` while it is under way, or where its process died.
    pub finished: Option<DateTime<Utc>>,
    /// How it ended.
    pub status: Status,
    /// One a model, in the order of the graph.
    pub tasks: Vec<TaskReport>,
    /// Commits of earlier runs that this one finished first.
    pub recovered: Vec<String>,
}

/// A task of a run: one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskReport {
    /// The node.
    pub model: ModelId,
    /// How it ended.
    pub status: Status,
    /// Attempts made.
    pub attempts: u32,
    /// Start of the first attempt.
    pub started: Option<DateTime<Utc>>,
    /// End of the last.
    pub finished: Option<DateTime<Utc>>,
    /// What it did; kept for failed checks too.
    pub build: Option<BuildReport>,
    /// Why it failed or was skipped.
    pub error: Option<ErrorReport>,
    /// What made it be skipped.
    pub because: Option<ModelId>,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its id.
    pub id: RunId,
    /// The project.
    pub project: String,
    /// The environment.
    pub environment: String,
    /// The command line.
    pub command: String,
    /// Start.
    pub started: DateTime<Utc>,
    /// End; `None` while it is under way, or where its process died.
    pub finished: Option<DateTime<Utc>>,
    /// How it ended; `Failed` without an end is a run that was interrupted.
    pub status: Status,
    /// Its tasks.
    pub tasks: u64,
    /// Those that ended well.
    pub done: u64,
    /// Those that failed.
    pub failed: u64,
    /// Rows written by all of them.
    pub rows_written: u64,
    /// Dead letters of all of them.
    pub dead_letters: u64,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptError {
    /// The node.
    pub model: ModelId,
    /// Counts from 1.
    pub attempt: u32,
    /// When it failed.
    pub at: DateTime<Utc>,
    /// Why.
    pub error: ErrorReport,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone)]
pub enum RunEvent {
    /// The run begins with these tasks.
    Started {
        /// Its id.
        run: RunId,
        /// The nodes, in the order of the graph.
        models: Vec<ModelId>,
    },
    /// A task begins an attempt.
    TaskStarted {
        /// The node.
        model: ModelId,
        /// Counts from 1.
        attempt: u32,
    },
    /// A task entered a phase.
    TaskPhase {
        /// The node.
        model: ModelId,
        /// `plan`, `execute`, `check`, `publish`, `load`
        phase: &'static str,
    },
    /// A task read or wrote more.
    TaskProgress {
        /// The node.
        model: ModelId,
        /// Totals of this attempt.
        progress: BuildProgress,
    },
    /// An attempt failed and another one will be made.
    TaskRetry {
        /// The node.
        model: ModelId,
        /// The attempt to come.
        attempt: u32,
        /// When it is due.
        at: DateTime<Utc>,
        /// Why the last one failed.
        error: Box<ErrorReport>,
    },
    /// A task ended.
    TaskFinished(Box<TaskReport>),
    /// The run ended.
    Finished(Box<RunReport>),
}

/// Who is told. Called from many threads; must not block.
pub trait RunObserver: Send + Sync + std::fmt::Debug {
    /// Something happened.
    fn on_event(&self, event: RunEvent);
}
