//! What a project is once it was read and validated: the types that the other crates work with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use freshet_core::config::{ByteSize, HumanDuration, MaxBad, Share};
use freshet_core::sink::LoadMode;
use freshet_core::{ColumnType, Contract, Location, ModelId, SourceId};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A validated project in one environment. Nodes are in dependency order: each comes after all
/// that it depends on, equals in the order of their names.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder.
    pub dir: PathBuf,
    /// `name` of the project file.
    pub name: String,
    /// The environment that was chosen.
    pub environment: Environment,
    /// Models and seeds.
    pub nodes: IndexMap<ModelId, Node>,
    /// Source tables.
    pub sources: IndexMap<SourceId, SourceTable>,
    /// Checks of nodes and sources, and singular tests.
    pub checks: Vec<Check>,
    /// Unit tests.
    pub unit_tests: Vec<UnitTest>,
    /// SQL functions declared once and usable in every model: `create function`-like macros.
    pub sql_macros: Vec<SqlMacro>,
    /// Data that the project makes for itself where there is none: examples do.
    pub demo_data: Option<DemoData>,
    /// Things that a user should know and that stop nothing, each with its place.
    pub warnings: Vec<String>,
    /// Compiled macros and what templates may refer to.
    pub templates: Arc<crate::render::Templates>,
}

/// Data that a project makes for itself, so that it runs as it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoData {
    /// The generator, as `freshet generate` has it.
    pub generator: String,
    /// Where it goes.
    pub into: DemoTarget,
    /// The generator's options.
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// Where a project's own data goes.
#[derive(Debug, Clone, PartialEq)]
pub enum DemoTarget {
    /// Into a folder, which is filled when it is missing; absolute.
    Folder(PathBuf),
    /// Into sources, as events happen.
    Streams {
        /// The source of each of the generator's streams.
        sources: BTreeMap<String, SourceId>,
        /// The query whose result is shown as it changes.
        show: Option<String>,
    },
}

/// One environment of `freshet.yml`, defaults applied, secrets resolved.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Its name: `dev` where nothing is said.
    pub name: String,
    /// Where the lake is: an absolute folder or a URL such as `s3://bucket/prefix`.
    pub lake: String,
    /// The connection whose options the lake's URL needs, if any.
    pub lake_connection: Option<String>,
    /// The folder for local state: metadata, temporary files, the lock.
    pub state_dir: PathBuf,
    /// Memory that queries may use before they spill to disk.
    pub memory_limit: ByteSize,
    /// How long the records of runs are kept; `None` is for ever.
    pub keep_runs: Option<HumanDuration>,
    /// Threads; `None` is one a core.
    pub threads: Option<usize>,
    /// The schema in which models are made where they name no other.
    pub schema: String,
    /// The connection of the warehouse, where the environment has one.
    pub warehouse: Option<String>,
    /// The listener of `freshet up`.
    pub http: freshet_core::http::HttpOptions,
    /// Connections by name.
    pub connections: BTreeMap<String, Connection>,
    /// Variables of the project, overridden by the environment and the command line.
    pub vars: serde_json::Map<String, serde_json::Value>,
}

/// A named connection. Its options are never printed: `Debug` shows their names alone.
#[derive(Clone)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// The connector whose options it holds.
    pub connector: String,
    /// Options, secrets resolved. Never printed.
    pub options: serde_json::Map<String, serde_json::Value>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("name", &self.name)
            .field("connector", &self.connector)
            .field("options", &self.options.keys().map(|key| (key, "***")).collect::<Vec<_>>())
            .finish()
    }
}

/// A table of a source. `Debug` leaves out its options, which may hold secrets.
#[derive(Clone)]
pub struct SourceTable {
    /// `source.table`.
    pub id: SourceId,
    /// The source's name.
    pub source: String,
    /// The table's name.
    pub table: String,
    /// What it is, for people.
    pub description: String,
    /// The connector that reads it; `None` for a table that is in the lake already.
    pub connector: Option<String>,
    /// The connector's options, templates rendered and secrets resolved.
    pub options: serde_json::Value,
    /// The named connection that the options build on.
    pub connection: Option<String>,
    /// Declared columns and modes.
    pub contract: Arc<Contract>,
    /// The share of bad records from which a file is set aside.
    pub max_bad: Share,
    /// What the project says of bad records itself, which streams go by.
    pub stated_max_bad: Option<MaxBad>,
    /// What happens when a stream has more bad records.
    pub on_max_bad: OnMaxBad,
    /// Files younger than this are left for the next run.
    pub settle: HumanDuration,
    /// What happens when a file changed after it was consumed.
    pub on_changed: OnChanged,
    /// What happens with files that hold nothing.
    pub empty_files: EmptyFiles,
    /// How often a file is expected, so that a missing one can be named.
    pub expect_every: Option<BatchSize>,
    /// The column of event time.
    pub event_time: Option<String>,
    /// How its rows say how far event time has come, where they do.
    pub watermark: Option<Watermark>,
    /// The columns whose values name a row; empty where nothing does.
    pub primary_key: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Where it is declared.
    pub location: Location,
}

