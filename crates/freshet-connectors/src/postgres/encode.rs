//! Arrow to the binary format of COPY: a header, rows of length-prefixed values, a trailer.

use std::collections::BTreeMap;
use std::pin::Pin;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, BooleanArray, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, RecordBatch, StringArray, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Schema, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use bytes::{BufMut, Bytes, BytesMut};
use freshet_core::contract::type_name;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::stream::Refused;
use futures::SinkExt;
use tokio_postgres::CopyInSink;

use super::names::{Table, fits};
use super::{StagedColumn, connect};

/// Bytes that are gathered before they are sent.
const BLOCK: usize = 256 << 10;
/// Days from 1970 to 2000, where the server's dates begin.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// The columns of a staging table for rows of `schema`.
pub(super) fn columns(schema: &Schema, target: &Table) -> Result<Vec<StagedColumn>> {
    let column = |field: &arrow::datatypes::FieldRef| {
        if !fits(field.name()) {
            return Err(Error::new(
                code::LOAD,
                format!("column \"{}\" has no name that postgres can keep", field.name()),
            )
            .hint("give it a name of 1 to 63 bytes in the model"));
        }
        Ok(StagedColumn { name: field.name().clone(), sql_type: sql_type(field, target)? })
    };
    schema.fields().iter().map(column).collect()
}

fn sql_type(field: &arrow::datatypes::Field, target: &Table) -> Result<String> {
    Ok(match canonical(field.data_type()) {
        Some(DataType::Boolean) => "boolean".into(),
        Some(DataType::Int16) => "smallint".into(),
        Some(DataType::Int32) => "integer".into(),
        Some(DataType::Int64) => "bigint".into(),
        Some(DataType::Float32) => "real".into(),
        Some(DataType::Float64) => "double precision".into(),
        Some(DataType::Decimal128(precision, scale)) => format!("numeric({precision},{scale})"),
        Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => "text".into(),
        Some(DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => "bytea".into(),
        Some(DataType::Date32) => "date".into(),
        Some(DataType::Time64(_)) => "time without time zone".into(),
        Some(DataType::Timestamp(_, None)) => "timestamp without time zone".into(),
        Some(DataType::Timestamp(_, Some(_))) => "timestamp with time zone".into(),
        _ => {
            return Err(Error::new(
                code::LOAD,
                format!(
                    "column \"{}\" of table \"{target}\" is of type {}, which cannot be loaded into postgres",
                    field.name(),
                    type_name(field.data_type())
                ),
            )
            .hint("cast it in the model, nested values to text"));
        }
    })
}

/// The type that a column is brought to before it is encoded; `None` where there is none.
fn canonical(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal128(_, scale) if *scale < 0 => return None,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Null => DataType::Utf8View,
        DataType::Dictionary(_, value) => return canonical(value),
        DataType::Boolean
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Date32
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => data_type.clone(),
        _ => return None,
    })
}

