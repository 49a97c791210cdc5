//! What a job says of itself at one moment: plain values, for metrics, listings and tests.
//!
//! Counts are of one life of the job: after a failure, or in a new process, they begin at zero, and
//! rows that are read again are counted again.

use freshet_core::stream::{Epoch, EventTime, Wait};
use serde::{Deserialize, Serialize};

use crate::task::TaskId;

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobFigures {
    /// Its name.
    pub job: String,
    /// When this was so, in microseconds since 1970.
    pub at: i64,
    /// What it is at.
    pub phase: Phase,
    /// Since when, in microseconds since 1970.
    pub since: i64,
    /// Its number among all instances that there were; 0 before it has taken over.
    pub generation: u64,
    /// How often it began again since the process began.
    pub restarts: u64,
    /// Why it began again, or ended, the last time.
    pub failure: Option<String>,
    /// Its stages, in the order of the plan.
    pub stages: Vec<StageFigures>,
    /// Its checkpoints.
    pub checkpoints: CheckpointFigures,
    /// Its sinks, in the order of their stages.
    pub sinks: Vec<SinkFigures>,
    /// What keeps it from going on: rows that may come are not among it.
    pub waits: Vec<Wait>,
}

/// What a job is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It takes over, and its state is read.
    Starting,
    /// It runs.
    Running,
    /// It carries through what it has read, and then ends.
    Draining,
    /// It failed, and will begin again.
    Failed,
    /// It has ended.
    Ended,
}

impl Phase {
    /// The name, as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageFigures {
    /// Its id in the plan.
    pub id: String,
    /// Whether it reads a source.
    pub is_source: bool,
    /// What its operators are, in the order of the chain.
    pub operators: Vec<String>,
    /// Its tasks.
    pub tasks: Vec<TaskFigures>,
}

/// A task: one instance of a stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskFigures {
    /// Rows that it took up; of a source the records that were read, good or bad.
    pub rows_in: u64,
    /// Bytes that it took up; of a source as they were fetched.
    pub bytes_in: u64,
    /// Rows that the last operator gave.
    pub rows_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Records that became dead letters.
    pub dead_letters: u64,
    /// Records that the source itself left out.
    pub skipped: u64,
    /// How far event time has come; `None` where nothing is known.
    pub watermark: Option<EventTime>,
    /// Whether nobody waits for its event time, since all that it reads is idle.
    #[serde(default)]
    pub is_idle: bool,
    /// Microseconds in which it worked.
    pub busy: u64,
    /// Microseconds in which it waited for room behind it.
    pub blocked: u64,
    /// Microseconds in which it waited for rows.
    pub idle: u64,
    /// What it waits for, and since when; `None` while it works.
    pub wait: Option<Wait>,
    /// The queues in front of it, together; `None` of a source.
    pub queue: Option<QueueFigures>,
    /// Its operators, in the order of the chain.
    pub operators: Vec<OperatorFigures>,
    /// The splits that it reads.
    pub splits: Vec<SplitFigures>,
    /// How often its source had more bad records than `max_bad` allows, and the job went on.
    pub alerts: u64,
}

/// What waits in front of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueFigures {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// The share of its bound that the fullest queue has, from 0; a little more than 1 at times.
    pub fill: f64,
}

/// An operator of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorFigures {
    /// Rows that it took.
    pub rows_in: u64,
    /// Rows that a condition left out.
    pub filtered: u64,
    /// Rows that came after their time.
    pub late: u64,
    /// Rows whose key was seen before.
    pub deduplicated: u64,
    /// Rows that found no partner.
    pub unmatched: u64,
    /// Bytes of its state, about.
    pub state_bytes: u64,
    /// Keys of its state.
    pub state_keys: u64,
}

/// A split of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFigures {
    /// Its id.
    pub split: String,
    /// The next record that is read; `None` before the first.
    pub position: Option<u64>,
    /// The position behind the newest record that there is, where the source knows it.
    pub end: Option<u64>,
    /// Records that were read.
    pub records: u64,
    /// Those that became dead letters.
    pub dead_letters: u64,
    /// Those that the source itself left out.
    pub skipped: u64,
    /// Bytes, as they were fetched.
    pub bytes: u64,
    /// When the newest record that was read was written, in microseconds since 1970.
    pub written: Option<i64>,
    /// Whether records were fetched that are still to be read.
    pub fetched_ahead: bool,
    /// How far its event time has come; `None` where nothing is known.
    pub watermark: Option<EventTime>,
    /// Whether it had no rows for so long that nobody waits for it.
    pub is_idle: bool,
}

