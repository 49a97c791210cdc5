//! `freshet check`: compiles everything and touches nothing.

use std::io::Write;
use std::time::Instant;

use freshet_core::Error;

use crate::app::{self, Place};
use crate::errors;
use crate::exit::{CommandResult, Failure, Outcome, error_code};
use crate::format::{counted, seconds};
use crate::ui::Ui;

/// Says that all is well, or everything that is not.
pub fn run(place: &Place, ui: &Ui) -> CommandResult {
    let started = Instant::now();
    let checked = check(place, ui);
    let mut out = std::io::stdout().lock();
    match checked {
        Ok(counts) => {
            if ui.json {
                let json = serde_json::json!({
                    "errors": [],
                    "nodes": counts.nodes, "sources": counts.sources,
                    "checks": counts.checks, "unit_tests": counts.unit_tests,
                });
                writeln!(out, "{json}")?;
            } else if !ui.quiet {
                writeln!(
                    out,
                    "{}: {}, {}, {}, {} in {}",
                    ui.out.green("ok"),
                    counted(counts.nodes, "model"),
                    counted(counts.sources, "source"),
                    counted(counts.checks, "check"),
                    counted(counts.unit_tests, "unit test"),
                    seconds(started.elapsed().as_secs_f64())
                )?;
            }
            Ok(Outcome::Done)
        }
        Err(error) if ui.json => {
            // Here the errors are the result, so they go where programs read results.
            writeln!(out, "{}", errors::to_json(&error))?;
            Err(Failure::Reported(error_code(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

struct Counts {
    nodes: u64,
    sources: u64,
    checks: u64,
    unit_tests: u64,
}

fn check(place: &Place, ui: &Ui) -> Result<Counts, Error> {
    let app = place.open_to_look()?;
    app.warn(ui);
    app::runtime(None)?.block_on(app.engine.compile_all())?;
    Ok(Counts {
        nodes: app.project.nodes.len() as u64,
        sources: app.project.sources.len() as u64,
        checks: app.project.checks.len() as u64,
        unit_tests: app.project.unit_tests.len() as u64,
    })
}
