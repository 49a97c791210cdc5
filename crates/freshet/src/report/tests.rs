use chrono::{DateTime, TimeDelta, Utc};
use freshet_core::contract::{SchemaChange, SchemaDiff};
use freshet_core::source::Interval;
use freshet_core::{ErrorKind, ModelId, OperatorCounts, RunId};
use freshet_engine::{BuildReport, ErrorReport};

use super::*;
use crate::golden;

/// A terminal-less user.
pub(crate) fn plain_ui() -> Ui {
    Ui { out: Paint(false), err: Paint(false), json: false, quiet: false, width: None, live: false }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + second, 250_000_000).expect("a time of this century")
}

fn day(n: i64) -> Interval {
    let start = at(0).date_naive().and_hms_opt(0, 0, 0).expect("midnight is") + TimeDelta::days(n);
    Interval { start, end: start + TimeDelta::days(1) }
}

pub(crate) fn build(model: &str) -> BuildReport {
    BuildReport {
        version: Some(3),
        number: Some(4),
        rows_total: Some(0),
        ..BuildReport::of(ModelId::from(model), "table")
    }
}

pub(crate) fn task(model: &str, status: Status, build: Option<BuildReport>) -> TaskReport {
    TaskReport {
        model: ModelId::from(model),
        status,
        attempts: u32::from(status != Status::Skipped),
        started: (status != Status::Skipped).then(|| at(1)),
        finished: (status != Status::Skipped).then(|| at(3)),
        build,
        error: None,
        because: None,
    }
}

fn error(code: &str, message: &str, hint: Option<&str>) -> ErrorReport {
    ErrorReport {
        code: code.into(),
        kind: ErrorKind::Data,
        message: message.into(),
        hint: hint.map(str::to_owned),
        location: None,
        retryable: false,
    }
}

fn file(name: &str, status: SplitStatus, records: u64, dead: u64) -> FileReport {
    FileReport {
        source: SourceId::of("pos", "sales"),
        file: name.into(),
        status,
        records,
        good: records - dead,
        dead,
        bytes: records * 65,
        error: (status == SplitStatus::SetAside)
            .then(|| error("F0203", "41 of 100 records are bad, 5% is the limit", None)),
    }
}

pub(crate) fn report(status: Status, tasks: Vec<TaskReport>) -> RunReport {
    RunReport {
        id: RunId::from("20260921T142641-ab12"),
        project: "daily_sales".into(),
        environment: "dev".into(),
        command: "freshet run examples/daily_sales".into(),
        started: at(0),
        finished: Some(at(4)),
        status,
        tasks,
        recovered: Vec::new(),
    }
}

