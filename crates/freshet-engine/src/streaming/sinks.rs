//! Where the rows of a streaming model go: its table, and the sinks that its config names, each at
//! the end of a stage of its own and committed on its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use freshet_core::error::code;
use freshet_core::registry::StreamSinkSpec;
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, EventTime, Generation, PendingCommit, Refused, SinkWriter, StreamSink,
    Token, Wake,
};
use freshet_core::{Error, Location, Result};
use freshet_project::{Node, SinkConfig};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operator::{MAIN, OperatorSpec};
use freshet_runtime::plan::{EdgePlan, SinkPlan, StageInput, StagePlan};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parking_lot::Mutex;
use serde_json::Value;

use super::job::StreamOptions;
use super::lake_sink::{LakeFigures, LakeSink};
use super::refused::{REFUSED, Refusing};
use crate::dead_letters;
use crate::engine::Engine;
use crate::relations::table_of;

/// A sink of a streaming model.
#[derive(Debug, Clone)]
pub struct JobSink {
    /// What it writes to, for people.
    pub target: String,
    /// What it promises.
    pub guarantee: Guarantee,
    /// Whether rows are seen only once their checkpoint is durable.
    pub waits_for_checkpoint: bool,
    /// The least time between two commits; zero commits each checkpoint.
    pub commit_interval: Duration,
    /// What becomes of its rows.
    pub figures: Arc<LakeFigures>,
}

/// What a model's result is, as far as its sinks ask.
pub(super) struct Outcome<'a> {
    /// The stage whose last operator gives it.
    pub stage: usize,
    /// Its columns.
    pub schema: &'a SchemaRef,
    /// Whether rows of it are taken back.
    pub updating: bool,
}

impl Engine {
    /// Puts the sinks of a model at the end of its stages.
    pub(super) fn add_sinks(
        &self,
        node: &Node,
        job: &str,
        outcome: &Outcome<'_>,
        stages: &mut Vec<StagePlan>,
        letters: &LakeSink,
        options: &StreamOptions,
    ) -> Result<Vec<JobSink>> {
        let mut sinks = Vec::new();
        for (described, plan) in self.plan_sinks(node, job, outcome, options.commit_interval)? {
            sinks.push(described);
            let output = &mut stages[outcome.stage];
            // What others read of the output is not checked with it.
            let refuses = plan.sink.can_refuse();
            if output.sink.is_none() && !refuses {
                output.sink = Some(plan);
                continue;
            }
            let edge = EdgePlan {
                from: outcome.stage,
                operator: output.operators.len().saturating_sub(1),
                port: MAIN,
                input: 0,
                partitioning: Partitioning::Forward,
                schema: Arc::clone(outcome.schema),
            };
            let (id, parallelism) = (plan.id.clone(), output.parallelism);
            let checks = refuses.then(|| -> (String, Arc<dyn OperatorSpec>) {
                let (sink, schema) = (Arc::clone(&plan.sink), Arc::clone(outcome.schema));
                let refusing = Refusing { sink, schema, model: node.id.clone() };
                (format!("what is refused by {id}"), Arc::new(refusing))
            });
            stages.push(StagePlan {
                id: format!("into {id}"),
                parallelism,
                input: StageInput::Edges(vec![edge]),
                operators: checks.into_iter().collect(),
                sink: Some(plan),
            });
            if refuses {
                let edge = EdgePlan {
                    from: stages.len() - 1,
                    operator: 0,
                    port: REFUSED,
                    input: 0,
                    partitioning: Partitioning::Forward,
                    schema: dead_letters::schema(),
                };
                let name = format!("refused by {id}");
                stages.push(StagePlan {
                    id: format!("dead letters {name}"),
                    parallelism,
                    input: StageInput::Edges(vec![edge]),
                    operators: Vec::new(),
                    sink: Some(SinkPlan {
                        sink: Arc::new(letters.clone().called(&name)),
                        id: name,
                        commit_interval: options.commit_interval,
                    }),
                });
            }
        }
        Ok(sinks)
    }

