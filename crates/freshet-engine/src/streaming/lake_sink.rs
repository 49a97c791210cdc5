//! The lake as a sink of streams: rows are staged as files that nobody sees, and several epochs are
//! one commit, whose application transaction is the last of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use freshet_core::error::code;
use freshet_core::latest::latest;
use freshet_core::rows::{Rows, arrow_error};
use freshet_core::sink::Guarantee;
use freshet_core::staging::{Staging, StagingWriter};
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use freshet_core::{Error, Result};
use freshet_project::OnSchemaChange;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::lake::{
    ChangeCounts, DataFile, Lake, NewRows, Snapshot, StageMode, StageRequest, StagedChange,
    TableName, Transaction,
};

/// Bytes that are gathered before they are written as a file, where no epoch ends before.
const FILE_BYTES: usize = 64 << 20;

/// Files of one task that are being written at once.
const FILES_AT_ONCE: usize = 2;

/// Tries of a commit while others commit to the table.
const TRIES: usize = 20;

/// A table that a job appends to.
#[derive(Debug, Clone)]
pub struct LakeSink {
    lake: Lake,
    table: TableName,
    schema: SchemaRef,
    partition_by: Vec<String>,
    on_schema_change: OnSchemaChange,
    /// Who commits, in the table's application transactions.
    app: String,
    figures: Arc<LakeFigures>,
    base: Arc<Mutex<Option<Snapshot>>>,
    /// Columns that identify a row: rows replace those with the same key. None: rows are added.
    key: Vec<String>,
    /// Where rows with a key are kept until they are merged.
    staging: Staging,
    /// The generation whose predecessors' leftovers were swept.
    swept: Arc<Mutex<Option<Generation>>>,
}

/// What became of the rows of a [`LakeSink`].
#[derive(Debug, Default)]
pub struct LakeFigures {
    /// Rows that were given to it.
    pub written: AtomicU64,
    /// Rows that readers see.
    pub committed: AtomicU64,
    /// Commits.
    pub commits: AtomicU64,
}

impl LakeSink {
    /// A sink of `job` into `table`, which is made where there is none.
    pub fn new(
        lake: Lake,
        job: &str,
        table: TableName,
        schema: SchemaRef,
        partition_by: Vec<String>,
        on_schema_change: OnSchemaChange,
    ) -> Self {
        Self {
            lake,
            app: format!("freshet/{job}/{table}"),
            table,
            schema,
            partition_by,
            on_schema_change,
            figures: Arc::default(),
            base: Arc::default(),
            key: Vec::new(),
            staging: Staging::default(),
            swept: Arc::default(),
        }
    }

    /// The same sink, merging: rows replace those with the same key, and rows that are taken back are
    /// deleted. Without columns, rows are added.
    #[must_use]
    pub fn keyed(mut self, key: Vec<String>) -> Self {
        self.key = key;
        self
    }

    /// The same sink once more in one job: it commits under a name of its own.
    #[must_use]
    pub fn called(mut self, name: &str) -> Self {
        self.app = format!("{}/{name}", self.app);
        self.base = Arc::default();
        self
    }

    /// What becomes of its rows.
    pub fn figures(&self) -> Arc<LakeFigures> {
        Arc::clone(&self.figures)
    }

