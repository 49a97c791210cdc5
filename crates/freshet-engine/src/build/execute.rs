//! Running a node's query and writing its rows to files that no reader sees yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::Schema;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, execute_stream_partitioned,
};
use datafusion::prelude::SessionContext;
use freshet_core::contract::{Evolution, SchemaDiff};
use freshet_core::error::code;
use freshet_core::source::{Extent, Purpose, SplitReport, SplitStatus};
use freshet_core::{Error, Location, Result, SourceId};
use freshet_project::{IncrementalStrategy, Materialized, RenderContext};
use futures::{StreamExt, TryStreamExt};

use super::quarantine::Split;
use super::within::Within;
use super::{Build, Executed, Findings, shape};
use crate::lake::{NewRows, Snapshot, StageMode, StageRequest, StagedChange};
use crate::operators::operator_counts;
use crate::relations::{self, Inputs, ReadMode, plan_sql};
use crate::report::BuildProgress;
use crate::scan::ScanTracker;
use crate::session::{self, query_error};
use crate::splits;

/// How often progress is told while a query runs.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What one attempt came to.
pub(super) enum Attempt {
    /// It ran to its end.
    Done(Box<Executed>),
    /// There is nothing new to compute.
    Nothing,
    /// Splits turned out to be broken after some of their rows were read: start again without.
    Without(Vec<(SourceId, SplitReport)>),
    /// The data needs more than its contract has: start again with this.
    Evolves(Vec<(SourceId, Evolution)>),
}

/// A planned query: physical plans that are run one after another, each over all threads.
pub(super) struct Planned {
    pub(super) plans: Vec<Arc<dyn ExecutionPlan>>,
    pub(super) mode: StageMode,
    /// The batches that the rows of the plans have to be in, where there are batches.
    pub(super) within: Option<Within>,
}

