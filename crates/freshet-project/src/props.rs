//! The shapes of the YAML files, as they are written. Lists and free forms are items of the
//! document, so that each entry is read on its own and one wrong entry hides no other.

#![allow(dead_code, reason = "some fields are there to be accepted and described, no more")]

use std::collections::BTreeMap;

use freshet_core::config::{ByteSize, HumanDuration, MaxBad, Share};
use freshet_core::contract::{ContractMode, ContractModes};
use freshet_core::http::HttpOptions;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{
    BatchSize, EmptyFiles, ExportConfig, LoadConfig, OnChanged, OnFail, OnMaxBad, WhenIdle,
};
use crate::model::{IncrementalStrategy, Materialized, OnSchemaChange};
use crate::yaml::{Item, Located};

type Json = serde_json::Value;
type JsonMap = serde_json::Map<String, Json>;

/// `freshet.yml`: the project and its environments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct ProjectFile {
    /// The project's name: letters, digits and `_`.
    #[schemars(with = "Option<String>")]
    pub name: Option<Located<String>>,
    /// For people; has no effect.
    #[schemars(with = "Option<Json>")]
    pub version: Option<Item>,
    /// Environments by name; without any there is one called `dev` with all defaults.
    #[schemars(with = "Option<std::collections::BTreeMap<String, EnvironmentProps>>")]
    pub environments: Option<Item>,
    /// The environment that is meant where none is named. Default: `dev`, or the only one.
    #[schemars(with = "Option<String>")]
    pub default_environment: Option<Located<String>>,
    /// Connections by name, for every environment: `connector` and its options.
    #[schemars(with = "Option<std::collections::BTreeMap<String, ConnectionProps>>")]
    pub connections: Option<Item>,
    /// Variables for `var()`.
    #[schemars(with = "Option<JsonMap>")]
    pub vars: Option<Item>,
    /// Data that the project makes for itself where there is none, so that it runs as it lies.
    #[schemars(with = "Option<DemoDataProps>")]
    pub demo_data: Option<Located<DemoDataProps>>,
    /// Settings of models by folder, as in `dbt_project.yml`: `+materialized: table`.
    #[schemars(with = "Option<JsonMap>")]
    pub models: Option<Item>,
    /// Settings of seeds by folder.
    #[schemars(with = "Option<JsonMap>")]
    pub seeds: Option<Item>,
    /// Folders of models. Default: `[models]`.
    #[serde(rename = "model-paths")]
    pub model_paths: Option<Vec<String>>,
    /// Folders of seeds. Default: `[seeds]`.
    #[serde(rename = "seed-paths")]
    pub seed_paths: Option<Vec<String>>,
    /// Folders of macros. Default: `[macros]`.
    #[serde(rename = "macro-paths")]
    pub macro_paths: Option<Vec<String>>,
    /// Folders of tests. Default: `[tests]`.
    #[serde(rename = "test-paths")]
    pub test_paths: Option<Vec<String>>,
    /// Folders of sources. Default: `[sources]`.
    #[serde(rename = "source-paths")]
    pub source_paths: Option<Vec<String>>,
}

/// Data that a project makes for itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemoDataProps {
    /// The generator: `pos` makes files, `orders` makes streams.
    pub generator: String,
    /// The folder that it fills when it is missing.
    #[schemars(with = "Option<String>")]
    pub into: Option<Located<String>>,
    /// Instead of a folder: the source that each stream is pushed to by `freshet up --demo`, as
    /// events happen.
    #[schemars(with = "Option<JsonMap>")]
    pub streams: Option<Located<BTreeMap<String, String>>>,
    /// The query whose result `freshet up --demo` shows as it changes.
    pub show: Option<String>,
    /// The generator's options, as `freshet generate` has them.
    #[schemars(with = "Option<JsonMap>")]
    pub options: Option<Item>,
}

