//! What each SQL operator did to its rows, from the metrics of a plan that has run.

use std::sync::Arc;

use datafusion::common::{JoinType, ScalarValue};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec,
    SymmetricHashJoinExec,
};
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, WindowExpr};
use freshet_core::OperatorCounts;

use crate::deduplicate::DeduplicateExec;

/// Operators that only move rows between tasks or in batches.
const PLUMBING: [&str; 6] = [
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "RepartitionExec",
    "BufferExec",
    "OutputRequirementExec",
];

/// The counts of a plan's operators, inputs before what reads them. Meaningful once the plan's
/// streams have ended; operators that only move rows are left out.
///
/// - `filtered`: rows that a filter's predicate removed, and those that a Parquet scan dropped by a
///   predicate it was given. A scan that skips whole files or row groups by their statistics does
///   not know their rows. What a limit cuts off is not filtered.
/// - `unmatched`: rows of a join's preserved sides without a partner, and of the side that a semi
///   join asks about; an inner join preserves none. Known of outer hash joins on keys alone, and of
///   semi and anti joins, if they ran to their end. Of other joins DataFusion does not count them:
///   `None`.
/// - `deduplicated`: rows that `distinct`, or a `group by` without aggregates, folded into others,
///   and those that a filter on `row_number() = 1` removed.
pub fn operator_counts(plan: &Arc<dyn ExecutionPlan>) -> Vec<OperatorCounts> {
    let mut counts = Vec::new();
    visit(plan, &mut counts, &mut 0, false);
    counts
}

/// Adds the counts of a plan and gives the rows that it put out. `cut` says whether a limit above
/// may have stopped it before its end.
fn visit(
    plan: &Arc<dyn ExecutionPlan>,
    counts: &mut Vec<OperatorCounts>,
    next: &mut usize,
    cut: bool,
) -> u64 {
    let cut = cut || plan.fetch().is_some();
    // These read all of their input before they give a row.
    let reads_all = plan.is::<SortExec>() || plan.is::<AggregateExec>();
    let inputs: Vec<u64> = plan
        .children()
        .into_iter()
        .map(|child| visit(child, counts, next, cut && !reads_all))
        .collect();
    let metrics = plan.metrics();
    let rows_in: u64 = inputs.iter().sum();
    let rows_out =
        metrics.as_ref().and_then(MetricsSet::output_rows).map_or(rows_in, |rows| rows as u64);
    if PLUMBING.contains(&plan.name()) {
        return rows_out;
    }
    let mut count = OperatorCounts {
        operator: format!("{}#{}", plan.name(), *next),
        rows_in,
        rows_out,
        unmatched: Some(0),
        ..OperatorCounts::default()
    };
    *next += 1;
    if inputs.is_empty() {
        count.filtered = metrics.as_ref().map_or(0, |metrics| sum(metrics, "pushdown_rows_pruned"));
        count.rows_in = rows_out + count.filtered;
    } else if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        // It counts its input itself, which a table in memory below it does not.
        count.rows_in =
            count.rows_in.max(metrics.as_ref().map_or(0, |set| ratio(set, "selectivity").1));
        let rows_in = count.rows_in;
        // A filter with a limit stops before its input ends; what it leaves is not filtered.
        if filter.fetch().is_none() {
            let removed = rows_in.saturating_sub(rows_out);
            if keeps_first_of_key(filter) {
                count.deduplicated = removed;
            } else {
                count.filtered = removed;
            }
        }
    } else if plan.downcast_ref::<DeduplicateExec>().is_some() {
        count.deduplicated = rows_in.saturating_sub(rows_out);
    } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let distinct = aggregate.aggr_expr().is_empty() && !aggregate.group_expr().is_empty();
        if distinct && aggregate.limit_options().is_none() {
            count.deduplicated = rows_in.saturating_sub(rows_out);
        }
    } else {
        count.unmatched = unmatched(plan, metrics.as_ref(), &inputs, rows_out, cut);
    }
    counts.push(count);
    rows_out
}

/// The sum of a counter over all partitions.
fn sum(metrics: &MetricsSet, name: &str) -> u64 {
    metrics.sum_by_name(name).map_or(0, |value| value.as_usize() as u64)
}

