//! Incremental models by spans of event time: which batches changed, and a query for each.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::DateTime;
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::source::{Interval, Purpose};
use freshet_core::{Error, Location, Result};
use freshet_project::{BatchSize, Node, RenderContext, SourceTable};

use super::execute::Planned;
use super::within::Within;
use super::{Build, Findings};
use crate::interval;
use crate::lake::StageMode;
use crate::relations::{self, ReadMode, is_query, table_of};
use crate::session::{self, query_error};

impl Build<'_> {
    /// One plan for each batch to compute; `None` where none is.
    pub(super) async fn plan_batches(
        &mut self,
        context: &SessionContext,
        incremental: bool,
        findings: &Findings,
    ) -> Result<Option<Planned>> {
        let setting = |name: &str| {
            Error::new(
                code::CONFIG,
                format!("model \"{}\" is a microbatch without `{name}`", self.node.id),
            )
            .at(Location::file(self.node.path.display().to_string()))
            .hint(format!("add `{name}` to its config"))
        };
        let size = self.node.config.batch_size.ok_or_else(|| setting("batch_size"))?;
        let event_time =
            self.node.config.event_time.clone().ok_or_else(|| setting("event_time"))?;
        let mut batches: BTreeSet<Interval> = match self.task.interval {
            Some(span) => interval::batches(span, size).into_iter().collect(),
            None => self.touched(context, size, incremental, findings).await?,
        };
        if let Some(begin) = self.node.config.begin {
            batches.retain(|batch| batch.end > begin);
        }
        if let (true, None, Some(first)) =
            (incremental, self.task.interval, batches.first().copied())
        {
            let earliest = interval::back(first, size, self.node.config.lookback);
            batches.extend(interval::batches(
                Interval { start: earliest.start, end: first.start },
                size,
            ));
        }
        if batches.is_empty() && incremental {
            return Ok(None);
        }
        let mut plans = Vec::with_capacity(batches.len());
        for batch in &batches {
            let render = RenderContext {
                incremental,
                full_refresh: self.task.full_refresh,
                batch: Some(*batch),
            };
            plans.push(self.plan(context, &render).await?);
        }
        let mut nothing = None;
        if plans.is_empty() {
            // A table without rows still has columns: those of a batch before all time.
            let epoch = DateTime::UNIX_EPOCH.naive_utc();
            nothing = Some(Interval { start: epoch, end: epoch });
            let render =
                RenderContext { incremental, full_refresh: self.task.full_refresh, batch: nothing };
            plans.push(self.plan(context, &render).await?);
        }
        let spans: Vec<Interval> = batches.iter().copied().chain(nothing).collect();
        let within = Within::new(self.node, &plans[0].schema(), &event_time, &spans)?;
        let intervals: Vec<Interval> = batches.into_iter().collect();
        self.report.batches = intervals.clone();
        let mode = if incremental {
            StageMode::ReplaceWhere { event_time, intervals }
        } else {
            StageMode::Overwrite
        };
        Ok(Some(Planned { plans, mode, within: Some(within) }))
    }

    /// The batches that hold rows which are new, changed or gone since the last build; all that
    /// hold rows where there was none.
    async fn touched(
        &mut self,
        context: &SessionContext,
        size: BatchSize,
        incremental: bool,
        findings: &Findings,
    ) -> Result<BTreeSet<Interval>> {
        let (engine, this) = (self.engine, self.node);
        let project = engine.project();
        let mut touched = BTreeSet::new();
        let mut timed = false;
        for id in &this.refs {
            let node = engine.node(id)?;
            let Some(column) = &node.config.event_time else { continue };
            timed = true;
            let name = table_of(project, node);
            let relation = quoted(&name.schema, &name.name);
            if !incremental {
                touched.extend(distinct(context, &relation, column, size).await?);
            } else if is_query(node) {
                touched.extend(self.touched_through_view(node, column, size, findings).await?);
            } else {
                touched.extend(self.touched_in_table(node, column, size).await?);
            }
        }
        for id in &this.sources {
            let source = engine.source_table(id)?;
            let Some(column) = &source.event_time else { continue };
            timed = true;
            let relation = quoted(&source.source, &source.table);
            if incremental {
                touched.extend(self.touched_in_source(source, column, size, findings).await?);
            } else {
                touched.extend(distinct(context, &relation, column, size).await?);
            }
        }
        if !timed {
            return Err(Error::new(
                code::CONFIG,
                format!("nothing that model \"{}\" reads has an `event_time`", self.node.id),
            )
            .at(Location::file(self.node.path.display().to_string()))
            .hint("set `event_time` on the model or source that it reads, so that its batches are known"));
        }
        Ok(touched)
    }

    /// From the files that the table gained and lost since it was last read.
    async fn touched_in_table(
        &self,
        node: &Node,
        column: &str,
        size: BatchSize,
    ) -> Result<BTreeSet<Interval>> {
        let lake = self.engine.lake();
        let table = table_of(self.engine.project(), node);
        let Some(snapshot) = lake.load(&table, None).await? else {
            return Ok(BTreeSet::new());
        };
        let files = match self.task.progress.inputs.get(&node.id) {
            Some(&version) if version == snapshot.version => return Ok(BTreeSet::new()),
            Some(&version) => {
                let diff = lake.diff_files(&table, version, snapshot.version).await?;
                diff.added.into_iter().chain(diff.removed).collect()
            }
            None => snapshot.files.as_ref().clone(),
        };
        let context = self.engine.query_context()?;
        session::register(&context, "main", "changed", lake.files_provider(&snapshot, files))?;
        distinct(&context, &quoted("main", "changed"), column, size).await
    }

    async fn touched_in_source(
        &mut self,
        source: &SourceTable,
        column: &str,
        size: BatchSize,
        findings: &Findings,
    ) -> Result<BTreeSet<Interval>> {
        let context = self.engine.query_context()?;
        let mode = self.only_new(findings);
        let ids = std::slice::from_ref(&source.id);
        let inputs = relations::register_named(self.engine, &context, &[], ids, &mode).await?;
        self.note_changed(&inputs);
        if !inputs.has_new_splits() {
            return Ok(BTreeSet::new());
        }
        distinct(&context, &quoted(&source.source, &source.table), column, size).await
    }

    /// What is new in the sources below a view; where a table below it changed, all of the view.
    async fn touched_through_view(
        &mut self,
        node: &Node,
        column: &str,
        size: BatchSize,
        findings: &Findings,
    ) -> Result<BTreeSet<Interval>> {
        let context = self.engine.query_context()?;
        let ids = std::slice::from_ref(&node.id);
        let mut mode = self.only_new(findings);
        let inputs = relations::register_named(self.engine, &context, ids, &[], &mode).await?;
        self.note_changed(&inputs);
        let before = &self.task.progress.inputs;
        let tables_changed =
            inputs.versions.iter().any(|(id, version)| before.get(id) != Some(version));
        let name = table_of(self.engine.project(), node);
        let relation = quoted(&name.schema, &name.name);
        if tables_changed {
            mode.only_new = None;
            let context = self.engine.query_context()?;
            relations::register_named(self.engine, &context, ids, &[], &mode).await?;
            return distinct(&context, &relation, column, size).await;
        }
        if !inputs.has_new_splits() {
            return Ok(BTreeSet::new());
        }
        distinct(&context, &relation, column, size).await
    }

    fn only_new(&self, findings: &Findings) -> ReadMode {
        ReadMode {
            only_new: Some(self.task.progress.clone()),
            exclude: findings.aside.clone(),
            evolved: findings.evolved.clone(),
            // Which batches there are is a question; the build that follows keeps the books.
            purpose: Purpose::Query,
            as_of: None,
        }
    }
}