    /// The sinks of a model; touches nothing outside. `commit_interval` is in microseconds.
    pub(super) fn plan_sinks(
        &self,
        node: &Node,
        job: &str,
        outcome: &Outcome<'_>,
        commit_interval: i64,
    ) -> Result<Vec<(JobSink, SinkPlan)>> {
        let table = [SinkConfig {
            connector: SinkConfig::TABLE.to_owned(),
            connection: None,
            commit_interval: None,
            options: serde_json::Map::new(),
            location: Location::file(node.path.display().to_string()),
        }];
        let configs = match node.config.sinks.as_slice() {
            [] => &table,
            named => named,
        };
        let mut sinks: Vec<(JobSink, SinkPlan)> = Vec::new();
        for config in configs {
            let at = |error: Error| error.at(config.location.clone());
            let (id, sink, figures) =
                self.sink_of(node, job, outcome.schema, config).map_err(at)?;
            let target = sink.target();
            check_changes(&sink.changes(), outcome, &target).map_err(at)?;
            if sinks.iter().any(|(_, other)| other.id == id) {
                return Err(at(Error::new(
                    code::CONFIG,
                    format!("two sinks of model \"{}\" write to {target}", node.id),
                )
                .hint("leave one of them out")));
            }
            let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
            let commit_interval = match config.commit_interval {
                Some(interval) => micros(interval.0),
                None if sink.makes_files() => commit_interval,
                None => 0,
            };
            let described = JobSink {
                target,
                guarantee: sink.guarantee(),
                waits_for_checkpoint: sink.waits_for_checkpoint(),
                commit_interval: Duration::from_micros(commit_interval.unsigned_abs()),
                figures,
            };
            sinks.push((described, SinkPlan { id, sink, commit_interval }));
        }
        Ok(sinks)
    }

    /// A sink, and the id by which checkpoints know it.
    fn sink_of(
        &self,
        node: &Node,
        job: &str,
        schema: &SchemaRef,
        config: &SinkConfig,
    ) -> Result<(String, Arc<dyn StreamSink>, Arc<LakeFigures>)> {
        let (id, sink): (String, Arc<dyn StreamSink>) = if config.is_table() {
            let sink = LakeSink::new(
                self.lake().clone(),
                job,
                table_of(self.project(), node),
                Arc::clone(schema),
                node.config.partition_by.clone(),
                node.config.on_schema_change,
            );
            ("table".into(), Arc::new(sink.keyed(node.config.unique_key.clone())))
        } else {
            let spec = StreamSinkSpec {
                writer: job.to_owned(),
                table: node.alias().to_owned(),
                schema: Arc::clone(schema),
                unique_key: node.config.unique_key.clone(),
            };
            let context = self.connector_context(config.connection.as_deref())?;
            let options = Value::Object(config.options.clone());
            let connector = self.registry().get(&config.connector)?;
            let sink = connector.stream_sink(&options, &spec, &context)?;
            (format!("{} {}", config.connector, sink.target()), sink)
        };
        let figures = Arc::<LakeFigures>::default();
        let counted = Counted {
            sink,
            schema: Arc::clone(schema),
            figures: Arc::clone(&figures),
            epochs: Arc::new(Mutex::default()),
        };
        Ok((id, Arc::new(counted), figures))
    }
}

