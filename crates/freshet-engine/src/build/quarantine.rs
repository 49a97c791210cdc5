//! Rows that checks take out of a result before it is staged.
//!
//! Only models with an `on_fail: quarantine` check pay for it: their new rows are written to
//! scratch files first, told apart there, and what is kept is read back.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type};
use datafusion::common::TableReference;
use datafusion::prelude::{SessionContext, ident};
use freshet_core::error::code;
use freshet_core::{EdgeCounts, Error, Result, ResultExt};
use freshet_project::{Check, OnFail};
use futures::TryStreamExt;

use super::Build;
use super::audit::{self, Prepared, Subject};
use super::execute::new_rows;
use crate::checks::{self, CHECK_COLUMN, QuarantineRule, Relation, When};
use crate::engine::Engine;
use crate::lake::{NewRows, Snapshot, StageMode, StageRequest, StagedChange, TableName};
use crate::report::DeadLetter;
use crate::session::{self, CATALOG, query_error};

/// Rows that one build may put into quarantine; more mean that the model is wrong, not its rows.
const MAX_QUARANTINED: usize = 1_000_000;

/// The schema in which a table's new rows stand together with those that stay.
const BESIDE_SCHEMA: &str = "_freshet_beside";

/// New rows after quarantine.
pub(super) enum Split {
    /// No check of the kind is declared.
    Untouched(NewRows),
    /// Some rows may have been taken out.
    Taken {
        /// The rows to stage.
        kept: NewRows,
        /// The rows taken out.
        letters: Vec<DeadLetter>,
        /// Scratch files, to be removed once the kept rows were read.
        scratch: Box<StagedChange>,
    },
}

