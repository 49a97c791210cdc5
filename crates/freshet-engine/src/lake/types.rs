//! What a lake is asked for and what it answers: plain data, for the most part kept in intents.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use freshet_core::contract::SchemaChange;
use freshet_core::source::Interval;
pub use freshet_project::model::ExportCompression;
use freshet_project::model::OnSchemaChange;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A table's place in a lake: `<lake>/<schema>/<name>/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The schema's folder.
    pub schema: String,
    /// The table's folder.
    pub name: String,
}

impl TableName {
    /// Names a table.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Which version of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// The version with this number.
    Version(u64),
    /// The newest version that is not younger than this.
    Timestamp(DateTime<Utc>),
}

/// What is known of one column of a data file. Values are as in the Delta log: numbers, and text
/// for dates, timestamps, decimals and text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnStats {
    /// A lower bound of its values.
    pub min: Option<Value>,
    /// An upper bound of its values.
    pub max: Option<Value>,
    /// Nulls in it.
    pub nulls: Option<u64>,
}

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its path below the table's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows; `None` where another writer did not say.
    pub rows: Option<u64>,
    /// The values of the partition columns, as text.
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    /// What is known of its columns, by name.
    #[serde(default)]
    pub stats: BTreeMap<String, ColumnStats>,
    /// When it was written, milliseconds since 1970.
    pub modified_ms: i64,
}

/// What a table is beside its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableMetadata {
    /// Stays the same for the life of the table.
    pub id: String,
    /// The columns, in Delta's JSON.
    pub schema_json: String,
    /// Columns by which its files are divided.
    pub partition_by: Vec<String>,
    /// Table properties.
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
}

/// One version of a table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The table.
    pub table: TableName,
    /// The version.
    pub version: u64,
    /// When it was committed.
    pub timestamp: DateTime<Utc>,
    /// The columns, partition columns included, as readers see them: text is `Utf8View`,
    /// timestamps are in microseconds.
    pub schema: SchemaRef,
    /// What the log says of the table.
    pub metadata: Arc<TableMetadata>,
    /// Its data files, in the order of their paths.
    pub files: Arc<Vec<DataFile>>,
    /// The number of each application's last transaction.
    pub transactions: Arc<BTreeMap<String, u64>>,
}

impl Snapshot {
    /// Rows in it; `None` where a file does not say.
    pub fn rows(&self) -> Option<u64> {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The highest number that `app` has committed up to this version; 0 where none.
    pub fn last_transaction(&self, app: &str) -> u64 {
        self.transactions.get(app).copied().unwrap_or(0)
    }

    /// Bytes in it.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// One entry of a table's history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The version.
    pub version: u64,
    /// When it was committed.
    pub timestamp: DateTime<Utc>,
    /// What was done, in Delta's words: `WRITE`, `MERGE`, `OPTIMIZE` …
    pub operation: String,
    /// How it was done.
    pub parameters: BTreeMap<String, Value>,
    /// What the writer added: run, model, counts.
    pub info: BTreeMap<String, Value>,
}

/// Rows to be written: streams that are read at once, one writer for each. All have `schema`.
pub struct NewRows {
    /// The columns of all streams.
    pub schema: SchemaRef,
    /// The rows, in no order among the streams.
    pub streams: Vec<SendableRecordBatchStream>,
}

impl fmt::Debug for NewRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewRows")
            .field("schema", &self.schema)
            .field("streams", &self.streams.len())
            .finish()
    }
}

/// How new rows enter a table.
#[derive(Debug, Clone, PartialEq)]
pub enum StageMode {
    /// They are the table from now on. Columns and partitions are those of the rows.
    Overwrite,
    /// They are added.
    Append,
    /// They replace the rows with the same key, others are added. Two new rows with one key are an
    /// error of code `MERGE`. Null is a key like any other.
    Merge {
        /// Columns that identify a row.
        unique_key: Vec<String>,
    },
    /// Rows with the same key are deleted, then all are added; new rows may share a key.
    DeleteInsert {
        /// Columns that identify the rows to delete.
        unique_key: Vec<String>,
    },
    /// Rows whose `event_time` is in one of the spans are deleted, then all are added.
    ReplaceWhere {
        /// The column of event time: a date or a timestamp.
        event_time: String,
        /// The spans.
        intervals: Vec<Interval>,
    },
    /// The partitions that the new rows touch are replaced. Without partitions, the table is.
    InsertOverwrite,
}

/// What is to be staged.
#[derive(Debug, Clone)]
pub struct StageRequest {
    /// The table.
    pub table: TableName,
    /// The version on which the change builds; `None` where the table does not exist.
    pub base: Option<Snapshot>,
    /// How the rows enter it.
    pub mode: StageMode,
    /// Columns by which files are divided, for a table that is made anew.
    pub partition_by: Vec<String>,
    /// What happens when the rows' columns are not the table's. `Overwrite` takes the rows'.
    pub on_schema_change: OnSchemaChange,
    /// What the log's history is told beside the mode, e.g. run and model.
    pub parameters: BTreeMap<String, String>,
}