/// A column of one batch, its type found out once.
enum Column<'a> {
    Boolean(&'a BooleanArray),
    Int16(&'a PrimitiveArray<Int16Type>),
    Int32(&'a PrimitiveArray<Int32Type>),
    Int64(&'a PrimitiveArray<Int64Type>),
    Float32(&'a PrimitiveArray<Float32Type>),
    Float64(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a PrimitiveArray<Decimal128Type>, u32),
    Date(&'a PrimitiveArray<Date32Type>),
    Time(&'a PrimitiveArray<Time64MicrosecondType>),
    Timestamp(&'a PrimitiveArray<TimestampMicrosecondType>),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a BinaryViewArray),
}

impl<'a> Column<'a> {
    fn of(array: &'a ArrayRef) -> Option<Self> {
        Some(match array.data_type() {
            DataType::Boolean => Self::Boolean(array.as_boolean()),
            DataType::Int16 => Self::Int16(array.as_primitive()),
            DataType::Int32 => Self::Int32(array.as_primitive()),
            DataType::Int64 => Self::Int64(array.as_primitive()),
            DataType::Float32 => Self::Float32(array.as_primitive()),
            DataType::Float64 => Self::Float64(array.as_primitive()),
            DataType::Decimal128(_, scale) => {
                Self::Decimal(array.as_primitive(), u32::try_from(*scale).ok()?)
            }
            DataType::Date32 => Self::Date(array.as_primitive()),
            DataType::Time64(TimeUnit::Microsecond) => Self::Time(array.as_primitive()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Self::Timestamp(array.as_primitive()),
            DataType::Utf8 => Self::Utf8(array.as_string()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::LargeBinary => Self::LargeBinary(array.as_binary()),
            DataType::BinaryView => Self::BinaryView(array.as_binary_view()),
            _ => return None,
        })
    }

    fn always_fits(&self) -> bool {
        matches!(
            self,
            Self::Boolean(_)
                | Self::Int16(_)
                | Self::Int32(_)
                | Self::Int64(_)
                | Self::Float32(_)
                | Self::Float64(_)
                | Self::Decimal(..)
                | Self::Time(_)
        )
    }

    fn array(&self) -> &dyn Array {
        match self {
            Self::Boolean(array) => *array,
            Self::Int16(array) => *array,
            Self::Int32(array) => *array,
            Self::Int64(array) => *array,
            Self::Float32(array) => *array,
            Self::Float64(array) => *array,
            Self::Decimal(array, _) => *array,
            Self::Date(array) => *array,
            Self::Time(array) => *array,
            Self::Timestamp(array) => *array,
            Self::Utf8(array) => *array,
            Self::LargeUtf8(array) => *array,
            Self::Utf8View(array) => *array,
            Self::Binary(array) => *array,
            Self::LargeBinary(array) => *array,
            Self::BinaryView(array) => *array,
        }
    }

    /// Appends the value of `row`, which is not null; says what is wrong where it cannot be kept.
    fn put(&self, row: usize, out: &mut BytesMut) -> Result<(), &'static str> {
        match self {
            Self::Boolean(array) => sized(out, &[u8::from(array.value(row))]),
            Self::Int16(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Int32(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Int64(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Float32(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Float64(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Decimal(array, scale) => numeric(array.value(row), *scale, out),
            Self::Date(array) => {
                let days = array.value(row).checked_sub(EPOCH_DAYS);
                // The extremes mean plus and minus infinity there.
                let days = days.filter(|days| !matches!(*days, i32::MIN | i32::MAX));
                sized(out, &days.ok_or("is a date beyond the server's calendar")?.to_be_bytes());
            }
            Self::Time(array) => sized(out, &array.value(row).to_be_bytes()),
            Self::Timestamp(array) => {
                let micros = array.value(row).checked_sub(EPOCH_MICROS);
                let micros = micros.filter(|micros| !matches!(*micros, i64::MIN | i64::MAX));
                sized(
                    out,
                    &micros.ok_or("is a timestamp beyond the server's calendar")?.to_be_bytes(),
                );
            }
            Self::Utf8(array) => text(array.value(row), out)?,
            Self::LargeUtf8(array) => text(array.value(row), out)?,
            Self::Utf8View(array) => text(array.value(row), out)?,
            Self::Binary(array) => bytes(array.value(row), out)?,
            Self::LargeBinary(array) => bytes(array.value(row), out)?,
            Self::BinaryView(array) => bytes(array.value(row), out)?,
        }
        Ok(())
    }
}

fn sized(out: &mut BytesMut, value: &[u8]) {
    out.put_i32(value.len() as i32);
    out.put_slice(value);
}

fn text(value: &str, out: &mut BytesMut) -> Result<(), &'static str> {
    if memchr::memchr(0, value.as_bytes()).is_some() {
        return Err("holds a NUL character, which postgres cannot keep in text");
    }
    bytes(value.as_bytes(), out)
}

fn bytes(value: &[u8], out: &mut BytesMut) -> Result<(), &'static str> {
    // The server's limit for one value.
    if value.len() >= 1 << 30 {
        return Err("is larger than 1 GiB, the most that postgres keeps in a value");
    }
    sized(out, value);
    Ok(())
}

/// Appends `value / 10^scale` as the server keeps numbers: groups of four decimal digits, of which
/// the first is worth 10000^weight.
pub(super) fn numeric(value: i128, scale: u32, out: &mut BytesMut) {
    /// 38 digits, with the point anywhere, touch at most this many groups.
    const GROUPS: usize = 12;
    let mut groups = [0_u16; GROUPS];
    let mut count = 0;
    let mut rest = value.unsigned_abs();
    // From the last group to the first: the fraction, padded on the right to whole groups …
    let mut fraction = scale;
    while fraction > 0 {
        let digits = if fraction.is_multiple_of(4) { 4 } else { fraction % 4 };
        let base = 10_u128.pow(digits);
        groups[count] = ((rest % base) as u16) * 10_u16.pow(4 - digits);
        rest /= base;
        fraction -= digits;
        count += 1;
    }
    // … then the whole number.
    let fractions = count;
    while rest > 0 {
        groups[count] = (rest % 10_000) as u16;
        rest /= 10_000;
        count += 1;
    }
    let mut weight = count as i32 - fractions as i32 - 1;
    let mut kept = &groups[..count];
    while let [head @ .., 0] = kept {
        kept = head;
        weight -= 1;
    }
    while let [0, tail @ ..] = kept {
        kept = tail;
    }
    if kept.is_empty() {
        weight = 0;
    }
    out.put_i32(8 + 2 * kept.len() as i32);
    out.put_i16(kept.len() as i16);
    out.put_i16(weight as i16);
    out.put_u16(if value < 0 { 0x4000 } else { 0 });
    out.put_u16(scale as u16);
    for group in kept.iter().rev() {
        out.put_u16(*group);
    }
}

/// Encodes batches and sends them.
pub(super) struct CopyWriter<'a> {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    target: &'a Table,
    block: BytesMut,
    rows: u64,
    failed: fn(tokio_postgres::Error, &Table) -> Error,
}

/// The rows with a value that no table can hold.
pub(super) fn refused(batch: &RecordBatch, target: &Table) -> Result<Vec<Refused>> {
    let arrays = arrays(batch, target)?;
    let mut refused: BTreeMap<usize, Refused> = BTreeMap::new();
    let mut block = BytesMut::new();
    for (index, column) in arrays.iter().map(Column::of).enumerate() {
        let Some(column) = column else { continue };
        // Values of these types always fit.
        if column.always_fits() {
            continue;
        }
        for row in (0..batch.num_rows()).filter(|row| column.array().is_valid(*row)) {
            block.clear();
            if let Err(why) = column.put(row, &mut block) {
                let column = batch.schema_ref().field(index).name().clone();
                let reason = format!("the value {why}");
                refused.entry(row).or_insert(Refused { row, column, reason });
            }
        }
    }
    Ok(refused.into_values().collect())
}

/// The columns in the types that are encoded.
fn arrays(batch: &RecordBatch, target: &Table) -> Result<Vec<ArrayRef>> {
    let array = |array: &ArrayRef| match canonical(array.data_type()) {
        Some(canonical) if canonical == *array.data_type() => Ok(array.clone()),
        Some(canonical) => cast(array, &canonical)
            .or_code(code::LOAD, || format!("could not convert a column of table \"{target}\"")),
        None => Err(Error::internal("a column cannot be loaded, though its type was checked")),
    };
    batch.columns().iter().map(array).collect()
}

impl<'a> CopyWriter<'a> {
    pub(super) fn new(sink: CopyInSink<Bytes>, target: &'a Table) -> Self {
        let mut block = BytesMut::with_capacity(BLOCK + 4_096);
        block.put_slice(b"PGCOPY\n\xff\r\n\0");
        block.put_i32(0);
        block.put_i32(0);
        Self { sink: Box::pin(sink), target, block, rows: 0, failed: copying }
    }

    /// The same, whose errors are what `failed` makes of the server's.
    pub(super) fn failing_with(self, failed: fn(tokio_postgres::Error, &Table) -> Error) -> Self {
        Self { failed, ..self }
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut from = 0;
        let arrays = arrays(batch, self.target)?;
        while from < batch.num_rows() {
            from = self.encode(batch, &arrays, from)?;
            if self.block.len() >= BLOCK {
                self.send().await?;
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Encodes rows from `from` on until a block is full; returns the next row.
    fn encode(&mut self, batch: &RecordBatch, arrays: &[ArrayRef], from: usize) -> Result<usize> {
        let columns: Vec<Column<'_>> = arrays.iter().filter_map(Column::of).collect();
        let width = i16::try_from(columns.len())
            .ok()
            .filter(|_| columns.len() == arrays.len())
            .ok_or_else(|| {
                Error::internal("a column cannot be encoded, though its type was checked")
            })?;
        for row in from..batch.num_rows() {
            self.block.put_i16(width);
            for (index, column) in columns.iter().enumerate() {
                if column.array().is_null(row) {
                    self.block.put_i32(-1);
                } else if let Err(why) = column.put(row, &mut self.block) {
                    let name = batch.schema_ref().field(index).name();
                    return Err(Error::new(
                        code::LOAD,
                        format!("a value of column \"{name}\" of table \"{}\" {why}", self.target),
                    )
                    .hint(
                        "clean it in the model, or reject it by a check with `on_fail: quarantine`",
                    ));
                }
            }
            if self.block.len() >= BLOCK {
                return Ok(row + 1);
            }
        }
        Ok(batch.num_rows())
    }

    async fn send(&mut self) -> Result<()> {
        let block = self.block.split().freeze();
        let Self { target, failed, .. } = *self;
        self.sink.send(block).await.map_err(|error| failed(error, target))
    }

    /// Ends the COPY; returns the number of rows that the server has taken.
    pub(super) async fn finish(mut self) -> Result<u64> {
        self.block.put_i16(-1);
        self.send().await?;
        let taken =
            self.sink.as_mut().finish().await.map_err(|error| (self.failed)(error, self.target))?;
        if taken == self.rows {
            return Ok(taken);
        }
        let message = format!(
            "table \"{}\": {} rows were sent to postgres, but {taken} were staged",
            self.target, self.rows
        );
        Err(Error::new(code::LOAD, message).hint("look for a trigger or rule on staging tables"))
    }
}

fn copying(error: tokio_postgres::Error, target: &Table) -> Error {
    connect::failed(error, || format!("could not stage rows of table \"{target}\""))
}
