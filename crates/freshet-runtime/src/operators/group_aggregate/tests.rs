use std::collections::BTreeMap;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::DataType;
use proptest::prelude::*;

use super::*;
use crate::aggregate::{Average, Count, Distinct, Extreme, RetractableExtreme, Side, Sum};
use crate::operator::MAIN;
use crate::operators::testing::{Cluster, fold};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("city", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
        Field::new("is_large", DataType::Boolean, true),
    ]))
}

fn spec(keys: Vec<usize>, ttl: Option<i64>) -> GroupAggregate {
    let int = DataType::Int64;
    let distinct = |of: Count| Arc::new(Distinct::new(Arc::new(of)));
    let sum = || Sum::new(1, int.clone(), int.clone()).expect("a sum of integers");
    let extreme = |side| RetractableExtreme::new(side, 1, int.clone()).expect("an order");
    let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![
        Arc::new(Count::rows()),
        Arc::new(sum()),
        distinct(Count::column(1)),
        distinct(Count::column(1).filtered(Some(2))),
        Arc::new(Distinct::new(Arc::new(sum()))),
        Arc::new(extreme(Side::Least)),
        Arc::new(extreme(Side::Greatest).filtered(Some(2))),
    ];
    let names = (0..aggregates.len()).map(|place| format!("a{place}")).collect();
    GroupAggregate { input: schema(), keys, aggregates, names, groups: KeyGroups::default(), ttl }
}

type Record = (Option<u8>, Option<i64>, Option<bool>);

fn rows(records: &[(Record, RowKind)]) -> Rows {
    let city = records.iter().map(|((city, ..), _)| city.map(|city| format!("city {city}")));
    let batch = RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(city.collect::<StringArray>()),
            Arc::new(records.iter().map(|((_, amount, _), _)| *amount).collect::<Int64Array>()),
            Arc::new(records.iter().map(|((.., large), _)| *large).collect::<BooleanArray>()),
        ],
    );
    let kinds = records.iter().map(|(_, kind)| *kind).collect();
    Rows::changes(batch.expect("columns of the schema"), kinds)
}

