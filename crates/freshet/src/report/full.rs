//! The full report of one run: all that was recorded, task by task.

use std::io::{self, Write};

use freshet_core::contract::{SchemaChange, SchemaDiff};
use freshet_core::source::SplitStatus;
use freshet_engine::BuildReport;
use freshet_orchestrator::{RunReport, TaskReport};

use super::*;

/// Operators of a plan are listed, files up to this number; beyond it the ones that are as they
/// should be are only counted.
const ALL_FILES: usize = 200;

/// Prints all that is known of a run.
pub fn write_full(out: &mut dyn Write, report: &RunReport, ui: &Ui) -> io::Result<()> {
    let paint = ui.out;
    writeln!(
        out,
        "run {}  {}",
        paint.bold(report.id.as_str()),
        painted_status(report.status, paint)
    )?;
    let mut facts = vec![
        ("project", printable(&report.project, false)),
        ("environment", printable(&report.environment, false)),
        ("command", printable(&report.command, false)),
        ("started", time(report.started)),
    ];
    match report.finished {
        Some(finished) => {
            let took = run_seconds(report).map(seconds).unwrap_or_default();
            facts.push(("finished", format!("{} ({took})", time(finished))));
        }
        None => facts.push(("finished", "not yet, or its process died".to_owned())),
    }
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "  {} {value}", paint.dim(&format!("{name:<12}")))?;
    }
    writeln!(out)?;
    write_recovered(out, report, paint)?;
    write_tasks(out, report, ui)?;
    write_files(out, report, paint, usize::MAX)?;
    write_dead_letters(out, report, paint)?;
    write_checks(out, report, paint, true)?;
    write_warnings(out, report, paint)?;
    write_errors(out, report, paint)?;
    for task in &report.tasks {
        if let Some(build) = &task.build {
            write_task(out, task, build, ui)?;
        }
    }
    Ok(())
}

fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn write_task(
    out: &mut dyn Write,
    task: &TaskReport,
    build: &BuildReport,
    ui: &Ui,
) -> io::Result<()> {
    let paint = ui.out;
    let mut title = vec![build.materialized.clone()];
    if build.incremental {
        title.push("new input only".to_owned());
    }
    if let Some(version) = build.version {
        title.push(format!("version {version}"));
    }
    if build.bytes_read > 0 {
        title.push(format!("{} read", bytes(build.bytes_read)));
    }
    let name = paint.bold(&printable(task.model.as_str(), false));
    writeln!(out, "\n{name}: {}", title.join(", "))?;
    if !build.seconds.is_empty() {
        let order = ["plan", "execute", "check", "publish", "load"];
        let rank =
            |name: &str| order.iter().position(|known| *known == name).unwrap_or(order.len());
        let mut phases: Vec<_> = build.seconds.iter().collect();
        phases.sort_by_key(|(name, _)| (rank(name), name.as_str()));
        let phases: Vec<_> = phases
            .iter()
            .map(|(name, s)| format!("{} {}", printable(name, false), seconds(**s)))
            .collect();
        writeln!(out, "  {} {}", paint.dim("time"), phases.join(", "))?;
    }
    if !build.batches.is_empty() {
        let batches: Vec<_> = build.batches.iter().map(interval).collect();
        writeln!(out, "  {} {}", paint.dim("batches"), batches.join(", "))?;
    }
    write_edges(out, build, ui)?;
    write_operators(out, build, ui)?;
    write_file_table(out, build, ui)?;
    write_diffs(out, &build.schema_diffs, paint)
}

fn write_edges(out: &mut dyn Write, build: &BuildReport, ui: &Ui) -> io::Result<()> {
    let mut table = edge_table(&[]).indented("  ");
    for (edge, counts) in in_order(&build.edges) {
        edge_row(&mut table, [], edge, counts);
    }
    if table.is_empty() { Ok(()) } else { table.write(out, ui.width, ui.out) }
}

fn write_operators(out: &mut dyn Write, build: &BuildReport, ui: &Ui) -> io::Result<()> {
    if build.operators.is_empty() {
        return Ok(());
    }
    let columns = [
        ("operator", Align::Left),
        ("in", Align::Right),
        ("out", Align::Right),
        ("filtered", Align::Right),
        ("unmatched", Align::Right),
        ("deduplicated", Align::Right),
    ];
    let mut table = Table::new(columns, Frame::Open).indented("  ");
    for operator in &build.operators {
        let figure = |n: u64| match n {
            0 => Cell::toned("-", Tone::Dim),
            n => Cell::from(count(n)),
        };
        table.row([
            Cell::from(printable(&operator.operator, false)),
            count(operator.rows_in).into(),
            count(operator.rows_out).into(),
            figure(operator.filtered),
            operator.unmatched.map_or(Cell::toned("?", Tone::Dim), figure),
            figure(operator.deduplicated),
        ]);
    }
    table.write(out, ui.width, ui.out)
}

fn write_file_table(out: &mut dyn Write, build: &BuildReport, ui: &Ui) -> io::Result<()> {
    let few = build.files.len() <= ALL_FILES;
    let listed: Vec<_> = build
        .files
        .iter()
        .filter(|file| few || file.status != SplitStatus::Read || file.dead > 0)
        .collect();
    if listed.is_empty() {
        return Ok(());
    }
    let columns = [
        ("file", Align::Left),
        ("status", Align::Left),
        ("records", Align::Right),
        ("good", Align::Right),
        ("dead", Align::Right),
        ("bytes", Align::Right),
    ];
    let mut table = Table::new(columns, Frame::Open).indented("  ");
    for file in &listed {
        let (status, tone) = match file.status {
            SplitStatus::Read => ("read", Tone::Good),
            SplitStatus::SetAside => ("set aside", Tone::Warn),
            SplitStatus::Empty => ("empty", Tone::Warn),
            SplitStatus::Unfinished => ("not finished", Tone::Bad),
        };
        table.row([
            Cell::from(printable(&file.file, false)),
            Cell::toned(status, tone),
            count(file.records).into(),
            count(file.good).into(),
            Cell::toned(count(file.dead), if file.dead > 0 { Tone::Warn } else { Tone::Dim }),
            bytes(file.bytes).into(),
        ]);
    }
    table.write(out, ui.width, ui.out)?;
    let rest = build.files.len() - listed.len();
    if rest > 0 {
        writeln!(out, "  … and {} read whole without dead letters", counted(rest as u64, "file"))?;
    }
    Ok(())
}

fn write_diffs(out: &mut dyn Write, diffs: &[SchemaDiff], paint: Paint) -> io::Result<()> {
    if diffs.is_empty() {
        return Ok(());
    }
    writeln!(out, "  {}", paint.dim("schema changes"))?;
    for diff in diffs {
        let file = diff.file.as_deref().unwrap_or("the contract or table itself");
        let changes: Vec<_> = diff.changes.iter().map(change).collect();
        writeln!(out, "    {}: {}", printable(file, false), printable(&changes.join(", "), false))?;
    }
    Ok(())
}

fn change(change: &SchemaChange) -> String {
    match change {
        SchemaChange::Added { column, data_type } => format!("column {column} added ({data_type})"),
        SchemaChange::Missing { column } => format!("column {column} missing"),
        SchemaChange::Reordered => "columns in another order".to_owned(),
        SchemaChange::Retyped { column, from, to } => {
            format!("column {column} changed from {from} to {to}")
        }
    }
}