/// `dbt_project.yml`, as far as it has an effect.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DbtProjectFile {
    /// The project's name.
    #[schemars(with = "Option<String>")]
    pub name: Option<Located<String>>,
    /// For people; has no effect.
    #[schemars(with = "Option<Json>")]
    pub version: Option<Item>,
    /// Variables for `var()`; those below the project's name count too.
    #[schemars(with = "Option<JsonMap>")]
    pub vars: Option<Item>,
    /// Settings of models by project and folder.
    #[schemars(with = "Option<JsonMap>")]
    pub models: Option<Item>,
    /// Settings of seeds by project and folder.
    #[schemars(with = "Option<JsonMap>")]
    pub seeds: Option<Item>,
    /// Settings of all checks: `+severity: warn`.
    #[serde(rename = "data-tests")]
    #[schemars(with = "Option<JsonMap>")]
    pub data_tests: Option<Item>,
    /// An older name of `data-tests`.
    #[schemars(with = "Option<JsonMap>")]
    pub tests: Option<Item>,
    /// Folders of models. Default: `[models]`.
    #[serde(rename = "model-paths")]
    pub model_paths: Option<Vec<String>>,
    /// Folders of seeds. Default: `[seeds]`.
    #[serde(rename = "seed-paths")]
    pub seed_paths: Option<Vec<String>>,
    /// Folders of macros. Default: `[macros]`.
    #[serde(rename = "macro-paths")]
    pub macro_paths: Option<Vec<String>>,
    /// Folders of tests. Default: `[tests]`.
    #[serde(rename = "test-paths")]
    pub test_paths: Option<Vec<String>>,
}

/// One environment.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentProps {
    /// Where the lake is: a folder or a URL such as `s3://bucket/prefix`. Default:
    /// `.freshet/<environment>/lake`.
    #[schemars(with = "Option<String>")]
    pub lake: Option<Located<String>>,
    /// The connection whose options the lake's URL needs.
    #[schemars(with = "Option<String>")]
    pub connection: Option<Located<String>>,
    /// The folder for local state. Default: `.freshet/<environment>`.
    #[schemars(with = "Option<String>")]
    pub state: Option<Located<String>>,
    /// Memory that queries may use before they spill to disk; streaming models share half of it for what
    /// they remember. Default: `1GiB`.
    pub memory_limit: Option<ByteSize>,
    /// How long the records of runs are kept, e.g. `90d`: the end of each run forgets older ones, as
    /// `freshet runs prune` does. Default: for ever.
    pub keep_runs: Option<HumanDuration>,
    /// Threads. Default: one a core.
    #[schemars(with = "Option<usize>")]
    pub threads: Option<Located<u32>>,
    /// The schema in which models are made where they name no other. Default: `main`.
    #[schemars(with = "Option<String>")]
    pub schema: Option<Located<String>>,
    /// The connection of the warehouse that models with `load:` are loaded into.
    #[schemars(with = "Option<String>")]
    pub warehouse: Option<Located<String>>,
    /// The listener of `freshet up`.
    #[schemars(with = "Option<HttpOptions>")]
    pub http: Option<Located<HttpOptions>>,
    /// Variables that differ from the project's.
    #[schemars(with = "Option<JsonMap>")]
    pub vars: Option<Item>,
    /// Connections that only this environment has, or that differ from the project's.
    #[schemars(with = "Option<std::collections::BTreeMap<String, ConnectionProps>>")]
    pub connections: Option<Item>,
}

/// A connection: the connector and its options. Secrets are given by reference, `${env:NAME}` or
/// `${file:/path}`.
#[derive(Debug, JsonSchema)]
pub struct ConnectionProps {
    /// The connector, as `freshet connectors` lists it.
    pub connector: String,
    /// Options of the connector.
    #[schemars(flatten)]
    pub options: JsonMap,
}

/// A YAML file beside models, sources or seeds.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PropertiesFile {
    /// dbt's `2`; has no effect.
    #[schemars(with = "Option<Json>")]
    pub version: Option<Item>,
    /// Sources.
    #[schemars(with = "Option<Vec<SourceProps>>")]
    pub sources: Option<Item>,
    /// What is known of models.
    #[schemars(with = "Option<Vec<ModelProps>>")]
    pub models: Option<Item>,
    /// What is known of seeds.
    #[schemars(with = "Option<Vec<ModelProps>>")]
    pub seeds: Option<Item>,
    /// Unit tests.
    #[schemars(with = "Option<Vec<UnitTestProps>>")]
    pub unit_tests: Option<Item>,
    /// Descriptions of macros.
    #[schemars(with = "Option<Vec<MacroProps>>")]
    pub macros: Option<Item>,
    /// SQL functions declared once and usable in every model.
    #[schemars(with = "Option<Vec<SqlMacroProps>>")]
    pub sql_macros: Option<Item>,
    /// Settings of tests that are files of their own.
    #[schemars(with = "Option<Vec<SingularTestProps>>")]
    pub data_tests: Option<Item>,
}

