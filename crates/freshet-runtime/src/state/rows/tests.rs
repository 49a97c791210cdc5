use std::collections::BTreeMap;
use std::sync::Arc;

use ::arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use ::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::{merge_runs, write_run};
use crate::state::{Delta, MemoryScratch};
use freshet_core::stream::EventTime;

const GROUPS: u16 = 5;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("text", DataType::Utf8View, true),
    ]))
}

fn batch(numbers: &[i64]) -> RecordBatch {
    let texts = numbers.iter().map(|n| (n % 5 > 0).then(|| format!("the text of number {n}")));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(numbers.to_vec())),
        Arc::new(texts.collect::<StringViewArray>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

fn group(key: u32) -> KeyGroup {
    KeyGroup(key as u16 % GROUPS)
}

fn store() -> RowStore {
    let options = Options {
        groups: KeyGroups::new(GROUPS),
        table: 3,
        prefix: vec![1, 2],
        dies: false,
        span: i64::MAX,
        end: i64::MAX,
        counts: false,
    };
    let mut store = RowStore::new(schema(), options);
    store.resize(16);
    store
}

/// What a store holds: by key, numbers and whether they are marked, in any order.
type Plain = BTreeMap<u32, Vec<(i64, bool)>>;

fn content(store: &mut RowStore) -> Plain {
    let mut plain = Plain::new();
    for key in 0..16 {
        let rows: Vec<RowRef> = store.of(key).collect();
        assert_eq!(rows.len(), store.count(key) as usize);
        let batch = store.gather_batch(&rows).expect("they are there");
        let numbers: Vec<i64> = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(batch, self::batch(&numbers), "columns belong together");
        let marked = rows.iter().map(|row| store.is_marked(*row));
        let mut all: Vec<_> = numbers.into_iter().zip(marked).collect();
        all.sort_unstable();
        if !all.is_empty() {
            plain.insert(key, all);
        }
    }
    plain
}

/// Stores whose groups together are all, read from what checkpoints have.
fn load(runs: &[Bytes], instances: usize) -> Vec<RowStore> {
    let runs: Vec<_> = runs.iter().map(|run| ("run", run.as_ref())).collect();
    let load = |index: usize| {
        let mut store = store();
        let groups = KeyGroups::new(GROUPS).range(index, instances);
        let mut last = None;
        merge_runs(
            &runs,
            |_| EventTime::MIN,
            groups,
            |entries| {
                for entry in entries {
                    let key = entry.key.strip_prefix(&[1, 2]).expect("the prefix");
                    match RowStore::read(&schema(), key, entry.value)? {
                        Loaded::Nothing => {}
                        Loaded::Rows { number, batch, marks } => {
                            // The key is a part of the row here.
                            let numbers = batch.column(0).as_primitive::<Int64Type>();
                            let keys: Vec<u32> =
                                numbers.values().iter().map(|n| (n % 16) as u32).collect();
                            let rows = store.restore(&Restored {
                                batch: &batch,
                                keys: &keys,
                                group: entry.group,
                                number,
                                marks,
                                expires: i64::MAX,
                                times: Times::None,
                            })?;
                            last = Some((entry.group, number, rows));
                        }
                        Loaded::Bits { number, bits } => {
                            let (group, of, rows) = last.take().expect("rows stand before");
                            assert_eq!((group, of), (entry.group, number));
                            store.restore_bits(rows, bits)?;
                        }
                    }
                }
                Ok(())
            },
        )
        .expect("sound");
        store
    };
    (0..instances).map(load).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Add(Vec<u32>),
    Remove(prop::sample::Index),
    /// So many rows, one after another.
    RemoveMany(prop::sample::Index, usize),
    Mark(prop::sample::Index),
    Maintain,
    /// So many chunks to disk.
    Spill(usize),
    Freeze,
    Drain(usize),
    Load(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => prop::collection::vec(0_u32..16, 1..30).prop_map(Step::Add),
        // Whole chunks.
        1 => (100_usize..500).prop_map(|n| Step::Add((0..n as u32).map(|n| n * 7 % 13).collect())),
        6 => index().prop_map(Step::Remove),
        2 => (index(), 1_usize..300).prop_map(|(from, n)| Step::RemoveMany(from, n)),
        3 => index().prop_map(Step::Mark),
        2 => Just(Step::Maintain),
        2 => (1_usize..20).prop_map(Step::Spill),
        2 => Just(Step::Freeze),
        3 => (1_usize..3).prop_map(Step::Drain),
        1 => (1_usize..4).prop_map(Step::Load),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_store_holds_what_a_plain_table_does(steps in steps()) {
        let mut store = store();
        let scratch = MemoryScratch::default();
        // Number and mark of each row by key, and the names of rows by number.
        let mut plain = BTreeMap::<i64, bool>::new();
        let mut next = 0_i64;
        let mut runs = Vec::new();
        let (mut frozen, mut kept) = (None, BTreeMap::new());
        let mut delta = Delta::default();
        let name = |store: &mut RowStore, number: i64| {
            let contents = store.contents_of(&batch(&[number])).expect("types of contents");
            store.find((number % 16) as u32, &contents, 0).expect("no error")
        };
        for step in steps {
            match step {
                Step::Add(keys) => {
                    // A number says its key.
                    let numbers: Vec<i64> = keys.iter().map(|key| {
                        next += 16;
                        next + i64::from(*key)
                    }).collect();
                    let rows = store
                        .append(&batch(&numbers), &keys, |row| group(keys[row]), Times::None)
                        .expect("there is room");
                    for row in rows {
                        store.link(row);
                    }
                    plain.extend(numbers.into_iter().map(|number| (number, false)));
                }
                Step::Remove(index) if !plain.is_empty() => {
                    let number = *plain.keys().nth(index.index(plain.len())).expect("it is there");
                    let row = name(&mut store, number);
                    prop_assert_ne!(row, NONE);
                    store.remove(row);
                    plain.remove(&number);
                    prop_assert_eq!(name(&mut store, number), NONE);
                }
                Step::RemoveMany(index, count) if !plain.is_empty() => {
                    let from = index.index(plain.len());
                    let numbers: Vec<i64> = plain.keys().copied().skip(from).take(count).collect();
                    let contents = store.contents_of(&batch(&numbers)).expect("types of contents");
                    for (row, number) in numbers.into_iter().enumerate() {
                        let row = store.find((number % 16) as u32, &contents, row).expect("no error");
                        store.remove(row);
                        plain.remove(&number);
                    }
                }
                Step::Mark(index) if !plain.is_empty() => {
                    let number = *plain.keys().nth(index.index(plain.len())).expect("it is there");
                    let row = name(&mut store, number);
                    store.mark(row);
                    plain.insert(number, true);
                }
                Step::Maintain => while store.maintain().expect("there is room") {},
                Step::Spill(chunks) => {
                    for _ in 0..chunks {
                        store.spill(&scratch).expect("there is room");
                    }
                    store.shrink_cache(1000);
                }
                Step::Freeze if frozen.is_none() => {
                    store.freeze().expect("there is room");
                    frozen = Some(plain.clone());
                }
                Step::Drain(times) if frozen.is_some() => {
                    for _ in 0..times {
                        if store.drain(delta.bytes() + 3000, &mut delta).expect("it fits") {
                            runs.push(write_run(&mut std::mem::take(&mut delta)).0);
                            kept = frozen.take().expect("it was frozen");
                            break;
                        }
                    }
                }
                Step::Load(instances) => {
                    let mut together = Plain::new();
                    for mut store in load(&runs, instances) {
                        together.extend(content(&mut store));
                    }
                    prop_assert_eq!(&together, &by_key(&kept));
                    if instances == 1 {
                        // It goes on with what was read.
                        store = load(&runs, 1).remove(0);
                        plain = kept.clone();
                        frozen = None;
                        delta = Delta::default();
                    }
                }
                _ => {}
            }
            prop_assert_eq!(store.len(), plain.len());
        }
        prop_assert_eq!(content(&mut store), by_key(&plain));
    }
}

fn by_key(rows: &BTreeMap<i64, bool>) -> Plain {
    let mut plain = Plain::new();
    for (number, marked) in rows {
        plain.entry((number % 16) as u32).or_default().push((*number, *marked));
    }
    plain
}

/// A few rows of many batches do not keep what the others had.
#[test]
fn rows_do_not_keep_the_memory_of_their_neighbours() {
    let mut store = store();
    for round in 0..200 {
        let whole = batch(&(round * 100_000..round * 100_000 + 20_000).collect::<Vec<_>>());
        let few = whole.slice(100, 10);
        let rows = store.append(&few, &[1; 10], |_| group(1), Times::None).expect("there is room");
        rows.into_iter().for_each(|row| store.link(row));
    }
    assert!(store.bytes() < PINNED + (4 << 20), "{}", store.bytes());
    store.freeze().expect("there is room");
    assert!(store.bytes() < 1 << 20, "{}", store.bytes());
}
