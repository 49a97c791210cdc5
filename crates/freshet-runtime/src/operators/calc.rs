//! Conditions and columns computed from each row alone.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};

use crate::operator::{Counts, Flow, Operator, OperatorContext, OperatorSpec, Out};
use freshet_core::rows::{Rows, arrow_error};

/// `SELECT columns … WHERE condition`.
#[derive(Debug, Clone)]
pub struct Calc {
    /// The rows that are kept: those for which it is true.
    pub condition: Option<Arc<dyn ScalarExpr>>,
    /// What is made of them; `None` leaves the columns as they are.
    pub columns: Option<Columns>,
}

/// Computed columns.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Their names and types.
    pub schema: SchemaRef,
    /// One for each field.
    pub exprs: Vec<Arc<dyn ScalarExpr>>,
}

impl OperatorSpec for Calc {
    fn name(&self) -> String {
        match (&self.condition, &self.columns) {
            (Some(_), Some(_)) => "filter and project".into(),
            (Some(_), None) => "filter".into(),
            _ => "project".into(),
        }
    }

    fn has_state(&self) -> bool {
        false
    }

    fn create(&self, _context: &OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Running { spec: self.clone(), filtered: 0 }))
    }
}

#[derive(Debug)]
struct Running {
    spec: Calc,
    filtered: u64,
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        let mut rows = rows;
        if let Some(condition) = &self.spec.condition {
            let keep = condition.evaluate(rows.batch())?;
            let DataType::Boolean = keep.data_type() else {
                return Err(Error::internal(format!(
                    "a condition is of type {}",
                    keep.data_type()
                )));
            };
            let before = rows.len();
            rows = rows.filter(keep.as_boolean())?;
            self.filtered += (before - rows.len()) as u64;
            if rows.is_empty() {
                return Ok(Flow::Done);
            }
        }
        if let Some(Columns { schema, exprs }) = &self.spec.columns {
            let columns =
                exprs.iter().map(|expr| expr.evaluate(rows.batch())).collect::<Result<Vec<_>>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
                .map_err(arrow_error)?;
            rows = rows.with_batch(batch);
        }
        out.rows(rows)?;
        Ok(Flow::Done)
    }

    fn counts(&self) -> Counts {
        Counts { filtered: self.filtered, ..Counts::default() }
    }
}
