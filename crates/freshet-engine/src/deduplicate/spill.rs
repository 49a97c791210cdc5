//! What both ways of deduplication need around them: memory, disk and figures.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, GenericByteViewArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{ByteViewType, DataType, SchemaRef};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::spill::SpillManager;
use datafusion::physical_plan::spill::spill_pool::{self, SpillPoolSink};

use super::keys::{KeyEncoder, Keys};

/// Parts that rows beyond memory are divided into.
const PARTS: usize = 16;
/// Times that a part may be divided again. Sixteen parts each time: beyond this not even a key of its own fits.
const MAX_LEVEL: u32 = 12;
/// Rows that wait for a part before they are written.
const WRITE_ROWS: usize = 4096;

/// Bytes that each partition takes without asking. Others may hold all that the pool has: with this
/// much a part is small enough after few divisions, with none it never is.
const UNASKED: usize = 128 << 10;

/// Memory of one partition.
pub struct Memory {
    reservation: MemoryReservation,
    unasked: usize,
}

impl Memory {
    /// Takes `bytes` more, unless the pool refuses.
    pub fn grow(&mut self, bytes: usize) -> bool {
        if self.reservation.try_grow(bytes).is_ok() {
            return true;
        }
        let fits = self.unasked + bytes <= UNASKED;
        if fits {
            self.unasked += bytes;
        }
        fits
    }

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let mut beyond = (self.reservation.size() + self.unasked).saturating_sub(bytes);
        let unasked = beyond.min(self.unasked);
        self.unasked -= unasked;
        beyond -= unasked;
        self.reservation.shrink(beyond);
    }

    /// Gives all back.
    pub fn free(&mut self) {
        self.shrink_to(0);
    }
}

/// Memory, disk and figures of one partition.
pub struct Disk {
    pub schema: SchemaRef,
    pub keys: Arc<KeyEncoder>,
    pub memory: Memory,
    pub metrics: BaselineMetrics,
    manager: Arc<SpillManager>,
}

impl Disk {
    /// Those of `partition`.
    pub fn new(
        context: &TaskContext,
        schema: &SchemaRef,
        metrics: &ExecutionPlanMetricsSet,
        partition: usize,
        keys: &[Arc<dyn PhysicalExpr>],
    ) -> DfResult<Self> {
        let reservation = MemoryConsumer::new(format!("Deduplicate[{partition}]"))
            .with_can_spill(true)
            .register(context.memory_pool());
        let manager = SpillManager::new(
            context.runtime_env(),
            SpillMetrics::new(metrics, partition),
            Arc::clone(schema),
        );
        Ok(Self {
            schema: Arc::clone(schema),
            keys: Arc::new(KeyEncoder::new(keys, schema)?),
            memory: Memory { reservation, unasked: 0 },
            metrics: BaselineMetrics::new(metrics, partition),
            manager: Arc::new(manager),
        })
    }

    /// An empty division, of rows that were divided `level` times before.
    pub fn divide(&self, level: u32) -> DfResult<Division> {
        if level > MAX_LEVEL {
            return Err(DataFusionError::ResourcesExhausted(
                "the rows of a deduplication do not fit into memory one key at a time".into(),
            ));
        }
        Ok(Division { level, parts: (0..PARTS).map(|_| None).collect() })
    }
}

/// Rows on disk whose keys no other part has.
pub struct Part {
    /// Its rows, in the order in which they were written.
    pub rows: SendableRecordBatchStream,
    /// How often its rows were divided.
    pub level: u32,
}

/// Rows being divided by their keys' hashes.
pub struct Division {
    level: u32,
    /// Made with the first row of each.
    parts: Vec<Option<Writer>>,
}

struct Writer {
    sink: SpillPoolSink,
    written: SendableRecordBatchStream,
    waiting: Vec<RecordBatch>,
    rows: usize,
}

impl Division {
    /// Writes the rows `wanted` of `batch`.
    pub fn write(
        &mut self,
        disk: &Disk,
        batch: &RecordBatch,
        keys: &Keys,
        wanted: impl Iterator<Item = usize>,
    ) -> DfResult<()> {
        let mut rows: [Vec<u32>; PARTS] = std::array::from_fn(|_| Vec::new());
        let shift = 4 * self.level;
        for row in wanted {
            rows[(keys.hash(row) >> shift) as usize % PARTS].push(row as u32);
        }
        for (part, rows) in self.parts.iter_mut().zip(rows) {
            if !rows.is_empty() {
                let part = part.get_or_insert_with(|| Writer::new(&disk.manager));
                part.rows += rows.len();
                part.waiting.push(take_record_batch(batch, &UInt32Array::from(rows))?);
                if part.rows >= WRITE_ROWS {
                    part.flush(&disk.schema)?;
                }
            }
        }
        Ok(())
    }

    /// Ends all parts.
    pub fn finish(self, disk: &Disk) -> DfResult<Vec<Part>> {
        let mut done = Vec::new();
        for mut part in self.parts.into_iter().flatten() {
            part.flush(&disk.schema)?;
            done.push(Part { rows: part.written, level: self.level + 1 });
        }
        Ok(done)
    }
}

impl Writer {
    fn new(manager: &Arc<SpillManager>) -> Self {
        let (sink, written) = spill_pool::spsc_channel(usize::MAX, Arc::clone(manager));
        Self { sink, written, waiting: Vec::new(), rows: 0 }
    }

    fn flush(&mut self, schema: &SchemaRef) -> DfResult<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let batch = concat_batches(schema, &self.waiting)?;
        self.waiting.clear();
        self.rows = 0;
        self.sink.push_batch(&batch)
    }
}

/// The batch without the bytes that its views do not show, if these are many.
pub fn compact(batch: &RecordBatch) -> DfResult<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => compact_views(column, column.as_string_view()),
        DataType::BinaryView => compact_views(column, column.as_binary_view()),
        _ => Arc::clone(column),
    });
    Ok(RecordBatch::try_new(batch.schema(), columns.collect())?)
}

fn compact_views<T: ByteViewType>(column: &ArrayRef, views: &GenericByteViewArray<T>) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    let wasteful = held > 2 * views.total_buffer_bytes_used() + 1024;
    if wasteful { Arc::new(views.gc()) } else { Arc::clone(column) }
}