impl Build<'_> {
    /// Runs the query until no further file has to be set aside; `None` where nothing is new.
    pub(super) async fn execute(
        &mut self,
        base: Option<&Snapshot>,
        incremental: bool,
    ) -> Result<Option<Executed>> {
        let mut findings = Findings::default();
        let mut aside: Vec<(SourceId, SplitReport)> = Vec::new();
        loop {
            match self.attempt(base, incremental, &findings).await? {
                Attempt::Nothing if aside.is_empty() => return Ok(None),
                Attempt::Nothing => {
                    // Nothing is left of what was new; the files set aside must still be named.
                    for (source, report) in &aside {
                        self.file(source, report)?;
                    }
                    return Ok(None);
                }
                Attempt::Done(mut executed) => {
                    for (source, evolution) in &findings.evolved {
                        let contract = &self.engine.source_table(source)?.contract;
                        let file = Some(format!("data of {source}"));
                        let changes = evolution.changes(contract);
                        executed.schema_diffs.push(SchemaDiff { file, changes });
                    }
                    executed.evolved = findings.evolved;
                    for (source, report) in aside {
                        executed.sources.entry(source).or_default().push(report);
                    }
                    return Ok(Some(*executed));
                }
                Attempt::Without(more) => {
                    let before = findings.aside.len();
                    findings.aside.extend(
                        more.iter()
                            .map(|(source, report)| (source.clone(), report.split.id.clone())),
                    );
                    if findings.aside.len() == before {
                        return Err(Error::internal("a split was set aside twice"));
                    }
                    aside.extend(more);
                }
                Attempt::Evolves(found) => {
                    let before = findings.evolved.clone();
                    for (source, evolution) in found {
                        findings.evolved.entry(source).or_default().merge(evolution);
                    }
                    if findings.evolved == before {
                        return Err(Error::internal("a contract evolved and did not change"));
                    }
                }
            }
        }
    }

    async fn attempt(
        &mut self,
        base: Option<&Snapshot>,
        incremental: bool,
        findings: &Findings,
    ) -> Result<Attempt> {
        let context = self.engine.query_context()?;
        let microbatch = self.node.config.materialized == Materialized::Incremental
            && self.node.config.strategy() == IncrementalStrategy::Microbatch;
        let mode = ReadMode {
            only_new: (incremental && !microbatch).then(|| self.task.progress.clone()),
            exclude: findings.aside.clone(),
            evolved: findings.evolved.clone(),
            purpose: Purpose::Build,
            as_of: None,
        };
        let inputs = relations::register_inputs(self.engine, &context, self.node, &mode).await?;
        self.note_inputs(&inputs)?;
        for input in &inputs.sources {
            let table = self.engine.source_table(&input.id)?;
            self.report.schema_diffs.extend(self.engine.contract_changes(table).await?);
        }
        if incremental && !microbatch && self.is_nothing_new(&inputs) {
            return Ok(Attempt::Nothing);
        }
        if let Some(base) = base {
            let this = self.engine.lake().provider(base);
            session::register(&context, &self.table.schema, &self.table.name, this)?;
        }
        let planned = if self.node.config.materialized == Materialized::Seed {
            self.plan_seed(&context).await?
        } else if microbatch {
            match self.plan_batches(&context, incremental, findings).await? {
                Some(planned) => planned,
                None => return Ok(Attempt::Nothing),
            }
        } else {
            self.plan_once(&context, &inputs, incremental).await?
        };
        self.enter("execute");
        let outcome = self.stage(&context, &inputs, base, planned).await;
        self.finish_attempt(&inputs, incremental, outcome).await
    }

    /// Files that changed and are left alone, and files that are missing.
    fn note_inputs(&mut self, inputs: &Inputs) -> Result<()> {
        self.report.missing.clear();
        self.report.warnings.clear();
        self.note_changed(inputs);
        for input in &inputs.sources {
            let table = self.engine.source_table(&input.id)?;
            let path = table.options.get("path").and_then(|path| path.as_str());
            self.report.missing.extend(splits::missing(table, path, &input.all));
            if input.all.is_empty() {
                let place = path.map(|path| format!(" at \"{path}\"")).unwrap_or_default();
                let warning =
                    format!("source \"{}\" has no file{place}: nothing was read", input.id);
                self.report.warnings.push(warning);
            }
        }
        Ok(())
    }

    pub(super) fn note_changed(&mut self, inputs: &Inputs) {
        for input in &inputs.sources {
            for split in &input.selection.changed {
                let warning = format!(
                    "file \"{}\" of source \"{}\" changed after it was consumed and was left alone; set `on_changed: reload` to take it again",
                    split.id, input.id
                );
                if !self.report.warnings.contains(&warning) {
                    self.report.warnings.push(warning);
                }
            }
        }
    }

    /// Whether an incremental model that reads sources has nothing to do.
    fn is_nothing_new(&self, inputs: &Inputs) -> bool {
        !inputs.sources.is_empty()
            && !inputs.has_new_splits()
            && inputs.versions == self.task.progress.inputs
    }

    async fn plan_once(
        &mut self,
        context: &SessionContext,
        inputs: &Inputs,
        incremental: bool,
    ) -> Result<Planned> {
        let config = &self.node.config;
        let mode = if !incremental {
            StageMode::Overwrite
        } else {
            match config.strategy() {
                IncrementalStrategy::Append => {
                    self.refuse_reload(inputs)?;
                    StageMode::Append
                }
                IncrementalStrategy::Merge => {
                    StageMode::Merge { unique_key: config.unique_key.clone() }
                }
                IncrementalStrategy::DeleteInsert => {
                    StageMode::DeleteInsert { unique_key: config.unique_key.clone() }
                }
                IncrementalStrategy::InsertOverwrite => StageMode::InsertOverwrite,
                IncrementalStrategy::Microbatch => {
                    return Err(Error::internal("a microbatch is planned by its batches"));
                }
            }
        };
        let render =
            RenderContext { incremental, full_refresh: self.task.full_refresh, batch: None };
        let plan = self.plan(context, &render).await?;
        Ok(Planned { plans: vec![plan], mode, within: None })
    }

    /// Rows of a file that is read again can only be told from the old ones by a key.
    fn refuse_reload(&self, inputs: &Inputs) -> Result<()> {
        for input in &inputs.sources {
            let consumed = self.task.progress.consumed.get(&input.id);
            let again = input.selection.requests.iter().find(|request| {
                matches!(request.extent, Extent::Whole)
                    && consumed
                        .and_then(|consumed| consumed.get(&request.split.id))
                        .is_some_and(|before| !before.empty)
            });
            if let Some(request) = again {
                return Err(Error::new(
                    code::FILE_CHANGED,
                    format!(
                        "file \"{}\" changed and model \"{}\" only appends: its old rows would stay",
                        request.split.id, self.node.id
                    ),
                )
                .at(Location::file(self.node.path.display().to_string()))
                .hint("give the model a `unique_key`, or run it with `--full-refresh`"));
            }
        }
        Ok(())
    }

    /// The physical plan of the node's query.
    pub(super) async fn plan(
        &self,
        context: &SessionContext,
        render: &RenderContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let compiled = self.engine.project().compile(&self.node.id, render)?;
        let plan = plan_sql(self.engine, context, self.node, &compiled).await?;
        let frame = shape::shape(DataFrame::new(context.state(), plan), self.node)?;
        self.physical(frame).await
    }

    pub(super) async fn physical(&self, frame: DataFrame) -> Result<Arc<dyn ExecutionPlan>> {
        frame.create_physical_plan().await.map_err(|error| {
            query_error(error, || format!("could not plan model \"{}\"", self.node.id))
                .at(Location::file(self.node.path.display().to_string()))
        })
    }

    /// Writes the rows of the plans to files, telling progress meanwhile.
    async fn stage(
        &mut self,
        context: &SessionContext,
        inputs: &Inputs,
        base: Option<&Snapshot>,
        planned: Planned,
    ) -> Result<(StagedChange, Vec<crate::report::DeadLetter>)> {
        let threads = self.engine.sessions().threads();
        let rows = batch_rows(context, &planned.plans, planned.within.as_ref(), threads)?;
        // What is there already is kept beside the new rows, unless all is made anew.
        let beside = base.filter(|_| planned.mode != StageMode::Overwrite);
        let (rows, quarantined, scratch) = match self.quarantine(rows, beside).await? {
            Split::Untouched(rows) => (rows, Vec::new(), None),
            Split::Taken { kept, letters, scratch } => (kept, letters, Some(scratch)),
        };
        let written = Arc::new(AtomicU64::new(0));
        let rows = counting(rows, &written);
        let request = StageRequest {
            table: self.table.clone(),
            base: base.cloned(),
            mode: planned.mode,
            partition_by: self.node.config.partition_by.clone(),
            on_schema_change: self.node.config.on_schema_change,
            parameters: BTreeMap::from([
                ("run".to_owned(), self.task.run.to_string()),
                ("model".to_owned(), self.node.id.to_string()),
            ]),
        };
        let staging = self.engine.lake().stage(request, rows);
        tokio::pin!(staging);
        let mut ticks = tokio::time::interval(PROGRESS_EVERY);
        let staged = loop {
            tokio::select! {
                staged = &mut staging => break staged,
                _ = ticks.tick() => self.tell(inputs, &written),
            }
        };
        self.tell(inputs, &written);
        if let Some(scratch) = scratch {
            self.engine.lake().discard(&scratch).await?;
        }
        if let Some(within) = &planned.within {
            self.report.edges.insert("batch".into(), within.counts());
        }
        for plan in &planned.plans {
            self.report.operators.extend(operator_counts(plan));
        }
        Ok((staged?, quarantined))
    }

    fn tell(&self, inputs: &Inputs, written: &AtomicU64) {
        let mut progress = BuildProgress {
            rows_written: written.load(Ordering::Relaxed),
            ..BuildProgress::default()
        };
        for input in &inputs.sources {
            progress.files += input.selection.requests.len() as u64;
            progress.bytes_total += input.scan.total_bytes();
        }
        for (_, scan) in inputs.tracker.running() {
            progress.bytes += scan.bytes_read();
            progress.records += scan.records_read();
        }
        self.observer.progress(&self.node.id, progress);
    }

    async fn finish_attempt(
        &mut self,
        inputs: &Inputs,
        incremental: bool,
        outcome: Result<(StagedChange, Vec<crate::report::DeadLetter>)>,
    ) -> Result<Attempt> {
        let (change, quarantined) = match outcome {
            Ok(done) => done,
            Err(error) => {
                let evolved = evolved_on_the_way(&inputs.tracker);
                let broken = broken_on_the_way(&inputs.tracker);
                return match (evolved.is_empty(), broken.is_empty()) {
                    (false, _) => Ok(Attempt::Evolves(evolved)),
                    (true, false) => Ok(Attempt::Without(broken)),
                    (true, true) => Err(error),
                };
            }
        };
        let sources = match relations::reports(inputs, self.engine.sessions().threads()).await {
            Ok(sources) => sources,
            Err(error) => {
                self.engine.lake().discard(&change).await?;
                // What the query did not read to its end was read for the account.
                let evolved = evolved_on_the_way(&inputs.tracker);
                return if evolved.is_empty() { Err(error) } else { Ok(Attempt::Evolves(evolved)) };
            }
        };
        let broken: Vec<_> = sources
            .iter()
            .flat_map(|(source, reports)| reports.iter().map(move |report| (source, report)))
            .filter(|(_, report)| report.status == SplitStatus::SetAside && report.records > 0)
            .map(|(source, report)| (source.clone(), report.clone()))
            .collect();
        if !broken.is_empty() {
            self.engine.lake().discard(&change).await?;
            return Ok(Attempt::Without(broken));
        }
        self.report.bytes_read =
            inputs.tracker.running().iter().map(|(_, scan)| scan.bytes_read()).sum();
        let progress = self.progress_after(inputs, &sources, incremental);
        let schema_diffs = inputs.sources.iter().flat_map(|input| input.scan.diffs()).collect();
        Ok(Attempt::Done(Box::new(Executed {
            change,
            sources,
            progress,
            quarantined,
            schema_diffs,
            evolved: BTreeMap::new(),
        })))
    }
}

