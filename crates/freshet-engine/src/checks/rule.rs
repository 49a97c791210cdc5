//! A check whose arguments were read and found valid.

use std::time::Duration;

use freshet_project::Check;

use super::Relation;
use super::info::RuleInfo;

/// A check that can be evaluated.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) check: Check,
    pub(super) info: &'static RuleInfo,
    /// `where`, whichever way it was written.
    pub(super) where_sql: Option<String>,
    pub(super) kind: Kind,
}

impl Rule {
    /// The check as it was declared.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// What is known of its rule.
    pub fn info(&self) -> &'static RuleInfo {
        self.info
    }

    /// The column, wherever it was named.
    pub fn column(&self) -> Option<&str> {
        match &self.kind {
            Kind::Row { column, .. } => column.as_deref(),
            Kind::Relationships { column, .. } | Kind::Figure { column: Some(column), .. } => {
                Some(column)
            }
            Kind::Unique { columns, .. } => match columns.as_slice() {
                [column] => Some(column),
                _ => None,
            },
            Kind::Figure { column: None, .. } | Kind::Volume { .. } | Kind::Query { .. } => None,
        }
    }

    /// The other table that it looks at.
    pub fn relation(&self) -> Option<&Relation> {
        match &self.kind {
            Kind::Relationships { to, .. } => Some(to),
            _ => None,
        }
    }
}

/// What is evaluated.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Something about each row by itself.
    Row { column: Option<String>, test: RowTest },
    /// No two rows share a key.
    Unique { columns: Vec<String>, order_by: Option<String> },
    /// Each value is one of another table's.
    Relationships { column: String, to: Relation, field: String },
    /// A figure of the whole table, within bounds.
    Figure { figure: Figure, column: Option<String>, bounds: Bounds },
    /// The number of rows against that of earlier runs.
    Volume { min_ratio: f64, max_ratio: f64, runs: usize },
    /// A query whose rows are failures.
    Query { sql: String },
}

/// What must be true of a row.
#[derive(Debug, Clone)]
pub(super) enum RowTest {
    NotNull,
    Values { values: Vec<Literal>, negated: bool },
    Range(Bounds),
    Length { min: Option<u64>, max: Option<u64>, trim: bool },
    Regex { pattern: String, negated: bool },
    Expression(String),
}

/// A figure of the whole table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Figure {
    RowCount,
    NullRatio,
    DistinctCount,
    Mean,
    Sum,
    Min,
    Max,
    StdDev,
    Quantile(f64),
    /// The age of the latest value.
    Freshness(Duration),
}

/// A lower and an upper bound.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    pub min: Option<Literal>,
    pub max: Option<Literal>,
    /// Whether the bounds themselves are outside.
    pub strict: bool,
}

impl Bounds {
    /// The bounds for a person: `at least 1 and at most 5`.
    pub fn describe(&self) -> String {
        let (least, most) =
            if self.strict { ("more than", "less than") } else { ("at least", "at most") };
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!("{least} {min} and {most} {max}"),
            (Some(min), None) => format!("{least} {min}"),
            (None, Some(max)) => format!("{most} {max}"),
            (None, None) => "anything".to_owned(),
        }
    }
}

/// A value as it was written in YAML.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    /// A number, digits as written.
    Number(String),
    /// `true` or `false`.
    Boolean(bool),
    /// Text.
    Text(String),
    /// A SQL expression.
    Sql(String),
}

impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(text) | Self::Text(text) | Self::Sql(text) => f.write_str(text),
            Self::Boolean(value) => write!(f, "{value}"),
        }
    }
}
