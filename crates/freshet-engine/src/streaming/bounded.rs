//! A streaming statement over tables that end: what stands for windows and versions in its plan is
//! rewritten to what any plan has, and DataFusion runs it as a batch.
//!
//! - Hopping and cumulating windows: each row once for each of its windows, by `UNNEST` of their ends.
//! - Sessions: gaps and islands. A row more than the gap behind the one before begins a session, the
//!   running count of such rows numbers it.
//! - `FOR SYSTEM_TIME AS OF`: a version is valid until the next of its key, and is joined by range.
//!
//! Tumbling windows, joins, groups and deduplications are those of a batch as they stand. Where a
//! stream leaves late rows out, a batch has them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, ListBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, JoinType, ScalarValue, UnnestOptions};
use datafusion::functions_aggregate::expr_fn::{max, min, sum};
use datafusion::functions_window::expr_fn::{lag, lead};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, Projection,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, SubqueryAlias, TableScan, Volatility,
    WindowFrame, WindowFrameBound, WindowFrameUnits, lit, when,
};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_runtime::operators::Windows;

use super::as_of;
use super::lower::{StreamCatalog, no_versions, version_time};
use super::windows::{BEFORE_END, Bound, Kind, Mention, TIME, mention};

/// Columns that stand in a plan for a while.
const ENDS: &str = "freshet_window_ends";
const AT: &str = "freshet_at";
const BEFORE: &str = "freshet_before";
const BREAKS: &str = "freshet_breaks";
const SESSION: &str = "freshet_session";
const FIRST: &str = "freshet_first";
const LAST: &str = "freshet_last";
const NEXT: &str = "freshet_next_version";

/// A plan of [`super::plan`] as one that DataFusion runs. `catalog` says what the time of tables is.
pub fn bounded(plan: LogicalPlan, catalog: &dyn StreamCatalog) -> Result<LogicalPlan> {
    // Errors of ours go through DataFusion's rewriting.
    let mut failed = None;
    let rewritten = plan.transform_up(|node| {
        let result = match node {
            LogicalPlan::Projection(projection) => windows(projection),
            LogicalPlan::Join(join) => versions(join, catalog),
            other => Ok(Transformed::no(other)),
        };
        result.map_err(|error| {
            let message = error.message().to_owned();
            failed = Some(error);
            DataFusionError::Plan(message)
        })
    });
    match (rewritten, failed) {
        (Ok(plan), _) => Ok(plan.data),
        (Err(_), Some(error)) => Err(error),
        (Err(error), None) => Err(unplanned(error)),
    }
}

fn unplanned(error: DataFusionError) -> Error {
    Error::internal("a streaming statement has no bounded plan").caused_by(error)
}

