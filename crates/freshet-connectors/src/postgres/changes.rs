//! The transactions of a stream's table: taking over, and applying the rows of epochs.
//!
//! `_freshet_streams` has a row for each job and target: which instance may write, and the last
//! epoch that the target holds. It changes together with the rows.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::error::{Error, Result, code};
use freshet_core::latest::latest;
use freshet_core::rows::{RowKind, Rows, arrow_error};
use freshet_core::staging::Staging;
use freshet_core::stream::{Claim, Epoch, Generation, PendingCommit};
use std::sync::Arc;
use tokio_postgres::{Client, Transaction};

use super::commit::{kind, make_schema, prepare_target};
use super::connect::failed;
use super::encode::CopyWriter;
use super::names::{Table, quote};
use super::{PostgresOptions, StagedColumn};

const STREAMS: &str = "_freshet_streams";
/// The session's own table, which holds the last change of each key.
const CHANGES: &str = "pg_temp._freshet_changes";
/// Whether a key has no row any more.
const GONE: &str = "_freshet_gone";
/// Characters of the server's own words that are shown.
const SHOWN: usize = 300;
/// Changes from which on the planner is told how many there are.
const ANALYZE_FROM: usize = 1_000;

/// A table, and what a job writes into it.
#[derive(Debug)]
pub(super) struct Target {
    /// Who writes.
    pub(super) job: String,
    pub(super) schema: SchemaRef,
    pub(super) table: Table,
    pub(super) columns: Vec<StagedColumn>,
    /// Its `key` is what rows replace each other by; none is that they are added.
    pub(super) options: PostgresOptions,
}

/// The error of a statement: where it is the rows that are refused, nothing but a change of the table
/// heals it.
pub(super) fn refused_or_failed(error: tokio_postgres::Error, table: &Table) -> Error {
    // Data that does not fit, and broken constraints.
    let state = error.code().map(|state| state.code().to_owned()).unwrap_or_default();
    if !state.starts_with("22") && !state.starts_with("23") {
        return failed(error, || format!("could not write table \"{table}\" of postgres"));
    }
    let about = error.as_db_error().map(|error| {
        let column = error.column().map(|column| format!(", column \"{column}\""));
        let constraint = error.constraint().map(|name| format!(", constraint \"{name}\""));
        let detail = error.detail().map(|detail| {
            let shown: String = detail.chars().take(SHOWN).collect();
            format!(": {shown}")
        });
        [column, constraint, detail].into_iter().flatten().collect::<String>()
    });
    let about = about.unwrap_or_default();
    Error::new(code::SINK_REFUSED, format!("table \"{table}\" of postgres refuses rows{about}"))
        .caused_by(error)
        .hint(
            "nothing of the epoch is in the table: change the table or its constraint and start the \
             job again, which goes on with these rows",
        )
}

impl Target {
    fn streams(&self) -> Table {
        Table { schema: self.options.schema.clone(), name: STREAMS.to_owned() }
    }

    fn refused(&self, error: tokio_postgres::Error) -> Error {
        refused_or_failed(error, &self.table)
    }

