//! The lake: what is written can be read, by us and by others; changes are made once or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use chrono::{NaiveDate, NaiveDateTime};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::{SessionConfig, SessionContext};
use freshet_core::clock::{Clock, ManualClock};
use freshet_core::error::code;
use freshet_core::source::Interval;
use freshet_core::{Error, Result};
use freshet_engine::lake::{
    AsOf, Lake, LakeOptions, NewRows, Snapshot, StageMode, StageRequest, StagedChange, TableName,
    Transaction,
};
use freshet_engine::store::{LocalStore, OsFileSystem};
use freshet_project::model::OnSchemaChange;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use url::Url;

mod exports;
mod others;
mod places;

/// Midnight of 2024-01-01 in microseconds.
const NEW_YEAR: i64 = 1_704_067_200_000_000;

struct Fixture {
    lake: Lake,
    clock: Arc<ManualClock>,
    table: TableName,
}

impl Fixture {
    fn new() -> Self {
        Self::on(Arc::new(InMemory::new()), |_| {})
    }

    fn on(store: Arc<dyn ObjectStore>, change: impl FnOnce(&mut LakeOptions)) -> Self {
        let clock = Arc::new(ManualClock::new(NEW_YEAR));
        let mut options =
            LakeOptions { clock: clock.clone(), threads: 2, ..LakeOptions::default() };
        change(&mut options);
        let url = Url::parse("memory:///lake/").expect("a constant");
        let lake = Lake::open(store, url, options).expect("any store will do");
        Self { lake, clock, table: TableName::new("main", "sales") }
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        self.lake.load(&self.table, None).await.expect("the table can be read")
    }

    async fn request(&self, mode: StageMode) -> StageRequest {
        StageRequest {
            table: self.table.clone(),
            base: self.snapshot().await,
            mode,
            partition_by: Vec::new(),
            on_schema_change: OnSchemaChange::AppendNewColumns,
            parameters: BTreeMap::new(),
        }
    }

    async fn stage(&self, mode: StageMode, batches: Vec<RecordBatch>) -> Result<StagedChange> {
        self.lake.stage(self.request(mode).await, rows(batches)).await
    }

    async fn commit(&self, change: &StagedChange, number: u64) -> Result<u64> {
        self.clock.advance_micros(1_000_000);
        let committed = self.lake.commit(change, &transaction(number), &BTreeMap::new()).await?;
        Ok(committed.version)
    }

    /// Stages and commits under the next number.
    async fn write(&self, mode: StageMode, batches: Vec<RecordBatch>) -> StagedChange {
        let number = self.snapshot().await.map_or(0, |s| s.last_transaction("freshet")) + 1;
        let change = self.stage(mode, batches).await.expect("the rows fit the table");
        self.commit(&change, number).await.expect("nobody else writes");
        change
    }

    async fn query(&self, sql: &str) -> String {
        let snapshot = self.snapshot().await.expect("the table exists");
        self.query_on(&snapshot, sql).await
    }

    async fn query_on(&self, snapshot: &Snapshot, sql: &str) -> String {
        let mut config = SessionConfig::new().with_target_partitions(2);
        config.options_mut().execution.parquet.pushdown_filters = true;
        let context = SessionContext::new_with_config(config);
        let table = self.lake.provider(snapshot);
        context.register_table("t", table).expect("the name is free");
        let batches = context.sql(sql).await.expect("the query is valid").collect().await;
        let batches = batches.expect("the query runs");
        arrow::util::pretty::pretty_format_batches(&batches).expect("it can be printed").to_string()
    }

    /// Files in the table's folder, the log left out.
    async fn files(&self) -> BTreeSet<String> {
        let objects: Vec<_> =
            self.lake.store().list(None).try_collect().await.expect("the store can be listed");
        let paths = objects.into_iter().map(|object| object.location.to_string());
        paths.filter(|path| path.ends_with(".parquet") && !path.contains("_delta_log")).collect()
    }
}

fn transaction(number: u64) -> Transaction {
    Transaction { app: "freshet".into(), number }
}

fn rows(batches: Vec<RecordBatch>) -> NewRows {
    let schema = batches.first().expect("a test gives a batch").schema();
    let streams = batches
        .into_iter()
        .map(|batch| {
            let rows = futures::stream::iter([Ok(batch)]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows)) as _
        })
        .collect();
    NewRows { schema, streams }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )
    .expect("columns have one length")
}

fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringViewArray::from_iter_values(values))
}

