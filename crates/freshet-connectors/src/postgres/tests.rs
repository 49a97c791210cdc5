//! Against a real server: `FRESHET_TEST_POSTGRES` names it (`cargo xtask test` starts one). Each test
//! has a schema of its own.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    StringArray, StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::Int32Type;
use bytes::{Buf, BytesMut};
use freshet_core::clock::ManualClock;
use freshet_core::error::ErrorKind;
use freshet_core::sink::{CommitId, LoadMode};
use freshet_core::source::Interval;
use tokio_postgres::config::Host;

use super::*;

mod tls;

fn server() -> tokio_postgres::Config {
    std::env::var("FRESHET_TEST_POSTGRES")
        .expect("FRESHET_TEST_POSTGRES names a server: `cargo xtask test` starts one and sets it")
        .parse()
        .expect("FRESHET_TEST_POSTGRES is a connection string")
}

fn options(schema: &str) -> serde_json::Map<String, Value> {
    let server = server();
    let host = match &server.get_hosts()[0] {
        Host::Tcp(host) => host.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let options = serde_json::json!({
        "host": host,
        "port": server.get_ports()[0],
        "user": server.get_user().expect("a user"),
        "password": server.get_password().map(text),
        "database": server.get_dbname().expect("a database"),
        "schema": schema,
    });
    options.as_object().expect("an object").clone()
}

/// A schema of one test, empty at its start.
struct Fixture {
    schema: String,
    client: tokio_postgres::Client,
}

impl Fixture {
    async fn new(schema: &str) -> Self {
        let options: PostgresOptions =
            serde_json::from_value(Value::Object(options(schema))).expect("valid options");
        let client = connect::open(&options).await.expect("the server answers");
        client
            .batch_execute(&format!(
                "set client_min_messages = warning; drop schema if exists {schema} cascade; create schema {schema}",
                schema = names::quote(schema)
            ))
            .await
            .expect("the schema can be made");
        Self { schema: schema.to_owned(), client }
    }

    fn sink(&self, table: &str) -> Arc<dyn Sink> {
        let context = ConnectorContext {
            project_dir: std::env::temp_dir(),
            connection: options(&self.schema),
            clock: Arc::new(ManualClock::default()),
        };
        PostgresConnector.sink(&serde_json::json!({}), table, &context).expect("valid options")
    }

    /// Rows of a query, each as its columns' text joined with `|`, nulls as `-`.
    async fn rows(&self, query: &str) -> Vec<String> {
        self.client
            .batch_execute(&format!("set search_path to {}", names::quote(&self.schema)))
            .await
            .expect("the schema is there");
        let messages = self.client.simple_query(query).await.expect("the query is valid");
        let row = |row: &tokio_postgres::SimpleQueryRow| {
            (0..row.len())
                .map(|i| row.get(i).unwrap_or("-").to_owned())
                .collect::<Vec<_>>()
                .join("|")
        };
        messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(r) => Some(row(r)),
                _ => None,
            })
            .collect()
    }

    async fn run(&self, statement: &str) {
        self.client
            .batch_execute(&format!(
                "set search_path to {}; {statement}",
                names::quote(&self.schema)
            ))
            .await
            .expect("the statement is valid");
    }
}

