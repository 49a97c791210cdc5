//! Files that are appended to, rotated, emptied and removed under the reader.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use freshet_core::clock::SystemClock;
use freshet_core::config::Share;
use freshet_core::contract::{Contract, ContractColumn};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::source::Position;
use freshet_core::stream::{BlockDecoder, Fetcher, Partition, Start};
use freshet_core::types::ColumnType;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A reader of the files of a folder, as a job is one.
struct Reader {
    source: Arc<dyn StreamSource>,
    fetcher: Box<dyn Fetcher>,
    decoder: Box<dyn BlockDecoder>,
    partitions: Vec<Partition>,
    positions: BTreeMap<Partition, Position>,
    /// File, offset and line of each record.
    rows: Vec<(String, i64, String)>,
    rejects: Vec<String>,
}

fn source(dir: &Path, more: Value) -> Result<Arc<dyn StreamSource>> {
    let mut options = json!({
        "path": "logs/app.log*",
        "format": "raw",
        "poll_interval": "1ms",
        "discovery_interval": "1ms",
    });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let spec = SourceSpec {
        name: "test.lines".into(),
        contract: Arc::new(Contract {
            columns: vec![ContractColumn::new("line", ColumnType::Text)],
            ..Contract::default()
        }),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    let context = ConnectorContext {
        project_dir: dir.to_owned(),
        connection: Map::new(),
        clock: Arc::new(SystemClock),
    };
    TailConnector::new(crate::formats()).stream(&options, spec, &context)
}

impl Reader {
    async fn new(dir: &Path, more: Value, positions: BTreeMap<Partition, Position>) -> Self {
        let source = source(dir, more).expect("sound options");
        let fetcher = source.fetcher().await.expect("a fetcher");
        let decoder = source.decoder(&[1, 2, 0]).expect("a decoder");
        let (partitions, rows, rejects) = (Vec::new(), Vec::new(), Vec::new());
        Self { source, fetcher, decoder, partitions, positions, rows, rejects }
    }

    async fn discover(&mut self) {
        for partition in self.source.partitions().await.expect("files can be listed") {
            if !self.partitions.contains(&partition) {
                let start = match self.positions.get(&partition) {
                    Some(position) => Start::At(*position),
                    None => Start::Configured,
                };
                self.fetcher.add(&partition, start).await.expect("it is there");
                self.decoder.add(&partition);
                self.partitions.push(partition);
            }
        }
    }

    /// Takes up new files and reads until nothing comes.
    async fn drain(&mut self) {
        self.discover().await;
        while self.one(Duration::from_millis(30)).await {}
    }

    /// Reads until there are so many rows.
    async fn until(&mut self, rows: usize) {
        let reading = async {
            while self.rows.len() < rows {
                self.discover().await;
                self.one(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), reading).await.is_err() {
            panic!("{rows} rows were expected, and these came: {:?}", self.rows);
        }
    }

    async fn one(&mut self, patience: Duration) -> bool {
        let Ok(block) = tokio::time::timeout(patience, self.fetcher.fetch()).await else {
            return false;
        };
        let block = block.expect("no error").expect("no end");
        let mut out = Decoded::default();
        let decoding = self.decoder.decode(&block, &mut out).expect("lines can be decoded");
        assert_eq!(decoding, Decoding::Done);
        assert!(out.balances());
        for batch in &out.batches {
            for row in 0..batch.num_rows() {
                self.rows.push((
                    batch.column(0).as_string_view().value(row).to_owned(),
                    batch.column(1).as_primitive::<Int64Type>().value(row),
                    batch.column(2).as_string_view().value(row).to_owned(),
                ));
            }
        }
        self.rejects.extend(out.rejects.iter().map(|r| format!("{} {}", r.offset, r.rule)));
        self.positions.insert(self.partitions[block.partition].clone(), block.next);
        true
    }

    fn lines(&self) -> Vec<&str> {
        self.rows.iter().map(|(_, _, line)| line.as_str()).collect()
    }
}

fn append(path: &Path, text: &str) {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).expect("it can be written");
    file.write_all(text.as_bytes()).expect("there is room");
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("logs")).expect("a folder");
    let log = dir.path().join("logs/app.log");
    (dir, log)
}