/// What is known of a model or seed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelProps {
    /// The model's name: its file without `.sql`.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it is, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// Settings.
    #[schemars(with = "Option<ConfigProps>")]
    pub config: Option<Item>,
    /// Columns.
    #[schemars(with = "Option<Vec<ColumnProps>>")]
    pub columns: Option<Item>,
    /// Checks of the table as a whole.
    #[schemars(with = "Option<Vec<Json>>")]
    pub data_tests: Option<Item>,
    /// An older name of `data_tests`.
    #[schemars(with = "Option<Vec<Json>>")]
    pub tests: Option<Item>,
    /// dbt's constraints: `not_null`, `unique` and `primary_key` are checks here.
    #[schemars(with = "Option<Vec<Json>>")]
    pub constraints: Option<Item>,
    /// Tags.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
}

/// A column of a model or seed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it is, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// Its type: the result is cast to it.
    #[schemars(with = "Option<freshet_core::ColumnType>")]
    pub data_type: Option<Located<String>>,
    /// Checks.
    #[schemars(with = "Option<Vec<Json>>")]
    pub data_tests: Option<Item>,
    /// An older name of `data_tests`.
    #[schemars(with = "Option<Vec<Json>>")]
    pub tests: Option<Item>,
    /// dbt's constraints: `not_null`, `unique` and `primary_key` are checks here.
    #[schemars(with = "Option<Vec<Json>>")]
    pub constraints: Option<Item>,
    /// Tags, which its checks have too.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
    /// `meta` and `tags` once more, as dbt 1.10 writes them.
    #[schemars(with = "Option<JsonMap>")]
    pub config: Option<Item>,
}

/// A source: a place with tables. What is said here holds for each table that does not say it itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it is, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// The connector that reads it. Default: `files` where `with:` has a `path`; otherwise the
    /// tables are in the lake already.
    #[schemars(with = "Option<String>")]
    pub connector: Option<Located<String>>,
    /// Options of the connector.
    #[schemars(with = "Option<JsonMap>")]
    pub with: Option<Item>,
    /// The connection that the options build on.
    #[schemars(with = "Option<String>")]
    pub connection: Option<Located<String>>,
    /// What happens when data departs from the declared columns.
    #[schemars(with = "Option<ContractModes>")]
    pub contract: Option<ContractProps>,
    /// The share of bad records from which a file is set aside, from 20 records on. Default: `5%`. Of
    /// a stream, with the span of time that is looked back at, `1%/1m` (a minute where it says
    /// none): what happens then is `on_max_bad`'s; by default a stream may have any number.
    pub max_bad: Option<MaxBad>,
    /// What happens when a stream has more bad records than `max_bad`. Default: `stop`.
    pub on_max_bad: Option<OnMaxBad>,
    /// Files younger than this are left for the next run. Default: `0s`.
    pub settle: Option<HumanDuration>,
    /// What happens when a file changed after it was consumed. Default: `ignore`.
    pub on_changed: Option<OnChanged>,
    /// What happens with files that hold nothing. Default: `report`.
    pub empty_files: Option<EmptyFiles>,
    /// How often a file is expected, so that a missing one can be named.
    pub expect_every: Option<BatchSize>,
    /// The column of event time.
    #[schemars(with = "Option<String>")]
    pub event_time: Option<Located<String>>,
    /// Tags.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// `event_time`, `tags`, `enabled` and `meta` once more, as dbt writes them.
    #[schemars(with = "Option<JsonMap>")]
    pub config: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
    /// Its tables.
    #[schemars(with = "Vec<TableProps>")]
    pub tables: Option<Item>,
}

