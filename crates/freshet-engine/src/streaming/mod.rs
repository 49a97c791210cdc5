//! Streaming models: SQL lowered onto the runtime's operators.
//!
//! A statement is read with Flink's table functions ([`sql`]), planned by DataFusion as any other, and
//! its logical plan is lowered ([`lower`]) to stages of [`freshet_runtime::plan`], each expression
//! compiled once ([`expr`]). No plan of DataFusion runs while a job does. What is not known to be
//! right is an error here, never a wrong result.

mod aggregate;
mod expr;
mod fuse;
mod io;
mod job;
mod lake_sink;
mod lower;
mod sql;
mod table;
mod windows;

pub use expr::compile;
pub use io::TokioIo;
pub use job::{StreamJob, StreamOptions};
pub use lake_sink::{LakeFigures, LakeSink};
pub use lower::{Lowered, Side, StreamCatalog, TimeColumn, lower};
pub use table::StreamTable;

use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use freshet_core::error::code;
use freshet_core::{Error, Result};
use std::sync::Arc;

use crate::session::query_error;

/// Plans a streaming statement over the tables of `context`.
pub async fn plan(context: &SessionContext, text: &str) -> Result<LogicalPlan> {
    let what = || "could not plan the query".to_owned();
    windows::register(context);
    let statement = sql::parse(text)?;
    let state = context.state();
    let plan = state
        .statement_to_plan(Statement::Statement(Box::new(statement)))
        .await
        .map_err(|error| query_error(error, what))?;
    if matches!(
        plan,
        LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
    ) {
        return Err(Error::new(code::SQL, "a streaming model is one SELECT"));
    }
    let config = state.config_options();
    let analysed = state
        .analyzer()
        .execute_and_check(plan, config, |_, _| {})
        .map_err(|error| query_error(error, what))?;
    // Rules that keep the shape of a statement: those that rewrite aggregates or joins for a batch
    // engine would hide what it says.
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    Optimizer::with_rules(rules)
        .optimize(analysed, &state, |_, _| {})
        .map_err(|error| query_error(error, what))
}
