//! Aggregates over distinct values: `COUNT(DISTINCT x)`, and extremes of rows that may be taken back.
//!
//! They are given values that came to be or are no more, each once, by a set that their group keeps
//! ([`crate::state`]); what they hold follows from it, so that it is in no checkpoint.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use freshet_core::rows::arrow_error;
use freshet_core::{Error, Result};

use super::{Aggregate, AggregateSpec, Arguments, Side};

/// Any aggregate function of one argument, over its distinct values.
#[derive(Debug, Clone)]
pub struct Distinct(Arc<dyn AggregateSpec>);

impl Distinct {
    /// The function `of` distinct values.
    pub fn new(of: Arc<dyn AggregateSpec>) -> Self {
        Self(of)
    }
}

impl AggregateSpec for Distinct {
    fn arguments(&self) -> &[usize] {
        self.0.arguments()
    }

    fn filter(&self) -> Option<usize> {
        self.0.filter()
    }

    fn value_type(&self) -> DataType {
        self.0.value_type()
    }

    fn state_types(&self) -> Vec<DataType> {
        Vec::new()
    }

    fn reads_values(&self) -> bool {
        true
    }

    fn create(&self) -> Box<dyn Aggregate> {
        self.0.create()
    }
}

/// `MIN(x)` or `MAX(x)` of rows that may be taken back. Of any type with an order.
#[derive(Debug, Clone)]
pub struct RetractableExtreme {
    side: Side,
    columns: [usize; 1],
    filter: Option<usize>,
    data_type: DataType,
}

impl RetractableExtreme {
    /// The extreme of `column`, of this type.
    pub fn new(side: Side, column: usize, data_type: DataType) -> Result<Self> {
        RowConverter::new(vec![SortField::new(data_type.clone())]).map_err(arrow_error)?;
        Ok(Self { side, columns: [column], filter: None, data_type })
    }

    /// Only of the rows in which this column is true.
    #[must_use]
    pub fn filtered(self, filter: Option<usize>) -> Self {
        Self { filter, ..self }
    }
}

impl AggregateSpec for RetractableExtreme {
    fn arguments(&self) -> &[usize] {
        &self.columns
    }

    fn filter(&self) -> Option<usize> {
        self.filter
    }

    fn value_type(&self) -> DataType {
        self.data_type.clone()
    }

    fn state_types(&self) -> Vec<DataType> {
        Vec::new()
    }

    fn reads_values(&self) -> bool {
        true
    }

    fn create(&self) -> Box<dyn Aggregate> {
        let converter = RowConverter::new(vec![SortField::new(self.data_type.clone())]);
        Box::new(Ordered {
            side: self.side,
            data_type: self.data_type.clone(),
            converter: converter.expect("the type was tried when the function was made"),
            values: BTreeSet::new(),
            held: 0,
        })
    }
}

/// The distinct values of each slot, as Arrow rows, whose bytes have the order of their values.
#[derive(Debug)]
struct Ordered {
    side: Side,
    data_type: DataType,
    converter: RowConverter,
    values: BTreeSet<(u32, Box<[u8]>)>,
    held: usize,
}

impl Ordered {
    fn best(&self, slot: u32) -> Option<&[u8]> {
        let least = Bound::Included((slot, Box::default()));
        let behind = match slot.checked_add(1) {
            Some(next) => Bound::Excluded((next, Box::default())),
            None => Bound::Unbounded,
        };
        let mut of_slot = self.values.range((least, behind));
        let best = match self.side {
            Side::Least => of_slot.next(),
            Side::Greatest => of_slot.next_back(),
        };
        best.map(|(_, value)| value.as_ref())
    }
}

impl Aggregate for Ordered {
    fn resize(&mut self, _slots: usize) {}

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let column = &rows.columns[0];
        let values = self.converter.convert_columns(&[Arc::clone(column)]).map_err(arrow_error)?;
        rows.each(slots.len(), |row, sign| {
            if column.is_null(row) {
                return;
            }
            let value = values.row(row);
            let bytes: Box<[u8]> = value.as_ref().into();
            let length = bytes.len();
            if sign > 0 {
                if self.values.insert((slots[row], bytes)) {
                    self.held += length;
                }
            } else if self.values.remove(&(slots[row], bytes)) {
                self.held -= length;
            }
        });
        Ok(())
    }

    fn merge(&mut self, _slots: &[u32], _state: &[ArrayRef]) -> Result<()> {
        Err(Error::internal("an extreme of values that come and go has no state to merge"))
    }

    fn state(&self, _slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(Vec::new())
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        let null = arrow::array::new_null_array(&self.data_type, 1);
        let null = self.converter.convert_columns(&[null]).map_err(arrow_error)?;
        let parser = self.converter.parser();
        let rows = slots.iter().map(|slot| match self.best(*slot) {
            Some(best) => parser.parse(best),
            None => null.row(0),
        });
        Ok(self.converter.convert_rows(rows).map_err(arrow_error)?.remove(0))
    }

    fn reset(&mut self, slot: u32) {
        while let Some(best) = self.best(slot).map(Box::<[u8]>::from) {
            self.held -= best.len();
            self.values.remove(&(slot, best));
        }
    }

    fn bytes(&self) -> usize {
        self.values.len() * size_of::<(u32, Box<[u8]>)>() * 2 + self.held
    }
}