/// Refuses a result that a sink cannot take.
fn check_changes(changes: &Changes, outcome: &Outcome<'_>, target: &str) -> Result<()> {
    match changes {
        Changes::All => Ok(()),
        Changes::Upsert { key } => key.iter().try_for_each(|column| {
            outcome.schema.index_of(column).map(drop).map_err(|_| {
                let names = outcome.schema.fields().iter().map(|field| field.name().as_str());
                let error = Error::new(
                    code::CONFIG,
                    format!("the result has no column \"{column}\", a key of {target}"),
                );
                match freshet_core::config::nearest(column, names) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => error.hint("select it, or name another column in `unique_key`"),
                }
            })
        }),
        Changes::Append if !outcome.updating => Ok(()),
        Changes::Append => Err(Error::new(
            code::SQL,
            format!("rows of the result are taken back and replaced, but {target} is only appended to"),
        )
        .hint(
            "name the columns that identify a row as `unique_key` (of a topic, with `upsert: true`), \
             or group by a window, whose rows are final",
        )),
    }
}

/// A sink whose rows are counted, and have the names of the result: operators name columns as they
/// like.
#[derive(Debug)]
struct Counted {
    sink: Arc<dyn StreamSink>,
    schema: SchemaRef,
    figures: Arc<LakeFigures>,
    /// Rows of epochs that were staged by this process and are not committed.
    epochs: Arc<Mutex<BTreeMap<Epoch, u64>>>,
}

#[async_trait]
impl StreamSink for Counted {
    fn guarantee(&self) -> Guarantee {
        self.sink.guarantee()
    }

    fn changes(&self) -> Changes {
        self.sink.changes()
    }

    fn target(&self) -> String {
        self.sink.target()
    }

    fn waits_for_checkpoint(&self) -> bool {
        self.sink.waits_for_checkpoint()
    }

    fn makes_files(&self) -> bool {
        self.sink.makes_files()
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        self.sink.stage_in(store);
    }

    fn can_refuse(&self) -> bool {
        self.sink.can_refuse()
    }

    fn refuses(&self, rows: &Rows) -> Result<Vec<Refused>> {
        self.sink.refuses(rows)
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        self.epochs.lock().clear();
        let writers = self.sink.open(claim, wakes).await?;
        let counted = |writer| -> Box<dyn SinkWriter> {
            Box::new(CountedWriter {
                writer,
                schema: Arc::clone(&self.schema),
                rows: 0,
                figures: Arc::clone(&self.figures),
                epochs: Arc::clone(&self.epochs),
            })
        };
        Ok(writers.into_iter().map(counted).collect())
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        self.sink.commit(generation, pending).await?;
        let Some(last) = pending.last() else { return Ok(()) };
        let mut epochs = self.epochs.lock();
        let later = epochs.split_off(&last.epoch.next());
        let rows: u64 = std::mem::replace(&mut *epochs, later).into_values().sum();
        self.figures.committed.fetch_add(rows, Ordering::Relaxed);
        self.figures.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[derive(Debug)]
struct CountedWriter {
    writer: Box<dyn SinkWriter>,
    schema: SchemaRef,
    /// Since the last epoch.
    rows: u64,
    figures: Arc<LakeFigures>,
    epochs: Arc<Mutex<BTreeMap<Epoch, u64>>>,
}

impl SinkWriter for CountedWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        let count = rows.len() as u64;
        self.writer.write(named(rows, &self.schema)?)?;
        self.rows += count;
        self.figures.written.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    fn on_watermark(&mut self, watermark: EventTime) -> Result<()> {
        self.writer.on_watermark(watermark)
    }

    fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    fn cut(&mut self, epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        *self.epochs.lock().entry(epoch).or_default() += std::mem::take(&mut self.rows);
        self.writer.cut(epoch)
    }
}

/// The rows with the columns of `schema`, by their places.
pub(super) fn named(rows: Rows, schema: &SchemaRef) -> Result<Rows> {
    if rows.schema().fields() == schema.fields() {
        return Ok(rows);
    }
    let fields = schema.fields().iter().zip(rows.batch().columns());
    let columns = fields.map(|(field, column)| match column.data_type() == field.data_type() {
        true => Ok(Arc::clone(column)),
        false => cast(column, field.data_type()).map_err(arrow_error),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(arrow_error)?;
    Ok(rows.with_batch(batch))
}
