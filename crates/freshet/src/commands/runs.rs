//! `freshet runs`: earlier runs.

use std::io::{self, Write};

use freshet_core::Error;
use freshet_core::clock::{Clock, SystemClock};
use freshet_orchestrator::{Builder, RunSummary};

use crate::app::{self, Place};
use crate::cli::{RunsArgs, RunsCommand};
use crate::exit::{CommandResult, Outcome};
use crate::format::{count, counted, seconds};
use crate::report::{status_name, status_tone, write_full};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

/// Lists runs, shows one, or makes their record again.
pub fn run(args: &RunsArgs, place: &Place, ui: &Ui) -> CommandResult {
    let registry = freshet_connectors::registry();
    let out = &mut io::stdout().lock();
    let command = args.command.clone().unwrap_or(RunsCommand::Ls { limit: 20 });
    if matches!(command, RunsCommand::Rebuild) {
        return rebuild(out, place, ui);
    }
    let project = place.project(&registry)?;
    let runtime = app::runtime(Some(1))?;
    let store = runtime.block_on(app::open_meta(&project))?;
    match command {
        RunsCommand::Ls { limit } => {
            let runs = runtime.block_on(store.runs(limit))?;
            list(out, &runs, ui)?;
        }
        RunsCommand::Show { id } => {
            let report = runtime.block_on(store.run(&id))?;
            if ui.json {
                writeln!(out, "{}", to_json(&report)?)?;
            } else {
                write_full(out, &report, ui)?;
            }
        }
        RunsCommand::Prune { older_than, dry_run } => {
            let age = chrono::Duration::from_std(older_than.0).unwrap_or(chrono::Duration::MAX);
            // Nothing is older than time itself.
            let before = SystemClock.now().checked_sub_signed(age);
            let runs = match before {
                Some(before) => runtime.block_on(store.prune(before, dry_run))?,
                None => 0,
            };
            if ui.json {
                writeln!(out, "{}", serde_json::json!({ "runs": runs, "dry_run": dry_run }))?;
            } else if !ui.quiet {
                let verb = if dry_run { "would be forgotten" } else { "forgotten" };
                writeln!(out, "{} {verb}", counted(runs, "run"))?;
            }
        }
        RunsCommand::Rebuild => {}
    }
    Ok(Outcome::Done)
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("a report is no JSON").caused_by(error))
}

fn rebuild(out: &mut dyn Write, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let intents = app::runtime(None)?.block_on(async {
        let store = app.meta().await?;
        let intents = Builder::intents(&*app.engine).await?;
        store.rebuild(&intents, &app.project.name, &app.project.environment.name).await?;
        store.close().await;
        Ok::<_, Error>(intents.len())
    })?;
    if ui.json {
        writeln!(out, "{}", serde_json::json!({ "commits": intents }))?;
    } else if !ui.quiet {
        writeln!(out, "the record was made again from {}", counted(intents as u64, "commit"))?;
    }
    Ok(Outcome::Done)
}

fn list(out: &mut dyn Write, runs: &[RunSummary], ui: &Ui) -> io::Result<()> {
    if ui.json {
        let json = serde_json::to_string(runs).map_err(io::Error::other)?;
        return writeln!(out, "{json}");
    }
    if runs.is_empty() {
        return writeln!(out, "no runs yet: `freshet run` makes the first");
    }
    let columns = [
        ("run", Align::Left),
        ("started (UTC)", Align::Left),
        ("status", Align::Left),
        ("time", Align::Right),
        ("models", Align::Right),
        ("rows written", Align::Right),
        ("dead letters", Align::Right),
        ("command", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for run in runs {
        let took = run
            .finished
            .and_then(|end| Some((end - run.started).num_microseconds()? as f64 / 1e6))
            .map(seconds)
            .unwrap_or_default();
        table.row([
            Cell::from(run.id.as_str()),
            run.started.format("%Y-%m-%d %H:%M:%S").to_string().into(),
            Cell::toned(status_name(run.status), status_tone(run.status)),
            took.into(),
            format!("{}/{}", count(run.done), count(run.tasks)).into(),
            count(run.rows_written).into(),
            Cell::toned(
                count(run.dead_letters),
                if run.dead_letters > 0 { Tone::Warn } else { Tone::Dim },
            ),
            Cell::toned(printable(&run.command, false), Tone::Dim),
        ]);
    }
    table.write(out, ui.width, ui.out)
}
