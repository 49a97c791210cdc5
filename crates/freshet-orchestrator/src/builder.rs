//! What the orchestrator needs of an engine: a task is built, what a crash left behind is finished,
//! and the intents are listed so that the index can be made again.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use freshet_core::{Error, ModelId, Result, RunId};
use freshet_engine::{BuildObserver, BuildReport, BuildTask, ModelProgress};
use serde::{Deserialize, Serialize};

/// Builds nodes, one task at a time and several at once.
#[async_trait]
pub trait Builder: Send + Sync + Debug {
    /// Finishes what earlier processes began: every intent whose number its table does not hold
    /// yet is rolled forward, or abandoned where it cannot count any more. Called once before the
    /// tasks of a run, while nobody else writes the environment. A second call finds nothing.
    /// `killed`: a process may have been killed since the last call, by what the index knows.
    async fn recover(&self, killed: bool) -> Result<Vec<RecoveredIntent>>;

    /// Builds one node: execute, stage, check, publish, load. The task's progress is what the index
    /// knows; where the table's own log says otherwise, the log is right. On an error nothing is published,
    /// unless the intent was durable already: then the next [`Builder::recover`] finishes it.
    async fn build(
        &self,
        task: &BuildTask,
        observer: Arc<dyn BuildObserver>,
    ) -> Result<BuildReport, BuildFailure>;

    /// Every intent that counts, ordered by time, from which the index is made again.
    async fn intents(&self) -> Result<Vec<IntentRecord>>;
}

/// Why a build failed, and what it had done by then.
#[derive(Debug)]
pub struct BuildFailure {
    /// Why.
    pub error: Error,
    /// What is known of the build: files, edges, checks, the staged version.
    pub report: Option<Box<BuildReport>>,
}

impl From<Error> for BuildFailure {
    fn from(error: Error) -> Self {
        Self { error, report: None }
    }
}

impl BuildFailure {
    /// A failure with what the build had done by then.
    pub fn with_report(error: Error, report: BuildReport) -> Self {
        Self { error, report: Some(Box::new(report)) }
    }
}

/// What became of an intent that a process left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// It was committed now.
    Finished,
    /// It was taken back: its table had moved on, so that it can never count.
    Abandoned,
}

/// An intent that a process left behind.
#[derive(Debug, Clone)]
pub struct RecoveredIntent {
    /// The node.
    pub model: ModelId,
    /// The intent's number.
    pub number: u64,
    /// The run that wrote it.
    pub run: RunId,
    /// What became of it.
    pub action: Recovery,
    /// How far the model has consumed its inputs now.
    pub progress: ModelProgress,
    /// What the build that wrote the intent did, for the record of its run.
    pub report: Option<BuildReport>,
}

/// An intent that counts: its table holds its number.
#[derive(Debug, Clone)]
pub struct IntentRecord {
    /// The node.
    pub model: ModelId,
    /// The intent's number.
    pub number: u64,
    /// The run that wrote it.
    pub run: RunId,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// What the build did; its `progress` is the model's as of this intent.
    pub report: BuildReport,
}
