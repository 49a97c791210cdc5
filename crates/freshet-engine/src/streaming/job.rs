//! A streaming model as a job: its SQL over its sources, its table in the lake, its dead letters and late rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::common::{DFSchema, ToDFSchema};
use datafusion::datasource::ViewTable;
use datafusion::logical_expr::{Expr, LogicalPlan, cast as cast_expr};
use datafusion::prelude::SessionContext;
use freshet_core::clock::Clock;
use freshet_core::config::{HumanDuration, MaxBad};
use freshet_core::error::code;
use freshet_core::ingest::Ingest;
use freshet_core::registry::{Connector, ConnectorContext, Role, SourceSpec};
use freshet_core::rows::arrow_error;
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::{Start, StreamSink, StreamSource};
use freshet_core::{Error, Location, ModelId, Result, SourceId};
use freshet_project::{
    CompiledSql, Materialized, Node, OnMaxBad, OnSchemaChange, RenderContext, SourceTable,
};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::executor::Io;
use freshet_runtime::operators::{Calc, Columns};
use freshet_runtime::plan::{EdgePlan, JobPlan, JobSource, SinkPlan, StageInput, StagePlan};
use freshet_runtime::source::{
    DEAD_LETTERS, StreamInput, Threshold, WatermarkSpec, WhenIdle, dead_letter_schema,
};
use futures::future::BoxFuture;
use object_store::ObjectStore;

use super::expr::compile_coerced;
use super::lake_sink::{LakeFigures, LakeSink};
use super::late::LateRows;
use super::lower::{
    LowerOptions, Lowered, StreamCatalog, TimeColumn, Unbounded, lower, place_in, without_places,
};
use super::sinks::{JobSink, Outcome};
use super::table::StreamTable;
use super::windows::TIME;
use crate::corrections::SourceCorrections;
use crate::dead_letters;
use crate::engine::Engine;
use crate::late_rows;
use crate::relations::{self, table_of};
use crate::session::{self, query_error};

/// The span of `max_bad` of a stream that says none.
const MAX_BAD_SPAN: Duration = Duration::from_secs(60);

/// A streaming model, ready to run.
#[derive(Debug)]
pub struct StreamJob {
    /// The model.
    pub model: ModelId,
    /// The job.
    pub plan: JobPlan,
    /// Where its rows go, and what becomes of them.
    pub sinks: Vec<JobSink>,
    /// What becomes of its dead letters.
    pub dead_letters: Arc<LakeFigures>,
    /// What becomes of its late rows.
    pub late_rows: Arc<LakeFigures>,
    /// State that grows for as long as the job runs.
    pub unbounded: Vec<Unbounded>,
}

/// How jobs are made.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Tasks of each stage.
    pub parallelism: u16,
    /// Microseconds between two commits of a sink that makes files, where it says nothing itself.
    pub commit_interval: i64,
    /// Where fetching runs.
    pub io: Arc<dyn Io>,
}

impl Engine {
    /// The streaming models among `models`, in dependency order.
    pub fn streams<'a>(&'a self, models: &'a [ModelId]) -> impl Iterator<Item = &'a Node> {
        models.iter().filter_map(|id| {
            let node = self.project().nodes.get(id)?;
            (node.config.materialized == Materialized::Stream).then_some(node)
        })
    }

