//! `freshet plan`: what becomes of the state of streaming jobs under the SQL as it is now.

use std::io::{self, Write};
use std::sync::Arc;

use freshet_core::clock::{Clock, SystemClock};
use freshet_engine::streaming::{StreamOptions, TokioIo};
use freshet_runtime::checkpoint::{Fate, JobPart, Manifest, StateChange, changes};
use serde_json::json;

use crate::app::{self, App, Place};
use crate::cli::PlanArgs;
use crate::commands::jobs::stored;
use crate::exit::{CommandResult, Outcome};
use crate::format::{bytes, seconds};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

/// Compares the jobs of the selected models with their newest checkpoints.
pub fn run(args: &PlanArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open_to_look()?;
    app.warn(ui);
    app::runtime(None)?.block_on(plan(&app, args, ui))
}

async fn plan(app: &App, args: &PlanArgs, ui: &Ui) -> CommandResult {
    let models = app.streams(&args.nodes)?;
    let options =
        StreamOptions { parallelism: 1, commit_interval: 0, io: Arc::new(TokioIo::current()) };
    let mut all = Vec::new();
    for model in models {
        let job = app.engine.stream_job(&model, &options).await?;
        let newest = stored::newest(app, &job.plan.name).await?;
        let before = newest.clone().unwrap_or_else(|| Manifest::empty("", job.plan.groups));
        let parts = changes(&job.plan, &before);
        all.push((model, newest, parts));
    }
    let mut out = io::stdout().lock();
    if ui.json {
        let all = all.iter().map(|(model, newest, parts)| {
            let epoch = newest.as_ref().map(|manifest| manifest.epoch);
            json!({ "model": model, "checkpoint": epoch, "parts": parts })
        });
        writeln!(out, "{}", serde_json::Value::Array(all.collect()))?;
        return Ok(Outcome::Done);
    }
    let now = SystemClock.now_micros();
    let mut losses = 0;
    for (number, (model, newest, parts)) in all.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        let Some(newest) = newest else {
            writeln!(out, "{model}: it has no checkpoint, and begins where its sources do")?;
            continue;
        };
        let age = seconds((now - newest.created).max(0) as f64 / 1e6);
        writeln!(out, "{model}: from checkpoint {}, made {age} ago", newest.epoch)?;
        show(&mut out, parts, ui)?;
        losses += parts.iter().filter(|part| part.is_loss(newest)).count();
    }
    if losses > 0 {
        writeln!(
            out,
            "\n{} `freshet up` refuses to lose state; with --accept-state-loss it goes on without it",
            ui.out.yellow("state is lost:")
        )?;
    }
    Ok(Outcome::Done)
}

fn show(out: &mut dyn Write, parts: &[StateChange], ui: &Ui) -> io::Result<()> {
    let columns =
        [("", Align::Left), ("", Align::Left), ("state", Align::Right), ("", Align::Left)];
    let mut table = Table::new(columns, Frame::Open).indented("  ").whole(2);
    for StateChange { name, part, fate, bytes: held, .. } in parts {
        let (word, tone) = match fate {
            Fate::Kept => ("kept", Tone::Good),
            Fate::Rebuilt => ("rebuilt", Tone::Plain),
            Fate::Empty => ("empty", Tone::Warn),
            Fate::Lost => ("lost", Tone::Bad),
        };
        let what = match part {
            JobPart::Source | JobPart::Operator => printable(name, false),
            JobPart::Sink => format!("sink {}", printable(name, false)),
        };
        let why = match (fate, part) {
            (Fate::Rebuilt, JobPart::Source) => "is read from where it starts",
            (Fate::Rebuilt, JobPart::Operator) => "from sources that are read from their start",
            (Fate::Empty, _) => "knows nothing of the rows that were read before",
            (Fate::Lost, JobPart::Source) => "is not read any more",
            (Fate::Lost, JobPart::Sink) => "is not written any more",
            (Fate::Lost, JobPart::Operator) => "the SQL has no place for it",
            (Fate::Kept, _) | (Fate::Rebuilt, JobPart::Sink) => "",
        };
        let held = if *held > 0 { bytes(*held) } else { String::new() };
        table.row([Cell::toned(word, tone), what.into(), held.into(), Cell::toned(why, Tone::Dim)]);
    }
    table.write(out, ui.width, ui.out)
}