impl std::fmt::Debug for SourceTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceTable")
            .field("id", &self.id)
            .field("connector", &self.connector)
            .field("contract", &self.contract)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}

/// How the rows of a stream say how far event time has come.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Watermark {
    /// The column of the rows' time.
    pub column: String,
    /// The watermark as SQL over the table's columns.
    pub expr: String,
    /// After how long without rows nobody waits for a partition; `None` is never.
    pub idle_after: Option<HumanDuration>,
    /// What becomes of time while all partitions are idle.
    pub when_idle: WhenIdle,
    /// Where it is declared.
    #[serde(skip)]
    pub location: Location,
}

/// What becomes of a source's time while all of its partitions are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenIdle {
    /// It stands still, and nobody waits for the source.
    #[default]
    Wait,
    /// It goes on as the time of day does.
    Advance,
}

/// What happens when a file changed after it was consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnChanged {
    /// It is reported and left alone.
    #[default]
    Ignore,
    /// It is read again; models that append need a `unique_key` for that.
    Reload,
    /// The run fails.
    Fail,
}

/// What happens when a stream has more bad records than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMaxBad {
    /// The job stops with an error.
    #[default]
    Stop,
    /// The log and `/metrics` tell it, and the job goes on.
    Alert,
}

/// What happens with files that hold nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmptyFiles {
    /// They are named and make the run partial.
    #[default]
    Report,
    /// They are as good as any other file.
    Allow,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A `.sql` file.
    Model,
    /// A `.csv` file that is part of the project.
    Seed,
}

/// A model or seed.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its unique name.
    pub id: ModelId,
    /// What it is.
    pub kind: NodeKind,
    /// Its file, relative to the project folder.
    pub path: PathBuf,
    /// The file's text: SQL with Jinja, or empty for seeds.
    pub raw: String,
    /// What it is, for people.
    pub description: String,
    /// Its settings, merged from the project file, the YAML beside it and `config()`.
    pub config: NodeConfig,
    /// Declared columns: names, and types where given.
    pub columns: Vec<NodeColumn>,
    /// Nodes that it uses, in the order of their first mention.
    pub refs: Vec<ModelId>,
    /// Sources that it uses, in the order of their first mention.
    pub sources: Vec<SourceId>,
    /// Hash of everything that decides its result: raw text, config, macros used. For `state:modified`.
    pub checksum: String,
}

impl Node {
    /// The table's name in SQL and in the lake.
    pub fn alias(&self) -> &str {
        self.config.alias.as_deref().unwrap_or(self.id.as_str())
    }
}

/// A declared column of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeColumn {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Its type, where declared: the result is cast to it, and a value that does not fit is an error.
    pub data_type: Option<ColumnType>,
}

/// How a node is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Materialized {
    /// A query, evaluated wherever it is used.
    #[default]
    View,
    /// A table, built anew by each run.
    Table,
    /// A table that grows or is amended by each run.
    Incremental,
    /// A query that only other models see.
    Ephemeral,
    /// A table from a seed's file.
    Seed,
    /// A table that a job without an end writes: `freshet up`.
    Stream,
}

/// How an incremental model's rows enter its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub enum IncrementalStrategy {
    /// Rows are added.
    #[default]
    #[serde(rename = "append")]
    Append,
    /// Rows replace those with the same `unique_key`, others are added.
    #[serde(rename = "merge")]
    Merge,
    /// Rows with the same `unique_key` are deleted, then all are added.
    #[serde(rename = "delete+insert")]
    DeleteInsert,
    /// The partitions that the new rows touch are replaced.
    #[serde(rename = "insert_overwrite")]
    InsertOverwrite,
    /// Spans of event time are replaced, each computed by a query of its own.
    #[serde(rename = "microbatch")]
    Microbatch,
}

/// A span of event time that is computed at once.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// From the full hour.
    Hour,
    /// From midnight, UTC.
    Day,
    /// From the first of the month.
    Month,
    /// From the first of January.
    Year,
}