/// A table of a source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it is, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// The connector that reads it.
    #[schemars(with = "Option<String>")]
    pub connector: Option<Located<String>>,
    /// Options of the connector, put over the source's.
    #[schemars(with = "Option<JsonMap>")]
    pub with: Option<Item>,
    /// The connection that the options build on.
    #[schemars(with = "Option<String>")]
    pub connection: Option<Located<String>>,
    /// What happens when data departs from the declared columns.
    #[schemars(with = "Option<ContractModes>")]
    pub contract: Option<ContractProps>,
    /// The share of bad records from which a file is set aside, from 20 records on. Default: `5%`. Of
    /// a stream, with the span of time that is looked back at, `1%/1m` (a minute where it says
    /// none): what happens then is `on_max_bad`'s; by default a stream may have any number.
    pub max_bad: Option<MaxBad>,
    /// What happens when a stream has more bad records than `max_bad`. Default: `stop`.
    pub on_max_bad: Option<OnMaxBad>,
    /// Files younger than this are left for the next run. Default: `0s`.
    pub settle: Option<HumanDuration>,
    /// What happens when a file changed after it was consumed. Default: `ignore`.
    pub on_changed: Option<OnChanged>,
    /// What happens with files that hold nothing. Default: `report`.
    pub empty_files: Option<EmptyFiles>,
    /// How often a file is expected, so that a missing one can be named.
    pub expect_every: Option<BatchSize>,
    /// The column of event time.
    #[schemars(with = "Option<String>")]
    pub event_time: Option<Located<String>>,
    /// How the rows of a stream say how far event time has come.
    #[schemars(with = "Option<WatermarkProps>")]
    pub watermark: Option<Item>,
    /// The columns whose values name a row: a newer row of the same values takes its place. A stream's
    /// table with a primary key and a watermark can be joined as of a time.
    pub primary_key: Option<Vec<String>>,
    /// Tags, added to the source's.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// `event_time`, `tags`, `enabled` and `meta` once more, as dbt writes them.
    #[schemars(with = "Option<JsonMap>")]
    pub config: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
    /// Declared columns: the contract.
    #[schemars(with = "Option<Vec<SourceColumnProps>>")]
    pub columns: Option<Item>,
    /// Checks of the table as a whole.
    #[schemars(with = "Option<Vec<Json>>")]
    pub data_tests: Option<Item>,
    /// An older name of `data_tests`.
    #[schemars(with = "Option<Vec<Json>>")]
    pub tests: Option<Item>,
}

/// `WATERMARK FOR column AS expression`: rows whose time lies before it may be late.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WatermarkProps {
    /// The column of the rows' time, a timestamp.
    #[serde(rename = "for")]
    #[schemars(with = "String")]
    pub column: Located<String>,
    /// The watermark, as SQL over the table's columns: `ordered_at - interval '5' second`.
    #[serde(rename = "as")]
    #[schemars(with = "Option<String>")]
    pub expr: Option<Located<String>>,
    /// How far rows may come behind later ones, instead of `as`. Default: `0s`.
    pub delay: Option<HumanDuration>,
    /// After how long without rows nobody waits for a partition any more. Default: never.
    pub idle_after: Option<HumanDuration>,
    /// What becomes of time while all partitions are idle: `wait` (the default: it stands still) or
    /// `advance` (it goes on as the time of day does, so that windows close).
    pub when_idle: Option<WhenIdle>,
}

/// What happens when data departs from the declared columns; what is left out has its default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContractProps {
    /// A column that is not declared.
    pub new_columns: Option<ContractMode>,
    /// A declared column that a file does not have.
    pub missing_columns: Option<ContractMode>,
    /// A value that is not of the declared type or breaks a constraint.
    pub bad_values: Option<ContractMode>,
}

impl ContractProps {
    /// The modes, with `self` over `base` over the defaults.
    pub fn over(self, base: Self) -> ContractModes {
        let defaults = ContractModes::default();
        ContractModes {
            new_columns: self.new_columns.or(base.new_columns).unwrap_or(defaults.new_columns),
            missing_columns: self
                .missing_columns
                .or(base.missing_columns)
                .unwrap_or(defaults.missing_columns),
            bad_values: self.bad_values.or(base.bad_values).unwrap_or(defaults.bad_values),
        }
    }
}

/// A column of a source table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceColumnProps {
    /// Its name, as models see it.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// Its name in the header or the JSON field, where it is another.
    pub source_name: Option<String>,
    /// What it is, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// Its type. Default: `text`.
    #[schemars(with = "Option<freshet_core::ColumnType>")]
    pub data_type: Option<Located<String>>,
    /// `strftime` pattern of dates and times that are not ISO 8601.
    #[schemars(with = "Option<String>")]
    pub format: Option<Located<String>>,
    /// Rules that every value keeps, checked while it is read.
    #[schemars(with = "Option<Vec<ConstraintProps>>")]
    pub constraints: Option<Item>,
    /// Checks, run on the whole table.
    #[schemars(with = "Option<Vec<Json>>")]
    pub data_tests: Option<Item>,
    /// An older name of `data_tests`.
    #[schemars(with = "Option<Vec<Json>>")]
    pub tests: Option<Item>,
    /// Tags, which its checks have too.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
    /// `meta` and `tags` once more, as dbt 1.10 writes them.
    #[schemars(with = "Option<JsonMap>")]
    pub config: Option<Item>,
}

