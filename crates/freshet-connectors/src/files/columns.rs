//! Output columns: those of the data, and those that are the same for all rows of a file.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, RecordBatch, RecordBatchOptions, StringViewArray,
    TimestampMicrosecondArray, make_view, new_null_array,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use chrono::{NaiveDate, NaiveDateTime};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::source::Split;

use super::pattern::Capture;

/// How the columns of the output come about.
#[derive(Debug)]
pub struct Output {
    schema: SchemaRef,
    columns: Vec<Column>,
    data_columns: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The decoder's column of this number.
    Data(usize),
    /// The constant of this number: captures, then the file.
    Constant(usize),
    /// The record's place.
    Offset,
}

/// The value of a column for all rows of a file.
#[derive(Debug, Clone)]
pub enum Constant {
    /// Text, made once.
    Text(Box<StringViewArray>),
    /// Days.
    Date(i32),
    /// Microseconds.
    Timestamp(i64),
    /// Nothing.
    Null(DataType),
}

impl Output {
    /// The columns `projection` of `schema`, of which the first `data` are the data's.
    pub fn new(schema: &SchemaRef, data: usize, projection: &[usize]) -> Result<Self> {
        let total = schema.fields().len();
        let mut data_columns: Vec<usize> = Vec::new();
        let mut columns = Vec::new();
        for index in projection {
            columns.push(if *index < data {
                let known = data_columns.iter().position(|known| known == index);
                Column::Data(known.unwrap_or_else(|| {
                    data_columns.push(*index);
                    data_columns.len() - 1
                }))
            } else if *index + 1 < total {
                Column::Constant(index - data)
            } else {
                Column::Offset
            });
        }
        let schema = schema
            .project(projection)
            .or_code(code::INTERNAL, || "a projection has columns that are not there".to_owned())?;
        Ok(Self { schema: Arc::new(schema), columns, data_columns })
    }

    /// The data's columns that a decoder is to give, each once.
    pub fn data_columns(&self) -> &[usize] {
        &self.data_columns
    }

    /// Whether the place of each record is wanted.
    pub fn wants_offsets(&self) -> bool {
        self.columns.contains(&Column::Offset)
    }

    /// The constants of one file.
    pub fn constants(&self, split: &Split, captures: &[Capture]) -> Result<Vec<Constant>> {
        let mut constants = Vec::with_capacity(captures.len() + 1);
        for capture in captures {
            let data_type = capture.column_type().arrow();
            constants.push(match split.captured.get(&capture.name) {
                None => Constant::Null(data_type),
                Some(text) => {
                    constant(text, &data_type).unwrap_or_else(|| Constant::Null(data_type))
                }
            });
        }
        constants.push(Constant::Text(Box::new(StringViewArray::from(vec![split.id.as_str()]))));
        Ok(constants)
    }

    /// A batch of the output from one of the data.
    pub fn assemble(
        &self,
        batch: RecordBatch,
        offsets: Option<ScalarBuffer<i64>>,
        constants: &[Constant],
    ) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let data = batch.columns();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            columns.push(match column {
                Column::Data(index) => Arc::clone(data.get(*index).ok_or_else(|| {
                    Error::internal("a decoder gave fewer columns than it was asked for")
                })?),
                Column::Constant(index) => constants[*index].repeat(rows),
                Column::Offset => {
                    let offsets = offsets
                        .clone()
                        .filter(|offsets| offsets.len() == rows)
                        .ok_or_else(|| Error::internal("a decoder gave no offsets"))?;
                    Arc::new(Int64Array::new(offsets, None))
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .or_code(code::INTERNAL, || "a decoder gave columns of another type".to_owned())
    }
}

fn constant(text: &str, data_type: &DataType) -> Option<Constant> {
    Some(match data_type {
        DataType::Date32 => {
            let days = text.parse::<NaiveDate>().ok()?.signed_duration_since(NaiveDate::default());
            Constant::Date(i32::try_from(days.num_days()).ok()?)
        }
        DataType::Timestamp(..) => {
            let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").ok()?;
            Constant::Timestamp(at.and_utc().timestamp_micros())
        }
        _ => Constant::Text(Box::new(StringViewArray::from(vec![text]))),
    })
}

impl Constant {
    fn repeat(&self, rows: usize) -> ArrayRef {
        match self {
            Self::Text(one) => {
                // All rows share one view, and one copy of the text.
                let buffers: Vec<Buffer> = one.data_buffers().to_vec();
                let view = if buffers.is_empty() {
                    make_view(one.value(0).as_bytes(), 0, 0)
                } else {
                    one.views()[0]
                };
                let views = ScalarBuffer::from(vec![view; rows]);
                StringViewArray::try_new(views, buffers, None).map_or_else(
                    |_| new_null_array(&DataType::Utf8View, rows),
                    |array| Arc::new(array) as ArrayRef,
                )
            }
            Self::Date(days) => Arc::new(Date32Array::from_value(*days, rows)),
            Self::Timestamp(micros) => {
                Arc::new(TimestampMicrosecondArray::from_value(*micros, rows))
            }
            Self::Null(data_type) => new_null_array(data_type, rows),
        }
    }
}
