//! Where a part of a plan stands in its statement, as far as planning has kept it.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, Spans};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Line and column of the first name that the expressions of a plan's root have; `None` where none has
/// kept its place, as what was rewritten.
pub(super) fn place_of(plan: &LogicalPlan) -> Option<(u64, u64)> {
    let mut first: Option<(u64, u64)> = None;
    for expr in plan.expressions() {
        // Nothing here fails.
        let _ = expr.apply(|expr| {
            if let Expr::Column(Column { spans, .. }) = expr
                && let Some(span) = spans.first()
            {
                let place = (span.start.line, span.start.column);
                first = Some(first.map_or(place, |first| first.min(place)));
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    first
}

/// A plan whose names have forgotten their places: they are those of another text.
pub fn without_places(plan: LogicalPlan) -> Result<LogicalPlan> {
    let forget = |expr: Expr| {
        expr.transform(|expr| match expr {
            Expr::Column(column) if column.spans.first().is_some() => {
                Ok(Transformed::yes(Expr::Column(column.with_spans(Spans::new()))))
            }
            other => Ok(Transformed::no(other)),
        })
    };
    let plan = plan.transform_down_with_subqueries(|node| node.map_expressions(forget))?;
    Ok(plan.data)
}
