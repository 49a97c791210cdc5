//! Rows that checks take out of a result before it is staged.
//!
//! Only models with an `on_fail: quarantine` check pay for it: their new rows are written to
//! scratch files first, told apart there, and what is kept is read back.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type};
use datafusion::common::TableReference;
use datafusion::prelude::ident;
use freshet_core::error::code;
use freshet_core::{EdgeCounts, Error, Result, ResultExt};
use freshet_project::OnFail;
use futures::TryStreamExt;

use super::Build;
use super::execute::new_rows;
use crate::checks::{self, CHECK_COLUMN, CheckEnv, QuarantineRule};
use crate::lake::{NewRows, StageMode, StageRequest, StagedChange, TableName};
use crate::report::DeadLetter;
use crate::session::{self, CATALOG, query_error};

/// Rows that one build may put into quarantine; more mean that the model is wrong, not its rows.
const MAX_QUARANTINED: usize = 1_000_000;

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
    pub(super) async fn quarantine(&mut self, rows: NewRows) -> Result<Split> {
        let declared: Vec<_> = self
            .engine
            .checks_of(&self.node.id)
            .into_iter()
            .filter(|check| check.on_fail == OnFail::Quarantine && check.raw_sql.is_none())
            .collect();
        if declared.is_empty() {
            return Ok(Split::Untouched(rows));
        }
        let schema = std::sync::Arc::clone(&rows.schema);
        let rules = checks::parse_all(&declared, Some(&schema))?;
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
        match self.tell_apart(&scratch, &rules).await {
            Ok((kept, letters)) => Ok(Split::Taken { kept, letters, scratch: Box::new(scratch) }),
            Err(error) => {
                lake.discard(&scratch).await?;
                Err(error)
            }
        }
    }

    async fn tell_apart(
        &mut self,
        scratch: &StagedChange,
        rules: &[checks::Rule],
    ) -> Result<(NewRows, Vec<DeadLetter>)> {
        let lake = self.engine.lake();
        let context = self.engine.query_context()?;
        let snapshot = lake.staged_snapshot(scratch).await?;
        let provider = lake.provider(&snapshot);
        session::register(&context, &self.table.schema, &self.table.name, provider)?;
        let table =
            TableReference::full(CATALOG, self.table.schema.as_str(), self.table.name.as_str());
        let env = CheckEnv {
            clock: std::sync::Arc::clone(self.engine.clock()),
            history: Vec::new(),
            relations: std::sync::Arc::new(|_| None),
        };
        let quarantine = checks::quarantine(rules, &table, &snapshot.schema, &env)?
            .ok_or_else(|| Error::internal("a quarantine check gives no predicate"))?;
        let what = || format!("could not quarantine rows of model \"{}\"", self.node.id);
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
        let threads = self.engine.sessions().threads();
        Ok((new_rows(&context, &[plan], threads)?, letters))
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
