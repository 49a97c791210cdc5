//! The ledger: how far each model has consumed its inputs.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDateTime;
use freshet_core::source::{ContentDigest, Interval, Split};
use freshet_core::{ModelId, Result, SourceId};
use freshet_engine::{ConsumedSplit, ModelProgress};
use sqlx::{Row, SqliteConnection};

use super::stored::ConsumedRow;
use super::{MetaStore, from_json, micros, signed, time, unsigned};

impl MetaStore {
    /// How far a model has consumed its inputs; nothing where it never was built.
    pub async fn progress(&self, model: &ModelId) -> Result<ModelProgress> {
        let fail = self.failed("could not read the ledger in");
        let mut connection = self.pool.acquire().await.map_err(&fail)?;
        let number: Option<i64> = sqlx::query_scalar("select number from progress where model = ?")
            .bind(model.as_str())
            .fetch_optional(&mut *connection)
            .await
            .map_err(&fail)?;
        let Some(number) = number else { return Ok(ModelProgress::default()) };
        let inputs: Vec<(String, i64)> =
            sqlx::query_as("select input, version from progress_inputs where model = ?")
                .bind(model.as_str())
                .fetch_all(&mut *connection)
                .await
                .map_err(&fail)?;
        let rows = sqlx::query(
            "select source, split, version, size, modified, captured, interval_start, \
             interval_end, digest, corrections, empty from consumed where model = ?",
        )
        .bind(model.as_str())
        .fetch_all(&mut *connection)
        .await
        .map_err(&fail)?;
        let mut consumed: BTreeMap<SourceId, BTreeMap<String, ConsumedSplit>> = BTreeMap::new();
        for row in &rows {
            let source: &str = row.try_get(0).map_err(&fail)?;
            let split = read_consumed(row).map_err(&fail)??;
            consumed
                .entry(SourceId::new(source))
                .or_default()
                .insert(split.split.id.clone(), split);
        }
        Ok(ModelProgress {
            number: unsigned(number),
            consumed,
            inputs: inputs
                .into_iter()
                .map(|(input, version)| (ModelId::new(input), unsigned(version)))
                .collect(),
        })
    }

    /// Rows that earlier builds of a model published, newest first.
    pub async fn history(&self, model: &ModelId, limit: u32) -> Result<Vec<u64>> {
        let counts: Vec<i64> = sqlx::query_scalar(
            "select rows_written from tasks where model = ? and status in ('success', 'partial') \
             and number is not null and finished is not null order by finished desc limit ?",
        )
        .bind(model.as_str())
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("could not read the history of a model in"))?;
        Ok(counts.into_iter().map(unsigned).collect())
    }
}

type Sqlx<T> = std::result::Result<T, sqlx::Error>;

fn read_consumed(row: &sqlx::sqlite::SqliteRow) -> Sqlx<Result<ConsumedSplit>> {
    let instant = |text: Option<&str>| -> Option<NaiveDateTime> { text?.parse().ok() };
    let start = instant(row.try_get(6)?);
    let end = instant(row.try_get(7)?);
    let captured: &str = row.try_get(5)?;
    let split = Split {
        id: row.try_get(1)?,
        version: row.try_get(2)?,
        size: row.try_get::<Option<i64>, _>(3)?.map(unsigned),
        modified: row.try_get::<Option<i64>, _>(4)?.map(time),
        captured: match from_json(captured) {
            Ok(captured) => captured,
            Err(error) => return Ok(Err(error)),
        },
        interval: start.zip(end).map(|(start, end)| Interval { start, end }),
    };
    Ok(Ok(ConsumedSplit {
        split,
        digest: row.try_get::<Option<String>, _>(8)?.map(ContentDigest),
        corrections: unsigned(row.try_get(9)?),
        empty: row.try_get(10)?,
    }))
}

/// Makes the ledger of `model` what `progress` says. Only what changed is written: a table of
/// thousands of files that takes one more costs one row.
pub(super) async fn save(
    connection: &mut SqliteConnection,
    model: &ModelId,
    progress: &ModelProgress,
) -> Sqlx<()> {
    let held: Option<i64> = sqlx::query_scalar("select number from progress where model = ?")
        .bind(model.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    if held == Some(signed(progress.number)) {
        // An intent never changes once it is written.
        return Ok(());
    }
    sqlx::query(
        "insert into progress (model, number) values (?, ?) \
         on conflict (model) do update set number = excluded.number",
    )
    .bind(model.as_str())
    .bind(signed(progress.number))
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from progress_inputs where model = ?")
        .bind(model.as_str())
        .execute(&mut *connection)
        .await?;
    for (input, version) in &progress.inputs {
        sqlx::query("insert into progress_inputs (model, input, version) values (?, ?, ?)")
            .bind(model.as_str())
            .bind(input.as_str())
            .bind(signed(*version))
            .execute(&mut *connection)
            .await?;
    }
    save_consumed(connection, model, progress).await
}

async fn save_consumed(
    connection: &mut SqliteConnection,
    model: &ModelId,
    progress: &ModelProgress,
) -> Sqlx<()> {
    let held: Vec<(String, String, String, i64, Option<String>)> = sqlx::query_as(
        "select source, split, version, corrections, digest from consumed where model = ?",
    )
    .bind(model.as_str())
    .fetch_all(&mut *connection)
    .await?;
    let mut gone = Vec::new();
    let mut same: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (source, split, version, corrections, digest) in &held {
        let now = progress
            .consumed
            .get(&SourceId::new(source.as_str()))
            .and_then(|splits| splits.get(split));
        match now {
            None => gone.push((source, split)),
            Some(now)
                if now.split.version == *version
                    && signed(now.corrections) == *corrections
                    && now.digest.as_ref().map(|digest| &digest.0) == digest.as_ref() =>
            {
                same.insert((source, split));
            }
            Some(_) => {}
        }
    }
    for (source, split) in gone {
        sqlx::query("delete from consumed where model = ? and source = ? and split = ?")
            .bind(model.as_str())
            .bind(source)
            .bind(split)
            .execute(&mut *connection)
            .await?;
    }
    let mut rows = Vec::new();
    for (source, splits) in &progress.consumed {
        for (id, consumed) in splits {
            if same.contains(&(source.as_str(), id.as_str())) {
                continue;
            }
            let split = &consumed.split;
            let captured = serde_json::to_string(&split.captured)
                .map_err(|error| sqlx::Error::Encode(error.into()))?;
            rows.push(ConsumedRow {
                source: source.as_str(),
                split: id,
                version: &split.version,
                size: split.size.map(signed),
                modified: split.modified.map(micros),
                captured,
                interval_start: split.interval.map(|interval| instant_text(interval.start)),
                interval_end: split.interval.map(|interval| instant_text(interval.end)),
                digest: consumed.digest.as_ref().map(|digest| digest.0.as_str()),
                corrections: signed(consumed.corrections),
                empty: consumed.empty,
            });
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let rows = serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(
        "insert or replace into consumed (model, source, split, version, size, modified, captured, \
         interval_start, interval_end, digest, corrections, empty) select ?1, value->>'source', value->>'split', \
         value->>'version', value->>'size', value->>'modified', value->>'captured', \
         value->>'interval_start', value->>'interval_end', value->>'digest', \
         value->>'corrections', value->>'empty' from json_each(?2)",
    )
    .bind(model.as_str())
    .bind(rows)
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// ISO 8601, as `NaiveDateTime` reads it back.
fn instant_text(instant: NaiveDateTime) -> String {
    instant.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}
