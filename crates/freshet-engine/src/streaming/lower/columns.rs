//! Columns of a batch as expressions.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::TimestampMicrosecondType;
use freshet_core::Result;
use freshet_core::scalar::ScalarExpr;

/// A column as it is.
#[derive(Debug)]
pub(super) struct Place(pub(super) usize);

impl ScalarExpr for Place {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        Ok(Arc::clone(batch.column(self.0)))
    }
}

/// A column of times, moved by so many microseconds.
#[derive(Debug)]
pub(super) struct Shifted(pub(super) usize, pub(super) i64);

impl ScalarExpr for Shifted {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let Self(column, shift) = *self;
        if shift == 0 {
            return Ok(Arc::clone(batch.column(column)));
        }
        let times = batch.column(column).as_primitive::<TimestampMicrosecondType>();
        let moved: TimestampMicrosecondArray = times.unary(|time| time.saturating_add(shift));
        Ok(Arc::new(moved))
    }
}

/// The number 1.
#[derive(Debug)]
pub(super) struct One;

impl ScalarExpr for One {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        Ok(Arc::new(UInt64Array::from_value(1, batch.num_rows())))
    }
}
