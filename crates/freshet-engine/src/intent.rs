//! Intents: what a build is about to publish, written down before anything is committed.
//!
//! `_freshet/intents/<schema>.<table>/<number>.json` is made with a conditional put: two processes
//! cannot hold the same number. From then on the build counts as decided. Whoever comes next
//! commits what the intent names ([`crate::publish::recover`]); where the table has moved on
//! meanwhile, `<number>.abandoned` says that it never will count.
//!
//! An intent holds all that its model has consumed, so that the last one says what the books have to
//! say. A long one is compressed with zstd; readers tell by its first bytes.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result, ResultExt, RunId};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::lake::{StagedChange, TableName};
use crate::report::BuildReport;

/// Version of the file format.
const FORMAT: u32 = 1;

/// The application whose transaction number in the Delta log is the intent's.
pub const APP: &str = "freshet";

/// A decision to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intent {
    /// Version of the file format.
    pub format: u32,
    /// The node.
    pub model: ModelId,
    /// Ascends for each table.
    pub number: u64,
    /// The run that wrote it.
    pub run: RunId,
    /// When.
    pub at: DateTime<Utc>,
    /// The change of the table.
    pub change: StagedChange,
    /// The dead letters, as a change of their table.
    pub dead_letters: Option<StagedChange>,
    /// Whether the table is made anew, so that a load replaces all rows too.
    pub rebuilds: bool,
    /// What the build did, as far as it was known then.
    pub report: BuildReport,
}

impl Intent {
    /// A new intent.
    #[allow(clippy::too_many_arguments, reason = "each is one field")]
    pub fn new(
        model: ModelId,
        number: u64,
        run: RunId,
        at: DateTime<Utc>,
        change: StagedChange,
        dead_letters: Option<StagedChange>,
        rebuilds: bool,
        report: BuildReport,
    ) -> Self {
        Self { format: FORMAT, model, number, run, at, change, dead_letters, rebuilds, report }
    }
}

fn root() -> Path {
    Path::from_iter(["_freshet", "intents"])
}

fn folder(table: &TableName) -> Path {
    root().join(table.to_string())
}

/// What is listed of a table's intents.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Numbers of intents, ascending, without those that were abandoned.
    pub numbers: Vec<u64>,
    /// The highest number that was ever taken, abandoned ones included.
    pub last: u64,
}

/// The numbers of a table's intents.
pub async fn list(store: &Arc<dyn ObjectStore>, table: &TableName) -> Result<Listed> {
    let what = || format!("could not list the intents of table \"{table}\"");
    let files: Vec<_> =
        store.list(Some(&folder(table))).try_collect().await.or_code(code::LAKE, what)?;
    let mut numbers = std::collections::BTreeSet::new();
    let mut abandoned = std::collections::BTreeSet::new();
    for file in &files {
        let Some(name) = file.location.filename() else { continue };
        if let Some(number) = name.strip_suffix(".json").and_then(|n| n.parse::<u64>().ok()) {
            numbers.insert(number);
        } else if let Some(number) = name.strip_suffix(".abandoned").and_then(|n| n.parse().ok()) {
            abandoned.insert(number);
        }
    }
    let last = numbers.last().copied().unwrap_or(0);
    Ok(Listed { numbers: numbers.difference(&abandoned).copied().collect(), last })
}

/// The tables that have intents, in the order of their names.
pub async fn tables(store: &Arc<dyn ObjectStore>) -> Result<Vec<TableName>> {
    let listing = store
        .list_with_delimiter(Some(&root()))
        .await
        .or_code(code::LAKE, || "could not list the lake's intents".to_owned())?;
    let mut tables: Vec<_> = listing
        .common_prefixes
        .iter()
        .filter_map(|prefix| prefix.filename())
        .filter_map(|name| name.split_once('.'))
        .map(|(schema, name)| TableName::new(schema, name))
        .collect();
    tables.sort();
    Ok(tables)
}

/// Where an intent is.
pub fn path(table: &TableName, number: u64) -> Path {
    folder(table).join(format!("{number:020}.json"))
}

/// Reads an intent.
pub async fn read(store: &Arc<dyn ObjectStore>, table: &TableName, number: u64) -> Result<Intent> {
    let path = path(table, number);
    let what = || format!("could not read intent {number} of table \"{table}\"");
    let bytes = store
        .get(&path)
        .await
        .or_code(code::INTENT, what)?
        .bytes()
        .await
        .or_code(code::INTENT, what)?;
    let bytes = unpack(&bytes).or_code(code::INTENT, what)?;
    let intent: Intent = serde_json::from_slice(&bytes).or_code(code::INTENT, what)?;
    if intent.format != FORMAT {
        return Err(Error::new(code::INTENT, what())
            .caused_by(format!("its format is {}, this build knows {FORMAT}", intent.format))
            .hint("it was written by a newer Freshet; use that version"));
    }
    Ok(intent)
}

/// Writes an intent, durably; fails where its number is taken.
pub async fn write(store: &Arc<dyn ObjectStore>, intent: &Intent) -> Result<()> {
    let table = &intent.change.table;
    let path = path(table, intent.number);
    let unwritten = || Error::internal("could not write an intent");
    let bytes = serde_json::to_vec(intent).map_err(|error| unwritten().caused_by(error))?;
    let bytes = pack(bytes).map_err(|error| unwritten().caused_by(error))?;
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path, bytes.into(), options).await.map_err(|error| {
        let taken = matches!(error, object_store::Error::AlreadyExists { .. });
        let ours = Error::new(
            if taken { code::LAKE_CONFLICT } else { code::LAKE },
            format!("could not write intent {} of table \"{table}\"", intent.number),
        )
        .caused_by(error);
        if taken {
            ours.hint("another process writes the same lake; run again when it has ended")
        } else {
            ours
        }
    })?;
    Ok(())
}

/// The first bytes of a zstd frame (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// An intent shorter than this stays readable for people.
const SHORT: usize = 64 << 10;

fn pack(bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if bytes.len() < SHORT { Ok(bytes) } else { zstd::stream::encode_all(bytes.as_slice(), 1) }
}

fn unpack(bytes: &[u8]) -> std::io::Result<Cow<'_, [u8]>> {
    if bytes.starts_with(&ZSTD) {
        zstd::stream::decode_all(bytes).map(Cow::Owned)
    } else {
        Ok(Cow::Borrowed(bytes))
    }
}

/// Marks that an intent never will count.
pub async fn abandon(store: &Arc<dyn ObjectStore>, table: &TableName, number: u64) -> Result<()> {
    let path = folder(table).join(format!("{number:020}.abandoned"));
    store
        .put(&path, bytes::Bytes::new().into())
        .await
        .or_code(code::INTENT, || format!("could not abandon intent {number} of \"{table}\""))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_intents_are_compressed_and_short_ones_are_text() {
        let short = b"{\"format\": 1}".to_vec();
        assert_eq!(pack(short.clone()).unwrap(), short);
        let files: Vec<String> = (0..100_000)
            .map(|n| format!("\"s3://drop/till/sales_{n:06}.csv\":{{\"size\":{n}}}"))
            .collect();
        let long = format!("{{{}}}", files.join(",")).into_bytes();
        let packed = pack(long.clone()).unwrap();
        assert!(packed.len() * 8 < long.len(), "{} of {}", packed.len(), long.len());
        assert_eq!(unpack(&packed).unwrap(), long);
        assert_eq!(unpack(&short).unwrap(), short);
        assert!(unpack(&packed[..packed.len() / 2]).is_err());
    }
}
