//! What streams are made of: record batches whose rows each have a kind.

use std::sync::Arc;

use crate::error::{Error, Result, code};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};

/// What a row means to a table that changes are applied to. An update is two rows, one after the
/// other in the same batch: what was before and what is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowKind {
    /// A new row.
    Insert = 0,
    /// The row that the next one replaces.
    UpdateBefore = 1,
    /// The row that replaces the one before.
    UpdateAfter = 2,
    /// A row that is no more.
    Delete = 3,
}

impl RowKind {
    /// Whether the row is added to the table rather than taken from it.
    pub fn adds(self) -> bool {
        matches!(self, Self::Insert | Self::UpdateAfter)
    }

    /// `1` for a row that is added, `-1` for one that is taken away.
    pub fn sign(self) -> i64 {
        if self.adds() { 1 } else { -1 }
    }

    /// Flink's short spelling: `+I`, `-U`, `+U`, `-D`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Insert => "+I",
            Self::UpdateBefore => "-U",
            Self::UpdateAfter => "+U",
            Self::Delete => "-D",
        }
    }

    /// The kind stored as this number, where there is one.
    pub fn from_u8(number: u8) -> Option<Self> {
        [Self::Insert, Self::UpdateBefore, Self::UpdateAfter, Self::Delete]
            .get(usize::from(number))
            .copied()
    }
}

/// A batch of rows with their kinds.
#[derive(Debug, Clone)]
pub struct Rows {
    batch: RecordBatch,
    /// One for each row; `None` where all are inserts.
    kinds: Option<Arc<[RowKind]>>,
}

impl Rows {
    /// Rows that are all inserts.
    pub fn inserts(batch: RecordBatch) -> Self {
        Self { batch, kinds: None }
    }

    /// Rows with one kind each.
    ///
    /// # Panics
    /// Where there are more or fewer kinds than rows.
    pub fn changes(batch: RecordBatch, kinds: Vec<RowKind>) -> Self {
        assert_eq!(batch.num_rows(), kinds.len(), "a row has one kind");
        if kinds.iter().all(|kind| *kind == RowKind::Insert) {
            return Self::inserts(batch);
        }
        Self { batch, kinds: Some(kinds.into()) }
    }

    /// The columns.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// The columns, without the kinds.
    pub fn into_batch(self) -> RecordBatch {
        self.batch
    }

    /// The schema of the columns.
    pub fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kinds; `None` where all are inserts.
    pub fn kinds(&self) -> Option<&[RowKind]> {
        self.kinds.as_deref()
    }

    /// The kind of one row.
    pub fn kind(&self, row: usize) -> RowKind {
        self.kinds.as_ref().map_or(RowKind::Insert, |kinds| kinds[row])
    }

    /// The same kinds over other columns of the same rows.
    ///
    /// # Panics
    /// Where `batch` has another number of rows.
    pub fn with_batch(&self, batch: RecordBatch) -> Self {
        assert_eq!(batch.num_rows(), self.len(), "the rows stay the same");
        Self { batch, kinds: self.kinds.clone() }
    }

    /// Rows `start..start + len`, sharing their memory.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        Self {
            batch: self.batch.slice(start, len),
            kinds: self.kinds.as_ref().map(|kinds| kinds[start..start + len].into()),
        }
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &[u32]) -> Result<Self> {
        let kinds = self
            .kinds
            .as_ref()
            .map(|kinds| indices.iter().map(|index| kinds[*index as usize]).collect());
        let indices = UInt32Array::from(indices.to_vec());
        Ok(Self { batch: take_record_batch(&self.batch, &indices).map_err(arrow_error)?, kinds })
    }

    /// The rows at which `keep` is true. Whole batches are handed on as they are; of an update, one row
    /// of which is left out, the other is a delete or an insert.
    pub fn filter(self, keep: &BooleanArray) -> Result<Self> {
        let kept = keep.true_count();
        if kept == self.len() {
            return Ok(self);
        }
        let kinds = self.kinds.as_ref().map(|kinds| {
            let keeps = |row: usize| keep.is_valid(row) && keep.value(row);
            let chosen = (0..kinds.len()).filter(|row| keeps(*row));
            chosen.map(|row| apart(kinds, row, keeps)).collect()
        });
        Ok(Self { batch: filter_record_batch(&self.batch, keep).map_err(arrow_error)?, kinds })
    }

    /// The same rows, where the two rows of an update go to different places: a delete and an insert
    /// each, where `place` says of them that they do.
    #[must_use]
    pub fn torn<T: PartialEq>(self, place: impl Fn(usize) -> T) -> Self {
        let Self { batch, kinds } = self;
        let torn = |kinds: Arc<[RowKind]>| {
            let rows = 0..kinds.len();
            rows.map(|row| apart(&kinds, row, |other| place(other) == place(row))).collect()
        };
        Self { batch, kinds: kinds.map(torn) }
    }

    /// All rows of `parts`, which have the same schema, in their order.
    pub fn concat(schema: &SchemaRef, parts: &[Self]) -> Result<Self> {
        if let [only] = parts {
            return Ok(only.clone());
        }
        let batch =
            concat_batches(schema, parts.iter().map(|part| &part.batch)).map_err(arrow_error)?;
        let kinds = parts.iter().any(|part| part.kinds.is_some()).then(|| {
            let all = parts.iter().flat_map(|part| (0..part.len()).map(|row| part.kind(row)));
            all.collect()
        });
        Ok(Self { batch, kinds })
    }

    /// About how many bytes the rows' values take: what queues count. Memory that views share is
    /// counted by the share that these rows use.
    pub fn bytes(&self) -> usize {
        let kinds = self.kinds.as_ref().map_or(0, |kinds| kinds.len());
        kinds + self.batch.columns().iter().map(column_bytes).sum::<usize>()
    }
}