fn evolved_on_the_way(tracker: &ScanTracker) -> Vec<(SourceId, Evolution)> {
    let scans = tracker.running().into_iter();
    let evolved = scans.map(|(source, scan)| (source, scan.evolution()));
    evolved.filter(|(_, evolution)| !evolution.is_empty()).collect()
}

fn broken_on_the_way(tracker: &ScanTracker) -> Vec<(SourceId, SplitReport)> {
    let mut broken: Vec<(SourceId, SplitReport)> = Vec::new();
    for (source, scan) in tracker.running() {
        for report in scan.report().splits {
            let known = broken.iter().any(|(s, b)| *s == source && b.split.id == report.split.id);
            if report.status == SplitStatus::SetAside && report.records > 0 && !known {
                broken.push((source.clone(), report));
            }
        }
    }
    broken
}

/// The rows, which are counted in `written` as they go by.
fn counting(rows: NewRows, written: &Arc<AtomicU64>) -> NewRows {
    let schema = rows.schema;
    let streams = rows.streams.into_iter().map(|stream| {
        let written = Arc::clone(written);
        let counted = stream.inspect_ok(move |batch| {
            written.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), counted))
            as SendableRecordBatchStream
    });
    NewRows { streams: streams.collect(), schema }
}

/// One stream for each thread; each goes through the plans in turn.
pub(super) fn new_rows(
    context: &SessionContext,
    plans: &[Arc<dyn ExecutionPlan>],
    threads: usize,
) -> Result<NewRows> {
    batch_rows(context, plans, None, threads)
}

