//! Files that are cut into units of any size and read by several workers that get on unevenly,
//! against the reference: where records go over several lines, units are guessed and stitched.

use std::path::Path;

use arrow::array::RecordBatch;
use freshet_core::clock::ManualClock;
use freshet_core::config::{HumanDuration, Share};
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::source::{Extent, Overlay, Purpose, SplitRequest, SplitStatus};
use futures::StreamExt;
use serde_json::json;

use super::*;

/// How a file is cut and by whom it is read; none of it may show in the result.
#[derive(Debug, Clone)]
struct Work {
    split_size: usize,
    workers: usize,
    /// Whose turn it is to give a batch, until all have had enough turns; then each reads to its
    /// end, the last one first.
    turns: Vec<usize>,
}

/// Reads the file `name` of `dir` through the connector.
fn read(dir: &Path, name: &str, options: &CsvOptions, limit: usize, work: &Work) -> Result3 {
    let spec = SourceSpec {
        name: "test.sales".into(),
        contract: Arc::new(sample_contract()),
        max_bad: Share(1.0),
        settle: HumanDuration(std::time::Duration::ZERO),
    };
    let context = ConnectorContext {
        project_dir: dir.to_owned(),
        connection: serde_json::Map::new(),
        clock: Arc::new(ManualClock::new(0)),
    };
    let options = json!({
        "path": name,
        "format": "csv",
        "format_options": options,
        "max_record_bytes": limit,
        "split_size": work.split_size,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let registry = crate::registry();
        let files = registry.get("files").expect("it is registered");
        let source = files.source(&options, spec, &context).expect("the options are sound");
        let requests = source.splits().await.expect("the folder can be listed");
        let requests =
            requests.into_iter().map(|split| SplitRequest { split, extent: Extent::Whole });
        let scan = source
            .plan(requests.collect(), Arc::new(Overlay::default()))
            .await
            .expect("the head can be read");
        let offset = scan.schema().index_of("_offset").expect("every file has it");
        let running =
            scan.start(&[0, 1, 2, offset], 3, Purpose::Build).expect("the projection is sound");
        let mut workers: Vec<_> = (0..work.workers).map(|_| running.worker().fuse()).collect();
        let mut rows: Vec<Row> = Vec::new();
        let mut take = |batch: RecordBatch| {
            let offsets = batch.column(3).as_primitive::<arrow::datatypes::Int64Type>();
            for row in 0..batch.num_rows() {
                let cells = batch.columns()[..3].iter().map(|column| cell(column, row)).collect();
                rows.push((offsets.value(row) as u64, cells));
            }
        };
        for turn in &work.turns {
            if let Some(batch) = workers[turn % work.workers].next().await {
                take(batch.expect("no file fails"));
            }
        }
        while let Some(mut worker) = workers.pop() {
            while let Some(batch) = worker.next().await {
                take(batch.expect("no file fails"));
            }
        }
        rows.sort();
        let report = &running.report().splits[0];
        assert_eq!(report.status, SplitStatus::Read, "{:?}", report.error);
        assert!(report.digest.is_some());
        assert_eq!(running.records_read(), report.records, "each record counts once");
        assert_eq!(report.records, report.good + report.rejects.len() as u64);
        Result3 {
            rows,
            rejects: report.rejects.clone(),
            records: report.records,
            lines: 0,
            discarded: report.discarded_values,
        }
    })
}

fn check_split(file: &[u8], options: &CsvOptions, limit: usize, works: &[Work]) {
    let mut expected = reference::decode(file, options, limit);
    expected.lines = 0;
    let dir = tempfile::tempdir().expect("there is room for a folder");
    std::fs::write(dir.path().join("a.csv"), file).expect("there is room for a file");
    let packed = zstd::stream::encode_all(file, 1).expect("it can be packed");
    std::fs::write(dir.path().join("b.csv.zst"), packed).expect("there is room for a file");
    for work in works {
        for name in ["a.csv", "b.csv.zst"] {
            let got = read(dir.path(), name, options, limit, work);
            let file = file.escape_ascii();
            let context = || format!("{name} {work:?} {limit} \"{file}\" {options:?}");
            assert_eq!(got.rejects, expected.rejects, "{}", context());
            assert!(got == expected, "{}", context());
        }
    }
}

fn work() -> impl Strategy<Value = Work> {
    let size = prop_oneof![1..40usize, 40..400usize];
    (size, 1..5usize, proptest::collection::vec(0..4usize, 0..12))
        .prop_map(|(split_size, workers, turns)| Work { split_size, workers, turns })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn units_and_workers_never_show(
        pieces in proptest::collection::vec(piece(), 1..80),
        dialect in proptest::sample::select(dialects()),
        limit in proptest::sample::select(vec![12usize, 40, 1 << 20]),
        works in proptest::collection::vec(work(), 1..5),
    ) {
        let file = pieces.concat();
        prop_assume!(file.split(|b| *b == b'\n').any(|line| {
            !line.is_empty() && line != b"\r" && !(dialect.comment.is_some() && line[0] == b'#')
        }));
        check_split(&file, &dialect, limit, &works);
    }
}

fn quoted() -> CsvOptions {
    no_header(CsvOptions { quoted_newlines: true, ..CsvOptions::default() })
}

#[test]
fn a_field_that_holds_records_misleads_no_unit() {
    // Wherever a unit begins in the long field, all that it sees are records.
    let inner = "1,x,2\n".repeat(40);
    let file = format!("7,a,1\n8,\"{inner}\",2\n9,b,3\n10,\"{inner}\",4\n11,c,5\n");
    let works: Vec<Work> = [1, 7, 30, 64, 100, 500]
        .into_iter()
        .flat_map(|split_size| {
            [vec![], vec![0], vec![0, 1, 1], vec![2, 1, 0, 0]].map(|turns| Work {
                split_size,
                workers: 3,
                turns,
            })
        })
        .collect();
    check_split(file.as_bytes(), &quoted(), 1 << 20, &works);
    // The field is larger than a record may be, so that its lines are records after all.
    check_split(file.as_bytes(), &quoted(), 100, &works);
}

#[test]
fn a_last_line_just_beyond_the_limit_is_too_long_though_its_quote_is_open_at_the_end() {
    // Two bytes are room for a line end; here they are the record's own.
    let file = b"\"\"\"\r\n\"\"note of more than twelve bytes,\",\"";
    assert_eq!(file.len(), 41);
    let works = [1, 7, 100].map(|split_size| Work { split_size, workers: 2, turns: vec![0, 1] });
    for limit in 37..=42 {
        check_split(file, &quoted(), limit, &works);
        check_all_ways(file, &quoted(), limit);
    }
    let decoded = reference::decode(file, &quoted(), 40);
    assert_eq!(decoded.rejects[0].message, "a quote is not closed within 40 bytes");
}

#[test]
fn one_worker_gets_through_while_another_one_rests() {
    // More units than may wait: who gets on walks through the units of who does not.
    let file: String = (0..400).map(|i| format!("{i},\"two\nlines, {i}\",{i}.5\n")).collect();
    for turns in [vec![0, 1], vec![0, 1, 2], vec![2, 0, 1, 1]] {
        let works = [Work { split_size: 100, workers: 3, turns }];
        check_split(file.as_bytes(), &quoted(), 1 << 20, &works);
    }
}
