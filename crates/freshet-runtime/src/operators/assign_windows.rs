//! Windows as columns: each row once for every window that it is in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use freshet_core::Result;

use super::Windows;
use super::window_aggregate::no_time;
use crate::operator::{Flow, Operator, OperatorContext, OperatorSpec, Out};
use freshet_core::rows::{RowKind, Rows, arrow_error};

/// Rows of a batch that is given.
const BATCH_ROWS: usize = 8192;

/// Gives the columns of its input, then `window_start` and `window_end` (timestamps in
/// microseconds): the windows of a row stand together, ascending by their ends. An
/// update becomes a delete and an insert.
#[derive(Debug, Clone)]
pub struct AssignWindows {
    /// The columns of the input.
    pub input: SchemaRef,
    /// The column of the rows' time, a timestamp in microseconds.
    pub time: usize,
    /// The windows.
    pub windows: Windows,
}

impl AssignWindows {
    /// The columns that it gives.
    pub fn schema(&self) -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let fields = self.input.fields().iter().map(|field| field.as_ref().clone());
        let bounds = ["window_start", "window_end"];
        let bounds = bounds.map(|name| Field::new(name, time.clone(), false));
        Arc::new(Schema::new(fields.chain(bounds).collect::<Vec<_>>()))
    }
}

impl OperatorSpec for AssignWindows {
    fn name(&self) -> String {
        "assign windows".into()
    }

    fn has_state(&self) -> bool {
        false
    }

    fn create(&self, _context: &OperatorContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Running { schema: self.schema(), spec: self.clone() }))
    }
}

#[derive(Debug)]
struct Running {
    spec: AssignWindows,
    schema: SchemaRef,
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        let times = rows.batch().column(self.spec.time);
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let mut copies = Copies::default();
        for row in 0..rows.len() {
            if times.is_null(row) {
                return Err(no_time());
            }
            for (start, end) in self.spec.windows.of(times.value(row)) {
                copies.push(row, start, end, rows.kind(row));
                if copies.rows.len() >= BATCH_ROWS {
                    self.give(std::mem::take(&mut copies), &rows, out)?;
                }
            }
        }
        self.give(copies, &rows, out)?;
        Ok(Flow::Done)
    }
}

#[derive(Debug, Default)]
struct Copies {
    rows: Vec<u32>,
    starts: Vec<i64>,
    ends: Vec<i64>,
    kinds: Vec<RowKind>,
}

impl Copies {
    fn push(&mut self, row: usize, start: i64, end: i64, kind: RowKind) {
        self.rows.push(row as u32);
        self.starts.push(start);
        self.ends.push(end);
        // The two rows of an update come apart: they may be in different windows.
        self.kinds.push(if kind.adds() { RowKind::Insert } else { RowKind::Delete });
    }
}

impl Running {
    fn give(&self, copies: Copies, rows: &Rows, out: &mut Out<'_>) -> Result<()> {
        if copies.rows.is_empty() {
            return Ok(());
        }
        let Copies { rows: chosen, starts, ends, kinds } = copies;
        let batch =
            take_record_batch(rows.batch(), &UInt32Array::from(chosen)).map_err(arrow_error)?;
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.push(Arc::new(TimestampMicrosecondArray::from(starts)));
        columns.push(Arc::new(TimestampMicrosecondArray::from(ends)));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_error)?;
        out.rows(Rows::changes(batch, kinds))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;
    use crate::operators::testing::{Cluster, lines};
    use crate::state::KeyGroups;

    #[test]
    fn a_row_is_given_with_each_of_its_windows() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let input = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("at", time, false),
        ]));
        let windows = Windows::hop(4, 2, 0).expect("they make sense");
        let spec = AssignWindows { input: Arc::clone(&input), time: 1, windows };
        let inputs = vec![(Arc::clone(&input), vec![0])];
        let mut cluster = Cluster::new(Arc::new(spec), KeyGroups::default(), inputs, 1);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![1, 2])),
            Arc::new(TimestampMicrosecondArray::from(vec![3, 4])),
        ];
        let batch = RecordBatch::try_new(input, columns).expect("columns of the schema");
        cluster.push(0, Rows::changes(batch, vec![RowKind::Insert, RowKind::Delete]));
        let [(_, given)] = cluster.given.0.as_slice() else { panic!("one batch") };
        let short = |line: &String| line.replace("1970-01-01T00:00:00", "");
        assert_eq!(
            lines(given).iter().map(short).collect::<Vec<_>>(),
            [
                "1,.000003,,.000004",
                "1,.000003,.000002,.000006",
                "2,.000004,.000002,.000006",
                "2,.000004,.000004,.000008"
            ]
        );
        use RowKind::{Delete, Insert};
        assert_eq!(given.kinds(), Some([Insert, Insert, Delete, Delete].as_slice()));
    }
}
