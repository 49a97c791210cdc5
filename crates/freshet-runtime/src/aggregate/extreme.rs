//! `MIN` and `MAX` of rows that are only ever added.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type};
use arrow::row::{RowConverter, SortField};
use freshet_core::{Error, Result};

use super::{Aggregate, AggregateSpec, Arguments};
use crate::keys;
use freshet_core::rows::arrow_error;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `MIN`.
    Least,
    /// `MAX`.
    Greatest,
}

/// `MIN(x)` or `MAX(x)`: null where no row counted. Of any type with an order.
#[derive(Debug, Clone)]
pub struct Extreme {
    side: Side,
    columns: [usize; 1],
    filter: Option<usize>,
    data_type: DataType,
}

impl Extreme {
    /// The extreme of `column`, of this type.
    pub fn new(side: Side, column: usize, data_type: DataType) -> Result<Self> {
        if !keys::is_narrow(&data_type) && !matches!(data_type, DataType::Decimal128(..)) {
            RowConverter::new(vec![SortField::new(data_type.clone())]).map_err(arrow_error)?;
        }
        Ok(Self { side, columns: [column], filter: None, data_type })
    }

    /// Only of the rows in which this column is true.
    #[must_use]
    pub fn filtered(self, filter: Option<usize>) -> Self {
        Self { filter, ..self }
    }
}

impl AggregateSpec for Extreme {
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
        vec![self.data_type.clone()]
    }

    fn create(&self) -> Box<dyn Aggregate> {
        let wins = match self.side {
            Side::Least => Ordering::Less,
            Side::Greatest => Ordering::Greater,
        };
        let data_type = self.data_type.clone();
        if keys::is_narrow(&data_type) || matches!(data_type, DataType::Decimal128(..)) {
            return Box::new(Numbers { wins, data_type, best: Vec::new() });
        }
        let converter = RowConverter::new(vec![SortField::new(data_type)])
            .expect("the type was tried when the function was made");
        Box::new(Texts {
            wins,
            data_type: self.data_type.clone(),
            converter,
            best: Vec::new(),
            held: 0,
        })
    }
}

fn retracted() -> Error {
    Error::internal("MIN and MAX of rows that may be retracted need a state of their own")
}

/// Whole numbers, decimals, dates and times.
#[derive(Debug)]
struct Numbers {
    wins: Ordering,
    data_type: DataType,
    best: Vec<Option<i128>>,
}

impl Numbers {
    /// The values of a column, in the order of their type.
    fn read(&self, column: &ArrayRef) -> Vec<i128> {
        match self.data_type {
            DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().values().to_vec(),
            _ => {
                let unsigned = self.data_type.is_unsigned_integer();
                let bits = 8 * self.data_type.primitive_width().unwrap_or(8);
                let mask = if unsigned { u64::MAX >> (64 - bits) } else { u64::MAX };
                let widen = |value: u64| match unsigned {
                    true => i128::from(value & mask),
                    false => i128::from(value as i64),
                };
                keys::narrow(column).into_iter().map(widen).collect()
            }
        }
    }

    fn offer(&mut self, slot: u32, value: i128) {
        let best = &mut self.best[slot as usize];
        if best.is_none_or(|best| value.cmp(&best) == self.wins) {
            *best = Some(value);
        }
    }

    fn column(&self, slots: &[u32]) -> Result<ArrayRef> {
        let best = slots.iter().map(|slot| self.best[*slot as usize]);
        match self.data_type {
            DataType::Decimal128(..) => Ok(Arc::new(
                best.collect::<Decimal128Array>().with_data_type(self.data_type.clone()),
            )),
            _ => {
                let stored = best.map(|best| best.map_or(keys::NULL, |best| best as u64 as u128));
                keys::column(&self.data_type, stored)
            }
        }
    }
}

impl Aggregate for Numbers {
    fn resize(&mut self, slots: usize) {
        self.best.resize(slots, None);
    }

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let column = &rows.columns[0];
        let values = self.read(column);
        let mut taken_away = false;
        rows.each(slots.len(), |row, sign| {
            taken_away |= sign < 0;
            if column.is_valid(row) {
                self.offer(slots[row], values[row]);
            }
        });
        if taken_away { Err(retracted()) } else { Ok(()) }
    }

    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()> {
        let values = self.read(&state[0]);
        for (row, slot) in slots.iter().enumerate().filter(|(row, _)| state[0].is_valid(*row)) {
            self.offer(*slot, values[row]);
        }
        Ok(())
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.column(slots)?])
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        self.column(slots)
    }

    fn reset(&mut self, slot: u32) {
        self.best[slot as usize] = None;
    }

    fn bytes(&self) -> usize {
        self.best.capacity() * size_of::<Option<i128>>()
    }
}

/// Everything else, as Arrow rows, whose bytes have the order of their values.
#[derive(Debug)]
struct Texts {
    wins: Ordering,
    data_type: DataType,
    converter: RowConverter,
    best: Vec<Option<Box<[u8]>>>,
    held: usize,
}

impl Texts {
    fn offer(&mut self, slot: u32, value: &[u8]) {
        let best = &mut self.best[slot as usize];
        if best.as_ref().is_none_or(|best| value.cmp(best) == self.wins) {
            self.held += value.len();
            self.held -= best.as_ref().map_or(0, |best| best.len());
            *best = Some(value.into());
        }
    }

    fn take(
        &mut self,
        slots: &[u32],
        column: &ArrayRef,
        counts: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let rows = self.converter.convert_columns(&[Arc::clone(column)]).map_err(arrow_error)?;
        for (row, slot) in slots.iter().enumerate() {
            if column.is_valid(row) && counts(row) {
                self.offer(*slot, rows.row(row).as_ref());
            }
        }
        Ok(())
    }
}

impl Aggregate for Texts {
    fn resize(&mut self, slots: usize) {
        self.best.resize(slots, None);
    }

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let (mut counts, mut taken_away) = (vec![false; slots.len()], false);
        rows.each(slots.len(), |row, sign| {
            counts[row] = true;
            taken_away |= sign < 0;
        });
        if taken_away {
            return Err(retracted());
        }
        self.take(slots, &rows.columns[0], |row| counts[row])
    }

    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()> {
        self.take(slots, &state[0], |_| true)
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.value(slots)?])
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        let null = arrow::array::new_null_array(&self.data_type, 1);
        let null = self.converter.convert_columns(&[null]).map_err(arrow_error)?;
        let parser = self.converter.parser();
        let rows = slots.iter().map(|slot| match &self.best[*slot as usize] {
            Some(best) => parser.parse(best),
            None => null.row(0),
        });
        Ok(self.converter.convert_rows(rows).map_err(arrow_error)?.remove(0))
    }

    fn reset(&mut self, slot: u32) {
        if let Some(best) = self.best[slot as usize].take() {
            self.held -= best.len();
        }
    }

    fn bytes(&self) -> usize {
        self.best.capacity() * size_of::<Option<Box<[u8]>>>() + self.held
    }
}
