//! Each kind of damage × its place × the format × the compression × cuts × workers.

use freshet_core::source::SplitStatus;
use serde_json::json;

use super::support::{Reading, gzip, utf16, zstd};

/// Records of a file.
const RECORDS: usize = 60;

/// A format, as the test writes it.
struct Dialect {
    extension: &'static str,
    before: &'static str,
    record: fn(usize) -> String,
    between: &'static str,
    after: &'static str,
    /// Name, bytes of one bad record, the rule that it breaks, how many records it stands for.
    damages: &'static [(&'static str, &'static [u8], &'static str, usize)],
}

const CSV: Dialect = Dialect {
    extension: "csv",
    before: "id,day,amount,note\n",
    record: |i| format!("{i},2024-05-{:02},{}.50,\"note, {}\"", i % 28 + 1, i, "é".repeat(i % 9)),
    between: "\n",
    after: "\n",
    damages: &[
        ("too few columns", b"900,2024-01-01,1.00", "column_count", 1),
        ("too many columns", b"900,2024-01-01,1.00,x,y", "column_count", 1),
        ("bad UTF-8", b"900,2024-01-01,1.00,\xff\xfe", "encoding", 1),
        ("an unclosed quote", b"900,2024-01-01,1.00,\"open", "quote", 1),
        ("a quote that closes too early", b"900,2024-01-01,1.00,\"a\"b", "quote", 1),
        ("not a number", b"9x0,2024-01-01,1.00,x", "type", 1),
        ("an impossible date", b"900,2024-02-30,1.00,x", "type", 1),
        ("a number that does not fit", b"900,2024-01-01,123456789.00,x", "range", 1),
        ("a required value that is missing", b",2024-01-01,1.00,x", "not_null", 1),
        ("a record that is too large", &[b'x'; 400], "too_large", 1),
        ("two bad records", b"a,b,c,d\n1,2,3", "type", 2),
    ],
};

const NDJSON: Dialect = Dialect {
    extension: "ndjson",
    before: "",
    record: |i| {
        format!(
            "{{\"id\":{i},\"day\":\"2024-05-{:02}\",\"amount\":{i}.50,\"note\":\"{}\"}}",
            i % 28 + 1,
            "é".repeat(i % 9)
        )
    },
    between: "\n",
    after: "\n",
    damages: &[
        ("no JSON", b"what?", "syntax", 1),
        ("an object that ends too early", b"{\"id\":900", "syntax", 1),
        ("bad UTF-8", b"{\"id\":900,\"note\":\"\xff\"}", "encoding", 1),
        ("an unclosed string", b"{\"id\":900,\"note\":\"x}", "quote", 1),
        ("not a number", b"{\"id\":\"x\"}", "type", 1),
        ("an impossible date", b"{\"id\":900,\"day\":\"2024-02-30\"}", "type", 1),
        ("a number that does not fit", b"{\"id\":900,\"amount\":123456789}", "range", 1),
        ("a required value that is missing", b"{\"day\":\"2024-05-01\"}", "not_null", 1),
        ("a record that is too large", &[b'x'; 400], "too_large", 1),
    ],
};

const JSON: Dialect = Dialect {
    extension: "json",
    before: "[\n",
    record: NDJSON.record,
    between: ",\n",
    after: "\n]\n",
    damages: &[
        ("a number instead of an object", b"12", "syntax", 1),
        ("an object that ends too early", b"{\"id\":900", "syntax", 1),
        ("bad UTF-8", b"{\"id\":900,\"note\":\"\xff\"}", "encoding", 1),
        ("an unclosed string", b"{\"id\":900,\"note\":\"x}", "quote", 1),
        ("not a number", b"{\"id\":\"x\"}", "type", 1),
        ("a required value that is missing", b"{\"day\":\"2024-05-01\"}", "not_null", 1),
    ],
};

