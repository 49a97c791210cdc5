//! Rows as bytes: what a checkpoint keeps of rows, and what lies on disk.
//!
//! A version (u8, 1), the number of rows (u32), then each column: whether it has nulls (u8: 0 or 1), if
//! so a bit for each row (1 is valid, least significant bit first), and its values. Numbers are little
//! endian. Values of a fixed width are written one after another, booleans as bits; texts and bytes as
//! all lengths (u32 each), then all bytes; any other type as a stream of Arrow's IPC format with
//! one column, behind the number of its bytes (u32). The schema is not written: whoever reads knows it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryViewArray, RecordBatch, RecordBatchOptions,
    StringViewArray, make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{
    ArrowNativeType, ByteArrayType, ByteViewType, DataType, Field, Schema, SchemaRef,
};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use freshet_core::rows::arrow_error;
use freshet_core::{Error, Result, error::code};

const VERSION: u8 = 1;

/// Appends the rows of a batch.
pub(super) fn encode(batch: &RecordBatch, into: &mut Vec<u8>) -> Result<()> {
    into.push(VERSION);
    into.extend_from_slice(&(batch.num_rows() as u32).to_le_bytes());
    for column in batch.columns() {
        encode_column(column, into)?;
    }
    Ok(())
}

fn encode_column(column: &ArrayRef, into: &mut Vec<u8>) -> Result<()> {
    match column.nulls().filter(|nulls| nulls.null_count() > 0) {
        Some(nulls) => {
            into.push(1);
            encode_bits(nulls.inner(), into);
        }
        None => into.push(0),
    }
    match column.data_type() {
        DataType::Null => {}
        DataType::Boolean => encode_bits(column.as_boolean().values(), into),
        DataType::Utf8 => encode_bytes(column.as_string::<i32>(), into),
        DataType::LargeUtf8 => encode_bytes(column.as_string::<i64>(), into),
        DataType::Binary => encode_bytes(column.as_binary::<i32>(), into),
        DataType::LargeBinary => encode_bytes(column.as_binary::<i64>(), into),
        DataType::Utf8View => encode_views(column.as_string_view(), into),
        DataType::BinaryView => encode_views(column.as_binary_view(), into),
        other => match width(other) {
            Some(width) => {
                let data = column.to_data();
                let start = data.offset() * width;
                into.extend_from_slice(&data.buffers()[0][start..start + data.len() * width]);
            }
            None => encode_ipc(column, into)?,
        },
    }
    Ok(())
}

/// The bytes of a value, of types all of whose values have as many.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        other => other.primitive_width(),
    }
}

pub(super) fn encode_bits(bits: &BooleanBuffer, into: &mut Vec<u8>) {
    let bytes = bits.sliced();
    into.extend_from_slice(&bytes[..bits.len().div_ceil(8)]);
}

fn encode_bytes<T: ByteArrayType>(array: &arrow::array::GenericByteArray<T>, into: &mut Vec<u8>) {
    let offsets = array.value_offsets();
    for pair in offsets.windows(2) {
        let len = (pair[1] - pair[0]).as_usize() as u32;
        into.extend_from_slice(&len.to_le_bytes());
    }
    // Nulls may have bytes, too; nobody looks at them.
    let (start, end) = (offsets[0].as_usize(), offsets[array.len()].as_usize());
    into.extend_from_slice(&array.value_data()[start..end]);
}

fn encode_views<T: ByteViewType>(
    array: &arrow::array::GenericByteViewArray<T>,
    into: &mut Vec<u8>,
) {
    let mut total = 0;
    for view in array.views() {
        let len = *view as u32;
        total += len as usize;
        into.extend_from_slice(&len.to_le_bytes());
    }
    into.reserve(total);
    let buffers = array.data_buffers();
    for view in array.views() {
        let len = (*view as u32) as usize;
        if len <= 12 {
            into.extend_from_slice(&view.to_le_bytes()[4..4 + len]);
        } else {
            let buffer = (*view >> 64) as u32 as usize;
            let start = (*view >> 96) as usize;
            into.extend_from_slice(&buffers[buffer][start..start + len]);
        }
    }
}

fn encode_ipc(column: &ArrayRef, into: &mut Vec<u8>) -> Result<()> {
    let schema = Schema::new(vec![Field::new("c", column.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(column)]);
    let batch = batch.map_err(arrow_error)?;
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, batch.schema_ref()).map_err(arrow_error)?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(arrow_error)?;
    drop(writer);
    into.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    into.extend_from_slice(&bytes);
    Ok(())
}

