//! After publishing: the warehouse gets the rows, exports get their files.
//!
//! A load is committed under the intent's number, so that one which a crash prevented is made up
//! for by the next build of the model, and one which was made is not made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::prelude::{Expr, ident, lit};
use freshet_core::error::code;
use freshet_core::sink::{CommitId, LoadMode, LoadRequest};
use freshet_core::source::Interval;
use freshet_core::{EdgeCounts, Error, Location, Result, ResultExt, crash};
use freshet_project::{ExportConfig, IncrementalStrategy, LoadConfig, Materialized};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::Build;
use super::execute::new_rows;
use crate::intent::{self, APP, Intent};
use crate::lake::{DataFile, ExportFormat, ExportTarget, Snapshot, TableName, export};
use crate::session::query_error;
use crate::store;

/// What a warehouse lacks of a table.
struct Pending {
    mode: LoadMode,
    files: Vec<DataFile>,
    intervals: Vec<Interval>,
}

impl Build<'_> {
    /// Loads what the warehouse does not hold yet.
    pub(super) async fn load_pending(&mut self) -> Result<()> {
        let Some(config) = self.node.config.load.clone() else { return Ok(()) };
        let environment = &self.engine.project().environment;
        let Some(connection) = config.connection.clone().or_else(|| environment.warehouse.clone())
        else {
            self.report.warnings.push(format!(
                "environment \"{}\" has no warehouse: nothing was loaded",
                environment.name
            ));
            return Ok(());
        };
        let lake = self.engine.lake();
        let Some(snapshot) = lake.load(&self.table, None).await? else { return Ok(()) };
        let number = lake.last_transaction(&snapshot, APP).await?;
        let target = config.table.clone().unwrap_or_else(|| self.table.name.clone());
        let writer = format!("{}/{}", environment.name, self.table);
        let sink = self
            .engine
            .sink(&connection, &target)
            .map_err(|error| error.at(Location::file(self.node.path.display().to_string())))?;
        let committed = sink.committed(&writer).await?;
        if committed >= number {
            return Ok(());
        }
        let pending = self.pending(&config, &snapshot, committed, number).await?;
        let event_time = self.node.config.event_time.clone();
        let request = LoadRequest {
            id: CommitId { writer, number },
            mode: pending.mode,
            unique_key: self.node.config.unique_key.clone(),
            intervals: match (pending.mode, &event_time) {
                (LoadMode::ReplaceInterval, Some(column)) => {
                    Some((column.clone(), pending.intervals.clone()))
                }
                _ => None,
            },
        };
        let context = self.engine.query_context()?;
        let provider = lake.files_provider(&snapshot, pending.files);
        let what = || format!("could not read the rows of model \"{}\"", self.node.id);
        let mut frame = context.read_table(provider).map_err(|e| query_error(e, what))?;
        if let (LoadMode::ReplaceInterval, Some(column)) = (pending.mode, &event_time) {
            let within = within(column, &pending.intervals);
            frame = frame.filter(within).map_err(|e| query_error(e, what))?;
        }
        let plan = self.physical(frame).await?;
        let rows = new_rows(&context, std::slice::from_ref(&plan), 1)?;
        let stream = futures::stream::iter(rows.streams)
            .flatten()
            .map_err(|error| query_error(error, || "could not read rows to load".to_owned()))
            .boxed();
        let staged = sink.stage(request, Arc::clone(&rows.schema), stream).await?;
        let edge = match sink.commit(&staged).await {
            Ok(edge) => edge,
            Err(error) => {
                // Its own failure says less than the commit's.
                if let Err(abort) = sink.abort(&staged).await {
                    tracing::warn!(model = %self.node.id, error = %abort.chain(), "could not remove a staged load");
                }
                return Err(error);
            }
        };
        crash::point("publish.loaded");
        self.balance(&connection, edge)
    }

    fn balance(&mut self, connection: &str, edge: EdgeCounts) -> Result<()> {
        self.report.edges.insert(format!("load:{connection}"), edge);
        if edge.balances() {
            return Ok(());
        }
        Err(Error::internal(format!(
            "the rows loaded into \"{connection}\" do not add up: {edge:?}"
        )))
    }

    /// What is missing, from the intents that the warehouse has not seen. Where they do not tell
    /// (the first load, a rebuilt table, files that were rewritten since), all rows are.
    async fn pending(
        &self,
        config: &LoadConfig,
        snapshot: &Snapshot,
        committed: u64,
        number: u64,
    ) -> Result<Pending> {
        let everything = Pending {
            mode: LoadMode::Replace,
            files: snapshot.files.as_ref().clone(),
            intervals: Vec::new(),
        };
        let mode = config.mode.unwrap_or(match self.node.config.materialized {
            Materialized::Incremental => match self.node.config.strategy() {
                IncrementalStrategy::Append => LoadMode::Append,
                IncrementalStrategy::Merge => LoadMode::Merge,
                IncrementalStrategy::Microbatch => LoadMode::ReplaceInterval,
                IncrementalStrategy::DeleteInsert | IncrementalStrategy::InsertOverwrite => {
                    LoadMode::Replace
                }
            },
            _ => LoadMode::Replace,
        });
        if mode == LoadMode::Replace || committed == 0 {
            return Ok(everything);
        }
        let store = self.engine.lake().store();
        let listed = intent::list(store, &self.table).await?;
        let mut intents: Vec<Intent> = Vec::new();
        for missed in listed.numbers.into_iter().filter(|n| *n > committed && *n <= number) {
            intents.push(intent::read(store, &self.table, missed).await?);
        }
        if intents.is_empty() || intents.iter().any(|intent| intent.rebuilds) {
            return Ok(everything);
        }
        if mode == LoadMode::ReplaceInterval {
            let intervals: BTreeSet<Interval> =
                intents.iter().flat_map(|intent| intent.report.batches.iter().copied()).collect();
            return Ok(Pending { mode, intervals: intervals.into_iter().collect(), ..everything });
        }
        let removed: BTreeSet<&str> = intents
            .iter()
            .flat_map(|intent| intent.change.removes.iter().map(|file| file.path.as_str()))
            .collect();
        let added: BTreeSet<&str> = intents
            .iter()
            .flat_map(|intent| intent.change.adds.iter().map(|file| file.path.as_str()))
            .filter(|path| !removed.contains(path))
            .collect();
        let files: Vec<DataFile> = snapshot
            .files
            .iter()
            .filter(|file| added.contains(file.path.as_str()))
            .cloned()
            .collect();
        if files.len() != added.len() {
            return Ok(everything);
        }
        Ok(Pending { mode, files, intervals: Vec::new() })
    }

    /// Writes the model's rows to files, where it is declared and the files are not of this version.
    pub(super) async fn export(&mut self) -> Result<()> {
        let Some(config) = self.node.config.export.clone() else { return Ok(()) };
        let here = || Location::file(self.node.path.display().to_string());
        let format = match config.format.as_str() {
            "parquet" => ExportFormat::Parquet,
            "csv" => ExportFormat::Csv,
            "ndjson" => ExportFormat::Ndjson,
            other => {
                return Err(Error::new(code::CONFIG, format!("\"{other}\" is no export format"))
                    .at(here())
                    .hint("formats are parquet, csv and ndjson"));
            }
        };
        let options = self.engine.connector_context(config.connection.as_deref())?;
        let place = if config.path.contains("://") {
            config.path.clone()
        } else {
            options.project_dir.join(&config.path).display().to_string()
        };
        let lake = self.engine.lake();
        let Some(snapshot) = lake.load(&self.table, None).await? else {
            return Ok(());
        };
        let written = Exported {
            number: lake.last_transaction(&snapshot, APP).await?,
            config: config.clone(),
        };
        if Exported::read(lake.store(), &self.table).await?.as_ref() == Some(&written) {
            return Ok(());
        }
        let (object_store, _) = store::open_on(self.engine.files(), &place, &options.connection)?;
        let context = self.engine.query_context()?;
        let frame = context
            .read_table(lake.provider(&snapshot))
            .map_err(|e| query_error(e, || "could not read rows to export".to_owned()))?;
        let plan = self.physical(frame).await?;
        let rows = new_rows(&context, &[plan], self.engine.sessions().threads())?;
        let target = ExportTarget {
            store: object_store,
            prefix: String::new(),
            format,
            compression: config.compression.unwrap_or(format.compression()),
            partition_by: config.partition_by,
            name: self.table.name.clone(),
        };
        let files = export(rows, &target).await.map_err(|error| error.at(here()))?;
        crash::point("publish.exported");
        written.write(lake.store(), &self.table).await?;
        let rows: u64 = files.iter().filter_map(|file| file.rows).sum();
        let rows_in = snapshot.rows().unwrap_or(rows);
        let edge = EdgeCounts { rows_in, rows_out: rows, dead: 0, filtered: 0 };
        self.report.edges.insert("export".into(), edge);
        Ok(())
    }
}

