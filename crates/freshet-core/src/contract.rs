//! The contract of a source: its columns, their types and constraints, and what happens when data
//! does not keep to it.

use std::collections::{BTreeMap, BTreeSet};
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
    /// the record becomes a dead letter. With `evolve` the column's type is widened, in the end to
    /// text, and stays so until the declaration changes; a record that no type would mend (a broken
    /// constraint, a missing value) is a dead letter still.
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

    /// The column with another type, and those of its constraints that the type can have.
    #[must_use]
    pub fn retyped(&self, data_type: ColumnType) -> Self {
        let mut column = Self { data_type, ..self.clone() };
        if column.data_type == ColumnType::Text {
            column.constraints.retain(|c| !matches!(c, Constraint::Min(_) | Constraint::Max(_)));
            column.format = None;
        }
        column
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
    /// Fields that data was found to have beyond the declared ones, as the data calls them, for
    /// formats whose files do not say in front what they hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
}

impl Contract {
    /// The Arrow schema of the declared columns, in their order.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(ContractColumn::field).collect::<Vec<_>>()))
    }

    /// The contract after `evolution`.
    #[must_use]
    pub fn evolved(&self, evolution: &Evolution) -> Self {
        let mut evolved = self.clone();
        for column in &mut evolved.columns {
            if let Some(data_type) = evolution.widened.get(&column.name) {
                *column = column.retyped(data_type.clone());
            }
        }
        let more = evolution.added.iter().filter(|name| !self.found.contains(name));
        evolved.found.extend(more.cloned());
        evolved
    }

    /// The position of the column called `name` by models.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// What data needs that its contract does not have yet, found while it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evolution {
    /// Wider types of declared columns, by their names in models.
    pub widened: BTreeMap<String, ColumnType>,
    /// Fields that are not declared, as the data calls them.
    pub added: BTreeSet<String>,
}

impl Evolution {
    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.widened.is_empty() && self.added.is_empty()
    }

    /// Demands a type for a column, beside what was demanded of it before.
    pub fn widen(&mut self, column: &str, data_type: ColumnType) {
        match self.widened.get_mut(column) {
            Some(known) if known.reach() >= data_type.reach() => {}
            Some(known) => *known = data_type,
            None => {
                self.widened.insert(column.to_owned(), data_type);
            }
        }
    }

    /// Takes in what another reading found.
    pub fn merge(&mut self, other: Self) {
        for (column, data_type) in other.widened {
            self.widen(&column, data_type);
        }
        self.added.extend(other.added);
    }

    /// What it changes in `contract`.
    pub fn changes(&self, contract: &Contract) -> Vec<SchemaChange> {
        let widened = self.widened.iter().filter_map(|(name, to)| {
            let column = &contract.columns[contract.index_of(name)?];
            Some(SchemaChange::Retyped {
                column: name.clone(),
                from: column.data_type.to_string(),
                to: to.to_string(),
            })
        });
        let added = self.added.iter().map(|name| SchemaChange::Added {
            column: name.clone(),
            data_type: ColumnType::Text.to_string(),
        });
        widened.chain(added).collect()
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