/// As [`new_rows`], without rows that are not `within` the batch of their plan.
fn batch_rows(
    context: &SessionContext,
    plans: &[Arc<dyn ExecutionPlan>],
    within: Option<&Within>,
    threads: usize,
) -> Result<NewRows> {
    let schema = match plans.first() {
        Some(plan) => plan.schema(),
        None => Arc::new(Schema::empty()),
    };
    let task = context.task_ctx();
    if let [plan] = plans {
        let streams = execute_stream_partitioned(Arc::clone(plan), task)
            .map_err(|error| query_error(error, || "could not start the query".to_owned()))?;
        let streams = match within {
            Some(within) => streams.into_iter().map(|rows| within.filter(0, rows)).collect(),
            None => streams,
        };
        return Ok(NewRows { schema, streams });
    }
    let width = plans
        .iter()
        .map(|plan| plan.output_partitioning().partition_count())
        .max()
        .unwrap_or(1)
        .min(threads.max(1));
    let streams = (0..width)
        .map(|lane| {
            let parts: Vec<(usize, Arc<dyn ExecutionPlan>, usize)> = plans
                .iter()
                .enumerate()
                .flat_map(|(number, plan)| {
                    let count = plan.output_partitioning().partition_count();
                    (lane..count).step_by(width).map(move |part| (number, Arc::clone(plan), part))
                })
                .collect();
            let (task, within) = (Arc::clone(&task), within.cloned());
            let stream = futures::stream::iter(parts)
                .map(move |(number, plan, part)| {
                    plan.execute(part, Arc::clone(&task)).map(|rows| match &within {
                        Some(within) => within.filter(number, rows),
                        None => rows,
                    })
                })
                .try_flatten();
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), stream))
                as SendableRecordBatchStream
        })
        .collect();
    Ok(NewRows { schema, streams })
}
