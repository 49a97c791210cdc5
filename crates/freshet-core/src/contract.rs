//! The contract of a source: its columns, their types and constraints, and what happens when data
//! does not keep to it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::ColumnType;

/// What happens when data departs from the contract in one respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContractMode {
    /// The contract follows the data: a new column is added, a missing one is null.
    Evolve,
    /// The file is set aside and the run is partial.
    Freeze,
    /// The value is left out (a new column is ignored, a bad value becomes null) and counted.
    DiscardValue,
    /// The record becomes a dead letter.
    DiscardRow,
}

/// How the contract answers each kind of departure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct ContractModes {
    /// A column that the contract does not declare. Default: `evolve`, it is added as text.
    pub new_columns: ContractMode,
    /// A declared column that a file does not have. Default: `evolve`, it is null where it is
    /// nullable; where it is not, every record of the file is a dead letter.
    pub missing_columns: ContractMode,
    /// A value that is not of the declared type or breaks a constraint. Default: `discard_row`,
    /// the record becomes a dead letter.
    pub bad_values: ContractMode,
}

impl Default for ContractModes {
    fn default() -> Self {
        Self {
            new_columns: ContractMode::Evolve,
            missing_columns: ContractMode::Evolve,
            bad_values: ContractMode::DiscardRow,
        }
    }
}

/// A rule that each value of a column keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// At least this, inclusive; numbers, dates and timestamps, written as in the data.
    Min(String),
    /// At most this, inclusive.
    Max(String),
    /// One of these, as text.
    AcceptedValues(Vec<String>),
    /// The text matches this regular expression somewhere.
    Regex(String),
    /// The text has at least so many characters.
    MinLength(u32),
    /// The text has at most so many characters.
    MaxLength(u32),
}

/// One column of a contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContractColumn {
    /// The column's name, as models see it.
    pub name: String,
    /// Its type.
    pub data_type: ColumnType,
    /// Whether it may be missing or null.
    pub nullable: bool,
    /// The rules that its values keep, beside the type.
    pub constraints: Vec<Constraint>,
    /// The name in the file's header or the JSON field, where it differs from `name`.
    pub source_name: Option<String>,
    /// `strftime` pattern for dates and times that are not ISO 8601.
    pub format: Option<String>,
}

impl ContractColumn {
    /// A nullable column without further rules.
    pub fn new(name: impl Into<String>, data_type: ColumnType) -> Self {
        Self {
            name: name.into(),
            data_type,
            nullable: true,
            constraints: Vec::new(),
            source_name: None,
            format: None,
        }
    }

    /// Forbids nulls.
    #[must_use]
    pub fn not_null(mut self) -> Self {
        self.nullable = false;
        self
    }

    /// The name that the data has for this column.
    pub fn name_in_data(&self) -> &str {
        self.source_name.as_deref().unwrap_or(&self.name)
    }

    /// The Arrow field.
    pub fn field(&self) -> Field {
        // Nullable in Arrow even where the contract forbids nulls: plans stay valid when the
        // contract is loosened.
        Field::new(&self.name, self.data_type.arrow(), true)
    }
}

/// The declared shape of a source's records.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Contract {
    /// The declared columns, in the order in which models see them. Empty: all columns are
    /// inferred from the files' headers and are text (or the file's own types).
    pub columns: Vec<ContractColumn>,
    /// What happens when data departs from it.
    #[serde(default)]
    pub modes: ContractModes,
}

impl Contract {
    /// The Arrow schema of the declared columns, in their order.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(ContractColumn::field).collect::<Vec<_>>()))
    }

    /// The position of the column called `name` by models.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// One difference between a contract and a file, or between two versions of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum SchemaChange {
    /// A column that was not declared.
    Added {
        /// Its name.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// A declared column that is not there.
    Missing {
        /// Its name.
        column: String,
    },
    /// The columns stand in another order.
    Reordered,
    /// A type changed between two versions of the contract.
    Retyped {
        /// Its name.
        column: String,
        /// The type before.
        from: String,
        /// The type now.
        to: String,
    },
}

/// The changes seen in one file, or in the contract itself where `file` is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SchemaDiff {
    /// The file whose header differs.
    pub file: Option<String>,
    /// What differs.
    pub changes: Vec<SchemaChange>,
}

/// The name in SQL of an Arrow type, for schema diffs and messages.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Date32 => "date".into(),
        DataType::Time64(_) => "time".into(),
        DataType::Timestamp(_, None) => "timestamp".into(),
        DataType::Timestamp(_, Some(_)) => "timestamptz".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".into(),
        DataType::Dictionary(_, value) => type_name(value),
        other => other.to_string(),
    }
}