fn quoted(schema: &str, name: &str) -> String {
    format!("\"{}\".\"{}\"", schema.replace('"', "\"\""), name.replace('"', "\"\""))
}

/// The batches in which a relation has rows.
async fn distinct(
    context: &SessionContext,
    relation: &str,
    column: &str,
    size: BatchSize,
) -> Result<BTreeSet<Interval>> {
    let unit = match size {
        BatchSize::Hour => "hour",
        BatchSize::Day => "day",
        BatchSize::Month => "month",
        BatchSize::Year => "year",
    };
    let column = column.replace('"', "\"\"");
    let sql = format!(
        "select distinct date_trunc('{unit}', cast(\"{column}\" as timestamp)) as batch \
         from {relation} where \"{column}\" is not null"
    );
    let what = || format!("could not find the batches of {relation}");
    let frame = context.sql(&sql).await.map_err(|error| query_error(error, what))?;
    let found = frame.collect().await.map_err(|error| query_error(error, what))?;
    let mut batches = BTreeSet::new();
    for batch in found {
        let micros = arrow::compute::cast(
            batch.column(0),
            &DataType::Timestamp(TimeUnit::Microsecond, None),
        )
        .map_err(|error| Error::internal("a batch's start is no time").caused_by(error))?;
        for start in Arc::clone(&micros).as_primitive::<TimestampMicrosecondType>().iter().flatten()
        {
            if let Some(start) = DateTime::from_timestamp_micros(start) {
                batches.insert(interval::batch_of(start.naive_utc(), size));
            }
        }
    }
    Ok(batches)
}
