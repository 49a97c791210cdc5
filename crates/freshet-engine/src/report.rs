//! What the engine is asked for and what it reports: plain data, shared with the orchestrator.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use freshet_core::contract::SchemaDiff;
use freshet_core::source::{ContentDigest, Interval, Split, SplitStatus};
use freshet_core::{EdgeCounts, Error, ErrorKind, ModelId, OperatorCounts, RunId, SourceId};
use serde::{Deserialize, Serialize};

/// One attempt to build one node.
#[derive(Debug, Clone)]
pub struct BuildTask {
    /// The run it belongs to.
    pub run: RunId,
    /// The node.
    pub model: ModelId,
    /// Counts from 1.
    pub attempt: u32,
    /// Whether an incremental model is built anew from everything.
    pub full_refresh: bool,
    /// The span of event time to compute again, whatever is new.
    pub interval: Option<Interval>,
    /// What the model's table holds already.
    pub progress: ModelProgress,
    /// Row counts that earlier runs published, newest first, for `volume` checks.
    pub history: Vec<u64>,
}

/// How far a model has consumed its inputs, as of its last intent that counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelProgress {
    /// Number of that intent; 0 where there is none.
    pub number: u64,
    /// Splits consumed, by source and split id.
    pub consumed: BTreeMap<SourceId, BTreeMap<String, ConsumedSplit>>,
    /// Version of each upstream table that was read.
    pub inputs: BTreeMap<ModelId, u64>,
}

/// A split that a table holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumedSplit {
    /// The split as it was when it was read.
    pub split: Split,
    /// Identity of its content.
    pub digest: Option<ContentDigest>,
    /// Highest sequence of the corrections that are in the table.
    pub corrections: u64,
    /// Whether it held nothing, so that reading it later takes no row twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty: bool,
}

/// What became of one node: kept with the run, shown, and printed as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildReport {
    /// The node.
    pub model: ModelId,
    /// How it was kept: `table`, `incremental`, `view` …
    pub materialized: String,
    /// Whether only new input was processed.
    pub incremental: bool,
    /// The version of its table that this build published; `None` where nothing changed or nothing
    /// is kept.
    pub version: Option<u64>,
    /// The intent's number, where there was one.
    pub number: Option<u64>,
    /// Rows in the new version that this build wrote.
    pub rows_written: u64,
    /// Rows in the table now.
    pub rows_total: Option<u64>,
    /// Bytes of source files read.
    pub bytes_read: u64,
    /// Batches that were computed, for `microbatch`.
    pub batches: Vec<Interval>,
    /// Edges that carry rows, by name: `decode:pos.sales`, `check`, `store`, `load:warehouse`.
    pub edges: BTreeMap<String, EdgeCounts>,
    /// SQL operators.
    pub operators: Vec<OperatorCounts>,
    /// Files read, set aside or empty.
    pub files: Vec<FileReport>,
    /// Files that the source expects and does not have.
    pub missing: Vec<MissingFile>,
    /// Differences from contracts, and changes of the table's columns.
    pub schema_diffs: Vec<SchemaDiff>,
    /// Dead letters by source and rule.
    pub dead_letters: BTreeMap<String, BTreeMap<String, u64>>,
    /// Checks, in the order of their declaration.
    pub checks: Vec<CheckReport>,
    /// Things a user should know that stopped nothing.
    pub warnings: Vec<String>,
    /// Where the staged version is kept for inspection, where it was not published.
    pub staged: Option<String>,
    /// How far the model has consumed its inputs now.
    #[serde(default)]
    pub progress: ModelProgress,
    /// Seconds by phase: `plan`, `execute`, `check`, `publish`, `load`.
    pub seconds: BTreeMap<String, f64>,
}