/// A projection that gives the bounds of windows, over rows that have one window each.
fn windows(projection: Projection) -> Result<Transformed<LogicalPlan>> {
    let mut found: Option<Mention> = None;
    for expr in &projection.expr {
        let mut failed = None;
        let looked = expr.apply(|part| {
            match mention(part) {
                Ok(Some(mention)) if mention.kind != Kind::Tumble => match &found {
                    Some(known) if !is_same(known, &mention) => {
                        failed = Some(Error::new(code::SQL, "a SELECT has windows of two kinds"));
                    }
                    _ => found = Some(mention),
                },
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        });
        looked.map_err(unplanned)?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    let Some(of) = found else { return Ok(Transformed::no(LogicalPlan::Projection(projection))) };
    let input = Arc::unwrap_or_clone(projection.input);
    let (input, start, end) = match of.kind {
        Kind::Session => sessions(input, &of)?,
        _ => overlapping(input, &of)?,
    };
    let names = NamePreserver::new_for_projection();
    let exprs = projection.expr.into_iter().map(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform(|part| {
            Ok(match mention(&part) {
                Ok(Some(Mention { bound, kind, .. })) if kind != Kind::Tumble => {
                    Transformed::yes(match bound {
                        Bound::Start => start.clone(),
                        Bound::End => end.clone(),
                        Bound::Time => end.clone() - span(BEFORE_END),
                    })
                }
                _ => Transformed::no(part),
            })
        })?;
        Ok(name.restore(rewritten.data))
    });
    let exprs = exprs.collect::<Result<Vec<_>, DataFusionError>>().map_err(unplanned)?;
    let plan = LogicalPlanBuilder::from(input).project(exprs).and_then(LogicalPlanBuilder::build);
    Ok(Transformed::yes(plan.map_err(unplanned)?))
}

fn is_same(one: &Mention, other: &Mention) -> bool {
    let of = |mention: &Mention| (mention.kind, mention.windows, mention.time.clone());
    of(one) == of(other) && one.partition == other.partition
}

/// A span of microseconds in an expression.
fn span(micros: i64) -> Expr {
    lit(ScalarValue::new_interval_mdn(0, 0, micros.saturating_mul(1_000)))
}

fn named(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

/// The columns of a plan and one more.
fn with(plan: LogicalPlan, expr: Expr, name: &str) -> Result<LogicalPlan, DataFusionError> {
    let mut exprs = columns(&plan);
    exprs.push(expr.alias(name));
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// As [`with`], of a window function.
fn with_window(plan: LogicalPlan, expr: Expr, name: &str) -> Result<LogicalPlan, DataFusionError> {
    let mut exprs = columns(&plan);
    exprs.push(named(&expr.schema_name().to_string()).alias(name));
    LogicalPlanBuilder::from(plan).window([expr])?.project(exprs)?.build()
}

/// Each row once for each window that it is in; the start and the end of that.
fn overlapping(input: LogicalPlan, of: &Mention) -> Result<(LogicalPlan, Expr, Expr)> {
    let ends = OfWindows::call(of.windows, What::Ends, of.time.clone());
    let unnested = || {
        let options = UnnestOptions::new().with_preserve_nulls(false);
        LogicalPlanBuilder::from(with(input, ends, ENDS)?)
            .unnest_column_with_options(ENDS, options)?
            .build()
    };
    let end = named(ENDS);
    let start = OfWindows::call(of.windows, What::Start, end.clone());
    Ok((unnested().map_err(unplanned)?, start, end))
}

/// Each row with the bounds of its session.
fn sessions(input: LogicalPlan, of: &Mention) -> Result<(LogicalPlan, Expr, Expr)> {
    let gap = of.windows.size();
    let build = || -> Result<LogicalPlan, DataFusionError> {
        let by_time = || vec![named(AT).sort(true, false)];
        let plan = with(input, of.time.clone(), AT)?;
        let plan = LogicalPlanBuilder::from(plan).filter(named(AT).is_not_null())?.build()?;
        let before = lag(named(AT), Some(1), None)
            .partition_by(of.partition.clone())
            .order_by(by_time())
            .build()?;
        let plan = with_window(plan, before, BEFORE)?;
        let follows = named(AT).lt_eq(named(BEFORE) + span(gap));
        let plan = with(plan, when(follows, lit(0_i64)).otherwise(lit(1_i64))?, BREAKS)?;
        let so_far = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        );
        let session = over(sum(named(BREAKS)))
            .partition_by(of.partition.clone())
            .order_by(by_time())
            .window_frame(so_far)
            .build()?;
        let mut plan = with_window(plan, session, SESSION)?;
        let mut of_session = of.partition.clone();
        of_session.push(named(SESSION));
        for (bound, name) in [(min(named(AT)), FIRST), (max(named(AT)), LAST)] {
            let bound = over(bound).partition_by(of_session.clone()).build()?;
            plan = with_window(plan, bound, name)?;
        }
        Ok(plan)
    };
    Ok((build().map_err(unplanned)?, named(FIRST), named(LAST) + span(gap)))
}

/// An aggregate as a window function.
fn over(aggregate: Expr) -> Expr {
    use datafusion::logical_expr::WindowFunctionDefinition;
    use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction};
    match aggregate {
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            let definition = WindowFunctionDefinition::AggregateUDF(func);
            Expr::from(WindowFunction::new(definition, params.args))
        }
        other => other,
    }
}

/// A join with a table as it was at a time, as one by range.
fn versions(join: Join, catalog: &dyn StreamCatalog) -> Result<Transformed<LogicalPlan>> {
    let parts = join.filter.clone().map(split_conjunction_owned).unwrap_or_default();
    let found = parts.iter().find_map(|part| {
        as_of::mention(part).map(|(time, condition)| (time.clone(), condition.clone()))
    });
    let Some((time, condition)) = found else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Err(Error::new(
            code::SQL,
            format!(
                "FOR SYSTEM_TIME AS OF stands in an inner or a left join, not in a {} one",
                join.join_type
            ),
        ));
    }
    let given: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let (right, begins) = dated(&join.right, catalog)?;
    let mut on: Vec<Expr> = join.on.iter().map(|(a, b)| a.clone().eq(b.clone())).collect();
    on.extend(parts.into_iter().filter(|part| as_of::mention(part).is_none()));
    on.push(condition);
    let next = next_of(&right);
    on.push(begins.lt_eq(time.clone()));
    on.push(next.clone().is_null().or(time.lt(next)));
    let build = || {
        LogicalPlanBuilder::from(Arc::unwrap_or_clone(join.left))
            .join_on(right, join.join_type, on)?
            .project(given)?
            .build()
    };
    Ok(Transformed::yes(build().map_err(unplanned)?))
}

