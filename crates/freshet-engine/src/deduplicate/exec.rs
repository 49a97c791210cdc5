//! The operator as a node of a physical plan.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr,
};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties,
};

use super::spill::Disk;
use super::{best, in_order};

/// How the first rows are found.
#[derive(Debug, Clone)]
pub(super) enum Mode {
    /// The rows of each partition arrive in this order: the first of a key is the one to keep.
    InOrder(LexOrdering),
    /// It does not matter which row of a key is kept. Equal keys arrive in the same partition.
    Any,
    /// The rows arrive in another order than this. Equal keys arrive in the same partition.
    Best(LexOrdering),
}

/// The first row of each key.
///
/// In order it gives one partition, otherwise as many as it reads. The order of its rows is not
/// fixed.
pub struct DeduplicateExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    mode: Mode,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DeduplicateExec {
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        mode: Mode,
    ) -> Self {
        let partitioning = match mode {
            Mode::InOrder(_) => Partitioning::UnknownPartitioning(1),
            Mode::Any | Mode::Best(_) => input.output_partitioning().clone(),
        };
        let emission = match mode {
            Mode::InOrder(_) | Mode::Any => EmissionType::Incremental,
            Mode::Best(_) => EmissionType::Final,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            partitioning,
            emission,
            input.boundedness(),
        );
        Self {
            input,
            keys,
            mode,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl fmt::Debug for DeduplicateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeduplicateExec").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl DisplayAs for DeduplicateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "DeduplicateExec: keys=[{keys}], ")?;
        match &self.mode {
            Mode::InOrder(order) => write!(f, "mode=in_order, order=[{order}]"),
            Mode::Best(order) => write!(f, "mode=best, order=[{order}]"),
            Mode::Any => write!(f, "mode=any"),
        }
    }
}

impl ExecutionPlan for DeduplicateExec {
    fn name(&self) -> &'static str {
        "DeduplicateExec"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![match &self.mode {
            Mode::InOrder(_) => Distribution::UnspecifiedDistribution,
            Mode::Any | Mode::Best(_) => Distribution::KeyPartitioned(self.keys.clone()),
        }])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![match &self.mode {
            Mode::InOrder(order) => Some(OrderingRequirements::from(order.clone())),
            Mode::Any | Mode::Best(_) => None,
        }]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![!matches!(self.mode, Mode::InOrder(_))]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        let order = match &self.mode {
            Mode::InOrder(order) | Mode::Best(order) => order.iter().as_slice(),
            Mode::Any => &[],
        };
        for expr in self.keys.iter().chain(order.iter().map(|sort| &sort.expr)) {
            if f(expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return Err(DataFusionError::Internal("a deduplication has one input".into()));
        };
        Ok(Arc::new(Self::new(input, self.keys.clone(), self.mode.clone())))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let disk = Disk::new(&context, &self.input.schema(), &self.metrics, partition, &self.keys)?;
        match &self.mode {
            Mode::InOrder(order) => {
                let inputs = (0..self.input.output_partitioning().partition_count())
                    .map(|input| self.input.execute(input, Arc::clone(&context)))
                    .collect::<DfResult<Vec<_>>>()?;
                in_order::stream(inputs, order, disk)
            }
            Mode::Any => Ok(in_order::any(self.input.execute(partition, context)?, disk)),
            Mode::Best(order) => best::stream(self.input.execute(partition, context)?, order, disk),
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::LowerEqual
    }
}
