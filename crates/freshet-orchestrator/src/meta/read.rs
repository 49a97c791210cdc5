//! What is read back: runs, their tasks, and the project's state.

use std::collections::BTreeMap;

use freshet_core::contract::SchemaDiff;
use freshet_core::error::code;
use freshet_core::{EdgeCounts, Error, ErrorKind, ModelId, Result, RunId, SourceId};
use freshet_engine::{BuildReport, CheckReport, ErrorReport, FileReport};
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::stored::Detail;
use super::{MetaStore, from_json, named, time, unsigned};
use crate::{AttemptError, RunReport, RunSummary, TaskReport};

/// The error of tasks whose process died.
pub(super) fn interrupted() -> ErrorReport {
    let error =
        Error::new(code::INTERRUPTED, "the run was interrupted: its process ended before it")
            .hint("run again: what was begun is finished first, nothing is doubled");
    ErrorReport::from(&error)
}

impl MetaStore {
    /// The newest runs, newest first.
    pub async fn runs(&self, limit: usize) -> Result<Vec<RunSummary>> {
        let fail = self.failed("could not list runs in");
        let rows = sqlx::query(
            "select r.id, r.project, r.environment, r.command, r.started, r.finished, r.status, \
             count(t.model), coalesce(sum(t.status in ('success', 'partial')), 0), \
             coalesce(sum(t.status = 'failed'), 0), coalesce(sum(t.rows_written), 0), \
             coalesce((select sum(count) from dead_letters d where d.run = r.id), 0) \
             from (select * from runs order by started desc, id desc limit ?) r \
             left join tasks t on t.run = r.id group by r.id order by r.started desc, r.id desc",
        )
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(&fail)?;
        rows.iter()
            .map(|row| {
                Ok(RunSummary {
                    id: RunId::new(get::<String>(row, 0).map_err(&fail)?),
                    project: get(row, 1).map_err(&fail)?,
                    environment: get(row, 2).map_err(&fail)?,
                    command: get(row, 3).map_err(&fail)?,
                    started: time(get(row, 4).map_err(&fail)?),
                    finished: get::<Option<i64>>(row, 5).map_err(&fail)?.map(time),
                    status: named(get(row, 6).map_err(&fail)?)?,
                    tasks: count(row, 7).map_err(&fail)?,
                    done: count(row, 8).map_err(&fail)?,
                    failed: count(row, 9).map_err(&fail)?,
                    rows_written: count(row, 10).map_err(&fail)?,
                    dead_letters: count(row, 11).map_err(&fail)?,
                })
            })
            .collect()
    }

