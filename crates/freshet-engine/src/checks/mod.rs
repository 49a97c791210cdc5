//! Checks: what must be true of a table before it is published.
//!
//! A declared [`Check`] is read into a [`Rule`] (arguments validated, nothing run), the rules of
//! one table are compiled into as few queries as possible ([`CheckPlan`]), and [`run`] evaluates
//! them on a staged version and says how each ended.
//!
//! This module knows tables only as names in a [`SessionContext`]: nothing of staging, of the lake
//! or of runs.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use freshet_core::clock::Clock;
use freshet_core::{Error, ModelId, Result, SourceId};
use freshet_project::Check;

use crate::report::{CheckReport, CheckStatus};

mod compile;
mod info;
mod parse;
mod quarantine;
mod rule;
mod run;
mod sql;

pub use compile::CheckPlan;
pub use info::{ArgumentInfo, RuleInfo, RuleScope, json_schema, rules};
pub use quarantine::{CHECK_COLUMN, Quarantine, QuarantineRule};
pub use rule::Rule;

/// A table that a rule names beside its own: `ref('…')` or `source('…', '…')`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Relation {
    /// A model or seed.
    Node(ModelId),
    /// A source table.
    Source(SourceId),
    /// A name in SQL, used as it is.
    Name(String),
}

/// Gives the name in SQL of a relation, or `None` where the session has no such table.
pub type Relations = Arc<dyn Fn(&Relation) -> Option<TableReference> + Send + Sync>;

/// When rules are evaluated, which decides what `on_fail: quarantine` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// On new rows, before any are taken out: `mostly` and `error_if` bound how many may be.
    BeforeQuarantine,
    /// On the version that is to be published. Rows that still fail were in the table before.
    AfterQuarantine,
    /// On something from which no row is taken: a view, a source, a published table.
    AsItIs,
}

/// What rules need beside their table.
#[derive(Clone)]
pub struct CheckEnv {
    /// The clock for `freshness`.
    pub clock: Arc<dyn Clock>,
    /// Row counts of earlier runs, newest first, for `volume`.
    pub history: Vec<u64>,
    /// Where other tables are, for `relationships`.
    pub relations: Relations,
    /// What can be done about rows that fail.
    pub when: When,
}

impl std::fmt::Debug for CheckEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckEnv")
            .field("clock", &self.clock)
            .field("history", &self.history)
            .field("when", &self.when)
            .finish_non_exhaustive()
    }
}

/// Reads a check: its rule's name, its arguments and, where the table's `schema` is known, its
/// columns. Errors carry the check's location and the nearest valid name.
pub fn parse(check: &Check, schema: Option<&Schema>) -> Result<Rule> {
    parse::parse(check, schema)
}

/// Reads many checks and names all errors at once.
pub fn parse_all(checks: &[Check], schema: Option<&Schema>) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(checks.len());
    let mut errors = Vec::new();
    for check in checks {
        match parse(check, schema) {
            Ok(rule) => rules.push(rule),
            Err(error) => errors.push(error),
        }
    }
    Error::join(errors).map_or(Ok(rules), Err)
}

/// A rule out of a query whose rows are failures: a singular test, or a generic test of the
/// project's own, with its templates rendered into `sql`. It is given to [`run`] like any other;
/// the table is then of no account.
pub fn query_rule(check: &Check, sql: impl Into<String>) -> Result<Rule> {
    parse::query_rule(check, sql.into())
}

/// The report of a check that cannot be evaluated: it names the place, and stops no other check.
pub fn unevaluated(check: &Check, error: &Error) -> CheckReport {
    let place = error.location().unwrap_or(&check.location);
    let hint = error.hint_text().map(|hint| format!(" ({hint})")).unwrap_or_default();
    CheckReport {
        name: check.name.clone(),
        rule: check.rule.clone(),
        status: CheckStatus::Error,
        failures: 0,
        rows: 0,
        value: None,
        message: format!("{place}: {}{hint}", error.chain()),
        sample: Vec::new(),
    }
}

/// Whether a rule can say which rows fail, so that they can be taken out.
pub fn takes_rows_out(rule: &Rule) -> bool {
    run::takes_rows_out(rule)
}

/// Whether a check took out so many rows (`warn_if`) that it is to be said.
pub fn warns(check: &Check, report: &CheckReport) -> bool {
    run::warns(check, report)
}

/// Compiles the rules of one table into as few scans of it as possible.
///
/// `schema` is the table's. Nothing is run.
pub fn compile(
    rules: &[Rule],
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<CheckPlan> {
    compile::compile(rules, table, schema, env)
}

/// Evaluates rules on a table of the session and reports in their order.
///
/// A rule that cannot be evaluated ends with [`crate::report::CheckStatus::Error`] and stops no
/// other. An error of the whole is only that the table is not there.
pub async fn run(
    ctx: &SessionContext,
    table: &TableReference,
    rules: &[Rule],
    env: &CheckEnv,
) -> Result<Vec<CheckReport>> {
    run::run(ctx, table, rules, env).await
}

/// The query that marks the rows of `table` that rules with `on_fail: quarantine` take out; `None`
/// where no rule of the kind is among `rules`.
///
/// See [`Quarantine`] for how rows are told apart.
pub fn quarantine(
    rules: &[Rule],
    table: &TableReference,
    schema: &Schema,
    env: &CheckEnv,
) -> Result<Option<Quarantine>> {
    quarantine::quarantine(rules, table, schema, env)
}
