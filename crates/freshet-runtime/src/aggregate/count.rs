//! `COUNT(*)` and `COUNT(x)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use freshet_core::Result;

use super::{Aggregate, AggregateSpec, Arguments};

/// `COUNT(*)` without a column, `COUNT(x)` of the rows in which it is not null.
#[derive(Debug, Clone)]
pub struct Count {
    columns: Vec<usize>,
    filter: Option<usize>,
}

impl Count {
    /// Counts rows.
    pub fn rows() -> Self {
        Self { columns: Vec::new(), filter: None }
    }

    /// Counts the rows in which `column` is not null.
    pub fn column(column: usize) -> Self {
        Self { columns: vec![column], filter: None }
    }

    /// Counts only where this column is true.
    #[must_use]
    pub fn filtered(self, filter: Option<usize>) -> Self {
        Self { filter, ..self }
    }
}

impl AggregateSpec for Count {
    fn arguments(&self) -> &[usize] {
        &self.columns
    }

    fn filter(&self) -> Option<usize> {
        self.filter
    }

    fn value_type(&self) -> DataType {
        DataType::Int64
    }

    fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Int64]
    }

    fn create(&self) -> Box<dyn Aggregate> {
        Box::<Counts>::default()
    }
}

#[derive(Debug, Default)]
struct Counts(Vec<i64>);

impl Aggregate for Counts {
    fn resize(&mut self, slots: usize) {
        self.0.resize(slots, 0);
    }

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let nulls = rows.columns.first().and_then(|column| column.logical_nulls());
        rows.each(slots.len(), |row, sign| {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                self.0[slots[row] as usize] += sign;
            }
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()> {
        let counts = state[0].as_primitive::<Int64Type>().values();
        for (slot, count) in slots.iter().zip(counts) {
            self.0[*slot as usize] += count;
        }
        Ok(())
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let counts = slots.iter().map(|slot| self.0[*slot as usize]);
        Ok(vec![Arc::new(Int64Array::from_iter_values(counts))])
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        Ok(self.state(slots)?.remove(0))
    }

    fn reset(&mut self, slot: u32) {
        self.0[slot as usize] = 0;
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * 8
    }
}
