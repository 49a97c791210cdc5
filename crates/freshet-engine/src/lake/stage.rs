//! The first half of a write: new rows and the survivors of replaced files, in files that no
//! reader sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use freshet_core::Result;
use freshet_core::contract::SchemaChange;
use futures::StreamExt;
use parking_lot::Mutex;

use super::rewrite::{Marks, Reader, Spans};
use super::writer::{Batches, Target};
use super::{
    ChangeCounts, DataFile, ExportFormat, Lake, NewRows, RemovedFile, Snapshot, StageMode,
    StageRequest, StagedChange, TableMetadata, maintain, rewrite, schema,
};
use crate::session::query_error;

/// What becomes of the files that a table has.
#[derive(Debug, Default)]
struct Replaced {
    /// Files whose rows all go.
    whole: Vec<DataFile>,
    /// Files of which some rows go, or that are written anew for their columns.
    partly: Vec<(DataFile, Marks)>,
}

impl Replaced {
    fn sort(&mut self, file: DataFile, marks: Marks) {
        if marks.count == 0 {
            return;
        }
        if marks.count == marks.rows {
            self.whole.push(file)
        } else {
            self.partly.push((file, marks))
        }
    }

    fn rows_gone(&self) -> u64 {
        let whole = self.whole.iter().filter_map(|file| file.rows).sum::<u64>();
        whole + self.partly.iter().map(|(_, marks)| marks.count).sum::<u64>()
    }

    fn files(&self) -> impl Iterator<Item = &DataFile> {
        self.whole.iter().chain(self.partly.iter().map(|(file, _)| file))
    }
}

/// The columns and the layout of the table once the change is committed.
struct Shape {
    schema: SchemaRef,
    partition_by: Vec<String>,
    metadata: Option<TableMetadata>,
    changes: Vec<SchemaChange>,
    /// Whether a column goes, so that every file has to be written anew: one that kept it would
    /// give it back as soon as a column of that name is added again.
    drops: bool,
}

/// As [`Lake::stage`]; rows with a key of `gone` are taken away beside.
pub(super) async fn stage(
    lake: &Lake,
    request: StageRequest,
    rows: NewRows,
    gone: Option<NewRows>,
) -> Result<StagedChange> {
    let shape = shape(&request, &rows.schema)?;
    let target = Arc::new(Target {
        store: Arc::clone(lake.store()),
        table: request.table.clone(),
        folder: lake.folder(&request.table),
        schema: Arc::clone(&shape.schema),
        partition_by: shape.partition_by.clone(),
        options: Arc::clone(&lake.options),
        format: ExportFormat::Parquet,
        compression: ExportFormat::Parquet.compression(),
        name: None,
        written: Mutex::default(),
    });
    match stage_on(lake, &target, request, rows, gone, shape).await {
        Ok(change) => Ok(change),
        Err(error) => {
            target.undo().await;
            Err(error)
        }
    }
}

fn shape(request: &StageRequest, rows: &SchemaRef) -> Result<Shape> {
    let base = match (&request.base, &request.mode) {
        (Some(base), mode) if *mode != StageMode::Overwrite => base,
        (base, _) => return new_shape(request, base.as_ref(), rows),
    };
    let reconciled = schema::reconcile(&base.schema, rows, request.on_schema_change)?;
    let kept = |name: &String| reconciled.schema.index_of(name).is_ok();
    let drops = base.schema.fields().iter().any(|field| !kept(field.name()));
    let metadata = if reconciled.changed {
        Some(TableMetadata {
            schema_json: schema::to_json(&reconciled.schema)?,
            ..base.metadata.as_ref().clone()
        })
    } else {
        None
    };
    Ok(Shape {
        schema: reconciled.schema,
        partition_by: base.metadata.partition_by.clone(),
        metadata,
        changes: reconciled.changes,
        drops,
    })
}

fn new_shape(request: &StageRequest, base: Option<&Snapshot>, rows: &SchemaRef) -> Result<Shape> {
    let schema = schema::stored(rows)?;
    let partition_by = request.partition_by.clone();
    let same = base.is_some_and(|base| {
        base.schema.fields() == schema.fields() && base.metadata.partition_by == partition_by
    });
    let metadata = match base {
        _ if same => None,
        Some(base) => Some(TableMetadata {
            schema_json: schema::to_json(&schema)?,
            partition_by: partition_by.clone(),
            ..base.metadata.as_ref().clone()
        }),
        None => Some(TableMetadata {
            id: uuid::Uuid::new_v4().to_string(),
            schema_json: schema::to_json(&schema)?,
            partition_by: partition_by.clone(),
            // How long checkpoints remember removed files, which is how long `vacuum` can keep them.
            configuration: BTreeMap::from([(
                "delta.deletedFileRetentionDuration".into(),
                "interval 30 days".into(),
            )]),
        }),
    };
    let changes = base.map_or_else(Vec::new, |base| schema::differences(&base.schema, &schema));
    Ok(Shape { schema, partition_by, metadata, changes, drops: false })
}