/// The file with `damage` in front of record `at`.
fn file(dialect: &Dialect, damage: &[u8], at: usize) -> Vec<u8> {
    let mut records: Vec<Vec<u8>> =
        (0..RECORDS).map(|i| (dialect.record)(i).into_bytes()).collect();
    records.insert(at, damage.to_vec());
    let mut text = dialect.before.as_bytes().to_vec();
    for (i, record) in records.iter().enumerate() {
        if i > 0 {
            text.extend_from_slice(dialect.between.as_bytes());
        }
        text.extend_from_slice(record);
    }
    text.extend_from_slice(dialect.after.as_bytes());
    text
}

fn check(dialect: &Dialect) {
    let clean = {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("a.{}", dialect.extension);
        std::fs::write(dir.path().join(&name), file(dialect, b"", 0)).unwrap();
        let outcome = Reading::new(dir.path(), &name).run();
        assert_eq!(outcome.rows.len(), RECORDS, "{}", outcome.summary());
        without_place(&outcome.rows)
    };
    for (what, damage, rule, records) in dialect.damages {
        for at in [0, RECORDS / 2, RECORDS] {
            let text = file(dialect, damage, at);
            let dir = tempfile::tempdir().unwrap();
            let name = format!("a.{}", dialect.extension);
            std::fs::write(dir.path().join(&name), &text).unwrap();
            let base = Reading::new(dir.path(), &name).with("max_record_bytes", 300);
            let outcome = base.run();
            let summary = outcome.summary();
            let context =
                format!("{what} in front of record {at} of {}\n{summary}", dialect.extension);
            assert_eq!(outcome.file().status, SplitStatus::Read, "{context}");
            assert_eq!(without_place(&outcome.rows), clean, "{context}");
            assert_eq!(outcome.file().rejects.len(), *records, "{context}");
            let reject = &outcome.file().rejects[0];
            assert_eq!(reject.rule.as_str(), *rule, "{context}");
            let offset = usize::try_from(reject.offset).unwrap();
            assert!(text[offset..].starts_with(&reject.raw), "{context}");
            let line = text[..offset].iter().filter(|b| **b == b'\n').count() as u64 + 1;
            assert_eq!(reject.line, line, "{context}");

            for split_size in [1, 7, 64, 100, 1000] {
                for workers in [1, 3] {
                    let mut other = Reading::new(dir.path(), &name)
                        .with("max_record_bytes", 300)
                        .with("split_size", split_size);
                    other.workers = workers;
                    other.batch_rows = 5;
                    let other = other.run().summary();
                    assert_eq!(other, summary, "pieces of {split_size} by {workers}: {context}");
                }
            }
            let digest = outcome.file().digest.clone();
            assert!(digest.is_some());
            for (ending, pack) in
                [(".gz", gzip as fn(&[u8]) -> Vec<u8>), (".zst", zstd as fn(&[u8]) -> Vec<u8>)]
            {
                let packed = format!("{name}{ending}");
                std::fs::write(dir.path().join(&packed), pack(&text)).unwrap();
                for split_size in [5, 4 << 20] {
                    let outcome = Reading::new(dir.path(), &packed)
                        .with("max_record_bytes", 300)
                        .with("split_size", split_size)
                        .run();
                    assert_eq!(
                        outcome.summary().replace(&packed, &name),
                        summary,
                        "{ending} in pieces of {split_size}: {context}"
                    );
                    assert_ne!(outcome.file().digest, digest);
                }
            }
            if std::str::from_utf8(&text).is_ok() {
                std::fs::write(dir.path().join(&name), utf16(&text)).unwrap();
                let outcome = Reading::new(dir.path(), &name).with("max_record_bytes", 300).run();
                assert_eq!(outcome.summary(), summary, "UTF-16: {context}");
            }
        }
    }
}

/// Rows without the last column, which is the record's offset.
fn without_place(rows: &[String]) -> Vec<String> {
    let mut rows: Vec<String> =
        rows.iter().map(|row| row.rsplit_once('|').unwrap().0.to_owned()).collect();
    rows.sort();
    rows
}

#[test]
fn damage_in_csv_costs_only_its_own_record() {
    check(&CSV);
}

