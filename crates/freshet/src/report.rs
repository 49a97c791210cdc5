//! What a run did, for people: every row accounted for, what was left out and why, where to look next.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use freshet_core::source::SplitStatus;
use freshet_core::{EdgeCounts, SourceId};
use freshet_engine::{CheckReport, CheckStatus, FileReport, MissingFile};
use freshet_orchestrator::{RunReport, Status, TaskReport};

use crate::exit::{CommandResult, Failure, INTERRUPTED, Outcome, kind_code};
use crate::format::{bytes, count, counted, interval, seconds};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Paint, Ui, printable};

mod full;
#[cfg(test)]
pub(crate) mod tests;

pub use full::write_full;

/// Names of files, dead-letter rules and the like that a summary lists at most; the full report
/// lists all.
const SUMMARY_ITEMS: usize = 5;

/// What a status is called.
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Running => "running",
        Status::Success => "success",
        Status::Partial => "partial",
        Status::Failed => "failed",
        Status::Skipped => "skipped",
        Status::Cancelled => "cancelled",
    }
}

/// How a status looks.
pub fn status_tone(status: Status) -> Tone {
    match status {
        Status::Pending | Status::Running => Tone::Plain,
        Status::Success => Tone::Good,
        Status::Partial => Tone::Warn,
        Status::Failed => Tone::Bad,
        Status::Skipped | Status::Cancelled => Tone::Dim,
    }
}

/// The exit code that a run's end asks for.
///
/// A failed run has the code of its gravest error, a cancelled one that of an interrupt.
pub fn run_outcome(report: &RunReport) -> CommandResult {
    match report.status {
        Status::Success => Ok(Outcome::Done),
        Status::Partial => Ok(Outcome::Partial),
        Status::Cancelled => Err(Failure::Reported(INTERRUPTED)),
        _ => {
            let errors = report.tasks.iter().filter_map(|task| task.error.as_ref());
            match errors.map(|error| kind_code(error.kind)).max() {
                Some(code) if code != Outcome::DataFailed.code() => Err(Failure::Reported(code)),
                _ => Ok(Outcome::DataFailed),
            }
        }
    }
}

/// A status in its colour.
pub fn painted_status(status: Status, paint: Paint) -> String {
    let name = status_name(status);
    match status_tone(status) {
        Tone::Good => paint.green(name),
        Tone::Warn => paint.yellow(name),
        Tone::Bad => paint.red(name),
        Tone::Dim => paint.dim(name),
        Tone::Plain => name.to_owned(),
    }
}

/// Seconds between start and end; `None` where either is missing.
pub fn task_seconds(task: &TaskReport) -> Option<f64> {
    span(task.started?, task.finished?)
}

/// Seconds that a run took; `None` while it is under way.
pub fn run_seconds(report: &RunReport) -> Option<f64> {
    span(report.started, report.finished?)
}

fn span(start: chrono::DateTime<chrono::Utc>, end: chrono::DateTime<chrono::Utc>) -> Option<f64> {
    Some((end - start).num_microseconds()? as f64 / 1e6)
}

/// Prints the summary at the end of a run.
pub fn write_summary(out: &mut dyn Write, report: &RunReport, ui: &Ui) -> io::Result<()> {
    let paint = ui.out;
    write_recovered(out, report, paint)?;
    write_tasks(out, report, ui)?;
    write_files(out, report, paint, SUMMARY_ITEMS)?;
    write_rows(out, report, ui)?;
    write_dead_letters(out, report, paint)?;
    write_checks(out, report, paint, false)?;
    write_warnings(out, report, paint)?;
    write_errors(out, report, paint)?;
    write_end(out, report, paint)
}

fn heading(out: &mut dyn Write, text: &str, paint: Paint) -> io::Result<()> {
    writeln!(out, "\n{}", paint.bold(text))
}