impl Build<'_> {
    /// Tells kept rows from those that a check takes out.
    ///
    /// `beside` is the version whose rows stay beside the new ones.
    pub(super) async fn quarantine(
        &mut self,
        rows: NewRows,
        beside: Option<&Snapshot>,
    ) -> Result<Split> {
        self.taken_out.clear();
        let declared: Vec<_> = self
            .engine
            .checks_of(&self.node.id)
            .into_iter()
            .filter(|check| check.on_fail == OnFail::Quarantine && check.raw_sql.is_none())
            .collect();
        if declared.is_empty() {
            return Ok(Split::Untouched(rows));
        }
        let lake = self.engine.lake();
        let scratch = lake
            .stage(
                StageRequest {
                    table: TableName::new("_freshet_scratch", self.table.to_string()),
                    base: None,
                    mode: StageMode::Overwrite,
                    partition_by: Vec::new(),
                    on_schema_change: freshet_project::OnSchemaChange::Ignore,
                    parameters: BTreeMap::new(),
                },
                rows,
            )
            .await?;
        match self.tell_apart(&scratch, &declared, beside).await {
            Ok((kept, letters)) => Ok(Split::Taken { kept, letters, scratch: Box::new(scratch) }),
            Err(error) => {
                lake.discard(&scratch).await?;
                Err(error)
            }
        }
    }

    /// Where more rows fail than a check lets be taken out, none are: all are staged, the check
    /// fails, and they can be looked at.
    async fn tell_apart(
        &mut self,
        scratch: &StagedChange,
        declared: &[Check],
        beside: Option<&Snapshot>,
    ) -> Result<(NewRows, Vec<DeadLetter>)> {
        let lake = self.engine.lake();
        let context = self.engine.query_context()?;
        let snapshot = lake.staged_snapshot(scratch).await?;
        let provider = lake.provider(&snapshot);
        session::register(&context, &self.table.schema, &self.table.name, provider)?;
        let subject = self.new_rows_beside(&context, beside).await?;
        let Prepared { mut rules, env, .. } = audit::prepare(
            self.engine,
            &context,
            Some(&subject),
            Some(&snapshot.schema),
            declared,
            &self.task.history,
            When::BeforeQuarantine,
        )
        .await;
        // The audit reports those that cannot be read.
        rules.retain(|(_, rule)| checks::takes_rows_out(rule));
        let rules: Vec<_> = rules.into_iter().map(|(_, rule)| rule).collect();
        self.taken_out = checks::run(&context, &subject.table, &rules, &env).await?;
        for (rule, report) in rules.iter().zip(&self.taken_out) {
            if checks::warns(rule.check(), report) {
                self.report
                    .warnings
                    .push(format!("check \"{}\" took out {}", report.name, report.message));
            }
        }
        let what = || format!("could not quarantine rows of model \"{}\"", self.node.id);
        let threads = self.engine.sessions().threads();
        let quarantine = match Engine::any_failed(&self.taken_out) {
            true => None,
            false => checks::quarantine(&rules, &subject.table, &snapshot.schema, &env)?,
        };
        let Some(quarantine) = quarantine else {
            let all = context.table(subject.table).await.map_err(|e| query_error(e, what))?;
            let plan = self.physical(all).await?;
            return Ok((new_rows(&context, &[plan], threads)?, Vec::new()));
        };
        let marked = context.sql(&quarantine.sql).await.map_err(|e| query_error(e, what))?;
        let bad = marked
            .clone()
            .filter(ident(CHECK_COLUMN).is_not_null())
            .map_err(|e| query_error(e, what))?;
        let letters = self.collect_letters(bad, &quarantine.rules).await?;
        let kept = marked
            .filter(ident(CHECK_COLUMN).is_null())
            .and_then(|frame| frame.drop_columns(&[CHECK_COLUMN]))
            .map_err(|e| query_error(e, what))?;
        let plan = self.physical(kept).await?;
        let rows_in = scratch.counts.rows_in;
        let dead = letters.len() as u64;
        self.report.edges.insert(
            "check".into(),
            EdgeCounts { rows_in, rows_out: rows_in - dead.min(rows_in), dead, filtered: 0 },
        );
        Ok((new_rows(&context, &[plan], threads)?, letters))
    }

    /// The new rows, which are registered under the table's name. A check that looks for values in
    /// the model itself finds those of the rows that stay as well.
    async fn new_rows_beside(
        &self,
        context: &SessionContext,
        beside: Option<&Snapshot>,
    ) -> Result<Subject> {
        let what = || format!("could not read table \"{}\"", self.table);
        let table = self.own_table();
        let relation = Relation::Node(self.node.id.clone());
        let Some(beside) = beside else {
            return Ok(Subject { relation, others: table.clone(), table });
        };
        let held = context
            .read_table(self.engine.lake().provider(beside))
            .map_err(|e| query_error(e, what))?;
        let both = context
            .table(table.clone())
            .await
            .and_then(|new| new.union_by_name(held))
            .map_err(|e| query_error(e, what))?;
        session::register(context, BESIDE_SCHEMA, &self.table.name, both.into_view())?;
        let others = TableReference::full(CATALOG, BESIDE_SCHEMA, self.table.name.as_str());
        Ok(Subject { relation, table, others })
    }

    async fn collect_letters(
        &self,
        bad: datafusion::dataframe::DataFrame,
        rules: &[QuarantineRule],
    ) -> Result<Vec<DeadLetter>> {
        let what = || format!("could not read the quarantined rows of model \"{}\"", self.node.id);
        let mut stream = bad.execute_stream().await.map_err(|e| query_error(e, what))?;
        let mut letters = Vec::new();
        while let Some(batch) = stream.try_next().await.map_err(|e| query_error(e, what))? {
            self.letters_of(&batch, rules, &mut letters)?;
            if letters.len() > MAX_QUARANTINED {
                return Err(Error::new(
                    code::LIMIT,
                    format!(
                        "checks of model \"{}\" take out more than {MAX_QUARANTINED} rows",
                        self.node.id
                    ),
                )
                .hint("mend the model or the check; a quarantine is for a few rows"));
            }
        }
        Ok(letters)
    }

    fn letters_of(
        &self,
        batch: &RecordBatch,
        rules: &[QuarantineRule],
        letters: &mut Vec<DeadLetter>,
    ) -> Result<()> {
        let what = || "could not write quarantined rows as JSON".to_owned();
        let last = batch.num_columns() - 1;
        let marks = arrow::compute::cast(batch.column(last), &DataType::Int32)
            .or_code(code::INTERNAL, what)?;
        let marks = marks.as_primitive::<Int32Type>();
        let columns: Vec<usize> = (0..last).collect();
        let rows = batch.project(&columns).or_code(code::INTERNAL, what)?;
        let mut json = arrow::json::LineDelimitedWriter::new(Vec::new());
        json.write(&rows).or_code(code::INTERNAL, what)?;
        json.finish().or_code(code::INTERNAL, what)?;
        let json = json.into_inner();
        let now = self.engine.clock().now();
        for (row, raw) in json.split(|byte| *byte == b'\n').take(batch.num_rows()).enumerate() {
            let rule = marks
                .is_valid(row)
                .then(|| usize::try_from(marks.value(row)).ok())
                .flatten()
                .and_then(|index| rules.get(index))
                .ok_or_else(|| Error::internal("a quarantined row names no rule"))?;
            letters.push(DeadLetter {
                id: format!("{}/{}:{}", self.node.id, self.task.run, letters.len()),
                run: self.task.run.clone(),
                model: self.node.id.clone(),
                source: self.node.id.to_string(),
                file: None,
                digest: None,
                size: None,
                line: None,
                offset: None,
                column: rule.column.clone(),
                rule: rule.check.clone(),
                message: rule.message.clone(),
                raw: raw.to_vec(),
                at: now,
            });
        }
        Ok(())
    }
}