    /// Stages rows as files.
    fn stage(&self, batches: Vec<RecordBatch>) -> BoxFuture<'static, Result<Vec<DataFile>>> {
        let sink = self.clone();
        Box::pin(async move {
            if batches.is_empty() {
                return Ok(Vec::new());
            }
            let base = sink.base.lock().clone();
            Ok(sink.change(base, batches).await?.adds)
        })
    }

    async fn change(
        &self,
        base: Option<Snapshot>,
        batches: Vec<RecordBatch>,
    ) -> Result<StagedChange> {
        let schema = Arc::clone(&self.schema);
        let batches = futures::stream::iter(batches.into_iter().map(Ok));
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), batches);
        let request = StageRequest {
            table: self.table.clone(),
            base,
            mode: StageMode::Append,
            partition_by: self.partition_by.clone(),
            on_schema_change: self.on_schema_change,
            parameters: BTreeMap::from([("writer".into(), self.app.clone())]),
        };
        self.lake.stage(request, NewRows { schema, streams: vec![Box::pin(stream)] }).await
    }

    /// Makes the table, or gives it the columns that the job has now.
    async fn prepare(&self) -> Result<Snapshot> {
        for _ in 0..TRIES {
            let base = self.lake.load(&self.table, None).await?;
            let change = self.change(base.clone(), Vec::new()).await?;
            match base {
                Some(base) if change.is_empty() => return Ok(base),
                _ => {}
            }
            // A number of its own for each version: it says nothing about epochs.
            let number = change.base_version.map_or(1, |version| version + 2);
            let transaction = Transaction { app: format!("{}/columns", self.app), number };
            match self.lake.commit(&change, &transaction, &BTreeMap::new()).await {
                Err(error) if error.code() != code::LAKE_CONFLICT => return Err(error),
                _ => {}
            }
        }
        Err(self.contended())
    }

    /// What was staged and is committed goes, and what dead instances left.
    async fn forget(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        let tokens: Vec<&Token> = pending.iter().flat_map(|pending| &pending.parts).collect();
        self.staging.forget(&tokens).await;
        if self.swept.lock().replace(generation) != Some(generation) {
            self.staging.sweep(generation).await;
        }
        Ok(())
    }

    fn gone(&self) -> Error {
        Error::new(code::LAKE, format!("table \"{}\" is gone", self.table))
            .hint("somebody dropped it while a job writes to it")
    }

    fn contended(&self) -> Error {
        let message = format!("table \"{}\" is committed to by others all the time", self.table);
        Error::new(code::LAKE_CONFLICT, message).retryable()
    }
}

// Written out so that the bodies are compiled here alone: they touch all of DataFusion.
impl StreamSink for LakeSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn target(&self) -> String {
        format!("table \"{}\" of the lake", self.table)
    }

    fn changes(&self) -> Changes {
        match self.key.as_slice() {
            [] => Changes::Append,
            key => Changes::Upsert { key: key.to_vec() },
        }
    }

    fn makes_files(&self) -> bool {
        true
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        self.staging.keep_in(store);
    }

    fn open<'a, 'b, 'c>(
        &'a self,
        claim: Claim,
        wakes: &'b [Arc<dyn Wake>],
    ) -> BoxFuture<'c, Result<Vec<Box<dyn SinkWriter>>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(open(self, claim, wakes))
    }

    fn commit<'a, 'b, 'c>(
        &'a self,
        generation: Generation,
        pending: &'b [PendingCommit],
    ) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            match self.key.is_empty() {
                true => commit(self, pending).await,
                false => merge(self, generation, pending).await,
            }
        })
    }
}

async fn open(
    sink: &LakeSink,
    claim: Claim,
    wakes: &[Arc<dyn Wake>],
) -> Result<Vec<Box<dyn SinkWriter>>> {
    let snapshot = sink.prepare().await?;
    let held = sink.lake.last_transaction(&snapshot, &sink.app).await?;
    if held > claim.epoch.0 {
        return Err(Error::new(
            code::STATE,
            format!(
                "table \"{}\" holds epoch {held} of this job, whose checkpoints end at {}",
                sink.table, claim.epoch
            ),
        )
        .hint("the job's checkpoints were deleted or set back: restore them, or drop the table"));
    }
    *sink.base.lock() = Some(snapshot);
    let writer = |(task, wake): (usize, &Arc<dyn Wake>)| -> Box<dyn SinkWriter> {
        if !sink.key.is_empty() {
            let writer = sink.staging.writer(claim.generation, task, wake);
            return Box::new(KeyedWriter { writer, figures: Arc::clone(&sink.figures) });
        }
        Box::new(Writer {
            sink: sink.clone(),
            wake: Arc::clone(wake),
            batches: Vec::new(),
            bytes: 0,
            runtime: Handle::try_current().ok(),
            under_way: Arc::default(),
            files: Vec::new(),
        })
    };
    Ok(wakes.iter().enumerate().map(writer).collect())
}

