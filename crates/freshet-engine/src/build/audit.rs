//! Checks between staging and publishing: the staged version is a table of a session of its own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result};
use freshet_project::{Check, CheckTarget};

use super::Build;
use crate::checks::{self, CheckEnv, Relation, Rule, When};
use crate::engine::Engine;
use crate::functions::expand_macros;
use crate::lake::StagedChange;
use crate::relations::{self, table_of};
use crate::report::{CheckReport, CheckStatus};
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
        self.judge(&context, &declared, When::AfterQuarantine).await
    }

    /// Runs the checks of a node that is a query; it is registered already.
    pub(super) async fn audit_query(&mut self, context: &SessionContext) -> Result<()> {
        let declared = self.engine.checks_of(&self.node.id);
        if declared.is_empty() {
            return Ok(());
        }
        self.judge(context, &declared, When::AsItIs).await
    }

    async fn judge(
        &mut self,
        context: &SessionContext,
        declared: &[Check],
        when: When,
    ) -> Result<()> {
        let subject = Subject {
            relation: Relation::Node(self.node.id.clone()),
            table: self.own_table(),
            others: self.own_table(),
        };
        let mut reports =
            run_checks(self.engine, context, Some(&subject), declared, &self.task.history, when)
                .await?;
        // What was taken out is gone from the staged version; the report of it stands, unless
        // there is worse to say.
        for report in &mut reports {
            let taken = self.taken_out.iter().find(|taken| taken.name == report.name);
            if let Some(taken) = taken.filter(|taken| stands(taken.status, report.status)) {
                *report = taken.clone();
            }
        }
        self.report.checks = reports;
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

    /// The node's table as checks know it.
    pub(super) fn own_table(&self) -> TableReference {
        TableReference::full(CATALOG, self.table.schema.as_str(), self.table.name.as_str())
    }
}

/// Whether what a check found before rows were taken out stands against what it found after.
fn stands(before: CheckStatus, after: CheckStatus) -> bool {
    let weight = |status| match status {
        CheckStatus::Pass => 0,
        CheckStatus::Quarantine => 1,
        CheckStatus::Warn => 2,
        CheckStatus::Fail => 3,
        CheckStatus::Error => 4,
    };
    weight(before) > weight(after)
        || (before == after && matches!(before, CheckStatus::Fail | CheckStatus::Error))
}

fn count(n: usize) -> String {
    if n == 1 { "1 check".to_owned() } else { format!("{n} checks") }
}

/// What checks are about, registered in the session.
pub(crate) struct Subject {
    /// What checks call it.
    pub relation: Relation,
    /// Where its rows are.
    pub table: TableReference,
    /// Where its rows are for checks that look up values in it.
    pub others: TableReference,
}

/// Checks that can be evaluated, and reports of those that cannot.
pub(super) struct Prepared {
    /// The rules, with the place of each among the declared checks.
    pub rules: Vec<(usize, Rule)>,
    /// A report for each check that cannot be evaluated, by its place.
    pub unevaluated: HashMap<usize, CheckReport>,
    pub env: CheckEnv,
}