/// Rows `(id, amount)`.
fn sales(rows: &[(i64, i64)]) -> RecordBatch {
    batch(vec![
        ("id", ints(rows.iter().map(|row| row.0))),
        ("amount", ints(rows.iter().map(|row| row.1))),
    ])
}

fn merge_on(columns: &[&str]) -> StageMode {
    StageMode::Merge { unique_key: columns.iter().map(ToString::to_string).collect() }
}

async fn pairs(fixture: &Fixture) -> Vec<(i64, i64)> {
    let snapshot = fixture.snapshot().await.expect("the table exists");
    let context = SessionContext::new();
    context.register_table("t", fixture.lake.provider(&snapshot)).expect("the name is free");
    let query = context.sql("select id, amount from t order by id, amount").await;
    let batches = query.expect("the query is valid").collect().await.expect("the query runs");
    let mut pairs = Vec::new();
    for batch in batches {
        let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().to_vec();
        pairs.extend(column(0).into_iter().zip(column(1)));
    }
    pairs
}

#[tokio::test]
async fn every_type_comes_back_as_it_was() {
    let fixture = Fixture::new();
    let zoned = TimestampMicrosecondArray::from(vec![Some(NEW_YEAR + 5), None]);
    let rows = batch(vec![
        ("i", ints([i64::MIN, i64::MAX])),
        ("t", Arc::new(StringViewArray::from(vec![Some("é, a text longer than twelve"), None]))),
        ("d", Arc::new(Date32Array::from(vec![Some(-1), Some(19_723)]))),
        ("n", Arc::new(TimestampMicrosecondArray::from(vec![Some(NEW_YEAR + 1), None]))),
        ("z", Arc::new(zoned.with_timezone("UTC"))),
        ("x", Arc::new(Float64Array::from(vec![Some(-0.5), Some(f64::NAN)]))),
        (
            "m",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345_678_901_234_567_890), None])
                    .with_precision_and_scale(30, 2)
                    .expect("it fits"),
            ),
        ),
        ("b", Arc::new(arrow::array::BooleanArray::from(vec![Some(true), None]))),
        ("y", Arc::new(arrow::array::BinaryArray::from(vec![Some(b"\xff\x00".as_ref()), None]))),
    ]);
    let change = fixture.write(StageMode::Overwrite, vec![rows.clone()]).await;
    let snapshot = fixture.snapshot().await.expect("the table exists");
    assert_eq!(snapshot.schema.fields(), rows.schema().fields());
    let expected = arrow::util::pretty::pretty_format_batches(&[rows]).expect("it can be printed");
    assert_eq!(fixture.query("select * from t").await, expected.to_string());
    let (file, field) = (&snapshot.files[0], |name: &str| &snapshot.files[0].stats[name]);
    assert_eq!(file.rows, Some(2));
    assert_eq!(change.adds[0].stats["m"].min, Some("-123456789012345678.90".into()));
    // A number of JSON has lost digits; what is left must not rule the row out.
    let exact = "m = cast('-123456789012345678.90' as decimal(30, 2))";
    let found = fixture.query(&format!("select count(*) n from t where {exact}")).await;
    insta_like(&found, "| n |\n| 1 |");
    assert_eq!(field("n").max, Some("2024-01-01T00:00:00.000001".into()));
    assert_eq!(field("d").min, Some("1969-12-31".into()));
    assert_eq!(field("t").nulls, Some(1));
}

#[tokio::test]
async fn partitions_are_columns_and_prune() {
    let fixture = Fixture::new();
    let regions = ["north", "a/b %=\u{e9}", "north", "south"];
    let rows_in = batch(vec![
        ("id", ints(0..5)),
        (
            "region",
            Arc::new(StringViewArray::from_iter(regions.iter().copied().map(Some).chain([None]))),
        ),
        ("day", Arc::new(Date32Array::from(vec![19_723, 19_723, 19_724, 19_724, 19_724]))),
    ]);
    let request = StageRequest {
        partition_by: vec!["region".into(), "day".into()],
        ..fixture.request(StageMode::Overwrite).await
    };
    let change = fixture.lake.stage(request, rows(vec![rows_in])).await.expect("it fits");
    fixture.commit(&change, 1).await.expect("nobody else writes");
    assert_eq!(change.adds.len(), 5);
    let found = fixture.query("select region, day, id from t where id < 10 order by id").await;
    insta_like(
        &found,
        "
+--------+------------+----+
| region | day        | id |
+--------+------------+----+
| north  | 2024-01-01 | 0  |
| a/b %=é | 2024-01-01 | 1  |
| north  | 2024-01-02 | 2  |
| south  | 2024-01-02 | 3  |
|        | 2024-01-02 | 4  |
+--------+------------+----+",
    );
    let count = |filter: &str| {
        let sql = format!("select count(*) n, min(id) low from t where {filter}");
        let fixture = &fixture;
        async move { fixture.query(&sql).await }
    };
    assert!(count("region = 'north' and day = date '2024-01-02'").await.contains("| 1 | 2   |"));
    assert!(count("region is null").await.contains("| 1 | 4   |"));
    assert!(count("region is not null").await.contains("| 4 | 0   |"));
    let plan = fixture.query("explain select id from t where region = 'south'").await;
    assert_eq!(plan.matches(".zstd.parquet").count(), 1, "{plan}");
    let plan = fixture.query("explain select id from t where id > 3").await;
    assert_eq!(plan.matches(".zstd.parquet").count(), 1, "{plan}");
}

