//! Parquet files: types brought to the contract's, rows that do not fit, files that are broken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use freshet_core::contract::Constraint;
use freshet_core::source::{Correction, Overlay, SplitStatus};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::support::Reading;

/// Ten rows in groups of four: `id` is null in row 3, `day` impossible in row 5, `amount` does not
/// fit exactly in row 8.
fn file(path: &Path) {
    let ids: Int64Array = (0..10).map(|i| (i != 3).then_some(i)).collect();
    let days: StringArray = (0..10)
        .map(|i| {
            Some(if i == 5 { "2024-02-30".to_owned() } else { format!("2024-05-{:02}", i + 1) })
        })
        .collect();
    let amounts: Float64Array =
        (0..10).map(|i| Some(if i == 8 { 1.005 } else { f64::from(i) + 0.25 })).collect();
    let extra = TimestampMillisecondArray::from_iter_values((0..10).map(|i| i * 1000));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("amount", Arc::new(amounts)),
        ("id", Arc::new(ids)),
        ("day", Arc::new(days)),
        ("extra", Arc::new(extra)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
    let target = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(target, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn rows_that_do_not_fit_the_contract_are_dead_letters_as_json() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir.path().join("a.parquet"));
    let mut reading = Reading::new(dir.path(), "*.parquet");
    reading.workers = 2;
    let outcome = reading.run();
    let summary = outcome.summary();
    assert_eq!(outcome.file().status, SplitStatus::Read, "{summary}");
    assert_eq!((outcome.file().records, outcome.file().good), (10, 7), "{summary}");
    assert_eq!(outcome.rows[0], "0|2024-05-01|0.25||1970-01-01T00:00:00|a.parquet|0");
    let rejects: Vec<_> = outcome
        .file()
        .rejects
        .iter()
        .map(|r| (r.offset, r.line, r.rule.as_str(), r.column.as_deref().unwrap()))
        .collect();
    assert_eq!(
        rejects,
        [(3, 4, "not_null", "id"), (5, 6, "type", "day"), (8, 9, "type", "amount")],
        "{summary}"
    );
    assert_eq!(
        String::from_utf8_lossy(&outcome.file().rejects[1].raw),
        r#"{"amount":5.25,"id":5,"day":"2024-02-30"}"#
    );
    assert!(outcome.file().digest.is_some());
    for columns in [vec![], vec!["extra"], vec!["_offset"]] {
        reading.columns = Some(columns);
        let other = reading.run();
        assert_eq!(other.file().rejects, outcome.file().rejects);
        assert_eq!(other.rows.len(), 7);
    }
}

#[test]
fn constraints_and_corrections_hold_for_rows_too() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir.path().join("a.parquet"));
    let mut reading = Reading::new(dir.path(), "a.parquet");
    reading.contract.columns[2].constraints.push(Constraint::Max("8".into()));
    let before = reading.run();
    assert_eq!(before.file().rejects.len(), 4, "{}", before.summary());
    assert_eq!(before.file().rejects[3].rule.as_str(), "constraint");
    let offset = 5;
    let correction = Correction {
        sequence: 1,
        offset,
        bytes: br#"{"amount":5.25,"id":5,"day":"2024-03-01"}"#.to_vec(),
    };
    let file = before.file();
    reading.overlay = Overlay {
        contents: BTreeMap::from([(
            file.digest.clone().unwrap(),
            (file.split.size.unwrap(), BTreeMap::from([(offset, correction)])),
        )]),
    };
    let after = reading.run();
    assert_eq!(after.file().rejects.len(), 3, "{}", after.summary());
    assert!(after.rows.contains(&"5|2024-03-01|5.25|||a.parquet|5".to_owned()), "{:?}", after.rows);
}

#[test]
fn a_corrupt_file_is_set_aside_wherever_it_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    file(&dir.path().join("a.parquet"));
    let whole = std::fs::read(dir.path().join("a.parquet")).unwrap();
    let broken = dir.path().join("b.parquet");
    let truncations =
        [1, 4, 11, whole.len() / 2, whole.len() - 1].map(|length| whole[..length].to_vec());
    let mut scrambled = whole.clone();
    let footer = whole.len() - 30;
    scrambled[footer..footer + 12].fill(0xff);
    for bytes in truncations.into_iter().chain([scrambled, b"id,day\n1,2\n".to_vec()]) {
        std::fs::write(&broken, &bytes).unwrap();
        let outcome = Reading::new(dir.path(), "*.parquet").run();
        assert_eq!(outcome.report.splits[1].status, SplitStatus::SetAside, "{} bytes", bytes.len());
        assert_eq!(outcome.rows.len(), 7);
        let error = outcome.report.splits[1].error.as_ref().unwrap();
        assert!(error.message().contains("b.parquet"), "{}", error.message());
    }
    // Damage anywhere never panics, and never touches the other file.
    for at in (4..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&broken, damaged).unwrap();
        let outcome = Reading::new(dir.path(), "*.parquet").run();
        assert!(outcome.error.is_some() || outcome.report.splits[0].status == SplitStatus::Read);
    }
}