/// The rows that [`encode`] wrote of a batch of this schema, and the bytes behind them.
pub(super) fn decode<'a>(schema: &SchemaRef, bytes: &'a [u8]) -> Result<(RecordBatch, &'a [u8])> {
    let mut reader = Reader { rest: bytes };
    let [version] = *reader.take(1)? else { return Err(damaged()) };
    if version != VERSION {
        return Err(damaged());
    }
    let rows = reader.number()?;
    let columns = schema.fields().iter().map(|field| reader.column(field.data_type(), rows));
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
    Ok((batch.map_err(caused)?, reader.rest))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(damaged)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize> {
        let bytes = self.take(4)?.try_into().expect("4 bytes were taken");
        Ok(u32::from_le_bytes(bytes) as usize)
    }

    fn bits(&mut self, rows: usize) -> Result<BooleanBuffer> {
        let bytes = self.take(rows.div_ceil(8))?;
        Ok(BooleanBuffer::new(Buffer::from(bytes), 0, rows))
    }

    fn column(&mut self, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
        let nulls = match self.take(1)? {
            [0] => None,
            [1] => Some(NullBuffer::new(self.bits(rows)?)),
            _ => return Err(damaged()),
        };
        let builder = ArrayData::builder(data_type.clone()).len(rows);
        let data = match data_type {
            DataType::Null => builder,
            DataType::Boolean => builder.add_buffer(self.bits(rows)?.into_inner()).nulls(nulls),
            DataType::Utf8 | DataType::Binary => {
                let lens = self.lens(rows)?;
                let mut offsets = Vec::with_capacity(rows + 1);
                let total = lens.iter().try_fold(0_i32, |offset, len| {
                    offsets.push(offset);
                    offset.checked_add(i32::try_from(*len).ok()?)
                });
                let total = total.ok_or_else(damaged)?;
                offsets.push(total);
                let values = Buffer::from(self.take(total as usize)?);
                builder.add_buffer(Buffer::from_vec(offsets)).add_buffer(values).nulls(nulls)
            }
            DataType::LargeUtf8 | DataType::LargeBinary => {
                let lens = self.lens(rows)?;
                let mut offsets = Vec::with_capacity(rows + 1);
                let mut total = 0_i64;
                for len in lens {
                    offsets.push(total);
                    total += i64::from(len);
                }
                offsets.push(total);
                let values = Buffer::from(self.take(total as usize)?);
                builder.add_buffer(Buffer::from_vec(offsets)).add_buffer(values).nulls(nulls)
            }
            DataType::Utf8View => {
                let (views, buffer) = self.views(rows)?;
                let array = StringViewArray::try_new(views.into(), buffer, nulls);
                return Ok(Arc::new(array.map_err(caused)?));
            }
            DataType::BinaryView => {
                let (views, buffer) = self.views(rows)?;
                let array = BinaryViewArray::try_new(views.into(), buffer, nulls);
                return Ok(Arc::new(array.map_err(caused)?));
            }
            other => match width(other) {
                Some(width) => {
                    let values = self.take(rows * width)?;
                    builder.add_buffer(Buffer::from(values)).nulls(nulls)
                }
                None => return self.ipc(data_type, rows),
            },
        };
        Ok(make_array(data.build().map_err(caused)?))
    }

    fn lens(&mut self, rows: usize) -> Result<Vec<u32>> {
        let bytes = self.take(rows * 4)?;
        let lens = bytes.chunks_exact(4);
        Ok(lens.map(|len| u32::from_le_bytes(len.try_into().expect("4 bytes"))).collect())
    }

    fn views(&mut self, rows: usize) -> Result<(Vec<u128>, Vec<Buffer>)> {
        let lens = self.lens(rows)?;
        let total = lens.iter().map(|len| u64::from(*len)).sum::<u64>();
        let bytes = self.take(usize::try_from(total).map_err(|_| damaged())?)?;
        if u32::try_from(total).is_err() {
            return Err(damaged());
        }
        let mut at = 0;
        let mut any_long = false;
        let views = lens.into_iter().map(|len| {
            let value = &bytes[at..at + len as usize];
            let view = arrow::array::make_view(value, 0, at as u32);
            any_long |= len > 12;
            at += len as usize;
            view
        });
        let views = views.collect();
        Ok((views, if any_long { vec![Buffer::from(bytes)] } else { Vec::new() }))
    }

    fn ipc(&mut self, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
        let len = self.number()?;
        let bytes = self.take(len)?;
        let mut reader = StreamReader::try_new(bytes, None).map_err(caused)?;
        let batch = reader.next().ok_or_else(damaged)?.map_err(caused)?;
        let column = batch.columns().first().ok_or_else(damaged)?;
        if column.data_type() != data_type || column.len() != rows {
            return Err(damaged());
        }
        Ok(Arc::clone(column))
    }
}