/// Compares tables without the padding that wide characters upset.
fn insta_like(found: &str, expected: &str) {
    let cells = |text: &str| -> Vec<Vec<String>> {
        text.trim()
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect()
    };
    assert_eq!(cells(found), cells(expected), "{found}");
}

#[tokio::test]
async fn columns_that_older_files_lack_are_null() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    let wider = batch(vec![
        ("amount", ints([20])),
        ("id", Arc::new(arrow::array::Int32Array::from(vec![2]))),
        ("note", texts(["new"])),
    ]);
    let change = fixture.write(StageMode::Append, vec![wider]).await;
    assert_eq!(change.schema_changes.len(), 1);
    insta_like(
        &fixture.query("select * from t order by id").await,
        "| id | amount | note |\n| 1 | 10 | |\n| 2 | 20 | new |",
    );
    insta_like(&fixture.query("select id from t where note is null").await, "| id |\n| 1 |");
}

#[tokio::test]
async fn a_column_that_went_does_not_come_back_with_its_values() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10), (2, 20)])]).await;
    let narrow = batch(vec![("id", ints([3]))]);
    let request = StageRequest {
        on_schema_change: OnSchemaChange::SyncAllColumns,
        ..fixture.request(StageMode::Append).await
    };
    let change = fixture.lake.stage(request, rows(vec![narrow])).await.expect("it fits");
    fixture.commit(&change, 2).await.expect("nobody else writes");
    let snapshot = fixture.snapshot().await.expect("the table exists");
    assert_eq!(snapshot.schema.fields().len(), 1);
    assert_eq!(snapshot.rows(), Some(3));
    fixture.write(StageMode::Append, vec![sales(&[(4, 40)])]).await;
    insta_like(
        &fixture.query("select id, amount from t order by id").await,
        "| id | amount |\n| 1 | |\n| 2 | |\n| 3 | |\n| 4 | 40 |",
    );
}

#[tokio::test]
async fn on_schema_change_decides_about_new_and_missing_columns() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    let other = batch(vec![("id", ints([2])), ("note", texts(["x"]))]);
    let stage = |on_schema_change, rows_in: RecordBatch| {
        let fixture = &fixture;
        async move {
            let request =
                StageRequest { on_schema_change, ..fixture.request(StageMode::Append).await };
            fixture.lake.stage(request, rows(vec![rows_in])).await
        }
    };
    let ignored = stage(OnSchemaChange::Ignore, other.clone()).await.expect("ignored");
    assert_eq!(ignored.metadata, None);
    assert_eq!(ignored.schema_changes.len(), 2);
    let failed = stage(OnSchemaChange::Fail, other).await.expect_err("the columns differ");
    assert_eq!(failed.code(), code::SCHEMA_CHANGE);
    let retyped = batch(vec![("id", texts(["one"])), ("amount", ints([1]))]);
    let failed =
        stage(OnSchemaChange::SyncAllColumns, retyped).await.expect_err("text is no number");
    assert_eq!(failed.code(), code::SCHEMA_CHANGE);
    assert!(failed.hint_text().is_some());
    assert_eq!(fixture.files().await.len(), 2, "the ignored change is staged, the others are not");
}