/// A rule that every value of a column keeps. `type` alone may stand as text: `- not_null`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConstraintProps {
    /// Which rule.
    #[serde(rename = "type")]
    pub kind: ConstraintKind,
    /// The bound, the regular expression, the length.
    #[schemars(with = "Option<Json>")]
    pub value: Option<Item>,
    /// The values, for `accepted_values`.
    #[schemars(with = "Option<Vec<Json>>")]
    pub values: Option<Item>,
}

/// The rules of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintKind {
    /// The value is there.
    NotNull,
    /// At least `value`.
    Min,
    /// At most `value`.
    Max,
    /// One of `values`.
    AcceptedValues,
    /// The text matches `value` somewhere.
    Regex,
    /// At least `value` characters.
    MinLength,
    /// At most `value` characters.
    MaxLength,
}

/// A unit test: rows in, rows out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitTestProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it shows, for people.
    pub description: Option<String>,
    /// The model under test.
    #[schemars(with = "String")]
    pub model: Located<String>,
    /// What its references give; those that are left out give no rows.
    #[schemars(with = "Option<Vec<GivenProps>>")]
    pub given: Option<Item>,
    /// The rows expected.
    #[schemars(with = "RowsProps")]
    pub expect: Item,
    /// `macros`, `vars` and `env_vars` that differ in this test: `macros: {is_incremental: true}`.
    #[schemars(with = "Option<OverridesProps>")]
    pub overrides: Option<OverridesProps>,
}

/// Rows that stand for a reference.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenProps {
    /// `ref('…')`, `source('…', '…')` or `this`.
    #[schemars(with = "String")]
    pub input: Located<String>,
    /// Rows as mappings, or as CSV text.
    #[schemars(with = "Option<Json>")]
    pub rows: Option<Item>,
    /// `dict` (default) or `csv`.
    #[schemars(with = "Option<String>")]
    pub format: Option<Located<String>>,
    /// A CSV file in `tests/fixtures`, without its extension.
    #[schemars(with = "Option<String>")]
    pub fixture: Option<Located<String>>,
}

/// Expected rows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsProps {
    /// Rows as mappings, or as CSV text.
    #[schemars(with = "Option<Json>")]
    pub rows: Option<Item>,
    /// `dict` (default) or `csv`.
    #[schemars(with = "Option<String>")]
    pub format: Option<Located<String>>,
    /// A CSV file in `tests/fixtures`, without its extension.
    #[schemars(with = "Option<String>")]
    pub fixture: Option<Located<String>>,
}

/// What differs in a unit test.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OverridesProps {
    /// Macros and what they give.
    #[schemars(with = "Option<JsonMap>")]
    pub macros: Option<Item>,
    /// Variables.
    #[schemars(with = "Option<JsonMap>")]
    pub vars: Option<Item>,
    /// Environment variables.
    #[schemars(with = "Option<JsonMap>")]
    pub env_vars: Option<Item>,
}

/// What is known of a macro.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MacroProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
}

/// A SQL function declared once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlMacroProps {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it gives, for people.
    pub description: Option<String>,
    /// Names of its parameters.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub parameters: Vec<Located<String>>,
    /// A SQL expression over the parameters.
    #[schemars(with = "String")]
    pub body: Located<String>,
}

/// Settings of a test that is a file of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SingularTestProps {
    /// The file's name without `.sql`.
    #[schemars(with = "String")]
    pub name: Located<String>,
    /// What it shows, for people.
    #[schemars(with = "Option<String>")]
    pub description: Option<Located<String>>,
    /// `severity`, `error_if`, `warn_if`, `limit`, `enabled`, `tags`.
    #[schemars(with = "Option<CheckConfigProps>")]
    pub config: Option<Item>,
}

