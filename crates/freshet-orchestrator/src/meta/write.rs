//! What a run writes while it goes on.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use freshet_core::source::SplitStatus;
use freshet_core::{ModelId, Result, RunId};
use freshet_engine::{BuildReport, ErrorReport};
use serde::Serialize;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::stored::{CheckRow, DeadLetterRow, Detail, EdgeRow, FileRow, SchemaDiffRow};
use super::{MetaStore, ledger, micros, name_of, signed, to_json};
use crate::builder::{IntentRecord, RecoveredIntent, Recovery};
use crate::{RunReport, Status, TaskReport};

impl MetaStore {
    /// Records a run that begins, with all its tasks.
    pub async fn begin_run(&self, run: &RunReport) -> Result<()> {
        let mut transaction = self.begin().await?;
        self.insert_run(&mut transaction, run).await?;
        for (position, task) in run.tasks.iter().enumerate() {
            self.insert_task(&mut transaction, &run.id, position, task).await?;
        }
        self.commit(transaction).await
    }

    /// Records how a task stands; what it was before is replaced. A build that was published
    /// moves the ledger on.
    pub async fn record_task(&self, run: &RunId, task: &TaskReport) -> Result<()> {
        let fail = self.failed("could not record a task in");
        let mut transaction = self.begin().await?;
        let position: Option<i64> =
            sqlx::query_scalar("select position from tasks where run = ? and model = ?")
                .bind(run.as_str())
                .bind(task.model.as_str())
                .fetch_optional(&mut *transaction)
                .await
                .map_err(fail)?;
        let position = usize::try_from(position.unwrap_or(0)).unwrap_or(0);
        self.insert_task(&mut transaction, run, position, task).await?;
        let counts = |build: &&BuildReport| {
            let ended_well = matches!(task.status, Status::Success | Status::Partial);
            build.progress.number > 0 && (ended_well || was_published(build))
        };
        let build = task.build.as_ref().filter(counts);
        if let Some(build) = build {
            let known = self.known(&task.model);
            ledger::save(&mut transaction, &task.model, &build.progress, known.as_deref())
                .await
                .map_err(self.failed("could not record progress in"))?;
        }
        self.commit(transaction).await?;
        if let Some(build) = build {
            self.know(&task.model, &build.progress);
        }
        Ok(())
    }

    /// Records an attempt that failed.
    pub async fn record_error(
        &self,
        run: &RunId,
        model: &ModelId,
        attempt: u32,
        at: DateTime<Utc>,
        error: &ErrorReport,
    ) -> Result<()> {
        sqlx::query(
            "insert or replace into errors \
             (run, model, attempt, at, code, kind, message, hint, location, retryable) \
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(run.as_str())
        .bind(model.as_str())
        .bind(attempt)
        .bind(micros(at))
        .bind(&error.code)
        .bind(name_of(&error.kind)?)
        .bind(&error.message)
        .bind(&error.hint)
        .bind(&error.location)
        .bind(error.retryable)
        .execute(&self.pool)
        .await
        .map_err(self.failed("could not record an error in"))?;
        Ok(())
    }

    /// Records how a run ended.
    pub async fn finish_run(
        &self,
        run: &RunId,
        status: Status,
        finished: DateTime<Utc>,
    ) -> Result<()> {
        sqlx::query("update runs set status = ?, finished = ? where id = ?")
            .bind(name_of(&status)?)
            .bind(micros(finished))
            .bind(run.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed("could not record a run in"))?;
        Ok(())
    }

    /// The runs that are recorded as under way. For whoever holds the environment's lock: their
    /// processes must have died.
    pub async fn interrupted(&self) -> Result<Vec<RunId>> {
        let ids: Vec<String> =
            sqlx::query_scalar("select id from runs where status = ? order by started")
                .bind(name_of(&Status::Running)?)
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("could not look for interrupted runs in"))?;
        Ok(ids.into_iter().map(RunId::new).collect())
    }

    /// Marks every run that is recorded as under way as failed, and says which. Done last of a
    /// recovery: until then the mark that one is due must stay.
    pub async fn mark_interrupted(&self) -> Result<Vec<RunId>> {
        let fail = self.failed("could not record interrupted runs in");
        let running = name_of(&Status::Running)?;
        let ids = self.interrupted().await?;
        if ids.is_empty() {
            return Ok(ids);
        }
        let mut transaction = self.begin().await?;
        for id in &ids {
            sqlx::query(
                "update tasks set status = ?, error = ? where run = ? and status in (?, ?)",
            )
            .bind(name_of(&Status::Failed)?)
            .bind(to_json(&super::read::interrupted())?)
            .bind(id.as_str())
            .bind(&running)
            .bind(name_of(&Status::Pending)?)
            .execute(&mut *transaction)
            .await
            .map_err(&fail)?;
            sqlx::query("update runs set status = ? where id = ?")
                .bind(name_of(&Status::Failed)?)
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(&fail)?;
        }
        self.commit(transaction).await?;
        Ok(ids)
    }

