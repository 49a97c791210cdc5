//! Care of tables: joining small files, deleting old ones, telling versions apart.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use freshet_core::error::code;
use freshet_core::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStoreExt;
use parking_lot::Mutex;

use super::rewrite::{Marks, Reader};
use super::writer::Target;
use super::{
    AsOf, ChangeCounts, DataFile, ExportFormat, FileDiff, Lake, OptimizeReport, Snapshot,
    StagedChange, TableName, VacuumReport, provider, stage,
};

/// How long entries of a log are kept: Delta's default of 30 days.
const LOG_RETENTION_MS: i64 = 30 * 24 * 3_600_000;

pub(super) async fn optimize(lake: &Lake, table: &TableName) -> Result<OptimizeReport> {
    let Some(base) = lake.load(table, None).await? else {
        return Err(lake.no_table(table));
    };
    let bins = bins(&base, lake.options.target_file_bytes);
    if bins.is_empty() {
        return Ok(OptimizeReport::default());
    }
    let target = Arc::new(Target {
        store: Arc::clone(lake.store()),
        table: table.clone(),
        folder: lake.folder(table),
        schema: Arc::clone(&base.schema),
        partition_by: base.metadata.partition_by.clone(),
        options: Arc::clone(&lake.options),
        format: ExportFormat::Parquet,
        compression: ExportFormat::Parquet.compression(),
        name: None,
        written: Mutex::default(),
    });
    let reader = Reader {
        store: Arc::clone(lake.store()),
        table: table.clone(),
        folder: lake.folder(table),
        partition_by: base.metadata.partition_by.clone(),
    };
    let removes: Vec<_> = bins.iter().flatten().map(stage::removed).collect();
    let bytes_removed = removes.iter().map(|file| file.size).sum();
    let result = async {
        let mut adds = Vec::new();
        for group in bins.chunks(lake.options.threads.max(1)) {
            let streams = group.iter().map(|bin| {
                let files = bin.iter().map(|file| (file.clone(), Marks::default())).collect();
                reader.survivors(files, Arc::clone(&base.schema))
            });
            adds.extend(target.write(streams.collect()).await?);
        }
        let change = StagedChange {
            format: StagedChange::FORMAT,
            table: table.clone(),
            base_version: Some(base.version),
            adds,
            removes,
            metadata: None,
            operation: "OPTIMIZE".into(),
            parameters: BTreeMap::new(),
            data_change: false,
            counts: ChangeCounts::default(),
            rows_total: base.rows(),
            schema_changes: Vec::new(),
        };
        let committed = lake.commit_change(&change, None, &BTreeMap::new()).await?;
        Ok::<_, Error>(OptimizeReport {
            version: Some(committed.version),
            files_removed: change.removes.len() as u64,
            files_added: change.adds.len() as u64,
            bytes_removed,
            bytes_added: change.adds.iter().map(|file| file.size).sum(),
        })
    };
    match result.await {
        Ok(report) => Ok(report),
        Err(error) => {
            // Where the commit's fate is not known its files must stay.
            if error.code() != code::LAKE {
                target.undo().await;
            }
            Err(error)
        }
    }
}

/// Files to be joined, per partition, in the order in which they were written.
fn bins(base: &Snapshot, target: u64) -> Vec<Vec<DataFile>> {
    let mut partitions: BTreeMap<_, Vec<&DataFile>> = BTreeMap::new();
    for file in base.files.iter().filter(|file| file.size < target / 4 * 3) {
        partitions.entry(&file.partition_values).or_default().push(file);
    }
    let mut bins = Vec::new();
    for files in partitions.values_mut() {
        files.sort_by(|a, b| (a.modified_ms, &a.path).cmp(&(b.modified_ms, &b.path)));
        let (mut bin, mut bytes): (Vec<DataFile>, u64) = (Vec::new(), 0);
        for file in files {
            if bytes + file.size > target && !bin.is_empty() {
                bins.push(std::mem::take(&mut bin));
                bytes = 0;
            }
            bytes += file.size;
            bin.push(file.clone());
        }
        bins.push(bin);
    }
    bins.retain(|bin| bin.len() > 1);
    bins
}

