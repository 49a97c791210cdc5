//! The durable steps of a build, in their order, and what finishes them after a crash.
//!
//! 1. every file of the result is staged and durable ([`Lake::stage`]);
//! 2. the checks ran on the staged version;
//! 3. the file of dead letters is staged and durable;
//! 4. the intent is durable: from here on the build is decided;
//! 5. the dead letters are committed under the intent's number;
//! 6. the table is committed under the intent's number: readers see it;
//! 7. the index of runs is told (by the orchestrator).
//!
//! A crash before 4 leaves files that nobody names. A crash after it is finished by [`recover`],
//! which repeats 5 and 6: both compare the number in the table's log first.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use datafusion::error::DataFusionError;
use freshet_core::crash;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result, RunId};
use serde_json::{Value, json};

use crate::dead_letters::{self, Letters};
use crate::intent::{self, APP, Intent};
use crate::lake::{Lake, NewRows, StageMode, StageRequest, StagedChange, TableName, Transaction};

/// Commits of dead letters that lose against another model's are tried again so often.
const DEAD_LETTER_ATTEMPTS: u32 = 50;

/// The number of a table's next intent.
pub async fn next_number(lake: &Lake, table: &TableName) -> Result<u64> {
    let listed = intent::list(lake.store(), table).await?;
    let committed = match lake.load(table, None).await? {
        Some(snapshot) => lake.last_transaction(&snapshot, APP).await?,
        None => 0,
    };
    Ok(listed.last.max(committed) + 1)
}

/// Stages dead letters; `None` where there are none.
pub async fn stage_dead_letters(
    lake: &Lake,
    letters: Letters,
    run: &RunId,
    model: &ModelId,
    at: DateTime<Utc>,
) -> Result<Option<StagedChange>> {
    if letters.is_empty() {
        return Ok(None);
    }
    let table = dead_letters::table();
    let schema = dead_letters::schema();
    let batches = letters
        .into_batches(run.clone(), model.clone(), at)
        .map(|batch| batch.map_err(|error| DataFusionError::External(Box::new(error))));
    let stream = futures::stream::iter(batches);
    let stream =
        datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema.clone(), stream);
    let request = StageRequest {
        base: lake.load(&table, None).await?,
        table,
        mode: StageMode::Append,
        partition_by: Vec::new(),
        on_schema_change: freshet_project::OnSchemaChange::AppendNewColumns,
        parameters: BTreeMap::new(),
    };
    let rows = NewRows { schema, streams: vec![Box::pin(stream)] };
    let staged = lake.stage(request, rows).await?;
    crash::point("publish.dead_letters_staged");
    Ok(Some(staged))
}

/// Writes the intent and commits what it names. Returns the version that holds the result.
pub async fn publish(
    lake: &Lake,
    dead_letter_lock: &tokio::sync::Mutex<()>,
    intent: &Intent,
) -> Result<u64> {
    intent::write(lake.store(), intent).await?;
    crash::point("publish.intent");
    finish(lake, dead_letter_lock, intent).await
}

/// Commits what an intent names; repeating it changes nothing.
pub async fn finish(
    lake: &Lake,
    dead_letter_lock: &tokio::sync::Mutex<()>,
    intent: &Intent,
) -> Result<u64> {
    if let Some(letters) = &intent.dead_letters {
        let app = letters_app(&intent.change.table);
        commit_dead_letters(lake, dead_letter_lock, letters, &app, intent).await?;
    }
    crash::point("publish.dead_letters");
    let transaction = Transaction { app: APP.to_owned(), number: intent.number };
    let committed = lake.commit(&intent.change, &transaction, &info(intent)).await?;
    crash::point("publish.committed");
    Ok(committed.version)
}

/// Who counts the dead letters of a table's builds.
fn letters_app(table: &TableName) -> String {
    format!("{APP}/{table}")
}

fn info(intent: &Intent) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("freshetRun".to_owned(), json!(intent.run)),
        ("freshetModel".to_owned(), json!(intent.model)),
        ("freshetIntent".to_owned(), json!(intent.number)),
    ])
}