fn request(number: u64, mode: LoadMode) -> LoadRequest {
    LoadRequest {
        id: CommitId { writer: "dev/model".into(), number },
        mode,
        unique_key: vec!["k".into()],
        intervals: None,
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .expect("columns of one length")
}

fn pairs(rows: &[(Option<i32>, &str)]) -> RecordBatch {
    let keys: Int32Array = rows.iter().map(|(key, _)| *key).collect();
    let values: StringArray = rows.iter().map(|(_, value)| Some(*value)).collect();
    batch(vec![("k", Arc::new(keys)), ("v", Arc::new(values))])
}

async fn stage(
    sink: &Arc<dyn Sink>,
    request: LoadRequest,
    batch: RecordBatch,
) -> Result<StagedLoad> {
    let schema = batch.schema();
    sink.stage(request, schema, futures::stream::iter([Ok(batch)]).boxed()).await
}

async fn load(
    sink: &Arc<dyn Sink>,
    request: LoadRequest,
    batch: RecordBatch,
) -> Result<EdgeCounts> {
    let staged = stage(sink, request, batch).await?;
    sink.commit(&staged).await
}

#[tokio::test]
async fn every_type_arrives_as_it_was() {
    let fixture = Fixture::new("freshet every type").await;
    let sink = fixture.sink("Odd \"name\"");
    let dictionary: DictionaryArray<Int32Type> = [Some("a"), None].into_iter().collect();
    let timestamps = vec![Some(1_790_000_000_123_456), None];
    let rows = batch(vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i8", Arc::new(Int8Array::from(vec![Some(-128), None]))),
        ("i16", Arc::new(Int16Array::from(vec![Some(-32768), None]))),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None]))),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MAX), None]))),
        ("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None]))),
        ("f32", Arc::new(Float32Array::from(vec![Some(1.5), None]))),
        ("f64", Arc::new(Float64Array::from(vec![Some(f64::NAN), None]))),
        (
            "dec",
            Arc::new(
                Decimal128Array::from(vec![Some(-123_456_789), None])
                    .with_precision_and_scale(12, 2)
                    .expect("it fits"),
            ),
        ),
        ("text", Arc::new(StringArray::from(vec![Some("a,\"b\"\n\t\\N"), None]))),
        ("view", Arc::new(StringViewArray::from(vec![Some("é and more than twelve bytes"), None]))),
        ("dict", Arc::new(dictionary)),
        ("date", Arc::new(Date32Array::from(vec![Some(-719_528), None]))),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(86_399_999_999), None]))),
        ("ts", Arc::new(TimestampMicrosecondArray::from(timestamps.clone()))),
        (
            "tstz",
            Arc::new(TimestampMicrosecondArray::from(timestamps).with_timezone("Europe/Berlin")),
        ),
        ("bin", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None]))),
    ]);
    let counts = load(&sink, request(1, LoadMode::Replace), rows).await.expect("it loads");
    assert_eq!((counts.rows_in, counts.rows_out), (2, 2));
    assert_eq!(
        fixture.rows("select * from \"Odd \"\"name\"\"\" order by bool nulls last").await,
        [
            "t|-128|-32768|-2147483648|9223372036854775807|18446744073709551615|1.5|NaN|-1234567.89\
             |a,\"b\"\n\t\\N|é and more than twelve bytes|a|0001-01-01 BC|23:59:59.999999\
             |2026-09-21 14:13:20.123456|2026-09-21 14:13:20.123456+00|\\x00ff",
            "-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-",
        ]
    );
}

#[test]
fn numbers_are_encoded_as_they_are_written() {
    let mut cases: Vec<(i128, u32)> = vec![(0, 0), (0, 5), (1, 38), (-1, 37), (i128::MAX, 38)];
    for digits in 0..38 {
        for scale in 0..=38 {
            let power = 10_i128.pow(digits);
            cases.extend([(power, scale), (-power + 1, scale), (power * 3 + 7, scale)]);
        }
    }
    for (value, scale) in cases {
        let mut out = BytesMut::new();
        encode::numeric(value, scale, &mut out);
        assert_eq!(out.get_i32() as usize, out.len(), "{value} {scale}");
        let (count, weight) = (out.get_i16(), i32::from(out.get_i16()));
        let (sign, shown) = (out.get_u16(), u32::from(out.get_u16()));
        // The value in units of 10^-40, by the definition of the format. Its 40 + 39 digits are
        // more than any integer type has: compare as decimal digits.
        let mut digits = String::new();
        for place in (-10..=9).rev() {
            let index = weight - place;
            let group = if (0..i32::from(count)).contains(&index) {
                let at = 2 * index as usize;
                u16::from_be_bytes([out[at], out[at + 1]])
            } else {
                0
            };
            digits.push_str(&format!("{group:04}"));
        }
        let expected = format!("{}{}", value.unsigned_abs(), "0".repeat(40 - scale as usize));
        assert_eq!(
            digits.trim_start_matches('0'),
            expected.trim_start_matches('0'),
            "{value} {scale}"
        );
        assert_eq!((sign, shown), (if value < 0 { 0x4000 } else { 0 }, scale));
        let first = out.len().checked_sub(2 * count as usize);
        assert_eq!(first, Some(0), "all groups are there");
        if count > 0 {
            assert_ne!(&out[..2], &[0, 0], "no leading group of zeros: {value} {scale}");
        }
    }
}

