//! The Delta log: which entries there are, and the table that they add up to.
//!
//! Reads commits and classic checkpoints in one pass, with one listing; refuses tables that need
//! features that this build does not have. Writing is in `commit.rs` and `checkpoint.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::json::LineDelimitedWriter;
use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AsOf, DataFile, HistoryEntry, TableMetadata, TableName, stats};

/// Reader and writer features that this build keeps to.
const FEATURES: [&str; 3] = ["appendOnly", "invariants", "timestampNtz"];
/// Log entries that are read at once.
const READ_AHEAD: usize = 16;

/// One line of a log entry.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Action {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<serde_json::Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Protocol {
    pub min_reader_version: u32,
    pub min_writer_version: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reader_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub writer_features: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub description: Option<String>,
    pub format: Value,
    pub schema_string: String,
    pub partition_columns: Vec<String>,
    #[serde(default)]
    pub configuration: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created_time: Option<i64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Txn {
    pub app_id: String,
    pub version: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_updated: Option<i64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Add {
    pub path: String,
    #[serde(default)]
    pub partition_values: BTreeMap<String, Option<String>>,
    pub size: u64,
    pub modification_time: i64,
    pub data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stats: Option<String>,
    #[serde(skip_serializing, default)]
    pub deletion_vector: Option<Value>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remove {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deletion_timestamp: Option<i64>,
    pub data_change: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub extended_file_metadata: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

/// A table at one version, as its log has it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub version: u64,
    pub timestamp_ms: i64,
    pub protocol: Option<Protocol>,
    pub metadata: Option<TableMetadata>,
    /// Names, description and the like, kept as they are when the metadata is written again.
    pub raw_metadata: Option<Metadata>,
    pub files: BTreeMap<String, Add>,
    /// Removed files, and when, in milliseconds since 1970.
    pub removed: BTreeMap<String, i64>,
    /// The number of each application's last transaction, and the version that holds it.
    pub transactions: BTreeMap<String, (u64, u64)>,
}

impl State {
    pub(super) fn data_files(&self) -> Vec<DataFile> {
        self.files
            .iter()
            .map(|(path, add)| {
                let (rows, stats) = stats::parse(add.stats.as_deref());
                DataFile {
                    path: path.clone(),
                    size: add.size,
                    rows,
                    partition_values: add.partition_values.clone(),
                    stats,
                    modified_ms: add.modification_time,
                }
            })
            .collect()
    }

    fn apply(&mut self, action: Action, version: u64) {
        if let Some(remove) = action.remove {
            let path = decode(&remove.path);
            self.files.remove(&path);
            self.removed.insert(path, remove.deletion_timestamp.unwrap_or(0));
        }
        if let Some(add) = action.add {
            let path = decode(&add.path);
            self.removed.remove(&path);
            self.files.insert(path, add);
        }
        if let Some(txn) = action.txn {
            let number = u64::try_from(txn.version).unwrap_or(0);
            self.transactions.insert(txn.app_id, (number, version));
        }
        if let Some(protocol) = action.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(metadata) = action.meta_data {
            self.metadata = Some(TableMetadata {
                id: metadata.id.clone(),
                schema_json: metadata.schema_string.clone(),
                partition_by: metadata.partition_columns.clone(),
                configuration: metadata
                    .configuration
                    .iter()
                    .filter_map(|(key, value)| Some((key.clone(), value.clone()?)))
                    .collect(),
            });
            self.raw_metadata = Some(metadata);
        }
        if let Some(timestamp) = action.commit_info.as_ref().and_then(commit_timestamp) {
            self.timestamp_ms = timestamp;
        }
    }
}

fn commit_timestamp(info: &serde_json::Map<String, Value>) -> Option<i64> {
    info.get("inCommitTimestamp")
        .and_then(Value::as_i64)
        .or_else(|| info.get("timestamp").and_then(Value::as_i64))
}

/// The log of one table.
#[derive(Debug, Clone)]
pub(super) struct Log {
    pub store: Arc<dyn ObjectStore>,
    pub table: TableName,
    /// The table's folder in the store.
    pub folder: Path,
}

/// The entries of a log.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub commits: BTreeMap<u64, ObjectMeta>,
    /// Parts of classic checkpoints.
    pub checkpoints: BTreeMap<u64, Checkpoint>,
}

#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    pub parts: BTreeMap<u64, ObjectMeta>,
    wanted: u64,
}

