//! The contracts that sources had: one small file for each change, kept beside the lake.
//!
//! `_freshet/contracts/<source>/<version>.json` is written by the first build that meets a contract
//! with other columns or types than the last one; that build reports what changed. It also holds the
//! types that columns were widened to because the data needed it (`bad_values: evolve`): they stay
//! until the column's declaration changes. Losing these files loses the memory of what there was
//! before, and data that needs a wider type will say so again.

use std::collections::BTreeMap;
use std::sync::Arc;

use freshet_core::contract::{Contract, ContractMode, Evolution, SchemaChange};
use freshet_core::error::code;
use freshet_core::types::ColumnType;
use freshet_core::{Error, Result, ResultExt, SourceId};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

/// Version of the file format.
const FORMAT: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    format: u32,
    source: SourceId,
    columns: Vec<KeptColumn>,
    /// Wider types by column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    widened: BTreeMap<String, ColumnType>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptColumn {
    name: String,
    data_type: ColumnType,
}

fn folder(source: &SourceId) -> Path {
    Path::from_iter(["_freshet", "contracts", source.as_str()])
}

/// Keeps the contract of a source if it is another one than the last one that was kept, and says
/// what changed. The first contract of a source changes nothing, and neither does one that another
/// process keeps at the same time.
pub async fn note(
    store: &Arc<dyn ObjectStore>,
    source: &SourceId,
    contract: &Contract,
) -> Result<Vec<SchemaChange>> {
    let (version, before) = last(store, source).await?;
    let columns = kept_columns(contract);
    let changes = match &before {
        Some(before) if before.columns == columns => return Ok(Vec::new()),
        Some(before) => differences(&before.columns, &columns),
        None => Vec::new(),
    };
    let widened = before.map(|before| before.still_widened(&columns)).unwrap_or_default();
    let kept = Kept { format: FORMAT, source: source.clone(), columns, widened };
    Ok(if keep(store, version + 1, &kept).await? { changes } else { Vec::new() })
}

/// What the data of a source was found to need beyond `contract`.
pub async fn evolution(
    store: &Arc<dyn ObjectStore>,
    source: &SourceId,
    contract: &Contract,
) -> Result<Evolution> {
    if contract.modes.bad_values != ContractMode::Evolve {
        return Ok(Evolution::default());
    }
    let (_, kept) = last(store, source).await?;
    let widened = kept.map(|kept| kept.still_widened(&kept_columns(contract))).unwrap_or_default();
    Ok(Evolution { widened, ..Evolution::default() })
}

/// Keeps the types that columns of a source were widened to.
pub async fn widen(
    store: &Arc<dyn ObjectStore>,
    source: &SourceId,
    contract: &Contract,
    evolution: &Evolution,
) -> Result<()> {
    let columns = kept_columns(contract);
    loop {
        let (version, before) = last(store, source).await?;
        let widened = before.map(|before| before.still_widened(&columns)).unwrap_or_default();
        let mut all = Evolution { widened: widened.clone(), ..Evolution::default() };
        all.merge(Evolution { widened: evolution.widened.clone(), ..Evolution::default() });
        if all.widened == widened {
            return Ok(());
        }
        let columns = kept_columns(contract);
        let kept = Kept { format: FORMAT, source: source.clone(), columns, widened: all.widened };
        // Another process may have kept one meanwhile: what it widened counts as well.
        if keep(store, version + 1, &kept).await? {
            return Ok(());
        }
    }
}

fn kept_columns(contract: &Contract) -> Vec<KeptColumn> {
    let columns = contract.columns.iter();
    columns
        .map(|column| KeptColumn { name: column.name.clone(), data_type: column.data_type.clone() })
        .collect()
}

impl Kept {
    /// The widened types of columns that are declared as they were.
    fn still_widened(self, columns: &[KeptColumn]) -> BTreeMap<String, ColumnType> {
        let Self { columns: before, mut widened, .. } = self;
        widened.retain(|name, _| {
            let declared = |columns: &[KeptColumn]| {
                columns.iter().find(|column| column.name == *name).map(|c| c.data_type.clone())
            };
            let now = declared(columns);
            now.is_some() && now == declared(&before)
        });
        widened
    }
}