#[tokio::test]
async fn a_commit_is_made_once_for_a_number() {
    let fixture = Fixture::new();
    let first = fixture.stage(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await.expect("fits");
    // As it would come back from an intent.
    let json = serde_json::to_string(&first).expect("it is plain data");
    let first: StagedChange = serde_json::from_str(&json).expect("it was just written");
    assert_eq!(fixture.commit(&first, 1).await.expect("new"), 0);
    assert_eq!(fixture.commit(&first, 1).await.expect("held"), 0);
    let second = fixture.stage(StageMode::Append, vec![sales(&[(2, 20)])]).await.expect("fits");
    assert_eq!(fixture.commit(&second, 2).await.expect("new"), 1);
    let again = fixture.lake.commit(&second, &transaction(2), &BTreeMap::new()).await;
    let again = again.expect("held");
    assert_eq!((again.version, again.written), (1, false));
    assert_eq!(fixture.commit(&first, 1).await.expect("a later one is held"), 1);
    assert_eq!(pairs(&fixture).await, [(1, 10), (2, 20)]);
    let snapshot = fixture.snapshot().await.expect("the table exists");
    assert_eq!(snapshot.last_transaction("freshet"), 2);
    assert_eq!(snapshot.last_transaction("another"), 0);
}

#[tokio::test]
async fn a_change_on_an_old_version_is_a_conflict() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    let late = fixture.stage(StageMode::Append, vec![sales(&[(2, 20)])]).await.expect("fits");
    fixture.write(StageMode::Append, vec![sales(&[(3, 30)])]).await;
    let error = fixture.commit(&late, 3).await.expect_err("the table moved on");
    assert_eq!(error.code(), code::LAKE_CONFLICT);
    assert_eq!(pairs(&fixture).await, [(1, 10), (3, 30)]);
    fixture.lake.discard(&late).await.expect("its files can be deleted");
    fixture.lake.discard(&late).await.expect("files that are gone are no error");
    assert_eq!(fixture.files().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_committers_one_wins() {
    let fixture = Arc::new(Fixture::new());
    fixture.write(StageMode::Overwrite, vec![sales(&[(0, 0)])]).await;
    let mut changes = Vec::new();
    for id in 1..=8 {
        changes
            .push(fixture.stage(StageMode::Append, vec![sales(&[(id, id)])]).await.expect("fits"));
    }
    let tasks: Vec<_> = changes
        .into_iter()
        .zip(2..)
        .map(|(change, number)| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move {
                let transaction = Transaction { app: format!("writer {number}"), number };
                fixture.lake.commit(&change, &transaction, &BTreeMap::new()).await
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("no committer panics") {
            Ok(committed) => {
                assert_eq!(committed.version, 1);
                won += 1;
            }
            Err(error) => assert_eq!(error.code(), code::LAKE_CONFLICT),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(pairs(&fixture).await.len(), 2);
}

#[tokio::test]
async fn readers_see_nothing_of_a_staged_change() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    let staged = fixture.stage(merge_on(&["id"]), vec![sales(&[(1, 11), (2, 20)])]).await;
    let staged = staged.expect("the rows fit");
    assert_eq!(pairs(&fixture).await, [(1, 10)]);
    let preview = fixture.lake.staged_snapshot(&staged).await.expect("it can be read");
    insta_like(
        &fixture.query_on(&preview, "select * from t order by id").await,
        "| id | amount |\n| 1 | 11 |\n| 2 | 20 |",
    );
    // As after a crash between the two: another process finishes.
    let other = Fixture::on(Arc::clone(fixture.lake.store()), |_| {});
    other.commit(&staged, 2).await.expect("nobody else wrote");
    assert_eq!(pairs(&fixture).await, [(1, 11), (2, 20)]);
}

#[tokio::test]
async fn an_error_in_the_rows_leaves_no_file() {
    let fixture = Fixture::on(Arc::new(InMemory::new()), |options| options.target_file_bytes = 1);
    let schema = sales(&[]).schema();
    let broken: Vec<Result<RecordBatch, datafusion::error::DataFusionError>> = vec![
        Ok(sales(&[(1, 10)])),
        Err(datafusion::error::DataFusionError::External(Box::new(Error::new(
            code::FILE_BROKEN,
            "file \"a.csv\" is broken",
        )))),
    ];
    let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), futures::stream::iter(broken));
    let rows = NewRows { schema, streams: vec![Box::pin(stream)] };
    let request = fixture.request(StageMode::Overwrite).await;
    let error = fixture.lake.stage(request, rows).await.expect_err("the stream fails");
    assert_eq!(error.code(), code::FILE_BROKEN);
    assert!(fixture.files().await.is_empty());
    assert!(fixture.snapshot().await.is_none());
}

#[tokio::test]
async fn merge_replaces_inserts_and_counts() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10), (2, 20), (3, 30)])]).await;
    let far = fixture.write(StageMode::Append, vec![sales(&[(1_000, 1)])]).await;
    let change = fixture.write(merge_on(&["id"]), vec![sales(&[(2, 21), (4, 40)])]).await;
    assert_eq!(pairs(&fixture).await, [(1, 10), (2, 21), (3, 30), (4, 40), (1_000, 1)]);
    let counts = change.counts;
    assert_eq!((counts.rows_in, counts.rows_updated, counts.rows_inserted), (2, 1, 1));
    assert_eq!((counts.rows_deleted, counts.rows_copied), (0, 2));
    assert_eq!(change.rows_total, Some(5));
    let kept = fixture.snapshot().await.expect("the table exists");
    assert!(kept.files.contains(&far.adds[0]), "a file without a match is left alone");
}

