//! Rows that are taken out of a result instead of stopping it.

use arrow::datatypes::Schema;
use datafusion::common::TableReference;
use freshet_core::{Error, Result};

use super::{CheckEnv, Rule};

/// The last column of a [`Quarantine`]'s query: an `int`, null where the row is kept, else the
/// index into [`Quarantine::rules`] of the first rule that it breaks.
pub const CHECK_COLUMN: &str = "__freshet_check";

/// How the rows of a table are told apart that are kept from those that are taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// Gives all rows of the table: its columns in their order, then [`CHECK_COLUMN`].
    ///
    /// Of rows that share the key of a `unique`, one is kept: the first by the rule's `order_by`,
    /// then by all columns from left to right, so that the same rows give the same result.
    pub sql: String,
    /// The rules that rows are marked with.
    pub rules: Vec<QuarantineRule>,
}

/// A rule that takes rows out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineRule {
    /// The check's name.
    pub check: String,
    /// The rule's name.
    pub rule: String,
    /// The column, where the rule has one.
    pub column: Option<String>,
    /// What is wrong with the row, for a person.
    pub message: String,
}

pub(super) fn quarantine(
    _: &[Rule],
    _: &TableReference,
    _: &Schema,
    _: &CheckEnv,
) -> Result<Option<Quarantine>> {
    Err(Error::internal("quarantine is not there yet"))
}
