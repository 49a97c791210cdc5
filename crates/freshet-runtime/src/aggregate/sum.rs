//! `SUM` and `AVG`.
//!
//! Whole numbers and decimals are summed exactly in 128 bits, whatever is taken away again. Floating
//! point numbers are summed as they come: as anywhere, their last digits depend on the order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use freshet_core::{Error, Result, error::code};

use super::{Aggregate, AggregateSpec, Arguments};

/// `SUM(x)`: null where no row counted. Takes 64-bit numbers and decimals.
#[derive(Debug, Clone)]
pub struct Sum {
    columns: [usize; 1],
    filter: Option<usize>,
    input: DataType,
    output: DataType,
}

/// `AVG(x)`: null where no row counted. Takes 64-bit numbers and decimals.
#[derive(Debug, Clone)]
pub struct Average(Sum);

impl Sum {
    /// The sum of `column`, of type `input`, as `output`: of the same type, or a decimal of the
    /// same scale.
    pub fn new(column: usize, input: DataType, output: DataType) -> Result<Self> {
        let fits = match (&input, &output) {
            (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from == to,
            (DataType::Int64 | DataType::UInt64 | DataType::Float64, output) => input == *output,
            _ => false,
        };
        if !fits {
            return Err(Error::internal(format!("no sum of {input} as {output}")));
        }
        Ok(Self { columns: [column], filter: None, input, output })
    }

    /// Sums only where this column is true.
    #[must_use]
    pub fn filtered(self, filter: Option<usize>) -> Self {
        Self { filter, ..self }
    }

    fn is_float(&self) -> bool {
        self.input == DataType::Float64
    }
}

impl Average {
    /// The average of `column`, of type `input`: a float, or a decimal of at least that scale.
    pub fn new(column: usize, input: DataType, output: DataType) -> Result<Self> {
        let fits = match (&input, &output) {
            (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => from <= to,
            (DataType::Int64 | DataType::UInt64 | DataType::Float64, DataType::Float64) => true,
            _ => false,
        };
        if !fits {
            return Err(Error::internal(format!("no average of {input} as {output}")));
        }
        Ok(Self(Sum { columns: [column], filter: None, input, output }))
    }

    /// Averages only where this column is true.
    #[must_use]
    pub fn filtered(self, filter: Option<usize>) -> Self {
        Self(self.0.filtered(filter))
    }
}

impl AggregateSpec for Sum {
    fn arguments(&self) -> &[usize] {
        &self.columns
    }

    fn filter(&self) -> Option<usize> {
        self.filter
    }

    fn value_type(&self) -> DataType {
        self.output.clone()
    }

    fn state_types(&self) -> Vec<DataType> {
        let sum = if self.is_float() { DataType::Float64 } else { EXACT };
        vec![DataType::Int64, sum]
    }

    fn create(&self) -> Box<dyn Aggregate> {
        create(self, false)
    }
}

impl AggregateSpec for Average {
    fn arguments(&self) -> &[usize] {
        self.0.arguments()
    }

    fn filter(&self) -> Option<usize> {
        self.0.filter
    }

    fn value_type(&self) -> DataType {
        self.0.value_type()
    }

    fn state_types(&self) -> Vec<DataType> {
        self.0.state_types()
    }

    fn create(&self) -> Box<dyn Aggregate> {
        create(&self.0, true)
    }
}

/// The type under which exact sums are kept: the whole range of 128 bits, whatever the scale.
const EXACT: DataType = DataType::Decimal128(38, 0);

fn create(spec: &Sum, average: bool) -> Box<dyn Aggregate> {
    let Sum { input, output, .. } = spec.clone();
    if spec.is_float() {
        Box::new(Floats { counts: Vec::new(), sums: Vec::new(), average })
    } else {
        Box::new(Exact { counts: Vec::new(), sums: Vec::new(), average, input, output })
    }
}

#[derive(Debug)]
struct Exact {
    counts: Vec<i64>,
    sums: Vec<i128>,
    average: bool,
    input: DataType,
    output: DataType,
}

impl Exact {
    fn add(&mut self, slots: &[u32], rows: Arguments<'_>, value: impl Fn(usize) -> i128) {
        let nulls = rows.columns[0].nulls();
        rows.each(slots.len(), |row, sign| {
            if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                let slot = slots[row] as usize;
                self.counts[slot] += sign;
                self.sums[slot] = self.sums[slot].wrapping_add(i128::from(sign) * value(row));
            }
        });
    }