/// Runs checks of one table, or singular tests, which have none. A check that cannot be read, or
/// whose tables are not there, ends as an error of its own and stops no other.
pub(crate) async fn run_checks(
    engine: &Engine,
    context: &SessionContext,
    subject: Option<&Subject>,
    declared: &[Check],
    history: &[u64],
    when: When,
) -> Result<Vec<CheckReport>> {
    let schema = match subject {
        Some(subject) => {
            let table = &subject.table;
            let provider = context.table_provider(table.clone()).await.map_err(|error| {
                session::query_error(error, || format!("could not check table \"{table}\""))
            })?;
            Some(provider.schema())
        }
        None => None,
    };
    let prepared =
        prepare(engine, context, subject, schema.as_deref(), declared, history, when).await;
    let Prepared { rules, mut unevaluated, env } = prepared;
    let (places, rules): (Vec<usize>, Vec<Rule>) = rules.into_iter().unzip();
    // Singular tests name their tables themselves.
    let nowhere = TableReference::bare("none");
    let table = subject.map_or(&nowhere, |subject| &subject.table);
    let found = checks::run(context, table, &rules, &env).await?;
    unevaluated.extend(places.into_iter().zip(found));
    let mut reports: Vec<_> = unevaluated.into_iter().collect();
    reports.sort_unstable_by_key(|(place, _)| *place);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// Reads checks and registers the other tables that they look at.
pub(super) async fn prepare(
    engine: &Engine,
    context: &SessionContext,
    subject: Option<&Subject>,
    schema: Option<&Schema>,
    declared: &[Check],
    history: &[u64],
    when: When,
) -> Prepared {
    let mut rules: Vec<(usize, Rule)> = Vec::with_capacity(declared.len());
    let mut unevaluated = HashMap::new();
    let mut known: HashMap<Relation, TableReference> = HashMap::new();
    if let Some(subject) = subject {
        known.insert(subject.relation.clone(), subject.others.clone());
    }
    for (place, check) in declared.iter().enumerate() {
        let outcome = match read(engine, check, schema) {
            Ok(rule) => {
                let needed = relations_of(check, &rule);
                match register_all(engine, context, needed, &mut known).await {
                    Ok(()) => Ok(rule),
                    // The place is the check's: what it looks at may be well.
                    Err(error) => Err(Error::new(error.code(), error.chain())
                        .hint(error.hint_text().unwrap_or("mend the check, or what it looks at"))
                        .at(check.location.clone())),
                }
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(rule) => rules.push((place, rule)),
            Err(error) => {
                unevaluated.insert(place, checks::unevaluated(check, &error));
            }
        }
    }
    let env = CheckEnv {
        clock: Arc::clone(engine.clock()),
        history: history.to_vec(),
        relations: Arc::new(move |relation: &Relation| match relation {
            Relation::Name(name) => Some(TableReference::from(name.as_str())),
            _ => known.get(relation).cloned(),
        }),
        when,
    };
    Prepared { rules, unevaluated, env }
}

fn read(engine: &Engine, check: &Check, schema: Option<&Schema>) -> Result<Rule> {
    if check.raw_sql.is_none() {
        return checks::parse(check, schema);
    }
    let compiled = engine.project().compile_check_sql(check)?;
    checks::query_rule(check, expand_macros(&compiled.sql, &engine.project().sql_macros)?)
}

/// The tables that a check looks at beside its own.
fn relations_of(check: &Check, rule: &Rule) -> Vec<Relation> {
    let mut relations: Vec<Relation> = rule.relation().cloned().into_iter().collect();
    if let CheckTarget::Query { nodes, sources } = &check.target {
        relations.extend(nodes.iter().cloned().map(Relation::Node));
        relations.extend(sources.iter().cloned().map(Relation::Source));
    }
    relations
}

async fn register_all(
    engine: &Engine,
    context: &SessionContext,
    needed: Vec<Relation>,
    known: &mut HashMap<Relation, TableReference>,
) -> Result<()> {
    for relation in needed {
        if known.contains_key(&relation) {
            continue;
        }
        let (nodes, sources, reference) = match &relation {
            Relation::Node(id) => {
                let name = table_of(engine.project(), engine.node(id)?);
                let reference = TableReference::full(CATALOG, name.schema, name.name);
                (std::slice::from_ref(id), &[][..], reference)
            }
            Relation::Source(id) => {
                let table = engine.source_table(id)?;
                let reference =
                    TableReference::full(CATALOG, table.source.as_str(), table.table.as_str());
                (&[][..], std::slice::from_ref(id), reference)
            }
            Relation::Name(_) => continue,
        };
        relations::register_named(engine, context, nodes, sources, &Default::default()).await?;
        known.insert(relation, reference);
    }
    Ok(())
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
                CheckTarget::Query { nodes, .. } => {
                    nodes.iter().max_by_key(|node| project.nodes.get_index_of(*node)) == Some(id)
                }
                CheckTarget::Source(_) => false,
            })
            .cloned()
            .collect()
    }

    /// Whether a check at the end of `runs` failed.
    pub fn any_failed(reports: &[CheckReport]) -> bool {
        reports.iter().any(|report| matches!(report.status, CheckStatus::Fail | CheckStatus::Error))
    }
}