#[tokio::test]
async fn a_repeated_commit_changes_nothing() {
    let fixture = Fixture::new("freshet_repeat").await;
    let sink = fixture.sink("t");
    let append = || request(1, LoadMode::Append);
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 0);
    let staged = stage(&sink, append(), pairs(&[(Some(1), "a")])).await.expect("stages");
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 0, "staged is not committed");
    let first = sink.commit(&staged).await.expect("commits");
    let second = sink.commit(&staged).await.expect("commits again");
    assert_eq!(first, second);
    // The same commit staged anew, as after a crash between commit and its record elsewhere.
    load(&sink, append(), pairs(&[(Some(1), "a")])).await.expect("loads again");
    assert_eq!(fixture.rows("select * from t").await, ["1|a"]);
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 1);
    assert_eq!(sink.committed("dev/other").await.expect("answers"), 0);
    load(&sink, request(2, LoadMode::Append), pairs(&[(Some(2), "b")])).await.expect("loads");
    assert_eq!(fixture.rows("select * from t order by k").await, ["1|a", "2|b"]);
    let left = "select relname from pg_class where relname like '\\_freshet\\_stage%' \
                and relnamespace = 'freshet_repeat'::regnamespace";
    assert_eq!(fixture.rows(left).await, Vec::<String>::new(), "no staging table is left");
}

#[tokio::test]
async fn commits_at_once_take_effect_once() {
    let fixture = Fixture::new("freshet_at_once").await;
    let sink = fixture.sink("t");
    let rows = pairs(&[(Some(1), "a"), (Some(2), "b")]);
    let staged = stage(&sink, request(1, LoadMode::Append), rows).await.expect("stages");
    let commits = futures::future::join_all((0..4).map(|_| sink.commit(&staged))).await;
    for counts in commits {
        assert_eq!(counts.expect("commits").rows_out, 2);
    }
    assert_eq!(fixture.rows("select count(*) from t").await, ["2"]);
}

#[tokio::test]
async fn a_table_that_was_dropped_is_loaded_again() {
    let fixture = Fixture::new("freshet_dropped").await;
    let sink = fixture.sink("t");
    load(&sink, request(5, LoadMode::Replace), pairs(&[(Some(1), "a")])).await.expect("loads");
    fixture.run("drop table t").await;
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 0);
    load(&sink, request(5, LoadMode::Replace), pairs(&[(Some(1), "a")])).await.expect("loads");
    assert_eq!(fixture.rows("select * from t").await, ["1|a"]);
}

#[tokio::test]
async fn replace_leaves_exactly_the_new_rows() {
    let fixture = Fixture::new("freshet_replace").await;
    let sink = fixture.sink("t");
    let old = pairs(&[(Some(1), "a"), (Some(2), "b")]);
    load(&sink, request(1, LoadMode::Replace), old).await.expect("loads");
    load(&sink, request(2, LoadMode::Replace), pairs(&[(Some(3), "c")])).await.expect("loads");
    assert_eq!(fixture.rows("select * from t").await, ["3|c"]);
}

#[tokio::test]
async fn merge_replaces_by_key_and_nulls_are_one_key() {
    let fixture = Fixture::new("freshet_merge").await;
    let sink = fixture.sink("t");
    let old = pairs(&[(Some(1), "a"), (Some(2), "b"), (None, "n")]);
    load(&sink, request(1, LoadMode::Merge), old).await.expect("loads");
    fixture.run("alter table t add column kept text default 'mine'").await;
    let new = pairs(&[(Some(2), "B"), (Some(3), "c"), (None, "N")]);
    load(&sink, request(2, LoadMode::Merge), new).await.expect("loads");
    assert_eq!(
        fixture.rows("select * from t order by k nulls last").await,
        ["1|a|mine", "2|B|mine", "3|c|mine", "-|N|mine"]
    );
    let doubled = pairs(&[(Some(4), "x"), (Some(4), "y")]);
    let error = load(&sink, request(3, LoadMode::Merge), doubled).await.expect_err("ambiguous");
    assert_eq!(error.code(), code::MERGE);
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 2);
}