/// What the files of an export hold. It is kept in the lake, so that an export which a crash
/// prevented is made up for, and one whose files are right is not made again.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Exported {
    /// The intent of the table's version.
    number: u64,
    /// Where they are and how they are written.
    config: ExportConfig,
}

impl Exported {
    fn path(table: &TableName) -> Path {
        Path::from_iter(["_freshet".to_owned(), "exports".to_owned(), format!("{table}.json")])
    }

    /// `None` where nothing was exported, or by a version of Freshet that wrote it differently.
    async fn read(store: &Arc<dyn ObjectStore>, table: &TableName) -> Result<Option<Self>> {
        let what = || format!("could not read what is exported of table \"{table}\"");
        let bytes = match store.get(&Self::path(table)).await {
            Ok(found) => found.bytes().await.or_code(code::LAKE, what)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error).or_code(code::LAKE, what),
        };
        Ok(serde_json::from_slice(&bytes).ok())
    }

    async fn write(&self, store: &Arc<dyn ObjectStore>, table: &TableName) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::internal("could not write down an export").caused_by(error))?;
        store.put(&Self::path(table), bytes.into()).await.or_code(code::LAKE, || {
            format!("could not write down what is exported of table \"{table}\"")
        })?;
        Ok(())
    }
}

/// Whether a column of event time lies in one of the spans.
fn within(column: &str, intervals: &[Interval]) -> Expr {
    let instant = |at: chrono::NaiveDateTime| {
        lit(ScalarValue::TimestampMicrosecond(Some(at.and_utc().timestamp_micros()), None))
    };
    intervals
        .iter()
        .map(|span| {
            ident(column).gt_eq(instant(span.start)).and(ident(column).lt(instant(span.end)))
        })
        .reduce(Expr::or)
        .unwrap_or_else(|| lit(false))
}
