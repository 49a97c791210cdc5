//! What a query reads: the tables, views and sources behind its names, registered in a context.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use freshet_core::contract::Evolution;
use freshet_core::error::code;
use freshet_core::source::{Purpose, Scan, Split, SplitReport};
use freshet_core::{Error, Location, ModelId, Result, SourceId};
use freshet_project::{CompiledSql, Materialized, Node, Project, RenderContext, SourceTable};

use crate::engine::Engine;
use crate::lake::{AsOf, TableName};
use crate::report::{ConsumedSplit, ModelProgress};
use crate::scan::{ScanTable, ScanTracker};
use crate::session;
use crate::splits::{self, Selection};

/// A source that a build reads.
#[derive(Debug)]
pub struct SourceInput {
    /// The source.
    pub id: SourceId,
    /// What is read of it now.
    pub scan: Arc<dyn Scan>,
    /// Splits chosen, and those left alone.
    pub selection: Selection,
    /// All splits that there are.
    pub all: Vec<Split>,
}

/// Everything behind a query's names.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Sources, in the order of their first mention.
    pub sources: Vec<SourceInput>,
    /// Versions of the tables that are read.
    pub versions: BTreeMap<ModelId, u64>,
    /// Notes which scans were started.
    pub tracker: ScanTracker,
}

impl Inputs {
    /// Whether any source has something to read.
    pub fn has_new_splits(&self) -> bool {
        self.sources.iter().any(|source| !source.selection.requests.is_empty())
    }
}

/// How inputs are read.
#[derive(Debug, Clone, Default)]
pub struct ReadMode {
    /// Only splits that are not consumed yet, and corrections that are not applied yet.
    pub only_new: Option<ModelProgress>,
    /// Splits that an earlier attempt set aside.
    pub exclude: BTreeSet<(SourceId, String)>,
    /// Of the tables, the version to read.
    pub as_of: Option<AsOf>,
    /// What earlier attempts found that the data of sources needs.
    pub evolved: BTreeMap<SourceId, Evolution>,
    /// What sources are read for.
    pub purpose: Purpose,
}

/// The lake's name of a node's table.
pub fn table_of(project: &Project, node: &Node) -> TableName {
    let schema = node.config.schema.as_deref().unwrap_or(&project.environment.schema);
    TableName::new(schema, node.alias())
}

/// Whether a node is a query that is evaluated where it is used.
pub fn is_query(node: &Node) -> bool {
    matches!(node.config.materialized, Materialized::View | Materialized::Ephemeral)
}

/// Registers everything that `node` reads, directly or through views.
pub async fn register_inputs(
    engine: &Engine,
    context: &SessionContext,
    node: &Node,
    mode: &ReadMode,
) -> Result<Inputs> {
    let mut registrar = Registrar {
        engine,
        context,
        mode,
        inputs: Inputs::default(),
        seen: HashSet::new(),
        seen_sources: HashSet::new(),
    };
    registrar.closure(&node.refs, &node.sources).await?;
    Ok(registrar.inputs)
}

/// Registers the given nodes and sources, and what they read.
pub async fn register_named(
    engine: &Engine,
    context: &SessionContext,
    nodes: &[ModelId],
    sources: &[SourceId],
    mode: &ReadMode,
) -> Result<Inputs> {
    let mut registrar = Registrar {
        engine,
        context,
        mode,
        inputs: Inputs::default(),
        seen: HashSet::new(),
        seen_sources: HashSet::new(),
    };
    registrar.closure(nodes, sources).await?;
    Ok(registrar.inputs)
}

struct Registrar<'a> {
    engine: &'a Engine,
    context: &'a SessionContext,
    mode: &'a ReadMode,
    inputs: Inputs,
    seen: HashSet<ModelId>,
    seen_sources: HashSet<SourceId>,
}

