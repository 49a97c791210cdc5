//! A log behind the registry: pushed to, read, decoded.

use arrow::util::pretty::pretty_format_batches;
use freshet_core::contract::{Constraint, Contract, ContractColumn};
use freshet_core::error::code;
use freshet_core::format::Decoding;
use freshet_core::ingest::{AppendRequest, Ingest};
use freshet_core::record::{Decoded, Rule};
use freshet_core::registry::{Connector, ConnectorContext, SourceSpec};
use freshet_core::source::Position;
use freshet_core::stream::{Block, Fetcher, Partition, Start, StreamSource};
use freshet_core::types::ColumnType;
use serde_json::{Value, json};

use super::super::reader::{LogFetcher, telling};
use super::super::{Fsync, LogConnector, Retention};
use super::*;

fn context(folder: &Path) -> ConnectorContext {
    ConnectorContext {
        project_dir: folder.to_owned(),
        connection: serde_json::Map::new(),
        clock: Arc::new(ManualClock::new(1_790_000_000_000_000)),
    }
}

fn spec() -> SourceSpec {
    let mut name = ContractColumn::new("name", ColumnType::Text);
    name.constraints.push(Constraint::MaxLength(3));
    let columns = vec![ContractColumn::new("id", ColumnType::Int64).not_null(), name];
    SourceSpec {
        name: "shop.orders".into(),
        contract: Arc::new(Contract { columns, ..Contract::default() }),
        max_bad: "100%".parse().unwrap(),
        settle: "0s".parse().unwrap(),
    }
}

struct Both {
    folder: tempfile::TempDir,
    connector: LogConnector,
    options: Value,
    ingest: Arc<dyn Ingest>,
    source: Arc<dyn StreamSource>,
}

fn both(options: Value) -> Both {
    let folder = tempfile::tempdir().unwrap();
    let connector = LogConnector::new(crate::formats());
    let context = context(folder.path());
    let source = connector.stream(&options, spec(), &context).unwrap();
    let ingest = connector.ingest(&options, spec(), &context).unwrap();
    Both { folder, connector, options, ingest, source }
}

fn request(records: &[(&str, &str)]) -> AppendRequest {
    let record = |(key, value): &(&str, &str)| match *key {
        "" => Record::new(value.to_string()),
        key => Record::keyed(key.to_string(), value.to_string()),
    };
    AppendRequest { records: records.iter().map(record).collect(), ..AppendRequest::default() }
}

async fn fetcher(source: &dyn StreamSource, start: Start) -> Box<dyn Fetcher> {
    let mut fetcher = source.fetcher().await.unwrap();
    for partition in source.partitions().await.unwrap() {
        fetcher.add(&partition, start).await.unwrap();
    }
    fetcher
}

/// Blocks until so many records were read.
async fn blocks(fetcher: &mut dyn Fetcher, records: u64) -> Vec<Block> {
    let mut found = Vec::new();
    let mut count = 0;
    while count < records {
        let block = fetcher.fetch().await.unwrap().unwrap();
        count += block.next.0 - block.position.0;
        found.push(block);
    }
    assert_eq!(count, records);
    found
}

fn decode(source: &dyn StreamSource, blocks: &[Block], projection: &[usize]) -> Decoded {
    let mut decoder = source.decoder(projection).unwrap();
    let mut out = Decoded::default();
    for block in blocks {
        assert_eq!(decoder.decode(block, &mut out).unwrap(), Decoding::Done);
        assert!(out.balances());
    }
    out
}

fn table(decoded: &Decoded) -> String {
    pretty_format_batches(&decoded.batches).unwrap().to_string()
}