#[tokio::test]
async fn merge_refuses_two_new_rows_with_one_key() {
    for base in [false, true] {
        let fixture = Fixture::new();
        if base {
            fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
        }
        let twice = vec![sales(&[(7, 1)]), sales(&[(8, 1), (7, 2)])];
        let error = fixture.stage(merge_on(&["id"]), twice).await.expect_err("7 comes twice");
        assert_eq!(error.code(), code::MERGE);
        assert!(error.message().contains("id = 7"), "{error}");
        assert_eq!(fixture.files().await.len(), usize::from(base));
    }
}

#[tokio::test]
async fn delete_insert_takes_rows_with_one_key() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10), (1, 11), (2, 20)])]).await;
    let mode = StageMode::DeleteInsert { unique_key: vec!["id".into()] };
    let change = fixture.write(mode, vec![sales(&[(1, 12), (1, 13), (1, 14)])]).await;
    assert_eq!(pairs(&fixture).await, [(1, 12), (1, 13), (1, 14), (2, 20)]);
    assert_eq!(change.counts.rows_deleted, 2);
}

#[tokio::test]
async fn replace_where_replaces_spans_of_event_time() {
    let fixture = Fixture::new();
    let day = |day: u32| NaiveDate::from_ymd_opt(2024, 1, day).expect("a day of January");
    let dated = |rows: &[(i64, u32)]| {
        let days = rows.iter().map(|row| day(row.1).to_epoch_days());
        batch(vec![
            ("id", ints(rows.iter().map(|row| row.0))),
            ("amount", ints(rows.iter().map(|row| i64::from(row.1)))),
            ("day", Arc::new(Date32Array::from_iter_values(days)) as ArrayRef),
        ])
    };
    let midnight = |d: u32| -> NaiveDateTime { day(d).and_hms_opt(0, 0, 0).expect("midnight") };
    let replace = |spans: &[(u32, u32)]| StageMode::ReplaceWhere {
        event_time: "day".into(),
        intervals: spans
            .iter()
            .map(|(start, end)| Interval { start: midnight(*start), end: midnight(*end) })
            .collect(),
    };
    fixture.write(StageMode::Overwrite, vec![dated(&[(1, 1), (2, 2), (3, 3), (4, 4)])]).await;
    fixture.write(StageMode::Append, vec![dated(&[(5, 2)])]).await;
    fixture.write(StageMode::Append, vec![dated(&[(6, 9)])]).await;
    let change = fixture.write(replace(&[(2, 3), (4, 5)]), vec![dated(&[(7, 2), (8, 8)])]).await;
    assert_eq!(pairs(&fixture).await, [(1, 1), (3, 3), (6, 9), (7, 2), (8, 8)]);
    assert_eq!(change.counts.rows_outside, 1);
    assert_eq!(change.counts.rows_deleted, 3);
    assert_eq!(change.removes.len(), 2);
}

#[tokio::test]
async fn insert_overwrite_replaces_the_partitions_it_touches() {
    let fixture = Fixture::new();
    let in_regions = |rows: &[(i64, &str)]| {
        batch(vec![
            ("id", ints(rows.iter().map(|row| row.0))),
            ("region", texts(rows.iter().map(|row| row.1))),
        ])
    };
    let request = StageRequest {
        partition_by: vec!["region".into()],
        ..fixture.request(StageMode::Overwrite).await
    };
    let base = in_regions(&[(1, "n"), (2, "s"), (3, "n")]);
    let change = fixture.lake.stage(request, rows(vec![base])).await.expect("fits");
    fixture.commit(&change, 1).await.expect("nobody else writes");
    fixture.write(StageMode::InsertOverwrite, vec![in_regions(&[(4, "n"), (5, "e")])]).await;
    insta_like(
        &fixture.query("select * from t order by id").await,
        "| id | region |\n| 2 | s |\n| 4 | n |\n| 5 | e |",
    );
}

