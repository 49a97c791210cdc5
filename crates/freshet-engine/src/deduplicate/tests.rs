use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::col;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::SessionContext;
use freshet_core::config::ByteSize;
use proptest::prelude::*;

use super::DeduplicateExec;
use super::keys::Keys;
use super::set::{Inserted, KeySet};
use crate::session::{Sessions, register};

/// A row: two keys, a time, and where it comes from.
type Row = (Option<i64>, Option<String>, i64);

fn batch(rows: &[(i64, Row)]) -> RecordBatch {
    let id: ArrayRef = Arc::new(rows.iter().map(|(_, row)| row.0).collect::<Int64Array>());
    let name: ArrayRef =
        Arc::new(rows.iter().map(|(_, row)| row.1.as_deref()).collect::<StringViewArray>());
    let time: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.2)));
    let number: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(n, _)| *n)));
    RecordBatch::try_from_iter_with_nullable([
        ("id", id, true),
        ("name", name, true),
        ("time", time, false),
        ("number", number, false),
    ])
    .unwrap()
}

/// A session of `memory` bytes over a table `t` in two partitions, whose rows, numbered as they
/// come, lie in batches of `batch_rows`, in turn in the one and the other partition.
fn session(rows: &[Row], batch_rows: usize, memory: u64, sorted: bool) -> SessionContext {
    let folder = std::env::temp_dir();
    let sessions = Sessions::new(ByteSize(memory), Some(&folder), 2, "main").unwrap();
    let context = sessions.context();
    let numbered: Vec<(i64, Row)> = (0..).zip(rows.iter().cloned()).collect();
    let mut partitions = [Vec::new(), Vec::new()];
    for (index, rows) in numbered.chunks(batch_rows).enumerate() {
        partitions[index % 2].push(batch(rows));
    }
    let table = MemTable::try_new(batch(&[]).schema(), partitions.into()).unwrap();
    let order = vec![col("number").sort(true, false)];
    let table = if sorted { table.with_sort_order(vec![order.clone(), order]) } else { table };
    let table: Arc<dyn TableProvider> = Arc::new(table);
    register(&context, "main", "t", table).unwrap();
    context
}

async fn plan(context: &SessionContext, sql: &str) -> String {
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    displayable(plan.as_ref()).indent(false).to_string()
}

async fn numbers(context: &SessionContext, sql: &str) -> Vec<i64> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut numbers = Vec::new();
    for batch in batches {
        let column = batch.column_by_name("number").unwrap();
        let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
        numbers.extend(column.values().iter().copied());
    }
    numbers.sort_unstable();
    numbers
}

/// Numbers of the rows that are first in their key, where `before` says which comes first.
fn expected<K: Ord>(
    rows: &[Row],
    key: impl Fn(&Row) -> K,
    rank: impl Fn(i64, &Row) -> (i64, i64),
) -> Vec<i64> {
    let mut best: BTreeMap<K, ((i64, i64), i64)> = BTreeMap::new();
    for (number, row) in (0..).zip(rows) {
        let rank = rank(number, row);
        let entry = best.entry(key(row)).or_insert((rank, number));
        if rank < entry.0 {
            *entry = (rank, number);
        }
    }
    let mut numbers: Vec<i64> = best.into_values().map(|(_, number)| number).collect();
    numbers.sort_unstable();
    numbers
}

const FIRST: &str =
    "select * from t qualify row_number() over (partition by id order by number) = 1";
const NEWEST: &str = "select number, name from t \
    qualify row_number() over (partition by name, id order by time desc, number) = 1";

const ANY: &str = "select number from t qualify row_number() over (partition by id) = 1";