    /// One run whole: by its id, the start of its id, or `latest`.
    pub async fn run(&self, which: &str) -> Result<RunReport> {
        let fail = self.failed("could not read a run in");
        let id = self.find_run(which).await?;
        let row = sqlx::query(
            "select project, environment, command, started, finished, status, recovered \
             from runs where id = ?",
        )
        .bind(id.as_str())
        .fetch_one(&self.pool)
        .await
        .map_err(&fail)?;
        let mut builds = self.builds(&id).await?;
        let rows = sqlx::query(
            "select model, status, attempts, started, finished, because, error \
             from tasks where run = ? order by position, model",
        )
        .bind(id.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(&fail)?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in &rows {
            let model = ModelId::new(get::<String>(row, 0).map_err(&fail)?);
            let attempts: i64 = get(row, 2).map_err(&fail)?;
            tasks.push(TaskReport {
                status: named(get(row, 1).map_err(&fail)?)?,
                attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
                started: get::<Option<i64>>(row, 3).map_err(&fail)?.map(time),
                finished: get::<Option<i64>>(row, 4).map_err(&fail)?.map(time),
                because: get::<Option<String>>(row, 5).map_err(&fail)?.map(ModelId::new),
                error: get::<Option<&str>>(row, 6).map_err(&fail)?.map(from_json).transpose()?,
                build: builds.remove(&model),
                model,
            });
        }
        Ok(RunReport {
            project: get(&row, 0).map_err(&fail)?,
            environment: get(&row, 1).map_err(&fail)?,
            command: get(&row, 2).map_err(&fail)?,
            started: time(get(&row, 3).map_err(&fail)?),
            finished: get::<Option<i64>>(&row, 4).map_err(&fail)?.map(time),
            status: named(get(&row, 5).map_err(&fail)?)?,
            recovered: from_json(get(&row, 6).map_err(&fail)?)?,
            tasks,
            id,
        })
    }

    /// The attempts of a run that failed, in the order of time.
    pub async fn errors(&self, run: &RunId) -> Result<Vec<AttemptError>> {
        let fail = self.failed("could not read errors in");
        let rows = sqlx::query(
            "select model, attempt, at, code, kind, message, hint, location, retryable \
             from errors where run = ? order by at, model, attempt",
        )
        .bind(run.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(&fail)?;
        rows.iter()
            .map(|row| {
                let attempt: i64 = get(row, 1).map_err(&fail)?;
                Ok(AttemptError {
                    model: ModelId::new(get::<String>(row, 0).map_err(&fail)?),
                    attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
                    at: time(get(row, 2).map_err(&fail)?),
                    error: ErrorReport {
                        code: get(row, 3).map_err(&fail)?,
                        kind: named::<ErrorKind>(get(row, 4).map_err(&fail)?)?,
                        message: get(row, 5).map_err(&fail)?,
                        hint: get(row, 6).map_err(&fail)?,
                        location: get(row, 7).map_err(&fail)?,
                        retryable: get(row, 8).map_err(&fail)?,
                    },
                })
            })
            .collect()
    }

    /// What [`MetaStore::save_state`] kept last; `None` where nothing was kept, or where an older
    /// build kept it in a shape that is not read any more: then every node counts as new.
    pub async fn load_state<T: DeserializeOwned>(&self, environment: &str) -> Result<Option<T>> {
        let state: Option<String> =
            sqlx::query_scalar("select state from project_state where environment = ?")
                .bind(environment)
                .fetch_optional(&self.pool)
                .await
                .map_err(self.failed("could not read the project's state in"))?;
        Ok(state.and_then(|state| serde_json::from_str(&state).ok()))
    }

    async fn find_run(&self, which: &str) -> Result<RunId> {
        let fail = self.failed("could not look for a run in");
        let which = which.trim();
        let found: Vec<String> = if which == "latest" {
            sqlx::query_scalar("select id from runs order by started desc, id desc limit 1")
                .fetch_all(&self.pool)
                .await
                .map_err(&fail)?
        } else {
            sqlx::query_scalar(
                "select id from runs where id = ?1 \
                 union all select * from (select id from runs where id <> ?1 \
                 and substr(id, 1, length(?1)) = ?1 order by started desc limit 5)",
            )
            .bind(which)
            .fetch_all(&self.pool)
            .await
            .map_err(&fail)?
        };
        match found.as_slice() {
            [] if which == "latest" => {
                Err(Error::new(code::ARGUMENTS, "there is no run yet")
                    .hint("`freshet run` makes one"))
            }
            [] => Err(Error::new(code::ARGUMENTS, format!("there is no run \"{which}\""))
                .hint("`freshet runs` lists them")),
            [first, ..] if found.len() == 1 || first == which => Ok(RunId::new(first.as_str())),
            several => {
                Err(Error::new(code::ARGUMENTS, format!("\"{which}\" names more than one run"))
                    .hint(format!("write more of one of {}", several.join(", "))))
            }
        }
    }

    /// The builds of a run, by model, put together again from their tables.
    async fn builds(&self, run: &RunId) -> Result<BTreeMap<ModelId, BuildReport>> {
        let fail = self.failed("could not read a run in");
        let rows = sqlx::query(
            "select model, materialized, incremental, version, number, rows_written, rows_total, \
             bytes_read, detail from tasks where run = ? and materialized is not null",
        )
        .bind(run.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(&fail)?;
        let mut builds = BTreeMap::new();
        for row in &rows {
            let model = ModelId::new(get::<String>(row, 0).map_err(&fail)?);
            let detail: Option<&str> = get(row, 8).map_err(&fail)?;
            let detail: Detail = detail.map(from_json).transpose()?.unwrap_or_default();
            let optional = |column| -> Result<Option<u64>> {
                Ok(get::<Option<i64>>(row, column).map_err(&fail)?.map(unsigned))
            };
            let materialized: String = get(row, 1).map_err(&fail)?;
            let build = BuildReport {
                incremental: get(row, 2).map_err(&fail)?,
                version: optional(3)?,
                number: optional(4)?,
                rows_written: optional(5)?.unwrap_or(0),
                rows_total: optional(6)?,
                bytes_read: optional(7)?.unwrap_or(0),
                batches: detail.batches,
                operators: detail.operators,
                missing: detail.missing,
                warnings: detail.warnings,
                staged: detail.staged,
                seconds: detail.seconds,
                ..BuildReport::of(model.clone(), materialized)
            };
            builds.insert(model, build);
        }
        self.read_edges(run, &mut builds).await?;
        self.read_files(run, &mut builds).await?;
        self.read_checks(run, &mut builds).await?;
        self.read_rest(run, &mut builds).await?;
        Ok(builds)
    }

    async fn rows_of(&self, sql: &'static str, run: &RunId) -> Result<Vec<SqliteRow>> {
        sqlx::query(sql)
            .bind(run.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("could not read a run in"))
    }

    async fn read_edges(&self, run: &RunId, builds: &mut Builds) -> Result<()> {
        let fail = self.failed("could not read a run in");
        let sql = "select model, name, rows_in, rows_out, dead, filtered from edges where run = ?";
        for row in &self.rows_of(sql, run).await? {
            let Some(build) = build_of(row, builds).map_err(&fail)? else { continue };
            let counts = EdgeCounts {
                rows_in: count(row, 2).map_err(&fail)?,
                rows_out: count(row, 3).map_err(&fail)?,
                dead: count(row, 4).map_err(&fail)?,
                filtered: count(row, 5).map_err(&fail)?,
            };
            build.edges.insert(get(row, 1).map_err(&fail)?, counts);
        }
        Ok(())
    }

    async fn read_files(&self, run: &RunId, builds: &mut Builds) -> Result<()> {
        let fail = self.failed("could not read a run in");
        let sql = "select model, source, file, status, records, good, dead, bytes, error \
                   from files where run = ? order by model, position";
        for row in &self.rows_of(sql, run).await? {
            let Some(build) = build_of(row, builds).map_err(&fail)? else { continue };
            build.files.push(FileReport {
                source: SourceId::new(get::<String>(row, 1).map_err(&fail)?),
                file: get(row, 2).map_err(&fail)?,
                status: named(get(row, 3).map_err(&fail)?)?,
                records: count(row, 4).map_err(&fail)?,
                good: count(row, 5).map_err(&fail)?,
                dead: count(row, 6).map_err(&fail)?,
                bytes: count(row, 7).map_err(&fail)?,
                error: get::<Option<&str>>(row, 8).map_err(&fail)?.map(from_json).transpose()?,
            });
        }
        Ok(())
    }

    async fn read_checks(&self, run: &RunId, builds: &mut Builds) -> Result<()> {
        let fail = self.failed("could not read a run in");
        let sql = "select model, name, rule, status, failures, rows, value, message, sample \
                   from checks where run = ? order by model, position";
        for row in &self.rows_of(sql, run).await? {
            let Some(build) = build_of(row, builds).map_err(&fail)? else { continue };
            build.checks.push(CheckReport {
                name: get(row, 1).map_err(&fail)?,
                rule: get(row, 2).map_err(&fail)?,
                status: named(get(row, 3).map_err(&fail)?)?,
                failures: count(row, 4).map_err(&fail)?,
                rows: count(row, 5).map_err(&fail)?,
                value: get(row, 6).map_err(&fail)?,
                message: get(row, 7).map_err(&fail)?,
                sample: from_json(get(row, 8).map_err(&fail)?)?,
            });
        }
        Ok(())
    }

    async fn read_rest(&self, run: &RunId, builds: &mut Builds) -> Result<()> {
        let fail = self.failed("could not read a run in");
        let sql = "select model, file, changes from schema_diffs where run = ? \
                   order by model, position";
        for row in &self.rows_of(sql, run).await? {
            let Some(build) = build_of(row, builds).map_err(&fail)? else { continue };
            build.schema_diffs.push(SchemaDiff {
                file: get(row, 1).map_err(&fail)?,
                changes: from_json(get(row, 2).map_err(&fail)?)?,
            });
        }
        let sql = "select model, source, rule, count from dead_letters where run = ?";
        for row in &self.rows_of(sql, run).await? {
            let Some(build) = build_of(row, builds).map_err(&fail)? else { continue };
            build
                .dead_letters
                .entry(get(row, 1).map_err(&fail)?)
                .or_default()
                .insert(get(row, 2).map_err(&fail)?, count(row, 3).map_err(&fail)?);
        }
        Ok(())
    }
}

type Builds = BTreeMap<ModelId, BuildReport>;
type Sqlx<T> = std::result::Result<T, sqlx::Error>;

fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Sqlx<T>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column)
}

fn count(row: &SqliteRow, column: usize) -> Sqlx<u64> {
    get::<i64>(row, column).map(unsigned)
}

/// The build that a row belongs to, by the model in its first column.
fn build_of<'b>(row: &SqliteRow, builds: &'b mut Builds) -> Sqlx<Option<&'b mut BuildReport>> {
    Ok(builds.get_mut(&ModelId::new(get::<String>(row, 0)?)))
}