#[tokio::test]
async fn older_versions_stay_readable() {
    let fixture = Fixture::on(Arc::new(InMemory::new()), |options| options.checkpoint_interval = 4);
    for id in 0..10 {
        fixture.write(StageMode::Append, vec![sales(&[(id, id)])]).await;
    }
    let names: Vec<_> = fixture.lake.store().list(None).try_collect().await.expect("listed");
    let checkpoints = names.iter().filter(|o| o.location.as_ref().contains(".checkpoint."));
    assert_eq!(checkpoints.count(), 2);
    for version in 0..10 {
        let snapshot = fixture.lake.load(&fixture.table, Some(AsOf::Version(version))).await;
        let snapshot = snapshot.expect("it is kept").expect("it exists");
        assert_eq!(snapshot.rows(), Some(version + 1));
        assert_eq!(snapshot.last_transaction("freshet"), version + 1);
        let at = Some(AsOf::Timestamp(snapshot.timestamp));
        let at = fixture.lake.load(&fixture.table, at).await.expect("it is kept");
        assert_eq!(at.expect("it exists").version, version);
    }
    let beyond = fixture.lake.load(&fixture.table, Some(AsOf::Version(10))).await;
    assert_eq!(beyond.expect_err("there is no such version").code(), code::LAKE);
    let newest = fixture.snapshot().await.expect("the table exists");
    assert_eq!(newest.files[0].stats["id"].nulls, Some(0), "a checkpoint keeps statistics");
    let history = fixture.lake.history(&fixture.table, 3).await.expect("it can be read");
    assert_eq!(history.iter().map(|entry| entry.version).collect::<Vec<_>>(), [9, 8, 7]);
    assert_eq!(history[0].operation, "WRITE");
    let diff = fixture.lake.diff_files(&fixture.table, 3, 5).await.expect("both are kept");
    assert_eq!((diff.added.len(), diff.removed.len()), (2, 0));
}

#[tokio::test]
async fn optimize_joins_files_and_keeps_rows() {
    let fixture = Fixture::new();
    for id in 0..5 {
        fixture.write(StageMode::Append, vec![sales(&[(id, id * 2)])]).await;
    }
    let before = pairs(&fixture).await;
    let report = fixture.lake.optimize(&fixture.table).await.expect("nobody else writes");
    assert_eq!((report.files_removed, report.files_added), (5, 1));
    assert_eq!(pairs(&fixture).await, before);
    let snapshot = fixture.snapshot().await.expect("the table exists");
    assert_eq!(snapshot.last_transaction("freshet"), 5, "it takes no number");
    let again = fixture.lake.optimize(&fixture.table).await.expect("nobody else writes");
    assert_eq!(again.version, None);
}

#[tokio::test]
async fn vacuum_deletes_what_nobody_needs() {
    let fixture = Fixture::new();
    let first = fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    let kept = fixture.stage(StageMode::Append, vec![sales(&[(2, 20)])]).await.expect("fits");
    let orphan = fixture.stage(StageMode::Append, vec![sales(&[(3, 30)])]).await.expect("fits");
    fixture.write(StageMode::Overwrite, vec![sales(&[(4, 40)])]).await;
    let keep = BTreeSet::from([kept.adds[0].path.clone()]);
    let hour = Duration::from_secs(3_600);
    // The store's own clock dates files, so that "now" must be after it.
    let ahead = freshet_core::clock::SystemClock.now_micros() - NEW_YEAR + 60_000_000;
    fixture.clock.advance_micros(ahead);
    let none = fixture.lake.vacuum(&fixture.table, hour, &keep, false).await.expect("it runs");
    assert_eq!(none.files, Vec::<String>::new(), "all files are younger than an hour");
    fixture.clock.advance_micros(2 * 3_600_000_000);
    let dry = fixture.lake.vacuum(&fixture.table, hour, &keep, true).await.expect("it runs");
    assert_eq!(fixture.files().await.len(), 4);
    let report = fixture.lake.vacuum(&fixture.table, hour, &keep, false).await.expect("it runs");
    assert_eq!(report, dry);
    let gone = BTreeSet::from([first.adds[0].path.clone(), orphan.adds[0].path.clone()]);
    assert_eq!(report.files.into_iter().collect::<BTreeSet<_>>(), gone);
    assert_eq!(pairs(&fixture).await, [(4, 40)]);
    assert_eq!(fixture.files().await.len(), 2);
}

