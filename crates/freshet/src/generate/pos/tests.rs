//! The sidecar is held against a slow and obvious reading of the files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;

impl PosOptions {
    /// The defaults of the command line, into `out`.
    fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            stores: 500,
            days: 31,
            rows: 20_000_000,
            dirty: 0.005,
            kinds: Vec::new(),
            seed: 7,
            start: NaiveDate::from_ymd_opt(2026, 10, 1).expect("October has a first"),
            late_rows: 0.01,
            duplicates: 0.002,
            no_duplicates: false,
            no_header_change: false,
            no_empty_file: false,
            no_late_file: false,
            no_missing_file: false,
            clean_files: false,
            threads: None,
            out: out.into(),
        }
    }
}

fn small(out: &Path) -> PosOptions {
    PosOptions {
        stores: 5,
        days: 10,
        rows: 5_000,
        dirty: 0.05,
        late_rows: 0.02,
        duplicates: 0.03,
        ..PosOptions::new(out)
    }
}

fn truth(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("truth.jsonl")).expect("the sidecar is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in [out.to_owned(), out.join("late")] {
        for entry in fs::read_dir(folder).expect("the folder was made") {
            let path = entry.expect("the folder can be read").path();
            if path.is_file() {
                let name = path.strip_prefix(out).expect("it lies below").display().to_string();
                files.insert(name, fs::read(&path).expect("the file can be read"));
            }
        }
    }
    files
}

/// The fields of a line, quotes undone; `None` where a quote is not closed or the text is not UTF-8.
fn fields(line: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(line).ok()?;
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

/// The rule that a record breaks, by a reading of its own: the contract of the example.
fn broken_rule(header: &[String], line: &[u8]) -> Option<&'static str> {
    if std::str::from_utf8(line).is_err() {
        return Some("encoding");
    }
    let Some(fields) = fields(line) else { return Some("quote") };
    if fields.len() != header.len() {
        return Some("column_count");
    }
    for (name, value) in header.iter().zip(&fields) {
        let broken = match name.as_str() {
            "transaction_id" | "store_id" | "quantity" if value.is_empty() => Some("not_null"),
            "transaction_id" | "store_id" | "quantity" => {
                value.parse::<u64>().is_err().then_some("type")
            }
            "sale_date" if value.is_empty() => Some("not_null"),
            "sale_date" => NaiveDate::parse_from_str(value, "%Y-%m-%d").is_err().then_some("type"),
            "sold_at" => chrono::NaiveDateTime::parse_from_str(value, "%Y-%m-%d %H:%M:%S")
                .is_err()
                .then_some("type"),
            "amount" => match value.parse::<f64>() {
                Err(_) => Some("type"),
                Ok(amount) if amount < 0.0 => Some("constraint"),
                Ok(_) => None,
            },
            _ => None,
        };
        if broken.is_some() {
            return broken;
        }
    }
    None
}

#[test]
fn truth_names_every_bad_record_and_no_good_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path();
    let summary = run(&small(out)).expect("the options are valid");
    let truth = truth(out);
    let mut kinds = BTreeSet::new();
    let mut dead = 0;
    for (path, bytes) in files(out) {
        let Some(name) = path.split('/').next_back().filter(|name| name.starts_with("sales_"))
        else {
            continue;
        };
        let expected: BTreeMap<u64, &Value> = truth
            .iter()
            .filter(|line| line["file"] == name && line.get("rule").is_some())
            .map(|line| (line["line"].as_u64().expect("a number"), line))
            .collect();
        let mut header = Vec::new();
        let mut offset = 0;
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let content = line.strip_suffix(b"\n").expect("every line is terminated");
            let number = index as u64 + 1;
            if index == 0 {
                header = fields(content).expect("the header is clean");
            } else {
                let rule = broken_rule(&header, content);
                let told = expected.get(&number);
                assert_eq!(rule, told.and_then(|told| told["rule"].as_str()), "{name}:{number}");
                if let Some(told) = told {
                    dead += 1;
                    kinds.insert(told["kind"].as_str().expect("a string"));
                    assert_eq!(told["offset"].as_u64(), Some(offset), "{name}:{number}");
                    match told["raw"].as_str() {
                        Some(raw) => assert_eq!(raw.as_bytes(), content),
                        None => {
                            let hex: String =
                                content.iter().map(|byte| format!("{byte:02x}")).collect();
                            assert_eq!(told["raw_hex"].as_str(), Some(hex.as_str()));
                        }
                    }
                }
            }
            offset += line.len() as u64;
        }
    }
    assert_eq!(kinds.len(), Dirt::ALL.len(), "every kind of fault occurs: {kinds:?}");
    assert_eq!(dead, summary.files.iter().map(|file| file.dead).sum::<u64>());
}

