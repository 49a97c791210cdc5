//! Scalar expressions: one value for each row of a batch.

use std::fmt::Debug;

use arrow::array::{ArrayRef, RecordBatch};

use crate::error::Result;

/// A compiled expression over the columns of a batch.
///
/// Whoever plans a job compiles SQL to these; whoever runs it knows nothing of SQL. It was checked
/// against the schema of the batches that it will get.
pub trait ScalarExpr: Debug + Send + Sync {
    /// The values, one for each row of `batch`, of the type that was planned.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef>;
}
