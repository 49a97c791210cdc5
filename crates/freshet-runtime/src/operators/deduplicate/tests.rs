use std::collections::BTreeMap;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::operator::MAIN;
use crate::operators::testing::{Cluster, fold};
use crate::state::{MemoryScratch, SpillOptions};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("at", DataType::Int64, true),
        Field::new("note", DataType::Utf8, false),
    ]))
}

fn spec(descending: bool, ttl: Option<i64>) -> Deduplicate {
    let order = vec![(1, SortOptions { descending, nulls_first: descending })];
    let groups = KeyGroups::default();
    Deduplicate { input: schema(), keys: vec![0], order, settled: None, groups, ttl }
}

/// Bytes of memory, where there is a bound.
fn budget() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(prop_oneof![Just(1_usize), 500_usize..6_000])
}

fn spill(cluster: &mut Cluster, budget: Option<usize>) {
    let scratch = Arc::new(MemoryScratch::default());
    let options = |budget: usize| SpillOptions { budget: budget.into(), scratch };
    cluster.spill = budget.map(options);
    cluster.restore(2, EventTime::MIN);
}

type Record = (Option<i64>, Option<i64>, u32);

fn rows(records: &[Record]) -> Rows {
    let notes = records.iter().map(|record| Some(format!("note {}", record.2)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(records.iter().map(|record| record.0).collect::<Int64Array>()),
        Arc::new(records.iter().map(|record| record.1).collect::<Int64Array>()),
        Arc::new(notes.collect::<StringArray>()),
    ];
    Rows::inserts(RecordBatch::try_new(schema(), columns).expect("columns of the schema"))
}

fn expected(records: &[Record], descending: bool) -> BTreeMap<String, i64> {
    let mut best: BTreeMap<Option<i64>, Record> = BTreeMap::new();
    for record in records {
        // Nulls are the greatest of all in either order, as in SQL.
        let rank = |record: &Record| (record.1.is_none(), record.1);
        let kept = best.entry(record.0).or_insert(*record);
        let is_before =
            if descending { rank(record) > rank(kept) } else { rank(record) < rank(kept) };
        if is_before {
            *kept = *record;
        }
    }
    let show = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let line = |(key, at, note): Record| (format!("{},{},note {note}", show(key), show(at)), 1);
    best.into_values().map(line).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<(Option<i64>, Option<i64>)>),
    Flush,
    Cut,
    Drain(usize),
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = || prop::option::weighted(0.9, 0_i64..6);
    let step = prop_oneof![
        6 => prop::collection::vec((value(), value()), 1..8).prop_map(Step::Push),
        2 => Just(Step::Flush),
        1 => Just(Step::Cut),
        2 => (1_usize..100).prop_map(Step::Drain),
        1 => (1_usize..5).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #[test]
    fn changes_fold_to_the_first_row_of_each_key(
        steps in steps(),
        descending in any::<bool>(),
        budget in budget(),
    ) {
        let spec = Arc::new(spec(descending, None));
        let mut cluster = Cluster::new(spec, KeyGroups::default(), vec![(schema(), vec![0])], 2);
        spill(&mut cluster, budget);
        let mut records: Vec<Record> = Vec::new();
        let mut saved = (records.clone(), cluster.given.clone());
        let mut cut = None;
        for step in steps {
            match step {
                Step::Push(pushed) => {
                    let start = records.len();
                    let number = |(place, (key, at))| (key, at, (start + place) as u32);
                    records.extend(pushed.into_iter().enumerate().map(number));
                    cluster.push(0, rows(&records[start..]));
                }
                Step::Flush => cluster.flush(),
                Step::Cut => {
                    if let Some(cut) = cut.take() {
                        while !cluster.drain(50) {}
                        saved = cut;
                    }
                    cluster.cut();
                    cut = Some((records.clone(), cluster.given.clone()));
                }
                Step::Drain(bytes) => {
                    if cut.is_some() && cluster.drain(bytes) {
                        saved = cut.take().expect("there is one");
                    }
                }
                Step::Crash(instances) => {
                    cluster.restore(instances, EventTime::MIN);
                    (records, cluster.given) = saved.clone();
                    cut = None;
                }
            }
        }
        cluster.flush();
        let found = fold(&cluster.given, MAIN).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, expected(&records, descending));
    }
}

#[test]
fn a_key_that_was_forgotten_is_new_again() {
    forgets(None);
}

#[test]
fn a_key_on_disk_is_forgotten_as_well() {
    forgets(Some(1));
}

