//! `freshet show`: a preview of a model.

use std::io::Write;
use std::time::Instant;

use freshet_core::ModelId;
use freshet_project::RenderContext;

use super::sql::{preview, until_signal};
use crate::app::{self, Place};
use crate::cli::{OutputFormat, ShowArgs};
use crate::exit::{CommandResult, Outcome};
use crate::output::{self, PrintOptions};
use crate::ui::Ui;

/// Prints the first rows of a model, or its SQL without templates.
pub fn run(args: &ShowArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let id = ModelId::new(args.model.clone());
    // Names the nearest model where there is none of this name.
    app.engine.node(&id)?;
    if args.compiled {
        let compiled = app.project.compile(&id, &RenderContext::default())?;
        let mut out = std::io::stdout().lock();
        if ui.json {
            writeln!(out, "{}", serde_json::json!({ "model": id, "sql": compiled.sql }))?;
        } else {
            writeln!(out, "{}", compiled.sql.trim())?;
        }
        return Ok(Outcome::Done);
    }
    app::runtime(None)?.block_on(async {
        let started = Instant::now();
        let format = if ui.json { OutputFormat::Json } else { args.format };
        let options = PrintOptions {
            format,
            max_rows: args.limit,
            width: ui.width,
            paint: ui.out,
            timer: true,
        };
        let work = async {
            let rows = preview(&app, &id, args.limit).await?;
            output::print(rows, &mut std::io::stdout(), &options, started).await
        };
        until_signal(work).await?;
        Ok(Outcome::Done)
    })
}
