//! Semi joins closer to the rows that they are about.
//!
//! `where key in (select …)` over a join is planned as a semi join over that join, so that all its rows
//! are made before most are dropped. Where the key comes from one side of an inner join, the semi
//! join of that side alone gives the same (Spark's `PushLeftSemiLeftAntiThroughJoin`). This pays
//! where the subquery is selective: where it has a filter of its own.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, Projection};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Pushes selective semi joins below inner joins.
#[derive(Debug, Default)]
pub struct Rule;

impl OptimizerRule for Rule {
    fn name(&self) -> &'static str {
        "push_down_semi_join"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(semi) = &plan else { return Ok(Transformed::no(plan)) };
        let plain = semi.join_type == JoinType::LeftSemi && semi.filter.is_none();
        if !plain || semi.on.is_empty() || !is_selective(&semi.right)? {
            return Ok(Transformed::no(plan));
        }
        match below(semi, &semi.left)? {
            Some(rewritten) => Ok(Transformed::yes(rewritten)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

fn is_selective(subquery: &LogicalPlan) -> DfResult<bool> {
    subquery.exists(|node| {
        Ok(match node {
            LogicalPlan::Filter(_) => true,
            LogicalPlan::TableScan(scan) => !scan.filters.is_empty(),
            _ => false,
        })
    })
}

/// `left` with the semi join on the side of a join in it that its keys come from.
fn below(semi: &Join, left: &LogicalPlan) -> DfResult<Option<LogicalPlan>> {
    match left {
        LogicalPlan::Projection(projection) => {
            let Some(keys) = keys_below(semi, projection) else { return Ok(None) };
            let on = keys.into_iter().zip(&semi.on).map(|(key, (_, right))| (key, right.clone()));
            let semi = Join { on: on.collect(), ..semi.clone() };
            let Some(input) = below(&semi, &projection.input)? else { return Ok(None) };
            let schema = Arc::clone(&projection.schema);
            Ok(Some(LogicalPlan::Projection(Projection::try_new_with_schema(
                projection.expr.clone(),
                Arc::new(input),
                schema,
            )?)))
        }
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
            let all_in = |side: &LogicalPlan| {
                semi.on.iter().all(|(key, _)| {
                    let columns = key.column_refs();
                    !columns.is_empty() && columns.iter().all(|c| side.schema().has_column(c))
                })
            };
            let mut join = join.clone();
            let side = if all_in(&join.left) {
                &mut join.left
            } else if all_in(&join.right) {
                &mut join.right
            } else {
                return Ok(None);
            };
            *side = Arc::new(match below(semi, side)? {
                Some(deeper) => deeper,
                None => LogicalPlan::Join(Join {
                    left: Arc::clone(side),
                    schema: Arc::clone(side.schema()),
                    ..semi.clone()
                }),
            });
            Ok(Some(LogicalPlan::Join(join)))
        }
        _ => Ok(None),
    }
}

/// The semi join's keys in terms of the projection's input; `None` where one is computed.
fn keys_below(semi: &Join, projection: &Projection) -> Option<Vec<Expr>> {
    let keys = semi.on.iter().map(|(key, _)| {
        let Expr::Column(column) = key else { return None };
        let index = projection.schema.maybe_index_of_column(column)?;
        let expr = match &projection.expr[index] {
            Expr::Alias(alias) => alias.expr.as_ref(),
            expr => expr,
        };
        matches!(expr, Expr::Column(_)).then(|| expr.clone())
    });
    keys.collect()
}