/// What happens when the result's columns differ from the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnSchemaChange {
    /// New columns are left out, missing ones are null.
    #[default]
    Ignore,
    /// The model fails.
    Fail,
    /// New columns are added.
    AppendNewColumns,
    /// New columns are added, missing ones removed.
    SyncAllColumns,
}

/// A node's settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeConfig {
    /// How it is kept.
    pub materialized: Materialized,
    /// Whether it is built at all.
    pub enabled: bool,
    /// Its name in SQL where it is not the file's.
    pub alias: Option<String>,
    /// Its schema where it is not the environment's.
    pub schema: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Columns that identify a row.
    pub unique_key: Vec<String>,
    /// How an incremental model's rows enter its table; `None` is merge with a `unique_key`, append without.
    pub incremental_strategy: Option<IncrementalStrategy>,
    /// What happens when columns change.
    pub on_schema_change: OnSchemaChange,
    /// Columns by which the table's files are divided.
    pub partition_by: Vec<String>,
    /// The column of event time.
    pub event_time: Option<String>,
    /// The span of one batch, for `microbatch`.
    pub batch_size: Option<BatchSize>,
    /// The first batch, for `microbatch`.
    pub begin: Option<chrono::NaiveDateTime>,
    /// Batches before the first touched one that are computed again.
    pub lookback: u32,
    /// Whether `--full-refresh` may rebuild it; `None` follows the command line.
    pub full_refresh: Option<bool>,
    /// Where its rows are loaded to, once published.
    pub load: Option<LoadConfig>,
    /// Files that its rows are written to, once published.
    pub export: Option<ExportConfig>,
    /// Of a stream: where its rows go; none named is its table in the lake.
    pub sinks: Vec<SinkConfig>,
    /// Of a stream: how long state that nothing else bounds is kept where no row comes to it; `None` is for
    /// ever.
    pub state_ttl: Option<HumanDuration>,
    /// The character between fields of a seed's file; `None` is a comma.
    pub delimiter: Option<char>,
    /// Anything, for people and programs.
    pub meta: serde_json::Map<String, serde_json::Value>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            materialized: Materialized::View,
            enabled: true,
            alias: None,
            schema: None,
            tags: Vec::new(),
            unique_key: Vec::new(),
            incremental_strategy: None,
            on_schema_change: OnSchemaChange::Ignore,
            partition_by: Vec::new(),
            event_time: None,
            batch_size: None,
            begin: None,
            lookback: 1,
            full_refresh: None,
            load: None,
            export: None,
            sinks: Vec::new(),
            state_ttl: None,
            delimiter: None,
            meta: serde_json::Map::new(),
        }
    }
}

impl NodeConfig {
    /// The strategy, defaults applied.
    pub fn strategy(&self) -> IncrementalStrategy {
        self.incremental_strategy.unwrap_or(if self.unique_key.is_empty() {
            IncrementalStrategy::Append
        } else {
            IncrementalStrategy::Merge
        })
    }
}

/// Where the rows of a stream go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SinkConfig {
    /// The connector, or [`Self::TABLE`].
    pub connector: String,
    /// The named connection that the options build on.
    pub connection: Option<String>,
    /// The time between two commits, where it is not the job's.
    pub commit_interval: Option<HumanDuration>,
    /// The connector's own options. They hold no secrets: those are in the connection.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Where it is declared.
    #[serde(skip)]
    pub location: Location,
}

impl SinkConfig {
    /// The model's table in the lake.
    pub const TABLE: &str = "table";

    /// Whether it is the model's table in the lake.
    pub fn is_table(&self) -> bool {
        self.connector == Self::TABLE
    }
}

/// A load into a warehouse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadConfig {
    /// The connection; the environment's `warehouse` where none is named. An environment without
    /// either loads nothing and says so.
    #[serde(default)]
    pub connection: Option<String>,
    /// The table, `schema.table` or `table`; the model's name where none is given.
    #[serde(default)]
    pub table: Option<String>,
    /// How rows enter it; by default what fits the model: `replace` for tables, `merge` with a
    /// `unique_key`, `replace_interval` for microbatch, `append` otherwise.
    #[serde(default)]
    pub mode: Option<LoadMode>,
}