async fn stage_on(
    lake: &Lake,
    target: &Arc<Target>,
    request: StageRequest,
    rows: NewRows,
    gone: Option<NewRows>,
    shape: Shape,
) -> Result<StagedChange> {
    let spans = match &request.mode {
        StageMode::ReplaceWhere { event_time, intervals } => {
            let name = std::slice::from_ref(event_time);
            let columns = rewrite::columns(&shape.schema, name, "event_time")?;
            Some(Arc::new(Spans::new(columns, intervals)?))
        }
        _ => None,
    };
    let outside = Arc::new(AtomicU64::new(0));
    let streams = fitted(target, rows, spans.as_ref(), &outside);
    let mut adds = target.write(streams).await?;
    let rows_in: u64 = adds.iter().filter_map(|file| file.rows).sum();
    let mut counts = ChangeCounts {
        rows_in,
        rows_inserted: rows_in,
        rows_outside: outside.load(Ordering::Relaxed),
        ..ChangeCounts::default()
    };
    let reader = Reader {
        store: Arc::clone(&target.store),
        table: target.table.clone(),
        folder: target.folder.clone(),
        partition_by: shape.partition_by.clone(),
    };
    let none = Vec::new();
    let base = request.base.as_ref().map_or(&none, |base| base.files.as_ref());
    // Keys without a row lie in files of their own for as long as they are looked up.
    let gone = match gone {
        Some(gone) => target.write(fitted(target, gone, None, &outside)).await?,
        None => Vec::new(),
    };
    let keyed = [adds.as_slice(), gone.as_slice()].concat();
    let mut replaced =
        replaced(&reader, target, &request.mode, base, &keyed, spans, &mut counts).await?;
    if !gone.is_empty() {
        let paths: Vec<_> = gone.into_iter().map(|file| file.path).collect();
        maintain::delete(lake, &request.table, &paths).await?;
    }
    if shape.drops {
        let touched: std::collections::HashSet<_> =
            replaced.files().map(|file| file.path.clone()).collect();
        let rest = base.iter().filter(|file| !touched.contains(&file.path));
        let rest: Vec<_> = rest.map(|file| (file.clone(), Marks::default())).collect();
        replaced.partly.extend(rest);
        replaced.partly.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    }
    let removes: Vec<_> = replaced.files().map(removed).collect();
    let rows_gone = replaced.rows_gone();
    counts.rows_deleted = rows_gone.saturating_sub(counts.rows_updated);
    if !replaced.partly.is_empty() {
        let copies = copies(&reader, replaced.partly, &shape.schema, target.options.threads);
        let copied = target.write(copies).await?;
        counts.rows_copied = copied.iter().filter_map(|file| file.rows).sum();
        adds.extend(copied);
    }
    let rows_before = match &request.base {
        Some(base) => base.rows(),
        None => Some(0),
    };
    let operation = match request.mode {
        StageMode::Merge { .. } => "MERGE",
        _ if request.base.is_none() => "CREATE TABLE AS SELECT",
        _ => "WRITE",
    };
    let mut parameters = request.parameters;
    parameters.insert("mode".into(), mode_name(&request.mode));
    Ok(StagedChange {
        format: StagedChange::FORMAT,
        table: request.table,
        base_version: request.base.as_ref().map(|base| base.version),
        adds,
        removes,
        metadata: shape.metadata,
        operation: operation.into(),
        parameters,
        data_change: true,
        counts,
        rows_total: rows_before.map(|before| (before + rows_in).saturating_sub(rows_gone)),
        schema_changes: shape.changes,
    })
}

