//! Aggregate functions over many keys at once: each keeps its state in columns, one place for each
//! number that a [`crate::keys::KeyMap`] gives.
//!
//! They can be added to, taken from (where rows are retracted), merged, and forgotten one key at a
//! time, which those of a batch engine need not.

mod accumulators;
mod count;
mod distinct;
mod extreme;
mod sum;

use std::fmt::Debug;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use freshet_core::Result;

use freshet_core::rows::RowKind;

pub(crate) use accumulators::{Accumulators, Layout, Named};
pub use count::Count;
pub use distinct::{Distinct, RetractableExtreme};
pub use extreme::{Extreme, Side};
pub use sum::{Average, Sum};

/// Rows for an aggregate function.
#[derive(Debug, Clone, Copy)]
pub struct Arguments<'a> {
    /// The function's arguments.
    pub columns: &'a [ArrayRef],
    /// The rows that count: `FILTER (WHERE …)`. A null is false.
    pub filter: Option<&'a BooleanArray>,
    /// What the rows mean; `None` where all are inserts.
    pub kinds: Option<&'a [RowKind]>,
}

impl Arguments<'_> {
    /// Calls `each` with the number of every row that counts and with its sign.
    fn each(&self, rows: usize, mut each: impl FnMut(usize, i64)) {
        match (self.filter, self.kinds) {
            (None, None) => (0..rows).for_each(|row| each(row, 1)),
            (filter, kinds) => {
                for row in 0..rows {
                    if filter.is_none_or(|filter| {
                        arrow::array::Array::is_valid(filter, row) && filter.value(row)
                    }) {
                        each(row, kinds.map_or(1, |kinds| kinds[row].sign()));
                    }
                }
            }
        }
    }
}

/// The state of an aggregate function for many keys.
pub trait Aggregate: Debug + Send {
    /// Makes room for numbers below `slots`; new places hold the state of no rows.
    fn resize(&mut self, slots: usize);

    /// Takes rows: row `n` belongs to the key `slots[n]`.
    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()>;

    /// Takes states of [`Self::state`]: row `n` of them is added to the key `slots[n]`.
    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()>;

    /// The states of `slots`, in that order.
    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>>;

    /// The results of `slots`, in that order.
    fn value(&self, slots: &[u32]) -> Result<ArrayRef>;

    /// Gives a place the state of no rows.
    fn reset(&mut self, slot: u32);

    /// About how many bytes of memory it takes.
    fn bytes(&self) -> usize;
}

/// Makes the states of one aggregate function of a query.
pub trait AggregateSpec: Debug + Send + Sync {
    /// The columns of the input that are its arguments.
    fn arguments(&self) -> &[usize];

    /// The column of the input that says which rows count.
    fn filter(&self) -> Option<usize> {
        None
    }

    /// The type of its result.
    fn value_type(&self) -> DataType;

    /// Whether it is given each value of its argument once, and again when the last row with it was
    /// taken back, rather than rows. Its state follows from the values then, and has no types.
    fn reads_values(&self) -> bool {
        false
    }

    /// The types of its state.
    fn state_types(&self) -> Vec<DataType>;

    /// An empty state.
    fn create(&self) -> Box<dyn Aggregate>;
}

#[cfg(test)]
mod tests;