    /// Plans a streaming model.
    pub fn stream_job<'a>(
        &'a self,
        id: &'a ModelId,
        options: &'a StreamOptions,
    ) -> BoxFuture<'a, Result<StreamJob>> {
        Box::pin(async move {
            let node = self.node(id)?;
            let (plan, catalog) = self.plan_stream(node, &options.io).await?;
            let lower_options = lower_options(node, options.parallelism);
            let groups = lower_options.groups;
            let lowered =
                lower(&plan, &catalog, &lower_options).map_err(|error| in_model(error, node))?;
            let name = format!("{}/{id}", self.project().environment.name);
            let mut stages = lowered.stages;
            let Lowered { output, schema, updating, unbounded, sides, .. } = lowered;
            let outcome = Outcome { stage: output, schema: &schema, updating };
            let into = |table, schema| {
                let (lake, changes) = (self.lake().clone(), OnSchemaChange::Ignore);
                LakeSink::new(lake, &name, table, schema, Vec::new(), changes)
            };
            let letters = into(dead_letters::table(), dead_letters::schema());
            let sinks = self.add_sinks(node, &name, &outcome, &mut stages, &letters, options)?;
            let dead = letters.figures();
            self.add_dead_letters(id, &mut stages, letters, options);
            let late = into(late_rows::table(), late_rows::schema());
            let sink: &dyn Fn(&str) -> Arc<dyn StreamSink> =
                &|name| Arc::new(late.clone().called(name));
            let (model, clock) = (id.as_str(), self.clock());
            let commit_interval = options.commit_interval;
            LateRows { model, clock, sink, commit_interval }.add(&sides, &mut stages);
            Ok(StreamJob {
                model: id.clone(),
                plan: JobPlan { name, stages, groups },
                sinks,
                dead_letters: dead,
                late_rows: late.figures(),
                unbounded,
            })
        })
    }

    /// Checks that a streaming model can be planned; touches nothing.
    pub(crate) async fn check_stream(&self, node: &Node) -> Result<SchemaRef> {
        let io: Arc<dyn Io> = Arc::new(NoIo);
        let (plan, catalog) = self.plan_stream(node, &io).await?;
        let lowered = lower(&plan, &catalog, &lower_options(node, 1));
        let Lowered { schema, updating, .. } = lowered.map_err(|error| in_model(error, node))?;
        if node.config.materialized == Materialized::Stream {
            let outcome = Outcome { stage: 0, schema: &schema, updating };
            self.plan_sinks(node, "", &outcome, 0)?;
        }
        Ok(schema)
    }

    async fn plan_stream(&self, node: &Node, io: &Arc<dyn Io>) -> Result<(LogicalPlan, Catalog)> {
        let context = self.query_context()?;
        let mut tables = BTreeMap::new();
        let plan = self.stream_sql(&context, node, &mut tables).await?;
        let store = Arc::clone(self.lake().store());
        let compiled = self.project().compile(&node.id, &RenderContext::default())?;
        let (node, io) = (node.clone(), Arc::clone(io));
        Ok((plan, Catalog { node, compiled, context, store, tables, io }))
    }

    /// The plan of a model over its sources, which are registered and added to `tables`.
    fn stream_sql<'a>(
        &'a self,
        context: &'a SessionContext,
        node: &'a Node,
        tables: &'a mut BTreeMap<String, StreamSourceTable>,
    ) -> BoxFuture<'a, Result<LogicalPlan>> {
        Box::pin(async move {
            for id in &node.sources {
                if tables.contains_key(id.as_str()) {
                    continue;
                }
                let table = self.source_table(id)?;
                let stream = self.stream_source(table)?;
                let schema = stream.schema();
                let provider = StreamTable { name: id.to_string(), schema };
                session::register(context, &table.source, &table.table, Arc::new(provider))?;
                let known = StreamSourceTable { stream, table: table.clone() };
                tables.insert(id.to_string(), known);
            }
            for id in &node.refs {
                let used = self.node(id)?;
                let name = table_of(self.project(), used);
                if !relations::is_query(used) && used.config.materialized != Materialized::Stream {
                    return Err(Error::new(
                        code::SQL,
                        format!("a stream cannot join model \"{id}\", a table, yet"),
                    )
                    .at(Location::file(node.path.display().to_string())));
                }
                let plan = self.stream_sql(context, used, tables).await?;
                let plan = without_places(plan).map_err(|error| {
                    query_error(error, || format!("could not use model \"{id}\""))
                })?;
                let view = Arc::new(ViewTable::new(plan, None));
                session::register(context, &name.schema, &name.name, view)?;
            }
            let compiled = self.project().compile(&node.id, &RenderContext::default())?;
            let expanded =
                crate::functions::expand_macros(&compiled.sql, &self.project().sql_macros)?;
            let locate = |place| relations::location_of(place, node, &compiled);
            super::plan(context, &expanded, &locate).await
        })
    }

    pub(crate) fn stream_source(&self, table: &SourceTable) -> Result<Arc<dyn StreamSource>> {
        let (connector, spec, context) = self.connector_of(table)?;
        connector
            .stream(&table.options, spec, &context)
            .map_err(|error| error.at(table.location.clone()))
    }

    /// What records of a source are pushed to.
    pub fn ingest(&self, id: &SourceId) -> Result<Arc<dyn Ingest>> {
        let table = self.source_table(id)?;
        let (connector, spec, context) = self.connector_of(table)?;
        connector
            .ingest(&table.options, spec, &context)
            .map_err(|error| error.at(table.location.clone()))
    }

    /// Whether a node is a query over sources that can be read as streams alone: a part of streaming
    /// models, which no batch can compute.
    pub(crate) fn reads_streams(&self, node: &Node) -> Result<bool> {
        if !relations::is_query(node) {
            return Ok(false);
        }
        for source in &node.sources {
            if self.is_only_streamed(self.source_table(source)?)? {
                return Ok(true);
            }
        }
        for id in &node.refs {
            if self.reads_streams(self.node(id)?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a source can be read as a stream alone.
    pub(crate) fn is_only_streamed(&self, table: &SourceTable) -> Result<bool> {
        let (connector, ..) = self.connector_of(table)?;
        let roles = connector.info().roles;
        Ok(roles.contains(&Role::Stream) && !roles.contains(&Role::Source))
    }

    fn connector_of(
        &self,
        table: &SourceTable,
    ) -> Result<(&Arc<dyn Connector>, SourceSpec, ConnectorContext)> {
        let at = |error: Error| error.at(table.location.clone());
        let name = table.connector.as_deref().ok_or_else(|| {
            at(Error::new(code::SOURCE, format!("source \"{}\" has no connector", table.id)))
        })?;
        let spec = SourceSpec {
            name: table.id.to_string(),
            contract: Arc::clone(&table.contract),
            max_bad: table.max_bad,
            settle: table.settle,
        };
        let context = self.connector_context(table.connection.as_deref())?;
        Ok((self.registry().get(name).map_err(at)?, spec, context))
    }

    /// A stage that carries the dead letters of all sources into their table.
    fn add_dead_letters(
        &self,
        model: &ModelId,
        stages: &mut Vec<StagePlan>,
        sink: LakeSink,
        options: &StreamOptions,
    ) {
        let sources = stages
            .iter()
            .enumerate()
            .filter(|(_, stage)| matches!(stage.input, StageInput::Source { .. }))
            .map(|(place, stage)| (place, stage.id.clone(), stage.parallelism));
        for (number, (place, source, parallelism)) in sources.collect::<Vec<_>>().iter().enumerate()
        {
            let name = source.strip_prefix("source ").unwrap_or(source).to_owned();
            let letters: Arc<dyn ScalarExpr> = Arc::new(Letters {
                source: SourceId::new(name),
                model: model.to_string(),
                clock: Arc::clone(self.clock()),
            });
            let exprs = (0..dead_letters::schema().fields().len())
                .map(|column| -> Arc<dyn ScalarExpr> {
                    Arc::new(LetterColumn { letters: Arc::clone(&letters), column })
                })
                .collect();
            let columns = Columns { schema: dead_letters::schema(), exprs };
            let calc = Calc { condition: None, columns: Some(columns) };
            stages.push(StagePlan {
                id: format!("dead letters of {source}"),
                parallelism: *parallelism,
                input: StageInput::Edges(vec![EdgePlan {
                    from: *place,
                    operator: 0,
                    port: DEAD_LETTERS,
                    input: 0,
                    partitioning: Partitioning::Forward,
                    schema: dead_letter_schema(),
                }]),
                operators: vec![(format!("letters of {source}"), Arc::new(calc))],
                sink: Some(SinkPlan {
                    id: format!("dead letters {number}"),
                    sink: Arc::new(sink.clone().called(&number.to_string())),
                    commit_interval: options.commit_interval,
                }),
            });
        }
    }
}

fn lower_options(node: &Node, parallelism: u16) -> LowerOptions {
    let state_ttl = node.config.state_ttl;
    let state_ttl = state_ttl.map(|ttl| i64::try_from(ttl.0.as_micros()).unwrap_or(i64::MAX));
    LowerOptions { state_ttl, ..LowerOptions::new(parallelism) }
}

fn in_model(error: Error, node: &Node) -> Error {
    error.at(Location::file(node.path.display().to_string()))
}

/// Where nothing runs: a job is looked at.
#[derive(Debug)]
struct NoIo;

impl Io for NoIo {
    fn spawn(&self, _future: BoxFuture<'static, ()>) {}

    fn sleep(&self, _micros: i64) -> BoxFuture<'static, ()> {
        Box::pin(futures::future::pending())
    }
}

/// A source that a job reads.
struct StreamSourceTable {
    stream: Arc<dyn StreamSource>,
    table: SourceTable,
}

struct Catalog {
    /// The model, and its statement.
    node: Node,
    compiled: CompiledSql,
    context: SessionContext,
    /// Where corrections lie.
    store: Arc<dyn ObjectStore>,
    tables: BTreeMap<String, StreamSourceTable>,
    io: Arc<dyn Io>,
}

impl Catalog {
    fn table(&self, name: &str) -> Result<&StreamSourceTable> {
        self.tables
            .get(name)
            .ok_or_else(|| Error::internal(format!("stream \"{name}\" was not registered")))
    }

    /// The watermark of a table as an expression over `schema`.
    fn watermark(&self, table: &SourceTable, schema: &DFSchema) -> Result<Option<Expr>> {
        let Some(watermark) = &table.watermark else { return Ok(None) };
        let expr = self.context.parse_sql_expr(&watermark.expr, schema).map_err(|error| {
            query_error(error, || {
                format!("could not read the watermark of source \"{}\"", table.id)
            })
            .at(watermark.location.clone())
        })?;
        Ok(Some(cast_expr(expr, TIME)))
    }
}

impl StreamCatalog for Catalog {
    fn locate(&self, place: Option<(u64, u64)>) -> Option<Location> {
        Some(relations::location_of(place, &self.node, &self.compiled))
    }

    fn find(&self, keyword: &str) -> Option<(u64, u64)> {
        // Of the text of another model nothing is known here.
        let is_alone = self.node.refs.is_empty();
        is_alone.then(|| place_in(&self.compiled.sql, keyword)).flatten()
    }

    fn time(&self, name: &str) -> Result<Option<TimeColumn>> {
        let StreamSourceTable { stream, table } = self.table(name)?;
        let Some(watermark) = &table.watermark else { return Ok(None) };
        let schema = stream.schema();
        let column = schema.index_of(&watermark.column).map_err(|_| {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let error = Error::new(
                code::CONFIG,
                format!("source \"{name}\" has no column \"{}\"", watermark.column),
            )
            .at(watermark.location.clone());
            match freshet_core::config::nearest(&watermark.column, names) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("declare it under `columns:`"),
            }
        })?;
        let whole = to_df(&schema)?;
        let expr = self.watermark(table, &whole)?.expect("there is one");
        let mut needs = vec![column];
        for reference in expr.column_refs() {
            needs.push(whole.index_of_column(reference).map_err(|error| {
                query_error(error, || format!("the watermark of source \"{name}\" is wrong"))
                    .at(watermark.location.clone())
            })?);
        }
        let primary_key = table.primary_key.iter().map(|name| {
            schema.index_of(name).map_err(|_| {
                let message =
                    format!("source \"{}\" has no column \"{name}\" for its primary key", table.id);
                Error::new(code::CONFIG, message).at(table.location.clone())
            })
        });
        let primary_key = primary_key.collect::<Result<Vec<_>>>()?;
        Ok(Some(TimeColumn { column, needs, primary_key }))
    }

    fn source(
        &self,
        name: &str,
        projection: &[usize],
    ) -> Result<(Arc<dyn JobSource>, Option<WatermarkSpec>)> {
        let StreamSourceTable { stream, table } = self.table(name)?;
        let schema = Arc::new(stream.schema().project(projection).map_err(arrow_error)?);
        let schema = to_df(&schema)?;
        let watermark = match (self.watermark(table, &schema)?, &table.watermark) {
            (Some(expr), Some(watermark)) => Some(WatermarkSpec {
                expr: compile_coerced(&self.context, expr, &schema)
                    .map_err(|error| error.at(watermark.location.clone()))?,
                idle_after: watermark
                    .idle_after
                    .map(|idle| i64::try_from(idle.0.as_micros()).unwrap_or(i64::MAX)),
                when_idle: match watermark.when_idle {
                    freshet_project::WhenIdle::Wait => WhenIdle::Wait,
                    freshet_project::WhenIdle::Advance => WhenIdle::Advance,
                },
            }),
            _ => None,
        };
        let input = StreamInput {
            source: Arc::clone(stream),
            projection: projection.to_vec(),
            start: Start::Configured,
            io: Arc::clone(&self.io),
            threshold: threshold(table),
            corrections: Some(Arc::new(SourceCorrections::new(&self.store, &table.id))),
        };
        Ok((Arc::new(input), watermark))
    }
}

/// How many bad records a stream may have, where the project says it.
fn threshold(table: &SourceTable) -> Option<Threshold> {
    let MaxBad { share, per } = table.stated_max_bad?;
    Some(Threshold {
        source: table.id.to_string(),
        share,
        per: per.unwrap_or(HumanDuration(MAX_BAD_SPAN)),
        only_alerts: table.on_max_bad == OnMaxBad::Alert,
    })
}

fn to_df(schema: &SchemaRef) -> Result<DFSchema> {
    Arc::clone(schema)
        .to_dfschema()
        .map_err(|error| query_error(error, || "a source's columns cannot be named".to_owned()))
}

/// Dead letters of a source's task in the form of their table.
#[derive(Debug)]
struct Letters {
    source: SourceId,
    model: String,
    clock: Arc<dyn Clock>,
}

impl ScalarExpr for Letters {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let text = |value: &str| -> ArrayRef {
            Arc::new(StringViewArray::from_iter_values(std::iter::repeat_n(value, rows)))
        };
        let partitions = batch.column(0).as_string::<i32>();
        let positions = batch.column(1).as_primitive::<Int64Type>();
        let ids = (0..rows).map(|row| {
            let position = positions.value(row).unsigned_abs();
            dead_letters::stream_id(&self.source, partitions.value(row), position)
        });
        let as_text = |column: usize| cast(batch.column(column), &DataType::Utf8View);
        let null = |data_type: &DataType| arrow::array::new_null_array(data_type, rows);
        let now = TimestampMicrosecondArray::from_value(self.clock.now_micros(), rows);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(ids)),
            text("stream"),
            text(&self.model),
            text(self.source.as_str()),
            as_text(0).map_err(arrow_error)?,
            null(&DataType::Utf8View),
            null(&DataType::Int64),
            Arc::clone(batch.column(2)),
            Arc::clone(batch.column(1)),
            as_text(3).map_err(arrow_error)?,
            as_text(4).map_err(arrow_error)?,
            as_text(5).map_err(arrow_error)?,
            Arc::clone(batch.column(6)),
            Arc::new(now.with_timezone("UTC")),
        ];
        let fields = dead_letters::schema().fields().clone();
        Ok(Arc::new(
            arrow::array::StructArray::try_new(fields, columns, None).map_err(arrow_error)?,
        ))
    }
}

/// One column of [`Letters`].
#[derive(Debug)]
struct LetterColumn {
    letters: Arc<dyn ScalarExpr>,
    column: usize,
}

impl ScalarExpr for LetterColumn {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        // Each column makes them all: bad records are few, or the job stops.
        let letters = self.letters.evaluate(batch)?;
        Ok(Arc::clone(letters.as_struct().column(self.column)))
    }
}
