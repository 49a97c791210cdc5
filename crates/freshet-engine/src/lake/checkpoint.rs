//! Checkpoints of a table's log: its state at a version as one Parquet file, so that readers need
//! not replay every entry; and the deletion of entries that no version in reach needs.
//!
//! Classic checkpoints as the Delta protocol has them (PROTOCOL.md, "Classic checkpoint" and
//! "Checkpoint schema"): one row for each action, one struct column for each kind of action.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::ReaderBuilder;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::Lake;
use super::log::{self, Action, Add, Log, Remove, State, Txn};

/// How long removed files are remembered where the table does not say: a week, as the protocol has it.
const KEEP_REMOVED_MS: i64 = 7 * 24 * 3_600_000;
/// Rows that are encoded at a time.
const ROWS: usize = 4096;
/// Entries that are deleted at once.
const DELETES: usize = 16;

impl Lake {
    /// Writes the newest state of a table's log as a checkpoint.
    pub(super) async fn checkpoint(&self, log: &Log) -> Result<()> {
        let Some(state) = log.load(None).await? else { return Ok(()) };
        let now = self.options.clock.now_micros() / 1_000;
        let version = state.version;
        let (files, actions) = (state.files.len(), actions(state, now));
        let rows = actions.len();
        let encode = move || encode(&actions);
        let content = tokio::task::spawn_blocking(encode)
            .await
            .map_err(|error| Error::internal("writing a checkpoint panicked").caused_by(error))??;
        let bytes = content.len();
        let put = async {
            self.store.put(&log.checkpoint(version), PutPayload::from(content)).await?;
            let note = json!({
                "version": version, "size": rows, "sizeInBytes": bytes, "numOfAddFiles": files,
            });
            self.store.put(&log.last_checkpoint_note(), PutPayload::from(note.to_string())).await
        };
        put.await.or_code(code::LAKE, || {
            format!("could not write a checkpoint of table \"{}\"", log.table)
        })?;
        Ok(())
    }

    /// Deletes entries of a table's log that are older than `cutoff_ms` and that no version from
    /// then on needs: those before the checkpoint at which the first younger version begins.
    pub(super) async fn clean_log(&self, log: &Log, version: u64, cutoff_ms: i64) -> Result<()> {
        let entries = log.entries(false).await?;
        let young = |object: &object_store::ObjectMeta| {
            object.last_modified.timestamp_millis() >= cutoff_ms
        };
        let commits = entries.commits.range(..=version);
        let kept = commits.clone().find(|(_, commit)| young(commit)).map_or(version, |(v, _)| *v);
        let Some((begin, _)) = entries.checkpoint_up_to(kept) else { return Ok(()) };
        let checkpoints = entries.checkpoints.range(..begin);
        let old: Vec<Path> = entries
            .commits
            .range(..begin)
            .map(|(_, commit)| commit)
            .chain(checkpoints.flat_map(|(_, checkpoint)| checkpoint.parts.values()))
            .map(|object| object.location.clone())
            .collect();
        // A process that ends here leaves holes only among versions that are to go.
        stream::iter(old)
            .map(|path| async move {
                match self.store.delete(&path).await {
                    Err(error) if !matches!(error, object_store::Error::NotFound { .. }) => {
                        Err(error)
                    }
                    _ => Ok(()),
                }
            })
            .buffered(DELETES)
            .try_collect::<Vec<_>>()
            .await
            .or_code(code::LAKE, || {
                format!("could not clean the log of table \"{}\"", log.table)
            })?;
        Ok(())
    }
}

