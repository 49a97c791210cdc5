//! From the logical node to the operator.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result as DfResult;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::Deduplicate;
use super::exec::{DeduplicateExec, Mode};

/// DataFusion's planner, which also knows deduplications.
#[derive(Debug, Default)]
pub struct Planner;

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Deduplications)])
            .create_physical_plan(plan, session)
            .await
    }
}

struct Deduplications;

#[async_trait]
impl ExtensionPlanner for Deduplications {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(node), [logical], [input]) =
            (node.as_any().downcast_ref::<Deduplicate>(), logical_inputs, inputs)
        else {
            return Ok(None);
        };
        let schema = logical.schema();
        let mut keys = Vec::with_capacity(node.keys.len());
        for key in &node.keys {
            keys.push(planner.create_physical_expr(key, schema, session, context)?);
        }
        let mut order = Vec::with_capacity(node.order.len());
        for sort in &node.order {
            let expr = planner.create_physical_expr(&sort.expr, schema, session, context)?;
            let options = arrow::compute::SortOptions::new(!sort.asc, sort.nulls_first);
            order.push(PhysicalSortExpr::new(expr, options));
        }
        let arrives = input.equivalence_properties().ordering_satisfy(order.iter().cloned())?;
        let mode = match LexOrdering::new(order) {
            None => Mode::Any,
            Some(order) if arrives => Mode::InOrder(order),
            Some(order) => Mode::Best(order),
        };
        Ok(Some(Arc::new(DeduplicateExec::new(Arc::clone(input), keys, mode))))
    }
}