    /// Records what became of an intent that a process left behind: its task counts as done if it
    /// was finished, and the ledger moves on.
    pub async fn record_recovered(
        &self,
        recovered: &RecoveredIntent,
        at: DateTime<Utc>,
    ) -> Result<()> {
        if recovered.action != Recovery::Finished {
            return Ok(());
        }
        let fail = self.failed("could not record a finished intent in");
        let mut transaction = self.begin().await?;
        ledger::save(&mut transaction, &recovered.model, &recovered.progress, None)
            .await
            .map_err(&fail)?;
        let task: Option<(i64, i64, Option<i64>)> = sqlx::query_as(
            "select position, attempts, started from tasks where run = ? and model = ?",
        )
        .bind(recovered.run.as_str())
        .bind(recovered.model.as_str())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(&fail)?;
        if let (Some((position, attempts, started)), Some(build)) = (task, &recovered.report) {
            let task = TaskReport {
                model: recovered.model.clone(),
                status: published_status(build),
                attempts: u32::try_from(attempts).unwrap_or(1),
                started: started.map(super::time),
                finished: Some(at),
                build: Some(BuildReport { number: Some(recovered.number), ..build.clone() }),
                error: None,
                because: None,
            };
            let position = usize::try_from(position).unwrap_or(0);
            self.insert_task(&mut transaction, &recovered.run, position, &task).await?;
        }
        self.commit(transaction).await
    }

