//! Checks between staging and publishing: the staged version is a table of a session of its own.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result};
use freshet_project::{Check, CheckTarget};

use super::Build;
use crate::checks::{self, CheckEnv, Relation, Rule};
use crate::engine::Engine;
use crate::lake::StagedChange;
use crate::relations::{self, table_of};
use crate::report::CheckStatus;
use crate::session::{self, CATALOG};

impl Build<'_> {
    /// Runs the node's checks on the version that `change` would make; fails where one fails.
    pub(super) async fn audit(&mut self, change: &StagedChange) -> Result<()> {
        let declared = self.engine.checks_of(&self.node.id);
        if declared.is_empty() {
            return Ok(());
        }
        let context = self.engine.query_context()?;
        let lake = self.engine.lake();
        let staged = lake.staged_snapshot(change).await?;
        let provider = lake.provider(&staged);
        session::register(&context, &self.table.schema, &self.table.name, provider)?;
        self.judge(&context, &declared).await
    }

    /// Runs the checks of a node that is a query; it is registered already.
    pub(super) async fn audit_query(&mut self, context: &SessionContext) -> Result<()> {
        let declared = self.engine.checks_of(&self.node.id);
        if declared.is_empty() {
            return Ok(());
        }
        self.judge(context, &declared).await
    }

    async fn judge(&mut self, context: &SessionContext, declared: &[Check]) -> Result<()> {
        let table =
            TableReference::full(CATALOG, self.table.schema.as_str(), self.table.name.as_str());
        self.report.checks =
            run_checks(self.engine, context, &self.node.id, &table, declared, &self.task.history)
                .await?;
        let failed = self.failed_checks();
        if failed.is_empty() {
            return Ok(());
        }
        let names = failed.join(", ");
        Err(Error::new(
            code::CHECK_FAILED,
            format!("{} of model \"{}\" failed: {names}", count(failed.len()), self.node.id),
        )
        .hint("the old version stays; mend the data or the model and run again"))
    }
}

fn count(n: usize) -> String {
    if n == 1 { "1 check".to_owned() } else { format!("{n} checks") }
}

/// Runs checks of one table, registered as `table`. Other tables that they name are registered
/// where they exist.
pub(crate) async fn run_checks(
    engine: &Engine,
    context: &SessionContext,
    node: &ModelId,
    table: &TableReference,
    declared: &[Check],
    history: &[u64],
) -> Result<Vec<crate::report::CheckReport>> {
    let provider = context.table_provider(table.clone()).await.map_err(|error| {
        session::query_error(error, || format!("could not check table \"{table}\""))
    })?;
    let schema = provider.schema();
    let mut rules: Vec<Rule> = Vec::with_capacity(declared.len());
    let mut errors = Vec::new();
    for check in declared {
        let rule = match &check.raw_sql {
            Some(_) => engine
                .project()
                .compile_check_sql(check)
                .and_then(|compiled| checks::query_rule(check, compiled.sql)),
            None => checks::parse(check, Some(&schema)),
        };
        match rule {
            Ok(rule) => rules.push(rule),
            Err(error) => errors.push(error),
        }
    }
    if let Some(error) = Error::join(errors) {
        return Err(error);
    }
    let mut known: HashSet<Relation> = HashSet::from([Relation::Node(node.clone())]);
    let others: Vec<Relation> = rules
        .iter()
        .filter_map(|rule| rule.relation().cloned())
        .chain(declared.iter().flat_map(query_relations))
        .collect();
    for relation in others {
        if known.contains(&relation) {
            continue;
        }
        let registered = match &relation {
            Relation::Node(id) => {
                let ids = std::slice::from_ref(id);
                relations::register_named(engine, context, ids, &[], &Default::default()).await
            }
            Relation::Source(id) => {
                let ids = std::slice::from_ref(id);
                relations::register_named(engine, context, &[], ids, &Default::default()).await
            }
            Relation::Name(_) => continue,
        };
        // A table that is not there makes its check an error, not the whole.
        if registered.is_ok() {
            known.insert(relation);
        }
    }
    let project = Arc::clone(engine.project());
    let env = CheckEnv {
        clock: Arc::clone(engine.clock()),
        history: history.to_vec(),
        relations: Arc::new(move |relation: &Relation| match relation {
            Relation::Name(name) => Some(TableReference::from(name.as_str())),
            _ if !known.contains(relation) => None,
            Relation::Node(id) => project.nodes.get(id).map(|node| {
                let name = table_of(&project, node);
                TableReference::full(CATALOG, name.schema, name.name)
            }),
            Relation::Source(id) => project.sources.get(id).map(|source| {
                TableReference::full(CATALOG, source.source.as_str(), source.table.as_str())
            }),
        }),
    };
    checks::run(context, table, &rules, &env).await
}

fn query_relations(check: &Check) -> Vec<Relation> {
    match &check.target {
        CheckTarget::Query(nodes) => nodes.iter().cloned().map(Relation::Node).collect(),
        CheckTarget::Node(_) | CheckTarget::Source(_) => Vec::new(),
    }
}

impl Engine {
    /// The checks that decide whether a node is published: its own, and the singular tests of
    /// which it is the last one to be built.
    pub(crate) fn checks_of(&self, id: &ModelId) -> Vec<Check> {
        let project = self.project();
        project
            .checks
            .iter()
            .filter(|check| match &check.target {
                CheckTarget::Node(node) => node == id,
                CheckTarget::Query(nodes) => {
                    nodes.iter().max_by_key(|node| project.nodes.get_index_of(*node)) == Some(id)
                }
                CheckTarget::Source(_) => false,
            })
            .cloned()
            .collect()
    }

    /// Whether a check at the end of `runs` failed.
    pub fn any_failed(reports: &[crate::report::CheckReport]) -> bool {
        reports.iter().any(|report| matches!(report.status, CheckStatus::Fail | CheckStatus::Error))
    }
}