#[test]
fn truth_has_the_sales_of_the_distinct_good_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path();
    let summary = run(&small(out)).expect("the options are valid");
    for (sidecar, with_late) in
        [("truth_daily_sales.csv", false), ("truth_daily_sales_with_late.csv", true)]
    {
        let mut seen = HashSet::new();
        let mut repeated = 0;
        let mut sales: BTreeMap<(String, u64), (u64, u64, u64)> = BTreeMap::new();
        for (path, bytes) in files(out) {
            if !path.contains("sales_2026") || (path.starts_with("late/") && !with_late) {
                continue;
            }
            let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let Some(header) = lines.next().and_then(fields) else { continue };
            let at = |name: &str| header.iter().position(|h| h == name).expect("a known column");
            for line in lines.filter(|line| broken_rule(&header, line).is_none()) {
                let fields = fields(line).expect("a good record");
                if !seen.insert(fields[at("transaction_id")].clone()) {
                    repeated += 1;
                    continue;
                }
                let store = fields[at("store_id")].parse().expect("a number");
                let entry = sales.entry((fields[at("sale_date")].clone(), store)).or_default();
                entry.0 += 1;
                entry.1 += fields[at("quantity")].parse::<u64>().expect("a number");
                let cents = fields[at("amount")].replace('.', "");
                entry.2 += cents.parse::<u64>().expect("a number");
            }
        }
        let mut text = String::from("sale_date,store_id,transactions,quantity,amount\n");
        for ((date, store), (transactions, quantity, cents)) in &sales {
            text.push_str(&format!(
                "{date},{store},{transactions},{quantity},{}.{:02}\n",
                cents / 100,
                cents % 100
            ));
        }
        assert_eq!(fs::read_to_string(out.join(sidecar)).expect("it was written"), text);
        if !with_late {
            assert_eq!(seen.len() as u64, summary.transactions);
            assert_eq!(repeated, summary.duplicates);
            assert!(repeated > 0, "some records are sent twice");
        }
    }
}

#[test]
fn facts_hold_for_each_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path();
    let summary = run(&small(out)).expect("the options are valid");
    let files = files(out);
    let base: u64 = summary.files.iter().map(|file| file.records - file.duplicates).sum();
    assert_eq!(base, 5_000, "the asked number of records, repeated ones apart");
    let mut headers = BTreeSet::new();
    for facts in &summary.files {
        assert_eq!(facts.records, facts.good + facts.dead, "{}", facts.file);
        let bytes = match facts.status {
            FileStatus::Present | FileStatus::Empty => Some(&files[&facts.file]),
            FileStatus::Late => Some(&files[&format!("late/{}", facts.file)]),
            FileStatus::Never => None,
        };
        assert_eq!(bytes.map_or(0, |bytes| bytes.len() as u64), facts.bytes, "{}", facts.file);
        if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!(lines, facts.records + 1, "{}", facts.file);
            headers.insert(facts.header.as_str());
        }
    }
    assert_eq!(headers.len(), 2, "the header changes in mid-month");
    let statuses: Vec<_> = summary.files.iter().map(|file| file.status).collect();
    for status in [FileStatus::Empty, FileStatus::Late, FileStatus::Never] {
        assert_eq!(statuses.iter().filter(|s| **s == status).count(), 1, "{status:?}");
    }
    assert!(summary.late_rows > 0);
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let (one, many) = (
        tempfile::tempdir().expect("a temporary folder"),
        tempfile::tempdir().expect("a temporary folder"),
    );
    let alone = PosOptions { threads: Some(1), ..small(one.path()) };
    let together = PosOptions { threads: Some(7), ..small(many.path()) };
    assert_eq!(run(&alone).expect("valid"), run(&together).expect("valid"));
    assert_eq!(files(one.path()), files(many.path()));
}

#[test]
fn clean_files_have_nothing_wrong_but_bad_records() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = PosOptions { clean_files: true, ..small(folder.path()) };
    let summary = run(&options).expect("the options are valid");
    assert!(summary.files.iter().all(|file| file.status == FileStatus::Present));
    assert_eq!((summary.records, summary.duplicates), (5_000, 0));
    assert_eq!(summary.header_change, None);
    assert!(summary.dead > 0);
}

#[test]
fn another_seed_makes_other_records() {
    let (one, two) = (
        tempfile::tempdir().expect("a temporary folder"),
        tempfile::tempdir().expect("a temporary folder"),
    );
    run(&small(one.path())).expect("the options are valid");
    run(&PosOptions { seed: 8, ..small(two.path()) }).expect("the options are valid");
    let name = "sales_20261001.csv";
    assert_ne!(files(one.path())[name], files(two.path())[name]);
}

#[test]
fn a_file_of_an_earlier_call_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("sales_20250101.csv"), "a\n").expect("the folder is writable");
    let error = run(&small(folder.path())).expect_err("the truth would not hold");
    assert!(error.to_string().contains("sales_20250101.csv"), "{error}");
}

#[test]
fn only_the_asked_kinds_of_faults_occur() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kinds = vec![Dirt::BadAmount, Dirt::EmptyValue];
    let summary = run(&PosOptions { kinds: kinds.clone(), ..small(folder.path()) }).expect("valid");
    assert_eq!(summary.dirt.keys().copied().collect::<Vec<_>>(), kinds);
}