    /// Makes what is missing, and takes over from every instance before.
    pub(super) async fn open(&self, client: &mut Client, claim: Claim) -> Result<()> {
        let refused = |error| self.refused(error);
        let streams = self.streams();
        let transaction = client.transaction().await.map_err(refused)?;
        // `if not exists` does not wait for another's.
        transaction
            .execute(
                "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))",
                &[&format!("freshet streams {}", streams.schema)],
            )
            .await
            .map_err(refused)?;
        make_schema(&transaction, &streams.schema).await.map_err(refused)?;
        make_schema(&transaction, &self.table.schema).await.map_err(refused)?;
        if kind(&transaction, &streams).await?.is_none() {
            transaction
                .batch_execute(&format!(
                    "create table {} (
                        job text not null,
                        target text not null,
                        generation bigint not null,
                        epoch bigint not null,
                        committed_at timestamptz not null,
                        primary key (job, target)
                    )",
                    streams.sql()
                ))
                .await
                .map_err(refused)?;
        }
        let exists = match kind(&transaction, &self.table).await? {
            None => false,
            Some('r' | 'p') => true,
            Some(_) => {
                let message = format!("\"{}\" of postgres is not a table", self.table);
                return Err(Error::new(code::LOAD, message)
                    .hint("a view or foreign table has this name: write into another"));
            }
        };
        prepare_target(&transaction, &self.table, exists, &self.columns).await?;
        if !exists && !self.options.key.is_empty() {
            // So that a key is found without looking through the table.
            let index = format!(
                "create unique index on {} ({})",
                self.table.sql(),
                names(&self.options.key).join(", ")
            );
            transaction.batch_execute(&index).await.map_err(refused)?;
        }
        let generation = number(claim.generation.0)?;
        let row = transaction
            .query_one(
                format!(
                    "insert into {0} as s (job, target, generation, epoch, committed_at)
                     values ($1, $2, $3, 0, pg_catalog.now())
                     on conflict (job, target) do update set
                        generation = greatest(s.generation, excluded.generation)
                     returning generation, epoch",
                    streams.sql()
                )
                .as_str(),
                &[&self.job, &self.table.to_string(), &generation],
            )
            .await
            .map_err(refused)?;
        let (held_generation, held): (i64, i64) = (row.get(0), row.get(1));
        if held_generation > generation {
            return Err(self.fenced(held_generation));
        }
        let held = u64::try_from(held).unwrap_or(0);
        if held > claim.epoch.0 {
            return Err(Error::new(
                code::STATE,
                format!(
                    "table \"{}\" of postgres holds epoch {held} of this job, whose checkpoints end at {}",
                    self.table, claim.epoch
                ),
            )
            .hint(format!(
                "the job's checkpoints were deleted or set back: restore them, or drop the table and its row in {streams}"
            )));
        }
        transaction.commit().await.map_err(refused)
    }

    fn fenced(&self, by: i64) -> Error {
        let message = format!(
            "generation {by} of job \"{}\" has taken over table \"{}\" of postgres",
            self.job, self.table
        );
        Error::new(code::FENCED, message).hint(format!(
            "only one instance of a job may run; where the job begins anew, without its checkpoints, drop the table and its row in {}",
            self.streams()
        ))
    }

    /// Checks that nobody has taken over, and keeps it so to the end of the transaction; gives the
    /// epoch that the table holds. `lock` is how the row is locked.
    async fn check(
        &self,
        transaction: &Transaction<'_>,
        generation: Generation,
        lock: &str,
    ) -> Result<Epoch> {
        let query = format!(
            "select generation, epoch from {} where job = $1 and target = $2 for {lock}",
            self.streams().sql()
        );
        let row = transaction
            .query_opt(query.as_str(), &[&self.job, &self.table.to_string()])
            .await
            .map_err(|error| self.refused(error))?;
        let Some(row) = row else {
            let message =
                format!("job \"{}\" has no row in table \"{}\"", self.job, self.streams());
            return Err(Error::new(code::STATE, message)
                .hint("somebody removed it while the job writes: start the job again"));
        };
        let (by, epoch): (i64, i64) = (row.get(0), row.get(1));
        if by > number(generation.0)? {
            return Err(self.fenced(by));
        }
        Ok(Epoch(u64::try_from(epoch).unwrap_or(0)))
    }

    /// Applies what was staged for epochs that the table does not hold.
    pub(super) async fn commit(
        &self,
        client: &mut Client,
        generation: Generation,
        pending: &[PendingCommit],
        staging: &Staging,
    ) -> Result<()> {
        let refused = |error| self.refused(error);
        let Some(last) = pending.last() else { return Ok(()) };
        self.prepare_session(client).await?;
        let transaction = client.transaction().await.map_err(refused)?;
        let held = self.check(&transaction, generation, "update").await?;
        if last.epoch <= held {
            return transaction.rollback().await.map_err(refused);
        }
        let parts = pending.iter().filter(|pending| pending.epoch > held).flat_map(|p| &p.parts);
        if self.options.key.is_empty() {
            for part in parts {
                let rows = staging.read(part).await?;
                self.append(&transaction, &rows).await?;
            }
        } else {
            let mut rows = Vec::new();
            for part in parts {
                rows.extend(staging.read(part).await?);
            }
            self.merge(&transaction, &rows).await?;
        }
        let update = format!(
            "update {} set epoch = $3, committed_at = pg_catalog.now() where job = $1 and target = $2",
            self.streams().sql()
        );
        let epoch = number(last.epoch.0)?;
        transaction
            .execute(update.as_str(), &[&self.job, &self.table.to_string(), &epoch])
            .await
            .map_err(refused)?;
        transaction.commit().await.map_err(refused)
    }

    /// Applies rows as they arrive.
    pub(super) async fn deliver(
        &self,
        client: &mut Client,
        generation: Generation,
        rows: &[Rows],
    ) -> Result<()> {
        let refused = |error| self.refused(error);
        self.prepare_session(client).await?;
        let transaction = client.transaction().await.map_err(refused)?;
        self.check(&transaction, generation, "share").await?;
        match self.options.key.is_empty() {
            true => self.append(&transaction, rows).await?,
            false => self.merge(&transaction, rows).await?,
        }
        transaction.commit().await.map_err(refused)
    }

    /// Makes the session's own table, where keys are looked up.
    async fn prepare_session(&self, client: &Client) -> Result<()> {
        if self.options.key.is_empty() {
            return Ok(());
        }
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {}", quote(&column.name), column.sql_type))
            .collect();
        let statement = format!(
            "create temporary table if not exists {} ({}, {GONE} boolean not null) on commit delete rows",
            CHANGES.trim_start_matches("pg_temp."),
            columns.join(", ")
        );
        // What is there already is told as a notice.
        client.batch_execute(&statement).await.map_err(|error| self.refused(error))
    }

    async fn append(&self, transaction: &Transaction<'_>, rows: &[Rows]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if rows.iter().any(|rows| rows.kinds().is_some()) {
            let message = format!(
                "table \"{}\" is only appended to, and rows of it are taken back",
                self.table
            );
            return Err(Error::new(code::SQL, message).hint(
                "name the columns that identify a row as `key`, or as `unique_key` of the model",
            ));
        }
        let names: Vec<String> = self.columns.iter().map(|column| quote(&column.name)).collect();
        let copy =
            format!("copy {} ({}) from stdin (format binary)", self.table.sql(), names.join(", "));
        self.copy(transaction, &copy, rows.iter().map(Rows::batch)).await
    }

    async fn copy<'a>(
        &self,
        transaction: &Transaction<'_>,
        statement: &str,
        batches: impl Iterator<Item = &'a RecordBatch>,
    ) -> Result<()> {
        let sink = transaction.copy_in(statement).await.map_err(|error| self.refused(error))?;
        let mut writer = CopyWriter::new(sink, &self.table).failing_with(refused_or_failed);
        for batch in batches {
            writer.write(batch).await?;
        }
        writer.finish().await.map(drop)
    }

    /// Upserts and deletes by key.
    async fn merge(&self, transaction: &Transaction<'_>, rows: &[Rows]) -> Result<()> {
        let key = &self.options.key;
        let changes = latest(&self.schema, rows, key)?;
        if changes.is_empty() {
            return Ok(());
        }
        let gone: BooleanArray =
            (0..changes.len()).map(|row| Some(changes.kind(row) == RowKind::Delete)).collect();
        let any_gone = gone.true_count() > 0;
        let batch = with_column(changes.batch(), gone)?;
        let copy = format!("copy {CHANGES} from stdin (format binary)");
        self.copy(transaction, &copy, std::iter::once(&batch)).await?;
        let run = async |statement: String| {
            transaction.execute(statement.as_str(), &[]).await.map_err(|error| self.refused(error))
        };
        if changes.len() >= ANALYZE_FROM {
            run(format!("analyze {CHANGES}")).await?;
        }
        let keys = names(key);
        let place = |name: &String| self.schema.index_of(name).ok();
        let nulls = key
            .iter()
            .filter_map(place)
            .any(|place| changes.batch().column(place).null_count() > 0);
        let on = |operator: &str| {
            let terms: Vec<String> =
                keys.iter().map(|key| format!("t.{key} {operator} s.{key}")).collect();
            terms.join(" and ")
        };
        // Equality can use an index; keys with nulls, which are equal to each other, are looked up
        // apart from the rest.
        let mut conditions = vec![on("=")];
        if nulls {
            let any: Vec<String> = keys.iter().map(|key| format!("s.{key} is null")).collect();
            conditions.push(format!("{} and ({})", on("is not distinct from"), any.join(" or ")));
        }
        let target = self.table.sql();
        let all: Vec<&String> = self.columns.iter().map(|column| &column.name).collect();
        let others: Vec<String> =
            all.iter().filter(|name| !key.contains(name)).map(|name| quote(name)).collect();
        for condition in &conditions {
            if any_gone {
                run(format!(
                    "delete from {target} t using {CHANGES} s where s.{GONE} and {condition}"
                ))
                .await?;
            }
            if !others.is_empty() {
                let set: Vec<String> =
                    others.iter().map(|name| format!("{name} = s.{name}")).collect();
                let differs: Vec<String> = others
                    .iter()
                    .map(|name| format!("t.{name} is distinct from s.{name}"))
                    .collect();
                run(format!(
                    "update {target} t set {} from {CHANGES} s
                     where not s.{GONE} and {condition} and ({})",
                    set.join(", "),
                    differs.join(" or ")
                ))
                .await?;
            }
        }
        let absent: Vec<String> = conditions
            .iter()
            .map(|condition| format!("not exists (select 1 from {target} t where {condition})"))
            .collect();
        let columns: Vec<String> = all.iter().map(|name| quote(name)).collect();
        let values: Vec<String> = columns.iter().map(|name| format!("s.{name}")).collect();
        run(format!(
            "insert into {target} ({}) select {} from {CHANGES} s where not s.{GONE} and {}",
            columns.join(", "),
            values.join(", "),
            absent.join(" and ")
        ))
        .await?;
        // A second call within one transaction begins with none.
        run(format!("delete from {CHANGES}")).await.map(drop)
    }
}

fn names(columns: &[String]) -> Vec<String> {
    columns.iter().map(|name| quote(name)).collect()
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::internal("an epoch is beyond 63 bits"))
}

fn with_column(batch: &RecordBatch, gone: BooleanArray) -> Result<RecordBatch> {
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(gone));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}
