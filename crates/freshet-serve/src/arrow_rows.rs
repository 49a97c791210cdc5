//! The rows of an Arrow IPC stream as JSON objects, one a record.
//!
//! A stream is a stranger's: types whose values can take more room as text than they have bytes are
//! bounded before anything is written.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{BodyCompression, Message, root_as_message};
use arrow::json::writer::LineDelimited;
use arrow::json::{LineDelimitedWriter, WriterBuilder};
use axum::http::StatusCode;
use bytes::Bytes;
use freshet_core::Error;
use freshet_core::error::code;

use crate::answer::Problem;
use crate::records::too_many;

/// How much larger rows may be as text than the stream is.
const GROWTH: usize = 8;
/// Text that a stream of any size may become.
const LEAST: usize = 1 << 20;
/// What stands at the end of a stream, or may: messages without a body are complete with what follows.
const END: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// Types within types.
const DEPTH: usize = 32;

/// The rows of a stream as objects, at most `most`.
pub(crate) fn split(body: &Bytes, most: usize) -> Result<Vec<Bytes>, Problem> {
    // Its reader trusts some of what a stream says of itself.
    catch_unwind(AssertUnwindSafe(|| rows(body, most)))
        .unwrap_or_else(|_| Err(broken("it contradicts itself")))
}

fn rows(body: &Bytes, most: usize) -> Result<Vec<Bytes>, Problem> {
    let mut decoder = StreamDecoder::new();
    let text = Bounded { bytes: Vec::new(), most: LEAST.max(body.len().saturating_mul(GROWTH)) };
    let mut writer: LineDelimitedWriter<Bounded> =
        WriterBuilder::new().with_explicit_nulls(false).build::<_, LineDelimited>(text);
    let (mut rest, mut count, mut ended) = (body.clone(), 0_usize, false);
    let mut checked = false;
    while !ended {
        let mut piece = match message(&rest)? {
            Some(len) => Buffer::from(rest.split_to(len)),
            None => {
                ended = true;
                Buffer::from(END)
            }
        };
        while !piece.is_empty() {
            let batch = decoder.decode(&mut piece).map_err(broken)?;
            if let (false, Some(schema)) = (checked, decoder.schema()) {
                check(&schema)?;
                checked = true;
            }
            let Some(batch) = batch else { continue };
            count = count.saturating_add(batch.num_rows());
            if count > most {
                return Err(too_many(most));
            }
            writer.write(&batch).map_err(broken)?;
        }
    }
    if !checked {
        return Err(broken("it has no schema"));
    }
    writer.finish().map_err(broken)?;
    let text = Bytes::from(writer.into_inner().bytes);
    // No object of this writer has a line feed within.
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows: Vec<Bytes> = lines.map(|line| text.slice_ref(line)).collect();
    if rows.len() != count {
        return Err(broken("its rows could not be told apart"));
    }
    Ok(rows)
}

/// How long the next message of a stream is, its body included; `None` at the end. Decoders make
/// room for what a message says of itself, so that what it says is held against what is there.
fn message(rest: &[u8]) -> Result<Option<usize>, Problem> {
    let number = |at: usize| {
        let bytes = rest.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or_else(|| broken("it ends within a message"))
    };
    if rest.is_empty() {
        return Ok(None);
    }
    let (head, len) = match number(0)? {
        u32::MAX => (8, number(4)?),
        // Before version 0.15 nothing stood in front of the length.
        len => (4, len),
    };
    if len == 0 {
        return Ok(None);
    }
    let end = head + len as usize;
    let text = rest.get(head..end).ok_or_else(|| broken("it ends within a message"))?;
    let message = root_as_message(text).map_err(|error| broken(error.to_string()))?;
    let is_plain = |packed: Option<BodyCompression<'_>>| match packed {
        None => Ok(()),
        Some(_) => Err(broken("its buffers are compressed: compress the body instead")),
    };
    if let Some(batch) = message.header_as_record_batch() {
        is_plain(batch.compression())?;
    }
    if let Some(batch) = message.header_as_dictionary_batch() {
        is_plain(batch.data().and_then(|data| data.compression()))?;
        if batch.isDelta() {
            return Err(broken("its dictionaries grow"));
        }
    }
    body_len(&message)
        .and_then(|body| end.checked_add(body))
        .filter(|end| *end <= rest.len())
        .map(Some)
        .ok_or_else(|| broken("it ends within a message"))
}

fn body_len(message: &Message<'_>) -> Option<usize> {
    usize::try_from(message.bodyLength()).ok()
}

/// Whether rows of this schema take room that is bounded by that of their values.
fn check(schema: &Schema) -> Result<(), Problem> {
    for field in schema.fields() {
        if !is_bounded(field, false, DEPTH) {
            let message = format!(
                "column \"{}\" is of type {}, which is not taken",
                field.name(),
                field.data_type()
            );
            return Err(broken(message));
        }
    }
    Ok(())
}

