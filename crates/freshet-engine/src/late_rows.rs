//! The table of late rows: `_freshet/late_rows` in the lake, a Delta table like any other.
//!
//! A late row came to an operator of a stream after the watermark had passed its time, and counted
//! in nothing. What was read of its record is kept, so that it can be looked at and counted apart.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::lake::TableName;

/// The table's place.
pub fn table() -> TableName {
    TableName::new("_freshet", "late_rows")
}

/// The table's columns: the `model` and the `operator` for which a row was late, the row's
/// `event_time` and how far the `watermark` had come, the `row` as a JSON object of the columns that
/// the operator is given, and when it was seen, `at`. All times are in UTC.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let time = |name: &str| {
        Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true)
    };
    Arc::new(Schema::new(vec![
        text("model"),
        text("operator"),
        time("event_time"),
        time("watermark"),
        text("row"),
        time("at"),
    ]))
}
