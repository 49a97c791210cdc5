//! The ledger: how far each model has consumed its inputs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use chrono::NaiveDateTime;
use freshet_core::source::{ContentDigest, Interval, Split};
use freshet_core::{ModelId, Result, SourceId};
use freshet_engine::{ConsumedSplit, ModelProgress};
use sqlx::SqliteConnection;

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
        let mut consumed: BTreeMap<SourceId, BTreeMap<String, ConsumedSplit>> = BTreeMap::new();
        let mut last = (String::new(), String::new());
        loop {
            // One text for a page of rows: asked for row by row, a hundred thousand files take
            // longer than all else that a run plans.
            let page: String = sqlx::query_scalar(READ_PAGE)
                .bind(model.as_str())
                .bind(&last.0)
                .bind(&last.1)
                .bind(PAGE)
                .fetch_one(&mut *connection)
                .await
                .map_err(&fail)?;
            let rows: Vec<Row> = from_json(&page)?;
            let is_last = rows.len() < PAGE as usize;
            if let Some(row) = rows.last() {
                last = (row.0.clone(), row.1.clone());
            }
            for row in rows {
                let (source, split) = read_consumed(row);
                let splits = consumed.entry(SourceId::new(source)).or_default();
                splits.insert(split.split.id.clone(), split);
            }
            if is_last {
                break;
            }
        }
        let progress = ModelProgress {
            number: unsigned(number),
            consumed,
            inputs: inputs
                .into_iter()
                .map(|(input, version)| (ModelId::new(input), unsigned(version)))
                .collect(),
        };
        self.know(model, &progress);
        Ok(progress)
    }

    /// Remembers what the ledger of a model says.
    pub(super) fn know(&self, model: &ModelId, progress: &ModelProgress) {
        self.known.lock().insert(model.clone(), Arc::new(Known::of(progress)));
    }

    /// What the ledger of a model said when it was last read or written here.
    pub(super) fn known(&self, model: &ModelId) -> Option<Arc<Known>> {
        self.known.lock().get(model).cloned()
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

/// What this process knows of a model's ledger, as hashes: enough to tell what a build changed in it
/// without reading it again, which for hundreds of thousands of files takes longer than the build.
#[derive(Debug, Default)]
pub(super) struct Known {
    number: u64,
    /// By the hash of source and split, the hash of what is kept of it.
    splits: HashMap<u64, u64>,
}

impl Known {
    fn of(progress: &ModelProgress) -> Self {
        let splits = progress
            .consumed
            .iter()
            .flat_map(|(source, splits)| splits.iter().map(move |(id, kept)| (source, id, kept)))
            .map(|(source, id, consumed)| (key(source, id), fingerprint(consumed)))
            .collect();
        Self { number: progress.number, splits }
    }
}

fn key(source: &SourceId, split: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source.as_str(), split).hash(&mut hasher);
    hasher.finish()
}

fn fingerprint(consumed: &ConsumedSplit) -> u64 {
    let mut hasher = DefaultHasher::new();
    let digest = consumed.digest.as_ref().map(|digest| &digest.0);
    (&consumed.split.version, consumed.corrections, digest, consumed.empty).hash(&mut hasher);
    hasher.finish()
}

type Sqlx<T> = std::result::Result<T, sqlx::Error>;

/// Rows of the ledger that are read at once.
const PAGE: u32 = 10_000;

/// A page of the ledger as one JSON text, behind a source and split.
const READ_PAGE: &str = "select json_group_array(json_array(source, split, version, size, modified, \
    json(captured), interval_start, interval_end, digest, corrections, empty)) \
    from (select * from consumed where model = ?1 and (source, split) > (?2, ?3) \
    order by source, split limit ?4)";

/// A row of the ledger: source, split, version, size, modified, captured, start and end of the
/// interval, digest, corrections, empty.
type Row = (
    String,
    String,
    String,
    Option<i64>,
    Option<i64>,
    BTreeMap<String, String>,
    Option<String>,
    Option<String>,
    Option<String>,
    i64,
    i64,
);

fn read_consumed(row: Row) -> (String, ConsumedSplit) {
    let (source, id, version, size, modified, captured, start, end, digest, corrections, empty) =
        row;
    let instant = |text: Option<String>| -> Option<NaiveDateTime> { text?.parse().ok() };
    let split = Split {
        id,
        version,
        size: size.map(unsigned),
        modified: modified.map(time),
        captured,
        interval: instant(start).zip(instant(end)).map(|(start, end)| Interval { start, end }),
    };
    let digest = digest.map(ContentDigest);
    (source, ConsumedSplit { split, digest, corrections: unsigned(corrections), empty: empty != 0 })
}

/// Makes the ledger of `model` what `progress` says. Only what changed is written: a table of
/// thousands of files that takes one more costs one row.
pub(super) async fn save(
    connection: &mut SqliteConnection,
    model: &ModelId,
    progress: &ModelProgress,
    known: Option<&Known>,
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
    // What is known counts only where nobody wrote meanwhile.
    let known = known.filter(|known| held == Some(signed(known.number)));
    let changed = match known.and_then(|known| changed_since(known, progress)) {
        Some(changed) => changed,
        None => changed_in_file(connection, model, progress).await?,
    };
    save_consumed(connection, model, changed).await
}

/// Splits to be written.
type Changed<'a> = Vec<(&'a SourceId, &'a String, &'a ConsumedSplit)>;

fn all(progress: &ModelProgress) -> impl Iterator<Item = (&SourceId, &String, &ConsumedSplit)> {
    progress
        .consumed
        .iter()
        .flat_map(|(source, splits)| splits.iter().map(move |(id, kept)| (source, id, kept)))
}

/// What changed since the ledger was known; `None` where splits went, which only the file can name.
fn changed_since<'a>(known: &Known, progress: &'a ModelProgress) -> Option<Changed<'a>> {
    let mut still_there = 0;
    let mut changed = Vec::new();
    for (source, id, consumed) in all(progress) {
        let before = known.splits.get(&key(source, id));
        still_there += usize::from(before.is_some());
        if before != Some(&fingerprint(consumed)) {
            changed.push((source, id, consumed));
        }
    }
    (still_there == known.splits.len()).then_some(changed)
}

/// What the file has otherwise; splits that went are deleted.
async fn changed_in_file<'a>(
    connection: &mut SqliteConnection,
    model: &ModelId,
    progress: &'a ModelProgress,
) -> Sqlx<Changed<'a>> {
    let held: Vec<(String, String, String, i64, Option<String>, bool)> = sqlx::query_as(
        "select source, split, version, corrections, digest, empty from consumed where model = ?",
    )
    .bind(model.as_str())
    .fetch_all(&mut *connection)
    .await?;
    let mut gone = Vec::new();
    let mut same: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (source, split, version, corrections, digest, empty) in &held {
        let now = progress
            .consumed
            .get(&SourceId::new(source.as_str()))
            .and_then(|splits| splits.get(split));
        match now {
            None => gone.push((source, split)),
            Some(now)
                if now.split.version == *version
                    && signed(now.corrections) == *corrections
                    && now.empty == *empty
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
    Ok(all(progress)
        .filter(|(source, id, _)| !same.contains(&(source.as_str(), id.as_str())))
        .collect())
}

async fn save_consumed(
    connection: &mut SqliteConnection,
    model: &ModelId,
    changed: Changed<'_>,
) -> Sqlx<()> {
    let mut rows = Vec::new();
    for (source, id, consumed) in changed {
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