#[tokio::test]
async fn records_become_rows_with_their_places_and_bad_ones_dead_letters() {
    let both = both(json!({"partitions": 1}));
    let records = [
        ("a", r#"{"id":1,"name":"x"}"#),
        ("", "{\"id\":2,\n \"name\":\"two\"\n}"),
        ("b", "not\njson\n{\"id\":99}"),
        ("c", r#"{"id":3,"name":"long"}"#),
        ("d", ""),
        ("e", "{\"id\":4}{\"id\":5}"),
        ("f", r#"{"id":6,"name":null}"#),
    ];
    let appended = both.ingest.append(request(&records)).await.unwrap();
    assert_eq!((appended.kept, appended.accepted), (true, 3));
    let rejected: Vec<_> = appended.rejects.iter().map(|r| (r.offset, r.rule)).collect();
    let expect = [(2, Rule::Syntax), (3, Rule::Constraint), (4, Rule::Syntax), (5, Rule::Syntax)];
    assert_eq!(rejected, expect);
    let mut fetcher = fetcher(&*both.source, Start::Earliest).await;
    let blocks = blocks(&mut *fetcher, 7).await;
    let decoded = decode(&*both.source, &blocks, &[1, 0, 2, 3, 4, 5]);
    assert_eq!(decoded.rejects.iter().map(|r| (r.offset, r.rule)).collect::<Vec<_>>(), expect);
    assert_eq!(decoded.rejects[0].raw.as_ref(), records[2].1.as_bytes());
    insta(
        &table(&decoded),
        "
+------+----+------------+---------+----------------------------+------+
| name | id | _partition | _offset | _time                      | _key |
+------+----+------------+---------+----------------------------+------+
| x    | 1  | 0          | 0       | 2026-09-21T14:13:20        | a    |
| two  | 2  | 0          | 1       | 2026-09-21T14:13:20        |      |
|      | 6  | 0          | 6       | 2026-09-21T14:13:20        | f    |
+------+----+------------+---------+----------------------------+------+",
    );
    assert_eq!(decode(&*both.source, &blocks, &[]).good, 3);
}

/// Compares tables, blanks left out.
fn insta(found: &str, expect: &str) {
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with('|'));
        lines.map(|line| line.split_whitespace().collect()).collect()
    };
    assert_eq!(plain(found), plain(expect), "{found}");
}

#[tokio::test]
async fn strict_keeps_nothing_unless_all_are_good() {
    let both = both(json!({"partitions": 2}));
    let bad = AppendRequest { strict: true, ..request(&[("", "{\"id\":1}"), ("", "{}")]) };
    let appended = both.ingest.append(bad).await.unwrap();
    assert_eq!((appended.kept, appended.accepted, appended.rejects.len()), (false, 1, 1));
    let good = AppendRequest { strict: true, ..request(&[("k", "{\"id\":1}")]) };
    assert!(both.ingest.append(good).await.unwrap().kept);
    let mut fetcher = fetcher(&*both.source, Start::Earliest).await;
    assert_eq!(decode(&*both.source, &blocks(&mut *fetcher, 1).await, &[0]).good, 1);
}

#[tokio::test]
async fn formats_csv_and_raw_take_a_record_for_a_message() {
    let both = both(
        json!({"partitions": 1, "format": "csv", "format_options": {"quoted_newlines": true}}),
    );
    let records = [
        ("", "1,a"),
        ("", "2,\"b\nc\""),
        ("", "3,\"open"),
        ("", "4,d"),
        ("", ""),
        ("", "5,e\n6,f"),
    ];
    both.ingest.append(request(&records)).await.unwrap();
    let mut reading = fetcher(&*both.source, Start::Earliest).await;
    let decoded = decode(&*both.source, &blocks(&mut *reading, 6).await, &[0, 1, 3]);
    let rejects: Vec<_> = decoded.rejects.iter().map(|r| r.offset).collect();
    assert_eq!(rejects, [2, 4, 5], "{:?}", decoded.rejects);
    let table = table(&decoded);
    assert!(table.contains("| 4  | d    | 3       |"), "{table}");

    let mut spec = spec();
    spec.contract = Arc::default();
    let options = json!({"partitions": 1, "format": "raw", "path": "raw"});
    let context = context(both.folder.path());
    let source = both.connector.stream(&options, spec.clone(), &context).unwrap();
    let ingest = both.connector.ingest(&options, spec, &context).unwrap();
    ingest.append(request(&[("", "a\nb"), ("", ""), ("", "c")])).await.unwrap();
    let mut reading = fetcher(&*source, Start::Earliest).await;
    let decoded = decode(&*source, &blocks(&mut *reading, 3).await, &[0, 2]);
    let expect = "+-------+---------+\n| value | _offset |\n+-------+---------+\n| a     | 0       |\n| b     |         |\n|       | 1       |\n| c     | 2       |\n+-------+---------+";
    assert_eq!(pretty_format_batches(&decoded.batches).unwrap().to_string(), expect);
}

#[tokio::test]
async fn a_reader_waits_and_starts_wherever_it_is_told() {
    let both = both(json!({"partitions": 1}));
    let mut early = fetcher(&*both.source, Start::Earliest).await;
    {
        let mut waiting = early.fetch();
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        both.ingest.append(request(&[("", "{\"id\":0}"), ("", "{\"id\":1}")])).await.unwrap();
        let block = waiting.await.unwrap().unwrap();
        assert_eq!((block.position, block.next), (Position(0), Position(2)));
    }
    both.ingest.append(request(&[("", "{\"id\":2}"), ("", "{\"id\":3}")])).await.unwrap();
    // In the middle of a frame.
    let mut middle = fetcher(&*both.source, Start::At(Position(3))).await;
    let blocks = blocks(&mut *middle, 1).await;
    let decoded = decode(&*both.source, &blocks, &[0]);
    assert!(table(&decoded).contains("| 3  |"), "{}", table(&decoded));
    let mut late = fetcher(&*both.source, Start::Latest).await;
    both.ingest.append(request(&[("", "{\"id\":4}")])).await.unwrap();
    let block = late.fetch().await.unwrap().unwrap();
    assert_eq!((block.position, block.next), (Position(4), Position(5)));
    let mut fetcher = both.source.fetcher().await.unwrap();
    let beyond = fetcher.add(&Partition("0".into()), Start::At(Position(6))).await.unwrap_err();
    assert_eq!(beyond.code(), code::SOURCE);
    assert!(fetcher.add(&Partition("1".into()), Start::Earliest).await.is_err());
    let positions = std::collections::BTreeMap::from([(Partition("0".into()), Position(3))]);
    both.source.publish(&positions).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_another_process_finds_what_is_written() {
    let both = both(json!({"partitions": 2, "segment_bytes": 400, "poll_interval": "1ms"}));
    // Another connector knows nothing of this one's writer, as another process would.
    let other = LogConnector::new(crate::formats());
    let context = context(both.folder.path());
    let source = other.stream(&both.options, spec(), &context).unwrap();
    let error = other.ingest(&both.options, spec(), &context).unwrap_err();
    assert_eq!(error.code(), code::LOCKED);
    let mut reading = fetcher(&*source, Start::Earliest).await;
    let reader = tokio::spawn(async move { blocks(&mut *reading, 60).await });
    for number in 0..60 {
        let value = format!("{{\"id\":{number}}}");
        both.ingest.append(request(&[(&format!("k{number}"), &value)])).await.unwrap();
    }
    let decoded = decode(&*source, &reader.await.unwrap(), &[0]);
    assert_eq!(decoded.good, 60);
    let mut latest = fetcher(&*source, Start::Latest).await;
    drop(both.ingest);
    let ingest = other.ingest(&both.options, spec(), &context).unwrap();
    ingest.append(request(&[("k", "{\"id\":60}")])).await.unwrap();
    assert_eq!(blocks(&mut *latest, 1).await.len(), 1);
}

#[tokio::test]
async fn damage_found_while_reading_names_file_and_byte() {
    let both = both(json!({"partitions": 1}));
    for number in 0..3 {
        both.ingest.append(request(&[("", &format!("{{\"id\":{number}}}"))])).await.unwrap();
    }
    let path = both.folder.path().join(".freshet/log/shop.orders/0/00000000000000000000-0000.seg");
    let mut content = std::fs::read(&path).unwrap();
    let at = content.len() / 3 + 40;
    content[at] ^= 1;
    std::fs::write(&path, content).unwrap();
    let mut reading = fetcher(&*both.source, Start::Earliest).await;
    let first = reading.fetch().await.unwrap().unwrap();
    assert_eq!(first.next, Position(1), "what lies before is given");
    let error = reading.fetch().await.unwrap_err();
    assert_eq!(error.code(), code::LOG_DAMAGED);
    assert!(error.message().contains(path.to_str().unwrap()), "{error:?}");
}

#[tokio::test]
async fn a_reader_is_told_that_its_records_are_gone() {
    let retention_bytes = Some(ByteSize(700));
    let mut bench =
        Bench::new(1, LogOptions { retention: Retention::Strict, retention_bytes, ..options(1) });
    for number in 0..40 {
        bench.append(&[Record::new(format!("record {number}"))], None).unwrap();
    }
    bench.writer().retain().unwrap();
    let files: Arc<dyn FileSystem> = bench.files.clone();
    let place = Place::open(files, PathBuf::from(ROOT), 1).unwrap();
    let told = telling();
    let mut fetcher = LogFetcher::new(place, told.subscribe(), std::time::Duration::from_millis(1));
    fetcher.add(&Partition("0".into()), Start::At(Position(3))).await.unwrap();
    let error = fetcher.fetch().await.unwrap_err();
    assert_eq!(error.code(), code::SOURCE);
    assert!(error.message().contains("from position 3 of partition 0 are gone"), "{error:?}");
}

#[test]
fn options_are_read_and_looked_at() {
    let connector = LogConnector::new(crate::formats());
    for options in [
        json!({}),
        json!({"fsync": "group", "retention": "strict", "retention_time": null}),
        json!({"fsync": "10ms", "retention_bytes": "10GiB", "format": "raw"}),
    ] {
        connector.validate(&options).unwrap();
    }
    let options: LogOptions = crate::options::parse(&json!({"fsync": "10ms"}), "").unwrap();
    assert!(matches!(options.fsync, Fsync::Interval(span) if span.0.as_millis() == 10));
    for (options, named) in [
        (json!({"fsync": "sometimes"}), "fsync"),
        (json!({"partitions": 0}), "partitions"),
        (json!({"max_record_bytes": "1GiB"}), "max_record_bytes"),
        (json!({"consumer": "../x"}), "../x"),
        (json!({"segment": 1}), "segment"),
    ] {
        let error = connector.validate(&options).unwrap_err();
        assert_eq!(error.code(), code::CONFIG);
        assert!(error.message().contains(named), "{error:?}");
    }
}