/// Rows of a join's preserved sides that found no partner, where that is known.
fn unmatched(
    plan: &Arc<dyn ExecutionPlan>,
    metrics: Option<&MetricsSet>,
    inputs: &[u64],
    rows_out: u64,
    cut: bool,
) -> Option<u64> {
    let (join_type, hash_on_keys) = if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        (*join.join_type(), join.filter().is_none())
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        (join.join_type(), false)
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        (*join.join_type(), false)
    } else if plan.is::<PiecewiseMergeJoinExec>() || plan.is::<SymmetricHashJoinExec>() {
        return None;
    } else {
        return Some(0);
    };
    // A join's own count of its input is exact where its children keep none.
    let counted = |name| metrics.and_then(|set| set.sum_by_name(name)).map(|v| v.as_usize() as u64);
    let left = counted("build_input_rows").or(inputs.first().copied());
    let right = counted("input_rows").or(inputs.get(1).copied());
    match join_type {
        JoinType::Inner => Some(0),
        _ if cut => None,
        JoinType::LeftAnti | JoinType::RightAnti => Some(rows_out),
        JoinType::LeftSemi => left.and_then(|rows| rows.checked_sub(rows_out)),
        JoinType::RightSemi => right.and_then(|rows| rows.checked_sub(rows_out)),
        JoinType::Left | JoinType::Right | JoinType::Full if hash_on_keys => {
            rows_out.checked_sub(metrics.map_or(0, pairs))
        }
        JoinType::Left
        | JoinType::Right
        | JoinType::Full
        | JoinType::LeftMark
        | JoinType::RightMark => None,
    }
}

/// Pairs of rows that a hash join found.
fn pairs(metrics: &MetricsSet) -> u64 {
    ratio(metrics, "avg_fanout").0
}

/// Both parts of a ratio, over all partitions.
fn ratio(metrics: &MetricsSet, wanted: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for metric in metrics.iter() {
        if let MetricValue::Ratio { name, ratio_metrics } = metric.value()
            && name == wanted
        {
            sums.0 += ratio_metrics.part() as u64;
            sums.1 += ratio_metrics.total() as u64;
        }
    }
    sums
}

/// Whether a filter is `row_number() over (partition by …) = 1`.
fn keeps_first_of_key(filter: &FilterExec) -> bool {
    let Some(mut column) = column_that_is_first(filter.predicate()) else { return false };
    let mut input = filter.input();
    loop {
        if let Some(projection) = input.downcast_ref::<ProjectionExec>() {
            let Some(expr) = projection.expr().get(column) else { return false };
            let Some(below) = expr.expr.downcast_ref::<Column>() else { return false };
            column = below.index();
            input = projection.input();
        } else if let Some(repartition) = input.downcast_ref::<RepartitionExec>() {
            input = repartition.input();
        } else if let Some(coalesce) = input.downcast_ref::<CoalescePartitionsExec>() {
            input = coalesce.input();
        } else {
            break;
        }
    }
    let (windows, below) = if let Some(window) = input.downcast_ref::<BoundedWindowAggExec>() {
        (window.window_expr(), window.input())
    } else if let Some(window) = input.downcast_ref::<WindowAggExec>() {
        (window.window_expr(), window.input())
    } else {
        return false;
    };
    column
        .checked_sub(below.schema().fields().len())
        .and_then(|index| windows.get(index))
        .is_some_and(|window| is_row_number(window) && !window.partition_by().is_empty())
}

fn is_row_number(window: &Arc<dyn WindowExpr>) -> bool {
    use datafusion::physical_expr::window::StandardWindowExpr;
    use datafusion::physical_plan::windows::WindowUDFExpr;
    window
        .as_any()
        .downcast_ref::<StandardWindowExpr>()
        .and_then(|standard| {
            standard.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>()
        })
        .is_some_and(|function| function.fun().name() == "row_number")
}

/// The column of a predicate `column = 1`, `column <= 1` or `column < 2`, either way round.
fn column_that_is_first(predicate: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let binary = predicate.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (binary.left(), binary.right());
    let (column, operator, literal) =
        match (left.downcast_ref::<Column>(), right.downcast_ref::<Literal>()) {
            (Some(column), Some(literal)) => (column, *binary.op(), literal),
            _ => {
                let column = right.downcast_ref::<Column>()?;
                (column, binary.op().swap()?, left.downcast_ref::<Literal>()?)
            }
        };
    let value = match literal.value().cast_to(&arrow::datatypes::DataType::Int64) {
        Ok(ScalarValue::Int64(Some(value))) => value,
        _ => return None,
    };
    let first = matches!((operator, value), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2));
    first.then(|| column.index())
}
