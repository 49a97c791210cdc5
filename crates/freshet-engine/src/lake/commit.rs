//! The second half of a write: one entry of the table's log, put where none must be yet.

use std::collections::BTreeMap;

use freshet_core::error::code;
use freshet_core::{Error, Result};
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use serde_json::{Map, Value, json};

use super::log::{Action, Add, Metadata, Protocol, Remove, State, Txn};
use super::{Committed, Lake, StagedChange, TableMetadata, Transaction, log, schema, stats};

impl Lake {
    pub(super) async fn commit_change(
        &self,
        change: &StagedChange,
        transaction: Option<&Transaction>,
        info: &BTreeMap<String, Value>,
    ) -> Result<Committed> {
        if change.format > StagedChange::FORMAT {
            return Err(Error::new(
                code::LAKE,
                format!(
                    "the staged change of table \"{}\" has format {}, which is newer than this Freshet",
                    change.table, change.format
                ),
            )
            .hint("run the version of Freshet that wrote it, or a newer one"));
        }
        let log = self.log(&change.table);
        let state = log.load(None).await?;
        if let Some(version) = held(state.as_ref(), transaction) {
            self.settle(&log.entry(version)).await?;
            return Ok(Committed { version, written: false });
        }
        let found = state.as_ref().map(|state| state.version);
        if found != change.base_version {
            return Err(conflict(change, found));
        }
        if let Some(state) = &state {
            log.check_writable(state)?;
            if let Some(gone) = change.removes.iter().find(|f| !state.files.contains_key(&f.path)) {
                return Err(Error::new(
                    code::LAKE_CONFLICT,
                    format!("table \"{}\" no longer has the file \"{}\"", change.table, gone.path),
                )
                .hint("run again"));
            }
        }
        let version = found.map_or(0, |found| found + 1);
        let entry = self.entry(change, state.as_ref(), transaction, info)?;
        let options = PutOptions::from(PutMode::Create);
        let put = self.store.put_opts(&log.entry(version), PutPayload::from(entry), options).await;
        if let Err(error) = put {
            // Either somebody else made this version, or we did and its answer was lost.
            let state = log.load(None).await?;
            if let Some(version) = held(state.as_ref(), transaction) {
                self.settle(&log.entry(version)).await?;
                return Ok(Committed { version, written: true });
            }
            return Err(match error {
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. } => {
                    conflict(change, state.map(|state| state.version))
                }
                error => Error::new(
                    code::LAKE,
                    format!("could not commit to table \"{}\"", change.table),
                )
                .caused_by(error)
                .retryable(),
            });
        }
        if (version + 1) % self.options.checkpoint_interval.max(1) == 0
            && let Err(error) = self.checkpoint(&log).await
        {
            // The log is complete without it.
            tracing::warn!(table = %change.table, version, %error, "checkpoint failed");
        }
        Ok(Committed { version, written: true })
    }

    fn entry(
        &self,
        change: &StagedChange,
        state: Option<&State>,
        transaction: Option<&Transaction>,
        info: &BTreeMap<String, Value>,
    ) -> Result<Vec<u8>> {
        let now = self.options.clock.now_micros() / 1_000;
        let metadata = change.metadata.as_ref().or_else(|| state?.metadata.as_ref());
        let metadata = metadata.ok_or_else(|| {
            Error::internal(format!("a change creates table \"{}\" without columns", change.table))
        })?;
        let table_schema = schema::from_json(&metadata.schema_json)?;
        let mut actions =
            vec![Action { commit_info: Some(commit_info(change, now, info)), ..Action::default() }];
        if let Some(protocol) = protocol(state, &metadata.schema_json) {
            actions.push(Action { protocol: Some(protocol), ..Action::default() });
        }
        if let Some(new) = &change.metadata {
            let meta_data = Some(raw_metadata(new, state, now));
            actions.push(Action { meta_data, ..Action::default() });
        }
        if let Some(transaction) = transaction {
            let version = i64::try_from(transaction.number)
                .map_err(|_| Error::internal("a transaction's number is beyond all numbers"))?;
            let txn = Txn { app_id: transaction.app.clone(), version, last_updated: Some(now) };
            actions.push(Action { txn: Some(txn), ..Action::default() });
        }
        actions.extend(change.removes.iter().map(|file| Action {
            remove: Some(Remove {
                path: log::encode(&file.path),
                deletion_timestamp: Some(now),
                data_change: change.data_change,
                extended_file_metadata: Some(true),
                partition_values: Some(file.partition_values.clone()),
                size: Some(file.size),
            }),
            ..Action::default()
        }));
        actions.extend(change.adds.iter().map(|file| Action {
            add: Some(Add {
                path: log::encode(&file.path),
                partition_values: file.partition_values.clone(),
                size: file.size,
                modification_time: file.modified_ms,
                data_change: change.data_change,
                stats: stats::to_json(file.rows, &file.stats, &table_schema),
                deletion_vector: None,
            }),
            ..Action::default()
        }));
        let mut entry = Vec::new();
        for action in actions {
            serde_json::to_writer(&mut entry, &action)
                .map_err(|error| Error::internal("could not write a log entry").caused_by(error))?;
            entry.push(b'\n');
        }
        Ok(entry)
    }
}

