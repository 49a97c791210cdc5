use std::collections::BTreeMap;

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::aggregate::{Count, Distinct, Extreme, Side, Sum};
use crate::operator::MAIN;
use crate::operators::testing::{Cluster, fold, lines};

const GAP: i64 = 10;

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("at", time, false),
        Field::new("key", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
    ]))
}

fn spec() -> SessionAggregate {
    let int = DataType::Int64;
    let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![
        Arc::new(Count::rows()),
        Arc::new(Sum::new(2, int.clone(), int.clone()).expect("a sum")),
        Arc::new(Extreme::new(Side::Least, 2, int).expect("an order")),
        Arc::new(Distinct::new(Arc::new(Count::column(2)))),
    ];
    SessionAggregate {
        input: schema(),
        time: 0,
        gap: GAP,
        keys: vec![1],
        names: ["n", "sum", "least", "different"].map(str::to_owned).to_vec(),
        aggregates,
        groups: KeyGroups::default(),
    }
}

type Record = (i64, i64, i64);

fn rows(records: &[Record]) -> Rows {
    let column = |of: fn(&Record) -> i64| records.iter().map(of).map(Some);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(column(|record| record.0).collect::<TimestampMicrosecondArray>()),
        Arc::new(column(|record| record.1).collect::<Int64Array>()),
        Arc::new(column(|record| record.2).collect::<Int64Array>()),
    ];
    Rows::inserts(RecordBatch::try_new(schema(), columns).expect("columns of the schema"))
}

fn show(time: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(time).expect("a time");
    time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

/// Sessions by sorting, the slow way.
fn expected(records: &[Record]) -> BTreeMap<String, i64> {
    let mut by_key: BTreeMap<i64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_key.entry(record.1).or_default().push(record);
    }
    let mut table = BTreeMap::new();
    for (key, mut records) in by_key {
        records.sort_unstable();
        for session in records.chunk_by(|a, b| b.0 - a.0 <= GAP) {
            let mut values: Vec<i64> = session.iter().map(|record| record.2).collect();
            let (n, sum) = (values.len(), values.iter().sum::<i64>());
            values.sort_unstable();
            values.dedup();
            let (start, end) = (show(session[0].0), show(session[n - 1].0 + GAP));
            let line = format!("{key},{start},{end},{n},{sum},{},{}", values[0], values.len());
            *table.entry(line).or_insert(0) += 1;
        }
    }
    table
}

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<Record>),
    Cut,
    Drain(usize),
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (0_i64..400, 0_i64..3, 0_i64..4);
    let step = prop_oneof![
        6 => prop::collection::vec(record, 1..8).prop_map(Step::Push),
        1 => Just(Step::Cut),
        2 => (1_usize..100).prop_map(Step::Drain),
        1 => (1_usize..5).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    /// Rows in any order bridge sessions in any order, over checkpoints and restores.
    #[test]
    fn sessions_are_what_sorted_rows_give(steps in steps()) {
        let mut cluster =
            Cluster::new(Arc::new(spec()), KeyGroups::default(), vec![(schema(), vec![1])], 2);
        let mut records: Vec<Record> = Vec::new();
        let mut saved = records.clone();
        let mut cut = None;
        for step in steps {
            match step {
                Step::Push(pushed) => {
                    cluster.push(0, rows(&pushed));
                    records.extend(pushed);
                }
                Step::Cut => {
                    if let Some(cut) = cut.take() {
                        while !cluster.drain(50) {}
                        saved = cut;
                    }
                    cluster.cut();
                    cut = Some(records.clone());
                }
                Step::Drain(bytes) => {
                    if cut.is_some() && cluster.drain(bytes) {
                        saved = cut.take().expect("there is one");
                    }
                }
                Step::Crash(instances) => {
                    cluster.restore(instances, EventTime::MIN);
                    records = saved.clone();
                    cut = None;
                }
            }
        }
        prop_assert!(cluster.given.0.is_empty(), "nothing is given before its time");
        cluster.watermark(1000);
        let found = fold(&cluster.given, MAIN).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, expected(&records));
        cluster.cut();
        while !cluster.drain(1000) {}
        prop_assert_eq!(cluster.checkpoint_len(), 0, "nothing is left of sessions that are over");
    }
}

#[test]
fn a_row_is_late_where_its_own_session_is_over_and_it_joins_none() {
    let mut cluster =
        Cluster::new(Arc::new(spec()), KeyGroups::default(), vec![(schema(), vec![1])], 1);
    cluster.push(0, rows(&[(100, 1, 1)]));
    cluster.watermark(104);
    // Behind the watermark, but its session would end at 106.
    cluster.push(0, rows(&[(96, 2, 5)]));
    // Over at 104 by itself; it joins the one that is open.
    cluster.push(0, rows(&[(94, 1, 2)]));
    // Over, and joins nothing.
    cluster.push(0, rows(&[(94, 3, 9), (200, 3, 7)]));
    let late: Vec<String> = cluster
        .given
        .0
        .iter()
        .filter(|(port, _)| *port == LATE)
        .flat_map(|(_, rows)| lines(rows))
        .collect();
    assert_eq!(late, [format!("{},3,9", show(94))]);
    cluster.watermark(1000);
    let table = fold(&cluster.given, MAIN).expect("a changelog");
    assert_eq!(table, expected(&[(100, 1, 1), (94, 1, 2), (96, 2, 5), (200, 3, 7)]));
}