#[test]
fn damage_in_ndjson_costs_only_its_own_record() {
    check(&NDJSON);
}

#[test]
fn damage_in_a_json_array_costs_only_its_own_element() {
    check(&JSON);
}

#[test]
fn a_records_fate_does_not_depend_on_the_columns_asked_for() {
    for dialect in [&CSV, &NDJSON, &JSON] {
        let mut text = dialect.before.as_bytes().to_vec();
        for (i, (_, damage, ..)) in dialect.damages.iter().enumerate() {
            text.extend_from_slice((dialect.record)(i).as_bytes());
            text.extend_from_slice(dialect.between.as_bytes());
            text.extend_from_slice(damage);
            text.extend_from_slice(dialect.between.as_bytes());
        }
        text.extend_from_slice((dialect.record)(50).as_bytes());
        text.extend_from_slice(dialect.after.as_bytes());
        let dir = tempfile::tempdir().unwrap();
        let name = format!("a.{}", dialect.extension);
        std::fs::write(dir.path().join(&name), &text).unwrap();
        let fates = |columns: Option<Vec<&'static str>>| {
            let mut reading = Reading::new(dir.path(), &name).with("max_record_bytes", 300);
            reading.columns = columns;
            let outcome = reading.run();
            let rejects = outcome.file().rejects.clone();
            (outcome.rows.len(), outcome.file().records, outcome.file().good, rejects)
        };
        let all = fates(None);
        assert_eq!(all.0 as u64, all.2);
        for columns in
            [vec![], vec!["note"], vec!["_file"], vec!["_offset", "id"], vec!["id", "id"]]
        {
            assert_eq!(fates(Some(columns.clone())), all, "{columns:?} of {}", dialect.extension);
        }
    }
}

#[test]
fn files_that_are_broken_as_a_whole_are_set_aside_and_the_others_go_on() {
    let good = file(&CSV, b"", 0);
    let packed = gzip(&good);
    let half = packed.len() / 2;
    let mut damaged = packed.clone();
    damaged[half] ^= 0xff;
    let broken: [(&str, Vec<u8>, SplitStatus); 5] = [
        ("b_truncated.csv.gz", packed[..half].to_vec(), SplitStatus::SetAside),
        ("b_damaged.csv.gz", damaged, SplitStatus::SetAside),
        ("b_truncated.csv.zst", zstd(&good)[..half].to_vec(), SplitStatus::SetAside),
        ("b_twice.csv", b"id,id\n1,2\n".to_vec(), SplitStatus::SetAside),
        ("b_empty.csv", Vec::new(), SplitStatus::Empty),
    ];
    for (name, bytes, status) in broken {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.csv"), &good).unwrap();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        std::fs::write(dir.path().join("c.csv"), &good).unwrap();
        let mut reading = Reading::new(dir.path(), "*.{csv,csv.gz,csv.zst}").with("format", "csv");
        reading.workers = 2;
        let outcome = reading.run();
        assert!(
            outcome.error.is_none(),
            "{name}: none of its rows were given: {:?}",
            outcome.error
        );
        assert_eq!(outcome.rows.len(), 2 * RECORDS, "{name}");
        let statuses: Vec<_> = outcome.report.splits.iter().map(|file| file.status).collect();
        assert_eq!(statuses, [SplitStatus::Read, status, SplitStatus::Read], "{name}");
        let error = outcome.report.splits[1].error.as_ref().unwrap();
        assert!(error.message().contains(name), "{}", error.message());
    }
}