/// What makes up a state. Files that were removed long ago are forgotten.
fn actions(state: State, now: i64) -> Vec<Action> {
    let keep = state
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.configuration.get("delta.deletedFileRetentionDuration"))
        .and_then(|text| interval_ms(text))
        .unwrap_or(KEEP_REMOVED_MS);
    let mut actions = vec![
        Action { protocol: state.protocol, ..Action::default() },
        Action { meta_data: state.raw_metadata, ..Action::default() },
    ];
    actions.extend(state.transactions.into_iter().map(|(app_id, (number, _))| Action {
        txn: Some(Txn { app_id, version: number as i64, last_updated: None }),
        ..Action::default()
    }));
    let removed = state.removed.into_iter().filter(|(_, at)| *at >= now.saturating_sub(keep));
    actions.extend(removed.map(|(path, at)| Action {
        remove: Some(Remove {
            path: log::encode(&path),
            deletion_timestamp: Some(at),
            data_change: false,
            extended_file_metadata: Some(false),
            partition_values: None,
            size: None,
        }),
        ..Action::default()
    }));
    actions.extend(
        state.files.into_values().map(|add| Action {
            add: Some(Add { data_change: false, ..add }),
            ..Action::default()
        }),
    );
    actions
}

/// Milliseconds of an interval as table properties have them: `interval 30 days`.
fn interval_ms(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let mut words = text.strip_prefix("interval").unwrap_or(&text).split_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let unit = match words.next()?.trim_end_matches('s') {
        "millisecond" => 1,
        "second" => 1_000,
        "minute" => 60_000,
        "hour" => 3_600_000,
        "day" => 24 * 3_600_000,
        "week" => 7 * 24 * 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The columns of a checkpoint.
fn schema() -> Arc<Schema> {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let long = |name: &str| Field::new(name, DataType::Int64, true);
    let int = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let list = |name: &str| {
        Field::new(
            name,
            DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))),
            true,
        )
    };
    let map = |name: &str| {
        let pair = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Utf8, true),
        ];
        let entries = Field::new("key_value", DataType::Struct(pair.into()), false);
        Field::new(name, DataType::Map(Arc::new(entries), false), true)
    };
    let group = |name: &str, fields: Vec<Field>| {
        Field::new(name, DataType::Struct(Fields::from(fields)), true)
    };
    Arc::new(Schema::new(vec![
        group("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        group(
            "add",
            vec![
                text("path"),
                map("partitionValues"),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                text("stats"),
            ],
        ),
        group(
            "remove",
            vec![
                text("path"),
                long("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                map("partitionValues"),
                long("size"),
            ],
        ),
        group(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                group("format", vec![text("provider"), map("options")]),
                text("schemaString"),
                list("partitionColumns"),
                map("configuration"),
                long("createdTime"),
            ],
        ),
        group(
            "protocol",
            vec![
                int("minReaderVersion"),
                int("minWriterVersion"),
                list("readerFeatures"),
                list("writerFeatures"),
            ],
        ),
    ]))
}

fn encode(actions: &[Action]) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::new(code::LAKE, "could not encode a checkpoint").caused_by(error.to_string())
    };
    let schema = schema();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
        .map_err(|error| failed(&error))?;
    for chunk in actions.chunks(ROWS) {
        let batch = rows(chunk, &schema).map_err(|error| failed(&error))?;
        writer.write(&batch).map_err(|error| failed(&error))?;
    }
    writer.into_inner().map_err(|error| failed(&error))
}

fn rows(
    actions: &[Action],
    schema: &Arc<Schema>,
) -> std::result::Result<RecordBatch, arrow::error::ArrowError> {
    let mut decoder =
        ReaderBuilder::new(Arc::clone(schema)).with_batch_size(actions.len()).build_decoder()?;
    decoder.serialize(actions)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_table_properties_are_read() {
        for (text, expected) in [
            ("interval 30 days", Some(30 * 24 * 3_600_000)),
            ("INTERVAL 1 week", Some(7 * 24 * 3_600_000)),
            ("interval 168 hours", Some(168 * 3_600_000)),
            ("interval 0 seconds", Some(0)),
            ("interval of time", None),
            ("interval 9223372036854775807 weeks", None),
            ("", None),
        ] {
            assert_eq!(interval_ms(text), expected, "{text}");
        }
    }
}