/// `repeated`: one row may hold any number of its values.
fn is_bounded(field: &Field, repeated: bool, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match field.data_type() {
        DataType::Null
        | DataType::Dictionary(..)
        | DataType::RunEndEncoded(..)
        | DataType::Utf8View
        | DataType::BinaryView => !repeated,
        DataType::FixedSizeBinary(width) => *width > 0 || !repeated,
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            is_bounded(item, true, depth)
        }
        DataType::FixedSizeList(item, width) => *width > 0 && is_bounded(item, true, depth),
        DataType::Struct(fields) => {
            let not_empty = !fields.is_empty() || !repeated;
            not_empty && fields.iter().all(|field| is_bounded(field, repeated, depth))
        }
        DataType::ListView(_) | DataType::LargeListView(_) | DataType::Union(..) => false,
        _ => true,
    }
}

fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Problem {
    let why = why.into();
    let too_large = why.downcast_ref::<arrow::error::ArrowError>().is_some_and(|error| {
        matches!(error, arrow::error::ArrowError::IoError(_, error) if error.kind() == io::ErrorKind::FileTooLarge)
    });
    let (status, code) = match too_large {
        true => (StatusCode::PAYLOAD_TOO_LARGE, code::LIMIT),
        false => (StatusCode::UNPROCESSABLE_ENTITY, code::REQUEST),
    };
    Problem {
        status,
        error: Error::new(code, "the body is no Arrow stream that can be taken").caused_by(why),
    }
}

/// Text that cannot grow beyond a size.
#[derive(Debug)]
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.most - self.bytes.len() {
            let message = format!("its rows take more than {} bytes as JSON", self.most);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, DictionaryArray, Int32Array, Int64Array, NullArray, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::ipc::writer::StreamWriter;

    use super::*;

    fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
        writer.write(&batch).expect("it is written");
        writer.finish().expect("it ends");
        writer.into_inner().expect("its bytes")
    }

    fn sample() -> Vec<u8> {
        stream(vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2]))),
            ("city", Arc::new(StringArray::from(vec![Some("a\nb"), None]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000, 0]))),
        ])
    }

    #[test]
    fn rows_are_objects_that_the_decoder_of_json_reads() {
        let rows = split(&sample().into(), 10).expect("a stream");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], r#"{"id":1,"city":"a\nb","at":"1970-01-01T00:00:01.500"}"#);
        assert_eq!(rows[1], r#"{"id":2,"at":"1970-01-01T00:00:00"}"#);
        assert!(split(&sample().into(), 1).is_err_and(|problem| problem.status == 413));
    }

    #[test]
    fn damage_at_any_byte_is_an_answer() {
        let whole = sample();
        for cut in 0..whole.len() {
            // A stream may end behind any of its messages.
            if let Err(problem) = split(&whole[..cut].to_vec().into(), 10) {
                assert_eq!(problem.status, 422, "cut at {cut}");
            }
            let mut flipped = whole.clone();
            for bit in [0x01, 0x10, 0x80, 0xff] {
                flipped[cut] ^= bit;
                let _ = split(&flipped.clone().into(), 10);
                flipped[cut] ^= bit;
            }
        }
    }

    #[test]
    fn packed_buffers_are_refused() {
        let batch = RecordBatch::try_from_iter([(
            "id",
            Arc::new(Int64Array::from(vec![7; 10_000])) as ArrayRef,
        )]);
        let batch = batch.expect("a batch");
        let packed = arrow::ipc::writer::IpcWriteOptions::default()
            .try_with_compression(Some(arrow::ipc::CompressionType::LZ4_FRAME));
        let Ok(packed) = packed else { return };
        let writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), packed);
        let mut writer = writer.expect("a writer");
        // Without the codec in this build there is nothing to refuse.
        if writer.write(&batch).is_ok() {
            let bytes = writer.into_inner().expect("its bytes");
            assert!(split(&bytes.into(), 100_000).is_err_and(|problem| problem.status == 422));
        }
    }

    #[test]
    fn small_streams_of_much_text_are_refused() {
        let long = "x".repeat(1 << 20);
        let values = Arc::new(StringArray::from(vec![long.as_str()]));
        let keys = Int32Array::from(vec![0; 1000]);
        let many: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
        let refused = split(&stream(vec![("x", many)]).into(), 10_000);
        assert!(refused.is_err_and(|problem| problem.status == 413));
        let nulls: ArrayRef = Arc::new(NullArray::new(usize::MAX >> 8));
        let refused = split(&stream(vec![("x", nulls)]).into(), 10_000);
        assert!(refused.is_err_and(|problem| problem.status == 413));
    }
}
