//! A source's scan as a DataFusion table: each partition of the plan is one more worker of it.
//!
//! A query hands its predicates down to the scan, those included that a join makes of its smaller side
//! while it runs: what they refuse is dropped before anything else sees it. A build does not, since
//! its report says what every operator was given.

mod selection;

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::conjunction_opt;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use freshet_core::SourceId;
use freshet_core::source::{Purpose, RunningScan, Scan};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

/// The scans that were started while one plan ran, so that their reports can be read afterwards.
#[derive(Debug, Default, Clone)]
pub struct ScanTracker(Arc<Mutex<Vec<Started>>>);

/// A source and one scan of it.
pub type Started = (SourceId, Arc<dyn RunningScan>);

impl ScanTracker {
    /// The scans started so far, in the order of their start.
    pub fn running(&self) -> Vec<Started> {
        self.0.lock().clone()
    }

    pub(crate) fn push(&self, source: SourceId, scan: Arc<dyn RunningScan>) {
        self.0.lock().push((source, scan));
    }
}

/// A planned scan as a table.
#[derive(Debug)]
pub struct ScanTable {
    source: SourceId,
    scan: Arc<dyn Scan>,
    purpose: Purpose,
    tracker: ScanTracker,
}

impl ScanTable {
    /// A table whose reading is noted in `tracker`.
    pub fn new(
        source: SourceId,
        scan: Arc<dyn Scan>,
        purpose: Purpose,
        tracker: ScanTracker,
    ) -> Self {
        Self { source, scan, purpose, tracker }
    }
}

#[async_trait]
impl TableProvider for ScanTable {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = self.scan.schema();
        let projection =
            projection.cloned().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let projected = Arc::new(schema.project(&projection)?);
        let partitions = state.config().target_partitions().max(1);
        Ok(Arc::new(ScanExec::new(
            self.source.clone(),
            (Arc::clone(&self.scan), self.purpose),
            projection,
            projected,
            partitions,
            self.tracker.clone(),
        )))
    }
}

/// Reads a scan; every partition takes work from the same queue.
struct ScanExec {
    source: SourceId,
    scan: Arc<dyn Scan>,
    purpose: Purpose,
    projection: Vec<usize>,
    /// What rows must fulfil, in terms of `schema`.
    predicates: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    tracker: ScanTracker,
    metrics: ExecutionPlanMetricsSet,
    /// Made by the first partition that is executed, shared by the others.
    running: OnceLock<Arc<dyn RunningScan>>,
}

impl ScanExec {
    fn new(
        source: SourceId,
        (scan, purpose): (Arc<dyn Scan>, Purpose),
        projection: Vec<usize>,
        schema: SchemaRef,
        partitions: usize,
        tracker: ScanTracker,
    ) -> Self {
        let order = scan.is_in_order().then(|| order_of(&schema)).flatten();
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(&schema), order),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::NonCooperative);
        Self {
            source,
            scan,
            purpose,
            projection,
            predicates: Vec::new(),
            schema,
            properties: Arc::new(properties),
            tracker,
            metrics: ExecutionPlanMetricsSet::new(),
            running: OnceLock::new(),
        }
    }

    /// The same before it was executed.
    fn copy(&self) -> Self {
        let mut copy = Self::new(
            self.source.clone(),
            (Arc::clone(&self.scan), self.purpose),
            self.projection.clone(),
            Arc::clone(&self.schema),
            self.properties.partitioning.partition_count(),
            self.tracker.clone(),
        );
        copy.predicates.clone_from(&self.predicates);
        copy
    }

    fn running(&self, batch_rows: usize) -> DfResult<Arc<dyn RunningScan>> {
        if let Some(running) = self.running.get() {
            return Ok(Arc::clone(running));
        }
        let started = self
            .scan
            .start(&self.projection, batch_rows, self.purpose)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let mut first = false;
        let running = self.running.get_or_init(|| {
            first = true;
            started
        });
        if first {
            self.tracker.push(self.source.clone(), Arc::clone(running));
        }
        Ok(Arc::clone(running))
    }
}

/// The order of rows in the files, where the columns that tell it are read.
fn order_of(schema: &SchemaRef) -> Option<[PhysicalSortExpr; 2]> {
    let column = |name| {
        let column = Arc::new(Column::new_with_schema(name, schema).ok()?);
        Some(PhysicalSortExpr::new(column, SortOptions::new(false, false)))
    };
    Some([column("_file")?, column("_offset")?])
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanExec").field("source", &self.source).finish_non_exhaustive()
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        write!(f, "ScanExec: source={}, columns=[{}]", self.source, columns.join(", "))?;
        match self.predicates.as_slice() {
            [] => Ok(()),
            predicates => {
                let texts: Vec<_> = predicates.iter().map(ToString::to_string).collect();
                write!(f, ", predicates=[{}]", texts.join(", "))
            }
        }
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &'static str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        for predicate in &self.predicates {
            if f(predicate)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> DfResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if self.purpose == Purpose::Build || result.parent_filters.is_empty() {
            return Ok(FilterPushdownPropagation::all_unsupported(result));
        }
        let mut taken = self.copy();
        taken
            .predicates
            .extend(result.parent_filters.iter().map(|parent| Arc::clone(&parent.filter)));
        let all = vec![PushedDown::Yes; result.parent_filters.len()];
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(all)
            .with_updated_node(Arc::new(taken)))
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.copy()))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let batch_rows = context.session_config().batch_size();
        let running = self.running(batch_rows)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows =
            running.worker().map_err(|error| DataFusionError::External(Box::new(error))).boxed();
        let rows = match conjunction_opt(self.predicates.iter().cloned()) {
            Some(predicate) => selection::select(rows, predicate, &self.schema, batch_rows),
            None => rows,
        };
        let stream = rows.inspect_ok(move |batch| metrics.record_output(batch.num_rows())).boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream)))
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> DfResult<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        if let Some(records) = self.scan.estimated_records() {
            let parts = match args.partition() {
                None => 1,
                Some(_) => self.properties.partitioning.partition_count().max(1) as u64,
            };
            let rows = usize::try_from(records / parts).unwrap_or(usize::MAX);
            statistics.num_rows = Precision::Inexact(rows);
            statistics.calculate_total_byte_size(&self.schema);
        }
        Ok(Arc::new(statistics))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