/// What a row means where the other row of its update is with it or not.
fn apart(kinds: &[RowKind], row: usize, with: impl Fn(usize) -> bool) -> RowKind {
    match kinds[row] {
        RowKind::UpdateBefore if row + 1 >= kinds.len() || !with(row + 1) => RowKind::Delete,
        RowKind::UpdateAfter if row == 0 || !with(row - 1) => RowKind::Insert,
        kind => kind,
    }
}

/// Rows that are looked at for the average length of texts in views.
const SAMPLE: usize = 32;

fn column_bytes(column: &ArrayRef) -> usize {
    let rows = column.len();
    let sampled = |length: &dyn Fn(usize) -> usize| {
        let step = rows.div_ceil(SAMPLE).max(1);
        let sum: usize = (0..rows).step_by(step).map(length).sum();
        sum * step
    };
    match column.data_type() {
        DataType::Utf8View => {
            let array = column.as_string_view();
            16 * rows + sampled(&|row| array.views()[row] as u32 as usize)
        }
        DataType::BinaryView => {
            let array = column.as_binary_view();
            16 * rows + sampled(&|row| array.views()[row] as u32 as usize)
        }
        // An estimate is enough where an array cannot say.
        _ => column.to_data().get_slice_memory_size().unwrap_or(16 * rows),
    }
}

/// An error of an Arrow kernel: types were checked when the job was planned, so that what is left
/// is overflow, division by zero and the like.
pub fn arrow_error(error: arrow::error::ArrowError) -> Error {
    Error::new(code::EXECUTION, "could not compute a batch").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};

    fn batch(values: &[i64]) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)])
            .expect("one column")
    }

    #[test]
    fn kinds_follow_their_rows() {
        use RowKind::*;
        let rows =
            Rows::changes(batch(&[1, 2, 3, 4]), vec![Insert, UpdateBefore, UpdateAfter, Delete]);
        let taken = rows.take(&[3, 0]).expect("rows that exist");
        assert_eq!((taken.kind(0), taken.kind(1)), (Delete, Insert));
        let kept = rows
            .clone()
            .filter(&BooleanArray::from(vec![Some(false), Some(true), None, Some(true)]))
            .expect("one boolean a row");
        // Its other row was left out.
        assert_eq!(kept.kinds(), Some([Delete, Delete].as_slice()));
        let torn = rows.clone().torn(|row| row < 2);
        assert_eq!(torn.kinds(), Some([Insert, Delete, Insert, Delete].as_slice()));
        assert_eq!(rows.clone().torn(|row| row == 0).kinds(), rows.kinds());
        assert_eq!(rows.slice(1, 2).kinds(), Some([UpdateBefore, UpdateAfter].as_slice()));
        let joined = Rows::concat(&rows.schema(), &[Rows::inserts(batch(&[9])), kept])
            .expect("the same schema");
        assert_eq!(joined.kinds(), Some([Insert, Delete, Delete].as_slice()));
    }

    #[test]
    fn inserts_need_no_kinds() {
        let rows = Rows::changes(batch(&[1, 2]), vec![RowKind::Insert; 2]);
        assert_eq!(rows.kinds(), None);
    }

    #[test]
    fn bytes_count_what_rows_use_of_shared_memory() {
        let long = "x".repeat(100);
        let texts = StringViewArray::from(vec![long.as_str(); 1000]);
        let whole = Rows::inserts(
            RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).expect("one column"),
        );
        let bytes = whole.bytes();
        assert!((100_000..130_000).contains(&bytes), "{bytes}");
        let part = whole.slice(0, 10).bytes();
        assert!((1_000..2_000).contains(&part), "{part}");
    }
}