    fn values<T>(&self, slots: &[u32], value: impl Fn(i128, i64) -> T) -> Vec<Option<T>> {
        let place = slots.iter().map(|slot| *slot as usize);
        place
            .map(|slot| {
                let count = self.counts[slot];
                (count != 0).then(|| value(self.sums[slot], count))
            })
            .collect()
    }
}

impl Aggregate for Exact {
    fn resize(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
        self.sums.resize(slots, 0);
    }

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let column = &rows.columns[0];
        match &self.input {
            DataType::Int64 => {
                let values = column.as_primitive::<Int64Type>().values();
                self.add(slots, rows, |row| i128::from(values[row]));
            }
            DataType::UInt64 => {
                let values = column.as_primitive::<UInt64Type>().values();
                self.add(slots, rows, |row| i128::from(values[row]));
            }
            _ => {
                let values = column.as_primitive::<Decimal128Type>().values();
                self.add(slots, rows, |row| values[row]);
            }
        }
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()> {
        let counts = state[0].as_primitive::<Int64Type>().values();
        let sums = state[1].as_primitive::<Decimal128Type>().values();
        for (slot, (count, sum)) in slots.iter().zip(counts.iter().zip(sums)) {
            self.counts[*slot as usize] += count;
            let place = &mut self.sums[*slot as usize];
            *place = place.wrapping_add(*sum);
        }
        Ok(())
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let counts = slots.iter().map(|slot| self.counts[*slot as usize]);
        let sums = slots.iter().map(|slot| self.sums[*slot as usize]);
        Ok(vec![
            Arc::new(Int64Array::from_iter_values(counts)),
            Arc::new(Decimal128Array::from_iter_values(sums).with_data_type(EXACT)),
        ])
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        let overflow = || {
            Error::new(code::EXECUTION, format!("a sum does not fit into {}", self.output))
                .hint("cast the argument to a wider decimal")
        };
        Ok(match (&self.output, self.average) {
            (DataType::Decimal128(precision, scale), average) => {
                let from = match self.input {
                    DataType::Decimal128(_, scale) => scale,
                    _ => 0,
                };
                let factor = 10_i128.pow((scale - from).unsigned_abs().into());
                let value = |sum: i128, count: i64| match average {
                    // Cut off, not rounded, as in DataFusion.
                    true => Some(sum.checked_mul(factor)? / i128::from(count)),
                    false => Some(sum),
                };
                let values = self
                    .values(slots, value)
                    .into_iter()
                    .map(|value| value.map(|value| value.ok_or_else(overflow)).transpose())
                    .collect::<Result<Vec<_>>>()?;
                let array = Decimal128Array::from(values)
                    .with_precision_and_scale(*precision, *scale)
                    .map_err(|error| overflow().caused_by(error))?;
                array.validate_decimal_precision(*precision).map_err(|_| overflow())?;
                Arc::new(array)
            }
            (_, true) => {
                let values = self.values(slots, |sum, count| sum as f64 / count as f64);
                Arc::new(Float64Array::from(values))
            }
            (DataType::UInt64, false) => {
                let values = self.values(slots, |sum, _| sum as u64);
                Arc::new(arrow::array::UInt64Array::from(values))
            }
            // As in DataFusion, a sum of BIGINT stays one, and wraps around.
            (_, false) => Arc::new(Int64Array::from(self.values(slots, |sum, _| sum as i64))),
        })
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
        self.sums[slot as usize] = 0;
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8 + self.sums.capacity() * 16
    }
}

#[derive(Debug)]
struct Floats {
    counts: Vec<i64>,
    sums: Vec<f64>,
    average: bool,
}

impl Aggregate for Floats {
    fn resize(&mut self, slots: usize) {
        self.counts.resize(slots, 0);
        self.sums.resize(slots, 0.0);
    }

    fn update(&mut self, slots: &[u32], rows: Arguments<'_>) -> Result<()> {
        let column = rows.columns[0].as_primitive::<Float64Type>();
        rows.each(slots.len(), |row, sign| {
            if column.is_valid(row) {
                let slot = slots[row] as usize;
                self.counts[slot] += sign;
                self.sums[slot] += sign as f64 * column.value(row);
            }
        });
        Ok(())
    }

    fn merge(&mut self, slots: &[u32], state: &[ArrayRef]) -> Result<()> {
        let counts = state[0].as_primitive::<Int64Type>().values();
        let sums = state[1].as_primitive::<Float64Type>().values();
        for (slot, (count, sum)) in slots.iter().zip(counts.iter().zip(sums)) {
            self.counts[*slot as usize] += count;
            self.sums[*slot as usize] += sum;
        }
        Ok(())
    }

    fn state(&self, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let counts = slots.iter().map(|slot| self.counts[*slot as usize]);
        let sums = slots.iter().map(|slot| self.sums[*slot as usize]);
        Ok(vec![
            Arc::new(Int64Array::from_iter_values(counts)),
            Arc::new(Float64Array::from_iter_values(sums)),
        ])
    }

    fn value(&self, slots: &[u32]) -> Result<ArrayRef> {
        let value = |slot: &u32| {
            let (count, sum) = (self.counts[*slot as usize], self.sums[*slot as usize]);
            let value = if self.average { sum / count as f64 } else { sum };
            (count != 0).then_some(value)
        };
        Ok(Arc::new(slots.iter().map(value).collect::<Float64Array>()))
    }

    fn reset(&mut self, slot: u32) {
        self.counts[slot as usize] = 0;
        self.sums[slot as usize] = 0.0;
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8 + self.sums.capacity() * 8
    }
}