fn forgets(budget: Option<usize>) {
    let ttl = 1_000_000;
    let spec = Arc::new(spec(false, Some(ttl)));
    let mut cluster = Cluster::new(spec, KeyGroups::default(), vec![(schema(), vec![0])], 1);
    spill(&mut cluster, budget);
    cluster.push(0, rows(&[(Some(1), Some(1), 0)]));
    cluster.flush();
    cluster.clock.advance_micros(2 * ttl);
    cluster.tick();
    cluster.cut();
    while !cluster.drain(100) {}
    assert_eq!((cluster.checkpoint_len(), cluster.size().1), (0, 0));
    cluster.push(0, rows(&[(Some(1), Some(2), 1)]));
    cluster.flush();
    let table = fold(&cluster.given, MAIN).expect("a changelog");
    assert_eq!(table.into_keys().collect::<Vec<_>>(), ["1,1,note 0", "1,2,note 1"]);
}

fn timed() -> Deduplicate {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema = schema();
    let fields = schema.fields().iter().map(|field| match field.name().as_str() {
        "at" => field.as_ref().clone().with_data_type(time.clone()),
        _ => field.as_ref().clone(),
    });
    let fields: Vec<Field> = fields.collect();
    let input = Arc::new(Schema::new(fields));
    Deduplicate { input, settled: Some(1), ..spec(false, None) }
}

fn timed_rows(records: &[Record]) -> Rows {
    let rows = rows(records).into_batch();
    let mut columns = rows.columns().to_vec();
    columns[1] =
        arrow::compute::cast(&columns[1], timed().input.field(1).data_type()).expect("a time");
    Rows::inserts(RecordBatch::try_new(timed().input, columns).expect("columns of the schema"))
}

#[derive(Debug, Clone)]
enum Timed {
    Push(Vec<(i64, i64)>),
    Watermark(i64),
    Cut,
    Drain(usize),
    Crash(usize),
}

proptest! {
    /// Where rows wait for their time, each key's first one is given once, and nothing is taken back.
    #[test]
    fn the_first_row_is_given_when_it_is_certain(
        steps in prop::collection::vec(prop_oneof![
            6 => prop::collection::vec((0_i64..8, 1_i64..30), 1..6).prop_map(Timed::Push),
            3 => (0_i64..10).prop_map(Timed::Watermark),
            1 => Just(Timed::Cut),
            2 => (1_usize..100).prop_map(Timed::Drain),
            1 => (1_usize..5).prop_map(Timed::Crash),
        ], 0..40),
        budget in budget(),
    ) {
        let mut cluster =
            Cluster::new(Arc::new(timed()), KeyGroups::default(), vec![(timed().input, vec![0])], 2);
        spill(&mut cluster, budget);
        let mut records: Vec<Record> = Vec::new();
        let mut watermark = 0;
        let mut saved = (records.clone(), cluster.given.clone(), watermark);
        let mut cut = None;
        for step in steps {
            match step {
                Timed::Push(pushed) => {
                    let start = records.len();
                    for (key, ahead) in pushed {
                        records.push((Some(key), Some(watermark + ahead), records.len() as u32));
                    }
                    cluster.push(0, timed_rows(&records[start..]));
                }
                Timed::Watermark(by) => {
                    watermark += by;
                    cluster.watermark(watermark);
                }
                Timed::Cut => {
                    if let Some(cut) = cut.take() {
                        while !cluster.drain(50) {}
                        saved = cut;
                    }
                    cluster.cut();
                    cut = Some((records.clone(), cluster.given.clone(), watermark));
                }
                Timed::Drain(bytes) => {
                    if cut.is_some() && cluster.drain(bytes) {
                        saved = cut.take().expect("there is one");
                    }
                }
                Timed::Crash(instances) => {
                    (records, cluster.given, watermark) = saved.clone();
                    cluster.restore(instances, EventTime(watermark));
                    cut = None;
                }
            }
        }
        cluster.watermark(1_000_000);
        let mut seen = std::collections::BTreeSet::new();
        let mut notes = Vec::new();
        for (_, rows) in &cluster.given.0 {
            prop_assert!(rows.kinds().is_none(), "nothing is taken back");
            let keys = rows.batch().column(0).as_primitive::<Int64Type>();
            for (row, line) in crate::operators::testing::lines(rows).into_iter().enumerate() {
                prop_assert!(seen.insert(keys.value(row)), "a key is given once");
                notes.push(line.rsplit(',').next().expect("a note").to_owned());
            }
        }
        let mut expected: Vec<String> = expected(&records, false)
            .into_keys()
            .map(|line| line.rsplit(',').next().expect("a note").to_owned())
            .collect();
        notes.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(notes, expected);
    }
}
