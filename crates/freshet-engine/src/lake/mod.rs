//! The lake: Delta tables in one object store, read by DataFusion and written by us.
//!
//! Writing has two steps. [`Lake::stage`] writes data files that no reader sees and returns a
//! [`StagedChange`], which is plain data and can be kept in an intent; [`Lake::commit`] publishes
//! it with one entry of the table's log, once and only once for a transaction number. The Delta
//! log, its checkpoints, Parquet files, pruning and merges are ours.
//!
//! Knows nothing of models, runs or checks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use datafusion::catalog::TableProvider;
use datafusion::execution::object_store::ObjectStoreUrl;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use object_store::path::Path;
use serde_json::Value;
use url::Url;

use crate::store;

mod checkpoint;
mod commit;
mod export;
mod log;
mod maintain;
mod provider;
mod rewrite;
mod schema;
mod stage;
mod stats;
mod types;
mod writer;

pub use export::export;
pub(crate) use rewrite::micros_of;
pub use schema::{Reconciled, reconcile};
pub use types::*;

/// How a lake writes and how much memory it may use.
#[derive(Debug, Clone)]
pub struct LakeOptions {
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// Bytes after which a data file is closed and the next one begun.
    pub target_file_bytes: u64,
    /// Rows of a row group, at most.
    pub row_group_rows: usize,
    /// Bytes of encoded rows that one writer holds before it closes a row group.
    pub row_group_bytes: usize,
    /// Bytes that a merge may hold of the new rows' keys.
    pub merge_memory_bytes: usize,
    /// Files that are read or written at once.
    pub threads: usize,
    /// Commits from one checkpoint of a table's log to the next.
    pub checkpoint_interval: u64,
    /// Where rows are spilled to; the system's temporary folder by default.
    pub spill_dir: PathBuf,
}

impl Default for LakeOptions {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            target_file_bytes: 256 << 20,
            row_group_rows: 1 << 20,
            row_group_bytes: 32 << 20,
            merge_memory_bytes: 64 << 20,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            checkpoint_interval: 10,
            spill_dir: std::env::temp_dir(),
        }
    }
}

/// A folder of an object store with Delta tables in it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    url: Url,
    options: Arc<LakeOptions>,
    /// The name under which sessions of DataFusion know the store.
    store_url: ObjectStoreUrl,
}

/// Counts lakes, so that two of them never share a name in a session.
static LAKES: AtomicU64 = AtomicU64::new(0);

impl Lake {
    /// A lake in `store`, whose paths are relative to `url`, the lake's own place.
    pub fn open(store: Arc<dyn ObjectStore>, url: Url, options: LakeOptions) -> Result<Self> {
        let number = LAKES.fetch_add(1, Ordering::Relaxed);
        let store_url = ObjectStoreUrl::parse(format!("freshet-lake://lake{number}/"))
            .map_err(|error| Error::internal("a lake's name is no URL").caused_by(error))?;
        Ok(Self { store, url, options: Arc::new(options), store_url })
    }

    /// The store, whose paths are relative to the lake.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where it is.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// How it writes.
    pub fn options(&self) -> &LakeOptions {
        &self.options
    }

    fn folder(&self, table: &TableName) -> Path {
        Path::from_iter([table.schema.as_str(), table.name.as_str()])
    }

    fn log(&self, table: &TableName) -> log::Log {
        log::Log {
            store: Arc::clone(&self.store),
            table: table.clone(),
            folder: self.folder(table),
        }
    }