/// What a change does to a table's rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// New rows that were given.
    pub rows_in: u64,
    /// Rows that were not there before: `rows_in` without those that replace one.
    pub rows_inserted: u64,
    /// Rows that were replaced by a new one with the same key.
    pub rows_updated: u64,
    /// Rows that were deleted without a successor.
    pub rows_deleted: u64,
    /// Rows that were copied unchanged from a replaced file to a new one.
    pub rows_copied: u64,
    /// New rows outside of the spans of `ReplaceWhere`: a repeated run would double them.
    pub rows_outside: u64,
}

/// A data file that a change takes out of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemovedFile {
    /// Its path below the table's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// The values of the partition columns, as text.
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
}

/// A change that is written and not yet visible. Kept as JSON in intents: [`StagedChange::FORMAT`]
/// counts its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedChange {
    /// The version of this format.
    pub format: u32,
    /// The table.
    pub table: TableName,
    /// The version on which it builds; `None` where it creates the table.
    pub base_version: Option<u64>,
    /// Files that it adds.
    pub adds: Vec<DataFile>,
    /// Files that it removes.
    pub removes: Vec<RemovedFile>,
    /// The table's metadata where the change creates or alters it.
    pub metadata: Option<TableMetadata>,
    /// The name in the log's history.
    pub operation: String,
    /// The parameters in the log's history.
    pub parameters: BTreeMap<String, String>,
    /// Whether rows change; `false` for a change of layout only.
    pub data_change: bool,
    /// What it does to the table's rows.
    pub counts: ChangeCounts,
    /// Rows in the table once it is committed, where that is known.
    pub rows_total: Option<u64>,
    /// How the table's columns change.
    pub schema_changes: Vec<SchemaChange>,
}

impl StagedChange {
    /// The version of the format that this build writes; it reads all up to it.
    pub const FORMAT: u32 = 1;

    /// Whether committing it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.removes.is_empty() && self.metadata.is_none()
    }
}

/// The number under which a change is committed, once and only once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Who counts: `freshet`.
    pub app: String,
    /// The count, from 1, ascending for each table.
    pub number: u64,
}

/// What a commit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The version that holds the change.
    pub version: u64,
    /// Whether this call wrote it; `false` where an earlier one did.
    pub written: bool,
}

/// What `optimize` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptimizeReport {
    /// The new version; `None` where nothing was to be done.
    pub version: Option<u64>,
    /// Files that were joined.
    pub files_removed: u64,
    /// Files that hold their rows now.
    pub files_added: u64,
    /// Bytes before.
    pub bytes_removed: u64,
    /// Bytes after.
    pub bytes_added: u64,
}

/// What `vacuum` deleted, or would delete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VacuumReport {
    /// Paths below the table's folder.
    pub files: Vec<String>,
    /// Bytes of them.
    pub bytes: u64,
}

/// Files that differ between two versions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileDiff {
    /// Files that only the later version has.
    pub added: Vec<DataFile>,
    /// Files that only the earlier version has.
    pub removed: Vec<DataFile>,
}

/// The format of exported files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Parquet with zstd.
    Parquet,
    /// CSV with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl ExportFormat {
    /// The end of a file's name. Parquet compresses within its files.
    pub fn extension(self, compression: ExportCompression) -> &'static str {
        use ExportCompression::{Gzip, None, Zstd};
        match (self, compression) {
            (Self::Parquet, _) => "parquet",
            (Self::Csv, None) => "csv",
            (Self::Csv, Gzip) => "csv.gz",
            (Self::Csv, Zstd) => "csv.zst",
            (Self::Ndjson, None) => "ndjson",
            (Self::Ndjson, Gzip) => "ndjson.gz",
            (Self::Ndjson, Zstd) => "ndjson.zst",
        }
    }

    /// How files are compressed where nothing is said.
    pub fn compression(self) -> ExportCompression {
        match self {
            Self::Parquet => ExportCompression::Zstd,
            Self::Csv | Self::Ndjson => ExportCompression::None,
        }
    }
}

/// Where and how rows are exported.
#[derive(Debug, Clone)]
pub struct ExportTarget {
    /// The store; paths are relative to it.
    pub store: Arc<dyn ObjectStore>,
    /// The folder in it.
    pub prefix: String,
    /// The format.
    pub format: ExportFormat,
    /// How files are compressed.
    pub compression: ExportCompression,
    /// Columns that make folders `column=value/`.
    pub partition_by: Vec<String>,
    /// The name of this export, unique for its content: files are called by it, so that a repeated
    /// export replaces its own files and no others.
    pub name: String,
}