impl Entries {
    fn take(&mut self, object: ObjectMeta) {
        let Some(name) = object.location.filename() else { return };
        let pieces: Vec<_> = name.split('.').collect();
        let Some(version) = pieces
            .first()
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse::<u64>().ok())
        else {
            return;
        };
        match pieces[1..] {
            ["json"] => {
                self.commits.insert(version, object);
            }
            ["checkpoint", "parquet"] => {
                let checkpoint = Checkpoint { parts: [(1, object)].into(), wanted: 1 };
                self.checkpoints.insert(version, checkpoint);
            }
            ["checkpoint", part, of, "parquet"] => {
                if let (Ok(part), Ok(of)) = (part.parse(), of.parse()) {
                    let checkpoint = self.checkpoints.entry(version).or_default();
                    checkpoint.wanted = of;
                    checkpoint.parts.insert(part, object);
                }
            }
            _ => {}
        }
    }

    fn last(&self) -> Option<u64> {
        let commit = self.commits.keys().next_back().copied();
        commit.max(self.checkpoint_up_to(u64::MAX).map(|(version, _)| version))
    }

    pub(super) fn checkpoint_up_to(&self, version: u64) -> Option<(u64, &Checkpoint)> {
        self.checkpoints
            .range(..=version)
            .rev()
            .find(|(_, checkpoint)| checkpoint.parts.len() as u64 == checkpoint.wanted)
            .map(|(version, checkpoint)| (*version, checkpoint))
    }
}

impl Log {
    fn dir(&self) -> Path {
        self.folder.clone().join("_delta_log")
    }

    /// The place of the entry that makes `version`.
    pub(super) fn entry(&self, version: u64) -> Path {
        self.dir().join(format!("{version:020}.json"))
    }

    fn error(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(code::LAKE, format!("could not read table \"{}\"", self.table)).caused_by(source)
    }

    /// The place of the checkpoint of `version`.
    pub(super) fn checkpoint(&self, version: u64) -> Path {
        self.dir().join(format!("{version:020}.checkpoint.parquet"))
    }

    /// The place of the note that names the newest checkpoint.
    pub(super) fn last_checkpoint_note(&self) -> Path {
        self.dir().join("_last_checkpoint")
    }

