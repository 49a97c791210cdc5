//! Queries that build nothing: ad-hoc SQL over the project, previews, dead letters, and compiling
//! everything without touching anything.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionContext, ident, lit};
use freshet_core::error::code;
use freshet_core::source::Overlay;
use freshet_core::{Error, Location, ModelId, Result, SourceId};
use freshet_project::{CheckTarget, Materialized, Node, NodeKind, RenderContext};
use futures::TryStreamExt;
use futures::future::BoxFuture;

use crate::checks;
use crate::dead_letters;
use crate::engine::Engine;
use crate::lake::{AsOf, TableName};
use crate::late_rows;
use crate::relations::{self, ReadMode, plan_sql, table_of};
use crate::report::DeadLetter;
use crate::session::{self, query_error};

/// The schema of Freshet's own tables in SQL.
const OWN_SCHEMA: &str = "freshet";

impl Engine {
    /// Runs one statement over the project's models, sources, dead letters
    /// (`freshet.dead_letters`), and late rows (`freshet.late_rows`). Names that the project does not have are left to the error of
    /// planning. Statements that would change something are refused.
    pub fn query<'a>(
        &'a self,
        sql: &'a str,
        as_of: Option<AsOf>,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        Box::pin(async move {
            let context = self.query_context()?;
            let expanded = crate::functions::expand_macros(sql, &self.project().sql_macros)?;
            let sql = expanded.trim().trim_end_matches(';');
            self.register_mentioned(&context, sql, as_of).await?;
            let plan =
                context.state().create_logical_plan(sql).await.map_err(|error| {
                    query_error(error, || "could not plan the query".to_owned())
                })?;
            if matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_)) {
                return Err(Error::new(code::SQL, "a query here only reads")
                    .hint("tables are made by models and `freshet run`"));
            }
            DataFrame::new(context.state(), plan)
                .execute_stream()
                .await
                .map_err(|error| query_error(error, || "could not run the query".to_owned()))
        })
    }

    /// The first rows of a node as its SQL gives them now, or of its table.
    pub fn preview<'a>(
        &'a self,
        id: &'a ModelId,
        limit: usize,
    ) -> BoxFuture<'a, Result<SendableRecordBatchStream>> {
        Box::pin(async move {
            let node = self.node(id)?;
            let context = self.query_context()?;
            let what = || format!("could not preview model \"{id}\"");
            let frame = if node.kind == NodeKind::Seed || relations::is_query(node) {
                let ids = std::slice::from_ref(id);
                relations::register_named(self, &context, ids, &[], &ReadMode::default()).await?;
                let name = table_of(self.project(), node);
                context
                    .table(TableReference::full(session::CATALOG, name.schema, name.name))
                    .await
                    .map_err(|error| query_error(error, what))?
            } else {
                relations::register_inputs(self, &context, node, &ReadMode::default()).await?;
                let compiled = self.project().compile(id, &RenderContext::default())?;
                let plan = plan_sql(self, &context, node, &compiled).await?;
                DataFrame::new(context.state(), plan)
            };
            frame
                .limit(0, Some(limit))
                .map_err(|error| query_error(error, what))?
                .execute_stream()
                .await
                .map_err(|error| query_error(error, what))
        })
    }

    /// Registers the tables that a statement mentions, as far as the project has them.
    async fn register_mentioned(
        &self,
        context: &SessionContext,
        sql: &str,
        as_of: Option<AsOf>,
    ) -> Result<()> {
        let state = context.state();
        let dialect = state.config_options().sql_parser.dialect;
        let statement = state
            .sql_to_statement(sql, &dialect)
            .map_err(|error| query_error(error, || "could not read the query".to_owned()))?;
        let mentioned = state
            .resolve_table_references(&statement)
            .map_err(|error| query_error(error, || "could not read the query".to_owned()))?;
        let project = self.project();
        let mut nodes = Vec::new();
        let mut sources = Vec::new();
        for reference in mentioned {
            let schema = reference.schema().unwrap_or(&project.environment.schema);
            let table = reference.table();
            let own = match table {
                "dead_letters" if schema == OWN_SCHEMA => self.dead_letter_table().await?,
                "late_rows" if schema == OWN_SCHEMA => {
                    self.own_table(&late_rows::table(), late_rows::schema()).await?
                }
                _ => {
                    self.mentioned(schema, table, &mut nodes, &mut sources);
                    continue;
                }
            };
            session::register(context, OWN_SCHEMA, table, own)?;
        }
        let mode = ReadMode { as_of, ..ReadMode::default() };
        relations::register_named(self, context, &nodes, &sources, &mode).await?;
        Ok(())
    }

    /// Adds what the project has of this name.
    fn mentioned(
        &self,
        schema: &str,
        table: &str,
        nodes: &mut Vec<ModelId>,
        sources: &mut Vec<SourceId>,
    ) {
        let project = self.project();
        let node = project.nodes.values().find(|node| {
            let name = table_of(project, node);
            name.schema == schema && name.name == table
        });
        if let Some(node) = node {
            nodes.push(node.id.clone());
        } else if project.sources.contains_key(&SourceId::of(schema, table)) {
            sources.push(SourceId::of(schema, table));
        }
    }

    async fn dead_letter_table(&self) -> Result<Arc<dyn TableProvider>> {
        self.own_table(&dead_letters::table(), dead_letters::schema()).await
    }

    /// One of Freshet's own tables; without rows where nobody has written to it.
    async fn own_table(
        &self,
        table: &TableName,
        schema: SchemaRef,
    ) -> Result<Arc<dyn TableProvider>> {
        Ok(match self.lake().load(table, None).await? {
            Some(snapshot) => self.lake().provider(&snapshot),
            None => Arc::new(EmptyTable::new(schema)),
        })
    }

    /// The dead letters of a source (or model, for quarantined rows), or of all; newest run first,
    /// then in the order of file and offset. A record that was found more than once is given once.
    pub fn dead_letters<'a>(
        &'a self,
        source: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>>> {
        Box::pin(async move {
            let what = || "could not read the dead letters".to_owned();
            let context = self.query_context()?;
            let table = self.dead_letter_table().await?;
            let mut frame = context.read_table(table).map_err(|e| query_error(e, what))?;
            if let Some(source) = source {
                frame = frame
                    .filter(ident("source").eq(lit(source)))
                    .map_err(|e| query_error(e, what))?;
            }
            let sorted = frame
                .sort(vec![
                    ident("at").sort(false, false),
                    ident("file").sort(true, true),
                    ident("offset").sort(true, true),
                ])
                .map_err(|e| query_error(e, what))?;
            let mut stream = sorted.execute_stream().await.map_err(|e| query_error(e, what))?;
            let mut seen = HashSet::new();
            let mut letters = Vec::new();
            while let Some(batch) = stream.try_next().await.map_err(|e| query_error(e, what))? {
                for letter in dead_letters::from_batch(&batch)? {
                    if seen.insert(letter.id.clone()) {
                        letters.push(letter);
                        if letters.len() >= limit {
                            return Ok(letters);
                        }
                    }
                }
            }
            Ok(letters)
        })
    }

    /// Compiles every node and check and touches nothing: all errors at once.
    ///
    /// Only a source without declared columns has its files' heads read, for their names.
    pub fn compile_all<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let context = self.query_context()?;
            let mut errors = Vec::new();
            let mut broken: HashSet<ModelId> = HashSet::new();
            let mut broken_sources: HashSet<SourceId> = HashSet::new();
            for id in self.project().sources.keys() {
                if let Err(error) = self.declare_source(&context, id).await {
                    broken_sources.insert(id.clone());
                    errors.push(error);
                }
            }
            for node in self.project().nodes.values() {
                let hopeless = node.refs.iter().any(|id| broken.contains(id))
                    || node.sources.iter().any(|id| broken_sources.contains(id));
                if hopeless {
                    broken.insert(node.id.clone());
                    continue;
                }
                if let Err(error) = self.declare_node(&context, node).await {
                    broken.insert(node.id.clone());
                    errors.push(error);
                }
            }
            self.compile_checks(&context, &broken, &mut errors).await;
            Error::join(errors).map_or(Ok(()), Err)
        })
    }

    async fn declare_source(&self, context: &SessionContext, id: &SourceId) -> Result<()> {
        let table = self.source_table(id)?;
        if table.connector.is_none() {
            return match self.lake_schema(&table.source, &table.table).await? {
                Some(schema) => {
                    let empty = Arc::new(EmptyTable::new(schema));
                    session::register(context, &table.source, &table.table, empty)
                }
                None => Ok(()),
            };
        }
        if self.is_only_streamed(table)? {
            let schema = self.stream_source(table)?.schema();
            let empty = Arc::new(EmptyTable::new(schema));
            return session::register(context, &table.source, &table.table, empty);
        }
        let source = self.source(table, None).await?;
        // Without splits, planning reads nothing and gives the columns of the contract; with some,
        // it reads their heads.
        let requests = if table.contract.columns.is_empty() {
            let whole = freshet_core::source::Extent::Whole;
            let splits = source.splits().await?;
            splits
                .into_iter()
                .take(1)
                .map(|split| freshet_core::source::SplitRequest { split, extent: whole.clone() })
                .collect()
        } else {
            Vec::new()
        };
        let scan = source.plan(requests, Arc::new(Overlay::default())).await?;
        let empty = Arc::new(EmptyTable::new(scan.schema()));
        session::register(context, &table.source, &table.table, empty)
    }

    async fn lake_schema(
        &self,
        schema: &str,
        name: &str,
    ) -> Result<Option<arrow::datatypes::SchemaRef>> {
        for schema in [schema, self.project().environment.schema.as_str()] {
            let table = crate::lake::TableName::new(schema, name);
            if let Some(snapshot) = self.lake().load(&table, None).await? {
                return Ok(Some(snapshot.schema));
            }
        }
        Ok(None)
    }

    /// The columns of a node, from the SQL of all that it is made of; nothing is read but the heads
    /// of sources without declared columns.
    pub(crate) async fn declared_schema(
        &self,
        context: &SessionContext,
        node: &Node,
    ) -> Result<arrow::datatypes::SchemaRef> {
        let mut reached: HashSet<ModelId> = HashSet::new();
        let mut pending = vec![node.id.clone()];
        while let Some(id) = pending.pop() {
            if reached.insert(id.clone()) {
                pending.extend(self.node(&id)?.refs.iter().cloned());
            }
        }
        let nodes = self.project().nodes.values().filter(|node| reached.contains(&node.id));
        let mut declared: HashSet<SourceId> = HashSet::new();
        for reached in nodes {
            for source in &reached.sources {
                if declared.insert(source.clone()) {
                    self.declare_source(context, source).await?;
                }
            }
            self.declare_node(context, reached).await?;
        }
        let name = table_of(self.project(), node);
        let table = TableReference::full(session::CATALOG, name.schema, name.name);
        let provider = context
            .table_provider(table)
            .await
            .map_err(|error| query_error(error, || format!("could not plan \"{}\"", node.id)))?;
        Ok(provider.schema())
    }

    async fn declare_node(&self, context: &SessionContext, node: &Node) -> Result<()> {
        let name = table_of(self.project(), node);
        let file = || Location::file(node.path.display().to_string());
        let is_stream = node.config.materialized == Materialized::Stream;
        let schema = if is_stream || self.reads_streams(node)? {
            self.check_stream(node).await?
        } else if node.config.materialized == Materialized::Seed {
            let seed = self.seed(context, node).await.map_err(|error| error.at(file()))?;
            Arc::new(seed.schema().as_arrow().clone())
        } else {
            let compiled = self.project().compile(&node.id, &RenderContext::default())?;
            let plan = plan_sql(self, context, node, &compiled).await?;
            let frame = DataFrame::new(context.state(), plan);
            let shaped = crate::build::shaped(frame, node)?;
            Arc::new(shaped.schema().as_arrow().clone())
        };
        let empty = Arc::new(EmptyTable::new(schema));
        session::register(context, &name.schema, &name.name, empty)
    }

    async fn compile_checks(
        &self,
        context: &SessionContext,
        broken: &HashSet<ModelId>,
        errors: &mut Vec<Error>,
    ) {
        let mut schemas: BTreeMap<ModelId, arrow::datatypes::SchemaRef> = BTreeMap::new();
        for check in &self.project().checks {
            let outcome = match &check.target {
                CheckTarget::Node(id) if !broken.contains(id) => {
                    if !schemas.contains_key(id) {
                        let Ok(node) = self.node(id) else { continue };
                        let name = table_of(self.project(), node);
                        let reference =
                            TableReference::full(session::CATALOG, name.schema, name.name);
                        if let Ok(table) = context.table_provider(reference).await {
                            schemas.insert(id.clone(), table.schema());
                        }
                    }
                    let schema = schemas.get(id).map(AsRef::as_ref);
                    match &check.raw_sql {
                        Some(_) => self.project().compile_check_sql(check).map(drop),
                        None => checks::parse(check, schema).map(drop),
                    }
                }
                CheckTarget::Source(_) if check.raw_sql.is_some() => {
                    self.project().compile_check_sql(check).map(drop)
                }
                CheckTarget::Source(_) => checks::parse(check, None).map(drop),
                CheckTarget::Query { nodes, .. }
                    if nodes.iter().all(|node| !broken.contains(node)) =>
                {
                    self.plan_check(context, check).await
                }
                CheckTarget::Node(_) | CheckTarget::Query { .. } => Ok(()),
            };
            if let Err(error) = outcome {
                errors.push(error.at(check.location.clone()));
            }
        }
    }

    async fn plan_check(
        &self,
        context: &SessionContext,
        check: &freshet_project::Check,
    ) -> Result<()> {
        let compiled = self.project().compile_check_sql(check)?;
        let sql = crate::functions::expand_macros(&compiled.sql, &self.project().sql_macros)?;
        context
            .state()
            .create_logical_plan(sql.trim().trim_end_matches(';'))
            .await
            .map(drop)
            .map_err(|error| {
                query_error(error, || format!("could not plan test \"{}\"", check.name))
            })
    }
}
