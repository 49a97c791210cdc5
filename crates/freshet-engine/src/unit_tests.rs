//! Unit tests of models: given rows in, expected rows out.

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::{Error, Result};
use freshet_project::{UnitTest, UnitTestRef};
use serde::{Deserialize, Serialize};

/// Where a given input stands in the compiled SQL, and its types where they are known.
#[derive(Debug, Clone)]
pub struct UnitTestTable {
    /// The name that the compiled SQL has for it.
    pub name: TableReference,
    /// Its columns, where they are known; columns of the rows that are missing here are inferred.
    pub schema: Option<SchemaRef>,
}

/// What a unit test came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitTestReport {
    /// The test's name.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// Whether the rows are those expected.
    pub passed: bool,
    /// Rows that the model gave.
    pub rows: u64,
    /// Lines of a difference: `- expected`, `+ actual`, with column names above; empty where it passed.
    pub diff: Vec<String>,
}

/// Runs a unit test: `ctx` is a fresh session (functions registered, no tables), `sql` the model
/// compiled for the test's overrides, `tables` where each of its inputs stands.
///
/// A result that differs is a report, not an error; SQL that cannot be planned or run is an error.
pub async fn run_unit_test(
    _ctx: &SessionContext,
    _test: &UnitTest,
    _sql: &str,
    _tables: &[(UnitTestRef, UnitTestTable)],
) -> Result<UnitTestReport> {
    Err(Error::internal("unit tests are not run yet"))
}