#[tokio::test]
async fn replace_interval_touches_only_its_days() {
    let fixture = Fixture::new("freshet_interval").await;
    let sink = fixture.sink("t");
    let days = |rows: &[(i32, &str)]| {
        let dates: Date32Array = rows.iter().map(|(day, _)| Some(*day)).collect();
        let values: StringArray = rows.iter().map(|(_, value)| Some(*value)).collect();
        batch(vec![("day", Arc::new(dates)), ("v", Arc::new(values))])
    };
    let span = |from: i64, to: i64| {
        let at = |day: i64| {
            chrono::DateTime::from_timestamp(day * 86_400, 0).expect("in range").naive_utc()
        };
        Interval { start: at(from), end: at(to) }
    };
    let of = |number, intervals| LoadRequest {
        intervals: Some(("day".into(), intervals)),
        ..request(number, LoadMode::ReplaceInterval)
    };
    let all = days(&[(10, "a"), (11, "b"), (12, "c"), (13, "d")]);
    load(&sink, of(1, vec![span(10, 14)]), all).await.expect("loads");
    let again = days(&[(11, "B"), (12, "C"), (12, "CC")]);
    load(&sink, of(2, vec![span(12, 13), span(11, 12)]), again).await.expect("loads");
    assert_eq!(fixture.rows("select v from t order by day, v").await, ["a", "B", "C", "CC", "d"]);
    let outside = days(&[(20, "z")]);
    let error = load(&sink, of(3, vec![span(11, 12)]), outside).await.expect_err("outside");
    assert_eq!(error.code(), code::LOAD);
    assert_eq!(fixture.rows("select count(*) from t").await, ["5"]);
}

#[tokio::test]
async fn new_columns_are_added_and_other_types_are_refused() {
    let fixture = Fixture::new("freshet_columns").await;
    let sink = fixture.sink("t");
    fixture.run("create table t (k bigint, own text); insert into t values (1, 'x')").await;
    load(&sink, request(1, LoadMode::Merge), pairs(&[(Some(1), "a")])).await.expect("loads");
    assert_eq!(fixture.rows("select k, own, v from t").await, ["1|x|a"]);
    let wrong = batch(vec![
        ("k", Arc::new(StringArray::from(vec!["1"]))),
        ("v", Arc::new(Int64Array::from(vec![1]))),
    ]);
    let error = load(&sink, request(2, LoadMode::Append), wrong).await.expect_err("other types");
    assert_eq!(error.all().count(), 2, "each column is named: {error:?}");
    assert_eq!((error.code(), error.kind()), (code::LOAD, ErrorKind::External));
    assert!(error.hint_text().expect("a way out").contains("alter table"), "{error:?}");
    fixture.run("create view w as select 1").await;
    let view = fixture.sink("w");
    let error = load(&view, request(1, LoadMode::Replace), pairs(&[])).await.expect_err("a view");
    assert!(error.message().contains("not a table"), "{error:?}");
}

#[tokio::test]
async fn a_load_that_fails_leaves_the_target_as_it_was() {
    let fixture = Fixture::new("freshet_fails").await;
    let sink = fixture.sink("t");
    fixture.run("create table t (k int, v varchar(3)); insert into t values (1, 'a')").await;
    let long = pairs(&[(Some(2), "b"), (Some(3), "too long")]);
    let error = load(&sink, request(1, LoadMode::Replace), long).await.expect_err("too long");
    assert_eq!(error.code(), code::LOAD);
    assert!(!error.is_retryable());
    assert_eq!(fixture.rows("select * from t").await, ["1|a"]);
    assert_eq!(sink.committed("dev/model").await.expect("answers"), 0);
}

#[tokio::test]
async fn staged_rows_that_are_gone_are_not_taken_for_none() {
    let fixture = Fixture::new("freshet_gone").await;
    let sink = fixture.sink("t");
    let staged = stage(&sink, request(1, LoadMode::Replace), pairs(&[(Some(1), "a")]))
        .await
        .expect("stages");
    let token: Token = serde_json::from_str(&staged.token).expect("ours");
    // What a crash of the server does to an unlogged table.
    fixture.run(&format!("truncate {}", token.stage.sql())).await;
    let error = sink.commit(&staged).await.expect_err("rows are missing");
    assert!(error.is_retryable(), "{error:?}");
    sink.abort(&staged).await.expect("aborts");
    sink.abort(&staged).await.expect("aborts twice");
    assert!(sink.commit(&staged).await.expect_err("nothing is staged").is_retryable());
}