#[tokio::test]
async fn old_log_entries_go_and_every_version_from_the_checkpoint_on_stays() {
    let fixture = Fixture::on(Arc::new(InMemory::new()), |options| options.checkpoint_interval = 4);
    for id in 0..10 {
        fixture.write(StageMode::Append, vec![sales(&[(id, id)])]).await;
    }
    let hour = Duration::from_secs(3_600);
    let nothing = BTreeSet::new();
    let entries = async || {
        let listed: Vec<_> = fixture.lake.store().list(None).try_collect().await.expect("listed");
        let of_log = |path: &str| path.contains("_delta_log/0");
        let mut names: Vec<_> =
            listed.iter().map(|o| o.location.to_string()).filter(|path| of_log(path)).collect();
        names.sort();
        names
    };
    let before = entries().await;
    assert_eq!(before.len(), 12, "ten entries, two checkpoints");
    let ahead = freshet_core::clock::SystemClock.now_micros() - NEW_YEAR;
    fixture.clock.advance_micros(ahead + 24 * 3_600_000_000);
    fixture.lake.vacuum(&fixture.table, hour, &nothing, false).await.expect("it runs");
    assert_eq!(entries().await, before, "a day is not old");
    fixture.clock.advance_micros(31 * 24 * 3_600_000_000);
    fixture.lake.vacuum(&fixture.table, hour, &nothing, true).await.expect("it runs");
    assert_eq!(entries().await, before, "a dry run deletes nothing");
    fixture.lake.vacuum(&fixture.table, hour, &nothing, false).await.expect("it runs");
    let left = entries().await;
    assert_eq!(left.len(), 4, "versions 7 to 9 and the checkpoint of 7: {left:?}");
    for version in 7..10 {
        let kept = fixture.lake.load(&fixture.table, Some(AsOf::Version(version))).await;
        let kept = kept.expect("it is kept").expect("it exists");
        assert_eq!(
            (kept.rows(), kept.last_transaction("freshet")),
            (Some(version + 1), version + 1)
        );
    }
    let gone = fixture.lake.load(&fixture.table, Some(AsOf::Version(6))).await;
    assert_eq!(gone.expect_err("it is gone").code(), code::LAKE);
    fixture.write(StageMode::Append, vec![sales(&[(10, 10)])]).await;
    assert_eq!(fixture.snapshot().await.expect("the table exists").rows(), Some(11));
}

#[tokio::test]
async fn dropped_tables_are_gone() {
    let fixture = Fixture::new();
    fixture.write(StageMode::Overwrite, vec![sales(&[(1, 10)])]).await;
    assert_eq!(fixture.lake.tables().await.expect("listed"), std::slice::from_ref(&fixture.table));
    fixture.lake.drop_table(&fixture.table).await.expect("it can be deleted");
    fixture.lake.drop_table(&fixture.table).await.expect("a second time changes nothing");
    assert!(fixture.snapshot().await.is_none());
    assert!(fixture.files().await.is_empty());
    assert!(fixture.lake.tables().await.expect("listed").is_empty());
}

#[tokio::test]
async fn broken_logs_are_errors_that_name_the_table() {
    use object_store::ObjectStoreExt;
    for broken in
        ["{", "{\"add\":{\"path\":5}}", "[]", "", "\u{0}", "{\"metaData\":{\"id\":\"x\"}}"]
    {
        let fixture = Fixture::new();
        let entry =
            object_store::path::Path::from("main/sales/_delta_log/00000000000000000000.json");
        fixture.lake.store().put(&entry, broken.as_bytes().to_vec().into()).await.expect("memory");
        let error = fixture.lake.load(&fixture.table, None).await.expect_err("it is broken");
        assert_eq!(error.code(), code::LAKE);
        assert!(error.message().contains("main.sales"), "{error}");
    }
}

#[test]
fn staged_changes_of_format_1_are_read() {
    let kept = include_str!("lake/staged_change_1.json");
    let change: StagedChange = serde_json::from_str(kept).expect("intents of old are read");
    assert_eq!(change.table, TableName::new("main", "sales"));
    assert_eq!(change.adds[0].stats["id"].min, Some(1.into()));
    assert_eq!(change.counts.rows_updated, 1);
    let again: serde_json::Value = serde_json::to_value(&change).expect("it is plain data");
    let kept: serde_json::Value = serde_json::from_str(kept).expect("it is JSON");
    assert_eq!(again, kept, "a new field needs a new format and a new fixture");
}

