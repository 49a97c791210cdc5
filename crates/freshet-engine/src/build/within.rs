//! Rows of a batch that do not belong to it.
//!
//! A microbatch replaces the rows of its span and nothing else. A row that its query gives outside
//! of the span would be there twice after the next run of the same batch, and would depend on which
//! batches a run happened to compute; so it is left out, counted, and named in a warning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use freshet_core::error::code;
use freshet_core::source::Interval;
use freshet_core::{EdgeCounts, Error, Location, Result};
use freshet_project::Node;
use futures::TryStreamExt;

use crate::lake::micros_of;

/// The spans of some batches, one for each plan, and what was in and outside of them.
#[derive(Debug, Clone)]
pub(super) struct Within {
    column: usize,
    spans: Arc<[(i64, i64)]>,
    kept: Arc<AtomicU64>,
    outside: Arc<AtomicU64>,
}

impl Within {
    /// The rows of plan `i` belong to `intervals[i]` by their column `event_time`.
    pub fn new(
        node: &Node,
        schema: &Schema,
        event_time: &str,
        intervals: &[Interval],
    ) -> Result<Self> {
        let wrong = |message: String, hint: &str| {
            Error::new(code::CONFIG, message)
                .at(Location::file(node.path.display().to_string()))
                .hint(hint)
        };
        let column = schema.index_of(event_time).map_err(|_| {
            wrong(
                format!("model \"{}\" has no column \"{event_time}\", its `event_time`", node.id),
                "select the column, or name another one",
            )
        })?;
        let data_type = schema.field(column).data_type();
        if !matches!(data_type, DataType::Date32 | DataType::Timestamp(TimeUnit::Microsecond, _)) {
            return Err(wrong(
                format!("column \"{event_time}\" of `event_time` is neither date nor timestamp"),
                "cast it in the model",
            ));
        }
        let micros = |time: chrono::NaiveDateTime| time.and_utc().timestamp_micros();
        let spans = intervals.iter().map(|span| (micros(span.start), micros(span.end))).collect();
        Ok(Self { column, spans, kept: Arc::default(), outside: Arc::default() })
    }

    /// The rows of plan `number` that belong to its batch.
    pub fn filter(
        &self,
        number: usize,
        rows: SendableRecordBatchStream,
    ) -> SendableRecordBatchStream {
        let (this, schema) = (self.clone(), rows.schema());
        let kept = rows.and_then(move |batch| {
            let kept = this
                .of_batch(number, &batch)
                .map_err(|error| datafusion::error::DataFusionError::External(Box::new(error)));
            std::future::ready(kept)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, kept))
    }

    fn of_batch(&self, number: usize, batch: &RecordBatch) -> Result<RecordBatch> {
        let Some((start, end)) = self.spans.get(number).copied() else {
            return Err(Error::internal("a plan of a microbatch has no span"));
        };
        let mask: BooleanArray = micros_of(batch.column(self.column))?
            .into_iter()
            .map(|time| Some(time.is_some_and(|time| (start..end).contains(&time))))
            .collect();
        let kept = mask.true_count();
        self.kept.fetch_add(kept as u64, Ordering::Relaxed);
        let outside = batch.num_rows() - kept;
        if outside == 0 {
            return Ok(batch.clone());
        }
        self.outside.fetch_add(outside as u64, Ordering::Relaxed);
        filter_record_batch(batch, &mask)
            .map_err(|error| Error::internal("rows could not be chosen").caused_by(error))
    }

    /// The rows that came and went.
    pub fn counts(&self) -> EdgeCounts {
        let rows_out = self.kept.load(Ordering::Relaxed);
        let filtered = self.outside.load(Ordering::Relaxed);
        EdgeCounts { rows_in: rows_out + filtered, rows_out, dead: 0, filtered }
    }
}