fn check(rows: &[Row], batch_rows: usize, memory: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        for sorted in [true, false] {
            let context = session(rows, batch_rows, memory, sorted);
            let first = expected(rows, |row| row.0, |number, _| (number, 0));
            assert_eq!(numbers(&context, FIRST).await, first, "first, sorted: {sorted}");
            let newest =
                expected(rows, |row| (row.1.clone(), row.0), |number, row| (-row.2, number));
            assert_eq!(numbers(&context, NEWEST).await, newest, "newest, sorted: {sorted}");
            let any = numbers(&context, ANY).await;
            let keys = |numbers: &[i64]| {
                let keys = numbers.iter().map(|number| rows[*number as usize].0);
                keys.collect::<BTreeSet<_>>()
            };
            assert_eq!(any.len(), first.len(), "any, sorted: {sorted}");
            assert_eq!(keys(&any), keys(&first), "any, sorted: {sorted}");
        }
    });
}

fn row() -> impl Strategy<Value = Row> {
    let id = prop_oneof![8 => (-3i64..40).prop_map(Some), 1 => Just(None)];
    let short = "[ab]{0,3}".prop_map(Some);
    let long = (0u8..30).prop_map(|n| Some(format!("a name of many letters, number {n}")));
    (id, prop_oneof![short, long, Just(None)], 0i64..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn keeps_the_first_row_of_each_key(
        rows in proptest::collection::vec(row(), 0..400),
        batch_rows in 1usize..64,
    ) {
        check(&rows, batch_rows, 64 << 20);
    }
}

#[test]
fn rows_beyond_memory_go_to_disk_and_come_back() {
    let rows: Vec<Row> = (0..60_000i64)
        .map(|n| {
            let key = n * 7919 % 45_000;
            let name = format!("key {key} with some more letters");
            // Far apart: integers that are neighbours would all fit.
            ((n % 1000 != 0).then_some(key * 1_000_003), Some(name), n * 31 % 977)
        })
        .collect();
    check(&rows, 4096, 1 << 20);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    // Keys alone need less than rows do.
    for (sorted, sql, memory) in [
        (true, FIRST, 256 << 10),
        (false, ANY, 256 << 10),
        (false, FIRST, 1 << 20),
        (false, NEWEST, 1 << 20),
        // Others hold all there is.
        (true, FIRST, 1),
        (false, ANY, 1),
        (false, FIRST, 1),
        (false, NEWEST, 1),
    ] {
        let context = session(&rows, 4096, memory, sorted);
        let roomy = session(&rows, 4096, 256 << 20, sorted);
        let wanted = runtime.block_on(numbers(&roomy, sql)).len();
        assert_eq!(runtime.block_on(numbers(&context, sql)).len(), wanted, "{sql}");
        let spilled = runtime.block_on(async {
            let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
            collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
            spilled_rows(&plan)
        });
        assert!(spilled > 0, "sorted: {sorted}, {sql}");
    }
}

fn spilled_rows(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let below: usize = plan.children().into_iter().map(spilled_rows).sum();
    let own = plan.downcast_ref::<DeduplicateExec>().and_then(|exec| exec.metrics());
    below + own.and_then(|metrics| metrics.spilled_rows()).unwrap_or(0)
}

#[tokio::test]
async fn rows_in_order_pass_through_and_others_are_divided_by_key() {
    let sorted = session(&[], 1, 64 << 20, true);
    let text = plan(&sorted, FIRST).await;
    assert!(text.contains("mode=in_order"), "{text}");
    assert!(!text.contains("Sort") && !text.contains("Window"), "{text}");
    let any = session(&[], 1, 64 << 20, false);
    let text = plan(&any, FIRST).await;
    assert!(text.contains("mode=best") && text.contains("Hash([id"), "{text}");
}

#[tokio::test]
async fn the_ways_to_ask_for_the_first_row() {
    let context = session(&[], 1, 64 << 20, false);
    let number = "row_number() over (partition by id order by time)";
    for (sql, found) in [
        (format!("select id from (select *, {number} as n from t) where n = 1"), true),
        (format!("select id, n from (select *, {number} as n from t) where 2 > n"), true),
        (
            format!("select id from (select *, {number} as n from t) where n <= 1 and time > 3"),
            true,
        ),
        (format!("select id from t qualify {number} = 2"), false),
        (format!("select id from t qualify {number} <= 2"), false),
        ("select id from t qualify row_number() over (order by time) = 1".to_owned(), false),
        (
            "select id from t qualify rank() over (partition by id order by time) = 1".to_owned(),
            false,
        ),
        (format!("select id from t qualify {number} = 1 or time = 3"), false),
    ] {
        let text = plan(&context, &sql).await;
        assert_eq!(text.contains("DeduplicateExec"), found, "{sql}\n{text}");
    }
}

#[tokio::test]
async fn other_conditions_hold_for_the_rows_that_are_first() {
    let rows: Vec<Row> = vec![(Some(1), None, 5), (Some(1), None, 9), (Some(2), None, 7)];
    let context = session(&rows, 2, 64 << 20, false);
    let sql = "select number, n from (select *, row_number() over (partition by id order by time) n from t) \
        where n = 1 and time > 6";
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let text = pretty_format_batches(&batches).unwrap().to_string();
    assert_eq!(
        text,
        "+--------+---+\n| number | n |\n+--------+---+\n| 2      | 1 |\n+--------+---+"
    );
}

/// Keys of which some are neighbours and most are not.
fn mixed_keys() -> Vec<u64> {
    let near = (0..30_000u64).map(|n| n * 17 % 20_000);
    let ends = [0, u64::MAX, u64::MAX - 1, 511, 512, 0];
    let far = (0..60_000u64).map(|n| (n % 45_000).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    near.chain(ends).chain(far).collect()
}

#[test]
fn a_set_of_integers_turns_from_bitmaps_to_a_table_and_forgets_none() {
    let numbers = mixed_keys();
    let rows = numbers.len();
    let keys = Keys::Narrow(numbers.clone(), None);
    let mut bytes = 0;
    let (mut set, mut fresh) = (KeySet::like(&keys), Vec::new());
    let mut grow = |more: usize| {
        bytes += more;
        true
    };
    assert_eq!(set.insert(&keys, 0..rows, &mut fresh, &mut grow), Inserted::All);
    let mut seen = BTreeSet::new();
    let expected: Vec<bool> = numbers.iter().map(|number| seen.insert(*number)).collect();
    assert_eq!(fresh, expected);
    assert!((0..rows).all(|row| set.contains(&keys, row)));
    let others = Keys::Narrow(numbers.iter().map(|number| number ^ (1 << 40)).collect(), None);
    let held = |row: usize| seen.contains(&(numbers[row] ^ (1 << 40)));
    assert!((0..rows).all(|row| set.contains(&others, row) == held(row)));

    // Wherever memory ends, rows before that place are in the set and no others.
    for limit in [0, 10_000, 80_000, bytes / 2, bytes - 1] {
        let (mut set, mut fresh, mut left) = (KeySet::like(&keys), Vec::new(), limit);
        let mut grow = |more: usize| {
            let fits = more <= left;
            left -= if fits { more } else { 0 };
            fits
        };
        let Inserted::Until(row) = set.insert(&keys, 0..rows, &mut fresh, &mut grow) else {
            panic!("{limit} bytes are too few")
        };
        assert_eq!(fresh, expected[..row], "{limit}");
        let before: BTreeSet<u64> = numbers[..row].iter().copied().collect();
        for (at, number) in numbers.iter().enumerate() {
            assert_eq!(set.contains(&keys, at), before.contains(number), "{limit}, {at}");
        }
    }
}

#[test]
fn serial_numbers_take_a_bit_each() {
    let keys = Keys::Narrow((10_000_000..11_000_000).collect(), None);
    let mut bytes = 0;
    let mut grow = |more: usize| {
        bytes += more;
        true
    };
    let mut set = KeySet::like(&keys);
    set.insert(&keys, 0..1_000_000, &mut Vec::new(), &mut grow);
    assert!(bytes < 1_000_000 / 2, "{bytes} bytes");
}
