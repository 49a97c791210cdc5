//! The record of runs: an SQLite file in the environment's state folder.
//!
//! It is an index. What counts is in the lake: [`MetaStore::rebuild`] makes the ledger and the
//! published builds again from its intents.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeZone, Utc};
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

mod ledger;
mod read;
mod stored;
mod write;

/// The scripts that bring the file from version n to n + 1; the file's `user_version` counts them.
const MIGRATIONS: &[&str] =
    &[include_str!("meta/schema/0001.sql"), include_str!("meta/schema/0002.sql")];

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);

/// The record of runs of one environment.
#[derive(Debug, Clone)]
pub struct MetaStore {
    pool: SqlitePool,
    path: PathBuf,
    is_new: Arc<AtomicBool>,
    known: Arc<Mutex<HashMap<ModelId, Arc<ledger::Known>>>>,
}

impl MetaStore {
    /// Opens `meta.db` in `state_dir`, makes it where there is none, and brings it to this
    /// build's version.
    pub async fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("meta.db");
        std::fs::create_dir_all(state_dir).map_err(|error| {
            Error::new(code::METADATA, format!("could not make folder \"{}\"", state_dir.display()))
                .caused_by(error)
        })?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Safe for an index: a power cut may forget the last run, never damages the file.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        // One connection: the pool is only the queue in front of it.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| failed("could not open the record of runs", &path, error))?;
        let store = Self { pool, path, is_new: Arc::default(), known: Arc::default() };
        store.is_new.store(store.migrate().await?, Ordering::SeqCst);
        Ok(store)
    }

    /// Whether the file was made by this `open` and not filled since: the lake may know more than
    /// it does.
    pub fn is_new(&self) -> bool {
        self.is_new.load(Ordering::SeqCst)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is pending into the file and lets go of it.
    pub async fn close(self) {
        self.pool.close().await;
    }

    async fn migrate(&self) -> Result<bool> {
        let what = "could not bring the record of runs to this version";
        let version = self.version().await?;
        if version == MIGRATIONS.len() {
            return Ok(false);
        }
        if version > MIGRATIONS.len() {
            return Err(Error::new(
                code::METADATA,
                format!(
                    "the record of runs \"{}\" has version {version}, this build knows {}",
                    self.path.display(),
                    MIGRATIONS.len()
                ),
            )
            .hint("it was written by a newer Freshet; use that version, or remove the file and run `freshet runs rebuild`"));
        }
        let fail = |error| failed(what, &self.path, error);
        let mut transaction = self.pool.begin_with("begin immediate").await.map_err(fail)?;
        // Another process may have done it meanwhile.
        let version: i64 = sqlx::query_scalar("pragma user_version")
            .fetch_one(&mut *transaction)
            .await
            .map_err(fail)?;
        let version = usize::try_from(version).unwrap_or(0);
        for script in MIGRATIONS.iter().skip(version) {
            sqlx::raw_sql(*script).execute(&mut *transaction).await.map_err(fail)?;
        }
        sqlx::query(sqlx::AssertSqlSafe(format!("pragma user_version = {}", MIGRATIONS.len())))
            .execute(&mut *transaction)
            .await
            .map_err(fail)?;
        transaction.commit().await.map_err(fail)?;
        Ok(version == 0)
    }

    async fn version(&self) -> Result<usize> {
        let version: i64 = sqlx::query_scalar("pragma user_version")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| failed("could not read the record of runs", &self.path, error))?;
        usize::try_from(version).map_err(|_| {
            Error::new(
                code::METADATA,
                format!("\"{}\" is not a record of runs", self.path.display()),
            )
            .hint("remove the file and run `freshet runs rebuild`")
        })
    }

    fn failed(&self, what: &str) -> impl Fn(sqlx::Error) -> Error {
        let (what, path) = (what.to_owned(), self.path.clone());
        move |error| failed(&what, &path, error)
    }
}

fn failed(what: &str, path: &Path, error: sqlx::Error) -> Error {
    // SQLite's primary codes: SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_FULL.
    let code = error.as_database_error().and_then(|error| error.code());
    let hint = match code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
        Some(8 | 14) => "the user who runs freshet needs the right to write to it and its folder",
        Some(13) => "free some space, or set the environment's `state_dir` to another place",
        _ => "it is only an index: if it is damaged, remove it and run `freshet runs rebuild`",
    };
    Error::new(code::METADATA, format!("{what} \"{}\"", path.display())).caused_by(error).hint(hint)
}

fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

fn time(micros: i64) -> DateTime<Utc> {
    Utc.timestamp_micros(micros).single().unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// SQLite's integers are signed; no count of ours comes near the bound.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("could not write a run's record as JSON").caused_by(error))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::new(code::METADATA, "could not read an entry of the record of runs")
            .caused_by(error)
            .hint("remove the record of runs and run `freshet runs rebuild`")
    })
}

/// An enum's name in JSON, without quotes.
fn name_of<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        _ => Err(Error::internal("an enum of a run's record is not written as a name")),
    }
}

fn named<T: DeserializeOwned>(name: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|error| {
        Error::new(code::METADATA, format!("the record of runs has an unknown word \"{name}\""))
            .caused_by(error)
    })
}

#[cfg(test)]
mod tests;