/// What a merge should give, done the obvious way.
fn merged(base: &[(i64, i64)], new: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let keys: BTreeSet<_> = new.iter().map(|row| row.0).collect();
    let mut rows: Vec<_> = base.iter().filter(|row| !keys.contains(&row.0)).copied().collect();
    rows.extend(new);
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn merges_equal_the_obvious_way(
        base in proptest::collection::vec((0..200_i64, 0..5_i64), 0..120),
        steps in proptest::collection::vec(
            proptest::collection::btree_map(0..200_i64, 5..9_i64, 0..60),
            1..4,
        ),
        memory in prop_oneof![Just(1_usize), Just(600), Just(64 << 20)],
        files in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let fixture = Fixture::on(Arc::new(InMemory::new()), |options| {
                options.merge_memory_bytes = memory;
            });
            let size = base.len() / files + 1;
            let mut parts: Vec<_> = base.chunks(size).map(sales).collect();
            if parts.is_empty() {
                parts.push(sales(&[]));
            }
            fixture.write(StageMode::Overwrite, parts).await;
            let mut expected = base.clone();
            expected.sort_unstable();
            for step in &steps {
                let new: Vec<_> = step.iter().map(|(id, amount)| (*id, *amount)).collect();
                let change = fixture.write(merge_on(&["id"]), vec![sales(&new)]).await;
                let before = expected.len();
                expected = merged(&expected, &new);
                let counts = change.counts;
                prop_assert_eq!(counts.rows_inserted + counts.rows_updated, new.len() as u64);
                prop_assert_eq!(
                    before as u64 + counts.rows_inserted - counts.rows_deleted,
                    expected.len() as u64
                );
                prop_assert_eq!(pairs(&fixture).await, expected.clone());
                let snapshot = fixture.snapshot().await.expect("the table exists");
                prop_assert_eq!(snapshot.rows(), Some(expected.len() as u64));
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn null_is_a_key_like_any_other() {
    let fixture = Fixture::new();
    let keyed = |rows: &[(Option<i64>, &str, i64)]| {
        batch(vec![
            ("id", Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()) as ArrayRef),
            ("shop", texts(rows.iter().map(|row| row.1))),
            ("amount", ints(rows.iter().map(|row| row.2))),
        ])
    };
    fixture
        .write(
            StageMode::Overwrite,
            vec![keyed(&[(None, "a", 1), (None, "b", 2), (Some(1), "a", 3)])],
        )
        .await;
    fixture
        .write(merge_on(&["id", "shop"]), vec![keyed(&[(None, "b", 20), (Some(2), "a", 4)])])
        .await;
    insta_like(
        &fixture.query("select * from t order by amount").await,
        "| id | shop | amount |\n|  | a | 1 |\n| 1 | a | 3 |\n| 2 | a | 4 |\n|  | b | 20 |",
    );
}

fn local(folder: &std::path::Path) -> Arc<dyn ObjectStore> {
    Arc::new(LocalStore::new(Arc::new(OsFileSystem), folder).expect("the folder can be made"))
}

fn schema_of(fields: &[(&str, DataType)]) -> SchemaRef {
    let fields: Vec<_> =
        fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect();
    Arc::new(Schema::new(fields))
}

#[test]
fn reconcile_widens_and_never_narrows() {
    use DataType as T;
    let fits = |table: T, result: T| {
        let (table, result) = (schema_of(&[("c", table)]), schema_of(&[("c", result)]));
        freshet_engine::lake::reconcile(&table, &result, OnSchemaChange::Ignore).is_ok()
    };
    assert!(fits(T::Int64, T::Int32) && !fits(T::Int32, T::Int64));
    assert!(fits(T::Decimal128(12, 2), T::Decimal128(10, 2)));
    assert!(fits(T::Decimal128(21, 2), T::Int64) && !fits(T::Decimal128(12, 2), T::Int64));
    assert!(!fits(T::Decimal128(12, 2), T::Decimal128(12, 3)));
    assert!(fits(T::Utf8View, T::Utf8) && !fits(T::Utf8View, T::Int64));
    assert!(fits(T::Utf8View, T::Dictionary(Box::new(T::Int32), Box::new(T::Utf8))));
}