    /// Forgets the runs that began before `before` and have ended, but for those that hold the newest
    /// published build of a model. Returns how many; with `dry_run` how many it would be. Runs that
    /// published something come back when the record is made again from the lake.
    pub async fn prune(&self, before: DateTime<Utc>, dry_run: bool) -> Result<u64> {
        let fail = self.failed("could not forget runs in");
        let mut transaction = self.begin().await?;
        let chosen = "from runs where started < ?1 and status <> ?2 and id not in \
             (select run from (select run, max(finished) from tasks where number is not null \
             and finished is not null group by model))";
        let running = name_of(&Status::Running)?;
        let count: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) {chosen}")))
                .bind(micros(before))
                .bind(&running)
                .fetch_one(&mut *transaction)
                .await
                .map_err(&fail)?;
        if !dry_run && count > 0 {
            sqlx::query(sqlx::AssertSqlSafe(format!("delete {chosen}")))
                .bind(micros(before))
                .bind(&running)
                .execute(&mut *transaction)
                .await
                .map_err(&fail)?;
        }
        self.commit(transaction).await?;
        Ok(super::unsigned(count))
    }

    /// Makes the ledger again from the lake's intents, and the runs that are not in the record.
    /// `project` and `environment` name what those runs belong to.
    pub async fn rebuild(
        &self,
        intents: &[IntentRecord],
        project: &str,
        environment: &str,
    ) -> Result<()> {
        let fail = self.failed("could not rebuild");
        let mut transaction = self.begin().await?;
        sqlx::raw_sql("delete from progress").execute(&mut *transaction).await.map_err(&fail)?;
        let mut newest = std::collections::BTreeMap::new();
        for intent in intents {
            let slot = newest.entry(&intent.model).or_insert(intent);
            if slot.number <= intent.number {
                *slot = intent;
            }
        }
        for (model, intent) in newest {
            ledger::save(&mut transaction, model, &intent.report.progress, None)
                .await
                .map_err(&fail)?;
        }
        for intent in intents {
            self.rebuild_task(&mut transaction, intent, project, environment).await?;
        }
        self.commit(transaction).await?;
        self.is_new.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Adds an intent's run and task where the record does not have them.
    async fn rebuild_task(
        &self,
        connection: &mut SqliteConnection,
        intent: &IntentRecord,
        project: &str,
        environment: &str,
    ) -> Result<()> {
        let fail = self.failed("could not rebuild");
        let known: Option<(String, i64)> =
            sqlx::query_as("select status, position from tasks where run = ? and model = ?")
                .bind(intent.run.as_str())
                .bind(intent.model.as_str())
                .fetch_optional(&mut *connection)
                .await
                .map_err(&fail)?;
        let done = [name_of(&Status::Success)?, name_of(&Status::Partial)?];
        if known.as_ref().is_some_and(|(status, _)| done.contains(status)) {
            return Ok(());
        }
        sqlx::query(
            "insert into runs (id, project, environment, command, started, finished, status, recovered) \
             values (?, ?, ?, '', ?, ?, ?, '[]') on conflict (id) do nothing",
        )
        .bind(intent.run.as_str())
        .bind(project)
        .bind(environment)
        .bind(micros(intent.at))
        .bind(micros(intent.at))
        .bind(&done[0])
        .execute(&mut *connection)
        .await
        .map_err(&fail)?;
        let position = match known {
            Some((_, position)) => position,
            None => sqlx::query_scalar("select count(*) from tasks where run = ?")
                .bind(intent.run.as_str())
                .fetch_one(&mut *connection)
                .await
                .map_err(&fail)?,
        };
        let task = TaskReport {
            model: intent.model.clone(),
            status: published_status(&intent.report),
            attempts: 1,
            started: Some(intent.at),
            finished: Some(intent.at),
            build: Some(BuildReport { number: Some(intent.number), ..intent.report.clone() }),
            error: None,
            because: None,
        };
        let position = usize::try_from(position).unwrap_or(0);
        self.insert_task(connection, &intent.run, position, &task).await
    }

    /// Keeps what the nodes of the project are now, for the next run's `state:modified`.
    pub async fn save_state<T: Serialize>(&self, environment: &str, state: &T) -> Result<()> {
        sqlx::query("insert or replace into project_state (environment, state) values (?, ?)")
            .bind(environment)
            .bind(to_json(state)?)
            .execute(&self.pool)
            .await
            .map_err(self.failed("could not record the project's state in"))?;
        Ok(())
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.pool
            .begin_with("begin immediate")
            .await
            .map_err(self.failed("could not write the record of runs"))
    }

    pub(super) async fn commit(&self, transaction: Transaction<'static, Sqlite>) -> Result<()> {
        transaction.commit().await.map_err(self.failed("could not write the record of runs"))
    }

    async fn insert_run(&self, connection: &mut SqliteConnection, run: &RunReport) -> Result<()> {
        sqlx::query(
            "insert into runs (id, project, environment, command, started, finished, status, recovered) \
             values (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(run.id.as_str())
        .bind(&run.project)
        .bind(&run.environment)
        .bind(&run.command)
        .bind(micros(run.started))
        .bind(run.finished.map(micros))
        .bind(name_of(&run.status)?)
        .bind(to_json(&run.recovered)?)
        .execute(connection)
        .await
        .map_err(self.failed("could not record a run in"))?;
        Ok(())
    }

    async fn insert_task(
        &self,
        connection: &mut SqliteConnection,
        run: &RunId,
        position: usize,
        task: &TaskReport,
    ) -> Result<()> {
        let build = task.build.as_ref();
        sqlx::query(
            "insert or replace into tasks (run, model, position, status, attempts, started, finished, \
             because, error, materialized, incremental, version, number, rows_written, rows_total, \
             bytes_read, detail) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(run.as_str())
        .bind(task.model.as_str())
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .bind(name_of(&task.status)?)
        .bind(task.attempts)
        .bind(task.started.map(micros))
        .bind(task.finished.map(micros))
        .bind(task.because.as_ref().map(ModelId::as_str))
        .bind(task.error.as_ref().map(to_json).transpose()?)
        .bind(build.map(|build| build.materialized.as_str()))
        .bind(build.map(|build| build.incremental))
        .bind(build.and_then(|build| build.version).map(signed))
        .bind(build.and_then(|build| build.number).map(signed))
        .bind(build.map(|build| signed(build.rows_written)))
        .bind(build.and_then(|build| build.rows_total).map(signed))
        .bind(build.map(|build| signed(build.bytes_read)))
        .bind(build.map(Detail::of).as_ref().map(to_json).transpose()?)
        .execute(&mut *connection)
        .await
        .map_err(self.failed("could not record a task in"))?;
        match build {
            Some(build) => self.insert_build(connection, run, &task.model, build).await,
            None => Ok(()),
        }
    }

    /// The parts of a build that have tables of their own. Rows go over as one JSON array each:
    /// one statement whatever their number.
    async fn insert_build(
        &self,
        connection: &mut SqliteConnection,
        run: &RunId,
        model: &ModelId,
        build: &BuildReport,
    ) -> Result<()> {
        let edges: Vec<_> = build
            .edges
            .iter()
            .map(|(name, edge)| EdgeRow {
                name,
                rows_in: signed(edge.rows_in),
                rows_out: signed(edge.rows_out),
                dead: signed(edge.dead),
                filtered: signed(edge.filtered),
            })
            .collect();
        let files = build
            .files
            .iter()
            .map(|file| {
                Ok(FileRow {
                    source: file.source.as_str(),
                    file: &file.file,
                    status: name_of(&file.status)?,
                    records: signed(file.records),
                    good: signed(file.good),
                    dead: signed(file.dead),
                    bytes: signed(file.bytes),
                    error: file.error.as_ref().map(to_json).transpose()?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let checks = build
            .checks
            .iter()
            .map(|check| {
                Ok(CheckRow {
                    name: &check.name,
                    rule: &check.rule,
                    status: name_of(&check.status)?,
                    failures: signed(check.failures),
                    rows: signed(check.rows),
                    // JSON has no NaN and no infinity.
                    value: check.value.filter(|value| value.is_finite()),
                    message: &check.message,
                    sample: to_json(&check.sample)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let diffs = build
            .schema_diffs
            .iter()
            .map(|diff| {
                Ok(SchemaDiffRow { file: diff.file.as_deref(), changes: to_json(&diff.changes)? })
            })
            .collect::<Result<Vec<_>>>()?;
        let dead: Vec<_> = build
            .dead_letters
            .iter()
            .flat_map(|(source, rules)| {
                rules.iter().map(move |(rule, count)| DeadLetterRow {
                    source,
                    rule,
                    count: signed(*count),
                })
            })
            .collect();
        for (clear, insert, rows) in [
            (CLEAR_EDGES, INSERT_EDGES, to_json(&edges)?),
            (CLEAR_FILES, INSERT_FILES, to_json(&files)?),
            (CLEAR_CHECKS, INSERT_CHECKS, to_json(&checks)?),
            (CLEAR_DIFFS, INSERT_DIFFS, to_json(&diffs)?),
            (CLEAR_DEAD, INSERT_DEAD, to_json(&dead)?),
        ] {
            // A later attempt replaces what an earlier one left.
            sqlx::query(clear)
                .bind(run.as_str())
                .bind(model.as_str())
                .execute(&mut *connection)
                .await
                .map_err(self.failed("could not record a task in"))?;
            if rows != "[]" {
                sqlx::query(insert)
                    .bind(run.as_str())
                    .bind(model.as_str())
                    .bind(rows)
                    .execute(&mut *connection)
                    .await
                    .map_err(self.failed("could not record a task in"))?;
            }
        }
        Ok(())
    }
}

/// Of what a failed build reports, only what it had published by then moves the ledger. One that
/// ended well says how far its table has come, whether it published or found nothing new.
fn was_published(build: &BuildReport) -> bool {
    build.version.is_some() && build.number == Some(build.progress.number)
}

/// The status of a task of which only its published build is known.
fn published_status(build: &BuildReport) -> Status {
    let set_aside = build.files.iter().any(|file| file.status == SplitStatus::SetAside);
    if set_aside || !build.missing.is_empty() { Status::Partial } else { Status::Success }
}

const CLEAR_EDGES: &str = "delete from edges where run = ? and model = ?";
const INSERT_EDGES: &str = "insert into edges select ?1, ?2, value->>'name', value->>'rows_in', \
     value->>'rows_out', value->>'dead', value->>'filtered' from json_each(?3)";
const CLEAR_FILES: &str = "delete from files where run = ? and model = ?";
const INSERT_FILES: &str = "insert into files select ?1, ?2, key, value->>'source', value->>'file', \
     value->>'status', value->>'records', value->>'good', value->>'dead', value->>'bytes', \
     value->>'error' from json_each(?3)";
const CLEAR_CHECKS: &str = "delete from checks where run = ? and model = ?";
const INSERT_CHECKS: &str = "insert into checks select ?1, ?2, key, value->>'name', value->>'rule', \
     value->>'status', value->>'failures', value->>'rows', value->>'value', value->>'message', \
     value->>'sample' from json_each(?3)";
const CLEAR_DIFFS: &str = "delete from schema_diffs where run = ? and model = ?";
const INSERT_DIFFS: &str = "insert into schema_diffs select ?1, ?2, key, value->>'file', \
     value->>'changes' from json_each(?3)";
const CLEAR_DEAD: &str = "delete from dead_letters where run = ? and model = ?";
const INSERT_DEAD: &str = "insert into dead_letters select ?1, ?2, value->>'source', \
     value->>'rule', value->>'count' from json_each(?3)";