impl SplitFigures {
    /// Records that are there and were not read, where that is known.
    pub fn lag_records(&self) -> Option<u64> {
        Some(self.end?.saturating_sub(self.position?))
    }

    /// Microseconds from when the newest record that was read was written to `now`, where there are
    /// later ones; 0 where there is none.
    pub fn lag(&self, now: i64) -> Option<i64> {
        let behind = self.lag_records().map_or(self.fetched_ahead, |records| records > 0);
        if behind { Some((now - self.written?).max(0)) } else { Some(0) }
    }
}

/// The checkpoints of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFigures {
    /// Those that were made.
    pub completed: u64,
    /// Those that were begun and not ended, because the job failed.
    pub failed: u64,
    /// Tries to write something of one, or to commit, that failed and were made again.
    pub retries: u64,
    /// The newest.
    pub last: Option<MadeCheckpoint>,
    /// The one that is being made.
    pub under_way: Option<BegunCheckpoint>,
}

/// A checkpoint that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeCheckpoint {
    /// Its number.
    pub epoch: Epoch,
    /// When it was durable, in microseconds since 1970.
    pub at: i64,
    /// Microseconds from its beginning to then; 0 of one that was found.
    pub duration: i64,
    /// Bytes of state that were written for it.
    pub new_bytes: u64,
    /// Bytes of all state that it needs.
    pub bytes: u64,
}

/// A checkpoint that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BegunCheckpoint {
    /// Its number.
    pub epoch: Epoch,
    /// Since when, in microseconds since 1970.
    pub since: i64,
    /// The tasks whose part is missing; none while the manifest is being written.
    pub missing: Vec<TaskId>,
}

/// A sink of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkFigures {
    /// Its id in the plan.
    pub id: String,
    /// The place of its stage.
    pub stage: usize,
    /// Rows that were given to it.
    pub rows: u64,
    /// Commits that it made.
    pub commits: u64,
    /// The last epoch that it has committed.
    pub committed: Option<Epoch>,
    /// When, in microseconds since 1970.
    pub committed_at: Option<i64>,
    /// Microseconds that the last commit took.
    pub latency: Option<i64>,
}

impl JobFigures {
    /// Every task with its stage and index.
    pub fn tasks(&self) -> impl Iterator<Item = (&StageFigures, usize, &TaskFigures)> {
        self.stages.iter().flat_map(|stage| {
            stage.tasks.iter().enumerate().map(move |(index, task)| (stage, index, task))
        })
    }

    /// Records that all sources have given, good or bad.
    pub fn records(&self) -> u64 {
        self.sources().map(|task| task.rows_in).sum()
    }

    /// Records that became dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.sources().map(|task| task.dead_letters).sum()
    }

    /// Rows that came after their time.
    pub fn late(&self) -> u64 {
        let operators = self.tasks().flat_map(|(_, _, task)| &task.operators);
        operators.map(|operator| operator.late).sum()
    }

    /// Bytes and keys of all state.
    pub fn state(&self) -> (u64, u64) {
        let operators = self.tasks().flat_map(|(_, _, task)| &task.operators);
        operators.fold((0, 0), |(bytes, keys), operator| {
            (bytes + operator.state_bytes, keys + operator.state_keys)
        })
    }

    fn sources(&self) -> impl Iterator<Item = &TaskFigures> {
        self.tasks().filter(|(stage, ..)| stage.is_source).map(|(_, _, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_lags_only_behind_what_there_is() {
        let split = SplitFigures {
            position: Some(10),
            end: Some(10),
            written: Some(1_000),
            ..SplitFigures::default()
        };
        assert_eq!((split.lag_records(), split.lag(5_000)), (Some(0), Some(0)));
        let split = SplitFigures { end: Some(15), ..split };
        assert_eq!((split.lag_records(), split.lag(5_000)), (Some(5), Some(4_000)));
        let split = SplitFigures { end: None, ..split };
        assert_eq!((split.lag_records(), split.lag(5_000)), (None, Some(0)));
        let split = SplitFigures { fetched_ahead: true, ..split };
        assert_eq!(split.lag(5_000), Some(4_000));
    }
}
