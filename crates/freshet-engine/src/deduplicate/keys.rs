//! Keys as numbers: equal numbers where and only where the values are equal.
//!
//! One integer, date, time or decimal is a key of 64 or 128 bits as it is. Everything else is encoded as
//! Arrow's row format; up to 15 bytes of it stand in the number themselves, longer ones are 127 bits
//! of SipHash-1-3 under a key that is drawn for each process. The chance that any two of a billion
//! long keys meet is below 10⁻²⁰; ClickHouse's `uniqExact` rests on the same.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result as DfResult;
use datafusion::physical_expr::PhysicalExpr;

/// Keys of a batch's rows.
#[derive(Debug, Clone)]
pub enum Keys {
    /// Of one column of up to 64 bits; nulls apart.
    Narrow(Vec<u64>, Option<NullBuffer>),
    /// Of anything else.
    Wide(Vec<u128>),
}

impl Keys {
    /// A hash of each key, for tables and for dividing.
    pub fn hash(&self, row: usize) -> u64 {
        match self {
            Self::Narrow(keys, nulls) => {
                let null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if null { mix(u64::MAX) } else { mix(keys[row]) }
            }
            Self::Wide(keys) => mix_wide(keys[row]),
        }
    }

    /// The same keys in 128 bits.
    pub fn wide(&self, row: usize) -> u128 {
        match self {
            Self::Narrow(_, Some(nulls)) if nulls.is_null(row) => u128::MAX,
            Self::Narrow(keys, _) => u128::from(keys[row]),
            Self::Wide(keys) => keys[row],
        }
    }
}

/// Makes keys of batches of one schema.
#[derive(Debug)]
pub struct KeyEncoder {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    rows: Option<RowConverter>,
}

impl KeyEncoder {
    /// An encoder of the values of `exprs`.
    pub fn new(exprs: &[Arc<dyn PhysicalExpr>], schema: &Schema) -> DfResult<Self> {
        let types =
            exprs.iter().map(|expr| expr.data_type(schema)).collect::<DfResult<Vec<_>>>()?;
        let rows = match types.as_slice() {
            [only] if width(only).is_some() => None,
            types => Some(RowConverter::new(types.iter().cloned().map(SortField::new).collect())?),
        };
        Ok(Self { exprs: exprs.to_vec(), rows })
    }

    /// The keys of a batch's rows.
    pub fn encode(&self, batch: &RecordBatch) -> DfResult<Keys> {
        let columns = self
            .exprs
            .iter()
            .map(|expr| expr.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<DfResult<Vec<_>>>()?;
        match (&self.rows, columns.as_slice()) {
            (None, [column]) => Ok(narrow(column)),
            (Some(converter), columns) => {
                let rows = converter.convert_columns(columns)?;
                Ok(Keys::Wide(rows.iter().map(|row| pack(row.as_ref())).collect()))
            }
            (None, _) => unreachable!("only a single column has no converter"),
        }
    }
}

/// Bytes of a type whose values are numbers as they lie, up to 8.
fn width(data_type: &DataType) -> Option<usize> {
    // Floats are not among them: -0.0 equals 0.0.
    let plain = data_type.is_integer() || data_type.is_temporal();
    data_type.primitive_width().filter(|width| plain && *width <= 8)
}

fn narrow(column: &ArrayRef) -> Keys {
    let data = column.to_data();
    let bytes =
        &data.buffers()[0].as_slice()[data.offset() * width(data.data_type()).unwrap_or(0)..];
    let rows = column.len();
    let keys = match width(data.data_type()) {
        Some(1) => bytes[..rows].iter().map(|byte| u64::from(*byte)).collect(),
        Some(2) => numbers::<2>(bytes, rows),
        Some(4) => numbers::<4>(bytes, rows),
        _ => numbers::<8>(bytes, rows),
    };
    Keys::Narrow(keys, column.nulls().filter(|nulls| nulls.null_count() > 0).cloned())
}

fn numbers<const N: usize>(bytes: &[u8], rows: usize) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<N>();
    let number = |chunk: &[u8; N]| {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(chunk);
        u64::from_le_bytes(wide)
    };
    chunks[..rows].iter().map(number).collect()
}

/// A row's encoding in 128 bits; the topmost byte says what the others are.
fn pack(row: &[u8]) -> u128 {
    const HASHED: u128 = 1 << 127;
    if row.len() < 16 {
        let mut bytes = [0; 16];
        bytes[..row.len()].copy_from_slice(row);
        bytes[15] = row.len() as u8;
        return u128::from_le_bytes(bytes);
    }
    static SEEDS: OnceLock<(RandomState, RandomState)> = OnceLock::new();
    let (high, low) = SEEDS.get_or_init(|| (RandomState::new(), RandomState::new()));
    let hash = |seed: &RandomState| {
        let mut hasher = seed.build_hasher();
        hasher.write(row);
        u128::from(hasher.finish())
    };
    HASHED | hash(high) << 64 | hash(low)
}

/// The finalizer of MurmurHash3.
pub fn mix(key: u64) -> u64 {
    let key = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ key >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ key >> 33
}

/// The same of a wide key.
pub fn mix_wide(key: u128) -> u64 {
    mix(key as u64 ^ mix((key >> 64) as u64))
}