/// The version that holds the transaction, or a later one of the same application.
fn held(state: Option<&State>, transaction: Option<&Transaction>) -> Option<u64> {
    let transaction = transaction?;
    let (number, version) = state?.transactions.get(&transaction.app)?;
    (*number >= transaction.number).then_some(*version)
}

fn conflict(change: &StagedChange, found: Option<u64>) -> Error {
    let name = |version: Option<u64>| match version {
        Some(version) => format!("at version {version}"),
        None => "not there".to_owned(),
    };
    Error::new(
        code::LAKE_CONFLICT,
        format!(
            "table \"{}\" is {} and was {} when this change was made",
            change.table,
            name(found),
            name(change.base_version)
        ),
    )
    .hint("another writer committed meanwhile; run again")
}

fn commit_info(
    change: &StagedChange,
    now: i64,
    info: &BTreeMap<String, Value>,
) -> Map<String, Value> {
    let mut entry: Map<String, Value> =
        info.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    entry.insert("timestamp".into(), json!(now));
    entry.insert("operation".into(), json!(change.operation));
    entry.insert("operationParameters".into(), json!(change.parameters));
    if let Some(base) = change.base_version {
        entry.insert("readVersion".into(), json!(base));
    }
    entry.insert("isBlindAppend".into(), json!(change.data_change && change.removes.is_empty()));
    entry.insert("engineInfo".into(), json!(concat!("Freshet/", env!("CARGO_PKG_VERSION"))));
    entry.insert(
        "operationMetrics".into(),
        json!({
            "numFiles": change.adds.len(),
            "numRemovedFiles": change.removes.len(),
            "numOutputRows": change.counts.rows_in + change.counts.rows_copied,
            "numOutputBytes": change.adds.iter().map(|file| file.size).sum::<u64>(),
        }),
    );
    entry
}

/// The protocol to write: for a new table, or where a column needs more than the table's.
fn protocol(state: Option<&State>, schema_json: &str) -> Option<Protocol> {
    let needs_ntz = schema_json.contains("\"timestamp_ntz\"");
    let old = state.and_then(|state| state.protocol.as_ref());
    let has_ntz = old.is_some_and(|protocol| {
        let features = protocol.writer_features.iter().flatten();
        features.clone().any(|feature| feature == "timestampNtz")
    });
    if needs_ntz && !has_ntz {
        // From version 7 on, writers name the features of the versions before as well.
        let writer = ["appendOnly", "invariants", "timestampNtz"];
        return Some(Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
            reader_features: Some(vec!["timestampNtz".into()]),
            writer_features: Some(writer.map(String::from).to_vec()),
        });
    }
    old.is_none().then_some(Protocol {
        min_reader_version: 1,
        min_writer_version: 2,
        reader_features: None,
        writer_features: None,
    })
}

fn raw_metadata(new: &TableMetadata, state: Option<&State>, now: i64) -> Metadata {
    let old = state.and_then(|state| state.raw_metadata.clone());
    Metadata {
        id: new.id.clone(),
        name: old.as_ref().and_then(|old| old.name.clone()),
        description: old.as_ref().and_then(|old| old.description.clone()),
        format: json!({ "provider": "parquet", "options": {} }),
        schema_string: new.schema_json.clone(),
        partition_columns: new.partition_by.clone(),
        configuration: new
            .configuration
            .iter()
            .map(|(key, value)| (key.clone(), Some(value.clone())))
            .collect(),
        created_time: old.and_then(|old| old.created_time).or(Some(now)),
    }
}