impl Registrar<'_> {
    /// Nodes of the project are in dependency order, so that walking the set of all that is
    /// reached in that order registers each view after what it reads.
    async fn closure(&mut self, nodes: &[ModelId], sources: &[SourceId]) -> Result<()> {
        let project = self.engine.project();
        let mut reached: HashSet<ModelId> = HashSet::new();
        let mut pending: Vec<ModelId> = nodes.to_vec();
        while let Some(id) = pending.pop() {
            if !reached.insert(id.clone()) {
                continue;
            }
            let node = self.engine.node(&id)?;
            if is_query(node) {
                pending.extend(node.refs.iter().cloned());
            }
        }
        for source in sources {
            self.source(source).await?;
        }
        let ordered: Vec<&Node> =
            project.nodes.values().filter(|node| reached.contains(&node.id)).collect();
        for node in ordered {
            let name = table_of(project, node);
            if !self.seen.insert(node.id.clone()) || self.has(&name.schema, &name.name) {
                continue;
            }
            if is_query(node) {
                for source in &node.sources {
                    self.source(source).await?;
                }
                self.view(node).await?;
            } else {
                self.table(node).await?;
            }
        }
        Ok(())
    }

    /// Whether the context has a table already: of one that is being built, the staged version.
    fn has(&self, schema: &str, name: &str) -> bool {
        let schema = self.context.catalog(session::CATALOG).and_then(|all| all.schema(schema));
        schema.is_some_and(|schema| schema.table_exist(name))
    }

    async fn view(&mut self, node: &Node) -> Result<()> {
        let project = self.engine.project();
        let compiled = project.compile(&node.id, &RenderContext::default())?;
        let plan = plan_sql(self.engine, self.context, node, &compiled).await?;
        let name = table_of(project, node);
        let view = Arc::new(ViewTable::new(plan, Some(compiled.sql)));
        session::register(self.context, &name.schema, &name.name, view)
    }

    async fn table(&mut self, node: &Node) -> Result<()> {
        let name = table_of(self.engine.project(), node);
        let snapshot = self.engine.lake().load(&name, self.mode.as_of).await?.ok_or_else(|| {
            Error::new(
                code::REFERENCE,
                format!("the table of model \"{}\" does not exist", node.id),
            )
            .at(Location::file(node.path.display().to_string()))
            .hint(format!("build it first: `freshet run --select {}`", node.id))
        })?;
        if self.mode.as_of.is_some() {
            self.engine.lake().check_whole(&snapshot).await?;
        }
        self.inputs.versions.insert(node.id.clone(), snapshot.version);
        let provider = self.engine.lake().provider(&snapshot);
        session::register(self.context, &name.schema, &name.name, provider)
    }

    async fn source(&mut self, id: &SourceId) -> Result<()> {
        if !self.seen_sources.insert(id.clone()) {
            return Ok(());
        }
        let table = self.engine.source_table(id)?;
        if self.has(&table.source, &table.table) {
            return Ok(());
        }
        if table.connector.is_none() {
            return self.lake_source(table).await;
        }
        let source = self.engine.source(table, self.mode.evolved.get(id)).await?;
        let all = source.splits().await.map_err(|error| error.at(table.location.clone()))?;
        let overlay = Arc::new(self.engine.overlay(id).await?);
        let kept: Vec<Split> = all
            .iter()
            .filter(|split| !self.mode.exclude.contains(&(id.clone(), split.id.clone())))
            .cloned()
            .collect();
        let nothing: BTreeMap<String, ConsumedSplit> = BTreeMap::new();
        let consumed = self
            .mode
            .only_new
            .as_ref()
            .and_then(|progress| progress.consumed.get(id))
            .unwrap_or(&nothing);
        let incremental = self.mode.only_new.is_some();
        let selection = splits::select(table, kept, consumed, &overlay, incremental)?;
        let scan = source.plan(selection.requests.clone(), overlay).await?;
        let (read, tracker) = (Arc::clone(&scan), self.inputs.tracker.clone());
        let provider = ScanTable::new(id.clone(), read, self.mode.purpose, tracker);
        session::register(self.context, &table.source, &table.table, Arc::new(provider))?;
        self.inputs.sources.push(SourceInput { id: id.clone(), scan, selection, all });
        Ok(())
    }

    /// A source without a connector is a table that is in the lake already: dbt's meaning.
    async fn lake_source(&mut self, table: &SourceTable) -> Result<()> {
        let place = TableName::new(&table.source, &table.table);
        let in_main = TableName::new(&self.engine.project().environment.schema, &table.table);
        for name in [place, in_main] {
            if let Some(snapshot) = self.engine.lake().load(&name, self.mode.as_of).await? {
                if self.mode.as_of.is_some() {
                    self.engine.lake().check_whole(&snapshot).await?;
                }
                let provider = self.engine.lake().provider(&snapshot);
                return session::register(self.context, &table.source, &table.table, provider);
            }
        }
        Err(Error::new(
            code::SOURCE,
            format!("source \"{}\" has no connector and is no table of the lake", table.id),
        )
        .at(table.location.clone())
        .hint("say where its data is with `connector:` and `with:`"))
    }
}