/// A table's versions with the time at which the next of the same key begins, as its last column; and
/// when they begin themselves.
fn dated(plan: &LogicalPlan, catalog: &dyn StreamCatalog) -> Result<(LogicalPlan, Expr)> {
    match plan {
        LogicalPlan::TableScan(scan) => dated_scan(scan, catalog),
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
            let (inner, begins) = dated(input, catalog)?;
            let plan = LogicalPlanBuilder::from(inner).alias(alias.clone());
            let plan = plan.and_then(LogicalPlanBuilder::build).map_err(unplanned)?;
            let Expr::Column(begins) = begins else { return Err(no_versions(&plan)) };
            Ok((plan, Expr::Column(Column::new(Some(alias.clone()), begins.name))))
        }
        LogicalPlan::Projection(Projection { input, expr, .. }) => {
            let (inner, begins) = dated(input, catalog)?;
            let mut exprs = expr.clone();
            for more in [begins.clone(), next_of(&inner)] {
                if !exprs.contains(&more) {
                    exprs.push(more);
                }
            }
            let plan = LogicalPlanBuilder::from(inner).project(exprs);
            Ok((plan.and_then(LogicalPlanBuilder::build).map_err(unplanned)?, begins))
        }
        other => Err(no_versions(other)),
    }
}

fn dated_scan(scan: &TableScan, catalog: &dyn StreamCatalog) -> Result<(LogicalPlan, Expr)> {
    let time = version_time(catalog, scan.table_name.table())?;
    let all = scan.source.schema();
    let mut wanted: Vec<usize> =
        scan.projection.clone().unwrap_or_else(|| (0..all.fields().len()).collect());
    for column in std::iter::once(time.column).chain(time.primary_key.iter().copied()) {
        if !wanted.contains(&column) {
            wanted.push(column);
        }
    }
    let column = |place: usize| {
        Expr::Column(Column::new(Some(scan.table_name.clone()), all.field(place).name()))
    };
    let begins = column(time.column);
    let key = time.primary_key.iter().map(|place| column(*place)).collect();
    let build = || {
        let scan = TableScanBuilder::new(scan.table_name.clone(), Arc::clone(&scan.source))
            .with_projection(Some(wanted))
            .build()?;
        let next = lead(begins.clone(), Some(1), None)
            .partition_by(key)
            .order_by(vec![begins.clone().sort(true, false)])
            .build()?;
        with_window(LogicalPlan::TableScan(scan), next, NEXT)
    };
    Ok((build().map_err(unplanned)?, begins))
}

/// The column of that name, whatever the table is called by now.
fn next_of(plan: &LogicalPlan) -> Expr {
    let column = plan.schema().columns().into_iter().find(|column| column.name == NEXT);
    Expr::Column(column.unwrap_or_else(|| Column::new_unqualified(NEXT)))
}

/// A function of windows that are known when planning.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfWindows {
    windows: Windows,
    what: What,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// The ends of all windows that a time is in.
    Ends,
    /// Where the window begins that ends at a time.
    Start,
}

impl OfWindows {
    fn call(windows: Windows, what: What, time: Expr) -> Expr {
        let signature = Signature::exact(vec![TIME], Volatility::Immutable);
        ScalarUDF::new_from_impl(Self { windows, what, signature }).call(vec![time])
    }
}

impl ScalarUDFImpl for OfWindows {
    fn name(&self) -> &str {
        match self.what {
            What::Ends => "freshet_ends_of_windows",
            What::Start => "freshet_start_of_window",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match self.what {
            What::Ends => DataType::List(Arc::new(Field::new_list_field(TIME, true))),
            What::Start => TIME,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let times = args.args[0].to_array(args.number_rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let given: ArrayRef = match self.what {
            What::Ends => {
                let mut lists = ListBuilder::new(TimestampMicrosecondBuilder::new())
                    .with_field(Field::new_list_field(TIME, true));
                for time in times {
                    for (_, end) in time.into_iter().flat_map(|time| self.windows.of(time)) {
                        lists.values().append_value(end);
                    }
                    lists.append(true);
                }
                Arc::new(lists.finish())
            }
            What::Start => {
                let starts: TimestampMicrosecondArray = times.unary(|end| self.windows.start(end));
                Arc::new(starts)
            }
        };
        Ok(ColumnarValue::Array(given))
    }
}