#[tokio::test]
async fn whole_lines_are_read_as_they_come_with_file_and_place() {
    let (dir, log) = folder();
    let mut reader = Reader::new(dir.path(), json!({}), BTreeMap::new()).await;
    reader.drain().await;
    assert_eq!(reader.source.waits()[0].what, "files \"logs/app.log*\"");
    append(&log, "on");
    reader.drain().await;
    assert!(reader.rows.is_empty());
    append(&log, "e\r\n\n  \ntwo\nthr");
    reader.until(2).await;
    assert!(reader.source.waits().is_empty());
    append(&log, "ee\n");
    append(&dir.path().join("logs/app.log.gz"), "packed\n");
    append(&dir.path().join("logs/other.log"), "other\n");
    reader.until(3).await;
    reader.drain().await;
    let name = || "app.log".to_owned();
    assert_eq!(
        reader.rows,
        [(name(), 0, "one".into()), (name(), 9, "two".into()), (name(), 13, "three".into())]
    );
}

#[tokio::test]
async fn a_file_that_is_renamed_is_read_on_and_its_successor_from_its_start() {
    let (dir, log) = folder();
    append(&log, "a1\na2\n");
    let mut reader = Reader::new(dir.path(), json!({}), BTreeMap::new()).await;
    reader.until(2).await;
    append(&log, "a3\n");
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    append(&log, "b1\n");
    append(&log.with_extension("log.1"), "a4\n");
    reader.until(5).await;
    let mut lines = reader.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["a1", "a2", "a3", "a4", "b1"]);

    // The same between two runs.
    append(&log, "b2\n");
    fs::rename(log.with_extension("log.1"), log.with_extension("log.2")).unwrap();
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    append(&log, "c1\n");
    let mut again = Reader::new(dir.path(), json!({}), reader.positions.clone()).await;
    again.drain().await;
    let mut lines = again.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["b2", "c1"]);
}

#[tokio::test]
async fn a_file_that_is_copied_and_emptied_loses_no_line_that_the_copy_has() {
    let (dir, log) = folder();
    append(&log, "a1\na2\n");
    let mut reader = Reader::new(dir.path(), json!({}), BTreeMap::new()).await;
    reader.until(2).await;
    append(&log, "a3\n");
    fs::copy(&log, log.with_extension("log.1")).unwrap();
    let file = OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(0).unwrap();
    append(&log, "b1 is a longer line than all before\n");
    reader.until(4).await;
    reader.drain().await;
    let mut lines = reader.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["a1", "a2", "a3", "b1 is a longer line than all before"]);
}

#[tokio::test]
async fn a_file_that_is_gone_and_comes_back_is_read_on() {
    let (dir, log) = folder();
    append(&log, "a1\n");
    let options = json!({"close_after": "1ms"});
    let mut reader = Reader::new(dir.path(), options, BTreeMap::new()).await;
    reader.until(1).await;
    let aside = dir.path().join("aside");
    fs::rename(&log, &aside).unwrap();
    reader.drain().await;
    append(&aside, "a2\n");
    fs::rename(&aside, &log).unwrap();
    reader.until(2).await;
    assert_eq!(reader.lines(), ["a1", "a2"]);
}

#[tokio::test]
async fn the_last_line_of_a_file_that_nobody_writes_any_more_counts() {
    let (dir, log) = folder();
    append(&log, "a1\na2");
    let options = json!({"close_after": "1ms"});
    let mut reader = Reader::new(dir.path(), options.clone(), BTreeMap::new()).await;
    reader.until(2).await;
    assert_eq!(reader.lines(), ["a1", "a2"]);
    // Whoever goes on with it after all has not begun a record.
    append(&log, "x\na3\n");
    let mut again = Reader::new(dir.path(), options, reader.positions.clone()).await;
    again.until(1).await;
    assert_eq!(again.lines(), ["a3"]);
}

