//! `freshet lake`: maintenance of the lake's tables.

use std::collections::BTreeSet;
use std::io::{self, Write};

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::{HumanDuration, nearest};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_engine::lake::{HistoryEntry, Lake, TableName};
use freshet_orchestrator::lock::EnvironmentLock;
use freshet_orchestrator::run_id;

use crate::app::{self, App, Place};
use crate::cli::{LakeArgs, LakeCommand};
use crate::exit::{CommandResult, Failure, Outcome};
use crate::format::{bytes, count, counted};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

/// Lists, shows or maintains tables.
pub fn run(args: &LakeArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let out = &mut io::stdout().lock();
    app::runtime(None)?.block_on(async {
        match &args.command {
            LakeCommand::Ls => list(out, app.engine.lake(), ui).await?,
            LakeCommand::History { table, limit } => {
                let table = find(&app, table).await?;
                let history = app.engine.lake().history(&table, *limit).await?;
                write_history(out, &history, ui)?;
            }
            LakeCommand::Optimize { tables } => optimize(out, &app, tables, ui).await?,
            LakeCommand::Vacuum { tables, retention, dry_run } => {
                vacuum(out, &app, tables, *retention, *dry_run, ui).await?;
            }
        }
        Ok(Outcome::Done)
    })
}

/// The table of the lake that a user means.
async fn find(app: &App, name: &str) -> Result<TableName> {
    let all = app.engine.lake().tables().await?;
    let wanted = match name.split_once('.') {
        Some((schema, name)) => TableName::new(schema, name),
        None => TableName::new(app.project.environment.schema.as_str(), name),
    };
    if all.contains(&wanted) {
        return Ok(wanted);
    }
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    let error = Error::new(code::ARGUMENTS, format!("the lake has no table \"{wanted}\""));
    Err(match nearest(&wanted.to_string(), names.iter().map(String::as_str)) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint("`freshet lake ls` lists all"),
    })
}

async fn chosen(app: &App, names: &[String]) -> Result<Vec<TableName>> {
    if names.is_empty() {
        return app.engine.lake().tables().await;
    }
    let mut tables = Vec::new();
    for name in names {
        tables.push(find(app, name).await?);
    }
    Ok(tables)
}

async fn list(out: &mut dyn Write, lake: &Lake, ui: &Ui) -> Result<(), Failure> {
    let columns = [
        ("table", Align::Left),
        ("version", Align::Right),
        ("rows", Align::Right),
        ("files", Align::Right),
        ("size", Align::Right),
        ("written (UTC)", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    let mut json = Vec::new();
    for name in lake.tables().await? {
        let Some(snapshot) = lake.load(&name, None).await? else { continue };
        json.push(serde_json::json!({
            "table": name.to_string(),
            "version": snapshot.version,
            "rows": snapshot.rows(),
            "files": snapshot.files.len(),
            "bytes": snapshot.bytes(),
            "written": snapshot.timestamp,
        }));
        table.row([
            Cell::from(printable(&name.to_string(), false)),
            count(snapshot.version).into(),
            snapshot.rows().map(count).unwrap_or_else(|| "?".to_owned()).into(),
            count(snapshot.files.len() as u64).into(),
            bytes(snapshot.bytes()).into(),
            snapshot.timestamp.format("%Y-%m-%d %H:%M:%S").to_string().into(),
        ]);
    }
    if ui.json {
        writeln!(out, "{}", serde_json::Value::Array(json))?;
    } else if table.is_empty() {
        writeln!(out, "no tables yet: `freshet run` makes them")?;
    } else {
        table.write(out, ui.width, ui.out)?;
    }
    Ok(())
}

fn write_history(out: &mut dyn Write, history: &[HistoryEntry], ui: &Ui) -> io::Result<()> {
    if ui.json {
        let all: Vec<_> = history
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "version": entry.version,
                    "timestamp": entry.timestamp,
                    "operation": entry.operation,
                    "parameters": entry.parameters,
                    "info": entry.info,
                })
            })
            .collect();
        return writeln!(out, "{}", serde_json::Value::Array(all));
    }
    let columns = [
        ("version", Align::Right),
        ("written (UTC)", Align::Left),
        ("operation", Align::Left),
        ("parameters", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for entry in history {
        let parameters: Vec<_> = entry
            .parameters
            .iter()
            .map(|(name, value)| match value.as_str() {
                Some(text) => format!("{name}={text}"),
                None => format!("{name}={value}"),
            })
            .collect();
        table.row([
            Cell::from(count(entry.version)),
            entry.timestamp.format("%Y-%m-%d %H:%M:%S").to_string().into(),
            printable(&entry.operation, false).into(),
            Cell::toned(printable(&parameters.join(", "), false), Tone::Dim),
        ]);
    }
    table.write(out, ui.width, ui.out)
}

/// What was begun is finished first and nobody else writes meanwhile: then no staged file is
/// waiting for its commit, and all that no version needs may go.
async fn alone(app: &App) -> Result<EnvironmentLock> {
    let now = SystemClock.now();
    let id = run_id(now, u64::from(std::process::id()));
    let lock = EnvironmentLock::acquire(&app.project.environment.state_dir, &id, now)?;
    app.engine.recover(true).await?;
    Ok(lock)
}

async fn optimize(
    out: &mut dyn Write,
    app: &App,
    names: &[String],
    ui: &Ui,
) -> Result<(), Failure> {
    let tables = chosen(app, names).await?;
    let _lock = alone(app).await?;
    for table in tables {
        let report = app.engine.lake().optimize(&table).await?;
        if ui.json {
            let json = serde_json::json!({
                "table": table.to_string(),
                "version": report.version,
                "files_removed": report.files_removed,
                "files_added": report.files_added,
                "bytes_removed": report.bytes_removed,
                "bytes_added": report.bytes_added,
            });
            writeln!(out, "{json}")?;
        } else if !ui.quiet {
            let name = printable(&table.to_string(), false);
            match report.version {
                None => writeln!(out, "{name}: nothing to do")?,
                Some(version) => writeln!(
                    out,
                    "{name}: {} ({}) became {} ({}), version {version}",
                    counted(report.files_removed, "file"),
                    bytes(report.bytes_removed),
                    count(report.files_added),
                    bytes(report.bytes_added)
                )?,
            }
        }
    }
    Ok(())
}

async fn vacuum(
    out: &mut dyn Write,
    app: &App,
    names: &[String],
    retention: HumanDuration,
    dry_run: bool,
    ui: &Ui,
) -> Result<(), Failure> {
    let tables = chosen(app, names).await?;
    let _lock = alone(app).await?;
    for table in tables {
        let lake = app.engine.lake();
        let report = lake.vacuum(&table, retention.0, &BTreeSet::new(), dry_run).await?;
        if ui.json {
            let json = serde_json::json!({
                "table": table.to_string(),
                "dry_run": dry_run,
                "files": report.files,
                "bytes": report.bytes,
            });
            writeln!(out, "{json}")?;
        } else if !ui.quiet {
            let verb = if dry_run { "would be deleted" } else { "deleted" };
            let files = counted(report.files.len() as u64, "file");
            let name = printable(&table.to_string(), false);
            writeln!(out, "{name}: {files} {verb} ({})", bytes(report.bytes))?;
        }
    }
    Ok(())
}