/// An export to files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// A folder or URL.
    pub path: String,
    /// `parquet`, `csv` or `ndjson`.
    pub format: String,
    /// How files are compressed: `none`, `gzip` or `zstd`. Default: `zstd` for Parquet, `none` for
    /// the others, whose names then end in `.gz` or `.zst`.
    #[serde(default)]
    pub compression: Option<ExportCompression>,
    /// Columns that make folders `column=value/`.
    #[serde(default)]
    pub partition_by: Vec<String>,
    /// The connection of a URL.
    #[serde(default)]
    pub connection: Option<String>,
}

/// How exported files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportCompression {
    /// Not at all.
    None,
    /// As `gzip` does.
    Gzip,
    /// As `zstd` does, at its cheapest level.
    Zstd,
}

/// What a check is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CheckTarget {
    /// A model or seed.
    Node(ModelId),
    /// A source table.
    Source(SourceId),
    /// A query of its own under `tests/`: it fails if it gives rows.
    Query {
        /// The models and seeds that it uses.
        nodes: Vec<ModelId>,
        /// The source tables that it uses.
        sources: Vec<SourceId>,
    },
}

/// What happens when a check fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// It is reported.
    Warn,
    /// Failing rows become dead letters and are not published.
    Quarantine,
    /// The result is not published.
    #[default]
    Fail,
}

/// A bound on a count such as dbt's `error_if: ">10"`.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// `>`, `>=`, `<`, `<=`, `=`, `!=`
    pub operator: String,
    /// The number.
    pub value: f64,
}

/// A declared check ("data test" in dbt's words).
#[derive(Debug, Clone)]
pub struct Check {
    /// Unique name: dbt's, e.g. `not_null_orders_id`.
    pub name: String,
    /// What it is about.
    pub target: CheckTarget,
    /// The column, for checks of one column.
    pub column: Option<String>,
    /// The rule's name, e.g. `not_null`, `accepted_values`, `freshet.range`; `sql` for a query.
    pub rule: String,
    /// The rule's arguments as written, templates rendered.
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// Only rows for which this SQL expression holds are looked at.
    pub where_sql: Option<String>,
    /// The share of rows that must pass; `None` is all.
    pub mostly: Option<Share>,
    /// When a failure counts as an error; default `!= 0`.
    pub error_if: Option<Threshold>,
    /// When a failure counts as a warning; default `!= 0`.
    pub warn_if: Option<Threshold>,
    /// What happens when it fails. dbt's `severity: warn` is `on_fail: warn`.
    pub on_fail: OnFail,
    /// Failing rows that are shown, at most.
    pub limit: usize,
    /// For `sql`: the query with Jinja.
    pub raw_sql: Option<String>,
    /// Where it is declared.
    pub location: Location,
}

/// A unit test: given rows in, rows out.
#[derive(Debug, Clone)]
pub struct UnitTest {
    /// Its name.
    pub name: String,
    /// The model under test.
    pub model: ModelId,
    /// What its references give: `(ref or source as written, rows)`.
    pub given: Vec<UnitTestInput>,
    /// The rows expected, in any order.
    pub expect: Vec<serde_json::Map<String, serde_json::Value>>,
    /// `vars` and macros overridden, e.g. `is_incremental: true`.
    pub overrides: serde_json::Map<String, serde_json::Value>,
    /// Where it is declared.
    pub location: Location,
}

/// Rows that stand for a reference in a unit test.
#[derive(Debug, Clone)]
pub struct UnitTestInput {
    /// The model, source or `this`.
    pub input: UnitTestRef,
    /// Rows by column; columns that are left out are null.
    pub rows: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// What a unit test's rows stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitTestRef {
    /// `ref('…')`
    Node(ModelId),
    /// `source('…', '…')`
    Source(SourceId),
    /// `this`
    This,
}

/// A SQL function declared once: calls are replaced by the body with arguments put in.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlMacro {
    /// Its name.
    pub name: String,
    /// Parameter names.
    pub parameters: Vec<String>,
    /// A scalar SQL expression over the parameters.
    pub body: String,
    /// Where it is declared.
    pub location: Location,
}

/// What a model is rendered for.
#[derive(Debug, Clone, Default)]
pub struct RenderContext {
    /// What `is_incremental()` says.
    pub incremental: bool,
    /// What `flags.FULL_REFRESH` says.
    pub full_refresh: bool,
    /// The span of the batch, for `microbatch`: references to nodes and sources with an
    /// `event_time` are limited to it.
    pub batch: Option<freshet_core::source::Interval>,
}

/// A rendered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledSql {
    /// SQL without templates.
    pub sql: String,
    /// For each line of `sql`, the one-based line of the file that it came from; 0 where unknown.
    pub lines: Vec<u32>,
}