#[tokio::test]
async fn a_broken_stream_stages_nothing() {
    let fixture = Fixture::new("freshet_broken").await;
    let sink = fixture.sink("t");
    let good = pairs(&[(Some(1), "a")]);
    let schema = good.schema();
    let rows = futures::stream::iter([Ok(good), Err(Error::new(code::EXECUTION, "it broke"))]);
    let error = sink
        .stage(request(1, LoadMode::Append), schema, rows.boxed())
        .await
        .expect_err("the stream breaks");
    assert_eq!(error.code(), code::EXECUTION);
    load(&sink, request(1, LoadMode::Append), pairs(&[(Some(2), "b")])).await.expect("loads");
    assert_eq!(fixture.rows("select * from t").await, ["2|b"]);
}

#[tokio::test]
async fn text_that_postgres_cannot_keep_names_its_column() {
    let fixture = Fixture::new("freshet_nul").await;
    let sink = fixture.sink("t");
    let error = stage(&sink, request(1, LoadMode::Append), pairs(&[(Some(1), "a\0b")]))
        .await
        .expect_err("NUL is refused");
    assert!(error.message().contains("\"v\""), "{error:?}");
    assert_eq!(error.code(), code::LOAD);
}

#[tokio::test]
async fn many_rows_cross_block_boundaries() {
    let fixture = Fixture::new("freshet_many").await;
    let sink = fixture.sink("t");
    let keys: Int64Array = (0..100_000).collect();
    let values: StringViewArray =
        (0..100_000).map(|i| (i % 7 != 0).then(|| format!("value {i}"))).collect();
    let rows = batch(vec![("k", Arc::new(keys)), ("v", Arc::new(values))]);
    load(&sink, request(1, LoadMode::Replace), rows).await.expect("loads");
    assert_eq!(
        fixture.rows("select count(*), count(v), sum(k), max(v) from t").await,
        ["100000|85714|4999950000|value 99999"]
    );
}

#[tokio::test]
async fn a_wrong_password_is_no_reason_to_try_again_and_is_not_printed() {
    let fixture = Fixture::new("freshet_password").await;
    let mut connection = options(&fixture.schema);
    connection.insert("user".into(), "nobody_here".into());
    connection.insert("password".into(), "hunter2".into());
    let context = ConnectorContext {
        project_dir: std::env::temp_dir(),
        connection,
        clock: Arc::new(ManualClock::default()),
    };
    let sink = PostgresConnector.sink(&Value::Null, "t", &context).expect("the options are valid");
    let error = sink.committed("w").await.expect_err("there is no such user");
    assert_eq!(error.code(), code::CONNECTION);
    assert!(!error.is_retryable());
    assert!(!format!("{error:?} {sink:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let mut connection = options("s");
    connection.insert("port".into(), 1.into());
    let context = ConnectorContext {
        project_dir: std::env::temp_dir(),
        connection,
        clock: Arc::new(ManualClock::default()),
    };
    let sink = PostgresConnector.sink(&Value::Null, "t", &context).expect("the options are valid");
    let error = sink.committed("w").await.expect_err("nobody listens there");
    assert_eq!(error.code(), code::CONNECTION);
    assert!(error.is_retryable());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, wrong) in [
        (serde_json::json!({"sslmode": "verify-full"}), "verify-full"),
        (serde_json::json!({"hots": "x"}), "hots"),
        (serde_json::json!({"host": ""}), "host"),
        (serde_json::json!({"port": "70000"}), "70000 is no port"),
        (serde_json::json!({"port": true}), "port"),
    ] {
        let error = PostgresConnector.validate(&options).expect_err("wrong");
        assert_eq!(error.code(), code::CONFIG);
        assert!(error.message().contains(wrong), "{error:?}");
    }
    for table in ["", "a.", "a.b.c", &"x".repeat(64)] {
        assert!(Table::parse(table, "public").is_err(), "{table}");
    }
}

#[test]
fn a_port_from_the_environment_is_text() {
    let options: PostgresOptions =
        serde_json::from_value(serde_json::json!({"port": "54329"})).expect("a port");
    assert_eq!(options.port, 54_329);
}

#[test]
fn names_of_staging_tables_are_short_and_distinct() {
    let table = |name: &str| Table { schema: "public".into(), name: name.into() };
    let long = table(&"é".repeat(31));
    assert!(stage_name("w", &long, u64::MAX).len() <= 63);
    assert_ne!(stage_name("w", &table("t"), 1), stage_name("v", &table("t"), 1));
    assert_ne!(stage_name("w", &table("t"), 1), stage_name("w", &table("t"), 2));
}