/// Writes a version; false where another process wrote it first.
async fn keep(store: &Arc<dyn ObjectStore>, version: u64, kept: &Kept) -> Result<bool> {
    let source = &kept.source;
    let bytes = serde_json::to_vec(kept)
        .map_err(|error| Error::internal("could not write a contract").caused_by(error))?;
    let path = folder(source).join(format!("{version:020}.json"));
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&path, bytes.into(), options).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(Error::new(
            code::LAKE,
            format!("could not keep the contract of source \"{source}\""),
        )
        .caused_by(error)),
    }
}

/// The contract that was kept last, and its number.
async fn last(store: &Arc<dyn ObjectStore>, source: &SourceId) -> Result<(u64, Option<Kept>)> {
    let what = || format!("could not read the earlier contracts of source \"{source}\"");
    let files: Vec<_> =
        store.list(Some(&folder(source))).try_collect().await.or_code(code::LAKE, what)?;
    let Some(file) = files.into_iter().max_by(|a, b| a.location.cmp(&b.location)) else {
        return Ok((0, None));
    };
    let bytes = store.get(&file.location).await.or_code(code::LAKE, what)?.bytes().await;
    let kept: Kept = serde_json::from_slice(&bytes.or_code(code::LAKE, what)?)
        .or_code(code::LAKE, || format!("could not read contract file \"{}\"", file.location))?;
    if kept.format != FORMAT {
        return Err(Error::new(
            code::LAKE,
            format!("contract file \"{}\" has format {}", file.location, kept.format),
        )
        .hint("it was written by a newer Freshet; use that version"));
    }
    let number = file.location.filename().and_then(|name| name.strip_suffix(".json")?.parse().ok());
    Ok((number.unwrap_or(0), Some(kept)))
}

fn differences(before: &[KeptColumn], now: &[KeptColumn]) -> Vec<SchemaChange> {
    let mut changes = Vec::new();
    for column in now {
        match before.iter().find(|old| old.name == column.name) {
            None => changes.push(SchemaChange::Added {
                column: column.name.clone(),
                data_type: column.data_type.to_string(),
            }),
            Some(old) if old.data_type != column.data_type => changes.push(SchemaChange::Retyped {
                column: column.name.clone(),
                from: old.data_type.to_string(),
                to: column.data_type.to_string(),
            }),
            Some(_) => {}
        }
    }
    for old in before {
        if !now.iter().any(|column| column.name == old.name) {
            changes.push(SchemaChange::Missing { column: old.name.clone() });
        }
    }
    if changes.is_empty() {
        changes.push(SchemaChange::Reordered);
    }
    changes
}

#[cfg(test)]
mod tests {
    use freshet_core::ContractColumn;
    use object_store::memory::InMemory;

    use super::*;

    fn contract(columns: &[(&str, &str)]) -> Contract {
        let column = |(name, data_type): &(&str, &str)| {
            ContractColumn::new(*name, data_type.parse().expect("a type"))
        };
        Contract { columns: columns.iter().map(column).collect(), ..Contract::default() }
    }

    #[tokio::test]
    async fn each_change_is_told_once() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = SourceId::of("pos", "sales");
        let steps: [(&[(&str, &str)], &str); 6] = [
            (&[("id", "int"), ("note", "text")], "[]"),
            (&[("id", "int"), ("note", "text")], "[]"),
            (
                &[("id", "bigint"), ("day", "date")],
                r#"[{"change":"retyped","column":"id","from":"int","to":"bigint"},{"change":"added","column":"day","data_type":"date"},{"change":"missing","column":"note"}]"#,
            ),
            (&[("id", "bigint"), ("day", "date")], "[]"),
            (&[("day", "date"), ("id", "bigint")], r#"[{"change":"reordered"}]"#),
            (&[], r#"[{"change":"missing","column":"day"},{"change":"missing","column":"id"}]"#),
        ];
        for (columns, expect) in steps {
            let changes = note(&store, &source, &contract(columns)).await.expect("it is kept");
            assert_eq!(serde_json::to_string(&changes).expect("JSON"), expect, "{columns:?}");
        }
    }
}