/// Plans a node's SQL; errors point into the node's file.
pub async fn plan_sql(
    engine: &Engine,
    context: &SessionContext,
    node: &Node,
    compiled: &CompiledSql,
) -> Result<LogicalPlan> {
    let expanded = crate::functions::expand_macros(&compiled.sql, &engine.project().sql_macros)
        .map_err(|error| error.at(Location::file(node.path.display().to_string())))?;
    let plan = context
        .state()
        .create_logical_plan(expanded.trim_end().trim_end_matches(';'))
        .await
        .map_err(|error| sql_error(error, node, compiled))?;
    match &plan {
        LogicalPlan::Ddl(_)
        | LogicalPlan::Dml(_)
        | LogicalPlan::Copy(_)
        | LogicalPlan::Statement(_) => {
            Err(Error::new(code::SQL, format!("model \"{}\" is not a query", node.id))
                .at(Location::file(node.path.display().to_string()))
                .hint("a model is one SELECT; Freshet makes the table around it"))
        }
        _ => Ok(plan),
    }
}

fn sql_error(error: DataFusionError, node: &Node, compiled: &CompiledSql) -> Error {
    let location = location_of(place_of(&error), node, compiled);
    session::query_error(error, || format!("could not plan the SQL of model \"{}\"", node.id))
        .at(location)
}

/// The line and column of the statement that an error is about, where it says so.
pub fn place_of(error: &DataFusionError) -> Option<(u64, u64)> {
    error
        .diagnostic()
        .and_then(|diagnostic| diagnostic.span)
        .map(|span| (span.start.line, span.start.column))
        .or_else(|| place_in_message(&error.to_string()))
}

/// Where a line and column of a node's compiled SQL stand in its file.
pub fn location_of(place: Option<(u64, u64)>, node: &Node, compiled: &CompiledSql) -> Location {
    let file = node.path.display().to_string();
    match place {
        Some((line, column)) => {
            let index = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
            match compiled.lines.get(index).copied() {
                Some(line) if line > 0 => {
                    Location { file, line, column: u32::try_from(column).unwrap_or(0) }
                }
                _ => Location::file(file),
            }
        }
        None => Location::file(file),
    }
}

/// The place in messages of sqlparser: `… at Line: 3, Column: 14`.
pub fn place_in_message(message: &str) -> Option<(u64, u64)> {
    let (_, rest) = message.split_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let column: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((line.trim().parse().ok()?, column.parse().ok()?))
}

/// The reports of everything that was read, one for each split of each source.
///
/// A source that a plan reads twice has two scans with equal reports; a source that a plan did not
/// read to its end (a `limit`, an empty join) is read again for the account alone, so that what is
/// bad in it never depends on the query.
pub async fn reports(
    inputs: &Inputs,
    threads: usize,
) -> Result<BTreeMap<SourceId, Vec<SplitReport>>> {
    use freshet_core::source::SplitStatus;
    use futures::TryStreamExt;

    let mut all = BTreeMap::new();
    let running = inputs.tracker.running();
    for source in &inputs.sources {
        let finished =
            running.iter().filter(|(id, _)| *id == source.id).map(|(_, scan)| scan.report()).find(
                |report| report.splits.iter().all(|split| split.status != SplitStatus::Unfinished),
            );
        let report = match finished {
            Some(report) => report,
            None => {
                let again = source.scan.start(&[], session::BATCH_ROWS, Purpose::Build)?;
                let workers = (0..threads).map(|_| {
                    let mut worker = again.worker();
                    async move {
                        while worker.try_next().await?.is_some() {}
                        Ok::<_, Error>(())
                    }
                });
                // An error here is a split that was set aside, which the report says.
                let drained = futures::future::try_join_all(workers).await;
                let report = again.report();
                if !again.evolution().is_empty() {
                    inputs.tracker.push(source.id.clone(), Arc::clone(&again));
                }
                let aside = report.splits.iter().any(|s| s.status == SplitStatus::SetAside);
                match drained {
                    Err(error) if !aside => return Err(error),
                    _ => report,
                }
            }
        };
        all.insert(source.id.clone(), report.splits);
    }
    Ok(all)
}
