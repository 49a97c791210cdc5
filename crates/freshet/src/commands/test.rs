//! `freshet test`: the checks on what is published, and the unit tests. Nothing is written.

use std::collections::HashSet;
use std::io::{self, Write};
use std::time::Instant;

use freshet_core::{ModelId, Result};
use freshet_engine::CheckStatus;
use freshet_engine::testing::TestReport;
use freshet_project::{CheckTarget, ProjectState};

use super::sql::until_signal;
use crate::app::{self, App, Place};
use crate::cli::TestArgs;
use crate::exit::{CommandResult, Outcome};
use crate::format::{count, counted, seconds};
use crate::progress::spinner;
use crate::report::write_check_list;
use crate::ui::{Ui, printable};

/// Row counts of earlier runs that `volume` checks compare with.
const HISTORY: u32 = 30;

/// Tests what is selected and says what does not hold.
pub fn run(args: &TestArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let started = Instant::now();
    app::runtime(None)?.block_on(async {
        let work = async { Ok(test(&app, args, ui).await?) };
        let reports = until_signal(work).await?;
        let mut out = io::stdout().lock();
        if ui.json {
            for report in &reports {
                let json = serde_json::to_string(report).map_err(io::Error::other)?;
                writeln!(out, "{json}")?;
            }
        } else {
            write(&mut out, &reports, started.elapsed().as_secs_f64(), ui)?;
        }
        let passed = reports.iter().all(TestReport::passed);
        Ok(if passed { Outcome::Done } else { Outcome::DataFailed })
    })
}

async fn test(app: &App, args: &TestArgs, ui: &Ui) -> Result<Vec<TestReport>> {
    let store = app.meta().await?;
    let before: Option<ProjectState> = store.load_state(&app.project.environment.name).await?;
    let selected = app.select(&args.nodes, before.as_ref())?;
    let everything = args.nodes.select.is_empty() && args.nodes.exclude.is_empty();
    let mut reports = Vec::new();
    if everything {
        for source in app.project.sources.keys() {
            let bar = spinner(ui, &format!("source {source}"));
            reports.push(app.engine.test_source(source).await);
            bar.finish_and_clear();
        }
    }
    for id in &selected {
        let bar = spinner(ui, id.as_str());
        let history = store.history(id, HISTORY).await?;
        reports.push(app.engine.test_node(id, &history).await);
        bar.finish_and_clear();
    }
    let chosen: HashSet<&ModelId> = selected.iter().collect();
    for check in &app.project.checks {
        let CheckTarget::Query { nodes, .. } = &check.target else { continue };
        if everything || nodes.iter().any(|node| chosen.contains(node)) {
            reports.push(app.engine.test_query(check).await);
        }
    }
    reports.retain(|report| {
        !report.checks.is_empty() || !report.unit_tests.is_empty() || report.error.is_some()
    });
    Ok(reports)
}

fn write(out: &mut dyn Write, reports: &[TestReport], took: f64, ui: &Ui) -> io::Result<()> {
    let paint = ui.out;
    let checks: Vec<_> = reports
        .iter()
        .flat_map(|report| report.checks.iter().map(|check| (report.target.as_str(), check)))
        .collect();
    if !checks.is_empty() && !ui.quiet {
        writeln!(out, "{}", paint.bold("checks"))?;
        write_check_list(out, &checks, paint, false)?;
    }
    let tests: Vec<_> = reports.iter().flat_map(|report| &report.unit_tests).collect();
    let failed: Vec<_> = tests.iter().filter(|test| !test.passed).collect();
    if !tests.is_empty() && !ui.quiet {
        writeln!(out, "{}", paint.bold("unit tests"))?;
        let passed = paint.green(&format!("{} passed", count((tests.len() - failed.len()) as u64)));
        match failed.len() {
            0 => writeln!(out, "  {passed}")?,
            n => {
                writeln!(out, "  {passed}, {}", paint.red(&format!("{} failed", count(n as u64))))?
            }
        }
    }
    for test in &failed {
        let name = printable(&test.name, false);
        let model = printable(&test.model, false);
        writeln!(out, "  {} {name} ({model})", paint.red("failed"))?;
        for line in &test.diff {
            let text = printable(line, false);
            let text = match line.as_bytes().first() {
                Some(b'-') => paint.red(&text),
                Some(b'+') => paint.green(&text),
                _ => paint.dim(&text),
            };
            writeln!(out, "      {text}")?;
        }
    }
    for report in reports {
        if let Some(error) = &report.error {
            writeln!(out, "{}", printable(&report.target, false))?;
            crate::errors::write_report(out, error, "  ", paint)?;
        }
    }
    if ui.quiet {
        return Ok(());
    }
    let bad_checks = checks
        .iter()
        .filter(|(_, check)| matches!(check.status, CheckStatus::Fail | CheckStatus::Error))
        .count();
    let errors = reports.iter().filter(|report| report.error.is_some()).count();
    let bad = (bad_checks + failed.len() + errors) as u64;
    let all = (checks.len() + tests.len()) as u64;
    let verdict = match bad {
        0 => paint.green("success"),
        _ => paint.red("failed"),
    };
    let failures = match bad {
        0 => String::new(),
        n => format!(", {} failed", count(n)),
    };
    writeln!(out, "{verdict} in {}: {}{failures}", seconds(took), counted(all, "test"))
}

#[cfg(test)]
mod tests {
    use freshet_engine::CheckReport;
    use freshet_engine::unit_tests::UnitTestReport;

    use super::*;
    use crate::golden;
    use crate::report::tests::plain_ui;

    #[test]
    fn report_names_what_fails_with_rows_and_differences() {
        let check = |name: &str, status, sample: Vec<Vec<(String, Option<String>)>>| CheckReport {
            name: name.into(),
            rule: "unique".into(),
            status,
            failures: sample.len() as u64,
            rows: 10,
            value: None,
            message: if sample.is_empty() { String::new() } else { "1 of 10 rows".into() },
            sample,
        };
        let reports = vec![
            TestReport {
                target: "stg_orders".into(),
                checks: vec![
                    check("not_null_stg_orders_id", CheckStatus::Pass, vec![]),
                    check(
                        "unique_stg_orders_id",
                        CheckStatus::Fail,
                        vec![vec![("id".into(), Some("7".into()))]],
                    ),
                ],
                unit_tests: vec![],
                error: None,
            },
            TestReport {
                target: "daily".into(),
                checks: vec![],
                unit_tests: vec![UnitTestReport {
                    name: "cancelled_orders".into(),
                    model: "daily".into(),
                    passed: false,
                    rows: 1,
                    diff: vec![
                        "  day, n".into(),
                        "- 2026-10-01, 1".into(),
                        "+ 2026-10-01, 2".into(),
                    ],
                }],
                error: None,
            },
        ];
        let mut out = Vec::new();
        write(&mut out, &reports, 0.5, &plain_ui()).expect("memory takes everything");
        golden::check("test_report.txt", &String::from_utf8(out).expect("it is text"));
    }
}