/// Appends never depend on what others append, so that a lost race only moves the base on.
async fn commit_dead_letters(
    lake: &Lake,
    lock: &tokio::sync::Mutex<()>,
    letters: &StagedChange,
    app: &str,
    intent: &Intent,
) -> Result<()> {
    let transaction = Transaction { app: app.to_owned(), number: intent.number };
    let _one_at_a_time = lock.lock().await;
    let mut change = letters.clone();
    for _ in 0..DEAD_LETTER_ATTEMPTS {
        match lake.commit(&change, &transaction, &info(intent)).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == code::LAKE_CONFLICT => {
                let now = lake.load(&change.table, None).await?;
                change.base_version = now.as_ref().map(|snapshot| snapshot.version);
                if now.is_some() {
                    change.metadata = None;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(code::LAKE_CONFLICT, "could not commit the dead letters")
        .caused_by(format!("{DEAD_LETTER_ATTEMPTS} attempts were overtaken by other writers"))
        .retryable())
}

/// What became of an intent that a process left behind.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The intent.
    pub intent: Intent,
    /// The version that holds it now; `None` where it was abandoned.
    pub version: Option<u64>,
}

/// Finishes every intent that its table does not hold yet. Nobody else may write meanwhile. Where
/// a process may have been `killed` since the last time, the versions that it left are made durable
/// first.
pub async fn recover(
    lake: &Lake,
    dead_letter_lock: &tokio::sync::Mutex<()>,
    killed: bool,
) -> Result<Vec<Recovered>> {
    let mut recovered = Vec::new();
    for table in intent::tables(lake.store()).await? {
        if killed {
            // What is built from now on rests on the versions that are seen.
            lake.settle_table(&table).await?;
        }
        recovered.extend(recover_table(lake, dead_letter_lock, &table).await?);
    }
    Ok(recovered)
}

/// As [`recover`], for one table that nobody else writes meanwhile.
pub async fn recover_table(
    lake: &Lake,
    dead_letter_lock: &tokio::sync::Mutex<()>,
    table: &TableName,
) -> Result<Vec<Recovered>> {
    let mut recovered = Vec::new();
    let listed = intent::list(lake.store(), table).await?;
    let Some(&highest) = listed.numbers.last() else { return Ok(recovered) };
    let held = held(lake, table).await?;
    if highest > held {
        for number in listed.numbers.into_iter().filter(|number| *number > held) {
            recovered.push(recover_one(lake, dead_letter_lock, table, number).await?);
        }
    }
    Ok(recovered)
}

/// The number of the last intent that a table holds; 0 where there is none.
pub async fn held(lake: &Lake, table: &TableName) -> Result<u64> {
    match lake.load(table, None).await? {
        Some(snapshot) => lake.last_transaction(&snapshot, APP).await,
        None => Ok(0),
    }
}

async fn recover_one(
    lake: &Lake,
    dead_letter_lock: &tokio::sync::Mutex<()>,
    table: &TableName,
    number: u64,
) -> Result<Recovered> {
    let what = |model: &ModelId| {
        format!("could not finish intent {number} of model \"{model}\", table \"{table}\"")
    };
    // Once the table holds the number, the intent must be there for good.
    lake.settle(&intent::path(table, number)).await?;
    let intent = intent::read(lake.store(), table, number).await?;
    let now = lake.load(table, None).await?.map(|snapshot| snapshot.version);
    if now != intent.change.base_version {
        // Somebody else moved the table on: what was staged is no longer what the SQL would give.
        intent::abandon(lake.store(), table, number).await?;
        lake.discard(&intent.change).await?;
        if let Some(letters) = &intent.dead_letters {
            // Letters that were committed already stay: their files are part of a table.
            let held = match lake.load(&letters.table, None).await? {
                Some(now) => lake.last_transaction(&now, &letters_app(table)).await?,
                None => 0,
            };
            if held < number {
                lake.discard(letters).await?;
            }
        }
        return Ok(Recovered { intent, version: None });
    }
    match finish(lake, dead_letter_lock, &intent).await {
        Ok(version) => Ok(Recovered { intent, version: Some(version) }),
        Err(error) => Err(Error::new(code::INTENT, what(&intent.model))
            .caused_by(error)
            .hint("mend the cause and run again; readers still see the old version")),
    }
}