fn mode_name(mode: &StageMode) -> String {
    match mode {
        StageMode::Overwrite | StageMode::InsertOverwrite => "Overwrite".into(),
        StageMode::Append => "Append".into(),
        StageMode::Merge { unique_key } => format!("Merge on {}", unique_key.join(", ")),
        StageMode::DeleteInsert { unique_key } => {
            format!("Delete and insert on {}", unique_key.join(", "))
        }
        StageMode::ReplaceWhere { event_time, intervals } => {
            format!("Replace {} spans of {event_time}", intervals.len())
        }
    }
}

pub(super) fn removed(file: &DataFile) -> RemovedFile {
    RemovedFile {
        path: file.path.clone(),
        size: file.size,
        partition_values: file.partition_values.clone(),
    }
}

/// The streams with the table's columns and our errors.
fn fitted(
    target: &Arc<Target>,
    rows: NewRows,
    spans: Option<&Arc<Spans>>,
    outside: &Arc<AtomicU64>,
) -> Vec<Batches> {
    let fit = |stream: datafusion::execution::SendableRecordBatchStream| {
        let (target, spans) = (Arc::clone(target), spans.cloned());
        let outside = Arc::clone(outside);
        stream
            .map(move |batch| {
                let batch = batch.map_err(|error| {
                    query_error(error, || {
                        format!("could not compute the rows of table \"{}\"", target.table)
                    })
                })?;
                let batch = schema::fit(&batch, &target.schema)?;
                if let Some(spans) = &spans {
                    outside.fetch_add(spans.outside(&batch)?, Ordering::Relaxed);
                }
                Ok(batch)
            })
            .boxed()
    };
    rows.streams.into_iter().map(fit).collect()
}

/// Decides which rows of the table go.
async fn replaced(
    reader: &Reader,
    target: &Target,
    mode: &StageMode,
    base: &[DataFile],
    adds: &[DataFile],
    spans: Option<Arc<Spans>>,
    counts: &mut ChangeCounts,
) -> Result<Replaced> {
    let threads = target.options.threads;
    let mut replaced = Replaced::default();
    match mode {
        StageMode::Append => {}
        StageMode::Overwrite => replaced.whole = base.to_vec(),
        StageMode::InsertOverwrite if target.partition_by.is_empty() => {
            replaced.whole = base.to_vec();
        }
        StageMode::InsertOverwrite => {
            let touched = |file: &&DataFile| {
                adds.iter().any(|add| add.partition_values == file.partition_values)
            };
            replaced.whole = base.iter().filter(touched).cloned().collect();
        }
        StageMode::Merge { unique_key } | StageMode::DeleteInsert { unique_key } => {
            let unique = matches!(mode, StageMode::Merge { .. });
            let columns = rewrite::columns(&target.schema, unique_key, "unique_key")?;
            let candidates = rewrite::candidates(base, adds, &columns, &target.partition_by);
            let memory = target.options.merge_memory_bytes;
            let matched =
                rewrite::match_keys(reader, adds, &candidates, &columns, unique, memory, threads);
            let matched = matched.await?;
            if unique {
                counts.rows_updated = matched.keys;
                counts.rows_inserted = counts.rows_in.saturating_sub(matched.keys);
            }
            for (file, marks) in candidates.into_iter().zip(matched.marks) {
                replaced.sort(file, marks);
            }
        }
        StageMode::ReplaceWhere { .. } => {
            let Some(spans) = spans else { return Ok(replaced) };
            let mut candidates = Vec::new();
            for file in base {
                match spans.cover(file, &target.partition_by) {
                    (false, _) => {}
                    (true, true) => replaced.whole.push(file.clone()),
                    (true, false) => candidates.push(file.clone()),
                }
            }
            let marks = rewrite::mark(reader, &candidates, spans, threads).await?;
            for (file, marks) in candidates.into_iter().zip(marks) {
                replaced.sort(file, marks);
            }
        }
    }
    Ok(replaced)
}

/// Streams of the rows that stay, about evenly many bytes in each.
pub(super) fn copies(
    reader: &Reader,
    files: Vec<(DataFile, Marks)>,
    schema: &SchemaRef,
    threads: usize,
) -> Vec<Batches> {
    let total: u64 = files.iter().map(|(file, _)| file.size).sum();
    let share = total / threads.max(1) as u64 + 1;
    let mut streams = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for (file, marks) in files {
        bytes += file.size;
        group.push((file, marks));
        if bytes >= share {
            streams.push(reader.survivors(std::mem::take(&mut group), Arc::clone(schema)));
            bytes = 0;
        }
    }
    if !group.is_empty() {
        streams.push(reader.survivors(group, Arc::clone(schema)));
    }
    streams
}