pub(super) fn damaged() -> Error {
    Error::new(code::STATE, "rows of a state are damaged")
        .hint("restore the state from a copy, or start from an older savepoint")
}

fn caused(error: arrow::error::ArrowError) -> Error {
    damaged().caused_by(error)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, Int64Array,
        LargeStringArray, ListArray, NullArray, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;

    fn batch(texts: &[Option<String>]) -> RecordBatch {
        let rows = texts.len();
        let numbers = texts.iter().map(|text| text.as_ref().map(|text| text.len() as i64));
        let numbers: Vec<_> = numbers.collect();
        let fixed = texts.iter().map(|text| text.as_ref().map(|text| [text.len() as u8; 3]));
        let lists = texts.iter().map(|text| {
            let text = text.as_ref()?;
            Some(text.bytes().map(|byte| Some(i32::from(byte))).collect::<Vec<_>>())
        });
        let decimals: Decimal128Array =
            numbers.iter().map(|number| number.map(i128::from)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(numbers.clone())),
            Arc::new(texts.iter().map(Option::as_deref).collect::<StringArray>()),
            Arc::new(texts.iter().map(Option::as_deref).collect::<LargeStringArray>()),
            Arc::new(texts.iter().map(Option::as_deref).collect::<StringViewArray>()),
            Arc::new(
                texts
                    .iter()
                    .map(|text| text.as_ref().map(|text| text.as_bytes()))
                    .collect::<BinaryArray>(),
            ),
            Arc::new(
                texts
                    .iter()
                    .map(|text| text.as_ref().map(|text| text.as_bytes()))
                    .collect::<BinaryViewArray>(),
            ),
            Arc::new(
                numbers.iter().map(|number| number.map(|n| n % 2 == 0)).collect::<BooleanArray>(),
            ),
            Arc::new(TimestampMicrosecondArray::from_iter_values(0..rows as i64)),
            Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64))),
            Arc::new(decimals.with_precision_and_scale(20, 3).expect("it fits")),
            Arc::new(
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 3).expect("one width"),
            ),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
            Arc::new(NullArray::new(rows)),
        ];
        let fields = columns
            .iter()
            .enumerate()
            .map(|(n, column)| Field::new(n.to_string(), column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        RecordBatch::try_new(schema, columns).expect("columns of the schema")
    }

    proptest! {
        #[test]
        fn rows_of_every_type_come_back(
            texts in prop::collection::vec(prop::option::of("[a-zäß]{0,20}"), 1..40),
            cut in (0_usize..40, 0_usize..40),
        ) {
            let whole = batch(&texts);
            let start = cut.0 % texts.len();
            let part = whole.slice(start, cut.1.min(texts.len() - start));
            let mut bytes = vec![7];
            encode(&part, &mut bytes).expect("it encodes");
            bytes.push(9);
            prop_assert_eq!(decode(&part.schema(), &bytes[1..]).expect("sound"), (part, &[9][..]));
        }
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let texts: Vec<_> = (0..20).map(|n| (n % 3 > 0).then(|| "ä".repeat(n))).collect();
        // Arrow's own reader is not asked: runs and files of rows have checksums, too.
        let columns: Vec<usize> = (0..13).filter(|column| *column != 11).collect();
        let batch = batch(&texts).project(&columns).expect("columns that there are");
        let mut sound = Vec::new();
        encode(&batch, &mut sound).expect("it encodes");
        for end in 0..sound.len() {
            let error = decode(&batch.schema(), &sound[..end]).expect_err("it was cut off");
            assert_eq!(error.code(), code::STATE);
        }
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0xff;
            if let Ok((other, _)) = decode(&batch.schema(), &bytes) {
                assert_eq!(other.schema(), batch.schema());
            }
        }
    }
}