/// A night on which much went wrong.
fn bad_night() -> RunReport {
    let mut staged = build("stg_sales");
    staged.materialized = "incremental".into();
    staged.incremental = true;
    staged.rows_written = 1_989_900;
    staged.rows_total = Some(21_989_900);
    staged.bytes_read = 130_000_000;
    staged.batches = vec![day(0), day(1), day(2)];
    staged.edges.insert(
        "decode:pos.sales".into(),
        EdgeCounts { rows_in: 2_000_000, rows_out: 1_990_000, dead: 9_990, filtered: 10 },
    );
    staged.edges.insert(
        "check".into(),
        EdgeCounts { rows_in: 1_990_000, rows_out: 1_989_900, dead: 100, filtered: 0 },
    );
    staged.operators = vec![OperatorCounts {
        operator: "FilterExec#2".into(),
        rows_in: 1_990_000,
        rows_out: 1_989_900,
        filtered: 100,
        unmatched: None,
        deduplicated: 0,
    }];
    staged.files = vec![
        file("data/sales_20260921.csv", SplitStatus::Read, 1_000_000, 5_000),
        file("data/sales_20260922.csv", SplitStatus::Read, 1_000_000, 4_990),
        file("data/sales_20260923.csv", SplitStatus::SetAside, 100, 41),
        file("data/sales_20260924.csv", SplitStatus::Empty, 0, 0),
    ];
    staged.missing = vec![MissingFile {
        source: SourceId::of("pos", "sales"),
        interval: day(4),
        expected: "sales_20260925.csv".into(),
    }];
    staged.schema_diffs = vec![SchemaDiff {
        file: Some("data/sales_20260922.csv".into()),
        changes: vec![
            SchemaChange::Added { column: "loyalty_id".into(), data_type: "text".into() },
            SchemaChange::Reordered,
        ],
    }];
    staged.dead_letters.insert(
        "pos.sales".into(),
        BTreeMap::from([("type".into(), 6_000), ("column_count".into(), 3_990)]),
    );
    staged.checks = vec![
        check("not_null_stg_sales_store_id", CheckStatus::Pass, 0, ""),
        check("range_stg_sales_quantity", CheckStatus::Quarantine, 100, "100 of 1,990,000 rows"),
    ];
    staged.warnings = vec!["file \"data/sales_20260901.csv\" changed after it was consumed".into()];
    staged.seconds =
        BTreeMap::from([("plan".into(), 0.01), ("execute".into(), 1.5), ("publish".into(), 0.2)]);

    let mut daily = build("daily_sales");
    daily.rows_written = 1_500;
    daily.version = None;
    daily.staged = Some("main.daily_sales/_staged/5".into());
    let mut failing =
        check("unique_daily_sales_store_day", CheckStatus::Fail, 2, "2 of 1,500 rows");
    failing.sample = vec![
        vec![("store_id".into(), Some("7".into())), ("day".into(), None)],
        vec![
            ("store_id".into(), Some("\x1b[31m8".into())),
            ("day".into(), Some("2026-09-21".into())),
        ],
    ];
    daily.checks = vec![failing];
    let mut failed = task("daily_sales", Status::Failed, Some(daily));
    failed.error = Some(error(
        "F0401",
        "model \"daily_sales\" broke check \"unique_daily_sales_store_day\"",
        Some("readers still see the old version"),
    ));
    let mut skipped = task("sales_by_region", Status::Skipped, None);
    skipped.because = Some(ModelId::from("daily_sales"));
    let mut report = report(
        Status::Failed,
        vec![task("stg_sales", Status::Partial, Some(staged)), failed, skipped],
    );
    report.recovered = vec!["main.stg_sales 3 (run 20260920T010203-cd34)".into()];
    report
}

fn check(name: &str, status: CheckStatus, failures: u64, message: &str) -> CheckReport {
    CheckReport {
        name: name.into(),
        rule: "range".into(),
        status,
        failures,
        rows: 1_990_000,
        value: None,
        message: message.into(),
        sample: Vec::new(),
    }
}

fn text(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory takes everything");
    String::from_utf8(out).expect("reports are text")
}

#[test]
fn summary_accounts_for_every_row_and_file() {
    let report = bad_night();
    golden::check("summary.txt", &text(|out| write_summary(out, &report, &plain_ui())));
    assert!(matches!(run_outcome(&report), Ok(Outcome::DataFailed)));
}

#[test]
fn full_report_tells_all_that_was_recorded() {
    let report = bad_night();
    golden::check("full_report.txt", &text(|out| write_full(out, &report, &plain_ui())));
}

#[test]
fn quiet_night_needs_few_lines() {
    let mut seed = build("stores");
    seed.materialized = "seed".into();
    seed.rows_written = 500;
    seed.rows_total = Some(500);
    let report = report(Status::Success, vec![task("stores", Status::Success, Some(seed))]);
    golden::check("summary_quiet.txt", &text(|out| write_summary(out, &report, &plain_ui())));
    assert!(matches!(run_outcome(&report), Ok(Outcome::Done)));
}

#[test]
fn edges_that_do_not_balance_are_called_out() {
    let mut odd = build("odd");
    let counts = EdgeCounts { rows_in: 10, rows_out: 8, dead: 1, filtered: 0 };
    odd.edges.insert("decode:a.b".into(), counts);
    let report = report(Status::Success, vec![task("odd", Status::Success, Some(odd))]);
    let text = text(|out| write_summary(out, &report, &plain_ui()));
    assert!(text.contains("does not balance"), "{text}");
}

#[test]
fn one_file_read_by_two_models_counts_once() {
    let reader = |name| {
        let mut build = build(name);
        build.files = vec![file("a.csv", SplitStatus::Read, 100, 2)];
        build.dead_letters.insert("pos.sales".into(), BTreeMap::from([("type".into(), 2)]));
        task(name, Status::Success, Some(build))
    };
    let report = report(Status::Success, vec![reader("a"), reader("b")]);
    let text = text(|out| write_summary(out, &report, &plain_ui()));
    assert!(text.contains("pos.sales: 1 read (6.5 kB)\n"), "{text}");
    assert!(text.contains("pos.sales: 2 (type 2)\n"), "{text}");
}
