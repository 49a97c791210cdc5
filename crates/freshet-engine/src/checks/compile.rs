//! Rules to SQL: one aggregate query for all that look at rows one by one, others by key.

use arrow::datatypes::Schema;
use datafusion::common::TableReference;
use freshet_core::{Error, Result};

use super::{CheckEnv, Rule};

/// The queries that answer a table's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckPlan {
    /// The queries, each of which scans the table once.
    pub queries: Vec<String>,
}

pub(super) fn compile(
    _: &[Rule],
    _: &TableReference,
    _: &Schema,
    _: &CheckEnv,
) -> Result<CheckPlan> {
    Err(Error::internal("checks are not compiled yet"))
}