    /// The entries that there are, with `hint` from the newest checkpoint on where one is noted.
    pub(super) async fn entries(&self, hint: bool) -> Result<Entries> {
        let dir = self.dir();
        let start = if hint { self.last_checkpoint().await } else { None };
        let mut listed = match start {
            Some(version) => {
                let offset = dir.clone().join(format!("{version:020}"));
                self.store.list_with_offset(Some(&dir), &offset)
            }
            None => self.store.list(Some(&dir)),
        };
        let mut entries = Entries::default();
        while let Some(object) = listed.next().await {
            match object {
                Ok(object) => entries.take(object),
                Err(object_store::Error::NotFound { .. }) => break,
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(entries)
    }

    /// The version that the log's own note names; a note that cannot be read is none.
    async fn last_checkpoint(&self) -> Option<u64> {
        let note = self.store.get(&self.last_checkpoint_note()).await.ok()?;
        let note: Value = serde_json::from_slice(&note.bytes().await.ok()?).ok()?;
        note["version"].as_u64()
    }

    /// The table at a version, by default the newest; `None` where there is no such table.
    pub(super) async fn load(&self, as_of: Option<AsOf>) -> Result<Option<State>> {
        let mut entries = self.entries(as_of.is_none()).await?;
        if as_of.is_none() && entries.checkpoint_up_to(u64::MAX).is_none() {
            // Either there was no note, or it names what is no longer there.
            if entries.commits.keys().next().is_some_and(|first| *first > 0) {
                entries = self.entries(false).await?;
            }
        }
        let Some(last) = entries.last() else { return Ok(None) };
        let version = match as_of {
            None => last,
            Some(AsOf::Version(version)) => version,
            Some(AsOf::Timestamp(time)) => self.version_at(&entries, time).await?,
        };
        let state = self.replay(&entries, version, last).await?;
        Ok(Some(state))
    }

    async fn replay(&self, entries: &Entries, version: u64, last: u64) -> Result<State> {
        let mut state = State { version, ..State::default() };
        let checkpoint = entries.checkpoint_up_to(version);
        let first = match checkpoint {
            Some((at, _)) => at + 1,
            None => 0,
        };
        let complete = version <= last
            && (first..=version).all(|version| entries.commits.contains_key(&version));
        if !complete {
            return Err(Error::new(
                code::LAKE,
                format!("table \"{}\" has no version {version}", self.table),
            )
            .hint(format!("its newest version is {last}; older ones end where its log begins")));
        }
        if let Some((at, checkpoint)) = checkpoint {
            for part in checkpoint.parts.values() {
                for action in self.read_checkpoint(part).await? {
                    state.apply(action, at);
                }
                state.timestamp_ms = part.last_modified.timestamp_millis();
            }
            // Only the commit itself says when it was made.
            if at == version && entries.commits.contains_key(&at) {
                for action in self.read_commit(at).await? {
                    if let Some(timestamp) = action.commit_info.as_ref().and_then(commit_timestamp)
                    {
                        state.timestamp_ms = timestamp;
                    }
                }
            }
        }
        let mut commits =
            stream::iter(first..=version)
                .map(|version| async move {
                    Ok::<_, Error>((version, self.read_commit(version).await?))
                })
                .buffered(READ_AHEAD);
        while let Some((version, actions)) = commits.try_next().await? {
            if let Some(object) = entries.commits.get(&version) {
                state.timestamp_ms = object.last_modified.timestamp_millis();
            }
            for action in actions {
                state.apply(action, version);
            }
        }
        self.check_readable(&state)?;
        Ok(state)
    }

    fn check_readable(&self, state: &State) -> Result<()> {
        let protocol = state.protocol.as_ref().ok_or_else(|| self.error("it has no protocol"))?;
        let metadata = state.metadata.as_ref().ok_or_else(|| self.error("it has no metadata"))?;
        let unknown = unknown_features(protocol.reader_features.as_deref());
        if !matches!(protocol.min_reader_version, 1 | 3) || !unknown.is_empty() {
            let needs = if unknown.is_empty() {
                format!("reader version {}", protocol.min_reader_version)
            } else {
                unknown.join(", ")
            };
            return Err(self.error(format!("it needs {needs}, which Freshet does not have")));
        }
        if metadata.configuration.get("delta.columnMapping.mode").is_some_and(|mode| mode != "none")
        {
            return Err(self.error("it maps column names, which Freshet does not do"));
        }
        if state.files.values().any(|file| file.deletion_vector.is_some()) {
            return Err(self.error("it has deletion vectors, which Freshet does not read"));
        }
        if let Some(path) =
            state.files.keys().find(|path| path.contains("://") || path.starts_with('/'))
        {
            return Err(self.error(format!("its file \"{path}\" lies outside of its folder")));
        }
        Ok(())
    }

    /// Refuses tables whose rules for writers this build does not know.
    pub(super) fn check_writable(&self, state: &State) -> Result<()> {
        let Some(protocol) = &state.protocol else { return Ok(()) };
        let unknown = unknown_features(protocol.writer_features.as_deref());
        if !matches!(protocol.min_writer_version, 1 | 2 | 7) || !unknown.is_empty() {
            return Err(Error::new(
                code::LAKE,
                format!(
                    "table \"{}\" cannot be written: it needs writer version {} {}",
                    self.table,
                    protocol.min_writer_version,
                    unknown.join(", ")
                ),
            )
            .hint("let the model make a table of its own"));
        }
        Ok(())
    }

    async fn read_commit(&self, version: u64) -> Result<Vec<Action>> {
        let content = async { self.store.get(&self.entry(version)).await?.bytes().await };
        let content = content.await.map_err(|error| self.error(error))?;
        parse_lines(&content)
            .map_err(|error| self.error(format!("its log entry {version} is broken: {error}")))
    }

    async fn read_checkpoint(&self, part: &ObjectMeta) -> Result<Vec<Action>> {
        let content = async { self.store.get(&part.location).await?.bytes().await };
        let content = content.await.map_err(|error| self.error(error))?;
        let read = move || -> Result<Vec<Action>, Box<dyn std::error::Error + Send + Sync>> {
            let builder = ParquetRecordBatchReaderBuilder::try_new(content)?;
            let wanted = |path: &str| {
                let parsed = path.starts_with("add.stats_parsed")
                    || path.starts_with("add.partitionValues_parsed");
                let root = path.split('.').next().unwrap_or_default();
                !parsed && matches!(root, "add" | "remove" | "metaData" | "protocol" | "txn")
            };
            let leaves: Vec<_> = builder
                .parquet_schema()
                .columns()
                .iter()
                .enumerate()
                .filter(|(_, column)| wanted(&column.path().string()))
                .map(|(index, _)| index)
                .collect();
            let mask = ProjectionMask::leaves(builder.parquet_schema(), leaves);
            let mut actions = Vec::new();
            for batch in builder.with_projection(mask).build()? {
                let mut lines = LineDelimitedWriter::new(Vec::new());
                lines.write(&batch?)?;
                lines.finish()?;
                actions.extend(parse_lines(&lines.into_inner())?);
            }
            Ok(actions)
        };
        let read = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| Error::internal("reading a checkpoint panicked").caused_by(error))?;
        read.map_err(|error| self.error(format!("its checkpoint is broken: {error}")))
    }

    async fn version_at(&self, entries: &Entries, time: DateTime<Utc>) -> Result<u64> {
        let versions: Vec<_> = entries.commits.keys().copied().collect();
        let mut times = stream::iter(versions)
            .map(|version| async move {
                let actions = self.read_commit(version).await?;
                let written = actions
                    .iter()
                    .find_map(|action| action.commit_info.as_ref().and_then(commit_timestamp));
                Ok::<_, Error>((version, written))
            })
            .buffered(READ_AHEAD);
        let mut found = None;
        while let Some((version, written)) = times.try_next().await? {
            let written = written.or_else(|| {
                entries.commits.get(&version).map(|o| o.last_modified.timestamp_millis())
            });
            if written.is_some_and(|written| written <= time.timestamp_millis()) {
                found = Some(version);
            }
        }
        found.ok_or_else(|| {
            Error::new(
                code::LAKE,
                format!("table \"{}\" has no version as old as {time}", self.table),
            )
            .hint("`freshet lake history` shows the versions that there are")
        })
    }

    /// The newest entries, newest first.
    pub(super) async fn history(&self, limit: usize) -> Result<Vec<HistoryEntry>> {
        let entries = self.entries(false).await?;
        let versions: Vec<_> = entries.commits.keys().rev().take(limit).copied().collect();
        stream::iter(versions)
            .map(|version| async move {
                let info = self
                    .read_commit(version)
                    .await?
                    .into_iter()
                    .find_map(|action| action.commit_info)
                    .unwrap_or_default();
                Ok(history_entry(version, info))
            })
            .buffered(READ_AHEAD)
            .try_collect()
            .await
    }
}

fn history_entry(version: u64, mut info: serde_json::Map<String, Value>) -> HistoryEntry {
    let timestamp =
        commit_timestamp(&info).and_then(DateTime::from_timestamp_millis).unwrap_or_default();
    let operation = match info.remove("operation") {
        Some(Value::String(operation)) => operation,
        _ => String::new(),
    };
    let parameters = match info.remove("operationParameters") {
        Some(Value::Object(parameters)) => parameters.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    info.remove("timestamp");
    HistoryEntry { version, timestamp, operation, parameters, info: info.into_iter().collect() }
}

fn unknown_features(features: Option<&[String]>) -> Vec<String> {
    let mut unknown: Vec<_> = features
        .unwrap_or_default()
        .iter()
        .filter(|feature| !FEATURES.contains(&feature.as_str()))
        .cloned()
        .collect();
    unknown.sort_unstable();
    unknown
}

fn parse_lines(content: &[u8]) -> Result<Vec<Action>, serde_json::Error> {
    content
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
        .map(serde_json::from_slice)
        .collect()
}

/// A path as the log has it: a relative URI reference.
pub(super) fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/=".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The path that a relative URI reference of the log means.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| path.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| path.to_owned())
}
