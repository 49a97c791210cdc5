//! Streaming models: SQL lowered onto the runtime's operators.
//!
//! A statement is read with Flink's table functions (`sql`), planned by DataFusion as any other, and
//! its logical plan is lowered (`lower`) to stages of [`freshet_runtime::plan`], each expression
//! compiled once (`expr`). No plan of DataFusion runs while a job does. What is not known to be
//! right is an error here, never a wrong result.

mod aggregate;
mod as_of;
mod bounded;
mod expr;
mod fuse;
mod io;
mod job;
mod lake_sink;
mod late;
mod lower;
mod refused;
mod sinks;
mod sql;
mod table;
mod windows;

pub use bounded::bounded;
pub use expr::compile;
pub use io::TokioIo;
pub use job::{StreamJob, StreamOptions};
pub use lake_sink::{LakeFigures, LakeSink};
pub use late::LateRows;
pub use lower::{LowerOptions, Lowered, Side, StreamCatalog, TimeColumn, Unbounded, lower};
pub use sinks::JobSink;
pub use table::StreamTable;

use std::sync::Arc;

use datafusion::common::{DataFusionError, plan_err};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser;
use freshet_core::{Location, Result};

use crate::relations::{place_in_message, place_of};
use crate::session::query_error;

/// Plans a streaming statement over the tables of `context`. `locate` tells where a line and column
/// of the text stand in a file.
pub async fn plan(
    context: &SessionContext,
    text: &str,
    locate: &(dyn Fn(Option<(u64, u64)>) -> Location + Sync),
) -> Result<LogicalPlan> {
    windows::register(context);
    as_of::register(context);
    let statement = sql::parse(text).map_err(|error| {
        let place = place_in_message(&error.chain());
        error.at(locate(place))
    })?;
    planned(context, statement).await.map_err(|error| {
        let place = place_of(&error);
        query_error(error, || "could not plan the query".to_owned()).at(locate(place))
    })
}

async fn planned(
    context: &SessionContext,
    statement: sqlparser::ast::Statement,
) -> Result<LogicalPlan, DataFusionError> {
    let mut state = context.state();
    // So that errors know their line.
    state.config_mut().options_mut().sql_parser.collect_spans = true;
    let plan = state.statement_to_plan(Statement::Statement(Box::new(statement))).await?;
    if matches!(
        plan,
        LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
    ) {
        return plan_err!("a streaming model is one SELECT");
    }
    let config = state.config_options();
    let analysed = state.analyzer().execute_and_check(plan, config, |_, _| {})?;
    // Rules that keep the shape of a statement: those that rewrite aggregates or joins for a batch
    // engine would hide what it says.
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    Optimizer::with_rules(rules).optimize(analysed, &state, |_, _| {})
}