impl BuildReport {
    /// A report in which nothing has happened yet.
    pub fn of(model: ModelId, materialized: impl Into<String>) -> Self {
        Self {
            model,
            materialized: materialized.into(),
            incremental: false,
            version: None,
            number: None,
            rows_written: 0,
            rows_total: None,
            bytes_read: 0,
            batches: Vec::new(),
            edges: BTreeMap::new(),
            operators: Vec::new(),
            files: Vec::new(),
            missing: Vec::new(),
            schema_diffs: Vec::new(),
            dead_letters: BTreeMap::new(),
            checks: Vec::new(),
            warnings: Vec::new(),
            staged: None,
            progress: ModelProgress::default(),
            seconds: BTreeMap::new(),
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileReport {
    /// The source.
    pub source: SourceId,
    /// The file.
    pub file: String,
    /// What became of it.
    pub status: SplitStatus,
    /// Records in it, good and bad.
    pub records: u64,
    /// Records that became rows.
    pub good: u64,
    /// Records that became dead letters.
    pub dead: u64,
    /// Bytes.
    pub bytes: u64,
    /// Why it was set aside.
    pub error: Option<ErrorReport>,
}

/// A file that a source expects and does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFile {
    /// The source.
    pub source: SourceId,
    /// The span that it would belong to.
    pub interval: Interval,
    /// Its name, as far as the pattern tells.
    pub expected: String,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// It holds.
    Pass,
    /// It does not, and that is a warning.
    Warn,
    /// It does not; the failing rows were taken out.
    Quarantine,
    /// It does not, and the result is not published.
    Fail,
    /// It could not be evaluated.
    Error,
}

/// What one check found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckReport {
    /// The check's name.
    pub name: String,
    /// The rule's name.
    pub rule: String,
    /// How it ended.
    pub status: CheckStatus,
    /// Rows that fail.
    pub failures: u64,
    /// Rows looked at.
    pub rows: u64,
    /// The figure that was compared with a bound, for checks of figures.
    pub value: Option<f64>,
    /// What was found, for a person.
    pub message: String,
    /// Some failing rows: column names and values as text.
    pub sample: Vec<Vec<(String, Option<String>)>>,
}

/// An error as it is kept with a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The stable code, `F0203`.
    pub code: String,
    /// Its kind.
    pub kind: ErrorKind,
    /// Message and causes.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
    /// Where it was found, as `file:line:column`.
    pub location: Option<String>,
    /// Whether trying again may help.
    pub retryable: bool,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code().to_string(),
            kind: error.kind(),
            message: error.chain(),
            hint: error.hint_text().map(str::to_owned),
            location: error.location().map(ToString::to_string),
            retryable: error.is_retryable(),
        }
    }
}

/// A record that is in the dead-letter table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// `digest prefix:offset`, unique, stable.
    pub id: String,
    /// The run that found it.
    pub run: RunId,
    /// The model whose build found it.
    pub model: ModelId,
    /// The source, or the model again for quarantined rows.
    pub source: String,
    /// The file or partition.
    pub file: Option<String>,
    /// Identity of the file's content.
    pub digest: Option<ContentDigest>,
    /// Bytes of the file.
    pub size: Option<u64>,
    /// One-based line.
    pub line: Option<u64>,
    /// Byte offset.
    pub offset: Option<u64>,
    /// The column at fault.
    pub column: Option<String>,
    /// The rule that was broken.
    pub rule: String,
    /// What is wrong.
    pub message: String,
    /// The record's bytes; for quarantined rows, the row as JSON.
    pub raw: Vec<u8>,
    /// When it was found.
    pub at: DateTime<Utc>,
}

/// What a build tells while it goes on. Called from many threads, per batch at most.
pub trait BuildObserver: Send + Sync + std::fmt::Debug {
    /// The build entered a phase: `plan`, `execute`, `check`, `publish`, `load`.
    fn phase(&self, model: &ModelId, phase: &'static str);

    /// Progress of reading: totals since the start of this attempt.
    fn progress(&self, model: &ModelId, progress: BuildProgress);
}

/// How far a build has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildProgress {
    /// Files to read.
    pub files: u64,
    /// Bytes to read.
    pub bytes_total: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records decoded.
    pub records: u64,
    /// Rows written.
    pub rows_written: u64,
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct SilentObserver;

impl BuildObserver for SilentObserver {
    fn phase(&self, _: &ModelId, _: &'static str) {}
    fn progress(&self, _: &ModelId, _: BuildProgress) {}
}
