//! What is found, in which order, and what names say.

use std::collections::BTreeMap;
use std::time::Duration;

use freshet_core::contract::{ContractMode, SchemaChange};
use freshet_core::source::{Position, SplitStatus};

use super::support::{NOW, Reading, runtime, write};

const ROW: &str = "id,day,amount,note\n1,2024-05-01,1.00,x\n";

#[test]
fn captured_fields_become_columns_and_intervals_order_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let names =
        ["s1/sales_20240503.csv", "s2/sales_20240501.csv", "s1/sales_20241399.csv", "s1/other.csv"];
    let files: BTreeMap<String, Vec<u8>> =
        names.iter().map(|name| ((*name).to_owned(), ROW.into())).collect();
    write(dir.path(), &files);
    let reading = Reading::new(dir.path(), "{store}/sales_{date:%Y%m%d}.csv");
    let outcome = reading.run();
    assert_eq!(
        outcome.rows,
        [
            "1|2024-05-01|1.00|x|s1|2024-05-03|s1/sales_20240503.csv|19",
            "1|2024-05-01|1.00|x|s2|2024-05-01|s2/sales_20240501.csv|19",
        ]
    );
    let ids: Vec<_> = outcome.report.splits.iter().map(|file| file.split.id.as_str()).collect();
    assert_eq!(ids, ["s2/sales_20240501.csv", "s1/sales_20240503.csv"]);
    let interval = outcome.report.splits[0].split.interval.unwrap();
    assert_eq!(interval.start.to_string(), "2024-05-01 00:00:00");
    assert_eq!(interval.end.to_string(), "2024-05-02 00:00:00");
}

#[test]
fn files_that_are_still_being_written_are_left_for_later() {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH + Duration::from_micros(NOW as u64);
    for (name, age) in [("old.csv", 601), ("new.csv", 599)] {
        std::fs::write(dir.path().join(name), ROW).unwrap();
        let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }
    let mut reading = Reading::new(dir.path(), "*.csv");
    reading.settle = Duration::from_secs(600);
    assert_eq!(reading.run().file().split.id, "old.csv");
}

#[test]
fn new_columns_of_some_files_are_columns_of_all() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), ROW).unwrap();
    std::fs::write(dir.path().join("b.csv"), "extra,note,id\ne,n,2\n").unwrap();
    std::fs::write(dir.path().join("c.ndjson"), "").unwrap();
    let outcome = Reading::new(dir.path(), "*.csv").run();
    let names: Vec<_> =
        outcome.scan.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "day", "amount", "note", "extra", "_file", "_offset"]);
    assert_eq!(outcome.rows, ["1|2024-05-01|1.00|x||a.csv|19", "2|||n|e|b.csv|14"]);
    let diffs = outcome.scan.diffs();
    assert_eq!(diffs.len(), 1);
    assert_eq!(diffs[0].file.as_deref(), Some("b.csv"));
    assert!(diffs[0].changes.contains(&SchemaChange::Missing { column: "day".into() }));
}

#[test]
fn a_frozen_contract_sets_aside_the_file_that_departs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), ROW).unwrap();
    std::fs::write(dir.path().join("b.csv"), "id,day,amount,note,extra\n2,,,,\n").unwrap();
    let mut reading = Reading::new(dir.path(), "*.csv");
    reading.contract.modes.new_columns = ContractMode::Freeze;
    let outcome = reading.run();
    assert_eq!(outcome.rows.len(), 1);
    assert_eq!(outcome.report.splits[1].status, SplitStatus::SetAside);
}

#[test]
fn places_that_are_not_there_and_wrong_options_say_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    let message = |reading: Reading<'_>| {
        let error = runtime().block_on(reading.run_async()).err().expect("it is wrong");
        format!("{} ({})", error.message(), error.hint_text().unwrap_or("-"))
    };
    for (reading, expect) in [
        (Reading::new(dir.path(), "nowhere/*.csv"), "could not find folder \"nowhere/\""),
        (Reading::new(dir.path(), "nowhere.csv"), "could not find file \"nowhere.csv\""),
        (Reading::new(dir.path(), "in").with("format", "csv"), "path \"in\" is a folder"),
        (Reading::new(dir.path(), "in/*"), "does not tell the files' format"),
        (Reading::new(dir.path(), "in/*").with("format", "cvs"), "did you mean \"csv\"?"),
        (Reading::new(dir.path(), "in/*.csv").with("fromat", "csv"), "did you mean \"format\"?"),
        (Reading::new(dir.path(), "{note}.csv"), "is declared and captured"),
        (Reading::new(dir.path(), "s3:///x.csv"), "names no bucket"),
    ] {
        let message = message(reading);
        assert!(message.contains(expect), "{message}");
    }
    let reading = Reading::new(dir.path(), "in/*.csv")
        .with("format_options", serde_json::json!({"delimeter": ";"}));
    let message = message(reading);
    assert!(message.contains("format_options.delimeter"), "{message}");
    assert!(message.contains("did you mean \"delimiter\"?"), "{message}");
}

#[test]
fn a_file_is_read_in_order_from_any_record_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("id,day,amount,note\n");
    for i in 0..50 {
        text.push_str(&if i % 10 == 5 { "bad\n".to_owned() } else { format!("{i},,,\n") });
    }
    std::fs::write(dir.path().join("a.csv"), &text).unwrap();
    let reading = Reading::new(dir.path(), "a.csv").with("split_size", 32);
    let read = |from: Position| {
        runtime().block_on(async {
            let source = reading.source().unwrap();
            let split = source.splits().await.unwrap().remove(0);
            let mut reader = source.reader(&split, from).await.unwrap();
            let (mut records, mut lines, mut positions) = (0, Vec::new(), Vec::new());
            while let Some(decoded) = reader.next().await.unwrap() {
                assert!(decoded.balances());
                records += decoded.records;
                lines.extend(decoded.rejects.iter().map(|reject| reject.line));
                positions.push((reader.position(), records, lines.clone()));
            }
            positions
        })
    };
    let all = read(Position(0));
    let (_, records, lines) = all.last().unwrap().clone();
    assert_eq!((records, lines), (50, vec![7, 17, 27, 37, 47]));
    for (position, before, lines_before) in &all {
        let rest = read(*position);
        let (after, lines_after) =
            rest.last().map_or((0, Vec::new()), |(_, records, lines)| (*records, lines.clone()));
        assert_eq!(before + after, 50, "from {position:?}");
        assert_eq!([lines_before.clone(), lines_after].concat(), [7, 17, 27, 37, 47]);
    }
}
