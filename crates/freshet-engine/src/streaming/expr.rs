//! Expressions of DataFusion as the runtime evaluates them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};

use crate::session::query_error;

#[derive(Debug)]
struct Compiled(Arc<dyn PhysicalExpr>);

impl ScalarExpr for Compiled {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        self.0
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|error| query_error(error, || format!("could not compute {}", self.0)))
    }
}

/// Compiles an expression that was not part of a plan: its types are made to fit first.
pub fn compile_coerced(
    context: &datafusion::prelude::SessionContext,
    expr: Expr,
    schema: &DFSchema,
) -> Result<Arc<dyn ScalarExpr>> {
    let compiled = context
        .create_physical_expr(expr.clone(), schema)
        .map_err(|error| query_error(error, || format!("could not compile {expr}")))?;
    Ok(Arc::new(Compiled(compiled)))
}

/// Compiles an expression over batches of `schema`.
pub fn compile(expr: &Expr, schema: &DFSchema) -> Result<Arc<dyn ScalarExpr>> {
    if expr.is_volatile() {
        return Err(Error::new(
            code::SQL,
            format!("{expr} has another value each time, so that a stream and its restart differ"),
        )
        .hint("compute it where the data is made, or take a column of the source instead"));
    }
    let compiled = create_physical_expr(
        expr,
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
    .map_err(|error| query_error(error, || format!("could not compile {expr}")))?;
    Ok(Arc::new(Compiled(compiled)))
}