/// What the groups of these rows come to, the slow way.
fn expected(records: &[Record], is_global: bool) -> BTreeMap<String, i64> {
    let mut groups: BTreeMap<Option<u8>, Vec<&Record>> = BTreeMap::new();
    if is_global {
        groups.insert(None, Vec::new());
    }
    for record in records {
        let key = if is_global { None } else { record.0 };
        groups.entry(key).or_default().push(record);
    }
    let show = |value: Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
    let line = |(key, records): (Option<u8>, Vec<&Record>)| {
        let amounts: Vec<i64> = records.iter().filter_map(|record| record.1).collect();
        let large = records.iter().filter(|record| record.2 == Some(true));
        let large: Vec<i64> = large.filter_map(|record| record.1).collect();
        let distinct = |amounts: &[i64]| {
            let mut amounts = amounts.to_vec();
            amounts.sort_unstable();
            amounts.dedup();
            amounts
        };
        let sum = |amounts: &[i64]| (!amounts.is_empty()).then(|| amounts.iter().sum());
        let mut fields = match is_global {
            true => Vec::new(),
            false => vec![key.map_or("null".to_owned(), |key| format!("city {key}"))],
        };
        fields.extend([
            records.len().to_string(),
            show(sum(&amounts)),
            distinct(&amounts).len().to_string(),
            distinct(&large).len().to_string(),
            show(sum(&distinct(&amounts))),
            show(amounts.iter().min().copied()),
            show(large.iter().max().copied()),
        ]);
        (fields.join(","), 1)
    };
    groups.into_iter().map(line).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Add(Record),
    /// Takes back the row at this place of those that are there.
    TakeBack(prop::sample::Index),
    Push,
    Flush,
    Cut,
    Drain(usize),
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let record = (
        prop::option::weighted(0.9, 0_u8..4),
        prop::option::weighted(0.9, -3_i64..4),
        prop::option::weighted(0.9, any::<bool>()),
    );
    let step = prop_oneof![
        8 => record.prop_map(Step::Add),
        6 => any::<prop::sample::Index>().prop_map(Step::TakeBack),
        4 => Just(Step::Push),
        1 => Just(Step::Flush),
        1 => Just(Step::Cut),
        2 => (1_usize..100).prop_map(Step::Drain),
        1 => (1_usize..5).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// Rows come and go in any order, checkpoints are cut and drained meanwhile, instances are lost
    /// and others take over: what was given folds to what a plain loop gives.
    #[test]
    fn changes_fold_to_the_groups_of_the_rows(steps in steps(), is_global in any::<bool>()) {
        let keys = if is_global { vec![] } else { vec![0] };
        let inputs = vec![(schema(), keys.clone())];
        let instances = if is_global { 1 } else { 2 };
        let mut cluster = Cluster::new(Arc::new(spec(keys, None)), KeyGroups::default(), inputs, instances);
        // What is there, what waits to be pushed, and both as they were at the last whole checkpoint.
        let (mut there, mut waiting): (Vec<Record>, Vec<(Record, RowKind)>) = Default::default();
        let mut saved = (there.clone(), waiting.clone(), cluster.given.clone());
        let mut cut = None;
        for step in steps {
            match step {
                Step::Add(record) => {
                    there.push(record);
                    waiting.push((record, RowKind::Insert));
                }
                Step::TakeBack(_) if there.is_empty() => {}
                Step::TakeBack(place) => {
                    let record = there.swap_remove(place.index(there.len()));
                    waiting.push((record, RowKind::Delete));
                }
                Step::Push => cluster.push(0, rows(&std::mem::take(&mut waiting))),
                Step::Flush => cluster.flush(),
                Step::Cut => {
                    if let Some(cut) = cut.take() {
                        while !cluster.drain(50) {}
                        saved = cut;
                    }
                    cluster.cut();
                    cut = Some((there.clone(), waiting.clone(), cluster.given.clone()));
                }
                Step::Drain(bytes) => {
                    if cut.is_some() && cluster.drain(bytes) {
                        saved = cut.take().expect("there is one");
                    }
                }
                Step::Crash(instances) => {
                    cluster.restore(if is_global { 1 } else { instances }, EventTime::MIN);
                    (there, waiting, cluster.given) = saved.clone();
                    cut = None;
                }
            }
        }
        cluster.push(0, rows(&waiting));
        cluster.flush();
        cluster.watermark(0);
        let found = fold(&cluster.given, MAIN).map_err(TestCaseError::fail)?;
        prop_assert_eq!(found, expected(&there, is_global));
        // Nothing is left of groups that are gone.
        cluster.cut();
        while !cluster.drain(1000) {}
        let (_, keys) = cluster.size();
        let groups = expected(&there, is_global).len();
        prop_assert_eq!(keys as usize, groups);
        prop_assert!(groups > 0 || cluster.checkpoint_len() == 0, "{} entries", cluster.checkpoint_len());
    }
}

#[test]
fn many_rows_of_a_group_are_one_change() {
    let mut cluster = Cluster::new(
        Arc::new(spec(vec![0], None)),
        KeyGroups::default(),
        vec![(schema(), vec![0])],
        1,
    );
    let record = |amount| ((Some(1), Some(amount), None), RowKind::Insert);
    cluster.push(0, rows(&(0..50).map(record).collect::<Vec<_>>()));
    cluster.push(0, rows(&[record(7)]));
    assert!(cluster.given.0.is_empty(), "nothing is given before it must be");
    cluster.flush();
    cluster.push(0, rows(&[record(7)]));
    // What comes and goes between two flushes changes nothing.
    cluster.flush();
    cluster.push(0, rows(&[record(9), ((Some(1), Some(9), None), RowKind::Delete)]));
    cluster.flush();
    let kinds: Vec<_> = cluster
        .given
        .0
        .iter()
        .flat_map(|(_, rows)| (0..rows.len()).map(|row| rows.kind(row)))
        .collect();
    assert_eq!(kinds, [RowKind::Insert, RowKind::UpdateBefore, RowKind::UpdateAfter]);
}

#[test]
fn updates_are_not_torn_apart_between_batches() {
    let mut cluster = Cluster::new(
        Arc::new(spec(vec![1], None)),
        KeyGroups::default(),
        vec![(schema(), vec![1])],
        1,
    );
    let records = |kind| -> Vec<_> {
        (0..9000).map(|amount| ((Some(1), Some(amount), None), kind)).collect()
    };
    cluster.push(0, rows(&records(RowKind::Insert)));
    cluster.flush();
    // An odd number of changes in front of the updates.
    cluster.push(0, rows(&[((Some(1), Some(-1), None), RowKind::Insert)]));
    cluster.push(0, rows(&records(RowKind::Insert)));
    cluster.flush();
    let table = fold(&cluster.given, MAIN).expect("updates are whole");
    assert_eq!(table.len(), 9001);
    assert!(cluster.given.0.iter().all(|(_, rows)| rows.len() <= 8192));
}

#[test]
fn groups_that_no_row_comes_to_are_forgotten_in_time() {
    let ttl = 60_000_000;
    let mut cluster = Cluster::new(
        Arc::new(spec(vec![0], Some(ttl))),
        KeyGroups::default(),
        vec![(schema(), vec![0])],
        1,
    );
    let record = |city| ((Some(city), Some(1), None), RowKind::Insert);
    cluster.push(0, rows(&[record(1), record(2)]));
    cluster.clock.advance_micros(ttl / 2);
    cluster.push(0, rows(&[record(2)]));
    cluster.cut();
    while !cluster.drain(100) {}
    // A restore knows when rows came.
    cluster.restore(2, EventTime::MIN);
    cluster.clock.advance_micros(ttl * 3 / 4);
    cluster.tick();
    assert_eq!(cluster.size().1, 1);
    cluster.push(0, rows(&[record(1), record(2)]));
    cluster.flush();
    let table = fold(&cluster.given, MAIN).expect("a changelog");
    // The first city was begun anew, the second was not.
    assert!(table.contains_key("city 1,1,1,1,0,1,1,null"), "{table:?}");
    assert!(table.contains_key("city 2,3,3,1,0,1,1,null"), "{table:?}");
}

#[test]
fn rows_that_are_only_added_need_no_sets() {
    let int = DataType::Int64;
    let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![
        Arc::new(Extreme::new(Side::Greatest, 1, int.clone()).expect("an order")),
        Arc::new(Average::new(1, int, DataType::Float64).expect("an average")),
    ];
    let names = vec!["most".to_owned(), "mean".to_owned()];
    let spec = GroupAggregate { aggregates, names, ..spec(vec![0], None) };
    let mut cluster =
        Cluster::new(Arc::new(spec), KeyGroups::default(), vec![(schema(), vec![0])], 1);
    let record = |amount| ((Some(1), Some(amount), None), RowKind::Insert);
    cluster.push(0, rows(&[record(3), record(5), record(4)]));
    cluster.cut();
    while !cluster.drain(100) {}
    assert_eq!(cluster.checkpoint_len(), 1);
    cluster.restore(3, EventTime::MIN);
    cluster.push(0, rows(&[record(8)]));
    cluster.flush();
    let table = fold(&cluster.given, MAIN).expect("a changelog");
    assert_eq!(table.keys().collect::<Vec<_>>(), ["city 1,8,5.0"]);
}

#[derive(Debug, Clone)]
enum Spilled {
    Add(Vec<(u8, i64)>),
    TakeBack(prop::sample::Index),
    Flush,
    Cut,
    Drain(usize),
    Crash(usize),
    /// Time goes by: a little, or more than anything lives.
    Wait(bool),
}

proptest! {
    /// Groups that are brought to disk and back give what those give that stay in memory.
    #[test]
    fn groups_on_disk_are_as_those_in_memory(
        steps in prop::collection::vec(prop_oneof![
            8 => prop::collection::vec((0_u8..60, -3_i64..4), 1..20).prop_map(Spilled::Add),
            4 => any::<prop::sample::Index>().prop_map(Spilled::TakeBack),
            3 => Just(Spilled::Flush),
            2 => Just(Spilled::Cut),
            3 => (1_usize..300).prop_map(Spilled::Drain),
            1 => (1_usize..4).prop_map(Spilled::Crash),
            1 => any::<bool>().prop_map(Spilled::Wait),
        ], 0..60),
        budget in prop_oneof![Just(1_usize), 1_000_usize..20_000],
        narrow in any::<bool>(),
        ttl in prop::option::of(Just(1_000_000_i64)),
    ) {
        let int = DataType::Int64;
        let sum = Sum::new(1, int.clone(), int).expect("a sum of integers");
        let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![Arc::new(Count::rows()), Arc::new(sum)];
        let names = ["n", "sum"].map(str::to_owned).to_vec();
        let keys = if narrow { vec![1] } else { vec![0] };
        let spec = Arc::new(GroupAggregate { aggregates, names, ..spec(keys.clone(), ttl) });
        let new = || {
            let inputs = vec![(schema(), keys.clone())];
            Cluster::new(Arc::clone(&spec) as _, KeyGroups::default(), inputs, 2)
        };
        let (mut plain, mut spilled) = (new(), new());
        let scratch = Arc::new(crate::state::MemoryScratch::default());
        let (scratch, budget) = (Arc::clone(&scratch) as _, budget.into());
        spilled.spill = Some(crate::state::SpillOptions { budget, scratch });
        spilled.restore(2, EventTime::MIN);
        let mut there: Vec<Record> = Vec::new();
        let mut saved = (there.clone(), [plain.given.clone(), spilled.given.clone()]);
        let mut cut = None;
        for step in steps {
            for cluster in [&mut plain, &mut spilled] {
                match &step {
                    Spilled::Add(records) => {
                        let record = |(key, amount): &(u8, i64)| {
                            let amount = if narrow { i64::from(*key) } else { *amount };
                            ((Some(*key), Some(amount), None), RowKind::Insert)
                        };
                        cluster.push(0, rows(&records.iter().map(record).collect::<Vec<_>>()));
                    }
                    // What was forgotten cannot be taken back.
                    Spilled::TakeBack(index) if !there.is_empty() && ttl.is_none() => {
                        cluster.push(0, rows(&[(there[index.index(there.len())], RowKind::Delete)]));
                    }
                    Spilled::TakeBack(_) => {}
                    Spilled::Flush => cluster.flush(),
                    Spilled::Cut => cluster.cut(),
                    Spilled::Drain(_) => {}
                    Spilled::Crash(instances) => cluster.restore(*instances, EventTime::MIN),
                    Spilled::Wait(long) => {
                        cluster.clock.advance_micros(if *long { 5_000_000 } else { 5_000 });
                        cluster.tick();
                    }
                }
            }
            match step {
                Spilled::Add(records) => there.extend(records.iter().map(|(key, amount)| {
                    (Some(*key), Some(if narrow { i64::from(*key) } else { *amount }), None)
                })),
                Spilled::TakeBack(index) if !there.is_empty() && ttl.is_none() => {
                    there.swap_remove(index.index(there.len()));
                }
                Spilled::Cut => {
                    saved = cut.take().unwrap_or(saved);
                    cut = Some((there.clone(), [plain.given.clone(), spilled.given.clone()]));
                }
                Spilled::Drain(bytes) if cut.is_some() => {
                    // One of them may be done before the other: both are then.
                    let done = [&mut plain, &mut spilled].map(|cluster| cluster.drain(bytes));
                    if done.contains(&true) {
                        while !plain.drain(1000) {}
                        while !spilled.drain(1000) {}
                        saved = cut.take().expect("there is one");
                    }
                }
                Spilled::Crash(_) => {
                    let given;
                    (there, given) = saved.clone();
                    [plain.given, spilled.given] = given;
                    cut = None;
                }
                _ => {}
            }
        }
        let clusters = [&mut plain, &mut spilled];
        let [plain, spilled] = clusters.map(|cluster| {
            cluster.cut();
            while !cluster.drain(1000) {}
            (fold(&cluster.given, MAIN), cluster.size().1, cluster.checkpoint_len())
        });
        prop_assert_eq!(plain, spilled);
    }
}

#[test]
fn groups_stay_within_their_budget() {
    let int = DataType::Int64;
    let sum = Sum::new(1, int.clone(), int).expect("a sum of integers");
    let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![Arc::new(Count::rows()), Arc::new(sum)];
    let names = ["n", "sum"].map(str::to_owned).to_vec();
    let spec = Arc::new(GroupAggregate { aggregates, names, ..spec(vec![1], None) });
    let inputs = vec![(schema(), vec![1])];
    let mut cluster = Cluster::new(spec, KeyGroups::default(), inputs, 1);
    let budget = 6 << 20;
    let scratch = Arc::new(crate::state::MemoryScratch::default());
    cluster.spill = Some(crate::state::SpillOptions { budget: budget.into(), scratch });
    cluster.restore(1, EventTime::MIN);
    let record = |key| ((None, Some(key), None), RowKind::Insert);
    let count = 250_000_i64;
    let mut most = 0;
    for round in 0..2 {
        for start in (0..count).step_by(5_000) {
            let keys = start..start + 5_000;
            cluster.push(0, rows(&keys.map(record).collect::<Vec<_>>()));
            cluster.flush();
            if start % 10_000 == 0 {
                cluster.cut();
                while !cluster.drain(1 << 20) {}
            }
            most = most.max(cluster.size().0);
        }
        let all: u64 = cluster.given.0.iter().map(|(_, rows)| rows.len() as u64).sum();
        // An insert each, then an update of two rows each.
        assert_eq!(all, count as u64 * if round == 0 { 1 } else { 3 });
    }
    assert_eq!(cluster.size().1, count as u64);
    assert!(most <= budget as u64 * 5 / 4, "{most} of {budget}");
}