fn write_recovered(out: &mut dyn Write, report: &RunReport, paint: Paint) -> io::Result<()> {
    for commit in &report.recovered {
        writeln!(
            out,
            "{} a commit of an earlier run was finished first: {}",
            paint.yellow("recovered"),
            printable(commit, false)
        )?;
    }
    if !report.recovered.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

/// One line a task: what it is, how it ended, its rows and its time.
fn write_tasks(out: &mut dyn Write, report: &RunReport, ui: &Ui) -> io::Result<()> {
    let mut table = Table::new(
        [
            ("model", Align::Left),
            ("kind", Align::Left),
            ("status", Align::Left),
            ("rows written", Align::Right),
            ("rows in table", Align::Right),
            ("time", Align::Right),
            ("", Align::Left),
        ],
        Frame::Open,
    )
    .whole(1);
    for task in &report.tasks {
        let build = task.build.as_ref();
        let stored =
            build.filter(|build| !matches!(build.materialized.as_str(), "view" | "ephemeral"));
        let number = |n: Option<u64>| n.map(count).unwrap_or_default();
        table.row([
            Cell::from(printable(task.model.as_str(), false)),
            Cell::toned(
                build.map(|build| build.materialized.clone()).unwrap_or_default(),
                Tone::Dim,
            ),
            Cell::toned(status_name(task.status), status_tone(task.status)),
            number(stored.map(|build| build.rows_written)).into(),
            number(stored.and_then(|build| build.rows_total)).into(),
            task_seconds(task).map(seconds).unwrap_or_default().into(),
            Cell::toned(remark(task), Tone::Dim),
        ]);
    }
    table.write(out, ui.width, ui.out)
}

/// What a task's line ends with: why it was skipped, what it computed again.
fn remark(task: &TaskReport) -> String {
    let mut remarks = Vec::new();
    if let Some(because) = &task.because {
        remarks.push(format!("because of {}", printable(because.as_str(), false)));
    }
    if let Some(build) = &task.build {
        if build.incremental && build.number.is_none() && task.status == Status::Success {
            remarks.push("nothing new".to_owned());
        }
        match build.batches.as_slice() {
            [] => {}
            [one] => remarks.push(interval(one)),
            [first, .., last] => remarks.push(format!(
                "{} from {} to {}",
                counted(build.batches.len() as u64, "batch"),
                interval(first),
                interval(last)
            )),
        }
    }
    if task.attempts > 1 {
        remarks.push(format!("{} attempts", task.attempts));
    }
    remarks.join(", ")
}

/// Files of all tasks, each once, by source.
pub(crate) fn files_by_source(
    report: &RunReport,
) -> BTreeMap<&SourceId, (Vec<&FileReport>, Vec<&MissingFile>)> {
    let mut sources: BTreeMap<&SourceId, (Vec<&FileReport>, Vec<&MissingFile>)> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for build in report.tasks.iter().filter_map(|task| task.build.as_ref()) {
        for file in &build.files {
            if seen.insert((&file.source, file.file.as_str())) {
                sources.entry(&file.source).or_default().0.push(file);
            }
        }
        for missing in &build.missing {
            let (_, all) = sources.entry(&missing.source).or_default();
            if !all.contains(&missing) {
                all.push(missing);
            }
        }
    }
    sources
}

fn write_files(
    out: &mut dyn Write,
    report: &RunReport,
    paint: Paint,
    limit: usize,
) -> io::Result<()> {
    let sources = files_by_source(report);
    if sources.is_empty() {
        return Ok(());
    }
    heading(out, "files", paint)?;
    for (source, (files, missing)) in sources {
        let of = |status| files.iter().filter(move |file| file.status == status);
        let size: u64 = of(SplitStatus::Read).map(|file| file.bytes).sum();
        let mut parts =
            vec![format!("{} read ({})", count(of(SplitStatus::Read).count() as u64), bytes(size))];
        for (n, what) in [
            (of(SplitStatus::SetAside).count(), "set aside"),
            (of(SplitStatus::Empty).count(), "empty"),
            (of(SplitStatus::Unfinished).count(), "not finished"),
            (missing.len(), "missing"),
        ] {
            if n > 0 {
                parts.push(paint.yellow(&format!("{} {what}", count(n as u64))));
            }
        }
        writeln!(out, "  {}: {}", printable(source.as_str(), false), parts.join(", "))?;
        let set_aside = of(SplitStatus::SetAside).map(|file| {
            let reason =
                file.error.as_ref().map(|error| format!(": {} [{}]", error.message, error.code));
            ("set aside", format!("{}{}", file.file, reason.unwrap_or_default()))
        });
        let empty = of(SplitStatus::Empty).map(|file| ("empty", file.file.clone()));
        let absent = missing
            .iter()
            .map(|file| ("missing", format!("{} ({})", file.expected, interval(&file.interval))));
        let all: Vec<_> = set_aside.chain(empty).chain(absent).collect();
        for (what, name) in all.iter().take(limit) {
            writeln!(
                out,
                "    {} {}",
                paint.yellow(&format!("{what:<9}")),
                printable(name, false)
            )?;
        }
        write_more(out, all.len(), limit, "    ")?;
    }
    Ok(())
}

fn write_more(out: &mut dyn Write, all: usize, limit: usize, indent: &str) -> io::Result<()> {
    match all.checked_sub(limit) {
        Some(more) if more > 0 => writeln!(out, "{indent}… and {} more", count(more as u64)),
        _ => Ok(()),
    }
}

/// The edges that carry rows: in = out + dead letters + filtered.
fn write_rows(out: &mut dyn Write, report: &RunReport, ui: &Ui) -> io::Result<()> {
    let mut table = edge_table(&[("model", Align::Left)]).indented("  ");
    for task in &report.tasks {
        let Some(build) = &task.build else { continue };
        for (edge, counts) in in_order(&build.edges) {
            edge_row(&mut table, [printable(task.model.as_str(), false).into()], edge, counts);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    heading(out, "rows", ui.out)?;
    table.write(out, ui.width, ui.out)
}

/// Edges in the order in which rows pass them.
fn in_order(edges: &BTreeMap<String, EdgeCounts>) -> Vec<(&str, &EdgeCounts)> {
    let rank = |edge: &str| {
        let stages = ["decode", "contract", "check", "store", "load"];
        let stage = edge.split(':').next().unwrap_or_default();
        stages.iter().position(|known| *known == stage).unwrap_or(stages.len())
    };
    let mut edges: Vec<_> = edges.iter().map(|(edge, counts)| (edge.as_str(), counts)).collect();
    edges.sort_by_key(|(edge, _)| rank(edge));
    edges
}

fn edge_table(before: &[(&str, Align)]) -> Table {
    let columns = before.iter().copied().chain([
        ("edge", Align::Left),
        ("in", Align::Right),
        ("", Align::Left),
        ("out", Align::Right),
        ("", Align::Left),
        ("dead letters", Align::Right),
        ("", Align::Left),
        ("filtered", Align::Right),
        ("", Align::Left),
    ]);
    Table::new(columns, Frame::Open).whole(before.len().max(1))
}

fn edge_row<const N: usize>(table: &mut Table, before: [Cell; N], edge: &str, counts: &EdgeCounts) {
    let balance = if counts.balances() {
        Cell::default()
    } else {
        Cell::toned("does not balance: please report this", Tone::Bad)
    };
    let equals = if counts.balances() { "=" } else { "≠" };
    let tone = |n: u64| if n == 0 { Tone::Dim } else { Tone::Warn };
    table.row(before.into_iter().chain([
        printable(edge, false).into(),
        count(counts.rows_in).into(),
        equals.into(),
        count(counts.rows_out).into(),
        "+".into(),
        Cell::toned(count(counts.dead), tone(counts.dead)),
        "+".into(),
        Cell::toned(
            count(counts.filtered),
            if counts.filtered == 0 { Tone::Dim } else { Tone::Plain },
        ),
        balance,
    ]));
}

/// Dead letters of a run by source and rule. Several models that read one source find the same
/// ones: the largest count stands.
pub(crate) fn dead_letters(report: &RunReport) -> BTreeMap<&str, BTreeMap<&str, u64>> {
    let mut sources: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for build in report.tasks.iter().filter_map(|task| task.build.as_ref()) {
        for (source, rules) in &build.dead_letters {
            for (rule, n) in rules {
                let sum = sources.entry(source).or_default().entry(rule).or_default();
                *sum = (*sum).max(*n);
            }
        }
    }
    sources.retain(|_, rules| rules.values().any(|n| *n > 0));
    sources
}

fn write_dead_letters(out: &mut dyn Write, report: &RunReport, paint: Paint) -> io::Result<()> {
    let sources = dead_letters(report);
    if sources.is_empty() {
        return Ok(());
    }
    heading(out, "dead letters", paint)?;
    for (source, rules) in sources {
        let total: u64 = rules.values().sum();
        let mut rules: Vec<_> = rules.into_iter().filter(|(_, n)| *n > 0).collect();
        rules.sort_by_key(|(rule, n)| (std::cmp::Reverse(*n), *rule));
        let parts: Vec<_> = rules
            .iter()
            .map(|(rule, n)| format!("{} {}", printable(rule, false), count(*n)))
            .collect();
        let total = paint.yellow(&count(total));
        writeln!(out, "  {}: {total} ({})", printable(source, false), parts.join(", "))?;
    }
    Ok(())
}

fn check_word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Pass => "passed",
        CheckStatus::Warn => "warned",
        CheckStatus::Quarantine => "quarantined",
        CheckStatus::Fail => "failed",
        CheckStatus::Error => "not evaluated",
    }
}

fn painted_check(status: CheckStatus, text: &str, paint: Paint) -> String {
    match status {
        CheckStatus::Pass => paint.green(text),
        CheckStatus::Warn | CheckStatus::Quarantine => paint.yellow(text),
        CheckStatus::Fail | CheckStatus::Error => paint.red(text),
    }
}

fn write_checks(
    out: &mut dyn Write,
    report: &RunReport,
    paint: Paint,
    all: bool,
) -> io::Result<()> {
    let checks: Vec<(&str, &CheckReport)> = report
        .tasks
        .iter()
        .filter_map(|task| Some((task.model.as_str(), task.build.as_ref()?)))
        .flat_map(|(model, build)| build.checks.iter().map(move |check| (model, check)))
        .collect();
    if checks.is_empty() {
        return Ok(());
    }
    heading(out, "checks", paint)?;
    write_check_list(out, &checks, paint, all)
}

/// The tally of some checks, then those that do not hold, or all.
pub fn write_check_list(
    out: &mut dyn Write,
    checks: &[(&str, &CheckReport)],
    paint: Paint,
    all: bool,
) -> io::Result<()> {
    let statuses = [
        CheckStatus::Pass,
        CheckStatus::Warn,
        CheckStatus::Quarantine,
        CheckStatus::Fail,
        CheckStatus::Error,
    ];
    let tally: Vec<_> = statuses
        .into_iter()
        .map(|status| (status, checks.iter().filter(|(_, check)| check.status == status).count()))
        .filter(|(_, n)| *n > 0)
        .map(|(status, n)| {
            painted_check(status, &format!("{} {}", count(n as u64), check_word(status)), paint)
        })
        .collect();
    writeln!(out, "  {}", tally.join(", "))?;
    for (model, check) in checks {
        if !all && check.status == CheckStatus::Pass {
            continue;
        }
        let word = format!("{:<6}", check_word(check.status));
        let mut line = format!(
            "  {} {} ({})",
            painted_check(check.status, &word, paint),
            printable(&check.name, false),
            printable(model, false)
        );
        if !check.message.is_empty() {
            line.push_str(&format!(": {}", printable(&check.message, false)));
        }
        writeln!(out, "{line}")?;
        for row in &check.sample {
            let cells: Vec<_> = row
                .iter()
                .map(|(name, value)| {
                    let value = value.as_deref().unwrap_or("NULL");
                    format!("{}={}", printable(name, false), printable(value, false))
                })
                .collect();
            writeln!(out, "      {}", paint.dim(&cells.join(", ")))?;
        }
    }
    Ok(())
}

fn write_warnings(out: &mut dyn Write, report: &RunReport, paint: Paint) -> io::Result<()> {
    let warnings: Vec<_> = report
        .tasks
        .iter()
        .filter_map(|task| Some((&task.model, task.build.as_ref()?)))
        .flat_map(|(model, build)| build.warnings.iter().map(move |warning| (model, warning)))
        .collect();
    if warnings.is_empty() {
        return Ok(());
    }
    heading(out, "warnings", paint)?;
    for (model, warning) in warnings {
        let name = paint.yellow(&printable(model.as_str(), false));
        writeln!(out, "  {name}: {}", printable(warning, false))?;
    }
    Ok(())
}

fn write_errors(out: &mut dyn Write, report: &RunReport, paint: Paint) -> io::Result<()> {
    let failed: Vec<_> = report
        .tasks
        .iter()
        .filter(|task| task.because.is_none())
        .filter_map(|task| Some((task, task.error.as_ref()?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    heading(out, "errors", paint)?;
    for (task, error) in failed {
        writeln!(out, "  {}", printable(task.model.as_str(), false))?;
        crate::errors::write_report(out, error, "    ", paint)?;
        if let Some(staged) = task.build.as_ref().and_then(|build| build.staged.as_ref()) {
            writeln!(
                out,
                "      what was staged is kept for inspection: {}",
                printable(staged, false)
            )?;
        }
    }
    Ok(())
}

/// How it ended, and where to look next.
fn write_end(out: &mut dyn Write, report: &RunReport, paint: Paint) -> io::Result<()> {
    let of = |status| report.tasks.iter().filter(|task| task.status == status).count() as u64;
    let mut parts = Vec::new();
    for (status, what) in [
        (Status::Success, "built"),
        (Status::Partial, "partial"),
        (Status::Failed, "failed"),
        (Status::Skipped, "skipped"),
        (Status::Cancelled, "cancelled"),
    ] {
        if of(status) > 0 {
            parts.push(format!("{} {what}", count(of(status))));
        }
    }
    if parts.is_empty() {
        parts.push("nothing to do".to_owned());
    }
    let time = run_seconds(report).map(|s| format!(" in {}", seconds(s))).unwrap_or_default();
    let status = painted_status(report.status, paint);
    writeln!(out, "\n{status}{time}: {}", parts.join(", "))?;
    let show = format!("`freshet runs show {}`", report.id);
    if dead_letters(report).is_empty() {
        writeln!(out, "{} {show} for the full report", paint.dim("next:"))
    } else {
        writeln!(
            out,
            "{} `freshet dlq ls` for the dead letters, {show} for the full report",
            paint.dim("next:")
        )
    }
}