#[test]
fn a_file_with_too_many_bad_records_is_set_aside_with_a_sample() {
    let mut text = String::from("id,day,amount,note\n");
    for i in 0..100 {
        text.push_str(&if i % 3 == 0 { "x,,,\n".to_owned() } else { format!("{i},,,\n") });
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), &text).unwrap();
    std::fs::write(dir.path().join("b.csv"), "id,day,amount,note\n1,,,\n").unwrap();
    let mut reading = Reading::new(dir.path(), "*.csv");
    reading.max_bad = 0.05;
    let outcome = reading.run();
    assert!(outcome.error.is_none(), "a small file is judged before its rows are given");
    assert_eq!(outcome.rows.len(), 1);
    assert_eq!(outcome.report.splits[0].status, SplitStatus::SetAside);
    assert_eq!(outcome.report.splits[0].rejects.len(), 20);
    assert_eq!(outcome.report.splits[0].good, 0);

    // Whose rows were given must be told.
    let outcome = reading.with("split_size", 64).run();
    let error = outcome.error.expect("rows were given before the file was judged");
    assert_eq!(error.code(), freshet_core::error::code::FILE_TOO_BAD);
    assert_eq!(outcome.report.splits[0].status, SplitStatus::SetAside);
}

#[test]
fn a_header_is_found_however_far_down_it_is() {
    let comments = "# nobody reads this\n".repeat(9_000);
    let wide: Vec<String> = (0..9_000).map(|i| format!("some_column_{i}")).collect();
    let quoted = format!("\"{}\"", "a name of several\nlines ".repeat(5_000));
    for (header, options) in [
        (format!("{comments}id,day,amount,note"), json!({ "comment": "#" })),
        (format!("{comments}id,day,amount,note"), json!({ "skip_lines": 9_000 })),
        (format!("id,day,amount,note,{}", wide.join(",")), json!({})),
        (format!("id,day,amount,note,{quoted}"), json!({ "quoted_newlines": true })),
    ] {
        let fields = header.rsplit_once("note").unwrap().1;
        let more =
            if fields.contains("some_column") { ",".repeat(wide.len()) } else { String::new() };
        let more = if fields.contains("several") { "," } else { &more };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.csv"), format!("{header}\n7,,,x{more}\n")).unwrap();
        let mut reading = Reading::new(dir.path(), "a.csv").with("format_options", options.clone());
        reading.columns = Some(vec!["id", "note"]);
        assert_eq!(reading.run().rows, ["7|x"], "{options}");
    }
}

#[test]
fn lines_without_end_take_no_memory() {
    let mut text = b"id,day,amount,note\n1,,,\n".to_vec();
    let offset = text.len() as u64;
    text.extend(std::iter::repeat_n(b'x', 9 << 20));
    text.extend_from_slice(b"\n2,,,\n");
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("a.csv", text.clone()), ("a.csv.gz", gzip(&text))] {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let mut reading = Reading::new(dir.path(), name).with("max_record_bytes", "1KiB");
        reading.workers = 2;
        let outcome = reading.run();
        let rejects = &outcome.file().rejects;
        assert_eq!(outcome.rows.len(), 2, "{}", outcome.rows.join("\n"));
        assert_eq!(rejects.len(), 1);
        assert_eq!((rejects[0].offset, rejects[0].line, rejects[0].raw.len()), (offset, 3, 1024));
        assert_eq!(rejects[0].rule.as_str(), "too_large");
    }
}

#[test]
fn digests_tell_contents_apart_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("id,day,amount,note\n");
    for i in 0..300_000 {
        text.push_str(&format!("{i},2024-05-01,1.00,some text\n"));
    }
    std::fs::write(dir.path().join("a.csv"), &text).unwrap();
    std::fs::write(dir.path().join("b.csv"), &text).unwrap();
    text.push_str("1,,,\n");
    std::fs::write(dir.path().join("c.csv"), &text).unwrap();
    let mut seen = Vec::new();
    for (split_size, workers) in [("1MiB", 1), ("4MiB", 2), ("9MiB", 2), ("64MiB", 1)] {
        let mut reading = Reading::new(dir.path(), "*.csv").with("split_size", split_size);
        reading.workers = workers;
        reading.columns = Some(vec!["id"]);
        let outcome = reading.run();
        assert_eq!(outcome.rows.len(), 900_001);
        let digests: Vec<_> =
            outcome.report.splits.iter().map(|s| s.digest.clone().unwrap()).collect();
        assert_eq!(digests[0], digests[1]);
        assert_ne!(digests[0], digests[2]);
        seen.push(digests);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
}