#[tokio::test]
async fn headers_and_lines_without_an_end_are_passed_over() {
    let (dir, log) = folder();
    let long = "x".repeat(500);
    append(&log, &format!("head\na1\n{long}\na2\n"));
    let options = json!({"skip_lines": 1, "max_record_bytes": 100});
    let mut reader = Reader::new(dir.path(), options.clone(), BTreeMap::new()).await;
    reader.until(2).await;
    assert_eq!(reader.lines(), ["a1", "a2"]);
    assert_eq!(reader.rejects, ["8 too_large"]);
    // Another one with the same header is another one; one that begins alike is not told apart.
    append(&log.with_extension("log.1"), "head\nb1\n");
    reader.until(3).await;
    append(&log.with_extension("log.2"), "head\nb1\nb2\n");
    append(&log.with_extension("log.1"), "b3\n");
    let error = reader.source.partitions().await.expect_err("two files, one beginning");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("fingerprint_lines")), "{error:?}");
}

#[tokio::test]
async fn latest_leaves_out_what_is_there_and_nothing_that_comes() {
    let (dir, log) = folder();
    append(&log, "a1\na2\nhalf");
    let mut reader = Reader::new(dir.path(), json!({"start": "latest"}), BTreeMap::new()).await;
    reader.drain().await;
    append(&log, " a line\na3\n");
    append(&log.with_extension("log.1"), "b1\n");
    reader.until(2).await;
    let mut lines = reader.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["a3", "b1"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, message) in [
        (json!({"path": "../x"}), "names no files"),
        (json!({"path": "a[b"}), "\"path\" is wrong"),
        (json!({"poll_interval": "0s"}), "cannot be 0"),
        (json!({"fingerprint_lines": 0}), "not 1 to 100"),
        (json!({"format": "avro"}), "format avro"),
        (json!({"format": "parquet"}), "not for messages"),
    ] {
        let error = source(Path::new("."), options).expect_err("it makes no sense");
        assert!(error.message().contains(message), "{error:?}");
    }
}

/// What happens to a log between two looks at it.
#[derive(Debug, Clone)]
enum Event {
    Append(Vec<u8>),
    Rename,
    CopyAndEmpty,
    Look,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => proptest::collection::vec(0..6_u8, 1..6).prop_map(Event::Append),
        1 => Just(Event::Rename),
        1 => Just(Event::CopyAndEmpty),
        3 => Just(Event::Look),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_line_is_read_once_whatever_happens_to_its_file(
        events in proptest::collection::vec(event(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (dir, log) = folder();
            let mut written = Vec::new();
            let mut rotated = 0;
            let mut read: Vec<String> = Vec::new();
            let mut reader = Reader::new(dir.path(), json!({}), BTreeMap::new()).await;
            for event in events {
                match event {
                    Event::Append(lengths) => {
                        for length in lengths {
                            let line = format!("{}{}", written.len(), "-".repeat(length.into()));
                            append(&log, &format!("{line}\n"));
                            written.push(line);
                        }
                    }
                    Event::Rename | Event::CopyAndEmpty if fs::metadata(&log).map_or(0, |m| m.len()) == 0 => {}
                    Event::Rename => {
                        rotated += 1;
                        fs::rename(&log, log.with_extension(format!("log.{rotated}"))).unwrap();
                    }
                    Event::CopyAndEmpty => {
                        rotated += 1;
                        fs::copy(&log, log.with_extension(format!("log.{rotated}"))).unwrap();
                        File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
                    }
                    Event::Look => {
                        reader.discover().await;
                        reader.one(Duration::from_millis(3)).await;
                    }
                    Event::Restart => {
                        read.extend(reader.lines().into_iter().map(String::from));
                        let positions = reader.positions.clone();
                        reader = Reader::new(dir.path(), json!({}), positions).await;
                    }
                }
            }
            let missing = written.len() - read.len().min(written.len());
            if missing > reader.rows.len() {
                reader.until(missing).await;
            }
            reader.drain().await;
            read.extend(reader.lines().into_iter().map(String::from));
            let mut expected = written.clone();
            read.sort_unstable();
            expected.sort_unstable();
            assert_eq!(read, expected);
        });
    }
}