    /// Makes what is seen at `path` in the lake, and beside it, outlast a power cut: a process that
    /// was killed may have named an object in a folder and not synchronised it. In a bucket,
    /// whatever is seen is durable.
    pub fn settle<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.url.scheme() == "file" {
                store::settle(&self.store, path).await
            } else {
                Ok(())
            }
        })
    }

    /// As [`Lake::settle`], for the versions of a table.
    pub fn settle_table<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.settle(&self.log(table).entry(0)).await })
    }

    fn no_table(&self, table: &TableName) -> Error {
        Error::new(code::LAKE, format!("table \"{table}\" does not exist in the lake"))
            .hint("run the model that makes it")
    }

    /// The tables that there are, in the order of their names.
    pub fn tables<'a>(&'a self) -> BoxFuture<'a, Result<Vec<TableName>>> {
        Box::pin(async move {
            let error = |error| Error::new(code::LAKE, "could not list the lake").caused_by(error);
            let name = |folder: &Path| folder.filename().map(str::to_owned);
            let mut tables = Vec::new();
            let schemas = self.store.list_with_delimiter(None).await.map_err(error)?;
            for schema in schemas.common_prefixes {
                let Some(schema_name) = name(&schema).filter(|name| !name.starts_with('_')) else {
                    continue;
                };
                let folders = self.store.list_with_delimiter(Some(&schema)).await.map_err(error)?;
                for folder in folders.common_prefixes {
                    let log = folder.clone().join("_delta_log");
                    let entries =
                        self.store.list_with_delimiter(Some(&log)).await.map_err(error)?;
                    if let Some(name) = name(&folder).filter(|_| !entries.objects.is_empty()) {
                        tables.push(TableName::new(schema_name.clone(), name));
                    }
                }
            }
            tables.sort_unstable();
            Ok(tables)
        })
    }

    /// A version of a table, by default the newest; `None` where the table does not exist.
    pub fn load<'a>(
        &'a self,
        table: &'a TableName,
        as_of: Option<AsOf>,
    ) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        Box::pin(async move {
            let Some(state) = self.log(table).load(as_of).await? else { return Ok(None) };
            let files = state.data_files();
            let transactions = state.transactions.iter().map(|(app, (n, _))| (app.clone(), *n));
            let transactions = transactions.collect();
            let metadata = state.metadata.ok_or_else(|| self.no_table(table))?;
            Ok(Some(Snapshot {
                table: table.clone(),
                version: state.version,
                timestamp: DateTime::from_timestamp_millis(state.timestamp_ms).unwrap_or_default(),
                schema: schema::from_json(&metadata.schema_json)?,
                metadata: Arc::new(metadata),
                files: Arc::new(files),
                transactions: Arc::new(transactions),
            }))
        })
    }

    /// An error where a vacuum took files of this version away; asked of older versions only.
    pub async fn check_whole(&self, snapshot: &Snapshot) -> Result<()> {
        let table = &snapshot.table;
        let folder = self.folder(table);
        let listed: HashSet<_> = self
            .store
            .list(Some(&folder))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .or_code(code::LAKE, || format!("could not list the files of table \"{table}\""))?;
        for file in snapshot.files.iter() {
            let location = provider::location(&folder, &file.path)
                .or_code(code::LAKE, || format!("could not find file \"{}\"", file.path))?;
            if !listed.contains(&location) {
                return Err(Error::new(
                    code::LAKE,
                    format!(
                        "version {} of table \"{table}\" cannot be read any more: file \"{}\" is gone",
                        snapshot.version, file.path
                    ),
                )
                .hint("`freshet lake vacuum` deletes what only versions beyond its retention need"));
            }
        }
        Ok(())
    }

    /// The highest number that `app` has committed to the table up to this version; 0 where none.
    pub async fn last_transaction(&self, snapshot: &Snapshot, app: &str) -> Result<u64> {
        Ok(snapshot.last_transaction(app))
    }

    /// The newest `limit` entries of a table's history, newest first.
    pub fn history<'a>(
        &'a self,
        table: &'a TableName,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<HistoryEntry>>> {
        Box::pin(async move { self.log(table).history(limit).await })
    }

    /// A version of a table, for queries.
    pub fn provider(&self, snapshot: &Snapshot) -> Arc<dyn TableProvider> {
        self.files_provider(snapshot, snapshot.files.as_ref().clone())
    }

    /// Some files of a table, for queries, with the columns of `snapshot`.
    pub fn files_provider(
        &self,
        snapshot: &Snapshot,
        files: Vec<DataFile>,
    ) -> Arc<dyn TableProvider> {
        Arc::new(provider::Files {
            store: Arc::clone(&self.store),
            store_url: self.store_url.clone(),
            folder: self.folder(&snapshot.table),
            schema: Arc::clone(&snapshot.schema),
            partition_by: snapshot.metadata.partition_by.clone(),
            files,
        })
    }

    /// The table as it will be once `change` is committed: for checks.
    pub fn staged_snapshot<'a>(
        &'a self,
        change: &'a StagedChange,
    ) -> BoxFuture<'a, Result<Snapshot>> {
        Box::pin(async move {
            let base = match change.base_version {
                Some(version) => {
                    let base = self.load(&change.table, Some(AsOf::Version(version))).await?;
                    Some(base.ok_or_else(|| self.no_table(&change.table))?)
                }
                None => None,
            };
            let metadata = match (&change.metadata, &base) {
                (Some(metadata), _) => Arc::new(metadata.clone()),
                (None, Some(base)) => Arc::clone(&base.metadata),
                (None, None) => return Err(self.no_table(&change.table)),
            };
            let removed: BTreeSet<_> =
                change.removes.iter().map(|file| file.path.as_str()).collect();
            let kept = base.iter().flat_map(|base| base.files.iter());
            let kept = kept.filter(|file| !removed.contains(file.path.as_str()));
            let files: Vec<_> = kept.chain(&change.adds).cloned().collect();
            Ok(Snapshot {
                table: change.table.clone(),
                version: change.base_version.map_or(0, |version| version + 1),
                timestamp: self.options.clock.now(),
                schema: schema::from_json(&metadata.schema_json)?,
                metadata,
                files: Arc::new(files),
                transactions: base.map(|base| base.transactions).unwrap_or_default(),
            })
        })
    }

    /// Writes rows to files that no reader sees yet. On an error, what was written is deleted.
    pub fn stage<'a>(
        &'a self,
        request: StageRequest,
        rows: NewRows,
    ) -> BoxFuture<'a, Result<StagedChange>> {
        Box::pin(async move { stage::stage(self, request, rows, None).await })
    }

    /// As [`Lake::stage`] with a merge or a delete and insert, and the rows of the table that share
    /// their key with one of `gone` are deleted beside. No key is in both.
    pub fn stage_changes<'a>(
        &'a self,
        request: StageRequest,
        rows: NewRows,
        gone: NewRows,
    ) -> BoxFuture<'a, Result<StagedChange>> {
        Box::pin(async move { stage::stage(self, request, rows, Some(gone)).await })
    }

    /// Publishes a change. Where the table holds `transaction` or a later one already, nothing is
    /// done; where its version is not the one on which the change builds, the error has the code
    /// `LAKE_CONFLICT`. `info` is kept in the table's history.
    pub fn commit<'a>(
        &'a self,
        change: &'a StagedChange,
        transaction: &'a Transaction,
        info: &'a BTreeMap<String, Value>,
    ) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move { self.commit_change(change, Some(transaction), info).await })
    }

    /// Deletes the files of a change that will not be committed. Files that are gone are no error.
    pub fn discard<'a>(&'a self, change: &'a StagedChange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let paths: Vec<_> = change.adds.iter().map(|file| file.path.clone()).collect();
            maintain::delete(self, &change.table, &paths).await
        })
    }

    /// Deletes a table, its log first. A table that is not there is no error.
    pub fn drop_table<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { maintain::drop_table(self, table).await })
    }

    /// Joins small files up to the target size, within each partition. Rows keep their order.
    pub fn optimize<'a>(&'a self, table: &'a TableName) -> BoxFuture<'a, Result<OptimizeReport>> {
        Box::pin(async move { maintain::optimize(self, table).await })
    }

    /// Deletes data files that no version younger than `retention` needs and that are older than
    /// it themselves. Never those in `keep`: the paths that pending intents name.
    pub fn vacuum<'a>(
        &'a self,
        table: &'a TableName,
        retention: Duration,
        keep: &'a BTreeSet<String>,
        dry_run: bool,
    ) -> BoxFuture<'a, Result<VacuumReport>> {
        Box::pin(async move { maintain::vacuum(self, table, retention, keep, dry_run).await })
    }

    /// What differs between two versions of a table.
    pub fn diff_files<'a>(
        &'a self,
        table: &'a TableName,
        from: u64,
        to: u64,
    ) -> BoxFuture<'a, Result<FileDiff>> {
        Box::pin(async move { maintain::diff_files(self, table, from, to).await })
    }
}