pub(super) async fn vacuum(
    lake: &Lake,
    table: &TableName,
    retention: Duration,
    keep: &BTreeSet<String>,
    dry_run: bool,
) -> Result<VacuumReport> {
    let Some(state) = lake.log(table).load(None).await? else {
        return Err(lake.no_table(table));
    };
    let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    let cutoff = (lake.options.clock.now_micros() / 1_000).saturating_sub(retention);
    let folder = lake.folder(table);
    let depth = folder.parts().count();
    let error = |error: object_store::Error| {
        Error::new(code::LAKE, format!("could not clean table \"{table}\"")).caused_by(error)
    };
    let mut report = VacuumReport::default();
    let mut objects = lake.store.list(Some(&folder));
    while let Some(object) = objects.try_next().await.map_err(error)? {
        let parts: Vec<_> =
            object.location.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect();
        // Folders with an underscore are not data: the log, indexes of other writers. One of a
        // partition column may begin with one.
        let hidden = |part: &String| part.starts_with('_') && !part.contains('=');
        if parts.iter().any(hidden) {
            continue;
        }
        let path = parts.join("/");
        let removed_lately = state.removed.get(&path).is_some_and(|removed| *removed > cutoff);
        if state.files.contains_key(&path)
            || keep.contains(&path)
            || removed_lately
            || object.last_modified.timestamp_millis() > cutoff
        {
            continue;
        }
        report.bytes += object.size;
        report.files.push(path);
    }
    if !dry_run {
        delete(lake, table, &report.files).await?;
        let cutoff = (lake.options.clock.now_micros() / 1_000).saturating_sub(LOG_RETENTION_MS);
        lake.clean_log(&lake.log(table), state.version, cutoff).await?;
    }
    Ok(report)
}

/// Deletes data files; those that are gone already are no error.
pub(super) async fn delete(lake: &Lake, table: &TableName, paths: &[String]) -> Result<()> {
    let folder = lake.folder(table);
    stream::iter(paths.to_vec())
        .map(|path| {
            let (lake, folder) = (lake.clone(), folder.clone());
            async move {
                let location =
                    provider::location(&folder, &path).map_err(object_store::Error::from)?;
                match lake.store.delete(&location).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    result => result,
                }
            }
        })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await
        .map_err(|error| {
            Error::new(code::LAKE, format!("could not delete files of table \"{table}\""))
                .caused_by(error)
        })
}

pub(super) async fn diff_files(
    lake: &Lake,
    table: &TableName,
    from: u64,
    to: u64,
) -> Result<FileDiff> {
    let (from, to) = futures::try_join!(
        lake.load(table, Some(AsOf::Version(from))),
        lake.load(table, Some(AsOf::Version(to)))
    )?;
    let (Some(from), Some(to)) = (from, to) else { return Err(lake.no_table(table)) };
    let only = |a: &Snapshot, b: &Snapshot| {
        let known: HashSet<_> = b.files.iter().map(|file| file.path.as_str()).collect();
        a.files.iter().filter(|file| !known.contains(file.path.as_str())).cloned().collect()
    };
    Ok(FileDiff { added: only(&to, &from), removed: only(&from, &to) })
}

pub(super) async fn drop_table(lake: &Lake, table: &TableName) -> Result<()> {
    let folder = lake.folder(table);
    let error = |error: object_store::Error| {
        Error::new(code::LAKE, format!("could not delete table \"{table}\"")).caused_by(error)
    };
    // Newest entries first: a table whose deletion was cut off is an older version of itself or
    // has none, and never one that names files which are gone.
    let log = folder.clone().join("_delta_log");
    let mut entries: Vec<_> = lake.store.list(Some(&log)).try_collect().await.map_err(error)?;
    entries.sort_unstable_by(|a: &object_store::ObjectMeta, b| b.location.cmp(&a.location));
    for entry in entries {
        lake.store.delete(&entry.location).await.map_err(error)?;
    }
    let files = lake.store.list(Some(&folder)).map_ok(|object| object.location).boxed();
    lake.store.delete_stream(files).try_collect::<Vec<_>>().await.map_err(error)?;
    Ok(())
}