/// Settings of a check.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckConfigProps {
    /// Only rows for which this SQL expression holds are looked at.
    #[serde(rename = "where")]
    #[schemars(with = "Option<String>")]
    pub where_sql: Option<Located<String>>,
    /// The share of rows that must pass. Default: all. With `on_fail: quarantine`, the share of
    /// new rows that must be left; with fewer the check fails. Default there: none.
    pub mostly: Option<Share>,
    /// `error` (default) or `warn`.
    #[schemars(with = "Option<String>")]
    pub severity: Option<Located<String>>,
    /// When a number of failures is an error. Default: `!= 0`. With `on_fail: quarantine`, when the
    /// rows to be taken out are too many and the check fails. Default there: never.
    #[schemars(with = "Option<String>")]
    pub error_if: Option<Located<String>>,
    /// When a number of failures is a warning. Default: `!= 0`. With `on_fail: quarantine`, when the
    /// number of rows taken out is a warning. Default there: never.
    #[schemars(with = "Option<String>")]
    pub warn_if: Option<Located<String>>,
    /// What happens when it fails: `warn`, `quarantine` or `fail` (default). A quarantine takes the
    /// failing rows out of what is new, as dead letters; nothing is taken out of views and sources.
    pub on_fail: Option<OnFail>,
    /// Failing rows that are shown, at most. Default: 10.
    pub limit: Option<u32>,
    /// Whether it is run at all.
    pub enabled: Option<bool>,
    /// Tags.
    #[schemars(with = "Option<Vec<String>>")]
    pub tags: Option<Item>,
    /// Anything, for people and programs.
    #[schemars(with = "Option<JsonMap>")]
    pub meta: Option<Item>,
}

/// A sink of a streaming model. The options of the connector stand beside these.
#[derive(Debug, JsonSchema)]
pub struct SinkProps {
    /// The connector, or `table` for the model's table. Default: the connection's.
    pub connector: Option<String>,
    /// The connection in `freshet.yml` that the options build on: the place for secrets.
    pub connection: Option<String>,
    /// The time between two commits of a sink that is written exactly once. Default: `60s` for
    /// the table and for files, else each checkpoint.
    pub commit_interval: Option<freshet_core::config::HumanDuration>,
}

/// Settings of a model or seed, as they stand in `config:`, in `config()` and, with a `+`, in the
/// project file.
#[derive(Debug, JsonSchema)]
pub struct ConfigProps {
    /// How it is kept. Default: `view`.
    pub materialized: Option<Materialized>,
    /// Whether it is built at all. Default: `true`.
    pub enabled: Option<bool>,
    /// Its name in SQL. Default: the file's.
    pub alias: Option<String>,
    /// Its schema. Default: the environment's.
    pub schema: Option<String>,
    /// Tags; those of several places add up.
    pub tags: Option<Vec<String>>,
    /// The column or columns that identify a row.
    pub unique_key: Option<Vec<String>>,
    /// How an incremental model's rows enter its table. Default: `merge` with a `unique_key`,
    /// `append` without.
    pub incremental_strategy: Option<IncrementalStrategy>,
    /// What happens when the result's columns differ from the table's. Default: `ignore`.
    pub on_schema_change: Option<OnSchemaChange>,
    /// Columns by which the table's files are divided.
    pub partition_by: Option<Vec<String>>,
    /// The column of event time.
    pub event_time: Option<String>,
    /// The span of one batch, for `microbatch`.
    pub batch_size: Option<BatchSize>,
    /// The first batch, for `microbatch`: a date or a timestamp.
    pub begin: Option<String>,
    /// Batches before the first touched one that are computed again. Default: 1.
    pub lookback: Option<u32>,
    /// Whether `--full-refresh` may rebuild it. Default: it may.
    pub full_refresh: Option<bool>,
    /// Where its rows are loaded to, once published.
    pub load: Option<LoadConfig>,
    /// Files that its rows are written to, once published.
    pub export: Option<ExportConfig>,
    /// Streams: where the rows go. Default: the model's table. Each entry is `table`, the name of a
    /// connector, or a mapping with a connector and its options; the table gets rows only where the
    /// list names it.
    pub sinks: Option<Vec<SinkProps>>,
    /// Streams: how long groups, rows of joins and keys of deduplications are kept where no row comes to
    /// them, by the time of day. Default: for ever.
    pub state_ttl: Option<HumanDuration>,
    /// Anything, for people and programs; keys of several places add up.
    pub meta: Option<JsonMap>,
    /// Seeds: types of columns, by name.
    pub column_types: Option<std::collections::BTreeMap<String, freshet_core::ColumnType>>,
    /// Seeds: the character between fields. Default: `,`.
    pub delimiter: Option<String>,
}