async fn commit(sink: &LakeSink, pending: &[PendingCommit]) -> Result<()> {
    let Some(last) = pending.last() else { return Ok(()) };
    for _ in 0..TRIES {
        let snapshot = sink.lake.load(&sink.table, None).await?.ok_or_else(|| sink.gone())?;
        let held = sink.lake.last_transaction(&snapshot, &sink.app).await?;
        let mut adds: Vec<DataFile> = Vec::new();
        for part in pending.iter().filter(|p| p.epoch.0 > held).flat_map(|p| &p.parts) {
            let files: Vec<DataFile> = serde_json::from_value(part.clone()).map_err(|error| {
                Error::new(code::STATE, "a checkpoint's staged files are damaged").caused_by(error)
            })?;
            adds.extend(files);
        }
        let rows: u64 = adds.iter().filter_map(|file| file.rows).sum();
        if last.epoch.0 <= held || adds.is_empty() {
            return Ok(());
        }
        let change = StagedChange {
            format: StagedChange::FORMAT,
            table: sink.table.clone(),
            base_version: Some(snapshot.version),
            adds,
            removes: Vec::new(),
            metadata: None,
            operation: "STREAMING UPDATE".into(),
            parameters: BTreeMap::from([("epoch".into(), last.epoch.to_string())]),
            data_change: true,
            counts: ChangeCounts { rows_in: rows, rows_inserted: rows, ..ChangeCounts::default() },
            rows_total: None,
            schema_changes: Vec::new(),
        };
        let transaction = Transaction { app: sink.app.clone(), number: last.epoch.0 };
        let info: BTreeMap<String, Value> = BTreeMap::new();
        match sink.lake.commit(&change, &transaction, &info).await {
            Ok(committed) => {
                if committed.written {
                    sink.figures.committed.fetch_add(rows, Ordering::Relaxed);
                    sink.figures.commits.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(());
            }
            // Somebody else has changed the table: the same files onto its new version.
            Err(error) if error.code() == code::LAKE_CONFLICT => {}
            Err(error) => return Err(error),
        }
    }
    Err(sink.contended())
}

/// Merges what was staged: the last change of each key, of all epochs at once.
async fn merge(sink: &LakeSink, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
    let Some(last) = pending.last() else { return Ok(()) };
    // The rows of epochs behind the first number, read once.
    let mut read: Option<(u64, Rows, u64)> = None;
    for _ in 0..TRIES {
        let snapshot = sink.lake.load(&sink.table, None).await?.ok_or_else(|| sink.gone())?;
        let held = sink.lake.last_transaction(&snapshot, &sink.app).await?;
        if last.epoch.0 <= held {
            return sink.forget(generation, pending).await;
        }
        let (changes, given) = match &read {
            Some((from, changes, given)) if *from == held => (changes, *given),
            _ => {
                let mut rows = Vec::new();
                for part in pending.iter().filter(|p| p.epoch.0 > held).flat_map(|p| &p.parts) {
                    rows.extend(sink.staging.read(part).await?);
                }
                let given: u64 = rows.iter().map(|rows| rows.len() as u64).sum();
                let changes = latest(&sink.schema, &rows, &sink.key)?;
                let (_, changes, given) = read.insert((held, changes, given));
                (&*changes, *given)
            }
        };
        let request = StageRequest {
            table: sink.table.clone(),
            base: Some(snapshot),
            mode: StageMode::Merge { unique_key: sink.key.clone() },
            partition_by: sink.partition_by.clone(),
            on_schema_change: sink.on_schema_change,
            parameters: BTreeMap::from([
                ("writer".into(), sink.app.clone()),
                ("epoch".into(), last.epoch.to_string()),
            ]),
        };
        let adds = (0..changes.len()).map(|row| Some(changes.kind(row).adds())).collect();
        let gone = arrow::compute::not(&adds).map_err(arrow_error)?;
        let some = |which: &BooleanArray| -> Result<NewRows> {
            let rows = changes.clone().filter(which)?.into_batch();
            let batches = if rows.num_rows() == 0 { Vec::new() } else { vec![Ok(rows)] };
            let stream = futures::stream::iter(batches);
            let stream = RecordBatchStreamAdapter::new(Arc::clone(&sink.schema), stream);
            Ok(NewRows { schema: Arc::clone(&sink.schema), streams: vec![Box::pin(stream)] })
        };
        let change = sink.lake.stage_changes(request, some(&adds)?, some(&gone)?).await?;
        if change.adds.is_empty() && change.removes.is_empty() {
            // The table does not hold the epoch, so that what was staged must stay: it is looked at again.
            return Ok(());
        }
        let transaction = Transaction { app: sink.app.clone(), number: last.epoch.0 };
        match sink.lake.commit(&change, &transaction, &BTreeMap::new()).await {
            Ok(committed) => {
                if committed.written {
                    sink.figures.committed.fetch_add(given, Ordering::Relaxed);
                    sink.figures.commits.fetch_add(1, Ordering::Relaxed);
                }
                return sink.forget(generation, pending).await;
            }
            // Somebody else has changed the table: which rows go has to be found out anew.
            Err(error) if error.code() == code::LAKE_CONFLICT => {
                sink.lake.discard(&change).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(sink.contended())
}

/// Hands rows to the staging, and counts them.
#[derive(Debug)]
struct KeyedWriter {
    writer: StagingWriter,
    figures: Arc<LakeFigures>,
}

impl SinkWriter for KeyedWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        self.figures.written.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.writer.write(rows)
    }

    fn has_room(&self) -> bool {
        self.writer.has_room()
    }

    fn cut(&mut self, epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        self.writer.cut(epoch)
    }
}

#[derive(Debug)]
struct Writer {
    sink: LakeSink,
    wake: Arc<dyn Wake>,
    batches: Vec<RecordBatch>,
    bytes: usize,
    /// Where files are written before an epoch ends; without it, they are not.
    runtime: Option<Handle>,
    /// Files that are being written.
    under_way: Arc<AtomicUsize>,
    files: Vec<JoinHandle<Result<Vec<DataFile>>>>,
}

impl SinkWriter for Writer {
    fn write(&mut self, rows: Rows) -> Result<()> {
        if rows.kinds().is_some() {
            // The user's to mend: beginning again would meet the same rows.
            return Err(Error::new(
                code::SQL,
                format!(
                    "table \"{}\" is only appended to, and rows of it are taken back",
                    self.sink.table
                ),
            )
            .hint("name the columns that identify a row as the model's `unique_key`"));
        }
        self.sink.figures.written.fetch_add(rows.len() as u64, Ordering::Relaxed);
        self.bytes += rows.bytes();
        self.batches.push(rows.into_batch());
        if let (Some(runtime), true) = (&self.runtime, self.bytes >= FILE_BYTES) {
            self.bytes = 0;
            let staging = self.sink.stage(std::mem::take(&mut self.batches));
            self.under_way.fetch_add(1, Ordering::AcqRel);
            let (under_way, wake) = (Arc::clone(&self.under_way), Arc::clone(&self.wake));
            self.files.push(runtime.spawn(async move {
                let staged = staging.await;
                under_way.fetch_sub(1, Ordering::AcqRel);
                wake.wake();
                staged
            }));
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Acquire) < FILES_AT_ONCE
    }

    fn cut(&mut self, _epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        self.bytes = 0;
        let rest = self.sink.stage(std::mem::take(&mut self.batches));
        let files = std::mem::take(&mut self.files);
        Ok(Box::pin(async move {
            let mut adds = rest.await?;
            for file in files {
                adds.extend(file.await.map_err(|error| {
                    Error::internal("writing a file ended early").caused_by(error)
                })??);
            }
            serde_json::to_value(adds)
                .map_err(|error| Error::internal("a file could not be named").caused_by(error))
        }))
    }
}
