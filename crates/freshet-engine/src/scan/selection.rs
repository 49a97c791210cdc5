//! The rows of a scan for which a predicate holds.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{BatchCoalescer, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use datafusion::error::Result as DfResult;
use datafusion::physical_expr::PhysicalExpr;
use futures::StreamExt;
use futures::stream::BoxStream;

type Rows = BoxStream<'static, DfResult<RecordBatch>>;

/// The rows for which `predicate` is true, in batches of `batch_rows`.
pub(super) fn select(
    rows: Rows,
    predicate: Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    batch_rows: usize,
) -> Rows {
    let kept = BatchCoalescer::new(Arc::clone(schema), batch_rows)
        .with_biggest_coalesce_batch_size(Some(batch_rows / 2));
    let selection = Selection { rows: Some(rows), predicate, kept };
    futures::stream::try_unfold(selection, |mut selection| async move {
        let batch = selection.next().await?;
        Ok(batch.map(|batch| (batch, selection)))
    })
    .boxed()
}

struct Selection {
    /// `None` once it has ended.
    rows: Option<Rows>,
    predicate: Arc<dyn PhysicalExpr>,
    kept: BatchCoalescer,
}

impl Selection {
    async fn next(&mut self) -> DfResult<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.kept.next_completed_batch() {
                return Ok(Some(batch));
            }
            let Some(rows) = &mut self.rows else { return Ok(None) };
            match rows.next().await {
                Some(batch) => self.take(batch?)?,
                None => {
                    self.rows = None;
                    self.kept.finish_buffered_batch()?;
                }
            }
        }
    }

    fn take(&mut self, batch: RecordBatch) -> DfResult<()> {
        let fits = self.predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
        let mut fits = fits.as_boolean().clone();
        if fits.nulls().is_some() {
            fits = prep_null_mask_filter(&fits);
        }
        match fits.true_count() {
            0 => Ok(()),
            all if all == batch.num_rows() => Ok(self.kept.push_batch(batch)?),
            _ => Ok(self.kept.push_batch_with_filter(batch, &fits)?),
        }
    }
}
