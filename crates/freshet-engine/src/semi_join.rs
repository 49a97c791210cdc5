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

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use datafusion::prelude::SessionContext;
    use freshet_core::config::ByteSize;

    use crate::session::Sessions;

    async fn session() -> SessionContext {
        let sessions = Sessions::new(ByteSize::mib(64), None, 2, "main").unwrap();
        let context = sessions.context();
        for table in [
            "customers as select * from (values (1, 'Ada'), (2, 'Bo'), (null, 'Cy')) as t(id, name)",
            "orders as select * from (values (10, 1), (11, 1), (12, 2), (null, 2)) as t(id, customer)",
            "lines as select * from (values (10, 4), (10, 4), (11, 1), (12, 9), (null, 9)) as t(id, n)",
        ] {
            context.sql(&format!("create table {table}")).await.unwrap().collect().await.unwrap();
        }
        context
    }

    /// The optimized plan, and the sum of the only column.
    async fn run(context: &SessionContext, sql: &str) -> (String, i64) {
        let frame = context.sql(sql).await.unwrap();
        let plan = frame.clone().into_optimized_plan().unwrap().display_indent().to_string();
        let batches = frame.collect().await.unwrap();
        let values = batches.iter().map(|batch| batch.column(0).as_primitive::<Int64Type>());
        (plan, values.flat_map(|values| values.iter().flatten()).sum())
    }

    const JOINED: &str = "select lines.n from customers \
        join orders on customers.id = orders.customer join lines on lines.id = orders.id";

    fn is_below_a_join(plan: &str) -> bool {
        let (semi, inner) = (plan.find("LeftSemi Join"), plan.find("Inner Join"));
        semi.expect("there is a semi join") > inner.expect("there is a join")
    }

    #[tokio::test]
    async fn a_selective_semi_join_goes_to_the_side_of_its_key() {
        let context = session().await;
        let busy = "select id from lines group by id having sum(n) > 5";
        for (key, sum) in [("orders.id", 17), ("lines.id", 17)] {
            let (plan, found) = run(&context, &format!("{JOINED} where {key} in ({busy})")).await;
            assert!(is_below_a_join(&plan), "{plan}");
            assert_eq!(found, sum, "{plan}");
        }
        let names = "select id from customers where name < 'B'";
        let sql = format!("{JOINED} where orders.customer in ({names})");
        let (plan, found) = run(&context, &sql).await;
        assert!(is_below_a_join(&plan), "{plan}");
        assert_eq!(found, 9, "{plan}");
    }

    #[tokio::test]
    async fn others_stay_where_they_are() {
        let context = session().await;
        // What drops little is better asked after the joins.
        let sql = format!("{JOINED} where orders.id in (select id from lines)");
        let (plan, found) = run(&context, &sql).await;
        assert!(!is_below_a_join(&plan), "{plan}");
        assert_eq!(found, 18, "{plan}");
        // A key of both sides belongs to neither.
        let both = "select id from lines where n > 3";
        let sql = format!("{JOINED} where orders.id + customers.id - customers.id in ({both})");
        let (plan, found) = run(&context, &sql).await;
        assert_eq!(found, 17, "{plan}");
        let without = "select id from lines where n > 8 and id is not null";
        let sql = format!("{JOINED} where orders.id not in ({without})");
        let (plan, found) = run(&context, &sql).await;
        assert_eq!(found, 9, "{plan}");
    }
}
