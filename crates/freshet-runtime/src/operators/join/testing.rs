//! Rows of the sides of a join under test, and what a cluster gave of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use freshet_core::Result;
use freshet_core::rows::{RowKind, Rows};
use freshet_core::scalar::ScalarExpr;

use crate::operator::MAIN;
use crate::operators::testing::{Given, lines};
use crate::state::{MemoryScratch, SpillOptions};

/// A row of a side: key, time, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Row {
    pub(super) key: Option<i64>,
    pub(super) time: i64,
    pub(super) number: i64,
}

/// `key`, `time`, `number`, and a text that is longer than a view holds.
pub(super) fn schema(side: &str) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let field = |name: &str, data_type| Field::new(format!("{side}_{name}"), data_type, true);
    Arc::new(Schema::new(vec![
        field("key", DataType::Int64),
        field("time", time),
        field("number", DataType::Int64),
        field("text", DataType::Utf8View),
    ]))
}

/// The columns of a side.
pub(super) const KEY: usize = 0;
pub(super) const TIME: usize = 1;
pub(super) const NUMBER: usize = 2;
pub(super) const WIDTH: usize = 4;

pub(super) fn rows(side: &str, rows: &[(RowKind, Row)]) -> Rows {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|(_, row)| row.key).collect::<Int64Array>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(_, row)| row.time))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.number))),
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(|(_, row)| text(row)))),
    ];
    let batch = RecordBatch::try_new(schema(side), columns).expect("columns of the schema");
    Rows::changes(batch, rows.iter().map(|(kind, _)| *kind).collect())
}

pub(super) fn inserts(side: &str, rows: &[Row]) -> Rows {
    let rows: Vec<_> = rows.iter().map(|row| (RowKind::Insert, *row)).collect();
    self::rows(side, &rows)
}

fn text(row: &Row) -> String {
    format!("a text of row number {}", row.number)
}

/// A row as [`Seen`] shows it.
pub(super) fn show(row: Option<&Row>) -> String {
    match row {
        None => "null,null,null,null".into(),
        Some(row) => {
            let key = row.key.map_or("null".into(), |key| key.to_string());
            format!("{key},{},{},{}", row.time, row.number, text(row))
        }
    }
}

/// Whether the sum of both sides' numbers is no multiple of three.
#[derive(Debug)]
pub(super) struct Condition;

impl Condition {
    pub(super) fn holds(left: &Row, right: &Row) -> bool {
        (left.number + right.number) % 3 != 0
    }
}

impl ScalarExpr for Condition {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let column = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        let (left, right) = (column(NUMBER), column(WIDTH + NUMBER));
        let holds = (0..batch.num_rows()).map(|row| (left.value(row) + right.value(row)) % 3 != 0);
        Ok(Arc::new(BooleanArray::from(holds.collect::<Vec<_>>())))
    }
}

/// What a changelog comes to: each row, and how often it is there.
pub(super) type Folded = BTreeMap<String, i64>;

pub(super) fn count(folded: &mut Folded, row: String, times: i64) {
    let there = folded.entry(row.clone()).or_default();
    *there += times;
    if *there == 0 {
        folded.remove(&row);
    }
}

/// Next to no memory.
pub(super) fn tiny() -> SpillOptions {
    SpillOptions { budget: 1.into(), scratch: Arc::new(MemoryScratch::default()) }
}

/// Rows that a cluster gave, folded as they come.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// How many of the batches that were given are in it.
    at: usize,
    pub(super) main: Folded,
    pub(super) late: Folded,
    /// The greatest number of rows of a batch.
    pub(super) largest: usize,
}

impl Seen {
    /// Takes what was given since the last call. Nothing may be taken away that is not there.
    pub(super) fn update(&mut self, given: &Given) {
        for (port, rows) in &given.0[self.at..] {
            self.largest = self.largest.max(rows.len());
            let into = if *port == MAIN { &mut self.main } else { &mut self.late };
            for (row, line) in lines(&plain_times(rows)).into_iter().enumerate() {
                count(into, line.clone(), rows.kind(row).sign());
                let left = into.get(&line).copied().unwrap_or(0);
                assert!(left >= 0, "{line} is taken away and was not there");
            }
        }
        self.at = given.0.len();
    }

    /// The least time of any row that was given since the last call, of either side.
    pub(super) fn least_time(&self, given: &Given) -> i64 {
        let rows = given.0[self.at..].iter().filter(|(port, _)| *port == MAIN);
        let times = rows.flat_map(|(_, rows)| {
            [TIME, WIDTH + TIME].map(|column| {
                let times = rows.batch().column(column);
                arrow::compute::min(times.as_primitive::<TimestampMicrosecondType>())
            })
        });
        times.flatten().min().unwrap_or(i64::MAX)
    }

    /// Forgets what was given since `self`.
    pub(super) fn rewind(&self, given: &mut Given) {
        given.0.truncate(self.at);
    }
}

/// Times as numbers.
fn plain_times(rows: &Rows) -> Rows {
    let columns = rows.batch().columns().iter().map(|column| match column.data_type() {
        DataType::Timestamp(..) => {
            let times = column.as_primitive::<TimestampMicrosecondType>();
            Arc::new(times.reinterpret_cast::<Int64Type>()) as ArrayRef
        }
        _ => Arc::clone(column),
    });
    let schema = rows.schema();
    let names = schema.fields().iter().map(|field| field.name());
    let batch = RecordBatch::try_from_iter_with_nullable(
        names.zip(columns).map(|(name, column)| (name, column, true)),
    );
    rows.with_batch(batch.expect("columns of one length"))
}
